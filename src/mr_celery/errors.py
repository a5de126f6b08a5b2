"""The errors that mr-celery raises, with one base class."""

from __future__ import annotations

from celery.exceptions import Ignore

from .telemetry.printing import printable_line
from .telemetry.quantities import duration

MOST_CHARACTERS = 2000
"""Maximum length of an error's message, in characters."""

MOST_RETRY_AFTER = 3600.0
"""Upper bound in seconds of an error's ``retry_after``, so that it can be passed to ``sleep``."""


class MrCeleryError(Exception):
    """Base class of all errors of mr-celery.

    The message is one printable line, because it may repeat texts of other systems. Errors whose message is the output
    of a job keep it as it is.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable_line(as_text(message), MOST_CHARACTERS))


_USUAL_STATUSES = (
    *(200, 301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 425, 426, 429),
    *(500, 501, 502, 503, 504, 507, 520, 521, 522, 523, 524, 525, 526, 530),
)
STATUS_LABELS = frozenset(["none", *map(str, _USUAL_STATUSES)])
"""The statuses of responses that metrics distinguish; ``none``: there was no response."""

ROUTE_LABELS = frozenset({"presence", "inbox", "claim", "close", "upload", "review", "job"})
"""The kinds of requests that metrics distinguish."""

OTHER_LABEL = "other"


def error_labels(label: str) -> tuple[str, str]:
    """The route and the status of a :attr:`WorkerError.label`, each of a bounded set."""
    route, _, status = label.partition(" ")
    return (
        route if route in ROUTE_LABELS else OTHER_LABEL,
        status if status in STATUS_LABELS else OTHER_LABEL,
    )


def as_text(value: object) -> str:
    """Convert any value, such as an exception or a dictionary, to text.

    ``None`` becomes the empty text. An exception without a message becomes the name of its class.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode(errors="replace")
    try:
        text = str(value)
    except Exception:
        return f"({type(value).__qualname__}: it cannot be printed)"
    return text or (type(value).__qualname__ if isinstance(value, BaseException) else "")


class SettingsError(MrCeleryError):
    """A setting has an invalid value, or a required one is missing."""


class ApplicationError(MrCeleryError):
    """The application, its configuration or one of its task modules cannot be imported."""


class RoutingError(MrCeleryError):
    """A handler's declaration is invalid, or contradicts another one."""


class JobError(MrCeleryError):
    """A job, or the value its handler returned, is unusable. Only that job fails.

    Args:
        text: the message. It becomes the job's output, and may repeat fields of the job.
        about: the message in a few words for operators, without the content of the job.
    """

    def __init__(self, text: object = "", *, about: str = "") -> None:
        Exception.__init__(self, text)
        self.about = about


class LedgerUnavailable(MrCeleryError):
    """The ledger's Redis cannot be reached, or refuses commands."""


class JobAborted(MrCeleryError, Ignore):
    """Stops a handler whose run has lost its job. Its result is not recorded.

    :meth:`Job.raise_if_aborted <mr_celery.Job.raise_if_aborted>` raises it. It also derives from Celery's ``Ignore``,
    so that ``autoretry_for=`` lets it through.
    """


class WorkerError(MrCeleryError):
    """A request to the ModelReins server failed. Drop-in for the SDK's class of the same name.

    The message has the SDK's form: ``POST /jobs/7/close -> 503: <first 500 characters of the response>``,
    or ``… -> network: <reason>`` if there was no response.

    Attributes:
        status: the HTTP status of the response; ``None`` if there was no complete response.
        retryable: whether the same request may succeed later: after 408, 425, 429 or 5xx, without a response, or
            after one that breaks the protocol.
        retry_after: the server's ``Retry-After`` in seconds, at most an hour; ``None`` if there was none.
        route: the kind of request: ``claim``, ``close``, ``upload``, …; empty if unknown.
        single: whether only this request fails, while others succeed.
        unsent: whether the request was not sent, because another process has found that its token is refused.
        refusals: consecutive refusals of the token in all processes, if it is ``unsent``.
        challenge: whether the response is a challenge page for people, as servers send to banned addresses.
        fault: a description of an unusable response that is safe to log; empty if the server answered with an error.
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
        self.retry_after = None if retry_after is None else min(retry_after, MOST_RETRY_AFTER)
        self._asked_seconds = retry_after
        self.route = ""
        self.single = False
        self.unsent = False
        self.refusals = 0
        self.challenge = False
        self.fault = ""

    def longer_than(self, usual: float) -> str:
        """The server's request to wait longer than ``usual`` seconds, for a log; empty if it made none."""
        asked = self._asked_seconds
        return (
            ""
            if asked is None or asked <= usual
            else f"the server requested a pause of {duration(asked)} (Retry-After)"
        )

    @property
    def summary(self) -> str:
        """The error for a log, without the server's text, which may repeat a prompt or a result."""
        request, _, reason = str(self).partition(": ")
        if self.fault:
            return f"{request}: {self.fault}"
        own_words = self.status is None and reason.startswith("[Errno")  # not the server's
        return f"{request}: {reason}" if own_words else request

    @property
    def label(self) -> str:
        """The kind of request and the status of its response: ``close 503``, or ``close none`` without a response."""
        return " ".join(error_labels(f"{self.route} {self.status or 'none'}")) if self.route else ""

    @property
    def trouble(self) -> bool:
        """Whether the server or the connection to it is the likely cause, rather than this one request."""
        return not self.single and (self.unauthorized or (self.retryable and self.status not in (404, 409, 410)))

    @property
    def unauthorized(self) -> bool:
        """Whether the server refused the token (401 or 403), or sent a challenge page instead of a response."""
        return self.challenge or self.status in (401, 403)


class Escalate(MrCeleryError, Ignore):
    """Closes the job as ``escalated`` when a handler raises it: a human has to decide.

    It also derives from Celery's ``Ignore``, so that ``autoretry_for=`` lets it through.

    Args:
        why: the job's output. A value that is not text, such as a caught exception, is converted with ``str()``.

    Example::

        if score < 0.5:
            raise Escalate("not sure enough to answer on my own")
    """

    def __init__(self, why: object = "") -> None:
        self.why = as_text(why)
        Exception.__init__(self, self.why)
