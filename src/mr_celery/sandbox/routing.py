"""Chooses the worker of a job: which workers are eligible, and which of them gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MrCeleryError


class NoEligibleWorkerError(MrCeleryError):
    """A job was dispatched, and no worker is eligible for it (503)."""


@dataclass(frozen=True)
class Candidate:
    """A worker, as far as routing is concerned.

    Args:
        name: the worker name.
        capabilities: the registered capabilities; ``None`` if the worker is not registered, and may run any job.
        tags: the tags in its presence report.
        provider: the provider in its presence report.
        busy: whether it reported that it takes no further job now.
        paused: whether an operator paused it.
    """

    name: str
    capabilities: frozenset[str] | None = None
    tags: frozenset[str] = frozenset()
    provider: str | None = None
    busy: bool = False
    paused: bool = False


@dataclass(frozen=True)
class Wanted:
    """The requirements of a job.

    Args:
        capabilities: the requested capabilities.
        tags: the requested tags.
        provider: the requested provider.
    """

    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    provider: str | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Wanted:
        """Read the requirements from a job's fields. Values of other types are ignored."""
        provider = fields.get("provider")
        return cls(
            capabilities=tuple(dict.fromkeys([*_words(fields.get("capability")), *_words(fields.get("capabilities"))])),
            tags=tuple(dict.fromkeys(_words(fields.get("tags")))),
            provider=provider.strip() or None if isinstance(provider, str) else None,
        )


def _words(value: Any) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    return [each.strip() for each in listed if isinstance(each, str) and each.strip()]


def split_tags(text: str | None) -> frozenset[str]:
    """Split the tags of a presence report."""
    return frozenset(tag.strip() for tag in (text or "").split(",") if tag.strip())


def obstacle_for_named(wanted: Wanted, worker: Candidate) -> str | None:
    """The reason why a worker may not get a job that names it, or ``None``."""
    if worker.paused:
        return "it is paused"
    if worker.capabilities is not None:
        for capability in wanted.capabilities:
            if capability not in worker.capabilities:
                return f"it is not registered for capability {capability!r}"
    return None


def obstacle(wanted: Wanted, worker: Candidate) -> str | None:
    """The reason why a worker is not eligible for a job that names none, or ``None``."""
    if reason := obstacle_for_named(wanted, worker):
        return reason
    for tag in wanted.tags:
        if tag not in worker.tags:
            return f"it does not report tag {tag!r}"
    if wanted.provider and wanted.provider.casefold() != (worker.provider or "").casefold():
        return f"it does not report provider {wanted.provider!r}"
    return None


def choose(wanted: Wanted, present: Sequence[Candidate]) -> str:
    """Choose a worker. Those that are not busy come first, then those that name the capabilities.

    Args:
        wanted: the requirements of the job.
        present: the workers that are online, the last to report first.

    Raises:
        NoEligibleWorkerError: no worker is eligible. The message has the reason for each.
    """
    if not present:
        raise NoEligibleWorkerError("no worker is present: start one, or set 'worker'")
    obstacles = {worker.name: obstacle(wanted, worker) for worker in present}
    eligible = [worker for worker in present if obstacles[worker.name] is None]
    if not eligible:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(obstacles.items())[:5])
        raise NoEligibleWorkerError(f"no worker is eligible ({reasons})")

    def names_all(worker: Candidate) -> bool:
        return set(wanted.capabilities) <= (worker.tags | (worker.capabilities or frozenset()))

    return min(eligible, key=lambda worker: (worker.busy, not names_all(worker))).name
