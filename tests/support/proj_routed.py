"""The Celery application for the tests of routes: a task for each kind of route."""

from __future__ import annotations

import os
import time
from itertools import cycle
from typing import Any

from kombu import Exchange, Queue
from kombu.common import Broadcast

from mr_celery import modelreins_job

from .proj import app
from .proj_base import note, upper_of

__all__ = ["app"]

MEDIA = Exchange("media", type="topic")
PRINT = Exchange("print", type="direct")
OTHER = {"x-max-length": int(os.environ["PROJ_OTHER"])} if "PROJ_OTHER" in os.environ else None
NAME = "support.proj_routed."
TABLE: dict[str, Any] = {
    f"{NAME}topic": {"exchange": "media", "exchange_type": "topic", "routing_key": "video.hd"},
    f"{NAME}direct": {"exchange": "print", "routing_key": "grey"},
    f"{NAME}nowhere": {"exchange": "media", "exchange_type": "topic", "routing_key": "nobody.listens"},
    f"{NAME}broadcast": {"queue": "everybody"},
    f"{NAME}other": {"queue": "other"},
}

_turns = cycle(["red", "nobody", "blue"])


def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
    """Returns routes that vary from message to message, and with the arguments."""
    if name == f"{NAME}turns":
        return {"queue": next(_turns)}
    if name == f"{NAME}tenant":
        return {"queue": kwargs["tenant"]}
    return None


app.conf.update(
    task_queues=[
        Queue("celery", Exchange("celery"), routing_key="celery"),
        Queue("video", MEDIA, routing_key="video.#"),
        Queue("grey", PRINT, routing_key="grey"),
        Queue("other", Exchange("other"), routing_key="other", queue_arguments=OTHER),
        Broadcast("everybody"),
    ],
    task_routes=[router, TABLE] if "PROJ_ROUTER" in os.environ else TABLE,
)


OPTIONS: dict[str, dict[str, Any]] = {
    "own": {"exchange": "print", "routing_key": "grey"},
    "unpublishable": {"serializer": "nonesuch"},
}
"""Options of tasks, besides their routes."""

for kind in ("plain", "topic", "direct", "own", "broadcast", "nowhere", "other", "turns", "unpublishable"):
    modelreins_job(kind)(app.task(upper_of, name=f"{NAME}{kind}", **OPTIONS.get(kind, {})))


@modelreins_job("long")
@app.task
def long(prompt: str) -> str:
    note(prompt)
    time.sleep(3)
    return prompt.upper()


@modelreins_job("tenant")
@app.task
def tenant(prompt: str, tenant: str) -> str:
    note(prompt)
    return f"{tenant}: {prompt}"
