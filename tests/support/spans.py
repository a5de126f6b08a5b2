"""Finished spans as plain values, in memory or in a file that several processes write, and traces as trees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mr_celery.telemetry import tracing

OURS = "mr_celery"
"""The name of mr-celery's tracer."""


@dataclass(frozen=True)
class Ended:
    """A span that has ended."""

    name: str
    scope: str
    trace: str
    id: str
    parent: str | None
    kind: str
    start: int
    status: str
    description: str | None
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, span: ReadableSpan) -> Ended:
        """Convert OpenTelemetry's span."""
        about, parent, scope = span.get_span_context(), span.parent, span.instrumentation_scope
        assert about is not None
        assert scope is not None
        return cls(
            name=span.name,
            scope=scope.name,
            trace=f"{about.trace_id:032x}",
            id=f"{about.span_id:016x}",
            parent=f"{parent.span_id:016x}" if parent else None,
            kind=span.kind.name,
            start=span.start_time or 0,
            status=span.status.status_code.name,
            description=span.status.description,
            attributes=dict(span.attributes or {}),
            events=[(event.name, dict(event.attributes or {})) for event in span.events],
        )

    @property
    def job(self) -> int | None:
        """The job's id in the attributes."""
        return self.attributes.get("modelreins.job.id")


class ToFile(SpanExporter):
    """Writes each span as a line of JSON. Any number of processes may write to one file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with open(self._path, "a") as file:
            file.write("".join(json.dumps(vars(Ended.of(span)), default=str) + "\n" for span in spans))
        return SpanExportResult.SUCCESS


def read_spans(path: Path) -> list[Ended]:
    """Read the spans in a file, ordered by start time. An incomplete last line is ignored."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return sorted((Ended(**json.loads(line)) for line in lines), key=lambda span: span.start)


def spans_of(spans: Sequence[Ended], job_id: int) -> list[Ended]:
    """All spans of all traces that have a span with the job's id."""
    traces = {span.trace for span in spans if span.job == job_id}
    return [span for span in spans if span.trace in traces]


def tree(spans: Sequence[Ended]) -> list[str]:
    """The names of spans, indented under their parents and ordered by start time.

    Spans with a missing parent are marked with ``?``.
    """
    known = {span.id for span in spans}

    def under(parent: str | None, depth: int) -> list[str]:
        return [
            line
            for span in spans
            if span.parent == parent
            for line in ("  " * depth + span.name, *under(span.id, depth + 1))
        ]

    orphans = [span for span in spans if span.parent is not None and span.parent not in known]
    return under(None, 0) + [line for span in orphans for line in (f"? {span.name}", *under(span.id, 2))]


class Memory:
    """All spans that were created in this test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer(OURS)

    @property
    def ended(self) -> list[Ended]:
        """The finished spans, ordered by start time."""
        return sorted(map(Ended.of, self._exporter.get_finished_spans()), key=lambda span: span.start)

    def one(self, name: str) -> Ended:
        """The only span with this name."""
        (found,) = [span for span in self.ended if span.name == name]
        return found

    @property
    def tree(self) -> list[str]:
        return tree(self.ended)


def remember_spans(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Record this test's spans in memory, as if the user had configured an SDK."""
    memory = Memory()
    monkeypatch.setattr(tracing, "_tracer", memory.tracer)
    return memory
