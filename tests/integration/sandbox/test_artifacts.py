"""Artifacts over HTTP: content, responses and headers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import requests

from mr_celery.sandbox import Sandbox

DATA = bytes(range(256)) * 20_000


def upload(
    talk: Any, *, content_type: str = "image/png", name: str = "a.png", data: bytes = DATA, **fields: Any
) -> Any:
    return talk.post(
        "/artifacts/upload", files={"file": ("part", data, content_type)}, data={"filename": name, **fields}
    )


def public(sandbox: Sandbox, url: str, **headers: str) -> requests.Response:
    return requests.get(sandbox.url + url, headers=headers, timeout=30)


def test_download_needs_no_token(sandbox: Sandbox, talk: Any) -> None:
    answer = upload(talk, job_id=3, review_id=4, name="ü b.png").json()
    slug = answer["slug"]
    assert len(slug) == 40
    assert answer == {
        "success": True,
        "slug": slug,
        "url": f"/s/{slug}",
        "content_type": "image/png",
        "size_bytes": len(DATA),
        "filename": "ü b.png",
    }
    served = public(sandbox, answer["url"])
    assert served.content == DATA
    assert served.headers["Content-Type"] == "image/png"
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    assert served.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert served.headers["Content-Disposition"] == "inline; filename*=UTF-8''%C3%BC%20b.png"
    (listed,) = talk.get("/artifacts?job_id=3").json()["artifacts"]
    assert (listed["slug"], listed["url"], listed["review_id"]) == (slug, f"/s/{slug}", 4)
    assert "path" not in listed
    assert talk.get("/artifacts?job_id=9").json() == {"artifacts": []}
    assert len(talk.get("/artifacts").json()["artifacts"]) == 1


def test_filename_defaults_to_that_of_the_part(talk: Any) -> None:
    answer = talk.post("/artifacts/upload", files={"file": ("part.txt", b"", "text/plain")})
    assert (answer.json()["filename"], answer.json()["size_bytes"]) == ("part.txt", 0)


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "image/png, text/html", "junk"])
def test_active_content_is_an_attachment(sandbox: Sandbox, talk: Any, content_type: str) -> None:
    served = public(sandbox, upload(talk, content_type=content_type, data=b"x", name='a";b').json()["url"])
    assert served.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a%22%3Bb"
    assert "text/html" not in served.headers["Content-Type"] or content_type == "text/html"


def test_expired_artifact_is_gone(sandbox: Sandbox, talk: Any) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    past = upload(talk, expires_at=(now - dt.timedelta(seconds=1)).isoformat()).json()
    future = upload(talk, expires_at=(now + dt.timedelta(days=1)).isoformat()).json()
    assert public(sandbox, past["url"]).status_code == 410
    assert public(sandbox, past["url"]).json() == {"error": "this artifact has expired"}
    assert public(sandbox, future["url"]).status_code == 200


@pytest.mark.parametrize("slug", ["0" * 40, "x", "%00", "..%2f..", "é"])
def test_unknown_slug(sandbox: Sandbox, slug: str) -> None:
    answer = public(sandbox, f"/s/{slug}")
    assert answer.status_code in (401, 404)
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=1-2", 206, DATA[1:3]),
        ("bytes=99999999-", 200, DATA),
        ("bytes=" + "9" * 5000 + "-", 200, DATA),
        ("junk", 200, DATA),
    ],
)
def test_range_requests(sandbox: Sandbox, talk: Any, asked: str, status: int, content: bytes) -> None:
    served = public(sandbox, upload(talk).json()["url"], Range=asked)
    assert (served.status_code, served.content) == (status, content)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"job_id": "x"}, "job_id must be"),
        ({"job_id": "9" * 30}, "job_id must be"),
        ({"review_id": "-1"}, "review_id must be"),
        ({"expires_at": "tomorrow"}, "expires_at must be"),
        ({f"f{n}": "x" for n in range(20)}, "fields"),
    ],
)
def test_malformed_field_is_named_and_nothing_is_stored(talk: Any, fields: dict[str, Any], why: str) -> None:
    answer = upload(talk, **fields)
    assert answer.status_code == 400
    assert why in answer.json()["error"]
    assert talk.get("/artifacts").json() == {"artifacts": []}


def form(*parts: bytes) -> bytes:
    return b"".join(b"--B\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--B--\r\n"


FILE = b'name="file"; filename="x"\r\n\r\ndata'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=B", b""),
        ("multipart/form-data; boundary=B", b"nothing of a form"),
        ("multipart/form-data; boundary=B", form(b'name="file"\r\n\r\nno filename')),
        ("multipart/form-data; boundary=B", form(b'name="other"; filename="x"\r\n\r\ndata')),
        ("multipart/form-data; boundary=B", form(FILE, FILE)),
        ("multipart/form-data; boundary=B", form(b"\r\n\r\nwithout a name")),
    ],
)
def test_other_bodies_are_refused(talk: Any, content_type: str, body: bytes) -> None:
    answer = talk.post("/artifacts/upload", data=body, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("charset", ["utf-7", "idna", "punycode", "nonsense", "utf-16"])
@pytest.mark.parametrize("filename", [b"\xff\xfe", b"+2AA-", b"a\x00b", b"\xed\xa0\x80"])
def test_form_texts_never_cause_a_server_error(sandbox: Sandbox, talk: Any, charset: str, filename: bytes) -> None:
    body = form(b'name="file"; filename="x%s"\r\n\r\ndata' % filename, b'name="filename"\r\n\r\n' + filename)
    kind = f"multipart/form-data; boundary=B; charset={charset}"
    answer = talk.post("/artifacts/upload", data=body, headers={"Content-Type": kind})
    assert answer.status_code in (200, 400)
    if answer.ok:
        assert public(sandbox, answer.json()["url"]).content == b"data"
