"""The fleet's capacity, and the slots that are free now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mr_celery.bridge.capacity import REFUSED_QUEUE, Capacity, Load, Room, Surveys, capacity_of, shared
from mr_celery.bridge.limits import REFUSED_SLOTS
from mr_celery.ledger import Ledger, Node, Nodes, Route, Survey
from support.ledgers import INSIDE, make_harness

ROUTES = {
    "paint": Route(task_name="paint", queue="gpu"),
    "draw": Route(task_name="draw", queue="gpu"),
    "write": Route(task_name="write", queue="text"),
}


def node(hostname: str, concurrency: int, queues: str, tasks: str) -> Node:
    return Node(hostname, concurrency, tuple(queues.split()), tuple(tasks.split()))


TEXT_NODE = node("b", 1, "text", "write")


def survey(load: Mapping[str, int] | None = None, **states: int) -> Survey:
    """Jobs in flight, by state and by queue."""
    none = dict.fromkeys(("admitted", "claimed", "sent", "running", "finished"), 0)
    return Survey(now=0.0, states={**none, **states}, load=load or {})


class TestCapacityOfTheFleet:
    @pytest.mark.parametrize(
        ("nodes", "runnable", "slots", "workers"),
        [
            ([], set(), {}, 0),
            ([node("a", 4, "gpu", "paint draw")], {"paint", "draw"}, {"gpu": 8}, 1),
            ([node("a", 4, "gpu", "paint")], {"paint"}, {"gpu": 8}, 1),
            ([node("a", 4, "gpu text", "paint write")], {"paint", "write"}, {"gpu": 8, "text": 8}, 1),
            ([node("a", 4, "gpu", "paint"), node("b", 1, "gpu", "paint")], {"paint"}, {"gpu": 10}, 2),
            ([node("a", 4, "gpu", "paint"), node("b", 1, "gpu", "draw")], {"paint", "draw"}, {"gpu": 10}, 2),
            (
                [node("a", 4, "gpu", "paint"), node("b", 1, "text", "write")],
                {"paint", "write"},
                {"gpu": 8, "text": 2},
                2,
            ),
            ([node("a", 4, "gpu", "write")], set(), {}, 0),
            ([node("a", 4, "other", "paint")], set(), {}, 0),
            ([node("a", 4, "gpu", "unheard-of")], set(), {}, 0),
            ([node("a", 4, "gpu", "paint"), node("b", 9, "gpu", "other")], {"paint"}, {"gpu": 8}, 1),
        ],
    )
    def test_is_twice_the_concurrency_of_the_workers_with_a_handler(
        self, nodes: list[Node], runnable: set[str], slots: dict[str, int], workers: int
    ) -> None:
        capacity = capacity_of(Nodes(nodes), ROUTES.values(), None)

        assert capacity == Capacity(frozenset(runnable), slots, None, workers)
        assert capacity.shown == sum(slots.values())

    def test_is_the_setting_if_it_is_set(self) -> None:
        capacity = capacity_of(Nodes([node("a", 4, "gpu text", "paint write")]), ROUTES.values(), 3)

        assert capacity == Capacity(frozenset({"paint", "write"}), None, 3, 1)
        assert capacity.shown == 3

    def test_runs_nothing_without_workers_whatever_the_setting(self) -> None:
        assert capacity_of(Nodes(), ROUTES.values(), 3).runnable == frozenset()

    def test_is_zero_without_handlers(self) -> None:
        assert capacity_of(Nodes([node("a", 4, "gpu", "paint")]), [], None) == Capacity(frozenset(), {}, None, 0)


AUTO = Capacity(frozenset({"paint"}), {"gpu": 4, "text": 2}, None, 1)
TOTAL = Capacity(frozenset({"paint"}), None, 3, 1)


class TestLimit:
    @pytest.mark.parametrize(
        ("capacity", "queue", "limit"),
        [
            (AUTO, "gpu", 4),
            (AUTO, "text", 2),
            (AUTO, "unheard-of", 0),
            (AUTO, REFUSED_QUEUE, REFUSED_SLOTS),
            (TOTAL, "gpu", None),
            (TOTAL, REFUSED_QUEUE, REFUSED_SLOTS),
        ],
    )
    def test_is_that_of_the_queue(self, capacity: Capacity, queue: str, limit: int | None) -> None:
        assert capacity.limit(queue) == limit


def taken(room: Room, queue: str) -> int:
    """Number of free slots of a queue."""
    count = 0
    while count < 100 and room.take(Route("proj.paint", queue)):
        count += 1
    return count


class TestRoom:
    @pytest.mark.parametrize(
        ("capacity", "seen", "queue", "left"),
        [
            (AUTO, survey(), "gpu", 4),
            (AUTO, survey(), "text", 2),
            (AUTO, survey(), "unheard-of", 0),
            (AUTO, survey({"gpu": 3}), "gpu", 1),
            (AUTO, survey({"gpu": 4}), "gpu", 0),
            (AUTO, survey({"gpu": 9}), "gpu", 0),
            (AUTO, survey({"gpu": 4}), "text", 2),
            (AUTO, survey({"text": 4}), "gpu", 4),
            (AUTO, survey(running=100), "gpu", 4),
            (AUTO, survey(), REFUSED_QUEUE, REFUSED_SLOTS),
            (AUTO, survey({REFUSED_QUEUE: 7}), REFUSED_QUEUE, REFUSED_SLOTS - 7),
            (TOTAL, survey(), "gpu", 3),
            (TOTAL, survey(), "unheard-of", 3),
            (TOTAL, survey(running=1), "gpu", 2),
            (TOTAL, survey(admitted=1, claimed=1, sent=1), "gpu", 0),
            (TOTAL, survey(finished=5), "gpu", 3),
            (TOTAL, survey(running=2), "text", 1),
            (TOTAL, survey(running=7), "gpu", 0),
            (TOTAL, survey(), REFUSED_QUEUE, 3),
        ],
    )
    def test_is_the_unused_capacity(self, capacity: Capacity, seen: Survey, queue: str, left: int) -> None:
        assert taken(Room(capacity, seen), queue) == left

    def test_each_queue_has_its_own_slots(self) -> None:
        room = Room(AUTO, survey())

        assert [taken(room, queue) for queue in ("gpu", "text", "gpu")] == [4, 2, 0]

    def test_a_total_is_shared_by_all_queues(self) -> None:
        room = Room(TOTAL, survey())

        assert [room.take(Route("proj.paint", queue)) for queue in ("gpu", "text", "gpu", "text")] == [
            True,
            True,
            True,
            False,
        ]

    def test_a_refused_slot_is_not_counted(self) -> None:
        room = Room(TOTAL, survey({REFUSED_QUEUE: REFUSED_SLOTS}))

        assert not taken(room, REFUSED_QUEUE)
        assert taken(room, "gpu") == 3

    @pytest.mark.parametrize(
        ("capacity", "seen", "some"),
        [
            (AUTO, survey(), True),
            (AUTO, survey({"gpu": 4}), True),
            (AUTO, survey({"gpu": 4, "text": 2}), False),
            (AUTO, survey({"gpu": 4, "text": 3}), False),
            (Capacity(frozenset(), {}, None, 0), survey(), False),
            (TOTAL, survey(), True),
            (TOTAL, survey(running=2), True),
            (TOTAL, survey(running=3), False),
            (TOTAL, survey(admitted=2, running=1), False),
        ],
    )
    def test_is_true_while_any_slot_is_left(self, capacity: Capacity, seen: Survey, some: bool) -> None:
        assert bool(Room(capacity, seen)) is some

    def test_tasks_that_defer_share_a_limit_of_their_own(self) -> None:
        room = Room(AUTO, survey(), deferring=frozenset({"t.one", "t.two"}), deferrable=3)
        one, two, other = Route("t.one", "gpu"), Route("t.two", "text"), Route("t.other", "gpu")
        assert [room.take(each) for each in (one, two, one, two, other)] == [True, True, True, False, True]
        room.give_back(one)
        room.give_back(other)
        assert [room.take(each) for each in (two, one, other)] == [True, False, True]

    def test_is_false_once_all_slots_are_taken(self) -> None:
        room = Room(TOTAL, survey())
        taken(room, "gpu")

        assert not room


class TestSharing:
    """Several worker names on one fleet."""

    @pytest.mark.parametrize(
        ("others", "left"),
        [
            ([], 8),
            ([{}], 8),
            ([{"gpu": 3}], 5),
            ([{"gpu": 8}], 4),  # the other one has taken all slots, and goes down to its half
            ([{"gpu": 12}], 4),
            ([{"gpu": 8}, {}], 4),
            ([{"gpu": 4}, {"gpu": 4}], 3),
            ([{"text": 8}], 8),
        ],
    )
    def test_is_the_unused_capacity_and_at_least_an_even_share(self, others: list[dict[str, int]], left: int) -> None:
        whole = Capacity(frozenset({"paint"}), {"gpu": 8}, None, 1)

        assert shared(whole, Load.of(survey(load) for load in others)).slots == {"gpu": left}

    def test_applies_to_the_total_if_it_is_set(self) -> None:
        whole = Capacity(frozenset({"paint"}), None, 6, 1)

        assert shared(whole, Load.of([survey(running=2)])).total == 4
        assert shared(whole, Load.of([survey(running=6)])).total == 3
        assert shared(whole, Load.of([survey(finished=6)])).total == 6  # deliveries occupy no slots


def test_the_load_of_other_names_is_known_when_a_queue_is_first_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes names whose pollers have not read the ledger yet. Afterwards their own surveys are used."""
    harness = make_harness(monkeypatch)
    harness.bring("running")  # for worker name w
    ledgers, reads = [harness.kit.ledger, Ledger(INSIDE, "b")], Counter[str]()
    surveys = Surveys(ledgers, own=("w", "b"), clock=harness.clock)
    for ledger in ledgers:
        surveys.note(ledger.worker_name, ledger.survey(()))

    def count(ledger: Ledger, queues: Sequence[str] = (), read: Any = Ledger.survey) -> Survey:
        reads[ledger.worker_name] += 1
        found: Survey = read(ledger, queues)
        return found

    monkeypatch.setattr(Ledger, "survey", count)
    assert surveys.others("b", ["celery"]).taken == {"": 1, "celery": 1}
    assert reads == {"w": 1, "b": 1}
    for ledger in ledgers:
        surveys.note(ledger.worker_name, ledger.survey(surveys.queues))
    reads.clear()
    harness.clock.advance(2.0)
    assert surveys.others("w", ["celery"]).taken == {"": 0, "celery": 0}
    assert reads == {}


@pytest.mark.parametrize(
    ("slots", "total", "left"),
    [
        ({"a": 4, "b": 4}, None, {"a": 3, "b": 4}),
        ({"a": 1, "b": 0}, None, {"a": 1, "b": 0}),
        (None, 8, 7),
        (None, 1, 1),
    ],
)
def test_a_slot_is_spared_in_some_queues(slots: dict[str, int] | None, total: int | None, left: object) -> None:
    capacity = Capacity(frozenset({"t"}), slots, total, 1)
    spared = capacity.sparing({"a"})
    assert (spared.total if slots is None else spared.slots) == left
    assert capacity.sparing(()) == capacity
