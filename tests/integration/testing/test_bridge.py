"""The fixtures ``modelreins_sandbox`` and ``modelreins_bridge``: their use, and no side effects."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, current_app

from mr_celery import Job, MrCeleryError, modelreins_job
from mr_celery.sdk import Worker
from mr_celery.testing import LocalBridge, LocalServer, Rule, celery_in_process
from mr_celery.testing.bridge import running_bridge

app = Celery("mill", broker="redis://nowhere.invalid/0", backend="redis://nowhere.invalid/1", set_as_current=False)
app.conf.task_always_eager = True
app.conf.task_routes = {"mill.large": {"queue": "large"}}


@modelreins_job("text.upper")
@app.task(name="mill.upper")
def upper(prompt: str) -> str:
    return prompt.upper()


@modelreins_job("large")
@app.task(name="mill.large")
def large(prompt: str) -> str:
    return f"{len(prompt)}"


@modelreins_job("flaky")
@app.task(name="mill.flaky", bind=True, autoretry_for=(ConnectionError,), retry_backoff=False, default_retry_delay=0)
def flaky(self: Any) -> int:
    if self.request.retries < 2:
        raise ConnectionError
    return int(self.request.retries)


def double(prompt: str) -> str:
    return 2 * prompt


started = threading.Event()
stopped = threading.Event()


@modelreins_job("patient")
@app.task(name="mill.patient")
def patient(job: Job) -> str:
    started.set()
    while not stopped.wait(0.01):
        if job.aborted:
            stopped.set()
    return "stopped"


@pytest.fixture
def modelreins_app() -> Celery:
    return app


def attributes(name: str) -> dict[str, Any]:
    """A task's own attributes, except those that Celery caches."""
    return {key: value for key, value in vars(app.tasks[name]).items() if key != "_exec_options"}


@pytest.fixture
def as_before() -> Iterator[None]:
    """Checks that the application is unchanged. Must be set up first, so that its teardown runs last."""
    names = [name for name in app.tasks if name.startswith("mill.")]
    tasks = [attributes(name) for name in names]
    steps, current = {name: set(each) for name, each in app.steps.items() if each}, current_app._get_current_object()  # type: ignore[attr-defined]
    yield
    assert [attributes(name) for name in names] == tasks
    assert {name: each for name, each in app.steps.items() if each} == steps
    assert current_app._get_current_object() is current  # type: ignore[attr-defined]
    assert app.conf.broker_url == "redis://nowhere.invalid/0"
    assert app.conf.task_always_eager
    assert app.conf.result_backend == "redis://nowhere.invalid/1"


@pytest.fixture
def bridge(as_before: None, modelreins_bridge: LocalBridge) -> LocalBridge:
    return modelreins_bridge


def test_jobs_run_from_dispatch_to_close(bridge: LocalBridge) -> None:
    server = bridge.server
    jobs = [server.dispatch(f"prompt {n}", capability=each) for n, each in enumerate(["text.upper", "large", "flaky"])]
    assert [server.wait(job).result for job in jobs] == ["PROMPT 0", "8", "2"]
    assert server.jobs[0].events == ["dispatched", "claim", "close done"]
    assert server.wait(jobs[0].id).done


def test_second_bridge_in_the_same_process(bridge: LocalBridge) -> None:
    assert bridge.run("a", capability="text.upper").result == "A"


def test_job_without_a_handler_fails(bridge: LocalBridge) -> None:
    job = bridge.run("a", capability="other")
    assert job.failed
    assert "it requires capability other" in job.result


def test_faults(bridge: LocalBridge) -> None:
    with bridge.server.faults("status", status=503, routes=["close"], times=1):
        job = bridge.run("a", capability="text.upper")
    assert job.done


def test_abort(bridge: LocalBridge) -> None:
    started.clear()
    stopped.clear()
    job = bridge.server.dispatch("a", capability="patient")
    assert started.wait(10)
    bridge.server.abort(job)
    assert stopped.wait(20), "the handler did not see the abort"
    assert job.failed
    assert job.result == "aborted by an operator"


@pytest.mark.parametrize("namespace", ["", "CELERY"])
def test_settings_of_the_application_are_overridden(
    monkeypatch: pytest.MonkeyPatch, modelreins_sandbox: LocalServer, tmp_path: Path, namespace: str
) -> None:
    prefix = f"{namespace}_" if namespace else ""
    named = {
        f"{prefix}{name}".upper() if prefix else name: value
        for name, value in {
            "broker_url": "redis://nowhere.invalid/0",
            "broker_read_url": "redis://nowhere.invalid/1",
            "broker_write_url": "redis://nowhere.invalid/2",
            "broker_transport_options": {"visibility_timeout": 7},
            "result_backend": "redis://nowhere.invalid/3",
            "task_always_eager": True,
            "modelreins_ledger_url": "redis://nowhere.invalid/4",
            "modelreins_url": "https://nowhere.invalid",
            "modelreins_spool_url": "/nowhere/that/is",
        }.items()
    }
    project = Celery("project", set_as_current=False)
    project.config_from_object(named, namespace=namespace or None)
    modelreins_job("double")(project.task(double, name="project.double", lazy=False))
    with running_bridge(project, modelreins_sandbox, monkeypatch, ledger_url=None, folder=str(tmp_path)) as bridge:
        assert project.conf.broker_url.startswith("modelreins-test://")
        assert project.conf.result_backend == "cache+memory://"
        assert not project.conf.task_always_eager
        assert bridge.run("a", capability="double").result == "aa"
    assert project.conf.broker_url == "redis://nowhere.invalid/0"
    assert project.conf.task_always_eager


