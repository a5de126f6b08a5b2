"""The variables that error trackers and diagnostic tools read from an exception."""

from __future__ import annotations

import json
import sys
import traceback

from sentry_sdk.client import _get_options
from sentry_sdk.utils import event_from_exception


def variables_of(error: BaseException, *, besides: str = "") -> str:
    """All that Sentry sends about an exception, and what ``traceback`` prints about it with ``capture_locals``.

    Args:
        error: the exception.
        besides: a file whose frames are left out, such as that of the test.
    """
    event, _ = event_from_exception(error, client_options=_get_options("http://key@127.0.0.1:9/1"))
    for value in event["exception"]["values"]:
        for frame in value.get("stacktrace", {}).get("frames", []):
            if frame["abs_path"] == besides:
                frame.pop("vars")
    return json.dumps(event, default=repr) + "".join(_locals(error, besides, set()))


def _locals(error: BaseException | None, besides: str, seen: set[int]) -> list[str]:
    if error is None or id(error) in seen:
        return []
    seen.add(id(error))
    shown = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True)
    own = [f"{frame.name} {frame.locals}\n" for frame in shown.stack if frame.filename != besides]
    inner = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    return [repr(error.args), *own, *(text for each in inner for text in _locals(each, besides, seen))]


def frames_of(error: BaseException) -> list[tuple[str, str]]:
    """The module and the function of each frame of an exception."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [(str(frame.f_globals.get("__name__")), frame.f_code.co_name) for frame in frames]


def caught() -> BaseException:
    """The exception that is being handled."""
    error = sys.exc_info()[1]
    assert error is not None
    return error
