"""The fold: what a run's events say, and what odd servers make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbruns.client.stream import _named
from nbruns.objects import Message
from nbruns.snapshot import RunSnapshot
from nbruns.sse import iter_events

SHARED = Path(__file__).parents[2] / "shared"
SEED = SHARED / "reference" / "seeds" / "004_9344369a022e12ec.txt"


def text_delta(text: str, message: str = "msg_1", **content: Any) -> dict[str, Any]:
    part = {"index": 0, "type": "text", "text": {"value": text}, **content}
    return {"id": message, "object": "thread.message.delta", "delta": {"content": [part]}}


def call_delta(step: str = "step_1", **call: Any) -> dict[str, Any]:
    details = {"type": "tool_calls", "tool_calls": [call]}
    return {"id": step, "object": "thread.run.step.delta", "delta": {"step_details": details}}


def fold(*payloads: dict[str, Any]) -> RunSnapshot:
    snapshot = RunSnapshot()
    for payload in payloads:
        snapshot.apply(payload["object"], payload)
    return snapshot


def recorded(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in path.read_text().splitlines():
        body = json.loads(line)["body"]
        if isinstance(body, str):
            yield from map(_named, iter_events([body.encode()]))


def recordings() -> list[Path]:
    return sorted((SHARED / "recordings").glob("stream_*.jsonl"))


needs_shared = pytest.mark.skipif(
    not recordings(), reason="the recordings are not here (../shared/recordings)"
)


def without_completed(
    events: Iterator[tuple[str, dict[str, Any]]],
) -> tuple[RunSnapshot, dict[str, dict[str, Any]]]:
    """The fold of everything but the completed steps and messages, and those."""
    snapshot, completed = RunSnapshot(), {}
    for name, payload in events:
        if name in ("thread.message.completed", "thread.run.step.completed"):
            completed[payload["id"]] = payload
        elif name != "done":
            snapshot.apply(name, payload)
    return snapshot, completed


@needs_shared
@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_deltas_fold_to_what_the_completed_objects_state(path: Path) -> None:
    snapshot, completed = without_completed(recorded(path))
    assert snapshot.messages and snapshot.ignored == 0
    for message in snapshot.messages:
        assert message.text == Message(completed[message.id]).text
    for step in snapshot.steps:
        stated = completed[step.id]["step_details"]
        assert [c.arguments for c in step.tool_calls if c.type == "function"] == [
            call["function"]["arguments"]
            for call in stated.get("tool_calls", [])
            if call["type"] == "function"
        ]
        assert step.message_id == stated.get("message_creation", {}).get("message_id")


@needs_shared
@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_a_whole_recording_folds_to_its_last_objects(path: Path) -> None:
    snapshot, last = RunSnapshot(), {}
    for name, payload in recorded(path):
        if name != "done":
            snapshot.apply(name, payload)
            if not name.endswith(".delta"):
                last[payload["id"]] = payload
    assert snapshot.run is not None and snapshot.run.to_dict() == last[snapshot.run.id]
    assert [s.to_dict() for s in snapshot.steps] == [last[s.id] for s in snapshot.steps]
    assert [m.to_dict() for m in snapshot.messages] == [last[m.id] for m in snapshot.messages]


@pytest.mark.skipif(not SEED.exists(), reason="the reference's page is not here (../shared/reference/seeds)")
def test_the_references_own_stream() -> None:
    page = SEED.read_text()
    lines = page[page.index("event: thread.run.step.completed") : page.rindex("data: [DONE]")].splitlines()
    # The page's text has lost the blank lines, and leaves deltas out where it has "...".
    stream = "\n".join(f"\n{line}" if line.startswith("event: ") else line for line in lines if line != "...")
    snapshot, completed = without_completed(map(_named, iter_events([stream.encode() + b"\n\n"])))
    assert snapshot.text == "The current weather sunny."
    for payload in completed.values():
        snapshot.apply(payload["object"], payload)
    assert snapshot.text == "The current weather in San Francisco, CA is 70 degrees Fahrenheit and sunny."
    assert snapshot.tool_calls[0].output == "70 degrees and sunny."
    assert snapshot.run is not None and snapshot.run.status == "completed"


def test_a_delta_without_index_goes_on_with_the_last_part() -> None:
    part = {"type": "text", "text": {"value": "b"}}
    snapshot = fold(text_delta("a"), {**text_delta(""), "delta": {"content": [part]}})
    assert snapshot.text == "ab"
    assert snapshot.messages[0].content == [{"type": "text", "text": {"value": "ab"}}]


def test_a_single_content_object_for_a_list() -> None:
    created = {"id": "msg_1", "object": "thread.message", "content": {"type": "text", "text": {"value": "a"}}}
    delta = {
        "id": "msg_1",
        "object": "thread.message.delta",
        "delta": {"content": {"type": "text", "text": {"value": "b"}}},
    }
    assert fold(created, delta).text == "ab"


def test_parallel_calls_come_interleaved() -> None:
    snapshot = fold(
        call_delta(index=0, id="call_a", type="function", function={"name": "f", "arguments": ""}),
        call_delta(index=1, id="call_b", type="function", function={"name": "g", "arguments": ""}),
        call_delta(index=0, type="function", function={"arguments": '{"x":'}),
        call_delta(index=1, type="function", function={"arguments": "{}"}),
        call_delta(index=0, type="function", function={"arguments": "1}"}),
    )
    assert [(c.id, c.name, c.arguments) for c in snapshot.tool_calls] == [
        ("call_a", "f", '{"x":1}'),
        ("call_b", "g", "{}"),
    ]


@pytest.mark.parametrize("index", [{"index": 0}, {}], ids=["repeated", "left out"])
def test_parallel_calls_whose_index_says_nothing(index: dict[str, int]) -> None:
    snapshot = fold(
        call_delta(id="call_a", type="function", function={"name": "f", "arguments": "{"}, **index),
        call_delta(id="call_b", type="function", function={"name": "g", "arguments": "["}, **index),
        call_delta(type="function", function={"arguments": "]"}, **index),
        call_delta(id="call_a", type="function", function={"arguments": "}"}, **index),
    )
    assert [(c.name, c.arguments) for c in snapshot.tool_calls] == [("f", "{}"), ("g", "[]")]


def test_a_name_that_is_repeated_is_not_doubled() -> None:
    snapshot = fold(
        *(
            call_delta(index=0, id="call_a", type="function", function={"name": "f", "arguments": "x"})
            for _ in "12"
        )
    )
    assert [(c.name, c.arguments) for c in snapshot.tool_calls] == [("f", "xx")]


@pytest.mark.parametrize("begun", [{"input": "1/0"}, {"outputs": None}, {}], ids=["input", "null", "nothing"])
def test_a_list_that_no_event_has_announced_grows_too(begun: dict[str, Any]) -> None:
    call = {"index": 0, "type": "code_interpreter"}
    logs = (
        [{"index": 0, "type": "logs", "logs": "Zero"}],
        [{"index": 0, "type": "logs", "logs": "Division"}, "odd"],
    )
    codes = [begun, *({"outputs": outputs} for outputs in logs)]
    snapshot = fold(*(call_delta(**call, code_interpreter=code) for code in codes if code))
    (made,) = snapshot.tool_calls
    assert made.to_dict()["code_interpreter"]["outputs"] == [{"type": "logs", "logs": "ZeroDivision"}, "odd"]


def test_created_again_starts_again() -> None:
    created = {"id": "msg_1", "object": "thread.message", "content": [], "role": "assistant"}
    assert fold(created, text_delta("lost"), created, text_delta("kept")).text == "kept"


def test_unknown_events_and_deltas_change_nothing_known() -> None:
    known = fold(text_delta("a"))
    before = [m.to_dict() for m in known.messages]
    known.apply("thread.run.telemetry", {"id": "t", "object": "telemetry"})
    known.apply("ping", {})
    known.apply("thread.message.delta", [])  # type: ignore[arg-type]  # a server may send anything
    assert known.ignored == 3 and [m.to_dict() for m in known.messages] == before
    odd = {
        "id": "msg_1",
        "object": "thread.message.delta",
        "delta": {"content": [{"index": 1, "type": "hologram", "hologram": {"value": "x"}}]},
    }
    known.apply("thread.message.delta", odd)
    assert known.text == "a" and known.messages[0].content[1] == {
        "type": "hologram",
        "hologram": {"value": "x"},
    }


def test_an_error_event_is_kept() -> None:
    snapshot = RunSnapshot()
    snapshot.apply("error", {"error": {"message": "overloaded", "code": "server_error"}})
    assert snapshot.error == {"message": "overloaded", "code": "server_error"}


def test_payloads_are_not_changed_and_what_was_read_stays() -> None:
    created = {
        "id": "msg_1",
        "object": "thread.message",
        "content": [{"type": "text", "text": {"value": "a"}}],
    }
    snapshot = fold(created)
    read = snapshot.messages
    snapshot.apply("thread.message.delta", text_delta("b"))
    assert read[0].text == "a" and created["content"][0]["text"]["value"] == "a"
    assert snapshot.messages[0].text == "ab" and snapshot.messages is snapshot.messages


@pytest.mark.parametrize("index", [-1, 0.0, True, 7])
def test_a_first_part_with_an_odd_index_is_a_part_all_the_same(index: object) -> None:
    snapshot = RunSnapshot()
    snapshot.apply("thread.message.created", {"id": "msg_1", "object": "thread.message", "content": []})
    for word in ("Hello", " there"):
        part = {"index": index, "type": "text", "text": {"value": word}}
        snapshot.apply("thread.message.delta", {"id": "msg_1", "delta": {"content": [part]}})
    assert "Hello" in snapshot.text and "there" in snapshot.text
