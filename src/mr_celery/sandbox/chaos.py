"""Rules for fault injection: which responses of the sandbox fail, how, how often and for how long.

There are no faults unless rules are set. Rules simulate an outage of the server::

    sandbox.chaos.set([Rule("status", status=503, rate=0.1, routes=("close",))])

For a sandbox in another process, use ``mr-celery sandbox --chaos FILE`` or ``PUT /chaos``::

    {"seed": 7, "rules": [{"fault": "hang", "routes": ["claim", "close"], "rate": 0.2, "seconds": 60}]}
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from ..errors import MrCeleryError
from .values import MalformedError

_PATHS = {
    "presence": ("PUT", re.compile("/presence")),
    "inbox": ("GET", re.compile("/my-jobs")),
    "claim": ("POST", re.compile("/jobs/[^/]+/claim")),
    "close": ("POST", re.compile("/jobs/[^/]+/close")),
    "artifact": ("POST", re.compile("/artifacts/upload")),
    "review": ("POST", re.compile("/review")),
    "job": ("GET", re.compile("/jobs/[^/]+")),
    "register": ("POST", re.compile("/api/v1/workers/register")),
}

ROUTES = ("presence", "inbox", "running", "claim", "close", "artifact", "review", "job", "register")
"""Routes of the worker protocol that faults apply to. ``running`` is the inbox with ``status=running``."""

LISTS = ("inbox", "running")

FAULTS = {
    "status": "any status, with a line of plain text",
    "html": "200 with a login page",
    "truncated": "JSON with the full Content-Length that ends in the middle",
    "wrong_types": "the correct answer with random fields of a wrong JSON type",
    "null": "null",
    "list": "an empty JSON list",
    "empty_list": "no jobs, even if there are some (inbox and running only)",
    "large": "the correct answer with a field that makes it 10 MB long",
    "drop": "the connection is closed without an answer",
    "hang": "no answer for `delay` seconds, then the connection is closed",
    "trickle": "the correct answer, one byte of the body every `delay` seconds",
    "latency": "the correct answer after `delay` seconds",
}

DELAYS = {"hang": 3600.0, "trickle": 1.0, "latency": 1.0}
"""The faults with a ``delay``, and its default in seconds."""

MAX_SECONDS = 10**9


@dataclass(frozen=True)
class Rule:
    """A kind of fault, and the requests it applies to.

    Args:
        fault: one of :data:`FAULTS`.
        routes: the affected requests, from :data:`ROUTES`; by default all.
        rate: the fraction of these requests that fail, from 0 to 1; by default all.
        seconds: duration of the rule after it was set; by default until the rules change.
        times: maximum number of faults; by default unlimited.
        status: HTTP status of the fault ``status``, from 200 to 599.
        retry_after: ``Retry-After`` header of the fault ``status``, in whole seconds; by default not sent.
        after: carry out the request before its response fails. By default the request has no effect. The faults
            ``wrong_types``, ``large`` and ``trickle`` always change the correct response, so their requests have an
            effect. ``latency`` carries out the request after the delay.
        delay: seconds for ``hang``, ``trickle`` and ``latency``; by default 3600, 1 and 1.

    Raises:
        MalformedError: a value is not allowed. The message has the field, its value and the allowed values.
    """

    fault: str
    _: KW_ONLY
    routes: tuple[str, ...] = ROUTES
    rate: float = 1.0
    seconds: float | None = None
    times: int | None = None
    status: int | None = None
    retry_after: int | None = None
    after: bool = False
    delay: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.fault, str) or self.fault not in FAULTS:
            raise _wrong("fault", self.fault, f"one of {', '.join(FAULTS)}")
        named = self.routes if isinstance(self.routes, tuple) else ()
        if not named or any(each not in ROUTES for each in named):
            raise _wrong("routes", self.routes, f"some of {', '.join(ROUTES)}")
        if self.fault == "empty_list" and not set(named) & set(LISTS):
            raise _wrong("routes", self.routes, f"some of {', '.join(LISTS)} for the fault empty_list")
        if not _is_number(self.rate, 0, 1):
            raise _wrong("rate", self.rate, "a number from 0 to 1")
        if self.seconds is not None and not (_is_number(self.seconds, 0, MAX_SECONDS) and self.seconds):
            raise _wrong("seconds", self.seconds, f"a number of seconds above 0 and up to {MAX_SECONDS}, or null")
        if self.times is not None and not (isinstance(self.times, int) and _is_number(self.times, 1, MAX_SECONDS)):
            raise _wrong("times", self.times, f"a whole number from 1 to {MAX_SECONDS}, or null")
        if not isinstance(self.after, bool):
            raise _wrong("after", self.after, "true or false")
        self._check_status()
        self._check_delay()

    def _check_status(self) -> None:
        if self.fault != "status":
            for name, value in (("status", self.status), ("retry_after", self.retry_after)):
                if value is not None:
                    raise _wrong(name, value, f"absent for the fault {self.fault}: only the fault status has it")
            return
        if not (isinstance(self.status, int) and _is_number(self.status, 200, 599)):
            raise _wrong("status", self.status, "a whole number from 200 to 599 for the fault status")
        wait = self.retry_after
        if wait is not None and not (isinstance(wait, int) and _is_number(wait, 0, MAX_SECONDS)):
            raise _wrong("retry_after", wait, f"a whole number of seconds from 0 to {MAX_SECONDS}, or null")

    def _check_delay(self) -> None:
        if self.delay is None:
            return
        if self.fault not in DELAYS:
            allowed = f"absent for the fault {self.fault}: only {', '.join(DELAYS)} have it"
            raise _wrong("delay", self.delay, allowed)
        if not _is_number(self.delay, 0, MAX_SECONDS):
            raise _wrong("delay", self.delay, f"a number of seconds from 0 to {MAX_SECONDS}, or null")

    @property
    def delay_seconds(self) -> float:
        """The given or default delay, in seconds."""
        return DELAYS.get(self.fault, 0.0) if self.delay is None else self.delay

    def applies_to(self, route: str) -> bool:
        """Whether the fault can happen to requests of this route."""
        return route in self.routes and (self.fault != "empty_list" or route in LISTS)

    def as_data(self) -> dict[str, Any]:
        """The rule as JSON data for :func:`rules_from`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in {**values, "routes": list(self.routes)}.items() if value is not None}


