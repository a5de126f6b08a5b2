"""The delivery of an outcome, with every response that the server may send."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery.delivery import Delivery, DeliveryRequest
from mr_celery.delivery.deliver import DELIVERY_LEASE, NOT_RUNNING, REFUSAL, TOO_SLOW, UNHEARD_OF
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import DeliveryKey, RunKey
from mr_celery.outcome import Outcome, ReviewItem, Upload
from mr_celery.server import Listing
from support.clock import Clock
from support.ledgers import LedgerKit, fake_kit
from support.statuses import A_FEW_NO_WORD, A_FEW_OVER, A_FEW_PENDING, A_FEW_RUNNING, DONE, short

pytestmark = pytest.mark.usefixtures("on_real_redis")

Call = tuple[Any, ...]

PICTURE = Upload("image/png", "a.png", 3)
LOG = Upload("text/plain", "b.txt", 3, expires_at="2030-01-01T00:00:00Z")
RICH = Outcome(
    "done",
    "made it",
    uploads=(PICTURE, LOG),
    reviews=(
        ReviewItem("image", "Poster", "look", preview_upload=0, target="marketing"),
        ReviewItem("text", "Log", "read", preview="https://elsewhere.test/x"),
    ),
)
PLAIN = Outcome("done", "made it")
BLOBS = [b"png", b"log"]

ROUTES = dict.fromkeys(("running", "pending", "failed", "done", "escalated"), "inbox")
"""The route of a request that is not named for it."""


class FakeApi:
    """A server that records its requests, and responds or fails as the test says.

    Args:
        answers: by the name of the request: one answer, error or function for each time it is made; after
            the last one it works as a server does.
    """

    url = "https://server.test"

    def __init__(self, **answers: list[Any]) -> None:
        self.calls: list[Call] = []
        self.keys: list[str | None] = []
        self._answers = answers

    def _answer(self, call: Call, usual: Any) -> Any:
        self.calls.append(call)
        left = self._answers.get(call[0])
        answer = left.pop(0) if left else usual
        if isinstance(answer, WorkerError):
            answer.route = ROUTES.get(call[0], call[0])
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def upload(self, source: Any, *, idempotency_key: str | None = None, **fields: Any) -> dict[str, Any]:
        self.keys.append(idempotency_key)
        slug = f"slug-{fields['filename']}"
        call = ("upload", fields["filename"], source.read(), fields["job_id"], fields["expires_at"])
        answer: dict[str, Any] = self._answer(call, {"slug": slug, "url": f"/s/{slug}"})
        return answer

    def review(
        self, type: str, title: str, content: str, *, idempotency_key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        self.keys.append(idempotency_key)
        call = ("review", title, fields["preview"], fields["target"], fields["job_id"])
        answer: dict[str, Any] = self._answer(call, {"id": 70, "status": "pending"})
        return answer

    def close(self, job_id: int, result: str, status: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._answer(("close", job_id, result, status), {})
        return answer

    def claim(self, job_id: int) -> dict[str, Any]:
        answer: dict[str, Any] = self._answer(("claim", job_id), {})
        return answer

    def jobs(self, status: str, **options: Any) -> Listing:
        return Listing.of(*({"id": job_id} for job_id in self._answer((status,), [])), status=status)

    def job(self, job_id: int) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = self._answer(("job", job_id), None)
        return answer

    @property
    def made(self) -> list[str]:
        """The names of the requests, in order; a request for a list is named by its status."""
        return [call[0] for call in self.calls]

    @property
    def done(self) -> list[str]:
        """The names of the requests that change something, in order."""
        return [name for name in self.made if name in ("upload", "review", "claim", "close")]


def answer(status: int | None, **fields: Any) -> WorkerError:
    """The error of a request with a given response; ``None`` for a timeout."""
    if status is None:
        return WorkerError("POST /x -> network: timed out", retryable=True)
    retryable = status in (408, 425, 429) or status >= 500
    return WorkerError(f"POST /x -> {status}: the server's words", status=status, retryable=retryable, **fields)


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def finished(kit: LedgerKit, outcome: Outcome, blobs: list[bytes] = BLOBS) -> RunKey:
    """Job 1 with an outcome that is due."""
    run = kit.bring("running")
    assert kit.ledger.finish(run, outcome, blobs=blobs, deliver_seconds=0) == "finished"
    return run


def delivery_request(kit: LedgerKit, *, number: int | None = None) -> DeliveryRequest:
    """The request of a courier that takes job 1, for the ``number``-th time if given."""
    key = kit.collect()
    while number is not None and key.number < number:
        key = kit.collect()
    assert number in (None, key.number)
    record = kit.record()
    assert record.outcome is not None
    return DeliveryRequest(key, record.outcome, parts=record.parts, failures=record.failures)


def deliver(kit: LedgerKit, api: FakeApi, *, number: int | None = None) -> WorkerError | None:
    """Deliver job 1 as a courier. Returns the reason if it was postponed."""
    return Delivery(api, kit.ledger).deliver(delivery_request(kit, number=number))  # type: ignore[arg-type]


def assert_put_off(kit: LedgerKit, outcome: Outcome) -> None:
    """Check that job 1 waits for its next delivery, with an unchanged outcome."""
    assert kit.state() == "finished"
    assert kit.record().outcome == outcome
    assert not kit.is_due("finished")


# -- delivered ---------------------------------------------------------------------------------------------


def test_artifacts_come_before_reviews_and_the_close_is_last(kit: LedgerKit) -> None:
    finished(kit, RICH)
    api = FakeApi()
    assert deliver(kit, api) is None
    assert api.calls == [
        ("upload", "a.png", b"png", 1, None),
        ("upload", "b.txt", b"log", 1, "2030-01-01T00:00:00Z"),
        ("review", "Poster", "https://server.test/s/slug-a.png", "marketing", 1),
        ("review", "Log", "https://elsewhere.test/x", None, 1),
        ("close", 1, "made it", "done"),
    ]
    assert kit.state() == "closed"
    assert kit.record().how == "delivered"


@pytest.mark.parametrize("status", ["done", "failed", "escalated"])
def test_a_job_is_closed_with_its_own_status(kit: LedgerKit, status: Any) -> None:
    finished(kit, Outcome(status, "text"))
    api = FakeApi()
    assert deliver(kit, api) is None
    assert api.calls == [("close", 1, "text", status)]


def test_each_part_has_a_key_of_its_own_that_stays_the_same(kit: LedgerKit) -> None:
    task_id = finished(kit, RICH).task_id
    api = FakeApi(upload=[answer(503)])
    deliver(kit, api)
    deliver(kit, api)
    expected = [f"{task_id}-{part}" for part in ("artifact-0", "artifact-1", "review-0", "review-1")]
    assert api.keys == [expected[0], *expected]


def test_what_was_uploaded_before_the_outcome_was_recorded_is_not_uploaded_again(kit: LedgerKit) -> None:
    shipped = Upload("video/mp4", "large.mp4", 10**9, slug="early", url="/s/early")
    finished(kit, Outcome("done", "x", (shipped,), (ReviewItem("v", "T", "", preview_upload=0),)), [b""])
    api = FakeApi()
    assert deliver(kit, api) is None
    assert api.calls[0] == ("review", "T", "https://server.test/s/early", None, 1)


@pytest.mark.parametrize(
    ("url", "preview"),
    [
        ("/s/abc", "https://server.test/s/abc"),
        ("https://cdn.test/abc", "https://cdn.test/abc"),
        (None, "https://server.test/s/abc"),
        ("", "https://server.test/s/abc"),
        (7, "https://server.test/s/abc"),
    ],
)
def test_a_preview_is_an_absolute_address(kit: LedgerKit, url: object, preview: str) -> None:
    finished(kit, Outcome("done", "x", (PICTURE,), (ReviewItem("i", "T", "", preview_upload=0),)))
    api = FakeApi(upload=[{"slug": "abc", "url": url}])
    deliver(kit, api)
    assert api.calls[1][2] == preview


# -- from where the last one stopped -----------------------------------------------------------------------

ASKED_FIRST = ["running", "pending", "job", "failed", "done", "escalated"]
"""The lookups of a job's status if no answer contains it."""


