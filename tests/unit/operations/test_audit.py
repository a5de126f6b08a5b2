"""The audit: real differences, as opposed to changes while it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import AuditRow, Inventory, Ledger
from mr_celery.operations import audit as module
from mr_celery.operations.audit import (
    ADMITTED_SECONDS,
    BRIDGE_SECONDS,
    CLOSE_SECONDS,
    CONTRADICTION,
    FINISHED_SECONDS,
    GONE,
    HINTS,
    MAX_LOOKUPS,
    NEEDLESS_SLOT,
    NO_BRIDGE,
    NO_RECORD,
    NO_SLOT,
    PUT_BACK,
    READINGS,
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
from mr_celery.server import Api, Listing
from mr_celery.server.job_status import status_word
from support.ledgers import FakeServer, LedgerKit, fake_kit, listed, refusal
from support.statuses import A_FEW_OVER, short

IN_ORDER = ("admitted", "claimed", "sent", "running")


# -- one pass, as a function of values ----------------------------------------------------------------------------


def row(state: str, *, seconds: float = 1.0, **changes: Any) -> AuditRow:
    """Job 1 in the ledger, in a state and without a contradiction."""
    sets = (state,) if state not in ("", "closed", "aborted") else ()
    slots = ("celery",) if state in IN_ORDER else ()
    return AuditRow(
        **{"id": 1, "sets": sets, "slots": slots, "state": state, "queue": "celery", "seconds": seconds, **changes}
    )


def server(*, running: tuple[int, ...] = (), pending: tuple[int, ...] = ()) -> Listed:
    """The server's lists."""
    return Listed(
        Listing.of(*(listed(job_id) for job_id in running), status="running"),
        Listing.of(*(listed(job_id) for job_id in pending)),
        frozenset(running),
    )


def one_reading(held: AuditRow | None, said: Listed, *, looked: float | None = 0.5) -> list[Difference]:
    rows = {} if held is None else {held.id: held}
    return differences(Inventory(rows, looked), said)


RUNNING, PENDING, NOWHERE = server(running=(1,)), server(pending=(1,)), server()


@pytest.mark.parametrize(
    ("held", "said", "what"),
    [
        # Server and ledger agree.
        (None, NOWHERE, None),
        (None, PENDING, None),
        (row("admitted"), PENDING, None),
        (row("admitted"), RUNNING, None),
        (row("admitted"), NOWHERE, None),
        (row("claimed"), RUNNING, None),
        (row("sent"), RUNNING, None),
        (row("running", seconds=100_000), RUNNING, None),
        (row("finished"), RUNNING, None),
        (row("finished"), NOWHERE, None),  # the response to its close is on the way
        (row("finished"), PENDING, None),
        (row("closed"), NOWHERE, None),
        (row("aborted"), NOWHERE, None),
        (row("closed"), PENDING, None),  # an operator has requeued it
        # Missing from the ledger.
        (None, RUNNING, UNKNOWN),
        (row("closed"), RUNNING, UNKNOWN),
        (row("aborted"), RUNNING, UNKNOWN),
        # Missing from the server.
        *((row(state), NOWHERE, GONE) for state in ("claimed", "sent", "running")),
        *((row(state), PENDING, PUT_BACK) for state in ("claimed", "sent", "running")),
        (row("finished", seconds=CLOSE_SECONDS + 1), NOWHERE, GONE),
        (row("finished", seconds=CLOSE_SECONDS + 1), PENDING, PUT_BACK),
        # It takes too long.
        (row("admitted", seconds=ADMITTED_SECONDS + 1), PENDING, UNSETTLED),
        (row("admitted", seconds=ADMITTED_SECONDS - 1), PENDING, None),
        (row("finished", seconds=FINISHED_SECONDS + 1), RUNNING, UNDELIVERED),
        (row("finished", seconds=FINISHED_SECONDS - 1), RUNNING, None),
        (row("finished", seconds=FINISHED_SECONDS + 1), NOWHERE, GONE),
    ],
)
def test_differences_between_ledger_and_server(held: AuditRow | None, said: Listed, what: str | None) -> None:
    assert [each.what for each in one_reading(held, said)] == ([what] if what else [])


