"""The bridge's page for operators, with an in-process ledger."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from mr_celery.bridge.state import State
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import BridgeProcess, DeliveryKey, Node, Waiting
from mr_celery.operations import Subject, read_statuses
from mr_celery.operations.http import create_app
from mr_celery.operations.jobs import history_of
from mr_celery.operations.page import Page, app, overview
from mr_celery.server.token import Token, TokenFile
from support.asgi import Answer, request
from support.hostile import EVERYTHING, unsafe
from support.ledgers import INSIDE, LATER, BridgeHarness, make_harness
from support.safe_html import assert_safe

TOKEN = "the-token-of-operators"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTML = {"Accept": "text/html"}
ORIGIN = {"Origin": "http://bridge.test:9464"}
MARKUP = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'"

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    made = make_harness(monkeypatch)
    made.context = replace(made.context, settings=replace(made.context.settings, ledger_url=INSIDE))
    return made


def bridge_of(harness: BridgeHarness, name: str = "w", text: str = "idle") -> Any:
    context = replace(harness.context, settings=replace(harness.context.settings, name=name))
    return SimpleNamespace(context=context, states=(State("idle", text),), unwell=dict, unready=dict)


def app_of(harness: BridgeHarness, *names: str) -> Any:
    bridges = [bridge_of(harness, name) for name in names or ("w",)]
    return create_app(bridges, Page(bridges, Token(TOKEN)))


def shown(harness: BridgeHarness, path: str = "/", *names: str) -> str:
    answer = run(request(app_of(harness, *names), path, headers=BEARER))
    assert answer.status == 200, answer.text
    return answer.text


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html.partition("<main")[2]).split())


class TestAccess:
    def test_without_a_token_there_is_no_page_and_the_answer_says_how_to_have_one(self, harness: BridgeHarness) -> None:
        answer = run(request(create_app([bridge_of(harness)]), "/"))
        assert answer.status == 404
        assert "MODELREINS_HTTP_TOKEN_FILE" in answer.text

    @pytest.mark.parametrize("path", ["/", "/jobs/1", "/jobs?id=1", "/~guessed/", "/~guessed/jobs/1", "/nothing"])
    def test_nothing_is_shown_without_a_login(self, harness: BridgeHarness, path: str) -> None:
        harness.kit.bring("running")
        page = app_of(harness)
        assert run(request(page, path)).status == 401
        assert run(request(page, path, headers={"Authorization": "Bearer wrong"})).status == 401
        answer = run(request(page, path, headers=HTML))
        assert (answer.status, answer.headers["location"].partition("?")[0]) == (303, "/login")
        assert run(request(page, path, method="POST", headers={"Origin": "http://evil.test"})).status == 403

    def test_metrics_and_health_stay_open(self, harness: BridgeHarness) -> None:
        page = app_of(harness)
        for path in ("/metrics", "/health/live", "/health/ready"):
            assert run(request(page, path)).status in (200, 503)

    def test_login_and_logout(self, harness: BridgeHarness) -> None:
        async def visit() -> None:
            page = app_of(harness)

            def login(token: str) -> Coroutine[Any, Any, Answer]:
                body = f"token={token}&next=%2Fjobs%2F7%3Fname%3Dw".encode()
                return request(page, "/login", method="POST", headers=ORIGIN, body=body)

            wrong = await login("wrong")
            assert (wrong.status, "set-cookie" in wrong.headers) == (403, False)
            answer = await login(TOKEN)
            target = re.search(r"0;url=(/~[^/]+)/jobs/7\?name=w", answer.text)
            assert target, answer.text
            cookie, *attributes = answer.headers["set-cookie"].split("; ")
            assert {"HttpOnly", "SameSite=strict", f"Path={target[1]}"} <= set(attributes)
            inside = {**HTML, "Cookie": cookie}
            assert (await request(page, f"{target[1]}/", headers=inside)).status == 200
            assert (await request(page, "/", headers=inside)).status == 303, "the cookie is only for the secret path"
            found = await request(page, f"{target[1]}/jobs?id=%237", headers=inside)
            assert found.headers["location"] == f"{target[1]}/jobs/7"
            out = await request(page, f"{target[1]}/logout", method="POST", headers={**inside, **ORIGIN})
            assert out.headers["location"] == "/login"
            assert (await request(page, f"{target[1]}/", headers=inside)).status == 303

        run(visit())

    def test_a_new_token_in_its_file_takes_effect(self, harness: BridgeHarness, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("before-it-changed")
        file.chmod(0o600)
        token = TokenFile(str(file), lambda path: Path(path).read_text())
        bridges = [bridge_of(harness)]
        page = create_app(bridges, Page(bridges, token))
        assert run(request(page, "/", headers=BEARER)).status == 401
        file.write_text(TOKEN)
        assert run(request(page, "/", headers=BEARER)).status == 200

    def test_there_is_nothing_to_change(self, harness: BridgeHarness) -> None:
        page = app_of(harness)
        for path in ("/", "/jobs", "/jobs/1", "/static/live.js"):
            for method in ("POST", "PUT", "DELETE"):
                assert run(request(page, path, method=method, headers=BEARER)).status == 405

    def test_answers_have_security_headers(self, harness: BridgeHarness) -> None:
        page = app_of(harness)
        for path in ("/login", "/static/base.css"):
            headers = run(request(page, path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
        policy = run(request(page, "/login")).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'nonce-")


class TestOverview:
    def test_it_says_what_status_says(self, harness: BridgeHarness) -> None:
        harness.kit.bring("running", 1)
        waiting = (Waiting("no_queue", "2 jobs wait for proj.slow: no queue", 2, 60.0),)
        announced = BridgeProcess("host:1", "host", "1", 5.0, 1.0, pending=2, answer_age=0.5, waiting=waiting)
        harness.kit.ledger.announce_bridge(replace(announced, at=harness.kit.now()), seconds=LATER)
        context = harness.context
        (status,) = read_statuses(harness.fleet, [Subject(context.ledger, context.routes, None)])
        text = text_of(shown(harness))
        for each in (status.state, *status.problems):
            assert each.text.partition(" for ")[0] in text
            assert each.advice in text
        assert "running 1" in text
        assert f"{status.taken} of {status.capacity}" in text
        assert "1 of 3 celery@test" in text

    def test_no_prompt_and_no_result_is_shown(self, harness: BridgeHarness) -> None:
        for number, state in enumerate(("sent", "running", "deferred", "finished", "closed"), 1):
            harness.kit.bring(state, number, prompt="a secret prompt")
        for path in ("/", *(f"/jobs/{number}" for number in range(1, 6))):
            html = shown(harness, path)
            assert "secret" not in html
            assert "DONE" not in html

    def test_a_delivery_that_is_put_off_has_its_error_and_its_next_try(self, harness: BridgeHarness) -> None:
        run_key = harness.kit.bring("finished", 7)
        delivery = DeliveryKey(7, run_key.task_id, 1)
        assert harness.kit.ledger.undelivered(delivery, "HTTP 503 from close", wait_seconds=7300.0)
        text = text_of(shown(harness))
        assert re.search(r"put off .* 7 .* 1 tried in 2 h HTTP 503 from close", text), text

    def test_the_oldest_jobs_of_a_state_come_first_and_are_bounded(
        self, harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app, "JOBS_OF_STATE", 3)
        monkeypatch.setattr(overview, "JOBS_OF_STATE", 3)
        for number in range(1, 7):
            harness.kit.bring("running", number)
        harness.kit.redis.hset(harness.kit.key("job:5"), "running_at", harness.kit.now() - 3600)
        html = shown(harness, "/?state=running")
        rows = re.findall(r'data-key="job-(\d+)"', html)
        assert rows[0] == "5"
        assert len(rows) == 3
        assert "The 3 that are in their state for longest, of 6." in html
        assert "No job is deferred." in shown(harness, "/?state=deferred")

    def test_any_number_of_viewers_costs_as_one(self, harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        reads = []
        plain = app.read_overview
        monkeypatch.setattr(app, "read_overview", lambda *of: (reads.append(1), plain(*of))[1])
        monkeypatch.setattr(app, "PACE_SECONDS", 3600.0)
        page = app_of(harness)

        async def visits() -> list[Answer]:
            first = await asyncio.gather(*(request(page, "/", headers=BEARER) for _ in range(20)))
            return [*first, await request(page, "/?state=sent", headers=BEARER)]

        assert {each.status for each in run(visits())} == {200}
        assert len(reads) == 1

    def test_without_the_ledger_it_shows_the_last_numbers_and_their_age(
        self, harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harness.kit.bring("running", 7)
        monkeypatch.setattr(app, "PACE_SECONDS", 0.0)
        page = app_of(harness)

        def unreachable(*_: Any) -> Any:
            raise LedgerUnavailable("the ledger at redis://host: ConnectionError: refused")

        async def visits() -> Answer:
            await request(page, "/", headers=BEARER)
            monkeypatch.setattr(app, "read_overview", unreachable)
            return await request(page, "/", headers=BEARER)

        text = text_of(run(visits()).text)
        assert re.search(r"The numbers below are .* old: the ledger at redis://host: ConnectionError: refused", text)
        assert "tiny.upper" in text or "proj.upper" in text

    def test_a_thousand_worker_names_are_a_bounded_list_with_a_filter(self, harness: BridgeHarness) -> None:
        names = [f"name-{number:04}" for number in range(1000)]
        html = shown(harness, "/", *names)
        assert html.count('<th scope="row"') == app.MOST_NAMES
        assert "100 of 1\N{NARROW NO-BREAK SPACE}000 are listed" in html
        assert 'data-key="name-0777"' in shown(harness, "/?q=NAME-0777", *names)
        answer = run(request(app_of(harness, *names), "/?name=other", headers=BEARER))
        assert (answer.status, "no worker name" in answer.text) == (404, True)


class TestJob:
    def test_its_history_is_that_of_the_command(self, harness: BridgeHarness) -> None:
        harness.kit.bring("closed", 7)
        history = history_of(harness.kit.ledger, 7)
        text = text_of(shown(harness, "/jobs/7"))
        for name, fact in history.facts.items():
            if name != "times":
                assert f"{name} {fact}" in text
        events = [each.event for each in history.events]
        assert [each for each in text.partition("Note")[2].split() if each in events] == events

    def test_it_is_found_in_any_ledger_of_the_bridge(self, harness: BridgeHarness) -> None:
        harness.kit.bring("running", 7)
        assert "running" in text_of(shown(harness, "/jobs/7", "one", "w", "two"))

    @pytest.mark.parametrize(
        ("path", "words"),
        [("/jobs/8", "job 8 is not in the ledger"), ("/jobs/x", "&#39;x&#39; is not the id of a job")],
    )
    def test_one_that_is_unknown(self, harness: BridgeHarness, path: str, words: str) -> None:
        answer = run(request(app_of(harness), path, headers=BEARER))
        assert answer.status == 404
        assert words in answer.text


def test_foreign_texts_are_escaped_and_printable(harness: BridgeHarness) -> None:
    foreign = (EVERYTHING + MARKUP).encode(errors="replace").decode()
    harness.kit.bring("finished", 7)
    for field in ("capability", "why", "reason", "node", "task_name", "queue", "note"):
        harness.kit.redis.hset(harness.kit.key("job:7"), field, foreign)
    harness.kit.redis.hset(harness.kit.key("job:7"), "deliveries", 2)
    harness.kit.redis.hincrby(harness.kit.key("stats"), foreign, 1)
    harness.fleet.announce(Node(foreign, 1, (foreign,), (foreign,), foreign), seconds=LATER)
    waiting = (Waiting("other", foreign, 1, 60.0),)
    announced = BridgeProcess(foreign, foreign, foreign, 5.0, app_version=foreign, handlers=(foreign,), waiting=waiting)
    harness.kit.ledger.announce_bridge(replace(announced, at=harness.kit.now()), seconds=LATER)
    for path in ("/", "/jobs/7", "/?q=%3Cscript%3E&state=%3Cscript%3E"):
        answer = run(request(app_of(harness), path, headers=BEARER))
        nonce = re.search("nonce-([^']+)", answer.headers["content-security-policy"])
        assert nonce
        assert_safe(answer.text, nonce[1])
        assert unsafe(answer.text, kept="\n\N{NARROW NO-BREAK SPACE}") == []
        assert "alert(1)</script>" not in answer.text
