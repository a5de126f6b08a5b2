"""Tracebacks without variables, for exceptions that leave this package.

Error trackers send the variables of each frame of a traceback. Those of this package's frames, and of the libraries
that it calls, contain the token, prompts, results and files. So these frames are replaced by ones with the same file,
line and function but without variables. Frames of the application are not changed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import wraps
from types import CodeType, FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = __name__.partition(".")[0]

_CALLERS = frozenset(("celery", "kombu", "billiard"))
"""Packages whose functions may stand between a call of the application's code and this code."""

_entrances: set[CodeType] = set()

_ENTRANCE = "_mr_celery_entrance"
"""The global name in a replaced frame that is true if the original one called the application."""


def calls_application(function: F) -> F:
    """Mark a function that calls code of the application: the frames below its own are the application's."""
    _entrances.add(function.__code__)
    return function


@calls_application
def call_application(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of the application."""
    return function(*args, **kwargs)


def hides_variables(function: Callable[P, T]) -> Callable[P, T]:
    """Remove this package's variables from the exceptions that a function raises. See :func:`hide_variables`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            hide_variables(error)
            if sys.version_info < (3, 11):  # there, a plain raise restores the former traceback
                del args, kwargs
                raise error  # noqa: TRY201
            raise

    return call


def hides_variables_of_coroutine(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Like :func:`hides_variables`, for an ``async def`` function."""

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            hide_variables(error)
            if sys.version_info < (3, 11):  # there, a plain raise restores the former traceback
                del args, kwargs
                raise error  # noqa: TRY201
            raise

    return call


def hide_variables(error: BaseException) -> None:
    """Remove the variables of this package, and of libraries that it called, from an exception and its causes.

    The frame that catches the exception is left out. From Python 3.11, a plain ``raise`` does not add it again.
    """
    here = sys._getframe(1)
    left: list[tuple[BaseException, bool, bool]] = [(error, True, _enters(here))]
    seen: set[int] = set()
    while left:  # not by recursion: a handler can raise a chain of any length
        each, is_ours, enters = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        try:
            found = each.__traceback__
            if found is not None and found.tb_frame is here:
                found = found.tb_next
            each.__traceback__, is_ours = _replaced(found, is_ours=is_ours, enters=enters)
            inner = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        except Exception:  # noqa: S112 - an exception's class may forbid both
            continue
        left += [(other, is_ours, False) for other in inner if isinstance(other, BaseException)]


def without_variables(traceback: TracebackType | None) -> TracebackType | None:
    """A copy of a traceback in which no frame has variables."""
    return _joined([(_frame_like(frame), line) for frame, line in _entries(traceback)])


def _replaced(traceback: TracebackType | None, *, is_ours: bool, enters: bool) -> tuple[TracebackType | None, bool]:
    """A copy of a traceback without this package's variables, and whether this package called its last frame.

    Args:
        traceback: the traceback.
        is_ours: whether its first frame was called by this package.
        enters: whether that caller is marked with :func:`calls_application`.
    """
    entries: list[tuple[FrameType, int]] = []
    for frame, line in _entries(traceback):
        root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if root == _PACKAGE:
            is_ours, enters = True, _enters(frame)
        elif enters and root not in _CALLERS:
            is_ours = enters = False
        entries.append((_frame_like(frame) if is_ours else frame, line))
    return _joined(entries), is_ours


def _entries(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _enters(frame: FrameType) -> bool:
    """Whether the frames below are the application's. This also works if an inner function has replaced the frame."""
    return frame.f_code in _entrances or frame.f_globals.get(_ENTRANCE) is True


def _joined(entries: list[tuple[FrameType, int]]) -> TracebackType | None:
    traceback = None
    for frame, line in reversed(entries):
        traceback = TracebackType(traceback, frame, -1, line)
    return traceback


def _without_columns() -> CodeType:
    """Code that returns its own frame. It has no columns, which would mark the wrong part of the original line."""
    tree = ast.parse("_getframe()", mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            node.col_offset = node.end_col_offset = -1
    return compile(tree, "<frame>", "eval")


_CODE = _without_columns()


def _frame_like(frame: FrameType) -> FrameType:
    """A frame with the module, file, function and first line of another one, and without variables."""
    code = frame.f_code
    copy = _CODE.replace(co_filename=code.co_filename, co_name=code.co_name, co_firstlineno=code.co_firstlineno)
    if sys.version_info >= (3, 11):
        copy = copy.replace(co_qualname=code.co_qualname)
    known = {name: frame.f_globals.get(name) for name in ("__name__", "__file__", "__loader__", "__spec__")}
    names = {**known, _ENTRANCE: _enters(frame), "_getframe": sys._getframe}
    like: FrameType = eval(copy, names, {})  # noqa: S307 - it is the constant above
    return like
