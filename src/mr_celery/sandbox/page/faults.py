"""The form that switches faults on: outages that are a click away, and rules of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.datastructures import FormData

from ..chaos import ROUTES, Rule, rules_from
from ..values import MalformedError


@dataclass(frozen=True)
class Preset:
    """A fault that is a click away."""

    title: str
    what: str
    rule: Rule


PRESETS: Mapping[str, Preset] = {
    "outage": Preset("Outage", "503 to every request", Rule("status", status=503)),
    "gone": Preset("Unreachable", "every connection is closed without an answer", Rule("drop")),
    "silent": Preset("Silence", "no answer, until the client gives up", Rule("hang", delay=120.0)),
    "flaky": Preset("Flaky", "503 to one request in five", Rule("status", status=503, rate=0.2)),
    "slow": Preset("Slow", "every answer 2 s late", Rule("latency", delay=2.0)),
    "busy": Preset("Busy", "429 to half of the requests, with Retry-After: 3",
                   Rule("status", status=429, retry_after=3, rate=0.5)),
    "lost": Preset("Lost answers", "half of the claims and closes have their effect, and no answer",
                   Rule("drop", routes=("claim", "close"), rate=0.5, after=True)),
    "broken": Preset("Nonsense", "fields of the wrong type in one answer of three", Rule("wrong_types", rate=0.33)),
}  # fmt: skip


def from_preset(name: str, seconds: str) -> Rule:
    """The rule of a preset.

    Raises:
        MalformedError: there is no such preset, or the time is wrong.
    """
    if name not in PRESETS:
        raise MalformedError(f"there is no fault {name[:40]!r}: there are {', '.join(PRESETS)}")
    return replace(PRESETS[name].rule, seconds=_number("seconds", seconds))


def from_form(form: FormData) -> Rule:
    """A rule of one's own.

    Raises:
        MalformedError: something is not allowed; the message names it.
    """
    said: dict[str, Any] = {"fault": form.get("fault"), "after": bool(form.get("after"))}
    said["routes"] = form.getlist("routes") or list(ROUTES)
    for name in ("seconds", "delay"):
        said[name] = _number(name, str(form.get(name, "")))
    for name in ("times", "status", "retry_after"):
        number = _number(name, str(form.get(name, "")))
        said[name] = int(number) if number is not None and number.is_integer() else number
    percent = _number("share", str(form.get("share", "")))
    said["rate"] = 1.0 if percent is None else percent / 100
    (rule,), _ = rules_from({"rules": [said]})
    return rule


def _number(name: str, given: str) -> float | None:
    if not given.strip():
        return None
    try:
        return float(given)
    except ValueError:
        raise MalformedError(f"{name} is {given[:40]!r}: it must be a number") from None


def told(rule: Rule) -> str:
    """A rule in words."""
    words = [f"{rule.status}" if rule.fault == "status" else rule.fault.replace("_", " ")]
    if rule.retry_after is not None:
        words.append(f"with Retry-After: {rule.retry_after}")
    if rule.fault in ("hang", "trickle", "latency"):
        words.append(f"of {rule.delay_seconds:g} s")
    words.append("to every request" if rule.rate == 1 else f"to {rule.rate:.0%} of the requests")
    if rule.routes != ROUTES:
        words.append(f"for {', '.join(rule.routes)}")
    if rule.after:
        words.append("after they had their effect")
    if rule.times is not None:
        words.append(f"{rule.times} times more")
    return " ".join(words)
