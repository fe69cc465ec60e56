"""The streams: the events of the recordings, as they come, and again for whoever comes back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from served import (
    ANSWER,
    CALL,
    OUTPUTS,
    TOKEN,
    WEATHER,
    Api,
    Scripts,
    as_events,
    names,
    waiting_run,
)

from nbruns.server.models import Finish, TextDelta, ToolCallDelta, usage
from nbruns.server.runs import streams
from nbruns.server.storage import store
from nbruns.sse import iter_events

JSON = dict[str, Any]


def test_a_run_with_a_tool_call_tells_the_events_of_the_recording(
    api: Api, script: Scripts, recorded: dict[str, list[JSON]]
) -> None:
    assistant = script(CALL, ANSWER).assistant(tools=[WEATHER])
    thread = {"messages": [{"role": "user", "content": "What should I wear?"}]}
    first = list(api.stream("/threads/runs", {"assistant_id": assistant, "thread": thread}))
    run = first[-2].data
    second = list(api.stream(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS))
    for ours, context in zip((first, second), recorded["stream_tool_call"][1:], strict=True):
        assert names(ours) == names(as_events(context["body"]))
    assert [event.id for event in (*first[:-1], *second[:-1])] == list(range(1, len(first) + len(second) - 1))


def test_deltas_have_the_shape_of_the_recording(
    api: Api, script: Scripts, recorded: dict[str, list[JSON]]
) -> None:
    run = waiting_run(api, script)
    list(api.stream(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS))
    ours = [event for event in api.rejoin(run) if event.name.endswith(".delta")]
    real = [
        e for x in recorded["stream_tool_call"][1:] for e in as_events(x["body"]) if e.name.endswith(".delta")
    ]
    assert distinct(shape(e.data["delta"]) for e in ours) == distinct(shape(e.data["delta"]) for e in real)


def test_text_arrives_while_it_is_made(api: Api, script: Scripts) -> None:
    gate = threading.Event()
    assistant = script((TextDelta("Hello"), gate, *ANSWER)).assistant()
    stream = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    for event in stream:
        if event.name == "thread.message.delta":
            break
    assert event.data["delta"]["content"] == [
        {"index": 0, "type": "text", "text": {"value": "Hello", "annotations": []}}
    ]
    gate.set()
    assert names(stream)[-2:] == ["thread.run.completed", "done"]


def test_parallel_calls_may_be_interleaved(api: Api, script: Scripts) -> None:
    turn = (
        ToolCallDelta(0, "call_a", "get_weather", '{"city":'),
        ToolCallDelta(1, "call_b", "get_weather", '{"city":'),
        ToolCallDelta(0, arguments='"Oslo"}'),
        ToolCallDelta(1, arguments='"Rome"}'),
        Finish("tool_calls", usage(1, 1)),
    )
    assistant = script(turn).assistant(tools=[WEATHER])
    *_, last, _ = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    calls = last.data["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [
        ("call_a", '{"city":"Oslo"}'),
        ("call_b", '{"city":"Rome"}'),
    ]


def test_text_before_a_call_is_a_message_of_its_own(api: Api, script: Scripts) -> None:
    said = script((TextDelta("Let me see."), *CALL), ANSWER)
    assistant = said.assistant(tools=[WEATHER])
    *_, last, _ = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    list(api.stream(f"{api.run_path(last.data)}/submit_tool_outputs", OUTPUTS))
    steps = api.get(f"{api.run_path(last.data)}/steps", order="asc")["data"]
    assert [step["type"] for step in steps] == ["message_creation", "tool_calls", "message_creation"]
    assert said.model.prompts[1].messages[1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "call_oslo",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_oslo", "content": "-3 °C"},
    ]


def test_a_stream_can_be_rejoined_behind_any_event(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    list(api.stream(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS))
    whole = list(api.rejoin(run))
    for after in range(len(whole)):
        assert list(api.rejoin(run, after)) == whole[after:]
    for beyond in (10_000, int("9" * 4_000)):
        assert [event.name for event in api.rejoin(run, after=beyond)] == ["done"]
    sent = api.send("GET", f"{api.run_path(run)}/stream", headers={"Last-Event-ID": "9" * 5_000}, stream=True)
    assert sent.status_code == 200 and sent.text.startswith("event: done")


def test_rejoining_a_run_that_works_follows_it_to_its_end(api: Api, script: Scripts) -> None:
    gate = threading.Event()
    assistant = script((TextDelta("a"), gate, TextDelta("b"), Finish("stop", usage(1, 2)))).assistant()
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    streams = [api.rejoin(run), api.rejoin(run, after=2)]
    first = [next(stream) for stream in streams]
    gate.set()
    events = [[head, *rest] for head, rest in zip(first, streams, strict=True)]
    assert events[0][2:] == events[1]
    assert names(events[0])[-2:] == ["thread.run.completed", "done"]


def test_rejoining_while_a_run_waits_ends_and_after_the_submission_goes_on(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    before = list(api.rejoin(run))
    assert names(before)[-2:] == ["thread.run.requires_action", "done"]
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    after = list(api.rejoin(run, before[-2].id))
    assert names(after)[0] == "thread.run.step.completed"
    assert names(after)[-2:] == ["thread.run.completed", "done"]


def test_a_reader_that_reads_nothing_holds_back_nobody_and_misses_nothing(api: Api, script: Scripts) -> None:
    # Far more than sockets keep, and not more than an answer may have.
    words = [TextDelta(f"{'x' * 1_000}{number} ") for number in range(900)]
    assistant = script((*words, Finish("stop", usage(1, 900)))).assistant()
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    with slow_connection(api, f"/v1{api.run_path(run)}/stream") as slow:
        assert api.until(run, "completed")["usage"]["completion_tokens"] == 900
        events = iter_events(iter(lambda: slow.read1(65536), b""))
        text = [event for event in events if event.event == "thread.message.delta"]
    assert len(text) == 900


def test_the_stream_of_a_run_that_is_deleted_ends(
    api: Api, script: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.1)  # then it looks whether the run is still there
    assistant = script((TextDelta("Once upon"), threading.Event())).assistant()
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    stream = api.rejoin(run)
    for event in stream:
        if event.name == "thread.message.delta":
            break
    api.delete(f"/threads/{run['thread_id']}")
    assert [event.name for event in stream] == []  # nor "done": it has not come to its end


@contextmanager
def slow_connection(api: Api, path: str) -> Iterator[HTTPResponse]:
    """A request whose answer is not read, on a socket that takes in little of it."""
    url = urlsplit(api.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.connect((url.hostname, url.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\napi-key: {TOKEN}\r\n\r\n".encode())
        response = HTTPResponse(connection)
        response.begin()
        yield response


def test_a_model_that_never_pauses_does_not_run_ahead_of_its_readers(api: Api, script: Scripts) -> None:
    said: list[int] = []

    def hasty() -> Iterator[TextDelta]:
        for number in range(20_000):
            said.append(number)
            yield TextDelta(f"{number} ")

    stream = api.stream(
        "/threads/runs", {"assistant_id": script(hasty()).assistant(), "instructions": "Count."}
    )
    events = [next(stream)]
    while events[-1].name != "thread.message.delta":
        events.append(next(stream))
    assert len(said) < 20_000
    api.post(f"{api.run_path(events[1].data)}/cancel")


def test_answers_do_not_wait_for_acknowledgements(api: Api) -> None:
    times = []
    for _ in range(60):
        began = time.perf_counter()
        api.get("/threads", limit=1)
        times.append(time.perf_counter() - began)
    assert sorted(times[30:])[7] < 0.03  # delayed acknowledgements would make it 0.04 for all


@pytest.mark.parametrize(
    "text", ["\u2028\u2029\x85", "\r\n\r\nevent: done\r\n\r\n", "\ud83d", "\0", "naïve 🧥"]
)
def test_any_character_can_be_said(api: Api, script: Scripts, text: str) -> None:
    said = script((TextDelta(text), Finish("stop", usage(1, 1))))
    run = api.post(
        "/threads/runs",
        {"assistant_id": said.assistant(), "thread": {"messages": [{"role": "user", "content": text}]}},
    )
    [delta] = [event for event in api.rejoin(run) if event.name == "thread.message.delta"]
    assert delta.data["delta"]["content"][0]["text"]["value"] == text
    assert said.model.prompts[0].messages == [{"role": "user", "content": text}]
    messages = api.get(f"/threads/{run['thread_id']}/messages")["data"]
    assert [message["content"][0]["text"]["value"] for message in messages] == [text, text]


def shape(value: Any) -> Any:
    """A value with only its structure and types."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def distinct(shapes: Iterable[Any]) -> list[str]:
    return sorted({json.dumps(one) for one in shapes})


def test_a_stream_that_is_joined_while_its_run_ends_ends_too(
    api: Api, script: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    assistant = script([gate, *ANSWER]).assistant()
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    last_event = store.last_event

    def late(conn: sa.Connection, run_id: str) -> int:
        """Read the number when the run, which was going on, has ended."""
        gate.set()
        status = ""
        while status != "completed":
            with conn.engine.connect() as other:
                status = (store.get(other, store.runs, run_id) or {})["status"]
        return last_event(conn, run_id)

    monkeypatch.setattr(store, "last_event", late)
    assert names(api.rejoin(run))[-2:] == ["thread.run.completed", "done"]
