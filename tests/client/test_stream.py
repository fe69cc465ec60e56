"""A run's stream, live and in every form that servers give it, against a socket server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kept_run import BODY, DONE, EVENTS, NUMBERED, RUN, KeptRun, create, state, wire
from socket_server import SocketServer, answer, stream

from nbruns.client import Client
from nbruns.errors import StreamError
from nbruns.objects import Message, Run, RunStep


def test_events_are_objects_in_order() -> None:
    with SocketServer(stream([NUMBERED])) as server, create(server) as events:
        read = list(events)
    assert [(e.event, e.id) for e in read] == [(name, str(i)) for i, (name, _) in enumerate(EVENTS, 1)]
    assert [type(e.data) for e in read[:3]] == [Run, RunStep, Message]
    assert [e.data.to_dict() for e in read] == [payload for _, payload in EVENTS]
    assert events.run == Run(DONE)


def test_text_comes_in_the_pieces_in_which_it_was_sent() -> None:
    with SocketServer(stream([BODY])) as server, create(server) as events:
        assert list(events.text_deltas()) == ["Hé", " you"]


def test_an_event_is_there_before_the_next_is_sent() -> None:
    first, rest = wire(EVENTS[:1]), wire(EVENTS[1:])
    go_on = threading.Event()

    def held() -> Iterator[bytes]:
        yield first
        assert go_on.wait(10)
        yield rest

    with SocketServer(stream(held())) as server, create(server) as events:
        assert next(events).event == "thread.run.in_progress"
        go_on.set()
        assert events.until_done().status == "completed"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(wire(EVENTS), id="no [DONE]"),
        pytest.param(
            b"".join(b"data: " + json.dumps({"event": n, "data": p}).encode() + b"\n\n" for n, p in EVENTS),
            id="name in the data",
        ),
        pytest.param(
            b"".join(b"data: " + json.dumps(p).encode() + b"\n\n" for _, p in EVENTS), id="no name at all"
        ),
        pytest.param(BODY.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(
            b": hi\n\nevent: ping\ndata: {}\n\n"
            + BODY.replace(b"event: done", b"event: tea\ndata: {}\n\nevent: done"),
            id="unknown events",
        ),
        pytest.param(
            BODY.replace(b'"completed"}\n\nevent: done', b'"completed"}}\n\nevent: done'),
            id="a brace too many",
        ),
        pytest.param(BODY + b"event: thread.run.failed\ndata: {", id="half an event behind the end"),
    ],
)
def test_what_servers_do_to_a_stream(body: bytes) -> None:
    with SocketServer(stream([BODY])) as plain, create(plain) as expected:
        expected.until_done()
    with (
        SocketServer(stream(body[i : i + 7] for i in range(0, len(body), 7))) as server,
        create(server) as events,
    ):
        events.until_done()
    assert state(events) == state(expected)
    assert len(server.received) == 1


def test_outputs_carry_the_snapshot_on() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}", "output": None}}
    tools = {"id": "step_0", "object": "thread.run.step", "type": "tool_calls", "run_id": "run_1"}
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [call]}}
    first = [
        ("thread.run.step.created", {**tools, "step_details": {"type": "tool_calls", "tool_calls": [call]}}),
        ("thread.run.requires_action", {**RUN, "status": "requires_action", "required_action": action}),
    ]
    with SocketServer(stream([wire(first)]), stream([BODY])) as server, create(server) as asking:
        run = asking.until_done()
        assert [c.id for c in run.tool_calls] == ["call_1"]
        client = Client(f"{server.url}/v1")
        with client.runs.submit_tool_outputs_stream(run, {"call_1": "x"}, snapshot=asking.snapshot) as events:
            assert events.until_done().status == "completed"
    assert [step.id for step in events.snapshot.steps] == ["step_0", "step_1"]
    assert server.received[1].body == {
        "tool_outputs": [{"tool_call_id": "call_1", "output": "x"}],
        "stream": True,
    }


def test_closing_ends_a_reader_in_another_thread() -> None:
    over = threading.Event()

    def held() -> Iterator[bytes]:
        yield wire(EVENTS[:1])
        assert over.wait(10)

    with SocketServer(stream(held())) as server:
        events = create(server)
        assert next(events).event == "thread.run.in_progress"
        rest: list[Any] = []
        reader = threading.Thread(target=lambda: rest.extend(events))
        reader.start()
        events.close()
        reader.join(5)
        assert not reader.is_alive() and rest == []
        over.set()
    assert len(server.received) == 1


def test_a_connection_that_breaks_behind_the_end_is_nobodys_trouble() -> None:
    broken = stream([wire(EVENTS)], Content_Length="100000")
    with SocketServer(broken) as server, create(server) as events:
        assert [event.event for event in events] == [name for name, _ in EVENTS]
    assert len(server.received) == 1


def test_a_stream_that_is_closed_before_it_names_a_run_has_none_to_give() -> None:
    with SocketServer(stream([BODY])) as server, create(server) as events:
        events.close()
        with pytest.raises(StreamError, match="closed before it named a run"):
            events.until_done()


def test_a_stream_that_never_names_a_run() -> None:
    nothing = answer({"data": [], "has_more": False})
    with SocketServer(stream([b": hello\n\n"]), nothing) as server, create(server) as events:
        with pytest.raises(StreamError, match="before it named a run"):
            events.until_done()


def test_following_a_run_that_exists() -> None:
    with SocketServer(KeptRun(NUMBERED, 0, True)) as server:
        client = Client(f"{server.url}/v1")
        with client.runs.retrieve_stream("run_1", "thread_1") as events:
            events.until_done()
    assert events.snapshot.text == "Hé you"
