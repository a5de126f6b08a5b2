from __future__ import annotations

import io
import json
import logging
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from mr_celery.errors import WorkerError
from mr_celery.server import Api, Listing, PartialList, keep_nothing
from mr_celery.server import api as api_module
from mr_celery.server.job_list import MOST_REMEMBERED
from mr_celery.server.multipart import Measured
from support.mocked_http import MockedHttp
from support.statuses import NO_WORD, OVER, PENDING, RUNNING, short


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


TOKEN = "mr-secret-token-1234"
BASE = "https://mr.example"


@pytest.fixture
def api() -> Api:
    return Api(BASE, TOKEN, "render-1", timeout=5.0)


def last(mock: MockedHttp) -> Any:
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
    """The form that the server received."""

    def __init__(self, mock: MockedHttp) -> None:
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
def uploads(mocked_http: MockedHttp) -> Uploads:
    return Uploads(mocked_http)


def test_attributes_and_repr() -> None:
    api = Api(f"{BASE}/base/", TOKEN, "render-1")
    assert (api.url, api.name) == (f"{BASE}/base", "render-1")
    assert repr(api) == "Api('https://mr.example/base', name='render-1')"


@pytest.mark.parametrize("name", ["render-1", "größe €", "a\r\nX: y", "\ud800", "日本"])
def test_any_name_can_be_present(mocked_http: MockedHttp, name: str) -> None:
    mocked_http.put(f"{BASE}/presence", json={"ok": True})
    assert Api(BASE, TOKEN, name).presence() == {"ok": True}
    assert last(mocked_http).json()["instance"] == name
    assert "\n" not in last(mocked_http).headers["User-Agent"]


def test_presence(api: Api, mocked_http: MockedHttp) -> None:
    mocked_http.put(f"{BASE}/presence", json={"ok": True})
    api.presence("busy", "3 jobs", "gpu,eu")
    assert last(mocked_http).json() == {
        "instance": "render-1",
        "status": "busy",
        "details": "3 jobs",
        "tags": "gpu,eu",
        "worker_type": "silicon",
    }


