"""The most urgent jobs of a list are selected while it is read."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mr_celery import Job
from mr_celery.server.job_list import MostUrgent, malformed, urgency


def entry(job_id: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "prompt": "paint", **fields}


class TestMalformed:
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
        assert malformed(entry(**fields)) == ""

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
            ({"tags": ["gpu", None]}, "its tags are not all strings"),
            ({"capabilities": [["image"]]}, "its capabilities are not all strings"),
        ],
    )
    def test_names_the_field_and_not_its_content(self, fields: dict[str, Any], reason: str) -> None:
        assert malformed(entry(**fields)) == reason

    def test_is_an_entry_without_a_prompt(self) -> None:
        assert malformed({"id": 1}) == "its prompt is NoneType"


def taken(*listed: dict[str, Any], **options: Any) -> tuple[list[Job], list[str | None]]:
    """The kept jobs of a list, and the verdict on each entry."""
    found: MostUrgent[Job] = MostUrgent(options.pop("choose", lambda job: job), **options)
    said = [found.take(fields, options.get("size", 1)) for fields in listed]
    return list(found), said


TWICE = "it is listed twice with different fields"


class TestMostUrgent:
    def test_leaves_out_what_is_malformed_and_nothing_else(self) -> None:
        assert taken(entry(1, prompt=7), entry(2)) == ([Job(entry(2))], ["its prompt is int", None])

    def test_keeps_once_what_is_listed_twice(self) -> None:
        assert taken(entry(1), entry(2), entry(1)) == ([Job(entry(1)), Job(entry(2))], [None] * 3)

    @pytest.mark.parametrize(
        ("listed", "said"),
        [
            ([entry(1), entry(1, prompt="other")], [None, TWICE]),
            ([entry(1), entry(1, prompt="other"), entry(1)], [None, TWICE, TWICE]),
            ([entry(1), entry(1, tags=["gpu"])], [None, TWICE]),
            ([entry(1), entry(1, prompt=7)], [None, "its prompt is int"]),
            ([entry(1, prompt=7), entry(1)], ["its prompt is int", TWICE]),
        ],
        ids=["twice", "three times", "other tags", "then malformed", "first malformed"],
    )
    def test_ignores_two_entries_that_differ(self, listed: list[dict[str, Any]], said: list[str | None]) -> None:
        assert taken(*listed, entry(2)) == ([Job(entry(2))], [*said, None])

    def test_believes_none_of_two_of_which_one_is_not_wanted(self) -> None:
        found = taken(entry(1, tags=["no"]), entry(1), choose=lambda job: None if job.tags else job)
        assert found == ([], [None, TWICE])

    @pytest.mark.parametrize("seed", range(20))
    def test_keeps_the_most_urgent_in_whatever_order_they_come(self, seed: int) -> None:
        dice = random.Random(seed)
        listed = [entry(job_id, priority=dice.choice(("high", "normal", "low"))) for job_id in range(300)]
        first = sorted(map(Job, listed), key=urgency)[:37]
        dice.shuffle(listed)
        assert taken(*listed, most=37)[0] == first

    def test_keeps_no_more_characters_than_it_may(self) -> None:
        found = MostUrgent(lambda job: job.id, most_bytes=100)
        for job_id in range(50, 0, -1):
            found.take(entry(job_id), 30)
        assert list(found) == [1, 2, 3]

    def test_keeps_one_however_long_it_is(self) -> None:
        found = MostUrgent(lambda job: job.id, most_bytes=100)
        for job_id in (3, 1, 2):
            found.take(entry(job_id), 1000)
        assert list(found) == [1]

    def test_looks_no_further_at_what_has_no_room(self) -> None:
        asked: list[int] = []
        found = MostUrgent(lambda job: asked.append(job.id) or job, most=10)
        for job_id in range(1000):
            found.take(entry(job_id), 1)
        assert asked == list(range(11))
