"""The forms that inject faults: presets and custom rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.datastructures import FormData

from ..chaos import ROUTES, Rule, rules_from
from ..values import MalformedError


@dataclass(frozen=True)
class Preset:
    """A predefined fault."""

    title: str
    what: str
    rule: Rule


PRESETS: Mapping[str, Preset] = {
    "outage": Preset("Outage", "503 for every request", Rule("status", status=503)),
    "gone": Preset("Unreachable", "every connection is closed without an answer", Rule("drop")),
    "silent": Preset("Silence", "no answer until the client times out", Rule("hang", delay=120.0)),
    "flaky": Preset("Flaky", "503 for one request in five", Rule("status", status=503, rate=0.2)),
    "slow": Preset("Slow", "every answer is delayed by 2\N{NO-BREAK SPACE}s", Rule("latency", delay=2.0)),
    "busy": Preset("Busy", "429 with Retry-After: 3 for half of the requests",
                   Rule("status", status=429, retry_after=3, rate=0.5)),
    "lost": Preset("Lost answers", "half of the claims and closes take effect without an answer",
                   Rule("drop", routes=("claim", "close"), rate=0.5, after=True)),
    "broken": Preset("Nonsense", "fields of the wrong type in one answer in three", Rule("wrong_types", rate=0.33)),
}  # fmt: skip


def from_preset(name: str, seconds: str) -> Rule:
    """Create the rule of a preset.

    Args:
        name: a key of :data:`PRESETS`.
        seconds: the duration as text; empty for no limit.

    Raises:
        MalformedError: the preset does not exist, or the duration is not a number.
    """
    if name not in PRESETS:
        raise MalformedError(f"unknown fault {name[:40]!r}: allowed are {', '.join(PRESETS)}")
    return replace(PRESETS[name].rule, seconds=_number("seconds", seconds))


def from_form(form: FormData) -> Rule:
    """Create a custom rule.

    Raises:
        MalformedError: a value is not allowed. The message names it.
    """
    data: dict[str, Any] = {"fault": form.get("fault"), "after": bool(form.get("after"))}
    data["routes"] = form.getlist("routes") or list(ROUTES)
    for name in ("seconds", "delay"):
        data[name] = _number(name, str(form.get(name, "")))
    for name in ("times", "status", "retry_after"):
        number = _number(name, str(form.get(name, "")))
        data[name] = int(number) if number is not None and number.is_integer() else number
    percent = _number("share", str(form.get("share", "")))
    data["rate"] = 1.0 if percent is None else percent / 100
    (rule,), _ = rules_from({"rules": [data]})
    return rule


def _number(name: str, given: str) -> float | None:
    if not given.strip():
        return None
    try:
        return float(given)
    except ValueError:
        raise MalformedError(f"{name} is {given[:40]!r}: it must be a number") from None


def title_of(rule: Rule) -> str:
    """The title of the preset that set a rule; empty for a custom rule."""
    lasting = replace(rule, seconds=None)
    return next((preset.title for preset in PRESETS.values() if preset.rule == lasting), "")


def names(rules: Sequence[Rule]) -> str:
    """Name rules: by their presets, or by their descriptions."""
    return "; ".join(title_of(rule) or description(rule) for rule in rules)


def description(rule: Rule) -> str:
    """Describe a rule in words."""
    words = [f"{rule.status}" if rule.fault == "status" else rule.fault.replace("_", " ")]
    if rule.retry_after is not None:
        words.append(f"with Retry-After: {rule.retry_after}")
    if rule.fault in ("hang", "trickle", "latency"):
        words.append(f"of {rule.delay_seconds:g} s")
    requests = "requests" if rule.routes == ROUTES else f"{', '.join(rule.routes)} requests"
    words.append(f"for all {requests}" if rule.rate == 1 else f"for {rule.rate:.0%} of {requests}")
    if rule.after:
        words.append("after they took effect")
    if rule.times is not None:
        words.append(f"({rule.times} more)")
    return " ".join(words)
