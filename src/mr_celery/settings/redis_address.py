"""The address of a Redis, as Celery and redis-py write it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from .worker_names import WrongValue

SCHEMES = ("redis", "rediss", "unix", "redis+socket", "redis+cluster", "rediss+cluster", "sentinel")
"""The schemes of a Redis address. ``redis+socket`` is kombu's name for redis-py's ``unix``."""

DEFAULT_PORT = 6379

SENTINEL_PORT = 26379

_SCHEME = re.compile(r"[A-Za-z0-9+.-]*")

_ENCODE = (
    "write the reserved characters of user, password and options percent-encoded, such as %2F for /, %3F for ?, "
    "%23 for # and %40 for @"
)


def _certificates(value: Any) -> str:
    if value is None:  # kombu's value for no verification
        return "none"
    name = value.name if isinstance(value, ssl.VerifyMode) else str(value)
    name = name.lower().removeprefix("cert_")
    if name not in ("none", "optional", "required"):
        raise ValueError
    return name


def _switch(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("1", "t", "true", "y", "yes", "on", "0", "f", "false", "n", "no", "off"):
        raise ValueError
    return text in ("1", "t", "true", "y", "yes", "on")


def _tls_version(value: Any) -> int:
    names = ssl.TLSVersion.__members__
    return int(names[str(value)] if str(value) in names else ssl.TLSVersion(int(value)))


def _flags(value: Any) -> list[ssl.VerifyFlags]:
    if not isinstance(value, str):
        return [ssl.VerifyFlags(each) for each in value]
    names = ssl.VerifyFlags.__members__
    return [names[each.strip()] for each in value.strip("[]").split(",")]


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 < number <= 3600:
        raise ValueError
    return number


def _number(value: Any) -> int:
    text = str(value)
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise ValueError
    return int(text)


_TLS: Mapping[str, Callable[[Any], Any]] = {
    "ssl_cert_reqs": _certificates,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_ca_data": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_check_hostname": _switch,
    "ssl_ciphers": str,
    "ssl_min_version": _tls_version,
    "ssl_include_verify_flags": _flags,
    "ssl_exclude_verify_flags": _flags,
    "ssl_validate_ocsp": _switch,
    "ssl_validate_ocsp_stapled": _switch,
}

_CONNECTION: Mapping[str, Callable[[Any], Any]] = {
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _switch,
    "health_check_interval": _number,
    "client_name": str,
    "protocol": _number,
}

_PLACE = ("db", "virtual_host", "username", "password")

SENTINEL: Mapping[str, Callable[[Any], Any]] = {
    "master_name": str,
    "sentinel_username": str,
    "sentinel_password": str,
    "sentinel_ssl": _switch,
    **{f"sentinel_{name}": parse for name, parse in _TLS.items()},
}
"""Options of an address with Sentinels. All but the first are those of Celery's ``sentinel_kwargs``."""

_WITHOUT_EFFECT = ("max_connections", "retry_on_timeout", "decode_responses", "encoding", "encoding_errors")
"""Options of redis-py that are ignored, because the ledger sets them itself."""

IDENTITY = ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password")
"""The TLS options that add certificates. The others change how a server's certificate is verified."""

FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
"""The options whose values are paths."""


