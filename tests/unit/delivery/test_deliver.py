"""An outcome on its way to the server, with every answer that the server may give."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery.client import Listing
from mr_celery.delivery import Consignment, Delivery
from mr_celery.delivery.deliver import NOT_RUNNING, REFUSAL, UNHEARD_OF
from mr_celery.delivery.hold import HOLD_SECONDS
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import DeliveryKey, RunKey
from mr_celery.outcome import Outcome, ReviewItem, Upload
from support.ledgers import Books, Clock, fake_books

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


class FakeApi:
    """A server that notes what it is asked, and answers or fails as the test says.

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

    def jobs(self, status: str) -> Listing:
        return Listing(tuple({"id": job_id} for job_id in self._answer((status,), [])))

    def job(self, job_id: int) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = self._answer(("job", job_id), None)
        return answer

    @property
    def made(self) -> list[str]:
        """The names of the requests, in order; a question for a list is named by its status."""
        return [call[0] for call in self.calls]

    @property
    def done(self) -> list[str]:
        """The names of the requests that are no questions, in order."""
        return [name for name in self.made if name in ("upload", "review", "claim", "close")]


def answer(status: int | None, **fields: Any) -> WorkerError:
    """What a request with that answer raises; ``None``: a time-out."""
    if status is None:
        return WorkerError("POST /x -> network: timed out", retryable=True)
    retryable = status in (408, 425, 429) or status >= 500
    return WorkerError(f"POST /x -> {status}: the server's words", status=status, retryable=retryable, **fields)


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


def finished(books: Books, outcome: Outcome, blobs: list[bytes] = BLOBS) -> RunKey:
    """Job 1 with an outcome that is due."""
    run = books.bring("running")
    assert books.ledger.finish(run, outcome, blobs=blobs, deliver_seconds=0) == "finished"
    return run


def consignment(books: Books, *, number: int | None = None) -> Consignment:
    """What a courier that takes job 1 has to deliver: with a ``number``, after as many takings."""
    key = books.collect()
    while number is not None and key.number < number:
        key = books.collect()
    assert number in (None, key.number)
    record = books.record()
    assert record.outcome is not None
    return Consignment(key, record.outcome, parts=record.parts)


def deliver(books: Books, api: FakeApi, *, number: int | None = None) -> WorkerError | None:
    """A courier takes job 1 and delivers it. Returns what put it off."""
    return Delivery(api, books.ledger).deliver(consignment(books, number=number))  # type: ignore[arg-type]


def assert_put_off(books: Books, outcome: Outcome) -> None:
    """Job 1 waits for its next delivery, with its outcome as it was."""
    assert books.state() == "finished"
    assert books.record().outcome == outcome
    assert not books.is_due("finished")


# -- delivered ---------------------------------------------------------------------------------------------


