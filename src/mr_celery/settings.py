"""All settings: their names, defaults and limits, and the one place that reads them.

Strongest first: command-line flag, environment (``MODELREINS_*``), Celery configuration
(``modelreins_*``; with Django's ``CELERY_`` namespace ``CELERY_MODELREINS_*``), default.
"""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from .errors import SettingsError
from .identity import Identity, WrongIdentity, parse_identities

DEFAULT_URL = "https://app.modelreins.com"
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


def _text(value: Any) -> str:
    text = str(value).strip()
    if not text or any(ord(character) < 32 for character in text):
        raise ValueError
    return text


def _name(value: Any) -> str:
    text = _text(value)
    if len(text.encode()) > 200:
        raise ValueError
    return text


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not usable or "@" in parts.netloc or parts.query:
        raise ValueError
    return text


def _redis_url(value: Any) -> str:
    text = _text(value)
    if urlsplit(text).scheme not in REDIS_SCHEMES:
        raise ValueError
    return text


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError  # noqa: TRY004 - one kind of error, one message
        number = float(value)
        if not (math.isfinite(number) and low <= number <= high):
            raise ValueError
        return number

    return parse


def _whole(value: Any, low: int) -> int:
    number = float(value)
    if isinstance(value, bool) or not number.is_integer() or number < low or number > 1_000_000:
        raise ValueError
    return int(number)


_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def _bytes(low: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        match = re.fullmatch(r"([0-9]+) ?([kmgt]?)(i?b)?", str(value).strip().lower())
        number = int(match[1]) * _UNITS[match[2]] if match else 0
        if not low <= number <= 2**50:
            raise ValueError
        return number

    return parse


def _http(value: Any) -> str:
    host, separator, port = _text(value).rpartition(":")
    if not 0 < int(port) <= 65535 or (separator and not host) or "/" in host:
        raise ValueError
    return f"{host or '127.0.0.1'}:{int(port)}"


def _spool_url(value: Any) -> str:
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    if not (text.startswith("/") or (parts.scheme and text.startswith(f"{parts.scheme}://"))):
        raise ValueError
    return text


def _max_inflight(value: Any) -> int | None:
    return None if str(value).strip().lower() == "auto" else _whole(value, 1)


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError
        return text

    return parse


def _option(default: Any, parse: Callable[[Any], Any], allowed: str, about: str, *, secret: bool = False) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={"parse": parse, "allowed": allowed, "about": about, "secret": secret},
    )


