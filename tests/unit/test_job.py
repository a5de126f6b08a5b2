"""A job: a mapping with all fields that the server sent, and attributes that are always usable."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import kombu.utils.json
import pytest
from celery.exceptions import Ignore

from mr_celery import Job
from mr_celery.errors import JobAborted, JobError, MrCeleryError

NONSENSE = (None, 7, True, 1.5, [], ["x"], {"a": 1})
"""Values in place of a text."""

FULL = {
    "id": 42,
    "prompt": "paint a cat",
    "assigned_to": "studio",
    "status": "pending",
    "input": {"size": [1024, 768]},
    "provider": "openai",
    "model": "gpt-image",
    "tier": "gold",
    "priority": "high",
    "tags": ["gpu", "art"],
    "capability": "image.generate",
    "customer": "ACME",
}


def job(**fields: Any) -> Job:
    return Job({"id": 1, **fields})


class TestMapping:
    def test_has_every_field_the_server_sent(self) -> None:
        assert dict(Job(FULL)) == FULL

    def test_looks_up_as_a_mapping_does(self) -> None:
        made = Job(FULL)

        assert isinstance(made, Mapping)
        assert made["customer"] == "ACME"
        assert made.get("nothing", "else") == "else"
        assert "customer" in made
        assert "nothing" not in made
        assert len(made) == len(FULL)
        with pytest.raises(KeyError, match="nothing"):
            made["nothing"]

    def test_cannot_be_changed(self) -> None:
        made: Any = job(prompt="a")

        with pytest.raises(TypeError):
            made["prompt"] = "b"
        with pytest.raises(TypeError):
            del made["prompt"]
        with pytest.raises(AttributeError):
            made.prompt = "b"
        with pytest.raises(AttributeError):
            made.anything = "b"

    def test_does_not_follow_changes_of_what_it_was_made_from(self) -> None:
        fields = {"id": 1, "prompt": "a"}
        made = Job(fields)
        fields["prompt"] = "b"

        assert made.prompt == "a"

    def test_equals_a_job_with_the_same_fields_and_hashes_alike(self) -> None:
        assert job(prompt="a") == job(prompt="a")
        assert hash(job(prompt="a")) == hash(job(prompt="a"))
        assert job(prompt="a") != job(prompt="b")
        assert len({job(prompt="a"), job(prompt="a"), job(prompt="b")}) == 2


class TestId:
    @pytest.mark.parametrize("job_id", [1, 42, 2**53 + 1, 2**63 - 1])
    def test_is_the_servers_number(self, job_id: int) -> None:
        assert Job({"id": job_id}).id == job_id

    @pytest.mark.parametrize(
        "job_id", [None, "1", "", 1.0, 1.5, float("nan"), True, False, -1, 2**63, 10**30, [], {}, [1]]
    )
    def test_is_refused_where_it_is_no_number_of_a_job(self, job_id: object) -> None:
        with pytest.raises(JobError, match="id"):
            Job({"id": job_id})

    @pytest.mark.parametrize("fields", [{}, {"prompt": "a"}, {"ID": 1}])
    def test_is_required(self, fields: dict[str, Any]) -> None:
        with pytest.raises(JobError, match="id"):
            Job(fields)

    @pytest.mark.parametrize(
        ("job_id", "told"), [("1", "str"), (None, "NoneType"), (True, "bool"), (-1, "-1"), (2**63, str(2**63))]
    )
    def test_refusal_says_what_it_is_instead(self, job_id: object, told: str) -> None:
        with pytest.raises(JobError, match=f"positive integer, not {told}$"):
            Job({"id": job_id})

    def test_refusal_is_an_error_of_ours(self) -> None:
        with pytest.raises(MrCeleryError):
            Job({})


class TestAttributes:
    @pytest.mark.parametrize("name", ["prompt", "assigned_to", "status", "provider", "model", "tier", "priority"])
    def test_is_the_text_that_was_sent(self, name: str) -> None:
        assert getattr(Job(FULL), name) == FULL[name]

    @pytest.mark.parametrize("name", ["prompt", "assigned_to", "status", "provider", "model", "tier"])
    @pytest.mark.parametrize("value", NONSENSE)
    def test_is_empty_where_nonsense_was_sent(self, name: str, value: object) -> None:
        assert getattr(job(**{name: value}), name) == ""

    @pytest.mark.parametrize("name", ["prompt", "assigned_to", "status", "provider", "model", "tier"])
    def test_is_empty_where_nothing_was_sent(self, name: str) -> None:
        assert getattr(job(), name) == ""

    @pytest.mark.parametrize("value", [None, 0, "", "text", [1, 2], {"a": {"b": None}}, False])
    def test_input_is_whatever_was_sent(self, value: object) -> None:
        assert job(input=value).input == value

    def test_input_is_none_where_nothing_was_sent(self) -> None:
        assert job().input is None


class TestPriority:
    @pytest.mark.parametrize(
        ("sent", "counts_as"),
        [
            ("high", "high"),
            ("normal", "normal"),
            ("low", "low"),
            ("HIGH", "high"),
            ("Low", "low"),
            ("urgent", "normal"),
            ("", "normal"),
            *((value, "normal") for value in NONSENSE),
        ],
    )
    def test_is_one_of_three(self, sent: object, counts_as: str) -> None:
        assert job(priority=sent).priority == counts_as

    def test_is_normal_where_nothing_was_sent(self) -> None:
        assert job().priority == "normal"


class TestTags:
    @pytest.mark.parametrize(
        ("sent", "tags"),
        [
            (["gpu", "art"], ("gpu", "art")),
            (("gpu",), ("gpu",)),
            ("gpu", ("gpu",)),
            ("gpu, art,,", ("gpu", "art")),
            ([" gpu ", ""], ("gpu",)),
            ([{"name": "gpu"}, {"label": "art"}, {"name": 7}], ("gpu",)),
            ([1, None, "gpu", ["art"]], ("gpu",)),
            ([], ()),
            ("", ()),
            (None, ()),
            (7, ()),
            ({"gpu": True}, ()),
        ],
    )
    def test_are_the_texts_among_what_was_sent(self, sent: object, tags: tuple[str, ...]) -> None:
        assert job(tags=sent).tags == tags

    def test_are_none_where_nothing_was_sent(self) -> None:
        assert job().tags == ()


class TestCapabilities:
    @pytest.mark.parametrize(
        ("fields", "capabilities"),
        [
            ({"capability": "image.generate"}, ("image.generate",)),
            ({"capability": " image.generate "}, ("image.generate",)),
            ({"capability": {"name": "image.generate"}}, ("image.generate",)),
            ({"capabilities": ["a", "b"]}, ("a", "b")),
            ({"capabilities": "a,b"}, ("a", "b")),
            ({"capabilities": [{"name": "a"}]}, ("a",)),
            ({"capability": "a", "capabilities": ["b"]}, ("a", "b")),
            ({"capability": "a", "tags": ["gpu"]}, ("a",)),
            ({"capabilities": ["a"], "tags": ["gpu"]}, ("a",)),
            ({"tags": ["gpu", "art"]}, ("gpu", "art")),
            ({"capability": None, "tags": ["gpu"]}, ("gpu",)),
            ({"capability": "", "capabilities": [], "tags": ["gpu"]}, ("gpu",)),
            ({"capability": 7, "capabilities": 8}, ()),
            ({}, ()),
        ],
    )
    def test_are_what_is_named_or_else_the_tags(self, fields: dict[str, Any], capabilities: tuple[str, ...]) -> None:
        assert job(**fields).capabilities == capabilities


class TestRepr:
    def test_names_the_job(self) -> None:
        assert repr(Job(FULL)) == "<Job 42>"

    @pytest.mark.parametrize("form", [repr, str, "{}".format, lambda made: f"{made!r}"])
    def test_hides_the_content(self, form: Any) -> None:
        shown = form(Job(FULL))

        assert "paint a cat" not in shown
        assert "ACME" not in shown


class TestJson:
    @pytest.mark.parametrize(
        "fields",
        [
            FULL,
            {"id": 2**63 - 1},
            {"id": 1, "prompt": "naïve 猫 🐈 \u2028 \x00", "input": [None, True, 1.5, {"a": []}]},
            {"id": 1, "prompt": "\ud800"},
        ],
    )
    @pytest.mark.parametrize("as_sent", [str, str.encode])
    def test_comes_back_as_it_was(self, fields: dict[str, Any], as_sent: Any) -> None:
        assert dict(Job.from_json(as_sent(Job(fields).to_json()))) == fields

    def test_text_without_a_job_is_refused(self) -> None:
        with pytest.raises(JobError):
            Job.from_json('{"prompt": "a"}')

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ('{"id": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "it is nested too deeply for this Python"),
            ('{"id": 1, "x": ' + "9" * 5000 + "}", "it has an integer of too many digits for this Python"),
            ('{"id": 1, "prompt": "secret', "it is not JSON (Unterminated string starting at)"),
            (b'{"id": 1, "x": "\xff"}', "it is not UTF-8"),
            ("[]", "it is not an object"),
        ],
        ids=["deep", "digits", "cut", "bytes", "list"],
    )
    def test_that_cannot_be_loaded_says_why_and_not_what(self, text: str | bytes, why: str) -> None:
        with pytest.raises(JobError) as caught:
            Job.from_json(text)
        assert str(caught.value) == f"the job cannot be loaded here: {why}"

    def test_is_a_plain_object_for_another_task(self) -> None:
        sent = kombu.utils.json.loads(kombu.utils.json.dumps({"args": [Job(FULL)]}))

        assert sent == {"args": [FULL]}

    def test_changes_by_another_task_do_not_reach_the_job(self) -> None:
        made = Job(FULL)
        made.__json__()["prompt"] = "changed"

        assert made.prompt == "paint a cat"


class TestAborted:
    def test_is_what_its_check_says(self) -> None:
        answers = [False, True]
        made = Job(FULL).watched(lambda: answers.pop(0))

        assert (made.aborted, made.aborted) == (False, True)

    def test_is_false_outside_of_a_run(self) -> None:
        assert not Job(FULL).aborted
        Job(FULL).raise_if_aborted()

    def test_raises_what_a_handler_lets_through(self) -> None:
        with pytest.raises(JobAborted) as caught:
            Job({"id": 7}).watched(lambda: True).raise_if_aborted()

        assert str(caught.value) == (
            "job 7 was aborted on the server or given to another worker: the handler must stop"
        )
        assert isinstance(caught.value, MrCeleryError)
        assert isinstance(caught.value, Ignore)  # autoretry_for= lets that pass

    def test_raises_nothing_while_the_run_has_its_job(self) -> None:
        Job(FULL).watched(lambda: False).raise_if_aborted()

    def test_a_watched_job_is_the_same_job(self) -> None:
        made = Job(FULL).watched(lambda: True)

        assert made == Job(FULL)
        assert hash(made) == hash(Job(FULL))
        assert dict(made) == FULL
        assert repr(made) == "<Job 42>"
        assert kombu.utils.json.loads(kombu.utils.json.dumps(made)) == FULL
        assert Job.from_json(made.to_json()) == made

    def test_a_watched_job_leaves_the_unwatched_one_alone(self) -> None:
        plain = Job(FULL)
        plain.watched(lambda: True)

        assert not plain.aborted

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_what_is_pickled_leaves_the_run(self, protocol: int) -> None:
        made = pickle.loads(pickle.dumps(Job(FULL).watched(lambda: True), protocol))

        assert made == Job(FULL)
        assert not made.aborted

    def test_a_copy_is_a_job(self) -> None:
        made = copy.deepcopy(Job(FULL).watched(lambda: True))

        assert made == Job(FULL)
        assert made["input"] is not FULL["input"]