@pytest.mark.parametrize(
    ("fails", "first", "second"),
    [
        ({"upload": [answer(503)]}, 1, [*ASKED_FIRST, "upload", "upload", "review", "review", "close"]),
        ({"upload": [{"slug": "a"}, answer(503)]}, 2, [*ASKED_FIRST, "upload", "review", "review", "close"]),
        ({"review": [answer(503)]}, 3, [*ASKED_FIRST, "review", "review", "close"]),
        ({"review": [{"id": 1}, answer(503)]}, 4, [*ASKED_FIRST, "review", "close"]),
        ({"close": [answer(503)]}, 5, ["close"]),
    ],
)
def test_a_delivery_continues_where_the_last_one_stopped(
    kit: LedgerKit, fails: dict[str, list[Any]], first: int, second: list[str]
) -> None:
    finished(kit, RICH)
    api = FakeApi(**fails)
    error = deliver(kit, api)
    assert error is not None
    assert error.status == 503
    assert len(api.calls) == first
    assert_put_off(kit, RICH)
    assert deliver(kit, api) is None
    assert api.made[first:] == second
    assert kit.state() == "closed"


@pytest.mark.parametrize(("after", "made"), [(0, []), (2, ["upload"]), (4, ["upload", "upload"])])
def test_a_delivery_whose_caller_waits_no_longer_is_left_to_a_later_one(
    kit: LedgerKit, after: int, made: list[str]
) -> None:
    finished(kit, RICH)
    api, asked = FakeApi(), count()
    delivery = Delivery(api, kit.ledger)  # type: ignore[arg-type]
    error = delivery.deliver(delivery_request(kit), is_over=lambda: next(asked) >= after)
    assert error is not None
    assert str(error) == TOO_SLOW
    assert api.done == made
    assert_put_off(kit, RICH)
    assert kit.record().why == TOO_SLOW
    assert deliver(kit, api) is None
    assert api.done == ["upload", "upload", "review", "review", "close"]
    assert kit.state() == "closed"