@dataclass(frozen=True)
class Settings:
    """Every setting, checked. Build it with :func:`load`."""

    token: str = _option("", _text, "a worker token", "The worker's token. Required on the bridge.", secret=True)
    url: str = _option(
        DEFAULT_URL, _url, "an http:// or https:// address without user or query", "The ModelReins server."
    )
    name: str = _option(
        "",
        _name,
        "a text of at most 200 bytes",
        "The worker name. Default: the host's name; with several worker names: all of them.",
    )
    workers: tuple[Identity, ...] = _option(
        (),
        lambda value: parse_identities(value, _name),
        'a mapping such as {"image-01": {"token_env": "IMAGE_01_TOKEN"}}; in the environment as JSON',
        "Several worker names on one fleet, each with the variable that has its token (`token_env`), and the "
        "`capabilities` or `queues` that it offers.",
        secret=True,
    )
    ledger_url: str = _option(
        "",
        _redis_url,
        "a redis://, rediss://, unix://, redis+cluster:// or rediss+cluster:// address",
        "The Redis (6.2 or later) that holds the ledger. Default: the broker's or the result backend's address, "
        "where that is Redis.",
        secret=True,
    )
    poll_interval: float = _option(
        5.0,
        _seconds(0.1, 3600),
        "seconds from 0.1 to 3600",
        "Seconds between two looks at an inbox that stays empty; jobs that come set the pace.",
    )
    heartbeat_interval: float = _option(
        5.0, _seconds(0.5, 3600), "seconds from 0.5 to 3600", "Seconds between two presence reports."
    )
    max_inflight: int | None = _option(
        None,
        _max_inflight,
        "auto, or a whole number from 1",
        "How many jobs may be claimed and not yet finished. `auto`: for each queue twice the concurrency of the "
        "workers that consume it.",
    )
    lease: float = _option(
        30.0,
        _seconds(3, 3600),
        "seconds from 3 to 3600",
        "Seconds after which a run that gave no sign of life is lost.",
    )
    delivery: Literal["worker", "bridge"] = _option(
        "worker",
        _one_of("worker", "bridge"),
        "worker or bridge",
        "`worker`: results are delivered where the handler ran. `bridge`: the bridge delivers all, workers need no "
        "token and no way to the server.",
    )
    spool_url: str = _option(
        "",
        _spool_url,
        "a folder's full path, or an address with :// that fsspec knows",
        "Where artifacts over 1 MiB wait for their delivery: a folder that workers and bridges share, or, with the "
        "extra `spool`, an address such as `s3://bucket/spool`. Without one they are uploaded where the handler ran, "
        "before its result is recorded.",
        secret=True,
    )
    spool_limit: int = _option(
        10 * 2**30,
        _bytes(2**20),
        "bytes from 1 MiB, or for instance 500 MiB",
        "Bytes that the spool may hold (10 GiB).",
    )
    result_limit: int = _option(
        2**20,
        _bytes(1024),
        "bytes from 1 KiB, or for instance 64 KiB",
        "Bytes of a job's output (1 MiB). A longer one is cut, and attached whole as a text file.",
    )
    unrouted: Literal["fail", "leave"] = _option(
        "fail",
        _one_of("fail", "leave"),
        "fail or leave",
        "What happens to a job that no handler takes: claim it and close it as failed, or leave it pending.",
    )
    max_attempts: int = _option(
        3,
        lambda value: _whole(value, 1),
        "a whole number from 1",
        "How often a job whose run was lost is run again in all, before it fails.",
    )
    timeout: float = _option(
        10.0, _seconds(1, 600), "seconds from 1 to 600", "Seconds that one request to the server may take."
    )
    shutdown_timeout: float = _option(
        30.0,
        _seconds(1, 3600),
        "seconds from 1 to 3600",
        "Seconds that the bridge gives to what it is claiming or delivering when it is told to stop.",
    )
    http: str = _option(
        "",
        _http,
        "a port, or host:port",
        "Where the bridge answers `/metrics`, `/health/live` and `/health/ready` (extra `metrics`); a port alone "
        "is one of 127.0.0.1. Default: nowhere.",
    )
    log_format: Literal["text", "json"] = _option(
        "text",
        _one_of("text", "json"),
        "text or json",
        "`json`: the bridge, and the workers, log one JSON object per line. `text`: in Celery's own format.",
    )
    history: float = _option(
        86400.0,
        _seconds(60, 31_536_000),
        "seconds from 60 to 31536000",
        "Seconds that the ledger remembers a closed job.",
    )

    def each(self) -> tuple[Settings, ...]:
        """The settings of each worker name that these are for: its name and its token are theirs."""
        if not self.workers:
            return (self,)
        named = [each for each in self.workers if self.name in ("", each.name)]
        return tuple(replace(self, name=each.name, token=self.token_of(each.name)) for each in named)

    @property
    def identity(self) -> Identity:
        """What the worker name :attr:`name` offers."""
        return self._identity_of(self.name) or Identity(self.name)

    @property
    def neighbours(self) -> list[str]:
        """The other worker names on the same fleet, whichever process looks after them."""
        return [each.name for each in self.workers if each.name != self.name]

    def token_of(self, worker: str) -> str:
        """The token of a worker name; empty where there is none."""
        identity = self._identity_of(worker)
        return self.token if identity is None or not identity.token_env else identity.token

    def _identity_of(self, worker: str) -> Identity | None:
        return next((each for each in self.workers if each.name == worker), None)


@dataclass(frozen=True)
class Option:
    """A setting's names and meaning, for the documentation and the command line."""

    name: str
    environment: str
    configuration: str
    default: str
    allowed: str
    about: str


def options() -> list[Option]:
    """Every setting, in the order in which they are documented."""
    listed = []
    for item in fields(Settings):
        default = item.default
        shown = "auto" if default is None else f"{default:g}" if isinstance(default, float) else str(default or "")
        listed.append(
            Option(
                name=item.name,
                environment=f"MODELREINS_{item.name.upper()}",
                configuration=f"modelreins_{item.name}",
                default=shown,
                allowed=item.metadata["allowed"],
                about=item.metadata["about"],
            )
        )
    return listed


