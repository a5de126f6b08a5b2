"""Both published versions of the official SDK with the sandbox, unchanged."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

from mr_celery.sandbox import Sandbox, ServerOptions

VERSIONS = ("0.1.0", "0.2.0")
METHODS = {
    "0.1.0": {"heartbeat", "inbox", "claim", "complete", "run"},
    "0.2.0": {"heartbeat", "inbox", "claim", "complete", "run", "upload_artifact", "submit_review"},
}


@pytest.fixture(scope="session", params=VERSIONS)
def sdk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The SDK's package in one version, from the package index."""
    version, folder = request.param, tmp_path_factory.mktemp("sdk")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    wanted = f"modelreins-worker=={version}"
    done = subprocess.run([*command, "-d", folder, wanted], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"no {wanted} from the package index: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    module = _imported(folder / "modelreins_worker", f"modelreins_worker_{version.replace('.', '_')}")
    assert module.__version__ == version
    return module


def _imported(folder: Path, name: str) -> ModuleType:
    """Import a package under another name, so that both versions can be imported."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def connected(sdk: ModuleType, sandbox: Sandbox, token: str | None = None, name: str = "w") -> Any:
    """A worker of the SDK."""
    return sdk.Worker(token=token or sandbox.token, url=sandbox.url, name=name, poll_interval=0.01, timeout=30)


def registered(sandbox: Sandbox, token: str, **body: Any) -> str:
    """Register worker ``w``, and return its token."""
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{sandbox.url}/api/v1/workers/register"
    answer = requests.post(url, json={"name": "w", **body}, headers=headers, timeout=30).json()
    page = requests.get(answer["view_url"], timeout=30).text
    return page.partition("MODELREINS_TOKEN=")[2].partition("<")[0].strip()


@pytest.fixture(params=["one token", "registered", "other words", "4.5"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Sandbox, str]]:
    """A sandbox with different options, and a worker token of it."""
    words = {"done": "completed", "escalated": "handed over", "aborted": "cancelled"}
    options = {"other words": ServerOptions(words=words), "4.5": ServerOptions(version="4.5")}.get(request.param)
    api_key = "key" if request.param == "registered" else None
    with Sandbox(api_key=api_key, options=options) as sandbox:
        capabilities = [{"name": "text.upper", "risk_tier": "auto"}]
        token = registered(sandbox, "key", capabilities=capabilities) if api_key else sandbox.token
        yield sandbox, token


def test_public_methods_are_those_that_are_tried(sdk: ModuleType) -> None:
    public = {name for name in vars(sdk.Worker) if not name.startswith("_")}
    assert public == METHODS[sdk.__version__]


def test_presence_inbox_claim_and_complete(sdk: ModuleType, server: tuple[Sandbox, str]) -> None:
    sandbox, token = server
    worker = connected(sdk, sandbox, token)
    assert isinstance(worker.heartbeat(), dict)
    assert isinstance(worker.heartbeat(status="busy", details="d", tags="a,b"), dict)
    (present,) = sandbox.store.workers()
    assert (present["instance"], present["status"], present["worker_type"]) == ("w", "busy", "silicon")
    for status in ("done", "failed", "escalated"):
        job_id = sandbox.dispatch("hello", tags=["a"], capability="text.upper")["id"]
        assert [job["prompt"] for job in worker.inbox()] == ["hello"]
        assert isinstance(worker.claim(job_id), dict)
        assert worker.inbox() == []
        assert [job["id"] for job in worker.inbox(status="running")] == [job_id]
        assert isinstance(worker.complete(job_id, result="HELLO", status=status), dict)
        job = sandbox.store.job(job_id)
        assert (job["status"], job["result"]) == (sandbox.store.options.word(status), "HELLO")


def test_refused_requests_raise_worker_errors(sdk: ModuleType, sandbox: Sandbox) -> None:
    worker = connected(sdk, sandbox)
    job_id = sandbox.dispatch("hello", worker="somebody else")["id"]
    with pytest.raises(sdk.WorkerError, match="409"):
        worker.claim(job_id)
    with pytest.raises(sdk.WorkerError, match="404"):
        worker.complete(99)
    with pytest.raises(sdk.WorkerError, match=r'401: \{"error":"Unauthorized"\}'):
        connected(sdk, sandbox, "wrong").inbox()


def test_registered_token_is_for_its_name(sdk: ModuleType, sandbox: Sandbox) -> None:
    token = registered(sandbox, sandbox.token)
    assert connected(sdk, sandbox, token).inbox() == []
    with pytest.raises(sdk.WorkerError, match="403"):
        connected(sdk, sandbox, token, name="v").inbox()


def test_approved_job_reaches_the_worker(sdk: ModuleType, sandbox: Sandbox) -> None:
    worker = connected(sdk, sandbox, registered(sandbox, sandbox.token, capabilities=[
        {"name": "mail.send", "risk_tier": "approve"}]))  # fmt: skip
    job_id = sandbox.dispatch("hello", worker="w", capability="mail.send")["id"]
    assert worker.inbox() == []
    with pytest.raises(sdk.WorkerError, match="409"):
        worker.claim(job_id)
    sandbox.store.approvals.approve(job_id)
    assert [job["id"] for job in worker.inbox()] == [job_id]
    worker.claim(job_id)


def test_upload_artifact_and_submit_review(sdk: ModuleType, sandbox: Sandbox) -> None:
    worker = connected(sdk, sandbox)
    if sdk.__version__ == "0.1.0":
        assert not hasattr(worker, "upload_artifact")
        return
    data = b"\r\n--\x00\xff" * 50_000
    kept = worker.upload_artifact(
        data, "image/png", filename="é.png", job_id=1, review_id=2, expires_at="2999-01-01T00:00:00Z"
    )
    assert kept["success"] is True
    assert (kept["content_type"], kept["size_bytes"], kept["filename"]) == ("image/png", len(data), "é.png")
    assert requests.get(sandbox.url + kept["url"], timeout=30).content == data
    assert worker.upload_artifact(b"", "text/plain")["filename"] == "artifact.txt"
    review = worker.submit_review("image", "A picture", "c", preview=kept["url"], target="marketing", job_id=1)
    assert review == {"id": 1, "status": "pending", "mode": "review"}
    assert sandbox.store.reviews()[0]["created_by"] == "worker:w"


def test_old_server_has_neither(sdk: ModuleType) -> None:
    if sdk.__version__ == "0.1.0":
        return
    with Sandbox(options=ServerOptions(version="4.5.2")) as sandbox:
        worker = connected(sdk, sandbox)
        with pytest.raises(sdk.WorkerError, match="404"):
            worker.upload_artifact(b"x", "text/plain")
        with pytest.raises(sdk.WorkerError, match="404"):
            worker.submit_review("t", "T", "c")


def test_run_processes_the_inbox(sdk: ModuleType, server: tuple[Sandbox, str]) -> None:
    sandbox, token = server
    worker = connected(sdk, sandbox, token)
    for prompt in ("good", "bad", "stop"):
        sandbox.dispatch(prompt, worker="w")
    errors: list[tuple[str, str]] = []

    def handler(job: dict[str, Any]) -> str:
        if job["prompt"] == "bad":
            raise ValueError("cannot")
        if job["prompt"] == "stop":
            raise KeyboardInterrupt
        return str(job["prompt"]).upper()

    def on_error(job: dict[str, Any], error: Exception) -> None:
        errors.append((job["prompt"], str(error)))

    thread = threading.Thread(target=worker.run, args=(handler, on_error), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    good, bad, stop = reversed(sandbox.store.jobs())
    assert (good["status"], good["result"]) == (sandbox.store.options.word("done"), "GOOD")
    assert (bad["status"], bad["result"]) == ("failed", "ValueError: cannot")
    assert stop["status"] == "running"
    assert errors == [("bad", "cannot")]
    assert [event["event"] for event in sandbox.store.events(1)] == ["dispatched", "claim", "close done"]
    assert [event["event"] for event in sandbox.store.events(2)] == ["dispatched", "claim", "close failed"]
