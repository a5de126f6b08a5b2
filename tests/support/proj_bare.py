"""An application whose workers have none of the tasks that take jobs."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("bare", broker=os.environ.get("PROJ_BROKER", "memory://"))
