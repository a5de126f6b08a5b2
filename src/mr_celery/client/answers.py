"""What an answer means: whether to try again, when, and what it says."""

from __future__ import annotations

import html
import http.client
import json
import re
import time
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import requests
import urllib3

RETRYABLE = (408, 425, 429)
"""Statuses below 500 after which the same request may succeed."""

MOST_RETRY_AFTER = 3600.0
"""Seconds; a server that asks for more is asked again after this."""

FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
    RecursionError,
)
"""What can go wrong between a request and its answer."""


def retryable(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status >= 500 or status in RETRYABLE


def retry_after(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks to wait, at most ``MOST_RETRY_AFTER``; ``None`` if it says nothing."""
    text = (header or "").strip()
    if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", text):
        return min(float(text), MOST_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
    return min(seconds, MOST_RETRY_AFTER) if seconds >= 0 else None


def decode(body: bytes) -> object:
    """The JSON of an answer; nothing at all is an empty object.

    Raises:
        ValueError: it is not JSON.
    """
    if not body.strip():
        return {}
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(error: BaseException) -> str:
    """Why there was no answer, in the words of the innermost error that has any."""
    text = str(error)
    seen = {id(error)}
    cause = _cause(error)
    while isinstance(cause, FAILURES) and id(cause) not in seen:
        seen.add(id(cause))
        text = str(cause) or text
        cause = _cause(cause)
    return text or type(error).__name__


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


class Redactor:
    """Takes a secret out of texts, also where it is written as in JSON, HTML or a URL.

    Args:
        secret: what must not be seen.
    """

    def __init__(self, secret: str) -> None:
        forms = {secret, json.dumps(secret)[1:-1], html.escape(secret), quote(secret, safe=""), quote(secret)}
        self._forms = sorted((form for form in forms if len(form) > 3), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "***")
        return text
