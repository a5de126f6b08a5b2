"""Real servers for the tests, each in a separate process on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import redis
import requests

from mr_celery.ledger.permissions import CLUSTER, acl_rules

from .links import INSIDE, Link
from .ports import free_port, listens, until

LEDGER_USER = "ledger:secret@"


class RedisServer:
    """A Redis process with an empty database, or with the one in ``folder``."""

    def __init__(self, *options: str, folder: Path | None = None, port: int | None = None) -> None:
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="mr-redis-"))
        self.port = port or free_port()
        self._options = options
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: listens(self.port), what="Redis listens")

    def url(self, db: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{db}"

    def client(self, db: int = 0) -> Any:
        return self.client_of(self.url(db))

    def ledger_url(self, db: int = 0, *, scheme: str = "redis", more: Sequence[str] = (), prefix: str = "") -> str:
        """The address of a ledger for a user that has only the documented permissions.

        Args:
            db: the database.
            scheme: the scheme of the address.
            more: further commands that the user may run.
            prefix: the prefix of the ledger's keys and channels.
        """
        client: Any = redis.Redis.from_url(self.url())
        client.execute_command("ACL SETUSER", "ledger", *acl_rules(*more, prefix=prefix), ">secret")
        return f"{scheme}://{LEDGER_USER}127.0.0.1:{self.port}" + (f"/{db}" if scheme == "redis" else "")

    @staticmethod
    def client_of(url: str) -> Any:
        """A client with all permissions for a ledger's address, with its own connection pool."""
        url = url.replace(LEDGER_USER, "")
        if "+cluster://" in url:
            return redis.RedisCluster.from_url(url.replace("+cluster", "", 1))
        return redis.Redis.from_url(url)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


