"""The pytest plugin in separate sessions: passing and failing tests, wrong use, and missing packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[3] / "docs" / "testing.md"

TASKS = """
from celery import Celery
from mr_celery import JobFailed, modelreins_job

app = Celery("proj")

@modelreins_job("text.upper")
@app.task
def upper(prompt):
    if not prompt:
        raise JobFailed("nothing to do")
    return prompt.upper()
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with one task."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(proj=TASKS)
    return pytester


def run(session: pytest.Pytester, test: str, *arguments: str) -> pytest.RunResult:
    """Run a session with one test file in a subprocess, without the summary, whose width depends on the terminal."""
    session.makepyfile(test_it=test)
    return session.runpytest_subprocess("-p", "no:cacheprovider", "-rN", *arguments, timeout=60)


def test_passing_test(session: pytest.Pytester) -> None:
    result = run(
        session,
        """
        from proj import upper

        def test_upper(modelreins_run):
            job = modelreins_run(upper, prompt="a")
            assert job.done
            assert job.result == "A"
        """,
        "-W",
        "error",
    )
    result.assert_outcomes(passed=1)


def test_examples_of_the_documentation(session: pytest.Pytester) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    run(session, "\n\n".join(blocks), "-W", "error").assert_outcomes(passed=6)


def test_failing_test_shows_the_job_and_its_output(session: pytest.Pytester) -> None:
    result = run(
        session,
        """
        from proj import upper

        def test_upper(modelreins_run):
            job = modelreins_run(upper)
            assert job.done
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*where False = <job 1 failed: 'nothing to do'>.done",
            "*Captured ModelReins jobs call*",
            "job 1 failed, task proj.upper, retries 0",
            "nothing to do",
        ]
    )


def test_wrong_use_is_reported_at_the_line_of_the_test(session: pytest.Pytester) -> None:
    result = run(
        session,
        """
        from proj import upper

        def test_upper(modelreins_run):
            modelreins_run(upper, capability="other")

        def test_no_task(modelreins_run):
            modelreins_run("text.upper", prompt="a")
        """,
        "--tb=short",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "test_it.py:*: in test_no_task",
            "E   Failed: modelreins_run needs a task with @modelreins_job, not 'text.upper'*",
        ]
    )
    assert "run.py" not in result.stdout.str(), "the report shows lines of the fixture"


def test_application_without_handlers(session: pytest.Pytester) -> None:
    result = run(
        session,
        """
        def test_run(modelreins_run):
            modelreins_run(prompt="a")

        def test_bridge(modelreins_bridge):
            pass
        """,
    )
    result.assert_outcomes(failed=1, errors=1)
    shown = [each for each in result.outlines if "no task of the application 'default' takes jobs: decorate" in each]
    assert len(shown) == 2


def test_invalid_settings(session: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELREINS_LEASE", "soon")
    result = run(
        session,
        """
        from proj import upper

        def test_run(modelreins_run):
            modelreins_run(upper, prompt="a")

        def test_bridge(modelreins_bridge):
            pass
        """,
    )
    result.assert_outcomes(failed=1, errors=1)
    shown = [each for each in result.outlines if "MODELREINS_LEASE: 'soon' is invalid: it must be seconds" in each]
    assert len(shown) == 2


def test_bridge_uses_the_overridden_application(session: pytest.Pytester) -> None:
    session.makeconftest(
        """
        import pytest

        @pytest.fixture
        def modelreins_app():
            from proj import app
            return app
        """
    )
    result = run(
        session,
        """
        def test_it(modelreins_bridge, modelreins_sandbox):
            job = modelreins_sandbox.dispatch("a", capability="text.upper")
            assert modelreins_sandbox.wait(job).result == "A"

        def test_beside_it(modelreins_bridge, modelreins_run):
            assert modelreins_run(capability="text.upper", prompt="b").result == "B"
            assert modelreins_bridge.run("c", capability="text.upper").result == "C"
        """,
        "-W",
        "error",
    )
    result.assert_outcomes(passed=2)


def test_shared_task_runs_in_the_overridden_application(session: pytest.Pytester) -> None:
    result = run(
        session,
        """
        import pytest
        from celery import Celery, current_app, shared_task
        from mr_celery import modelreins_job

        mine, current = Celery("mine"), Celery("current")

        @modelreins_job("shared")
        @shared_task
        def where():
            return current_app.main

        def test_the_current_one(modelreins_run):
            assert modelreins_run(where).result == "current"

        class TestAnother:
            @pytest.fixture
            def modelreins_app(self):
                return mine

            def test_it(self, modelreins_run):
                assert modelreins_run(where).result == "mine"
                assert current_app.main == "current"
        """,
    )
    result.assert_outcomes(passed=2)


def test_works_with_xdist(session: pytest.Pytester) -> None:
    result = run(
        session,
        """
        import pytest
        from proj import upper

        @pytest.mark.parametrize("letter", "abcd")
        def test_upper(modelreins_run, modelreins_bridge, letter):
            assert modelreins_run(upper, prompt=letter).result == letter.upper()
            assert modelreins_bridge.run(letter, capability="text.upper").result == letter.upper()
        """,
        "-n2",
    )
    result.assert_outcomes(passed=4)


def test_works_with_celerys_fixtures(session: pytest.Pytester) -> None:
    session.makeconftest('pytest_plugins = ["celery.contrib.pytest"]')
    result = run(
        session,
        """
        from proj import app, upper

        def test_both(celery_app, celery_worker, modelreins_run):
            @celery_app.task
            def double(x):
                return 2 * x
            celery_worker.reload()
            assert modelreins_run(upper, prompt="a").result == "A"
            assert double.delay(4).get(timeout=10) == 8
        """,
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("missing", ["fakeredis", "lupa", "starlette", "uvicorn", "python_multipart"])
def test_missing_extra_fails_with_one_line(session: pytest.Pytester, missing: str) -> None:
    session.makeconftest(f"import sys; sys.modules[{missing!r}] = None")
    result = run(
        session,
        """
        def test_none(): pass
        def test_run(modelreins_run): pass
        def test_sandbox(modelreins_sandbox): pass
        def test_bridge(modelreins_bridge): pass
        """,
    )
    result.assert_outcomes(passed=1, errors=3)
    line = 'the fixtures of mr-celery need the extra `pytest`: pip install "mr-celery[pytest]"'
    shown = [each for each in result.outlines if each.startswith("the fixtures of mr-celery")]
    assert shown == [line] * 3
    assert "Traceback" not in result.stdout.str()


def test_unused_plugin_imports_nothing(session: pytest.Pytester) -> None:
    result = run(
        session,
        """
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("modelreins")
            heavy = ("celery", "kombu", "redis", "fakeredis", "starlette", "mr_celery")
            assert not [name for name in heavy if name in sys.modules]
        """,
        "-p",
        "no:xdist",
    )
    result.assert_outcomes(passed=1)


def test_fixture_names(session: pytest.Pytester) -> None:
    result = run(session, "def test_it(): pass", "--fixtures")
    ours = [line for line in result.outlines if "_mr_celery_pytest.py" in line]
    assert sorted(line.split()[0] for line in ours) == [
        "modelreins_app",
        "modelreins_bridge",
        "modelreins_ledger_url",
        "modelreins_run",
        "modelreins_sandbox",
    ]
