"""Running the commands of a page as its reader would, in a folder and on servers of their own."""

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
    r"mr-celery .*\bup\b": ", ready",
    r"celery .*\bstatus --watch": "bridge",
    r"redis-server ": "Ready to accept connections",
}
"""Commands that run until they are stopped, and what they say once they do their work."""


# -- what stands in for commands that cannot be run here --------------------------------------------------------


def _installs_what_there_is(line: str) -> None:
    """``pip install``: each package is here, and mr-celery has the extras."""
    extras = metadata("mr-celery").get_all("Provides-Extra") or []
    for word in shlex.split(line)[2:]:
        wanted = Requirement(word)
        assert wanted.name != "mr-celery" or wanted.extras <= set(extras), f"no such extra: {word}"
        try:
            distribution(wanted.name)
        except PackageNotFoundError:
            assert wanted.name in (ROOT / "Dockerfile").read_text(), f"no test has seen {word}"


def _is_a_target(line: str) -> None:
    """``make``: what it would do can be told."""
    subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def _is_composed(line: str) -> None:
    """``docker compose``: the services that it names are in the file, which docker-compose accepts."""
    program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    command = [*program, "config", "--services"]
    services = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert set(re.findall(r"--scale (\w+)=", line)) <= set(services)
    assert re.fullmatch(r"docker compose (up|down)( --build| --scale \w+=\d+)*", line)


def _names_files_of_deploy(line: str) -> None:
    """``install``, ``systemctl``, ``kubectl``: the files and units that it names are in deploy/."""
    units = {path.stem.rstrip("@") for path in (ROOT / "deploy/systemd").glob("*.service")}
    words = shlex.split(line)
    for before, word in pairwise(words):
        if before in ("-f", "-k") or ("/" in word and not word.startswith("/")):
            assert list((ROOT / "deploy").glob(word)), f"deploy/{word} is not there"
    for word in words[2:] if words[0] == "systemctl" else []:
        assert word.startswith("-") or word.partition("@")[0] in units, f"there is no unit {word}"


def _is_how_compose_runs_flower(line: str) -> None:
    """``celery flower``: with the columns that docker-compose.yml gives it."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["flower"]
    assert {word for word in shlex.split(line) if word.startswith("--")} <= set(service["command"])


def _is_this_repository(line: str) -> None:
    assert line == "git clone <this repository> && cd mr-celery"


INSTEAD: dict[str, Callable[[str], None]] = {
    r"pip install ": _installs_what_there_is,
    r"git clone ": _is_this_repository,
    r"make ": _is_a_target,
    r"docker compose ": _is_composed,
    r"(install|systemctl|kubectl) ": _names_files_of_deploy,
    r"celery .*\bflower\b": _is_how_compose_runs_flower,
}


# -- what is run ---------------------------------------------------------------------------------------------------


class Story:
    """One reader in one folder: commands change its environment and its folder, and what they start goes on.

    Args:
        folder: where the reader is at first.
        environment: the reader's.
        replaced: what stands on the pages for something else here: ports, tokens, numbers of jobs.
    """

    def __init__(self, folder: Path, environment: dict[str, str], replaced: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "PATH": f"{BIN}{os.pathsep}{environment['PATH']}", "PWD": str(folder)}
        self.replaced = replaced
        self._started: list[Process] = []

    def tell(self, block: Block) -> None:
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
        told = self._run(self._here(command.text))
        if command.output is not None:
            self._compare(self._here(command.output), told)
        if "/dispatch" in command.text:
            self._see_to_its_end(told)

    def _here(self, text: str) -> str:
        """A text of a page as it is here."""
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
            line += " --loglevel INFO"  # else it does not say when it is ready
        command = ["bash", "-c", f"cd {self.environment['PWD']} && exec {self._here(line)}"]
        process = Process(f"started-{len(self._started)}", command, self.environment, self.folder)
        self._started.append(process)
        process.says(ready)

    def _run(self, line: str) -> str:
        """What a command prints; afterwards the reader is where it has gone, with what it has exported."""
        state = self.folder / ".state"
        script = f"set -eo pipefail\ncd {self.environment['PWD']}\n{line}\nenv -0 > {state}"
        done = subprocess.run(["bash", "-c", script], env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        entries = state.read_text().rstrip("\0").split("\0")
        self.environment = dict(entry.split("=", 1) for entry in entries)
        return done.stdout

    @staticmethod
    def _compare(expected: str, told: str) -> None:
        checker, ways = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        example = doctest.Example("", expected.replace("…", "..."))
        assert checker.check_output(example.want, told, ways), checker.output_difference(example, told, ways)

    def _see_to_its_end(self, answer: str) -> None:
        """A job that was dispatched is done, by and by."""
        job_id = json.loads(answer)["id"]
        address = f"{self.environment['MODELREINS_URL']}/jobs/{job_id}"
        head = {"Authorization": f"Bearer {self.environment['MODELREINS_TOKEN']}"}

        def over() -> dict[str, Any]:
            job: dict[str, Any] = requests.get(address, headers=head, timeout=10).json()
            return {} if job["status"] in ("pending", "running") else job

        job = until(over, what=f"job {job_id} is over:\n{[each.output[-3000:] for each in self._started]}")
        assert job["status"] == "done", job["result"]

    def end(self) -> None:
        """Stop what goes on, gently first: `mr-celery up` has processes of its own to stop."""
        for process in self._started:
            process.popen.terminate()
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(20)
            process.kill()