@dataclass
class _ActiveRule:
    """A rule that was set, with its remaining time and number of faults."""

    rule: Rule
    ends_at: float
    times_left: float

    def is_active(self, now: float) -> bool:
        return self.ends_at > now and self.times_left > 0

    def remaining(self, now: float) -> Rule:
        rule = self.rule
        return replace(
            rule,
            seconds=None if rule.seconds is None else self.ends_at - now,
            times=None if rule.times is None else int(self.times_left),
        )


class Chaos:
    """The active rules, a random generator, and counts of faults. Thread-safe.

    Args:
        seed: the seed of the random generator; by default random. The same seed, rules and requests in the same order
            give the same faults.
        clock: returns seconds, for rules with a duration.

    Attributes:
        seed: the last seed.
        replaced: the rules that the last change removed.
        stopping: set while the server stops, to end delays.
        on_change: called when rules were set and when a fault has happened.
    """

    def __init__(self, seed: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.stopping = False
        self.replaced: list[Rule] = []
        self.on_change: Callable[[], object] = lambda: None
        self._clock = clock
        self._lock = threading.Lock()
        self._rules: list[_ActiveRule] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seed(random.SystemRandom().randrange(10**6) if seed is None else seed)

    def _seed(self, seed: int) -> None:
        self.seed = seed
        self._random = random.Random(seed)  # noqa: S311 - not used for secrets

    @classmethod
    def parse(cls, data: Any) -> Chaos:
        """Create from JSON data, as described in :func:`rules_from`."""
        rules, seed = rules_from(data)
        chaos = cls(seed)
        chaos.set(rules)
        return chaos

    @classmethod
    def from_file(cls, path: str) -> Chaos:
        """Read the rules from a JSON file.

        Raises:
            MrCeleryError: the file cannot be read, or a value is not allowed.
        """
        try:
            return cls.parse(json.loads(Path(path).read_bytes()))
        except OSError as error:
            raise MrCeleryError(f"the faults in {path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise MrCeleryError(f"the faults in {path} are not JSON: {str(error)[:200]}") from error
        except MalformedError as error:
            raise MrCeleryError(f"the faults in {path} are invalid: {error}") from error

    def set(self, rules: Sequence[Rule], *, seed: int | None = None) -> None:
        """Replace all rules.

        Args:
            rules: the new rules, in order. The first one that applies to a request, given its rate, is used.
            seed: a new seed; by default the random generator continues.
        """
        with self._lock:
            now = self._clock()
            staying = [_lasting(rule) for rule in rules]
            self.replaced = [rule for rule in self._active(now) if _lasting(rule) not in staying]
            self._rules = [
                _ActiveRule(
                    rule,
                    ends_at=math.inf if rule.seconds is None else now + rule.seconds,
                    times_left=math.inf if rule.times is None else rule.times,
                )
                for rule in rules
            ]
            if seed is not None:
                self._seed(seed)
        self.on_change()

    def clear(self) -> None:
        """Remove all rules. The counts are kept, and requests that already hang or trickle are not affected."""
        self.set([])

    @property
    def rules(self) -> list[Rule]:
        """The active rules, with the remaining ``seconds`` and ``times``."""
        with self._lock:
            return self._active(self._clock())

    def _active(self, now: float) -> list[Rule]:
        return [each.remaining(now) for each in self._rules if each.is_active(now)]

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Number of faults by (route, fault)."""
        with self._lock:
            return self._counts.copy()

    def choose(self, route: str) -> tuple[Rule, random.Random] | None:
        """Choose a fault for a request. ``None`` for a normal response.

        Args:
            route: one of :data:`ROUTES`.

        Returns:
            The rule, and a random generator for details of the fault.
        """
        if not self._rules:
            return None
        with self._lock:
            now = self._clock()
            for each in self._rules:
                rule = each.rule
                if rule.applies_to(route) and each.is_active(now) and self._random.random() < rule.rate:
                    each.times_left -= 1
                    self._counts[route, rule.fault] += 1
                    self.on_change()
                    return rule, random.Random(self._random.getrandbits(64))  # noqa: S311 - not used for secrets
        return None


def route_of(method: str, path: str, query: str) -> str | None:
    """The route of a request, from :data:`ROUTES`. ``None`` for others, which have no faults."""
    for name, (route_method, route_path) in _PATHS.items():
        if method == route_method and route_path.fullmatch(path):
            running = name == "inbox" and parse_qs(query).get("status", [""])[-1] == "running"
            return "running" if running else name
    return None


def rules_from(data: Any) -> tuple[list[Rule], int | None]:
    """Parse rules and seed from JSON data.

    Args:
        data: an object with ``rules``, a list of objects with the fields of :class:`Rule`, and optionally ``seed``.

    Raises:
        MalformedError: a value is not allowed. The message has the rule, the field, its value and the allowed values.
    """
    if not isinstance(data, Mapping):
        raise _wrong("the document", data, 'an object: {"seed": 7, "rules": [{"fault": "drop", "rate": 0.1}]}')
    for name in data:
        if name not in ("seed", "rules"):
            raise MalformedError(f"unknown field {_shown(name)}: allowed are rules and seed")
    seed, listed = data.get("seed"), data.get("rules")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise _wrong("seed", seed, "a whole number, or null")
    if not isinstance(listed, list):
        raise _wrong("rules", listed, "a list of objects")
    return [_rule(number, each) for number, each in enumerate(listed, 1)], seed


def _lasting(rule: Rule) -> Rule:
    """A rule without its limits, which count down."""
    return replace(rule, seconds=None, times=None)


def _rule(number: int, data: Any) -> Rule:
    if not isinstance(data, Mapping):
        raise _wrong(f"rule {number}", data, 'an object: {"fault": "drop", "rate": 0.1}')
    names = [each.name for each in fields(Rule)]
    for name in data:
        if name not in names:
            raise MalformedError(f"rule {number}: unknown field {_shown(name)}: allowed are {', '.join(names)}")
    values = {"fault": None, **data}
    if isinstance(values.get("routes"), list):
        values["routes"] = tuple(values["routes"])
    try:
        return Rule(values.pop("fault"), **values)
    except MalformedError as error:
        raise MalformedError(f"rule {number}: {error}") from None


def _wrong(field: str, value: Any, allowed: str) -> MalformedError:
    return MalformedError(f"{field} is {_shown(value)}: it must be {allowed}")


def _shown(value: Any) -> str:
    """A value as JSON, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        text = f"a value of type {type(value).__name__} that is too large to show"
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
