"""The systemd units, checked by systemd-analyze."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mr_celery.settings import Settings, options
from support.metrics import DEPLOY

UNITS = DEPLOY / "systemd"
INSTALLED = {"modelreins-bridge.service": "modelreins-bridge.service"}
INSTALLED["modelreins-worker@.service"] = "modelreins-worker@images.service"
"""The files of the units, with the names under which systemd starts them."""


@pytest.fixture(params=INSTALLED)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the unit with an existing program."""
    text = (UNITS / request.param).read_text().replace("/srv/proj/.venv/bin/celery", sys.executable)
    placed = tmp_path / INSTALLED[request.param]
    placed.write_text(text)
    return placed


def _analyzed(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_unit_is_valid(unit: Path) -> None:
    assert _analyzed("verify", "--man=no", str(unit)) == ""


def test_invalid_unit_is_detected(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("TimeoutStopSec", "TimeoutStopSeconds"))
    assert "Unknown key" in _analyzed("verify", "--man=no", str(unit))


def test_unit_is_hardened(unit: Path) -> None:
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", _analyzed("security", "--offline=true", str(unit)))
    assert exposure is not None
    assert float(exposure[1]) < 2.5, "systemd calls up to 4 OK"


def test_bridge_has_enough_time_to_stop() -> None:
    limit = re.search(r"^TimeoutStopSec=(\d+)$", (UNITS / "modelreins-bridge.service").read_text(), re.MULTILINE)
    assert limit is not None
    assert int(limit[1]) > Settings.shutdown_timeout + Settings.timeout


@pytest.mark.parametrize("name", INSTALLED)
def test_variables_are_in_the_example(name: str) -> None:
    given = set(re.findall(r"^(\w+)=", (UNITS / "modelreins.env").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)\}", (UNITS / name).read_text())) <= given
    assert {each for each in given if each.startswith("MODELREINS_")} <= {option.environment for option in options()}
