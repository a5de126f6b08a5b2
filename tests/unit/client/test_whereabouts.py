"""What has become of a job, as far as a server tells a worker."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mr_celery.client import TERMINAL, Listing, status_of
from mr_celery.errors import WorkerError
from support.ledgers import FakeServer, listed, refusal

LISTS_OF_THE_ENDED = ["failed", "done", "escalated"]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def status(server: FakeServer, job_id: int = 1) -> str | None:
    return status_of(cast(Any, server), job_id)


def lists(server: FakeServer) -> list[str]:
    """The lists that were asked for, in order."""
    return server.asked("jobs")


def test_the_lists_of_running_and_pending_jobs_come_first(server: FakeServer) -> None:
    server.running[1] = listed(1)
    server.dispatch(2)
    server.known = {job_id: {"status": "done"} for job_id in (1, 2)}
    assert (status(server, 1), status(server, 2)) == ("running", "pending")
    assert lists(server) == ["running", "running", "pending"]
    assert server.asked("job") == []


@pytest.mark.parametrize("told", ["pending", "running", *TERMINAL, "paused"])
def test_a_job_on_neither_of_them_is_asked_for_alone(server: FakeServer, told: str) -> None:
    server.known[1] = {"id": 1, "status": told}
    assert status(server) == told
    assert server.asked("job") == [1]
    assert lists(server) == ["running", "pending"]


@pytest.mark.parametrize("told", TERMINAL)
@pytest.mark.parametrize("known", [None, {}, {"status": ""}, {"status": None}, {"status": 7}, {"status": []}])
def test_where_that_tells_nothing_the_lists_of_jobs_that_are_over_do(
    server: FakeServer, known: dict[str, Any] | None, told: str
) -> None:
    if known is not None:
        server.known[1] = known
    server.ended = {9: "failed", 1: told}
    assert status(server) == told


def test_that_no_list_shows_a_job_is_no_status(server: FakeServer) -> None:
    server.ended[9] = "failed"
    assert status(server) is None
    assert lists(server) == ["running", "pending", *LISTS_OF_THE_ENDED]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("code", [None, 200, 429, 500, 503])
def test_a_server_in_trouble_tells_nothing(server: FakeServer, which: int, code: int | None) -> None:
    error = refusal(code)
    error.retryable = True
    server.faults["jobs"] = [None] * which + [error]
    with pytest.raises(WorkerError):
        status(server)


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_the_lists_of_running_and_pending_jobs_must_not_be_refused(server: FakeServer, code: int) -> None:
    for faults in ([refusal(code)], [None, refusal(code)]):
        server.faults["jobs"] = faults
        with pytest.raises(WorkerError):
            status(server)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_a_server_that_gives_a_worker_no_lists_of_jobs_that_are_over_does_not_tell(
    server: FakeServer, code: int
) -> None:
    server.faults["jobs"] = [None, None, refusal(code)]
    assert status(server) is None
    assert lists(server) == ["running", "pending", "failed"]


def test_an_error_when_the_job_is_asked_for_is_no_status(server: FakeServer) -> None:
    server.faults["job"] = [refusal(503)]
    server.ended[1] = "done"
    with pytest.raises(WorkerError):
        status(server)


def test_lists_that_the_caller_has_are_not_asked_for_again(server: FakeServer) -> None:
    asked: list[str] = []

    def listing(of: str) -> Listing:
        asked.append(of)
        return Listing(({"id": 1},) if of == "done" else ())

    assert status_of(cast(Any, server), 1, listing=listing) == "done"
    assert asked == ["running", "pending", "failed", "done"]
    assert lists(server) == []


def test_each_list_is_asked_for_once(server: FakeServer) -> None:
    status(server)
    assert len(lists(server)) == len(set(lists(server)))
