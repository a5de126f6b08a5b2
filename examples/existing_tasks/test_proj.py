"""The tasks run as jobs, and as ordinary calls."""

from typing import Any

import proj
import pytest

from mr_celery.testing import JobRun, LocalBridge


@pytest.fixture
def modelreins_app() -> Any:
    return proj.app  # check_invoice is a @shared_task: it belongs to every application


def test_parameters_are_the_fields_of_the_job(modelreins_run: JobRun) -> None:
    assert modelreins_run(proj.summarize, prompt="one two three", max_words=2).result == "one two"
    assert modelreins_run(proj.transcribe, model="whisper-1", input={"url": "x"}).result == "transcript of x"


def test_data_becomes_json(modelreins_run: JobRun) -> None:
    assert modelreins_run(proj.fetch, url="https://example.com").json() == {"url": "https://example.com", "retries": 0}


@pytest.mark.parametrize(("amount", "status", "result"), [(10, "done", "booked"), (10_001, "escalated", "more than")])
def test_large_amounts_are_for_a_human(modelreins_run: JobRun, amount: int, status: str, result: str) -> None:
    job = modelreins_run(proj.check_invoice, amount=amount)
    assert job.status == status
    assert job.result.startswith(result)


def test_which_task_takes_which_job(modelreins_run: JobRun) -> None:
    assert modelreins_run(capability="invoice.check", tags=["finance"]).task == "proj.check_invoice"
    assert "no handler takes job" in modelreins_run(capability="invoice.check").result


def test_other_callers_notice_nothing() -> None:
    assert proj.summarize("one two three", max_words=1) == "one"


def test_the_whole_way_through_its_own_queues(modelreins_bridge: LocalBridge) -> None:
    job = modelreins_bridge.run("one two three", capability="text.summarize")
    assert job.result == "one two three"
