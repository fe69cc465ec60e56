"""A run's stream, live and broken in every way, against a socket server that keeps the run going."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from shares import check_in_shares
from socket_server import Answer, Received, SocketServer, answer, hang_up, stream

from nbruns import stream as stream_module
from nbruns.client import Client
from nbruns.errors import NotFoundError, StreamError
from nbruns.objects import Message, Run, RunStep
from nbruns.stream import RunStream

IDS = {"thread_id": "thread_1", "assistant_id": "asst_1"}
RUN = {"id": "run_1", "object": "thread.run", "status": "in_progress", **IDS}
DONE = {**RUN, "status": "completed"}
STEP = {"id": "step_1", "object": "thread.run.step", "type": "message_creation", "run_id": "run_1"}
MESSAGE = {
    "id": "msg_1",
    "object": "thread.message",
    "role": "assistant",
    "run_id": "run_1",
    "status": "in_progress",
}


def content(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": {"value": text, "annotations": []}}]


def delta(text: str) -> dict[str, Any]:
    part = {"index": 0, "type": "text", "text": {"value": text}}
    return {"id": "msg_1", "object": "thread.message.delta", "delta": {"content": [part]}}


EVENTS = [
    ("thread.run.in_progress", RUN),
    ("thread.run.step.created", {**STEP, "status": "in_progress"}),
    ("thread.message.created", {**MESSAGE, "content": []}),
    ("thread.message.delta", delta("Hé")),
    ("thread.message.delta", delta(" you")),
    ("thread.message.completed", {**MESSAGE, "status": "completed", "content": content("Hé you")}),
    ("thread.run.step.completed", {**STEP, "status": "completed"}),
    ("thread.run.completed", DONE),
]
LAST = {payload["id"]: payload for name, payload in EVENTS if not name.endswith("delta")}


def wire(events: list[tuple[str, dict[str, Any]]], first_id: int | None = None) -> bytes:
    numbered = ("" if first_id is None else f"id: {first_id + i}\n" for i in range(len(events)))
    return "".join(
        f"{number}event: {name}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n"
        for number, (name, payload) in zip(numbered, events, strict=True)
    ).encode()


DONE_EVENT = b"event: done\ndata: [DONE]\n\n"
BODY, NUMBERED = wire(EVENTS) + DONE_EVENT, wire(EVENTS, 1) + DONE_EVENT


class KeptRun:
    """What a server answers whose first stream is cut after `cut` bytes while the run goes on to its end."""

    def __init__(self, body: bytes, cut: int, rejoins: bool) -> None:
        self.body, self.cut, self.rejoins = body, cut, rejoins

    def __call__(self, connection: socket.socket, request: Received) -> bool | None:
        return self._answer_to(request)(connection, request)  # type: ignore[no-any-return]

    def _answer_to(self, request: Received) -> Any:
        path = request.path.partition("?")[0].removeprefix("/v1/threads/thread_1/")
        if request.method == "POST":
            return stream([self.body[: self.cut]])
        if path == "runs/run_1/stream" and self.rejoins:
            after = int(request.headers.get("last-event-id", "0"))
            return stream([wire(EVENTS[after:], after + 1), DONE_EVENT])
        others = [
            {**LAST["msg_1"], "id": "msg_0", "role": "user"},
            {**LAST["msg_1"], "id": "msg_2", "run_id": "run_0"},
        ]
        answers = {
            "runs/run_1": DONE,
            "runs": {"data": [{**DONE, "created_at": 2**36}], "has_more": False},
            "runs/run_1/steps": {"data": [LAST["step_1"]], "has_more": False},
            # As of servers that know no filter by run.
            "messages": {"data": [*others, LAST["msg_1"]], "has_more": False},
        }
        known = answers.get(path, {"error": {"message": "no"}})
        return answer(known, 200 if path in answers else 404, Connection="keep-alive")


def create(server: SocketServer, **options: Any) -> RunStream:
    return Client(f"{server.url}/v1", timeout=5.0, max_retries=0, **options).runs.create_stream(
        "thread_1", "asst_1"
    )


def state(of: RunStream) -> tuple[Any, ...]:
    snapshot = of.snapshot
    assert snapshot.run is not None
    return (
        snapshot.run.to_dict(),
        [step.to_dict() for step in snapshot.steps],
        [message.to_dict() for message in snapshot.messages],
        snapshot.text,
    )


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


@pytest.mark.parametrize("rejoins", [True, False], ids=["rejoining", "asking"])
def test_cut_after_any_byte_the_snapshot_is_that_of_the_whole(
    rejoins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.001)
    body = NUMBERED if rejoins else BODY
    with SocketServer(stream([body])) as server, create(server) as whole:
        whole.until_done()

    def check(cuts: Sequence[int]) -> None:
        run = KeptRun(body, 0, rejoins)
        with SocketServer(run) as server:
            client = Client(f"{server.url}/v1", timeout=5.0, max_retries=0)
            for run.cut in cuts:
                with client.runs.create_stream("thread_1", "asst_1") as events:
                    text = "".join(events.text_deltas())
                assert state(events) == state(whole), f"cut after {run.cut} bytes: {body[: run.cut][-40:]!r}"
                assert text == "Hé you", f"cut after {run.cut} bytes"

    check_in_shares(check, range(len(body)))


def test_an_error_in_mid_stream_leads_to_what_became_of_the_run() -> None:
    error = b'event: error\ndata: {"error": {"message": "overloaded", "code": "server_error"}}\n\n'
    body = wire(EVENTS[:4]) + error
    with SocketServer(KeptRun(body, len(body), True)) as server, create(server) as events:
        assert events.until_done().status == "completed"
    assert events.snapshot.error == {"message": "overloaded", "code": "server_error"}
    assert events.snapshot.text == "Hé you"


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b"5}"])
def test_data_that_is_no_object_leads_to_what_became_of_the_run(data: bytes) -> None:
    body = wire(EVENTS[:4]) + b"event: thread.message.delta\ndata: %b\n\n" % data
    with SocketServer(KeptRun(body, len(body), True)) as server, create(server) as events:
        assert events.until_done().status == "completed"


def test_a_server_that_is_gone_is_given_up_with_what_had_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CARRY_ON_DEADLINE", 0.2)
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.01)
    with SocketServer(stream([wire(EVENTS[:4])]), hang_up) as server, create(server) as events:
        with pytest.raises(StreamError, match="run_1 broke off") as caught:
            events.until_done()
    assert caught.value.snapshot is events.snapshot and events.snapshot.text == "Hé"


def silent_after(*answers: Answer) -> list[Answer]:
    return [stream([wire(EVENTS[:4])]), answer({"error": {"message": "no"}}, 404), *answers]


STEPS, MESSAGES = (answer({"data": [LAST[id]], "has_more": False}) for id in ("step_1", "msg_1"))
RESTARTED: dict[str, list[Answer]] = {
    "while the run is asked for": silent_after(hang_up, answer({}, 502), answer(DONE), STEPS, MESSAGES),
    "while its steps are": silent_after(answer(DONE), hang_up, answer({}, 500), STEPS, MESSAGES),
    "while its messages are": silent_after(answer(DONE), STEPS, hang_up, MESSAGES),
    "before the run was named": [
        stream([]),
        hang_up,
        answer({"data": [{**DONE, "created_at": 2**36}]}),
        answer({}, 404),
        *(answer(DONE), STEPS, MESSAGES),
    ],
    "while the stream is rejoined": [
        stream([wire(EVENTS[:4], 1)]),
        hang_up,
        stream([wire(EVENTS[4:6], 5)]),
        hang_up,
        stream([wire(EVENTS[6:], 7)]),
    ],
}


@pytest.mark.parametrize("when", RESTARTED)
def test_a_server_that_is_gone_for_a_moment(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.001)
    with SocketServer(stream([BODY])) as whole, create(whole) as expected:
        expected.until_done()
    with SocketServer(*RESTARTED[when]) as server, create(server) as events:
        assert "".join(events.text_deltas()) == "Hé you"
    assert state(events) == state(expected)
    assert len(server.received) == len(RESTARTED[when])


@pytest.mark.parametrize(
    "gone", [[], [answer(DONE)], [answer(DONE), STEPS]], ids=["run", "steps", "messages"]
)
def test_a_server_that_stays_gone_while_asked_is_given_up(
    gone: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "CARRY_ON_DEADLINE", 0.2)
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.01)
    with SocketServer(*silent_after(*gone, hang_up)) as server, create(server) as events:
        with pytest.raises(StreamError, match=r"run_1 broke off .*the connection broke") as caught:
            events.until_done()
    assert caught.value.snapshot is events.snapshot and events.snapshot.text == "Hé"


@pytest.mark.parametrize(
    "refusal",
    [
        answer(body=b"<html>", Content_Type="text/html"),
        answer({"detail": "Method Not Allowed"}, 405),
        answer({}, 501),
        stream([b"data: <html>\n\n"]),
    ],
    ids=["a page for every path", "405", "501", "a stream of nonsense"],
)
def test_a_server_that_can_not_be_rejoined_is_asked(refusal: Answer) -> None:
    answers = stream([wire(EVENTS[:4])]), refusal, answer(DONE), STEPS, MESSAGES
    with SocketServer(*answers) as server, create(server) as events:
        assert "".join(events.text_deltas()) == "Hé you"
    assert events.run == Run(DONE)


@pytest.mark.parametrize("told", [hang_up, answer(RUN)], ids=["a server that is gone", "a run that goes on"])
def test_closing_ends_the_asking_too(told: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.001)
    asked = threading.Semaphore(0)

    def gone(connection: socket.socket, request: Received) -> bool | None:
        asked.release()
        return told(connection, request)

    with SocketServer(*silent_after(gone)) as server, create(server) as events:
        read: list[Any] = []
        reader = threading.Thread(target=lambda: read.extend(events))
        reader.start()
        assert asked.acquire(timeout=10) and asked.acquire(timeout=10)
        events.close()
        reader.join(10)
        assert not reader.is_alive() and [e.event for e in read] == [name for name, _ in EVENTS[:4]]
    assert repr(events).endswith(", closed)")


def test_a_refusal_while_carrying_on_is_told() -> None:
    gone = answer({"error": {"message": "No run run_1."}}, 404)
    with SocketServer(stream([wire(EVENTS[:4])]), gone) as server, create(server) as events:
        with pytest.raises(NotFoundError, match="No run run_1"):
            events.until_done()


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


def test_an_answered_requires_action_on_the_way_is_no_end() -> None:
    asked = ("thread.run.requires_action", {**RUN, "status": "requires_action"})
    body = wire([asked, *EVENTS[:4]])
    with SocketServer(KeptRun(body, len(body), False)) as server, create(server) as events:
        assert events.until_done().status == "completed"
    assert events.snapshot.text == "Hé you"


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


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKING = {
    **RUN,
    "status": "requires_action",
    "required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [CALL]}},
}


@pytest.mark.parametrize("rejoins", [True, False], ids=["rejoining", "asking"])
def test_a_submission_whose_stream_drops_at_once_goes_on_behind_the_question(
    rejoins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has named the run, no snapshot was given, and the server still shows the call that is answered."""
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.001)
    missing = answer({"error": {"message": "no"}}, 404)
    asked = wire([("thread.run.requires_action", ASKING)], 1)
    of_run = {"data": [LAST["step_1"]], "has_more": False}, {"data": [LAST["msg_1"]], "has_more": False}
    rejoined = [stream([asked]), stream([wire(EVENTS, 2), DONE_EVENT])]
    polled = [missing, answer(ASKING), answer(ASKING), answer(DONE), *map(answer, of_run)]
    with SocketServer(stream([]), answer(ASKING), *(rejoined if rejoins else polled)) as server:
        client = Client(f"{server.url}/v1", max_retries=0)
        with client.runs.submit_tool_outputs_stream("run_1", {"call_1": "x"}, "thread_1") as events:
            assert events.until_done().status == "completed"
    assert events.snapshot.text == "Hé you"


def test_a_new_threads_run_is_found_by_its_thread() -> None:
    created = wire([("thread.created", {"id": "thread_1", "object": "thread"})])
    run = KeptRun(created, len(created), True)
    with SocketServer(run) as server:
        client = Client(f"{server.url}/v1", max_retries=0)
        with client.threads.create_and_run_stream("asst_1", "Hello") as events:
            assert events.until_done().status == "completed"
    assert events.snapshot.text == "Hé you"
