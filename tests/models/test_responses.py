"""Responses: what is sent, and how answers are read. Against a scripted endpoint."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
from conversations import MULTIPLY, WEATHER, Answer, answer, asked, followed, upstream
from upstream_server import (
    RESPONSES,
    call_added,
    call_arguments,
    call_done,
    response,
    text_event,
    upstream_server,
)

from nbruns.server.models import Finish, ModelError, Prompt

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs the package openai")


def said(content: list[Any], **parameters: Any) -> Answer:
    """What is made of an answer."""
    with upstream_server((200, content)) as server:
        return answer(
            upstream(server.url, "responses"),
            asked("Weather in Oslo, and 2 times 3", WEATHER, MULTIPLY, **parameters),
        )


def sent(prompt: Prompt) -> dict[str, Any]:
    """What is sent for a prompt."""
    with upstream_server((200, response(text_event("A")))) as server:
        answer(upstream(server.url, "responses"), prompt)
        request: dict[str, Any] = server.requests[0]
    assert request.pop("path") == RESPONSES
    del request["key"]
    return request


OSLO, SIX = '{"city": "Oslo"}', '{"a": 2, "b": 3}'
BOTH = [("get_weather", {"city": "Oslo"}), ("multiply", {"a": 2, "b": 3})]
CALLED: dict[str, list[Any]] = {
    "one after the other": response(
        call_added(0, "a", "get_weather"),
        call_arguments(0, "a", OSLO[:5]),
        call_arguments(0, "a", OSLO[5:]),
        {**call_arguments(0, "a", ""), "type": "response.function_call_arguments.done", "arguments": OSLO},
        call_done(0, "a", "get_weather", OSLO),
        call_added(1, "b", "multiply"),
        call_arguments(1, "b", SIX),
        call_done(1, "b", "multiply", SIX),
    ),
    "interleaved, behind a thought": response(
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "reasoning", "id": "rs_1"},
        },
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."},
        call_added(1, "a", "get_weather"),
        call_added(2, "b", "multiply"),
        call_arguments(1, "a", OSLO[:5]),
        call_arguments(2, "b", SIX[:5]),
        call_arguments(1, "a", OSLO[5:]),
        call_arguments(2, "b", SIX[5:]),
    ),
    "told by the ids of items only": response(
        call_added(None, "a", "get_weather"),
        call_added(None, "b", "multiply"),
        call_arguments(None, "a", OSLO),
        call_arguments(None, "b", SIX),
        call_done(None, "b", "multiply", SIX),
        call_done(None, "a", "get_weather", OSLO),
    ),
    "whole, without a beginning": response(
        call_done(0, "a", "get_weather", OSLO), call_done(1, "b", "multiply", SIX)
    ),
    "begun, then whole": response(
        call_added(0, "a", "get_weather"),
        call_done(0, "a", "get_weather", OSLO),
        call_added(1, "b", "multiply"),
        call_done(1, "b", "multiply", {"a": 2, "b": 3}),
    ),
    "without any ids": response(
        call_added(0, None, "get_weather"),
        call_arguments(0, None, OSLO),
        call_added(1, None, "multiply"),
        call_arguments(1, None, SIX),
    ),
}


@pytest.mark.parametrize("how", CALLED)
def test_tool_calls_however_they_are_sent(how: str) -> None:
    read = said(CALLED[how])
    assert read.called == BOTH
    assert len({call["id"] for call in read.calls}) == 2
    assert read.finish == Finish(
        "tool_calls", {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    )


ENDS: list[tuple[str, dict[str, Any], str]] = [
    ("completed", {}, "stop"),
    ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
    ("incomplete", {"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
    ("incomplete", {"incomplete_details": None}, "length"),
]


@pytest.mark.parametrize(("status", "fields", "reason"), ENDS)
def test_reasons_to_finish(status: str, fields: dict[str, Any], reason: str) -> None:
    read = said(response(text_event("A"), text_event("B"), status=status, **fields))
    assert read.text == "AB" and read.finish is not None
    assert (read.finish.reason, read.finish.usage["total_tokens"]) == (reason, 13)


def test_an_answer_that_took_all_tokens_it_might_was_cut_off_whatever_it_is_called() -> None:
    used = {"input_tokens": 9, "output_tokens": 20, "total_tokens": 29}
    read = said(response(text_event("A"), used=used), max_completion_tokens=20)
    assert read.finish is not None and read.finish.reason == "length"


def test_a_refusal_is_told_from_text() -> None:
    refusal = {"type": "response.refusal.delta", "output_index": 0, "content_index": 0, "item_id": "msg_1"}
    read = said(response({**refusal, "delta": "I can't "}, {**refusal, "delta": "do that."}))
    assert (read.text, read.refusal) == ("", "I can't do that.")
    assert read.finish is not None and read.finish.reason == "stop"


def test_the_details_of_usage() -> None:
    details = {
        "input_tokens_details": {"cached_tokens": 5},
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    used = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, **details}
    assert said(response(text_event("A"), used=used)).finish == Finish(
        "stop",
        {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_token_details": {"cached_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    )


FAILED: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "error", "code": "rate_limit_exceeded", "message": "Slow"}, "rate_limit_exceeded", "Slow"),
    ({"type": "error", "error": {"type": "invalid_request_error", "message": "No"}}, "invalid_prompt", "No"),
    (
        {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "Oh"}}},
        "server_error",
        "Oh",
    ),
    ({"type": "response.failed", "response": None}, "server_error", "response.failed"),
    ({"type": "response.cancelled", "response": {}}, "server_error", "response.cancelled"),
]


@pytest.mark.parametrize(("event", "code", "message"), FAILED)
def test_failures_in_mid_stream(event: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        said([text_event("A"), event])
    assert caught.value.code == code and "127.0.0.1" in caught.value.message


@pytest.mark.parametrize("last", ["{no JSON", "[]", '{"type": "response.output_text.done"}'])
def test_a_stream_that_breaks_off(last: str) -> None:
    with pytest.raises(ModelError, match=r"127\.0\.0\.1"):
        said([text_event("A"), last])


ODD: list[Any] = [
    {},
    {"type": None},
    {"type": "response.a.new.kind", "delta": "x"},
    {"type": "response.output_item.added", "item": None},
    {"type": "response.output_item.done", "item": []},
    call_arguments(0, "a", "{}"),
    {**text_event("A"), "delta": None},
]


def test_events_that_lack_this_and_that() -> None:
    read = said([*ODD, text_event("A"), {"type": "response.completed", "response": None}])
    assert read.text == "A" and not read.calls
    assert read.finish is not None and read.finish.usage is None


def test_what_is_sent() -> None:
    first = asked("Weather in Oslo", WEATHER, tool_choice="required", parallel_tool_calls=False, top_p=0.5)
    first = replace(first, messages=[{"role": "system", "content": "Be kind."}, *first.messages])
    begun = Answer(
        calls=[{"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]
    )
    assert sent(followed(first, begun, "rain")) == {
        "model": "any",
        "input": [
            {"type": "message", "role": "system", "content": "Be kind."},
            {"type": "message", "role": "user", "content": "Weather in Oslo"},
            {"type": "function_call", "call_id": "call_a", "name": "get_weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_a", "output": "rain"},
        ],
        "tools": [{"type": "function", "strict": False, **WEATHER}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "top_p": 0.5,
        "stream": True,
        "store": False,
    }


def test_what_is_said_beside_a_call_is_sent_too() -> None:
    call = {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
    assert sent(Prompt("any", [said]))["input"] == [
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
        {"type": "function_call", "call_id": "call_a", "name": "f", "arguments": "{}"},
    ]


def test_images_are_sent() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
    assert sent(Prompt("any", [message]))["input"][0]["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
    ]


SCHEMA = {"name": "n", "schema": {"type": "object"}, "strict": True}
FORMATS: list[tuple[Any, Any]] = [
    ("auto", None),
    ({"type": "text"}, {"format": {"type": "text"}}),
    ({"type": "json_object"}, {"format": {"type": "json_object"}}),
    ({"type": "json_schema", "json_schema": SCHEMA}, {"format": {"type": "json_schema", **SCHEMA}}),
]


@pytest.mark.parametrize(("wanted", "format"), FORMATS)
def test_response_formats(wanted: Any, format: Any) -> None:
    assert sent(asked("Hi", response_format=wanted)).get("text") == format


@pytest.mark.parametrize("choice", ["none", "auto", "required", {"type": "function", "name": "f"}])
def test_tool_choice(choice: Any) -> None:
    given = {"type": "function", "function": {"name": "f"}} if isinstance(choice, dict) else choice
    assert sent(asked("Hi", WEATHER, tool_choice=given))["tool_choice"] == choice


def test_other_parameters() -> None:
    request = sent(asked("Hi", temperature=0.5, reasoning_effort="low", max_completion_tokens=300))
    assert (request["temperature"], request["reasoning"], request["max_output_tokens"]) == (
        0.5,
        {"effort": "low"},
        300,
    )
    assert sent(asked("Hi", max_completion_tokens=3))["max_output_tokens"] == 16


def test_what_the_run_does_not_set_is_not_sent() -> None:
    assert sent(asked("Hi")).keys() == {"model", "input", "stream", "store"}
