"""Prepares a Celery signature for a workflow that has a job: its members are stamped, and its final member is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery.canvas import _chain as chain  # the class: ``chain`` itself may return another signature
from celery.canvas import chord, chunks, group, maybe_signature
from kombu import serialization

from ..celery_compat import CollectedMessage, collected, has_result_backend
from ..errors import JobError
from ..ledger import NewMember
from ..message import STAMP
from ..telemetry.quantities import first_of
from .retries import seconds_until

UNLOCK = "celery.chord_unlock"
"""Celery's task that polls for the end of a chord, for result backends that cannot join it themselves."""

NO_BACKEND = (
    "the workflow has a group or a chord, and the app has no result backend that can join one: set result_backend to "
    "Redis, a database or the like. A chain needs none"
)


@dataclass(frozen=True)
class Workflow:
    """A workflow that is ready to be published.

    Args:
        final: the task id of the member whose result is the workflow's.
        messages: its first messages.
        text: the workflow in words.
    """

    final: str
    messages: list[CollectedMessage]
    text: str

    @property
    def members(self) -> list[NewMember]:
        """The members whose messages these are."""
        return [
            NewMember(
                str(each.headers["id"]),
                each.name,
                queue_of(each.options.get("queue"), each.options.get("routing_key")),
                seconds_until(each.headers.get("eta")),
            )
            for each in self.messages
        ]


def queue_of(queue: Any, routing_key: Any = None) -> str:
    """The name of the queue that a message is published to, as far as it is known."""
    return str(getattr(queue, "name", queue) or routing_key or "")


def workflow_of(signature: Any, app: Any, *, stamp: str, final: str, root_id: str) -> Workflow:
    """Prepare a workflow. Nothing is published.

    Args:
        signature: the signature that a handler returned.
        app: the application.
        stamp: the stamp of its members.
        final: a new task id for its final member.
        root_id: the task id that Celery reports as the root of all members.

    Raises:
        JobError: no workflow can be made of the signature.
        Exception: Celery, or the result backend, raised it.
    """
    made = final_signature(signature, app, stamp=stamp)
    result = made.freeze(final, root_id=root_id)
    with collected() as messages:
        made.apply_async()
    for message in messages:
        if message.name == UNLOCK:
            stamp_headers(message.headers, stamp)
        serialization.dumps(message.body, message.options.get("serializer") or app.conf.task_serializer)
    if not messages:
        raise JobError("the workflow that the handler returned has no tasks", about="an empty workflow")
    return Workflow(str(result.id), messages, described(made))


def final_signature(signature: Any, app: Any, *, stamp: str) -> Any:
    """A copy of a signature whose members are stamped, and that ends in a single task.

    Raises:
        JobError: no workflow can be made of it.
    """
    if "chord" in signature.options:
        raise JobError("a signature that is a part of a chord cannot replace a handler", about="part of a chord")
    made = stamped_copy(signature, app, stamp)
    if isinstance(made, chain) and not made.tasks:
        raise JobError("the workflow that the handler returned is an empty chain", about="an empty workflow")
    if ends_in_group(made):
        # Celery does this in Task.replace(), for groups at the top. It makes a list of the results.
        made |= stamped_copy(app.tasks["celery.accumulate"].s(index=0), app, stamp)
    if needs_backend(made) and not has_result_backend(app):
        raise JobError(NO_BACKEND, about="its workflow needs a result backend")
    return made


def stamped_copy(signature: Any, app: Any, stamp: str) -> Any:
    """A copy of a signature whose tasks are stamped.

    Callbacks (``link``, ``link_error``) are not members: Celery runs them as usual, even after the job has ended.
    """
    made: Any = maybe_signature(signature, app=app, clone=True)
    if made.task == "celery.chunks":
        return stamped_copy(chunks(**signature.kwargs, app=app).group(), app, stamp)
    if isinstance(made, chord):
        made.kwargs["header"] = stamped_copy(
            made.tasks if isinstance(made.tasks, group) else group(made.tasks), app, stamp
        )
        made.kwargs["body"] = None if made.body is None else stamped_copy(made.body, app, stamp)
    elif isinstance(made, (chain, group)):
        made.kwargs["tasks"] = [stamped_copy(each, app, stamp) for each in made.tasks]
    else:
        names = [each for each in made.options.get("stamped_headers") or () if each != STAMP]
        made.set(stamped_headers=[*names, STAMP], **{STAMP: stamp})
    return made


def stamp_headers(headers: dict[str, Any], stamp: str) -> None:
    """Stamp a message that is about to be published."""
    names = [each for each in headers.get("stamped_headers") or () if each != STAMP]
    headers["stamped_headers"] = [*names, STAMP]
    headers["stamps"] = {**(headers.get("stamps") or {}), STAMP: stamp}


def ends_in_group(signature: Any) -> bool:
    """Whether the results of a signature are those of a group, and not one result."""
    if isinstance(signature, chord):
        return ends_in_group(signature.body)
    if isinstance(signature, chain):
        return bool(signature.tasks) and ends_in_group(signature.tasks[-1])
    return isinstance(signature, group)


def needs_backend(signature: Any) -> bool:
    """Whether Celery needs a result backend to run a signature."""
    if isinstance(signature, (chord, group)):
        return True
    return isinstance(signature, chain) and any(map(needs_backend, signature.tasks))


def leaves(signature: Any) -> Iterator[Any]:
    """The tasks of a signature, without callbacks."""
    if isinstance(signature, chord):
        header = signature.tasks
        for each in header.tasks if isinstance(header, group) else header:
            yield from leaves(each)
        if signature.body is not None:
            yield from leaves(signature.body)
    elif isinstance(signature, (chain, group)):
        for each in signature.tasks:
            yield from leaves(each)
    else:
        yield signature


def described(signature: Any) -> str:
    """A workflow in words, without the arguments of its tasks."""
    names = [str(each.task) for each in leaves(signature)]
    kind = "a chord" if isinstance(signature, chord) else "a chain" if isinstance(signature, chain) else ""
    shown = first_of(names, 5)
    return f"{kind} of {shown}" if kind else shown
