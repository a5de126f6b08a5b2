"""The commands with Celery's own options and environment variables, and the messages they print on errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import fork_server
from support.fleet import BIN
from support.servers import RedisServer

APP = """
from celery import Celery
from mr_celery import modelreins_job

app = Celery("proj", broker="memory://")

@modelreins_job
@app.task
def upper(prompt):
    return prompt.upper()
"""

MODULES = {
    "proj": APP,
    "broken": "1\n2\nraise RuntimeError('boom at import\\nand more')",
    "missing": "import nowhere_at_all",
    "syntax": "def f(:",
    "noapp": "x = 1",
    "included": "from celery import Celery\napp = Celery('p', broker='memory://', include=['nowhere'])",
    "configured": (
        "from celery import Celery\napp = Celery('p', broker='memory://')\napp.config_from_object('nope.conf')"
    ),
    "declared": APP.replace("@modelreins_job", "@modelreins_job('')"),
    "conf": "modelreins_name = 'from-conf'",
    "badconf": "raise RuntimeError('boom in config')",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def call(folder: Path, command: str, *, where: Path | None = None, **environment: str) -> tuple[int, list[str]]:
    """The exit code and the lines of a command."""
    program, *arguments = command.split()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MODELREINS_", "CELERY_"))}
    done = fork_server.run(
        [str(BIN / program), *arguments],
        env={**clean, "COLUMNS": "200", **environment},
        cwd=where or folder,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


CONFIGURATION = "mr-celery: the configuration of the application cannot be loaded: "
MODULE = "mr-celery: a module of the application cannot be imported: ModuleNotFoundError: No module named 'nowhere'"

WRONG: list[tuple[str, dict[str, str], str]] = [
    ("mr-celery -A nope status", {}, "'nope' cannot be loaded: ModuleNotFoundError: No module named 'nope'"),
    (
        "mr-celery -A missing up",
        {},
        "'missing' cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'",
    ),
    (
        "mr-celery -A broken jobs",
        {},
        "'broken' cannot be loaded: RuntimeError: boom at import ({folder}/broken.py, line 3)",
    ),
    ("mr-celery -A syntax check", {}, "'syntax' cannot be loaded: SyntaxError: invalid syntax (syntax.py, line 1)"),
    (
        "mr-celery -A noapp pause",
        {},
        "'noapp' cannot be loaded: AttributeError: module 'noapp' has no attribute 'celery'",
    ),
    (
        "mr-celery -A declared bridge",
        {},
        "'declared' cannot be loaded: RoutingError: @modelreins_job(''): ",
    ),
    ("mr-celery -A included status", {}, MODULE),
    ("celery -A included modelreins status", {}, MODULE),
    ("celery -A included modelreins bridge", {}, MODULE),
    ("celery -A configured modelreins status", {}, f"{CONFIGURATION}ModuleNotFoundError: No module named 'nope'"),
    ("mr-celery -A configured bridge", {}, f"{CONFIGURATION}ModuleNotFoundError: No module named 'nope'"),
    ("celery -A proj --config nope modelreins jobs", {}, f"{CONFIGURATION}ModuleNotFoundError: No module named 'nope'"),
    ("mr-celery -A proj --config nope jobs", {}, f"{CONFIGURATION}ModuleNotFoundError: No module named 'nope'"),
    (
        "celery -A proj modelreins drain",
        {"CELERY_CONFIG_MODULE": "badconf"},
        CONFIGURATION + "RuntimeError: boom in config ({folder}/badconf.py, line 1)",
    ),
    (
        "mr-celery -A proj bridge",
        {"CELERY_LOADER": "nope_loader"},
        f"{CONFIGURATION}ModuleNotFoundError: No module named 'nope_loader'",
    ),
]


@pytest.mark.parametrize(("command", "environment", "says"), WRONG, ids=[each[0] for each in WRONG])
def test_what_is_wrong_is_one_line(folder: Path, command: str, environment: dict[str, str], says: str) -> None:
    code, lines = call(folder, command, **environment)
    assert code in (1, 2)
    assert len(lines) == 1, lines
    assert lines[0].startswith("mr-celery: ")
    assert says.format(folder=folder) in lines[0]


@pytest.mark.parametrize("module", ["included", "configured"])
def test_check_has_it_as_a_finding(folder: Path, module: str) -> None:
    code, lines = call(folder, f"celery -A {module} modelreins check")
    assert code == 1
    assert lines[0].startswith("application  FAILED   a module of the application cannot be imported: ModuleNotFound")
    assert lines[-1] == "1 of 1 check FAILED"


@pytest.fixture
def ledger(redis_server: RedisServer) -> str:
    return redis_server.url(1)


OPTIONS: list[tuple[str, dict[str, str]]] = [
    ("-q -C --skip-checks --loader default -b redis://127.0.0.1:1/0 --result-backend redis://127.0.0.1:1/0", {}),
    ("", {"C_FORCE_ROOT": "1", "NO_COLOR": "1", "CELERY_QUIET": "1", "CELERY_SKIP_CHECKS": "1"}),
    ("", {"CELERY_LOADER": "default", "CELERY_BROKER_URL": "redis://127.0.0.1:1/0", "CELERY_NO_COLOR": "1"}),
]


@pytest.mark.parametrize("program", ["celery -A proj {} modelreins", "mr-celery -A proj {}"])
@pytest.mark.parametrize(("options", "environment"), OPTIONS)
def test_each_option_works(folder: Path, ledger: str, program: str, options: str, environment: dict[str, str]) -> None:
    command = f"{program.format(options)} status"
    code, lines = call(folder, command, **environment, MODELREINS_LEDGER_URL=ledger, MODELREINS_NAME="given")
    assert code == 0, lines
    assert lines[0].startswith("given ")


@pytest.mark.parametrize("program", ["celery {} modelreins", "mr-celery {}"])
@pytest.mark.parametrize(
    ("options", "environment", "name"),
    [
        ("-A proj --config conf", {}, "from-conf"),
        ("-A proj", {"CELERY_CONFIG_MODULE": "conf"}, "from-conf"),
        ("--config conf", {"CELERY_APP": "proj"}, "from-conf"),
        ("--workdir {folder} -A proj --config conf", {}, "from-conf"),
        ("-A proj --config conf", {"CELERY_WORKDIR": "{folder}"}, "from-conf"),
        ("-A proj", {"CELERY_MODELREINS_STATUS_NAME": "from-environment"}, "from-environment"),
    ],
)
def test_options_that_choose_an_application_and_its_configuration(
    folder: Path,
    ledger: str,
    tmp_path_factory: pytest.TempPathFactory,
    program: str,
    options: str,
    environment: dict[str, str],
    name: str,
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") if "{folder}" in f"{options}{environment}" else folder
    variables = {key: value.format(folder=folder) for key, value in environment.items()}
    command = f"{program.format(options.format(folder=folder))} status"
    code, lines = call(folder, command, where=elsewhere, **variables, MODELREINS_LEDGER_URL=ledger)
    assert code == 0, lines
    assert lines[0].startswith(f"{name} ")
