"""Responses to the requests of a :class:`~mr_celery.server.Transport`, without a server and without sockets."""

from __future__ import annotations

from typing import Any

import requests
import requests_mock
import urllib3


class MockedHttp(requests_mock.Adapter):
    """Mocked responses, with the options and records of ``requests_mock``.

    Tests get it as the fixture ``mocked_http``. A request without a registered response fails.
    """

    def get(self, url: str, *answers: list[dict[str, Any]], **answer: Any) -> None:
        """Register the response to a ``GET``, or a list of responses to return in turn."""
        self.register_uri("GET", url, *answers, **answer)

    def post(self, url: str, *answers: list[dict[str, Any]], **answer: Any) -> None:
        """Register the response to a ``POST``, or a list of responses to return in turn."""
        self.register_uri("POST", url, *answers, **answer)

    def put(self, url: str, **answer: Any) -> None:
        """Register the response to a ``PUT``."""
        self.register_uri("PUT", url, **answer)

    def urlopen(
        self, pool: urllib3.HTTPConnectionPool, method: str, target: str, body: Any, headers: Any, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Respond to a request in place of a connection pool."""
        port = f":{pool.port}" if pool.port not in (None, 80, 443) else ""
        request = requests.Request(method, f"{pool.scheme}://{pool.host}{port}{target}", headers, data=body).prepare()
        answer = self.send(request, timeout=options["timeout"])
        assert isinstance(answer.raw, urllib3.BaseHTTPResponse)
        return answer.raw
