"""The content and the intervals of presence reports."""

from __future__ import annotations

import random
import threading
from concurrent.futures import wait
from itertools import pairwise
from typing import Any, cast

import pytest

from mr_celery.bridge import heartbeat as module
from mr_celery.bridge.capacity import FleetCapacity, FleetReader, Surveys
from mr_celery.bridge.heartbeat import Heartbeat
from mr_celery.bridge.limits import LASTING, LONGEST_PAUSE
from mr_celery.bridge.loops import Loop
from mr_celery.bridge.publisher import MessageRefused
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import BridgeProcess, Fleet, Ledger, Pause
from support.ledgers import INSIDE, BridgeHarness, FakeServer, make_harness, refusal
from support.ports import until


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch, heartbeat_interval=5.0)


@pytest.fixture
def server() -> FakeServer:
    """The heartbeat's connection to the server."""
    return FakeServer()


@pytest.fixture
def ledger(harness: BridgeHarness) -> Ledger:
    """The heartbeat's connection to the ledger."""
    return Ledger(INSIDE, "w")


@pytest.fixture
def fleet(harness: BridgeHarness) -> Fleet:
    """The heartbeat's connection to the register of workers."""
    return Fleet(INSIDE)


def capacity_of(harness: BridgeHarness, fleet: Fleet, *others: Ledger) -> FleetCapacity:
    """The capacity as the heartbeat reads it, over its own connections."""
    context = harness.context
    surveys = Surveys(others, clock=harness.clock) if others else None
    return FleetCapacity(
        FleetReader(fleet, clock=harness.clock), context.routes, context.settings.max_inflight, "w", surveys
    )


@pytest.fixture
def heartbeat(harness: BridgeHarness, server: FakeServer, ledger: Ledger, fleet: Fleet) -> Heartbeat:
    return Heartbeat(harness.context, cast(Any, server), ledger, capacity_of(harness, fleet))


def away(*args: Any, **kwargs: Any) -> Any:
    raise LedgerUnavailable("away")


def test_presence_reports_the_load_and_the_declared_capabilities(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat
) -> None:
    for job_id, state in enumerate(["admitted", "claimed", "sent", "running", "finished", "closed"], 1):
        harness.bring(state, job_id)
    heartbeat.beat()
    assert server.asked("presence") == [("active", "in flight 5, waiting 2, capacity 8", "slow,text.upper")]


def test_presence_is_reported_at_the_configured_interval(heartbeat: Heartbeat) -> None:
    assert heartbeat.beat() == 5.0


def test_a_slow_answer_does_not_slow_the_pace(harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat) -> None:
    server.faults["presence"] = [lambda: harness.clock.advance(3.0), lambda: harness.clock.advance(60.0)]
    assert heartbeat.beat() == 2.0
    assert heartbeat.beat() == 0.0


