"""All settings, with their names, defaults and limits, and the function that reads them.

Sources in order of precedence: command-line flag, environment (``MODELREINS_*``), Celery configuration
(``modelreins_*``; with Django's ``CELERY_`` namespace ``CELERY_MODELREINS_*``), default.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import SettingsError
from ..private_files import exposure
from .redis_address import IDENTITY, SENTINEL, RedisAddress
from .worker_names import WorkerNameOptions, WrongValue, parse_worker_names

DEFAULT_URL = "https://app.modelreins.com"


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


def _tags(value: Any) -> str:
    listed = value.split(",") if isinstance(value, str) else list(value)
    if any("," in tag for tag in listed):
        raise ValueError
    return ",".join(dict.fromkeys(_name(tag) for tag in listed))


MOST_TOKEN_CHARACTERS = 8192
"""Maximum number of characters that are read from a file with a token."""

LEAST_HTTP_TOKEN_CHARACTERS = 16
"""Minimum length, in characters, of the token for the bridge's page."""

QUOTES = "\"'`‘’“”"


def _token(value: Any) -> str:
    text = _text(value)
    if text[0] in QUOTES or text[-1] in QUOTES:
        raise WrongValue("the token is in quotes: set it without them")
    if text.lower().startswith("bearer "):
        raise WrongValue("the token begins with 'Bearer ': set the token alone")
    return text


def _http_token(value: Any) -> str:
    text = _token(value)
    if len(text) < LEAST_HTTP_TOKEN_CHARACTERS:
        raise WrongValue(
            f"the token is shorter than {LEAST_HTTP_TOKEN_CHARACTERS} characters: make one with `openssl rand -hex 24`"
        )
    return text


def _lacks_scheme(text: str) -> bool:
    """Whether a text is an address such as ``localhost:8765``, without a scheme."""
    if "://" in text or re.search(r"\s", text) or text.endswith(":"):
        return False
    return text == "localhost" or "." in text[:-1] or ":" in text[:-1]


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    if _lacks_scheme(text) and "@" not in text:
        raise WrongValue(f"the address {text!r} has no scheme: write http:// or https:// before it")
    parts = urlsplit(text)
    usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not usable or "@" in parts.netloc or parts.query:
        raise ValueError
    return text


def _redis_url(value: Any) -> str:
    text = _text(value)
    if _lacks_scheme(text):
        raise WrongValue("the address has no scheme: write redis:// before it, or rediss:// if it needs TLS")
    return RedisAddress.parse(text).url


MOST_PREFIX_CHARACTERS = 100


def _prefix(value: Any) -> str:
    text = str(value)
    if not (text.isascii() and text.isprintable()) or " " in text or len(text) > MOST_PREFIX_CHARACTERS:
        raise ValueError
    if "{}" in text:  # the keys of a worker name would have different hash slots
        raise WrongValue("the prefix has an empty hash tag, {}, with which a ledger cannot be on a Redis Cluster")
    return text


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError  # noqa: TRY004 - all parsers raise ValueError
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


def _switch(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError
    return text in ("1", "true", "yes", "on")


def _option(default: Any, parse: Callable[[Any], Any], allowed: str, about: str, *, secret: bool = False) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={"parse": parse, "allowed": allowed, "about": about, "secret": secret},
    )