def test_a_review_of_a_later_try_shows_the_artifact_of_an_earlier_one(kit: LedgerKit) -> None:
    finished(kit, RICH)
    api = FakeApi(upload=[{"slug": "early", "url": "/s/early"}], review=[answer(None)])
    deliver(kit, api)
    assert json.loads(kit.record().parts["artifact:0"]) == {"slug": "early", "url": "/s/early"}
    deliver(kit, api)
    assert [call[2] for call in api.calls if call[1:2] == ("Poster",)] == ["https://server.test/s/early"] * 2


def test_each_delivered_part_renews_the_claim(kit: LedgerKit) -> None:
    finished(kit, RICH)
    due: list[bool] = []

    def look() -> dict[str, Any]:
        due.append(kit.is_due("finished"))
        kit.make_due("finished")
        return {"slug": "x"}

    deliver(kit, FakeApi(upload=[look, look], review=[look, look], close=[look]))
    assert due == [False, False, False, False, False]


# -- a job that waited with parts of its outcome --------------------------------------------------------------


def test_a_first_delivery_makes_no_extra_request(kit: LedgerKit) -> None:
    finished(kit, RICH)
    api = FakeApi()
    deliver(kit, api)
    assert api.made == api.done


@pytest.mark.parametrize(
    ("status", "how"), [("failed", "superseded"), ("escalated", "superseded"), ("done", "delivered")]
)
@pytest.mark.parametrize("told_by", ["list", "job"])
def test_nothing_of_a_job_that_is_over_is_uploaded_or_filed(
    kit: LedgerKit, told_by: str, status: str, how: str
) -> None:
    finished(kit, RICH)
    told: dict[str, Any] = {status: [[1]]} if told_by == "list" else {"job": [{"id": 1, "status": status}]}
    api = FakeApi(upload=[answer(503)], **told)
    deliver(kit, api)
    assert deliver(kit, api) is None
    assert api.done == ["upload"]
    assert kit.state() == "closed"
    assert kit.record().how == how


@pytest.mark.parametrize("told", [{"running": [[9, 1]]}, {"pending": [[9, 1]]}, {"job": [{"status": 7}]}])
def test_the_delivery_of_a_job_that_is_not_over_continues(kit: LedgerKit, told: dict[str, list[Any]]) -> None:
    finished(kit, RICH)
    api = FakeApi(review=[answer(503)], **told)
    deliver(kit, api)
    assert deliver(kit, api) is None
    assert api.done == ["upload", "upload", "review", "review", "review", "close"]


@pytest.mark.parametrize("status", [None, 401, 429, 500, 503])
@pytest.mark.parametrize("question", ["running", "pending", "job"])
def test_a_job_whose_status_is_unknown_waits(kit: LedgerKit, question: str, status: int | None) -> None:
    finished(kit, RICH)
    api = FakeApi(upload=[answer(503)], **{question: [answer(status)]})
    deliver(kit, api)
    error = deliver(kit, api)
    assert error is not None
    assert error.status == status
    assert api.done == ["upload"]
    assert_put_off(kit, RICH)


