"""Queries for the page's lists: paging, search, counts and use of indexes."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from mr_celery.sandbox.page import filters, queries
from mr_celery.sandbox.page.filters import Filter
from mr_celery.sandbox.states import TransitionError
from mr_celery.sandbox.store import Store


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


def filled(store: Store, number: int) -> None:
    for each in range(1, number + 1):
        fields = {"capability": f"c{each % 3}"}
        store.dispatch(f"prompt {each}{' rare' * (each % 10 == 0)}", "wv"[each % 2], fields)


def ids(page: queries.JobsPage) -> list[int]:
    return [job["id"] for job in page.jobs]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, range(1, 48)),
        ({"worker": "v"}, range(1, 48, 2)),
        ({"capability": "c1"}, range(1, 48, 3)),
        ({"capability": "c1", "worker": "v"}, range(1, 48, 6)),
        ({"text": "rare"}, range(10, 48, 10)),
        ({"text": "rare", "worker": "w"}, range(10, 48, 10)),
        ({"text": "rare", "worker": "v"}, ()),
        ({"text": "RARE", "status": "pending"}, range(10, 48, 10)),
        ({"text": "#20"}, (20,)),
        ({"text": "#13-20"}, range(13, 21)),
        ({"text": "#13\N{EN DASH}#20", "worker": "w"}, range(14, 21, 2)),
        ({"text": "#"}, ()),
        ({"status": "done"}, ()),
        ({"within": "1h"}, range(1, 48)),
    ],
)
def test_pages_have_every_job_once_in_both_orders(store: Store, wanted: dict[str, Any], expected: Any) -> None:
    filled(store, 47)
    pages = [queries.jobs(store, Filter(**wanted), number, size=5) for number in range(1, 12)]
    found = [job for page in pages[: pages[0].last] for job in ids(page)]
    assert found == sorted(expected, reverse=True)
    assert {page.total for page in pages} == {len(expected)}
    assert pages[10].number == pages[0].last, "a page after the last one is the last one"
    assert sum(pages[0].counts.values()) == len(expected) or wanted.get("status") == "done"
    assert queries.selected(store, Filter(**wanted), 99) == found
    oldest = queries.jobs(store, Filter(**wanted, order="oldest"), size=50)
    assert ids(oldest) == found[::-1]


def test_a_number_finds_the_job_with_this_id_first(store: Store) -> None:
    filled(store, 47)
    for text in ("6", "#6"):
        page = queries.jobs(store, Filter(text=text), scanned=20)
        assert ids(page)[0] == 6, "also if it is older than those that are scanned"
        assert page.counts["pending"] == page.total
    assert [ids(queries.jobs(store, Filter(text="6"), number, size=2)) for number in (1, 2, 3)] == [
        [6, 46], [36, 26], [16],
    ]  # fmt: skip
    assert queries.selected(store, Filter(text="6"), 4) == [6, 46, 36, 26]
    assert ids(queries.jobs(store, Filter(text="6", worker="v"))) == []


def test_text_is_searched_in_prompts_fields_and_results(store: Store) -> None:
    filled(store, 3)
    store.claim(2, "w")
    store.close_job(2, "Traceback (most recent call last):\n  …\nZeroDivisionError: division by zero", "failed")
    page = queries.jobs(store, Filter(text="zerodivision"))
    assert (ids(page), page.counts["failed"], page.counts["pending"]) == ([2], 1, 0)
    assert page.jobs[0]["reason"] == "ZeroDivisionError: division by zero"
    store.requeue(2)
    assert ids(queries.jobs(store, Filter(text="zerodivision"))) == []


def test_counts_follow_the_filter_and_not_the_status(store: Store) -> None:
    filled(store, 47)
    for job_id in (10, 20, 11):
        store.abort(job_id)
    for status in ("", "pending", "failed"):
        for wanted, failed, pending in (
            (Filter(), 3, 44),
            (Filter(worker="w"), 2, 21),
            (Filter(capability="c1"), 1, 15),
            (Filter(text="rare"), 2, 2),
        ):
            counts = queries.jobs(store, wanted.in_status(status)).counts
            assert (counts["failed"], counts["pending"]) == (failed, pending)


def test_a_scan_is_limited_to_the_newest_jobs_of_the_indexed_conditions(store: Store) -> None:
    filled(store, 47)
    page = queries.jobs(store, Filter(text="prompt 3"), scanned=20)
    assert (ids(page), page.scanned) == ([39, 38, 37, 36, 35, 34, 33, 32, 31, 30], 20)
    store.abort(3)
    page = queries.jobs(store, Filter(text="prompt 3", status="failed"), scanned=20)
    assert (ids(page), page.scanned) == ([3], None)


def test_orders(store: Store) -> None:
    now = [1000.0]
    store.clock = lambda: now[0]
    filled(store, 6)
    for job_id, seconds, end in ((1, 5.0, "done"), (2, 9.0, "failed"), (3, 2.0, "escalated")):
        store.claim(job_id, "wv"[job_id % 2])
        now[0] += seconds
        store.close_job(job_id, "", end)
    store.claim(4, "w")
    now[0] += 7.0
    orders = {order: ids(queries.jobs(store, Filter(order=order))) for order in filters.ORDERS}
    assert orders == {
        "newest": [6, 5, 4, 3, 2, 1],
        "oldest": [1, 2, 3, 4, 5, 6],
        "ended": [3, 2, 1, 6, 5, 4],
        "longest": [2, 4, 1, 3, 6, 5],
        "status": [2, 3, 4, 6, 5, 1],
    }


def test_within_a_period(store: Store) -> None:
    now = [10_000.0]
    store.clock = lambda: now[0]
    filled(store, 2)
    now[0] += 1200
    store.dispatch("new", "w", {})
    assert [ids(queries.jobs(store, Filter(within=each))) for each in ("15m", "1h")] == [[3], [3, 2, 1]]


def test_neighbours_in_the_list(store: Store) -> None:
    filled(store, 9)
    for wanted in (Filter(worker="v"), Filter(text="prompt", worker="v"), Filter(worker="v", order="oldest")):
        listed = ids(queries.jobs(store, wanted))
        around = [None, *listed, None]
        for place, job_id in enumerate(listed):
            assert queries.neighbours(store, wanted, job_id) == (around[place], around[place + 2])
    for wanted in (Filter(worker="v"), Filter(text="prompt", worker="v")):  # it selects 1, 3, 5, 7 and 9
        assert queries.neighbours(store, wanted, 4) == (5, 3)


def test_an_unknown_value_of_a_query_selects_all() -> None:
    values = {"status": "odd", "within": "9y", "order": "random", "q": " x ", "page": "3"}
    wanted = Filter.of(values, ("pending",))
    assert wanted == Filter(text="x")
    assert Filter.of(wanted.address, ("pending",)) == wanted


def test_text_search_escapes_wildcards(store: Store) -> None:
    store.dispatch("100% sure_\\x", "w", {"note": "größe", "deep": {"tag": "a.b"}})
    for text in ("100%", "sure_", "\\x", "größe", "A.B"):
        assert ids(queries.jobs(store, Filter(text=text))) == [1], text
    for text in ("100_", "sure%x", "grosse"):
        assert ids(queries.jobs(store, Filter(text=text))) == [], text


def plan(store: Store, query: str) -> str:
    return " ".join(row["detail"] for row in store.rows(f"EXPLAIN QUERY PLAN {query}"))


def test_queries_use_indexes(store: Store) -> None:
    columns = {"status": "'done'", "assigned_to": "'w'", "capability": "'c'"}
    chosen = [names for size in range(1, 4) for names in itertools.combinations(columns, size)]
    for names in chosen:
        where = " AND ".join(f"{name} = {columns[name]}" for name in names)
        for order in ("ASC", "DESC"):
            found = plan(store, f"SELECT id FROM jobs WHERE {where} ORDER BY id {order} LIMIT 50 OFFSET 100")
            assert f"({' AND '.join(f'{name}=?' for name in sorted(names))})" in found, found
            assert "USING COVERING INDEX" in found
            assert "TEMP B-TREE" not in found
    runs = "WHERE closed_at IS NOT NULL AND claimed_at IS NOT NULL ORDER BY closed_at DESC LIMIT 9"
    found = plan(store, f"SELECT capability, closed_at - claimed_at FROM jobs {runs}")
    assert "USING COVERING INDEX runs" in found
    assert "TEMP B-TREE" not in found
    assert "SEARCH ended USING PRIMARY KEY" in plan(store, "SELECT * FROM ended WHERE minute BETWEEN 1 AND 60")
    for query in (
        "SELECT COUNT(*) FROM reviews WHERE status = 'pending'",
        "SELECT * FROM reviews WHERE status = 'pending' AND id < 9 ORDER BY id DESC",
        "SELECT * FROM reviews WHERE job_id = 3 ORDER BY id",
    ):
        assert "INDEX reviews_by" in plan(store, query)
        assert "TEMP B-TREE" not in plan(store, query)


def test_tally_equals_counting(store: Store) -> None:
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


def test_workers_includes_names_of_open_jobs(store: Store) -> None:
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


def test_workers_have_their_capabilities_apart_from_other_tags(store: Store) -> None:
    store.directory.register("w", None, [{"name": "a.b", "risk_tier": "audit"}])
    store.create("p", None, {})
    (before,) = queries.workers(store)
    assert (before["instance"], before["age"], before["risk_tiers"], before["own_tags"]) == (
        "w", None, {"a.b": "audit"}, [],
    )  # fmt: skip
    store.report({"instance": "w", "tags": "a.b, fast"})
    assert queries.workers(store)[0]["own_tags"] == ["fast"]
