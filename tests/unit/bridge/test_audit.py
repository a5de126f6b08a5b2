"""The audit: what counts as a difference, and what is only work that goes on while it looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from mr_celery.bridge import audit as module
from mr_celery.bridge.audit import (
    ADMITTED_SECONDS,
    BRIDGE_SECONDS,
    CLOSE_SECONDS,
    CONTRADICTION,
    FEW,
    FINISHED_SECONDS,
    GONE,
    HINTS,
    LOOKS,
    NEEDLESS_SLOT,
    NO_BRIDGE,
    NO_RECORD,
    NO_SLOT,
    PUT_BACK,
    TORN,
    UNDELIVERED,
    UNKNOWN,
    UNLISTED,
    UNSETTLED,
    Audit,
    Difference,
    Listed,
    audit,
    differences,
)
from mr_celery.client import Api, Listing
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import Holding, Inventory, Ledger
from support.ledgers import Books, FakeServer, fake_books, listed, refusal

IN_ORDER = ("admitted", "claimed", "sent", "running")


# -- one look, as a function of values ----------------------------------------------------------------------------


def holding(state: str, *, seconds: float = 1.0, **changes: Any) -> Holding:
    """What the ledger holds of job 1 in a state, without a contradiction."""
    sets = (state,) if state not in ("", "closed", "aborted") else ()
    slots = ("celery",) if state in IN_ORDER else ()
    return Holding(
        **{"id": 1, "sets": sets, "slots": slots, "state": state, "queue": "celery", "seconds": seconds, **changes}
    )


def server(*, running: tuple[int, ...] = (), pending: tuple[int, ...] = ()) -> Listed:
    """What the server's lists say."""
    return Listed(
        Listing(tuple(listed(job_id) for job_id in running)),
        Listing(tuple(listed(job_id) for job_id in pending)),
    )


def one_look(held: Holding | None, said: Listed, *, looked: float | None = 0.5) -> list[Difference]:
    holdings = {} if held is None else {held.id: held}
    return differences(Inventory(holdings, looked), said, "w")


RUNNING, PENDING, NOWHERE = server(running=(1,)), server(pending=(1,)), server()


@pytest.mark.parametrize(
    ("held", "said", "what"),
    [
        # Both say the same.
        (None, NOWHERE, None),
        (None, PENDING, None),
        (holding("admitted"), PENDING, None),
        (holding("admitted"), RUNNING, None),
        (holding("admitted"), NOWHERE, None),
        (holding("claimed"), RUNNING, None),
        (holding("sent"), RUNNING, None),
        (holding("running", seconds=100_000), RUNNING, None),
        (holding("finished"), RUNNING, None),
        (holding("finished"), NOWHERE, None),  # the answer to its close is on the way
        (holding("finished"), PENDING, None),
        (holding("closed"), NOWHERE, None),
        (holding("aborted"), NOWHERE, None),
        (holding("closed"), PENDING, None),  # an operator gives it once more
        # The ledger does not have what the server has.
        (None, RUNNING, UNKNOWN),
        (holding("closed"), RUNNING, UNKNOWN),
        (holding("aborted"), RUNNING, UNKNOWN),
        # The server does not have what the ledger has.
        *((holding(state), NOWHERE, GONE) for state in ("claimed", "sent", "running")),
        *((holding(state), PENDING, PUT_BACK) for state in ("claimed", "sent", "running")),
        (holding("finished", seconds=CLOSE_SECONDS + 1), NOWHERE, GONE),
        (holding("finished", seconds=CLOSE_SECONDS + 1), PENDING, PUT_BACK),
        # It takes too long.
        (holding("admitted", seconds=ADMITTED_SECONDS + 1), PENDING, UNSETTLED),
        (holding("admitted", seconds=ADMITTED_SECONDS - 1), PENDING, None),
        (holding("finished", seconds=FINISHED_SECONDS + 1), RUNNING, UNDELIVERED),
        (holding("finished", seconds=FINISHED_SECONDS - 1), RUNNING, None),
        (holding("finished", seconds=FINISHED_SECONDS + 1), NOWHERE, GONE),
    ],
)
def test_what_the_two_sides_say(held: Holding | None, said: Listed, what: str | None) -> None:
    assert [each.what for each in one_look(held, said)] == ([what] if what else [])


