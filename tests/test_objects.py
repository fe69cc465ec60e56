"""The typed views of the API's JSON: nothing lost, nothing written, nothing run that came from outside."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from nbruns.objects import (
    APIObject,
    Assistant,
    Message,
    MessageDelta,
    Run,
    RunStep,
    Thread,
    ToolCall,
    Usage,
    parse_object,
    utc,
)

HOSTILE = "<script>alert(1)</script>\x1b[31m\x07\u202e\ud800"


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Each JSON object with an `object` field in a recorded body, the ones in lists and event streams too."""
    if isinstance(value, str):
        for line in value.splitlines():
            if line.startswith("data: {"):
                yield from objects_in(json.loads(line.removeprefix("data: ")))
    elif isinstance(value, dict):
        if "object" in value:
            yield value
        for item in value.values():
            if isinstance(item, (dict, list)):
                yield from objects_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from objects_in(item)


@pytest.fixture(scope="module")
def payloads(recorded: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        payload for exchanges in recorded.values() for e in exchanges for payload in objects_in(e["body"])
    ]


def test_every_recorded_object_gives_back_the_json_it_was_made_from(payloads: list[dict[str, Any]]) -> None:
    kinds = set()
    for payload in payloads:
        before = json.dumps(payload)
        parsed = parse_object(payload)
        kinds.add(type(parsed).__name__)
        repr(parsed), parsed._repr_html_(), [getattr(parsed, name) for name in dir(parsed)]
        assert json.dumps(parsed.to_dict()) == before
    assert kinds >= {"Assistant", "Thread", "Message", "MessageDelta", "Run", "RunStep", "RunStepDelta"}


def test_recorded_fields_are_the_attributes_of_the_same_name(payloads: list[dict[str, Any]]) -> None:
    for payload in payloads:
        parsed = parse_object(payload)
        for name, value in payload.items():
            read = getattr(parsed, name)
            assert (read.to_dict() if isinstance(read, APIObject) else read) == value, (type(parsed), name)


def test_recorded_tool_calls_messages_and_usage_are_typed(payloads: list[dict[str, Any]]) -> None:
    parsed = list(map(parse_object, payloads))
    waiting = [run for run in parsed if isinstance(run, Run) and run.status == "requires_action"]
    asked = [call for run in waiting for call in run.tool_calls]
    assert asked and all(call.name and isinstance(json.loads(call.arguments), dict) for call in asked)
    calls = [call for step in parsed if isinstance(step, RunStep) for call in step.tool_calls]
    assert {call.type for call in calls} >= {"function", "code_interpreter", "file_search"}
    assert any(call.output for call in calls)
    written = [step for step in parsed if isinstance(step, RunStep) and step.type == "message_creation"]
    assert written and all(step.message_id.startswith("msg_") for step in written)
    spent = [run.usage for run in parsed if isinstance(run, Run) and run.usage]
    assert spent and all(u.total_tokens == u.prompt_tokens + u.completion_tokens for u in spent)


def test_to_dict_is_a_copy_that_is_the_callers_own() -> None:
    run = Run({"id": "run_1", "metadata": {"a": "b"}})
    run.to_dict()["metadata"]["a"] = "c"
    assert run.metadata == {"a": "b"}


def test_fields_the_library_does_not_know_are_kept_and_can_be_read() -> None:
    run = Run({"id": "run_1", "azure_thing": {"x": 1}, "paused_at": 1_700_000_000})
    assert run.azure_thing == {"x": 1}
    assert run.paused_at_utc == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert run.to_dict() == {"id": "run_1", "azure_thing": {"x": 1}, "paused_at": 1_700_000_000}


@pytest.mark.parametrize("kind", [Assistant, Thread, Message, Run, RunStep, ToolCall, Usage])
def test_declared_fields_that_were_not_sent_are_none(kind: type[APIObject]) -> None:
    empty = kind({})
    assert len(kind._fields) > 2
    declared = {name: getattr(empty, name) for name in kind._fields if not hasattr(kind, name)}
    assert declared and set(declared.values()) == {None}


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(
        AttributeError, match=r"Run has no field 'stauts'\. Its fields: .*\bshiny\b.*\bstatus\b"
    ):
        _ = Run({"id": "run_1", "shiny": 1}).stauts


def test_unknown_names_of_a_hostile_object_are_said_without_its_escapes() -> None:
    with pytest.raises(AttributeError) as caught:
        _ = Run({"id": "run_1", "\x1b]0;mine\x07" + "x" * 50_000: 1}).nope
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["status", "id", "_payload", "of_my_own"])
def test_objects_are_read_only(name: str) -> None:
    run = Run({"id": "run_1", "status": "queued"})
    with pytest.raises(AttributeError, match="read-only"):
        setattr(run, name, "completed")
    assert run.to_dict() == {"id": "run_1", "status": "queued"}


def test_dir_completes_declared_sent_and_utc_names() -> None:
    names = dir(Run({"id": "run_1", "shiny": 1, "shone_at": 5}))
    assert {
        "status",
        "usage",
        "tool_calls",
        "to_dict",
        "shiny",
        "created_at",
        "created_at_utc",
        "shone_at_utc",
    } <= {*names}
    assert "created_utc" not in names and "shiny_utc" not in names


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_are_equal_and_whole(clone: Any) -> None:
    run = Run({"id": "run_1", "status": "queued", "metadata": {"a": "b"}})
    twin = clone(run)
    assert type(twin) is Run and twin == run and twin.to_dict() == run.to_dict()
    assert hash(twin) == hash(run)


