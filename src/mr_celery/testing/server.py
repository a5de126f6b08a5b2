"""The fixture ``modelreins_sandbox``: a local ModelReins server with helpers for tests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from ..sandbox import Rule, Sandbox
from ..sandbox.values import MalformedError, NotFoundError
from .jobs import SeenJob, SeenReview, all_reviews

WORKER = "test-worker"
"""Default worker name of tests."""

POLL_SECONDS = 0.01
MAX_LINES = 30


class LocalServer:
    """A running sandbox.

    Args:
        sandbox: the sandbox.
        log_lines: the captured log of bridge and workers, which grows.
        worker: the default worker name of dispatched jobs.

    Example::

        def test_a_job(modelreins_sandbox, modelreins_bridge):
            job = modelreins_sandbox.dispatch("a cat", capability="image.generate")
            modelreins_sandbox.wait(job)
            assert job.done
    """

    def __init__(self, sandbox: Sandbox, log_lines: Sequence[str] = (), worker: str = WORKER) -> None:
        self._sandbox = sandbox
        self._log_lines = log_lines
        self.worker = worker

    def __repr__(self) -> str:
        return f"<ModelReins sandbox at {self.url}>"

    @property
    def url(self) -> str:
        """The server's URL, also set as ``MODELREINS_URL``."""
        return self._sandbox.url

    @property
    def token(self) -> str:
        """The worker token, also set as ``MODELREINS_TOKEN``."""
        return self._sandbox.token

    @property
    def jobs(self) -> list[SeenJob]:
        """All jobs, oldest first."""
        return [SeenJob(self._sandbox.store, row["id"]) for row in reversed(self._sandbox.store.jobs())]

    @property
    def reviews(self) -> list[SeenReview]:
        """The human-review queue, oldest first."""
        return [review for _, review in all_reviews(self._sandbox.store)]

    def dispatch(self, prompt: str = "", *, worker: str | None = None, **fields: Any) -> SeenJob:
        """Create a pending job.

        Args:
            prompt: the prompt.
            worker: the worker name that the job is assigned to; by default that of the test.
            fields: further fields, such as ``capability``, ``tags``, ``input``, ``model``.
        """
        __tracebackhide__ = True
        try:
            row = self._sandbox.dispatch(prompt, worker=worker or self.worker, **fields)
        except MalformedError as error:
            raise pytest.fail.Exception(str(error)) from None
        return SeenJob(self._sandbox.store, row["id"])

    def wait(self, job: SeenJob | int, *, seconds: float = 10.0) -> SeenJob:
        """Wait until a job has ended. After a timeout the test fails and shows the job's events and the log.

        Args:
            job: the job, or its id.
            seconds: the timeout.
        """
        __tracebackhide__ = True
        seen = job if isinstance(job, SeenJob) else SeenJob(self._sandbox.store, job)
        deadline = time.monotonic() + seconds
        try:
            while not seen.ended:
                if time.monotonic() > deadline:
                    pytest.fail(self._timeout_message(seen, seconds))
                time.sleep(POLL_SECONDS)
        except NotFoundError as error:
            raise pytest.fail.Exception(str(error)) from None
        return seen

    def _timeout_message(self, job: SeenJob, seconds: float) -> str:
        lines = [f"job {job.id} did not end within {seconds:g} s: it is {job.status}"]
        if job.status == "pending":
            lines.append(
                f"it is assigned to {job.fields['assigned_to']!r} and was not claimed: is a bridge of that name "
                "running (fixture modelreins_bridge), and is there a task for it?"
            )
        lines += ["events: " + ", ".join(job.events)]
        lines += ["log:", *self._log_lines[-MAX_LINES:]] if self._log_lines else ["log: empty"]
        return "\n".join(lines)

    @contextmanager
    def faults(self, *faults: Rule | str, **options: Any) -> Iterator[None]:
        """Inject faults into the server's responses inside the block.

        Args:
            faults: :data:`names of faults <mr_celery.sandbox.chaos.FAULTS>`, or complete rules.
            options: options of the named faults, as in :class:`~mr_celery.sandbox.chaos.Rule`.

        Example::

            with modelreins_sandbox.faults("status", status=503, routes=["close"], times=2):
                job = modelreins_bridge.run("a cat")
            assert job.done
        """
        __tracebackhide__ = True
        if isinstance(options.get("routes"), list):
            options["routes"] = tuple(options["routes"])
        try:
            rules = [each if isinstance(each, Rule) else Rule(each, **options) for each in faults]
        except MalformedError as error:
            raise pytest.fail.Exception(str(error)) from None
        chaos = self._sandbox.chaos
        before = chaos.rules
        chaos.set([*rules, *before])
        try:
            yield
        finally:
            chaos.set(before)

    def abort(self, job: SeenJob) -> None:
        """Abort a job, as an operator would."""
        self._sandbox.store.abort(job.id)
