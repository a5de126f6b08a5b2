"""The check: verifies everything that a bridge and its workers need, one item at a time."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from ..bridge.broker_connection import UNREADABLE
from ..bridge.destinations import Destination
from ..bridge.limits import PUBLISH_TIMEOUT
from ..bridge.outages import broker_address
from ..bridge.publisher import MessageRefused, NotPublished, Publisher
from ..bridge.routes import Routes, registry_of
from ..bridge.state import ledger_advice
from ..bridge.waiting import ADVICE, NO_FAULT
from ..celery_compat import has_result_backend
from ..clients import Clients
from ..errors import ApplicationError, LedgerUnavailable, RoutingError, SettingsError, WorkerError
from ..handlers import Handler, Registry, filled, import_failure, load_registry
from ..ledger import EVICTION_HINT, LEDGER_VERSION, MINIMUM_VERSION, PERMISSION_HINT, Ledger, Nodes, evicts
from ..ledger.scripts import FULL
from ..private_files import exposure_of
from ..server import keep_nothing
from ..server.address import travels_in_clear
from ..settings import Settings, is_default, load, require
from ..settings.redis_address import RedisAddress, shown
from ..spool import SpoolName, SpoolUnavailable
from ..telemetry.quantities import ago, counted, data_size, first_of
from .audit import HINTS, Difference, audit
from .diagnosis import (
    clock_difference,
    clock_shown,
    missing_for_http,
    missing_for_page,
    request_shown,
    server_hint,
    tls_hint,
    tracing_without_extra,
)
from .registration import compare, declared_by
from .status import Status, status_reader

CLOCK_TOLERANCE = 5.0
"""Tolerated difference between this host's clock and Redis' clock, in seconds."""

SERVER_CLOCK_TOLERANCE = 30.0
"""Tolerated difference between this host's clock and the server's, in seconds."""

NO_APPLICATION = "default"
"""The name of the application that Celery makes if none is given."""

LEAST_FREE = 64 * 2**20
"""Free bytes on the disk of the spool below which the check fails."""

SHOWN_WORKERS = 10
"""Number of online workers that are named."""

SHOWN_DIFFERENCES = 5
"""Differences of one kind that an audit lists one by one; the others are only counted."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: the item, such as ``broker``.
        ok: whether jobs can run with it.
        detail: what was found.
        hint: what to do if it is not fine.
        warning: it is usable, but should be corrected.
    """

    what: str
    ok: bool
    detail: str
    hint: str = ""
    warning: bool = False


def check(app: Any, flags: Mapping[str, Any], *, with_audit: bool = False) -> Iterator[Finding]:
    """Verify settings, token, server, ledger, broker, spool, workers, routes and registration, in this order.

    Args:
        app: the Celery application.
        flags: values of settings from the command line.
        with_audit: also compare the ledger of each worker name with the server's lists.
    """
    yield from _check_installation(app, flags)
    if with_audit:
        yield from _audit_all(app, flags)


def _check_installation(app: Any, flags: Mapping[str, Any]) -> Iterator[Finding]:
    if app.main == NO_APPLICATION:
        hint = "name it with -A: celery -A proj modelreins check"
        yield Finding("application", False, "none is given, so there are no tasks", hint)
        return
    try:
        settings = load(app.conf, flags=flags)
        registry = load_registry(app)
    except (SettingsError, RoutingError) as error:
        yield Finding("settings", False, str(error), "correct it and run the check again")
        return
    except Exception as error:  # the application's modules may raise anything
        if isinstance(error, ApplicationError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        detail = f"a module of the application cannot be imported: {import_failure(error)}"
        yield Finding("application", False, detail, "correct it; the worker fails in the same way")
        return
    yield _check_settings(app, settings, registry, flags)
    if variable := tracing_without_extra(os.environ):
        hint = 'pip install "mr-celery[otel]", or unset it'
        yield Finding("tracing", True, f"{variable} is set, but the extra otel is not installed", hint, warning=True)
    if settings.http and (package := missing_for_http()):
        what = f"MODELREINS_HTTP is {settings.http}, but metrics and health are not served: {package} is not installed"
        yield Finding("http", True, what, 'pip install "mr-celery[metrics]", or unset it', warning=True)
    yield from _check_page(settings)
    if settings.output_warning:
        what, _, hint = settings.output_warning.rpartition(". ")
        yield Finding("show_output", True, what, hint, warning=True)
    for each in settings.each():
        yield from _check_server(each, is_default=is_default("url", app.conf, flags=flags))
    nodes: Nodes | None = None
    derived = is_default("ledger_url", app.conf, flags=flags)
    prefix_is_derived = is_default("ledger_prefix", app.conf, flags=flags)
    for finding, online in _check_ledger(settings, derived=derived, prefix_is_derived=prefix_is_derived):
        nodes = online if online is not None else nodes
        yield finding
    yield _check_broker(app)
    if settings.spool_url:
        yield _check_spool(settings)
    if not registry.handlers:
        hint = "decorate a task with @modelreins_job. Is the module with the decorated tasks imported?"
        yield Finding("handlers", False, f"0 handlers in application {app.main!r}: no job can run", hint)
    if nodes is not None:
        yield from _check_workers(app, settings, registry, nodes)
        if registry.handlers and not has_result_backend(app):
            detail = "chains only: the application has no result backend that can join groups and chords"
            yield Finding("workflows", True, detail)
        for each in settings.each():
            yield _check_registration(app, each)
        yield from _check_states(app, settings)


def _check_states(app: Any, settings: Settings) -> Iterator[Finding]:
    """Report the states of the worker names. Workers are checked separately, and bridges need not run yet."""
    try:
        seen = status_reader(app, settings)()
    except (LedgerUnavailable, RoutingError) as error:
        yield Finding("state", False, f"unknown: {error}", "try again")
        return
    for status in seen:
        yield from _check_state(status)


def _check_state(status: Status) -> Iterator[Finding]:
    name = repr(status.worker_name)
    for state in (status.state, *status.problems):
        tolerable = state.kind in ("no_bridge", "no_worker")
        yield Finding("state", tolerable or not state.wrong, f"{name}: {state.text}", state.advice, warning=tolerable)
    explained = {state.text for state in (status.state, *status.problems)}
    for waiting in status.waiting_jobs:
        if waiting.text not in explained:
            ok = waiting.reason in NO_FAULT
            yield Finding("waiting jobs", ok, f"{name}: {waiting.text}", ADVICE.get(waiting.reason, ""))
    for difference in status.differences:
        hint = "restart all bridges and workers with the same versions, unless an upgrade is under way"
        yield Finding("versions", True, f"{name}: {difference}", hint, warning=True)


def _check_page(settings: Settings) -> Iterator[Finding]:
    """The page for operators, if its token is set."""
    name = "MODELREINS_HTTP_TOKEN_FILE" if settings.http_token_file else "MODELREINS_HTTP_TOKEN"
    if not (settings.http_token_file or settings.http_token):
        return
    if not settings.http:
        what = f"{name} is set, but the page for operators is not served: MODELREINS_HTTP is not set"
        yield Finding("page", True, what, "set it to a port, such as 9464", warning=True)
    elif package := missing_for_page():
        what = f"{name} is set, but the page for operators is not served: {package} is not installed"
        yield Finding("page", True, what, 'pip install "mr-celery[web]", or unset it', warning=True)


def _check_settings(app: Any, settings: Settings, registry: Registry, flags: Mapping[str, Any]) -> Finding:
    workers = settings.each()
    names = ", ".join(repr(each.name) for each in workers)
    what = "worker name" if len(workers) == 1 else "worker names"
    by_default = not settings.workers and is_default("name", app.conf, flags=flags)
    origin = " (the host's name, since MODELREINS_NAME is not set)" if by_default else ""
    return Finding("settings", True, f"{what} {names}{origin}, {counted(len(registry.handlers), 'handler')}")


def _audit_all(app: Any, flags: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        workers = load(app.conf, flags=flags).each()
    except SettingsError as error:
        yield Finding("audit", False, "not possible", str(error))
        return
    for settings in workers:
        yield from _audit(app, settings)


def _audit(app: Any, settings: Settings) -> Iterator[Finding]:
    try:
        clients = Clients(settings)
        api, ledger, fleet = clients.api(), clients.ledger(), clients.fleet()
        routes = Routes(app, registry_of(app, settings), settings.max_attempts)
        queues = sorted({route.queue for route in (*routes.known(fleet.online()), *routes.values())})
        found = audit(api, ledger, interval=settings.poll_interval, queues=queues)
    except (SettingsError, RoutingError) as error:
        yield Finding("audit", False, "not possible", str(error))
        return
    except WorkerError as error:
        hint = "try again; if this lasts, see the line of the server in the check"
        yield Finding("audit", False, f"the server's lists cannot be read: {error.summary}", hint)
        return
    except LedgerUnavailable as error:
        hint = "try again; if this lasts, see the line of the ledger in the check"
        yield Finding("audit", False, f"the ledger cannot be read: {error}", hint)
        return
    kinds: dict[str, list[Difference]] = {}
    for difference in found.differences:
        kinds.setdefault(difference.what, []).append(difference)
    for what, alike in kinds.items():
        for difference in alike[:SHOWN_DIFFERENCES]:
            yield Finding("audit", False, str(difference), difference.hint)
        more = len(alike) - SHOWN_DIFFERENCES
        if more > 0:
            yield Finding("audit", False, f"{counted(more, 'more job')}: {what}", HINTS[what])
    if not found.differences:
        detail = (
            f"{settings.name}: the ledger ({found.in_flight} in flight) and the server ({found.running} running, "
            f"{found.pending} pending) agree"
        )
        yield Finding("audit", True, detail)


def _check_server(settings: Settings, *, is_default: bool) -> Iterator[Finding]:
    try:
        require(settings, "token")
    except SettingsError as error:
        yield Finding("token", False, "cannot be read" if settings.token_file else "not set", str(error))
        return
    path = settings.token_file_of(settings.name)
    if words := exposure_of(path) if path else "":
        hint = f"run chmod 600 {path}, or 640 with a group for its readers"
        yield Finding("token", True, f"set for {settings.name!r}, in {path}, which {words}", hint, warning=True)
    else:
        yield Finding("token", True, f"set for {settings.name!r}{f', in {path}' if path else ''}")
    if travels_in_clear(settings.url):
        detail = f"{settings.url} is not https: the token is sent unencrypted"
        yield Finding("server", True, detail, "use https, unless the network is yours alone", warning=True)
    try:
        api = Clients(settings, shares_refusals=False).api()
        pending = api.jobs("pending", take=keep_nothing, about=()).count
    except WorkerError as error:
        yield Finding("server", False, request_shown(error, settings.url), server_hint(error, settings))
        return
    address = f"{settings.url} (the default)" if is_default else settings.url
    yield Finding(
        "server", True, f"{address} accepts the token of {settings.name!r}; {counted(pending, 'job')} pending"
    )
    difference = clock_difference(api.date)
    if difference is not None and abs(difference) > SERVER_CLOCK_TOLERANCE:
        detail = clock_shown(difference, "the server's")
        yield Finding("clock", True, detail, "set up NTP on the host that is wrong", warning=True)


def _check_ledger(
    settings: Settings, *, derived: bool, prefix_is_derived: bool = False
) -> Iterator[tuple[Finding, Nodes | None]]:
    try:
        clients = Clients(settings)
        ledgers, fleet = clients.ledgers(), clients.fleet()
        found = ledgers[0].version()
        if found not in (None, LEDGER_VERSION):
            yield Finding("ledger", False, f"has version {found}, not {LEDGER_VERSION}", ledgers[0].version_hint), None
            return
        if found is None and prefix_is_derived and (why := ledgers[0].would_be_second()):
            what, _, hint = why.partition(". ")
            yield Finding("ledger", False, what, hint), None
            return
        version, in_flight = ledgers[0].server_version(), sum(each.survey().in_flight for each in ledgers)
        difference, nodes = fleet.clock_difference(), fleet.online()
        confirming = ledgers[0].confirming_replicas() if settings.ledger_replicas else 0
        risks, notifies = list(_risks(ledgers[0])), all(each.may_notify() for each in ledgers)
    except SettingsError as error:
        yield Finding("ledger", False, "not set", str(error)), None
        return
    except LedgerUnavailable as error:
        wrong_scheme = tls_hint(settings.ledger_url)
        hint = wrong_scheme or ledger_advice(str(error))
        yield Finding("ledger", False, str(error), hint), None
        return
    shown_version = "of an unknown version (no permission for INFO)" if version is None else ".".join(map(str, version))
    new_enough = version is None or version >= MINIMUM_VERSION
    origin = " (Celery's Redis, since MODELREINS_LEDGER_URL is not set)" if derived else ""
    prefix = f", prefix {settings.ledger_prefix}" if settings.ledger_prefix else ""
    address = f"{shown(settings.ledger_url)}{prefix}{origin}"
    detail = f"{address}: Redis {shown_version}, {counted(in_flight, 'job')} in flight"
    yield Finding("ledger", new_enough, detail, "Redis 6.2 or later is needed"), nodes
    if wanted := settings.ledger_replicas:
        detail = f"{confirming} of {wanted} confirm what the ledger writes"
        hint = "start more replicas, or set MODELREINS_LEDGER_REPLICAS to fewer: until then no job starts"
        yield Finding("replicas", confirming >= wanted, detail, hint), None
    for risk in risks:
        yield risk, None
    if not notifies:
        detail = "the Redis user has no permission for the channels of the ledger: the bridge polls once a second"
        yield Finding("notifications", True, detail, PERMISSION_HINT, warning=True), None
    if not RedisAddress.parse(settings.ledger_url).is_verified:
        detail = "the certificate of this Redis is not verified (ssl_cert_reqs=none)"
        yield Finding("TLS", True, detail, "name its CA in the address: ?ssl_ca_certs=FILE", warning=True), None
    near = abs(difference) <= CLOCK_TOLERANCE
    detail = clock_shown(difference, "Redis'")
    hint = "leases follow Redis' clock, but your logs follow this one: set up NTP"
    yield Finding("clock", True, detail, hint, warning=not near), None


def _risks(ledger: Ledger) -> Iterator[Finding]:
    """The ways in which a ledger's Redis may lose its data.

    Raises:
        LedgerUnavailable: Redis cannot be reached.
    """
    policy = ledger.eviction()
    if what := evicts(policy):
        # A volatile policy evicts only keys that expire. Losing those costs no job, so it is not a failure.
        tolerable = str(policy).startswith("volatile-")
        yield Finding("eviction", tolerable, f"maxmemory-policy {policy}: {what}", EVICTION_HINT, warning=tolerable)
    if ledger.persists() is False:
        detail = "this Redis keeps its data in memory only: after its restart, jobs in flight run again"
        yield Finding("persistence", True, detail, "set appendonly yes, unless this is for a test", warning=True)
    if ledger.is_full():
        yield Finding("memory", False, "this Redis has reached its maxmemory: no job is claimed", ledger_advice(FULL))
    if ledger.unlimited_in_container():
        detail = "this Redis runs in a container and has no maxmemory: the container's limit would kill it"
        hint = "set maxmemory below the container's limit, and maxmemory-policy noeviction"
        yield Finding("memory", True, detail, hint, warning=True)


def _check_broker(app: Any) -> Finding:
    origin = "" if app.conf.broker_write_url else " (Celery's default, since the application names no broker)"
    address = ""
    try:
        with app.connection_for_write() as connection:
            address = broker_address(app)
            connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUT)
            return Finding("broker", True, f"{address}{origin}")
    except (ValueError, TypeError):  # its text may repeat a part of the password
        return Finding("broker", False, UNREADABLE, "correct it; the worker fails in the same way")
    except Exception as error:
        detail = f"{address}{origin}: {type(error).__name__}: {error}"
        hint = (
            "set CELERY_BROKER_URL or broker_url" if origin else "is the broker running, and is broker_url its address?"
        )
        return Finding("broker", False, detail, tls_hint(address) or hint)


def _check_spool(settings: Settings) -> Finding:
    """Write a file to the spool, read it back and remove it."""
    name, probe = SpoolName("mr-0-0-0", secrets.token_hex(8), 0), b"check"
    try:
        spool = Clients(settings).spool()
        assert spool is not None  # noqa: S101 - its address is set
        held = spool.entries()
        spool.put(name, io.BytesIO(probe), len(probe))
        with spool.open(name) as file:
            same = file.read() == probe
        spool.remove(str(name))
        free = spool.free()
    except (SettingsError, SpoolUnavailable, FileNotFoundError) as error:
        hint = "correct this: until then large artifacts cannot wait for their delivery"
        return Finding("spool", False, str(error), hint)
    if not same:
        hint = "artifacts would be damaged: check this storage"
        return Finding("spool", False, f"{spool} returned other content than was written", hint)
    size, limit = data_size(sum(entry.size for entry in held)), data_size(settings.spool_limit)
    detail = f"{spool}: {counted(len(held), 'file')}, {size} of {limit}"
    if free is not None and free < LEAST_FREE:
        hint = "make room: until then large artifacts are uploaded at once, and cannot wait for the server"
        return Finding("spool", False, f"{detail}, but its disk has only {data_size(free)} free", hint)
    return Finding("spool", True, detail)


def _check_workers(app: Any, settings: Settings, registry: Registry, nodes: Nodes) -> Iterator[Finding]:
    slots = sum(kind.slots for kind in nodes.kinds)
    listed = first_of(sorted(node.hostname for node in nodes), SHOWN_WORKERS) or "none"
    hint = (
        "start one that imports the decorated tasks: celery -A proj worker. It must use the same ledger "
        "(MODELREINS_LEDGER_URL) as this command"
    )
    yield Finding("workers", bool(nodes), f"{listed}; {counted(slots, 'slot')}", hint)
    yield from _check_handlers(app, settings, registry, nodes)


def _check_handlers(app: Any, settings: Settings, registry: Registry, nodes: Nodes) -> Iterator[Finding]:
    """Verify that the broker accepts each handler's messages and that a worker consumes them."""
    routes = Routes(app, registry, settings.max_attempts)
    routes.known(nodes)
    with closing(_Verifier(app)) as verify:
        for handler in registry.handlers:
            for destination in routes.destinations(handler):
                yield _check_handler(handler, destination, nodes, verify, fixed=routes.fixed)


