"""Logs in to the sandbox's page, and finds the pages of the session."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import requests


def log_in(session: requests.Session, link: str) -> str:
    """Open a login link. Returns the address of the session's pages, to which ``/jobs`` can be added."""
    answer = session.get(link, timeout=30)
    assert answer.status_code == 200, answer.text
    return f"{urlsplit(link).scheme}://{urlsplit(link).netloc}{pages_in(answer.text)}"


def pages_in(text: str) -> str:
    """The path of the session's pages, from the response to a login."""
    found = re.search(r'0;url=(/ui/~[^/"]+)/', text)
    assert found, text
    return found[1]