def load(
    configuration: Mapping[str, Any] | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read and check all settings.

    Args:
        configuration: the Celery application's configuration (``app.conf``).
        flags: values from the command line by setting name; ``None`` means not given.
        environment: default ``os.environ``.

    Raises:
        SettingsError: a value is not allowed; the message names it, its source and what is allowed.
    """
    configuration = {} if configuration is None else configuration
    flags = flags or {}
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for item in fields(Settings):
        sources = (
            (f"--{item.name.replace('_', '-')}", flags.get(item.name)),
            (f"MODELREINS_{item.name.upper()}", environment.get(f"MODELREINS_{item.name.upper()}") or None),
            (f"modelreins_{item.name}", configuration.get(f"modelreins_{item.name}")),
        )
        for source, value in sources:
            if value is not None:
                values[item.name] = _checked(item.metadata, source, value)
                break
    if "workers" in values:
        values["workers"] = tuple(_with_token(each, environment) for each in values["workers"])
        _must_be_one_of(values.setdefault("name", ""), values["workers"])
    values.setdefault("name", socket.gethostname())
    if not values.get("ledger_url"):
        values["ledger_url"] = _celery_redis(configuration)
    return Settings(**values)


def admin_token(environment: Mapping[str, str] | None = None) -> str:
    """The administrator's token, for a registration; empty where it is not set.

    It is no setting: it comes from the environment only, and nothing keeps it.

    Args:
        environment: default ``os.environ``.
    """
    return (os.environ if environment is None else environment).get("MODELREINS_ADMIN_TOKEN", "").strip()


def _with_token(identity: Identity, environment: Mapping[str, str]) -> Identity:
    token = environment.get(identity.token_env) if identity.token_env else None
    if not token:
        return identity
    metadata = next(item.metadata for item in fields(Settings) if item.name == "token")
    return replace(identity, token=_checked(metadata, identity.token_env, token))


def _must_be_one_of(name: str, workers: tuple[Identity, ...]) -> None:
    names = [each.name for each in workers]
    if name and name not in names:
        raise SettingsError(
            f"modelreins_name: {name!r} is none of the worker names in modelreins_workers ({', '.join(names)}): choose "
            "one of these, or leave it out for all of them"
        )


def _checked(metadata: Mapping[str, Any], source: str, value: Any) -> Any:
    try:
        return metadata["parse"](value)
    except WrongIdentity as error:
        raise SettingsError(f"{source}: {error}") from None
    except (ValueError, TypeError, OverflowError):
        secret = metadata["secret"] or "@" in str(value)  # an address may have a password in it
        shown = "the value given" if secret else repr(value)
        raise SettingsError(f"{source}: {shown} is not allowed; allowed is {metadata['allowed']}") from None


def _celery_redis(configuration: Mapping[str, Any]) -> str:
    """The first of the application's own addresses that is a Redis, or an empty text."""
    for key in ("broker_url", "broker_write_url", "result_backend"):
        # As an attribute first: there Celery also looks at CELERY_BROKER_URL in the environment.
        url = getattr(configuration, key, None) or configuration.get(key)
        first = (url[0] if isinstance(url, (list, tuple)) and url else url) or ""
        address = str(first).split(";")[0].strip()
        if address.startswith("redis+socket://"):  # kombu's name for what redis-py calls unix://
            address = address.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")
        if urlsplit(address).scheme in ("redis", "rediss", "unix"):
            return address
    return ""


def require(settings: Settings, name: Literal["token", "ledger_url"]) -> str:
    """A setting's value, or a clear error where it is empty.

    Raises:
        SettingsError: the setting is empty; the message says how to set it.
    """
    value: str = getattr(settings, name)
    if value:
        return value
    if name == "token":
        variable = settings.identity.token_env or "MODELREINS_TOKEN"
        raise SettingsError(
            f"worker {settings.name!r} has no token: set {variable} to the one that was shown when it was registered"
        )
    raise SettingsError(
        "modelreins_ledger_url is not set: set MODELREINS_LEDGER_URL to a Redis address such as "
        "redis://localhost:6379/0, since neither the broker nor the result backend is a Redis"
    )