@pytest.mark.parametrize(
    ("held", "what"),
    [
        (holding("running", sets=("running", "sent")), CONTRADICTION),
        (holding("running", sets=("sent",)), CONTRADICTION),
        (holding("running", sets=()), CONTRADICTION),
        (holding("running", slots=()), NO_SLOT),
        (holding("running", slots=("celery", "slow")), NO_SLOT),
        (holding("running", slots=("slow",)), NO_SLOT),
        (holding("finished", slots=("celery",)), NEEDLESS_SLOT),
        (holding("closed", sets=("finished",)), CONTRADICTION),
        (holding("closed", slots=("celery",)), NEEDLESS_SLOT),
        (holding("", sets=("running",)), NO_RECORD),
        (holding("", sets=("running",), slots=("celery",)), NO_RECORD),
        (holding("", sets=(), slots=("celery",)), NEEDLESS_SLOT),
    ],
)
@pytest.mark.parametrize("said", [RUNNING, PENDING, NOWHERE], ids=["running", "pending", "nowhere"])
def test_what_the_ledger_says_of_itself_comes_first(held: Holding, what: str, said: Listed) -> None:
    (found,) = one_look(held, said)
    assert found.what == what
    assert "noeviction" in found.hint


@pytest.mark.parametrize("torn", ["running", "pending", "running and pending"])
def test_nothing_is_concluded_from_what_a_torn_list_lacks(torn: str) -> None:
    lists = (Listing((), whole=status not in torn) for status in ("running", "pending"))
    (found,) = one_look(holding("running"), Listed(*lists))
    assert str(found) == f"{TORN} (server: {torn} jobs)"


def test_jobs_of_another_name_are_none_of_ours() -> None:
    foreign = Listed(
        Listing((listed(1, assigned_to="other"), listed(2, assigned_to="w"), listed(3, assigned_to=""))), Listing(())
    )
    assert [each.job_id for each in one_look(None, foreign)] == [2, 3]


@pytest.mark.parametrize(
    ("looked", "says"), [(BRIDGE_SECONDS + 1, "last looked after 21 s ago"), (None, "never looked after")]
)
def test_work_without_a_bridge(looked: float | None, says: str) -> None:
    assert [(each.what, each.ledger) for each in one_look(holding("running"), RUNNING, looked=looked)] == [
        (NO_BRIDGE, says)
    ]
    assert [each.what for each in one_look(None, RUNNING, looked=looked)] == [NO_BRIDGE, UNKNOWN]
    assert one_look(None, PENDING, looked=looked) == []
    assert one_look(holding("closed"), NOWHERE, looked=looked) == []


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (
            one_look(None, RUNNING)[0],
            "job 1: in progress on the server, not here (ledger: unknown; server: running)",
        ),
        (
            one_look(holding("running", seconds=7.2), NOWHERE)[0],
            "job 1: in flight here, not in the server's lists (ledger: running for 7 s; server: listed nowhere)",
        ),
        (
            one_look(holding("running", seconds=7.2), NOWHERE)[0].though("failed"),
            "job 1: in flight here, not in the server's lists (ledger: running for 7 s; server: failed)",
        ),
        (
            one_look(holding("running", seconds=7.2), NOWHERE)[0].though("running"),
            "job 1: in flight here and there, not in the server's lists (ledger: running for 7 s; "
            "server: running, though not listed so)",
        ),
        (
            one_look(holding("running", sets=("sent",), slots=()), RUNNING)[0],
            "job 1: its record here contradicts the lists here (ledger: record running, listed as sent, no slot; "
            "server: running)",
        ),
        (
            one_look(holding("running"), RUNNING, looked=None)[0],
            "no bridge is at work (ledger: never looked after)",
        ),
    ],
)
def test_how_it_reads(difference: Difference, text: str) -> None:
    assert str(difference) == text
    assert difference.hint in HINTS.values()


