"""The fast tests and the main job with old and new versions of Python, Celery and redis-py.

    nox --list                              the sessions
    nox --session lowest                    Python 3.10 and the lowest version of everything that pyproject.toml allows
    nox --session between                   Python 3.12 and Celery 5.6
    nox --session newest                    the newest Python and the newest version of everything
    nox --session "matrix-3.12(celery='5.6', redis='oldest')"

If a Python is not installed, its session is skipped with a message. With ``MR_CELERY_NO_SKIPS``, which CI sets, this is
an error. All Pythons of pyenv are found, even those that are not activated.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
CELERYS = {"5.5": "celery~=5.5.0", "5.6": "celery~=5.6.0", "newest": "celery"}
OLDEST_REDIS = {"5.5": "redis==5.0.3", "5.6": "redis==5.0.3", "newest": "redis==6.4.0"}
"""The oldest redis-py that both this project and that Celery's kombu allow."""

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
EXTRAS = ("sandbox", "spool", "otel", "metrics", "pytest")
TESTS = ("tests/unit", "tests/acceptance/test_main_job.py")
RERUNS = "2" if os.environ.get("MR_CELERY_NO_SKIPS") else "0"
"""Times that a failed test is repeated, as in the other tests of CI."""

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = bool(os.environ.get("MR_CELERY_NO_SKIPS"))
nox.options.sessions = ["lowest", "between", "newest", "matrix"]

_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
if _PYENV.is_dir():
    os.environ["PYENV_VERSION"] = ":".join(sorted(each.name for each in _PYENV.iterdir()))


def lowest(*requirements: str) -> list[str]:
    """The lowest version that each requirement allows, as a pin."""
    found = [re.match(r"([\w-]+)(?:\[.*])?>=([\w.]+)", each) for each in requirements]
    return [f"{match[1]}=={match[2]}" for match in found if match]


LOWEST = lowest(*PROJECT["dependencies"], *(each for name in EXTRAS for each in PROJECT["optional-dependencies"][name]))


def run(session: nox.Session, pins: list[str]) -> None:
    """Install the project with these versions, and run the tests."""
    session.install("--editable", ".[all,pytest]", "--group", "test", *pins)
    session.run("python", "-c", VERSIONS)
    options = ["-p", "no:cacheprovider", "--numprocesses", "logical", "--reruns", RERUNS]
    session.run("pytest", *options, *(session.posargs or TESTS))


VERSIONS = """
import importlib.metadata, platform
names = ("celery", "kombu", "redis", "requests", "urllib3")
print("running on Python", platform.python_version(), *(f"{name} {importlib.metadata.version(name)}" for name in names))
"""


@nox.session(python=PYTHONS[0], name="lowest")
def with_lowest(session: nox.Session) -> None:
    """Test with the lowest versions that are allowed."""
    run(session, LOWEST)


@nox.session(python="3.12", name="between")
def with_previous_celery(session: nox.Session) -> None:
    """Test with the previous version of Celery."""
    run(session, [CELERYS["5.6"]])


@nox.session(python=PYTHONS[-1], name="newest")
def with_newest(session: nox.Session) -> None:
    """Test with the newest versions."""
    run(session, [])


@nox.session(python=PYTHONS)
@nox.parametrize("redis", ["oldest", "newest"])
@nox.parametrize("celery", list(CELERYS))
def matrix(session: nox.Session, celery: str, redis: str) -> None:
    """Test any combination of Python, Celery and redis-py."""
    run(session, [CELERYS[celery], OLDEST_REDIS[celery] if redis == "oldest" else "redis"])
