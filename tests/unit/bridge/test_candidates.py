"""Which pending jobs may be claimed, and in which order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery import Job
from mr_celery.bridge.candidates import (
    DOUBT_SECONDS,
    MOST,
    Candidate,
    Doubts,
    candidates,
    doubt,
    refused_route,
)
from mr_celery.bridge.capacity import REFUSED_QUEUE, Capacity
from mr_celery.ledger import Route
from mr_celery.routing import Declaration, Handler, Registry

ROUTES = {"paint": Route(task="paint", queue="gpu"), "write": Route(task="write", queue="text")}
ALL = frozenset(ROUTES)


def boom(job: Job) -> bool:
    raise ZeroDivisionError("boom")


def handler(name: str, **declaration: Any) -> Handler:
    return Handler(SimpleNamespace(name=name, run=lambda prompt="": None), Declaration(**declaration))


REGISTRY = Registry([handler("paint", capability="image"), handler("write", capability="text")])


def chosen(
    listed: Iterable[Mapping[str, Any]],
    *,
    registry: Registry = REGISTRY,
    runnable: frozenset[str] = ALL,
    unrouted: str = "fail",
    most: int = MOST,
) -> list[Candidate]:
    return candidates(listed, registry, ROUTES, Capacity(runnable, None, 10, 1), unrouted=unrouted, most=most)


def ids(found: list[Candidate]) -> list[int]:
    return [candidate.job.id for candidate in found]


def image(job_id: int, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "capability": "image", **fields}


class TestOrder:
    def test_is_high_before_normal_before_low_and_then_by_id(self) -> None:
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

    def test_is_by_number_and_not_by_text(self) -> None:
        assert ids(chosen([image(10), image(9), image(100)])) == [9, 10, 100]

    @pytest.mark.parametrize(("priority", "rank"), [("high", 0), ("normal", 1), ("low", 2), ("other", 1)])
    def test_is_by_priority_first(self, priority: str, rank: int) -> None:
        others = [image(6, priority="high"), image(7, priority="normal"), image(8, priority="low")]
        assert ids(chosen([*others, image(5, priority=priority)])).index(5) == rank

    @pytest.mark.parametrize("priority", [None, 7, ["high"], {"high": 1}])
    def test_is_that_of_a_normal_job_where_the_priority_is_no_text(self, priority: object) -> None:
        assert ids(chosen([image(1, priority="low"), image(2, priority=priority), image(3)])) == [2, 3, 1]


class TestMost:
    @pytest.mark.parametrize(("most", "kept"), [(0, []), (1, [5]), (3, [5, 1, 2]), (99, [5, 1, 2, 3, 4])])
    def test_keeps_the_most_urgent(self, most: int, kept: list[int]) -> None:
        listed = [image(4), image(3), image(2), image(1), image(5, priority="high")]

        assert ids(chosen(listed, most=most)) == kept

    def test_counts_only_what_may_be_claimed(self) -> None:
        listed = [*({"id": job_id, "capability": "text"} for job_id in range(1, 10)), image(10)]

        assert ids(chosen(listed, runnable=frozenset({"paint"}), most=1)) == [10]

    def test_is_limited_where_nothing_is_said(self) -> None:
        assert len(chosen(image(job_id) for job_id in range(1, MOST + 50))) == MOST


class TestRouting:
    def test_gives_each_job_the_route_of_its_handler(self) -> None:
        found = chosen([image(1, prompt="a"), {"id": 2, "capability": "text"}])

        assert found == [
            Candidate(Job(image(1, prompt="a")), ROUTES["paint"]),
            Candidate(Job({"id": 2, "capability": "text"}), ROUTES["write"]),
        ]

    @pytest.mark.parametrize("unrouted", ["fail", "leave"])
    def test_leaves_jobs_that_no_worker_runs_now(self, unrouted: str) -> None:
        listed = [image(1), {"id": 2, "capability": "text"}]

        assert ids(chosen(listed, runnable=frozenset({"write"}), unrouted=unrouted)) == [2]
        assert chosen(listed, runnable=frozenset(), unrouted=unrouted) == []

    @pytest.mark.parametrize("unusable", [{}, {"id": "1"}, {"id": None, "capability": "image"}, {"prompt": "a"}])
    def test_passes_over_what_is_no_job(self, unusable: dict[str, Any]) -> None:
        assert ids(chosen([unusable, image(2), unusable])) == [2]

    def test_finds_nothing_in_an_empty_inbox(self) -> None:
        assert chosen([]) == []


class TestUnrouted:
    @pytest.mark.parametrize(
        ("registry", "fields", "why"),
        [
            (REGISTRY, {"capability": "video"}, "no handler takes job 1: it asks for capability video"),
            (REGISTRY, {"capabilities": ["image", "text"]}, "job 1 is taken by paint and by write equally"),
            (Registry([handler("paint", match=boom)]), {}, "job 1 cannot be routed: match= of paint raised"),
        ],
        ids=["none", "two", "raises"],
    )
    def test_is_claimed_with_the_reason_to_fail_it(self, registry: Registry, fields: dict[str, Any], why: str) -> None:
        (candidate,) = chosen([{"id": 1, **fields}], registry=registry, unrouted="fail")

        assert candidate.refusal.startswith(why)
        assert candidate.route == refused_route()

    @pytest.mark.parametrize(
        ("registry", "fields"),
        [
            (REGISTRY, {"capability": "video"}),
            (REGISTRY, {"capabilities": ["image", "text"]}),
            (Registry([handler("paint", match=boom)]), {}),
        ],
        ids=["none", "two", "raises"],
    )
    def test_stays_pending_where_it_is_to_be_left(self, registry: Registry, fields: dict[str, Any]) -> None:
        assert chosen([{"id": 1, **fields}], registry=registry, unrouted="leave") == []

    def test_is_failed_even_while_no_worker_is_online(self) -> None:
        assert ids(chosen([image(1), {"id": 2}], runnable=frozenset(), unrouted="fail")) == [2]

    def test_is_ordered_among_the_others(self) -> None:
        assert ids(chosen([image(1), {"id": 2, "priority": "high"}, image(3, priority="high")])) == [2, 3, 1]

    def test_counts_in_a_queue_of_its_own(self) -> None:
        assert refused_route().queue == REFUSED_QUEUE
        assert refused_route().task == ""

    def test_a_routed_job_has_no_refusal(self) -> None:
        assert chosen([image(1)])[0].refusal == ""


def entry(job_id: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "prompt": "paint", **fields}


class TestDoubt:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"prompt": ""},
            {"capability": None, "capabilities": None, "tags": None},
            {"capability": "image", "capabilities": "image, text", "tags": "gpu,eu"},
            {"capabilities": ["image"], "tags": []},
            {"capabilities": [{"name": "image", "risk_tier": "audit"}]},
            {"input": 7, "model": ["x"], "priority": 3, "anything": {}},
        ],
    )
    def test_has_no_reason_where_the_fields_are_as_the_protocol_has_them(self, fields: dict[str, Any]) -> None:
        assert doubt(entry(**fields)) == ""

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"prompt": None}, "its prompt is NoneType"),
            ({"prompt": 7}, "its prompt is int"),
            ({"prompt": {"text": "x"}}, "its prompt is dict"),
            ({"capability": 7}, "its capability is int"),
            ({"capability": ["image"]}, "its capability is list"),
            ({"capabilities": {"image": True}}, "its capabilities are dict"),
            ({"tags": 7}, "its tags are int"),
            ({"tags": ["gpu", None]}, "its tags are not all texts"),
            ({"capabilities": [["image"]]}, "its capabilities are not all texts"),
        ],
    )
    def test_names_the_field_and_not_its_content(self, fields: dict[str, Any], reason: str) -> None:
        assert doubt(entry(**fields)) == reason

    def test_is_of_a_job_without_a_prompt(self) -> None:
        assert doubt({"id": 1}) == "its prompt is NoneType"


class TestDoubts:
    def test_believe_what_is_as_it_should_be(self) -> None:
        listed = [entry(2), entry(1, tags=["gpu"])]

        assert Doubts().believed(listed, 0.0) == listed

    def test_believe_once_what_is_listed_twice(self) -> None:
        assert Doubts().believed([entry(1), entry(2), entry(1)], 0.0) == [entry(1), entry(2)]

    def test_do_not_keep_the_others_back(self) -> None:
        assert Doubts().believed([entry(1, prompt=7), entry(2)], 0.0) == [entry(2)]

    @pytest.mark.parametrize(
        "listed",
        [
            [entry(1, prompt=7)],
            [entry(1), entry(1, prompt="other")],
            [entry(1), entry(1, prompt="other"), entry(1)],
            [entry(1), entry(1, tags=["gpu"])],
        ],
        ids=["garbled", "twice", "three times", "other tags"],
    )
    def test_end_with_a_better_answer(self, listed: list[dict[str, Any]]) -> None:
        doubts = Doubts()

        assert doubts.believed(listed, 0.0) == []
        assert doubts.believed([entry(1)], 1.0) == [entry(1)]

    def test_end_after_a_while(self) -> None:
        doubts, listed = Doubts(), [entry(1, prompt=7)]
        for now in (1000.0, 1100.0, 1000.0 + DOUBT_SECONDS - 0.1):
            assert doubts.believed(listed, now) == []

        assert doubts.believed(listed, 1000.0 + DOUBT_SECONDS) == listed

    def test_begin_anew_after_a_better_answer(self) -> None:
        doubts, listed = Doubts(), [entry(1, prompt=7)]
        doubts.believed(listed, 0.0)
        doubts.believed([entry(1)], 100.0)
        doubts.believed(listed, 200.0)

        assert doubts.believed(listed, DOUBT_SECONDS) == []
        assert doubts.believed(listed, 200.0 + DOUBT_SECONDS) == listed

    def test_are_logged_once_and_without_the_jobs_content(self, caplog: pytest.LogCaptureFixture) -> None:
        doubts = Doubts()
        for now in (0.0, 1.0, 2.0):
            doubts.believed([entry(1), entry(1, prompt="secret")], now)

        assert [record.getMessage() for record in caplog.records] == [
            "job=1 waits for a better answer of the server: it is listed twice, and differently"
        ]
