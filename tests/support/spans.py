"""Finished spans as plain values, in a test's memory or in a file that several processes write; and traces as trees."""

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

from mr_celery import tracing

OURS = "mr_celery"
"""The name of the tracer whose spans are mr-celery's own."""


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
        """OpenTelemetry's span as a value."""
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
        """The job that it says it is about."""
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
    """The spans in a file, in the order of their beginnings. A line that is being written is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return sorted((Ended(**json.loads(line)) for line in lines), key=lambda span: span.start)


def spans_of(spans: Sequence[Ended], job_id: int) -> list[Ended]:
    """Every span of every trace in which a span says that it is about the job."""
    traces = {span.trace for span in spans if span.job == job_id}
    return [span for span in spans if span.trace in traces]


def tree(spans: Sequence[Ended]) -> list[str]:
    """The names of spans, each indented under its parent, in the order of their beginnings.

    One whose parent is not among them is marked with ``?``.
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
    """The spans that this test has made, by mr-celery or by itself."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer(OURS)

    @property
    def ended(self) -> list[Ended]:
        """Those that have ended, in the order of their beginnings."""
        return sorted(map(Ended.of, self._exporter.get_finished_spans()), key=lambda span: span.start)

    def one(self, name: str) -> Ended:
        """The only one of that name."""
        (found,) = [span for span in self.ended if span.name == name]
        return found

    @property
    def tree(self) -> list[str]:
        return tree(self.ended)


def remember_spans(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Let this test's spans be kept in memory, as if the user had set up an SDK."""
    memory = Memory()
    monkeypatch.setattr(tracing, "_tracer", memory.tracer)
    return memory
