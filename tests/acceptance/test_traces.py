"""One trace per job across all processes, with and without Sentry's integration."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet, Process
from support.ports import until
from support.servers import RedisServer
from support.spans import OURS, Ended, read_spans, spans_of, tree

PROJ = "support.proj"


class Traced(Fleet):
    """A fleet that records spans and Sentry's events.

    Args:
        pool: the pool of its workers.
        traced: whether there is an SDK of OpenTelemetry.
        instrumented: whether OpenTelemetry's Celery instrumentation is on.
        sentry: whether Sentry is on.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        redis: RedisServer,
        folder: Path,
        *,
        pool: str = "prefork",
        traced: bool = True,
        instrumented: bool = True,
        sentry: bool = False,
        **changes: str,
    ) -> None:
        app = "support.proj_traced_bridge"
        super().__init__(sandbox, broker=redis.url(0), ledger=redis.url(1), folder=folder, app=app)
        self.pool = pool
        self.instrumented = instrumented
        self.spans_file = folder / "spans"
        self.sentry_file = folder / "sentry"
        self.environment |= {
            "PROJ_POOL": pool,
            "PROJ_SPANS": str(self.spans_file) if traced else "",
            "PROJ_INSTRUMENTED": "1" if instrumented else "",
            "PROJ_SENTRY": str(self.sentry_file) if sentry else "",
            "PROJ_GATE": str(folder / "gate"),
            **changes,
        }

    def traced_worker(self) -> Process:
        return self.worker("-P", self.pool, "-c", "2", app="support.proj_traced")

    def spans(self, job_id: int) -> list[Ended]:
        """All spans of all traces of a job."""
        return spans_of(read_spans(self.spans_file), job_id)

    def trace(self, job_id: int, complete: Callable[[list[Ended]], bool]) -> list[Ended]:
        """Wait for all spans of a job, and return them. Processes export their spans with a delay."""
        try:
            until(lambda: complete(self.spans(job_id)), seconds=15)
        except AssertionError:
            shown = "\n".join(tree(self.spans(job_id)))
            raise AssertionError(f"job {job_id} has only these spans:\n{shown}") from None
        spans = self.spans(job_id)
        assert len({span.trace for span in spans}) == 1, "\n".join(tree(spans))
        return spans

    def sentry_items(self, kind: str) -> list[dict[str, Any]]:
        """Sentry's items of a type: ``event`` or ``transaction``."""
        lines = self.sentry_file.read_text().split("\n")[:-1] if self.sentry_file.exists() else []
        return [item for line in lines if (item := json.loads(line))["type"] == kind]


def has(*names: str) -> Callable[[list[Ended]], bool]:
    """Whether there are spans with at least these names, and no parent is missing."""

    def complete(spans: list[Ended]) -> bool:
        found, ids = [span.name for span in spans], {None, *(span.id for span in spans)}
        return all(found.count(name) >= names.count(name) for name in names) and ids >= {each.parent for each in spans}

    return complete


def one(spans: list[Ended], name: str) -> Ended:
    (found,) = [span for span in spans if span.name == name]
    return found


def run_of(task: str, *inside: str) -> list[str]:
    """The span tree of a message with OpenTelemetry's instrumentation: sent in a claim, then the spans of its task."""
    return [f"  apply_async/{PROJ}.{task}", f"    run/{PROJ}.{task}", *(f"      {line}" for line in inside)]


DELIVERED = ["modelreins deliver", "  modelreins upload", "  modelreins review", "  modelreins close"]

WAYS: dict[str, dict[str, Any]] = {
    "prefork": {},
    "prefork, Celery not instrumented": {"instrumented": False},
    "threads": {"pool": "threads"},
    "threads, Celery not instrumented": {"pool": "threads", "instrumented": False},
    "prefork with Sentry": {"sentry": True},
    "threads with Sentry": {"pool": "threads", "sentry": True},
    "prefork with Sentry, Celery not instrumented": {"sentry": True, "instrumented": False},
}