@dataclass(frozen=True)
class RedisAddress:
    """The address of a Redis, parsed.

    Args:
        scheme: ``redis``, ``rediss``, ``unix``, ``redis+cluster``, ``rediss+cluster`` or ``sentinel``.
        host: the host; empty for a Unix socket. With Sentinels it is that of the first one.
        port: the port; ``None`` if not given, which means 6379, or 26379 for a Sentinel.
        path: the path of a Unix socket.
        db: the number of the database; ``None`` if not given, which means 0.
        username: the user; empty for none.
        password: the password; empty for none.
        options: options of the connection, as redis-py names them.
        others: host and port of each further Sentinel.
        sentinel: the options of the Sentinels: the name of the master, and how to log in to the Sentinels.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""
    db: int | None = None
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    others: tuple[tuple[str, int | None], ...] = ()
    sentinel: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """Parse an address.

        Raises:
            WrongValue: it cannot be used. The message does not repeat its user, password or options.
            ValueError: it has another scheme.
        """
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in SCHEMES:
            raise ValueError
        others: list[tuple[str, int | None]] = []
        if scheme == "sentinel":
            rest, others = _sentinels(rest)
        try:
            text.encode()
            parts = urlsplit(f"//{rest}")
            host, port = unquote(parts.hostname or ""), parts.port
            given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:  # its text may repeat a part of the password
            raise WrongValue(f"the address cannot be read: {_ENCODE}") from None
        if "#" in rest or "@" in parts.path or port == 0:
            raise WrongValue(f"the address cannot be read: {_ENCODE}")
        address = cls(
            "unix" if scheme == "redis+socket" else scheme,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )
        if address.scheme == "unix":
            if host or port or parts.path in ("", "/"):
                raise WrongValue("the address of a Unix socket has three slashes and its path: unix:///run/redis.sock")
            address = replace(address, path=unquote(parts.path))
        else:
            address = replace(
                address, host=host or "localhost", port=port, db=_database(parts.path), others=tuple(others)
            )
        return address._with_query(given)

    def _with_query(self, given: dict[str, str]) -> RedisAddress:
        known = {**_CONNECTION, **_TLS, **(SENTINEL if self.is_sentinel else {})}
        if not given.keys() <= {*known, *_PLACE, *_WITHOUT_EFFECT}:  # its name may be a part of the password
            names = ", ".join((*_PLACE, *known))
            raise WrongValue(
                f"the address has an unknown option; known are {names}. If the password or a value contains ?, & or #, "
                "percent-encode it"
            )
        databases = [given[name] for name in ("db", "virtual_host") if name in given]
        address = replace(
            self,
            db=_database(databases[0]) if databases else self.db,
            username=self.username or given.get("username", ""),
            password=self.password or given.get("password", ""),
            options={name: _parsed(name, value) for name, value in given.items() if name in _CONNECTION},
            sentinel={name: _parsed(name, value) for name, value in given.items() if name in SENTINEL},
        )
        if address.is_cluster and address.db:
            raise WrongValue("a Redis Cluster has only database 0")
        tls = {name: value for name, value in given.items() if name in _TLS}
        if tls and address.scheme == "unix":
            raise WrongValue("the address of a Unix socket has options of TLS, which it does not use")
        return address.with_tls(tls) if tls else address

    def with_tls(self, options: Mapping[str, Any]) -> RedisAddress:
        """This address with TLS. Its own options take precedence.

        Args:
            options: the ``ssl_…`` options, as texts or as in Celery's ``broker_use_ssl``.

        Raises:
            WrongValue: an option is unknown, or its value is not allowed. The message names the option.
        """
        if unknown := [str(name) for name in options if name not in _TLS]:
            raise WrongValue(f"unknown TLS option {unknown[0]}; known are {', '.join(_TLS)}")
        given = {
            name: _parsed(name, value)
            for name, value in options.items()
            if value is not None or name == "ssl_cert_reqs"
        }
        return replace(
            self,
            scheme=self.scheme.replace("redis", "rediss", 1) if not self.is_tls else self.scheme,
            options={**given, **self.options},
        )

    def with_sentinel(self, options: Mapping[str, Any]) -> RedisAddress:
        """This address of Sentinels with more options. Its own options take precedence.

        Args:
            options: ``master_name``, and the ``sentinel_…`` options.

        Raises:
            WrongValue: a value is not allowed. The message names the option.
        """
        given = {
            name: _parsed(name, value)
            for name, value in options.items()
            if value is not None or name == "sentinel_ssl_cert_reqs"
        }
        return replace(self, sentinel={**given, **self.sentinel})

    @property
    def is_sentinel(self) -> bool:
        """Whether it is the address of Sentinels, which locate the master."""
        return self.scheme == "sentinel"

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """Host and port of each Sentinel."""
        every = ((self.host, self.port), *self.others) if self.is_sentinel else ()
        return [(host, port or SENTINEL_PORT) for host, port in every]

    @property
    def master_name(self) -> str:
        """The name of the master in the Sentinels' configuration."""
        return str(self.sentinel.get("master_name", ""))

    @property
    def sentinel_connection(self) -> dict[str, Any]:
        """The arguments of a redis-py connection to the Sentinels."""
        found = {name: self.sentinel.get(f"sentinel_{name}") or None for name in ("username", "password")}
        if not self.sentinel.get("sentinel_ssl"):
            return found
        own = {name: self.sentinel[f"sentinel_{name}"] for name in _TLS if f"sentinel_{name}" in self.sentinel}
        return {**found, "ssl": True, **self.tls_options, **own}

    @property
    def is_cluster(self) -> bool:
        """Whether it is the address of a Redis Cluster."""
        return self.scheme.endswith("+cluster")

    @property
    def is_tls(self) -> bool:
        """Whether connections use TLS."""
        return self.scheme.startswith("rediss") or (self.is_sentinel and bool(self.tls_options))

    @property
    def is_verified(self) -> bool:
        """Whether the server's certificate is verified; also true without TLS."""
        return self.options.get("ssl_cert_reqs") != "none"

    @property
    def tls_options(self) -> dict[str, Any]:
        """The options of TLS."""
        return {name: value for name, value in self.options.items() if name in _TLS}

    @property
    def server(self) -> tuple[str, int]:
        """A value that all addresses of one server share."""
        return self.path or self.host, self.port or (SENTINEL_PORT if self.is_sentinel else DEFAULT_PORT)

    @property
    def url(self) -> str:
        """The whole address, in one form for all spellings. It contains the password."""
        user = quote(self.username, safe="")
        if self.password:
            user += f":{quote(self.password, safe='')}"
        user = f"{user}@" if user else ""
        given = {name: _rendered(value) for name, value in {**self.options, **self.sentinel}.items()}
        if self.scheme == "unix":
            place = quote(self.path)
            given = ({} if self.db is None else {"db": str(self.db)}) | given
        else:
            places = [_place(self.host, self.port), *(f"sentinel://{_place(*each)}" for each in self.others)]
            place = ";".join(places) + ("" if self.db is None else f"/{self.db}")
        query = f"?{urlencode(given, quote_via=quote, safe='/')}" if given else ""
        return f"{self.scheme}://{user}{place}{query}"

    @property
    def connection(self) -> dict[str, Any]:
        """The arguments of a redis-py connection to it."""
        place: dict[str, Any] = {"host": self.host, "port": self.port or DEFAULT_PORT}
        if self.scheme == "unix":
            place = {"path": self.path}
        elif self.is_sentinel:
            place = {}
        user = {"username": self.username or None, "password": self.password or None}
        database = {} if self.is_cluster else {"db": self.db or 0}
        return {**place, **user, **database, **self.options}