def test_artifacts_come_before_reviews_and_the_close_is_last(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi()
    assert deliver(books, api) is None
    assert api.calls == [
        ("upload", "a.png", b"png", 1, None),
        ("upload", "b.txt", b"log", 1, "2030-01-01T00:00:00Z"),
        ("review", "Poster", "https://server.test/s/slug-a.png", "marketing", 1),
        ("review", "Log", "https://elsewhere.test/x", None, 1),
        ("close", 1, "made it", "done"),
    ]
    assert books.state() == "closed"
    assert books.record().how == "delivered"


@pytest.mark.parametrize("status", ["done", "failed", "escalated"])
def test_a_job_is_closed_with_its_own_status(books: Books, status: Any) -> None:
    finished(books, Outcome(status, "text"))
    api = FakeApi()
    assert deliver(books, api) is None
    assert api.calls == [("close", 1, "text", status)]


def test_each_part_has_a_key_of_its_own_that_stays_the_same(books: Books) -> None:
    task_id = finished(books, RICH).task_id
    api = FakeApi(upload=[answer(503)])
    deliver(books, api)
    deliver(books, api)
    expected = [f"{task_id}-{part}" for part in ("artifact-0", "artifact-1", "review-0", "review-1")]
    assert api.keys == [expected[0], *expected]


def test_what_was_uploaded_before_the_outcome_was_recorded_is_not_uploaded_again(books: Books) -> None:
    shipped = Upload("video/mp4", "large.mp4", 10**9, slug="early", url="/s/early")
    finished(books, Outcome("done", "x", (shipped,), (ReviewItem("v", "T", "", preview_upload=0),)), [b""])
    api = FakeApi()
    assert deliver(books, api) is None
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
def test_a_preview_is_an_absolute_address(books: Books, url: object, preview: str) -> None:
    finished(books, Outcome("done", "x", (PICTURE,), (ReviewItem("i", "T", "", preview_upload=0),)))
    api = FakeApi(upload=[{"slug": "abc", "url": url}])
    deliver(books, api)
    assert api.calls[1][2] == preview


# -- from where the last one stopped -----------------------------------------------------------------------

ASKED_FIRST = ["running", "pending", "job", "failed", "done", "escalated"]
"""The questions for a job's status, where nothing tells it."""


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
def test_a_delivery_goes_on_where_the_last_one_stopped(
    books: Books, fails: dict[str, list[Any]], first: int, second: list[str]
) -> None:
    finished(books, RICH)
    api = FakeApi(**fails)
    error = deliver(books, api)
    assert error is not None
    assert error.status == 503
    assert len(api.calls) == first
    assert_put_off(books, RICH)
    assert deliver(books, api) is None
    assert api.made[first:] == second
    assert books.state() == "closed"


def test_a_review_of_a_later_try_shows_the_artifact_of_an_earlier_one(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[{"slug": "early", "url": "/s/early"}], review=[answer(None)])
    deliver(books, api)
    assert json.loads(books.record().parts["artifact:0"]) == {"slug": "early", "url": "/s/early"}
    deliver(books, api)
    assert [call[2] for call in api.calls if call[1:2] == ("Poster",)] == ["https://server.test/s/early"] * 2


def test_each_part_that_is_delivered_prolongs_the_hold(books: Books) -> None:
    finished(books, RICH)
    due: list[bool] = []

    def look() -> dict[str, Any]:
        due.append(books.is_due("finished"))
        books.make_due("finished")
        return {"slug": "x"}

    deliver(books, FakeApi(upload=[look, look], review=[look, look], close=[look]))
    assert due == [False, False, False, False, False]


# -- a job that waited with parts of its outcome --------------------------------------------------------------


def test_a_first_delivery_asks_for_nothing(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi()
    deliver(books, api)
    assert api.made == api.done


@pytest.mark.parametrize(
    ("status", "how"), [("failed", "superseded"), ("escalated", "superseded"), ("done", "delivered")]
)
@pytest.mark.parametrize("told_by", ["list", "job"])
def test_nothing_of_a_job_that_is_over_is_uploaded_or_filed(books: Books, told_by: str, status: str, how: str) -> None:
    finished(books, RICH)
    told: dict[str, Any] = {status: [[1]]} if told_by == "list" else {"job": [{"id": 1, "status": status}]}
    api = FakeApi(upload=[answer(503)], **told)
    deliver(books, api)
    assert deliver(books, api) is None
    assert api.done == ["upload"]
    assert books.state() == "closed"
    assert books.record().how == how


@pytest.mark.parametrize("told", [{"running": [[9, 1]]}, {"pending": [[9, 1]]}, {"job": [{"status": "paused"}]}])
def test_a_job_that_is_not_over_is_delivered_further(books: Books, told: dict[str, list[Any]]) -> None:
    finished(books, RICH)
    api = FakeApi(review=[answer(503)], **told)
    deliver(books, api)
    assert deliver(books, api) is None
    assert api.done == ["upload", "upload", "review", "review", "review", "close"]


@pytest.mark.parametrize("status", [None, 401, 429, 500, 503])
@pytest.mark.parametrize("question", ["running", "pending", "job"])
def test_a_job_whose_status_cannot_be_asked_for_waits(books: Books, question: str, status: int | None) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[answer(503)], **{question: [answer(status)]})
    deliver(books, api)
    error = deliver(books, api)
    assert error is not None
    assert error.status == status
    assert api.done == ["upload"]
    assert_put_off(books, RICH)


def test_what_needs_nothing_but_its_close_is_closed_without_a_question(books: Books) -> None:
    shipped = Upload("video/mp4", "large.mp4", 10**9, slug="early", url="/s/early")
    finished(books, Outcome("done", "x", (shipped,)), [b""])
    api = FakeApi(close=[answer(503)])
    deliver(books, api)
    deliver(books, api)
    assert api.made == ["close", "close"]


# -- not now -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [None, 404, 408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_a_server_in_trouble_gets_the_outcome_later(books: Books, request_: str, status: int | None) -> None:
    finished(books, RICH)
    error = deliver(books, FakeApi(**{request_: [answer(status)]}))
    assert error is not None
    assert error.status == status
    assert_put_off(books, RICH)
    assert "POST /x" in books.record().why


@pytest.mark.parametrize(
    ("number", "error", "at_least", "at_most"),
    [
        (1, answer(503), 0.2, 0.5),
        (2, answer(503), 0.5, 1.0),
        (4, answer(None), 2.0, 4.0),
        (30, answer(503), 7.5, 15.0),
        (1, answer(503, retry_after=120.0), 120.0, 120.0),
        (30, answer(429, retry_after=0.0), 7.5, 15.0),
        (1, answer(401), 5.0, 5.0),
        (1, answer(403), 5.0, 5.0),
        (30, answer(403), 7.5, 15.0),
    ],
)
def test_the_pause_grows_with_each_try_and_is_never_shorter_than_the_server_asks(
    books: Books, monkeypatch: pytest.MonkeyPatch, number: int, error: WorkerError, at_least: float, at_most: float
) -> None:
    finished(books, PLAIN)
    pauses: list[float] = []
    undelivered = books.ledger.undelivered

    def noted(delivery: DeliveryKey, why: str, *, wait_seconds: float, error: str) -> bool:
        pauses.append(wait_seconds)
        return undelivered(delivery, why, wait_seconds=wait_seconds, error=error)

    monkeypatch.setattr(books.ledger, "undelivered", noted)
    assert deliver(books, FakeApi(close=[error]), number=number) is error
    assert len(pauses) == 1
    assert at_least <= pauses[0] <= at_most
    assert not books.is_due("finished")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_with_a_revoked_token_the_outcome_waits_unchanged(books: Books, request_: str, status: int) -> None:
    finished(books, RICH)
    error = deliver(books, FakeApi(**{request_: [answer(status)]}))
    assert error is not None
    assert error.unauthorized
    assert_put_off(books, RICH)


@pytest.mark.parametrize("odd", [{}, {"slug": ""}, {"slug": None}, {"slug": 7}, {"url": "/s/x"}])
def test_an_upload_whose_answer_names_no_slug_is_repeated(books: Books, odd: dict[str, Any]) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[odd])
    error = deliver(books, api)
    assert error is not None
    assert error.retryable
    assert books.record().parts == {}
    assert deliver(books, api) is None
    assert books.state() == "closed"


