from __future__ import annotations

import io
import json
import logging
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import requests_mock

from mr_celery.client import Api, Listing
from mr_celery.client import api as api_module
from mr_celery.client.api import STATUSES
from mr_celery.client.parts import Measured
from mr_celery.errors import WorkerError

TOKEN = "mr-secret-token-1234"
BASE = "https://mr.example"


@pytest.fixture
def api() -> Api:
    return Api(BASE, TOKEN, "render-1", timeout=5.0)


def last(mock: requests_mock.Mocker) -> Any:
    assert mock.last_request is not None
    return mock.last_request


def parts(body: bytes, content_type: str) -> list[tuple[str, str | None, bytes]]:
    """Header lines, content type and bytes of each part, in order."""
    boundary = content_type.partition("boundary=")[2].encode()
    found = []
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = message_from_bytes(head)
        disposition = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition"))
        found.append((disposition.decode(), headers["Content-Type"], content.removesuffix(b"\r\n")))
    assert body.endswith(b"--" + boundary + b"--\r\n")
    return found


class Uploads:
    """What arrives at the upload's address."""

    def __init__(self, mock: requests_mock.Mocker) -> None:
        self.bodies: list[bytes] = []
        self._mock = mock
        mock.post(f"{BASE}/artifacts/upload", json=self._take)

    def _take(self, request: Any, context: Any) -> Any:
        body = request.body
        self.bodies.append(body if isinstance(body, bytes) else body.read())
        assert int(request.headers["Content-Length"]) == len(self.bodies[-1])
        assert "Transfer-Encoding" not in request.headers
        return {"slug": "s1", "url": "/s/s1"}

    @property
    def parts(self) -> list[tuple[str, str | None, bytes]]:
        return parts(self.bodies[-1], last(self._mock).headers["Content-Type"])


@pytest.fixture
def uploads(requests_mock: requests_mock.Mocker) -> Uploads:
    return Uploads(requests_mock)


def test_attributes_and_repr() -> None:
    api = Api(f"{BASE}/base/", TOKEN, "render-1")
    assert (api.url, api.name) == (f"{BASE}/base", "render-1")
    assert repr(api) == "Api('https://mr.example/base', name='render-1')"


@pytest.mark.parametrize("name", ["render-1", "größe €", "a\r\nX: y", "\ud800", "日本"])
def test_any_name_can_be_present(requests_mock: requests_mock.Mocker, name: str) -> None:
    requests_mock.put(f"{BASE}/presence", json={"ok": True})
    assert Api(BASE, TOKEN, name).presence() == {"ok": True}
    assert last(requests_mock).json()["instance"] == name
    assert "\n" not in last(requests_mock).headers["User-Agent"]


def test_presence(api: Api, requests_mock: requests_mock.Mocker) -> None:
    requests_mock.put(f"{BASE}/presence", json={"ok": True})
    api.presence("busy", "3 jobs", "gpu,eu")
    assert last(requests_mock).json() == {
        "instance": "render-1",
        "status": "busy",
        "details": "3 jobs",
        "tags": "gpu,eu",
        "worker_type": "silicon",
    }


