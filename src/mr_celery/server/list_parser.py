"""Incremental parser for long or damaged lists of jobs.

It yields each entry as soon as it has arrived, and skips unreadable entries. The size of an entry is limited; that of
the list is not. At most one entry and one chunk are in memory at a time.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

MOST_ENTRY = 4 * 2**20
"""Maximum length of an entry in characters. A longer one is skipped, and not kept in memory."""

MOST_WIDE_ENTRY = MOST_ENTRY // 4
"""As above, for an entry with a character beyond U+FFFF: Python then stores each character in four bytes.

An entry with a character beyond U+00FF takes two bytes for each, and may be twice as long.
"""

MOST_VALUES = 100_000
"""Maximum number of values in an entry. Parsed, each takes 60 bytes, or up to 230 if it is an object."""

VALUE_BYTES = 64
"""Estimated memory of a parsed value in bytes, beside its characters."""

MOST_NESTING = 100
"""Maximum nesting of objects and lists in an entry. Python's parser fails at about 1,000 levels, less the depth of its
callers, and the workers parse the entry again."""

CUT = "it ends in the middle"
NOT_JSON = "it is not JSON"
TOO_LONG = f"it is longer than {MOST_ENTRY // 2**20} MiB"
TOO_MANY = f"it has more than {MOST_VALUES} values"
TOO_DEEP = f"it is nested deeper than {MOST_NESTING} levels"
TOO_MANY_DIGITS = "it has an integer of too many digits"
NOT_UTF8 = "it is not UTF-8"
SECOND_LIST = "the response has more than one list of jobs"

MOST_DIRECT = 2**20
"""Length in characters up to which buffered text is parsed at once. In longer text, the values are counted first."""

_SHOWN_NAMES = 5
_WINDOW = 2**16
"""Length in characters of the part of an unreadable entry whose brackets are counted at once."""

_PATIENCE = 5000
"""Number of brackets and strings to read one by one before brackets are counted at once again."""

_LOOKAHEAD = 200
"""Maximum length in characters of a member named ``id`` or ``status``, including spaces."""

_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_SCALAR = re.compile(r'[^,\[\]{}" \t\n\r]*')
_AFTER_SCALAR = frozenset(",]} \t\n\r")
_PLAIN = re.compile(r'[^"\[\]{}]*')
_IN_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*){0,500}', re.DOTALL)  # bounded: the regex engine remembers each repeat
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BROAD = re.compile(r"[\u0100-\U0010ffff]|\\u(?!00)")
_WIDE = re.compile(r"[\U00010000-\U0010ffff]|\\u[dD][89abAB]")
_DEEPER, _HIGHER = b"[{", b"]}"
_STEPS = bytes.maketrans(_DEEPER + _HIGHER, b"\x01\x01\xff\xff")
_NO_STEPS = bytes(set(range(256)) - set(_DEEPER + _HIGHER))
_MEMBER = re.compile(r'"(id|status)"[ \t\n\r]{0,20}:[ \t\n\r]{0,20}(-?[0-9]{1,20}|"[^"\\]{0,60}")[ \t\n\r]{0,20}[,}]')


class Entry(NamedTuple):
    """One entry of the list.

    Args:
        value: the JSON value; also ``None`` if the entry is unreadable.
        size: estimated memory in bytes; of an unreadable entry, the length in characters.
        problem: the reason why it is unreadable; empty if it is not.
        members: the ``id`` and ``status`` found in an unreadable entry.
    """

    value: Any
    size: int
    problem: str = ""
    members: Mapping[str, Any] = {}


class NotAList(Exception):
    """A response that is JSON, but not of the form ``{"jobs": […]}``.

    Args:
        shape: a short description that does not repeat its contents.
    """

    def __init__(self, shape: str) -> None:
        super().__init__(shape)
        self.shape = shape


class BrokenList(ValueError):
    """A response that is not JSON, or is incomplete."""


def entries(chunks: Iterable[bytes]) -> Iterator[Entry]:
    """Yield the entries of ``{"jobs": [entry, …], …}`` in order, each as soon as it has arrived.

    The iteration ends normally only if the whole response was read.

    Args:
        chunks: the response's bytes, in UTF-8.

    Raises:
        NotAList: the response has no list of jobs.
        BrokenList: it is not JSON outside of the entries, or is incomplete.
    """
    source = _Source(chunks)
    first = source.peek()
    if first in ("", "["):
        raise NotAList("list" if first else "nothing")
    if first != "{":
        whole = _skimmed(source, alone=True)
        if whole.problem or source.peek():
            raise BrokenList(NOT_JSON)
        raise NotAList("null" if whole.value is None else type(whole.value).__name__)
    names: list[str] = []
    lists, other = 0, False
    for name in _names(source):
        if name != "jobs":
            if len(names) < _SHOWN_NAMES:
                names.append(name[:100])
            _value(source)
        elif source.peek() == "[":
            lists += 1
            if lists > 1:
                yield Entry(None, 0, SECOND_LIST)
            yield from _elements(source)
        else:
            other = True
            _value(source)
    if source.peek():
        raise BrokenList("something follows its end")
    if other or not lists:
        shown = ", ".join(sorted(map(repr, [*names, "jobs"] if other else names)))[:100]
        raise NotAList(f"an object with {shown}" if shown else "an empty object")


def members(chunks: Iterable[bytes]) -> Iterator[tuple[str, Entry]]:
    """Yield the name and the value of each member of an object, each as soon as it has arrived.

    Args:
        chunks: the object's bytes, in UTF-8.

    Raises:
        BrokenList: it is not an object, or is incomplete.
    """
    source = _Source(chunks)
    if source.peek() != "{":
        raise BrokenList(NOT_JSON)
    for name in _names(source):
        yield name, _value(source)


def _names(source: _Source) -> Iterator[str]:
    """Yield the name of each member of the object at the current position. The caller reads its value."""
    source.at += 1
    if source.peek() == "}":
        source.at += 1
        return
    while True:
        yield _name(source)
        if source.take(",}") == "}":
            return


def _name(source: _Source) -> str:
    """Read the name of the response's next member, and the colon after it."""
    if source.peek() != '"':
        raise BrokenList(NOT_JSON)
    name = _value(source).value
    source.take(":")
    source.peek()
    return name if isinstance(name, str) else ""


