"""An HTTP client for the running sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from mr_celery.sandbox import Sandbox


class Talk(requests.Session):
    """Sends requests by path, with the token."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.trust_env = False
        self._base = sandbox.url
        self.headers["Authorization"] = f"Bearer {sandbox.token}"

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        assert isinstance(url, str)
        options.setdefault("timeout", 30)
        options.setdefault("allow_redirects", False)
        return super().request(method, self._base + url, *args, **options)

    def events(self, job_id: int) -> list[str]:
        return [each["event"] for each in self.get(f"/jobs/{job_id}/events").json()["events"]]


@pytest.fixture
def talk(sandbox: Sandbox) -> Iterator[Talk]:
    with Talk(sandbox) as session:
        yield session