def test_the_record_of_a_failure_is_short(books: Books) -> None:
    finished(books, PLAIN)
    deliver(books, FakeApi(close=[WorkerError("x" * 5000, status=500, retryable=True)]))
    assert len(books.record().why) == 500


# -- never -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_what_the_server_will_never_take_becomes_a_failure_in_its_words(
    books: Books, request_: str, status: int
) -> None:
    finished(books, RICH)
    api = FakeApi(**{request_: [answer(status)]})
    error = deliver(books, api)
    assert error is not None
    assert error.status == status
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert outcome.text.startswith(REFUSAL)
    assert f"{status}: the server's words" in outcome.text
    assert outcome.reviews == ()
    assert books.is_due("finished")
    assert deliver(books, api) is None
    (_, _, text, closed_as) = api.calls[-1]
    assert text.startswith(outcome.text)
    assert closed_as == "failed"
    assert books.state() == "closed"


def test_a_refused_artifact_keeps_none_of_the_others_from_the_server(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[answer(413)])
    assert deliver(books, api) is not None
    assert deliver(books, api) is None
    assert api.done == ["upload", "upload", "close"]
    assert api.calls[-1][2] == (
        "the server refused the artifact 'a.png' (POST /x -> 413: the server's words)\n\nmade it\n\n"
        "The server has these artifacts of the job:\n- b.txt: https://server.test/s/slug-b.txt"
    )


def test_an_output_that_is_too_long_beside_a_refused_artifact_is_replaced_too(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[answer(413)], close=[answer(413)])
    for _ in range(2):
        assert deliver(books, api) is not None
    assert deliver(books, api) is None
    assert api.done == ["upload", "upload", "close", "close"]
    assert api.calls[-1][2].startswith("the server refused the job's output (POST /x -> 413")


