"""The job messages that a worker has received, and the executions under way in its process."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ..celery_compat import active_requests
from ..message import MemberMessage, Message, member_of, message_of


class ReceivedMessages:
    """The job messages that this worker process has, from their receipt until Celery drops them."""

    def __init__(self) -> None:
        # By identity: a redelivered copy and a Celery retry have the same task id.
        self._requests: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def add(self, request: Any) -> bool:
        """Add a request. Returns whether it is the message of a job, or of a member of a workflow."""
        if _message_of(request) is None and _member_of(request) is None:
            return False
        self._requests[id(request)] = request
        return True

    def forget_waiting(self, is_kept: Callable[[Any], bool]) -> None:
        """Forget the requests that Celery has not started: it drops them when it loses its connection.

        The objects may stay in memory: a request that waits for its time and its timer entry refer to each other.

        Args:
            is_kept: whether Celery may still start a request.
        """
        for request in self._all():
            if not request.time_start and not is_kept(request):
                self._requests.pop(id(request), None)

    def _all(self) -> list[Any]:
        # Copied in one step: other threads add requests meanwhile.
        requests = [reference() for reference in self._requests.valuerefs()]
        return [request for request in requests if request is not None]

    def failed(self, task_id: str) -> Message | None:
        """The message whose execution has just failed, or ``None`` if it is not a job's."""
        last = self._failed_request(task_id)
        return None if last is None else _message_of(last)

    def failed_member(self, task_id: str) -> MemberMessage | None:
        """The member whose execution has just failed, or ``None`` if the task is not a member."""
        last = self._failed_request(task_id)
        return None if last is None else _member_of(last)

    def _failed_request(self, task_id: str) -> Any:
        active = active_requests(task_id)
        # Celery has started such a request and no longer counts it as active.
        over = [each for each in self._all() if each.id == task_id and each.time_start and each not in active]
        if not over:
            return None
        return max(over, key=lambda request: request.time_start)

    def by_worker_name(self, runs: Callable[[Any], bool]) -> dict[str, list[tuple[int, str]]]:
        """The jobs that wait or run here as (job id, task id), for each worker name.

        Args:
            runs: whether a request that Celery has started still runs.
        """
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for request in self._living(runs):
            if message := _message_of(request):
                found[message.worker_name].append((message.job_id, message.task_id))
        return found

    def members(self, runs: Callable[[Any], bool]) -> dict[str, list[MemberMessage]]:
        """The members of workflows that wait or run here, for each worker name. ``runs`` is as above."""
        found: dict[str, list[MemberMessage]] = defaultdict(list)
        for request in self._living(runs):
            if member := _member_of(request):
                found[member.worker_name].append(member)
        return found

    def _living(self, runs: Callable[[Any], bool]) -> list[Any]:
        # Celery may keep a request long after its run, such as that of a thread that died.
        return [request for request in self._all() if not request.time_start or runs(request)]


def _message_of(request: Any) -> Message | None:
    """The message of a worker's request, or ``None`` if it is not a job's."""
    headers = request.request_dict
    return message_of(headers, request.id, headers.get("retries"))


def _member_of(request: Any) -> MemberMessage | None:
    """The member that a worker's request starts, or ``None``."""
    headers = request.request_dict
    return member_of(headers, request.id, headers.get("retries"))


class Executions:
    """The task executions under way in this process, from before a task's own code until after it.

    Celery's active requests cannot replace it. A request stays active if its execution ended with an exception that is
    not an ``Exception``.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def begin(self, task_id: str) -> None:
        """Add an execution of a task."""
        with self._lock:
            self._counts[task_id] = self._counts.get(task_id, 0) + 1

    def end(self, task_id: str) -> None:
        """Remove an execution of a task."""
        with self._lock:
            left = self._counts.get(task_id, 0) - 1
            if left > 0:
                self._counts[task_id] = left
            else:
                self._counts.pop(task_id, None)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._counts