class TestJobs:
    def test_the_name_is_encoded(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/my-jobs", json={"jobs": []})
        assert Api(BASE, TOKEN, "a b&status=x/ü#").jobs("running") == Listing(())
        assert last(requests_mock).url == f"{BASE}/my-jobs?worker=a%20b%26status%3Dx%2F%C3%BC%23&status=running"

    @pytest.mark.parametrize(
        ("answer", "shown"),
        [
            ({}, "an empty object"),
            ({"error": "no", "code": 1}, "an object with 'code', 'error'"),
            ({"jobs": None}, "an object with 'jobs'"),
            ({"jobs": {"1": {}}}, "an object with 'jobs'"),
            ([{"id": 1}], "list"),
            (None, "null"),
            ("none", "str"),
        ],
    )
    def test_never_reads_anything_else_as_empty(
        self, api: Api, requests_mock: requests_mock.Mocker, answer: object, shown: str
    ) -> None:
        requests_mock.get(f"{BASE}/my-jobs", text=json.dumps(answer))
        with pytest.raises(WorkerError) as caught:
            api.jobs()
        assert str(caught.value) == f'GET /my-jobs -> 200: not {{"jobs": […]}} but {shown}'
        assert (caught.value.status, caught.value.retryable) == (200, True)

    def test_an_empty_answer_is_no_empty_inbox(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/my-jobs", content=b"")
        with pytest.raises(WorkerError, match="an empty object"):
            api.jobs()

    def test_entries_without_a_usable_id_are_left_out(
        self, api: Api, requests_mock: requests_mock.Mocker, caplog: pytest.LogCaptureFixture
    ) -> None:
        unusable: list[object] = [None, 7, "x", [], {}]
        unusable += [{"id": job_id} for job_id in (None, True, -1, 2**63, 1.0, "", "x", "-1", "1.5", "٣", " 1", [1])]
        unusable += [{"id": "9" * 19}, {"id": "1" * 5000}]
        usable = [{"id": 0, "prompt": "a"}, {"id": "0012"}, {"id": 2**63 - 1}, {"id": 5, "status": None}]
        requests_mock.get(f"{BASE}/my-jobs", json={"jobs": unusable + usable})
        assert api.jobs() == Listing(
            ({"id": 0, "prompt": "a"}, {"id": 12}, {"id": 2**63 - 1}, {"id": 5, "status": None}), whole=False
        )
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            f"GET /my-jobs: {len(unusable)} entries without a usable id left out"
        ]

    def test_entries_in_another_status_are_dropped(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        jobs = [{"id": 1, "status": "pending"}, {"id": 2, "status": "running"}, {"id": 3}, {"id": 4, "status": 1}]
        requests_mock.get(f"{BASE}/my-jobs", json={"jobs": jobs})
        assert [job["id"] for job in api.jobs("pending").jobs] == [1, 3, 4]
        assert [job["id"] for job in api.jobs("running").jobs] == [2, 3, 4]
        assert api.jobs("running").ids == {2, 3, 4}

    @pytest.mark.parametrize(
        ("entries", "whole"),
        [
            ([], True),
            ([{"id": 1}, {"id": 2, "status": None}], True),
            ([{"id": 1, "status": "running"}, {"id": 2, "status": "done"}], True),
            ([{"id": each, "status": status} for each, status in enumerate(STATUSES)], True),
            ([{"id": 1}, {}], False),
            ([{"id": 1}, None], False),
            ([{"id": 1}, {"id": "x"}], False),
            ([{"id": 1, "status": "pausiert"}], False),
            ([{"id": 1, "status": ""}], False),
            ([{"id": 1, "status": 7}], False),
            ([{"id": 1, "status": ["running"]}], False),
        ],
    )
    def test_a_list_is_whole_if_each_entry_can_be_understood(
        self, api: Api, requests_mock: requests_mock.Mocker, entries: list[object], whole: bool
    ) -> None:
        requests_mock.get(f"{BASE}/my-jobs", json={"jobs": entries})
        assert api.jobs("running").whole is whole

    def test_the_same_job_may_be_listed_twice(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/my-jobs", json={"jobs": [{"id": 1}, {"id": "1", "prompt": "x"}]})
        assert api.jobs() == Listing(({"id": 1}, {"id": 1, "prompt": "x"}))
        assert api.jobs().ids == {1}


class TestClaimAndClose:
    def test_claim(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/jobs/7/claim", json={"id": 7, "status": "running"})
        assert api.claim(7) == {"id": 7, "status": "running"}
        assert last(requests_mock).json() == {"worker": "render-1"}

    def test_close(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/jobs/7/close", json={"ok": True})
        assert api.close(7, "text", "escalated") == {"ok": True}
        assert last(requests_mock).json() == {"result": "text", "status": "escalated"}

    @pytest.mark.parametrize(("status", "content"), [(204, b""), (200, b"true"), (201, b"[]"), (200, b"null")])
    def test_any_2xx_will_do(self, api: Api, requests_mock: requests_mock.Mocker, status: int, content: bytes) -> None:
        requests_mock.post(f"{BASE}/jobs/7/claim", status_code=status, content=content)
        requests_mock.post(f"{BASE}/jobs/7/close", status_code=status, content=content)
        assert api.claim(7) == {}
        assert api.close(7, "", "done") == {}

    def test_a_page_is_no_confirmation(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/jobs/7/claim", text="<html>", headers={"Content-Type": "text/html"})
        with pytest.raises(WorkerError) as caught:
            api.claim(7)
        assert caught.value.retryable

    def test_a_result_may_hold_anything(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/jobs/7/close", json={})
        api.close(7, "\ud800\x00ü\U0001f600", "done")
        assert last(requests_mock).json()["result"] == "\ud800\x00ü\U0001f600"

    def test_an_id_stays_in_its_place(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/jobs/..%2F7%3Fx/claim", json={})
        api.claim("../7?x")  # type: ignore[arg-type]
        assert last(requests_mock).url == f"{BASE}/jobs/..%2F7%3Fx/claim"


class TestUpload:
    def test_all_fields_in_the_order_of_the_sdk(self, api: Api, uploads: Uploads) -> None:
        answer = api.upload(
            b"\x00\r\n--data",
            content_type="image/png",
            filename="a.png",
            job_id=7,
            review_id=8,
            expires_at="2030-01-01",
        )
        assert answer == {"slug": "s1", "url": "/s/s1"}
        form = "Content-Disposition: form-data; "
        assert uploads.parts == [
            (f'{form}name="file"; filename="a.png"', "image/png", b"\x00\r\n--data"),
            (f'{form}name="job_id"', None, b"7"),
            (f'{form}name="review_id"', None, b"8"),
            (f'{form}name="filename"', None, b"a.png"),
            (f'{form}name="expires_at"', None, b"2030-01-01"),
        ]

    @pytest.mark.parametrize(
        ("content_type", "name"),
        [("image/png", b"artifact.png"), ("application/x-unheard-of", b"artifact.bin")],
    )
    @pytest.mark.parametrize("filename", [None, ""])
    def test_default_name(
        self, api: Api, uploads: Uploads, content_type: str, name: bytes, filename: str | None
    ) -> None:
        api.upload(b"", content_type=content_type, filename=filename)
        assert [part[2] for part in uploads.parts] == [b"", name]

    @pytest.mark.parametrize(
        ("filename", "written"),
        [
            ('a"b.txt', "a%22b.txt"),
            ("a\r\nX-Evil: 1.txt", "a%0D%0AX-Evil: 1.txt"),
            ("größe €.txt", "größe €.txt"),
            ("日本.txt", "日本.txt"),
            ("../a;b=c.txt", "../a;b=c.txt"),
        ],
    )
    def test_names_are_escaped_as_browsers_do(self, api: Api, uploads: Uploads, filename: str, written: str) -> None:
        api.upload(b"x", content_type="text/plain", filename=filename)
        assert uploads.parts[0][0] == f'Content-Disposition: form-data; name="file"; filename="{written}"'
        assert uploads.parts[1][2] == filename.encode()

    @pytest.mark.parametrize("content_type", ["text/plain\r\nX: y", "a\nb", "a\x00b", "a\x7f"])
    def test_a_content_type_with_control_characters_is_refused(self, api: Api, content_type: str) -> None:
        with pytest.raises(WorkerError, match="is not a content type") as caught:
            api.upload(b"x", content_type=content_type)
        assert not caught.value.retryable

    def test_a_name_that_cannot_be_written_is_refused(self, api: Api) -> None:
        with pytest.raises(WorkerError, match="POST /artifacts/upload -> not sent"):
            api.upload(b"x", content_type="text/plain", filename="\ud800")

    def test_a_file_is_sent_from_where_it_stands(self, api: Api, uploads: Uploads, tmp_path: Path) -> None:
        path = tmp_path / "big"
        path.write_bytes(bytes(range(256)) * 5000)
        with path.open("rb") as file:
            file.seek(100)
            api.upload(file, content_type="application/x-raw")
            assert not file.closed
        assert uploads.parts[0][2] == path.read_bytes()[100:]

    @pytest.mark.parametrize("size", [10, 3 * 2**20])
    def test_a_stream_that_cannot_seek(self, api: Api, uploads: Uploads, size: int) -> None:
        class Pipe(io.RawIOBase):
            left = size

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                count = min(len(buffer), self.left)
                buffer[:count] = b"x" * count
                self.left -= count
                return count

        api.upload(Pipe(), content_type="text/plain")  # type: ignore[arg-type]
        assert uploads.parts[0][2] == b"x" * size

    @pytest.mark.parametrize("source", [bytearray(b"abc"), memoryview(b"abc"), io.BytesIO(b"abc")])
    def test_other_kinds_of_bytes(self, api: Api, uploads: Uploads, source: Any) -> None:
        api.upload(source, content_type="text/plain")
        assert uploads.parts[0][2] == b"abc"

    @pytest.mark.parametrize("source", ["text", None, io.StringIO("text")])
    def test_anything_else_is_a_mistake(self, api: Api, source: Any) -> None:
        with pytest.raises(TypeError, match="bytes or a binary file"):
            api.upload(source, content_type="text/plain")

    def test_a_closed_file(self, api: Api) -> None:
        file = io.BytesIO(b"x")
        file.close()
        with pytest.raises(WorkerError, match="not sent"):
            api.upload(file, content_type="text/plain")

    def test_a_file_that_becomes_shorter(self) -> None:
        file = io.BytesIO(b"abcdef")
        measured = Measured(file)
        assert (measured.len, measured.read(2), measured.len) == (6, b"ab", 4)
        file.truncate(3)
        assert measured.read(4) == b"c"
        with pytest.raises(OSError, match="3 bytes are missing"):
            measured.read(1)

    @pytest.mark.parametrize(("timeout", "used"), [(5.0, 120.0), (300.0, 300.0)])
    def test_it_may_take_longer(
        self, uploads: Uploads, requests_mock: requests_mock.Mocker, timeout: float, used: float
    ) -> None:
        Api(BASE, TOKEN, "render-1", timeout=timeout).upload(b"", content_type="text/plain")
        assert last(requests_mock).timeout == used

    @pytest.mark.parametrize("answer", [[], None, "s1", 1])
    def test_the_answer_must_be_an_object(self, api: Api, requests_mock: requests_mock.Mocker, answer: object) -> None:
        requests_mock.post(f"{BASE}/artifacts/upload", text=json.dumps(answer))
        with pytest.raises(WorkerError, match="POST /artifacts/upload -> 200: not a JSON object but") as caught:
            api.upload(b"", content_type="text/plain")
        assert caught.value.retryable

    def test_idempotency_key(self, api: Api, uploads: Uploads, requests_mock: requests_mock.Mocker) -> None:
        api.upload(b"", content_type="text/plain", idempotency_key="job-7-artifact:0")
        assert last(requests_mock).headers["Idempotency-Key"] == "job-7-artifact:0"
        api.upload(b"", content_type="text/plain")
        assert "Idempotency-Key" not in last(requests_mock).headers


class TestReview:
    def test_review(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/review", json={"id": 3, "status": "pending", "mode": "review"})
        answer = api.review(
            "email", "Hello", "text", preview="/s/x", target="a@b", job_id=7, idempotency_key="job-7-review:0"
        )
        assert answer == {"id": 3, "status": "pending", "mode": "review"}
        assert last(requests_mock).json() == {
            "type": "email",
            "title": "Hello",
            "content": "text",
            "preview": "/s/x",
            "target": "a@b",
            "job_id": 7,
            "created_by": "worker:render-1",
        }
        assert last(requests_mock).headers["Idempotency-Key"] == "job-7-review:0"
        assert last(requests_mock).headers["Content-Type"] == "application/json"

    def test_without_options(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/review", json={})
        api.review("email", "Hello", "text")
        assert last(requests_mock).json()["preview"] is None
        assert "Idempotency-Key" not in last(requests_mock).headers


class TestJob:
    def test_known(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/jobs/7", json={"id": 7, "status": "done"})
        assert api.job(7) == {"id": 7, "status": "done"}

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
    def test_refused_is_not_known(self, api: Api, requests_mock: requests_mock.Mocker, status: int) -> None:
        requests_mock.get(f"{BASE}/jobs/7", status_code=status)
        assert api.job(7) is None

    def test_a_sign_in_page_is_not_known(self, api: Api, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/jobs/7", status_code=302, headers={"Location": "https://login.example/"})
        assert api.job(7) is None

    @pytest.mark.parametrize("content", [b"<html>", b"[]", b"null", b"7"])
    def test_malformed_is_not_known(self, api: Api, requests_mock: requests_mock.Mocker, content: bytes) -> None:
        requests_mock.get(f"{BASE}/jobs/7", content=content)
        assert api.job(7) is None

    @pytest.mark.parametrize("status", [409, 429, 500, 503])
    def test_trouble_is_raised(self, api: Api, requests_mock: requests_mock.Mocker, status: int) -> None:
        requests_mock.get(f"{BASE}/jobs/7", status_code=status)
        with pytest.raises(WorkerError):
            api.job(7)


def test_every_request_is_documented() -> None:
    for name in ("presence", "jobs", "claim", "close", "upload", "review", "job"):
        assert (getattr(api_module.Api, name).__doc__ or "").startswith("``")
