"""Deliveries that would never end: a server too old for them, unusable responses, a fault for one body only.

The fault matrices share assumptions with the code: faults pass (each lasts for some seconds), a fault hits all requests
alike (and not one body), a 2xx response has the documented form, the server is new, and it is the project's own
sandbox. Here faults stay or hit one job among others, responses have any form, and the server is a different one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mr_celery.ledger import Ledger
from support.campaign import all_survive
from support.fleet import Fleet
from support.http_server import Reply, Request
from support.plain_server import NEW, OLD, PlainServer, route_of
from support.ports import until
from support.servers import RedisServer

BOUND = "5 4"
"""Failures and seconds after which there have been enough of them, in these processes: minutes otherwise."""

NEEDS = "ModelReins server 4.6.0 or later"


@contextmanager
def installed(redis: RedisServer, folder: Path, version: str = NEW, **settings: str) -> Iterator[Fleet]:
    """An installation with a server of that version."""
    with PlainServer(version) as server:
        fleet = Fleet(
            server,  # type: ignore[arg-type]
            broker=redis.url(0),
            ledger=redis.url(1),
            folder=folder,
            app="support.proj_endless",
        )
        fleet.environment |= {"PROJ_BOUND": BOUND, **settings}
        try:
            fleet.bridge()
            fleet.worker("-c", "2")
            yield fleet
        finally:
            fleet.stop()


def server_of(fleet: Fleet) -> PlainServer:
    return fleet.sandbox  # type: ignore[return-value]


@contextmanager
def others_get_through(fleet: Fleet, **fields: Any) -> Iterator[list[int]]:
    """Dispatch other jobs within the block, one a second. Each must be delivered with its handler's result."""
    over, job_ids = threading.Event(), []

    def come() -> None:
        while not over.is_set():
            number = fleet.next_number()
            job_ids.append(fleet.dispatch(f"fine {number}", "makes" if fields else None, **fields))
            over.wait(1.0)

    coming = threading.Thread(target=come)
    coming.start()
    try:
        yield job_ids
    finally:
        over.set()
        coming.join()
    for job in fleet.ended(*job_ids):
        assert (job["status"], job["result"]) == ("done", job["prompt"].upper())


def nothing_is_left(fleet: Fleet) -> bool:
    return not Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name).in_flight()


def check_end(fleet: Fleet, *job_ids: int) -> None:
    """Check that each job ran once and was closed once, and that the ledger has closed them all."""
    until(lambda: nothing_is_left(fleet), what="the ledger has closed all")
    for job_id in job_ids:
        closes = [event for event in fleet.events(job_id) if event.startswith("close ") and "refused" not in event]
        assert len(closes) == 1, fleet.events(job_id)
        assert fleet.started(fleet.job(job_id)["prompt"]) == 1


# -- a server before 4.6.0 ---------------------------------------------------------------------------------

KINDS: dict[str, tuple[str | None, dict[str, int]]] = {
    "artifacts": ("makes", {"artifacts": 2}),
    "reviews": ("makes", {"reviews": 2}),
    "both": ("makes", {"artifacts": 1, "reviews": 1}),
    "none": (None, {}),
    "large": ("large", {}),
    "at once": ("at-once", {}),
}


