"""An application with Sentry, whose jobs end in every way. Sentry's items are written to ``PROJ_SENTRY``.

Requests and ledger steps fail on demand, at the point where the variables hold the most. The text of a job selects a
fault by the words in :data:`FAULTS`. It happens when the process that they name sends these words in capitals.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import redis.connection
import sentry_sdk
from celery import Task
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from mr_celery import Artifact, Deferred, Escalate, Job, JobFailed, Result, Review, modelreins_job, worker
from mr_celery.server.transport import _Connection

from .proj_base import new_app
from .spans import ToFile

PROMPT = "MarkedPrompt6b0e"
RESULT = "MarkedResult41fa"
FILE = "MarkedFile9d27"

ROLE = "bridge" if "bridge" in sys.argv else "worker"


class Recording(Transport):
    """A transport that writes each item as a line of JSON."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.payload.json is not None:
                write({"type": item.type, "role": ROLE, **item.payload.json})


def write(line: dict[str, Any]) -> None:
    with open(os.environ["PROJ_SENTRY"], "a") as file:
        file.write(json.dumps(line, default=repr) + "\n")


def with_locals(event: Any, hint: dict[str, Any]) -> Any:
    """Write each exception also as ``traceback`` prints it with ``capture_locals``, frame by frame."""
    error = hint.get("exc_info", (None, None, None))[1]
    if error is not None:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        write({"type": "locals", "role": ROLE, "frames": frames_of(shown)})
    return event


def frames_of(shown: traceback.TracebackException | None) -> list[tuple[str, str, Any]]:
    """File, function and variables of all frames, including those of the causes."""
    if shown is None:
        return []
    own = [(frame.filename, frame.name, frame.locals) for frame in shown.stack]
    return own + frames_of(shown.__cause__) + frames_of(shown.__context__)


sentry_sdk.init(
    "http://key@127.0.0.1:9/1",
    transport=Recording,
    traces_sample_rate=1.0,
    integrations=[CeleryIntegration()],
    attach_stacktrace=True,
    before_send=with_locals,
)

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ToFile(os.environ["PROJ_SPANS"])))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()

app = new_app("tracked")
logger = logging.getLogger(__name__)


# -- faults -------------------------------------------------------------------------------------------


def hang() -> None:
    time.sleep(60)


def fail() -> None:
    raise RuntimeError("a fault of our own")


FAULTS: dict[bytes, tuple[str, Callable[[], None]]] = {
    b"HANG-WORKER": ("worker", hang),
    b"BREAK-WORKER": ("worker", fail),
    b"BREAK-BRIDGE": ("bridge", fail),
    b"BREAK-LEDGER-OF-WORKER": ("ledger of worker", fail),
    b"BREAK-LEDGER-OF-BRIDGE": ("ledger of bridge", fail),
}
"""What happens when a process sends these words: to the server, or to its ledger."""

_happened: set[bytes] = set()


def check(data: object, place: str) -> None:
    """Cause a fault, once per process, while the job is in the variables."""
    if not isinstance(data, bytes):
        return
    for words, (where, fault) in FAULTS.items():
        if where == place and words in data and words not in _happened:
            if fault is fail:
                _happened.add(words)
            fault()


send, send_packed = _Connection.send, redis.connection.AbstractConnection.send_packed_command


def send_or_fail(self: Any, data: Any) -> None:
    check(data, ROLE)
    send(self, data)


def send_packed_or_fail(self: Any, command: Any, *args: Any, **options: Any) -> None:
    for part in command if isinstance(command, list) else [command]:
        check(part, f"ledger of {ROLE}")
    send_packed(self, command, *args, **options)


_Connection.send = send_or_fail  # type: ignore[method-assign]
redis.connection.AbstractConnection.send_packed_command = send_packed_or_fail  # type: ignore[method-assign]


# -- handlers -----------------------------------------------------------------------------------------


def text(job: Job) -> str:
    """Returns the text that the job asks for."""
    return f"{RESULT} {job['words']}"


@modelreins_job("done")
@app.task
def done(job: Job) -> Result:
    file = Artifact(data=f"{FILE} {job['words']}".encode(), content_type="text/plain", filename="file.txt")
    review = Review(type="text", title="Title", content=text(job), preview=file)
    worker.upload_artifact(FILE.encode(), "text/plain", filename="early.txt")
    worker.submit_review("text", "Early", RESULT)
    return Result(text(job), artifacts=[file], reviews=[review])


