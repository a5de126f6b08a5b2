"""Deliveries that keep failing in the same way: each ends, but an unreachable server is waited for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.delivery import Delivery, DeliveryRequest
from mr_celery.delivery.giving_up import BOUNDS, Bound
from mr_celery.delivery.texts import GIVEN_UP, NEEDS
from mr_celery.errors import WorkerError
from mr_celery.outcome import Outcome, ReviewItem, Upload
from mr_celery.server import Listing
from support.ledgers import LATER, LedgerKit, fake_kit

pytestmark = pytest.mark.usefixtures("on_real_redis")

TIMES = 4
"""The limits in these tests, which are reached immediately and not over minutes."""

QUICK = {evidence: Bound(TIMES, 0.0) for evidence in ("ours", "passes")} | {
    evidence: BOUNDS[evidence] for evidence in ("alone", "away", "blocked")
}

PICTURE = Upload("image/png", "a.png", 3)
OTHER = Upload("text/plain", "b.txt", 3)
POSTER = ReviewItem("image", "Poster", "look", preview_upload=0)

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def failing(status: int | None, words: str = "the server's words") -> Answer:
    """A response with that status to any request; ``None``: no response."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        shown = "network: timed out" if status is None else f"{status}: {words}"
        retryable = status is None or status >= 500 or status < 300
        raise WorkerError(f"POST /x -> {shown}", status=status, retryable=retryable)

    return answer


def raising(error: Exception) -> Answer:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        raise error

    return answer


