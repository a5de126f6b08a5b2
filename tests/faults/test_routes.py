"""Jobs of tasks with every kind of route are run, or stay pending, or end with a reason.

Other tests share assumptions with the code: a route is a queue, the broker accepts whatever is published, and a router
always returns what it returned when the bridge started. These tests route by exchange and key, delete queues after the
claim, and use routers with varying results.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection

from mr_celery.sandbox import Sandbox
from support import fork_server
from support.fleet import BIN, Fleet
from support.ports import until
from support.servers import RabbitServer, RedisServer


def fleet_on(broker: str, sandbox: Sandbox, redis: RedisServer, folder: Path) -> Fleet:
    return Fleet(sandbox, broker=broker, ledger=redis.url(1), folder=folder, app="support.proj_routed")


@pytest.fixture
def on_rabbit(
    rabbit_server: RabbitServer, sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> Iterator[Fleet]:
    made = fleet_on(rabbit_server.url, sandbox, redis_server, tmp_path)
    yield made
    made.stop()


@pytest.fixture(params=["redis", "rabbitmq"])
def on_both(
    request: pytest.FixtureRequest, sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> Iterator[Fleet]:
    url = redis_server.url(0) if request.param == "redis" else request.getfixturevalue("rabbit_server").url
    made = fleet_on(url, sandbox, redis_server, tmp_path)
    yield made
    made.stop()


def check(fleet: Fleet) -> str:
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "check"]
    return fork_server.run(command, env=fleet.environment, timeout=60).stdout


def told(log: str, *texts: str) -> int:
    """The number of lines that contain all these texts."""
    return sum(all(text in line for text in texts) for line in log.splitlines())


def test_routes_by_exchange_and_key(on_both: Fleet) -> None:
    on_both.worker("-c", "2", "-Q", "celery,video,grey,everybody")
    bridge = on_both.bridge()
    capabilities = ("topic", "direct", "own", "broadcast")
    job_ids = [on_both.dispatch(f"{name} {number}", name) for name in capabilities for number in range(5)]
    nowhere = on_both.dispatch("nowhere", "nowhere")
    assert {job["status"] for job in on_both.ended(*job_ids)} == {"done"}
    assert all(count == 1 for prompt, count in on_both.starts().items() if prompt)
    assert on_both.job(nowhere)["status"] == "pending"
    assert told(bridge.output, "support.proj_routed.nowhere stay pending", "'media'", "'nobody.listens'") == 1
    where = "exchange 'media' with routing key 'nobody.listens'"
    waits = "1 job waits for support.proj_routed.nowhere"
    # A bridge reports the reason why jobs wait a moment after finding it.
    until(
        lambda: told(check(on_both), "waiting jobs", waits, where) == 1, seconds=60, what="`check` knows why it waits"
    )
    found = check(on_both)
    assert told(found, "handler  ", "support.proj_routed.nowhere", where) == 1
    assert told(found, "support.proj_routed.topic", "exchange 'media' with routing key 'video.hd'", "1 worker") == 1


def test_a_router_with_varying_results(on_both: Fleet) -> None:
    """A third of the messages would go to a queue without consumers. Other routes depend on the job's fields."""
    on_both.environment["PROJ_ROUTER"] = "1"
    on_both.worker("-c", "2", "-Q", "celery,red,blue")
    bridge = on_both.bridge()
    job_ids = [on_both.dispatch(f"turn {number}", "turns") for number in range(30)]
    for tenant in ("red", "blue"):
        job_ids += [on_both.dispatch(f"{tenant} {number}", "tenant", tenant=tenant) for number in range(2)]
    stays = on_both.dispatch("green", "tenant", tenant="green")
    assert {job["status"] for job in on_both.ended(*job_ids)} == {"done"}
    assert on_both.job(stays)["status"] == "pending"
    assert told(bridge.output, "turns stay pending", "queue nobody, which no online worker consumes") == 1
    assert told(bridge.output, "sent to queue nobody") == 0
    assert told(bridge.output, "sent to queue red") > 0
    assert "Traceback" not in check(on_both)


def test_a_queue_that_the_fleet_declares_differently(on_rabbit: Fleet, rabbit_server: RabbitServer) -> None:
    with Connection(rabbit_server.url) as connection:
        connection.default_channel.queue_delete("other")  # left over from an earlier test
    on_rabbit.worker("-c", "1", "-Q", "celery,other", PROJ_OTHER="9")
    bridge = on_rabbit.bridge()
    pending, other = on_rabbit.dispatch("not claimed", "other"), on_rabbit.dispatch("runs", "plain")
    on_rabbit.ended(other)
    bridge.says("406")
    assert on_rabbit.job(pending)["status"] == "pending"
    assert told(bridge.output, "support.proj_routed.other stay pending", "queue other", "406") == 1
    assert told(check(on_rabbit), "handler  ", "support.proj_routed.other", "the broker refuses", "406") == 1


def test_a_queue_that_is_deleted_after_the_claim(on_rabbit: Fleet, rabbit_server: RabbitServer) -> None:
    """The bridge declares it again on the next try, and a returning worker finds the job there."""
    worker = on_rabbit.worker("-c", "1", "-Q", "celery")
    bridge = on_rabbit.bridge()
    on_rabbit.ended(on_rabbit.dispatch("before", "plain"))
    busy = on_rabbit.dispatch("busy", "long")
    until(lambda: on_rabbit.started("busy") == 1, what="it runs")
    with Connection(rabbit_server.url) as connection:
        connection.default_channel.queue_delete("celery")
    job_id = on_rabbit.dispatch("after", "plain")
    worker.kill()
    on_rabbit.worker("-c", "1", "-Q", "celery")
    assert [job["status"] for job in on_rabbit.ended(busy, job_id, seconds=120)] == ["done", "done"]
    assert told(bridge.output, "failed") == 0


@pytest.mark.long
def test_what_can_never_be_published_ends_with_the_reason(on_both: Fleet) -> None:
    on_both.worker("-c", "1", "-Q", "celery")
    bridge = on_both.bridge()
    job_id = on_both.dispatch("unpublishable", "unpublishable")
    bridge.says("not published to queue celery")
    more = on_both.dispatch("not claimed", "unpublishable")
    others = [on_both.dispatch(f"other {number}", "plain") for number in range(10)]
    assert {job["status"] for job in on_both.ended(*others)} == {"done"}
    (job,) = on_both.ended(job_id, seconds=120)
    assert job["status"] == "failed"
    assert "no message could be published for the job, to queue celery" in job["result"]
    assert "nonesuch" in job["result"]
    assert told(bridge.output, f"job={job_id} ", "not published") == 1
    assert on_both.job(more)["status"] == "pending"
    assert on_both.started("unpublishable") == 0
