"""Telemetry for operators: metrics for Prometheus, and spans for OpenTelemetry.

Metrics are always counted, and returned by `GET /metrics`. Spans are recorded if OpenTelemetry's environment variables
name a receiver and the extra `telemetry` is installed. They follow the semantic conventions for generative AI, version
1.41 (https://opentelemetry.io/docs/specs/semconv/gen-ai/), without prompts, answers or arguments.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from nbruns.errors import install_command
from nbruns.server.schemas.runs import ENDED
from nbruns.text import JSON

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from nbruns.server.models import Finish, Prompt

#: Maximum number of model names in the metrics, because programs can name any model. Further models share one name.
MAX_MODELS = 100
#: Maximum number of seconds that a stopping server waits for the receiver.
FLUSH_SECONDS = 3.0
#: Buckets in seconds. Requests take milliseconds, and runs up to ten minutes.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

log = logging.getLogger(__name__)


class Telemetry:
    """Metrics of one server, and its spans if `traces` are given."""

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = traces
        self._models: set[str] = set()
        registry = self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        short = partial(Histogram, buckets=_SHORT, registry=registry)
        long = partial(Histogram, buckets=_LONG, registry=registry)
        by_route = ("method", "route", "status")
        self._requests = short(
            "nbruns_request_seconds", "Seconds until the answer to a request began", by_route
        )
        self._commits = short("nbruns_commit_seconds", "Seconds for a commit of the database")
        self._events = counter("nbruns_events", "Events of runs that were logged")
        by_end = ("model", "status")
        self._ended = long("nbruns_run_seconds", "Seconds from the creation of a run to its end", by_end)
        self._tokens = counter("nbruns_tokens", "Tokens of ended runs", ("model", "type"))
        self._answers = long("nbruns_model_seconds", "Seconds for an answer of a model", ("model", "outcome"))
        first = "nbruns_model_first_delta_seconds"
        self._first = long(first, "Seconds until an answer of a model began", ("model",))
        self._tools = long("nbruns_hosted_tool_seconds", "Seconds for a call of a hosted tool", ("type",))
        # Set when the metrics are requested.
        self._active = gauge("nbruns_active_runs", "Active runs in the database", ("status",))
        self._files = gauge("nbruns_files_in_progress", "Files that are to be read")
        self._streams = gauge("nbruns_open_streams", "Streams that are open")

    def exposition(self, active: Mapping[str, int], files: int, streams: int) -> bytes:
        """Return the metrics in Prometheus' text format, with these current numbers."""
        for status, count in active.items():
            self._active.labels(status).set(count)
        self._files.set(files)
        self._streams.set(streams)
        return generate_latest(self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. `route` is the path of its operation, with placeholders for ids."""
        self._requests.labels(method, route, status).observe(seconds)

    def commit(self, seconds: float) -> None:
        """Count a commit of the database."""
        self._commits.observe(seconds)

    def events(self, events: Iterable[tuple[str, int, str, str]]) -> None:
        """Count events that this server has logged: id of the run, number, name and data."""
        count = 0
        for _, _, name, data in events:
            count += 1
            if name in _ENDS:
                self._run_ended(json.loads(data))
        self._events.inc(count)

    def _run_ended(self, run: JSON) -> None:
        model = self._model(run["model"])
        self._ended.labels(model, run["status"]).observe(max(0.0, time.time() - run["created_at"]))
        used = run["usage"] or {}
        for type in ("prompt", "completion"):
            self._tokens.labels(model, type).inc(used.get(f"{type}_tokens") or 0)
        if self._traces is not None:
            self._traces.run_ended(run)

    @contextmanager
    def answer(self, run: JSON, prompt: Prompt) -> Iterator[Answer]:
        """Measure an answer of a model, from the request to the last delta."""
        answer, model = Answer(), self._model(prompt.model)
        span = None if self._traces is None else self._traces.begin_answer(run, prompt)
        outcome = "completed"
        try:
            yield answer
        except BaseException as error:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
            answer.error = str(getattr(error, "code", None) or type(error).__name__)
            raise
        finally:
            if answer.first is not None:
                self._first.labels(model).observe(answer.first - answer.began)
            self._answers.labels(model, outcome).observe(time.monotonic() - answer.began)
            if span is not None:
                _end_answer(span, answer)

    @contextmanager
    def tool_call(self, run: JSON, call_id: str, type: str, name: str | None) -> Iterator[None]:
        """Measure a call of a hosted tool. `name` is the function, for tools with several functions."""
        began = time.monotonic()
        span = None if self._traces is None else self._traces.begin_tool_call(run, call_id, name or type)
        error = None
        try:
            yield
        except BaseException as raised:
            error = raised.__class__.__name__
            raise
        finally:
            self._tools.labels(type).observe(time.monotonic() - began)
            if span is not None:
                _end(span, error)

    def close(self) -> None:
        """Send the remaining spans."""
        if self._traces is not None:
            self._traces.close()

    def _model(self, name: str) -> str:
        name = name[:100]
        if name not in self._models and len(self._models) >= MAX_MODELS:
            return "other"
        self._models.add(name)
        return name


class Answer:
    """An answer of a model that is being measured."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: float | None = None
        self.finish: Finish | None = None
        self.error: str | None = None

    def delta(self) -> None:
        """Record the arrival of a delta."""
        if self.first is None:
            self.first = time.monotonic()


_ENDS = {f"thread.run.{status}" for status in ENDED}


class Traces:
    """Spans of runs, sent according to OpenTelemetry's environment variables.

    A run is one trace, even if several servers execute it or restart. The ids of the trace and of its first span are
    derived from the run's id. Spans of answers and tool calls are sent as they end, and the span of the run when the
    run has ended.
    """

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        ids = self._ids = _Ids()

        class Ids(RandomIdGenerator):
            """Random ids, except for the span of a run."""

            def generate_span_id(self) -> int:
                return ids.given[1] if ids.given else super().generate_span_id()

            def generate_trace_id(self) -> int:
                return ids.given[0] if ids.given else super().generate_trace_id()

        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "nbruns"}
        self._provider = TracerProvider(
            resource=Resource.create(named), id_generator=Ids(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("nbruns")

    def begin_answer(self, run: JSON, prompt: Prompt) -> Span:
        """Begin the span of an answer of a model."""
        asked = {
            "gen_ai.request.temperature": run.get("temperature"),
            "gen_ai.request.top_p": run.get("top_p"),
            "gen_ai.request.max_tokens": run.get("max_completion_tokens"),
        }
        attributes = _about(run, "chat") | {"gen_ai.request.model": prompt.model} | _given(asked)
        return self._begin(run, f"chat {prompt.model}", attributes)

    def begin_tool_call(self, run: JSON, call_id: str, name: str) -> Span:
        """Begin the span of a call of a hosted tool."""
        attributes = _about(run, "execute_tool") | {
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": call_id,
            "gen_ai.tool.type": "extension",  # a tool that the server runs
        }
        return self._begin(run, f"execute_tool {name}", attributes)

    def run_ended(self, run: JSON) -> None:
        """Send the span of a run."""
        from opentelemetry.context import Context

        attributes = (
            _about(run, "invoke_agent") | {"gen_ai.request.model": run["model"]} | _usage(run["usage"])
        )
        self._ids.given = _ids_of(run)
        try:
            span = self._tracer.start_span(
                "invoke_agent", Context(), attributes=attributes, start_time=run["created_at"] * 10**9
            )
        finally:
            self._ids.given = None
        ended_well = run["status"] in ("completed", "incomplete", "cancelled")
        _end(span, None if ended_well else (run["last_error"] or {}).get("code") or run["status"])

    def close(self) -> None:
        """Send the remaining spans, and give up after FLUSH_SECONDS."""
        # The SDK ignores its own timeouts while it retries.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)

    def _begin(self, run: JSON, name: str, attributes: Mapping[str, Any]) -> Span:
        from opentelemetry.trace import SpanKind

        return self._tracer.start_span(name, self._within(run), SpanKind.INTERNAL, attributes)

    def _within(self, run: JSON) -> Context:
        """Return the context of a run's span. A sampler decides by the trace id whether it is recorded."""
        from opentelemetry.context import Context
        from opentelemetry.sdk.trace.sampling import Decision
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        trace_id, span_id = _ids_of(run)
        decision = self._provider.sampler.should_sample(Context(), trace_id, "invoke_agent").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return set_span_in_context(
            NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)), Context()
        )


