"""The sandbox as a thread and as a command: start, stop, restart, signals and output."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import uvicorn

from mr_celery.errors import MrCeleryError
from mr_celery.sandbox import Sandbox, ServerOptions, create_app, run, server
from support.ports import until


def test_state_and_port_survive_a_restart(tmp_path: Path) -> None:
    sandbox = Sandbox(db=str(tmp_path / "s.db"))
    headers = {"Authorization": f"Bearer {sandbox.token}"}
    with sandbox:
        url = sandbox.url
        sandbox.dispatch("x", worker="w", tier=1)
        requests.post(f"{url}/jobs/1/claim", json={"worker": "w"}, headers=headers, timeout=30)
        files = {"file": ("a.bin", b"\x00\xff" * 9999, "application/octet-stream")}
        path = requests.post(f"{url}/artifacts/upload", files=files, headers=headers, timeout=30).json()["url"]
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=30)
    with sandbox:
        assert sandbox.url == url
        (job,) = requests.get(f"{url}/my-jobs?worker=w&status=running", headers=headers, timeout=30).json()["jobs"]
        assert job["tier"] == 1
        assert requests.get(url + path, timeout=30).content == b"\x00\xff" * 9999
        assert [event["event"] for event in sandbox.store.events(1)] == ["dispatched", "claim"]


def servers() -> list[threading.Thread]:
    """Threads of all sandboxes, including those of other tests."""
    return [thread for thread in threading.enumerate() if thread.name == "modelreins-sandbox"]


def test_start_and_stop() -> None:
    before = servers()
    sandbox = Sandbox(token="t")
    with pytest.raises(MrCeleryError, match="not running"):
        sandbox.dispatch("x", worker="w")
    sandbox.stop()
    sandbox.start()
    with pytest.raises(MrCeleryError, match="already running"):
        sandbox.start()
    assert requests.get(f"{sandbox.url}/jobs", headers={"Authorization": "Bearer t"}, timeout=30).json() == {"jobs": []}
    assert len(servers()) == len(before) + 1
    sandbox.stop()
    sandbox.stop()
    assert servers() == before


def test_port_in_use_is_reported() -> None:
    with Sandbox() as sandbox:
        with pytest.raises(MrCeleryError, match=f"cannot listen on 127.0.0.1:{sandbox.port}"):
            Sandbox(port=sandbox.port).start()
        with pytest.raises(MrCeleryError, match="cannot listen"):
            run(port=sandbox.port)


def test_answers_are_sent_without_delay() -> None:
    """asyncio sets TCP_NODELAY only if the socket's protocol is TCP. Without it, responses are delayed by 40 ms."""
    with server._listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_stop_does_not_wait_for_idle_connections() -> None:
    before = servers()
    with requests.Session() as session, Sandbox() as sandbox:
        session.get(f"{sandbox.url}/health", timeout=30)
    assert servers() == before


@contextmanager
def command(arguments: str) -> Iterator[subprocess.Popen[str]]:
    code = f"from mr_celery.sandbox import run; run(port=0, {arguments})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_with_exit_code_0(number: signal.Signals, tmp_path: Path) -> None:
    with command(f"db={str(tmp_path / 's.db')!r}") as process:
        assert process.stdout is not None
        line, credentials, page = (process.stdout.readline() for _ in range(3))
        match = re.fullmatch(r"export MODELREINS_URL=(\S+) MODELREINS_TOKEN=(\S+)\n", credentials)
        assert match
        url, token = match.groups()
        assert line == f"ModelReins sandbox at {url}, state in {tmp_path / 's.db'}\n"
        assert re.fullmatch(rf"log in to the page \(this link works once\): {url}/login\?key=\S+\n", page)
        body = {"prompt": "x", "worker": "w"}
        answer = requests.post(f"{url}/dispatch", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert answer.status_code == 200
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "", "")


def test_early_signal_ends_the_command_with_exit_code_0() -> None:
    with command("token='t'") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "", "")


def test_given_token_is_not_printed_and_open_address_warns() -> None:
    with command("host='0.0.0.0', token='given-token'") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("warning: listening on 0.0.0.0")
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "given-token" not in output + errors


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "python_multipart", "jinja2", "markdown_it"])
def test_missing_extra_is_named(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None\nimport mr_celery.sandbox"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last == ('mr_celery.errors.MrCeleryError: the `sandbox` extra is missing: pip install "mr-celery[sandbox]"')


def test_create_app_without_a_server() -> None:
    with Sandbox() as sandbox:
        assert create_app(sandbox.store, "t").routes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_the_start_of_uvicorn_sets_a_flag(number: signal.Signals) -> None:
    coming_up = uvicorn.Server(uvicorn.Config("none"))
    before = signal.getsignal(number)
    with server._stopped_by_signals(coming_up):
        signal.raise_signal(number)
    assert coming_up.should_exit
    assert signal.getsignal(number) == before


def test_jobs_of_lost_workers_are_requeued_while_it_runs() -> None:
    with Sandbox(options=ServerOptions(requeue_after=0.2)) as sandbox:
        sandbox.store.claim(sandbox.dispatch("x", worker="w")["id"], "w")
        until(lambda: sandbox.store.job(1)["status"] == "pending", what="the job is pending again")
