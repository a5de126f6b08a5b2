"""The main job, from a user's view: jobs go in, results come out, with real servers and processes."""

from __future__ import annotations

import json
import re

import requests

from support.fleet import Fleet
from support.ports import until


def test_every_kind_of_handler(fleet: Fleet) -> None:
    fleet.worker("-c", "4", "-Q", "celery,other")
    fleet.bridge()
    kinds = [None, "sleep", "raise", "escalate", "json", "retry", "own-retry", "soft-limit", "image", "large", "sdk"]
    kinds += ["class", "other-queue", "exit"]
    ids = {kind: fleet.dispatch(f"do {kind}", kind) for kind in kinds}
    jobs = dict(zip(kinds, fleet.ended(*ids.values()), strict=True))

    assert jobs[None]["result"] == "DO NONE"
    assert jobs["sleep"]["result"] == "do sleep"
    assert jobs["escalate"]["status"] == "escalated"
    assert jobs["escalate"]["result"] == f"look at job {ids['escalate']}"
    assert json.loads(jobs["json"]["result"])["prompt"] == "do json"
    assert jobs["retry"]["result"] == "do retry after 2 retries"
    assert jobs["own-retry"]["result"] == "do own-retry again"
    assert jobs["class"]["result"] == "do class: 8"
    assert jobs["other-queue"]["result"] == "do other-queue"
    assert jobs["raise"]["status"] == "failed"
    assert jobs["raise"]["result"].startswith("Traceback")
    assert jobs["raise"]["result"].endswith("ValueError: cannot do do raise")
    assert "mr_celery" not in jobs["raise"]["result"]
    assert "SoftTimeLimitExceeded" in jobs["soft-limit"]["result"]
    assert "SystemExit: 3" in jobs["exit"]["result"]
    for kind, job_id in ids.items():
        events = fleet.events(job_id)
        assert len(events) == 3, f"{kind}: {events}"
        assert events[:2] == ["dispatched", "claim"]

    store = fleet.sandbox.store
    (picture,) = store.artifacts(ids["image"])
    assert requests.get(f"{fleet.sandbox.url}/s/{picture['slug']}", timeout=5).content == b"\x89PNG not really"
    reviews = {review["job_id"]: review for review in store.reviews()}
    assert reviews[ids["image"]]["preview"] == f"{fleet.sandbox.url}/s/{picture['slug']}"
    assert reviews[ids["image"]]["created_by"] == "worker:w"
    assert store.artifacts(ids["large"])[0]["size_bytes"] == 3 * 1024 * 1024
    assert store.artifacts(ids["sdk"])[0]["slug"] in jobs["sdk"]["result"]
    assert ids["sdk"] in reviews


def test_the_prompt_and_the_token_are_in_no_log_and_not_in_the_broker(fleet: Fleet) -> None:
    prompt = "marked-prompt-7c1f"
    worker = fleet.worker("-c", "2", "-E")
    bridge = fleet.bridge("-l", "DEBUG")
    fleet.ended(fleet.dispatch(prompt, "retry"), fleet.dispatch(prompt, "own-retry"), fleet.dispatch(prompt))
    for output in (worker.output, bridge.output):
        assert prompt not in output
        assert prompt.upper() not in output
        assert fleet.sandbox.token not in output


def test_a_job_that_no_handler_takes_fails_with_what_is_offered(fleet: Fleet) -> None:
    fleet.worker(app="support.proj_few")
    fleet._start("bridge", ["celery", "-A", "support.proj_few", "modelreins", "bridge"])
    (job,) = fleet.ended(fleet.dispatch("x", "poetry.write"))
    assert job["status"] == "failed"
    assert "poetry.write" in job["result"]
    assert "email.triage" in job["result"]


def test_without_a_worker_nothing_is_claimed_and_a_new_worker_is_noticed(fleet: Fleet) -> None:
    bridge = fleet.bridge()
    job_id = fleet.dispatch("hello")
    until(lambda: len(fleet.sandbox.store.workers()) == 1, what="presence")
    assert fleet.job(job_id)["status"] == "pending"
    fleet.worker()
    assert fleet.ended(job_id)[0]["result"] == "HELLO"
    assert bridge.terminate() == 0


def test_a_job_for_a_queue_that_nobody_consumes_stays_pending(fleet: Fleet) -> None:
    fleet.worker("-c", "1", "-Q", "celery")
    fleet.bridge()
    other, first = fleet.dispatch("other", "other-queue"), fleet.dispatch("mine")
    fleet.ended(first)
    assert fleet.job(other)["status"] == "pending"
    fleet.worker("-c", "1", "-Q", "other")
    assert fleet.ended(other)[0]["result"] == "other"


def test_check_passes_and_names_each_problem(fleet: Fleet) -> None:
    alone = fleet._start("check", ["mr-celery", "-A", "support.proj", "check"])
    assert alone.popen.wait(30) == 1
    assert re.search(r"workers +FAILED", alone.output)
    fleet.worker("-c", "2", "-Q", "celery,other")
    well = fleet._start("check", ["celery", "-A", "support.proj", "modelreins", "check"])
    assert well.popen.wait(30) == 0, well.output
    wrong = fleet._start("check", ["mr-celery", "-A", "support.proj", "check"], MODELREINS_TOKEN="wrong")
    assert wrong.popen.wait(30) == 1
    assert re.search(r"server +FAILED .*401", wrong.output)
    assert "wrong" not in wrong.output
    bad = fleet._start("check", ["mr-celery", "-A", "support.proj", "check"], MODELREINS_LEASE="soon")
    assert bad.popen.wait(30) == 1
    assert "MODELREINS_LEASE: 'soon' is invalid: it must be seconds from 3 to 3600" in bad.output
