"""The demo model: calls what it is given, answers from what came back, always the same."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from conversations import MULTIPLY, WEATHER, answer, asked, followed
from markdown_it import MarkdownIt

from nbruns.demo.model import Scripted
from nbruns.server.models import Finish, ModelError, Prompt, TextDelta, ToolCallDelta

DEMO = Scripted(pause=0)
OSLO = asked("What should I wear in Oslo?", WEATHER)


def test_a_conversation() -> None:
    first = answer(DEMO, OSLO)
    assert first.called == [("get_weather", {"city": "Oslo"})]
    assert first.finish is not None and first.finish.reason == "tool_calls"

    second = answer(DEMO, followed(OSLO, first, '{"celsius": 4, "sky": "sleet"}'))
    assert not second.calls
    assert "`get_weather`: Oslo" in second.text
    assert "| sky | sleet |" in second.text
    assert "demo model" in second.text and "smollm2" in second.text and "--upstream" in second.text
    assert second.finish is not None and second.finish.reason == "stop"


def test_the_next_question_on_the_thread_calls_again() -> None:
    first = followed(OSLO, answer(DEMO, OSLO), "sleet")
    messages = [
        *first.messages,
        {"role": "assistant", "content": "A coat."},
        *asked("And in Bergen?").messages,
    ]
    again = answer(DEMO, Prompt("demo", messages, OSLO.tools))
    assert again.called == [("get_weather", {"city": "Bergen"})]


CHOICES: list[tuple[Any, bool, list[str]]] = [
    (None, True, ["get_weather", "multiply"]),
    ("auto", True, ["get_weather", "multiply"]),
    ("required", True, ["get_weather", "multiply"]),
    ("auto", False, ["get_weather"]),
    ("required", False, ["get_weather"]),
    ({"type": "function", "function": {"name": "multiply"}}, True, ["multiply"]),
    ("none", True, []),
]


@pytest.mark.parametrize(("choice", "parallel", "called"), CHOICES)
def test_tool_choice(choice: Any, parallel: bool, called: list[str]) -> None:
    prompt = asked("3 times 4 in Oslo", WEATHER, MULTIPLY, tool_choice=choice, parallel_tool_calls=parallel)
    assert [name for name, _ in answer(DEMO, prompt).called] == called


def test_a_choice_that_is_not_among_the_tools_is_refused() -> None:
    choice = {"type": "function", "function": {"name": "fly"}}
    with pytest.raises(ModelError, match="'fly'") as caught:
        answer(DEMO, asked("Up!", WEATHER, tool_choice=choice))
    assert caught.value.code == "invalid_prompt"


def test_a_function_without_parameters_gets_an_empty_object() -> None:
    assert answer(DEMO, asked("now?", {"name": "clock"})).called == [("clock", {})]


def test_the_same_prompt_gets_the_same_answer_but_for_call_ids() -> None:
    one, other = (answer(DEMO, asked("3 times 4 in Oslo", WEATHER, MULTIPLY)) for _ in range(2))
    assert one.called == other.called and one.finish == other.finish
    ids = [call["id"] for call in one.calls + other.calls]
    assert len(set(ids)) == 4
    assert answer(DEMO, asked("Hello")).text == answer(DEMO, asked("Hello")).text


def test_it_streams_in_pieces() -> None:
    calls = answer(DEMO, asked("What is 17 times 24?", MULTIPLY)).pieces
    assert [piece.arguments for piece in calls if isinstance(piece, ToolCallDelta)] == [
        "",
        '{"a": ',
        "17, ",
        '"b": ',
        "24}",
    ]
    words = [piece.text for piece in answer(DEMO, asked("Hello")).pieces if isinstance(piece, TextDelta)]
    assert len(words) > 50 and all(len(word.split()) == 1 for word in words)


def test_a_pause_lies_between_pieces() -> None:
    async def arrivals() -> list[float]:
        clock = asyncio.get_running_loop().time
        return [clock() async for _ in Scripted(pause=0.02).answer(asked("2 times 3", MULTIPLY))]

    times = asyncio.run(arrivals())
    assert len(times) > 4 and all(later - earlier > 0.015 for earlier, later in pairwise(times))


def test_closing_it_ends_it() -> None:
    async def first_piece() -> Any:
        async with aclosing(Scripted(pause=60).answer(asked("Hello"))) as deltas:  # type: ignore[type-var]
            return await anext(deltas)

    assert isinstance(asyncio.run(asyncio.wait_for(first_piece(), 5)), TextDelta)


OUTPUTS: list[tuple[str, str]] = [
    ('{"sky": "rain", "wind": {"kmh": 3}}', "<td>sky</td>\n<td>rain</td>"),
    ('["wool", "rubber"]', "<li>wool</li>"),
    ('[{"day": "Mon", "c": 1}, {"day": "Tue"}]', "<td>Mon</td>\n<td>1</td>"),
    ("Take a coat.\nAnd boots.", "<blockquote>\n<p>Take a coat.\nAnd boots.</p>\n</blockquote>"),
    ('"a string as JSON"', "<p>a string as JSON</p>"),
    ("42", "<p>42</p>"),
    ("", "<p>(nothing)</p>"),
    ("[]", "<p>[]</p>"),
    ("[" * 100_000, "<p>[[[["),
    ('{"a|b": "c|d", "<b>": "*e*\\n# f"}', "<td>a|b</td>\n<td>c|d</td>"),
    ('{"a|b": "c|d", "<b>": "*e*\\n# f"}', "<td>&lt;b&gt;</td>\n<td>*e* # f</td>"),
    ("```\n# not a heading\n<script>", "<p>```\n# not a heading\n&lt;script&gt;</p>"),
    (json.dumps(list(range(1000))), "<li>… and 988 more</li>"),
]


@pytest.mark.parametrize(("output", "html"), OUTPUTS)
def test_outputs_become_markdown(output: str, html: str) -> None:
    text = answer(DEMO, followed(OSLO, answer(DEMO, OSLO), output)).text
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert html in rendered
    assert rendered.count("<h3>") == 1 and rendered.count("<hr") == 1 and "<script>" not in rendered
    assert len(text) < 3000


def test_several_outputs_each_get_their_section() -> None:
    prompt = asked("3 times 4 in Oslo", WEATHER, MULTIPLY)
    text = answer(DEMO, followed(prompt, answer(DEMO, prompt), "rain", "12")).text
    assert text.index("### `get_weather`: Oslo") < text.index("> rain") < text.index("### `multiply`: 3, 4")


def test_without_tools_it_shows_what_markdown_can_do() -> None:
    rendered = MarkdownIt().render(answer(DEMO, asked("Hello *there*")).text)
    for mark in ("<h3>", "<li>", '<code class="language-python">', "<p>Hello *there*</p>", "demo model"):
        assert mark in rendered


@pytest.mark.parametrize("limit", [1, 3, 10])
@pytest.mark.parametrize("functions", [(), (WEATHER,)])
def test_max_completion_tokens(limit: int, functions: tuple[dict[str, Any], ...]) -> None:
    whole = answer(DEMO, asked("Say much about Llanfairpwllgwyngyll", *functions))
    cut = answer(DEMO, asked("Say much about Llanfairpwllgwyngyll", *functions, max_completion_tokens=limit))
    assert cut.finish is not None and cut.finish.reason == "length"
    assert cut.finish.usage["completion_tokens"] == limit
    assert whole.text.startswith(cut.text) and len(cut.text) == (0 if functions else 4 * limit)
    if cut.calls:
        arguments = cut.calls[0]["function"]["arguments"]
        assert whole.calls[0]["function"]["arguments"].startswith(arguments)


def test_usage_counts_four_characters_as_a_token() -> None:
    finish = answer(DEMO, asked("12345678")).finish
    text = answer(DEMO, asked("12345678")).text
    spent = -(-len(text) // 4)
    assert finish == Finish(
        "stop", {"prompt_tokens": 2, "completion_tokens": spent, "total_tokens": 2 + spent}
    )


def test_json_object() -> None:
    text = answer(DEMO, asked("Hello", response_format={"type": "json_object"})).text
    assert json.loads(text)["answer"] == "You said: Hello"


def test_json_schema_also_after_tool_outputs() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "coats": {"type": "integer", "minimum": 2}},
        "required": ["city", "coats"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "packing", "strict": True, "schema": schema}}
    prompt = asked("What should I wear in Oslo?", WEATHER, response_format=wanted)
    value = json.loads(answer(DEMO, followed(prompt, answer(DEMO, prompt), "rain")).text)
    jsonschema.validate(value, schema)
    assert value["city"] == "Oslo"


def test_messages_in_parts() -> None:
    parts = [
        {"type": "text", "text": "Weather in"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "text", "text": "Oslo"},
    ]
    prompt = Prompt("demo", [{"role": "user", "content": parts}], OSLO.tools)
    assert answer(DEMO, prompt).called == [("get_weather", {"city": "Oslo"})]