@modelreins_job("plain")
@app.task(soft_time_limit=2)
def plain(prompt: str, words: str) -> str:
    return f"{RESULT} {words}"


@modelreins_job("plain-hard")
@app.task(time_limit=2)
def plain_hard(prompt: str, words: str) -> str:
    return f"{RESULT} {words}"


@modelreins_job("file")
@app.task(soft_time_limit=2)
def with_file(prompt: str, words: str) -> Artifact:
    return Artifact(data=f"{FILE} {words}".encode(), content_type="text/plain", filename="file.txt")


@modelreins_job("large")
@app.task(soft_time_limit=2)
def with_large_file(prompt: str, words: str) -> Artifact:
    data = f"{FILE} {words}".encode().ljust(2**20 + 1)
    return Artifact(data=data, content_type="text/plain", filename="file.txt")


@modelreins_job("filed")
@app.task
def files_review(prompt: str) -> Result:
    return Result(RESULT, reviews=[Review(type="text", title=RESULT, content=RESULT)])


@modelreins_job("upload")
@app.task(soft_time_limit=2)
def uploads(prompt: str, words: str) -> str:
    worker.upload_artifact(f"{FILE} {words}".encode(), "text/plain", filename="early.txt")
    return RESULT


@modelreins_job("upload-hard")
@app.task(time_limit=2)
def uploads_hard(prompt: str, words: str) -> str:
    worker.upload_artifact(f"{FILE} {words}".encode(), "text/plain", filename="early.txt")
    return RESULT


@modelreins_job("review")
@app.task(soft_time_limit=2)
def reviews(prompt: str, words: str) -> str:
    worker.submit_review("text", "Early", f"{RESULT} {words}")
    return RESULT


@modelreins_job("raise", on_error=lambda job, error: sentry_sdk.capture_exception(error))
@app.task
def raises(prompt: str) -> str:
    logger.error("the handler logs")
    raise ValueError("no")


@modelreins_job("escalate")
@app.task
def escalates(prompt: str) -> str:
    raise Escalate(f"{RESULT} is to be looked at")


@modelreins_job("fail")
@app.task
def fails(prompt: str) -> str:
    raise JobFailed("no", artifacts=[Artifact(data=FILE.encode(), content_type="text/plain")])


@modelreins_job("defer")
@app.task
def defers(prompt: str) -> Deferred:
    return Deferred(timeout=1)


@modelreins_job("retry")
@app.task(bind=True, max_retries=2)
def retries(self: Any, prompt: str, stage: int = 0) -> str:
    if stage == 0:
        raise self.retry(exc=ValueError("not yet"), countdown=0, kwargs={"stage": 1})
    raise self.retry(exc=ValueError("never"), countdown=0) if self.request.retries < 2 else ValueError("over")


@modelreins_job("autoretry")
@app.task(autoretry_for=(OSError,), retry_kwargs={"countdown": 0, "max_retries": 1})
def autoretries(prompt: str) -> str:
    raise OSError("never")


@app.task
def member(length: int) -> str:
    raise ValueError("in a member")


@modelreins_job("workflow")
@app.task
def starts_workflow(prompt: str) -> Any:
    return member.s(len(prompt))


@modelreins_job("wait")
@app.task
def waits(job: Job) -> str:
    while True:
        job.raise_if_aborted()
        time.sleep(0.1)


@modelreins_job("die", max_attempts=1)
@app.task
def dies(prompt: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return prompt


def wrong(*_: Any) -> Any:
    raise ValueError("wrong")


@modelreins_job("arguments", arguments=wrong)
@app.task
def with_arguments(prompt: str) -> str:
    return prompt


@modelreins_job("result", result=wrong, on_error=wrong)
@app.task
def with_result(prompt: str) -> str:
    return f"{RESULT} {prompt}"


@modelreins_job("no-result")
@app.task
def without_result(prompt: str) -> Any:
    return {prompt: {RESULT}}


@modelreins_job("async")
@app.task
async def asynchronous(prompt: str, words: str) -> str:
    await worker.aupload_artifact(f"{FILE} {words}".encode(), "text/plain")
    raise ValueError("in a coroutine")


class FailsAfter(Task):  # type: ignore[type-arg]
    def on_success(self, *_: Any) -> None:
        raise ValueError("in a hook")


@modelreins_job("hook")
@app.task(base=FailsAfter)
def with_hook(prompt: str) -> str:
    return RESULT


@app.task
def without_job(text: str) -> str:
    """A task without a job. Its variables are reported as usual."""
    raise ValueError("without a job")