def test_a_late_report_waits_neither_for_the_ledger_nor_for_a_response(
    harness: BridgeHarness, server: FakeServer, ledger: Ledger, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with too many worker names to read in time keeps up their presence, with the data that it has."""
    reads: list[float] = []
    survey = ledger.survey

    def read(*queues: Any) -> Any:
        reads.append(harness.clock())
        return survey(*queues)

    monkeypatch.setattr(ledger, "survey", read)
    start, waited = harness.clock(), threading.Event()
    for seconds in (5.0, 7.0, 7.0, 5.0):
        heartbeat.beat()
        harness.clock.advance(seconds)
    assert [at - start for at in reads] == [0.0, 5.0, 19.0]  # the beat at 12 s was late, and read nothing
    server.faults["presence"] = [lambda: waited.wait(20)]
    harness.clock.advance(3.0)
    heartbeat.beat()
    assert reads[-1] - start == 19.0
    waited.set()
    until(lambda: len(server.asked("presence")) == 5, what="each has reported")


def test_a_late_answer_is_handled_when_it_arrives_without_another_report(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.0)
    answered, handled = threading.Event(), threading.Event()
    server.faults["presence"] = [lambda: answered.wait(20)]
    heartbeat.on_answer = handled.set
    assert heartbeat.run_once() == 5.0
    harness.clock.advance(2.0)
    assert heartbeat.run_once() == 3.0
    assert harness.context.presence_age is None
    answered.set()
    assert handled.wait(20)
    assert heartbeat.run_once() == 3.0
    assert harness.context.presence_age == 0.0
    assert len(server.asked("presence")) == 1
    harness.clock.advance(3.0)
    heartbeat.run_once()
    until(lambda: len(server.asked("presence")) == 2, what="the next report")


def test_a_late_failure_is_raised_and_the_next_run_reports(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.0)
    answered, handled = threading.Event(), threading.Event()

    def fail_late() -> None:
        answered.wait(20)
        raise refusal(503)

    server.faults["presence"] = [fail_late]
    heartbeat.on_answer = handled.set
    heartbeat.run_once()
    answered.set()
    assert handled.wait(20)
    with pytest.raises(WorkerError):
        heartbeat.run_once()
    heartbeat.run_once()
    until(lambda: len(server.asked("presence")) == 2, what="the next report")


@pytest.mark.parametrize("part", ["ledger", "fleet"])
def test_presence_is_reported_while_the_ledger_is_away(
    request: pytest.FixtureRequest,
    server: FakeServer,
    heartbeat: Heartbeat,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    monkeypatch.setattr(request.getfixturevalue(part), "survey" if part == "ledger" else "online", away)
    assert heartbeat.beat() == 5.0
    assert server.asked("presence") == [("busy", "ledger unreachable for 0 ms: away", "slow,text.upper")]


def test_presence_uses_only_its_own_connections(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.context.ledger, "survey", away)
    monkeypatch.setattr(harness.fleet, "online", away)
    heartbeat.beat()
    assert harness.server.calls == []
    assert server.asked("presence") == [("active", "in flight 0, waiting 0, capacity 8", "slow,text.upper")]


@pytest.mark.parametrize("status", [401, 403])
def test_a_repeatedly_refused_token_slows_presence_and_stops_claiming(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults["presence"] = [refusal(status)] * (LASTING + 2)
    for _ in range(LASTING):
        heartbeat.beat()
        assert harness.context.token.rejected
        harness.clock.advance(LONGEST_PAUSE)
    for _ in range(12):
        assert heartbeat.beat() == 5.0
        harness.clock.advance(5.0)
    assert len(server.asked("presence")) == LASTING + 2
    assert caplog.text.count("the server refuses the token") == 1


def test_a_bridge_with_a_refused_token_announces_that_at_its_usual_pace(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, ledger: Ledger
) -> None:
    server.faults["presence"] = [refusal(401)] * (LASTING + 1)
    for _ in range(LASTING):
        heartbeat.beat()
        harness.clock.advance(LONGEST_PAUSE)
    harness.clock.advance(5.0)
    heartbeat.beat()
    (bridge,) = ledger.bridges()
    assert bridge.token is not None
    assert bridge.token.seconds == pytest.approx(LASTING * LONGEST_PAUSE + 5.0)
    assert bridge.token.why == "POST /x -> 401"


def test_an_accepted_token_restores_the_interval_and_claiming(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat
) -> None:
    server.faults["presence"] = [refusal(401)] * LASTING
    for _ in range(LASTING + int(LONGEST_PAUSE / 5.0)):
        assert heartbeat.beat() == 5.0
        harness.clock.advance(5.0)
    assert not harness.context.token.rejected
    server.faults["presence"] = [refusal(401)]
    assert heartbeat.beat() == 5.0  # the count has restarted


def test_an_accepted_presence_does_not_end_the_pause_after_a_refused_token(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat
) -> None:
    harness.context.token.reject(refusal(401))
    heartbeat.beat()
    assert harness.context.token.rejected
    harness.clock.advance(harness.context.token.pause)
    heartbeat.beat()
    assert not harness.context.token.rejected


@pytest.mark.parametrize("status", [None, 404, 429, 500, 503])
def test_another_failure_is_raised_for_the_loop_and_does_not_concern_the_token(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, status: int | None
) -> None:
    server.faults["presence"] = [refusal(status)]
    with pytest.raises(WorkerError):
        heartbeat.beat()
    assert not harness.context.token.rejected


HEADERS = [1e12, 86400.0, 5.1, 0.0, None]


@pytest.mark.parametrize("latency", [0.0, 0.7, 2.4, 4.9, 30.0])
def test_no_retry_after_makes_a_gap_of_more_than_one_and_a_half_intervals(
    harness: BridgeHarness,
    server: FakeServer,
    heartbeat: Heartbeat,
    monkeypatch: pytest.MonkeyPatch,
    latency: float,
) -> None:
    """Each report gets a late 429. The clock moves only during responses and pauses."""
    dice = random.Random(latency)
    # As the bridge makes it.
    loop = Loop("heartbeat", heartbeat, most_backoff=5.0, most_retry_after=5.0)
    monkeypatch.setattr(
        "mr_celery.bridge.heartbeat.wait",
        lambda reports, timeout: (wait(reports, 30), harness.clock.advance(min(timeout, latency))),
    )
    server.faults["presence"] = [refusal(429, retry_after=dice.choice(HEADERS)) for _ in range(40)]
    times: list[float] = []
    while len(times) < 40:
        times.append(harness.clock())
        harness.clock.advance(loop.turn())
    assert len(server.asked("presence")) == 40
    assert max(later - earlier for earlier, later in pairwise(times)) < 1.5 * 5.0


def test_a_stopping_bridge_reports_that_it_is_idle(server: FakeServer, heartbeat: Heartbeat) -> None:
    heartbeat.leave()
    assert server.asked("presence") == [("idle", "bridge stopped", "slow,text.upper")]


def test_the_last_report_comes_after_those_under_way(
    server: FakeServer, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.01)
    answered: list[str] = []
    arrives = threading.Event()
    server.faults["presence"] = [lambda: answered.append("under way" if arrives.wait(10) else "never")]
    heartbeat.beat()
    monkeypatch.setattr(heartbeat, "_report", lambda status, details: answered.append(status))
    leaving = threading.Thread(target=heartbeat.leave, args=[10.0])
    leaving.start()
    leaving.join(0.2)
    arrives.set()
    leaving.join(10)
    assert answered == ["under way", "idle"]


@pytest.mark.parametrize("status", [None, 401, 503])
def test_a_last_presence_that_fails_does_not_delay_the_stop(
    server: FakeServer, heartbeat: Heartbeat, status: int | None
) -> None:
    server.faults["presence"] = [refusal(status)]
    heartbeat.leave()
    assert len(server.asked("presence")) == 1


@pytest.mark.parametrize("beats", [2, 3, 4])
def test_answers_that_are_late_do_not_delay_the_next_reports(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer, beats: int
) -> None:
    harness = make_harness(monkeypatch, heartbeat_interval=0.5)
    answered = threading.Event()
    server.faults["presence"] = [answered.wait] * beats
    heartbeat = Heartbeat(
        harness.context, cast(Any, server), Ledger(INSIDE, "w"), capacity_of(harness, Fleet(INSIDE)), side_by_side=3
    )
    try:
        for _ in range(beats):
            heartbeat.beat()
        assert len(server.asked("presence")) == min(beats, 3)
    finally:
        answered.set()


# -- the status that a router reads ----------------------------------------------------------------------


def status_of(server: FakeServer) -> str:
    return str(server.asked("presence")[-1][0])


def details_of(server: FakeServer) -> str:
    return str(server.asked("presence")[-1][1])


def test_a_paused_bridge_is_busy_and_names_the_operator(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, ledger: Ledger
) -> None:
    harness.context.outages.server.works()
    ledger.pause(Pause("ann@ops", ledger.survey().now, "the database moves"))
    heartbeat.beat()
    assert status_of(server) == "busy"
    assert details_of(server).startswith("paused by ann@ops for ")
    assert "the database moves; in flight 0, waiting 0, capacity 8" in details_of(server)
    ledger.resume()
    heartbeat.beat()
    assert status_of(server) == "active"


def test_without_a_worker_it_is_busy(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat, fleet: Fleet
) -> None:
    fleet.withdraw("celery@a")
    heartbeat.beat()
    assert (status_of(server), details_of(server)) == (
        "busy",
        "no worker online; in flight 0, waiting 0, capacity 0",
    )


def test_it_is_busy_only_if_no_queue_has_a_free_slot(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat
) -> None:
    for job_id in range(4):
        harness.bring("sent", job_id + 1, task="tiny.upper")
    heartbeat.beat()
    assert status_of(server) == "active"
    for job_id in range(4):
        harness.bring("sent", job_id + 11, task="tiny.slow")
    heartbeat.beat()
    assert status_of(server) == "busy"


def test_the_share_of_other_worker_names_leaves_no_slot(
    harness: BridgeHarness, server: FakeServer, ledger: Ledger, fleet: Fleet
) -> None:
    harness.context.outages.server.works()
    other = Ledger(INSIDE, "other")
    routes = harness.context.routes
    heartbeat = Heartbeat(harness.context, cast(Any, server), ledger, capacity_of(harness, fleet, other))
    for job_id, task in enumerate(["tiny.upper", "tiny.slow"] * 2, 1):
        harness.bring("sent", job_id, task=task)
        other.admit(
            [(harness.job(job_id + number * 10), routes[task]) for number in range(1, 3)],
            asked_at=0.0,
            queue_limits={},
            total_limit=None,
            settle_seconds=5.0,
        )
    heartbeat.beat()
    assert status_of(server) == "busy"
    assert details_of(server).startswith("no slot is free; claiming; in flight 4")


def test_a_broker_that_refuses_the_queues_of_all_handlers_makes_it_busy(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat
) -> None:
    context = harness.context
    for task in ("tiny.upper", "tiny.slow"):
        assert status_of_next(heartbeat, server) == "active"
        harness.publisher.refuses = [MessageRefused("queue 'x' is declared differently")]
        context.sender.route_of(harness.handler(task), harness.job(1))
    assert status_of_next(heartbeat, server) == "busy"
    assert "the broker refuses messages" in details_of(server)


def status_of_next(heartbeat: Heartbeat, server: FakeServer) -> str:
    heartbeat.beat()
    return status_of(server)


def test_a_stopping_bridge_is_busy_until_its_jobs_have_ended(
    harness: BridgeHarness, server: FakeServer, heartbeat: Heartbeat
) -> None:
    harness.bring("finished")
    harness.context.stopping.set()
    assert status_of_next(heartbeat, server) == "busy"
    assert details_of(server).startswith("stopping; ")
    harness.kit.close()
    assert status_of_next(heartbeat, server) == "idle"


def announce_other(ledger: Ledger, *, claims: bool, seconds_ago: float = 0.0) -> None:
    """Another bridge of the worker name is online."""
    now = ledger.survey().now
    other = BridgeProcess("other:1", "other", "1", uptime=1.0, answer_age=1.0, at=now - seconds_ago, claims=claims)
    ledger.announce_bridge(other, seconds=3600)


@pytest.mark.parametrize(
    ("others_claim", "seconds_ago", "status"), [(True, 0.0, "active"), (False, 0.0, "busy"), (True, 600.0, "busy")]
)
def test_a_bridge_that_does_not_claim_reports_what_another_one_of_the_name_would_do(
    harness: BridgeHarness,
    server: FakeServer,
    heartbeat: Heartbeat,
    ledger: Ledger,
    others_claim: bool,
    seconds_ago: float,
    status: str,
) -> None:
    announce_other(ledger, claims=others_claim, seconds_ago=seconds_ago)
    harness.context.token.reject(refusal(401))
    assert status_of_next(heartbeat, server) == status


def test_a_bridge_that_has_lost_the_ledger_trusts_recent_announcements_of_others(
    harness: BridgeHarness,
    server: FakeServer,
    heartbeat: Heartbeat,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announce_other(ledger, claims=True)
    assert status_of_next(heartbeat, server) == "active"
    monkeypatch.setattr(ledger, "survey", away)
    assert status_of_next(heartbeat, server) == "active"
    for _ in range(12):
        harness.clock.advance(5.0)
        heartbeat.beat()
    assert status_of(server) == "busy"


@pytest.mark.parametrize(("others_claim", "status"), [(True, "active"), (False, "busy")])
def test_the_last_report_of_a_bridge_does_not_make_others_idle(
    server: FakeServer, heartbeat: Heartbeat, ledger: Ledger, others_claim: bool, status: str
) -> None:
    heartbeat.beat()
    announce_other(ledger, claims=others_claim)
    heartbeat.leave()
    assert status_of(server) == status
    assert details_of(server).endswith(" stopped; 1 online")
    assert [each.id for each in ledger.bridges()] == ["other:1"]


def test_the_announcement_says_whether_the_bridge_claims(
    harness: BridgeHarness, heartbeat: Heartbeat, ledger: Ledger, fleet: Fleet
) -> None:
    heartbeat.beat()
    assert [each.claims for each in ledger.bridges()] == [True]
    fleet.withdraw("celery@a")
    harness.clock.advance(5.0)
    heartbeat.beat()
    assert [each.claims for each in ledger.bridges()] == [False]


def test_tags_and_provider_of_the_settings_are_reported(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    harness = make_harness(monkeypatch, tags="economy,slow", provider="ollama")
    heartbeat = Heartbeat(
        harness.context, cast(Any, server), harness.context.ledger, capacity_of(harness, harness.fleet)
    )
    heartbeat.beat()
    ((_, _, tags, provider),) = server.asked("presence")
    assert (tags, provider) == ("slow,text.upper,economy", "ollama")