class _Verifier:
    """Asks the broker whether it accepts messages. An unreachable broker is reported by its own check."""

    def __init__(self, app: Any) -> None:
        self._publisher: Publisher | None = None
        with suppress(Exception):
            self._publisher = Publisher(app)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()

    def __call__(self, destination: Destination) -> str:
        """The reason why the broker refuses messages to a destination; empty if it accepts them."""
        try:
            if self._publisher is not None:
                self._publisher.verify(destination)
        except MessageRefused as error:
            return str(error)
        except NotPublished:
            pass
        return ""


def _filled(handler: Handler) -> str:
    """The parameters that the author of a job can fill, in words; empty if there are none."""
    declaration = handler.declaration
    names = filled(handler.task.run, declaration.fields) if declaration.arguments is None else []
    only = "" if declaration.fields is None else "only "
    return f"; jobs fill {only}{', '.join(names)}" if names else ""


def _check_handler(
    handler: Handler,
    destination: Destination,
    nodes: Nodes,
    verify: Callable[[Destination], str],
    *,
    fixed: bool,
) -> Finding:
    what = f"{handler.name} ({handler.declaration.offers}{_filled(handler)})"
    registered = any(handler.name in kind.tasks for kind in nodes.kinds)
    if destination.problem and not fixed and registered:
        # The route may depend on the fields of a job, and there is no job here.
        return Finding("handler", True, f"{what}: its queue depends on the job; without one, {destination.problem}")
    if destination.problem:
        hint = "its jobs stay pending; correct its route in task_routes, task_queues or the task's own options"
        return Finding("handler", False, f"{what}: {destination.problem}", hint)
    queues = " and ".join(destination.queues)
    through = f", through {destination}" if destination.exchange else ""
    able = sum(
        kind.workers for kind in nodes.kinds if any(kind.runs(handler.name, queue) for queue in destination.queues)
    )
    detail = f"{what}, queue {queues}{through}: {counted(able, 'worker')}"
    if not able:
        hint = (
            f"a worker has the task, but none consumes its queue: start one with -Q {destination.queues[0]}"
            if registered
            else "no worker has registered it: is its module imported there, and does the worker run the same code?"
        )
        return Finding("handler", False, detail, hint)
    if refusal := verify(destination):
        hint = "its jobs stay pending: declare its queue here as the workers do, or give this user the permission"
        return Finding("handler", False, f"{detail}; the broker refuses {destination}: {refusal}", hint)
    return Finding("handler", True, detail)


def _check_registration(app: Any, settings: Settings) -> Finding:
    """Compare the last registration of a worker name with what the code declares."""
    name = repr(settings.name)
    try:
        registry = registry_of(app, settings)
        found = compare(Clients(settings).ledger(), settings.url, declared_by(registry))
    except LedgerUnavailable as error:
        return Finding("registered", False, str(error), "try again")
    except RoutingError as error:
        return Finding("registered", False, str(error), "correct modelreins_workers, or decorate a task")
    if found.seconds is None:
        return Finding("registered", True, f"{name} never registered with this ledger, but perhaps elsewhere")
    since = ago(found.seconds)
    if found.as_declared:
        return Finding("registered", True, f"{name} as declared, {since}")
    hint = "register again: celery -A proj modelreins register"
    return Finding("registered", False, f"{name} {since}; the code differs: {', '.join(found.changes)}", hint)
