"""The developers' pages name files and methods that exist."""

from __future__ import annotations

import pkgutil
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mr_celery"
PAGES = ROOT / "docs" / "development"
ARCHITECTURE = (PAGES / "architecture.md").read_text()
TEXT = ARCHITECTURE + (PAGES / "decisions.md").read_text()
PATHS = sorted(set(re.findall(r"`((?!src/)[\w/]+(?:/|\.py|\.lua))`", TEXT)))
METHODS = sorted(set(re.findall(r"`([A-Z]\w+\.[a-z]\w+)`", TEXT)))


@cache
def modules_of(name: str) -> list[str]:
    """The modules that define a class of that name."""
    files = [path for path in SOURCE.rglob("*.py") if re.search(rf"^class {name}\b", path.read_text(), re.MULTILINE)]
    return [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in files]


@pytest.mark.parametrize("path", PATHS)
def test_each_file_exists(path: str) -> None:
    assert any(SOURCE.rglob(path.rstrip("/")))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_exists(method: str) -> None:
    owner, name = method.split(".")
    assert any(hasattr(getattr(import_module(module), owner), name) for module in modules_of(owner))


def places_of(package: Path) -> set[str]:
    """The modules and packages in a package, as the architecture page names them."""
    modules = pkgutil.iter_modules([str(package)])
    return {f"{module.name}/" if module.ispkg else f"{module.name}.py" for module in modules}


@pytest.mark.parametrize("package", [SOURCE, SOURCE / "celery_worker"], ids=lambda package: package.name)
def test_each_module_has_its_place(package: Path) -> None:
    assert {name for name in places_of(package) if f"`{name}`" not in ARCHITECTURE} == set()
