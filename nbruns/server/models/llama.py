"""Run llama.cpp in this process, through the package xllamacpp. Weights are loaded once, and no port is opened."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing
from math import prod
from pathlib import Path
from typing import Any

from nbruns.json_schema import Schema
from nbruns.server.models.protocol import FinishReason, ModelError
from nbruns.text import JSON, excerpt

Chunk = JSON
Messages = list[JSON]

#: Limits of a grammar: parts of the schema, options of its alternatives and of one enum, repetitions (nested ones
#: multiplied), and characters of a pattern. Above them, llama.cpp takes minutes or crashes the process.
MAX_PARTS, MAX_OPTIONS, MAX_REPEATS, MAX_PATTERN = 1_000, 200, 20_000, 500
_REPEATS = ("minItems", "minLength", "minProperties", "minContains", "maxItems", "maxLength", "maxProperties")

#: Options for llguidance, which reads the JSON schemas: no unlimited whitespace, and unsupported keywords (`not`,
#: `uniqueItems`, …) are ignored instead of refused.
GUIDANCE = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": True,
    }
}

#: The engine's slots. They share one context, and each caches its last prompt.
ANSWERS, TRIALS = 0, 1

_engines: dict[tuple[Path, int, int], Any] = {}
_loading = threading.Lock()


def generate(engine: Any, request: JSON, on_chunk: Callable[[Chunk], bool]) -> None:
    """Answer a Chat Completions request, chunk by chunk, until `on_chunk` returns True.

    A grammar that the engine doesn't support is replaced by one for any JSON object.
    """
    grammar = request.get("grammar", "")
    if grammar.startswith("%llguidance") and not _binds(engine, grammar):
        request = {**request, "grammar": object_grammar({})}
    try:
        engine.handle_chat_completions({**request, "id_slot": ANSWERS}, on_chunk)
    except ValueError as error:  # the last line is the chat template's reason for refusing the messages
        why = str(error).strip().rpartition("\n")[2]
        raise ModelError("invalid_prompt", f"The model failed: {excerpt(why, 300)}") from error


def load(path: Path, context: int, threads: int) -> Any:
    """Return the engine for these weights, which is loaded at the first call and then reused."""
    with _loading:
        key = (path, context, threads)
        if key not in _engines:
            _engines[key] = _loaded(path, context, threads)
        return _engines[key]


def embed(path: Path, texts: list[str]) -> list[list[float]]:
    """Return the vectors of texts, by an embedding model. Raises RuntimeError."""
    with _loading:
        if (key := (path, 0, 0)) not in _engines:
            _engines[key] = _loaded_embedder(path)
    answer = _engines[key].handle_embeddings({"input": texts})
    if "data" not in answer:
        raise RuntimeError(str(answer.get("error", {}).get("message", "it has no vectors for this text")))
    return [each["embedding"] for each in sorted(answer["data"], key=lambda each: int(each["index"]))]


def object_grammar(schema: Schema) -> str:
    """Return the grammar of JSON objects that match a schema."""
    from xllamacpp import json_schema_to_grammar

    properties = schema if isinstance(schema, dict) else {}
    closed = {"additionalProperties": False} if "properties" in properties else {}
    grammar: str = json_schema_to_grammar({"type": "object", **closed, **properties, **GUIDANCE})
    return grammar


class TooLarge(ValueError):
    """A schema is too large for a grammar. The message names the limit."""


def check_size(schema: Schema) -> None:
    """Raise TooLarge for a schema that exceeds a limit of grammars."""
    parts = 0
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        item, repeated = waiting.pop()
        parts += 1
        if parts > MAX_PARTS:
            raise TooLarge(f"it has over {MAX_PARTS:,} parts")
        if isinstance(item, dict):
            counts = [item[word] for word in _REPEATS if isinstance(item.get(word), int | float)]
            repeated *= int(min(max([1, *counts]), MAX_REPEATS + 1))
            if repeated > MAX_REPEATS:
                raise TooLarge(f"it asks for over {MAX_REPEATS:,} repetitions")
            if len(str(item.get("pattern", ""))) > MAX_PATTERN:
                raise TooLarge(f"a pattern has over {MAX_PATTERN:,} characters")
        inside = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        waiting += [(part, repeated) for part in inside]
    if _options(schema) > MAX_OPTIONS:
        raise TooLarge(f"its alternatives make over {MAX_OPTIONS:,} options")


def _options(schema: Any) -> int:
    """Return the number of options for a value. Those of `allOf` multiply; otherwise, the largest part counts."""
    if isinstance(schema, list):
        return max([1, *map(_options, schema)])
    if not isinstance(schema, dict):
        return 1
    options = max(1, len(schema["enum"])) if isinstance(schema.get("enum"), list) else 1
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            options *= max(1, sum(map(_options, schema[word])))
    if isinstance(schema.get("allOf"), list):
        options *= prod(map(_options, schema["allOf"]))
    inside = (part for word, part in schema.items() if word not in ("anyOf", "oneOf", "allOf", "enum"))
    return max([options, *map(_options, inside)])


def choice_grammar(texts: list[str]) -> str:
    """Return a grammar that allows one of these texts."""
    return "root ::= " + " | ".join(json.dumps(text) for text in texts)


def _binds(engine: Any, grammar: str) -> bool:
    """Whether the engine follows a grammar. It silently ignores grammars that don't compile."""
    trial = {"prompt": "The", "max_tokens": 1, "grammar": grammar, "temperature": 0, "id_slot": TRIALS}
    answer = engine.handle_completions(trial)
    return "error" not in answer and bool(answer["choices"][0]["text"].startswith("{"))


