"""Tasks that can never take a job: worker, bridge and ``check`` refuse them in one line, and do not start."""

from __future__ import annotations

import pytest

from support import fork_server
from support.fleet import BIN, Fleet

REFUSED = {
    "protocol": "with task_protocol = 1 in the Celery configuration, messages have no headers",
    "positional-only": "its parameter 'prompt' is positional-only, so no field of a job can fill it",
    "generator": "is a generator (it has yield)",
    "batches": "cannot take single jobs: its class batch receives messages in its own way",
    "abstract": "Base is abstract, so it takes no job",
    "no-run": "empty has no code to run: its class Empty defines no run()",
    "unregistered": "Forgotten is not registered, so it takes no job: add app.register_task(Forgotten())",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_task_is_refused_in_one_line_by_each_process(fleet: Fleet, kind: str) -> None:
    environment = {**fleet.environment, "PROJ_REFUSED": kind}
    for command in (["worker", "-P", "solo"], ["modelreins", "bridge"], ["modelreins", "check"]):
        ended = fork_server.run(
            [str(BIN / "celery"), "-A", "support.proj_refused", *command],
            env=environment,
            timeout=60,
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == 1, output
        assert "Traceback" not in output
        about = [line for line in output.splitlines() if REFUSED[kind] in line]
        assert len(about) == 1, output