def test_artifacts_that_are_refused_together_are_told_together(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[answer(413), answer(415)])
    assert deliver(books, api) is not None
    assert deliver(books, api) is None
    assert api.done == ["upload", "upload", "close"]
    assert "'a.png' (POST /x -> 413" in api.calls[-1][2]
    assert "'b.txt' (POST /x -> 415" in api.calls[-1][2]


def test_a_refused_review_takes_no_other_one_with_it_that_the_handler_had_filed_itself(books: Books) -> None:
    titles = ("One", "Two", "Three")
    filed = tuple(ReviewItem("text", title, "c", promised=10**15 + n) for n, title in enumerate(titles))
    finished(books, Outcome("done", f"filed {10**15} and {10**15 + 2}", reviews=filed), [])
    api = FakeApi(review=[{"id": 7}, answer(422), {"id": 9}])
    assert deliver(books, api) is not None
    assert deliver(books, api) is None
    assert [call[1] for call in api.calls if call[0] == "review"] == list(titles)
    assert api.calls[-1][2].endswith("filed 7 and 9")


def test_a_refused_review_does_not_lose_what_the_handler_said(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(review=[answer(422)])
    assert deliver(books, api) is not None
    assert deliver(books, api) is None
    assert api.done == ["upload", "upload", "review", "close"]
    assert "the review 'Poster' (POST /x -> 422" in api.calls[-1][2]
    assert "made it" in api.calls[-1][2]


def test_a_failure_that_the_server_will_not_take_is_replaced_too(books: Books) -> None:
    finished(books, Outcome.failed("a traceback that is too long"))
    api = FakeApi(close=[answer(413)])
    deliver(books, api)
    assert deliver(books, api) is None
    (_, _, text, status) = api.calls[-1]
    assert status == "failed"
    assert text.startswith(REFUSAL)


def test_a_refusal_that_is_refused_is_tried_again_and_not_replaced_for_ever(books: Books) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(400), answer(400), answer(422)])
    deliver(books, api)
    refusal = books.record().outcome
    assert refusal is not None
    for _ in range(2):
        assert deliver(books, api) is not None
        assert_put_off(books, refusal)
    assert deliver(books, api) is None
    assert books.state() == "closed"


def test_bytes_that_are_lost_become_a_failure_that_names_the_file(books: Books) -> None:
    finished(books, RICH, blobs=[])
    api = FakeApi()
    assert deliver(books, api) is None
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "a.png" in outcome.text
    assert books.is_due("finished")
    assert deliver(books, api) is None
    assert books.state() == "closed"


@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("question", ["running", "pending", "claim"])
def test_a_question_that_the_server_refuses_says_nothing_of_what_the_job_made(
    books: Books, question: str, status: int
) -> None:
    finished(books, PLAIN)
    lists = {"pending": [[1]]} if question == "claim" else {}
    api = FakeApi(close=[answer(409)], **lists, **{question: [answer(status)]})
    assert deliver(books, api) is not None
    assert_put_off(books, PLAIN)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_server_that_lists_no_jobs_that_are_over_does_not_keep_a_job_from_its_end(books: Books, status: int) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(409)], **{each: [answer(status)] for each in ("failed", "done", "escalated")})
    assert deliver(books, api) is None
    assert books.state() == "closed"


# -- no such job to close ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("number", [1, 2, UNHEARD_OF])
def test_a_job_that_the_server_put_back_is_claimed_again_and_closed(books: Books, number: int, status: int) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(status)], pending=[[9, 1]])
    assert deliver(books, api, number=number) is None
    assert api.made == ["close", "running", "pending", "claim", "close"]
    assert books.record().how == "delivered"


