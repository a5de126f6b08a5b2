"""The application for tests of traces. Spans are written to a file, and events of Sentry to another one.

Tracing is set up in pool processes (``PROJ_POOL=prefork``) or in the worker's main process. For the bridge see
``proj_traced_bridge``.
"""

from __future__ import annotations

import json
import os
from typing import Any

import sentry_sdk
from celery.signals import worker_init, worker_process_init
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from .proj import app
from .spans import ToFile

__all__ = ["app", "set_up_tracing"]


def set_up_tracing(**_: Any) -> None:
    """Configure the SDK like a user."""
    if path := os.environ.get("PROJ_SPANS"):
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(ToFile(path), schedule_delay_millis=100))
        trace.set_tracer_provider(provider)
        if os.environ.get("PROJ_INSTRUMENTED"):
            CeleryInstrumentor().instrument()


class Told(Transport):
    """A Sentry transport that writes each item as a line of JSON."""

    def capture_envelope(self, envelope: Envelope) -> None:
        with open(os.environ["PROJ_SENTRY"], "a") as file:
            for item in envelope.items:
                if item.payload.json is not None:
                    file.write(json.dumps({"type": item.type, **item.payload.json}, default=str) + "\n")


if os.environ.get("PROJ_SENTRY"):
    sentry_sdk.init(
        dsn="https://key@sentry.test/1", transport=Told, traces_sample_rate=1.0, integrations=[CeleryIntegration()]
    )

(worker_process_init if os.environ.get("PROJ_POOL") == "prefork" else worker_init).connect(set_up_tracing, weak=False)
