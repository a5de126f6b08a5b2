"""``modelreins_sandbox``: a local ModelReins server, with short ways to what tests do with one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from ..sandbox import Rule, Sandbox
from ..sandbox.store import NotFoundError
from ..sandbox.values import MalformedError
from .jobs import SeenJob, SeenReview, all_reviews

WORKER = "test-worker"
"""The worker name of tests that name none."""

LOOK_SECONDS = 0.01
MOST_LINES = 30


class LocalServer:
    """A running sandbox.

    Args:
        sandbox: the sandbox.
        said: what bridge and workers of this process log, as it grows.
        worker: the worker name that jobs go to, unless a test says otherwise.

    Example::

        def test_a_job(modelreins_sandbox, modelreins_bridge):
            job = modelreins_sandbox.dispatch("a cat", capability="image.generate")
            modelreins_sandbox.wait(job)
            assert job.done
    """

    def __init__(self, sandbox: Sandbox, said: Sequence[str] = (), worker: str = WORKER) -> None:
        self._sandbox = sandbox
        self._said = said
        self.worker = worker

    def __repr__(self) -> str:
        return f"<ModelReins sandbox at {self.url}>"

    @property
    def url(self) -> str:
        """Its address; ``MODELREINS_URL`` is that, too."""
        return self._sandbox.url

    @property
    def token(self) -> str:
        """The worker token; ``MODELREINS_TOKEN`` is that, too."""
        return self._sandbox.token

    @property
    def jobs(self) -> list[SeenJob]:
        """All jobs, the oldest first."""
        return [SeenJob(self._sandbox.store, row["id"]) for row in reversed(self._sandbox.store.jobs())]

    @property
    def reviews(self) -> list[SeenReview]:
        """The human-review queue, the oldest first."""
        return [review for _, review in all_reviews(self._sandbox.store)]

    def dispatch(self, prompt: str = "", *, worker: str | None = None, **fields: Any) -> SeenJob:
        """A new pending job.

        Args:
            prompt: its prompt.
            worker: the worker name that it is assigned to; default: the test's own.
            fields: further fields, such as ``capability``, ``tags``, ``input``, ``model``.
        """
        __tracebackhide__ = True
        try:
            row = self._sandbox.dispatch(prompt, worker=worker or self.worker, **fields)
        except MalformedError as error:
            raise pytest.fail.Exception(str(error)) from None
        return SeenJob(self._sandbox.store, row["id"])

    def wait(self, job: SeenJob | int, *, seconds: float = 10.0) -> SeenJob:
        """Wait until a job has ended. The test fails if it does not, with what the job, bridge and workers say.

        Args:
            job: the job, or its id.
            seconds: for how long.
        """
        __tracebackhide__ = True
        seen = job if isinstance(job, SeenJob) else SeenJob(self._sandbox.store, job)
        deadline = time.monotonic() + seconds
        try:
            while not seen.ended:
                if time.monotonic() > deadline:
                    pytest.fail(self._why_not(seen, seconds))
                time.sleep(LOOK_SECONDS)
        except NotFoundError as error:
            raise pytest.fail.Exception(str(error)) from None
        return seen

    def _why_not(self, job: SeenJob, seconds: float) -> str:
        lines = [f"job {job.id} has not ended within {seconds:g} s: it is {job.status}"]
        if job.status == "pending":
            lines.append(
                f"it is assigned to {job.fields['assigned_to']!r}, and nobody has claimed it: does a bridge of that "
                "name run (fixture modelreins_bridge), and does a task take it?"
            )
        lines += ["on the server: " + ", ".join(job.events)]
        lines += ["logged:", *self._said[-MOST_LINES:]] if self._said else ["logged: nothing"]
        return "\n".join(lines)

    @contextmanager
    def faults(self, *faults: Rule | str, **options: Any) -> Iterator[None]:
        """Answer with faults while the block lasts.

        Args:
            faults: what goes wrong: :data:`names of faults <mr_celery.sandbox.chaos.FAULTS>`, or whole rules.
            options: the options of the named ones, as :class:`~mr_celery.sandbox.chaos.Rule` has them.

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
        """Abort a job, as an operator does."""
        self._sandbox.store.abort(job.id)
