"""The priority of a job's message, and the task's options for it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu.transport.redis import PRIORITY_STEPS

from mr_celery.bridge.publisher import message_priority
from mr_celery.celery_compat import exec_options
from mr_celery.job import PRIORITIES


class TestMessagePriority:
    @pytest.mark.parametrize(
        ("driver", "max_priority", "levels"),
        [
            ("redis", None, [0, 3, 6]),
            ("redis", 10, [0, 3, 6]),
            ("amqp", 10, [10, 5, 0]),
            ("py-amqp", 10, [10, 5, 0]),
            ("amqp", 255, [255, 127, 0]),
            ("amqp", 2, [2, 1, 0]),
            ("amqp", 1, [1, 0, 0]),
            ("amqp", None, [None, None, None]),
            ("py-amqp", None, [None, None, None]),
            ("amqp", 0, [None, None, None]),
            ("memory", None, [None, None, None]),
            ("memory", 10, [None, None, None]),
            ("sqs", 10, [None, None, None]),
            ("", None, [None, None, None]),
        ],
    )
    def test_matches_the_broker(self, driver: str, max_priority: int | None, levels: list[int | None]) -> None:
        assert [message_priority(driver, max_priority, priority) for priority in PRIORITIES] == levels

    def test_is_one_of_the_steps_of_celerys_redis_queues(self) -> None:
        assert {message_priority("redis", None, priority) for priority in PRIORITIES} <= set(PRIORITY_STEPS)


def task_with(app: Celery | None = None, **options: Any) -> Any:
    """A task declared with these options."""
    made = app or Celery(set_as_current=False)

    @made.task(name="work", **options)
    def work(prompt: str) -> None: ...

    work.name  # noqa: B018 - resolves it
    return work


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
class TestExecOptions:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("queue", "gpu"),
            ("routing_key", "gpu.high"),
            ("exchange", "media"),
            ("priority", 4),
            ("priority", 0),
            ("expires", 60),
            ("serializer", "yaml"),
            ("delivery_mode", 1),
            ("compression", "zlib"),
            ("time_limit", 30),
            ("soft_time_limit", 20),
        ],
    )
    def test_are_those_of_the_task(self, name: str, value: object) -> None:
        assert exec_options(task_with(**{name: value}))[name] == value

    def test_leave_out_unset_options(self) -> None:
        options = exec_options(task_with())

        assert None not in options.values()
        assert not options.keys() & {"queue", "priority", "expires", "time_limit", "soft_time_limit"}

    def test_are_a_copy(self) -> None:
        task = task_with(queue="gpu")
        exec_options(task)["queue"] = "other"

        assert exec_options(task)["queue"] == "gpu"

    def test_include_the_applications_defaults(self) -> None:
        app = Celery(set_as_current=False)
        app.conf.task_serializer = "yaml"

        assert exec_options(task_with(app))["serializer"] == "yaml"

    def test_are_those_that_celery_itself_uses(self) -> None:
        task = task_with(queue="gpu", time_limit=30)
        own = {key: value for key, value in task._get_exec_options().items() if value is not None}

        assert exec_options(task) == own