@pytest.mark.parametrize(
    ("held", "what"),
    [
        (row("running", sets=("running", "sent")), CONTRADICTION),
        (row("running", sets=("sent",)), CONTRADICTION),
        (row("running", sets=()), CONTRADICTION),
        (row("running", slots=()), NO_SLOT),
        (row("running", slots=("celery", "slow")), NO_SLOT),
        (row("running", slots=("slow",)), NO_SLOT),
        (row("finished", slots=("celery",)), NEEDLESS_SLOT),
        (row("closed", sets=("finished",)), CONTRADICTION),
        (row("closed", slots=("celery",)), NEEDLESS_SLOT),
        (row("", sets=("running",)), NO_RECORD),
        (row("", sets=("running",), slots=("celery",)), NO_RECORD),
        (row("", sets=(), slots=("celery",)), NEEDLESS_SLOT),
    ],
)
@pytest.mark.parametrize("said", [RUNNING, PENDING, NOWHERE], ids=["running", "pending", "nowhere"])
def test_a_damaged_ledger_is_reported_first(held: AuditRow, what: str, said: Listed) -> None:
    (found,) = one_reading(held, said)
    assert found.what == what
    assert "noeviction" in found.hint


@pytest.mark.parametrize("torn", ["running", "pending", "running and pending"])
def test_jobs_missing_in_an_incomplete_list_are_not_a_difference(torn: str) -> None:
    lists = (Listing(whole=status not in torn) for status in ("running", "pending"))
    (found,) = one_reading(row("running"), Listed(*lists))
    assert str(found) == f"{TORN} (server: {torn} jobs)"


@pytest.mark.parametrize("word", A_FEW_OVER, ids=short)
@pytest.mark.parametrize("whole", [True, False])
def test_the_status_of_an_entry_counts_more_than_the_list(word: str, whole: bool) -> None:
    word = status_word(word)
    (found,) = [
        each
        for each in one_reading(row("running"), Listed(Listing(statuses={1: word}, whole=whole), Listing()))
        if each.job_id
    ]
    assert (found.what, found.server) == (GONE, word)


def test_an_ambiguous_status_is_not_a_difference() -> None:
    assert one_reading(row("running"), Listed(Listing(statuses={1: ""}), Listing())) == []


@pytest.mark.parametrize(("looked", "says"), [(BRIDGE_SECONDS + 1, "last checked 21 s ago"), (None, "never checked")])
def test_work_without_a_bridge_is_a_difference(looked: float | None, says: str) -> None:
    assert [(each.what, each.ledger) for each in one_reading(row("running"), RUNNING, looked=looked)] == [
        (NO_BRIDGE, says)
    ]
    assert [each.what for each in one_reading(None, RUNNING, looked=looked)] == [NO_BRIDGE, UNKNOWN]
    assert one_reading(None, PENDING, looked=looked) == []
    assert one_reading(row("closed"), NOWHERE, looked=looked) == []


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (
            one_reading(None, RUNNING)[0],
            "job 1: running on the server, unknown to the ledger (ledger: unknown; server: running)",
        ),
        (
            one_reading(row("running", seconds=7.2), NOWHERE)[0],
            f"job 1: {GONE} (ledger: running for 7.2 s; server: listed nowhere)",
        ),
        (
            one_reading(row("running", seconds=7.2), NOWHERE)[0].with_status("failed"),
            f"job 1: {GONE} (ledger: running for 7.2 s; server: failed)",
        ),
        (
            one_reading(row("running", seconds=7.2), NOWHERE)[0].with_status("running"),
            "job 1: in flight in both, but missing from the server's lists (ledger: running for 7.2 s; "
            "server: running, though not listed so)",
        ),
        (
            one_reading(row("running", sets=("sent",), slots=()), RUNNING)[0],
            "job 1: its ledger record contradicts the ledger's lists (ledger: record running, listed as sent, no slot; "
            "server: running)",
        ),
        (
            one_reading(row("running"), RUNNING, looked=None)[0],
            "no bridge checks the ledger (ledger: never checked)",
        ),
    ],
)
def test_difference_in_words(difference: Difference, text: str) -> None:
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
def test_the_last_answer_is_shown_without_its_message(why: str, shown: str) -> None:
    (found,) = one_reading(row("finished", seconds=400, deliveries=7, why=why), RUNNING)
    assert found.ledger == f"finished for 7 min, deliveries tried: 7{shown}"
    assert "secret" not in repr(found)


