"""Closes database connections of the application that are broken or too old, as Django does around a request."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("mr_celery")

DJANGO = "django.db"
"""The module of Django's connections. If ``sys.modules`` lacks it, there are no connections to close."""


def close_old_connections() -> None:
    """Close this thread's connections of Django that are broken or older than ``CONN_MAX_AGE``.

    Celery's Django fix-up does the same around each task. Without Django, or without its settings, this does nothing.
    """
    database, configuration = sys.modules.get(DJANGO), sys.modules.get("django.conf")
    if database is None or configuration is None:
        return
    try:
        if configuration.settings.configured:
            database.close_old_connections()
    except Exception as error:
        logger.debug("an old database connection could not be closed: %s", type(error).__name__)
