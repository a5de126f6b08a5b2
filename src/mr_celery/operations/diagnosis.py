"""Finds the likely cause of a failed connection, for a hint."""

from __future__ import annotations

import importlib.util
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ..errors import WorkerError
from ..settings import Settings
from ..telemetry.quantities import duration

SECURE = {"https": "http", "rediss": "redis", "rediss+cluster": "redis+cluster", "amqps": "amqp"}
"""The schemes with TLS, and the same without."""

PLAIN = {plain: secure for secure, plain in SECURE.items()}
PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}
PROBE_SECONDS = 3.0


def speaks_tls(host: str, port: int) -> bool | None:
    """Whether a port speaks TLS; ``None`` if it cannot be reached."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only the protocol is of interest
    try:
        connected = socket.create_connection((host, port), PROBE_SECONDS)
    except OSError:
        return None
    try:
        with connected, context.wrap_socket(connected):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # an alert is TLS; anything else is another protocol
    except OSError:  # no reply to a TLS handshake
        return False


def tls_hint(url: str) -> str:
    """Advice if an address has a scheme with TLS for a port without it, or the reverse; empty otherwise."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in PORTS:
        return ""
    secure = parts.scheme in SECURE
    try:
        found = speaks_tls(parts.hostname, parts.port or PORTS[parts.scheme])
    except ValueError:
        return ""
    if found is None or found == secure:
        return ""
    other = SECURE[parts.scheme] if secure else PLAIN[parts.scheme]
    what = "does not speak TLS" if secure else "speaks TLS"
    return f"this port {what}: write {other}:// instead of {parts.scheme}://"


def server_hint(error: WorkerError, settings: Settings) -> str:
    """Advice for a failed request to the server."""
    path = settings.token_file_of(settings.name)
    variable = f"the content of {path}" if path else settings.options.token_env or "MODELREINS_TOKEN"
    if error.challenge:
        return (
            "the server sends a challenge page for people, as to an address with repeated failed log-ins: correct the "
            "token in all processes on this host, and wait until the ban is over, or ask the server's operator"
        )
    if error.unauthorized:
        return (
            f"is {variable} the token of {settings.name!r}, and not that of another worker name? Is it complete, "
            "without quotes and without 'Bearer'? If it was replaced, register the name again and set its new token"
        )
    if error.status in (None, 400, 426) and (hint := tls_hint(settings.url)):
        return f"{hint} in MODELREINS_URL"
    if error.status is None:
        return "is MODELREINS_URL right, and does this host reach it (proxy, firewall, certificates)?"
    path = urlsplit(settings.url).path
    if path and error.status in (200, 404, 405):
        return f"is the path {path} in MODELREINS_URL right? Requests go to addresses that begin with {settings.url}/"
    return "is MODELREINS_URL the address of a ModelReins server?"


def request_shown(error: WorkerError, url: str) -> str:
    """The error of a request in one line, with the whole address."""
    text = " ".join(str(error).split())
    method, separator, rest = text.partition(" /")
    shown = f"{method} {url}/{rest}" if separator and method.isalpha() else text
    return shown if len(shown) <= 400 else f"{shown[:399]}…"


def clock_difference(date: str) -> float | None:
    """Seconds by which this host's clock is ahead of a response's ``Date``; ``None`` if that is not a date."""
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def clock_shown(ahead: float, other: str) -> str:
    """The difference of this host's clock in words.

    Args:
        ahead: the seconds by which it is ahead.
        other: the owner of the other clock, as in ``Redis'``.
    """
    return f"this host's clock is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} {other}"


def tracing_without_extra(environment: Mapping[str, str]) -> str:
    """An environment variable that turns on traces while the extra ``otel`` is not installed; empty otherwise."""
    asked = sorted(name for name, value in environment.items() if name.startswith("OTEL_") and value)
    if not asked or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    if environment.get("OTEL_TRACES_EXPORTER", "").lower() == "none":
        return ""
    try:
        found = importlib.util.find_spec("opentelemetry.instrumentation.celery")
    except ImportError:
        found = None
    return "" if found else asked[0]


def missing_for_http() -> str:
    """A package that the bridge's HTTP server needs and that is not installed; empty if there is none."""
    needed = {"prometheus_client": "prometheus-client", "starlette": "starlette", "uvicorn": "uvicorn"}
    return next((package for module, package in needed.items() if importlib.util.find_spec(module) is None), "")


def missing_for_page() -> str:
    """A package that the page for operators needs and that is not installed; empty if there is none."""
    return missing_for_http() or ("" if importlib.util.find_spec("jinja2") else "jinja2")
