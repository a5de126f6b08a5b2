"""The worker's registration: what the code declares, how that differs from what was registered, and registering it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import client
from ..errors import MrCeleryError, WorkerError
from ..ledger import Ledger, Registration
from ..routing import RISK_TIERS, Registry

DEFAULT_TIER = "auto"
"""The risk tier of a capability for which no handler declares one."""


@dataclass(frozen=True)
class Declared:
    """What the code declares.

    Args:
        risk_tiers: the risk tier of each capability, by its name, in the order of the names.
        settled: for each capability whose handlers declare different tiers: what was made of it.
    """

    risk_tiers: Mapping[str, str]
    settled: Sequence[str] = ()


def declared_by(registry: Registry) -> Declared:
    """The capabilities that the handlers declare. Where handlers share one, their strictest risk tier is its tier."""
    of_capability: dict[str, dict[str, str]] = defaultdict(dict)
    for handler in registry.handlers:
        if handler.declaration.capability is not None:
            tier = handler.declaration.risk_tier or DEFAULT_TIER
            of_capability[handler.declaration.capability][handler.name] = tier
    risk_tiers, settled = {}, []
    for capability, tiers in sorted(of_capability.items()):
        strictest = risk_tiers[capability] = max(tiers.values(), key=RISK_TIERS.index)
        if len(set(tiers.values())) > 1:
            told = ", ".join(f"{tier} by {task}" for task, tier in sorted(tiers.items()))
            settled.append(f"{capability} is declared {told}: the strictest is registered, {strictest}")
    return Declared(risk_tiers, settled)


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between two sets of capabilities, each with its risk tier, in the order of their names.

    Returns:
        ``+ image.generate (audit)``, ``- text.old``, ``~ text.new: auto → audit``.
    """
    told = []
    for capability in sorted({*before, *after}):
        old, new = before.get(capability), after.get(capability)
        if old is None:
            told.append(f"+ {capability} ({new})")
        elif new is None:
            told.append(f"- {capability}")
        elif old != new:
            told.append(f"~ {capability}: {old} → {new}")
    return told


@dataclass(frozen=True)
class Comparison:
    """How what the code declares compares with what was registered last.

    Args:
        seconds: since that registration; ``None``: there was none, as far as the ledger knows.
        changes: what differs, as :func:`differences` tells it.
    """

    seconds: float | None
    changes: Sequence[str]

    @property
    def as_declared(self) -> bool:
        """Whether there is nothing to register."""
        return self.seconds is not None and not self.changes


def compare(ledger: Ledger, url: str, risk_tiers: Mapping[str, str]) -> Comparison:
    """Compare capabilities with those that the ledger's worker name was registered with on the server at ``url``.

    Raises:
        LedgerUnavailable: the ledger is away.
    """
    last = ledger.registered()
    if last is None or last.url != url:
        return Comparison(None, differences({}, risk_tiers))
    return Comparison(max(0.0, ledger.survey().now - last.at), differences(last.risk_tiers, risk_tiers))


def note_registered(ledger: Ledger, url: str, risk_tiers: Mapping[str, str]) -> None:
    """Keep that the ledger's worker name is registered with these capabilities on the server at ``url``.

    Raises:
        LedgerUnavailable: the ledger is away.
    """
    ledger.note_registration(Registration(url=url, risk_tiers=risk_tiers, at=ledger.survey().now))


def register(url: str, admin_token: str, body: Mapping[str, Any], *, timeout: float) -> str:
    """Register a worker on the server.

    Args:
        url: the server's address.
        admin_token: an administrator's token.
        body: the request, as ``client.registration`` makes it.
        timeout: seconds to wait for each part of the answer.

    Returns:
        The address that reveals the worker's token to the first who opens it.

    Raises:
        MrCeleryError: it is refused, or nobody knows whether it has happened; the message is one line.
    """
    try:
        return client.register(url, admin_token, body, timeout=timeout)
    except WorkerError as error:
        raise MrCeleryError(_explained(error)) from None


def _explained(error: WorkerError) -> str:
    said = " ".join(str(error).split())
    if error.unauthorized:
        return f"the server refuses the admin token ({error.status}): is it an administrator's, and not a worker's?"
    if error.retryable:
        return f"{said}; whether the worker is registered now is not known: look on the server before you try again"
    return said
