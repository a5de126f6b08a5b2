"""Strict checks that make mistakes of clients and operators visible."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from mr_celery.errors import MrCeleryError
from mr_celery.sandbox import Sandbox, create_app
from mr_celery.sandbox.store import Store

PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: image/png\r\n\r\nbytes\r\n'


def text(name: str, value: str) -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def send(sandbox: Sandbox, method: str, path: str, *, token: str | None = None, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token or sandbox.token}", **options.pop("headers", {})}
    return requests.request(method, f"{sandbox.url}{path}", headers=headers, timeout=10, **options)


def test_claimed_by_is_cleared_by_requeue(sandbox: Sandbox) -> None:
    job_id = sandbox.dispatch("p", worker="w")["id"]
    assert sandbox.store.job(job_id)["claimed_by"] is None
    send(sandbox, "POST", f"/jobs/{job_id}/claim", json={"worker": "w"})
    assert sandbox.store.job(job_id)["claimed_by"] == "w"
    send(sandbox, "POST", f"/jobs/{job_id}/requeue")
    assert sandbox.store.job(job_id)["claimed_by"] is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (PART + b"--B\r\n", "ends before its closing boundary"),
        (PART + text("job_id", "1") + text("filename", "a.png")[:-4], "ends before its closing boundary"),
        (PART + text("job_id", "1") + text("job_id", "2") + b"--B--\r\n", "job_id twice"),
        (PART + text("jobid", "1") + b"--B--\r\n", "unknown field 'jobid'"),
    ],
)
def test_incomplete_form_is_refused(sandbox: Sandbox, body: bytes, says: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = send(sandbox, "POST", "/artifacts/upload", data=body, headers=headers)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert sandbox.store.artifacts() == []


@pytest.mark.parametrize(("method", "path"), [("POST", "/s/x"), ("DELETE", "/health"), ("PUT", "/s/" + "0" * 40)])
def test_public_routes_are_read_only(sandbox: Sandbox, method: str, path: str) -> None:
    assert send(sandbox, method, path, token="wrong").status_code == 401
    assert send(sandbox, method, path).status_code == 405


def test_registration_needs_the_admin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr_celery.sandbox.server.create_app", partial(create_app, admin_token="admin"))
    with Sandbox() as sandbox:

        def register(token: str) -> int:
            return send(sandbox, "POST", "/api/v1/workers/register", token=token, json={"name": "w"}).status_code

        assert [register(token) for token in ("admin", sandbox.token, "other")] == [200, 403, 401]
        assert send(sandbox, "GET", "/jobs", token="admin").status_code == 200


def test_file_with_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "old.db")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, prompt TEXT)")
    connection.close()
    with pytest.raises(MrCeleryError, match=r"old\.db.*another schema version"):
        Store(path)
