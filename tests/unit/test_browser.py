"""The page is shown where there is a screen, and nothing fails where there is none."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable

import pytest

from mr_celery.local.browser import show


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: urls.append(url) or True)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return urls


def test_without_a_screen_nothing_is_opened(opened: list[str]) -> None:
    assert not show("http://x")
    assert opened == []


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_with_a_screen_it_is(opened: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, ":0")
    assert show("http://x")
    assert opened == ["http://x"]


@pytest.mark.parametrize("error", [webbrowser.Error("none"), OSError("no")])
def test_a_browser_that_does_not_start_is_no_failure(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(url: str) -> Callable[[], bool]:
        raise error

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", broken)
    assert not show("http://x")
