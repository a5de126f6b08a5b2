"""Runs the commands of a page like a reader, in a temporary folder and with separate servers."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import requests
import yaml
from packaging.requirements import Requirement

from .documents import ROOT, Block, Command, commands_of
from .fleet import BIN, Process
from .ports import free_port, until

GOES_ON = {
    r"(opentelemetry-instrument )?celery -A \S+ worker": "ready.",
    r"(opentelemetry-instrument )?celery -A \S+ modelreins bridge": ", ready",
    r"mr-celery sandbox": "ModelReins sandbox at",
    r"mr-celery .*\bup\b": "ready for jobs of",
    r"celery .*\bstatus --watch": "bridge",
    r"redis-server ": "Ready to accept connections",
    r"flask .*\brun\b": "Running on",
}
"""Commands that run until they are stopped, and their output when they are ready."""


# -- checks of commands that cannot be run here ------------------------------------------------------------------


def _installs_what_there_is(line: str) -> None:
    """``pip install``: the packages are installed, and mr-celery has the extras."""
    extras = metadata("mr-celery").get_all("Provides-Extra") or []
    for word in shlex.split(line)[2:]:
        wanted = Requirement(re.sub(r"^\.(/mr-celery)?(?=\[|$)", "mr-celery", word))
        assert wanted.name != "mr-celery" or wanted.extras <= set(extras), f"no such extra: {word}"
        try:
            distribution(wanted.name)
        except PackageNotFoundError:
            assert wanted.name in (ROOT / "Dockerfile").read_text(), f"no test has seen {word}"


def _is_a_target(line: str) -> None:
    """``make``: the target exists."""
    subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def _is_composed(line: str) -> None:
    """``docker compose``: the file is valid and has the named services."""
    program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    command = [*program, "config", "--services"]
    passwords = dict.fromkeys(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()), "password")
    environment = {**os.environ, **passwords}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    services = done.stdout.split()
    assert set(re.findall(r"--scale (\w+)=", line)) <= set(services)
    assert re.fullmatch(r"docker compose (up|down)( --build| --scale \w+=\d+)*", line)


def _names_files_of_deploy(line: str) -> None:
    """``install``, ``systemctl``, ``kubectl``: the named files and units are in deploy/."""
    units = {path.stem.rstrip("@") for path in (ROOT / "deploy/systemd").glob("*.service")}
    words = shlex.split(line)
    for before, word in pairwise(words):
        if before in ("-f", "-k") or ("/" in word and not word.startswith("/")):
            assert list((ROOT / "deploy").glob(word)), f"deploy/{word} is not there"
    for word in words[2:] if words[0] == "systemctl" else []:
        assert word.startswith("-") or word.partition("@")[0] in units, f"there is no unit {word}"


def _renders(line: str) -> None:
    """``helm install``: the chart accepts the values."""
    words = [str(BIN / "helm"), "template", *shlex.split(line)[2:]]
    done = subprocess.run(words, cwd=ROOT / "deploy", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _is_how_compose_runs_flower(line: str) -> None:
    """``celery flower``: the options are those in docker-compose.yml."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["flower"]
    assert {word for word in shlex.split(line) if word.startswith("--")} <= set(service["command"])


def _is_this_repository(line: str) -> None:
    assert re.fullmatch("git clone <this repository>( mr-celery| && cd mr-celery)", line)


INSTEAD: dict[str, Callable[[str], None]] = {
    r"pip install ": _installs_what_there_is,
    r"git clone ": _is_this_repository,
    r"make ": _is_a_target,
    r"docker compose ": _is_composed,
    r"helm install ": _renders,
    r"(install|systemctl|kubectl) ": _names_files_of_deploy,
    r"celery .*\bflower\b": _is_how_compose_runs_flower,
}


# -- commands that are run -----------------------------------------------------------------------------------------


class ReaderShell:
    """A reader's shell: commands change its environment and folder, and started processes keep running.

    Args:
        folder: the initial folder.
        environment: the initial environment.
        replaced: replacements in the pages' texts, such as ports, tokens and ids of jobs.
    """

    def __init__(self, folder: Path, environment: dict[str, str], replaced: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "PATH": f"{BIN}{os.pathsep}{environment['PATH']}", "PWD": str(folder)}
        self.replaced = replaced
        self._started: list[Process] = []

    def run(self, block: Block) -> None:
        """Run all commands of a block."""
        for command in commands_of(block):
            try:
                self._do(command)
            except Exception as error:
                where = f"{block.page.relative_to(ROOT)}:{command.line}: {command.text}"
                raise AssertionError(f"{where}\n{error}") from error

    def _do(self, command: Command) -> None:
        for pattern, check in INSTEAD.items():
            if re.match(pattern, command.text):
                check(command.text)
                return
        for pattern, ready in GOES_ON.items():
            if re.match(pattern, command.text):
                self._start(command.text, ready)
                return
        output = self._run(self._here(command.text))
        if command.output is not None:
            self._compare(self._here(command.output), output)
        if "/dispatch" in command.text:
            self._wait_for_end(output)

    def _here(self, text: str) -> str:
        """Apply the replacements to a text."""
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    def _start(self, line: str, ready: str) -> None:
        line = line.removesuffix("&").strip()
        if line.startswith("mr-celery sandbox"):
            self.replaced["8765"] = str(free_port())
            line += f" --port {self.replaced['8765']}"
        elif line.startswith("redis-server"):
            line += f" --port {free_port()}"
        elif " worker" in line:
            line += " --loglevel INFO"  # to see when it is ready
        command = ["bash", "-c", f"cd {self.environment['PWD']} && exec {self._here(line)}"]
        process = Process(f"started-{len(self._started)}", command, self.environment, self.folder)
        self._started.append(process)
        process.says(ready)

    def _run(self, line: str) -> str:
        """Run a command, and return its output. Keeps its changes of folder and environment."""
        state = self.folder / ".state"
        script = f"set -eo pipefail\ncd {self.environment['PWD']}\n{line}\nenv -0 > {state}"
        done = subprocess.run(["bash", "-c", script], env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        entries = state.read_text().rstrip("\0").split("\0")
        self.environment = dict(entry.split("=", 1) for entry in entries)
        return done.stdout

    @staticmethod
    def _compare(expected: str, output: str) -> None:
        checker, ways = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        example = doctest.Example("", expected.replace("…", "..."))
        assert checker.check_output(example.want, output, ways), checker.output_difference(example, output, ways)

    def _wait_for_end(self, answer: str) -> None:
        """Wait until a dispatched job is done."""
        job_id = json.loads(answer)["id"]
        address = f"{self.environment['MODELREINS_URL']}/jobs/{job_id}"
        head = {"Authorization": f"Bearer {self.environment['MODELREINS_TOKEN']}"}

        def over() -> dict[str, Any]:
            job: dict[str, Any] = requests.get(address, headers=head, timeout=10).json()
            return {} if job["status"] in ("pending", "running") else job

        job = until(over, what=f"job {job_id} is over:\n{[each.output[-3000:] for each in self._started]}")
        assert job["status"] == "done", job["result"]

    def stop(self) -> None:
        """Stop started processes, first with SIGTERM, because `mr-celery up` has to stop its children."""
        for process in self._started:
            process.popen.terminate()
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(20)
            process.kill()