def test_an_outcome_without_parts_is_closed_without_a_lookup(kit: LedgerKit) -> None:
    shipped = Upload("video/mp4", "large.mp4", 10**9, slug="early", url="/s/early")
    finished(kit, Outcome("done", "x", (shipped,)), [b""])
    api = FakeApi(close=[answer(503)])
    deliver(kit, api)
    deliver(kit, api)
    assert api.made == ["close", "close"]


def test_answers_to_the_parts_of_an_earlier_outcome_are_kept_only_for_another_close(kit: LedgerKit) -> None:
    finished(kit, RICH)
    key = kit.collect()
    kit.ledger.delivered_part(key, "artifact:0", "{}", lease=60.0)
    kit.ledger.replace_outcome(key, Outcome.failed("refused"))
    deliver(kit, FakeApi())
    assert kit.state() == "closed"
    assert not kit.redis.hexists(kit.key("job:1"), "artifact:0")
    assert kit.redis.hkeys(kit.key("parts:1")) == [b"artifact:0"]
    assert kit.redis.pttl(kit.key("parts:1")) > 0


# -- not now -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [None, 404, 408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_a_server_in_trouble_gets_the_outcome_later(kit: LedgerKit, request_: str, status: int | None) -> None:
    finished(kit, RICH)
    error = deliver(kit, FakeApi(**{request_: [answer(status)]}))
    assert error is not None
    assert error.status == status
    assert_put_off(kit, RICH)
    assert "POST /x" in kit.record().why


@pytest.mark.parametrize(
    ("number", "error", "at_least", "at_most"),
    [
        (1, answer(503), 0.2, 0.5),
        (2, answer(503), 0.5, 1.0),
        (4, answer(None), 2.0, 4.0),
        (30, answer(503), 7.5, 15.0),
        (1, answer(503, retry_after=120.0), 120.0, 120.0),
        (1, answer(503, retry_after=1e12), 300.0, 300.0),
        (30, answer(429, retry_after=0.0), 7.5, 15.0),
        (1, answer(401), 5.0, 5.0),
        (1, answer(403), 5.0, 5.0),
        (30, answer(403), 7.5, 15.0),
    ],
)
def test_the_pause_grows_with_each_try_and_respects_retry_after_up_to_a_limit(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch, number: int, error: WorkerError, at_least: float, at_most: float
) -> None:
    finished(kit, PLAIN)
    pauses: list[float] = []
    undelivered = kit.ledger.undelivered

    def noted(delivery: DeliveryKey, why: str, *, wait_seconds: float, **more: str) -> bool:
        pauses.append(wait_seconds)
        return undelivered(delivery, why, wait_seconds=wait_seconds, **more)

    monkeypatch.setattr(kit.ledger, "undelivered", noted)
    assert deliver(kit, FakeApi(close=[error]), number=number) is error
    assert len(pauses) == 1
    assert at_least <= pauses[0] <= at_most
    assert not kit.is_due("finished")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_with_a_revoked_token_the_outcome_waits_unchanged(kit: LedgerKit, request_: str, status: int) -> None:
    finished(kit, RICH)
    error = deliver(kit, FakeApi(**{request_: [answer(status)]}))
    assert error is not None
    assert error.unauthorized
    assert_put_off(kit, RICH)


@pytest.mark.parametrize("odd", [{}, {"slug": ""}, {"slug": None}, {"slug": True}, {"url": "/s/x"}])
def test_an_upload_whose_answer_names_no_slug_is_repeated(kit: LedgerKit, odd: dict[str, Any]) -> None:
    finished(kit, RICH)
    api = FakeApi(upload=[odd])
    error = deliver(kit, api)
    assert error is not None
    assert not error.trouble, "the others go on at their pace"
    assert kit.record().parts == {}
    assert deliver(kit, api) is None
    assert kit.state() == "closed"


def test_the_record_of_a_failure_is_short(kit: LedgerKit) -> None:
    finished(kit, PLAIN)
    deliver(kit, FakeApi(close=[WorkerError("x" * 5000, status=500, retryable=True)]))
    assert len(kit.record().why) == 500


# -- never -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_a_refused_output_becomes_a_failure_with_the_servers_message(
    kit: LedgerKit, request_: str, status: int
) -> None:
    finished(kit, RICH)
    api = FakeApi(**{request_: [answer(status)]})
    error = deliver(kit, api)
    assert error is not None
    assert error.status == status
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert outcome.text.startswith(REFUSAL)
    assert f"{status}: the server's words" in outcome.text
    assert outcome.reviews == ()
    assert kit.is_due("finished")
    assert deliver(kit, api) is None
    (_, _, text, closed_as) = api.calls[-1]
    assert text.startswith(outcome.text)
    assert closed_as == "failed"
    assert kit.state() == "closed"


