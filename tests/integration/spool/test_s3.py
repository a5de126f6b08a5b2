"""A spool in S3, on a real server: complete files only, from any thread and process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pytest

from mr_celery.errors import JobAborted
from mr_celery.settings import Settings
from mr_celery.spool import Spool, SpoolFull, SpoolName, SpoolUnavailable, spool_of
from support.ports import listens, until
from support.s3 import KEYS, S3Server

MIB = 2**20
NAME = SpoolName("mr-7-1-ab", "cd", 0)
URL = "s3://bucket/spool"

WRITER = """
import os, sys, time
from mr_celery.settings import load
from mr_celery.spool import SpoolName, spool_of

class Source:
    left = 3

    def read(self, size):
        self.left -= 1
        if self.left < 0:
            print("written", flush=True)
            time.sleep(600)
        return bytes(9 * 2**20)

settings = load()
spool_of(settings, "w").put(SpoolName("mr-7-1-ab", "cd", 0), Source(), 1)
"""


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()
    assert server.process.returncode is not None
    assert not listens(server.port)


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A running, empty S3 server that fsspec is configured for."""
    running.clear()
    reach(running.url, monkeypatch)
    return running


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure fsspec for the server. It reads the environment only once, so its configuration is set as well."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})


@pytest.fixture
def spool(server: S3Server) -> Spool:
    return of("w")


def of(worker: str, limit: int = 2**30) -> Spool:
    made = spool_of(Settings(spool_url=URL, spool_limit=limit), worker)
    assert made is not None
    return made


def put(spool: Spool, data: bytes, name: SpoolName = NAME) -> None:
    spool.put(name, io.BytesIO(data), len(data))


def read(spool: Spool, name: SpoolName = NAME) -> bytes:
    with spool.open(name) as file:
        return file.read()


@pytest.mark.parametrize("size", [0, 1, MIB + 1, 8 * MIB, 20 * MIB + 1])
def test_put_open_and_remove(spool: Spool, size: int) -> None:
    data = os.urandom(size)
    put(spool, data)
    assert read(spool) == data
    assert [(entry.name, entry.file, entry.size) for entry in spool.entries()] == [(NAME, str(NAME), size)]
    spool.remove(str(NAME))
    spool.remove(str(NAME))
    assert spool.entries() == []


def test_written_at_is_the_servers_time(spool: Spool, server: S3Server) -> None:
    put(spool, b"abc")
    (item,) = server.client().list_objects_v2(Bucket="bucket")["Contents"]
    assert spool.entries()[0].written_at == item["LastModified"].timestamp()


def test_stored_file_is_seekable(spool: Spool) -> None:
    data = os.urandom(10 * MIB)
    put(spool, data)
    with spool.open(NAME) as file:
        assert file.seek(0, io.SEEK_END) == 10 * MIB
        assert file.seek(9 * MIB) == 9 * MIB
        assert file.read(10) == data[9 * MIB : 9 * MIB + 10]


def test_second_put_replaces_the_content(spool: Spool) -> None:
    put(spool, b"first")
    put(spool, b"second")
    assert read(spool) == b"second"


def test_open_missing_file(spool: Spool) -> None:
    with pytest.raises(FileNotFoundError):
        read(spool)


def test_put_beyond_the_limit_is_refused(server: S3Server) -> None:
    spool = of("w", limit=3 * MIB)
    put(spool, bytes(2 * MIB))
    with pytest.raises(SpoolFull, match=f"the spool {URL} holds 2.0 MiB of 3.0 MiB; another 2.0 MiB do not fit"):
        put(spool, bytes(2 * MIB), SpoolName("mr-8-1-ab", "cd", 0))


def test_worker_names_have_separate_files(spool: Spool) -> None:
    put(spool, b"abc")
    assert of("other").entries() == []


@pytest.mark.parametrize("error", [JobAborted("aborted"), OSError("the source broke")], ids=repr)
def test_interrupted_put_leaves_no_file(spool: Spool, server: S3Server, error: Exception) -> None:
    class Source(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 18 * MIB:
                raise error
            return super().read(size)

    with pytest.raises(JobAborted if isinstance(error, JobAborted) else SpoolUnavailable):
        spool.put(NAME, Source(bytes(20 * MIB)), 20 * MIB)
    assert (server.objects(), server.unfinished()) == ([], [])


def test_killed_writer_leaves_no_file(spool: Spool, server: S3Server) -> None:
    environment = {**os.environ, **server.environment, "MODELREINS_SPOOL_URL": URL}
    writer = subprocess.Popen([sys.executable, "-c", WRITER], env=environment, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer.stdout:
        assert writer.stdout.readline() == "written\n"
        assert len(server.unfinished()) == 1
        writer.kill()
    writer.wait()
    assert spool.entries() == []
    put(spool, b"whole")
    assert read(spool) == b"whole"


def test_spool_works_after_a_fork(spool: Spool) -> None:
    put(spool, b"of the parent")
    if (child := os.fork()) == 0:
        try:
            put(spool, read(spool) + b" and the child", SpoolName("mr-8-1-ab", "cd", 0))
        finally:
            os._exit(0)
    try:
        until(lambda: os.waitpid(child, os.WNOHANG)[0] == child, seconds=60, what="the child ends")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        raise
    assert read(spool, SpoolName("mr-8-1-ab", "cd", 0)) == b"of the parent and the child"


def test_changes_by_others_are_seen(spool: Spool) -> None:
    assert spool.entries() == []
    put(of("w"), b"abc")
    assert len(spool.entries()) == 1
    of("w").remove(str(NAME))
    with pytest.raises(FileNotFoundError):
        read(spool)


def test_concurrent_threads(spool: Spool) -> None:
    contents = {SpoolName("mr-7-1-ab", "cd", index): os.urandom(9 * MIB) for index in range(4)}

    def round_trip(name: SpoolName) -> bytes:
        put(spool, contents[name], name)
        return read(spool, name)

    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(contents, pool.map(round_trip, contents), strict=True))
    assert found == contents


def test_interrupted_put_does_not_affect_another_thread(spool: Spool, server: S3Server) -> None:
    other = SpoolName("mr-8-1-ab", "cd", 0)

    class Source(io.BytesIO):
        """A file that is interrupted halfway, after another thread has written one."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 9 * MIB:
                pool.submit(put, spool, b"other", other).result()
                raise JobAborted("aborted")
            return super().read(size)

    with ThreadPoolExecutor(1) as pool, pytest.raises(JobAborted):
        spool.put(NAME, Source(bytes(20 * MIB)), 20 * MIB)
    assert [entry.name for entry in spool.entries()] == [other]
    assert server.unfinished() == []


@pytest.mark.parametrize("step", ["put", "open", "remove", "entries"])
def test_unreachable_server_is_unavailable(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    reach("http://127.0.0.1:9", monkeypatch)
    steps: dict[str, Any] = {
        "put": lambda: put(of("w"), b"abc"),
        "open": lambda: read(of("w")),
        "remove": lambda: of("w").remove(str(NAME)),
        "entries": lambda: of("w").entries(),
    }
    with pytest.raises(SpoolUnavailable, match=rf"^the spool {URL} cannot be used: Could not connect"):
        steps[step]()
