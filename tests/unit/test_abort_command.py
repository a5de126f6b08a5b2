"""The command that makes workers check their runs."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from mr_celery.abort_command import announce_abort


@pytest.mark.parametrize(("nodes", "destination"), [((), None), (("celery@a",), ["celery@a"])])
def test_an_abort_is_announced_to_all_workers_or_some(
    app: Celery, monkeypatch: pytest.MonkeyPatch, nodes: tuple[str, ...], destination: list[str] | None
) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(app.control, "broadcast", lambda command, **options: sent.append((command, options)))
    announce_abort(app, ("mr-7-1-x", "mr-8-1-y"), nodes=nodes)
    arguments = {"task_ids": ["mr-7-1-x", "mr-8-1-y"]}
    assert sent == [("modelreins_abort", {"arguments": arguments, "destination": destination, "connection": None})]
