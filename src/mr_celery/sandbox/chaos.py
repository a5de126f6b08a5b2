"""Faults on request: which answers of the sandbox are to be spoilt, how, how often and for how long.

Off unless rules are set. With them a user rehearses what an outage of the server does to an installation::

    sandbox.chaos.set([Rule("status", status=503, rate=0.1, routes=("close",))])

or, for a sandbox in a process of its own, with ``mr-celery sandbox --chaos FILE`` or ``PUT /chaos``::

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
"""What can be spoilt: the worker protocol. ``running`` is the inbox asked for ``status=running``."""

LISTS = ("inbox", "running")

FAULTS = {
    "status": "any status, with a line of plain text",
    "html": "200 with a login page",
    "truncated": "a JSON answer that announces its full length and breaks off in the middle",
    "wrong_types": "fields of the answer, at random, with a value of another JSON type",
    "null": "null",
    "list": "an empty JSON list",
    "empty_list": "no jobs, whatever there is (inbox and running only)",
    "large": "the right answer, with a field that makes it 10 MB long",
    "drop": "the connection is closed without an answer",
    "hang": "no answer for `delay` seconds, then the connection is closed",
    "trickle": "the right answer, one byte of the body every `delay` seconds",
    "latency": "the right answer, `delay` seconds late",
}

DELAYS = {"hang": 3600.0, "trickle": 1.0, "latency": 1.0}
"""The faults that take a ``delay``, and its default in seconds."""

MAX_SECONDS = 10**9


@dataclass(frozen=True)
class Rule:
    """One kind of fault, and when it happens.

    Args:
        fault: one of :data:`FAULTS`.
        routes: the requests it may happen to, of :data:`ROUTES`; default: all.
        rate: the share of these requests, 0 to 1; default: all.
        seconds: how long the rule holds after it was set; default: until the rules change.
        times: how often it happens; default: without end.
        status: for ``status``: the HTTP status, 200 to 599.
        retry_after: for ``status``: whole seconds, sent as ``Retry-After``; default: not sent.
        after: the request has its effect first, and only the answer is spoilt. Without it the request has no
            effect, but for ``wrong_types``, ``large`` and ``trickle``, which spoil the right answer and so always
            come after the effect, and ``latency``, whose effect comes after the delay.
        delay: for ``hang``, ``trickle``, ``latency``: seconds; default: 3600, 1, 1.

    Raises:
        MalformedError: a value is not allowed; the message names it and what is.
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
        """The delay, given or by default."""
        return DELAYS.get(self.fault, 0.0) if self.delay is None else self.delay

    def concerns(self, route: str) -> bool:
        """Whether it may happen to a request of this route."""
        return route in self.routes and (self.fault != "empty_list" or route in LISTS)

    def as_data(self) -> dict[str, Any]:
        """What :func:`rules_from` reads as this rule."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in {**said, "routes": list(self.routes)}.items() if value is not None}


@dataclass
class _InForce:
    """A rule that was set, and what is left of it."""

    rule: Rule
    ends_at: float
    times_left: float

    def holds(self, now: float) -> bool:
        return self.ends_at > now and self.times_left > 0

    def as_it_stands(self, now: float) -> Rule:
        rule = self.rule
        return replace(
            rule,
            seconds=None if rule.seconds is None else self.ends_at - now,
            times=None if rule.times is None else int(self.times_left),
        )


class Chaos:
    """The rules in force, the dice, and what they have done. Every method may be called from any thread.

    Args:
        seed: for the dice; default: a new one. The same seed, rules and requests in the same order have the
            same faults.
        clock: seconds, for the rules that end.

    Attributes:
        seed: what the dice were seeded with last.
        stopping: set while the server stops: what hangs lets go.
        on_change: called when the rules were set, and when a fault has happened.
    """

    def __init__(self, seed: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.stopping = False
        self.on_change: Callable[[], object] = lambda: None
        self._clock = clock
        self._lock = threading.Lock()
        self._rules: list[_InForce] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seed(random.SystemRandom().randrange(10**6) if seed is None else seed)

    def _seed(self, seed: int) -> None:
        self.seed = seed
        self._random = random.Random(seed)  # noqa: S311 - dice, no secrets

    @classmethod
    def parse(cls, data: Any) -> Chaos:
        """What JSON data say, as :func:`rules_from` reads them."""
        rules, seed = rules_from(data)
        chaos = cls(seed)
        chaos.set(rules)
        return chaos

    @classmethod
    def from_file(cls, path: str) -> Chaos:
        """What a JSON file says.

        Raises:
            MrCeleryError: it cannot be read, or says something that is not allowed.
        """
        try:
            return cls.parse(json.loads(Path(path).read_bytes()))
        except OSError as error:
            raise MrCeleryError(f"the faults in {path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise MrCeleryError(f"the faults in {path} are not JSON: {str(error)[:200]}") from error
        except MalformedError as error:
            raise MrCeleryError(f"the faults in {path} are wrong: {error}") from error

    def set(self, rules: Sequence[Rule], *, seed: int | None = None) -> None:
        """Replace all rules.

        Args:
            rules: the new ones. Of those that concern a request, the first whose dice say yes happens.
            seed: throw the dice anew from this seed; default: go on.
        """
        with self._lock:
            now = self._clock()
            self._rules = [
                _InForce(
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
        """No faults from now on. The counts stay; a request that hangs or trickles goes on to do so."""
        self.set([])

    @property
    def rules(self) -> list[Rule]:
        """Those that hold now, with the ``seconds`` and ``times`` that are left of them."""
        with self._lock:
            now = self._clock()
            return [each.as_it_stands(now) for each in self._rules if each.holds(now)]

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """How often each (route, fault) has happened."""
        with self._lock:
            return self._counts.copy()

    def choose(self, route: str) -> tuple[Rule, random.Random] | None:
        """What happens to a request: a rule, with dice for what it leaves open; ``None``: the request is answered.

        Args:
            route: one of :data:`ROUTES`.
        """
        if not self._rules:
            return None
        with self._lock:
            now = self._clock()
            for each in self._rules:
                rule = each.rule
                if rule.concerns(route) and each.holds(now) and self._random.random() < rule.rate:
                    each.times_left -= 1
                    self._counts[route, rule.fault] += 1
                    self.on_change()
                    return rule, random.Random(self._random.getrandbits(64))  # noqa: S311 - dice, no secrets
        return None


def route_of(method: str, path: str, query: str) -> str | None:
    """Which of :data:`ROUTES` a request is; ``None``: another one, which is never spoilt."""
    for name, (its_method, its_path) in _PATHS.items():
        if method == its_method and its_path.fullmatch(path):
            running = name == "inbox" and parse_qs(query).get("status", [""])[-1] == "running"
            return "running" if running else name
    return None


def rules_from(data: Any) -> tuple[list[Rule], int | None]:
    """The rules and the seed that JSON data say.

    Args:
        data: an object with ``rules``, a list of objects with the fields of :class:`Rule`, and maybe a ``seed``.

    Raises:
        MalformedError: something is not allowed; the message names the rule, the field, its value and what is.
    """
    if not isinstance(data, Mapping):
        raise _wrong("the whole", data, 'an object: {"seed": 7, "rules": [{"fault": "drop", "rate": 0.1}]}')
    for name in data:
        if name not in ("seed", "rules"):
            raise MalformedError(f"there is no field {_shown(name)}: beside the rules there may be a seed")
    seed, listed = data.get("seed"), data.get("rules")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise _wrong("seed", seed, "a whole number, or null")
    if not isinstance(listed, list):
        raise _wrong("rules", listed, "a list of objects")
    return [_rule(number, each) for number, each in enumerate(listed, 1)], seed


def _rule(number: int, data: Any) -> Rule:
    if not isinstance(data, Mapping):
        raise _wrong(f"rule {number}", data, 'an object: {"fault": "drop", "rate": 0.1}')
    names = [each.name for each in fields(Rule)]
    for name in data:
        if name not in names:
            raise MalformedError(f"rule {number}: there is no field {_shown(name)}: it may have {', '.join(names)}")
    said = {"fault": None, **data}
    if isinstance(said.get("routes"), list):
        said["routes"] = tuple(said["routes"])
    try:
        return Rule(said.pop("fault"), **said)
    except MalformedError as error:
        raise MalformedError(f"rule {number}: {error}") from None


def _wrong(field: str, value: Any, allowed: str) -> MalformedError:
    return MalformedError(f"{field} is {_shown(value)}: it must be {allowed}")


def _shown(value: Any) -> str:
    """A value as JSON says it, cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or a list without end
        text = f"a value of the type {type(value).__name__} beyond all bounds"
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
