"""The lists of the page: each piece once, counted right, found by an index."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from mr_celery.sandbox.page import queries
from mr_celery.sandbox.page.queries import Filter
from mr_celery.sandbox.states import TransitionError
from mr_celery.sandbox.store import Store


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


def filled(store: Store, number: int) -> None:
    for each in range(1, number + 1):
        store.dispatch(f"prompt {each}{' rare' * (each % 10 == 0)}", "wv"[each % 2], {})


def ids(page: queries.JobsPage) -> list[int]:
    return [job["id"] for job in page.jobs]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, range(1, 48)),
        ({"worker": "v"}, range(1, 48, 2)),
        ({"text": "rare"}, range(10, 48, 10)),
        ({"text": "rare", "worker": "w"}, range(10, 48, 10)),
        ({"text": "rare", "worker": "v"}, ()),
        ({"text": "RARE", "status": "pending"}, range(10, 48, 10)),
        ({"text": "#20"}, (20,)),
        ({"text": "#"}, ()),
        ({"status": "done"}, ()),
    ],
)
def test_from_piece_to_piece_each_job_comes_once_both_ways(store: Store, wanted: dict[str, Any], expected: Any) -> None:
    filled(store, 47)
    downwards: list[int] = []
    page = queries.jobs(store, Filter(**wanted), size=5, searched=7)
    assert page.newer is None
    while True:
        downwards += ids(page)
        if page.older is None:
            break
        page = queries.jobs(store, Filter(**wanted, before=page.older), size=5, searched=7)
    assert downwards == sorted(expected, reverse=True)
    upwards: list[int] = []
    while page.newer is not None:
        page = queries.jobs(store, Filter(**wanted, after=page.newer), size=5, searched=7)
        upwards = ids(page) + upwards
    assert upwards == [each for each in downwards if each in upwards]
    assert len(upwards) >= len(downwards) - 5, "all but those of the last piece"


def test_a_text_is_looked_for_in_so_many_jobs_at_once(store: Store) -> None:
    filled(store, 47)
    page = queries.jobs(store, Filter(text="prompt 3"), size=50, searched=20)
    assert (ids(page), page.older) == ([39, 38, 37, 36, 35, 34, 33, 32, 31, 30], 28)
    assert ids(queries.jobs(store, Filter(text="prompt 3", before=28), size=50, searched=40)) == [3]


def test_what_a_text_may_contain(store: Store) -> None:
    store.dispatch("100% sure_\\x", "w", {"note": "größe", "deep": {"tag": "a.b"}})
    for text in ("100%", "sure_", "\\x", "größe", "A.B"):
        assert ids(queries.jobs(store, Filter(text=text))) == [1], text
    for text in ("100_", "sure%x", "grosse"):
        assert ids(queries.jobs(store, Filter(text=text))) == [], text


def test_a_list_does_not_read_results_nor_sort(store: Store) -> None:
    for where in ("", "AND status = 'done'", "AND assigned_to = 'w'", "AND assigned_to = 'w' AND status = 'done'"):
        for order in ("ASC", "DESC"):
            query = f"SELECT id FROM jobs WHERE id > 5 AND id < 50 {where} ORDER BY id {order} LIMIT 51"
            plan = " ".join(row["detail"] for row in store.rows(f"EXPLAIN QUERY PLAN {query}"))
            assert "SEARCH" in plan, plan
            assert "TEMP B-TREE" not in plan
    for query in (
        "SELECT COUNT(*) FROM reviews WHERE status = 'pending'",
        "SELECT * FROM reviews WHERE status = 'pending' AND id < 9 ORDER BY id DESC",
        "SELECT * FROM reviews WHERE job_id = 3 ORDER BY id",
    ):
        plan = " ".join(row["detail"] for row in store.rows(f"EXPLAIN QUERY PLAN {query}"))
        assert "INDEX reviews_by" in plan, plan
        assert "TEMP B-TREE" not in plan


def test_no_list_costs_more_where_there_are_many_jobs(store: Store) -> None:
    """Counted in steps of SQLite's machine, which are the same on every machine."""

    def steps(look: Callable[[], object]) -> int:
        done = [0]
        store._connection.set_progress_handler(lambda: done.__setitem__(0, done[0] + 1), 10)
        look()
        store._connection.set_progress_handler(None, 0)
        return done[0] * 10

    looks: dict[str, Callable[[], object]] = {
        "all": lambda: queries.jobs(store, Filter()),
        "older": lambda: queries.jobs(store, Filter(before=300)),
        "newer": lambda: queries.jobs(store, Filter(after=300)),
        "status": lambda: queries.jobs(store, Filter(status="pending")),
        "worker": lambda: queries.jobs(store, Filter(worker="w")),
        "both": lambda: queries.jobs(store, Filter(worker="w", status="pending", before=300)),
        "none": lambda: queries.jobs(store, Filter(status="escalated")),
        "id": lambda: queries.jobs(store, Filter(text="#7")),
        "text": lambda: queries.jobs(store, Filter(text="nothing like this"), searched=400),
        "tally": lambda: queries.tally(store),
        "workers": lambda: queries.workers(store),
        "inbox": lambda: store.inbox("nobody", "pending"),
    }
    store.dispatch_all(["p"] * 500, "w", {})
    few = {name: steps(look) for name, look in looks.items()}
    store.dispatch_all(["p"] * 99_500, "w", {})
    assert len(queries.jobs(store, Filter()).jobs) == 50
    for name, look in looks.items():
        assert steps(look) <= few[name] + 20, name


def test_the_tally_is_what_counting_would_say(store: Store) -> None:
    dice = random.Random(7)
    filled(store, 30)
    actions = (
        lambda job: store.claim(job["id"], job["assigned_to"]),
        lambda job: store.close_job(job["id"], "", dice.choice(["done", "failed", "escalated"])),
        lambda job: store.abort(job["id"]),
        lambda job: store.requeue(job["id"]),
    )
    for _ in range(300):
        with suppress(TransitionError):
            dice.choice(actions)(store.job(dice.randint(1, 30)))
        counted = Counter((job["assigned_to"], job["status"]) for job in store.jobs())
        for worker in ("w", "v"):
            of_worker = {status: number for status, number in queries.tally(store, worker).items() if number}
            assert of_worker == {status: number for (name, status), number in counted.items() if name == worker}
        assert sum(queries.tally(store).values()) == 30
    store.abort_all()
    assert {"pending", "running"} & {name for name, number in queries.tally(store).items() if number} == set()


def test_workers_are_those_that_report_and_those_that_jobs_wait_for(store: Store) -> None:
    now = [1000.0]
    store.clock = lambda: now[0]
    store.report({"instance": "gone"})
    now[0] += 100
    store.report({"instance": "here"})
    store.dispatch("p", "here", {})
    store.dispatch("p", "misspelt", {})
    store.claim(1, "here")
    store.dispatch("p", "over", {})
    store.abort(3)
    found = [(each["instance"], each["present"], each["pending"], each["running"]) for each in queries.workers(store)]
    assert found == [("here", True, 0, 1), ("gone", False, 0, 0), ("misspelt", False, 1, 0)]
