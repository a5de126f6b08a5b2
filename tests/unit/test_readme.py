"""The statements of the README are correct."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from celery import Celery

try:
    import tomllib
except ImportError:  # before Python 3.11: a dependency of pytest
    import tomli as tomllib

from mr_celery.handlers import Registry, handlers_of

ROOT = Path(__file__).parents[2]


def _settings_table() -> object:
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "tools" / "settings_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_settings_is_the_one_of_the_code() -> None:
    readme = (ROOT / "README.md").read_text()
    assert _settings_table().with_table(readme) == readme, "run: python tools/settings_table.py"  # type: ignore[attr-defined]


def test_the_example_of_adoption_declares_three_handlers_of() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    scope: dict[str, object] = {"__name__": "readme"}
    exec(code[1], scope)
    app = scope["app"]
    assert isinstance(app, Celery)
    offers = {handler.declaration.offers for handler in Registry(handlers_of(app)).handlers}
    assert offers == {"text.summarize", "image.generate", "any job"}


def test_links_lead_to_files_of_the_repository() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!https?://)([^)#]*)", (ROOT / page).read_text())
        assert links, page
        assert [link for link in links if not (ROOT / link).exists()] == [], page


def test_on_a_package_index_no_link_leads_nowhere() -> None:
    text = (ROOT / "README.md").read_text()
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    for each in hook["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []
    assert "(`docs/operations.md`)" in text
