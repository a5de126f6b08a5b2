"""Prompts, results and tokens do not leak into logs, events, keys, messages or arguments."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from kombu import Connection, Queue

from mr_celery.ledger import Fleet as Register
from mr_celery.ledger import Ledger, Node
from mr_celery.message import accept
from mr_celery.sandbox import Sandbox
from support import fork_server
from support.echo import Echo
from support.fleet import BIN, Fleet
from support.ports import until
from support.recorder import Recorder
from support.servers import RabbitServer, RedisServer

PROMPT = "MarkedPrompt7c1e"
SECRET = "MarkedField93ab"
TOKEN = "MarkedToken5d2e"
WRONG = "MarkedWrong8b40"
ADMIN = "MarkedAdmin17fe"
MARKS = (PROMPT, SECRET, TOKEN, WRONG, ADMIN)

EVERYWHERE = {
    "fine": "done",
    "raise": "failed",
    "signal": "failed",
    "clumsy": "failed",
    "unpicklable": "failed",
    "throws": "failed",
    "retry": "done",
    "autoretry": "failed",
    "escalate": "escalated",
    "fail": "failed",
    "unreadable": "failed",
    "too-large": "done",
    "exit": "failed",
    "memory": "failed",
    "match": "pending",
    "arguments": "failed",
    "unheard-of": "failed",
}
"""Expected status by capability, in every pool."""

PREFORK = {**EVERYWHERE, "soft-limit": "failed", "hard-limit": "failed", "die": "failed"}

OWN = re.compile(rb"job|outcome|blob:\d+")
"""Fields of a job's record that have the job's content or outcome."""

Piece = tuple[str, bytes]
"""A searched text: its place and its content."""


def forms(mark: str) -> list[bytes]:
    """A mark in plain text, and in base64 at each possible alignment."""
    found = [mark.encode(), mark.upper().encode(), mark.lower().encode()]
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + mark.encode() + b"x" * 3)
        found.append(encoded[4 if shift else 0 : len(encoded) // 4 * 4 - 8])
    return found


FORMS = {mark: forms(mark) for mark in MARKS}


def marks_in(pieces: list[Piece]) -> list[str]:
    """Find marks, with the surrounding text."""
    found = []
    for where, content in pieces:
        for mark, looks in FORMS.items():
            for look in looks:
                if look in content:
                    at = content.index(look)
                    found.append(f"{mark} in {where}: {content[max(0, at - 300) : at + 100].decode(errors='replace')}")
                    break
    return found


def redis_pieces(server: RedisServer) -> list[Piece]:
    """Everything in a Redis, with one entry for each field, element or value."""
    pieces: list[Piece] = []
    for db in range(4):
        client = server.client(db)
        for key in client.scan_iter(count=1000):
            kind, name = client.type(key).decode(), f"redis {db} {key.decode(errors='replace')}"
            pieces.append((f"{name} (the key)", key))
            if kind == "hash":
                pieces += [(f"{name} {field.decode()}", value) for field, value in client.hgetall(key).items()]
            elif kind == "list":
                pieces += [(name, value) for value in client.lrange(key, 0, -1)]
            elif kind == "set":
                pieces += [(name, value) for value in client.smembers(key)]
            elif kind == "zset":
                pieces += [(name, value) for value, _ in client.zrange(key, 0, -1, withscores=True)]
            elif kind == "string":
                pieces.append((name, client.get(key) or b""))
            else:
                assert kind == "none", f"{name} is a {kind}"  # it has just gone
        client.close()
    return pieces


def is_own(piece: Piece) -> bool:
    """Whether the ledger stores a job's content in this place."""
    match = re.fullmatch(r"redis 1 modelreins:\{[^}]*\}:(?:(?:job|payload):\d+ (\S+)|outcome:\d+)", piece[0])
    return match is not None and (match[1] is None or OWN.fullmatch(match[1].encode()) is not None)


MARKED = Path(__file__).parents[1] / "support" / "proj_marked.py"
TASKS = [f"support.proj_marked.{name}" for name in re.findall(r"@app\.task.*\ndef (\w+)", MARKED.read_text())]
"""The tasks of the application, whose messages this process reads."""


