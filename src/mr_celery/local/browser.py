"""Showing a page to whoever sits in front of this machine."""

from __future__ import annotations

import os
import sys
import webbrowser


def show(url: str) -> bool:
    """Open a page in the browser, where there is a screen. Returns whether it was; it never fails."""
    has_screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_screen:  # else it may be a text browser, in the terminal that the command writes to
        return False
    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