def _loaded(path: Path, context: int, threads: int) -> Any:
    params = _parameters(path, context, threads)
    params.n_parallel, params.kv_unified = 2, True
    # A thread can end with an assistant's message. The model must write a new message, not continue that one.
    params.prefill_assistant = False
    return _engine(params, path)


def _loaded_embedder(path: Path) -> Any:
    params = _parameters(path, 2048, max(1, (os.cpu_count() or 1) // 2))
    params.embedding = True
    params.n_batch = params.n_ubatch = 2048  # a text must fit into one batch
    return _engine(params, path)


def _parameters(path: Path, context: int, threads: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context
    params.verbosity = -1
    params.warmup = params.ui = False
    params.offline = True
    params.cache_ram_mib = 0
    for cpu in (params.cpuparams, params.cpuparams_batch):
        # Waiting threads sleep instead of spinning, to leave the cores to other programs.
        cpu.n_threads, cpu.poll = threads, 0
    return params


def _engine(params: Any, path: Path) -> Any:
    import xllamacpp

    with tempfile.TemporaryDirectory(prefix="nbruns-") as folder:
        # The engine always listens. It gets a random key and, if the system supports it, a Unix socket in a
        # private folder, which is removed as soon as the engine has started.
        params.api_keys = [os.urandom(24).hex()]
        if os.name == "posix":
            params.hostnames = [f"{folder}/llama.sock"]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelError(
                "server_error", f"The weights {path.name} could not be loaded; are they a whole GGUF file?"
            ) from error


#: Function that starts a request in a thread. It passes each chunk to its second argument, which returns True to
#: stop.
Start = Callable[[JSON, Callable[[Chunk], bool]], "Future[None]"]


class _TooLong(Exception):
    """The messages do not fit into the context."""


class Generation:
    """Yields an answer as it arrives. Afterwards, it has the finish reason and the usage."""

    def __init__(
        self,
        start: Start,
        request: JSON,
        messages: Messages,
        shorter: Callable[[Messages], Messages],
    ) -> None:
        self.reason: FinishReason = "stop"
        self.prompt_tokens = self.completion_tokens = 0
        self._start, self._request, self._messages, self._shorter = start, request, messages, shorter

    async def text(self) -> str:
        """Return the complete answer."""
        return "".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncGenerator[str]:
        """Yield the text as it arrives."""
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                if piece := self._read(chunk):
                    yield piece

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """Yield the chunks as they arrive. Messages that are too long are shortened until they fit."""
        while True:
            try:
                async with aclosing(self._chunks()) as chunks:
                    async for chunk in chunks:
                        yield _checked(chunk)
                return
            except _TooLong as too_long:
                if (messages := self._shorter(self._messages)) == self._messages:
                    raise ModelError("invalid_prompt", f"The model failed: {too_long}") from None
                self._messages = messages

    def _read(self, chunk: Chunk) -> str:
        if "usage" in chunk:
            self.prompt_tokens = chunk["usage"]["prompt_tokens"]
            self.completion_tokens = chunk["usage"]["completion_tokens"]
        text = ""
        for choice in chunk["choices"]:
            self.reason = choice.get("finish_reason") or self.reason
            text += choice["delta"].get("content") or ""
        return text

    async def _chunks(self) -> AsyncGenerator[Chunk]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
        stopped = threading.Event()

        def on_chunk(chunk: Chunk) -> bool:
            if not stopped.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, chunk)
            return stopped.is_set()

        def on_end(job: Future[None]) -> None:
            if not stopped.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, job.exception())

        job = self._start({**self._request, "messages": self._messages}, on_chunk)
        job.add_done_callback(on_end)
        try:
            while isinstance(item := await arrived.get(), dict):
                yield item
            if item is not None:
                raise item
        finally:
            stopped.set()
            job.cancel()


def _checked(chunk: Chunk) -> Chunk:
    if "error" not in chunk:
        return chunk
    message = str(chunk["error"].get("message"))
    if chunk["error"].get("type") == "exceed_context_size_error":
        raise _TooLong(message)
    raise ModelError("server_error", f"The model failed: {message}")
