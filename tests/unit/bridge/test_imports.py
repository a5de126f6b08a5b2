"""Importing the bridge loads nothing that runs handlers."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import mr_celery
from celery import signals
from celery.utils.dispatch import Signal

def receivers():
    return {name: len(each.receivers) for name, each in vars(signals).items() if isinstance(each, Signal)}

before = receivers()
assert before["worker_init"] >= 1, before
import mr_celery.bridge, mr_celery.bridge.publisher, mr_celery.bridge.routes
connected = {name for name, count in receivers().items() if count != before[name]}
assert not connected, connected
loaded = {name for name in sys.modules if name.startswith("mr_celery.celery_worker.")}
assert loaded == {"mr_celery.celery_worker.current"}, loaded
"""

DECLARING = """
import sys
import mr_celery
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("mr_celery.")}
assert not loaded & {"bridge", "delivery", "ledger", "server", "spool", "operations", "cli", "sdk"}, loaded
assert "redis" not in sys.modules
assert "requests" not in sys.modules
"""


def test_importing_the_bridge_loads_no_runner_and_connects_no_signal() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_only_declares_and_sends_tasks_loads_no_clients() -> None:
    done = subprocess.run([sys.executable, "-c", DECLARING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