@pytest.mark.parametrize("delivery", ["worker", "bridge"])
@pytest.mark.parametrize("setting", ["fail", "close"])
def test_a_server_without_artifacts_and_reviews(
    redis_server: RedisServer, tmp_path: Path, setting: str, delivery: str
) -> None:
    spool = {"MODELREINS_SPOOL_URL": str(tmp_path / "spool")} if delivery == "bridge" else {}
    settings = {"MODELREINS_WITHOUT_ARTIFACTS": setting, "MODELREINS_DELIVERY": delivery, **spool}
    with installed(redis_server, tmp_path, OLD, **settings) as fleet, all_survive(fleet):
        for turn in ("first", "second"):
            jobs = {
                kind: fleet.dispatch(f"{turn} {kind}", capability, **fields)
                for kind, (capability, fields) in KINDS.items()
            }
            ended = dict(zip(jobs, fleet.ended(*jobs.values(), seconds=120), strict=True))
            assert (ended.pop("none")["status"], fleet.job(jobs["none"])["result"]) == ("done", f"{turn} none".upper())
            for kind, job in ended.items():
                raised = kind == "at once" and "Traceback" in job["result"]
                assert job["status"] == ("failed" if setting == "fail" else "done"), job["result"]
                assert NEEDS in job["result"]
                if raised:
                    assert setting == "fail"
                elif kind != "large":
                    assert f"{turn} {kind}".upper() in job["result"]
                if kind in ("artifacts", "both"):
                    assert f"- artifact '{turn} {kind} 0.txt' (text/plain, 3 bytes)" in job["result"]
                if kind in ("reviews", "both"):
                    assert f"- review '{turn} {kind} 0' (note)" in job["result"]
                if kind == "large":
                    assert "(application/octet-stream, 2.0 MiB)" in job["result"]
            check_end(fleet, *jobs.values())
        output = "".join(process.output for process in fleet.processes)
        assert f"the server does not support artifacts and reviews (they need {NEEDS})" in output
        # The server is upgraded. Nothing has to be restarted.
        server_of(fleet).version = NEW
        job_id = fleet.dispatch("third", "makes", artifacts=1, reviews=1)
        (job,) = fleet.ended(job_id)
        assert (job["status"], job["result"]) == ("done", "THIRD")
        assert (server_of(fleet).artifacts[job_id], server_of(fleet).filed[job_id]) == (["third 0.txt"], ["third 0"])


@pytest.mark.long
def test_a_temporary_404_of_a_proxy_is_not_an_old_server(redis_server: RedisServer, tmp_path: Path) -> None:
    """With the default bounds, the proxy returns 404 for these two routes for a minute from the first request."""
    with installed(redis_server, tmp_path, PROJ_BOUND="") as fleet, all_survive(fleet):
        server = server_of(fleet)
        server.spoil = lambda request: (
            Reply(404, "<h1>404 Not Found</h1>nginx", content_type="text/html")
            if route_of(request) in ("upload", "review")
            else None
        )
        jobs = [fleet.dispatch(f"job {kind}", *about[:1], **about[1]) for kind, about in KINDS.items() for _ in "12"]
        with others_get_through(fleet):
            threading.Event().wait(60)  # the duration of the fault
            server.spoil = lambda request: None
            for job in fleet.ended(*jobs):
                assert job["status"] == "done", job["result"]
                assert "4.6.0" not in job["result"]
        assert sum(map(len, server.artifacts.values())) == 2 * (2 + 1 + 1 + 1)
        assert sum(map(len, server.filed.values())) == 2 * (2 + 1 + 1)


