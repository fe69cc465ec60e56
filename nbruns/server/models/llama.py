"""llama.cpp in this process, through the package xllamacpp: weights are loaded once, and no port is opened."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from nbruns.server.models.json_schemas import Schema
from nbruns.server.models.protocol import ModelError
from nbruns.text import JSON, excerpt

Chunk = JSON

#: For llguidance, which reads the JSON schemas: no endless whitespace, and keywords that it can't hold
#: the output to (`not`, `uniqueItems`, …) are passed over instead of refused.
GUIDANCE = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": True,
    }
}

#: The engine's slots; they share one context, and each remembers the prompt that it read last.
ANSWERS, TRIALS = 0, 1

_engines: dict[tuple[Path, int, int], Any] = {}
_loading = Lock()


def generate(engine: Any, request: JSON, on_chunk: Callable[[Chunk], bool]) -> None:
    """Answer a Chat Completions request, chunk by chunk, until `on_chunk` returns True.

    A grammar that can't be followed is replaced by one for any JSON object.
    """
    grammar = request.get("grammar", "")
    if grammar.startswith("%llguidance") and not _binds(engine, grammar):
        request = {**request, "grammar": object_grammar({})}
    try:
        engine.handle_chat_completions({**request, "id_slot": ANSWERS}, on_chunk)
    except ValueError as error:  # what the file's chat template has against the messages comes last
        why = str(error).strip().rpartition("\n")[2]
        raise ModelError("invalid_prompt", f"The model failed: {excerpt(why, 300)}") from error


def load(path: Path, context: int, threads: int) -> Any:
    """The engine for these weights: loaded at the first call, the same at every other one."""
    with _loading:
        key = (path, context, threads)
        if key not in _engines:
            _engines[key] = _loaded(path, context, threads)
        return _engines[key]


def object_grammar(schema: Schema) -> str:
    """The grammar of JSON objects under a schema."""
    from xllamacpp import json_schema_to_grammar

    properties = schema if isinstance(schema, dict) else {}
    closed = {"additionalProperties": False} if "properties" in properties else {}
    grammar: str = json_schema_to_grammar({"type": "object", **closed, **properties, **GUIDANCE})
    return grammar


def choice_grammar(texts: list[str]) -> str:
    """The grammar of one of these texts."""
    return "root ::= " + " | ".join(json.dumps(text) for text in texts)


def _binds(engine: Any, grammar: str) -> bool:
    """Tell whether a grammar is followed; one that does not compile is passed over in silence."""
    trial = {"prompt": "The", "max_tokens": 1, "grammar": grammar, "temperature": 0, "id_slot": TRIALS}
    answer = engine.handle_completions(trial)
    return "error" not in answer and bool(answer["choices"][0]["text"].startswith("{"))


def _loaded(path: Path, context: int, threads: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context
    params.n_parallel, params.kv_unified = 2, True
    params.verbosity = -1
    params.warmup = params.ui = False
    params.offline = True
    params.cache_ram_mib = 0
    # A thread may end with an assistant's message. It is followed by an answer, not continued.
    params.prefill_assistant = False
    for cpu in (params.cpuparams, params.cpuparams_batch):
        # Waiting threads sleep instead of spinning, to leave the cores to other programs.
        cpu.n_threads, cpu.poll = threads, 0
    with tempfile.TemporaryDirectory(prefix="nbruns-") as folder:
        # The engine insists on listening. It gets a key that nobody knows and, where there are such, a socket
        # in a folder of our own, which is gone as soon as the engine is up.
        params.api_keys = [os.urandom(24).hex()]
        if os.name == "posix":
            params.hostnames = [f"{folder}/llama.sock"]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelError(
                "server_error", f"The weights {path.name} could not be loaded; are they a whole GGUF file?"
            ) from error
