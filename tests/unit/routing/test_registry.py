"""Which of several handlers takes a job."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery import Job
from mr_celery.errors import RoutingError
from mr_celery.routing import Declaration, Handler, Registry


def accepts(prompt: str = "") -> None: ...


def positional_only(prompt: str, /) -> None: ...


def handler(name: str, run: Callable[..., Any] = accepts, **declaration: Any) -> Handler:
    """A handler of that name; ``tags`` may be any iterable."""
    declaration["tags"] = frozenset(declaration.get("tags", ()))
    return Handler(SimpleNamespace(name=name, run=run), Declaration(**declaration))


def job(**fields: Any) -> Job:
    return Job({"id": 7, **fields})


def urgent(job: Job) -> bool:
    return job.priority == "high"


def painting(job: Job) -> bool:
    return "paint" in job.prompt


def broken(job: Job) -> bool:
    raise ZeroDivisionError("boom")


STUDIO = (
    handler("default"),
    handler("urgent", match=urgent),
    handler("gpu", tags=["gpu"]),
    handler("gpu-art", tags=["gpu", "art"]),
    handler("gpu-urgent", tags=["gpu"], match=urgent),
    handler("image", capability="image"),
    handler("image-gpu", capability="image", tags=["gpu"]),
    handler("image-urgent", capability="image", match=urgent),
)
"""A handler of each precision."""

ROUTES = [
    ({}, "default"),
    ({"prompt": "anything", "capability": "unheard-of"}, "default"),
    ({"priority": "high"}, "urgent"),
    ({"tags": ["gpu"]}, "gpu"),
    ({"tags": ["art"]}, "default"),
    ({"tags": ["gpu", "other"]}, "gpu"),
    ({"tags": ["art", "gpu"]}, "gpu-art"),
    ({"tags": ["gpu"], "priority": "high"}, "gpu-urgent"),
    ({"tags": ["art", "gpu"], "priority": "high"}, "gpu-art"),
    ({"capability": "image"}, "image"),
    ({"capabilities": ["text", "image"]}, "image"),
    ({"tags": ["image"]}, "image"),
    ({"capability": "image", "tags": ["art"]}, "image"),
    ({"capability": "image", "tags": ["gpu", "art"]}, "image-gpu"),
    ({"capability": "image", "priority": "high"}, "image-urgent"),
    ({"capability": "image", "tags": ["gpu"], "priority": "high"}, "image-gpu"),
    ({"capability": "IMAGE"}, "default"),
]
"""Fields of a job, and which handler of the studio takes it."""


class TestRoute:
    @pytest.mark.parametrize(("fields", "name"), ROUTES)
    @pytest.mark.parametrize("order", [tuple, lambda handlers: reversed(list(handlers))], ids=["declared", "reversed"])
    def test_is_the_handler_that_names_the_job_most_exactly(
        self, order: Callable[[Any], Any], fields: dict[str, Any], name: str
    ) -> None:
        assert Registry(order(STUDIO)).route(job(**fields)).name == name

    def test_any_true_answer_of_match_takes_the_job(self) -> None:
        registry = Registry([handler("found", match=lambda job: job.prompt), handler("default")])

        assert registry.route(job(prompt="text")).name == "found"
        assert registry.route(job(prompt="")).name == "default"

    def test_two_that_take_a_job_equally_are_both_named(self) -> None:
        registry = Registry([handler("first", match=urgent), handler("second", match=painting), handler("default")])

        assert registry.route(job(priority="high")).name == "first"
        assert registry.route(job(prompt="paint")).name == "second"
        with pytest.raises(RoutingError, match=r"^job 7 is taken by first and by second equally: .*match="):
            registry.route(job(priority="high", prompt="paint"))

    def test_two_sets_of_tags_of_the_same_size_are_equal(self) -> None:
        registry = Registry([handler("first", tags=["gpu"]), handler("second", tags=["art"])])

        assert registry.route(job(tags=["art"])).name == "second"
        with pytest.raises(RoutingError, match="first and by second equally"):
            registry.route(job(tags=["gpu", "art"]))

    def test_two_capabilities_of_one_job_are_equal(self) -> None:
        registry = Registry([handler("first", capability="a"), handler("second", capability="b")])

        with pytest.raises(RoutingError, match="first and by second equally"):
            registry.route(job(capabilities=["a", "b"]))

    def test_a_more_exact_one_settles_an_ambiguity(self) -> None:
        registry = Registry(
            [handler("first", match=urgent), handler("second", match=painting), handler("both", tags=["gpu"])]
        )

        assert registry.route(job(priority="high", prompt="paint", tags=["gpu"])).name == "both"

    @pytest.mark.parametrize(
        ("fields", "asked"),
        [
            ({"capability": "video"}, "capability video"),
            ({"capabilities": ["video", "audio"]}, "capability video, audio"),
            ({"tags": ["art"]}, "capability art"),
            ({}, "no capability"),
        ],
    )
    def test_without_one_the_message_names_what_is_asked_and_offered(self, fields: dict[str, Any], asked: str) -> None:
        registry = Registry(
            [
                handler("a", capability="text"),
                handler("b", capability="image", tags=["gpu", "big"]),
                handler("c", match=urgent),
                handler("d", tags=["gpu"]),
            ]
        )

        with pytest.raises(RoutingError) as refused:
            registry.route(job(**fields))

        assert str(refused.value) == (
            f"no handler takes job 7: it asks for {asked}; "
            "this worker offers: image + tag big + tag gpu, tag gpu, text, urgent"
        )

    def test_without_any_handler_the_message_says_so(self) -> None:
        with pytest.raises(RoutingError, match=r"this worker offers: nothing$"):
            Registry([]).route(job())

    def test_the_message_tells_nothing_of_the_prompt(self) -> None:
        with pytest.raises(RoutingError) as refused:
            Registry([]).route(job(prompt="hush"))

        assert "hush" not in str(refused.value)


class TestRaisingMatch:
    def test_is_told_with_the_handlers_name(self) -> None:
        with pytest.raises(
            RoutingError, match=r"^job 7 cannot be routed: match= of wrong raised ZeroDivisionError: boom$"
        ) as refused:
            Registry([handler("wrong", match=broken), handler("default")]).route(job())

        assert isinstance(refused.value.__cause__, ZeroDivisionError)

    def test_is_not_asked_of_a_job_that_another_one_takes_more_exactly(self) -> None:
        registry = Registry([handler("wrong", match=broken), handler("image", capability="image")])

        assert registry.route(job(capability="image")).name == "image"

    def test_is_not_asked_of_a_job_that_lacks_its_capability_or_tags(self) -> None:
        registry = Registry(
            [
                handler("wrong", capability="image", match=broken),
                handler("as-wrong", tags=["gpu"], match=broken),
                handler("default"),
            ]
        )

        assert registry.route(job()).name == "default"


class TestContradictions:
    @pytest.mark.parametrize(
        ("declaration", "offer"),
        [
            ({}, "any job"),
            ({"capability": "image"}, "image"),
            ({"tags": ["gpu", "art"]}, "tag art + tag gpu"),
            ({"match": urgent}, "urgent"),
            ({"capability": "image", "tags": ["gpu"], "match": urgent}, "image + tag gpu + urgent"),
        ],
    )
    def test_two_that_take_jobs_the_same_way_are_refused_and_named(
        self, declaration: dict[str, Any], offer: str
    ) -> None:
        handlers = [handler("first", **declaration), handler("other", capability="x"), handler("second", **declaration)]

        with pytest.raises(RoutingError) as refused:
            Registry(handlers)

        assert str(refused.value).startswith(f"first and second both take {offer}: ")

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"capability": "a"}, {"capability": "b"}),
            ({"capability": "a"}, {"tags": ["a"]}),
            ({"capability": "a"}, {"capability": "a", "tags": ["gpu"]}),
            ({"capability": "a"}, {"capability": "a", "match": urgent}),
            ({"tags": ["gpu"]}, {"tags": ["gpu", "art"]}),
            ({"match": urgent}, {"match": painting}),
            ({"match": urgent}, {}),
        ],
    )
    def test_two_that_differ_are_allowed(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        registry = Registry([handler("first", **first), handler("second", **second)])

        assert {each.name for each in registry.handlers} == {"first", "second"}

    def test_parameters_that_no_field_can_fill_are_refused_at_the_start(self) -> None:
        with pytest.raises(RoutingError, match=r"^wrong: its parameter 'prompt' is positional-only"):
            Registry([handler("right", capability="a"), handler("wrong", positional_only)])

    def test_such_parameters_are_allowed_where_the_declaration_makes_the_arguments(self) -> None:
        made = handler("right", positional_only, arguments=lambda job: {})

        assert Registry([made]).named("right") is made


class TestRegistry:
    def test_finds_a_handler_by_its_tasks_name(self) -> None:
        registry = Registry(STUDIO)

        assert registry.named("gpu-art") is STUDIO[3]
        assert registry.named("unheard-of") is None

    @pytest.mark.parametrize(
        ("declarations", "offered"),
        [
            ([], []),
            ([{}], []),
            ([{"match": urgent}], []),
            ([{"capability": "text"}, {"capability": "image"}], ["image", "text"]),
            ([{"tags": ["gpu", "art"]}], ["art", "gpu"]),
            ([{"capability": "image", "tags": ["gpu"]}, {"capability": "image"}, {"tags": ["gpu"]}], ["gpu", "image"]),
        ],
    )
    def test_offers_each_declared_name_once_and_sorted(
        self, declarations: list[dict[str, Any]], offered: list[str]
    ) -> None:
        registry = Registry(handler(f"task{index}", **each) for index, each in enumerate(declarations))

        assert registry.offered == offered