@pytest.mark.long
def test_a_proxy_that_answers_everything_with_404_for_longer_than_the_bound(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with installed(redis_server, tmp_path) as fleet, all_survive(fleet):
        server = server_of(fleet)
        job_ids = [fleet.dispatch(f"job {n}", "makes", artifacts=1, reviews=1) for n in range(5)]
        until(lambda: server.asked["upload"] > 0, what="the first is delivered")
        server.spoil = lambda request: Reply(404, "no such page")
        more = [fleet.dispatch(f"more {n}", "makes", artifacts=1, reviews=1) for n in range(5)]
        threading.Event().wait(15)
        server.spoil = lambda request: None
        for job in fleet.ended(*job_ids, *more):
            assert (job["status"], job["result"]) == ("done", job["prompt"].upper())


# -- responses of any form ---------------------------------------------------------------------------------

LONG = "9" * 5000

USABLE: dict[str, str] = {
    "digit": '{"id": "²"}',
    "text": '{"id": "rev-é-7"}',
    "number": '{"id": 1e3}',
    "true": '{"id": true}',
    "list": '{"id": [1, 2]}',
    "null": '{"id": null}',
    "absent": "{}",
    "nothing": "",
}

UNUSABLE: dict[str, str] = {
    "5000 digits": f'{{"id": {LONG}}}',
    "5000 digits in a text": f'{{"id": "{LONG}"}}',
    "10 MB": f'{{"id": "{"x" * 10_000_000}"}}',
    "line ends": '{"id": "a\\nb"}',
    "half a pair": '{"id": "\\ud800"}',
    "nested": '{"id": ' + "[" * 2000 + "]" * 2000 + "}",
    "a list": "[7]",
    "html": "<html>filed</html>",
    "cut": '{"id": 7',
}


def answering(route: str, answers: dict[str, str]) -> Callable[[Request], Reply | None]:
    """Respond to a review or an upload with the answer for the job named in it. The request still takes effect."""

    def spoil(request: Request) -> Reply | None:
        if route_of(request) != route:
            return None
        name = next((name for name in answers if f"odd {name} ".encode() in request.body), None)
        return None if name is None else Reply(200, answers[name], after=True)

    return spoil


@pytest.mark.long
def test_ids_of_reviews_of_every_kind(redis_server: RedisServer, tmp_path: Path) -> None:
    with installed(redis_server, tmp_path) as fleet, all_survive(fleet):
        server = server_of(fleet)
        server.spoil = answering("review", USABLE | UNUSABLE)
        job_ids = {name: fleet.dispatch(f"odd {name}", "makes", reviews=1) for name in USABLE | UNUSABLE}
        ended = dict(zip(job_ids, fleet.ended(*job_ids.values(), seconds=120), strict=True))
        for name in USABLE:
            assert (ended[name]["status"], ended[name]["result"]) == ("done", f"ODD {name}".upper()), name
            assert len(server.filed[job_ids[name]]) == 1
        for name in UNUSABLE:
            assert ended[name]["status"] == "failed", name
            assert ended[name]["result"].startswith(f"mr-celery could not deliver the review 'odd {name} 0': POST /rev")
            assert ended[name]["result"].endswith(f"ODD {name}".upper())
            assert len(server.filed[job_ids[name]]) <= 8, "not again and again"
        check_end(fleet, *job_ids.values())


@pytest.mark.long
def test_slugs_of_every_kind(redis_server: RedisServer, tmp_path: Path) -> None:
    usable = {"number": '{"slug": 7}', "odd path": f'{{"slug": "a", "url": "{LONG}"}}', "text": '{"slug": "é"}'}
    unusable = {
        name: answer.replace('"id"', '"slug"')
        for name, answer in UNUSABLE.items()
        if "slug" in answer or "id" in answer
    } | {"none": "{}", "true": '{"slug": true}'}
    with installed(redis_server, tmp_path) as fleet, all_survive(fleet):
        server_of(fleet).spoil = answering("upload", usable | unusable)
        job_ids = {name: fleet.dispatch(f"odd {name}", "makes", artifacts=1) for name in usable | unusable}
        for name, job in zip(job_ids, fleet.ended(*job_ids.values(), seconds=120), strict=True):
            assert job["status"] == ("done" if name in usable else "failed"), (name, job["result"])
            assert f"ODD {name}".upper() in job["result"]
        check_end(fleet, *job_ids.values())


# -- a fault for one body only -----------------------------------------------------------------------------


def poison(status: int, *routes: str) -> Callable[[Request], Reply | None]:
    """Respond with that status to every request that contains the word."""

    def spoil(request: Request) -> Reply | None:
        bad = b"poison" in request.body.lower() and b"mr-celery could not deliver" not in request.body
        return Reply(status, {"error": "unexpected"}) if route_of(request) in routes and bad else None

    return spoil


@pytest.mark.long
@pytest.mark.parametrize("status", [500, 404])
def test_a_fault_for_one_body_while_others_get_through(redis_server: RedisServer, tmp_path: Path, status: int) -> None:
    with installed(redis_server, tmp_path) as fleet, all_survive(fleet):
        server = server_of(fleet)
        server.spoil = poison(status, "upload", "review", *(["close"] if status >= 500 else []))
        with others_get_through(fleet, artifacts=1, reviews=1):
            until(lambda: len(server.filed) > 1, what="others get through")
            jobs = {
                "poisoned artifact": fleet.dispatch("poison 1", "makes", artifacts=1),
                "poisoned review": fleet.dispatch("poison 2", "makes", reviews=1),
                "another poisoned review": fleet.dispatch("poison 3", "makes", reviews=1),
                **({"poisoned output": fleet.dispatch("poison 4")} if status >= 500 else {}),
            }
            for name, job in zip(jobs, fleet.ended(*jobs.values(), seconds=90), strict=True):
                assert job["status"] == "failed", name
                assert job["result"].startswith("mr-celery could not deliver"), (name, job["result"])
                assert f"-> {status}: " in job["result"]
                assert "unexpected" in job["result"]
        check_end(fleet, *jobs.values())


def test_a_rejected_output_ends_even_without_other_deliveries(redis_server: RedisServer, tmp_path: Path) -> None:
    with installed(redis_server, tmp_path) as fleet, all_survive(fleet):
        server_of(fleet).spoil = poison(500, "close")
        job_ids = [fleet.dispatch(f"poison {n}") for n in range(3)]
        for job in fleet.ended(*job_ids, seconds=150):
            assert job["status"] == "failed"
            assert "the job's output: POST /jobs/" in job["result"]
        check_end(fleet, *job_ids)


@pytest.mark.parametrize(
    ("routes", "status"),
    [(("close",), 500), (("upload", "review"), 500), ((), 500), ((), 502)],
    ids=["closes", "parts", "everything", "everything, by a proxy"],
)
def test_a_fault_for_all_is_waited_for(
    redis_server: RedisServer, tmp_path: Path, routes: tuple[str, ...], status: int
) -> None:
    """The fault lasts several times as long as the bound."""
    with installed(redis_server, tmp_path) as fleet, all_survive(fleet):
        server = server_of(fleet)
        job_ids = [fleet.dispatch(f"job {n}", "makes", artifacts=1, reviews=1) for n in range(8)]
        until(lambda: server.asked["claim"] >= 8, what="they are claimed")
        server.spoil = lambda request: (
            Reply(status, {"error": "away"}) if not routes or route_of(request) in routes else None
        )
        threading.Event().wait(20)
        server.spoil = lambda request: None
        for job in fleet.ended(*job_ids):
            assert (job["status"], job["result"]) == ("done", job["prompt"].upper())
        for job_id in job_ids:
            assert fleet.started(fleet.job(job_id)["prompt"]) == 1
        lines = [line for process in fleet.processes for line in process.output.splitlines()]
        assert sum("not delivered yet" in line for line in lines) <= 8 * 8


def test_an_outcome_that_became_unreadable(redis_server: RedisServer, tmp_path: Path) -> None:
    with installed(redis_server, tmp_path, MODELREINS_LEASE="3") as fleet, all_survive(fleet):
        server = server_of(fleet)
        server.spoil = lambda request: Reply(503) if route_of(request) == "close" else None
        job_id = fleet.dispatch("unreadable")
        until(lambda: server.asked["close"] > 0, what="it is delivered")
        key = f"modelreins:{{{fleet.name}}}:payload:{job_id}"
        RedisServer.client_of(fleet.environment["MODELREINS_LEDGER_URL"]).hset(key, "outcome", "{not json")
        server.spoil = lambda request: None
        (job,) = fleet.ended(job_id, seconds=90)
        assert job["status"] == "failed"
        assert "cannot be read" in job["result"]
        assert json.dumps(job)
