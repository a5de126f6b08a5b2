"""Publishing that a run waits for, because only its process can publish the message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from kombu.exceptions import SerializationError

from ..backoff import retry_until
from ..clients import Clients
from ..errors import JobAborted, JobError, LedgerUnavailable, as_text
from ..ledger import Ledger
from ..message import Message
from .current import Run

T = TypeVar("T")

logger = logging.getLogger("mr_celery.runner")

PUBLISH_SECONDS = 3600.0
"""Seconds for which a run waits for the broker, the result backend or the ledger, before its job is given up."""

NOT_THE_BROKER = (SerializationError, TypeError, ValueError, AttributeError, KeyError, NotImplementedError)
"""Errors of a publish that recur however long it waits."""


class CannotContinue(Exception):
    """A job cannot continue with the messages that its handler asked for; the text is the job's output.

    Args:
        why: the reason.
        error: the exception of the handler or of the publish.
    """

    def __init__(self, why: str, error: BaseException) -> None:
        super().__init__(why)
        self.error = error


class _Away(Exception):
    """The broker, or the result backend, may accept it later."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


class Continuation:
    """Lets a job continue after its run with other messages.

    Args:
        clients: the connections of the application.
        ledger: the ledger of the job's worker name.
        message: the job's message.
        nonce: distinguishes the run from others of the same attempt.
        run: the run.
    """

    def __init__(self, clients: Clients, ledger: Ledger, message: Message, nonce: str, run: Run) -> None:
        self._clients = clients
        self._ledger = ledger
        self._message = message
        self._nonce = nonce
        self._run = run
        self._log = message.log(logger)

    def _publish(self, step: Callable[[], T], *, what: str, refused_by: str) -> T:
        """Do a step of publishing, and repeat it while the broker or the result backend is unreachable.

        Args:
            step: the step.
            what: what the handler asked for: ``the retry``, ``the workflow``.
            refused_by: ``the broker`` or ``the result backend``.

        Raises:
            CannotContinue: the error recurs, or lasts for too long.
            JobAborted: the job was aborted meanwhile.
            JobError: the step raised it.
            LedgerUnavailable: the step raised it.
        """

        def attempt() -> T:
            self._run.job.raise_if_aborted()
            try:
                return step()
            except (JobError, JobAborted, LedgerUnavailable):
                raise
            except NOT_THE_BROKER as error:
                raise impossible(error) from error
            except Exception as error:
                raise _Away(error) from error

        def impossible(error: Exception) -> CannotContinue:
            return CannotContinue(f"{what} that the handler requested could not be published: {as_text(error)}", error)

        def warn(error: Exception) -> None:
            why = f"{refused_by} does not accept {what} that the handler requested: {type(error.__cause__).__name__}"
            self._log.warning("not_published", f"{why}; it is tried again", reason=why)

        try:
            return retry_until(attempt, errors=_Away, seconds=PUBLISH_SECONDS, on_first_error=warn)
        except _Away as away:
            raise impossible(away.error) from away.error
