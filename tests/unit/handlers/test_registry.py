"""The choice of the handler for a job."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery import Job
from mr_celery.errors import RoutingError
from mr_celery.handlers import Declaration, Handler, MatchRaised, Registry


def accepts(prompt: str = "") -> None: ...


def positional_only(prompt: str, /) -> None: ...


def yields(prompt: str) -> Iterator[str]:
    yield prompt


async def yields_later(prompt: str) -> AsyncIterator[str]:
    yield prompt


def handler(name: str, run: Callable[..., Any] = accepts, **declaration: Any) -> Handler:
    """A handler of that name; ``tags`` may be any iterable."""
    declaration["tags"] = frozenset(declaration.get("tags", ()))
    if "capability" in declaration:
        declaration["capabilities"] = (declaration.pop("capability"),)
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
    def test_is_the_most_specific_handler(self, order: Callable[[Any], Any], fields: dict[str, Any], name: str) -> None:
        assert Registry(order(STUDIO), undeclared="run").route(job(**fields)).name == name

    def test_any_true_answer_of_match_takes_the_job(self) -> None:
        registry = Registry([handler("found", match=lambda job: job.prompt), handler("default")])

        assert registry.route(job(prompt="text")).name == "found"
        assert registry.route(job(prompt="")).name == "default"

    def test_two_that_take_a_job_equally_are_both_named(self) -> None:
        registry = Registry([handler("first", match=urgent), handler("second", match=painting), handler("default")])

        assert registry.route(job(priority="high")).name == "first"
        assert registry.route(job(prompt="paint")).name == "second"
        with pytest.raises(RoutingError, match=r"^first and second match job 7 equally well: .*match="):
            registry.route(job(priority="high", prompt="paint"))

    def test_two_sets_of_tags_of_the_same_size_are_equal(self) -> None:
        registry = Registry([handler("first", tags=["gpu"]), handler("second", tags=["art"])])

        assert registry.route(job(tags=["art"])).name == "second"
        with pytest.raises(RoutingError, match="first and second match job"):
            registry.route(job(tags=["gpu", "art"]))

    def test_two_capabilities_of_one_job_are_equal(self) -> None:
        registry = Registry([handler("first", capability="a"), handler("second", capability="b")])

        with pytest.raises(RoutingError, match="first and second match job"):
            registry.route(job(capabilities=["a", "b"]))

    def test_a_more_specific_one_settles_an_ambiguity(self) -> None:
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
    def test_without_one_the_message_names_what_is_required_and_offered(
        self, fields: dict[str, Any], asked: str
    ) -> None:
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
            f"no handler takes job 7: it requires {asked}; "
            "this worker offers: image + tag big + tag gpu, tag gpu, text, urgent"
        )

    def test_without_any_handler_the_message_says_so(self) -> None:
        with pytest.raises(RoutingError, match=r"this worker offers: nothing$"):
            Registry([]).route(job())

    def test_the_message_does_not_have_the_prompt(self) -> None:
        with pytest.raises(RoutingError) as refused:
            Registry([]).route(job(prompt="hush"))

        assert "hush" not in str(refused.value)


class TestRaisingMatch:
    def test_is_reported_with_the_handler_and_the_place(self) -> None:
        with pytest.raises(MatchRaised) as refused:
            Registry([handler("wrong", match=broken), handler("default")]).route(job())

        line = broken.__code__.co_firstlineno + 1
        assert str(refused.value) == f"wrong: match= raised ZeroDivisionError, in broken ({__file__}:{line})"
        assert refused.value.task_name == "wrong"
        assert isinstance(refused.value.__cause__, ZeroDivisionError)

    def test_the_place_is_the_line_of_the_function_itself(self) -> None:
        def inner(job: Job) -> bool:
            return broken(job)

        with pytest.raises(MatchRaised, match=rf"in inner \(.*:{inner.__code__.co_firstlineno + 1}\)$"):
            Registry([handler("wrong", match=inner)]).route(job())

    def test_a_function_without_lines_has_no_place(self) -> None:
        with pytest.raises(MatchRaised, match=r"^wrong: match= raised KeyError$"):
            Registry([handler("wrong", match=operator.itemgetter("no such field"))]).route(job())

    def test_the_message_has_no_field_of_the_job(self) -> None:
        def repeat(job: Job) -> bool:
            raise ValueError(job.prompt)

        with pytest.raises(MatchRaised) as refused:
            Registry([handler("wrong", match=repeat)]).route(job(prompt="hush"))

        assert "hush" not in str(refused.value)

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
    def test_may_raise_a_base_exception(self, kind: type[BaseException]) -> None:
        def leave(job: Job) -> bool:
            raise kind("boom")

        with pytest.raises(MatchRaised, match=rf"match= raised {kind.__name__}, in leave "):
            Registry([handler("wrong", match=leave)]).route(job())

    def test_may_raise_an_unprintable_exception(self) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise SystemExit

        def leave(job: Job) -> bool:
            raise Mute

        with pytest.raises(MatchRaised, match="match= raised Mute, in leave "):
            Registry([handler("wrong", match=leave)]).route(job())

    def test_may_return_what_has_no_truth(self) -> None:
        class Neither:
            def __bool__(self) -> bool:
                raise SystemExit

        with pytest.raises(MatchRaised, match="match= raised SystemExit"):
            Registry([handler("wrong", match=lambda job: Neither())]).route(job())

    def test_is_not_called_for_a_job_of_a_more_specific_handler(self) -> None:
        registry = Registry([handler("wrong", match=broken), handler("image", capability="image")])

        assert registry.route(job(capability="image")).name == "image"

    def test_is_not_called_for_a_job_without_its_capability_or_tags(self) -> None:
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

    @pytest.mark.parametrize(
        ("fields", "why"), [(("prompt", "size"), "fields= .* has 'size'"), ((), "its parameter 'prompt' is required")]
    )
    def test_fields_that_cannot_work_are_refused_at_the_start(self, fields: tuple[str, ...], why: str) -> None:
        with pytest.raises(RoutingError, match=f"^wrong: {why}"):
            Registry([handler("wrong", lambda prompt: None, fields=fields)])

    def test_a_task_that_collects_messages_by_itself_is_refused_at_the_start(self) -> None:
        batches = Handler(SimpleNamespace(name="wrong", run=accepts, Strategy=lambda *_: None), Declaration())
        with pytest.raises(RoutingError, match=r"^wrong cannot take single jobs"):
            Registry([batches])

    @pytest.mark.parametrize("generator", [yields, yields_later])
    def test_a_generator_is_refused_at_the_start(self, generator: Callable[..., Any]) -> None:
        with pytest.raises(RoutingError, match=r"^wrong is a generator \(it has yield\)"):
            Registry([handler("wrong", generator)])

    def test_such_parameters_are_allowed_where_the_declaration_makes_the_arguments(self) -> None:
        made = handler("right", positional_only, arguments=lambda job: {})

        assert Registry([made]).named("right") is made


class TestUndeclaredCapability:
    def test_is_refused_by_a_handler_without_conditions(self) -> None:
        registry = Registry([handler("default"), handler("image", capability="image")])
        with pytest.raises(RoutingError) as refused:
            registry.route(job(capability="email.send"))
        assert str(refused.value) == (
            "no handler takes job 7: it requires capability email.send, which no handler declares. Declare it with "
            "@modelreins_job('email.send'), or set modelreins_undeclared to 'run' to let default take such jobs"
        )

    def test_may_be_allowed_and_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        registry = Registry([handler("default"), handler("image", capability="image")], undeclared="run")
        for _ in range(3):
            assert registry.route(job(capabilities=["email.send"])).name == "default"
        assert caplog.messages == [
            "default takes jobs that require capability 'email.send', which no handler declares (modelreins_undeclared)"
        ]

    @pytest.mark.parametrize(
        "fields", [{}, {"tags": ["email.send"]}, {"capability": "image", "tags": ["other"]}, {"capability": 7}]
    )
    def test_does_not_concern_other_jobs(self, fields: dict[str, Any]) -> None:
        registry = Registry([handler("default"), handler("image-gpu", capability="image", tags=["gpu"])])
        assert registry.route(job(**fields)).name == "default"

    def test_does_not_concern_handlers_with_conditions(self) -> None:
        registry = Registry([handler("gpu", tags=["gpu"]), handler("urgent", match=urgent)])
        assert registry.route(job(capability="email.send", tags=["gpu"])).name == "gpu"
        assert registry.route(job(capability="email.send", priority="high")).name == "urgent"


class TestSeveralCapabilities:
    def test_the_handler_that_covers_most_of_a_job_gets_it(self) -> None:
        both = handler("both", capabilities=("a", "b"), tags=["x"])
        registry = Registry([both, handler("one", capability="a", tags=["y"])])
        assert registry.route(job(capabilities=["a", "b"], tags=["x", "y"])).name == "both"

    def test_two_handlers_of_one_capability_are_refused(self) -> None:
        with pytest.raises(RoutingError, match=r"^first and second both take b: give them"):
            Registry([handler("first", capabilities=("a", "b")), handler("second", capabilities=("b", "c"))])


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
