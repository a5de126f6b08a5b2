"""The resource growth of a long-running installation: takes samples, and checks them."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from redis.exceptions import RedisError

from .fleet import Fleet, Process

SAMPLE_SECONDS = 5.0
"""Seconds between two samples."""

KEPT_MIB = 0.08
"""MiB that Celery keeps for each file descriptor of a Redis broker's connection that it has lost, two for each loss.

So a worker without mr-celery grew from 56.8 to 66.8 MiB, and from 21 to 141 descriptors, in 60 restarts of its broker.
"""

LEAST_SAMPLES = 40
"""With fewer samples nothing is judged."""


@dataclass
class Series:
    """The samples of one quantity. The first quarter counts as warm-up.

    Args:
        unit: its unit.
        share: the growth that counts as noise, as a share of the quantity.
        least: the growth that counts as noise in any case, in the unit.
    """

    unit: str
    share: float
    least: float
    values: list[float] = field(default_factory=list)

    @property
    def before(self) -> float:
        """The median of the second quarter."""
        quarter = len(self.values) // 4
        return median(self.values[quarter : 2 * quarter])

    @property
    def after(self) -> float:
        """The median of the last quarter."""
        return median(self.values[-(len(self.values) // 4) :])

    @property
    def grows(self) -> bool:
        """Whether the quantity has grown by more than noise."""
        if len(self.values) < LEAST_SAMPLES:
            return False
        return self.after - self.before > max(self.share * self.before, self.least)

    def __str__(self) -> str:
        if len(self.values) < LEAST_SAMPLES:
            return f"{len(self.values)} samples are too few"
        low, high = min(self.values), max(self.values)
        return f"{self.before:.1f} → {self.after:.1f} {self.unit} (from {low:.1f} to {high:.1f})"


class Growth:
    """Samples the resources of a running installation.

    Args:
        fleet: the installation.
        lasting: the processes that are never killed, whose memory, files and threads are sampled.
        broker: a client of the broker's database, if that is in Redis.
        ledger: a client of the ledger's database.
        history: seconds for which the ledger remembers a job that has ended.
    """

    def __init__(self, fleet: Fleet, lasting: Sequence[Process], broker: Any, ledger: Any, history: float) -> None:
        self._fleet = fleet
        self._lasting = lasting
        self._broker = broker
        self._ledger = ledger
        self._history = history
        self._ended: list[tuple[float, int]] = []
        self._logged: tuple[int, int] | None = None
        self._children: dict[str, int] = {}
        self.series: dict[str, Series] = {}

    def sample(self, ended: int, under_way: int) -> None:
        """Take a sample, if the last one is old enough.

        Args:
            ended: the number of jobs that have ended so far.
            under_way: the number of jobs that have not.
        """
        now = time.monotonic()
        if self._ended and now - self._ended[-1][0] < SAMPLE_SECONDS:
            return
        self._ended.append((now, ended))
        for process in self._lasting:
            with suppress(psutil.Error):
                self._sample_process(process)
        self._sample_logs(ended)
        with suppress(RedisError):
            self._sample_redis(ended, under_way)

    def _add(self, name: str, value: float, unit: str, *, share: float, least: float = 0.0) -> None:
        self.series.setdefault(name, Series(unit, share, least)).values.append(value)

    def _sample_process(self, process: Process) -> None:
        parent = psutil.Process(process.popen.pid)
        families = {process.log.stem: [parent]}
        children = [each for each in parent.children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
        self._children[process.log.stem] = len(children)
        if children:
            families[f"the children of {process.log.stem}"] = children
        for name, family in families.items():
            memory = sum(each.memory_info().rss for each in family) / 2**20
            files = sum(each.num_fds() for each in family)
            judged = self._broker is None or not name.startswith("worker")
            self._add(f"memory of {name}", memory, "MiB", share=0.05 if judged else math.inf, least=2.0)
            self._add(f"file descriptors of {name}", files, "", share=0.1 if judged else math.inf, least=3.0)
            if not judged:
                rest = memory - KEPT_MIB * files
                self._add(f"memory of {name} without lost connections", rest, "MiB", share=0.05, least=2.0)
            self._add(f"threads of {name}", sum(each.num_threads() for each in family), "", share=0.1, least=2.0)

    def _sample_logs(self, ended: int) -> None:
        size = sum(process.log.stat().st_size for process in self._fleet.processes)
        if self._logged is not None and ended > self._logged[1]:
            for_a_job = (size - self._logged[0]) / (ended - self._logged[1])
            self._add("log for a job", for_a_job, "bytes", share=0.5)
        self._logged = size, ended

    def _sample_redis(self, ended: int, under_way: int) -> None:
        of_jobs, others = self.ledger_keys()
        long_ago = time.monotonic() - self._history
        before = max((count for at, count in self._ended if at <= long_ago), default=0)
        self._add("keys of the ledger for a job", of_jobs / max(1, ended - before + under_way), "", share=0.3)
        self._add("other keys of the ledger", others, "", share=0.1, least=5.0)
        if self._broker is not None:
            self._add("keys of the broker", self._broker.dbsize(), "", share=0.1, least=5.0)
        memory = self._ledger.info("memory")["used_memory"] / 2**20
        self._add("memory of Redis", memory, "MiB", share=0.3, least=2.0)

    def ledger_keys(self) -> tuple[int, int]:
        """The numbers of the ledger's keys that belong to one job each, and of its other keys."""
        keys = [key for key in self._ledger.scan_iter(count=1000) if key.startswith(b"modelreins:")]
        of_jobs = sum(bool(re.search(rb":\d+$", key)) for key in keys)
        return of_jobs, len(keys) - of_jobs

    def write(self, file: Path) -> None:
        """Write all samples to a file, as JSON."""
        file.write_text(json.dumps({name: series.values for name, series in self.series.items()}))

    def problems(self) -> Iterator[str]:
        """Everything that has grown by more than noise."""
        for name, series in self.series.items():
            if series.grows:
                yield f"{name} grows: {series}"
        for name, children in self._children.items():
            if not children and f"memory of the children of {name}" in self.series:
                yield f"{name} has no children any more, and nobody has killed them"
