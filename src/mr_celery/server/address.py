"""Checks the server's address, and the redirects that the token may follow."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urljoin, urlsplit

import requests

from ..errors import WorkerError
from .failures import reason

PORTS = {"http": 80, "https": 443}


def server_address(url: str) -> str:
    """Normalize the server's address, without a trailing slash.

    Raises:
        WorkerError: it is not the address of a server. The message does not repeat a password in it.
    """
    url = url.strip()
    if "@" in url:
        raise WorkerError("the server's URL must not contain a user or password: the token identifies the worker")
    parts = _split(url)
    if parts is None or parts.scheme not in PORTS or not parts.hostname:
        raise WorkerError(f"{url!r} is not a server URL: write one like https://app.modelreins.com")
    if "?" in url or "#" in url:
        raise WorkerError(f'{url!r} is not a server URL: remove the query ("?…") or fragment ("#…")')
    return url.rstrip("/")


def prepared(url: str) -> str:
    """Prepare an address for urllib3: with the host name in ASCII, and the path quoted.

    Raises:
        WorkerError: the address is invalid.
    """
    request = requests.PreparedRequest()
    try:
        request.prepare_url(url, None)
    except (requests.RequestException, ValueError) as error:
        raise WorkerError(f"{url!r} is not a server URL: {reason(error)}") from None
    return request.url or url


def travels_in_clear(url: str) -> bool:
    """Whether requests to this address are sent unencrypted over a network."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def redirect_target(url: str, location: str) -> str | None:
    """The target of a redirect from ``url`` if the token may be sent there, else ``None``.

    Allowed are the same scheme, host and port, and a change from http to https on the same host.
    """
    here, there = _split(url), _joined(url, location)
    if here is None or there is None or there.scheme not in PORTS or "@" in there.netloc:
        return None
    same_host = here.hostname == there.hostname
    same_place = (here.scheme, _port(here)) == (there.scheme, _port(there))
    upgrade = (here.scheme, there.scheme) == ("http", "https")
    if not same_host or not (same_place or upgrade):
        return None
    return there._replace(fragment="").geturl()


def absolute(url: str, location: str) -> str | None:
    """The absolute address of ``location``, which is an address or a path under ``url``; ``None`` if it is neither."""
    parts = _split(location)
    if parts is None or not location:
        return None
    if parts.netloc and not parts.scheme:
        parts = parts._replace(scheme=urlsplit(url).scheme)
    if not parts.scheme:
        return f"{url}/{location.lstrip('/')}"
    return parts.geturl() if parts.scheme in PORTS and parts.hostname else None


def place(url: str, location: str) -> str:
    """Scheme, host and port of a redirect's target, for a message."""
    parts = _joined(url, location)
    if parts is None or not parts.hostname:
        return "an invalid address"
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _split(url: str) -> SplitResult | None:
    if " " in url or not url.isprintable():
        return None
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises if the port is invalid
    except ValueError:
        return None
    return parts


def _joined(url: str, location: str) -> SplitResult | None:
    try:
        return _split(urljoin(url, location))
    except ValueError:
        return None


def _port(parts: SplitResult) -> int:
    return parts.port if parts.port is not None else PORTS[parts.scheme]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
