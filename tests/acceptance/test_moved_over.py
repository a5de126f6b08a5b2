"""The same handler, run by the official SDK and on a Celery fleet: the server receives the same data."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet, Process
from support.servers import RedisServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "image_worker"


def handler_of(path: Path) -> str:
    """The body of the handler in a file."""
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    (handle,) = functions
    return "\n".join(ast.unparse(statement) for statement in handle.body)


def received(sandbox: Sandbox, job_id: int) -> dict[str, Any]:
    """The server's data about a job, with its slugs and the job's number normalized."""
    (artifact,) = sandbox.store.artifacts(job_id)
    (review,) = [each for each in sandbox.store.reviews() if each["job_id"] == job_id]
    content = requests.get(f"{sandbox.url}/s/{artifact['slug']}", timeout=5).content

    def alike(value: Any) -> Any:
        text = str(value).replace(artifact["slug"], "SLUG").replace(sandbox.url, "SERVER")
        return re.sub(rf"\b{job_id}\b", "ID", text)

    own = ("id", "slug", "created_at", "path")
    return {
        "content": content,
        "artifact": {name: alike(value) for name, value in artifact.items() if name not in own},
        "review": {name: alike(value) for name, value in review.items() if name not in own},
        "result": alike(sandbox.store.job(job_id)["result"]),
        "status": sandbox.store.job(job_id)["status"],
    }


def test_the_handler_is_the_same_to_the_letter() -> None:
    assert handler_of(EXAMPLES / "moved_over.py") == handler_of(EXAMPLES / "with_the_sdk.py")


@pytest.mark.parametrize("delivery", ["worker", "bridge"])
def test_the_server_receives_the_same(
    sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path, delivery: str
) -> None:
    fleet = Fleet(
        sandbox,
        broker=redis_server.url(0),
        ledger=redis_server.url(1),
        folder=tmp_path,
        app="moved_over",
        name="image-worker-01",
    )
    fleet.environment |= {
        "PYTHONPATH": str(EXAMPLES),
        "MODELREINS_DELIVERY": delivery,
        "CELERY_BROKER_URL": redis_server.url(0),
        "MODELREINS_URL": sandbox.url,
    }
    command = [sys.executable, str(EXAMPLES / "with_the_sdk.py")]
    sdk = Process("sdk", command, fleet.environment, tmp_path)
    try:
        by_sdk = fleet.dispatch("a lighthouse", "image.generate")
        fleet.ended(by_sdk)
        sdk.kill()
        fleet.bridge()
        fleet.worker("-c", "1")
        by_fleet = fleet.dispatch("a lighthouse", "image.generate")
        fleet.ended(by_fleet)
        assert received(sandbox, by_fleet) == received(sandbox, by_sdk)
    finally:
        sdk.kill()
        fleet.stop()
