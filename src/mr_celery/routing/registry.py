"""The routes of one application: which task takes which job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RoutingError
from ..identity import Identity
from ..job import Job
from .arguments import check_signature
from .decorator import Declaration


@dataclass(frozen=True)
class Handler:
    """A registered task that takes jobs."""

    task: Any
    declaration: Declaration

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self.task.name)


class Registry:
    """All handlers of an application.

    Args:
        handlers: the handlers, in the order of their declaration.

    Raises:
        RoutingError: two handlers take jobs the same way, or a handler's parameters cannot be filled.
    """

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self.handlers: Sequence[Handler] = tuple(
            sorted(handlers, key=lambda handler: handler.declaration.precision, reverse=True)
        )
        self._by_name = {handler.name: handler for handler in self.handlers}
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        same: dict[object, list[Handler]] = defaultdict(list)
        for handler in self.handlers:
            declaration = handler.declaration
            same[declaration.capability, declaration.tags, id(declaration.match)].append(handler)
            if declaration.arguments is None and (why := check_signature(handler.task.run, handler.name)):
                raise RoutingError(why)
        for twins in same.values():
            if len(twins) > 1:
                names = " and ".join(handler.name for handler in twins)
                raise RoutingError(
                    f"{names} both take {twins[0].declaration.offers}: give them different capabilities, tags or match="
                )

    def named(self, task_name: str) -> Handler | None:
        """The handler with that task name."""
        return self._by_name.get(task_name)

    def route(self, job: Job) -> Handler:
        """The handler that takes the job: the one that names it most exactly.

        Raises:
            RoutingError: none takes it, or two take it equally; the message is for the job's result.
        """
        taking: list[Handler] = []
        for handler in self.handlers:
            if taking and handler.declaration.precision < taking[0].declaration.precision:
                break
            if self._takes(handler, job):
                taking.append(handler)
        if len(taking) == 1:
            return taking[0]
        if taking:
            raise RoutingError(
                f"job {job.id} is taken by {' and by '.join(handler.name for handler in taking)} equally: "
                "their match= or tags= must tell their jobs apart"
            )
        asked = f"capability {', '.join(job.capabilities)}" if job.capabilities else "no capability"
        offered = ", ".join(sorted({handler.declaration.offers for handler in self.handlers})) or "nothing"
        raise RoutingError(f"no handler takes job {job.id}: it asks for {asked}; this worker offers: {offered}")

    def of(self, identity: Identity, queue_of: Callable[[Handler], str]) -> Registry:
        """The handlers that a worker name offers.

        Args:
            identity: the worker name.
            queue_of: the queue that a handler's tasks go to.

        Raises:
            RoutingError: it names a capability or queue that no handler has, or none has all that it names.
        """
        queues = {handler.name: queue_of(handler) for handler in self.handlers}
        for what, named, there in (
            ("capability", identity.capabilities, self.offered),
            ("queue", identity.queues, sorted(set(queues.values()))),
        ):
            if unknown := sorted(named.difference(there)):
                raise RoutingError(
                    f"modelreins_workers: {identity.name!r} names the {what} {unknown[0]!r}, which no handler has; "
                    f"there is {', '.join(there) or 'none'}"
                )
        offered = [each for each in self.handlers if identity.offers(each.declaration.names, queues[each.name])]
        if self.handlers and not offered:
            raise RoutingError(
                f"modelreins_workers: no handler with a capability of {identity.name!r} is on one of its queues"
            )
        return Registry(offered)

    @staticmethod
    def _takes(handler: Handler, job: Job) -> bool:
        try:
            return handler.declaration.takes(job)
        except Exception as error:
            raise RoutingError(
                f"job {job.id} cannot be routed: match= of {handler.name} raised {type(error).__name__}: {error}"
            ) from error

    @property
    def offered(self) -> list[str]:
        """The declared capabilities and tags, sorted: what presence tells the server."""
        names: set[str] = set()
        for handler in self.handlers:
            names |= handler.declaration.names
        return sorted(names)
