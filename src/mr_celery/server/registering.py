"""Registers a worker on the server, with an administrator's token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import WorkerError
from ..version import __version__
from .address import absolute
from .transport import Transport

REGISTER = "/api/v1/workers/register"


def registration(
    name: str, description: str, risk_tiers: Mapping[str, str], secrets: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """The body of the request that registers a worker.

    Args:
        name: the worker's name.
        description: text that the server shows with it.
        risk_tiers: risk tier by the name of the capability.
        secrets: the names of the secrets that a capability requires, likewise.
    """
    required = secrets or {}
    capabilities = [
        {"name": capability, "risk_tier": tier}
        | ({"requires_secrets": list(required[capability])} if required.get(capability) else {})
        for capability, tier in risk_tiers.items()
    ]
    return {"name": name, "description": description, "capabilities": capabilities}


def register(url: str, admin_token: str, body: Mapping[str, Any], *, timeout: float = 30.0) -> str:
    """``POST /api/v1/workers/register``: register a worker with its capabilities.

    Args:
        url: the server's address.
        admin_token: an administrator's token; a worker's is refused.
        body: the result of :func:`registration`.
        timeout: seconds to wait for each part of a response.

    Returns:
        A one-time address that reveals the worker's token.

    Raises:
        WorkerError: the server refused it, or there was no response with such an address.
    """
    transport = Transport(url, admin_token, f"mr-celery/{__version__}", timeout, called="the admin token")
    try:
        answer = transport.request("POST", REGISTER, json=body, needed=("view_url",))
    finally:
        transport.close()
    given = answer.get("view_url") if isinstance(answer, dict) else None
    view_url = absolute(transport.url, given) if isinstance(given, str) else None
    if view_url is None:
        raise WorkerError(f"POST {REGISTER} -> 200: no view_url that can be opened", status=200, retryable=True)
    return view_url