def _sentinels(rest: str) -> tuple[str, list[tuple[str, int | None]]]:
    """Split the addresses of several Sentinels, each with or without its scheme.

    Returns:
        The first address, with the first path and the first query in any of them; host and port of the others.

    Raises:
        WrongValue: an address cannot be read.
    """
    found = []
    for text in filter(None, (each.strip() for each in rest.split(";"))):
        scheme, separator, after = text.partition("://")
        if "#" in text:
            raise WrongValue(f"the address cannot be read: {_ENCODE}")
        if separator and scheme.lower() != "sentinel":
            raise WrongValue(
                f"the address cannot be read: each Sentinel address must begin with sentinel://; or {_ENCODE}"
            )
        try:
            found.append(urlsplit(f"//{after if separator else text}"))
            found[-1].port  # noqa: B018 - raises ValueError for an invalid port
        except ValueError:
            raise WrongValue(f"the address cannot be read: {_ENCODE}") from None
    if not found:
        return "", []
    first, *others = found
    path = next((each.path for each in found if each.path.strip("/")), "")
    query = next((each.query for each in found if each.query), "")
    merged = first._replace(path=path, query=query).geturl().removeprefix("//")
    return merged, [(unquote(each.hostname or "localhost"), each.port) for each in others]


def _place(host: str, port: int | None) -> str:
    return (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")


def _database(text: str) -> int | None:
    number = unquote(text).strip("/")
    if not number:
        return None
    try:
        return _number(number)
    except ValueError:
        raise WrongValue(f"the database must be a whole number; or {_ENCODE}") from None


def _parsed(name: str, value: Any) -> Any:
    try:
        return {**_CONNECTION, **_TLS, **SENTINEL}[name](value)
    except (ValueError, TypeError, KeyError):
        allowed = ": it must be none, optional or required, also as CERT_NONE …" if name == "ssl_cert_reqs" else ""
        raise WrongValue(f"the option {name} has an invalid value{allowed}") from None


def _rendered(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(flag.name) for flag in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(url: str) -> str:
    """The address of a Redis or a broker without user, password and options, for messages."""
    if url.startswith("sentinel://") and ";" in url:
        return ";".join(shown(each) if each.startswith("sentinel://") else "…" for each in url.split(";"))
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    if _SCHEME.fullmatch(scheme) is None:  # it may be a part of a password
        return "…"
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"{scheme}{separator}…"
    if "@" in rest.removeprefix(parts.netloc) or "#" in rest:  # perhaps of a password
        return f"{scheme}{separator}…"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}{separator}{host}{f':{port}' if port else ''}{parts.path}"
