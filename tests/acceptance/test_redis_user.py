"""An installation whose ledger has a Redis user with few permissions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mr_celery.ledger import permissions as needed
from mr_celery.sandbox import Sandbox
from support import fork_server
from support.fleet import BIN, Fleet
from support.ports import until
from support.servers import RedisServer

PREFIX = "shop[1]:"
"""A prefix with characters that mean something else in a pattern."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """The Redis of the ledger."""
    made = RedisServer()
    yield made
    made.stop()


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(sandbox, broker=redis_server.url(0), ledger=server.ledger_url(1, prefix=PREFIX), folder=tmp_path)
    made.environment["MODELREINS_LEDGER_PREFIX"] = PREFIX
    yield made
    made.stop()


class Monitored:
    """The commands that clients send, and those that scripts run."""

    def __init__(self, server: RedisServer) -> None:
        self.sent: set[str] = set()
        self.in_scripts: set[str] = set()
        self._client: Any = redis.Redis(port=server.port, socket_timeout=None)  # there may be no commands for a while
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for each in self._monitor.listen():
            words = each["command"].lower().split()
            if words[:2] == ["echo", "over"]:
                return
            name = "|".join(words[:2]) if words[0] in ("script", "client", "config", "cluster", "acl") else words[0]
            (self.in_scripts if each["client_type"] == "lua" else self.sent).add(name)

    def stop(self) -> None:
        self._client.echo("over")
        self._thread.join(20)


def refused(server: RedisServer) -> set[str]:
    """The commands, keys and channels that Redis has refused to a user."""
    client: Any = server.client()
    return {str(each["object"]) for each in client.acl_log()}


def run(fleet: Fleet, *arguments: str, code: int = 0) -> str:
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", *arguments]
    done = fork_server.run(command, env=fleet.environment, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(500)
def test_everything_works_with_the_documented_permissions(fleet: Fleet, server: RedisServer, tmp_path: Path) -> None:
    """Jobs with each ending and an operator's commands: Redis refuses nothing, and only listed commands are sent."""
    fleet.environment["PROJ_GATE"] = str(tmp_path / "gate")
    monitored = Monitored(server)
    worker, bridge = fleet.worker("-c", "2", "-Q", "celery,other"), fleet.bridge("--poll-interval", "0.5")
    plain = [fleet.dispatch(f"job {n}") for n in range(3)]
    others = [fleet.dispatch("p", name) for name in ("raise", "escalate", "image", "large", "retry")]
    fleet.ended(*plain, *others)
    requeued, aborted = fleet.dispatch("requeued", "gated"), fleet.dispatch("aborted", "gated")
    until(lambda: fleet.started("requeued") and fleet.started("aborted"), seconds=60, what="both run")
    run(fleet, "requeue", str(requeued), "--yes")
    fleet.sandbox.store.abort(aborted)
    (tmp_path / "gate").touch()
    fleet.ended(requeued, aborted)
    assert f"{plain[0]}" in run(fleet, "jobs", "--state", "done")
    assert "closed" in run(fleet, "jobs", str(plain[0]))
    run(fleet, "status")
    checked = run(fleet, "check", "--audit")
    assert "notifications" not in checked
    assert f", prefix {PREFIX}: Redis " in checked
    run(fleet, "drain")
    assert (worker.terminate(), bridge.terminate()) == (0, 0)
    monitored.stop()
    assert "no notifications" not in bridge.output
    # Not required: commands that redis-py sends about itself, and optional reads of check and of a starting bridge.
    about_itself = {"client|setinfo", "client|maint_notifications", "hello", "auth"}
    assert refused(server) <= {*needed.OPTIONAL, *about_itself}
    direct = {*needed.CONNECTION, *needed.SCRIPTS, *needed.READS, *needed.WRITES, *needed.NOTIFICATIONS}
    assert monitored.sent - about_itself <= {*direct, *needed.REPAIRS}
    assert monitored.in_scripts <= set(needed.IN_SCRIPTS)
    # Commands of idle connections, of deferred jobs, and of a prefix that belongs to Celery.
    unused = direct - monitored.sent - {"ping", "smembers", "exists"}
    assert not unused, f"not needed: {unused}"


def test_a_user_without_channels_has_a_bridge_that_polls(fleet: Fleet, server: RedisServer) -> None:
    client: Any = server.client()
    client.execute_command("ACL SETUSER", "ledger", "resetchannels")
    fleet.worker("-c", "2", "-Q", "celery,other")
    bridge = fleet.bridge()
    jobs = fleet.ended(*[fleet.dispatch(f"job {n}") for n in range(12)])
    assert {job["status"] for job in jobs} == {"done"}
    bridge.says("no notifications from the ledger: its Redis user has no permission for the channel " + PREFIX)
    assert bridge.output.count("no notifications") == 1
    assert "ledger at" not in bridge.output.partition("ready")[2]
    checked = run(fleet, "check")
    assert "no permission for the channels of the ledger: the bridge polls once a second" in checked
    assert "of an unknown version (no permission for INFO)" in checked
    assert bridge.terminate() == 0
