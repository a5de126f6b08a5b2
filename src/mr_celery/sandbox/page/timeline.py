"""The timeline of a job: its events, uploads and reviews in the order of time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_WORDS = {
    "approve": "approved",
    "reject": "rejected",
    "claim": "claimed",
    "abort": "aborted",
    "requeue": "requeued",
    "retry": "requeued",
}
"""The words for events whose names are actions. Other events are shown by their own names."""

_EVENT = re.compile(r"(?P<name>close \w+|review \d+ \w+|\w+)(: | )?(?P<note>.*)", re.DOTALL)


@dataclass(frozen=True)
class Moment:
    """An entry of the timeline.

    Attributes:
        at: the time in seconds since 1970.
        what: the event, in one or two words.
        note: details; may be empty.
        link: the address of its object; may be empty.
        size: the size of an uploaded file in bytes.
        later: seconds since the previous entry, or ``None`` for the first.
        total: seconds since the first entry.
    """

    at: float
    what: str
    note: str = ""
    link: str = ""
    size: int | None = None
    later: float | None = None
    total: float = 0.0

    @property
    def kind(self) -> str:
        """The last word of the event, which selects its colour."""
        return self.what.split()[-1]


def timeline(
    events: Sequence[Mapping[str, Any]],
    artifacts: Sequence[Mapping[str, Any]],
    reviews: Sequence[Mapping[str, Any]],
    *,
    word: Callable[[str], str],
) -> list[Moment]:
    """List everything that happened to a job, oldest first.

    Args:
        events: the job's events of the store.
        artifacts: its artifacts.
        reviews: its reviews.
        word: returns the server's word for an end of a job.
    """
    titles = {each["id"]: each["title"] for each in reviews}
    found = [
        *_of_events(events, titles, word),
        *(
            Moment(each["created_at"], "uploaded", each["filename"], _file(each), each["size_bytes"])
            for each in artifacts
        ),
        *(Moment(each["created_at"], "review filed", each["title"], _review(each["id"])) for each in reviews),
    ]
    found.sort(key=lambda each: each.at)  # stable: of one time, events come first
    before = [None, *(each.at for each in found)]
    return [
        replace(each, later=None if last is None else each.at - last, total=each.at - found[0].at)
        for each, last in zip(found, before, strict=False)
    ]


def _of_events(
    events: Sequence[Mapping[str, Any]], titles: Mapping[int, str], word: Callable[[str], str]
) -> Iterator[Moment]:
    claims = 0
    for event in events:
        match = _EVENT.fullmatch(event["event"])
        name, note = (match["name"], match["note"]) if match else (event["event"], "")
        parts = name.split()
        if name == "claim":
            claims += 1
            yield Moment(event["at"], "claimed", "" if claims == 1 else f"attempt {claims}")
        elif parts[0] == "close":
            yield Moment(event["at"], word(parts[1]))
        elif parts[0] == "review":
            number, decision = int(parts[1]), "undone" if parts[2] == "pending" else parts[2]
            about = titles.get(number, f"review {number}")
            yield Moment(event["at"], f"review {decision}", f"{about}: {note}" if note else about, _review(number))
        else:
            yield Moment(event["at"], _WORDS.get(name, name), note)


def _file(artifact: Mapping[str, Any]) -> str:
    return f"/s/{artifact['slug']}"


def _review(number: int) -> str:
    return f"#review-{number}"