@dataclass(frozen=True)
class Settings:
    """All settings, validated. Create it with :func:`load`."""

    token: str = _option(
        "",
        _token,
        "a worker token",
        "The worker's token. Required on the bridge. Programs that a handler starts inherit it, so prefer "
        "`token_file`.",
        secret=True,
    )
    token_file: str = _option(
        "",
        _text,
        "the path of a file",
        "A file with the worker's token, used instead of `token`. It is read again when it changes and when the token "
        "is refused, so a new token needs no restart.",
    )
    url: str = _option(
        DEFAULT_URL, _url, "an http:// or https:// address without user or query", "The ModelReins server."
    )
    name: str = _option(
        "",
        _name,
        "a string of at most 200 bytes",
        "The worker name. Default: the host's name, or all names in `workers`.",
    )
    workers: tuple[WorkerNameOptions, ...] = _option(
        (),
        lambda value: parse_worker_names(value, _name),
        'a mapping such as {"image-01": {"token_env": "IMAGE_01_TOKEN"}}; in the environment as JSON',
        "Several worker names on one fleet. `token_env` is the environment variable with a name's token, or "
        "`token_file` a file with it; `capabilities` or `queues` select its handlers.",
        secret=True,
    )
    tags: str = _option(
        "",
        _tags,
        "words separated by commas, or a list of them",
        "Tags that presence reports beside the declared capabilities and tags, for the server's router.",
    )
    provider: str = _option(
        "",
        _name,
        "a string of at most 200 bytes",
        "The model provider that presence reports, such as `ollama`. Default: none.",
    )
    ledger_url: str = _option(
        "",
        _redis_url,
        "a redis://, rediss://, unix://, redis+socket://, redis+cluster://, rediss+cluster:// or sentinel:// address",
        "The Redis (6.2 or later) that holds the ledger. Default: the URL of the broker or the result backend, if that "
        "is a Redis.",
        secret=True,
    )
    ledger_prefix: str = _option(
        "",
        _prefix,
        f"up to {MOST_PREFIX_CHARACTERS} printable ASCII characters without spaces",
        "Prefix of all keys and channels of the ledger, the same on bridges and workers. Default: the "
        "`global_keyprefix` of Celery's transport options, if the ledger's address comes from Celery, too.",
    )
    ledger_replicas: int = _option(
        0,
        lambda value: _whole(value, 0),
        "a whole number from 0",
        "Number of Redis replicas that must confirm the start and the outcome of a job before it continues. With `1`, "
        "no job runs again after a failover to that replica. Not available with a Redis Cluster.",
    )
    poll_interval: float = _option(
        5.0,
        _seconds(0.1, 3600),
        "seconds from 0.1 to 3600",
        "Polling interval while the inbox is empty, in seconds. Polls are more frequent after new jobs.",
    )
    heartbeat_interval: float = _option(
        5.0, _seconds(0.5, 3600), "seconds from 0.5 to 3600", "Interval of presence reports, in seconds."
    )
    max_inflight: int | None = _option(
        None,
        _max_inflight,
        "auto, or a whole number from 1",
        "Maximum number of claimed, unfinished jobs. `auto`: for each queue, twice the concurrency of its workers.",
    )
    max_deferred: int = _option(
        1000,
        lambda value: _whole(value, 1),
        "a whole number from 1",
        "Maximum number of deferred jobs, counting running jobs of tasks that defer. Once it is reached, further jobs "
        "of these tasks stay pending.",
    )
    lease: float = _option(
        30.0,
        _seconds(3, 3600),
        "seconds from 3 to 3600",
        "Duration of a lease, in seconds. A run that stops renewing its lease loses the job.",
    )
    delivery: Literal["worker", "bridge"] = _option(
        "worker",
        _one_of("worker", "bridge"),
        "worker or bridge",
        "`worker`: each worker delivers the results of its jobs. `bridge`: the bridge delivers all results, and "
        "workers need neither a token nor access to the server.",
    )
    spool_url: str = _option(
        "",
        _spool_url,
        "an absolute path, or a URL that fsspec supports",
        "Storage for artifacts over 1 MiB until they are delivered: a folder that workers and bridges share or, with "
        "the extra `spool`, a URL such as `s3://bucket/spool`. Without it the worker uploads them before it records "
        "the result.",
        secret=True,
    )
    spool_limit: int = _option(
        10 * 2**30,
        _bytes(2**20),
        "bytes from 1 MiB, such as 500 MiB",
        "Maximum size of the spool (10 GiB).",
    )
    result_limit: int = _option(
        2**20,
        _bytes(1024),
        "bytes from 1 KiB, such as 64 KiB",
        "Maximum size of a job's output (1 MiB). A longer output is cut, and attached in full as a text file.",
    )
    without_artifacts: Literal["fail", "close"] = _option(
        "fail",
        _one_of("fail", "close"),
        "fail or close",
        "Handling of a job with artifacts or reviews if the server (before 4.6.0) supports none: fail it, or close it "
        "with its own status. In both cases the output lists what could not be attached.",
    )
    unrouted: Literal["fail", "leave"] = _option(
        "fail",
        _one_of("fail", "leave"),
        "fail or leave",
        "Handling of a job without a handler: claim it and close it as failed, or leave it pending.",
    )
    undeclared: Literal["refuse", "run"] = _option(
        "refuse",
        _one_of("refuse", "run"),
        "refuse or run",
        "Jobs that require a capability which no handler declares, if only a handler without conditions would take "
        "them. `refuse`: they end as `unrouted` says. `run`: that handler runs them, and the log names the capability.",
    )
    max_attempts: int = _option(
        3,
        lambda value: _whole(value, 1),
        "a whole number from 1",
        "Number of lost runs after which a job fails.",
    )
    timeout: float = _option(
        10.0, _seconds(1, 600), "seconds from 1 to 600", "Timeout of a request to the server, in seconds."
    )
    shutdown_timeout: float = _option(
        30.0,
        _seconds(1, 3600),
        "seconds from 1 to 3600",
        "Time in which a stopping bridge may finish its claims and deliveries, in seconds.",
    )
    http: str = _option(
        "",
        _http,
        "a port, or host:port",
        "Address on which the bridge serves `/metrics`, `/health/live` and `/health/ready` (extra `metrics`). The host "
        "defaults to 127.0.0.1. Default: off.",
    )
    http_token: str = _option(
        "",
        _http_token,
        f"a token of at least {LEAST_HTTP_TOKEN_CHARACTERS} characters, of your choice",
        "With it, the bridge also serves a read-only page for operators at `/` of `http` (extra `web`), for those who "
        "have this token. Programs that a handler starts inherit it, so prefer `http_token_file`. Default: no page.",
        secret=True,
    )
    http_token_file: str = _option(
        "",
        _text,
        "the path of a file",
        "A file with the token for that page, used instead of `http_token`. It is read again when it changes.",
    )
    log_format: Literal["text", "json"] = _option(
        "text",
        _one_of("text", "json"),
        "text or json",
        "`json`: bridge and workers log one JSON object per line. `text`: Celery's own format.",
    )
    show_output: bool = _option(
        False,
        _switch,
        "1 or 0 (also true, yes, on; false, no, off)",
        "`1`: workers log the outputs and tracebacks of jobs. For development: without effect, and with a warning, "
        "unless the server is on this machine (`localhost`, `127.0.0.1`, `::1`).",
    )
    app_version: str = _option(
        "",
        _name,
        "a string of at most 200 bytes",
        "The version of your code, which `status` shows for each bridge and worker. Default: mr-celery's version.",
    )
    history: float = _option(
        86400.0,
        _seconds(60, 31_536_000),
        "seconds from 60 to 31536000",
        "Time for which the ledger keeps a closed job, in seconds.",
    )

    def each(self) -> tuple[Settings, ...]:
        """The settings of each worker name, with its own name and token."""
        if not self.workers:
            return (self,)
        named = [each for each in self.workers if self.name in ("", each.name)]
        return tuple(
            replace(self, name=each.name, token=self.token_of(each.name), token_file=self.token_file_of(each.name))
            for each in named
        )

    @cached_property
    def logs_output(self) -> bool:
        """Whether workers log outputs: :attr:`show_output` is on, and the server is on this machine."""
        return self.show_output and _is_local(self.url)

    @property
    def output_warning(self) -> str:
        """The reason why :attr:`show_output` has no effect, for logs; empty if it has an effect, or is off."""
        if not self.show_output or self.logs_output:
            return ""
        return (
            f"modelreins_show_output is on, and has no effect: the server {self.url} is not on this machine, and the "
            "outputs of its jobs do not belong in a log. Unset MODELREINS_SHOW_OUTPUT"
        )

    @cached_property
    def options(self) -> WorkerNameOptions:
        """The options of the worker name :attr:`name`: its token, and its selection of handlers."""
        return self._options_of(self.name) or WorkerNameOptions(self.name)

    @property
    def neighbours(self) -> list[str]:
        """The other worker names on the same fleet, including those of other bridges."""
        return [each.name for each in self.workers if each.name != self.name]

    def token_of(self, worker_name: str) -> str:
        """The token of a worker name; empty if it has none."""
        options = self._options_of(worker_name)
        return self.token if options is None or not (options.token_env or options.token_file) else options.token

    def token_file_of(self, worker_name: str) -> str:
        """The file with the token of a worker name; empty if it has none."""
        options = self._options_of(worker_name)
        own = options is not None and (options.token_env or options.token_file)
        return options.token_file if options is not None and own else self.token_file

    def _options_of(self, worker_name: str) -> WorkerNameOptions | None:
        return next((each for each in self.workers if each.name == worker_name), None)


