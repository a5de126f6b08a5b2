"""``modelreins_run``: a job through a handler as in production, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task, current_app, signals
from celery.exceptions import Reject

from mr_celery import Artifact, Escalate, Job, JobFailed, Result, Review, modelreins_job, worker
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


@modelreins_job(match=lambda job: job.model == "whisper")
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


def test_a_job_with_all_that_it_made(modelreins_run: JobRun) -> None:
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


def test_the_prompt_may_come_second(modelreins_run: JobRun) -> None:
    assert modelreins_run(poster, "a dog").artifacts[0].data == b"a dog"


def test_each_job_is_one_of_its_own(modelreins_run: JobRun) -> None:
    first, second = modelreins_run(poster, "one"), modelreins_run(poster, "two")
    assert [each.data for job in (first, second) for each in job.artifacts] == [b"one", b"two"]
    assert len(first.reviews) == 1


def test_data_is_read_back(modelreins_run: JobRun) -> None:
    assert modelreins_run(count, input=["a", "b"]).json() == {"texts": 2}


def test_without_a_task_it_is_whichever_takes_the_job(modelreins_run: JobRun) -> None:
    assert modelreins_run(capability="text.count", input=[]).task == "shop.count"
    assert modelreins_run(prompt="x", model="whisper").task == "shop.whisper"


def test_retries_go_on_at_once_as_a_worker_would_call_them(modelreins_run: JobRun) -> None:
    job = modelreins_run(fetch, failures=2)
    assert job.json() == {"retries": 2, "eager": False, "directly": False}
    assert job.retries == 2


def test_the_last_retry_fails_the_job(modelreins_run: JobRun) -> None:
    job = modelreins_run(fetch, failures=3)
    assert job.failed
    assert isinstance(job.exception, ConnectionError)
    assert job.retries == 2
    assert job.result.endswith("ConnectionError: not there yet")


def test_a_retry_with_arguments_of_its_own(modelreins_run: JobRun) -> None:
    job = modelreins_run(ask, prompt="at last")
    assert (job.result, job.retries) == ("at last", 3)


def test_a_message_that_was_given_back_comes_again(modelreins_run: JobRun) -> None:
    rejected.clear()
    assert modelreins_run(reject).result == "2"


def test_a_task_that_asks_for_ever(modelreins_run: JobRun) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"shop\.for_ever asked 100 times to be run again"):
        modelreins_run(for_ever)


def test_escalated_and_failed(modelreins_run: JobRun) -> None:
    escalated, failed = modelreins_run(raising, "escalate"), modelreins_run(raising, "fail")
    assert escalated.escalated
    assert (escalated.result, escalated.exception) == ("ask a human", None)
    assert failed.failed
    assert (failed.result, type(failed.exception)) == ("no way", JobFailed)


def test_a_missing_field_fails_the_job_as_in_production(modelreins_run: JobRun) -> None:
    job = modelreins_run(count, "x")
    assert job.failed
    assert "has no field 'input', which the handler requires" in job.result


def test_a_job_that_no_task_takes(modelreins_run: JobRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELREINS_WORKERS", '{"shop-worker": {"capabilities": ["text.count"]}}')
    job = modelreins_run(capability="other")
    assert job.failed
    assert job.task is None
    assert "it asks for capability other; this worker offers: text.count" in job.result


def test_what_the_server_refuses_fails_the_job(modelreins_run: JobRun) -> None:
    job = modelreins_run(refused)
    assert job.failed
    assert job.result.startswith("the server refused the review '' (POST /review -> 400: ")
    assert [each.text for each in job.artifacts] == ["kept"]
    assert repr(job) == f"<job {job.id} failed: {job.result!r}>"


def test_the_name_and_the_settings_are_the_applications(modelreins_run: JobRun) -> None:
    job = modelreins_run(as_the_sdk)
    assert job.result == f"shop-worker shop-worker {job.artifacts[0].slug}"
    assert modelreins_run(as_the_sdk, worker="other").result.startswith("other other ")


@pytest.mark.parametrize("delivery", ["worker", "bridge"])
def test_each_way_of_delivery(modelreins_run: JobRun, monkeypatch: pytest.MonkeyPatch, delivery: str) -> None:
    monkeypatch.setenv("MODELREINS_DELIVERY", delivery)
    monkeypatch.setenv("MODELREINS_SPOOL_URL", "/nowhere/that/is")
    monkeypatch.setenv("MODELREINS_URL", "https://nowhere.invalid")
    job = modelreins_run(poster, "x" * 2**21)
    assert job.done
    assert len(job.artifacts[0].data) == 2**21


def test_one_of_several_worker_names(modelreins_run: JobRun, monkeypatch: pytest.MonkeyPatch) -> None:
    names = '{"one": {"token_env": "ONE", "capabilities": ["text.count"]}, "two": {"capabilities": ["as.the.sdk"]}}'
    monkeypatch.setenv("MODELREINS_WORKERS", names)
    monkeypatch.setenv("MODELREINS_NAME", "")
    monkeypatch.setitem(app.conf, "modelreins_name", None)
    assert modelreins_run(count, input=[]).fields["assigned_to"] == "one"
    assert modelreins_run(as_the_sdk).result.startswith("two two ")
    with pytest.raises(pytest.fail.Exception, match="worker 'three' is none of one, two"):
        modelreins_run(count, input=[], worker="three")


def test_the_tasks_are_left_as_they_were(modelreins_run: JobRun) -> None:
    task = app.tasks["shop.fetch"]
    before = {name: value for name, value in vars(task).items() if name != "backend"}
    current, before_retry = current_app._get_current_object(), task.signature_from_request  # type: ignore[attr-defined]
    modelreins_run(fetch, failures=1)
    assert {name: value for name, value in vars(task).items() if name != "backend"} == before
    assert task.signature_from_request == before_retry
    assert current_app._get_current_object() is current  # type: ignore[attr-defined]
    assert poster("called as ever").text == "made it"


def test_what_is_left_if_the_test_itself_ends_inside_of_the_handler(modelreins_run: JobRun) -> None:
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


def test_another_task_takes_the_job(modelreins_run: JobRun) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"taken by shop\.count \(text\.count\), not by shop\.poster"):
        modelreins_run(poster, capability="text.count", tags=[])


@pytest.mark.parametrize("wrong", ["image.generate", len, Job])
def test_what_is_no_task(modelreins_run: JobRun, wrong: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"takes a task with @modelreins_job, and .* is none"):
        modelreins_run(wrong)


def test_a_task_without_the_decorator(modelreins_run: JobRun) -> None:
    bare = app.task(upper, name="shop.bare", lazy=False)
    with pytest.raises(pytest.fail.Exception, match=r"shop\.bare takes no jobs in the application 'shop', only "):
        modelreins_run(bare)


def test_a_field_that_is_the_servers(modelreins_run: JobRun) -> None:
    with pytest.raises(pytest.fail.Exception, match="a dispatched job cannot set status"):
        modelreins_run(poster, status="done")


def test_how_a_job_is_shown(modelreins_run: JobRun) -> None:
    job, failed = modelreins_run(poster, "the secret prompt"), modelreins_run(raising, "x")
    assert repr(job) == f"<job {job.id} done: 'made it'>"
    assert repr(failed) == f"<job {failed.id} failed: \"KeyError: 'x'\">"
