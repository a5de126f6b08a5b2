"""Deferred jobs whose web hooks come twice, early and late, while processes die and Redis fails.

Assumption shared with the code: a provider that gets no response to its web hook sends it again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import psutil
import pytest
from celery import Celery

from mr_celery import Artifact, complete, completion
from mr_celery.completion import Answer
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Ledger
from mr_celery.sandbox import Sandbox
from support.campaign import Campaign, jobs_each, seed
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer

ELSEWHERE = Celery("elsewhere", set_as_current=False)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A separate Redis for the test, which keeps its data."""
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


@pytest.fixture
def fleet(sandbox: Sandbox, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    made = Fleet(
        sandbox, broker=own_redis.url(0), ledger=own_redis.url(1), folder=tmp_path, app="support.proj_deferred"
    )
    made.environment["MODELREINS_MAX_ATTEMPTS"] = "20"
    monkeypatch.setenv("MODELREINS_LEDGER_URL", own_redis.url(1))
    monkeypatch.setattr(completion, "_made", WeakKeyDictionary())  # of an earlier test, with another Redis
    yield made
    made.stop()


def given(fleet: Fleet) -> list[tuple[str, str]]:
    """The prompts and references that have been given out so far."""
    file = Path(f"{fleet.runs}.refs")
    lines = file.read_text().splitlines() if file.exists() else []
    return [(prompt, ref) for prompt, _, ref in (line.partition("\t") for line in lines)]


def states(fleet: Fleet) -> Counter[str]:
    return Counter(Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name).in_flight().values())


def hook(ref: str, value: str) -> Answer:
    """Send a web hook until it gets a response."""
    while True:
        with suppress(LedgerUnavailable):
            return complete(ref, value, app=ELSEWHERE)


class Provider:
    """Sends each web hook twice at the same moment, and again until it gets a response."""

    def __init__(self, fleet: Fleet, *, delay: float) -> None:
        self.answers: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self._fleet = fleet
        self._delay = delay
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(16)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._calls: list[Future[None]] = []
        self._thread.start()

    def _work(self) -> None:
        seen = 0
        while not self._stop.wait(0.05):
            orders = given(self._fleet)
            for prompt, ref in orders[seen:]:
                self._calls += [self._pool.submit(self._hook, prompt, ref) for _ in range(2)]
            seen = len(orders)

    def _hook(self, prompt: str, ref: str) -> None:
        self._stop.wait(random.uniform(0, self._delay))
        answer = hook(ref, prompt.upper())
        self.answers[answer.reason] += 1
        if answer:
            self.accepted[prompt] += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        for call in self._calls:
            call.result(60)
        self._pool.shutdown()


def test_web_hooks_while_everything_dies(fleet: Fleet, own_redis: RedisServer) -> None:
    dice = random.Random(seed())
    fleet.environment["PROJ_GATE"] = str(fleet.folder)  # which exists
    worker, bridge = fleet.worker("-c", "3"), fleet.bridge()
    fleet.keep_running()
    campaign, provider = Campaign(fleet), Provider(fleet, delay=1.0)
    try:
        number = jobs_each(20)
        for capability in ("later", "later-raised", "later-async", None):
            campaign.dispatch(number, capability)
        kills = 0
        for share in (0.1, 0.3, 0.5, 0.7):
            until(lambda share=share: campaign.done() > share * len(campaign.jobs), seconds=120)  # type: ignore[misc]
            children = psutil.Process(worker.popen.pid).children()
            for child in dice.sample(children, min(2, len(children))):
                os.kill(child.pid, signal.SIGKILL)
            bridge.signal(signal.SIGKILL)
            kills += 2
            if share == 0.5:
                own_redis.kill()
                own_redis.start()
                worker.signal(signal.SIGKILL)
                kills += 3
        campaign.audit(reruns=kills + 3)
    finally:
        provider.stop()
    print(provider.answers)
    assert provider.answers["accepted"] == 3 * number
    assert set(provider.accepted.values()) == {1}
    assert provider.answers.keys() <= {"accepted", "completed", "superseded", "ended"}


def test_a_web_hook_while_redis_is_restarted(fleet: Fleet, own_redis: RedisServer) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("patient", "later")
    until(lambda: states(fleet) == {"deferred": 1}, seconds=60, what="it is deferred")
    own_redis.kill()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(hook, given(fleet)[0][1], "made")
        own_redis.start()
        assert call.result()
    assert fleet.ended(job_id)[0]["result"] == "made"


def test_all_data_is_lost_while_jobs_are_deferred(fleet: Fleet, own_redis: RedisServer) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    again, once = fleet.dispatch("again", "later"), fleet.dispatch("once", "later-once")
    until(lambda: states(fleet) == {"deferred": 2}, seconds=60, what="they are deferred")
    earlier = dict(given(fleet))
    own_redis.client(1).flushdb()
    assert complete(earlier["again"], "x", app=ELSEWHERE).reason == "unknown"
    until(lambda: len(given(fleet)) == 3, seconds=60, what="it was adopted, and has run again")
    assert complete(earlier["again"], "x", app=ELSEWHERE).reason == "unknown"
    assert complete(dict(given(fleet))["again"], "made", app=ELSEWHERE)
    done, lost = fleet.ended(again, once)
    assert (done["status"], done["result"]) == ("done", "made")
    assert lost["status"] == "failed"
    assert complete(earlier["once"], "x", app=ELSEWHERE).reason in ("unknown", "ended")
    assert fleet.started("once") == 1


def test_a_full_redis_takes_outcomes_of_deferred_jobs(fleet: Fleet, own_redis: RedisServer) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    jobs = [fleet.dispatch(f"waits {number}", "later") for number in range(3)]
    until(lambda: states(fleet) == {"deferred": 3}, seconds=60, what="they are deferred")
    own_redis.client().config_set("maxmemory", "1mb")
    for prompt, ref in given(fleet):
        picture = Artifact(data=bytes(500_000), filename="picture.png", content_type="image/png")
        assert complete(ref, picture if prompt == "waits 0" else prompt, app=ELSEWHERE)
    assert [job["status"] for job in fleet.ended(*jobs)] == ["done"] * 3
    assert [each["filename"] for each in fleet.sandbox.store.artifacts(jobs[0])] == ["picture.png"]
    own_redis.client().config_set("maxmemory", "0")
