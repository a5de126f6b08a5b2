"""Real servers for the tests, each a process of its own on a free port, gone when the test is over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import redis
import requests

from .ports import free_port, listens, until


class RedisServer:
    """A Redis process with an empty database, or the one in ``folder``."""

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

    @staticmethod
    def client_of(url: str) -> Any:
        return redis.Redis.from_url(url)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


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
        """Start it, or start it again with the data that it has."""
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
        """What a command of ``rabbitmqctl`` prints."""
        command = [str(self._bin / "rabbitmqctl"), "--quiet", *arguments]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def kill(self) -> None:
        """SIGKILL; its durable queues stay on disk."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _kill_port_mapper(self) -> None:
        """The node's epmd: a daemon, which does not end with the node."""
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
    """A Prometheus over series that are given to it; it scrapes nothing.

    Args:
        series: in the OpenMetrics text format, with a time for each sample.
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
        """What an expression finds at a time: its series, each with ``metric`` and ``value``.

        Raises:
            AssertionError: Prometheus does not accept it.
        """
        answer = requests.get(f"{self.url}/api/v1/query", {"query": expression, "time": at}, timeout=30).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