@pytest.mark.parametrize(("claim", "close"), [([answer(409)], []), ([answer(None)], []), ([], [answer(503)])], ids=str)
def test_a_job_that_cannot_be_claimed_again_now_is_delivered_later(
    books: Books, claim: list[Any], close: list[Any]
) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(409), *close], pending=[[1]], claim=claim)
    assert deliver(books, api) is not None
    assert_put_off(books, PLAIN)


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("number", [1, 2, UNHEARD_OF])
def test_a_conflict_over_a_job_that_is_listed_as_running_is_no_close(books: Books, number: int, status: int) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(status)], running=[[1]])
    error = deliver(books, api, number=number)
    assert error is not None
    assert (error.status, error.retryable, error.trouble) == (status, True, False)
    assert_put_off(books, PLAIN)
    assert "the server says that the job is running" in books.record().why


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("number", [1, 2, UNHEARD_OF])
def test_a_job_in_a_state_that_we_do_not_know_is_not_over(books: Books, number: int, status: int) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(status)], job=[{"id": 1, "status": "paused"}])
    error = deliver(books, api, number=number)
    assert error is not None
    assert (error.status, error.retryable, error.trouble) == (status, True, False)
    assert_put_off(books, PLAIN)
    assert "the server says that the job is paused" in books.record().why


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
def test_a_job_that_cannot_be_closed_was_closed_before_or_by_somebody_else(
    books: Books, told_by: str, refusal: int, told: str | None, number: int, how: str
) -> None:
    finished(books, PLAIN)
    answers: dict[str, Any] = {told: [[1]]} if told_by == "list" and told else {"job": [{"id": 1, "status": told}]}
    error = deliver(books, FakeApi(close=[answer(refusal)], **answers), number=number)
    if how == "put off":
        assert error is not None
        assert error.status == refusal
        assert_put_off(books, PLAIN)
    else:
        assert error is None
        assert books.state() == "closed"
        assert books.record().how == how


