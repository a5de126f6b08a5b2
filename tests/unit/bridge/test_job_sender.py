"""The sender publishes claimed jobs, and stops claims for destinations that the broker refuses."""

from __future__ import annotations

import pytest

from mr_celery.bridge.context import BridgeContext
from mr_celery.bridge.limits import PROBE_SECONDS, TRIAL_SECONDS
from mr_celery.bridge.publisher import MessageRefused, NotPublished, QueueFull
from mr_celery.failure_texts import UNPUBLISHED_SECONDS, UNPUBLISHED_TRIES
from mr_celery.ledger import Route
from mr_celery.outcome import Outcome
from support.clock import Clock
from support.ledgers import BridgeHarness, make_harness

FAILED = Outcome.failed("never started")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    """Backoff without jitter."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)
    return make_harness(monkeypatch)


@pytest.fixture
def context(harness: BridgeHarness) -> BridgeContext:
    harness.context.capacity.latest()
    return harness.context


@pytest.fixture
def clock(harness: BridgeHarness) -> Clock:
    return harness.clock


# -- verification --------------------------------------------------------------------------------------------


def is_claimed(harness: BridgeHarness, task: str = "tiny.upper") -> bool:
    """Whether a pending job for the task would be claimed."""
    return harness.context.sender.route_of(harness.handler(task), harness.job(2)) is not None


@pytest.mark.usefixtures("context")
class TestVerification:
    def test_happens_once_for_each_destination(self, harness: BridgeHarness) -> None:
        assert all(is_claimed(harness) for _ in range(5))
        assert len(harness.publisher.verified) == 1
        assert is_claimed(harness, "tiny.slow")
        assert len(harness.publisher.verified) == 2

    def test_that_fails_leaves_jobs_pending_until_it_succeeds(
        self, harness: BridgeHarness, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        harness.publisher.refuses = [MessageRefused("(406) PRECONDITION_FAILED")] * 5
        for _ in range(10):
            assert not is_claimed(harness)
            clock.advance(PROBE_SECONDS / 2)
        assert len(harness.publisher.verified) == 5
        assert is_claimed(harness, "tiny.slow")
        assert is_claimed(harness)
        assert is_claimed(harness)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2
        assert "refuses messages to queue celery: (406)" in lines[0]
        assert "claimed again" in lines[1]

    def test_that_fails_for_another_reason_is_logged_again(
        self, harness: BridgeHarness, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        for why in ("404", "404", "403", "403"):
            harness.publisher.refuses = [MessageRefused(why)]
            assert not is_claimed(harness)
            clock.advance(PROBE_SECONDS)
        assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["404", "403"]

    def test_without_a_broker_lets_jobs_be_claimed_and_is_retried_later(
        self, harness: BridgeHarness, clock: Clock
    ) -> None:
        harness.publisher.refuses = [NotPublished("unreachable")]
        assert all(is_claimed(harness) for _ in range(5))
        assert len(harness.publisher.verified) == 1
        clock.advance(PROBE_SECONDS)
        assert all(is_claimed(harness) for _ in range(5))
        assert len(harness.publisher.verified) == 2


# -- publishing ----------------------------------------------------------------------------------------------


def test_a_published_job_is_sent(harness: BridgeHarness, context: BridgeContext) -> None:
    run = harness.bring("claimed")
    context.sender.publish(1, context.routes["tiny.upper"], run.task_id, priority="high", retries=2)
    assert harness.publisher.sent == [(1, run.task_id)]
    assert harness.publisher.details == [("high", 2)]
    assert harness.kit.state() == "sent"


def test_a_job_that_cannot_be_published_stays_claimed_and_is_logged(
    harness: BridgeHarness, context: BridgeContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    run = harness.bring("claimed")
    harness.publisher.fails = [OSError("the broker is unreachable")]
    with pytest.raises(NotPublished):
        context.sender.publish(1, context.routes["tiny.upper"], run.task_id, priority="normal")
    assert harness.kit.state() == "claimed"
    assert f"job=1 attempt=1 task_id={run.task_id} not published" in caplog.text


@pytest.mark.parametrize(
    ("task", "why"), [("", "no handler takes the job"), ("tiny.gone", "tiny.gone is not declared")]
)
def test_a_job_without_a_handler_fails(harness: BridgeHarness, context: BridgeContext, task: str, why: str) -> None:
    run = harness.bring("claimed")
    assert not context.sender.send(1, Route(task, "celery"), run.task_id, priority="normal")
    outcome = harness.kit.outcome()
    assert outcome.status == "failed"
    assert why in outcome.text
    assert harness.publisher.sent == []


@pytest.mark.parametrize(
    ("refusal", "output"),
    [("", "no handler takes the job"), ("no handler takes job 1: secret", "no handler takes job 1: secret")],
)
def test_a_job_that_no_handler_takes_fails_with_the_explanation_in_its_outcome_only(
    harness: BridgeHarness, context: BridgeContext, caplog: pytest.LogCaptureFixture, refusal: str, output: str
) -> None:
    run = harness.bring("claimed")
    for _ in range(2):
        context.sender.fail_unhandled(1, run.task_id, refusal=refusal)
    outcome = harness.kit.outcome()
    assert outcome.text == output
    assert harness.kit.record().reason == "no handler takes the job"
    where = f"{context.settings.url}/jobs/1"
    lines = [record.getMessage().partition(" failed: ")[2] for record in caplog.records]
    assert lines == [f"no handler takes the job; output: {where}"]


class TestRefusedMessages:
    @staticmethod
    def refuse(harness: BridgeHarness, *whys: str, kind: type[NotPublished] = MessageRefused) -> None:
        """Try to publish job 1, once for each reason; it is refused each time."""
        for why in whys:
            harness.publisher.fails = [kind(why)]
            with pytest.raises(kind):
                harness.context.sender.publish(
                    1, harness.context.routes["tiny.upper"], harness.kit.run().task_id, priority="normal"
                )

    def test_are_logged_once_for_each_reason(self, harness: BridgeHarness, caplog: pytest.LogCaptureFixture) -> None:
        harness.bring("claimed")
        self.refuse(harness, "NO_ROUTE", "NO_ROUTE", "NO_ROUTE", "(404) no exchange", "(404) no exchange")
        lines = [record.getMessage() for record in caplog.records if "not published" in record.getMessage()]
        assert [line.rpartition(": ")[2] for line in lines] == ["NO_ROUTE", "(404) no exchange"]
        assert "to queue celery" in lines[0]
        assert harness.kit.state() == "claimed"

    def test_end_their_job_with_the_reason(self, harness: BridgeHarness, caplog: pytest.LogCaptureFixture) -> None:
        harness.bring("claimed")
        self.refuse(harness, *["NO_ROUTE"] * UNPUBLISHED_TRIES)
        assert harness.kit.state() == "claimed"  # not refused for long enough yet
        harness.kit.age_refusals(UNPUBLISHED_SECONDS)
        self.refuse(harness, "NO_ROUTE")
        outcome = harness.kit.outcome()
        assert outcome.status == "failed"
        assert "queue celery: NO_ROUTE" in outcome.text
        assert harness.kit.load() == 0
        assert [record.levelname for record in caplog.records if record.msg != ""].count("ERROR") == 2

    def test_without_a_route_are_logged_with_the_reason(
        self, harness: BridgeHarness, context: BridgeContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = harness.bring("claimed")
        app = harness.handler("tiny.upper").task.app
        app.amqp.queues.create_missing = False
        app.conf.task_routes = {"tiny.upper": "gone"}
        app.amqp.flush_routes()
        app.amqp.router = app.amqp.Router()
        with pytest.raises(MessageRefused):
            context.sender.publish(1, Route("tiny.upper", "gone as well"), run.task_id, priority="normal")
        assert "not published to any queue, will be retried: Queue 'gone' missing from task_queues" in caplog.text
        assert harness.publisher.sent == []

    def test_need_five_tries_however_long_they_take(self, harness: BridgeHarness) -> None:
        harness.bring("claimed")
        self.refuse(harness, "NO_ROUTE")
        harness.kit.age_refusals(10 * UNPUBLISHED_SECONDS)
        self.refuse(harness, *["NO_ROUTE"] * (UNPUBLISHED_TRIES - 2))
        assert harness.kit.state() == "claimed"
        self.refuse(harness, "NO_ROUTE")
        assert harness.kit.state() == "finished"

    @pytest.mark.usefixtures("context")
    def test_to_a_full_queue_are_retried_without_limit(self, harness: BridgeHarness) -> None:
        harness.bring("claimed")
        for _ in range(4):
            self.refuse(harness, *["full"] * UNPUBLISHED_TRIES, kind=QueueFull)
            harness.kit.age_refusals(UNPUBLISHED_SECONDS)
        assert harness.kit.state() == "claimed"
        assert harness.context.sender.route_of(harness.handler("tiny.upper"), harness.job(2)) is not None

    def test_leave_the_jobs_of_their_handler_pending(self, harness: BridgeHarness, context: BridgeContext) -> None:
        upper, slow = harness.handler("tiny.upper"), harness.handler("tiny.slow")
        assert context.sender.route_of(upper, harness.job(2)) is not None
        harness.bring("claimed")
        self.refuse(harness, "NO_ROUTE")
        assert context.sender.route_of(upper, harness.job(2)) is None
        assert context.sender.route_of(slow, harness.job(3)) is not None
        context.sender.publish(1, context.routes["tiny.upper"], harness.kit.run().task_id, priority="normal")
        assert context.sender.route_of(upper, harness.job(2)) is not None

    def test_are_tried_again_with_one_job_at_a_time(
        self, harness: BridgeHarness, context: BridgeContext, clock: Clock
    ) -> None:
        harness.bring("claimed")
        self.refuse(harness, "NO_ROUTE")
        clock.advance(TRIAL_SECONDS)
        upper = harness.handler("tiny.upper")
        for _ in range(3):
            claimed = [context.sender.route_of(upper, harness.job(id_)) is not None for id_ in (2, 3, 4)]
            assert claimed == [True, False, False]
            clock.advance(TRIAL_SECONDS)

    def test_that_are_finally_accepted_reset_the_count(self, harness: BridgeHarness, context: BridgeContext) -> None:
        run = harness.bring("claimed")
        self.refuse(harness, *["NO_ROUTE"] * UNPUBLISHED_TRIES)
        context.sender.publish(1, context.routes["tiny.upper"], run.task_id, priority="normal")
        assert harness.kit.state() == "sent"
        context.ledger.resend(
            1, run.task_id, why="gone", budget=3, wait_seconds=0.0, exhausted=harness.kit.record().outcome or FAILED
        )
        harness.kit.age_refusals(UNPUBLISHED_SECONDS)
        self.refuse(harness, "NO_ROUTE")
        assert harness.kit.state() == "claimed"


def test_an_unreachable_broker_is_logged_rarely_and_retried(
    harness: BridgeHarness, context: BridgeContext, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = harness.bring("claimed")
    for _ in range(3 * UNPUBLISHED_TRIES):
        harness.publisher.fails = [NotPublished("the broker is unreachable")]
        with pytest.raises(NotPublished):
            context.sender.publish(1, context.routes["tiny.upper"], run.task_id, priority="normal")
        clock.advance(UNPUBLISHED_SECONDS)
    assert harness.kit.state() == "claimed"
    context.sender.publish(1, context.routes["tiny.upper"], run.task_id, priority="normal")
    began, *reminders, over, _ = [record.getMessage() for record in caplog.records]
    assert began.startswith("the broker at memory:// has been unreachable for 60 s: the broker is unreachable.")
    assert len(reminders) == 3  # in 15 min: the intervals grow
    assert over == "the broker at memory:// answers again, after 15 min"


def test_a_message_for_another_queue_moves_its_slot(harness: BridgeHarness, context: BridgeContext) -> None:
    run = harness.bring("claimed")
    context.sender.publish(1, Route("tiny.slow", "celery"), run.task_id, priority="normal")
    assert harness.kit.record().route.queue == "slow"
    assert (harness.kit.load("celery"), harness.kit.load("slow")) == (0, 1)
    assert harness.publisher.destinations[-1].routing_key == "slow"