@pytest.mark.parametrize(
    ("why", "shown"),
    [
        ("POST /jobs/1/close -> 503: the secret result", ", last answer POST /jobs/1/close -> 503"),
        ("POST /jobs/1/close -> network: timed out", ", last answer POST /jobs/1/close -> network"),
        ("its message is not in queue celery any more", ""),
        ("", ""),
    ],
)
def test_the_last_answer_is_shown_without_the_servers_words(why: str, shown: str) -> None:
    (found,) = one_look(holding("finished", seconds=400, deliveries=7, why=why), RUNNING)
    assert found.ledger == f"finished for 400 s, deliveries tried: 7{shown}"
    assert "secret" not in repr(found)


# -- looks at a ledger and a server -------------------------------------------------------------------------------


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


class Office:
    """A ledger and a server, and what happens between the looks of an audit."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.books.ledger.lost(lease=30)  # as a bridge does
        self.server = FakeServer()
        self.pauses: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []

    def bring(self, state: str, job_id: int = 1, **fields: Any) -> None:
        """Bring a job to a state, and the server to the one that belongs to it."""
        self.books.bring(state, job_id, **fields)
        if state in ("claimed", "sent", "running", "finished"):
            self.server.running[job_id] = listed(job_id)

    def audit(self, *, interval: float = 5.0) -> Audit:
        return audit(cast(Api, self.server), self.books.ledger, interval=interval, wait=self._wait)

    def _wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self.meanwhile:
            self.meanwhile.pop(0)()


@pytest.fixture
def office(books: Books) -> Office:
    return Office(books)


def whats(found: Audit) -> list[tuple[int | None, str]]:
    return [(each.job_id, each.what) for each in found.differences]


def test_an_empty_installation_agrees(office: Office) -> None:
    assert office.audit() == Audit(0, 0, 0, ())
    assert office.pauses == []


def test_a_busy_installation_agrees_at_the_first_look(office: Office) -> None:
    for job_id, state in enumerate(("admitted", "claimed", "sent", "running", "finished", "closed", "aborted"), 1):
        office.bring(state, job_id)
    office.server.dispatch(1, 20, 21)
    assert office.audit() == Audit(in_flight=5, running=4, pending=3, differences=())
    assert office.pauses == []


def test_only_what_is_there_in_each_look_is_a_difference(office: Office) -> None:
    office.server.running = {1: listed(1), 2: listed(2), 3: listed(3)}
    office.meanwhile = [lambda: office.server.running.pop(1), lambda: office.books.bring("claimed", 2)]
    assert whats(office.audit()) == [(3, UNKNOWN)]
    assert office.pauses == [6.0] * (LOOKS - 1)


def test_it_looks_no_further_once_all_is_explained(office: Office) -> None:
    office.server.running = {1: listed(1)}
    office.meanwhile = [office.server.running.clear]
    assert office.audit() == Audit(0, 0, 0, ())
    assert office.pauses == [6.0]


def test_one_difference_that_gives_way_to_another_is_none(office: Office) -> None:
    office.bring("running")
    office.server.running.clear()
    office.meanwhile = [lambda: office.server.dispatch(1)]
    assert office.audit().differences == ()


def test_it_does_not_wait_for_as_long_as_a_lazy_bridge(office: Office) -> None:
    office.server.running = {1: listed(1)}
    office.audit(interval=3600.0)
    assert set(office.pauses) == {module.MOST_PAUSE}


def test_what_the_server_tells_of_single_jobs(office: Office) -> None:
    for job_id in range(1, 5):
        office.bring("running", job_id)
    office.server.abort(1, 2)
    office.server.known = {2: {"status": "running"}}
    office.server.running.pop(3)
    found = office.audit()
    assert whats(found) == [(1, GONE), (2, UNLISTED), (3, GONE)]
    assert [each.server for each in found.differences] == ["failed", "running, though not listed so", "listed nowhere"]
    assert office.server.asked("job") == [1, 2, 3]


def test_the_server_is_asked_for_few_single_jobs(office: Office) -> None:
    for job_id in range(1, FEW + 6):
        office.bring("running", job_id)
    office.server.running.clear()
    found = office.audit()
    assert len(found.differences) == FEW + 5
    assert len(office.server.asked("job")) == FEW


def test_a_server_that_tells_nothing_of_a_single_job_changes_nothing(office: Office) -> None:
    office.bring("running")
    office.server.running.clear()
    office.server.faults["job"] = [refusal(503)]
    (found,) = office.audit().differences
    assert (found.what, found.server) == (GONE, "listed nowhere")


def test_a_server_that_is_away(office: Office) -> None:
    office.server.faults["jobs"] = [refusal(None)]
    with pytest.raises(WorkerError):
        office.audit()


def test_a_ledger_that_is_away() -> None:
    ledger = Ledger("redis://127.0.0.1:1/0", "w", timeout=0.5)
    with pytest.raises(LedgerUnavailable):
        audit(cast(Api, FakeServer()), ledger, interval=0.1)


@pytest.mark.parametrize(("state", "seconds", "what"), [("admitted", 61, UNSETTLED), ("finished", 301, UNDELIVERED)])
def test_what_takes_too_long(office: Office, state: str, seconds: float, what: str) -> None:
    office.bring(state)
    assert office.audit().differences == ()
    office.books.age(1, state, seconds=seconds)
    assert whats(office.audit()) == [(1, what)]


def test_an_outcome_that_is_not_delivered_tells_of_its_deliveries(office: Office) -> None:
    office.bring("finished")
    key = office.books.collect()
    assert office.books.ledger.undelivered(key, "POST /jobs/1/close -> 500: DONE", wait_seconds=30)
    office.books.age(1, "finished", seconds=400)
    (found,) = office.audit().differences
    assert found.ledger == "finished for 400 s, deliveries tried: 2, last answer POST /jobs/1/close -> 500"


def test_a_bridge_that_looks_is_seen(office: Office) -> None:
    office.bring("running")
    assert office.audit().differences == ()
    office.books.age_look(seconds=60)
    assert whats(office.audit()) == [(None, NO_BRIDGE)]
    office.meanwhile = [lambda: office.books.ledger.lost(lease=30)]
    assert office.audit().differences == ()


# -- a ledger that does not fit together --------------------------------------------------------------------------


def lose_the_record(office: Office) -> None:
    office.books.redis.delete(office.books.key("job:1"))


def leave_it_in_a_set(office: Office) -> None:
    office.books.redis.zadd(office.books.key("sent"), {"1": 0})


def change_the_record(office: Office) -> None:
    office.books.redis.hset(office.books.key("job:1"), "state", "sent")


def take_the_slot(office: Office) -> None:
    office.books.redis.srem(office.books.key("load:celery"), 1)


def leave_a_slot(office: Office) -> None:
    office.books.redis.sadd(office.books.key("load:a queue: of 'ours'"), 9)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lose_the_record, [(1, NO_RECORD)]),
        (leave_it_in_a_set, [(1, CONTRADICTION)]),
        (change_the_record, [(1, CONTRADICTION)]),
        (take_the_slot, [(1, NO_SLOT)]),
        (leave_a_slot, [(9, NEEDLESS_SLOT)]),
    ],
)
def test_a_ledger_that_was_damaged(
    office: Office, fault: Callable[[Office], None], what: list[tuple[int, str]]
) -> None:
    office.bring("running")
    assert office.audit().differences == ()
    fault(office)
    assert whats(office.audit()) == what


def test_an_inventory_is_read_in_pages_and_without_payloads(books: Books) -> None:
    for job_id in range(1, 1301):
        books.bring("claimed", job_id, prompt="a secret prompt")
    books.bring("finished", 2000)
    inventory = books.ledger.inventory(also=[5000])
    assert len(inventory.holdings) == 1302
    assert {each.state for each in inventory.holdings.values()} == {"claimed", "finished", ""}
    assert inventory.holdings[1300].slots == ("celery",)
    assert inventory.holdings[2000].slots == ()
    assert 0 <= inventory.holdings[2000].seconds < 60
    assert "secret" not in repr(inventory)


def test_an_inventory_is_of_one_worker_name(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    books.bring("running", 1)
    other = Books(Ledger("redis://inside.the.test/0", "w*"), books.redis)
    other.bring("running", 2)
    assert list(books.ledger.inventory().holdings) == [1]
    assert list(other.ledger.inventory().holdings) == [2]