# -- audits of a ledger and a server ------------------------------------------------------------------------------


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


QUEUE = "a queue: of 'ours'"


class Installation:
    """A ledger and a server, and their changes between the readings of an audit."""

    def __init__(self, kit: LedgerKit) -> None:
        self.kit = kit
        self.kit.ledger.lost(lease=30)  # as a bridge does
        self.server = FakeServer()
        self.pauses: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []

    def bring(self, state: str, job_id: int = 1, **fields: Any) -> None:
        """Bring a job to a state in the ledger, and to the matching state on the server."""
        self.kit.bring(state, job_id, **fields)
        if state in ("claimed", "sent", "running", "finished"):
            self.server.running[job_id] = listed(job_id)

    def audit(self, *, interval: float = 5.0) -> Audit:
        queues = ["celery", QUEUE]
        return audit(cast(Api, self.server), self.kit.ledger, interval=interval, queues=queues, wait=self._wait)

    def _wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self.meanwhile:
            self.meanwhile.pop(0)()


@pytest.fixture
def installation(kit: LedgerKit) -> Installation:
    return Installation(kit)


def whats(found: Audit) -> list[tuple[int | None, str]]:
    return [(each.job_id, each.what) for each in found.differences]


def test_an_empty_installation_agrees(installation: Installation) -> None:
    assert installation.audit() == Audit(0, 0, 0, ())
    assert installation.pauses == []


def test_a_busy_installation_agrees_in_the_first_reading(installation: Installation) -> None:
    for job_id, state in enumerate(("admitted", "claimed", "sent", "running", "finished", "closed", "aborted"), 1):
        installation.bring(state, job_id)
    installation.server.dispatch(1, 20, 21)
    assert installation.audit() == Audit(in_flight=5, running=4, pending=3, differences=())
    assert installation.pauses == []


def test_only_lasting_differences_count(installation: Installation) -> None:
    installation.server.running = {1: listed(1), 2: listed(2), 3: listed(3)}
    installation.meanwhile = [
        lambda: installation.server.running.pop(1),
        lambda: installation.kit.bring("claimed", 2),
    ]
    assert whats(installation.audit()) == [(3, UNKNOWN)]
    assert installation.pauses == [6.0] * (READINGS - 1)


def test_jobs_of_another_worker_name_are_ignored(installation: Installation) -> None:
    for job_id, name in enumerate(("other", "w", "", None), 1):
        installation.server.running[job_id] = listed(job_id, assigned_to=name)
    assert whats(installation.audit()) == [(2, UNKNOWN), (3, UNKNOWN), (4, UNKNOWN)]


@pytest.mark.parametrize("word", A_FEW_OVER, ids=short)
def test_a_job_with_a_final_status_on_the_server_is_a_difference(installation: Installation, word: str) -> None:
    installation.bring("running")
    installation.server.running.clear()
    installation.server.known = {1: {"status": word}}
    (found,) = installation.audit().differences
    assert (found.what, found.server) == (GONE, status_word(word))


def test_it_stops_once_no_difference_is_left(installation: Installation) -> None:
    installation.server.running = {1: listed(1)}
    installation.meanwhile = [installation.server.running.clear]
    assert installation.audit() == Audit(0, 0, 0, ())
    assert installation.pauses == [6.0]


def test_a_difference_that_changes_its_kind_does_not_count(installation: Installation) -> None:
    installation.bring("running")
    installation.server.running.clear()
    installation.meanwhile = [lambda: installation.server.dispatch(1)]
    assert installation.audit().differences == ()


def test_the_pause_between_readings_is_limited(installation: Installation) -> None:
    installation.server.running = {1: listed(1)}
    installation.audit(interval=3600.0)
    assert set(installation.pauses) == {module.MAX_PAUSE}


