"""The web hook example: a provider calls the address that came with an order, which ends the job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mr_celery.ledger import Ledger, Record
from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import free_port, until
from support.servers import RedisServer

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "web_hook"


class Installation:
    """A bridge, a worker, a Flask application and a provider, as processes."""

    def __init__(self, fleet: Fleet, redis: RedisServer) -> None:
        self.fleet = fleet
        self.redis = redis
        self.ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
        self.provider_url, hooks_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        fleet.environment |= {"PROVIDER_URL": self.provider_url, "HOOKS_URL": hooks_url, "PROVIDER_SECONDS": "3600"}
        fleet.bridge(ready=False)
        self.worker = fleet.worker("-c", "1", ready=False)
        for name, url in (("provider", self.provider_url), ("hooks", hooks_url)):
            port = url.rpartition(":")[2]
            fleet._start(name, ["flask", "--app", name, "run", "--port", port]).says("Running on")
        fleet.processes[0].says("ready")
        self.worker.says("ready.")

    def record(self, job_id: int) -> Record:
        record = self.ledger.read(job_id)
        assert record is not None
        return record

    def deferred(self, prompt: str, *, attempt: int = 1, job_id: int | None = None) -> int:
        """Dispatch a job, unless one is given, and wait until it is deferred. Returns its id."""
        number = self.fleet.dispatch(prompt, "image.generate") if job_id is None else job_id

        def waits() -> bool:
            record = self.ledger.read(number)
            return record is not None and (record.state, record.attempt) == ("deferred", attempt)

        until(waits, what=f"job {number} is deferred")
        return number

    def orders(self, prompt: str) -> list[dict[str, Any]]:
        """The provider's orders with that prompt, oldest first."""
        listed = requests.get(f"{self.provider_url}/orders", timeout=10).json()
        return [each for each in listed if each["prompt"] == prompt]

    def deliver(self, prompt: str, *, order: int = 0) -> int:
        """Let the provider call the hook of an order again. Returns the status of the response."""
        before = self.orders(prompt)[order]
        requests.post(f"{self.provider_url}/orders/{before['id']}/deliver", timeout=10).raise_for_status()

        def answers() -> list[int]:
            return list(self.orders(prompt)[order]["answers"][len(before["answers"]) :])

        return until(answers, what="the hook has answered")[0]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    redis = RedisServer("--appendonly", "yes")
    with Sandbox() as sandbox:
        broker, ledger, folder = redis.url(0), redis.url(1), tmp_path_factory.mktemp("web-hook")
        fleet = Fleet(sandbox, broker=broker, ledger=ledger, folder=folder, app="pictures", name="studio")
        fleet.environment |= {"PYTHONPATH": str(EXAMPLE), "CELERY_BROKER_URL": broker}
        try:
            yield Installation(fleet, redis)
        finally:
            fleet.stop()
            redis.stop()


def test_the_provider_repeats_its_call_and_the_job_is_closed_once(installation: Installation) -> None:
    fleet, prompt = installation.fleet, "a lighthouse"
    job_id = installation.deferred(prompt)
    (order,) = installation.orders(prompt)
    assert installation.record(job_id).note == f"order {order['id']}"
    assert installation.deliver(prompt) == 200
    (job,) = fleet.ended(job_id)
    assert (job["status"], job["result"]) == ("done", f"order {order['id']}")
    (artifact,) = fleet.sandbox.store.artifacts(job_id)
    assert artifact["content_type"] == "image/png"
    assert [installation.deliver(prompt) for _ in range(2)] == [200, 200]
    assert fleet.events(job_id).count("close done") == 1
    assert len(fleet.sandbox.store.artifacts(job_id)) == 1


def test_a_deferred_job_leaves_its_slot_to_others(installation: Installation) -> None:
    prompts = ["one slot, one", "one slot, two", "one slot, three"]
    jobs = [installation.fleet.dispatch(prompt, "image.generate") for prompt in prompts]
    for prompt, job_id in zip(prompts, jobs, strict=True):
        installation.deferred(prompt, job_id=job_id)
    assert [installation.deliver(prompt) for prompt in prompts] == [200, 200, 200]
    assert {job["status"] for job in installation.fleet.ended(*jobs)} == {"done"}


def test_a_picture_that_the_provider_cannot_make(installation: Installation) -> None:
    job_id = installation.deferred("a broken vase")
    assert installation.deliver("a broken vase") == 200
    (job,) = installation.fleet.ended(job_id)
    assert (job["status"], job["result"]) == ("failed", "the provider cannot paint this")


def test_a_hook_that_comes_before_the_handler_has_returned(installation: Installation) -> None:
    prompt = "a stone, at once"
    (job,) = installation.fleet.ended(installation.fleet.dispatch(prompt, "image.generate"))
    assert job["status"] == "done"
    assert [order["answers"] for order in installation.orders(prompt)] == [[200]]
    assert installation.fleet.events(job["id"]).count("close done") == 1
    installation.worker.says("completed through its reference before its handler returned")


@pytest.mark.parametrize("signature", ["", "sha256=", "sha256=" + "0" * 64, "größer"])
def test_a_call_with_a_wrong_signature_changes_nothing(installation: Installation, signature: str) -> None:
    prompt = f"a forgery {signature}"
    job_id = installation.deferred(prompt)
    hook, body = installation.orders(prompt)[0]["hook"], '{"id": 1, "status": "failed", "error": "forged"}'
    head = {"Content-Type": "application/json", "X-Signature": signature.encode()}
    assert requests.post(hook, data=body, headers=head, timeout=60).status_code == 403
    assert installation.record(job_id).state == "deferred"
    assert installation.deliver(prompt) == 200
    assert installation.fleet.ended(job_id)[0]["status"] == "done"


def test_hooks_of_jobs_that_do_not_wait_for_them_any_more_are_gone(installation: Installation) -> None:
    fleet = installation.fleet
    again, aborted = installation.deferred("a requeued job"), installation.deferred("an aborted job")
    fleet.sandbox.store.abort(aborted)
    until(lambda: installation.record(aborted).state == "aborted", what="the bridge has noticed the abort")
    task_id = installation.record(again).task_id
    assert installation.ledger.requeue(again, task_id, "by a test", wait_seconds=0) == "requeued"
    installation.deferred("a requeued job", attempt=2, job_id=again)
    assert installation.deliver("an aborted job") == 410
    assert [installation.deliver("a requeued job", order=order) for order in (0, 1)] == [410, 200]
    assert fleet.ended(again)[0]["status"] == "done"


def test_a_hook_that_comes_while_the_ledger_is_away_is_repeated(installation: Installation) -> None:
    prompt = "a picture for later"
    job_id = installation.deferred(prompt)
    installation.redis.kill()
    assert installation.deliver(prompt) == 503
    installation.redis.start()
    until(lambda: installation.orders(prompt)[0]["answers"][-1] == 200, what="the hook was repeated", seconds=60)
    assert installation.fleet.ended(job_id)[0]["status"] == "done"
    assert installation.fleet.events(job_id).count("close done") == 1
