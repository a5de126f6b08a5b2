"""Hands a job over from its handler to a workflow.

The handler has returned a Celery signature, or replaced its task by one. The ledger knows the workflow before its first
message is published. The run holds the job until all first messages are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

from celery.exceptions import Ignore

from ..backoff import retry_until
from ..celery_compat import publish_collected
from ..errors import JobError, LedgerUnavailable
from ..message import stamp_of
from .canvas import Workflow, workflow_of
from .publishing import PUBLISH_SECONDS, CannotContinue, Continuation


class Replaced(Ignore):
    """A handler hands its job over. It is an ``Ignore``, so that Celery's ``autoretry_for`` does not catch it.

    Args:
        signature: the signature.
        returned: whether the handler returned it. Otherwise it called ``self.replace()``.
    """

    def __init__(self, signature: Any, *, returned: bool) -> None:
        super().__init__("handed over to a workflow")
        self.signature = signature
        self.returned = returned

    def __reduce__(self) -> Any:
        return (Ignore, self.args)


class HandingOver(Continuation):
    """Hands a job over to a workflow."""

    def to(self, signature: Any, app: Any) -> bool:
        """Hand the job over, to a signature in an application. Returns ``False`` if the run has lost it.

        Raises:
            CannotContinue: the signature cannot be published.
            JobAborted: the job was aborted meanwhile.
            LedgerUnavailable: the ledger was unreachable for too long.
        """
        workflow = self._prepared(signature, app)
        lease = self._clients.settings.lease
        step = partial(
            self._ledger.hand_over,
            self._message.key,
            nonce=self._nonce,
            final=workflow.final,
            members=workflow.members,
            lease=lease,
            note=workflow.text,
        )
        if not self._recorded(step):
            return False
        for each in workflow.messages:
            self._publish(partial(publish_collected, app, each), what="the workflow", refused_by="the broker")
        step = partial(self._ledger.handed_over, self._message.key, final=workflow.final, wait_seconds=lease)
        if self._recorded(step):  # otherwise it was aborted meanwhile, or has ended already
            self._log.info("handed_over", f"handed over to a workflow, {workflow.text}")
        return True

    def _prepared(self, signature: Any, app: Any) -> Workflow:
        if app is None:
            why = "mr_celery.testing runs single handlers, and the handler returned a workflow: test it with a worker"
            raise CannotContinue(why, JobError(why))
        stamp, task_id = stamp_of(self._message.worker_name, self._message.task_id), self._message.task_id
        make = partial(workflow_of, signature, app, stamp=stamp, final=str(uuid4()), root_id=task_id)
        try:
            return self._publish(make, what="the workflow", refused_by="the result backend")
        except JobError as error:
            raise CannotContinue(str(error), error) from error

    @staticmethod
    def _recorded(step: Callable[[], bool]) -> bool:
        return bool(retry_until(step, errors=LedgerUnavailable, seconds=PUBLISH_SECONDS))
