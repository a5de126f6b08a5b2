"""Celery applications with one add-on each. ``PROJ_ADDON`` selects it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from celery import Task, shared_task

from mr_celery import JobFailed, modelreins_job

from .proj_base import new_app, note

ADDON = os.environ["PROJ_ADDON"]
REDIS = os.environ["PROJ_REDIS"]

if ADDON == "opentelemetry":
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    CeleryInstrumentor().instrument()

if ADDON == "sentry-sdk":
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration

    def transport(envelope: Any) -> None:
        for item in envelope.items:
            note(f"sentry {item.type}")

    sentry_sdk.init(
        "http://key@127.0.0.1:9/1",
        integrations=[CeleryIntegration(monitor_beat_tasks=True, propagate_traces=True)],
        traces_sample_rate=1.0,
        transport=transport,
    )

if ADDON == "django-celery-results":
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="x",
        INSTALLED_APPS=["django_celery_results"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["PROJ_DATABASE"]}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()
    if "migrate" in sys.argv:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)

app = new_app()
base: Any = None
options: dict[str, Any] = {}

if ADDON.startswith("celery-once"):
    from celery_once import QueueOnce

    base = QueueOnce
    app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": REDIS, "default_timeout": 600}}
    if ADDON.endswith("keys"):
        options = {"once": {"keys": ["prompt"]}}
    if ADDON.endswith("unlock_before_run"):
        options = {"once": {"unlock_before_run": True}}

if ADDON.startswith("celery-singleton"):
    from celery_singleton import Singleton

    base = Singleton
    app.conf.update(singleton_backend_url=REDIS, singleton_raise_on_duplicate=True)
    if ADDON.endswith("unique_on"):
        options = {"unique_on": ["prompt"]}

if ADDON == "django-celery-results":
    app.conf.update(result_backend="django-db", result_extended=True)


def task(capability: str, **more: Any) -> Callable[[Any], Any]:
    """A task with the add-on that takes jobs of a capability."""

    def decorate(function: Any) -> Any:
        made = app.task(**({"base": base} if base else {}), **options, **more)(function)
        return modelreins_job(capability)(made)

    return decorate


@task("upper")
def upper(prompt: str) -> str:
    note(prompt)
    return prompt.upper()


@task("bound", bind=True)
def bound(self: Task[Any, Any], prompt: str) -> str:
    note(prompt)
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)
    return prompt.upper()


@task("meant")
def meant(prompt: str) -> None:
    note(prompt)
    raise JobFailed("meant")


@modelreins_job("shared")
@shared_task(**({"base": base} if base else {}), **options)
def shared(prompt: str) -> str:
    note(prompt)
    return prompt.upper()
