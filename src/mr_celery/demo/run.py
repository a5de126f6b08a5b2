"""The demo: a sandbox, an embedded Redis, a worker and a bridge; a dozen jobs, live; a table at the end."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..local.browser import show
from ..local.processes import Processes
from ..local.redis import EmbeddedRedis
from ..local.up import programs
from ..sandbox import Sandbox

WORKER = "demo"
PATIENCE = 60.0
"""Seconds after which the demo gives up."""


@dataclass(frozen=True)
class Example:
    """A job of the demo, and how it should end."""

    prompt: str
    capability: str | None = None
    becomes: str = "done"
    fields: dict[str, Any] = field(default_factory=dict)


EXAMPLES = (
    Example("good morning"),
    Example("how many words is this", "text.count"),
    Example("a poster of the sea at night", "image.generate"),
    Example("paris", "weather.fetch"),
    Example("one by three", "math.divide", fields={"dividend": 1, "divisor": 3}),
    Example("one by zero", "math.divide", "failed", {"dividend": 1, "divisor": 0}),
    Example("an angry letter", "email.triage", "escalated"),
    Example("a friendly letter", "email.triage"),
    Example("take your time", "text.slow", fields={"seconds": 3}),
    Example("this first", fields={"priority": "high"}),
    Example("this last", fields={"priority": "low"}),
    Example("one by what?", "math.divide", "failed", {"dividend": 1}),
)


@dataclass(frozen=True)
class Line:
    """What became of one job."""

    id: int
    asked: str
    status: str
    as_expected: bool
    output: str
    artifacts: int
    reviews: int
    seconds: float


def run_demo(
    say: Callable[[str], None],
    tell: Callable[[int, str, str], None],
    show_lines: Callable[[list[Line]], None],
    *,
    verbose: bool = False,
    keep: bool = False,
) -> list[Line]:
    """Run the demo.

    Args:
        say: called with what is being done.
        tell: called with a job's id, what it asks for, and its new status.
        show_lines: called with what became of each job, once all are over.
        verbose: say what the worker and the bridge print, too.
        keep: then go on until SIGINT or SIGTERM, with the sandbox's page open.

    Returns:
        What became of each job.

    Raises:
        MrCeleryError: there is no Redis server program, or the sandbox's extra is missing.
    """
    with tempfile.TemporaryDirectory(prefix="mr-celery-demo-") as folder, Sandbox() as sandbox:
        say(f"sandbox at {sandbox.url}")
        if keep:
            _show_page(sandbox, say)
        with EmbeddedRedis(Path(folder) / "redis") as redis:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("MODELREINS_")},
                "CELERY_BROKER_URL": redis.url(0),
                "MODELREINS_LEDGER_URL": redis.url(1),
                "MODELREINS_URL": sandbox.url,
                "MODELREINS_TOKEN": sandbox.token,
                "MODELREINS_NAME": WORKER,
                "MODELREINS_POLL_INTERVAL": "0.5",
            }
            output: deque[str] = deque(maxlen=30)

            def relay(name: str, line: str) -> None:
                output.append(f"{name}: {line}")
                if verbose:
                    say(output[-1])

            processes = Processes(programs("mr_celery.demo.app", ["--concurrency", "4"]), environment, relay)
            processes.start()
            try:
                say(f"a Celery worker with 4 slots and a bridge are starting; {len(EXAMPLES)} jobs wait for them")
                examples = {_dispatch(sandbox, example): example for example in EXAMPLES}
                finished = _watch(sandbox, processes, examples, tell)
                if not finished and not verbose:
                    say("not all jobs ended; the last lines of the worker and the bridge:")
                    for line in output:
                        say(line)
                lines = [_line(sandbox, job_id, example) for job_id, example in examples.items()]
                show_lines(lines)
                if keep:
                    _go_on(sandbox, processes, say)
                return lines
            finally:
                processes.stop()


def _show_page(sandbox: Sandbox, say: Callable[[str], None]) -> None:
    link = sandbox.login_link()
    say(f"the sandbox's page, at your first visit: {link}")
    show(link)


def _go_on(sandbox: Sandbox, processes: Processes, say: Callable[[str], None]) -> None:
    told_to_stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: told_to_stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        say(f"everything goes on until Ctrl-C; jobs for worker {WORKER!r} are run: {sandbox.url}/ui/jobs")
        processes.watch(told_to_stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dispatch(sandbox: Sandbox, example: Example) -> int:
    fields = dict(example.fields)
    if example.capability:
        fields["capability"] = example.capability
    return int(sandbox.dispatch(example.prompt, worker=WORKER, **fields)["id"])


def _watch(
    sandbox: Sandbox, processes: Processes, examples: dict[int, Example], tell: Callable[[int, str, str], None]
) -> bool:
    """Tell each change of a job's status, until all are over. Returns ``False`` where they cannot be any more."""
    shown = dict.fromkeys(examples, "")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not processes.ended:
        for job in reversed(sandbox.store.jobs()):
            if job["id"] in shown and shown[job["id"]] != job["status"]:
                shown[job["id"]] = job["status"]
                tell(job["id"], _asked(examples[job["id"]]), job["status"])
        if not {"pending", "running"} & set(shown.values()):
            return True
        time.sleep(0.05)
    return False


def _asked(example: Example) -> str:
    return example.capability or example.fields.get("priority", "anything") + (
        " priority" if "priority" in example.fields else ""
    )


def _line(sandbox: Sandbox, job_id: int, example: Example) -> Line:
    job = sandbox.store.job(job_id)
    result = (job["result"] or "").strip()
    return Line(
        id=job_id,
        asked=_asked(example),
        status=job["status"],
        as_expected=job["status"] == example.becomes,
        output=result.splitlines()[-1] if result else "",
        artifacts=len(sandbox.store.artifacts(job_id)),
        reviews=sum(review["job_id"] == job_id for review in sandbox.store.reviews()),
        seconds=(job["closed_at"] or time.time()) - (job["claimed_at"] or job["created_at"]),
    )
