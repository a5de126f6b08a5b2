"""Which pending jobs may be claimed, and in which order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery import Job
from mr_celery.bridge.capacity import REFUSED_QUEUE, UNROUTED, Capacity
from mr_celery.bridge.claiming.inbox import Candidate, chooser
from mr_celery.handlers import Declaration, Handler, Registry
from mr_celery.ledger import Route
from mr_celery.server.job_list import MOST_KEPT, MostUrgent

ROUTES = {"paint": Route(task_name="paint", queue="gpu"), "write": Route(task_name="write", queue="text")}
ALL = frozenset(ROUTES)


def boom(job: Job) -> bool:
    raise ZeroDivisionError("boom")


def handler(name: str, **declaration: Any) -> Handler:
    return Handler(SimpleNamespace(name=name, run=lambda prompt="": None), Declaration(**declaration))


REGISTRY = Registry([handler("paint", capabilities=("image",)), handler("write", capabilities=("text",))])


def chosen(
    listed: Iterable[Mapping[str, Any]],
    *,
    registry: Registry = REGISTRY,
    runnable: frozenset[str] = ALL,
    unrouted: str = "fail",
    most: int = MOST_KEPT,
) -> list[Candidate]:
    found = MostUrgent(
        chooser(
            registry.route,
            lambda handler, job: ROUTES[handler.name],
            Capacity(runnable, None, 10, 1),
            unrouted=unrouted,
        ),
        most=most,
    )
    for fields in listed:
        assert found.take({"prompt": "", **fields}, 1) is None
    return list(found)


def ids(found: list[Candidate]) -> list[int]:
    return [candidate.job.id for candidate in found]


def image(job_id: int, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "capability": "image", **fields}


class TestOrder:
    def test_is_by_priority_then_by_id(self) -> None:
        listed = [
            image(1, priority="low"),
            image(9, priority="high"),
            image(3),
            image(2, priority="normal"),
            image(4, priority="unheard-of"),
            image(8, priority="HIGH"),
            image(10, priority="low"),
        ]

        assert ids(chosen(listed)) == [8, 9, 2, 3, 4, 1, 10]

    def test_does_not_depend_on_the_order_of_the_inbox(self) -> None:
        listed = [image(job_id, priority=("high", "normal", "low")[job_id % 3]) for job_id in range(1, 40)]
        shuffled = random.Random(1).sample(listed, len(listed))

        assert ids(chosen(shuffled)) == ids(chosen(listed))

    def test_compares_ids_as_numbers(self) -> None:
        assert ids(chosen([image(10), image(9), image(100)])) == [9, 10, 100]

    @pytest.mark.parametrize(("priority", "rank"), [("high", 0), ("normal", 1), ("low", 2), ("other", 1)])
    def test_is_by_priority_first(self, priority: str, rank: int) -> None:
        others = [image(6, priority="high"), image(7, priority="normal"), image(8, priority="low")]
        assert ids(chosen([*others, image(5, priority=priority)])).index(5) == rank

    @pytest.mark.parametrize("priority", [None, 7, ["high"], {"high": 1}])
    def test_an_unusable_priority_counts_as_normal(self, priority: object) -> None:
        assert ids(chosen([image(1, priority="low"), image(2, priority=priority), image(3)])) == [2, 3, 1]


class TestMost:
    @pytest.mark.parametrize(("most", "kept"), [(0, []), (1, [5]), (3, [5, 1, 2]), (99, [5, 1, 2, 3, 4])])
    def test_keeps_the_most_urgent(self, most: int, kept: list[int]) -> None:
        listed = [image(4), image(3), image(2), image(1), image(5, priority="high")]

        assert ids(chosen(listed, most=most)) == kept

    def test_counts_only_jobs_that_may_be_claimed(self) -> None:
        listed = [*({"id": job_id, "capability": "text"} for job_id in range(1, 10)), image(10)]

        assert ids(chosen(listed, runnable=frozenset({"paint"}), most=1)) == [10]

    def test_has_a_default_limit(self) -> None:
        assert len(chosen(image(job_id) for job_id in range(1, MOST_KEPT + 50))) == MOST_KEPT


class TestRouting:
    def test_gives_each_job_the_route_of_its_handler(self) -> None:
        found = chosen([image(1, prompt="a"), {"id": 2, "capability": "text"}])

        assert found == [
            Candidate(Job(image(1, prompt="a")), ROUTES["paint"]),
            Candidate(Job({"prompt": "", "id": 2, "capability": "text"}), ROUTES["write"]),
        ]

    @pytest.mark.parametrize("unrouted", ["fail", "leave"])
    def test_skips_jobs_that_no_worker_runs(self, unrouted: str) -> None:
        listed = [image(1), {"id": 2, "capability": "text"}]

        assert ids(chosen(listed, runnable=frozenset({"write"}), unrouted=unrouted)) == [2]
        assert chosen(listed, runnable=frozenset(), unrouted=unrouted) == []

    def test_finds_nothing_in_an_empty_inbox(self) -> None:
        assert chosen([]) == []


class TestUnrouted:
    @pytest.mark.parametrize(
        ("registry", "fields", "why"),
        [
            (REGISTRY, {"capability": "video"}, "no handler takes job 1: it requires capability video"),
            (REGISTRY, {"capabilities": ["image", "text"]}, "paint and write match job 1 equally well"),
        ],
        ids=["none", "two"],
    )
    def test_is_claimed_with_the_reason_for_its_failure(
        self, registry: Registry, fields: dict[str, Any], why: str
    ) -> None:
        (candidate,) = chosen([{"id": 1, **fields}], registry=registry, unrouted="fail")

        assert candidate.refusal.startswith(why)
        assert candidate.route == UNROUTED

    @pytest.mark.parametrize(
        ("registry", "fields"),
        [
            (REGISTRY, {"capability": "video"}),
            (REGISTRY, {"capabilities": ["image", "text"]}),
        ],
        ids=["none", "two"],
    )
    def test_stays_pending_with_unrouted_leave(self, registry: Registry, fields: dict[str, Any]) -> None:
        assert chosen([{"id": 1, **fields}], registry=registry, unrouted="leave") == []

    @pytest.mark.parametrize("unrouted", ["fail", "leave"])
    def test_a_job_for_which_match_raises_stays_pending(self, unrouted: str) -> None:
        assert chosen([{"id": 1}], registry=Registry([handler("paint", match=boom)]), unrouted=unrouted) == []

    def test_is_failed_even_while_no_worker_is_online(self) -> None:
        assert ids(chosen([image(1), {"id": 2}], runnable=frozenset(), unrouted="fail")) == [2]

    def test_is_ordered_among_the_others(self) -> None:
        assert ids(chosen([image(1), {"id": 2, "priority": "high"}, image(3, priority="high")])) == [2, 3, 1]

    def test_has_a_separate_queue(self) -> None:
        assert UNROUTED.queue == REFUSED_QUEUE
        assert UNROUTED.task_name == ""

    def test_a_routed_job_has_no_refusal(self) -> None:
        assert chosen([image(1)])[0].refusal == ""
