"""The documentation is correct: each code block of README and docs is run, or checked by its own rules.

Python that shows a part of an example is compared with it. All other Python of a page is a module that a Celery
application loads. Commands are run section by section, with a sandbox, a Redis, a bridge and a worker. The checks of
commands that cannot be run here are in ``support.page_commands``.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from mr_celery.ledger.permissions import acl_rules
from mr_celery.sandbox import Sandbox
from mr_celery.sandbox.chaos import Chaos
from mr_celery.settings import options
from support.documents import (
    ALL,
    FROM_NOTHING,
    PAGES,
    RECIPES,
    ROOT,
    Block,
    anchors_of,
    command_sections,
    module_text,
    modules,
    name_of,
)
from support.fleet import BIN, Fleet
from support.page_commands import ReaderShell
from support.ports import until
from support.servers import RedisServer

SETTINGS = {option.environment for option in options()} | {"MODELREINS_ADMIN_TOKEN", "MODELREINS_API_KEY"}
RUNS = re.compile(r"^(opentelemetry-instrument )?celery -A \S+ worker|^mr-celery .*\bup\b", re.MULTILINE)
"""What a section has that starts an installation of its own."""

HELD = '''

from mr_celery import Job


@modelreins_job("test.held")
@app.task(name="held")
def held(job: Job) -> str:
    """Runs until it is stopped: there is a job to look at, to requeue and to fail."""
    import time

    while True:
        time.sleep(0.1)
        job.raise_if_aborted()
'''


# -- neither Python nor commands -----------------------------------------------------------------------------------


def is_json(block: Block) -> None:
    """Valid JSON; if it contains a sandbox's faults, the sandbox accepts them."""
    data = json.loads(block.text)
    if "rules" in data:
        Chaos.parse(data)


def is_promql(block: Block) -> None:
    """A PromQL expression that Prometheus accepts in a rule."""
    rules = {"groups": [{"name": "page", "rules": [{"record": "page", "expr": block.text}]}]}
    command = ["promtool", "check", "rules", "/dev/stdin"]
    done = subprocess.run(command, input=json.dumps(rules), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def is_a_picture_or_a_message(block: Block) -> None:
    """A drawing, the rules of a Redis user, or messages in the code with their placeholders filled in."""
    if re.search("[│─►▲]", block.text) or block.text.split()[4:] == acl_rules():
        return
    for line in block.text.splitlines():
        assert any(message.fullmatch(line.strip()) for message in MESSAGES), f"nothing in the code says: {line}"


def is_a_dockerfile(block: Block) -> None:
    """A Dockerfile that starts from the image of this repository's Dockerfile. Each line is an instruction."""
    lines = block.text.splitlines()
    assert f"{lines[0]} AS fleet" in (ROOT / "Dockerfile").read_text()
    for line in lines:
        assert re.match("(FROM|WORKDIR|COPY|RUN|USER|ENV|CMD) ", line), line


def are_values_of_the_chart(block: Block) -> None:
    """Values whose names are all in the Helm chart."""
    known, given = yaml.safe_load((ROOT / "deploy/helm/values.yaml").read_text()), yaml.safe_load(block.text)
    assert set(given) <= set(known)
    for group in given["workers"].values():
        assert set(group) <= set(known["workerDefaults"])


def names_pages(block: Block) -> None:
    for line in block.text.splitlines():
        assert line.startswith(":") or not line or (block.page.parent / f"{line}.md").is_file(), line


def includes_a_file(block: Block) -> None:
    """A text, or a picture with an alternative text."""
    fence = block.page.read_text().splitlines()[block.line - 2]
    assert (block.page.parent / fence.split(" ", 1)[1]).is_file(), fence
    assert ":alt: " in block.text or block.language != "{figure}"


def is_built_by_sphinx(block: Block) -> None:
    """Directives that describe the code. `make docs` fails if they are wrong; this checks that CI runs it."""
    assert block.text.lstrip().startswith(".. ")
    assert "make docs" in (ROOT / ".ci/run").read_text()


def _messages() -> list[re.Pattern[str]]:
    """Every text in the code as a pattern, whose placeholders match anything."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[\d.]*[sdrfg]", "\0", node.value))
    lines = {line for text in found for line in text.split("\n")}
    return [re.compile(_beginning(text) + re.escape(text).replace("\0", ".*")) for text in lines if text.strip("\0 ")]


def _beginning(text: str) -> str:
    """The pattern for the beginning of a line with that text. A short text can only be one of a job's events."""
    job = r"job=\d+ (attempt=\d+ task_id=\S+ )?"
    return rf"(mr-cel\w+: (MODELREINS_\w+: )?|{job})?" if len(text.replace("\0", "")) > 12 else job


MESSAGES = _messages()
CHECKS: dict[str, Callable[[Block], None]] = {
    "json": is_json,
    "dockerfile": is_a_dockerfile,
    "yaml": are_values_of_the_chart,
    "promql": is_promql,
    "text": is_a_picture_or_a_message,
    "{toctree}": names_pages,
    "{include}": includes_a_file,
    "{figure}": includes_a_file,
    "{eval-rst}": is_built_by_sphinx,
}


@pytest.mark.parametrize(
    "block", [each for each in ALL if each.language not in ("python", "sh", "console")], ids=name_of
)
def test_a_block(block: Block) -> None:
    assert block.language in CHECKS, f"there is no check for the language {block.language!r}"
    CHECKS[block.language](block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"\bMODELREINS_[A-Z_]+\b", text)) <= SETTINGS
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)", text):
        there = page.parent / target if target else page
        assert there.exists(), f"the link to {target} leads nowhere"
        assert not anchor or anchor in anchors_of(there), f"{target} has no heading #{anchor}"


