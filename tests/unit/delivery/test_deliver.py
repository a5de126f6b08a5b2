"""An outcome on its way to the server, with every answer that the server may give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mr_celery.delivery import Consignment, Delivery
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import RunKey
from mr_celery.outcome import Outcome, ReviewItem, Upload
from support.ledgers import LATER, Books, fake_books

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

    def jobs(self, status: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._answer((status,), [])
        return answer

    @property
    def made(self) -> list[str]:
        """The names of the requests, in order."""
        return [call[0] for call in self.calls]


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


def deliver(books: Books, api: FakeApi, *, tries: int = 1) -> bool:
    """Deliver what the ledger has of job 1, as the courier does."""
    record = books.record()
    assert record.outcome is not None
    consignment = Consignment(
        1, record.outcome, lambda index: books.ledger.blob(1, index), parts=record.parts, tries=tries
    )
    return Delivery(api, books.ledger).deliver(consignment)  # type: ignore[arg-type]


# -- delivered ---------------------------------------------------------------------------------------------


def test_artifacts_come_before_reviews_and_the_close_is_last(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi()
    assert deliver(books, api)
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
    assert deliver(books, api)
    assert api.calls == [("close", 1, "text", status)]


def test_each_part_has_a_key_of_its_own_that_stays_the_same(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[answer(503)])
    deliver(books, api)
    deliver(books, api)
    expected = ["job-1-artifact:0", "job-1-artifact:1", "job-1-review:0", "job-1-review:1"]
    assert api.keys == ["job-1-artifact:0", *expected]


def test_what_was_uploaded_before_the_outcome_was_recorded_is_not_uploaded_again(books: Books) -> None:
    shipped = Upload("video/mp4", "large.mp4", 10**9, slug="early", url="/s/early")
    finished(books, Outcome("done", "x", (shipped,), (ReviewItem("v", "T", "", preview_upload=0),)), [b""])
    api = FakeApi()
    assert deliver(books, api)
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


@pytest.mark.parametrize(
    ("fails", "first", "second"),
    [
        ({"upload": [answer(503)]}, 1, ["upload", "upload", "review", "review", "close"]),
        ({"upload": [{"slug": "a"}, answer(503)]}, 2, ["upload", "review", "review", "close"]),
        ({"review": [answer(503)]}, 3, ["review", "review", "close"]),
        ({"review": [{"id": 1}, answer(503)]}, 4, ["review", "close"]),
        ({"close": [answer(503)]}, 5, ["close"]),
    ],
)
def test_a_delivery_goes_on_where_the_last_one_stopped(
    books: Books, fails: dict[str, list[Any]], first: int, second: list[str]
) -> None:
    finished(books, RICH)
    api = FakeApi(**fails)
    assert not deliver(books, api)
    assert len(api.calls) == first
    assert books.state() == "finished"
    assert deliver(books, api, tries=2)
    assert api.made[first:] == second
    assert books.state() == "closed"


def test_a_review_of_a_later_try_shows_the_artifact_of_an_earlier_one(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[{"slug": "early", "url": "/s/early"}], review=[answer(None)])
    deliver(books, api)
    assert json.loads(books.record().parts["artifact:0"]) == {"slug": "early", "url": "/s/early"}
    deliver(books, api, tries=2)
    assert [call[2] for call in api.calls if call[1] == "Poster"] == ["https://server.test/s/early"] * 2


def test_each_part_that_is_delivered_prolongs_the_hold(books: Books) -> None:
    finished(books, RICH)
    due: list[bool] = []

    def look() -> dict[str, Any]:
        due.append(books.is_due("finished"))
        books.make_due("finished")
        return {"slug": "x"}

    deliver(books, FakeApi(upload=[look, look], review=[look, look], close=[look]))
    assert due == [True, False, False, False, False]


# -- not now -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [None, 404, 408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_a_server_in_trouble_gets_the_outcome_later(books: Books, request_: str, status: int | None) -> None:
    finished(books, RICH)
    assert not deliver(books, FakeApi(**{request_: [answer(status)]}))
    assert books.state() == "finished"
    assert books.record().outcome == RICH
    assert not books.is_due("finished")
    assert "POST /x" in books.record().why


@pytest.mark.parametrize(
    ("tries", "error", "at_least", "at_most"),
    [
        (1, answer(503), 0.2, 0.5),
        (2, answer(503), 0.5, 1.0),
        (4, answer(None), 2.0, 4.0),
        (30, answer(503), 7.5, 15.0),
        (1, answer(503, retry_after=120.0), 119.0, 120.0),
        (30, answer(429, retry_after=0.0), 7.5, 15.0),
        (1, answer(401), 15.0, 15.0),
        (1, answer(403), 15.0, 15.0),
    ],
)
def test_the_pause_grows_with_each_try_and_is_never_shorter_than_the_server_asks(
    books: Books, monkeypatch: pytest.MonkeyPatch, tries: int, error: WorkerError, at_least: float, at_most: float
) -> None:
    finished(books, PLAIN)
    pauses: list[float] = []
    undelivered = books.ledger.undelivered

    def noted(job_id: int, why: str, *, wait_seconds: float) -> bool:
        pauses.append(wait_seconds)
        return undelivered(job_id, why, wait_seconds=wait_seconds)

    monkeypatch.setattr(books.ledger, "undelivered", noted)
    deliver(books, FakeApi(close=[error]), tries=tries)
    assert len(pauses) == 1
    assert at_least <= pauses[0] <= at_most
    assert not books.is_due("finished")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("request_", ["upload", "review", "close"])
def test_with_a_revoked_token_the_outcome_waits_unchanged(books: Books, request_: str, status: int) -> None:
    finished(books, RICH)
    assert not deliver(books, FakeApi(**{request_: [answer(status)]}))
    assert books.state() == "finished"
    assert books.record().outcome == RICH


@pytest.mark.parametrize("odd", [{}, {"slug": ""}, {"slug": None}, {"slug": 7}, {"url": "/s/x"}])
def test_an_upload_whose_answer_names_no_slug_is_repeated(books: Books, odd: dict[str, Any]) -> None:
    finished(books, RICH)
    api = FakeApi(upload=[odd])
    assert not deliver(books, api)
    assert books.record().parts == {}
    assert deliver(books, api, tries=2)


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
    assert not deliver(books, api)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert f"{status}: the server's words" in outcome.text
    assert (outcome.uploads, outcome.reviews) == ((), ())
    assert books.is_due("finished")
    assert deliver(books, api, tries=2)
    assert api.calls[-1] == ("close", 1, outcome.text, "failed")
    assert books.state() == "closed"


def test_a_refused_failure_is_tried_again_and_not_replaced_for_ever(books: Books) -> None:
    failure = Outcome.failed("why")
    finished(books, failure)
    assert not deliver(books, FakeApi(close=[answer(400)]))
    assert books.record().outcome == failure
    assert not books.is_due("finished")


def test_bytes_that_are_lost_become_a_failure_that_names_the_file(books: Books) -> None:
    finished(books, RICH, blobs=[])
    api = FakeApi()
    assert not deliver(books, api)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "a.png" in outcome.text
    assert deliver(books, api, tries=2)


# -- 409 on close ------------------------------------------------------------------------------------------


def test_a_job_that_the_server_put_back_is_claimed_again_and_closed(books: Books) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(409)], pending=[[{"id": 9}, {"id": 1}]])
    assert deliver(books, api)
    assert api.made == ["close", "pending", "claim", "close"]
    assert books.record().how == "delivered"


@pytest.mark.parametrize(("claim", "close"), [([answer(409)], []), ([answer(None)], []), ([], [answer(503)])], ids=str)
def test_a_job_that_cannot_be_claimed_again_now_is_delivered_later(
    books: Books, claim: list[Any], close: list[Any]
) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(409), *close], pending=[[{"id": 1}]], claim=claim)
    assert not deliver(books, api)
    assert books.state() == "finished"
    assert not books.is_due("finished")


def test_a_conflict_over_a_job_that_is_listed_as_running_is_no_close(books: Books) -> None:
    finished(books, PLAIN)
    api = FakeApi(close=[answer(409)], running=[[{"id": 1}]])
    assert not deliver(books, api, tries=2)
    assert books.state() == "finished"
    assert "listed as running" in books.record().why


def test_a_conflict_at_the_first_try_says_that_somebody_else_closed_the_job(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    finished(books, PLAIN)
    assert deliver(books, FakeApi(close=[answer(409)]), tries=1)
    assert books.state() == "closed"
    assert books.record().how == "superseded"
    assert "superseded" in caplog.text


def test_a_conflict_at_a_later_try_says_that_an_earlier_one_got_through(books: Books) -> None:
    finished(books, PLAIN)
    assert deliver(books, FakeApi(close=[answer(409)]), tries=2)
    assert books.record().how == "delivered"


@pytest.mark.parametrize("lists", [{"pending": [answer(503)]}, {"running": [answer(None)]}], ids=str)
def test_a_conflict_that_the_lists_do_not_explain_yet_is_looked_at_later(
    books: Books, lists: dict[str, list[Any]]
) -> None:
    finished(books, PLAIN)
    assert not deliver(books, FakeApi(close=[answer(409)], **lists))
    assert books.state() == "finished"


def test_a_conflict_over_an_artifact_or_a_review_is_no_close(books: Books) -> None:
    finished(books, RICH)
    api = FakeApi(review=[answer(409)])
    assert not deliver(books, api, tries=2)
    assert "close" not in api.made
    assert books.state() == "finished"


# -- aborted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "made"), [("upload", 1), ("review", 3)])
def test_a_job_that_is_aborted_in_between_is_not_delivered_further(books: Books, request_: str, made: int) -> None:
    finished(books, RICH)

    def abort() -> dict[str, Any]:
        books.ledger.abort(1, "operator")
        return {"slug": "x", "id": 1}

    api = FakeApi(**{request_: [abort]})
    assert not deliver(books, api)
    assert len(api.calls) == made
    assert books.state() == "aborted"


@pytest.mark.parametrize("error", [answer(503), answer(413), answer(401)], ids=str)
def test_an_aborted_job_stays_so_whatever_its_close_answers(books: Books, error: WorkerError) -> None:
    finished(books, PLAIN)

    def abort() -> dict[str, Any]:
        books.ledger.abort(1, "operator")
        raise error

    assert not deliver(books, FakeApi(close=[abort]))
    assert books.state() == "aborted"
    assert books.ledger.due("finished") == []


def test_a_step_that_cannot_be_written_down_is_the_couriers_to_repeat(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(books, RICH)

    def away(*args: Any, **kwargs: Any) -> bool:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(books.ledger, "delivered_part", away)
    with pytest.raises(LedgerUnavailable):
        deliver(books, FakeApi())
    assert books.state() == "finished"
    assert books.ledger.take("finished", hold_seconds=LATER) == [1]