def queue_pieces(broker: str, queue: str) -> list[Piece]:
    """Read the messages in a queue, without removing them."""
    pieces: list[Piece] = []
    for task in TASKS:
        accept(task)
    with Connection(broker) as connection, connection.channel() as channel:
        bound = Queue(queue)(channel)
        messages = list(iter(bound.get, None))
        for message in messages:
            said = json.dumps([message.headers, message.properties, message.payload], default=repr)
            pieces.append((f"queue {queue}", said.encode()))
            message.requeue()
    return pieces


def argument_pieces(fleet: Fleet) -> list[Piece]:
    """The arguments of all the fleet's processes."""
    alive = [psutil.Process(each.popen.pid) for each in fleet.processes if each.popen.poll() is None]
    everyone = [each for parent in alive for each in (parent, *parent.children(recursive=True))]
    pieces: list[Piece] = []
    for each in everyone:
        with suppress(FileNotFoundError):  # it has just ended
            pieces.append((f"arguments of {each.pid}", Path(f"/proc/{each.pid}/cmdline").read_bytes()))
    return pieces


def log_pieces(fleet: Fleet) -> list[Piece]:
    return [(process.log.name, process.log.read_bytes()) for process in fleet.processes]


def event_pieces(recorder: Recorder) -> list[Piece]:
    return [(f"event {event['type']}", json.dumps(event, default=repr).encode()) for event in list(recorder.events)]


def command(fleet: Fleet, *arguments: str, **environment: str) -> Piece:
    """Run a command, and return its output."""
    whole = [str(BIN / "celery"), "-A", fleet.app, "modelreins", *arguments]
    done = fork_server.run(whole, env={**fleet.environment, **environment}, timeout=60)
    assert "Traceback" not in done.stderr
    return f"modelreins {' '.join(arguments)}", (done.stdout + done.stderr).encode()


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, redis_server: RedisServer) -> str:
    if request.param == "redis":
        return redis_server.url(0)
    rabbit: RabbitServer = request.getfixturevalue("rabbit_server")
    return rabbit.url


@pytest.fixture
def marked(redis_server: RedisServer, tmp_path: Path, broker: str) -> Iterator[Fleet]:
    """An installation with marked tokens, whose result backend stores as much as Celery can."""
    with Sandbox(TOKEN) as sandbox:
        fleet = Fleet(sandbox, broker=broker, ledger=redis_server.url(1), folder=tmp_path, app="support.proj_marked")
        fleet.environment["PROJ_CONF"] = json.dumps(
            {
                "result_backend": redis_server.url(2),
                "task_store_errors_even_if_ignored": True,
                "result_extended": True,
                "task_send_sent_event": True,
                "task_track_started": True,
                "task_default_queue": f"q{redis_server.port}-{tmp_path.name}",
            }
        )
        fleet.forks = False  # forks would not have the arguments that are checked
        yield fleet
        fleet.stop()


@pytest.fixture
def recorder(broker: str) -> Iterator[Recorder]:
    recorder = Recorder(broker)
    recorder.start()
    recorder.listening()
    yield recorder
    recorder.stop()


def queue_of(fleet: Fleet) -> str:
    return str(json.loads(fleet.environment["PROJ_CONF"])["task_default_queue"])


def announce_a_worker(fleet: Fleet) -> Register:
    """Announce a worker that does not exist, so that messages wait in the queue."""
    app = Celery("names", set_as_current=False)
    app.close()
    tasks = tuple(f"support.proj_marked.{name}" for name in ("fine", "raises", "retries"))
    register = Register(fleet.environment["MODELREINS_LEDGER_URL"])
    register.announce(Node("nobody@test", concurrency=10, queues=(queue_of(fleet),), tasks=tasks), seconds=120)
    return register


def dispatch(fleet: Fleet, capability: str) -> int:
    return fleet.dispatch(f"{PROMPT} {capability}", capability, secret=SECRET)


