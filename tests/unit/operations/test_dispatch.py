"""Dispatching jobs and following them, on a mocked server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from mr_celery.errors import MrCeleryError, SettingsError
from mr_celery.operations.dispatch import Session, name_for, parse_field, parse_lines
from mr_celery.settings import Settings, load
from support.mocked_http import MockedHttp

URL = "https://mr.example/base"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Session]:
    """Creates a session whose clock moves only while it sleeps."""
    monkeypatch.delenv("MODELREINS_API_KEY", raising=False)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def make() -> Session:
        settings = Settings(url=URL, token="secret-token", name="painter")
        return Session(settings, clock=lambda: now[0], sleep=sleep)

    return make


def no_trouble(why: str) -> None:
    raise AssertionError(why)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("size=512", ("size", 512)),
        ("tags=[1, 2]", ("tags", [1, 2])),
        ("model=whisper", ("model", "whisper")),
        ("prompt=a=b", ("prompt", "a=b")),
        ("empty=", ("empty", "")),
    ],
)
def test_a_field_is_json_or_text(text: str, parsed: tuple[str, object]) -> None:
    assert parse_field(text) == parsed


@pytest.mark.parametrize("text", ["size", "=512", ""])
def test_a_field_has_a_name(text: str) -> None:
    with pytest.raises(ValueError):
        parse_field(text)


def test_lines_overrule_common_fields() -> None:
    lines = ['{"prompt": "a"}\n', "\n", '{"prompt": "b", "size": 1}\n']
    assert parse_lines(lines, {"size": 2}) == [{"prompt": "a", "size": 2}, {"prompt": "b", "size": 1}]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 1 is not JSON"), ("[]", "line 1 is not an object"), ('{"prompt": 1}', 'line 1 needs a "prompt"')],
)
def test_a_wrong_line_is_named(line: str, message: str) -> None:
    with pytest.raises(MrCeleryError, match=message):
        parse_lines([line], {})


@pytest.mark.parametrize("answer", [{"id": 7}, {"id": "7"}, {"job": {"id": 7}}, {"job_id": 7}])
def test_a_job_is_dispatched_to_the_worker_name(
    session: Callable[[], Session], mocked_http: MockedHttp, answer: dict[str, object]
) -> None:
    mocked_http.post(f"{URL}/dispatch", json=answer)
    assert session().dispatch({"prompt": "a cat", "size": 512}) == 7
    sent = mocked_http.last_request
    assert sent is not None
    assert sent.json() == {"worker": "painter", "prompt": "a cat", "size": 512}
    assert sent.headers["Authorization"] == "Bearer secret-token"


def test_an_api_key_is_used_instead_of_the_token(
    session: Callable[[], Session], mocked_http: MockedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELREINS_API_KEY", "user-key")
    mocked_http.post(f"{URL}/dispatch", json={"id": 7})
    session().dispatch({"prompt": "a cat"})
    assert mocked_http.last_request is not None
    assert mocked_http.last_request.headers["Authorization"] == "Bearer user-key"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status_code": 401}, "does not know the worker's token"),
        ({"status_code": 403}, "the worker's token may not dispatch jobs; set MODELREINS_API_KEY"),
        ({"status_code": 404}, "has no route to dispatch jobs"),
        (
            {"status_code": 503, "text": "none eligible"},
            "no worker is eligible for the job: .*'painter'.*none eligible",
        ),
        ({"status_code": 400, "text": "priority must be a string"}, "priority must be a string"),
        ({"json": {}}, "the response names no job"),
        ({"exc": TimeoutError("slow")}, "may have been dispatched or not"),
        ({"exc": ConnectionRefusedError(111, "Connection refused")}, "cannot be reached"),
    ],
)
def test_a_refusal_is_explained(
    session: Callable[[], Session], mocked_http: MockedHttp, answer: dict[str, object], message: str
) -> None:
    mocked_http.post(f"{URL}/dispatch", **answer)  # type: ignore[arg-type]
    with pytest.raises(MrCeleryError, match=message):
        session().dispatch({"prompt": "a cat"})


def test_a_job_is_followed_to_its_end(session: Callable[[], Session], mocked_http: MockedHttp) -> None:
    states = [
        {"status": "pending"},
        {"status": "running"},
        {"status": "running"},
        {"status": "done", "result": "a hat"},
    ]
    mocked_http.get(f"{URL}/jobs/7", [{"json": each} for each in states])
    listed = [{"job_id": 7, "url": "/s/x"}, {"job_id": 8, "url": "/s/y"}]
    mocked_http.get(f"{URL}/artifacts?job_id=7", json={"artifacts": listed})
    changes: list[str] = []
    ended = session().follow(7, until=None, changed=changes.append, trouble=no_trouble)
    assert changes == ["running", "done"]
    assert (ended.status, ended.over, ended.output) == ("done", True, "a hat")
    assert ended.artifacts == [f"{URL}/s/x"]


def test_a_job_that_waits_for_an_approval_is_not_over(session: Callable[[], Session], mocked_http: MockedHttp) -> None:
    states = ("awaiting_approval", "Approval required", "pending", "done")
    mocked_http.get(f"{URL}/jobs/7", [{"json": {"status": each}} for each in states])
    mocked_http.get(f"{URL}/artifacts?job_id=7", json={"artifacts": []})
    changes: list[str] = []
    ended = session().follow(7, until=None, changed=changes.append, trouble=no_trouble)
    assert (ended.status, changes) == ("done", list(states))


def test_waiting_ends_at_the_timeout(session: Callable[[], Session], mocked_http: MockedHttp) -> None:
    mocked_http.get(f"{URL}/jobs/7", json={"status": "pending"})
    reasons: list[str] = []
    waiting = session()
    ended = waiting.follow(7, until=waiting.deadline(20), changed=no_trouble, trouble=reasons.append)
    assert (ended.status, ended.over) == ("pending", False)
    assert len(reasons) == 1
    assert "job 7 is still pending" in reasons[0]


def test_an_outage_does_not_end_the_wait(session: Callable[[], Session], mocked_http: MockedHttp) -> None:
    answers = [{"status_code": 500}, {"status_code": 500}, {"json": {"status": "failed"}}]
    mocked_http.get(f"{URL}/jobs/7", answers)  # type: ignore[arg-type]
    mocked_http.get(f"{URL}/artifacts?job_id=7", status_code=403)
    reasons: list[str] = []
    ended = session().follow(7, until=None, changed=lambda status: None, trouble=reasons.append)
    assert ended.status == "failed"
    assert reasons == ["GET /jobs/7 -> 500"]


def test_a_token_that_may_not_read_the_job(session: Callable[[], Session], mocked_http: MockedHttp) -> None:
    mocked_http.get(f"{URL}/jobs/7", status_code=403)
    with pytest.raises(MrCeleryError, match="job 7 was dispatched, but this token may not read it"):
        session().follow(7, until=None, changed=no_trouble, trouble=no_trouble)


def test_of_several_worker_names_one_is_chosen() -> None:
    app = Celery("dispatched", broker="memory://", set_as_current=False)
    several = {"modelreins_workers": {"one": {}, "two": {}}}
    with pytest.raises(SettingsError, match=r"one, two.*--name"):
        name_for(app, load(several, environment={}), None)
    assert name_for(app, load(several, flags={"name": "two"}, environment={}), None) == "two"
