"""A bridge of a Django project survives that its database closes a connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BACKEND = '''
from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    """SQLite, which asks its connection whether it works, as the backends of database servers do."""

    def is_usable(self):
        try:
            self.connection.execute("SELECT 1")
        except base.Database.Error:
            return False
        return True
'''

PROJECT = '''
import json
import sys

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "pings", "NAME": sys.argv[1], "CONN_MAX_AGE": None}},
    USE_TZ=True,
)
django.setup()

import pytest
from django.db import connection

from mr_celery.bridge.claiming.claimer import Claimer
from mr_celery.bridge.loops import Loop
from support.ledgers import make_harness

cut = {"now": False}


def match(job):
    """Asks the database, which closes the connection when the test says so."""
    with connection.cursor() as cursor:
        if cut["now"]:
            cut["now"] = False
            connection.connection.close()
        cursor.execute("SELECT 1")
        return cursor.fetchone() == (1,)


patch = pytest.MonkeyPatch()
harness = make_harness(patch, match=match, poll_interval=1.0)
claimer = Claimer(harness.context, gather_seconds=30.0, batch_seconds=30.0)
loop = Loop("claim", claimer)
seen = []


def poll(job_id):
    harness.server.dispatch(job_id)
    harness.clock.advance(60.0)
    loop.turn()
    waiting = [each.text.partition(", in ")[0] for each in harness.context.waiting.now]
    seen.append([harness.server.asked("claim"), waiting])


poll(1)
cut["now"] = True
poll(2)
poll(3)
claimer.close(10)
patch.undo()
print(json.dumps(seen))
'''


def test_a_connection_that_the_database_closed_is_opened_again(tmp_path: Path) -> None:
    (tmp_path / "pings").mkdir()
    (tmp_path / "pings" / "base.py").write_text(BACKEND)
    done = subprocess.run(
        [sys.executable, "-c", PROJECT, str(tmp_path / "db.sqlite3")],
        env={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)]), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        [[1], []],
        [[1], ["1 job waits for tiny.upper: match= raised ProgrammingError"]],
        [[1, 2, 3], []],
    ]
