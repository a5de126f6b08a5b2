"""Opens a page in the user's web browser."""

from __future__ import annotations

import html
import os
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..private_files import private_folder

FILE = "login.html"
_REDIRECT = """<!DOCTYPE html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={0}">
<title>Log in</title>
<p><a href="{0}">Log in</a></p>
"""


@contextmanager
def logged_in(make_link: Callable[[Callable[[], object]], str], folder: Path) -> Iterator[None]:
    """Open a login link in the user's web browser, if there is a graphical display.

    All users of the machine can read the browser's arguments, so these only name a private file that redirects to the
    link. The file is removed when the link is used, and at the latest at the end of the block.

    Args:
        make_link: makes a link, and calls a function when it is used.
        folder: a folder of this user's for the file.

    Raises:
        NotPrivate: others can change the folder.
    """
    with private_folder(folder) as private:
        if has_display():
            with private.open(FILE, "w") as file:
                file.write(_REDIRECT.format(html.escape(make_link(lambda: _remove(private.path)))))
            if not show((private.path / FILE).as_uri()):
                _remove(private.path)
        try:
            yield
        finally:
            _remove(private.path)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(folder / FILE)


def has_display() -> bool:
    """Whether there is a graphical display. Without one, ``webbrowser`` might start a text browser in our terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show(url: str) -> bool:
    """Open a page if there is a graphical display. Returns whether it was opened; never raises."""
    if not has_display():
        return False
    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