# -- Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [each for each in ALL if each.example], ids=name_of)
def test_a_part_of_an_example(block: Block) -> None:
    assert block.example is not None
    tests = (path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
    assert any(f'"{block.example.name}"' in path.read_text() for path in tests), f"no test runs {block.example}"


@pytest.mark.parametrize("blocks", [each for each in modules(ALL) if each[0].page not in RECIPES], ids=name_of)
def test_python(blocks: list[Block], tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(module_text(blocks))
    script = (
        "from celery import current_app, Celery; import page\n"
        "from mr_celery.handlers import load_registry; from mr_celery.settings import load\n"
        "app = next((each for each in vars(page).values() if isinstance(each, Celery)), current_app)\n"
        "load_registry(app); load(app.conf)"
    )
    commands = [[sys.executable, "-c", script]]
    if "def test_" in module_text(blocks):
        commands.append([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "page.py"])
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_a_recipe(page: Path, tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text(application_of(page))
    tests = [block for block in ALL if block.page == page and block.tests_proj]
    (tmp_path / "test_proj.py").write_text("\n".join(block.text for block in tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_proj.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


# -- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


def application_of(page: Path) -> str:
    """``proj.py`` of a page: its own Python if that creates a Celery application, otherwise the README's."""
    ways = [blocks for blocks in modules(ALL) if blocks[0].page in (page, ROOT / "README.md")]
    own = [module_text(blocks) for blocks in ways if blocks[0].page == page and "Celery(" in module_text(blocks)]
    return own[0] if own else module_text(ways[0])


@pytest.fixture(scope="module")
def at_work(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The README's application at work, for pages that do not start one. It also has a handler that keeps running."""
    folder = tmp_path_factory.mktemp("at-work")
    (folder / "proj.py").write_text(application_of(ROOT / "README.md") + HELD)
    with Sandbox() as sandbox:
        broker, ledger = redis.url(14), redis.url(15)
        fleet = Fleet(sandbox, broker=broker, ledger=ledger, folder=folder, app="proj", name="my-worker")
        fleet.environment |= {"PYTHONPATH": str(folder), "CELERY_BROKER_URL": broker}
        try:
            fleet.bridge()
            fleet.worker("-c", "4")
            yield fleet
        finally:
            fleet.stop()


def running_job(fleet: Fleet) -> int:
    """Dispatch a job that keeps running, and wait until it runs. Returns its id."""
    job_id = fleet.dispatch("wait", "test.held")
    until(lambda: fleet.job(job_id)["status"] == "running", what=f"job {job_id} runs")
    return job_id


@pytest.mark.parametrize(
    "blocks", command_sections(block for block in ALL if block.page not in FROM_NOTHING), ids=name_of
)
def test_commands(blocks: list[Block], redis: RedisServer, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = "".join(block.text for block in blocks).replace("$ ", "")
    replaced = {"<your worker token>": "", "localhost:6379": f"127.0.0.1:{redis.port}"}
    with ExitStack() as stack:
        if RUNS.search(text):
            environment = _alone(stack, blocks[0].page, redis, tmp_path)
        else:
            fleet = request.getfixturevalue("at_work")
            environment = dict(fleet.environment)
            if re.search(r"\b42\b", text):
                replaced["42"] = str(running_job(fleet))
            stack.callback(_as_before, fleet)
        environment["MODELREINS_ADMIN_TOKEN"] = environment["MODELREINS_TOKEN"]
        replaced["<your worker token>"] = environment["MODELREINS_TOKEN"]
        replaced["8765"] = environment["MODELREINS_URL"].rpartition(":")[2]
        for block in ALL:
            if block.language == "json" and block.section == blocks[0].section and block.page == blocks[0].page:
                (tmp_path / "faults.json").write_text(block.text)
        shell = ReaderShell(tmp_path, environment, replaced)
        stack.callback(shell.stop)
        for block in blocks:
            shell.run(block)


def _alone(stack: ExitStack, page: Path, redis: RedisServer, folder: Path) -> dict[str, str]:
    """The environment of a reader who starts everything, with the page's application and the examples at hand."""
    for db in (0, 1):
        redis.client(db).flushdb()
    (folder / "proj.py").write_text(application_of(page))
    for name in ("examples", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    sandbox = stack.enter_context(Sandbox())
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MODELREINS_", "CELERY_"))}
    return {
        **clean,
        "SHOP_DB": str(folder / "shop.sqlite3"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CELERY_BROKER_URL": redis.url(0),
        "MODELREINS_URL": sandbox.url,
        "MODELREINS_TOKEN": sandbox.token,
        "MODELREINS_LEDGER_URL": redis.url(1),
        "MODELREINS_POLL_INTERVAL": "0.5",
        "MODELREINS_HEARTBEAT_INTERVAL": "0.5",
    }


def _as_before(fleet: Fleet) -> None:
    """Restore the installation: abort all open jobs, and resume claiming."""
    for job in fleet.sandbox.store.jobs():
        if job["status"] in ("pending", "running"):
            fleet.sandbox.store.abort(job["id"])
    command = [str(BIN / "celery"), "-A", "proj", "modelreins", "resume"]
    subprocess.run(command, env=fleet.environment, check=True, capture_output=True)
