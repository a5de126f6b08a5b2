"""Follows a page literally, starting in an empty folder: it has only what earlier sections provided."""

from __future__ import annotations

import os
import re
import shutil
import signal
from itertools import groupby
from pathlib import Path

import requests

from mr_celery.local.running import find

from .documents import ALL, ROOT, Block, Command
from .fleet import Process
from .page_commands import ReaderShell
from .ports import free_port, until

ENDED = ("done", "escalated")
"""How the jobs of these pages end."""


class Reader(ReaderShell):
    """A reader with several terminals.

    A command that keeps running occupies its terminal. The next one starts in a new terminal, in the folder that the
    page has reached and with nothing exported. If the same command is already running, the reader first stops it with
    Ctrl-C. Everything is stopped at the end of a level-2 section.

    Args:
        folder: an empty folder.
        environment: the environment of each new terminal.
        replaced: replacements in the page's texts.
    """

    def __init__(self, folder: Path, environment: dict[str, str], replaced: dict[str, str]) -> None:
        super().__init__(folder, environment, {"8765": str(free_port()), **replaced})
        self._fresh = dict(self.environment)
        self._running: dict[str, Process] = {}

    def follow(self, page: Path) -> None:
        """Do everything that a page says, block by block."""
        for _, section in groupby((block for block in ALL if block.page == page), key=lambda block: block.section):
            for block in section:
                if block.language == "python" and _is_saved(block):
                    Path(self.environment["PWD"], "proj.py").write_text(self._here(block.text))
                elif block.language in ("sh", "console"):
                    self.run(block)
            self._end_section()

    def _do(self, command: Command) -> None:
        here = Path(self.environment["PWD"])
        if re.fullmatch(r"git clone <this repository>( mr-celery| && cd mr-celery)", command.text):
            for name in ("examples", "deploy"):
                shutil.copytree(ROOT / name, here / "mr-celery" / name, ignore=shutil.ignore_patterns("__pycache__"))
            if "&&" in command.text:
                self._run("cd mr-celery")
        elif match := re.fullmatch(r"python -m venv (\S+)", command.text):
            (here / match[1]).mkdir(parents=True)  # the tests' own environment is used instead
        elif re.fullmatch(r"\. \S+/bin/activate", command.text):
            assert (here / command.text[2:]).parent.parent.is_dir()
        else:
            super()._do(command)

    def _start(self, line: str, ready: str) -> None:
        line = self._here(line)
        before = self._running.get(line)
        if before is not None:
            before.popen.send_signal(signal.SIGINT)
            assert before.popen.wait(60) == 0, before.output
        if line.startswith("mr-celery sandbox"):
            line += f" --port {self.replaced['8765']}"
        elif " worker" in line:
            line += " --loglevel INFO"  # to see when it is ready
        command = ["bash", "-c", f"cd {self.environment['PWD']} && exec {line}"]
        process = Process(f"terminal-{len(self._started)}", command, self.environment, self.folder)
        self._started.append(process)
        self._running[line] = process
        process.says(ready, seconds=90)
        if printed := re.search(r"export MODELREINS_LEDGER_URL=(\S+)", process.output):
            self.replaced["<the address that up has printed>"] = printed[1]
        self.environment = dict(self._fresh)

    def _end_section(self) -> None:
        if not self._started:
            self._fresh["PWD"] = self.environment["PWD"]
        self._await_jobs()
        self.stop()
        self._started.clear()
        self._running.clear()
        self.environment = dict(self._fresh)

    def _await_jobs(self) -> None:
        """Wait until all jobs are over in the sandbox of a running `up`."""
        for path in self.folder.rglob(".mr-celery"):
            if (running := find(path)) is None:
                continue
            url, token = (running.environment[f"MODELREINS_{name}"] for name in ("URL", "TOKEN"))

            def over(url: str = url, token: str = token) -> list[str]:
                answer = requests.get(f"{url}/jobs", headers={"Authorization": f"Bearer {token}"}, timeout=10)
                statuses = [job["status"] for job in answer.json()["jobs"]]
                return [] if {"pending", "running"} & set(statuses) else statuses

            statuses = until(over, seconds=90, what="all jobs are over")
            assert set(statuses) <= set(ENDED), statuses

    @staticmethod
    def _compare(expected: str, output: str) -> None:
        pattern = "".join(
            r"(.*\n)*" if line.strip() == "…" else re.escape(_spaced(line)).replace("…", ".*") + r"\n"
            for line in expected.splitlines()
        )
        found = "".join(f"{_spaced(line)}\n" for line in output.splitlines())
        assert re.fullmatch(pattern, found), f"expected:\n{expected}\nfound:\n{output}"


def _spaced(line: str) -> str:
    return " ".join(line.split())


def _is_saved(block: Block) -> bool:
    """Whether the page says that this is `proj.py`."""
    before = block.page.read_text().splitlines()[max(0, block.line - 8) : block.line - 2]
    return any("`proj.py`" in line for line in before)


def clean() -> dict[str, str]:
    """The environment of this process without settings of Celery and ModelReins, and without a display."""
    dropped = ("MODELREINS_", "CELERY_", "DISPLAY", "WAYLAND_DISPLAY", "DJANGO_", "SHOP_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
