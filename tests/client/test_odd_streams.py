"""Streams as odd servers send them, byte for byte over a real socket: what is read is what was meant."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kept_run import DONE, MESSAGE, RUN
from socket_server import Answer, Received, SocketServer, answer, stream

from nbruns import sse
from nbruns.client import Client
from nbruns.client import stream as stream_module
from nbruns.client.stream import Event, RunStream

Wire = list[tuple[str, dict[str, Any]]]
STEP = {
    "id": "step_1",
    "object": "thread.run.step",
    "type": "tool_calls",
    "run_id": "run_1",
    "status": "in_progress",
}
TEXT = "Grüße 🌮 zurück\n\nNext: \r\n\t‖"


def text_delta(text: str, **more: Any) -> dict[str, Any]:
    part = {"type": "text", "text": {"value": text}, **more}
    return {"id": "msg_1", "object": "thread.message.delta", "delta": {"content": [part]}}


def events_of(text: str = TEXT) -> Wire:
    """A run that says a text, a character an event."""
    deltas = [("thread.message.delta", text_delta(c, index=0)) for c in text]
    content = [{"type": "text", "text": {"value": text, "annotations": []}}]
    return [
        ("thread.run.in_progress", RUN),
        ("thread.message.created", {**MESSAGE, "content": []}),
        *deltas,
        ("thread.message.completed", {**MESSAGE, "status": "completed", "content": content}),
        ("thread.run.completed", DONE),
    ]


def plain(events: Wire, end: str = "\n") -> bytes:
    lines = (
        f"event: {name}{end}data: {json.dumps(data, ensure_ascii=False)}{end}{end}" for name, data in events
    )
    return "".join(lines).encode() + f"event: done{end}data: [DONE]{end}{end}".encode()


def in_lines(events: Wire) -> bytes:
    """Data over many lines, a comment before each event, and fields that mean nothing."""
    return b"".join(
        b": keep alive\n\nevent: %b\nnoise: 1\n" % name.encode()
        + b"".join(b"data: %b\n" % line.encode() for line in json.dumps(data, indent=1).splitlines())
        + b"\n"
        for name, data in events
    )


SPELLINGS: dict[str, Callable[[Wire], bytes]] = {
    "LF": plain,
    "CR": lambda events: plain(events, "\r"),
    "CRLF": lambda events: plain(events, "\r\n"),
    "LF before CRLF": lambda events: plain(events).replace(b"}\n\n", b"}\n\r\n"),
    "byte order mark": lambda events: b"\xef\xbb\xbf" + plain(events),
    "comments, lines of data, unknown fields": in_lines,
    "no [DONE]": lambda events: plain(events).rpartition(b"event: done")[0],
    "unknown events": lambda events: plain([e for each in events for e in (("tea.ready", {"x": 1}), each)]),
    "NUL in an id": lambda events: plain(events).replace(b"event: ", b"id: a\0b\nevent: "),
    "retry and ids": lambda events: plain(events).replace(b"event: ", "retry: 5\nid: é🌮\nevent: ".encode()),
    "half an event at the end": lambda events: plain(events) + b"event: thread.run.failed\ndata: {}",
    "no name": lambda events: b"".join(b"data: %b\n\n" % json.dumps(data).encode() for _, data in events),
    "name in the data (Astra)": lambda events: b"".join(
        b"data: %b\n\n" % json.dumps({"event": name, "data": data}).encode() for name, data in events
    ),
}


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[i : i + size] for i in range(0, len(body), size))


def read(served: Answer, *more: Answer) -> tuple[RunStream, list[Event]]:
    with SocketServer(served, *more) as server:
        with Client(server.url, timeout=5.0, max_retries=0).runs.create_stream(
            "thread_1", "asst_1"
        ) as events:
            found = list(events)
    return events, found


def known(events: Wire) -> list[tuple[str, dict[str, Any]]]:
    return [(name, json.loads(json.dumps(data))) for name, data in events]


@pytest.mark.parametrize("size", [1, 2, 100_000], ids=["1-byte chunks", "2-byte chunks", "whole"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_events_however_they_are_spelled(spelling: str, size: int) -> None:
    sent = events_of()
    events, found = read(stream(pieces(SPELLINGS[spelling](sent), size)))
    assert [(e.event, e.data.to_dict()) for e in found if e.event != "tea.ready"] == _as_named(spelling, sent)
    assert events.snapshot.text == TEXT and events.run is not None and events.run.to_dict() == DONE


def _as_named(spelling: str, sent: Wire) -> Wire:
    """Without a name, an event goes by its object and status."""
    if spelling != "no name":
        return known(sent)
    return [(f"{d['object']}.{d['status']}" if "status" in d else d["object"], d) for _, d in known(sent)]


@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzip"])
def test_chunked_transfer_in_small_pieces(gzipped: bool) -> None:
    body = gzip.compress(plain(events_of())) if gzipped else plain(events_of())
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(body, 3)] + [b"0\r\n\r\n"]
    encoding = {"Content_Encoding": "gzip"} if gzipped else {}
    events, _ = read(stream(framed, Transfer_Encoding="chunked", **encoding))
    assert events.snapshot.text == TEXT


def test_invalid_utf8_is_replaced_and_harms_nothing_else() -> None:
    body = plain(events_of("ab")).replace(b'"a"', b'"\xff\xc3"', 1)
    events, found = read(stream(pieces(body, 1)))
    assert found[2].data.text == "\ufffd\ufffd" and events.snapshot.text == "ab"


def call_delta(**call: Any) -> tuple[str, dict[str, Any]]:
    details = {"type": "tool_calls", "tool_calls": [call]}
    delta = {"id": "step_1", "object": "thread.run.step.delta", "delta": {"step_details": details}}
    return "thread.run.step.delta", delta


def function(arguments: str, name: str | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"arguments": arguments, **({"name": name} if name else {})}}


START = {**function("", "f"), "id": "call_1"}, {**function("", "g"), "id": "call_2"}
CALLS: dict[str, list[dict[str, Any]]] = {
    "by index": [
        *({"index": i, **start} for i, start in enumerate(START)),
        *({"index": i, **function(text)} for i, text in ((0, '{"a"'), (1, '{"b"'), (0, ": 1}"), (1, ": 2}"))),
    ],
    "index 0 for both, told apart by id": [
        *({"index": 0, **start} for start in START),
        *(
            {"index": 0, "id": f"call_{i}", **function(text)}
            for i, text in ((1, '{"a"'), (2, '{"b"'), (1, ": 1}"), (2, ": 2}"))
        ),
    ],
    "no index, one after the other": [
        START[0],
        function('{"a"'),
        function(": 1}"),
        START[1],
        function('{"b": 2}'),
    ],
}


@pytest.mark.parametrize("how", CALLS)
def test_parallel_calls_are_kept_apart(how: str) -> None:
    created = {**STEP, "step_details": {"type": "tool_calls", "tool_calls": []}}
    sent = [("thread.run.in_progress", RUN), ("thread.run.step.created", created)]
    sent += [call_delta(**call) for call in CALLS[how]]
    events, _ = read(stream(pieces(plain([*sent, ("thread.run.completed", DONE)]), 50)))
    calls = [(call.id, call.name, call.arguments) for call in events.snapshot.tool_calls]
    assert calls == [("call_1", "f", '{"a": 1}'), ("call_2", "g", '{"b": 2}')]


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}], ids=["none", "repeated", "null"])
def test_text_without_a_useful_index(index: dict[str, Any]) -> None:
    deltas = [("thread.message.delta", text_delta(c, **index)) for c in "Hello"]
    sent = [("thread.run.in_progress", RUN), ("thread.message.created", {**MESSAGE, "content": []}), *deltas]
    events, _ = read(stream([plain([*sent, ("thread.run.completed", DONE)])]))
    assert events.snapshot.text == "Hello" and len(events.snapshot.messages[0].content) == 1


def test_alibabas_milliseconds_and_single_content() -> None:
    content = {"type": "text", "text": {"value": "Hello", "annotations": []}}
    created = 1_711_957_325_123
    delta = {"id": "msg_1", "object": "thread.message.delta", "delta": {"content": {**content, "index": 0}}}
    sent: Wire = [
        ("thread.run.created", {**RUN, "created_at": created}),
        ("thread.message.created", {**MESSAGE, "created_at": created, "content": {}}),
        ("thread.message.delta", delta),
        ("thread.run.completed", {**DONE, "created_at": created}),
    ]
    events, found = read(stream([plain(sent)]))
    assert events.snapshot.text == "Hello" and found[2].data.text == "Hello"
    whole = {**MESSAGE, "status": "completed", "content": content}
    events, _ = read(stream([plain([*sent[:2], ("thread.message.completed", whole), sent[-1]])]))
    assert events.snapshot.text == "Hello"
    assert events.run is not None and str(events.run.created_at_utc) == "2024-04-01 07:42:05.123000+00:00"


def test_three_megabytes_in_128_byte_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that has come must not be looked through at each of the 23,438 chunks: what is looked through is counted."""
    looked, split = 0, sse._split

    def counting(pieces: list[bytes]) -> list[bytes]:
        nonlocal looked
        looked += sum(map(len, pieces))
        return split(pieces)

    monkeypatch.setattr(sse, "_split", counting)
    text = "x" * 3_000_000
    sent = [
        ("thread.run.in_progress", RUN),
        ("thread.message.delta", text_delta(text)),
        ("thread.run.completed", DONE),
    ]
    body = plain(sent)
    assert len([*sse.iter_events(pieces(body, 128))]) == len(sent) + 1
    assert len(body) <= looked < 1.1 * len(body)
    events, _ = read(stream(pieces(body, 128)))
    assert events.snapshot.text == text