def ended(fleet: Fleet, ids: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Wait for the jobs that end. Returns all jobs by capability."""
    fleet.ended(*(job_id for each, job_id in ids.items() if PREFORK[each] != "pending"), seconds=120)
    return {each: fleet.job(job_id) for each, job_id in ids.items()}


@pytest.mark.long
@pytest.mark.timeout(420)  # it runs some thirty commands
def test_no_prompt_result_or_token_leaks(
    marked: Fleet, redis_server: RedisServer, broker: str, recorder: Recorder, request: pytest.FixtureRequest
) -> None:
    fleet, pieces = marked, list[Piece]()
    json_first = "redis" in request.node.name
    numbers = iter(range(1, 1_000_000))

    def echoes(method: str, path: str) -> bool:
        """Select every third claim, upload, review and close."""
        return method == "POST" and not path.startswith("/api") and next(numbers) % 3 == 0

    with Echo(fleet.sandbox.url, echoes) as echo:
        fleet.environment["MODELREINS_URL"] = echo.url
        fleet.bridge("-l", "DEBUG")
        fleet.bridge("-l", "DEBUG", "--log-format", "json")
        register = announce_a_worker(fleet)
        early = {capability: dispatch(fleet, capability) for capability in ("fine", "raise", "retry")}
        ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
        until(lambda: len(ledger.in_state("sent")) == len(early), what="the messages wait")
        waiting = queue_pieces(broker, queue_of(fleet))
        assert len(waiting) == len(early)
        pieces += waiting
        before = redis_pieces(redis_server)
        pieces += before

        worker_format = "json" if json_first else "text"
        fleet.worker("-c", "4", "-E", "-l", "DEBUG", MODELREINS_LOG_FORMAT=worker_format)
        register.withdraw("nobody@test")
        ids = {**early, **{each: dispatch(fleet, each) for each in PREFORK if each not in early}}
        for capability, job in ended(fleet, ids).items():
            assert (capability, job["status"]) == (capability, PREFORK[capability])
            pieces += argument_pieces(fleet)
        assert any(path.endswith("/close") for path in echo.echoed)
        pieces += redis_pieces(redis_server)

        refused = fleet.bridge("-l", "DEBUG", ready=False, MODELREINS_TOKEN=WRONG, MODELREINS_NAME="other")
        refused.says("the server refuse")
        pieces.append(command(fleet, "register", "--yes", MODELREINS_ADMIN_TOKEN=ADMIN))
        for arguments in (("status",), ("status", "--json"), ("jobs",), ("jobs", "--json"), ("check",)):
            pieces.append(command(fleet, *arguments))
        for job_id in ids.values():
            pieces += [command(fleet, "jobs", str(job_id), *options) for options in ((), ("--json",))][
                : 2 - (job_id > 3)
            ]
        failed = {each for each, status in PREFORK.items() if status == "failed"}
        until(
            lambda: {"task-failed", "task-retried", "task-succeeded"} <= {each["type"] for each in recorder.events},
            what="all kinds of events",
        )
        for process in fleet.processes:
            process.terminate()
    recorder.stop()
    pieces += [*redis_pieces(redis_server), *log_pieces(fleet), *event_pieces(recorder)]

    # The marks are found where they belong, which proves that the search works.
    own = [piece for piece in pieces if is_own(piece)]
    assert any(PROMPT.encode() in said and where.endswith(" job") for where, said in own)
    assert len(marks_in(own)) > len(failed)
    assert marks_in([("base64", base64.b64encode(json.dumps([[PROMPT], {}]).encode()))])
    logs = b"".join(said for _, said in log_pieces(fleet))
    assert b"ValueError" in logs
    assert b"redacted: see the output of job" in logs

    assert marks_in([piece for piece in pieces if not is_own(piece)]) == []
    in_json(fleet.processes[1].output.splitlines())
    if json_first:
        # Celery prints a warning about running as root before it sets up logging, and its shutdown message beside it.
        lines = fleet.processes[2].output.splitlines()
        first = next(index for index, line in enumerate(lines) if line.startswith("{"))
        in_json([line for line in lines[first:] if line not in ("", "worker: Warm shutdown (MainProcess)")])


def in_json(lines: list[str]) -> None:
    """Check that each line is an object with the common fields."""
    assert len(lines) > 10
    for line in lines:
        assert {"timestamp", "level", "logger", "message"} <= json.loads(line).keys()


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_secrets_of_a_job_leak_nowhere_and_are_gone_when_it_is_closed(
    marked: Fleet, redis_server: RedisServer, broker: str, recorder: Recorder
) -> None:
    """Its handler logs the job, and puts the secret into an exception and a result."""
    fleet = marked
    fleet.bridge("-l", "DEBUG")
    worker = fleet.worker("-c", "1", "-E", "-l", "DEBUG")
    jobs = {each: fleet.dispatch("harmless", each, env={"API_KEY": SECRET}) for each in ("leak", "leak.too")}
    raised, returned = fleet.ended(*jobs.values())
    assert "ValueError: refused: ***" in raised["result"]
    assert (returned["status"], returned["result"]) == ("done", "done with ***")
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    until(lambda: not ledger.survey().in_flight, what="both are closed in the ledger")
    worker.says("'API_KEY': '***'")
    pieces = [*redis_pieces(redis_server), *[command(fleet, "jobs", str(each), "--json") for each in jobs.values()]]
    assert any(where.endswith(f"outcome:{jobs['leak']}") for where, _ in pieces)
    for process in fleet.processes:
        process.terminate()
    recorder.stop()
    assert marks_in([*pieces, *log_pieces(fleet), *event_pieces(recorder)]) == []


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_real_exception_is_visible_in_the_process_only(
    marked: Fleet, redis_server: RedisServer, broker: str, recorder: Recorder, pool: str
) -> None:
    fleet = marked
    worker = fleet.worker("-P", pool, "-c", "2", "-E", "-l", "DEBUG")
    fleet.bridge()
    # If a task's on_failure raises, Celery's worker ends under solo, and gevent prints the exception to stderr.
    left_out = {"clumsy"} if pool in ("solo", "gevent") else set()
    ids = {each: dispatch(fleet, each) for each in EVERYWHERE if each not in left_out}
    for capability, job in ended(fleet, ids).items():
        assert (capability, job["status"]) == (capability, EVERYWHERE[capability])
        if capability in ("raise", "throws", "unpicklable", "autoretry"):
            assert PROMPT in job["result"]  # the job's output keeps the text
    until(lambda: sum(event["type"] == "task-failed" for event in recorder.events) >= 8, what="the failures")
    with Celery("publisher", broker=broker, set_as_current=False) as app:
        app.send_task("support.proj_marked.plain", ("in words of its own",), queue=queue_of(fleet))
    worker.says("ValueError('plain in words of its own')")
    worker.terminate()
    recorder.stop()

    seen = fleet.runs.read_text()
    assert f"on_failure ValueError cannot draw {PROMPT} raise" in seen
    assert f"task_failure ValueError cannot draw {PROMPT} raise" in seen
    assert f"on_error ValueError cannot draw {PROMPT} raise" in seen
    assert f"on_failure Expected as expected {PROMPT} throws" in seen
    assert f"on_retry OSError not yet {PROMPT} retry" in seen
    assert f"on_failure OSError never {PROMPT} autoretry" in seen

    told = {event["exception"] for event in recorder.events if event["type"] in ("task-failed", "task-retried")}
    words = f"redacted: see the output of job {ids['raise']}"
    assert f"ValueError('{words}')" in told
    assert f"ValueError('{words}')" in worker.output
    assert 'raise ValueError(f"cannot draw {prompt}") from error' in worker.output  # the stack is there
    assert any("Expected(" in each for each in told)
    assert any("Unpicklable(" in each for each in told)
    assert any("OSError(" in each for each in told)
    kept = redis_pieces(redis_server)
    assert any(words.encode() in said and where.startswith("redis 2 ") for where, said in kept)
    pieces = [*(piece for piece in kept if not is_own(piece)), *log_pieces(fleet), *event_pieces(recorder)]
    assert marks_in(pieces) == []
