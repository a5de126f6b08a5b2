"""A token that is replaced while the process runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mr_celery.errors import SettingsError, WorkerError
from mr_celery.server.token import Token, TokenFile
from mr_celery.server.transport import Transport
from mr_celery.settings import load, read_token, require
from support.mocked_http import MockedHttp

URL = "https://mr.example"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first-token\n")
    path.chmod(0o600)
    return path


def replace(file: Path, text: str) -> None:
    """Replace the file atomically, as Kubernetes and careful administrators do."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    os.replace(new, file)


def test_a_changed_file_is_read_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    token = TokenFile(str(file), read_token)
    before = token.id
    assert token.value == "first-token"
    replace(file, "second-token")
    token.look()
    assert (token.value, token.id != before) == ("second-token", True)
    assert caplog.messages == [f"the token in {file} has changed, and is used from now on"]
    assert "token" not in repr(token).replace("TokenFile", "")


@pytest.mark.parametrize("text", ["", " \n", '"quoted"', "Bearer x", "a\x00b", None])
def test_the_last_token_is_kept_while_the_file_is_unusable(
    file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    token = TokenFile(str(file), read_token)
    if text is None:
        file.unlink()
    else:
        replace(file, text)
    for _ in range(3):
        token.look()
        assert token.value == "first-token"
        token.read_again()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("; the last token is kept")
    assert '"quoted"' not in caplog.text
    replace(file, "second-token")
    token.look()
    assert token.value == "second-token"


def test_a_link_may_be_turned_to_another_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"token-{name}")
    (tmp_path / "data").symlink_to("one")
    token = TokenFile(str(tmp_path / "data" / "token"), read_token)
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "data")
    token.look()
    assert token.value == "token-two"


def test_a_refused_request_is_repeated_once_with_a_new_token(file: Path, mocked_http: MockedHttp) -> None:
    """The file's metadata is unchanged, as after two changes within one clock tick of the filesystem."""
    token = TokenFile(str(file), read_token)
    transport = Transport(URL, token, "test/1")
    mocked_http.get(URL + "/x", [{"status_code": 401}, {"json": {"ok": True}}])
    before = os.stat(file)
    file.write_text("other-token\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert transport.request("GET", "/x") == {"ok": True}
    sent = [each.headers["Authorization"] for each in mocked_http.request_history]
    assert sent == ["Bearer first-token", "Bearer other-token"]


def test_a_refused_request_is_not_repeated_with_the_same_token(file: Path, mocked_http: MockedHttp) -> None:
    transport = Transport(URL, TokenFile(str(file), read_token), "test/1")
    mocked_http.get(URL + "/x", status_code=403, text="first-token is unknown")
    with pytest.raises(WorkerError) as refused:
        transport.request("GET", "/x")
    assert len(mocked_http.request_history) == 1
    assert "first-token" not in str(refused.value)


def test_neither_the_token_nor_the_one_before_it_is_in_an_error(file: Path, mocked_http: MockedHttp) -> None:
    transport = Transport(URL, TokenFile(str(file), read_token), "test/1")
    mocked_http.get(URL + "/x", status_code=500, text="first-token second-token")
    replace(file, "second-token")
    with pytest.raises(WorkerError) as failed:
        transport.request("GET", "/x")
    assert str(failed.value).endswith("*** ***")


def test_tokens_differ_by_their_id_and_not_by_their_repr() -> None:
    assert Token("a").id != Token("b").id
    assert (repr(Token("a")), len(Token("a").id)) == ("Token(***)", 12)


def test_the_setting_is_preferred_to_the_token(file: Path) -> None:
    settings = load({}, environment={"MODELREINS_TOKEN": "other", "MODELREINS_TOKEN_FILE": str(file)})
    assert (settings.token, settings.token_of(settings.name)) == ("first-token", "first-token")
    assert str(file) == settings.token_file_of(settings.name)


def test_without_the_file_only_what_needs_the_token_fails(tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    settings = load({}, environment={"MODELREINS_TOKEN_FILE": path})
    assert settings.token == ""
    with pytest.raises(SettingsError, match=f"^the token file {path} cannot be read: No such file or directory$"):
        require(settings, "token")


def test_a_worker_name_may_have_a_file_of_its_own(file: Path) -> None:
    workers = {"image": {"token_file": str(file)}, "text": {}}
    settings = load({"modelreins_workers": workers}, environment={"MODELREINS_TOKEN": "common"})
    assert [(each.name, each.token, each.token_file) for each in settings.each()] == [
        ("image", "first-token", str(file)),
        ("text", "common", ""),
    ]


def test_a_file_that_every_user_can_read_is_a_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    for mode in (0o640, 0o600, 0o440):
        file.chmod(mode)
        TokenFile(str(file), read_token)
    assert caplog.messages == []
    file.chmod(0o644)
    for _ in range(3):
        assert TokenFile(str(file), read_token).value == "first-token"
    (line,) = caplog.messages
    assert line.startswith(f"the token file {file} can be read by every user (mode 0644): run chmod 600 {file}, or 640")


def test_a_file_that_every_user_can_write_is_refused(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    token = TokenFile(str(file), read_token)
    file.chmod(0o666)
    message = rf"the token file {file} can be changed by every user \(mode 0666\): replace the token, and run chmod 600"
    with pytest.raises(SettingsError, match=message):
        read_token(str(file))
    settings = load({}, environment={"MODELREINS_TOKEN_FILE": str(file)})
    assert settings.token == ""
    with pytest.raises(SettingsError, match=message):
        require(settings, "token")
    token.read_again()
    assert caplog.messages[-1].endswith("; the last token is kept")
    assert token.value == "first-token"


@pytest.mark.parametrize("options", [{"token_file": 7}, {"token_file": "a\nb"}, {"token_file": "a", "token_env": "B"}])
def test_wrong_files_of_worker_names_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="token_file"):
        load({"modelreins_workers": {"image": options}}, environment={})