@dataclass(frozen=True)
class Option:
    """The names and the description of a setting, for the documentation."""

    name: str
    environment: str
    configuration: str
    default: str
    allowed: str
    about: str


def _is_local(url: str) -> bool:
    """Whether a server is on this machine: 127.0.0.0/8, ``::1``, ``localhost`` or ``*.localhost``."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def options() -> list[Option]:
    """All settings, in the order of the documentation."""
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


def secret_settings() -> list[str]:
    """The names, in the Celery configuration, of the settings that may contain a token or a password."""
    return [f"modelreins_{item.name}" for item in fields(Settings) if item.metadata["secret"]]


def load(
    configuration: Mapping[str, Any] | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read and validate all settings.

    Args:
        configuration: the Celery application's configuration (``app.conf``).
        flags: values from the command line by setting; ``None`` if not given.
        environment: default ``os.environ``.

    Raises:
        SettingsError: a value is not allowed. The message names the value, its source and the allowed values.
    """
    configuration = {} if configuration is None else configuration
    flags = flags or {}
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for item in fields(Settings):
        source, value = _given(item.name, configuration, flags, environment)
        if source:
            values[item.name] = _checked(item.metadata, source, value)
    if values.get("token_file"):
        values["token"] = _token_in(values["token_file"])
    if "workers" in values:
        values["workers"] = tuple(_with_token(each, environment) for each in values["workers"])
        _must_be_one_of(values.setdefault("name", ""), values["workers"])
    values.setdefault("name", socket.gethostname())
    if values.get("ledger_url"):
        values["ledger_url"] = _with_options_of_celery(values["ledger_url"], configuration)
    else:
        address, options_key = next(_celery_redis(configuration), (None, ""))
        values["ledger_url"] = address.url if address else ""
        if "ledger_prefix" not in values:
            values["ledger_prefix"] = _prefix_of_celery(configuration, options_key)
    settings = Settings(**values)
    if settings.ledger_replicas and settings.ledger_url and RedisAddress.parse(settings.ledger_url).is_cluster:
        raise SettingsError(
            "modelreins_ledger_replicas: a ledger on a Redis Cluster cannot wait for replicas: set "
            "MODELREINS_LEDGER_REPLICAS to 0, or put the ledger behind Sentinels"
        )
    return settings