def test_a_refused_artifact_does_not_stop_the_others(kit: LedgerKit) -> None:
    finished(kit, RICH)
    api = FakeApi(upload=[answer(413)])
    assert deliver(kit, api) is not None
    assert deliver(kit, api) is None
    assert api.done == ["upload", "upload", "close"]
    assert api.calls[-1][2] == (
        "the server refused the artifact 'a.png' (POST /x -> 413: the server's words)\n\nmade it\n\n"
        "The server has these artifacts of the job:\n- b.txt: https://server.test/s/slug-b.txt"
    )


def test_an_output_that_is_too_long_beside_a_refused_artifact_is_replaced_too(kit: LedgerKit) -> None:
    finished(kit, RICH)
    api = FakeApi(upload=[answer(413)], close=[answer(413)])
    for _ in range(2):
        assert deliver(kit, api) is not None
    assert deliver(kit, api) is None
    assert api.done == ["upload", "upload", "close", "close"]
    assert api.calls[-1][2].startswith("the server refused the job's output (POST /x -> 413")


def test_artifacts_that_are_refused_together_are_reported_together(kit: LedgerKit) -> None:
    finished(kit, RICH)
    api = FakeApi(upload=[answer(413), answer(415)])
    assert deliver(kit, api) is not None
    assert deliver(kit, api) is None
    assert api.done == ["upload", "upload", "close"]
    assert "'a.png' (POST /x -> 413" in api.calls[-1][2]
    assert "'b.txt' (POST /x -> 415" in api.calls[-1][2]


def test_a_refused_review_takes_no_other_one_with_it_that_the_handler_had_filed_itself(kit: LedgerKit) -> None:
    titles = ("One", "Two", "Three")
    filed = tuple(ReviewItem("text", title, "c", promised=10**15 + n) for n, title in enumerate(titles))
    finished(kit, Outcome("done", f"filed {10**15} and {10**15 + 2}", reviews=filed), [])
    api = FakeApi(review=[{"id": 7}, answer(422), {"id": 9}])
    assert deliver(kit, api) is not None
    assert deliver(kit, api) is None
    assert [call[1] for call in api.calls if call[0] == "review"] == list(titles)
    assert api.calls[-1][2].endswith("filed 7 and 9")


def test_a_refused_review_does_not_lose_the_output(kit: LedgerKit) -> None:
    finished(kit, RICH)
    api = FakeApi(review=[answer(422)])
    assert deliver(kit, api) is not None
    assert deliver(kit, api) is None
    assert api.done == ["upload", "upload", "review", "close"]
    assert "the review 'Poster' (POST /x -> 422" in api.calls[-1][2]
    assert "made it" in api.calls[-1][2]


def test_a_refused_failure_is_replaced_too(kit: LedgerKit) -> None:
    finished(kit, Outcome.failed("a traceback that is too long"))
    api = FakeApi(close=[answer(413)])
    deliver(kit, api)
    assert deliver(kit, api) is None
    (_, _, text, status) = api.calls[-1]
    assert status == "failed"
    assert text.startswith(REFUSAL)


def test_a_refusal_that_is_refused_is_tried_again_and_not_replaced_for_ever(kit: LedgerKit) -> None:
    finished(kit, PLAIN)
    api = FakeApi(close=[answer(400), answer(400), answer(422)])
    deliver(kit, api)
    refusal = kit.outcome()
    for _ in range(2):
        assert deliver(kit, api) is not None
        assert_put_off(kit, refusal)
    assert deliver(kit, api) is None
    assert kit.state() == "closed"


def test_bytes_that_are_lost_become_a_failure_that_names_the_file(
    kit: LedgerKit, caplog: pytest.LogCaptureFixture
) -> None:
    finished(kit, RICH, blobs=[])
    api = FakeApi()
    assert deliver(kit, api) is None
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "a.png" in outcome.text
    gone = "artifact 0 is no longer in the ledger; artifact 1 is no longer in the ledger"
    assert outcome.reason == f"not delivered: {gone}"
    assert f"cannot be delivered: {gone}" in caplog.text
    assert "a.png" not in caplog.text
    assert kit.is_due("finished")
    assert deliver(kit, api) is None
    assert kit.state() == "closed"