def test_that_somebody_else_closed_a_job_is_logged(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    finished(books, PLAIN)
    deliver(books, FakeApi(close=[answer(409)]))
    assert "superseded: the server says it was closed by somebody else" in caplog.text


@pytest.mark.parametrize("status", [None, 500, 503])
@pytest.mark.parametrize("question", ["running", "pending", "job", "failed", "done"])
def test_a_conflict_that_the_lists_do_not_explain_yet_is_looked_at_later(
    books: Books, question: str, status: int | None
) -> None:
    finished(books, PLAIN)
    assert deliver(books, FakeApi(close=[answer(409)], **{question: [answer(status)]}), number=2) is not None
    assert_put_off(books, PLAIN)


@pytest.mark.parametrize("status", NOT_RUNNING)
@pytest.mark.parametrize("request_", ["upload", "review"])
def test_a_conflict_over_an_artifact_or_a_review_is_no_close(books: Books, request_: str, status: int) -> None:
    finished(books, RICH)
    api = FakeApi(**{request_: [answer(status)]})
    assert deliver(books, api, number=2) is not None
    assert "close" not in api.made
    assert_put_off(books, RICH)


# -- overtaken or aborted ----------------------------------------------------------------------------------


def abort(books: Books) -> None:
    books.ledger.abort(1, "operator")


def overtake(books: Books) -> None:
    books.collect()


def close(books: Books) -> None:
    books.close()


ENDS: dict[Callable[[Books], None], str] = {abort: "aborted", overtake: "finished", close: "closed"}
"""What takes a job away from who delivers it, with the state that the job is in then."""


@pytest.mark.parametrize(("request_", "made"), [("upload", 1), ("review", 3)])
@pytest.mark.parametrize("end", ENDS)
def test_a_job_that_is_taken_away_in_between_is_not_delivered_further(
    books: Books, end: Callable[[Books], None], request_: str, made: int
) -> None:
    finished(books, RICH)

    def take_away() -> dict[str, Any]:
        end(books)
        return {"slug": "x", "id": 1}

    api = FakeApi(**{request_: [take_away]})
    assert deliver(books, api) is None
    assert len(api.calls) == made
    assert len(books.record().parts) == made - 1
    assert books.state() == ENDS[end]


@pytest.mark.parametrize("error", [answer(503), answer(413), answer(401)], ids=str)
@pytest.mark.parametrize("end", ENDS)
def test_a_job_that_is_taken_away_stays_so_whatever_its_close_answers(
    books: Books, end: Callable[[Books], None], error: WorkerError
) -> None:
    finished(books, PLAIN)

    def take_away() -> dict[str, Any]:
        end(books)
        raise error

    assert deliver(books, FakeApi(close=[take_away])) is error
    assert books.state() == ENDS[end]
    assert books.record().why in ("", "operator")
    assert books.record().outcome in (None, PLAIN)
    assert books.ledger.due("finished") == []


def test_bytes_that_are_lost_for_who_was_overtaken_replace_nothing(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(books, RICH)
    taken = consignment(books)

    def no_blob(job_id: int, index: int) -> None:
        overtake(books)

    monkeypatch.setattr(books.ledger, "blob", no_blob)
    assert Delivery(FakeApi(), books.ledger).deliver(taken) is None  # type: ignore[arg-type]
    assert books.record().outcome == RICH


# -- frozen for a while ------------------------------------------------------------------------------------


def set_time(monkeypatch: pytest.MonkeyPatch, time: Callable[[], float]) -> None:
    """Let the delivery see another time."""
    monkeypatch.setattr("mr_celery.delivery.hold.time", SimpleNamespace(monotonic=time))


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two of its steps this process is frozen for as long as a hold."""
    set_time(monkeypatch, partial(next, count(step=HOLD_SECONDS)))


@pytest.fixture
def carried(books: Books, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """For how long each prolongation asked, and the ledger's answer."""
    made: list[tuple[float, bool]] = []
    carry = books.ledger.carry

    def noted(delivery: DeliveryKey, *, hold_seconds: float) -> bool:
        made.append((hold_seconds, carry(delivery, hold_seconds=hold_seconds)))
        return made[-1][1]

    monkeypatch.setattr(books.ledger, "carry", noted)
    return made


def test_a_delivery_in_its_usual_pace_asks_for_no_prolongation(
    books: Books, carried: list[tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    set_time(monkeypatch, clock)
    finished(books, RICH)

    def slow() -> dict[str, Any]:
        clock.advance(HOLD_SECONDS)
        return {"slug": "x"}

    assert deliver(books, FakeApi(upload=[slow, slow], review=[slow, slow], close=[slow])) is None
    assert carried == []  # each part that it wrote down was one


@pytest.mark.parametrize("seconds", [HOLD_SECONDS, 6.0])
@pytest.mark.usefixtures("frozen")
def test_a_delivery_that_was_frozen_goes_on_if_nobody_took_its_job(
    books: Books, carried: list[tuple[float, bool]], seconds: float
) -> None:
    finished(books, RICH)
    api = FakeApi()
    assert Delivery(api, books.ledger, hold_seconds=seconds).deliver(consignment(books)) is None  # type: ignore[arg-type]
    assert api.made == ["upload", "upload", "review", "review", "close"]
    assert carried == [(seconds, True)] * 7  # before each part, and while bytes are read
    assert books.state() == "closed"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.usefixtures("frozen")
def test_a_delivery_that_was_frozen_does_nothing_more_if_its_job_was_taken_away(
    books: Books, monkeypatch: pytest.MonkeyPatch, end: Callable[[Books], None]
) -> None:
    finished(books, RICH)
    delivered_part = books.ledger.delivered_part

    def write_and_freeze(*args: Any, **kwargs: Any) -> bool:
        written = delivered_part(*args, **kwargs)
        end(books)
        return written

    monkeypatch.setattr(books.ledger, "delivered_part", write_and_freeze)
    api = FakeApi()
    assert deliver(books, api) is None
    assert api.made == ["upload"]
    assert books.state() == ENDS[end]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.usefixtures("frozen")
def test_a_delivery_that_was_frozen_before_its_close_does_not_close(
    books: Books, carried: list[tuple[float, bool]], end: Callable[[Books], None]
) -> None:
    finished(books, PLAIN)
    taken = consignment(books)
    end(books)
    api = FakeApi()
    assert Delivery(api, books.ledger).deliver(taken) is None  # type: ignore[arg-type]
    assert (api.calls, carried) == ([], [(HOLD_SECONDS, False)])
    assert books.state() == ENDS[end]


# -- the ledger away ---------------------------------------------------------------------------------------


def test_a_step_that_cannot_be_written_down_is_the_couriers_to_repeat(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(books, RICH)

    def away(*args: Any, **kwargs: Any) -> bool:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(books.ledger, "delivered_part", away)
    with pytest.raises(LedgerUnavailable):
        deliver(books, FakeApi())
    assert books.state() == "finished"
    assert books.collect() == DeliveryKey(1, run.task_id, 2)