class SentinelServer:
    """A Redis Sentinel.

    Args:
        lines: the lines of its configuration, besides its port.
        port: its port, which is the TLS port if ``lines`` configure TLS.
    """

    def __init__(self, *lines: str, port: int | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mr-sentinel-"))
        self.port = port or free_port()
        file = self.folder / "sentinel.conf"
        first = () if any(line.startswith("port ") for line in lines) else (f"port {self.port}",)
        file.write_text("\n".join((*first, "bind 127.0.0.1", *lines, "")))
        command = ["redis-server", str(file), "--sentinel"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.folder)
        until(lambda: listens(self.port), what="the Sentinel listens")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class SentinelServers:
    """A Redis, its replicas, and three Sentinels that know them as ``main``.

    Each Redis is reached over a link, which can be cut for the other servers.

    Args:
        replicas: the number of replicas.
    """

    def __init__(self, replicas: int = 1) -> None:
        self.replicas = replicas
        ports = [free_port() for _ in range(1 + replicas)]
        self.links = {port: Link(port) for port in ports}
        first = self.links[ports[0]]
        self.redis = []
        for port, link in self.links.items():
            options = ["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(link.port)]
            options += ["--bind-source-addr", INSIDE, "--repl-diskless-sync-delay", "0", "--shutdown-timeout", "0"]
            options += ["--replicaof", "127.0.0.1", str(first.port)] if link is not first else []
            self.redis.append(RedisServer(*options, port=port))
        lines = (
            f"bind-source-addr {INSIDE}",
            "sentinel announce-ip 127.0.0.1",
            f"sentinel monitor main 127.0.0.1 {first.port} 2",
            "sentinel down-after-milliseconds main 1000",
            "sentinel failover-timeout main 3000",
        )
        self.sentinels = [SentinelServer(*lines) for _ in range(3)]
        self.ports = [each.port for each in self.sentinels]
        self.all_known()

    @property
    def url(self) -> str:
        """The address of database 1."""
        return ";".join(f"sentinel://127.0.0.1:{port}" for port in self.ports) + "/1?master_name=main"

    def all_known(self) -> None:
        """Wait until the Sentinels know each other and all replicas, and these have the master's data."""
        until(lambda: self.known() == (2, self.replicas), seconds=60, what="all Sentinels and replicas are ready")

    def known(self) -> tuple[int, int] | None:
        """The lowest numbers of other Sentinels and of ready replicas that any Sentinel knows."""
        try:
            clients: list[Any] = [redis.Redis(port=port) for port in self.ports]
            others = min(client.sentinel_master("main")["num-other-sentinels"] for client in clients)
            replicas = [client.sentinel_slaves("main") for client in clients]
        except redis.RedisError:
            return None
        ready = [
            [each for each in found if each["master-link-status"] == "ok" and not each["is_sdown"]]
            for found in replicas
        ]
        return others, min(map(len, ready))

    def master(self) -> RedisServer:
        """The current master, according to a Sentinel."""
        client: Any = redis.Redis(port=self.ports[0])
        _, port = client.sentinel_get_master_addr_by_name("main")
        return next(each for each in self.redis if self.links[each.port].port == int(port))

    def cut_off(self, server: RedisServer) -> None:
        """Cut a Redis off from the others and from the Sentinels, but not from its clients."""
        self.links[server.port].cut()

    def mend(self, server: RedisServer) -> None:
        """Connect it again."""
        self.links[server.port].mend()

    def fail_over(self, fail: Callable[[RedisServer], object]) -> RedisServer:
        """Make the master fail, and wait until there is a new one. Returns the former master."""
        former = self.master()
        fail(former)
        until(lambda: self.master() is not former, seconds=60, what="the Sentinels have chosen another master")
        return former

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for each in self.redis:
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGCONT)
                each.stop()
        for link in self.links.values():
            link.stop()


class ClusterServers:
    """A Redis Cluster of three nodes without replicas, each with a third of the slots."""

    def __init__(self) -> None:
        buses = [free_port() for _ in range(3)]
        self.nodes = [RedisServer("--cluster-enabled", "yes", "--cluster-port", str(bus)) for bus in buses]
        bounds = [16384 * number // 3 for number in range(4)]
        for number, node in enumerate(self.nodes):
            node.client().execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.client().execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            if number:
                node.client().execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port, buses[0])
        until(lambda: all(self._is_up(node) for node in self.nodes), seconds=60, what="the Cluster is up")

    @staticmethod
    def _is_up(node: RedisServer) -> bool:
        client = node.client()
        # A node lists the slots of another one only once it knows its name, from the first messages.
        return bool(
            client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
            and len(client.execute_command("CLUSTER SLOTS")) == 3
        )

    def ledger_url(self) -> str:
        """The address of a ledger for a user that has only the documented permissions."""
        urls = [node.ledger_url(scheme="redis+cluster", more=CLUSTER) for node in self.nodes]  # on each, the same user
        return urls[0]

    def flush(self) -> None:
        """Delete all keys."""
        for node in self.nodes:
            node.client().flushall()

    def slot_of(self, key: str) -> int:
        """The slot of a key."""
        return int(self.nodes[0].client().execute_command("CLUSTER KEYSLOT", key))

    def owner(self, slot: int) -> RedisServer:
        """The node that serves a slot."""
        slots = self.nodes[0].client().execute_command("CLUSTER SLOTS")
        identity = next(node[2] for first, last, node, *_ in slots if first <= slot <= last)
        return next(node for node in self.nodes if _identity(node) == identity)

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Begin to move a slot to another node."""
        target.client().execute_command("CLUSTER SETSLOT", slot, "IMPORTING", _identity(source))
        source.client().execute_command("CLUSTER SETSLOT", slot, "MIGRATING", _identity(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, *, most: int) -> int:
        """Move at most this many keys of a slot. Returns the number of keys moved."""
        client = source.client()
        keys = client.execute_command("CLUSTER GETKEYSINSLOT", slot, most)
        if keys:
            client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, target: RedisServer) -> None:
        """Assign the slot to the other node, on all nodes."""
        for node in sorted(self.nodes, key=lambda node: node is not target):
            node.client().execute_command("CLUSTER SETSLOT", slot, "NODE", _identity(target))

    def move(self, slot: int, target: RedisServer) -> None:
        """Move a slot to another node, as ``redis-cli --cluster reshard`` does."""
        source = self.owner(slot)
        self.begin_move(slot, source, target)
        while self.move_keys(slot, source, target, most=10):
            pass
        self.end_move(slot, target)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


def _identity(node: RedisServer) -> bytes:
    return bytes(node.client().execute_command("CLUSTER MYID"))


class RabbitServer:
    """A RabbitMQ node with its own name, ports, folder and port mapper."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mr-rabbit-"))
        self.port = free_port()
        installed = Path("/usr/lib/rabbitmq/bin")
        self._bin = installed if installed.is_dir() else Path(shutil.which("rabbitmq-server") or "").parent
        (self.folder / "enabled_plugins").write_text("[].")
        (self.folder / "rabbitmq.conf").write_text("loopback_users = none\nvm_memory_high_watermark.relative = 0.8\n")
        self._environment = {
            **os.environ,
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"mr{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self.start()

    def start(self) -> None:
        """Start the node, or restart it with its data."""
        self.process = subprocess.Popen(
            [str(self._bin / "rabbitmq-server")],
            env=self._environment,
            stdout=(self.folder / "out").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until(lambda: listens(self.port), seconds=90, what="RabbitMQ listens")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def control(self, *arguments: str) -> str:
        """Run a command of ``rabbitmqctl``, and return its output."""
        command = [str(self._bin / "rabbitmqctl"), "--quiet", *arguments]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def kill(self) -> None:
        """Kill the node. Its durable queues stay on disk."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _kill_port_mapper(self) -> None:
        """Kill the node's epmd, a daemon that does not end with the node."""
        for process in psutil.process_iter(["name"]):
            if process.info["name"] != "epmd":
                continue
            with suppress(psutil.Error):
                if process.environ().get("ERL_EPMD_PORT") == self._environment["ERL_EPMD_PORT"]:
                    process.kill()

    def stop(self) -> None:
        self.kill()
        self._kill_port_mapper()
        shutil.rmtree(self.folder, ignore_errors=True)


class PrometheusServer:
    """A Prometheus server with given series, which scrapes nothing.

    Args:
        series: samples in the OpenMetrics text format, with timestamps.
    """

    def __init__(self, series: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mr-prometheus-"))
        text, data = self.folder / "series.txt", self.folder / "data"
        text.write_text(series)
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        (self.folder / "prometheus.yml").write_text("")
        self.url = f"http://127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={data}"]
        command += [f"--web.listen-address={self.url.removeprefix('http://')}", "--log.level=warn"]
        self.process = subprocess.Popen(command)
        until(self._ready, what="Prometheus is ready")

    def _ready(self) -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        return False

    def query(self, expression: str, at: float) -> list[dict[str, Any]]:
        """Evaluate an expression at a time. Returns series with ``metric`` and ``value``.

        Raises:
            AssertionError: Prometheus does not accept it.
        """
        answer = requests.get(f"{self.url}/api/v1/query", {"query": expression, "time": str(at)}, timeout=30).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
