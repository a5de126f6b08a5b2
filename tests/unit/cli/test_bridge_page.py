"""The conditions under which the bridge serves its page for operators, and its messages otherwise."""

from __future__ import annotations

import sys

import pytest

from mr_celery.cli.modelreins import _page
from mr_celery.errors import SettingsError
from mr_celery.settings import load

TOKEN = "a token of operators"


def test_there_is_a_page_only_with_a_token() -> None:
    assert _page(load(environment={"MODELREINS_HTTP": "9464"}), []) is None
    assert _page(load(environment={"MODELREINS_HTTP_TOKEN": TOKEN}), []) is not None


def test_a_file_that_cannot_be_used_is_an_error_at_the_start(tmp_path: object) -> None:
    for content, words in ((None, "cannot be read"), ("short", "is shorter than 16 characters"), ("", "a token")):
        file = f"{tmp_path}/token"
        if content is not None:
            with open(file, "w") as target:
                target.write(content)
        with pytest.raises(SettingsError, match=words):
            _page(load(environment={"MODELREINS_HTTP_TOKEN_FILE": file}), [])


def test_without_its_packages_the_bridge_runs_and_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pages, web = "mr_celery.operations.page", "mr_celery.web"
    for module in (pages, f"{pages}.app", web, f"{web}.rendering"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert _page(load(environment={"MODELREINS_HTTP_TOKEN": TOKEN}), []) is None
    assert 'jinja2 is not installed. pip install "mr-celery[web]"' in caplog.text
