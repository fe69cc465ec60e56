"""Chat Completions: what is sent, and how answers are read. Against a scripted endpoint."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from conversations import MULTIPLY, WEATHER, Answer, answer, asked, followed, upstream
from upstream_server import CHAT, call, chat, chunk, upstream_server

from nbruns.server.models import Finish

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs the package openai")


def said(content: list[Any], *functions: dict[str, Any]) -> Answer:
    """What is made of an answer."""
    with upstream_server((200, content)) as server:
        return answer(upstream(server.url, "chat"), asked("Weather in Oslo, and 2 times 3", *functions))


def sent(prompt: Any) -> dict[str, Any]:
    """What is sent for a prompt."""
    with upstream_server((200, chat({"content": "A"}))) as server:
        answer(upstream(server.url, "chat"), prompt)
        request: dict[str, Any] = server.requests[0]
    assert request.pop("path") == CHAT
    del request["key"]
    return request


BOTH = [("get_weather", {"city": "Oslo"}), ("multiply", {"a": 2, "b": 3})]
CALLED: dict[str, list[Any]] = {
    "one after the other": chat(
        {"role": "assistant", "content": None},
        call(0, "call_a", "get_weather", ""),
        call(0, None, None, '{"city":'),
        call(0, None, None, ' "Oslo"}'),
        call(1, "call_b", "multiply", ""),
        call(1, None, None, '{"a": 2, "b": 3}'),
        finish="tool_calls",
    ),
    "interleaved": chat(
        call(0, "call_a", "get_weather", '{"city":'),
        call(1, "call_b", "multiply", '{"a": 2,'),
        call(0, None, None, ' "Oslo"}'),
        call(1, None, None, ' "b": 3}'),
        finish="tool_calls",
    ),
    "whole, with the name repeated": chat(
        call(0, "call_a", "get_weather", '{"city": '),
        call(0, "call_a", "get_weather", '"Oslo"}'),
        call(1, "call_b", "multiply", '{"a": 2, "b": 3}'),
        finish="tool_calls",
    ),
    "without index, said to stop": chat(
        call(None, "call_a", "get_weather", '{"city": "Oslo"}'),
        call(None, "call_b", "multiply", '{"a": 2,'),
        call(None, None, None, '"b": 3}'),
    ),
    "without ids, counted from three": chat(
        call(3, None, "get_weather", '{"city": "Oslo"}'),
        call(4, None, "multiply", '{"a": 2, "b": 3}'),
        finish="function_call",
    ),
    "arguments as objects": chat(
        call(0, "call_a", "get_weather", {"city": "Oslo"}),
        call(1, "call_b", "multiply", {"a": 2, "b": 3}),
        finish="tool_calls",
    ),
}


@pytest.mark.parametrize("how", CALLED)
def test_tool_calls_however_they_are_sent(how: str) -> None:
    read = said(CALLED[how], WEATHER, MULTIPLY)
    assert read.called == BOTH
    assert len({call["id"] for call in read.calls}) == 2
    assert read.finish == Finish(
        "tool_calls", {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    )


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_reasons_to_finish(reason: str) -> None:
    read = said(chat({"content": "A"}, finish=reason))
    assert read.text == "A" and read.finish is not None and read.finish.reason == reason


def test_a_refusal_is_told_from_text() -> None:
    read = said(chat({"content": None, "refusal": "I can't "}, {"refusal": "do that."}))
    assert (read.text, read.refusal) == ("", "I can't do that.")
    assert read.finish is not None and read.finish.reason == "stop"


def test_the_details_of_usage() -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    used = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, **details}
    assert said(chat({"content": "A"}, used=used)).finish == Finish(
        "stop",
        {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_token_details": {"cached_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    )


ODD: list[Any] = [
    {},
    {"choices": None, "usage": None},
    {"choices": [None, {"delta": None, "finish_reason": None}]},
    {"choices": [{"delta": {"tool_calls": None, "content": None}}], "usage": {"prompt_tokens": None}},
    {"choices": [], "prompt_filter_results": [{}], "usage": "none"},
]


def test_chunks_that_lack_this_and_that() -> None:
    read = said([*ODD, *chat({"content": "A"}, used=None)])
    assert read.text == "A" and read.finish is not None and read.finish.usage is None


def test_what_is_sent() -> None:
    first = asked(
        "Weather in Oslo", WEATHER, temperature=0.5, parallel_tool_calls=False, tool_choice="required"
    )
    begun = Answer(
        calls=[{"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]
    )
    prompt = followed(first, begun, "rain")
    assert sent(prompt) == {
        "model": "any",
        "messages": prompt.messages,
        "tools": first.tools,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


PARAMETERS: dict[str, list[Any]] = {
    "top_p": [0.1],
    "reasoning_effort": ["low"],
    "max_completion_tokens": [300],
    "response_format": [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
    ],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_go_through_as_they_are(name: str) -> None:
    for value in PARAMETERS[name]:
        assert sent(asked("Hi", **{name: value}))[name] == value


@pytest.mark.parametrize(
    "choice", ["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]
)
def test_tool_choice_goes_through(choice: Any) -> None:
    assert sent(asked("Hi", WEATHER, tool_choice=choice))["tool_choice"] == choice


def test_what_the_run_does_not_set_is_not_sent() -> None:
    assert sent(asked("Hi", response_format="auto", tool_choice="auto")).keys() == {
        "model",
        "messages",
        "stream",
        "stream_options",
    }


def test_a_chunk_of_nothing_ends_nothing() -> None:
    read = said([chunk({"content": "A"}, None), *chat({"content": "B"})])
    assert read.text == "AB"
