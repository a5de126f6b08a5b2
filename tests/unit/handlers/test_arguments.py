"""The mapping of a job's fields to a handler's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from mr_celery import Job
from mr_celery.errors import JobError
from mr_celery.handlers import bind, filled
from mr_celery.handlers.arguments import by_name as by_name_for_routers
from mr_celery.handlers.arguments import check_signature

JOB = Job({"id": 7, "prompt": "paint a cat", "model": "m1", "args": "a", "kwargs": "k", "nothing": None})


def by_name(prompt: str, model: str) -> None: ...
def whole_job(job: Job) -> None: ...
def job_and_fields(model: str, job: Job, prompt: str) -> None: ...
def nothing_at_all() -> None: ...
def unknown_with_default(prompt: str, size: int = 3) -> None: ...
def known_with_default(model: str = "other") -> None: ...
def keyword_only(*, prompt: str, size: int = 3) -> None: ...
def catches_keywords(prompt: str, **kwargs: Any) -> None: ...
def catches_positions(prompt: str, *args: Any) -> None: ...
def optional_positional_only(prompt: str = "default", /, model: str = "") -> None: ...
def null_field(nothing: str = "default") -> None: ...
def job_id(id: int) -> None: ...


def one_missing(prompt: str, size: int) -> None: ...
def two_missing(size: int, *, style: str) -> None: ...


class TestBind:
    @pytest.mark.parametrize(
        ("handler", "bound"),
        [
            (by_name, {"prompt": "paint a cat", "model": "m1"}),
            (whole_job, {"job": JOB}),
            (job_and_fields, {"model": "m1", "job": JOB, "prompt": "paint a cat"}),
            (nothing_at_all, {}),
            (unknown_with_default, {"prompt": "paint a cat"}),
            (known_with_default, {"model": "m1"}),
            (keyword_only, {"prompt": "paint a cat"}),
            (catches_keywords, {"prompt": "paint a cat"}),
            (catches_positions, {"prompt": "paint a cat"}),
            (optional_positional_only, {"model": "m1"}),
            (null_field, {"nothing": None}),
            (job_id, {"id": 7}),
            (lambda prompt: prompt, {"prompt": "paint a cat"}),
        ],
    )
    def test_gives_each_parameter_the_field_of_its_name(
        self, handler: Callable[..., Any], bound: dict[str, Any]
    ) -> None:
        assert bind(handler, JOB) == bound
        handler(**bind(handler, JOB))

    def test_the_parameter_named_job_is_the_job_itself_even_where_it_has_such_a_field(self) -> None:
        job = Job({"id": 7, "job": "a field"})

        assert bind(whole_job, job)["job"] is job

    @pytest.mark.parametrize(
        ("handler", "named"),
        [(one_missing, "'size'"), (two_missing, "'size' and no field 'style'")],
    )
    def test_a_required_field_that_is_missing_is_named_with_what_there_is(
        self, handler: Callable[..., Any], named: str
    ) -> None:
        with pytest.raises(JobError) as refused:
            bind(handler, Job({"id": 7, "prompt": "hush", "model": "m1"}))

        assert str(refused.value) == (
            f"job 7 has no field {named}, which the handler requires; it has id, model, prompt"
        )

    def test_the_self_of_a_bound_task_is_not_a_parameter(self) -> None:
        app = Celery(set_as_current=False)

        @app.task(bind=True)
        def handler(self: Any, prompt: str) -> None: ...

        assert bind(handler.run, JOB) == {"prompt": "paint a cat"}


def internal(prompt: str, model: str = "ours", *, account: str = "sales") -> None: ...
def all_of_it(job: Job, account: str = "sales") -> None: ...


HOSTILE = Job({"id": 7, "prompt": "hush", "model": "m1", "account": "mine"})


class TestFields:
    @pytest.mark.parametrize(
        ("handler", "fields", "bound"),
        [
            (internal, None, {"prompt": "hush", "model": "m1", "account": "mine"}),
            (internal, ("prompt",), {"prompt": "hush"}),
            (internal, ("prompt", "model"), {"prompt": "hush", "model": "m1"}),
            (all_of_it, (), {"job": HOSTILE}),
            (all_of_it, ("account",), {"job": HOSTILE, "account": "mine"}),
        ],
    )
    def test_only_they_fill_parameters(
        self, handler: Callable[..., Any], fields: tuple[str, ...] | None, bound: dict[str, Any]
    ) -> None:
        assert bind(handler, HOSTILE, fields=fields) == bound
        assert by_name_for_routers(handler, HOSTILE, fields) == bound
        assert filled(handler, fields) == [name for name in bound if name != "job"]

    def test_a_retry_of_the_handler_may_fill_the_others(self) -> None:
        bound = bind(internal, HOSTILE, fields=("prompt",), given_kwargs={"account": "returns"})
        assert bound == {"prompt": "hush", "account": "returns"}

    @pytest.mark.parametrize(
        ("handler", "fields", "why"),
        [
            (internal, ("promt",), "its parameter 'prompt' is required"),
            (internal, ("prompt", "size"), "has 'size', and it has no parameter of that name"),
            (internal, (), "its parameter 'prompt' is required"),
            (catches_keywords, ("prompt", "kwargs"), "has 'kwargs', and it has no parameter of that name"),
            (catches_keywords, ("prompt", "more"), "has 'more', and it has no parameter of that name"),
        ],
    )
    def test_that_cannot_work_are_refused(self, handler: Callable[..., Any], fields: tuple[str, ...], why: str) -> None:
        assert why in (check_signature(handler, "proj.task", fields) or "")

    @pytest.mark.parametrize(
        ("handler", "fields"), [(internal, ("prompt",)), (all_of_it, ()), (all_of_it, ("job",)), (one_missing, None)]
    )
    def test_that_can_work_are_accepted(self, handler: Callable[..., Any], fields: tuple[str, ...] | None) -> None:
        assert check_signature(handler, "proj.task", fields) is None


class TestArgumentsOfTheDeclaration:
    def test_make_all_arguments(self) -> None:
        bound = bind(one_missing, JOB, arguments=lambda job: {"prompt": job.prompt.upper(), "size": job.id})

        assert bound == {"prompt": "PAINT A CAT", "size": 7}

    def test_are_used_as_they_are(self) -> None:
        assert bind(by_name, JOB, arguments=lambda job: {}) == {}
        assert bind(nothing_at_all, JOB, arguments=lambda job: {"unknown": 1}) == {"unknown": 1}

    def test_may_be_the_job_itself(self) -> None:
        assert bind(catches_keywords, JOB, arguments=lambda job: job) == dict(JOB)

    @pytest.mark.parametrize("made", [None, "prompt", [("prompt", "a")], ("a",), 7])
    def test_of_another_type_are_refused(self, made: Any) -> None:
        with pytest.raises(JobError, match=rf"arguments= must return a mapping .*, not {type(made).__name__}"):
            bind(by_name, JOB, arguments=lambda job: made)

    def test_give_way_to_what_a_retry_was_given(self) -> None:
        bound = bind(
            by_name, JOB, arguments=lambda job: {"prompt": "made", "model": "m2"}, given_kwargs={"model": "retried"}
        )

        assert bound == {"prompt": "made", "model": "retried"}

    def test_leave_out_what_a_retry_was_given_by_position(self) -> None:
        arguments = bind(by_name, JOB, arguments=lambda job: {"prompt": "made", "model": "m2"}, given_args=("retried",))

        assert arguments == {"model": "m2"}


def mixed(prompt: str, *rest: Any, model: str) -> None: ...
def mixed_missing(prompt: str, *rest: Any, size: int) -> None: ...


class TestRetry:
    @pytest.mark.parametrize(
        ("handler", "args", "kwargs", "bound"),
        [
            (by_name, (), {}, {"prompt": "paint a cat", "model": "m1"}),
            (by_name, ("retried",), {}, {"model": "m1"}),
            (by_name, ("retried", "m2"), {}, {}),
            (by_name, (), {"prompt": "retried"}, {"prompt": "retried", "model": "m1"}),
            (by_name, ("retried",), {"model": "m2"}, {"model": "m2"}),
            (one_missing, (), {"size": 5}, {"prompt": "paint a cat", "size": 5}),
            (one_missing, ("retried", 5), {}, {}),
            (two_missing, (5,), {"style": "oil"}, {"style": "oil"}),
            (whole_job, ("retried",), {}, {}),
            (whole_job, (), {"job": "retried"}, {"job": "retried"}),
            (catches_keywords, (), {"size": 5}, {"prompt": "paint a cat", "size": 5}),
            (mixed, ("retried",), {}, {"model": "m1"}),
            (mixed, ("retried", 1, 2, 3), {}, {"model": "m1"}),
        ],
    )
    def test_given_arguments_go_before_the_fields(
        self, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], bound: dict[str, Any]
    ) -> None:
        made = bind(handler, JOB, given_args=args, given_kwargs=kwargs)

        assert made == bound
        handler(*args, **made)

    def test_what_is_still_missing_is_named(self) -> None:
        with pytest.raises(JobError, match="has no field 'size', which"):
            bind(one_missing, JOB, given_args=("retried",))

    def test_a_keyword_only_field_that_is_missing_is_named_whatever_was_given_by_position(self) -> None:
        with pytest.raises(JobError, match="has no field 'size', which"):
            bind(mixed_missing, JOB, given_args=("retried", 1, 2))

    def test_given_arguments_are_not_changed(self) -> None:
        given = {"model": "m2"}

        bind(by_name, JOB, given_kwargs=given)

        assert given == {"model": "m2"}


def requires_position(prompt: str, /) -> None: ...
def requires_second_position(prompt: str, model: str, /, size: int = 1) -> None: ...


class TestCheckSignature:
    @pytest.mark.parametrize(
        "handler",
        [
            by_name,
            whole_job,
            nothing_at_all,
            keyword_only,
            catches_keywords,
            catches_positions,
            optional_positional_only,
        ],
    )
    def test_accepts_parameters_with_names(self, handler: Callable[..., Any]) -> None:
        assert check_signature(handler, "app.handler") is None

    @pytest.mark.parametrize("handler", [requires_position, requires_second_position])
    def test_names_the_parameter_that_no_field_can_fill(self, handler: Callable[..., Any]) -> None:
        why = check_signature(handler, "app.handler")

        assert why is not None
        assert why.startswith("app.handler: its parameter 'prompt' is positional-only")
        assert "arguments=" in why