class _Ids(threading.local):
    """The trace id and span id of the next span of this thread, if they are not random."""

    given: tuple[int, int] | None = None


def traces() -> Traces | None:
    """Return the spans of this server, or None if OpenTelemetry's environment variables name no receiver."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    wanted = [name for name in names if os.environ.get(name)]
    if not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        return Traces()
    except ModuleNotFoundError as error:
        log.warning(
            "%s is set, but no spans are sent: the package %r is not installed. Install it with: %s",
            *(wanted[0], error.name, install_command("telemetry")),
        )
        return None


def _ids_of(run: JSON) -> tuple[int, int]:
    """Return the ids of a run's trace and of its first span."""
    digest = hashlib.sha256(run["id"].encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def _about(run: JSON, operation: str) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "nbruns",
        "gen_ai.agent.id": run["assistant_id"],
        "gen_ai.conversation.id": run["thread_id"],
        "nbruns.run.id": run["id"],
    }


def _usage(used: JSON | None) -> dict[str, Any]:
    used = used or {}
    details = used.get("prompt_token_details") or {}
    return _given(
        {
            "gen_ai.usage.input_tokens": used.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": used.get("completion_tokens"),
            "gen_ai.usage.cache_read.input_tokens": details.get("cached_tokens") or None,
        }
    )


def _given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _end_answer(span: Span, answer: Answer) -> None:
    if answer.finish is not None:
        span.set_attributes(_usage(answer.finish.usage))
        span.set_attribute("gen_ai.response.finish_reasons", [answer.finish.reason])
    _end(span, answer.error)


def _end(span: Span, error: str | None) -> None:
    from opentelemetry.trace import StatusCode

    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end()
