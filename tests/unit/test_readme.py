"""The README says what is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from celery import Celery

from mr_celery.celery_hooks import handlers
from mr_celery.routing import Registry

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


def test_the_example_of_adoption_declares_three_handlers() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    scope: dict[str, object] = {"__name__": "readme"}
    exec(code[1], scope)
    app = scope["app"]
    assert isinstance(app, Celery)
    offers = {handler.declaration.offers for handler in Registry(handlers(app)).handlers}
    assert offers == {"text.summarize", "image.generate", "any job"}
