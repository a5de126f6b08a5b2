"""The record of a running ``up``, and the commands that find it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.local.running import Record, Running, conflict, data_folder, find, relevant

RUNNING = Running("proj", "proj", 7, {"MODELREINS_URL": "http://127.0.0.1:8765", "MODELREINS_TOKEN": "secret"})


@contextmanager
def held(path: Path) -> Iterator[Record]:
    with data_folder(path) as folder, Record(folder).held() as record:
        yield record


def test_it_is_found_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "data"
    assert find(path) is None
    with held(path) as record:
        assert find(path) is None, "nothing is written yet"
        record.write(RUNNING)
        assert find(path) == RUNNING
    assert find(path) is None


def test_a_file_left_behind_is_not_found(tmp_path: Path) -> None:
    with data_folder(tmp_path / "data") as folder:
        Record(folder).write(RUNNING)
    assert (tmp_path / "data" / "up.json").exists()
    assert find(tmp_path / "data") is None
    with held(tmp_path / "data"):
        assert (tmp_path / "data" / "up.json").read_text() == ""


def test_a_folder_has_one_process(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(MrCeleryError, match="another `mr-celery up` is using"):
        held(tmp_path).__enter__()


def test_only_its_user_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with held(path) as record:
        record.write(RUNNING)
        assert (path / "up.json").stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0
    assert (path / ".gitignore").read_text() == "*\n"
    (path / ".gitignore").write_text("*\n!kept\n")
    with data_folder(path):
        assert "kept" in (path / ".gitignore").read_text()


@pytest.mark.parametrize("name", ["up.json", ".gitignore"])
def test_a_link_in_the_folder_changes_no_other_file(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).symlink_to(victim)
    with suppress(MrCeleryError), held(tmp_path / "data") as record:
        record.write(RUNNING)
    assert victim.read_text() == "precious"


def test_a_folder_of_others_is_refused_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    with pytest.raises(MrCeleryError, match=r"other users can change \S+/data \(mode 0777\)"):
        data_folder(tmp_path / "data").__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(MrCeleryError, match=r"^the data folder \S+/file/data cannot be used: Not a directory$"):
        data_folder(tmp_path / "file" / "data").__enter__()


@pytest.mark.parametrize("change", ["folder", "file", "link"])
def test_what_others_could_have_written_is_not_found(tmp_path: Path, change: str) -> None:
    """Otherwise another user could connect this user's commands to a server of their own."""
    path = tmp_path / "data"
    with held(path) as record:
        record.write(RUNNING)
        if change == "folder":
            path.chmod(0o777)
        elif change == "file":
            (path / "up.json").chmod(0o666)
        else:
            (path / "up.json").rename(tmp_path / "other")
            (path / "up.json").symlink_to(tmp_path / "other")
        assert find(path) is None


def test_what_belongs_to_another_terminal_is_left_out() -> None:
    environment = {
        "HOME": "/root",
        "MODELREINS_NAME": "w",
        "MODELREINS_ADMIN_TOKEN": "a",
        "MODELREINS_HTTP": "9464",
        "MODELREINS_HTTP_TOKEN": "of the page for operators",
        "CELERY_BROKER_URL": "redis://x",
        "IMAGE_TOKEN": "t",
    }
    assert set(relevant(environment, {"IMAGE_TOKEN"})) == {"MODELREINS_NAME", "CELERY_BROKER_URL", "IMAGE_TOKEN"}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ""),
        ({"MODELREINS_URL": "http://127.0.0.1:8765"}, ""),
        ({"MODELREINS_NAME": "other"}, ""),
        ({"MODELREINS_URL": "https://app.modelreins.com"}, "MODELREINS_URL"),
        ({"MODELREINS_TOKEN": "other"}, "MODELREINS_TOKEN"),
        ({"CELERY_BROKER_URL": "redis://localhost"}, "CELERY_BROKER_URL"),
    ],
)
def test_another_connection_is_a_conflict(given: dict[str, str], found: str) -> None:
    assert conflict(RUNNING, given) == found


def test_a_token_is_not_in_its_repr() -> None:
    assert "secret" not in repr(RUNNING)
