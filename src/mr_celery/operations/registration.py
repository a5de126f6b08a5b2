"""Registers the worker with the declared capabilities, and compares them with the last registration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import server as client
from ..errors import MrCeleryError, WorkerError
from ..handlers import RISK_TIERS, Registry
from ..ledger import Ledger, Registration

DEFAULT_TIER = "auto"
"""Risk tier of a capability if no handler declares one."""


@dataclass(frozen=True)
class Declared:
    """The capabilities that the code declares.

    Args:
        risk_tiers: the risk tier of each capability, sorted by name.
        secrets: the required secrets of each capability that has some.
        settled: messages about capabilities whose handlers declare different tiers.
    """

    risk_tiers: Mapping[str, str]
    secrets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settled: Sequence[str] = ()

    @property
    def described(self) -> dict[str, str]:
        """Risk tier and required secrets of each capability, in words."""
        return described(self.risk_tiers, self.secrets)


def described(risk_tiers: Mapping[str, str], secrets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Risk tier and required secrets of each capability, in words."""
    return {
        capability: f"{tier}, {', '.join(secrets[capability])}" if secrets.get(capability) else tier
        for capability, tier in risk_tiers.items()
    }


def declared_by(registry: Registry) -> Declared:
    """Collect the capabilities of all handlers.

    If handlers share one, the strictest risk tier wins, and the secrets of all of them are required.
    """
    of_capability: dict[str, dict[str, str]] = defaultdict(dict)
    secrets: dict[str, set[str]] = defaultdict(set)
    for handler in registry.handlers:
        for capability in handler.declaration.capabilities:
            of_capability[capability][handler.name] = handler.declaration.risk_tier or DEFAULT_TIER
            secrets[capability].update(handler.declaration.requires_secrets)
    risk_tiers, settled = {}, []
    for capability, tiers in sorted(of_capability.items()):
        strictest = risk_tiers[capability] = max(tiers.values(), key=RISK_TIERS.index)
        if len(set(tiers.values())) > 1:
            declared = ", ".join(f"{tier} by {task_name}" for task_name, tier in sorted(tiers.items()))
            settled.append(f"{capability} is declared {declared}; using the strictest: {strictest}")
    named = {capability: sorted(names) for capability, names in sorted(secrets.items()) if names}
    return Declared(risk_tiers, named, settled)


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """List the changes between two sets of capabilities, sorted by name.

    Args:
        before: the description of each capability, as by :func:`described`.
        after: likewise.

    Returns:
        Lines such as ``+ image.generate (audit)``, ``- text.old``, ``~ text.new: auto → audit``.
    """
    changes = []
    for capability in sorted({*before, *after}):
        old, new = before.get(capability), after.get(capability)
        if old is None:
            changes.append(f"+ {capability} ({new})")
        elif new is None:
            changes.append(f"- {capability}")
        elif old != new:
            changes.append(f"~ {capability}: {old} → {new}")
    return changes


@dataclass(frozen=True)
class Comparison:
    """The declared capabilities compared with the last registration.

    Args:
        seconds: time since the last registration; ``None`` if the ledger has none.
        changes: as returned by :func:`differences`.
    """

    seconds: float | None
    changes: Sequence[str]

    @property
    def as_declared(self) -> bool:
        """Whether the last registration is up to date."""
        return self.seconds is not None and not self.changes


def compare(ledger: Ledger, url: str, declared: Declared) -> Comparison:
    """Compare capabilities with the last registration of the ledger's worker name at ``url``.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    last = ledger.registered()
    if last is None or last.url != url:
        return Comparison(None, differences({}, declared.described))
    before = described(last.risk_tiers, last.secrets)
    return Comparison(max(0.0, ledger.survey().now - last.at), differences(before, declared.described))


def note_registered(ledger: Ledger, url: str, declared: Declared) -> None:
    """Record in the ledger that its worker name is registered with these capabilities at ``url``.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    ledger.note_registration(
        Registration(url=url, risk_tiers=declared.risk_tiers, secrets=declared.secrets, at=ledger.survey().now)
    )


def register(url: str, admin_token: str, body: Mapping[str, Any], *, timeout: float) -> str:
    """Register a worker on the server.

    Args:
        url: the server's base URL.
        admin_token: an administrator's token.
        body: the request body, as built by ``client.registration``.
        timeout: seconds to wait for each part of the response.

    Returns:
        The URL that shows the worker's token once.

    Raises:
        MrCeleryError: the server refused, or the result is unknown. The message is one line.
    """
    try:
        return client.register(url, admin_token, body, timeout=timeout)
    except WorkerError as error:
        raise MrCeleryError(_explained(error)) from None


def _explained(error: WorkerError) -> str:
    message = " ".join(str(error).split())
    if error.unauthorized:
        return f"the server refused the admin token ({error.status}): is it an administrator's token, not a worker's?"
    if error.retryable:
        return f"{message}; the worker may or may not be registered now: check on the server before you try again"
    return message
