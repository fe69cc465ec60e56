"""Streams that break off, and what a client does then: rejoin, or ask, until the run has ended."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from kept_run import BODY, DONE, DONE_EVENT, EVENTS, LAST, NUMBERED, RUN, KeptRun, create, state, wire
from shares import check_in_shares, cuts
from socket_server import Answer, Received, SocketServer, answer, hang_up, stream

from nbruns.client import Client
from nbruns.client import stream as stream_module
from nbruns.errors import NotFoundError, StreamError
from nbruns.objects import Run


@pytest.mark.parametrize("rejoins", [True, False], ids=["rejoining", "asking"])
def test_cut_after_any_byte_the_snapshot_is_that_of_the_whole(
    rejoins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.001)
    body = NUMBERED if rejoins else BODY
    with SocketServer(stream([body])) as server, create(server) as whole:
        whole.until_done()

    def check(positions: Sequence[int]) -> None:
        run = KeptRun(body, 0, rejoins)
        with SocketServer(run) as server:
            client = Client(f"{server.url}/v1", timeout=5.0, max_retries=0)
            for run.cut in positions:
                with client.runs.create_stream("thread_1", "asst_1") as events:
                    text = "".join(events.text_deltas())
                assert state(events) == state(whole), f"cut after {run.cut} bytes: {body[: run.cut][-40:]!r}"
                assert text == "Hé you", f"cut after {run.cut} bytes"

    check_in_shares(check, cuts(body))


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


def test_an_answered_requires_action_on_the_way_is_no_end() -> None:
    asked = ("thread.run.requires_action", {**RUN, "status": "requires_action"})
    body = wire([asked, *EVENTS[:4]])
    with SocketServer(KeptRun(body, len(body), False)) as server, create(server) as events:
        assert events.until_done().status == "completed"
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
