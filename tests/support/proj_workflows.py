"""An application whose handlers hand their jobs over to workflows. ``PROJ_BACKEND`` is its result backend."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from celery import Celery, Task, chain, chord, group, shared_task
from celery.exceptions import Ignore, Reject
from celery.signals import task_postrun

from mr_celery import Artifact, Deferred, Escalate, Result, modelreins_job, raise_if_aborted, worker
from mr_celery.celery_worker.current import current_run

from .proj_base import note

app = Celery("proj", broker=os.environ["PROJ_BROKER"], backend=os.environ.get("PROJ_BACKEND") or None)
app.conf.broker_connection_retry_on_startup = True
app.conf.result_chord_retry_interval = 0.2
if rate := os.environ.get("PROJ_ACKS_LATE"):
    app.conf.task_acks_late = rate == "1"


# -- members -------------------------------------------------------------------------------------------------


@app.task
def add(x: Any, y: Any) -> Any:
    note(f"add {x} {y}")
    return x + y


@shared_task
def total(numbers: list[int]) -> int:
    note("total")
    return sum(numbers)


@app.task
def upper(text: str) -> str:
    note(f"upper {text}")
    return text.upper()


@app.task
def nap(text: str, seconds: float) -> str:
    note(f"begin {text}")
    time.sleep(seconds)
    note(f"end {text}")
    return text


@app.task
def patient(text: str, seconds: float) -> str:
    note(f"begin {text}")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        raise_if_aborted()
        time.sleep(0.05)
    note(f"end {text}")
    return text


@app.task
def boom(*_: Any, text: str = "it broke") -> None:
    note(f"boom {text}")
    raise ValueError(text)


@app.task
def swallow(*args: Any) -> None:
    note("errback")


@app.task
def callback(value: Any) -> None:
    note(f"callback {value}")


@app.task(bind=True, default_retry_delay=0)
def flaky(self: Task[Any, Any], text: str, times: int = 2) -> str:
    note(f"try {text}")
    if self.request.retries < times:
        raise self.retry(countdown=0.1)
    return f"{text} after {self.request.retries}"


BEGUN, ENDED = threading.Event(), threading.Event()


class Overlapping(Task[Any, Any]):
    """Its first execution ends only once its retry has begun."""

    def on_retry(self, *_: Any) -> None:
        if self.request.retries == 0:
            BEGUN.wait(20)


@app.task(bind=True, base=Overlapping, default_retry_delay=0)
def overlaps(self: Task[Any, Any], text: str) -> str:
    note(f"try {text}")
    if self.request.retries == 0:
        task_postrun.connect(lambda **_: ENDED.set(), sender=self, weak=False)  # after the receivers of mr-celery
    elif self.request.retries == 1:
        BEGUN.set()
        ENDED.wait(20)
    if self.request.retries < 2:
        raise self.retry()
    return f"{text} after {self.request.retries}"


@app.task(autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0, max_retries=1)
def gives_up(text: str) -> None:
    note(f"try {text}")
    raise ValueError(f"no {text}")


@app.task(bind=True)
def grows(self: Task[Any, Any], number: int) -> int:
    note(f"grows {number}")
    raise self.replace(chain(add.s(number, 1), add.s(1)))


@app.task(bind=True)
def swaps(self: Task[Any, Any], number: int) -> int:
    note(f"swaps {number}")
    raise self.replace(add.s(number, 100))


@app.task
def ignores() -> None:
    raise Ignore("nothing to do")


@app.task
def rejects() -> None:
    raise Reject("no", requeue=False)


@app.task
def about_job() -> str:
    run = current_run()
    return f"{run.job.id} {run.job.prompt}" if run else "no job"


@app.task
def uploads(text: str) -> str:
    slug = worker.upload_artifact(data=text.encode(), content_type="text/plain", filename="a.txt")["slug"]
    return f"uploaded {slug}"


@app.task
def defers() -> Deferred:
    run = current_run()
    assert run is not None
    note(f"ref {run.job.ref}")
    return Deferred(timeout=60)


@app.task
def picture(text: str) -> Result:
    return Result(f"made {text}", artifacts=[Artifact(data=b"png", content_type="image/png", filename="p.png")])


@app.task
def escalates(*_: Any) -> None:
    raise Escalate("look at it")


@app.task
async def awaits(text: str) -> str:
    return f"awaited {text}"


@app.task
def further(number: int) -> Any:
    return chain(add.s(number, 1), add.s(1))


@app.task(time_limit=1)
def too_slow() -> None:
    note("too slow")
    time.sleep(60)


@app.task
def dies(text: str, times: int = 1) -> str:
    """Kills its own process the given number of times."""
    note(f"dies {text}")
    with open(os.environ["PROJ_RUNS"]) as file:
        if file.read().split("\n").count(f"dies {text}") <= times:
            os.kill(os.getpid(), 9)
    return text


# -- handlers ------------------------------------------------------------------------------------------------


def canvas(name: str, prompt: str) -> Any:
    """A workflow by its name."""
    return {
        "single": lambda: upper.s(prompt),
        "chain": lambda: chain(add.s(1, 2), add.s(3), add.s(4)),
        "immutable": lambda: chain(add.s(1, 2), upper.si(prompt)),
        "group": lambda: group(add.s(n, n) for n in range(3)),
        "single-group": lambda: group([add.s(2, 2)]),
        "chord": lambda: chord([add.s(n, n) for n in range(4)], total.s()),
        "chord-in-chain": lambda: chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s(), add.s(10)),
        "group-in-chain": lambda: chain(add.s(1, 1), group(add.s(1), add.s(2))),
        "nested": lambda: chord(
            [chord([add.s(1, 1), add.s(2, 2)], total.s()), chain(add.s(3, 3), add.s(4)), add.s(5, 5)], total.s()
        ),
        "chord-to-group": lambda: chord([add.s(1, 1), add.s(2, 2)], group(total.s(), total.s())),
        "chunks": lambda: add.chunks([(n, n) for n in range(4)], 2),
        "map": lambda: chain(upper.map(["a", "b"]), about_list.s()),
        "queue": lambda: chain(add.s(1, 2).set(queue="other"), add.s(3)),
        "link": lambda: chain(add.s(1, 2), add.s(3)).on_error(swallow.s()),
        "callback": lambda: add.s(1, 2).set(link=callback.s()),
        "countdown": lambda: chain(add.s(1, 2).set(countdown=1), add.s(3)),
        "overlaps": lambda: chain(overlaps.s(prompt), upper.s()),
        "flaky": lambda: chain(flaky.s(prompt), upper.s()),
        "gives-up": lambda: chain(add.s(1, 1), gives_up.si(prompt), upper.s()),
        "fails": lambda: chain(add.s(1, 2), boom.s(), upper.s()),
        "errback": lambda: chain(add.s(1, 2), boom.s().on_error(swallow.s()), upper.s()),
        "header-fails": lambda: chord([add.s(1, 1), boom.s(), add.s(2, 2)], total.s()),
        "body-fails": lambda: chord([add.s(1, 1), add.s(2, 2)], boom.s()),
        "nested-fails": lambda: chord([chord([add.s(1, 1), boom.s()], total.s()), add.s(5, 5)], total.s()),
        "ignores": lambda: chain(ignores.s(), upper.si("x")),
        "rejects": lambda: chain(rejects.s(), upper.si("x")),
        "grows": lambda: chain(grows.s(1), add.s(10)),
        "grows-last": lambda: chain(add.s(1, 1), grows.s()),
        "swaps": lambda: chain(swaps.s(1), add.s(10)),
        "swaps-last": lambda: chain(add.s(1, 1), swaps.s()),
        "swaps-header": lambda: chord([swaps.s(1), grows.s(1)], total.s()),
        "further": lambda: chain(add.s(1, 1), further.s()),
        "about-job": lambda: chain(add.s(1, 1), about_job.si()),
        "uploads": lambda: chain(uploads.s(prompt), upper.s()),
        "uploads-first": lambda: chain(uploads.s(prompt), nap.s(0.0)),
        "uploads-last": lambda: uploads.s(prompt),
        "picture": lambda: chain(upper.s(prompt), picture.s()),
        "escalates": lambda: chain(add.s(1, 1), escalates.s()),
        "awaits": lambda: chain(awaits.s(prompt), upper.s()),
        "too-slow": lambda: chain(add.s(1, 1), too_slow.si()),
        "handler": lambda: chain(plain.si(prompt), upper.s()),
        "empty": lambda: chain(),
        "unknown": lambda: chain(add.s(1, 1), app.signature("proj.unknown", (), immutable=True)),
        "unencodable": lambda: chain(add.s(1, 1), upper.si(object())),
        "dies": lambda: chain(add.s(1, 1), dies.si(prompt), upper.s()),
        "dies-always": lambda: chain(add.s(1, 1), dies.si(prompt, 99), upper.s()),
        "dies-header": lambda: chord([add.s(1, 1), dies.si(prompt)], about_list.s()),
        "nap": lambda: chain(nap.s(prompt, 30.0), upper.s()),
        "short-nap": lambda: chain(nap.s(prompt, 3.0), nap.s(3.0), upper.s()),
        "naps": lambda: chord([nap.s(f"{prompt} {n}", 30.0) for n in range(2)], about_list.s()),
        "defers": lambda: chain(add.s(1, 1), defers.si()),
        "naps-short": lambda: chord([nap.s(prompt, 1.0), nap.s(prompt, 2.0)], about_list.s()),
        "patient": lambda: chain(patient.s(prompt, 30.0), upper.s()),
    }[name]()


@app.task
def about_list(values: list[Any]) -> str:
    return " ".join(str(each) for each in values)


@modelreins_job("plain")
@app.task
def plain(prompt: str) -> str:
    return f"plain {prompt}"


@modelreins_job("return")
@app.task
def returns(prompt: str, input: str) -> Any:
    """Returns the workflow that the job's input names."""
    note(f"handler {prompt}")
    return canvas(input, prompt)


@modelreins_job("replace")
@app.task(bind=True, autoretry_for=(Exception,))
def replaces(self: Task[Any, Any], prompt: str, input: str) -> Any:
    """Replaces itself with the workflow that the job's input names."""
    note(f"handler {prompt}")
    return self.replace(canvas(input, prompt))


@modelreins_job("async-return")
@app.task
async def async_returns(prompt: str, input: str) -> Any:
    return canvas(input, prompt)


@modelreins_job("once", on_lost="fail")
@app.task
def once(prompt: str, input: str) -> Any:
    note(f"handler {prompt}")
    return canvas(input, prompt)


@modelreins_job("often", max_attempts=20)
@app.task
def often(prompt: str, input: str) -> Any:
    return canvas(input, prompt)


@modelreins_job("converted", result=lambda value: f"result of {value}")
@app.task
def converted(prompt: str, input: str) -> Any:
    return canvas(input, prompt)


@modelreins_job("add-to-chord")
@app.task(bind=True)
def adds_to_chord(self: Task[Any, Any], prompt: str) -> Any:
    return self.add_to_chord(add.s(1, 1))
