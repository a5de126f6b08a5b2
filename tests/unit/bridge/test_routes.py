"""Routes from Celery routers that change their results, need arguments, raise, or are slow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, cycle
from typing import Any

import pytest
from celery import Celery

from mr_celery import Job
from mr_celery.bridge import routes as module
from mr_celery.bridge.limits import ROUTE_SECONDS
from mr_celery.bridge.routes import Routes, registry_of
from mr_celery.errors import RoutingError
from mr_celery.handlers import Declaration, Handler, Registry
from mr_celery.ledger import Node, Nodes, Route
from mr_celery.settings import Settings
from mr_celery.settings.worker_names import WorkerNameOptions
from support.clock import Clock

NODES = Nodes([Node("a", 2, ("celery", "red", "blue"), ("proj.work",))])


class Case:
    """Routes of an application with one handler."""

    def __init__(self, routes: Any, **conf: Any) -> None:
        self.clock = Clock()
        self.app = Celery("proj", broker="memory://", set_as_current=False)
        self.app.conf.update(task_routes=routes, **conf)
        task = self.app.task(work, name="proj.work", lazy=False)
        self.handler = Handler(task, Declaration())
        self.routes = Routes(self.app, Registry([self.handler]), 3, driver="amqp", clock=self.clock)
        self.routes.known(NODES)

    def look(self, *job_ids: int) -> list[str | None]:
        """The queues of pending jobs in one poll; ``None`` if a job stays pending."""
        self.routes.begin_poll()
        return [self.ask(job_id) for job_id in job_ids]

    def ask(self, job_id: int, **fields: Any) -> str | None:
        found = self.routes.of_pending(self.handler, Job({"id": job_id, "prompt": "a secret", **fields}))
        return None if found is None else found[0].queue

    def publish(self, job_id: int, queue: str) -> tuple[str, str]:
        """The queue recorded in the ledger, and the queue of the message."""
        job = Job({"id": job_id, "prompt": "a secret"})
        route, destination = self.routes.of_claimed(self.handler, job_id, job, Route("proj.work", queue))
        return route.queue, destination.problem or destination.routing_key


def work(prompt: str, tenant: str = "") -> str:
    return prompt


def in_turn(*answers: Any) -> Callable[..., Any]:
    """A router that returns the given results in turn; exceptions are raised."""
    turns = cycle(answers)

    def router(*_: Any, **__: Any) -> Any:
        answer = next(turns)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return router


def test_a_routing_table_is_read_once() -> None:
    case = Case({"proj.*": "red"})
    asked = []
    route = case.app.amqp.router.route
    case.app.amqp.router.route = lambda *args: asked.append(args) or route(*args)  # type: ignore[method-assign]
    assert case.look(1, 2, 3) == ["red"] * 3
    assert case.publish(1, "red") == ("red", "red")
    assert asked == []


def test_a_replaced_routing_table_is_read_again() -> None:
    case = Case({"proj.*": "red"})
    assert case.look(1) == ["red"]
    case.app.conf.task_routes = {"proj.*": "blue"}
    case.app.amqp.flush_routes()
    case.app.amqp.router = case.app.amqp.Router()
    assert case.look(1) == ["blue"]


def test_a_router_is_called_once_for_each_job() -> None:
    case = Case([in_turn("red", "blue")])
    assert case.look(1, 2, 3) == ["red", "blue", "red"]
    assert case.look(1, 2, 3) == ["red", "blue", "red"]  # they wait for a slot
    assert [case.publish(job_id, queue) for job_id, queue in ((1, "red"), (2, "blue"))] == [
        ("red", "red"),
        ("blue", "blue"),
    ]


def test_a_routers_result_expires() -> None:
    case = Case([in_turn("red", "blue")])
    assert case.look(1) == ["red"]
    case.clock.advance(ROUTE_SECONDS + 1)
    assert case.look(1) == ["blue"]


def test_a_job_for_a_queue_without_a_consumer_stays_pending_and_is_routed_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = Case([in_turn("red", "nobody", "blue")])
    assert case.look(1, 2, 3) == ["red", None, "blue"]
    assert case.look(2) == ["red"]
    for job_id in range(10, 40):
        case.look(job_id)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "proj.work stay pending" in line
    assert "queue nobody, which no online worker consumes" in line


def test_a_router_sees_the_arguments_that_the_handler_will_get() -> None:
    seen = []

    def by_tenant(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        seen.append((name, args, dict(kwargs), options, task.name))
        return {"queue": kwargs["tenant"]}

    case = Case([by_tenant])
    case.routes.begin_poll()
    assert case.ask(1, tenant="red", other="field") == "red"
    assert case.ask(2, tenant="blue") == "blue"
    assert seen[0] == ("proj.work", (), {"prompt": "a secret", "tenant": "red"}, seen[0][3], "proj.work")


def test_a_router_that_raises_leaves_jobs_pending_and_is_logged_once_without_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = Case([in_turn(ValueError("cannot route a secret"))])
    for _ in range(5):
        assert case.look(1, 2) == [None, None]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "ValueError" in line
    assert "in router" in line
    assert "test_routes.py" in line
    assert "secret" not in line


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Mute()], ids=lambda error: type(error).__name__)
def test_a_router_may_raise_anything(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    case = Case([in_turn(error)])
    assert case.look(1, 2) == [None, None]
    (line,) = [record.getMessage() for record in caplog.records]
    assert type(error).__name__ in line


def test_a_router_that_works_again_is_logged_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    case = Case([in_turn(ValueError(), "red", "red", "red")])
    caplog.set_level("INFO")
    assert [*case.look(1), *case.look(1)] == [None, "red"]
    assert len(caplog.records) == 1
    case.clock.advance(ROUTE_SECONDS + 1)
    assert case.look(2) == ["red"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize("answer", [5, ("a", "b"), {"queue": 5}, {"exchange": "none", "routing_key": "none"}, [1]])
def test_an_invalid_result_leaves_jobs_pending(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    case = Case([in_turn(answer)])
    assert case.look(1, 2) == [None, None]
    assert len(caplog.records) == 1


def test_a_slow_router_does_not_delay_claiming(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count()

    def slow(*_: Any, **__: Any) -> str:
        next(asked)
        case.clock.advance(module.ROUTING_SECONDS * 0.4)
        return "red"

    case = Case([slow])
    assert case.look(*range(10)) == ["red"] * 3 + [None] * 7
    assert case.look(*range(10)) == ["red"] * 6 + [None] * 4
    assert next(asked) == 6


def test_a_queue_that_is_not_declared_leaves_jobs_pending(caplog: pytest.LogCaptureFixture) -> None:
    case = Case({"proj.*": "nowhere"}, task_create_missing_queues=False)
    assert case.look(1) == [None]
    case.routes.known(NODES)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'nowhere' missing from task_queues" in line


def test_an_unroutable_destination_is_logged_once_with_exchange_and_key(caplog: pytest.LogCaptureFixture) -> None:
    case = Case({"proj.*": {"exchange": "media", "routing_key": "video.hd"}})
    for _ in range(3):
        assert case.routes.known(NODES) == []
        assert case.look(1) == [None]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "exchange 'media' with routing key 'video.hd'" in line
    assert "task_queues" in line


def test_with_a_router_any_queue_of_a_worker_with_the_task_counts() -> None:
    case = Case([in_turn("red")])
    others = (Node("b", 1, ("green",), ("other",)), Node("c", 1, ("blue", "grey"), ("proj.work",)))
    nodes = Nodes([*NODES, *others])
    assert {route.queue for route in case.routes.known(nodes)} == {"celery", "red", "blue", "grey"}


# -- claimed jobs ------------------------------------------------------------------------------------------


def test_a_resent_message_follows_the_routers_latest_result() -> None:
    case = Case([in_turn("red", "blue")])
    assert case.publish(1, "celery") == ("red", "red")
    assert case.publish(1, "red") == ("blue", "blue")


@pytest.mark.parametrize("answer", [ValueError("away"), {"queue": 5}, "nobody"])
def test_without_a_result_it_goes_to_the_queue_in_the_ledger(answer: Any) -> None:
    case = Case([in_turn(answer)])
    assert case.publish(1, "blue") == ("blue", "blue")


def test_without_a_consumed_queue_it_follows_the_router() -> None:
    case = Case([in_turn("nobody")])
    assert case.publish(1, "gone") == ("nobody", "nobody")


def test_a_job_whose_queue_was_removed_has_a_reason() -> None:
    case = Case({"proj.*": "nowhere"}, task_create_missing_queues=False)
    _, said = case.publish(1, "gone")
    assert "missing from task_queues" in said


# -- handlers of a worker name -------------------------------------------------------------------------------


def test_a_worker_name_restricted_to_queues_needs_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case([in_turn(ValueError("no tenant"))])
    monkeypatch.setattr(module, "load_registry", lambda app, **_: Registry([case.handler]))

    def settings(*queues: str) -> Settings:
        return Settings(name="w", workers=(WorkerNameOptions("w", queues=frozenset(queues)),))

    assert registry_of(case.app, settings()).handlers
    with pytest.raises(RoutingError, match=r"queue of proj\.work is unknown: .*ValueError: no tenant"):
        registry_of(case.app, settings("red"))
