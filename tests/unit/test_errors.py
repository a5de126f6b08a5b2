"""What an error of the server's tells of the server."""

from __future__ import annotations

import pytest

from mr_celery.errors import WorkerError


@pytest.mark.parametrize(
    ("status", "retryable", "trouble"),
    [
        (None, True, True),
        (None, False, False),
        (200, True, True),
        (400, False, False),
        (401, False, True),
        (403, False, True),
        (404, False, False),
        (404, True, False),
        (409, True, False),
        (410, True, False),
        (413, False, False),
        (429, True, True),
        (500, True, True),
        (503, True, True),
    ],
)
def test_trouble_is_of_the_server_and_not_of_one_request(status: int | None, retryable: bool, trouble: bool) -> None:
    error = WorkerError("POST /x -> …", status=status, retryable=retryable)
    assert error.trouble is trouble
    assert error.unauthorized is (status in (401, 403))