def test_an_endless_line_is_left_and_the_run_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1_000_000)
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.001)
    hung_up: list[int] = []

    def endless(connection: socket.socket, request: Received) -> None:
        stream([plain([("thread.run.in_progress", RUN)]).partition(b"event: done")[0], b"data: "])(
            connection, request
        )
        sent = 0
        try:
            while True:
                sent += connection.send(b"x" * 65536)
        except OSError:
            hung_up.append(sent)

    empty = answer({"data": [], "has_more": False})
    events, _ = read(endless, answer(DONE), empty, empty)
    assert events.run is not None and events.run.status == "completed"
    assert hung_up and hung_up[0] < 20_000_000  # what the sockets hold, not what a server can send


@pytest.mark.parametrize(
    ("id", "asked"),
    [("é🌮", "é🌮"), ("7", "7"), ("a\tb", None), (" 7", None), ("9" * 1024, "9" * 1024), ("9" * 5000, None)],
)
def test_any_id_can_be_rejoined_behind(id: str, asked: str | None) -> None:
    """What no header can carry is left out, and the stream comes again from its start."""
    sent = events_of()
    first = f"id: {id}\n".encode() + plain(sent[:2]).partition(b"event: done")[0]
    with SocketServer(stream([first]), stream([plain(sent)])) as server:
        with Client(server.url, timeout=5.0, max_retries=0).runs.create_stream(
            "thread_1", "asst_1"
        ) as events:
            assert events.until_done().status == "completed"
    assert server.received[1].headers.get("last-event-id") == asked
    assert events.snapshot.text == TEXT
