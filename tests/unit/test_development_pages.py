"""The developers' pages name files and methods that exist."""

from __future__ import annotations

import pkgutil
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import mr_celery

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mr_celery"
TEXT = "\n".join((ROOT / "docs" / "development" / name).read_text() for name in ("architecture.md", "decisions.md"))
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


def test_each_package_has_its_place() -> None:
    packages = {module.name for module in pkgutil.iter_modules(mr_celery.__path__) if module.ispkg}
    assert {name for name in packages if f"`{name}/`" not in TEXT} == set()
