"""What operators are told: metrics at /metrics, and spans at a receiver that speaks OpenTelemetry's protocol."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families
from served import (
    ANSWER,
    OUTPUTS,
    TOKEN,
    WEATHER,
    Api,
    Registry,
    Scripts,
    ServerProcess,
    thread_server,
    waiting_run,
)

from nbruns.server import telemetry
from nbruns.server.models import Finish, ModelError, Models, TextDelta, usage

JSON = dict[str, Any]


@pytest.fixture(scope="module")
def models() -> Models:
    return Registry()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[str]:
    """A server of these tests' own: only so many models have numbers of their own."""
    with thread_server(tmp_path_factory.mktemp("telemetry"), models) as server:
        yield server.url


def metrics(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the value of each metric of a server, by its name and labels."""
    answer = requests.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(
        "text/plain; version=0.0.4"
    )
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(url: str, name: str, **labels: str) -> float:
    return metrics(url).get((name, frozenset(labels.items())), 0.0)


def test_metrics_need_the_token(url: str) -> None:
    assert requests.get(f"{url}/metrics", timeout=30).status_code == 401


def test_runs_tokens_answers_and_requests_are_counted(api: Api, url: str, script: Scripts) -> None:
    said = script((TextDelta("Hello"), Finish("stop", usage(7, 3))))
    route = {"method": "POST", "route": "/v1/threads/{thread_id}/runs", "status": "200"}
    requests_before = value(url, "nbruns_request_seconds_count", **route)
    events_before = value(url, "nbruns_events_total")
    events = list(api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": said.assistant()}))
    now = metrics(url)

    def of(name: str, **labels: str) -> float:
        return now[name, frozenset(labels.items())]

    assert of("nbruns_run_seconds_count", model=said.name, status="completed") == 1
    assert of("nbruns_tokens_total", model=said.name, type="prompt") == 7
    assert of("nbruns_tokens_total", model=said.name, type="completion") == 3
    assert of("nbruns_model_seconds_count", model=said.name, outcome="completed") == 1
    assert of("nbruns_model_first_delta_seconds_count", model=said.name) == 1
    assert of("nbruns_request_seconds_count", **route) == requests_before + 1
    assert of("nbruns_events_total") == events_before + len(events) - 1  # `done` is none
    assert of("nbruns_commit_seconds_count") > 0
    assert of("nbruns_files_in_progress") == 0
    if sys.platform == "linux":
        assert of("process_resident_memory_bytes") > 1_000_000


def test_active_runs_and_open_streams_are_counted_when_asked(api: Api, url: str, script: Scripts) -> None:
    before = metrics(url)
    gate = threading.Event()
    assistant = script((gate, *ANSWER)).assistant()
    stream = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    for event in stream:
        if event.name == "thread.run.in_progress":
            break
    waiting = waiting_run(api, script)

    def more(name: str, **labels: str) -> float:
        key = name, frozenset(labels.items())
        return metrics(url)[key] - before[key]

    assert more("nbruns_active_runs", status="in_progress") == 1
    assert more("nbruns_active_runs", status="requires_action") == 1
    assert more("nbruns_open_streams") == 1
    gate.set()
    assert list(stream)[-1].name == "done"
    api.post(f"{api.run_path(waiting)}/submit_tool_outputs", OUTPUTS)
    api.until(waiting, "completed")
    assert more("nbruns_active_runs", status="in_progress") == 0


def test_failures_and_refusals_are_counted_without_what_was_sent(api: Api, url: str, script: Scripts) -> None:
    said = script((ModelError("rate_limit_exceeded", "secret words"),))
    list(api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": said.assistant()}))
    assert value(url, "nbruns_run_seconds_count", model=said.name, status="failed") == 1
    assert value(url, "nbruns_model_seconds_count", model=said.name, outcome="error") == 1
    other = {"method": "GET", "route": "other", "status": "404"}
    before = value(url, "nbruns_request_seconds_count", **other)
    api.send("GET", "/sk-secret/words")
    assert value(url, "nbruns_request_seconds_count", **other) == before + 1
    labels = [text for _, given in metrics(url) for _, text in given]
    assert not [text for text in labels if "secret" in text]


def test_so_many_models_have_numbers_of_their_own() -> None:
    counted = telemetry.Telemetry()
    for number in range(telemetry.MAX_MODELS + 5):
        run = {"model": f"model-{number}", "status": "completed", "created_at": 0, "usage": None}
        counted.events([("run_1", 1, "thread.run.completed", json.dumps(run))])
    text = counted.exposition({}, 0, 0).decode()
    assert 'nbruns_run_seconds_count{model="model-99",status="completed"} 1.0' in text
    assert 'nbruns_run_seconds_count{model="other",status="completed"} 5.0' in text
    assert "model-100" not in text


class Receiver:
    """A receiver of spans that is scripted to say yes to everything."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                sent = ExportTraceServiceRequest.FromString(body)
                for of_resource in sent.resource_spans:
                    receiver.services.add(attributes(of_resource.resource)["service.name"])
                    receiver.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


def attributes(of: Any) -> JSON:
    """Return the attributes of a span or a resource."""
    values: JSON = {}
    for each in of.attributes:
        kind = each.value.WhichOneof("value")
        found = getattr(each.value, kind)
        values[each.key] = [one.string_value for one in found.values] if kind == "array_value" else found
    return values


def test_a_run_is_one_trace_whatever_servers_work_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        tally = tmp_path / "tally"
        tally.write_text("slow\n")  # so that the next slow one is not the first
        first = ServerProcess(tmp_path / "db", "--tally", str(tally), "--pause", "0")
        api = first.api
        asked = {"model": "slow", "instructions": "Secret instructions."}
        hosted = api.post("/assistants", {"model": "slow", "tools": [{"type": "tally"}]})["id"]
        calling = api.post("/assistants", {**asked, "tools": [WEATHER]})["id"]
        waiting = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": calling})
        waiting = api.until(waiting, "requires_action")
        ended = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": hosted})
        ended = api.until(ended, "completed", "failed")
        assert first.stop() == 0
        second = ServerProcess(tmp_path / "db", "--pause", "0")
        api = second.api
        [call] = waiting["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = {"tool_outputs": [{"tool_call_id": call["id"], "output": "Secret output."}]}
        api.post(f"{api.run_path(waiting)}/submit_tool_outputs", outputs)
        waiting = api.until(waiting, "completed")
        assert second.stop() == 0

    def spans_of(run: JSON) -> dict[str, list[Span]]:
        found: dict[str, list[Span]] = {}
        for span in receiver.spans:
            if attributes(span)["nbruns.run.id"] == run["id"]:
                found.setdefault(span.name, []).append(span)
        return found

    assert receiver.services == {"nbruns"}
    over_two_servers = spans_of(waiting)
    assert sorted(over_two_servers) == ["chat slow", "invoke_agent"]
    [root] = over_two_servers["invoke_agent"]
    chats = over_two_servers["chat slow"]
    assert len(chats) == 2
    assert {span.trace_id for span in chats} == {root.trace_id}
    assert {span.parent_span_id for span in chats} == {root.span_id} and not root.parent_span_id
    assert attributes(root) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "nbruns",
        "gen_ai.agent.id": calling,
        "gen_ai.conversation.id": waiting["thread_id"],
        "gen_ai.request.model": "slow",
        "gen_ai.usage.input_tokens": waiting["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": waiting["usage"]["completion_tokens"],
        "nbruns.run.id": waiting["id"],
    }
    assert (
        sum(attributes(span)["gen_ai.usage.output_tokens"] for span in chats)
        == waiting["usage"]["completion_tokens"]
    )
    assert [attributes(span)["gen_ai.response.finish_reasons"] for span in chats] == [
        ["tool_calls"],
        ["stop"],
    ]
    with_a_hosted_tool = spans_of(ended)
    call_span, _ = with_a_hosted_tool["execute_tool tally"]
    assert attributes(call_span)["gen_ai.tool.type"] == "extension"
    [other_root] = with_a_hosted_tool["invoke_agent"]
    assert call_span.parent_span_id == other_root.span_id and call_span.trace_id != root.trace_id
    assert b"Secret" not in b"".join(span.SerializeToString() for span in receiver.spans)


def test_a_failed_run_has_an_error_type(monkeypatch: pytest.MonkeyPatch) -> None:
    run = {
        **{"id": "run_1", "assistant_id": "asst_1", "thread_id": "thread_1", "model": "m", "created_at": 1},
        **{
            "status": "failed",
            "usage": None,
            "last_error": {"code": "rate_limit_exceeded", "message": "Secret."},
        },
    }
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{receiver.url}/v1/traces")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "runs")
        spans = telemetry.traces()
        assert spans is not None
        spans.run_ended(run)
        spans.close()
    [span] = receiver.spans
    assert receiver.services == {"runs"}
    assert attributes(span)["error.type"] == "rate_limit_exceeded" and span.status.code == 2
    assert b"Secret" not in span.SerializeToString()


def test_a_sampler_keeps_or_drops_whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
        counted = telemetry.Telemetry(telemetry.traces())
        for number in range(40):
            run = {
                **{
                    "id": f"run_{number}",
                    "assistant_id": "a",
                    "thread_id": "t",
                    "model": "m",
                    "created_at": 1,
                },
                **{"status": "completed", "usage": None, "last_error": None},
            }
            with counted.tool_call(run, "call_1", "file_search", None):
                pass
            counted.events([(run["id"], 1, "thread.run.completed", json.dumps(run))])
        counted.close()
    runs = [attributes(span)["nbruns.run.id"] for span in receiver.spans]
    assert 4 < len(set(runs)) < 36
    assert sorted(runs) == sorted([*set(runs)] * 2)


def test_without_the_package_the_server_says_so_and_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert telemetry.traces() is None
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no spans are sent" in caplog.text
    assert "pip install 'opentelemetry-" in caplog.text


def test_opentelemetry_is_imported_only_when_it_is_wanted() -> None:
    code = "import sys, nbruns.server.http; print(any(n.startswith('opentelemetry') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
