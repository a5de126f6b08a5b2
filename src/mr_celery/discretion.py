"""What may be told of an exception where everybody can read it: its class and its stack, but not its words.

The words of an exception that a handler raised may be a prompt (``ValueError(f"cannot draw {prompt}")``), and so may
those of anything that had a job in its hands.
"""

from __future__ import annotations

import traceback

WORDS = "withheld"
"""What stands in place of an exception's words."""


class Withheld(Exception):
    """Stands in for an exception: its class in name, its stack, its causes, and none of its words."""

    def __reduce__(self) -> tuple[object, tuple[str, str, str]]:
        return _stand_in, (type(self).__module__, type(self).__qualname__, self.args[0])


def withheld(error: BaseException, words: str = WORDS) -> Withheld:
    """An exception to be logged, sent or stored in place of ``error``.

    Args:
        error: the exception.
        words: what is said instead.
    """
    return _withheld(error, words, {})


def _withheld(error: BaseException, words: str, known: dict[int, Withheld]) -> Withheld:
    if id(error) in known:
        return known[id(error)]
    kind = type(error)
    # Celery wraps what cannot be pickled; the wrapper knows what it was.
    name = getattr(error, "exc_cls_name", None) or kind.__qualname__
    module = getattr(error, "exc_module", None) or kind.__module__
    stand_in = known[id(error)] = _stand_in(str(module), str(name), words)
    stand_in.__traceback__ = error.__traceback__
    if error.__cause__ is not None:
        stand_in.__cause__ = _withheld(error.__cause__, words, known)
    if error.__context__ is not None:
        stand_in.__context__ = _withheld(error.__context__, words, known)
    stand_in.__suppress_context__ = error.__suppress_context__
    return stand_in


def _stand_in(module: str, name: str, words: str) -> Withheld:
    kind = type(name.rpartition(".")[2], (Withheld,), {"__module__": module, "__qualname__": name})
    stand_in: Withheld = kind(words)
    return stand_in


def stack(error: BaseException) -> str:
    """The stack of an exception and its causes, as Python prints it, without any words."""
    return "".join(traceback.format_exception(withheld(error))).strip()