@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("question", ["running", "pending", "claim"])
def test_a_refused_lookup_does_not_count_against_the_outcome(kit: LedgerKit, question: str, status: int) -> None:
    finished(kit, PLAIN)
    lists = {"pending": [[1]]} if question == "claim" else {}
    api = FakeApi(close=[answer(409)], **lists, **{question: [answer(status)]})
    assert deliver(kit, api) is not None
    assert_put_off(kit, PLAIN)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_server_without_lists_of_ended_jobs_does_not_prevent_a_close(kit: LedgerKit, status: int) -> None:
    finished(kit, PLAIN)
    api = FakeApi(close=[answer(409)], **{each: [answer(status)] for each in ("failed", "done", "escalated")})
    assert deliver(kit, api) is None
    assert kit.state() == "closed"


# -- no such job to close ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("number", [1, 2, UNHEARD_OF])
def test_a_job_that_the_server_put_back_is_claimed_again_and_closed(kit: LedgerKit, number: int, status: int) -> None:
    finished(kit, PLAIN)
    api = FakeApi(close=[answer(status)], pending=[[9, 1]])
    assert deliver(kit, api, number=number) is None
    assert api.made == ["close", "running", "pending", "claim", "close"]
    assert kit.record().how == "delivered"


@pytest.mark.parametrize(("claim", "close"), [([answer(409)], []), ([answer(None)], []), ([], [answer(503)])], ids=str)
def test_a_job_that_cannot_be_claimed_again_now_is_delivered_later(
    kit: LedgerKit, claim: list[Any], close: list[Any]
) -> None:
    finished(kit, PLAIN)
    api = FakeApi(close=[answer(409), *close], pending=[[1]], claim=claim)
    assert deliver(kit, api) is not None
    assert_put_off(kit, PLAIN)


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("number", [1, 2, UNHEARD_OF])
def test_a_conflict_over_a_job_listed_as_running_is_not_a_close(kit: LedgerKit, number: int, status: int) -> None:
    finished(kit, PLAIN)
    api = FakeApi(close=[answer(status)], running=[[1]])
    error = deliver(kit, api, number=number)
    assert error is not None
    assert (error.status, error.retryable, error.trouble) == (status, True, False)
    assert_put_off(kit, PLAIN)
    assert "the server lists the job as running" in kit.record().why


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("number", [1, 2, UNHEARD_OF])
@pytest.mark.parametrize("word", A_FEW_OVER, ids=short)
def test_a_job_that_ended_under_any_word_is_closed_at_once(kit: LedgerKit, word: str, number: int, status: int) -> None:
    finished(kit, PLAIN)
    api = FakeApi(close=[answer(status)], job=[{"id": 1, "status": word}])
    assert deliver(kit, api, number=number) is None
    assert kit.state() == "closed"
    assert kit.record().how == ("delivered" if number > 1 and word in DONE else "superseded")


@pytest.mark.parametrize("word", ["cancelled", "取消"], ids=short)
def test_nothing_of_a_job_that_ended_under_any_word_is_uploaded_or_filed(kit: LedgerKit, word: str) -> None:
    finished(kit, RICH)
    api = FakeApi(upload=[answer(503)], job=[{"id": 1, "status": word}])
    deliver(kit, api)
    assert deliver(kit, api) is None
    assert api.done == ["upload"]
    assert kit.record().how == "superseded"


@pytest.mark.parametrize("word", A_FEW_RUNNING, ids=short)
def test_a_conflict_over_a_job_running_in_any_spelling_is_not_a_close(kit: LedgerKit, word: str) -> None:
    finished(kit, PLAIN)
    assert deliver(kit, FakeApi(close=[answer(409)], job=[{"id": 1, "status": word}]), number=2) is not None
    assert_put_off(kit, PLAIN)


@pytest.mark.parametrize("word", A_FEW_PENDING, ids=short)
def test_a_job_that_is_pending_under_any_spelling_is_claimed_again_and_closed(kit: LedgerKit, word: str) -> None:
    finished(kit, PLAIN)
    api = FakeApi(close=[answer(409)], job=[{"id": 1, "status": word}])
    assert deliver(kit, api, number=2) is None
    assert api.done == ["close", "claim", "close"]


@pytest.mark.parametrize("word", A_FEW_NO_WORD, ids=short)
def test_an_unusable_status_does_not_explain_a_conflict(kit: LedgerKit, word: object) -> None:
    finished(kit, PLAIN)
    assert deliver(kit, FakeApi(close=[answer(409)], job=[{"id": 1, "status": word}]), number=2) is None
    assert kit.record().how == "delivered"