def test_missing_jobs_are_looked_up_one_by_one(installation: Installation) -> None:
    for job_id in range(1, 5):
        installation.bring("running", job_id)
    installation.server.abort(1, 2)
    installation.server.known = {2: {"status": "running"}}
    installation.server.running.pop(3)
    found = installation.audit()
    assert whats(found) == [(1, GONE), (2, UNLISTED), (3, GONE)]
    assert [each.server for each in found.differences] == ["failed", "running, though not listed so", "listed nowhere"]
    assert installation.server.asked("job") == [1, 2, 3]


def test_the_number_of_lookups_is_limited(installation: Installation) -> None:
    for job_id in range(1, MAX_LOOKUPS + 6):
        installation.bring("running", job_id)
    installation.server.running.clear()
    found = installation.audit()
    assert len(found.differences) == MAX_LOOKUPS + 5
    assert len(installation.server.asked("job")) == MAX_LOOKUPS


def test_a_failed_lookup_leaves_the_difference(installation: Installation) -> None:
    installation.bring("running")
    installation.server.running.clear()
    installation.server.faults["job"] = [refusal(503)]
    (found,) = installation.audit().differences
    assert (found.what, found.server) == (GONE, "listed nowhere")


def test_an_unreachable_server_is_an_error(installation: Installation) -> None:
    installation.server.faults["jobs"] = [refusal(None)]
    with pytest.raises(WorkerError):
        installation.audit()


def test_an_unavailable_ledger_is_an_error() -> None:
    ledger = Ledger("redis://127.0.0.1:1/0", "w", timeout=0.5)
    with pytest.raises(LedgerUnavailable):
        audit(cast(Api, FakeServer()), ledger, interval=0.1)


@pytest.mark.parametrize(("state", "seconds", "what"), [("admitted", 61, UNSETTLED), ("finished", 301, UNDELIVERED)])
def test_a_step_that_takes_too_long_is_a_difference(
    installation: Installation, state: str, seconds: float, what: str
) -> None:
    installation.bring(state)
    assert installation.audit().differences == ()
    installation.kit.age(1, state, seconds=seconds)
    assert whats(installation.audit()) == [(1, what)]


def test_an_undelivered_outcome_shows_its_deliveries(installation: Installation) -> None:
    installation.bring("finished")
    key = installation.kit.collect()
    assert installation.kit.ledger.undelivered(key, "POST /jobs/1/close -> 500: DONE", wait_seconds=30)
    installation.kit.age(1, "finished", seconds=400)
    (found,) = installation.audit().differences
    assert found.ledger == "finished for 7 min, deliveries tried: 2, last answer POST /jobs/1/close -> 500"


def test_a_running_bridge_is_noticed(installation: Installation) -> None:
    installation.bring("running")
    assert installation.audit().differences == ()
    installation.kit.age_look(seconds=60)
    assert whats(installation.audit()) == [(None, NO_BRIDGE)]
    installation.meanwhile = [lambda: installation.kit.ledger.lost(lease=30)]
    assert installation.audit().differences == ()


# -- an inconsistent ledger ---------------------------------------------------------------------------------------


def lose_the_record(installation: Installation) -> None:
    installation.kit.redis.delete(installation.kit.key("job:1"))


def leave_it_in_a_set(installation: Installation) -> None:
    installation.kit.redis.zadd(installation.kit.key("sent"), {"1": 0})


def change_the_record(installation: Installation) -> None:
    installation.kit.redis.hset(installation.kit.key("job:1"), "state", "sent")


def take_the_slot(installation: Installation) -> None:
    installation.kit.redis.srem(installation.kit.key("load:celery"), 1)


def leave_a_slot(installation: Installation) -> None:
    installation.kit.redis.sadd(installation.kit.key(f"load:{QUEUE}"), 9)


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
def test_a_damaged_ledger_is_reported(
    installation: Installation, fault: Callable[[Installation], None], what: list[tuple[int, str]]
) -> None:
    installation.bring("running")
    assert installation.audit().differences == ()
    fault(installation)
    assert whats(installation.audit()) == what


def test_an_inventory_contains_one_worker_name(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.bring("running", 1)
    other = LedgerKit(Ledger("redis://inside.the.test/0", "w*"), kit.redis)
    other.bring("running", 2)
    assert list(kit.ledger.inventory().rows) == [1]
    assert list(other.ledger.inventory().rows) == [2]
