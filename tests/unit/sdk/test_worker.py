from __future__ import annotations

import logging
import socket
import threading
from typing import Any

import pytest

from mr_celery.errors import WorkerError
from mr_celery.sdk import Worker
from mr_celery.sdk import loop as polling
from mr_celery.sdk.loop import MOST_BACKOFF, Polling, Presence, next_try, report
from mr_celery.telemetry.quantities import duration
from support.mocked_http import MockedHttp

TOKEN = "mr-secret-token-1234"


def refusal(status: int, *, retry_after: float | None = None) -> WorkerError:
    retryable = status >= 500 or status == 429
    return WorkerError(f"POST /x -> {status}: no", status=status, retryable=retryable, retry_after=retry_after)


class Scripted(Worker):
    """A worker with a scripted server: each call returns the next value, or raises it if it is an exception.

    Args:
        inboxes: the results of inbox requests; after the last one, the worker is interrupted.
        answers: by method name, the results of its calls; ``{}`` after the last one.
    """

    def __init__(self, *inboxes: Any, poll_interval: float = 5.0, **answers: list[Any]) -> None:
        super().__init__(TOKEN, "https://mr.example", "render-1", poll_interval)
        self.script = {"inbox": [*inboxes, KeyboardInterrupt()], **answers}
        self.calls: list[tuple[Any, ...]] = []

    def _answer(self, method: str, *args: Any) -> Any:
        self.calls.append((method, *args))
        left = self.script.get(method)
        answer = left.pop(0) if left else {}
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def heartbeat(self, *args: Any, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._answer("heartbeat")
        return answer

    def inbox(self, status: str = "pending") -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._answer("inbox")
        return answer

    def claim(self, job_id: int) -> dict[str, Any]:
        answer: dict[str, Any] = self._answer("claim", job_id)
        return answer

    def complete(self, job_id: int, result: str = "", status: str = "done") -> dict[str, Any]:
        answer: dict[str, Any] = self._answer("complete", job_id, result, status)
        return answer

    def named(self, *methods: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in methods]


class Run:
    """A run of a scripted worker, which records its pauses instead of making them."""

    def __init__(self, worker: Scripted, handler: Any = None, on_error: Any = None) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.polling = Polling(
            worker, handler or (lambda job: f"result {job['id']}"), on_error, wait=self._wait, clock=lambda: self.now
        )

    def _wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def go(self) -> Run:
        self.polling.run()
        return self


class TestWorker:
    def test_no_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MODELREINS_TOKEN", raising=False)
        with pytest.raises(WorkerError) as caught:
            Worker()
        assert str(caught.value) == "No token — pass token=... or set MODELREINS_TOKEN"

    def test_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODELREINS_TOKEN", TOKEN)
        monkeypatch.delenv("MODELREINS_URL", raising=False)
        worker = Worker()
        assert (worker.token, worker.url) == (TOKEN, "https://app.modelreins.com")
        assert worker.name.startswith(f"{socket.gethostname()}-")
        assert (worker.poll_interval, worker.timeout) == (5.0, 30.0)
        monkeypatch.setenv("MODELREINS_URL", "https://mr.example/base/")
        assert Worker().url == "https://mr.example/base"
        assert Worker(url="https://other.example").url == "https://other.example"

    def test_an_invalid_address_raises_immediately(self) -> None:
        with pytest.raises(WorkerError, match="is not a server URL"):
            Worker(TOKEN, "mr.example")

    def test_repr_hides_the_token(self) -> None:
        assert repr(Worker(TOKEN, "https://mr.example", "w")) == "Worker(url='https://mr.example', name='w')"

    def test_a_changed_attribute_is_used(self, mocked_http: MockedHttp) -> None:
        mocked_http.put("https://b.example/presence", json={})
        worker = Worker(TOKEN, "https://a.example", "w")
        worker.url, worker.token, worker.name, worker.timeout = "https://b.example", "other-token", "v", 7.0
        worker.heartbeat("busy", "d", "t")
        sent = mocked_http.last_request
        assert sent is not None
        assert sent.headers["Authorization"] == "Bearer other-token"
        assert sent.timeout == 7.0
        assert sent.json()["instance"] == "v"


class TestRun:
    def test_presence_inbox_claim_handler_close(self) -> None:
        worker = Scripted([{"id": 1}, {"id": 2}], [])
        run = Run(worker).go()
        assert worker.calls == [
            ("heartbeat",),
            ("inbox",),
            ("claim", 1),
            ("complete", 1, "result 1", "done"),
            ("claim", 2),
            ("complete", 2, "result 2", "done"),
            ("heartbeat",),
            ("inbox",),
            ("heartbeat",),
            ("inbox",),
        ]
        assert run.pauses == [5.0]

    @pytest.mark.parametrize(("returned", "text"), [(None, ""), ("", ""), (0, ""), (7, "7"), (["a"], "['a']")])
    def test_results_become_text(self, returned: Any, text: str) -> None:
        worker = Scripted([{"id": 1}])
        Run(worker, lambda job: returned).go()
        assert worker.named("complete") == [("complete", 1, text, "done")]

    def test_a_refused_claim_is_skipped(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        worker = Scripted([{"id": 1}, {"id": 2}], claim=[refusal(409)])
        Run(worker).go()
        assert worker.named("claim", "complete") == [
            ("claim", 1),
            ("claim", 2),
            ("complete", 2, "result 2", "done"),
        ]
        assert "job=1 claim skipped: POST /x -> 409" in caplog.text

    def test_where_nothing_can_be_claimed_it_waits(self) -> None:
        worker = Scripted([{"id": 1}], [{"id": 1}], claim=[refusal(409), refusal(409)])
        assert Run(worker).go().pauses == [5.0, 5.0]

    def test_a_claim_with_retry_after(self) -> None:
        worker = Scripted([{"id": 1}, {"id": 2}], claim=[refusal(429, retry_after=47.0)])
        assert Run(worker).go().pauses == [47.0]
        assert worker.named("claim") == [("claim", 1)]

    def test_a_handler_that_raises_fails_the_job(self) -> None:
        told: list[tuple[Any, ...]] = []
        worker = Scripted([{"id": 1}, {"id": 2}])

        def handler(job: dict[str, Any]) -> str:
            if job["id"] == 1:
                raise ValueError("bad prompt")
            return "fine"

        Run(worker, handler, lambda job, error: told.append((job, error, len(worker.named("complete"))))).go()
        (_, job_id, text, status), second = worker.named("complete")
        assert (job_id, status) == (1, "failed")
        assert text.startswith("Traceback (most recent call last):\n")
        assert text.endswith("ValueError: bad prompt\n")
        assert "in handler" in text
        assert second == ("complete", 2, "fine", "done")
        [(job, error, closed_before)] = told
        assert (job, str(error), closed_before) == ({"id": 1}, "bad prompt", 1)

    def test_a_result_that_is_not_text_fails_the_job(self) -> None:
        class Unprintable:
            def __str__(self) -> str:
                raise RuntimeError("no words")

        worker = Scripted([{"id": 1}])
        Run(worker, lambda job: Unprintable()).go()
        assert worker.named("complete")[0][3] == "failed"

    def test_on_error_may_raise(self, caplog: pytest.LogCaptureFixture) -> None:
        def handler(job: dict[str, Any]) -> str:
            raise ValueError("bad")

        def on_error(job: dict[str, Any], error: Exception) -> None:
            raise RuntimeError("worse")

        worker = Scripted([{"id": 1}, {"id": 2}])
        Run(worker, handler, on_error).go()
        assert [call[1] for call in worker.named("complete")] == [1, 2]
        assert "job=1 on_error raised" in caplog.text

    @pytest.mark.parametrize(
        "error", [refusal(500), refusal(401), WorkerError("GET /my-jobs -> network: timed out", retryable=True)]
    )
    def test_no_answer_ends_it(self, error: WorkerError) -> None:
        worker = Scripted(error, error, error, [{"id": 1}], heartbeat=[error, error])
        run = Run(worker).go()
        assert len(run.pauses) == 3
        assert worker.named("complete") == [("complete", 1, "result 1", "done")]

    def test_it_waits_longer_after_each_failure_up_to_a_minute(self) -> None:
        run = Run(Scripted(*[refusal(503)] * 12, poll_interval=1.0)).go()
        for failures, pause in enumerate(run.pauses):
            most = min(60.0, 2.0**failures)
            assert most / 2 <= pause <= most

    def test_a_success_resets_that(self) -> None:
        run = Run(Scripted(*[refusal(503)] * 8, [], refusal(503), poll_interval=1.0)).go()
        assert run.pauses[-2] == 1.0
        assert run.pauses[-1] <= 1.0

    @pytest.mark.parametrize(("asked", "pause"), [(20.0, 20.0), (600.0, MOST_BACKOFF), (1e12, MOST_BACKOFF)])
    def test_it_respects_retry_after_up_to_a_limit(
        self, asked: float, pause: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert Run(Scripted(refusal(429, retry_after=asked))).go().pauses == [pause]
        wish = f"the server requested a pause of {duration(asked)} (Retry-After), next try in {duration(pause)}"
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == [f"POST /x -> 429; {wish}"]

    def test_refused_presence_does_not_prevent_a_poll(self) -> None:
        worker = Scripted([{"id": 1}], heartbeat=[refusal(429, retry_after=1e12)])
        assert Run(worker).go().pauses == []
        assert worker.named("complete") == [("complete", 1, "result 1", "done")]

    def test_an_unexpected_error_does_not_end_it(self, caplog: pytest.LogCaptureFixture) -> None:
        worker = Scripted(RuntimeError("a subclass went wrong"), [{"id": 1}])
        Run(worker).go()
        assert len(worker.named("complete")) == 1
        assert "unexpected error, the loop continues" in caplog.text

    def test_a_rejected_token_is_an_error_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        Run(Scripted(refusal(401), refusal(503))).go()
        levels = [record.levelname for record in caplog.records if "next try" in record.getMessage()]
        assert levels == ["ERROR", "WARNING"]

    def test_an_interrupt_during_a_wait_ends_the_loop(self) -> None:
        def wait(seconds: float) -> None:
            raise KeyboardInterrupt

        worker = Scripted([])
        Polling(worker, lambda job: "", wait=wait).run()
        assert len(worker.named("inbox")) == 1

    def test_an_interrupted_handler_leaves_the_job_to_the_server(self) -> None:
        def handler(job: dict[str, Any]) -> str:
            raise KeyboardInterrupt

        worker = Scripted([{"id": 1}])
        Run(worker, handler).go()
        assert worker.named("complete") == []

    def test_nothing_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        Run(Scripted([{"id": 1}])).go()
        assert capsys.readouterr() == ("", "")

    def test_the_method_runs_it(self) -> None:
        worker = Scripted([{"id": 1}])
        worker.run(lambda job: "by the method")
        assert worker.named("complete") == [("complete", 1, "by the method", "done")]


class TestClose:
    def test_is_repeated_until_the_server_takes_it(self) -> None:
        worker = Scripted([{"id": 1}], complete=[refusal(503)] * 9)
        run = Run(worker).go()
        assert worker.named("complete") == [("complete", 1, "result 1", "done")] * 10
        assert max(run.pauses) <= 60.0

    @pytest.mark.parametrize(("asked", "pause"), [(20.0, 20.0), (3600.0, MOST_BACKOFF), (1e12, MOST_BACKOFF)])
    def test_respects_retry_after_and_is_not_given_up_for_it(
        self, asked: float, pause: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Scripted([{"id": 1}], complete=[refusal(429, retry_after=asked)] * 2)
        assert Run(worker).go().pauses == [pause] * 2
        assert worker.named("complete") == [("complete", 1, "result 1", "done")] * 3
        assert (
            f"the server requested a pause of {duration(asked)} (Retry-After), next try in {duration(pause)}"
            in caplog.text
        )

    def test_is_given_up_after_an_hour(self, caplog: pytest.LogCaptureFixture) -> None:
        worker = Scripted([{"id": 1}, {"id": 2}], complete=[refusal(503)] * 200)
        polling_run = Run(worker)
        polling_run.polling.close(1, "text", "done")
        assert 3500 < polling_run.now <= 3600
        assert "job=1 finished (done), but not closed: POST /x -> 503" in caplog.text

    @pytest.mark.parametrize(("status", "level"), [(404, "WARNING"), (409, "WARNING"), (401, "ERROR"), (413, "ERROR")])
    def test_a_refusal_is_logged_and_the_loop_continues(
        self, status: int, level: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Scripted([{"id": 1}, {"id": 2}], complete=[refusal(status)])
        Run(worker).go()
        assert worker.named("complete") == [
            ("complete", 1, "result 1", "done"),
            ("complete", 2, "result 2", "done"),
        ]
        [record] = [record for record in caplog.records if "not closed" in record.getMessage()]
        assert record.levelname == level

    def test_a_conflict_after_a_lost_answer_is_a_success(self) -> None:
        worker = Scripted(complete=[WorkerError("POST /x -> network: timed out", retryable=True), refusal(409)])
        assert Run(worker).polling.close(1, "text", "done")

    def test_is_done_once_more_when_interrupted(self) -> None:
        worker = Scripted([{"id": 1}, {"id": 2}], complete=[KeyboardInterrupt()])
        Run(worker).go()
        assert worker.named("complete") == [("complete", 1, "result 1", "done")] * 2

    @pytest.mark.parametrize("second", [refusal(503), KeyboardInterrupt()])
    def test_but_only_once(self, second: BaseException, caplog: pytest.LogCaptureFixture) -> None:
        worker = Scripted([{"id": 1}], complete=[KeyboardInterrupt(), second])
        Run(worker).go()
        assert len(worker.named("complete")) == 2
        assert "job=1 finished (done), but not closed" in caplog.text


class TestPresence:
    def test_continues_while_a_handler_runs(self) -> None:
        three = threading.Event()
        beats: list[str] = []

        class Busy(Scripted):
            def heartbeat(self, *args: Any, **options: Any) -> dict[str, Any]:
                beats.append(threading.current_thread().name)
                if beats.count("modelreins-presence") == 3:
                    three.set()
                return super().heartbeat()

        worker = Busy([{"id": 1}], poll_interval=0.05, heartbeat=[{}, refusal(503), RuntimeError("odd")])
        worker.run(lambda job: str(three.wait(60)))
        assert worker.named("complete") == [("complete", 1, "True", "done")]

    @pytest.mark.parametrize("method", ["inbox", "claim"])
    def test_continues_while_it_waits_for_long(self, method: str) -> None:
        beaten = threading.Event()

        class Waiting(Scripted):
            def heartbeat(self, *args: Any, **options: Any) -> dict[str, Any]:
                if threading.current_thread().name == "modelreins-presence":
                    beaten.set()
                return {}

        later = refusal(429, retry_after=3600.0)
        inboxes = [later] if method == "inbox" else [[{"id": 1}]]
        worker = Waiting(*inboxes, poll_interval=0.05, claim=[later])
        waited: list[bool] = []
        Polling(worker, lambda job: "", wait=lambda seconds: waited.append(beaten.wait(60))).run()
        assert waited == [True]

    def test_ends_with_the_block(self) -> None:
        beaten = threading.Event()
        with Presence(beaten.set, 0.0) as presence:
            assert beaten.wait(60)
        presence._thread.join(60)
        assert not presence._thread.is_alive()

    def test_no_failure_ends_it_or_slows_it(self) -> None:
        answers = [refusal(503), refusal(429, retry_after=1e12), RuntimeError("odd")] * 20
        done = threading.Event()

        def beat() -> None:
            if not answers:
                done.set()
                return
            raise answers.pop()

        with Presence(beat, 0.01):
            assert done.wait(60)  # waiting any longer after a failure than its interval, it would take far longer

    def test_no_failure_of_a_report_leaves_it(self, caplog: pytest.LogCaptureFixture) -> None:
        worker = Scripted(heartbeat=[refusal(429, retry_after=1e12), RuntimeError("odd")])
        report(worker.heartbeat)
        report(worker.heartbeat)
        assert "presence: unexpected error" in caplog.text


def test_next_try() -> None:
    assert 0 < next_try(refusal(503), 1, first=0.0)[0] <= polling.LEAST_INTERVAL
    assert next_try(refusal(503), 50, first=5.0)[0] <= MOST_BACKOFF
    assert next_try(refusal(503, retry_after=3600.0), 1, first=5.0)[0] == MOST_BACKOFF
    pause, why = next_try(refusal(503), 1, first=5.0)
    assert why == f"POST /x -> 503; next try in {duration(pause)}"