def test_objects_are_equal_by_class_and_payload() -> None:
    assert Run({"id": "a"}) == Run({"id": "a"}) != Run({"id": "a", "status": "queued"})
    assert Run({"id": "a"}) != Message({"id": "a"})
    assert Run({"id": "a"}) != {"id": "a"}


@pytest.mark.parametrize("payload", [None, "run_1", ["run_1"], 5])
def test_only_json_objects_make_an_object(payload: Any) -> None:
    with pytest.raises(TypeError, match="Run is made from a JSON object, not from"):
        Run(payload)


MOMENT = datetime(2026, 8, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        (1_787_745_600, MOMENT),
        (1_787_745_600_000, MOMENT),  # Alibaba's are milliseconds
        ("1787745600", MOMENT),
        (1_787_745_600.5, MOMENT.replace(microsecond=500_000)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (None, None),
        ("yesterday", None),
        (float("nan"), None),
        (10**400, None),
        ([], None),
    ],
)
def test_timestamps_are_there_as_utc(sent: Any, moment: datetime | None) -> None:
    assert utc(sent) == moment
    assert Run({"created_at": sent}).created_at_utc == moment
    assert Run({"created_at": sent}).created_at == sent or sent != sent


@pytest.mark.parametrize("status", ["cancelled", "failed", "completed", "incomplete", "expired"])
def test_ended_runs_are_terminal(status: str) -> None:
    assert Run({"status": status}).is_terminal


@pytest.mark.parametrize(
    "status", ["queued", "in_progress", "requires_action", "cancelling", "brand_new", None]
)
def test_other_runs_are_not_terminal(status: str | None) -> None:
    assert not Run({"status": status}).is_terminal


TEXT = {"type": "text", "text": {"value": "one", "annotations": []}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([TEXT, {"type": "image_file"}, {"type": "text", "text": {"value": "two"}}], "one\n\ntwo"),
        (TEXT, "one"),  # Alibaba's single object
        ("one", "one"),
        ([{"type": "text", "text": "one"}], "one"),
        ([{"type": "refusal", "refusal": "I won't."}], "I won't."),
        ([], ""),
        (None, ""),
        ([None, 5, {"type": "text", "text": None}], ""),
        (5, ""),
    ],
)
def test_message_text_joins_whatever_shape_its_content_has(content: Any, text: str) -> None:
    assert Message({"id": "msg_1", "content": content}).text == text


@pytest.mark.parametrize("delta", [None, 5, {}, {"content": None}, {"content": 5}, {"content": [5]}])
def test_a_delta_without_text_adds_none(delta: Any) -> None:
    assert MessageDelta({"delta": delta}).text == ""


def test_deltas_add_their_text_as_it_is() -> None:
    assert (
        MessageDelta({"delta": {"content": [{"index": 0, "type": "text", "text": {"value": " a\n"}}]}}).text
        == " a\n"
    )
    assert MessageDelta({"delta": {"content": {"type": "text", "text": {"value": "b"}}}}).text == "b"


@pytest.mark.parametrize("action", ["submit_tool_outputs", "submit_tool_approval"])
def test_a_runs_tool_calls_are_those_of_its_required_action(action: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    run = Run({"required_action": {"type": action, action: {"tool_calls": [call]}}})
    (found,) = run.tool_calls
    assert (found.id, found.name, found.arguments, found.output) == ("call_1", "f", '{"a": 1}', None)


@pytest.mark.parametrize(
    "action", [None, 5, {}, {"type": "x"}, {"type": "x", "x": 5}, {"type": "x", "x": {"tool_calls": 5}}]
)
def test_a_run_that_asks_for_nothing_readable_has_no_tool_calls(action: Any) -> None:
    assert Run({"required_action": action}).tool_calls == []


@pytest.mark.parametrize("kind", [Assistant, Thread, Message, Run, RunStep, ToolCall, Usage, APIObject])
def test_reprs_show_nothing_that_a_terminal_or_a_browser_would_run(kind: type[APIObject]) -> None:
    names = {"id", "object", "name", "type", *kind._shown}
    hostile = kind(
        {name: HOSTILE for name in names} | {"content": HOSTILE, "function": {"name": HOSTILE}, HOSTILE: 1}
    )
    assert not set("\x1b\x07\u202e\ud800") & set(repr(hostile))
    shown = hostile._repr_html_()
    assert "<script" not in shown and "&lt;script" in shown
    assert not set("\x1b\x07") & set(shown)
    shown.encode()  # raises for half a surrogate pair, which could not be sent to the browser


def test_reprs_are_bounded() -> None:
    message = Message({"id": "m" * 10_000, "role": "user", "content": "x" * 5_000_000})
    assert len(repr(message)) < 500
    assert len(message._repr_html_()) < 20_000
    assert "more characters: see to_dict()" in message._repr_html_()


def test_names_of_kinds_not_known_make_a_plain_object() -> None:
    assert type(parse_object({"object": "thread.run.thought", "id": "x"})) is APIObject
    assert type(parse_object({"id": "x"})) is APIObject
    assert type(parse_object({"object": ["odd"], "id": "x"})) is APIObject
