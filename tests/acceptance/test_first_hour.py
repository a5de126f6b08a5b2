"""The pages of the first hour, followed literally by a reader who starts in an empty folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.documents import FROM_NOTHING, ROOT
from support.ports import free_port
from support.reader import Reader, clean
from support.servers import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """The Redis that the pages expect on port 6379, on another port."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", FROM_NOTHING, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_from_an_empty_folder(page: Path, tmp_path: Path, redis: RedisServer) -> None:
    folder = tmp_path
    if page.parent.name == "examples":
        folder = tmp_path / "examples"  # the page describes its own folder
        shutil.copytree(page.parent, folder, ignore=shutil.ignore_patterns("__pycache__", ".mr-celery"))
    provider, hooks = str(free_port()), str(free_port())  # in place of those in the pages and in their applications
    with Sandbox() as server:
        replaced = {
            "8001": provider,
            "8002": hooks,
            "localhost:6379": f"127.0.0.1:{redis.port}",
            "https://app.modelreins.com": server.url,
            "<your worker token>": server.token,
        }
        environment = {
            **clean(),
            "MODELREINS_ADMIN_TOKEN": server.token,
            "PROVIDER_URL": f"http://127.0.0.1:{provider}",
            "HOOKS_URL": f"http://127.0.0.1:{hooks}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        reader = Reader(folder, environment, replaced)
        try:
            reader.follow(page)
        finally:
            reader.stop()