def _given(
    name: str, configuration: Mapping[str, Any], flags: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[str, Any]:
    """The source of a setting that takes precedence, and the value there; an empty source if it is set nowhere."""
    sources = (
        (f"--{name.replace('_', '-')}", flags.get(name)),
        (f"MODELREINS_{name.upper()}", environment.get(f"MODELREINS_{name.upper()}") or None),
        (f"modelreins_{name}", configuration.get(f"modelreins_{name}")),
    )
    return next(((source, value) for source, value in sources if value is not None), ("", None))


def is_default(name: str, configuration: Mapping[str, Any], *, flags: Mapping[str, Any]) -> bool:
    """Whether no flag, environment variable or Celery configuration sets a setting."""
    return not _given(name, configuration, flags, os.environ)[0]


def names_ledger(configuration: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> bool:
    """Whether the ledger has its own setting, and is not only derived from the broker's address.

    Args:
        configuration: the Celery application's configuration.
        environment: default ``os.environ``.
    """
    environment = os.environ if environment is None else environment
    return bool(environment.get("MODELREINS_LEDGER_URL") or configuration.get("modelreins_ledger_url"))


def admin_token(environment: Mapping[str, str] | None = None) -> str:
    """Read the administrator's token for a registration; empty if it is not set.

    It is not a setting: it is read from the environment only and is never stored.

    Args:
        environment: default ``os.environ``.
    """
    return (os.environ if environment is None else environment).get("MODELREINS_ADMIN_TOKEN", "").strip()


def api_key(environment: Mapping[str, str] | None = None) -> str:
    """Read the API key of a user who dispatches jobs; empty if it is not set. It is not a setting either.

    Args:
        environment: default ``os.environ``.
    """
    return (os.environ if environment is None else environment).get("MODELREINS_API_KEY", "").strip()


def read_token(path: str) -> str:
    """Read the token in a file.

    Raises:
        SettingsError: the file cannot be read, has no valid token, or can be written by every user. The message does
            not repeat its content.
    """
    try:
        with open(path, encoding="utf-8") as file:
            is_writable, words = exposure(file.fileno())
            text = file.read(MOST_TOKEN_CHARACTERS)
        if is_writable:
            raise SettingsError(f"the token file {path} {words}: replace the token, and run chmod 600 {path}")
        return _token(text)
    except OSError as error:
        raise SettingsError(f"the token file {path} cannot be read: {error.strerror or type(error).__name__}") from None
    except WrongValue as error:
        raise SettingsError(f"the token file {path}: {error}") from None
    except ValueError:
        raise SettingsError(f"the token file {path} does not contain a token") from None


def read_http_token(path: str) -> str:
    """Read the token for the bridge's page in a file.

    Raises:
        SettingsError: as for :func:`read_token`, or the token is too short.
    """
    try:
        return _http_token(read_token(path))
    except WrongValue as error:
        raise SettingsError(f"the token file {path}: {error}") from None


def _token_in(path: str) -> str:
    """The token in a file; empty if it cannot be read now. Commands that need no token work without it."""
    try:
        return read_token(path)
    except SettingsError:
        return ""


def _with_token(options: WorkerNameOptions, environment: Mapping[str, str]) -> WorkerNameOptions:
    if options.token_file:
        return replace(options, token=_token_in(options.token_file))
    token = environment.get(options.token_env) if options.token_env else None
    if not token:
        return options
    metadata = next(item.metadata for item in fields(Settings) if item.name == "token")
    return replace(options, token=_checked(metadata, options.token_env, token))


def _must_be_one_of(name: str, workers: tuple[WorkerNameOptions, ...]) -> None:
    names = [each.name for each in workers]
    if name and name not in names:
        raise SettingsError(
            f"modelreins_name: {name!r} is none of the worker names in modelreins_workers ({', '.join(names)}): "
            "choose one of them, or leave the setting out to use all"
        )


def _checked(metadata: Mapping[str, Any], source: str, value: Any) -> Any:
    try:
        return metadata["parse"](value)
    except WrongValue as error:
        raise SettingsError(f"{source}: {error}") from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        secret = metadata["secret"] or "@" in str(value)  # a URL may contain a password
        shown = "the value given" if secret else repr(value)
        raise SettingsError(f"{source}: {shown} is invalid: it must be {metadata['allowed']}") from None


_CELERY_ADDRESSES = (
    ("broker_url", "broker_use_ssl", "broker_transport_options"),
    ("broker_write_url", "broker_use_ssl", "broker_transport_options"),
    ("result_backend", "redis_backend_use_ssl", "result_backend_transport_options"),
)
"""The settings of Celery that may have the address of a Redis, each with those of its TLS and transport options."""


def _celery_redis(configuration: Mapping[str, Any]) -> Iterator[tuple[RedisAddress, str]]:
    """The addresses of Redis in the application's own configuration, with their TLS options.

    Each comes with the name of the setting of its transport options.

    Raises:
        SettingsError: an address of a Redis, or its TLS options, cannot be used.
    """
    for key, tls_key, options_key in _CELERY_ADDRESSES:
        url = _of_celery(configuration, key)
        first = (url[0] if isinstance(url, (list, tuple)) and url else url) or ""
        text = str(first).strip()
        scheme = text.partition("://")[0].lower()
        if scheme != "sentinel":
            text = text.split(";")[0].strip()
        if scheme not in ("redis", "rediss", "unix", "redis+socket", "sentinel"):
            continue
        source = key
        try:
            address = RedisAddress.parse(text)
            if address.is_sentinel:
                source = options_key
                address = address.with_sentinel(_sentinel_options(_of_celery(configuration, options_key)))
                if not address.master_name:
                    raise WrongValue("master_name is missing, the name under which the Sentinels know the master")
            source = tls_key
            tls = _of_celery(configuration, tls_key)
            # Celery uses no TLS for a Redis if this is True.
            has_tls = isinstance(tls, Mapping) and bool(tls) and address.scheme != "unix"
            yield address.with_tls(tls) if has_tls else address, options_key
        except WrongValue as error:
            raise SettingsError(f"{source}: {error}") from None


def _prefix_of_celery(configuration: Mapping[str, Any], options_key: str) -> str:
    """The prefix of Celery's own keys in the Redis with these transport options; empty if it has none.

    Raises:
        SettingsError: a ledger cannot use this prefix.
    """
    given = _of_celery(configuration, options_key) if options_key else None
    prefix = given.get("global_keyprefix") if isinstance(given, Mapping) else None
    metadata = next(item.metadata for item in fields(Settings) if item.name == "ledger_prefix")
    return str(_checked(metadata, f"{options_key}: its global_keyprefix", prefix)) if prefix else ""


def _sentinel_options(transport_options: Any) -> dict[str, Any]:
    """The options of Sentinels in Celery's transport options."""
    given = transport_options if isinstance(transport_options, Mapping) else {}
    of_sentinels = given.get("sentinel_kwargs")
    of_sentinels = of_sentinels if isinstance(of_sentinels, Mapping) else {}
    named = {f"sentinel_{name}": value for name, value in of_sentinels.items()}
    return {name: value for name, value in {**given, **named}.items() if name in SENTINEL}


def _of_celery(configuration: Mapping[str, Any], key: str) -> Any:
    # The attribute comes first: it also covers CELERY_BROKER_URL in the environment.
    return getattr(configuration, key, None) or configuration.get(key)


def _with_options_of_celery(url: str, configuration: Mapping[str, Any]) -> str:
    """A ledger's address with the options of Celery's Redis that it lacks.

    An address of the same server gets all options of TLS and Sentinels. Another server gets only the certificates, and
    its verification is not changed.

    Raises:
        SettingsError: it is the address of Sentinels, and no master is named.
    """
    address = RedisAddress.parse(url)
    candidates: list[RedisAddress] = []
    with suppress(SettingsError):  # an invalid address that is not used does no harm
        candidates = [each for each, _ in _celery_redis(configuration)]
    same = [each for each in candidates if each.server == address.server]
    if address.is_sentinel:
        for candidate in same:
            address = address.with_sentinel(candidate.sentinel)
        if not address.master_name:
            raise SettingsError(
                "modelreins_ledger_url: the address of Sentinels needs the name under which they know the master: add "
                "?master_name=NAME"
            )
    if address.scheme == "unix" or address.tls_options:
        return address.url
    with suppress(WrongValue):
        for candidate in same:
            if candidate.tls_options:
                return address.with_tls(candidate.tls_options).url
        for candidate in candidates if address.is_tls else ():
            added = {name: value for name, value in candidate.tls_options.items() if name in IDENTITY}
            if added:
                return address.with_tls(added).url
    return address.url


def require(settings: Settings, name: Literal["token", "ledger_url"]) -> str:
    """Return the value of a setting that must not be empty.

    Raises:
        SettingsError: the setting is empty. The message says how to set it.
    """
    value: str = getattr(settings, name)
    if value:
        return value
    if name == "token":
        if path := settings.token_file_of(settings.name):
            read_token(path)
        variable = settings.options.token_env or "MODELREINS_TOKEN"
        file = "" if settings.options.token_env else ", or MODELREINS_TOKEN_FILE to a file that contains it"
        raise SettingsError(
            f"worker name {settings.name!r} has no token: set {variable} to the token shown at its registration{file}"
        )
    raise SettingsError(
        "modelreins_ledger_url is not set: set MODELREINS_LEDGER_URL to a Redis address such as "
        "redis://localhost:6379/0, since neither the broker nor the result backend is a Redis"
    )