@pytest.mark.parametrize(
    ("refusal", "told", "number", "how"),
    [
        (409, None, 1, "superseded"),
        (409, None, 2, "delivered"),
        (409, "done", 1, "superseded"),
        (409, "done", 2, "delivered"),
        (409, "failed", 1, "superseded"),
        (409, "failed", 2, "superseded"),
        (409, "escalated", 2, "superseded"),
        (410, None, 1, "superseded"),
        (410, None, 2, "delivered"),
        (410, "failed", 2, "superseded"),
        (404, None, 1, "put off"),
        (404, None, UNHEARD_OF - 1, "put off"),
        (404, None, UNHEARD_OF, "delivered"),
        (404, "done", 1, "superseded"),
        (404, "done", 2, "delivered"),
        (404, "failed", 2, "superseded"),
    ],
)
@pytest.mark.parametrize("told_by", ["list", "job"])
def test_a_job_that_cannot_be_closed_was_closed_before_or_elsewhere(
    kit: LedgerKit, told_by: str, refusal: int, told: str | None, number: int, how: str
) -> None:
    finished(kit, PLAIN)
    answers: dict[str, Any] = {told: [[1]]} if told_by == "list" and told else {"job": [{"id": 1, "status": told}]}
    error = deliver(kit, FakeApi(close=[answer(refusal)], **answers), number=number)
    if how == "put off":
        assert error is not None
        assert error.status == refusal
        assert_put_off(kit, PLAIN)
    else:
        assert error is None
        assert kit.state() == "closed"
        assert kit.record().how == how