def test_all_threads_end(monkeypatch: pytest.MonkeyPatch, modelreins_sandbox: LocalServer, tmp_path: Path) -> None:
    before = set(threading.enumerate())  # threads of earlier tests may still be ending
    with running_bridge(app, modelreins_sandbox, monkeypatch, ledger_url=None, folder=str(tmp_path)) as bridge:
        assert bridge.run("a", capability="text.upper").done
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("modelreins-"):
            thread.join(10)
            assert not thread.is_alive(), thread.name


def test_handler_that_does_not_end_fails_the_test(
    monkeypatch: pytest.MonkeyPatch, modelreins_sandbox: LocalServer, tmp_path: Path
) -> None:
    monkeypatch.setattr(celery_in_process, "STOP_SECONDS", 0.2)
    started.clear()
    stopped.clear()
    stack = ExitStack()
    stack.enter_context(running_bridge(app, modelreins_sandbox, monkeypatch, ledger_url=None, folder=str(tmp_path)))
    job = modelreins_sandbox.dispatch("a", capability="patient")
    assert started.wait(10)
    with pytest.raises(MrCeleryError, match=r"did not stop within 0\.2 s: a task is still running"):
        stack.close()
    stopped.set()  # its ledger still works, so it ends normally
    assert modelreins_sandbox.wait(job).result == "stopped"


def test_several_worker_names(as_before: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    names = {"one": {"token_env": "TOKEN_OF_ONE", "capabilities": ["text.upper"]}, "two": {"capabilities": ["large"]}}
    monkeypatch.setitem(app.conf, "modelreins_workers", names)
    bridge = request.getfixturevalue("modelreins_bridge")
    assert bridge.run("a", capability="text.upper").fields["assigned_to"] == "one"
    assert bridge.run("a", worker="two", capability="large").done


def test_ledger_on_a_real_redis(
    monkeypatch: pytest.MonkeyPatch, modelreins_sandbox: LocalServer, redis_server: Any, tmp_path: Any
) -> None:
    with running_bridge(
        app, modelreins_sandbox, monkeypatch, ledger_url=redis_server.url(0), folder=str(tmp_path)
    ) as bridge:
        assert bridge.run("a", capability="text.upper").done
    assert redis_server.client().keys("modelreins:{test-worker}:*")


def test_sandbox_without_a_bridge(modelreins_sandbox: LocalServer) -> None:
    server = modelreins_sandbox
    job = server.dispatch("say hello", model="x")
    assert (job.status, job.result, job.ended) == ("pending", "", False)
    assert repr(job) == f"<job {job.id} pending>"
    client = Worker(name=os.environ["MODELREINS_NAME"])  # configured by MODELREINS_URL and MODELREINS_TOKEN
    client.claim(job.id)
    art = client.upload_artifact(b"x", "text/plain", filename="x.txt", job_id=job.id)
    client.submit_review("t", "A title", "c", preview=f"{server.url}{art['url']}", job_id=job.id)
    client.submit_review("t", "Another", "c", preview="https://elsewhere.example/picture.png")
    client.complete(job.id, "hello")
    assert server.wait(job).result == "hello"
    assert [each.preview for each in server.reviews] == [job.artifacts[0], "https://elsewhere.example/picture.png"]
    assert [each.title for each in job.reviews] == ["A title"]


def test_timeout_message_of_a_pending_job(modelreins_sandbox: LocalServer) -> None:
    job = modelreins_sandbox.dispatch("a secret", worker="nobody")
    with pytest.raises(pytest.fail.Exception) as failure:
        modelreins_sandbox.wait(job, seconds=0.05)
    message = str(failure.value)
    assert message.startswith(f"job {job.id} did not end within 0.05 s: it is pending\n")
    assert "assigned to 'nobody' and was not claimed: is a bridge of that name running" in message
    assert "events: dispatched" in message
    assert "a secret" not in message


def test_timeout_message_has_the_log(bridge: LocalBridge) -> None:
    started.clear()
    stopped.clear()
    job = bridge.server.dispatch("a", capability="patient")
    assert started.wait(10)
    with pytest.raises(
        pytest.fail.Exception, match=rf"it is running\n(.|\n)*job={job.id} attempt=1 task_id=\S+ sent to queue celery"
    ):
        bridge.server.wait(job, seconds=0.05)
    stopped.set()
    assert bridge.server.wait(job).result == "stopped"


def test_wrong_use_fails_the_test(modelreins_sandbox: LocalServer) -> None:
    with pytest.raises(pytest.fail.Exception, match="there is no job 99"):
        modelreins_sandbox.wait(99)
    with pytest.raises(pytest.fail.Exception, match="cannot set status"):
        modelreins_sandbox.dispatch("x", status="done")
    with (
        pytest.raises(pytest.fail.Exception, match='fault is "explosion": it must be one of'),
        modelreins_sandbox.faults("explosion"),
    ):
        pytest.fail("not reached")


def test_faults_end_with_the_block(modelreins_sandbox: LocalServer) -> None:
    chaos = modelreins_sandbox._sandbox.chaos
    with modelreins_sandbox.faults("drop", rate=0.5):
        with modelreins_sandbox.faults(Rule("null"), Rule("html", times=3)):
            assert [each.fault for each in chaos.rules] == ["null", "html", "drop"]
        assert [each.fault for each in chaos.rules] == ["drop"]
    assert chaos.rules == []
