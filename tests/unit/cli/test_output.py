"""The output of ``up``."""

from __future__ import annotations

import click

from mr_celery.cli.output import Output, ready_box
from mr_celery.cli.terminal import rendered
from mr_celery.local.running import Running
from mr_celery.local.up import Ready

ENVIRONMENT = {"MODELREINS_URL": "http://127.0.0.1:1", "MODELREINS_TOKEN": "it's", "CELERY_BROKER_URL": "redis://x"}
TOKENS = {"MODELREINS_TOKEN", "IMAGE_SECRET"}


def test_each_process_has_a_colour_and_errors_are_red() -> None:
    lines: list[str] = []
    say = Output(lambda line: lines.append(rendered(line)))
    say("worker", "[2026-11-28 21:07:32,968: INFO/MainProcess] fine")
    say("bridge", "[2026-11-28 21:07:32,968: ERROR/MainProcess] wrong")
    say("bridge", "Traceback (most recent call last):")
    say("worker", "a banner")
    say("bridge", "[2026-11-28 21:07:33,000: INFO/MainProcess] fine again")
    assert [click.unstyle(line)[:8] for line in lines] == ["worker |", "bridge |", "bridge |", "worker |", "bridge |"]
    red = click.style("x", fg="red")[:5]
    assert [red in line for line in lines] == [False, True, True, False, False]
    assert len({line[:5] for line in (lines[0], lines[1])}) == 2


def test_a_sandbox_shows_all_that_another_terminal_needs() -> None:
    text = "\n".join(
        ready_box(Ready(Running("proj", "proj", 7, ENVIRONMENT), TOKENS, ["w"], "http://l"), in_working_folder=True)
    )
    assert "(this link works once): http://l" in text
    assert "export MODELREINS_TOKEN='it'\"'\"'s'" in text
    assert "export CELERY_BROKER_URL=redis://x" in text


def test_the_token_of_a_real_server_is_not_shown() -> None:
    text = "\n".join(ready_box(Ready(Running("proj", "proj", 7, ENVIRONMENT), TOKENS, ["w"]), in_working_folder=False))
    assert "it's" not in text
    assert "IMAGE_SECRET and MODELREINS_TOKEN as in this terminal" in text