class Server:
    """A server that responds to each route as the test says, and lists the running jobs.

    Attributes:
        answers: by route, the response instead of accepting the request.
        taken: the accepted requests, as (route, name).
        asked: the number of requests by route.
        running: the listed jobs.
    """

    url = "https://server.test"

    def __init__(self, *job_ids: int, **answers: Answer) -> None:
        self.answers = answers
        self.taken: list[tuple[str, Any]] = []
        self.asked: dict[str, int] = {}
        self.running = set(job_ids or (1,))
        self.lists: Answer | None = None

    def _take(self, route: str, name: Any, body: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
        self.asked[route] = self.asked.get(route, 0) + 1
        try:
            answer = self.answers[route](body) if route in self.answers else usual
        except WorkerError as error:
            error.route = route
            raise
        self.taken.append((route, name))
        return answer

    def upload(self, source: Any, *, filename: str, **fields: Any) -> dict[str, Any]:
        slug = f"slug-{filename}"
        body = {"filename": filename, "data": source.read(), **fields}
        return self._take("upload", filename, body, {"slug": slug, "url": f"/s/{slug}"})

    def review(self, type: str, title: str, content: str, **fields: Any) -> dict[str, Any]:
        return self._take("review", title, {"title": title, **fields}, {"id": 70})

    def close(self, job_id: int, result: str, status: str) -> dict[str, Any]:
        answer = self._take("close", (job_id, status, result), {"id": job_id, "result": result, "status": status}, {})
        self.running.discard(job_id)
        return answer

    def jobs(self, status: str, *, take: Any = None, about: Any = None) -> Listing:
        if self.lists is not None:
            try:
                self.lists({})
            except WorkerError as error:
                error.route = "inbox"
                raise
        listed = self.running if status == "running" else set()
        return Listing((), dict.fromkeys(listed, status), count=len(listed))

    def job(self, job_id: int) -> None:
        return None

    @property
    def closed(self) -> dict[int, tuple[str, str]]:
        """The status and the output with which each job was closed."""
        return {name[0]: (name[1], name[2]) for route, name in self.taken if route == "close"}


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def finish(kit: LedgerKit, outcome: Outcome, job_id: int = 1) -> None:
    blobs = [b"abc"] * len(outcome.uploads)
    assert kit.ledger.finish(kit.bring("running", job_id), outcome, blobs=blobs, deliver_seconds=0) == "finished"


def deliver(kit: LedgerKit, server: Server, job_id: int = 1, **options: Any) -> WorkerError | None:
    """Deliver a job as a courier."""
    key = kit.collect(job_id)
    record = kit.record(job_id)
    assert record.outcome is not None
    delivery_request = DeliveryRequest(key, record.outcome, parts=record.parts, failures=record.failures)
    return Delivery(server, kit.ledger, **{"bounds": QUICK, **options}).deliver(delivery_request)  # type: ignore[arg-type]


def deliver_to_its_end(kit: LedgerKit, server: Server, *, most: int = 3 * TIMES, **options: Any) -> tuple[str, str]:
    """Deliver until job 1 is closed. Returns the status and the output of the close."""
    for _ in range(most):
        deliver(kit, server, **options)
        if kit.state() == "closed":
            return server.closed[1]
    raise AssertionError(f"not closed after {most} deliveries: {kit.record().why}")


def another_gets_through(kit: LedgerKit, server: Server, outcome: Outcome, job_id: int = 2) -> None:
    server.running.add(job_id)
    finish(kit, outcome, job_id)
    assert deliver(kit, server, job_id) is None


# -- unusable responses ------------------------------------------------------------------------------------

LONG = "9" * 5000

USABLE_IDS = [
    (7, "7"),
    ("7", "7"),
    ("²", "²"),
    ("rev_7é", "rev_7é"),
    (7.5, "7.5"),
    (True, "true"),
    ([1], "[1]"),
    (-1, "-1"),
]


@pytest.mark.parametrize(("told", "kept"), [*USABLE_IDS, ({"a": 1}, '{"a": 1}'), (None, ""), ("", "")])
def test_an_id_of_any_kind_that_can_be_printed_is_kept(kit: LedgerKit, told: Any, kept: str) -> None:
    of_it = Upload("text/plain", "of.txt", 3, review_of=0)
    links: list[Any] = []
    server = Server(review=lambda body: {"id": told})
    server.answers["upload"] = lambda body: links.append(body["review_id"]) or {"slug": "x"}  # type: ignore[func-returns-value]
    finish(kit, Outcome("done", "made it", (of_it,), (ReviewItem("t", "T", "c"),)))
    assert deliver(kit, server) is None
    assert server.closed[1] == ("done", "made it")
    assert links == [kept or None]


UNUSABLE_IDS = [LONG, "a\nb", "\x00", "\ud800", "x" * 10_000_000, [[1] * 500], {"a": LONG}]


@pytest.mark.parametrize("told", UNUSABLE_IDS, ids=lambda told: f"{type(told).__name__} {str(told)[:3]!r}")
def test_an_id_that_cannot_be_used_fails_the_job_after_a_bound(kit: LedgerKit, told: Any) -> None:
    server = Server(review=lambda body: {"id": told})
    finish(kit, Outcome("done", "made it", (), (POSTER,)))
    status, output = deliver_to_its_end(kit, server)
    assert status == "failed"
    assert output.startswith(f"{GIVEN_UP} the review 'Poster': POST /review -> answer with an id that cannot be used")
    assert output.endswith("made it")
    assert len(output) < 1000
    assert server.asked["review"] == TIMES, "not filed again and again"


@pytest.mark.parametrize("told", [{}, {"slug": ""}, {"slug": [1]}, {"slug": True}, {"slug": LONG}, {"slug": "a\x1bb"}])
def test_a_slug_that_cannot_be_used_fails_the_job_after_a_bound(kit: LedgerKit, told: dict[str, Any]) -> None:
    server = Server(upload=lambda body: told)
    finish(kit, Outcome("done", "made it", (PICTURE,)))
    status, output = deliver_to_its_end(kit, server)
    assert status == "failed"
    assert output.startswith(f"{GIVEN_UP} the artifact 'a.png': POST /artifacts/upload -> answer with")
    assert server.asked["upload"] == TIMES


@pytest.mark.parametrize("slug", [7, "a b", "é", "x" * 200])
def test_a_slug_that_can_be_printed_is_used(kit: LedgerKit, slug: Any) -> None:
    finish(kit, Outcome("done", "made it", (PICTURE,)))
    assert deliver(kit, Server(upload=lambda body: {"slug": slug})) is None
    assert kit.state() == "closed"


@pytest.mark.parametrize("url", ["x" * 201, "a\nb", 7, ["/s/x"], "\ud800"])
def test_a_path_that_cannot_be_used_is_made_from_the_slug(kit: LedgerKit, url: Any) -> None:
    previews: list[Any] = []
    server = Server(upload=lambda body: {"slug": "abc", "url": url})
    server.answers["review"] = lambda body: previews.append(body["preview"]) or {"id": 1}  # type: ignore[func-returns-value]
    finish(kit, Outcome("done", "made it", (PICTURE,), (POSTER,)))
    assert deliver(kit, server) is None
    assert previews == ["https://server.test/s/abc"]


@pytest.mark.parametrize("route", ["upload", "review"])
def test_an_answer_that_cannot_be_read_at_all_fails_the_job_after_a_bound(kit: LedgerKit, route: str) -> None:
    server = Server(**{route: failing(200, "not JSON (text/html): <html>")})
    finish(kit, Outcome("done", "made it", (PICTURE,), (POSTER,)))
    status, output = deliver_to_its_end(kit, server)
    assert status == "failed"
    assert "not JSON" in output
    assert server.asked[route] == TIMES


def test_a_close_whose_answer_cannot_be_read_is_one_if_the_server_says_so(kit: LedgerKit) -> None:
    server = Server()

    def closed(body: dict[str, Any]) -> dict[str, Any]:
        server.running.clear()
        raise WorkerError("POST /jobs/1/close -> 200: not JSON (text/plain): OK", status=200, retryable=True)

    server.answers["close"] = closed
    server.job = lambda job_id: {"id": 1, "status": "done"}  # type: ignore[assignment,method-assign,return-value]
    finish(kit, Outcome("done", "made it"))
    assert deliver(kit, server) is None
    assert (kit.record().how, server.asked["close"]) == ("delivered", 1)


def test_a_page_in_the_place_of_all_placeholders_is_waited_for(kit: LedgerKit) -> None:
    page = failing(200, "not JSON (text/html): <html>back soon")
    server = Server(upload=page, review=page, close=page)
    server.lists = page
    outcome = Outcome("done", "made it", (PICTURE,), (POSTER,))
    finish(kit, outcome)
    for _ in range(5 * TIMES):
        assert deliver(kit, server) is not None
    assert kit.record().outcome == outcome
    server.answers.clear()
    server.lists = None
    assert deliver(kit, server) is None
    assert server.closed[1] == ("done", "made it")


# -- errors of our own -------------------------------------------------------------------------------------

OWN = [ValueError("a digit"), OverflowError("too large"), KeyError("slug"), RecursionError("deep"), ZeroDivisionError()]


@pytest.mark.parametrize("route", ["upload", "review", "close"])
@pytest.mark.parametrize("error", OWN, ids=repr)
def test_an_error_of_our_own_fails_the_job_after_a_bound(kit: LedgerKit, route: str, error: Exception) -> None:
    outcome = Outcome("done", "made it", (PICTURE,), (POSTER,))
    finish(kit, outcome)
    spoiled = Server()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if body.get("status", "done") == "done":
            raise error
        return {}

    spoiled.answers[route] = answer
    status, output = deliver_to_its_end(kit, spoiled)
    assert status == "failed"
    assert type(error).__name__ in output
    assert spoiled.asked[route] <= TIMES + 1


def test_an_error_of_our_own_is_logged_once_with_its_stack(kit: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    finish(kit, Outcome("done", "made it", (PICTURE,)))
    deliver_to_its_end(kit, Server(upload=raising(ValueError("secret"))))
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]
    assert "secret" not in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()], ids=repr)
