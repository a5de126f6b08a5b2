"""Runs the demo: a dozen jobs on a sandbox, an embedded Redis, a worker and a bridge."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..local.browser import logged_in
from ..local.processes import Processes
from ..local.redis import EmbeddedRedis
from ..local.up import programs
from ..sandbox import Sandbox

WORKER = "demo"
TIMEOUT = 60.0
"""Time for all jobs to end, in seconds."""


@dataclass(frozen=True)
class Example:
    """A job of the demo, and its expected status."""

    prompt: str
    capability: str | None = None
    expected: str = "done"
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
    """A line of the final table: one job and its result."""

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
    report: Callable[[int, str, str], None],
    show_lines: Callable[[list[Line]], None],
    *,
    verbose: bool = False,
    keep: bool = False,
) -> list[Line]:
    """Run the demo.

    Args:
        say: called with progress messages.
        report: called with a job's id, the requested capability or priority, and its new status.
        show_lines: called with the results once all jobs are over.
        verbose: also report the output of the worker and the bridge.
        keep: afterwards keep running until SIGINT or SIGTERM, with the sandbox's page open.

    Returns:
        The result of each job.

    Raises:
        MrCeleryError: no Redis server program was found, or the extra ``sandbox`` is missing.
    """
    with tempfile.TemporaryDirectory(prefix="mr-celery-demo-") as folder, Sandbox() as sandbox:
        say(f"sandbox at {sandbox.url}")
        with _page(sandbox, folder, say) if keep else nullcontext(), EmbeddedRedis(Path(folder) / "redis") as redis:
            if redis.warning:
                say(redis.warning)
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("MODELREINS_")},
                "CELERY_BROKER_URL": redis.broker_url(),
                "MODELREINS_LEDGER_URL": redis.ledger_url(),
                "MODELREINS_URL": sandbox.url,
                "MODELREINS_TOKEN": sandbox.token,
                "MODELREINS_NAME": WORKER,
                "MODELREINS_POLL_INTERVAL": "0.5",
                "MODELREINS_SHOW_OUTPUT": "1",
            }
            output: deque[str] = deque(maxlen=30)

            def relay(name: str, line: str) -> None:
                output.append(f"{name}: {line}")
                if verbose:
                    say(output[-1])

            processes = Processes(programs("mr_celery.demo.app", ["--concurrency", "4"]), environment, relay)
            processes.start()
            try:
                say(f"starting a Celery worker with 4 slots and a bridge; {len(EXAMPLES)} jobs are waiting")
                examples = {_dispatch(sandbox, example): example for example in EXAMPLES}
                finished = _watch(sandbox, processes, examples, report)
                if not finished and not verbose:
                    say("not all jobs ended; last output of the worker and the bridge:")
                    for line in output:
                        say(line)
                lines = [_line(sandbox, job_id, example) for job_id, example in examples.items()]
                show_lines(lines)
                if keep:
                    _keep_running(sandbox, processes, say)
                return lines
            finally:
                processes.stop()


def _page(sandbox: Sandbox, folder: str, say: Callable[[str], None]) -> AbstractContextManager[None]:
    say(f"log in to the sandbox's page (this link works once): {sandbox.login_link()}")
    return logged_in(sandbox.login_link, Path(folder))


def _keep_running(sandbox: Sandbox, processes: Processes, say: Callable[[str], None]) -> None:
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        say(f"running until Ctrl-C; dispatch jobs to worker name {WORKER!r} at {sandbox.url}/ui/jobs")
        processes.watch(stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dispatch(sandbox: Sandbox, example: Example) -> int:
    fields = dict(example.fields)
    if example.capability:
        fields["capability"] = example.capability
    return int(sandbox.dispatch(example.prompt, worker=WORKER, **fields)["id"])


def _watch(
    sandbox: Sandbox, processes: Processes, examples: dict[int, Example], report: Callable[[int, str, str], None]
) -> bool:
    """Report status changes until all jobs are over. Returns ``False`` after the timeout or if a process ended."""
    shown = dict.fromkeys(examples, "")
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and not processes.ended:
        for job in reversed(sandbox.store.jobs()):
            if job["id"] in shown and shown[job["id"]] != job["status"]:
                shown[job["id"]] = job["status"]
                report(job["id"], _asked(examples[job["id"]]), job["status"])
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
        as_expected=job["status"] == example.expected,
        output=result.splitlines()[-1] if result else "",
        artifacts=len(sandbox.store.artifacts(job_id)),
        reviews=sum(review["job_id"] == job_id for review in sandbox.store.reviews()),
        seconds=(job["closed_at"] or time.time()) - (job["claimed_at"] or job["created_at"]),
    )
