"""Lookups of a job's status by a worker."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mr_celery.errors import WorkerError
from mr_celery.server import Listing, listed_status, status_of
from mr_celery.server.job_status import status_word
from support.ledgers import FakeServer, listed, refusal
from support.statuses import A_FEW_NO_WORD, A_FEW_OVER, A_FEW_PENDING, A_FEW_RUNNING, PENDING, RUNNING, short

LISTS_OF_THE_ENDED = ["failed", "done", "escalated"]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def status(server: FakeServer, job_id: int = 1) -> str | None:
    return status_of(cast(Any, server), job_id)


def lists(server: FakeServer) -> list[str]:
    """The requested lists, in order."""
    return server.asked("jobs")


def test_the_lists_of_running_and_pending_jobs_come_first(server: FakeServer) -> None:
    server.running[1] = listed(1)
    server.dispatch(2)
    server.known = {job_id: {"status": "done"} for job_id in (1, 2)}
    assert (status(server, 1), status(server, 2)) == ("running", "pending")
    assert lists(server) == ["running", "running", "pending"]
    assert server.asked("job") == []


@pytest.mark.parametrize("told", [*A_FEW_PENDING, *A_FEW_RUNNING, *A_FEW_OVER], ids=short)
def test_a_job_in_neither_list_is_read_by_itself(server: FakeServer, told: str) -> None:
    server.known[1] = {"id": 1, "status": told}
    assert status(server) == status_word(told)
    assert server.asked("job") == [1]
    assert lists(server) == ["running", "pending"]


@pytest.mark.parametrize("told", ["done", "failed", "escalated"])
@pytest.mark.parametrize("known", [None, {}, *({"status": each} for each in A_FEW_NO_WORD)], ids=short)
def test_without_that_the_lists_of_ended_jobs_are_read(
    server: FakeServer, known: dict[str, Any] | None, told: str
) -> None:
    if known is not None:
        server.known[1] = known
    server.ended = {9: "failed", 1: told}
    assert status(server) == told


def test_absence_from_all_lists_is_not_a_status(server: FakeServer) -> None:
    server.ended[9] = "failed"
    assert status(server) is None
    assert lists(server) == ["running", "pending", *LISTS_OF_THE_ENDED]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("code", [None, 200, 429, 500, 503])
def test_a_server_in_trouble_gives_no_status(server: FakeServer, which: int, code: int | None) -> None:
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
def test_a_server_without_lists_of_ended_jobs_gives_no_status(server: FakeServer, code: int) -> None:
    server.faults["jobs"] = [None, None, refusal(code)]
    assert status(server) is None
    assert lists(server) == ["running", "pending", "failed"]


def test_an_error_while_reading_the_job_is_not_a_status(server: FakeServer) -> None:
    server.faults["job"] = [refusal(503)]
    server.ended[1] = "done"
    with pytest.raises(WorkerError):
        status(server)


def test_lists_that_the_caller_has_are_not_read_again(server: FakeServer) -> None:
    asked: list[str] = []

    def listing(of: str) -> Listing:
        asked.append(of)
        return Listing.of({"id": 1}, status=of) if of == "done" else Listing()

    assert status_of(cast(Any, server), 1, listing=listing) == "done"
    assert asked == ["running", "pending", "failed", "done"]
    assert lists(server) == []


def test_each_list_is_read_once(server: FakeServer) -> None:
    status(server)
    assert len(lists(server)) == len(set(lists(server)))


# -- entries with a different status than their list --------------------------------------------------------------


@pytest.mark.parametrize("word", A_FEW_OVER, ids=short)
@pytest.mark.parametrize("of", ["running", "pending"])
def test_an_entry_counts_by_its_own_word(server: FakeServer, of: str, word: str) -> None:
    getattr(server, of)[1] = listed(1, status=word)
    assert status(server) == status_word(word)
    assert lists(server) == ["running", "pending"]
    assert server.asked("job") == []


@pytest.mark.parametrize("of", ["running", "pending"])
@pytest.mark.parametrize(("words", "told"), [(RUNNING, "running"), (PENDING, "pending")])
def test_so_does_one_in_the_wrong_list(server: FakeServer, of: str, words: tuple[str, ...], told: str) -> None:
    for word in words:
        getattr(server, of)[1] = listed(1, status=word)
        assert status(server) == told


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([], None),
        ([None, None], None),
        (["running", None], "running"),
        ([None, "pending"], "pending"),
        (["pending", "running"], "running"),
        (["cancelled", "running"], "running"),
        (["cancelled", "pending"], "pending"),
        (["cancelled", ""], ""),
        (["", None], ""),
        (["", "running"], "running"),
        (["cancelled", None], "cancelled"),
    ],
)
def test_where_lists_contradict_each_other_a_job_is_not_over(statuses: list[str | None], told: str | None) -> None:
    listings = [Listing(statuses={} if each is None else {1: each}) for each in statuses]
    for order in (listings, listings[::-1]):
        assert listed_status(1, order) == told
    assert listed_status(2, listings) is None
