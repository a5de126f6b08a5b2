"""``check``: what a bridge and its workers need, verified one by one."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..bridge.audit import HINTS, Difference, audit
from ..bridge.sender import PUBLISH_TIMEOUT, registry_of, route_of
from ..celery_hooks import load_registry
from ..client import Api
from ..errors import LedgerUnavailable, RoutingError, SettingsError, WorkerError
from ..ledger import Fleet, Ledger, Node
from ..ledger.connection import MINIMUM_VERSION
from ..operations import compare, declared_by
from ..routing import Registry
from ..settings import Settings, load, require
from ..spool import SpoolName, SpoolUnavailable, spool_of
from .show import age, counted

CLOCK_TOLERANCE = 5.0
"""Seconds that this host's clock may differ from Redis' clock before it is called wrong."""

MOST_OF_A_KIND = 5
"""How many differences of one kind an audit shows one by one."""


@dataclass(frozen=True)
class Finding:
    """One verified thing; ``hint`` says what to do where it is not well."""

    what: str
    ok: bool
    detail: str
    hint: str = ""


def run_checks(app: Any, flags: Mapping[str, Any]) -> Iterator[Finding]:
    """Verify settings, token, server, ledger, broker, spool, workers, routes and registration, in this order."""
    try:
        settings = load(app.conf, flags=flags)
        registry = load_registry(app)
    except (SettingsError, RoutingError) as error:
        yield Finding("settings", False, str(error), "correct it, and run the check again")
        return
    workers = settings.each()
    names = ", ".join(repr(each.name) for each in workers)
    what = "worker name" if len(workers) == 1 else "worker names"
    yield Finding("settings", True, f"{what} {names}, {counted(len(registry.handlers), 'handler')}")
    for each in workers:
        yield from _server(each)
    nodes: list[Node] | None = None
    for finding, online in _ledger(settings):
        nodes = online if online is not None else nodes
        yield finding
    yield _broker(app)
    if settings.spool_url:
        yield _spool(settings)
    if nodes is not None:
        yield from _workers(app, settings, registry, nodes)
        for each in workers:
            yield _registered(app, each)


def run_audit(app: Any, flags: Mapping[str, Any]) -> Iterator[Finding]:
    """Verify that the ledger and the server say the same of the jobs in flight, for each worker name."""
    try:
        workers = load(app.conf, flags=flags).each()
    except SettingsError as error:
        yield Finding("audit", False, "not possible", str(error))
        return
    for settings in workers:
        yield from _audit(settings)


def _audit(settings: Settings) -> Iterator[Finding]:
    try:
        api = Api(settings.url, require(settings, "token"), settings.name, timeout=settings.timeout)
        ledger = Ledger(require(settings, "ledger_url"), settings.name)
        found = audit(api, ledger, interval=settings.poll_interval)
    except SettingsError as error:
        yield Finding("audit", False, "not possible", str(error))
        return
    except WorkerError as error:
        hint = "try again; where this stays, see what the check says of the server"
        yield Finding("audit", False, f"the server cannot be asked: {error.summary}", hint)
        return
    except LedgerUnavailable as error:
        hint = "try again; where this stays, see what the check says of the ledger"
        yield Finding("audit", False, f"the ledger cannot be read: {error}", hint)
        return
    kinds: dict[str, list[Difference]] = {}
    for difference in found.differences:
        kinds.setdefault(difference.what, []).append(difference)
    for what, alike in kinds.items():
        for difference in alike[:MOST_OF_A_KIND]:
            yield Finding("audit", False, str(difference), difference.hint)
        more = len(alike) - MOST_OF_A_KIND
        if more > 0:
            yield Finding("audit", False, f"{counted(more, 'more job')}: {what}", HINTS[what])
    if not found.differences:
        detail = (
            f"{settings.name}: the ledger ({found.in_flight} in flight) and the server ({found.running} running, "
            f"{found.pending} pending) agree"
        )
        yield Finding("audit", True, detail)


def _server(settings: Settings) -> Iterator[Finding]:
    try:
        token = require(settings, "token")
    except SettingsError as error:
        yield Finding("token", False, "not set", str(error))
        return
    yield Finding("token", True, f"set for {settings.name!r}")
    try:
        pending = Api(settings.url, token, settings.name, timeout=settings.timeout).jobs("pending").jobs
    except WorkerError as error:
        if error.unauthorized:
            hint = f"the server refuses the token: register the worker {settings.name!r} anew and set its token"
        elif error.status is None:
            hint = "is MODELREINS_URL right, and does this host reach it (proxy, firewall, certificates)?"
        else:
            hint = "is MODELREINS_URL the address of a ModelReins server?"
        yield Finding("server", False, str(error), hint)
        return
    detail = f"{settings.url} takes the token of {settings.name!r}; {counted(len(pending), 'job')} pending"
    yield Finding("server", True, detail)


def _ledger(settings: Settings) -> Iterator[tuple[Finding, list[Node] | None]]:
    try:
        url = require(settings, "ledger_url")
        ledgers, fleet = [Ledger(url, each.name) for each in settings.each()], Fleet(url)
        version, in_flight = ledgers[0].server_version(), sum(each.survey().in_flight for each in ledgers)
        difference, nodes = fleet.clock_difference(), fleet.online()
    except SettingsError as error:
        yield Finding("ledger", False, "not set", str(error)), None
        return
    except LedgerUnavailable as error:
        yield Finding("ledger", False, str(error), "is Redis up, and MODELREINS_LEDGER_URL its address?"), None
        return
    shown = ".".join(map(str, version))
    new_enough = version >= MINIMUM_VERSION
    detail = f"Redis {shown}, {counted(in_flight, 'job')} in flight"
    yield Finding("ledger", new_enough, detail, "Redis 6.2 or later is needed"), nodes
    near = abs(difference) <= CLOCK_TOLERANCE
    detail = f"this host's clock differs from Redis' by {difference:+.1f} s"
    yield Finding("clock", near, detail, "leases use Redis' clock, but your logs do not: set up NTP"), None


def _broker(app: Any) -> Finding:
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUT)
            return Finding("broker", True, str(connection.as_uri()))
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        return Finding("broker", False, detail, "is the broker up, and broker_url its address?")


def _spool(settings: Settings) -> Finding:
    """Whether the spool takes a file and gives it back, and what is in it."""
    name, probe = SpoolName("mr-0-0-0", secrets.token_hex(8), 0), b"check"
    try:
        spool = spool_of(settings, settings.name)
        assert spool is not None  # noqa: S101 - its address is set
        held = spool.entries()
        spool.put(name, io.BytesIO(probe), len(probe))
        with spool.open(name) as file:
            same = file.read() == probe
        spool.remove(str(name))
    except (SettingsError, SpoolUnavailable, FileNotFoundError) as error:
        return Finding("spool", False, str(error), "large artifacts can't wait for their delivery: correct this")
    if not same:
        return Finding("spool", False, f"{spool} gives back something else than it was given")
    mebibytes = sum(entry.size for entry in held) / 2**20
    limit = settings.spool_limit / 2**20
    return Finding("spool", True, f"{spool}: {counted(len(held), 'file')}, {mebibytes:.0f} of {limit:.0f} MiB")


def _workers(app: Any, settings: Settings, registry: Registry, nodes: list[Node]) -> Iterator[Finding]:
    slots = sum(node.concurrency for node in nodes)
    listed = ", ".join(sorted(node.hostname for node in nodes)) or "none"
    hint = (
        "start one that imports the decorated tasks: celery -A proj worker. It must use the same ledger "
        "(MODELREINS_LEDGER_URL) as this command"
    )
    yield Finding("workers", bool(nodes), f"{listed}; {counted(slots, 'slot')}", hint)
    if not registry.handlers:
        yield Finding("handlers", False, "none", "decorate a task with @modelreins_job")
    for handler in registry.handlers:
        route = route_of(app, handler, settings.max_attempts)
        able = [node.hostname for node in nodes if node.runs(handler.name, route.queue)]
        detail = f"{handler.name} ({handler.declaration.offers}), queue {route.queue}: {counted(len(able), 'worker')}"
        registered = [node for node in nodes if handler.name in node.tasks]
        hint = (
            f"a worker has the task, but none consumes its queue: start one with -Q {route.queue}"
            if registered
            else "no worker has registered it: is its module imported there, and the code the same as here?"
        )
        yield Finding("handler", bool(able), detail, hint)


def _registered(app: Any, settings: Settings) -> Finding:
    """Whether what `register` has registered last is what the code declares for a worker name."""
    name = repr(settings.name)
    try:
        registry = registry_of(app, settings)
        found = compare(Ledger(settings.ledger_url, settings.name), settings.url, declared_by(registry).risk_tiers)
    except LedgerUnavailable as error:
        return Finding("registered", False, str(error), "try again")
    except RoutingError as error:
        return Finding("registered", False, str(error), "correct modelreins_workers, or decorate a task")
    if found.seconds is None:
        return Finding("registered", True, f"{name} never by `modelreins register`; elsewhere, maybe")
    since = f"{age(found.seconds)} ago"
    if found.as_declared:
        return Finding("registered", True, f"{name} as declared, {since}")
    hint = "register what the code declares now: celery -A proj modelreins register"
    return Finding("registered", False, f"{name} {since}; the code differs: {', '.join(found.changes)}", hint)
