"""The example applications take jobs: plain Celery, Django and Flask, each with its own bridge and worker."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support import fork_server
from support.fleet import BIN, Fleet
from support.servers import RedisServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def example(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """A function that creates the fleet of an example; none of its processes runs yet."""
    made: list[Fleet] = []

    def make(folder: str, app: str, name: str) -> Fleet:
        broker, ledger = redis_server.url(0), redis_server.url(1)
        made.append(Fleet(sandbox, broker=broker, ledger=ledger, folder=tmp_path, app=app, name=name))
        made[-1].environment |= {"PYTHONPATH": str(EXAMPLES / folder), "CELERY_BROKER_URL": broker}
        return made[-1]

    yield make
    for fleet in made:
        fleet.stop()


def test_tasks_that_were_there_before(example: Callable[..., Fleet]) -> None:
    fleet = example("existing_tasks", "proj", "texts")
    fleet.bridge()
    fleet.worker("-c", "2", "-Q", "celery,texts,gpu")
    asked = {
        "summary": fleet.dispatch("one two three", "text.summarize", max_words=2),
        "page": fleet.dispatch("fetch it", "web.fetch", url="https://example.com"),
        "small": fleet.dispatch("pay", "invoice.check", tags=["finance"], amount=10),
        "large": fleet.dispatch("pay", "invoice.check", tags=["finance"], amount=20_000),
        "speech": fleet.dispatch("listen", model="whisper-1", input={"url": "talk.ogg"}),
    }
    jobs = dict(zip(asked, fleet.ended(*asked.values()), strict=True))
    assert {name: job["status"] for name, job in jobs.items()} == {**dict.fromkeys(asked, "done"), "large": "escalated"}
    assert jobs["summary"]["result"] == "one two"
    assert json.loads(jobs["page"]["result"]) == {"url": "https://example.com", "retries": 0}
    assert jobs["small"]["result"] == "booked"
    assert jobs["speech"]["result"] == "transcript of talk.ogg"


def test_a_django_project(example: Callable[..., Fleet], tmp_path: Path) -> None:
    fleet = example("django_project", "shop", "shop-worker")
    fleet.environment |= {"SHOP_DB": str(tmp_path / "shop.sqlite3")}
    del fleet.environment["MODELREINS_NAME"]  # it is in the project's settings

    def manage(*arguments: str) -> str:
        command = [sys.executable, str(EXAMPLES / "django_project" / "manage.py"), *arguments]
        done = fork_server.run(command, env=fleet.environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    manage("migrate")
    manage("makemigrations", "--check")
    shell = ("shell", "--verbosity", "0", "--command")
    number = manage(*shell, "from catalog.models import *; print(Product.objects.create(name='Lamp').pk)").strip()
    fleet.bridge()
    fleet.worker("-c", "1")
    (job,) = fleet.ended(fleet.dispatch("bright", "product.describe", input={"product": int(number)}))
    assert (job["status"], job["result"]) == ("done", "Lamp: bright")
    asked = f"from django.test import Client; print(Client(SERVER_NAME='localhost').get('/products/{number}').content)"
    assert "Lamp: bright" in manage(*shell, asked)


def test_a_django_project_without_its_token_says_what_is_missing(example: Callable[..., Fleet]) -> None:
    fleet = example("django_project", "shop", "shop-worker")
    environment = {**fleet.environment, "MODELREINS_TOKEN": ""}
    command = [str(BIN / "celery"), "-A", "shop", "modelreins", "bridge"]
    done = fork_server.run(command, env=environment, timeout=60)
    assert done.returncode == 1
    assert "worker name 'shop-worker' has no token: set MODELREINS_TOKEN" in done.stderr


def test_a_flask_application(example: Callable[..., Fleet]) -> None:
    fleet = example("flask_app", "make_celery", "website-worker")
    del fleet.environment["MODELREINS_NAME"]
    fleet.bridge()
    fleet.worker("-c", "1")
    (job,) = fleet.ended(fleet.dispatch("your lamp is ready", "letter.write"))
    assert (job["status"], job["result"]) == ("done", "Dear customer,\n\nyour lamp is ready")
