"""Describes the failures of requests: the reason, and whether and when to retry."""

from __future__ import annotations

import html
import http.client
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import timezone
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from ..errors import WorkerError
from .list_parser import NOT_JSON, BrokenList

logger = logging.getLogger("mr_celery")

RETRYABLE = (408, 425, 429)
"""Statuses below 500 after which the same request may succeed later."""

MOST_SECONDS = 1e15
"""Upper bound in seconds for the number in a ``Retry-After``."""

MOST_ERROR_BYTES = 64 * 2**10
"""Number of bytes that are read of an error response."""

BROKE_OFF = "the response was cut off"

COMPRESSED = "the response is compressed, although no compression was requested (Content-Encoding)"

LONG_HEAD = "the headers of the response are too long"

FAILURES = (HTTPError, http.client.HTTPException, OSError, ValueError, RecursionError)
"""The exceptions that may occur between a request and its response."""


def retryable(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status >= 500 or status in RETRYABLE


def retry_after(header: str | None) -> float | None:
    """The pause in seconds that a ``Retry-After`` asks for; ``None`` if it is invalid or in the past.

    The header holds a number of seconds or a date. The largest of several numbers counts. Callers limit the pause.
    """
    text = (header or "").strip()
    numbers = re.split(r"\s*,\s*", text)
    if all(re.fullmatch(r"[0-9]+(\.[0-9]*)?", each) for each in numbers):
        return min(max(map(float, numbers)), MOST_SECONDS)
    try:
        when = parsedate_to_datetime(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
    return seconds if seconds >= 0 else None


def reason(error: BaseException) -> str:
    """The reason why there was no response: the message of the innermost error that has one."""
    text = ""
    for each in _causes(error):
        if isinstance(each, http.client.IncompleteRead):
            missing = f", {each.expected} bytes are missing" if each.expected else ""
            return f"{BROKE_OFF}{missing}"
        text = str(each) or text
    return text or type(error).__name__


def fault(error: BaseException) -> str:
    """A safe description of a common network failure; empty for others, which may repeat a text of the server."""
    for each in _causes(error):
        if isinstance(each, TimeoutError):
            return "no answer in time"
        if str(each) == LONG_HEAD:
            return LONG_HEAD
        if isinstance(each, http.client.IncompleteRead) or str(each).startswith(BROKE_OFF):
            return BROKE_OFF
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, outermost first, up to the first that is not a failure of a request."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen and (cause is error or isinstance(cause, FAILURES)):
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


CHALLENGE = "a challenge page in HTML instead of an answer: this address may be banned after failed log-ins"

HTML_REFUSAL = "an HTML page instead of JSON: the response of a proxy, or of a ban"

_CHALLENGES = re.compile(
    r"captcha|challenge|cf-chl|just a moment|checking your browser|verify (that )?you are|are you (a )?human|"
    r"attention required|access (has been )?(temporarily )?(denied|blocked)|(been|is) (temporarily )?(banned|blocked)|"
    r"too many failed",
    re.IGNORECASE,
)


def html_fault(status: int, content_type: str, start: bytes) -> tuple[str, bool]:
    """Recognise an HTML page where JSON belongs.

    Args:
        status: the status of the response.
        content_type: its media type.
        start: the beginning of its body.

    Returns:
        A description that is safe to log, empty if it is not such a page; and whether it is a challenge page.
    """
    head = start.lstrip()[:1]
    if "html" not in content_type.lower() and head != b"<":
        return "", False
    if head == b"<" and status not in (404, 405, 500, 502, 504) and _CHALLENGES.search(start.decode(errors="replace")):
        return CHALLENGE, True
    return (HTML_REFUSAL, False) if status in (401, 403) else ("", False)


def without_secret(text: str, secret: str) -> str:
    """Replace a secret in a text by ``***``, also in the forms that it has in JSON, HTML and URLs."""
    forms = {secret, json.dumps(secret)[1:-1], html.escape(secret), quote(secret, safe=""), quote(secret)}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) > 3:
            text = text.replace(form, "***")
    return text


# -- the errors of responses -----------------------------------------------------------------------------

Redact = Callable[[str], str]
"""Removes secrets from a text of the server."""


def refusal(call: str, response: BaseHTTPResponse, redact: Redact) -> WorkerError:
    """The error of a response whose status is not 2xx. Reads its body, up to ``MOST_ERROR_BYTES``."""
    status, encoding = response.status, _encoding(response)
    start = b"" if encoding else _start(call, response)
    error = WorkerError(
        f"{call} -> {status}: {encoding or _text(start, redact)}",
        status=status,
        retryable=retryable(status),
        retry_after=retry_after(response.headers.get("Retry-After")),
    )
    error.fault, error.challenge = html_fault(status, response.headers.get("Content-Type", ""), start)
    return error


def compressed(call: str, response: BaseHTTPResponse) -> WorkerError | None:
    """The error of a response that is compressed, although no compression was requested; else ``None``."""
    encoding = _encoding(response)
    if not encoding:
        return None
    error = WorkerError(f"{call} -> {response.status}: {encoding}", status=response.status, retryable=True)
    error.fault = encoding
    return error


def not_json(call: str, response: BaseHTTPResponse, start: bytes, problem: ValueError, redact: Redact) -> WorkerError:
    """The error of a response that is not JSON.

    Args:
        call: the request.
        response: the response.
        start: the beginning of its body.
        problem: what its reader has raised.
        redact: removes secrets.
    """
    status, kind = response.status, response.headers.get("Content-Type", "no content type")
    error = WorkerError(
        f"{call} -> {status}: not JSON ({redact(kind)[:100]}): {_text(start, redact)}", status=status, retryable=True
    )
    page, error.challenge = html_fault(status, kind, start)
    error.fault = page or (str(problem) if isinstance(problem, BrokenList) else NOT_JSON)
    return error


def _start(call: str, response: BaseHTTPResponse) -> bytes:
    start = bytearray()
    try:
        while len(start) < MOST_ERROR_BYTES and (part := response.read1(MOST_ERROR_BYTES)):
            start += part
    except FAILURES:
        logger.debug("%s -> %d: the response was cut off", call, response.status)
    return bytes(start)


def _encoding(response: BaseHTTPResponse) -> str:
    """The reason why a compressed response is not read; empty for others."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return COMPRESSED if encoding not in ("", "identity") else ""


def _text(body: bytes, redact: Redact) -> str:
    return redact(body[:MOST_ERROR_BYTES].decode(errors="replace"))[:500]
