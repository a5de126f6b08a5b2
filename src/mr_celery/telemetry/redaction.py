"""Redacts exceptions for logs, events and result backends: keeps class and stack, removes message and variables.

The message of an exception may repeat a prompt (``ValueError(f"cannot draw {prompt}")``), and the variables of its
frames contain prompts and results. This holds for exceptions of handlers and of any code that processes a job.
"""

from __future__ import annotations

import traceback

from .printing import printable
from .tracebacks import without_variables

WORDS = "redacted"
"""Replaces the message of a redacted exception."""


class Redacted(Exception):
    """A redacted exception: class name, stack and causes of the original, without its message and variables."""

    def __reduce__(self) -> tuple[object, tuple[str, str, str]]:
        return _stand_in, (type(self).__module__, type(self).__qualname__, self.args[0])


def redacted(error: BaseException, words: str = WORDS) -> Redacted:
    """Redact an exception, so that it can be logged, sent or stored.

    Args:
        error: the exception.
        words: replaces its message.
    """
    stand_ins: dict[int, Redacted] = {}
    chain, left = {}, [error]
    while left:  # not by recursion: a handler can raise a chain of any length
        each = left.pop()
        if id(each) not in chain:
            chain[id(each)] = each
            stand_ins[id(each)] = _without_words(each, words)
            left += [other for other in (each.__cause__, each.__context__) if other is not None]
    for key, each in chain.items():
        stand_in = stand_ins[key]
        if each.__cause__ is not None:
            stand_in.__cause__ = stand_ins[id(each.__cause__)]
        if each.__context__ is not None:
            stand_in.__context__ = stand_ins[id(each.__context__)]
        stand_in.__suppress_context__ = each.__suppress_context__
    return stand_ins[id(error)]


def _without_words(error: BaseException, words: str) -> Redacted:
    kind = type(error)
    # Celery wraps exceptions that cannot be pickled; the wrapper has the original class name.
    name = getattr(error, "exc_cls_name", None) or kind.__qualname__
    module = getattr(error, "exc_module", None) or kind.__module__
    stand_in = _stand_in(printable(str(module)), printable(str(name)), words)
    stand_in.__traceback__ = without_variables(error.__traceback__)
    return stand_in


def _stand_in(module: str, name: str, words: str) -> Redacted:
    kind = type(name.rpartition(".")[2], (Redacted,), {"__module__": module, "__qualname__": name})
    stand_in: Redacted = kind(words)
    return stand_in


def stack(error: BaseException) -> str:
    """Format the stack of an exception and its causes as Python prints it, without their messages."""
    return "".join(traceback.format_exception(redacted(error))).strip()