def _elements(source: _Source) -> Iterator[Entry]:
    source.at += 1
    if source.peek() == "]":
        source.at += 1
        return
    while True:
        source.peek()
        yield _value(source)
        if match := _COMMA.match(source.text, source.at):
            source.at = match.end()
        elif source.take(",]") == "]":
            return


class _Source:
    """The text of a response. It keeps only the unread part.

    Attributes:
        text: the text in memory.
        at: the position in it up to which it is read.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._ended = False
        # Invalid UTF-8 becomes lone surrogates, so that it invalidates only the entry that contains it.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._damaged = False
        self.text = ""
        self.at = 0

    def more(self) -> bool:
        """Append the next part of the response, and drop the text before :attr:`at`, which becomes 0.

        Returns:
            ``False`` at the end of the response.
        """
        # Each call appends as much as is in memory. Appending small chunks one by one would take quadratic time.
        held = len(self.text) - self.at
        parts: list[str] = []
        size = 0
        while not self._ended and size <= held:
            chunk = next(self._chunks, None)
            self._ended = chunk is None
            part = self._decoder.decode(chunk or b"", final=self._ended)
            self._damaged = self._damaged or not _is_utf8(part)
            parts.append(part)
            size += len(part)
        if not size:
            return False
        self.text, self.at = "".join((self.text[self.at :], *parts)), 0
        return True

    def peek(self) -> str:
        """Advance :attr:`at` to the next character that is not a space, and return it; empty at the end."""
        while True:
            self.at = _end(_SPACE, self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> str:
        """Read the next character that is not a space, which must be one of ``expected``.

        Raises:
            BrokenList: it is a different character, or the response ends.
        """
        found = self.peek()
        if not found or found not in expected:
            raise BrokenList(NOT_JSON if found else CUT)
        self.at += 1
        return found

    def is_damaged(self, start: int, end: int) -> bool:
        """Whether this part contained invalid UTF-8."""
        return self._damaged and not _is_utf8(self.text[start:end])


def _value(source: _Source) -> Entry:
    """Read the value at the current position.

    Raises:
        BrokenList: there is no value, or the response ends within it.
    """
    text, start = source.text, source.at
    if len(text) - start > MOST_DIRECT:
        return _skimmed(source)  # to count its values before they need memory
    try:
        value, end = _decode(text, start)
    except (ValueError, RecursionError):
        return _skimmed(source)
    if text[start] not in '{["' and text[end : end + 1] not in _AFTER_SCALAR:
        return _skimmed(source)  # the rest of a number may follow
    if source.is_damaged(start, end):
        return _skimmed(source, NOT_UTF8)
    if problem := _problem(value, text, start, end):
        return _skimmed(source, problem)
    if _may_have_many_values(text, start, end):
        del value
        return _skimmed(source)
    source.at = end
    return Entry(value, _memory_of(text, start, end))


def _skimmed(source: _Source, problem: str = "", *, alone: bool = False) -> Entry:
    """Read a value that is incomplete so far or unreadable, and find its end by its brackets."""
    skim = _Skim(source, alone=alone)
    size, text = skim.run()
    value: Any = None
    if text is None:
        problem = TOO_LONG
    elif skim.values > MOST_VALUES:
        problem = problem or TOO_MANY
    elif not problem and not _is_utf8(text):
        problem = NOT_UTF8
    elif not problem:
        try:
            value, end = _decode(text)
            problem = _problem(value, text, 0, end) if end == len(text) else NOT_JSON
        except json.JSONDecodeError:
            problem = NOT_JSON
        except ValueError:  # Python limits the digits of an integer
            problem = TOO_MANY_DIGITS
        except RecursionError:
            problem = TOO_DEEP
    if problem or text is None:
        return Entry(None, size, problem, skim.members)
    return Entry(value, _memory_of(text, 0, size))


class _Skim:
    """Finds the end of a value by its strings and brackets.

    Args:
        source: the text, positioned at the value.
        alone: whether the value may end with the response, as a number or a word does.
    """

    def __init__(self, source: _Source, *, alone: bool) -> None:
        self._source = source
        self._alone = alone
        self._at = source.at
        self._dropped = 0
        self._held = True
        self.members: dict[str, Any] = {}
        self.values = 0
        """Number of values, or some more."""

    def run(self) -> tuple[int, str | None]:
        """Advance to the end of the value. Returns its length, and its text unless that is too long.

        Raises:
            BrokenList: there is no value, or the response ends within it.
        """
        depth, left = 0, 100
        lowest = 2 if self._source.text.startswith("{", self._at) else 1  # the members of an object are noted
        while True:
            left -= 1
            if left < 0 and depth >= lowest:
                depth, left = self._skip_window(depth, lowest)
            self._skip(_PLAIN if depth else _SCALAR)
            character = self._source.text[self._at : self._at + 1]
            if character == '"' and (depth or self._is_at_start):
                if depth == 1:
                    self._note_member()
                self._at += 1
                self._skip_string()
            elif character and character in "[{" and (depth or self._is_at_start):
                depth += 1
                self.values += 1
                self._at += 1
            elif depth:
                depth -= 1
                self._at += 1
            if not depth:
                break
        if self._is_at_start:
            raise BrokenList(NOT_JSON)
        source, size = self._source, self._dropped + self._at - self._source.at
        text = source.text[source.at : self._at] if self._held and size <= self._most else None
        source.at = self._at
        return size, text

    def _skip_window(self, depth: int, lowest: int) -> tuple[int, int]:
        """Skip the next part of the text if its depth is nowhere below ``lowest``.

        Returns:
            The depth after it, and the number of brackets and strings to read one by one.
        """
        window = self._source.text[self._at : self._at + _WINDOW].rstrip("\\")
        plain = _STRING.sub("", window + '"')
        steps = plain.encode("ascii", "replace").translate(_STEPS, _NO_STEPS)
        opened = steps.count(1)
        closed = len(steps) - opened
        if not window or (depth - closed < lowest and _least_depth(steps, depth) < lowest):
            return depth, _PATIENCE
        self._at += len(window)
        self.values += plain.count(",") + opened
        if not plain.endswith('"'):  # the added quotation mark has closed a string that goes on
            self._skip_string()
        return depth + opened - closed, 0

    @property
    def _is_at_start(self) -> bool:
        return self._at == self._source.at and not self._dropped

    @property
    def _most(self) -> int:
        """The maximum length of the entry in characters."""
        part = (self._source.text, self._source.at, self._at)
        if _WIDE.search(*part):
            return MOST_WIDE_ENTRY
        return 2 * MOST_WIDE_ENTRY if _BROAD.search(*part) else MOST_ENTRY

    def _more(self) -> bool:
        """Read more of the response."""
        source = self._source
        if self._held and self._at - source.at > self._most:
            self._held = False
        if not self._held:
            self._dropped += self._at - source.at
            source.at = self._at
        before = source.at
        if not source.more():
            return False
        self._at -= before
        return True

    def _skip(self, pattern: re.Pattern[str]) -> None:
        while True:
            start, self._at = self._at, _end(pattern, self._source.text, self._at)
            self.values += self._source.text.count(",", start, self._at)
            if self._at < len(self._source.text):
                return
            if not self._more():
                if self._alone and pattern is _SCALAR:
                    return
                raise BrokenList(CUT)

    def _skip_string(self) -> None:
        while True:
            text = self._source.text
            self._at = _end(_IN_STRING, text, self._at)
            if text[self._at : self._at + 1] == '"':
                self._at += 1
                return
            if self._at >= len(text) - 1 and not self._more():
                raise BrokenList(CUT)

    def _note_member(self) -> None:
        """Note the entry's id or status, if it is the next member."""
        while len(self._source.text) - self._at < _LOOKAHEAD:
            if not self._more():
                break
        if match := _MEMBER.match(self._source.text, self._at):
            # A name that occurs twice is ambiguous.
            self.members[match[1]] = None if match[1] in self.members else json.loads(match[2], strict=False)