class TestJobs:
    def test_the_name_is_encoded(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": []})
        assert Api(BASE, TOKEN, "a b&status=x/ü#").jobs("running") == Listing()
        assert last(mocked_http).url == f"{BASE}/my-jobs?worker=a%20b%26status%3Dx%2F%C3%BC%23&status=running"

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
        self, api: Api, mocked_http: MockedHttp, answer: object, shown: str
    ) -> None:
        mocked_http.get(f"{BASE}/my-jobs", text=json.dumps(answer))
        with pytest.raises(WorkerError) as caught:
            api.jobs()
        assert str(caught.value) == f'GET /my-jobs -> 200: not {{"jobs": […]}} but {shown}'
        assert (caught.value.status, caught.value.retryable) == (200, True)

    def test_an_empty_answer_is_not_an_empty_inbox(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/my-jobs", content=b"")
        with pytest.raises(WorkerError, match="but nothing"):
            api.jobs()

    def test_entries_without_a_usable_id_are_left_out(
        self, api: Api, mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture
    ) -> None:
        unusable: list[object] = [None, 7, "x", [], {}]
        unusable += [{"id": job_id} for job_id in (None, True, -1, 2**63, 1.0, "", "x", "-1", "1.5", "٣", " 1", [1])]
        unusable += [{"id": "9" * 19}, {"id": "1" * 5000}]
        usable = [{"id": 0, "prompt": "a"}, {"id": "0012"}, {"id": 2**63 - 1}, {"id": 5, "status": None}]
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": unusable + usable})
        assert api.jobs() == Listing.of(
            {"id": 0, "prompt": "a"}, {"id": 12}, {"id": 2**63 - 1}, {"id": 5, "status": None}, whole=False
        )
        assert warnings(caplog) == [
            f"{len(unusable)} entries left out of the list of pending jobs: it has no usable id "
            f"(new: {len(unusable)} without a usable id, so a job missing from this list does not count as ended)"
        ]

    def test_entries_in_another_status_are_dropped(self, api: Api, mocked_http: MockedHttp) -> None:
        jobs = [{"id": 1, "status": "pending"}, {"id": 2, "status": "running"}, {"id": 3}, {"id": 4, "status": "x"}]
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": jobs})
        assert [job["id"] for job in api.jobs("pending").jobs] == [1, 3]
        assert [job["id"] for job in api.jobs("running").jobs] == [2, 3]
        assert api.jobs("running").statuses == {1: "pending", 2: "running", 3: "running", 4: "x"}
        assert [api.jobs("running").ids(phase) for phase in ("pending", "running", "over", "unknown")] == [
            {1},
            {2, 3},
            {4},
            frozenset(),
        ]
        assert api.jobs("failed").ids("over") == {3, 4}

    @pytest.mark.parametrize(
        ("told", "phase"),
        [
            *((word, "pending") for word in PENDING),
            *((word, "running") for word in RUNNING),
            *((word, "over") for word in OVER),
            (None, "running"),
            (..., "running"),
        ],
        ids=short,
    )
    def test_an_entry_counts_by_its_own_word(self, api: Api, mocked_http: MockedHttp, told: object, phase: Any) -> None:
        entry = {"id": 7} if told is ... else {"id": 7, "status": told}
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": [entry]})
        listing = api.jobs("running")
        assert listing.ids(phase) == {7}
        assert [job["id"] for job in listing.jobs] == ([7] if phase == "running" else [])
        assert (listing.whole, listing.count) == (True, len(listing.jobs))

    @pytest.mark.parametrize("told", [value for value in NO_WORD if value is not None], ids=short)
    def test_an_entry_with_an_unusable_status_is_listed_and_not_used(
        self, api: Api, mocked_http: MockedHttp, told: object
    ) -> None:
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": [{"id": 7, "status": told}]})
        listing = api.jobs("running")
        assert (listing.jobs, listing.statuses, listing.whole) == ((), {7: "running"}, True)

    @pytest.mark.parametrize(
        ("entries", "whole"),
        [
            ([], True),
            ([{"id": 1}, {"id": 2, "status": None}], True),
            ([{"id": 1, "status": "running"}, {"id": 2, "status": "done"}], True),
            ([{"id": 1, "status": "pausiert"}], True),
            ([{"id": 1, "status": 7}], True),
            ([{"id": 1, "prompt": [[]]}], True),
            ([{"id": 1}, {}], False),
            ([{"id": 1}, None], False),
            ([{"id": 1}, {"id": "x"}], False),
        ],
    )
    def test_a_list_is_whole_if_the_id_of_each_entry_is_known(
        self, api: Api, mocked_http: MockedHttp, entries: list[object], whole: bool
    ) -> None:
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": entries})
        assert api.jobs("running").whole is whole

    @pytest.mark.parametrize(
        ("entry", "statuses", "whole"),
        [
            ('{"id": 7, "x": ' + "9" * 5000 + "}", {1: "running", 7: "running"}, True),
            ('{"x": ' + "[" * 2000 + "]" * 2000 + ', "id": "7"}', {1: "running", 7: "running"}, True),
            ('{"id": 7, "status": "Cancelled", "x": tru}', {1: "running", 7: "cancelled"}, True),
            ('{"id": "x", "x": tru}', {1: "running"}, False),
            ('{"x": tru}', {1: "running"}, False),
        ],
        ids=["digits", "deep", "status", "no id", "nothing"],
    )
    def test_an_entry_that_cannot_be_read_is_left_out(
        self, api: Api, mocked_http: MockedHttp, entry: str, statuses: dict[int, str], whole: bool
    ) -> None:
        mocked_http.get(f"{BASE}/my-jobs", text=f'{{"jobs": [{entry}, {{"id": 1}}]}}')
        listing = api.jobs("running")
        assert (listing.jobs, listing.statuses, listing.whole) == (({"id": 1},), statuses, whole)

    def test_the_same_job_may_be_listed_twice(self, api: Api, mocked_http: MockedHttp) -> None:
        jobs = [{"id": 1}, {"id": "1", "prompt": "x"}, {"id": 2}, {"id": 2, "status": "done"}, {"id": 2}]
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": jobs})
        assert api.jobs().jobs == ({"id": 1}, {"id": 1, "prompt": "x"}, {"id": 2}, {"id": 2})
        assert api.jobs().statuses == {1: "pending", 2: ""}

    def test_a_caller_may_take_each_entry_as_it_is_read(self, api: Api, mocked_http: MockedHttp) -> None:
        jobs = [{"id": 1}, {"id": 2, "status": "running"}, {}, {"id": "3"}]
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": jobs})
        taken: list[dict[str, Any]] = []
        listing = api.jobs(take=lambda fields, size: taken.append(fields), about={2, 3})
        assert taken == [{"id": 1}, {"id": 3}]
        assert listing == Listing((), {2: "running", 3: "pending"}, whole=False, count=2)


class TestPartialLists:
    def test_are_none_without_an_entry(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/my-jobs", text='{"jobs": [{"id"')
        with pytest.raises(WorkerError) as caught:
            api.jobs()
        assert not isinstance(caught.value, PartialList)


class TestLeftOut:
    def read(self, api: Api, mocked_http: MockedHttp, *entries: object, status: str = "pending") -> None:
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": entries})
        api.jobs(status)

    def test_is_one_line_for_one_job(self, api: Api, mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture) -> None:
        self.read(api, mocked_http, {"id": 7, "status": 5, "prompt": "secret"}, {"id": 8})
        assert warnings(caplog) == ["job=7 left out of the list of pending jobs: its status is int"]
        (record,) = caplog.records
        assert (vars(record)["event"], vars(record)["worker_name"]) == ("left_out", "render-1")

    def test_is_one_line_for_each_cause(
        self, api: Api, mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture
    ) -> None:
        entries = [*({"id": job_id, "status": 5} for job_id in range(20)), {}, {"id": 50, "status": []}, None]
        self.read(api, mocked_http, *entries)
        assert warnings(caplog) == [
            "20 entries left out of the list of pending jobs: its status is int (new: jobs 0, 1, 2, 3, 4, …)",
            "2 entries left out of the list of pending jobs: it has no usable id "
            "(new: 2 without a usable id, so a job missing from this list does not count as ended)",
            "job=50 left out of the list of pending jobs: its status is list",
        ]

    def test_is_not_repeated_while_it_lasts(
        self, api: Api, mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad: list[Any] = [{"id": 7, "status": 5}, {}]
        for _ in range(5):
            self.read(api, mocked_http, *bad)
        assert len(warnings(caplog)) == 2
        self.read(api, mocked_http, *bad, {"id": 8, "status": 5})
        assert warnings(caplog)[2:] == ["job=8 left out of the list of pending jobs: its status is int"]

    def test_is_logged_again_after_it_was_gone(
        self, api: Api, mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture
    ) -> None:
        for entries in ([{}], [], [{}]):
            self.read(api, mocked_http, *entries)
        assert len(warnings(caplog)) == 2

    def test_by_the_caller_is_remembered_while_others_read_the_same_list(
        self, api: Api, mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture
    ) -> None:
        mocked_http.get(f"{BASE}/my-jobs", json={"jobs": [{"id": 7}, {}]})
        for _ in range(3):
            api.jobs(take=lambda fields, size: "it is not wanted")
            api.jobs(take=keep_nothing)
            api.jobs()
        assert len(warnings(caplog)) == 2

    def test_of_many_entries_is_not_repeated_and_remembers_few(
        self, api: Api, mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture
    ) -> None:
        many = [{"id": job_id, "status": 5} for job_id in range(3 * MOST_REMEMBERED)]
        for _ in range(3):
            self.read(api, mocked_http, *many)
        assert len(warnings(caplog)) == 1
        (found,) = api._left_out._logged["pending", "list"].values()
        assert (len(found.ids), found.count) == (MOST_REMEMBERED, len(many))


class TestClaimAndClose:
    def test_claim(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/jobs/7/claim", json={"id": 7, "status": "running"})
        assert api.claim(7) == {"id": 7, "status": "running"}
        assert last(mocked_http).json() == {"worker": "render-1"}

    def test_close(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/jobs/7/close", json={"ok": True})
        assert api.close(7, "text", "escalated") == {"ok": True}
        assert last(mocked_http).json() == {"result": "text", "status": "escalated"}

    @pytest.mark.parametrize(("status", "content"), [(204, b""), (200, b"true"), (201, b"[]"), (200, b"null")])
    def test_any_2xx_will_do(self, api: Api, mocked_http: MockedHttp, status: int, content: bytes) -> None:
        mocked_http.post(f"{BASE}/jobs/7/claim", status_code=status, content=content)
        mocked_http.post(f"{BASE}/jobs/7/close", status_code=status, content=content)
        assert api.claim(7) == {}
        assert api.close(7, "", "done") == {}

    def test_an_html_page_is_not_a_confirmation(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/jobs/7/claim", text="<html>", headers={"Content-Type": "text/html"})
        with pytest.raises(WorkerError) as caught:
            api.claim(7)
        assert caught.value.retryable

    def test_a_result_may_hold_anything(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/jobs/7/close", json={})
        api.close(7, "\ud800\x00ü\U0001f600", "done")
        assert last(mocked_http).json()["result"] == "\ud800\x00ü\U0001f600"

    def test_an_id_stays_in_its_place(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/jobs/..%2F7%3Fx/claim", json={})
        api.claim("../7?x")  # type: ignore[arg-type]
        assert last(mocked_http).url == f"{BASE}/jobs/..%2F7%3Fx/claim"


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

    def test_a_file_is_sent_from_its_position(self, api: Api, uploads: Uploads, tmp_path: Path) -> None:
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
    def test_it_may_take_longer(self, uploads: Uploads, mocked_http: MockedHttp, timeout: float, used: float) -> None:
        Api(BASE, TOKEN, "render-1", timeout=timeout).upload(b"", content_type="text/plain")
        assert last(mocked_http).timeout == used

    @pytest.mark.parametrize("answer", [[], None, "s1", 1])
    def test_the_answer_must_be_an_object(self, api: Api, mocked_http: MockedHttp, answer: object) -> None:
        mocked_http.post(f"{BASE}/artifacts/upload", text=json.dumps(answer))
        with pytest.raises(WorkerError, match="POST /artifacts/upload -> 200: not a JSON object but") as caught:
            api.upload(b"", content_type="text/plain")
        assert caught.value.retryable

    def test_idempotency_key(self, api: Api, uploads: Uploads, mocked_http: MockedHttp) -> None:
        api.upload(b"", content_type="text/plain", idempotency_key="job-7-artifact:0")
        assert last(mocked_http).headers["Idempotency-Key"] == "job-7-artifact:0"
        api.upload(b"", content_type="text/plain")
        assert "Idempotency-Key" not in last(mocked_http).headers


class TestReview:
    def test_review(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/review", json={"id": 3, "status": "pending", "mode": "review"})
        answer = api.review(
            "email", "Hello", "text", preview="/s/x", target="a@b", job_id=7, idempotency_key="job-7-review:0"
        )
        assert answer == {"id": 3, "status": "pending", "mode": "review"}
        assert last(mocked_http).json() == {
            "type": "email",
            "title": "Hello",
            "content": "text",
            "preview": "/s/x",
            "target": "a@b",
            "job_id": 7,
            "created_by": "worker:render-1",
        }
        assert last(mocked_http).headers["Idempotency-Key"] == "job-7-review:0"
        assert last(mocked_http).headers["Content-Type"] == "application/json"

    def test_without_options(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/review", json={})
        api.review("email", "Hello", "text")
        assert last(mocked_http).json()["preview"] is None
        assert "Idempotency-Key" not in last(mocked_http).headers


class TestJob:
    def test_known(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/jobs/7", json={"id": 7, "status": "done"})
        assert api.job(7) == {"id": 7, "status": "done"}

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
    def test_refused_is_not_known(self, api: Api, mocked_http: MockedHttp, status: int) -> None:
        mocked_http.get(f"{BASE}/jobs/7", status_code=status)
        assert api.job(7) is None

    def test_a_sign_in_page_is_not_known(self, api: Api, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/jobs/7", status_code=302, headers={"Location": "https://login.example/"})
        assert api.job(7) is None

    @pytest.mark.parametrize("content", [b"<html>", b"[]", b"null", b"7"])
    def test_malformed_is_not_known(self, api: Api, mocked_http: MockedHttp, content: bytes) -> None:
        mocked_http.get(f"{BASE}/jobs/7", content=content)
        assert api.job(7) is None

    @pytest.mark.parametrize("status", [409, 429, 500, 503])
    def test_trouble_is_raised(self, api: Api, mocked_http: MockedHttp, status: int) -> None:
        mocked_http.get(f"{BASE}/jobs/7", status_code=status)
        with pytest.raises(WorkerError):
            api.job(7)


def test_every_request_is_documented() -> None:
    for name in ("presence", "jobs", "claim", "close", "upload", "review", "job"):
        assert (getattr(api_module.Api, name).__doc__ or "").startswith("``")
