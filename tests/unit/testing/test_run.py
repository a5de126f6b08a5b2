"""The fixture ``modelreins_run``: runs a job through a handler as in production, without side effects."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task, current_app, signals
from celery.exceptions import Reject

from mr_celery import (
    Artifact,
    Deferred,
    Escalate,
    Job,
    JobFailed,
    Result,
    Review,
    complete,
    escalate,
    fail,
    modelreins_job,
    worker,
)
from mr_celery.testing import JobRun

app = Celery("shop", broker="redis://nowhere.invalid/0", set_as_current=False)
app.conf.modelreins_name = "shop-worker"
app.conf.task_routes = {"shop.poster": {"queue": "images"}}


@modelreins_job("image.generate", tags=["fine"])
@app.task(name="shop.poster")
def poster(prompt: str, model: str = "plain") -> Result:
    image = Artifact(data=prompt.encode(), filename="poster.txt", expires_at="2030-01-31T12:00:00Z")
    review = Review(type="image", title="A poster", content=model, preview=image, target="marketing")
    return Result("made it", artifacts=[image], reviews=[review])


@modelreins_job("text.count")
@app.task(name="shop.count")
def count(input: list[str]) -> dict[str, int]:
    return {"texts": len(input)}


@modelreins_job("web.fetch")
@app.task(name="shop.fetch", bind=True, autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=2)
def fetch(self: Task[Any, Any], failures: int) -> dict[str, Any]:
    request = self.request
    if request.retries < failures:
        raise ConnectionError("not there yet")
    return {"retries": request.retries, "eager": request.is_eager, "directly": request.called_directly}


@modelreins_job("ask.again")
@app.task(name="shop.ask", bind=True, max_retries=None)
def ask(self: Task[Any, Any], prompt: str, times: int = 3) -> str:
    if times:
        raise self.retry(kwargs={"times": times - 1}, countdown=3600)
    return prompt


@modelreins_job("reject.once")
@app.task(name="shop.reject")
def reject(prompt: str) -> str:
    rejected.append(prompt)
    if len(rejected) == 1:
        raise Reject("not now", requeue=True)
    return f"{len(rejected)}"


rejected: list[str] = []


@modelreins_job("for.ever")
@app.task(name="shop.for_ever", bind=True, max_retries=None)
def for_ever(self: Task[Any, Any]) -> None:
    raise self.retry(countdown=0)


@modelreins_job("raise")
@app.task(name="shop.raising")
def raising(prompt: str) -> None:
    raise {"escalate": Escalate("ask a human"), "fail": JobFailed("no way")}.get(prompt) or KeyError(prompt)


@modelreins_job("as.the.sdk")
@app.task(name="shop.as_the_sdk")
def as_the_sdk(job: Job) -> str:
    slug = worker.upload_artifact(data=b"%PDF-", content_type="application/pdf", job_id=job.id)["slug"]
    return f"{worker.name} {job.assigned_to} {slug}"


def by_model(job: Job) -> bool:
    if job.model == "away":
        raise OSError
    return job.model == "whisper"


@modelreins_job(match=by_model)
@app.task(name="shop.whisper")
def whisper(job: Job) -> str:
    return "heard"


@modelreins_job("refused")
@app.task(name="shop.refused")
def refused() -> Result:
    return Result("made", artifacts=[Artifact(data=b"kept", filename="kept.txt")], reviews=[Review("", "")])


def upper(prompt: str) -> str:
    return prompt.upper()


@pytest.fixture
def modelreins_app() -> Celery:
    return app


def test_job_with_artifact_and_review(modelreins_run: JobRun) -> None:
    job = modelreins_run(poster, prompt="a cat", model="bright")
    assert job.done
    assert (job.status, job.result, job.task, job.exception, job.retries) == ("done", "made it", "shop.poster", None, 0)
    artifact = job.artifacts[0]
    assert (artifact.data, artifact.text, artifact.filename) == (b"a cat", "a cat", "poster.txt")
    assert (artifact.content_type, artifact.expires_at) == ("text/plain", "2030-01-31T12:00:00Z")
    review = job.reviews[0]
    assert review.preview == artifact
    assert (review.type, review.title, review.content, review.target) == ("image", "A poster", "bright", "marketing")
    assert job.events == ["dispatched", "claim", "close done"]
    assert job.fields["capability"] == "image.generate"


def test_prompt_as_second_argument(modelreins_run: JobRun) -> None:
    assert modelreins_run(poster, "a dog").artifacts[0].data == b"a dog"


def test_jobs_are_independent(modelreins_run: JobRun) -> None:
    first, second = modelreins_run(poster, "one"), modelreins_run(poster, "two")
    assert [each.data for job in (first, second) for each in job.artifacts] == [b"one", b"two"]
    assert len(first.reviews) == 1


def test_json_result(modelreins_run: JobRun) -> None:
    assert modelreins_run(count, input=["a", "b"]).json() == {"texts": 2}


def test_a_raising_match_is_reported(modelreins_run: JobRun) -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"stays pending: 1 job waits for shop\.whisper: match= raised OSError"
    ):
        modelreins_run(model="away")


def test_without_a_task_routing_chooses(modelreins_run: JobRun) -> None:
    assert modelreins_run(capability="text.count", input=[]).task == "shop.count"
    assert modelreins_run(prompt="x", model="whisper").task == "shop.whisper"


def test_retries_run_immediately(modelreins_run: JobRun) -> None:
    job = modelreins_run(fetch, failures=2)
    assert job.json() == {"retries": 2, "eager": False, "directly": False}
    assert job.retries == 2


def test_last_retry_fails_the_job(modelreins_run: JobRun) -> None:
    job = modelreins_run(fetch, failures=3)
    assert job.failed
    assert isinstance(job.exception, ConnectionError)
    assert job.retries == 2
    assert job.result.endswith("ConnectionError: not there yet")


def test_retry_with_other_arguments(modelreins_run: JobRun) -> None:
    job = modelreins_run(ask, prompt="at last")
    assert (job.result, job.retries) == ("at last", 3)


def test_rejected_message_is_called_again(modelreins_run: JobRun) -> None:
    rejected.clear()
    assert modelreins_run(reject).result == "2"


def test_endless_retries_fail_the_test(modelreins_run: JobRun) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"shop\.for_ever was called 100 times and retried each time"):
        modelreins_run(for_ever)


def test_escalated_and_failed(modelreins_run: JobRun) -> None:
    escalated, failed = modelreins_run(raising, "escalate"), modelreins_run(raising, "fail")
    assert escalated.escalated
    assert (escalated.result, escalated.exception) == ("ask a human", None)
    assert failed.failed
    assert (failed.result, type(failed.exception)) == ("no way", JobFailed)


def test_missing_field_fails_the_job(modelreins_run: JobRun) -> None:
    job = modelreins_run(count, "x")
    assert job.failed
    assert "has no field 'input', which the handler requires" in job.result


def test_job_without_a_handler_fails(modelreins_run: JobRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELREINS_WORKERS", '{"shop-worker": {"capabilities": ["text.count"]}}')
    job = modelreins_run(capability="other")
    assert job.failed
    assert job.task is None
    assert "it requires capability other; this worker offers: text.count" in job.result


def test_refused_review_fails_the_job(modelreins_run: JobRun) -> None:
    job = modelreins_run(refused)
    assert job.failed
    assert job.result.startswith("the server refused the review '' (POST /review -> 400: ")
    assert [each.text for each in job.artifacts] == ["kept"]
    assert repr(job) == f"<job {job.id} failed: {job.result!r}>"


def test_settings_are_those_of_the_application(modelreins_run: JobRun) -> None:
    job = modelreins_run(as_the_sdk)
    assert job.result == f"shop-worker shop-worker {job.artifacts[0].slug}"
    assert modelreins_run(as_the_sdk, worker="other").result.startswith("other other ")


@pytest.mark.parametrize("delivery", ["worker", "bridge"])
def test_delivery_by_worker_and_bridge(modelreins_run: JobRun, monkeypatch: pytest.MonkeyPatch, delivery: str) -> None:
    monkeypatch.setenv("MODELREINS_DELIVERY", delivery)
    monkeypatch.setenv("MODELREINS_SPOOL_URL", "/nowhere/that/is")
    monkeypatch.setenv("MODELREINS_URL", "https://nowhere.invalid")
    job = modelreins_run(poster, "x" * 2**21)
    assert job.done
    assert len(job.artifacts[0].data) == 2**21


def test_several_worker_names(modelreins_run: JobRun, monkeypatch: pytest.MonkeyPatch) -> None:
    names = '{"one": {"token_env": "ONE", "capabilities": ["text.count"]}, "two": {"capabilities": ["as.the.sdk"]}}'
    monkeypatch.setenv("MODELREINS_WORKERS", names)
    monkeypatch.setenv("MODELREINS_NAME", "")
    monkeypatch.setitem(app.conf, "modelreins_name", None)
    assert modelreins_run(count, input=[]).fields["assigned_to"] == "one"
    assert modelreins_run(as_the_sdk).result.startswith("two two ")
    with pytest.raises(pytest.fail.Exception, match="worker 'three' is none of one, two"):
        modelreins_run(count, input=[], worker="three")


def test_tasks_are_restored(modelreins_run: JobRun) -> None:
    task = app.tasks["shop.fetch"]
    filled_on_use = {"backend", "_exec_options"}  # by Celery itself
    before = {name: value for name, value in vars(task).items() if name not in filled_on_use}
    current, before_retry = current_app._get_current_object(), task.signature_from_request  # type: ignore[attr-defined]
    modelreins_run(fetch, failures=1)
    assert {name: value for name, value in vars(task).items() if name not in filled_on_use} == before
    assert task.signature_from_request == before_retry
    assert current_app._get_current_object() is current  # type: ignore[attr-defined]
    assert poster("called directly").text == "made it"


def test_task_is_restored_if_the_test_fails_inside_the_handler(modelreins_run: JobRun) -> None:
    def ends(**_: Any) -> None:
        pytest.fail("from within")

    task = app.tasks["shop.whisper"]
    signals.task_prerun.connect(ends, sender=task)
    try:
        with pytest.raises(pytest.fail.Exception, match="from within"):
            modelreins_run(whisper, model="whisper")
    finally:
        signals.task_prerun.disconnect(ends, sender=task)
    assert "_mr_celery_original" not in vars(task.run)


def test_job_taken_by_another_task_fails_the_test(modelreins_run: JobRun) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"taken by shop\.count \(text\.count\), not by shop\.poster"):
        modelreins_run(poster, capability="text.count", tags=[])


@pytest.mark.parametrize("wrong", ["image.generate", len, Job])
def test_other_objects_than_tasks_are_refused(modelreins_run: JobRun, wrong: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"needs a task with @modelreins_job, not "):
        modelreins_run(wrong)


def test_task_without_the_decorator_is_refused(modelreins_run: JobRun) -> None:
    bare = app.task(upper, name="shop.bare", lazy=False)
    with pytest.raises(pytest.fail.Exception, match=r"shop\.bare takes no jobs in the application 'shop', only "):
        modelreins_run(bare)


def test_fields_of_the_server_are_refused(modelreins_run: JobRun) -> None:
    with pytest.raises(pytest.fail.Exception, match="a dispatched job cannot set status"):
        modelreins_run(poster, status="done")


def test_repr_of_jobs(modelreins_run: JobRun) -> None:
    job, failed = modelreins_run(poster, "the secret prompt"), modelreins_run(raising, "x")
    assert repr(job) == f"<job {job.id} done: 'made it'>"
    assert repr(failed) == f"<job {failed.id} failed: \"KeyError: 'x'\">"


def prints(prompt: str, paper: str) -> str:
    return f"{prompt} on {paper}"


class TestARouterThatNeedsAFieldOfTheJob:
    app = Celery("press", broker="redis://nowhere.invalid/0", set_as_current=False)
    app.conf.update(task_routes=[lambda name, args, kwargs, options, task=None, **_: {"queue": kwargs["paper"]}])
    task = modelreins_job("print")(app.task(prints, name="press.print"))

    @pytest.fixture
    def modelreins_app(self) -> Celery:
        return self.app

    def test_gets_it(self, modelreins_run: JobRun) -> None:
        assert modelreins_run(self.task, prompt="news", paper="a4").result == "news on a4"


# -- deferred jobs -------------------------------------------------------------------------------------------

references: list[str] = []


@modelreins_job("picture.order", result=lambda value: Result(f"shaped {value}") if isinstance(value, str) else value)
@app.task(name="shop.order")
def order(job: Job, prompt: str) -> Deferred:
    references.append(job.ref)
    if prompt == "at once":
        assert complete(job.ref, "before the return", app=app)
    worker.upload_artifact(data=prompt.encode(), content_type="text/plain", filename="sketch.txt")
    return Deferred(timeout=60, note="ordered")


class TestDeferredJobs:
    def test_are_completed_in_the_test(self, modelreins_run: JobRun) -> None:
        first, second = modelreins_run(order, prompt="first"), modelreins_run(order, prompt="second")
        assert (first.deferred, first.status, first.result) == (True, "running", "")
        assert [first.ref, second.ref] == references[-2:]
        assert complete(first.ref, "made", app=app)
        assert (first.done, first.deferred, first.result) == (True, False, "shaped made")
        assert [each.text for each in first.artifacts] == ["first"]
        assert complete(first.ref, "again", app=app).reason == "completed"
        assert second.deferred
        value = Result("", artifacts=[Artifact(data=b"png", filename="p.png")], reviews=[Review("image", "A picture")])
        assert complete(second.ref, value, app=app)
        assert [each.filename for each in second.artifacts] == ["sketch.txt", "p.png"]
        assert [each.title for each in second.reviews] == ["A picture"]

    def test_are_failed_and_escalated_in_the_test(self, modelreins_run: JobRun) -> None:
        first, second = modelreins_run(order, prompt="first"), modelreins_run(order, prompt="second")
        assert fail(first.ref, "no credit", app=app)
        assert escalate(second.ref, "look at it", app=app)
        assert (first.failed, first.result, first.exception) == (True, "no credit", None)
        assert (second.escalated, second.result) == (True, "look at it")

    def test_are_completed_before_the_handler_returns(self, modelreins_run: JobRun) -> None:
        job = modelreins_run(order, prompt="at once")
        assert (job.done, job.deferred, job.ref, job.result) == (True, False, "", "shaped before the return")
        assert [each.filename for each in job.artifacts] == ["sketch.txt"]