def _least_depth(steps: bytes, depth: int) -> int:
    return min(accumulate(memoryview(steps).cast("b"), initial=depth))


def _problem(value: Any, text: str, start: int, end: int) -> str:
    """The limit that a parsed value exceeds; empty if it exceeds none."""
    if end - start > MOST_ENTRY:
        return TOO_LONG
    return "" if _has_few_brackets(text, start, end) or not is_deep(value) else TOO_DEEP


def _memory_of(text: str, start: int, end: int) -> int:
    """Estimate the memory in bytes of the value that is parsed from a part of a text."""
    width = 1 if text.isascii() and text.find("\\u", start, end) < 0 else 4
    return (end - start) * width + _most_values(text, start, end) * VALUE_BYTES


def _may_have_many_values(text: str, start: int, end: int) -> bool:
    """Whether a part of a text may have more than ``MOST_VALUES`` values."""
    return end - start > MOST_VALUES and _most_values(text, start, end) > MOST_VALUES


def _most_values(text: str, start: int, end: int) -> int:
    return sum(text.count(sign, start, end) for sign in ",[{")


def _has_few_brackets(text: str, start: int, end: int) -> bool:
    """Whether a text has too few brackets to be nested too deeply, so that the value need not be checked."""
    return text.count("{", start, end) + text.count("[", start, end) <= MOST_NESTING


def is_deep(value: Any) -> bool:
    """Whether a value is nested deeper than ``MOST_NESTING`` levels."""
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(MOST_NESTING):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """The end of the match of a pattern that always matches."""
    match = pattern.match(text, at)
    return match.end() if match else at


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
