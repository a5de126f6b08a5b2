"""Decides whether a failed delivery is retried or given up.

While the server is unavailable, a delivery is retried without limit. A delivery that keeps failing in the same way is
given up. The evidence is the kind of failure, and the success of the worker name's other deliveries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..errors import WorkerError
from ..ledger import Tally

Kind = Literal["ours", "answer", "away", "later"]
"""The kind of a failure.

``ours``: an error in this code, or an unusable response. ``answer``: the server refused the request. ``away``: no
response, or one from a proxy or gateway. ``later``: the server asked for a pause; such failures never count.
"""

Evidence = Literal["ours", "passes", "alone", "blocked", "away", ""]
"""The evidence that a delivery, and not the server, is the cause of its failures.

``ours``: failures of the kind ``ours`` need no further evidence. ``passes``: other deliveries succeed. ``alone``: there
are no other deliveries. ``blocked``: others fail on the same route, and succeed on other routes. ``away``: the failures
are of the kind ``away``, and before each that counts, another delivery succeeded on the route. Empty: there is none,
because all deliveries fail.
"""

LATER = (408, 425, 429, 503)

AWAY = (401, 403, 502, 504, *range(520, 531))

PARTS = {"upload": "artifact", "review": "review"}
"""The kind of part that each route delivers."""

MOST_REASONS = 8


@dataclass(frozen=True)
class Bound:
    """The limit of failures: a number, over a minimum duration in seconds."""

    times: int
    seconds: float


BOUNDS: dict[Evidence, Bound] = {
    "ours": Bound(8, 120.0),
    "passes": Bound(8, 120.0),
    "alone": Bound(8, 600.0),
    "away": Bound(30, 600.0),
    "blocked": Bound(8, 3600.0),
}
"""The limits by evidence. Failures without evidence have none."""


def kind_of(error: Exception) -> Kind:
    """The kind of failure of an error."""
    if not isinstance(error, WorkerError):
        return "away" if isinstance(error, (OSError, MemoryError)) else "ours"
    if error.unsent:
        return "later"
    if error.challenge:
        return "away"
    about_content = error.route in (*PARTS, "close")
    if error.status is None:
        return "ours" if about_content and not error.retryable else "away"
    if error.status < 300:
        return "ours" if about_content else "away"
    if error.status in LATER:
        return "later"
    return "away" if error.status in AWAY else "answer"


@dataclass(frozen=True)
class Streak:
    """Consecutive failures of one kind on one route.

    Args:
        first: the tally at the first failure.
        last: the tally at the last failure.
        seen: number of failures.
        evidence: the evidence at the last failure.
        times: number of failures that count, which are those since the evidence last changed.
        since: time of the first failure that counts, by the ledger's clock.
    """

    first: Tally
    last: Tally
    seen: int = 0
    evidence: Evidence = ""
    times: int = 0
    since: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds between the first failure that counts and the last."""
        return max(0.0, self.last.now - self.since)

    @property
    def others(self) -> int:
        """Number of successes of others since the first failure: on the same route, or else of whole deliveries."""
        return max(self.last.passed - self.first.passed, 0) or max(self.last.closed - self.first.closed, 0)

    def next(self, kind: Kind, tally: Tally, *, missing: bool) -> Streak:
        """The streak with one more failure.

        Args:
            kind: the failure's kind.
            tally: the current tally of the worker name's deliveries.
            missing: whether the response was that the route does not exist. Then only successes on the same route are
                evidence.
        """
        streak = replace(self, last=tally, seen=self.seen + 1)
        if kind == "away":
            if self.seen == 0 or tally.passed <= self.last.passed:
                return streak
            evidence: Evidence = "away"
        else:
            evidence = "ours" if kind == "ours" else self._evidence(tally, missing)
        if evidence == self.evidence and self.times:
            return replace(streak, times=self.times + 1)
        return replace(streak, evidence=evidence, times=1, since=tally.now)

    def _evidence(self, tally: Tally, missing: bool) -> Evidence:
        others_failed = tally.failed - self.first.failed > self.seen
        if tally.passed > self.first.passed:
            return "passes"
        if tally.closed > self.first.closed:
            return "blocked" if others_failed or missing else "passes"
        return "" if others_failed or missing else "alone"

    def reached(self, bounds: Mapping[Evidence, Bound]) -> bool:
        """Whether the failures reached the limit."""
        bound = bounds.get(self.evidence)
        return bound is not None and self.times >= bound.times and self.seconds >= bound.seconds


@dataclass(frozen=True)
class Failures:
    """The failures of one outcome's deliveries. The count restarts once another part is delivered.

    Args:
        delivered: number of delivered parts at the last failure.
        streaks: the streaks, by kind and route.
        reasons: number of occurrences of each recent reason, for the log.
    """

    delivered: int = 0
    streaks: Mapping[str, Streak] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Failures:
        """The failures that :meth:`to_json` wrote; none if the text has another form."""
        try:
            fields = json.loads(text) if text else {}
            streaks = {name: _streak(about) for name, about in fields.get("runs", {}).items()}
            return cls(int(fields.get("delivered", 0)), streaks, dict(fields.get("reasons", {})))
        except (ValueError, TypeError, AttributeError, KeyError):
            return cls()

    def to_json(self) -> str:
        """The failures as JSON text, for the ledger."""
        fields = asdict(self)
        fields["runs"] = fields.pop("streaks")  # the name that every version reads
        return json.dumps(fields, separators=(",", ":"))

    def after(
        self, kind: Kind, route: str, tally: Tally, *, delivered: int, missing: bool = False
    ) -> tuple[Failures, Streak]:
        """The failures with one more, and the streak that it belongs to.

        Args:
            kind: the failure's kind.
            route: the failed route; empty if it was not a request.
            tally: the current tally of the worker name's deliveries.
            delivered: number of parts delivered so far.
            missing: as in :meth:`Streak.next`.
        """
        streaks = dict(self.streaks) if delivered == self.delivered else {}
        name = f"{kind} {route}"
        # If even the lookup of a job fails, the server may fail for all deliveries, although no others make lookups.
        missing = missing or route not in (*PARTS, "close")
        streak = streaks.get(name, Streak(tally, tally)).next(kind, tally, missing=missing)
        return replace(self, delivered=delivered, streaks={**streaks, name: streak}), streak

    def restarted(self) -> Failures:
        """The failures after a part was given up. The count restarts, and the tallies of other deliveries are kept."""
        streaks = {name: replace(streak, times=0) for name, streak in self.streaks.items()}
        return replace(self, streaks=streaks)

    def because(self, reason: str) -> tuple[Failures, int]:
        """The failures with the reason of the last one, and the number of its occurrences."""
        reasons = dict(self.reasons)
        times = reasons.pop(reason, 0) + 1
        kept = list(reasons.items())[-MOST_REASONS + 1 :]
        return replace(self, reasons={**dict(kept), reason: times}), times


def _streak(about: dict[str, Any]) -> Streak:
    return Streak(**{**about, "first": Tally(**about["first"]), "last": Tally(**about["last"])})