@pytest.fixture(scope="module", params=WAYS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A running installation with one of the kinds of tracing."""
    redis = RedisServer()
    with Sandbox() as sandbox:
        made = Traced(sandbox, redis, tmp_path_factory.mktemp("traced"), **WAYS[request.param])
        try:
            made.bridge()
            made.traced_worker()
            yield made
        finally:
            made.stop()
            redis.stop()


def test_job_with_artifact_and_review(installed: Traced) -> None:
    fleet, prompt = installed, f"prompt {uuid.uuid4()}"
    job_id = fleet.dispatch(prompt, "image")
    (job,) = fleet.ended(job_id)
    spans = fleet.trace(job_id, has("modelreins claim", "modelreins run", "modelreins deliver", "modelreins close"))
    worker = ["modelreins run", *DELIVERED]
    if fleet.instrumented:
        expected = ["modelreins claim", *run_of("image", *worker)]
    else:
        expected = ["modelreins claim", *(f"  {line}" for line in worker)]
    assert tree(spans) == expected
    run, claim, upload = (one(spans, f"modelreins {name}") for name in ("run", "claim", "upload"))
    assert run.attributes["modelreins.run.status"] == "done"
    assert run.attributes["modelreins.attempt"] == 1
    assert run.attributes["modelreins.task.id"] == claim.attributes["modelreins.task.id"]
    assert upload.attributes["http.request.body.size"] > len(b"\x89PNG not really")
    assert one(spans, "modelreins deliver").attributes["modelreins.delivery.outcome"] == "delivered"
    assert {span.status for span in spans} == {"UNSET"}
    assert {span.attributes["modelreins.worker.name"] for span in spans if span.scope == OURS} == {"w"}
    for secret in (prompt, job["result"], fleet.sandbox.token):
        assert secret not in fleet.spans_file.read_text()


def test_early_uploads_belong_to_the_run(installed: Traced) -> None:
    sdk, large = installed.dispatch("x", "sdk"), installed.dispatch("x", "large")
    installed.ended(sdk, large)
    for job_id, inside in ((sdk, ["modelreins upload", "modelreins review"]), (large, ["modelreins upload"])):
        spans = installed.trace(job_id, has("modelreins claim", "modelreins run", "modelreins close"))
        run = one(spans, "modelreins run")
        assert [span.name for span in spans if span.parent == run.id] == inside


def test_retried_job(installed: Traced) -> None:
    job_id = installed.dispatch("r", "retry")
    (job,) = installed.ended(job_id)
    assert job["result"] == "r after 2 retries"
    spans = installed.trace(job_id, has("modelreins claim", *["modelreins run"] * 3, "modelreins close"))
    runs = [span for span in spans if span.name == "modelreins run"]
    assert [run.attributes["modelreins.run.status"] for run in runs] == ["retry", "retry", "done"]
    assert {(run.status, run.attributes["modelreins.attempt"]) for run in runs} == {("UNSET", 1)}


def test_retried_class_based_task(installed: Traced) -> None:
    job_id = installed.dispatch("abc", "class")
    assert installed.ended(job_id)[0]["result"] == "abc: 3"
    last = ["modelreins run", "modelreins deliver", "  modelreins close"]
    spans = installed.trace(job_id, has("modelreins claim", "modelreins run", *(line.strip() for line in last)))
    if installed.instrumented:
        message = ["apply_async/proj.counting", "  run/proj.counting"]
        again = ["modelreins run", *(f"  {line}" for line in (*message, *(f"    {line}" for line in last)))]
        expected = [*message, *(f"    {line}" for line in again)]
    else:
        expected = ["modelreins run", *last]
    assert tree(spans) == ["modelreins claim", *(f"  {line}" for line in expected)]


def test_failed_job_records_only_the_exception_type(installed: Traced) -> None:
    fleet, prompt = installed, f"prompt {uuid.uuid4()}"
    job_id = fleet.dispatch(prompt, "raise")
    (job,) = fleet.ended(job_id)
    assert f"ValueError: cannot do {prompt}" in job["result"]
    spans = fleet.trace(job_id, has("modelreins claim", "modelreins run", "modelreins close"))
    run = one(spans, "modelreins run")
    assert (run.status, run.attributes["error.type"], run.attributes["modelreins.run.status"]) == (
        "ERROR",
        "ValueError",
        "failed",
    )
    ours = [span for span in spans if span.scope == OURS]
    assert prompt not in str(ours)
    assert not [span for span in ours if span.events]
    if fleet.environment["PROJ_SENTRY"]:
        sentry_knows(fleet, job_id, prompt)


def sentry_knows(fleet: Traced, job_id: int, prompt: str) -> None:
    """Sentry gets the handler's exception once, and a transaction of its task."""

    def matching() -> list[dict[str, Any]]:
        exceptions = [event["exception"]["values"][-1] for event in fleet.sentry_items("event") if "exception" in event]
        return [each for each in exceptions if each["value"] == f"cannot do {prompt}"]

    (exception,) = until(matching, what="Sentry gets the exception")
    assert exception["type"] == "ValueError"
    assert exception["stacktrace"]["frames"][-1]["function"] == "fails"
    until(
        lambda: f"{PROJ}.fails" in {each["transaction"] for each in fleet.sentry_items("transaction")},
        what="Sentry gets the transaction",
    )


# -- separate installations ----------------------------------------------------------------------------------


@pytest.fixture
def traced(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Traced]]:
    """A function that creates installations whose processes are not running yet."""
    made: list[Traced] = []

    def make(**options: Any) -> Traced:
        made.append(Traced(sandbox, redis_server, tmp_path, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.stop()


@pytest.mark.parametrize("instrumented", [True, False])
def test_bridge_delivers_in_the_jobs_trace(traced: Callable[..., Traced], *, instrumented: bool) -> None:
    fleet = traced(instrumented=instrumented, MODELREINS_DELIVERY="bridge")
    fleet.bridge()
    fleet.traced_worker()
    job_id = fleet.dispatch("x", "image")
    fleet.ended(job_id)
    spans = fleet.trace(job_id, has("modelreins claim", "modelreins run", "modelreins deliver", "modelreins close"))
    run = run_of("image", "modelreins run") if instrumented else ["  modelreins run"]
    assert tree(spans) == ["modelreins claim", *run, *(f"  {line}" for line in DELIVERED)]
    assert one(spans, "modelreins deliver").attributes["modelreins.delivery.number"] == 1


@pytest.mark.parametrize("instrumented", [True, False])
def test_job_of_a_killed_worker_keeps_its_trace(traced: Callable[..., Traced], *, instrumented: bool) -> None:
    fleet = traced(instrumented=instrumented)
    fleet.bridge()
    first = fleet.traced_worker()
    job_id = fleet.dispatch("again", "gated")
    until(lambda: fleet.started("again") == 1, what="the first run")
    first.kill()
    fleet.traced_worker()
    until(lambda: fleet.started("again") == 2, what="the second run")
    Path(fleet.environment["PROJ_GATE"]).touch()
    assert fleet.ended(job_id)[0]["result"] == "AGAIN"
    spans = fleet.trace(job_id, has("modelreins claim", "modelreins run", "modelreins close"))
    run, claim = one(spans, "modelreins run"), one(spans, "modelreins claim")
    assert run.attributes["modelreins.attempt"] == 2
    assert run.attributes["modelreins.task.id"] != claim.attributes["modelreins.task.id"]
    lived = ["modelreins run", "modelreins deliver", "  modelreins close"]
    if instrumented:
        assert tree(spans) == ["modelreins claim", f"  apply_async/{PROJ}.gated", *run_of("gated", *lived)]
    else:
        assert tree(spans) == ["modelreins claim", *(f"  {line}" for line in lived)]


def test_spans_of_instrumented_workers_join_the_trace(traced: Callable[..., Traced]) -> None:
    fleet = traced()
    fleet.bridge(PROJ_INSTRUMENTED="")
    fleet.traced_worker()
    job_id = fleet.dispatch("x")
    fleet.ended(job_id)
    spans = fleet.trace(job_id, has("modelreins claim", f"run/{PROJ}.upper", "modelreins close"))
    inside = ["modelreins run", "modelreins deliver", "  modelreins close"]
    assert tree(spans) == ["modelreins claim", f"  run/{PROJ}.upper", *(f"    {line}" for line in inside)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_sentry_without_opentelemetry(traced: Callable[..., Traced], pool: str) -> None:
    fleet = traced(pool=pool, traced=False, sentry=True)
    fleet.bridge()
    fleet.traced_worker()
    prompt = f"prompt {uuid.uuid4()}"
    failing, retried, rich = fleet.dispatch(prompt, "raise"), fleet.dispatch("r", "retry"), fleet.dispatch("x", "image")
    jobs = fleet.ended(failing, retried, rich)
    assert [job["status"] for job in jobs] == ["failed", "done", "done"]
    assert jobs[1]["result"] == "r after 2 retries"
    sentry_knows(fleet, failing, prompt)
    assert not fleet.spans_file.exists()
