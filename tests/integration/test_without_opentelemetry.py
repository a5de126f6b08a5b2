"""Everything works without OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT = """
import sys
sys.modules["opentelemetry"] = None  # as if it were not installed
import pytest
from mr_celery.telemetry import tracing
assert tracing._tracer is None
with tracing.run("w", 7, 1, "mr-7-1-ab") as span, tracing.following('{"traceparent": "…"}'):
    span.set({tracing.RUN_STATUS: "failed"})
    span.fail(ValueError())
    assert (tracing.carrier(), tracing.fields()) == ("", {})
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.timeout(600)  # it runs four modules of tests
def test_nothing_of_opentelemetry_is_needed() -> None:
    parts = (
        "unit/bridge/test_job_sender.py",
        "unit/bridge/test_renewal.py",
        "unit/celery_worker/test_runner.py",
        "integration/delivery/test_deliver.py",
    )
    command = [sys.executable, "-c", WITHOUT, "-q", "-p", "no:cacheprovider", *(f"tests/{part}" for part in parts)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout
