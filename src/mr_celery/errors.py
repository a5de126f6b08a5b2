"""The errors that mr-celery raises: one base, and each message says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celery.exceptions import Ignore

if TYPE_CHECKING:
    from .result import Artifact


class MrCeleryError(Exception):
    """Base of every error that mr-celery raises itself."""


class SettingsError(MrCeleryError):
    """A setting has a value that is not allowed, or a required one is missing."""


class RoutingError(MrCeleryError):
    """The declared handlers contradict each other, or a handler's declaration is wrong."""


class JobError(MrCeleryError):
    """A job, or what its handler returned, cannot be worked with. It fails that one job."""


class LedgerUnavailable(MrCeleryError):
    """The ledger's Redis cannot be reached or refuses to work."""


class JobAborted(MrCeleryError, Ignore):
    """A handler stops because its run does not hold its job any more. Nothing that it ends with is recorded.

    :meth:`Job.raise_if_aborted <mr_celery.Job.raise_if_aborted>` raises it. It is Celery's ``Ignore`` too, so that
    ``autoretry_for=`` lets it through.
    """


class WorkerError(MrCeleryError):
    """A request to the ModelReins server failed. Drop-in for the SDK's class of the same name.

    The message has the SDK's form: ``POST /jobs/7/close -> 503: <first 500 characters of the answer>``,
    or ``… -> network: <reason>`` where there was no answer.

    Attributes:
        status: the HTTP status of the answer; ``None`` where there was no (whole) answer.
        retryable: whether the same request may succeed later (no answer, an answer that is not the
            protocol's, 408, 425, 429, 5xx).
        retry_after: seconds the server asked to wait (``Retry-After``); ``None`` if it did not.
        route: which kind of request it was: ``claim``, ``close``, ``upload``, …; empty if it is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after
        self.route = ""

    @property
    def summary(self) -> str:
        """What happened without the server's words, which may repeat a prompt or a result: fit for a log."""
        request, _, reason = str(self).partition(": ")
        own_words = self.status is None and reason.startswith("[Errno")  # this system's, not the server's
        return f"{request}: {reason}" if own_words else request

    @property
    def label(self) -> str:
        """The kind of request and the status of its answer, ``close 503``; ``none`` where there was no answer."""
        return f"{self.route} {self.status or 'none'}" if self.route else ""

    @property
    def trouble(self) -> bool:
        """Whether it tells of the server, or of the way to it, rather than of this one request."""
        return self.unauthorized or (self.retryable and self.status not in (404, 409, 410))

    @property
    def unauthorized(self) -> bool:
        """Whether the server refused the token (401 or 403)."""
        return self.status in (401, 403)


class Escalate(MrCeleryError, Ignore):
    """Raise it in a handler to close the job as ``escalated``: a human has to decide.

    It is Celery's ``Ignore`` too, so that ``autoretry_for=`` lets it through.

    Args:
        why: the text that becomes the job's output.

    Example::

        if score < 0.5:
            raise Escalate("not sure enough to answer on my own")
    """

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = why


class JobFailed(MrCeleryError):
    """Raise it in a handler to fail the job with a text of your own instead of a traceback.

    To Celery it is a failure like any other: ``autoretry_for=`` and ``self.retry`` treat it so.

    Args:
        why: the text that becomes the job's output.
        artifacts: files to upload all the same, for instance a log.

    Example::

        if process.returncode:
            raise JobFailed("ffmpeg failed, see its log", artifacts=[Artifact(path="ffmpeg.log")])
    """

    def __init__(self, why: str = "", *, artifacts: Sequence[Artifact] = ()) -> None:
        super().__init__(why)
        self.why = why
        self.artifacts = artifacts

    def __reduce__(self) -> tuple[type[JobFailed], tuple[str]]:
        # Celery's result backends keep the reason; the files are the job's.
        return type(self), (self.why,)
