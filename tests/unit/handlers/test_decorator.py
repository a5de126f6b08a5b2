"""``@modelreins_job``: the declarations it adds to a task, and the behaviour it leaves unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from celery import Celery, Task, _state, shared_task
from celery.local import PromiseProxy

from mr_celery import Job, Review, modelreins_job
from mr_celery.errors import RoutingError
from mr_celery.handlers import Declaration, declared

pytestmark = pytest.mark.usefixtures("nothing_declared")


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """The current application, not yet finalized."""
    made = Celery("tests", set_as_current=False)
    monkeypatch.setattr(_state._tls, "current_app", made, raising=False)
    return made


def work(prompt: str) -> str:
    return f"did {prompt}"


def only() -> tuple[Any, Declaration]:
    """The one task that was declared."""
    (entry,) = declared()
    return entry


def lazy(app: Celery) -> Any:
    return app.task(work)


def lazy_with_options(app: Celery) -> Any:
    return app.task(name="named", bind=False, max_retries=2)(work)


def eager(app: Celery) -> Any:
    return app.task(lazy=False)(work)


def shared(app: Celery) -> Any:
    return shared_task(work)


def shared_with_options(app: Celery) -> Any:
    return shared_task(name="named")(work)


def task_class(app: Celery) -> Any:
    class Work(Task):
        name = "work"

        def run(self, prompt: str) -> str:
            return work(prompt)

    return Work


def task_instance(app: Celery) -> Any:
    return app.register_task(task_class(app)())


TARGETS = [lazy, lazy_with_options, eager, shared, shared_with_options, task_class, task_instance]
"""Everything that it goes above."""


class TestTarget:
    @pytest.mark.parametrize("target_of", TARGETS)
    @pytest.mark.parametrize(
        "decorator",
        [modelreins_job("image"), modelreins_job(), modelreins_job(tags=["gpu"]), modelreins_job],
        ids=["capability", "empty", "tags", "bare"],
    )
    def test_stays_the_very_same_object(
        self, app: Celery, target_of: Callable[[Celery], Any], decorator: Callable[[Any], Any]
    ) -> None:
        target = target_of(app)

        assert decorator(target) is target
        assert only()[0] is target

    @pytest.mark.parametrize("decorator", [modelreins_job("image"), modelreins_job], ids=["options", "bare"])
    @pytest.mark.parametrize("target_of", [lazy, lazy_with_options])
    def test_lazy_task_is_not_resolved(
        self, app: Celery, target_of: Callable[[Celery], Any], decorator: Callable[[Any], Any]
    ) -> None:
        target = target_of(app)
        assert type(target) is PromiseProxy

        decorator(target)

        assert not target.__evaluated__()
        assert not app.finalized

    @pytest.mark.parametrize("decorator", [modelreins_job("image"), modelreins_job], ids=["options", "bare"])
    @pytest.mark.parametrize("target_of", [shared, shared_with_options])
    def test_shared_task_is_not_resolved(
        self, app: Celery, target_of: Callable[[Celery], Any], decorator: Callable[[Any], Any]
    ) -> None:
        decorator(target_of(app))

        assert not app.finalized

    def test_lazy_task_is_still_not_resolved_when_the_declarations_are_listed(self, app: Celery) -> None:
        modelreins_job("image")(lazy(app))

        assert len(declared()) == 1
        assert not app.finalized

    @pytest.mark.parametrize("target_of", TARGETS)
    def test_works_for_all_other_callers_as_before(self, app: Celery, target_of: Callable[[Celery], Any]) -> None:
        target = modelreins_job("image")(target_of(app))
        task = app.register_task(target()) if inspect.isclass(target) else target

        assert task("it") == "did it"

    def test_options_of_the_task_stay(self, app: Celery) -> None:
        task = modelreins_job("image")(lazy_with_options(app))

        assert (task.name, task.max_retries) == ("named", 2)
        assert app.tasks["named"].run("it") == "did it"


class Nameless:
    """A callable without a name."""

    def __call__(self) -> None: ...


class TestWrongTarget:
    @pytest.mark.parametrize(
        ("target", "named"),
        [(work, "'work'"), (Nameless(), "'Nameless'"), (Nameless, "'Nameless'"), (Celery, "'Celery'")],
        ids=["function", "object", "class", "application"],
    )
    @pytest.mark.parametrize("decorator", [modelreins_job("image"), modelreins_job], ids=["options", "bare"])
    def test_is_refused_with_the_right_order(self, decorator: Callable[[Any], Any], target: Any, named: str) -> None:
        with pytest.raises(RoutingError, match=f"not above {named}: write it above @app.task or @shared_task"):
            decorator(target)

        assert declared() == []

    def test_is_refused_below_the_task_decorator(self, app: Celery) -> None:
        with pytest.raises(RoutingError, match="'work'"):
            app.task(modelreins_job("image")(work))

    @pytest.mark.parametrize("capability", [7, b"image", ["image"], {"image"}, True])
    def test_capability_that_is_not_text_is_refused(self, capability: Any) -> None:
        with pytest.raises(RoutingError):
            modelreins_job(capability)

    def test_options_beside_a_task_are_never_ignored(self, app: Celery) -> None:
        untyped: Any = modelreins_job

        try:
            untyped(lazy(app), tags=["gpu"], max_attempts=1)
        except RoutingError:
            return
        assert only()[1] == Declaration(tags=frozenset({"gpu"}), max_attempts=1)

    def test_a_task_decorated_twice_is_refused(self, app: Celery) -> None:
        task = modelreins_job("image")(lazy(app))

        with pytest.raises(RoutingError, match="already decorated"):
            modelreins_job("video")(task)


def function(*_: Any) -> Any: ...


class TestDeclaration:
    @pytest.mark.parametrize("decorator", [modelreins_job, modelreins_job()], ids=["bare", "empty"])
    def test_without_anything_takes_any_job(self, app: Celery, decorator: Callable[[Any], Any]) -> None:
        decorator(lazy(app))

        assert only()[1] == Declaration()
        assert only()[1].fits(Job({"id": 1}))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("match", function),
            *(("risk_tier", tier) for tier in ("auto", "audit", "approve", "session", None)),
            ("arguments", function),
            ("result", function),
            ("on_error", function),
            *(("max_attempts", attempts) for attempts in (1, 10, None)),
            *(("on_lost", action) for action in ("requeue", "fail")),
            ("review", function),
            ("review", Review("audit", "look at it")),
            ("review", None),
        ],
    )
    def test_keeps_each_option(self, app: Celery, name: str, value: Any) -> None:
        modelreins_job("image", **{name: value})(lazy(app))

        assert only()[1] == Declaration(capabilities=("image",), **{name: value})

    @pytest.mark.parametrize("tags", [["gpu", "art"], ("art", "gpu"), {"gpu", "art"}, iter(["gpu", "art", "gpu"])])
    def test_tags_are_a_set(self, app: Celery, tags: Any) -> None:
        modelreins_job(tags=tags)(lazy(app))

        assert only()[1].tags == {"gpu", "art"}

    def test_capability_may_be_a_member_of_a_text_enumeration(self, app: Celery) -> None:
        class Capability(str, Enum):
            IMAGE = "image"

        modelreins_job(Capability.IMAGE)(lazy(app))

        assert only()[1].fits(Job({"id": 1, "capability": "image"}))

    def test_several_capabilities(self, app: Celery) -> None:
        modelreins_job("text.sum", "text.title", "text.sum", requires_secrets=iter(["vault://a"]))(lazy(app))

        declaration = only()[1]
        assert (declaration.capabilities, declaration.requires_secrets) == (("text.sum", "text.title"), ("vault://a",))
        assert declaration.offers == "text.sum or text.title"
        assert declaration.names == {"text.sum", "text.title"}
        for capability in declaration.capabilities:
            assert declaration.fits(Job({"id": 1, "capability": capability}))
        assert not declaration.fits(Job({"id": 1, "capability": "text"}))

    @pytest.mark.parametrize(
        ("fields", "declared_fields"),
        [(None, None), ((), ()), (["prompt", "input", "prompt"], ("prompt", "input")), (iter(["input"]), ("input",))],
    )
    def test_fields(self, app: Celery, fields: Any, declared_fields: Any) -> None:
        modelreins_job("image", fields=fields)(lazy(app))

        assert only()[1].fields == declared_fields

    def test_come_in_the_order_of_decoration(self, app: Celery) -> None:
        first, second = lazy(app), shared(app)

        modelreins_job("a")(first)
        modelreins_job("b")(second)

        assert [(target is first, declaration.capabilities) for target, declaration in declared()] == [
            (True, ("a",)),
            (False, ("b",)),
        ]

    def test_list_is_a_copy(self, app: Celery) -> None:
        modelreins_job("a")(lazy(app))
        declared().clear()

        assert len(declared()) == 1


class TestWrongOption:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            *(({"tags": tags}, "tags= takes a list of strings") for tags in ("gpu", "", [1], [None], [""], [["gpu"]])),
            *(({"tags": tags}, "tags= takes a list of strings") for tags in (None, 7, True)),
            *(
                ({name: value}, f"{name}= takes a function")
                for name in ("match", "arguments", "result", "on_error")
                for value in ("name", 7, [], {}, True)
            ),
            *(
                ({"risk_tier": value}, "is not one of auto, audit, approve, session")
                for value in ("", "AUTO", "none", 1, True, [])
            ),
            *(
                ({"max_attempts": value}, "is not a whole number from 1")
                for value in (0, -1, 1.0, "3", True, False, [], float("nan"))
            ),
            *(({"on_lost": value}, "is neither 'requeue' nor 'fail'") for value in ("", "retry", None, True, [])),
            *(({"review": value}, "review= takes a Review, or a function") for value in ("title", 7, [], {}, True)),
            *(
                ({"requires_secrets": value}, "takes a list of names such as 'vault://prod/stripe-key'")
                for value in ("vault://a", None, 7, ["a"], ["vault://"], [None])
            ),
            *(
                ({"fields": value}, "fields= takes a list of names of parameters such as 'prompt'")
                for value in ("prompt", 7, True, [7], [None], [""], ["two words"], ["a-b"])
            ),
            ({"fields": ["prompt"], "arguments": dict}, "arguments= makes all arguments, so fields= has no effect"),
            ({"capabilities": ["image"]}, "capabilities"),
            ({"priority": "high"}, "priority"),
        ],
        ids=lambda value: None if isinstance(value, str) else str(value),
    )
    def test_is_refused_where_it_is_written(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(RoutingError) as refused:
            modelreins_job("image", **options)

        assert str(refused.value).startswith("@modelreins_job('image'): ")
        assert said in str(refused.value)

    def test_secrets_without_a_capability_are_refused(self) -> None:
        with pytest.raises(RoutingError, match="requires_secrets= needs a capability"):
            modelreins_job(tags=["gpu"], requires_secrets=["vault://a"])

    @pytest.mark.parametrize("further", ["", " ", 7, None])
    def test_further_capability_without_a_name_is_refused(self, further: Any) -> None:
        with pytest.raises(RoutingError, match="a capability is a name such as"):
            modelreins_job("image", further)

    @pytest.mark.parametrize("capability", ["", " ", "\t\n"])
    def test_capability_without_a_name_is_refused(self, capability: str) -> None:
        with pytest.raises(RoutingError, match=r"a capability is a name such as 'image\.generate'"):
            modelreins_job(capability)