def test_a_machine_that_lacks_something_is_waited_for(kit: LedgerKit, error: Exception) -> None:
    server = Server(upload=raising(error))
    finish(kit, Outcome("done", "made it", (PICTURE,)))
    for _ in range(5 * TIMES):
        deliver(kit, server)
    server.answers.clear()
    assert deliver_to_its_end(kit, server) == ("done", "made it")


# -- one body that the server cannot take ------------------------------------------------------------------


def poisoned(status: int | None, field: str = "result") -> Answer:
    """Send a response to each request with "poison" in a field, and accept all others."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if "poison" in str(body[field]):
            failing(status)(body)
        return {"slug": "fine", "id": 7}

    return answer


@pytest.mark.parametrize("status", [500, 501, 505, 507, 402, 431])
def test_an_output_that_the_server_cannot_take_is_left_out(
    kit: LedgerKit, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    server = Server(close=poisoned(status))
    finish(kit, Outcome("done", "poison"))
    closed, output = deliver_to_its_end(kit, server, most=TIMES)
    assert closed == "failed"
    assert output.startswith(f"{GIVEN_UP} the job's output: POST /x -> {status}: the server's words ({TIMES} times")
    assert "words" not in caplog.text
    assert f"failed, its output cannot be delivered: POST /x -> {status}" in caplog.text
    assert kit.record().status == "failed"
    assert kit.record().outcome is None


@pytest.mark.parametrize("status", [500, 404, 410, 405])
@pytest.mark.parametrize(
    ("route", "field", "bad"),
    [
        ("upload", "filename", Outcome("done", "made it", (Upload("image/png", "poison.png", 3), OTHER))),
        ("review", "title", Outcome("done", "made it", (OTHER,), (ReviewItem("t", "poison", "c"),))),
    ],
)
def test_a_part_that_the_server_cannot_take_is_left_out_if_others_get_through(
    kit: LedgerKit, caplog: pytest.LogCaptureFixture, route: str, field: str, bad: Outcome, status: int
) -> None:
    server = Server(**{route: poisoned(status, field)})
    finish(kit, bad)
    deliver(kit, server)
    another_gets_through(kit, server, Outcome("done", "x", (OTHER,), (ReviewItem("t", "fine", "c"),)))
    caplog.clear()
    closed, output = deliver_to_its_end(kit, server)
    assert "poison" not in caplog.text, "names, titles and the server's words stay out of the log"
    assert f" could not be delivered in {TIMES} tries: POST /x -> {status}" in caplog.text
    assert closed == "failed"
    assert f"'poison{'.png' if route == 'upload' else ''}'" in output
    assert "1 other delivery succeeded in the meantime" in output
    assert "made it" in output
    assert "b.txt" in output, "what else it made is there, and listed"


@pytest.mark.parametrize("status", [500, 502, 403, None])
def test_a_failure_of_one_job_alone_says_nothing_about_the_server(kit: LedgerKit, status: int | None) -> None:
    server = Server(close=poisoned(status))
    finish(kit, Outcome("done", "poison"))
    first = deliver(kit, server)
    another_gets_through(kit, server, Outcome("done", "x"))
    second = deliver(kit, server)
    assert first is not None
    assert second is not None
    assert (first.trouble, second.trouble) == (True, False), "the others are not slowed down for it"


def test_a_second_part_that_fails_so_takes_all_that_is_left_with_it(kit: LedgerKit) -> None:
    bad = tuple(Upload("image/png", f"poison {number}", 3) for number in range(9))
    server = Server(upload=poisoned(500, "filename"))
    finish(kit, Outcome("done", "made it", bad))
    deliver(kit, server)
    another_gets_through(kit, server, Outcome("done", "x", (OTHER,)))
    assert deliver_to_its_end(kit, server)[0] == "failed"


def test_a_failure_of_all_jobs_on_one_route_is_not_a_fault_of_the_job(kit: LedgerKit) -> None:
    server = Server(1, 2, upload=failing(500))
    for job_id in (1, 2):
        finish(kit, Outcome("done", f"job {job_id}", (PICTURE,)), job_id)
    for number in range(5 * TIMES):
        deliver(kit, server, 1 + number % 2)
    another_gets_through(kit, server, Outcome("done", "plain"), 3)
    for number in range(5 * TIMES):
        deliver(kit, server, 1 + number % 2)
    server.answers.clear()
    for job_id in (1, 2):
        assert deliver(kit, server, job_id) is None
        assert server.closed[job_id] == ("done", f"job {job_id}")


@pytest.mark.parametrize("status", [None, 429, 500, 401])
@pytest.mark.parametrize("routes", [("close",), ("upload", "review", "close")], ids=len)
def test_a_server_that_fails_for_all_is_waited_for(kit: LedgerKit, routes: tuple[str, ...], status: int | None) -> None:
    server = Server(1, 2, **dict.fromkeys(routes, failing(status)))
    outcome = Outcome("done", "made it", (PICTURE,), (POSTER,))
    for job_id in (1, 2):
        finish(kit, outcome, job_id)
    for number in range(5 * TIMES):
        assert deliver(kit, server, 1 + number % 2) is not None
    server.answers.clear()
    for job_id in (1, 2):
        assert deliver(kit, server, job_id) is None
        assert server.closed[job_id] == ("done", "made it")


@pytest.mark.parametrize("status", [None, 404, 429, 500, 503])
def test_a_job_that_is_alone_while_the_server_fails_for_all_is_waited_for(kit: LedgerKit, status: int | None) -> None:
    down = failing(status)
    server = Server(upload=down, review=down, close=down)
    server.lists = down
    outcome = Outcome("done", "made it", (PICTURE,), (POSTER,))
    finish(kit, outcome)
    at_once = dict.fromkeys(BOUNDS, Bound(TIMES, 0.0))
    for _ in range(5 * TIMES):
        assert deliver(kit, server, bounds=at_once) is not None
    assert kit.record().outcome == outcome
    server.answers.clear()
    server.lists = None
    assert deliver_to_its_end(kit, server) == ("done", "made it")


@pytest.mark.parametrize("status", [None, 502, 503, 429, 504])
def test_a_server_that_is_away_now_and_then_is_waited_for(kit: LedgerKit, status: int | None) -> None:
    server = Server(close=poisoned(status))
    finish(kit, Outcome("done", "poison"))
    for number in range(5 * TIMES):
        assert deliver(kit, server) is not None
        another_gets_through(kit, server, Outcome("done", "x"), 10 + number)
    server.answers.clear()
    assert deliver_to_its_end(kit, server) == ("done", "poison")


def test_a_close_that_is_never_taken_is_tried_ever_more_seldom(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)
    pauses: list[float] = []
    undelivered = kit.ledger.undelivered

    def noted(*args: Any, wait_seconds: float, **more: Any) -> bool:
        pauses.append(wait_seconds)
        return undelivered(*args, wait_seconds=wait_seconds, **more)

    server = Server(close=lambda body: failing(500)(body) if body["id"] == 1 else {})
    outcome = Outcome("done", "made it")
    finish(kit, outcome)
    deliver(kit, server)
    another_gets_through(kit, server, Outcome("done", "x"))
    monkeypatch.setattr(kit.ledger, "undelivered", noted)
    for _ in range(4 * TIMES):
        assert deliver(kit, server) is not None
    assert max(pauses) == 600.0
    assert kit.record().outcome == outcome, "it is what it was, and is delivered whenever the server takes it"
    server.answers.clear()
    assert deliver_to_its_end(kit, server) == ("done", "made it")


# -- a server without the routes ---------------------------------------------------------------------------

BOTH = Outcome("done", "made it", (PICTURE, OTHER), (POSTER,))
OLD = {"upload": failing(404, "Not Found"), "review": failing(404, "Not Found")}


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize(
    ("outcome", "listed"),
    [
        (
            BOTH,
            [
                "artifact 'a.png' (image/png, 3 bytes)",
                "artifact 'b.txt' (text/plain, 3 bytes)",
                "review 'Poster' (image)",
            ],
        ),
        (Outcome("escalated", "made it", (PICTURE,)), ["artifact 'a.png' (image/png, 3 bytes)"]),
        (Outcome("done", "made it", (), (ReviewItem("email", "Hello", "c"),)), ["review 'Hello' (email)"]),
    ],
    ids=["both", "artifacts", "reviews"],
)
@pytest.mark.parametrize("setting", ["fail", "close"])
def test_a_job_for_a_server_without_artifacts_ends_with_a_list_of_them(
    kit: LedgerKit, setting: str, outcome: Outcome, listed: list[str], status: int
) -> None:
    server = Server(upload=failing(status, "Not Found"), review=failing(status, "Not Found"))
    finish(kit, outcome)
    closed, output = deliver_to_its_end(kit, server, without_artifacts=setting)
    assert closed == ("failed" if setting == "fail" else outcome.status)
    assert NEEDS in output
    assert "made it" in output
    assert [line for line in output.splitlines() if line.startswith("- ")] == [f"- {each}" for each in listed]
    assert f"POST /x -> {status}: Not Found" in output
    assert kit.record().status == closed


def test_once_that_is_known_a_job_is_tried_once(kit: LedgerKit) -> None:
    server = Server(**OLD)
    finish(kit, BOTH)
    deliver_to_its_end(kit, server)
    server.running.add(2)
    finish(kit, BOTH, 2)
    server.asked.clear()
    deliver(kit, server, 2)
    assert deliver(kit, server, 2) is None
    assert server.asked == {"upload": 1, "close": 1}


def test_a_server_that_is_renewed_takes_them_at_once(kit: LedgerKit) -> None:
    server = Server(**OLD)
    finish(kit, BOTH)
    deliver_to_its_end(kit, server)
    server.answers.clear()
    another_gets_through(kit, server, BOTH)
    assert server.closed[2] == ("done", "made it")


def test_a_very_long_list_is_cut(kit: LedgerKit) -> None:
    server = Server(**OLD)
    finish(kit, Outcome("done", "made it", tuple(Upload("x/y", "n" * 900, 3) for _ in range(2000))))
    _, output = deliver_to_its_end(kit, server)
    assert "- and 1950 more" in output
    assert len(output) < 50_000


def test_a_404_of_a_server_that_took_such_a_part_before_is_a_passing_one(kit: LedgerKit) -> None:
    server = Server()
    another_gets_through(kit, server, BOTH)
    server.answers.update(OLD)
    finish(kit, BOTH)
    for _ in range(5 * TIMES):
        assert deliver(kit, server) is not None
    assert kit.record().outcome == BOTH
    server.answers.clear()
    assert deliver_to_its_end(kit, server) == ("done", "made it")


def test_a_404_of_everything_is_a_passing_one(kit: LedgerKit) -> None:
    server = Server(close=failing(404), **OLD)
    server.lists = failing(404)
    finish(kit, BOTH)
    for _ in range(5 * TIMES):
        assert deliver(kit, server) is not None
    assert kit.record().outcome == BOTH
    server.answers.clear()
    server.lists = None
    assert deliver_to_its_end(kit, server) == ("done", "made it")


def test_a_404_for_a_while_that_is_too_short_is_a_passing_one(kit: LedgerKit) -> None:
    server = Server(**OLD)
    finish(kit, BOTH)
    for _ in range(5 * TIMES):
        assert deliver(kit, server, bounds=BOUNDS) is not None
    server.answers.clear()
    assert deliver_to_its_end(kit, server) == ("done", "made it")


def test_a_404_for_a_job_that_the_server_does_not_know_ends_the_job(kit: LedgerKit) -> None:
    server = Server(9, close=failing(404), **OLD)
    finish(kit, BOTH)
    deliveries = 0
    while kit.state() != "closed":
        deliver(kit, server)
        deliveries += 1
        assert deliveries < 3 * TIMES
    assert not kit.redis.exists(kit.key("routes")), "it tells nothing of the route"


def test_a_404_for_an_unknown_review_says_nothing_about_the_route(kit: LedgerKit) -> None:
    server = Server(upload=failing(404, "review 99 not found"))
    finish(kit, Outcome("done", "made it", (Upload("x/y", "a", 3, review_id=99),)))
    deliver(kit, server)
    another_gets_through(kit, server, Outcome("done", "plain"))
    closed, output = deliver_to_its_end(kit, server)
    assert closed == "failed"
    assert "review 99 not found" in output
    assert NEEDS not in output
    assert not kit.redis.exists(kit.key("routes"))


def test_an_aborted_job_on_such_a_server_is_over(kit: LedgerKit) -> None:
    server = Server(9, **OLD)
    server.job = lambda job_id: {"id": 1, "status": "failed"}  # type: ignore[assignment,method-assign,return-value]
    finish(kit, BOTH)
    assert deliver(kit, server) is None
    assert kit.record().how == "superseded"


# -- the log -----------------------------------------------------------------------------------------------


def test_the_same_reason_is_logged_at_growing_intervals(kit: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    finish(kit, Outcome("done", "made it"))
    server = Server(close=failing(503))
    for _ in range(40):
        deliver(kit, server)
    server.answers["close"] = failing(None)
    for _ in range(3):
        deliver(kit, server)
    told = [record.message.split(": ", 1)[1] for record in caplog.records if "not delivered yet" in record.message]
    assert told == [
        "POST /x -> 503",
        *(f"POST /x -> 503 ({times} times)" for times in (2, 4, 8, 16, 32)),
        "POST /x -> network",
        "POST /x -> network (2 times)",
    ]


def test_an_outcome_that_cannot_be_read_fails_the_job_after_a_bound(kit: LedgerKit) -> None:
    finish(kit, Outcome("done", "made it"))
    kit.redis.hset(kit.key("payload:1"), "outcome", "{not json")
    delivery = Delivery(Server(), kit.ledger)  # type: ignore[arg-type]
    for _ in range(7):
        delivery.unreadable(kit.collect(), ValueError("x"))
        assert kit.redis.hget(kit.key("payload:1"), "outcome") == b"{not json"
    delivery.unreadable(kit.collect(), ValueError("x"))
    outcome = kit.outcome()
    assert (outcome.status, outcome.text.startswith(GIVEN_UP)) == ("failed", True)
    assert kit.ledger.collect(1, lease=LATER), "it is due at once"