def test_a_close_by_something_else_is_logged(kit: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    finished(kit, PLAIN)
    deliver(kit, FakeApi(close=[answer(409)]))
    assert "superseded: the job was closed by something else, according to the server" in caplog.text


@pytest.mark.parametrize("status", [None, 500, 503])
@pytest.mark.parametrize("question", ["running", "pending", "job", "failed", "done"])
def test_a_conflict_that_the_lists_do_not_explain_is_checked_again_later(
    kit: LedgerKit, question: str, status: int | None
) -> None:
    finished(kit, PLAIN)
    assert deliver(kit, FakeApi(close=[answer(409)], **{question: [answer(status)]}), number=2) is not None
    assert_put_off(kit, PLAIN)


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("request_", ["upload", "review"])
def test_a_conflict_over_an_artifact_or_a_review_is_not_a_close(kit: LedgerKit, request_: str, status: int) -> None:
    finished(kit, RICH)
    api = FakeApi(**{request_: [answer(status)]})
    assert deliver(kit, api, number=2) is not None
    assert "close" not in api.made
    assert_put_off(kit, RICH)


# -- overtaken or aborted ----------------------------------------------------------------------------------


def abort(kit: LedgerKit) -> None:
    kit.ledger.abort(1, "operator")


def overtake(kit: LedgerKit) -> None:
    kit.collect()


def close(kit: LedgerKit) -> None:
    kit.close()


ENDS: dict[Callable[[LedgerKit], None], str] = {abort: "aborted", overtake: "finished", close: "closed"}
"""Events that take a job away from its delivery, with the job's state afterwards."""


@pytest.mark.parametrize(("request_", "made"), [("upload", 1), ("review", 3)])
@pytest.mark.parametrize("end", ENDS)
def test_a_delivery_that_loses_its_job_stops(
    kit: LedgerKit, end: Callable[[LedgerKit], None], request_: str, made: int
) -> None:
    finished(kit, RICH)

    def take_away() -> dict[str, Any]:
        end(kit)
        return {"slug": "x", "id": 1}

    api = FakeApi(**{request_: [take_away]})
    assert deliver(kit, api) is None
    assert len(api.calls) == made
    assert len(kit.record().parts) == (0 if end is abort else made - 1)  # nothing of an aborted job is delivered again
    assert kit.state() == ENDS[end]


@pytest.mark.parametrize("error", [answer(503), answer(413), answer(401)], ids=str)
@pytest.mark.parametrize("end", ENDS)
def test_a_delivery_that_lost_its_job_ignores_the_answer_to_its_close(
    kit: LedgerKit, end: Callable[[LedgerKit], None], error: WorkerError
) -> None:
    finished(kit, PLAIN)

    def take_away() -> dict[str, Any]:
        end(kit)
        raise error

    assert deliver(kit, FakeApi(close=[take_away])) is error
    assert kit.state() == ENDS[end]
    assert kit.record().why in ("", "operator")
    assert kit.record().outcome in (None, PLAIN)
    assert kit.ledger.due("finished") == []


def test_lost_bytes_of_an_overtaken_delivery_replace_nothing(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(kit, RICH)
    taken = delivery_request(kit)

    def no_blob(job_id: int, index: int) -> None:
        overtake(kit)

    monkeypatch.setattr(kit.ledger, "blob", no_blob)
    assert Delivery(FakeApi(), kit.ledger).deliver(taken) is None  # type: ignore[arg-type]
    assert kit.record().outcome == RICH


# -- frozen for a while ------------------------------------------------------------------------------------


def set_time(monkeypatch: pytest.MonkeyPatch, time: Callable[[], float]) -> None:
    """Set the clock of the delivery."""
    monkeypatch.setattr("mr_celery.delivery.deliver.time", SimpleNamespace(monotonic=time))


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeze this process for a whole lease between any two of its steps."""
    set_time(monkeypatch, partial(next, count(step=DELIVERY_LEASE)))


@pytest.fixture
def renewals(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """The seconds and the result of each renewal."""
    made: list[tuple[float, bool]] = []
    renew_delivery = kit.ledger.renew_delivery

    def noted(delivery: DeliveryKey, *, lease: float) -> bool:
        made.append((lease, renew_delivery(delivery, lease=lease)))
        return made[-1][1]

    monkeypatch.setattr(kit.ledger, "renew_delivery", noted)
    return made


def test_a_delivery_at_its_usual_pace_renews_nothing(
    kit: LedgerKit, renewals: list[tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    set_time(monkeypatch, clock)
    finished(kit, RICH)

    def slow() -> dict[str, Any]:
        clock.advance(DELIVERY_LEASE)
        return {"slug": "x"}

    assert deliver(kit, FakeApi(upload=[slow, slow], review=[slow, slow], close=[slow])) is None
    assert renewals == []  # each part that it wrote down was one


@pytest.mark.parametrize("seconds", [DELIVERY_LEASE, 6.0])
@pytest.mark.usefixtures("frozen")
def test_a_frozen_delivery_continues_if_its_job_was_not_taken(
    kit: LedgerKit, renewals: list[tuple[float, bool]], seconds: float
) -> None:
    finished(kit, RICH)
    api = FakeApi()
    assert Delivery(api, kit.ledger, lease=seconds).deliver(delivery_request(kit)) is None  # type: ignore[arg-type]
    assert api.made == ["upload", "upload", "review", "review", "close"]
    assert renewals == [(seconds, True)] * 7  # before each part, and while bytes are read
    assert kit.state() == "closed"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.usefixtures("frozen")
def test_a_frozen_delivery_stops_if_its_job_was_taken(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch, end: Callable[[LedgerKit], None]
) -> None:
    finished(kit, RICH)
    delivered_part = kit.ledger.delivered_part

    def write_and_freeze(*args: Any, **kwargs: Any) -> bool:
        written = delivered_part(*args, **kwargs)
        end(kit)
        return written

    monkeypatch.setattr(kit.ledger, "delivered_part", write_and_freeze)
    api = FakeApi()
    assert deliver(kit, api) is None
    assert api.made == ["upload"]
    assert kit.state() == ENDS[end]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.usefixtures("frozen")
def test_a_delivery_that_was_frozen_before_its_close_does_not_close(
    kit: LedgerKit, renewals: list[tuple[float, bool]], end: Callable[[LedgerKit], None]
) -> None:
    finished(kit, PLAIN)
    taken = delivery_request(kit)
    end(kit)
    api = FakeApi()
    assert Delivery(api, kit.ledger).deliver(taken) is None  # type: ignore[arg-type]
    assert (api.calls, renewals) == ([], [(DELIVERY_LEASE, False)])
    assert kit.state() == ENDS[end]


# -- an unreachable ledger ---------------------------------------------------------------------------------


def test_a_step_that_cannot_be_recorded_is_repeated_by_the_courier(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(kit, RICH)

    def away(*args: Any, **kwargs: Any) -> bool:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(kit.ledger, "delivered_part", away)
    with pytest.raises(LedgerUnavailable):
        deliver(kit, FakeApi())
    assert kit.state() == "finished"
    assert kit.collect() == DeliveryKey(1, run.task_id, 2)
