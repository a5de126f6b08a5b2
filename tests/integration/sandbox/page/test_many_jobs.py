"""The lists of the page over 100 000 jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mr_celery.sandbox.page import overview, queries
from mr_celery.sandbox.page.filters import Filter
from mr_celery.sandbox.store import Store


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


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
        "older": lambda: queries.jobs(store, Filter(), 3),
        "last": lambda: queries.jobs(store, Filter(), 10_000),
        "status": lambda: queries.jobs(store, Filter(status="pending")),
        "worker": lambda: queries.jobs(store, Filter(worker="w")),
        "three": lambda: queries.jobs(store, Filter(worker="w", capability="c", status="pending"), 3),
        "none": lambda: queries.jobs(store, Filter(status="escalated")),
        "id": lambda: queries.jobs(store, Filter(text="#7"), scanned=400),
        "text": lambda: queries.jobs(store, Filter(text="nothing like this"), scanned=400),
        "failed": lambda: queries.jobs(store, Filter(text="zero", status="failed"), scanned=400),
        "period": lambda: queries.jobs(store, Filter(within="1d"), scanned=400),
        "longest": lambda: queries.jobs(store, Filter(order="longest"), scanned=400),
        "neighbours": lambda: queries.neighbours(store, Filter(worker="w"), 250),
        "tally": lambda: queries.tally(store),
        "capabilities": lambda: queries.capabilities(store),
        "pace": lambda: overview.pace(store),
        "run times": lambda: overview.run_times(store),
        "workers": lambda: queries.workers(store),
        "inbox": lambda: store.inbox("nobody", "pending"),
    }
    store.dispatch_all(["p"] * 500, "w", {"capability": "c"})
    few = {name: steps(look) for name, look in looks.items()}
    store.dispatch_all(["p"] * 99_500, "w", {"capability": "c"})
    assert len(queries.jobs(store, Filter()).jobs) == 50
    for name, look in looks.items():
        assert steps(look) <= few[name] + 60, name
