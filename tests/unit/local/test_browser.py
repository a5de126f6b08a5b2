"""Opening a page in the user's browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.local.browser import logged_in, show
from mr_celery.sandbox.page import Logins


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: urls.append(url) or True)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return urls


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")


def test_without_a_display_nothing_is_opened(opened: list[str], tmp_path: Path) -> None:
    assert not show("http://x")
    with logged_in(Links(), tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert opened == []


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_with_a_display_the_page_is_opened(opened: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, ":0")
    assert show("http://x")
    assert opened == ["http://x"]


def broken(error: Exception) -> Callable[[str], bool]:
    def opening(url: str) -> bool:
        raise error

    return opening


@pytest.mark.parametrize("error", [webbrowser.Error("none"), OSError("no")])
def test_browser_errors_are_ignored(
    opened: list[str], display: None, monkeypatch: pytest.MonkeyPatch, error: Exception, tmp_path: Path
) -> None:
    monkeypatch.setattr(webbrowser, "open", broken(error))
    assert not show("http://x")
    with logged_in(Links(), tmp_path):
        assert list(tmp_path.iterdir()) == []


class Links:
    """Creates one login link."""

    def __init__(self) -> None:
        self.logins = Logins()

    def __call__(self, when_used: Callable[[], object]) -> str:
        return self.logins.link("http://127.0.0.1:1", when_used)


def test_the_browser_is_given_a_private_file_and_not_the_link(opened: list[str], display: None, tmp_path: Path) -> None:
    links = Links()
    with logged_in(links, tmp_path):
        (path,) = tmp_path.iterdir()
        assert opened == [path.as_uri()]
        assert path.stat().st_mode & 0o777 == 0o600
        (key,) = links.logins._keys
        assert f'content="0;url=http://127.0.0.1:1/login?key={key}"' in path.read_text()
        assert key not in str(opened)
        assert links.logins.use_key(key)
        assert list(tmp_path.iterdir()) == [], "removed when it was used"
        assert not links.logins.use_key(key)


def test_a_link_that_was_not_used_is_removed_at_the_end(opened: list[str], display: None, tmp_path: Path) -> None:
    with logged_in(Links(), tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_written_where_others_could_read_it(opened: list[str], display: None, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(MrCeleryError, match="other users can change"):
        logged_in(Links(), tmp_path).__enter__()
    tmp_path.chmod(0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "login.html").symlink_to(victim)
    with pytest.raises(MrCeleryError, match="symlink"):
        logged_in(Links(), tmp_path).__enter__()
    assert (victim.read_text(), opened) == ("precious", [])
