"""Embedding models, which convert texts to unit vectors without blocking the server's event loop:

- all-MiniLM-L6-v2, offline, if the package with its weights is installed;
- a GGUF file through llama.cpp: `--embedding-model FILE`;
- a model of the upstream, through its `/v1/embeddings`: `--embedding-model NAME`.

Without a model, passages are only found by their words.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nbruns.errors import SetupError, install_command
from nbruns.server.limited_process import LimitExceeded, Processes
from nbruns.server.models.protocol import ModelError
from nbruns.server.retrieval import minilm
from nbruns.text import excerpt

Array = NDArray[np.float32]

#: Maximum number of texts of a call of `embed`.
BATCH = 64
#: Number of texts per call of the model's process, and the limits of a call.
_PART = 16
_SECONDS, _MEMORY_BYTES = 120.0, 2 * 1024**3


class EmbeddingError(Exception):
    """The texts could not be embedded."""


class Embedder(Protocol):
    """An embedding model."""

    #: Name that vector stores record, so that vectors of different models are not mixed.
    name: str

    async def embed(self, texts: Sequence[str], *, is_query: bool = False) -> Array:
        """Return one unit vector for each text. Raises EmbeddingError."""
        ...

    async def close(self) -> None: ...


def embedder(model: str | None = None, upstream_url: str | None = None) -> Embedder | None:
    """Return the embedding model with this name; None if no model is available.

    Args:
        model: A GGUF file, or a model of the upstream. Default: all-MiniLM-L6-v2, if it is installed.
        upstream_url: The upstream's base URL.

    Raises:
        SetupError: The file doesn't exist and there is no upstream, or a package is missing.
    """
    if model is None:
        return None if minilm.weights_folder() is None else MiniLM()
    if Path(model).expanduser().is_file():
        return GGUF(Path(model).expanduser().resolve())
    if upstream_url is None or model.lower().endswith(".gguf"):
        raise SetupError(
            f"There is no embedding model {excerpt(model)}: pass a GGUF file, or with --upstream the name of one of "
            "the upstream's embedding models."
        )
    return Upstream(model, upstream_url)


class MiniLM:
    """all-MiniLM-L6-v2 in two processes, one for passages and one for queries, so that queries don't wait."""

    name = minilm.NAME

    def __init__(self) -> None:
        self._passages, self._queries = (
            Processes(seconds=_SECONDS, memory_bytes=_MEMORY_BYTES, count=1, is_background=is_background)
            for is_background in (True, False)
        )

    async def embed(self, texts: Sequence[str], *, is_query: bool = False) -> Array:
        processes = self._queries if is_query else self._passages
        packed = b""
        try:
            # In small parts, because on a busy machine, many texts could exceed the time limit of a call.
            for start in range(0, len(texts), _PART):
                part = list(texts[start : start + _PART])
                packed += base64.b64decode(await processes.call("nbruns.server.retrieval.minilm:embed", part))
        except (LimitExceeded, RuntimeError) as error:
            raise EmbeddingError(str(error)) from error
        return np.frombuffer(packed, "<f4").reshape(-1, minilm.DIMENSION)

    async def close(self) -> None:
        await self._passages.close()
        await self._queries.close()


class GGUF:
    """An embedding model from a GGUF file, run by llama.cpp in this process."""

    def __init__(self, file: Path) -> None:
        if find_spec("xllamacpp") is None:
            raise SetupError(f"GGUF models are run by xllamacpp, which is missing: {install_command('gguf')}")
        self._file, self.name = file, f"gguf:{file.name}"
        self._worker = ThreadPoolExecutor(1, "nbruns-embed")

    async def embed(self, texts: Sequence[str], *, is_query: bool = False) -> Array:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._embed, list(texts))

    async def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _embed(self, texts: list[str]) -> Array:
        from nbruns.server.models.llama import embed

        try:
            return _units(embed(self._file, texts), len(texts))
        except (ModelError, RuntimeError, ValueError) as error:
            raise EmbeddingError(f"{self._file.name}: {excerpt(error)}") from error


class Upstream:
    """An embedding model of the upstream."""

    def __init__(self, model: str, base_url: str) -> None:
        if find_spec("openai") is None:
            raise SetupError(
                f"An upstream is asked through the package openai, which is missing: {install_command('upstream')}"
            )
        from openai import AsyncOpenAI

        key = next((key for name in _KEYS if (key := os.environ.get(name, "").strip())), "")
        self._model, self.name = model, f"upstream:{model}"
        self._client: Any = AsyncOpenAI(base_url=base_url, api_key=key or "none", max_retries=5, timeout=120)

    async def embed(self, texts: Sequence[str], *, is_query: bool = False) -> Array:
        from openai import OpenAIError

        try:
            answer = await self._client.embeddings.create(
                model=self._model, input=list(texts), encoding_format="float"
            )
            data = sorted(answer.data, key=lambda each: int(each.index))
            return _units([each.embedding for each in data], len(texts))
        except (OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise EmbeddingError(f"The upstream's {self._model}: {excerpt(error)}") from None

    async def close(self) -> None:
        await self._client.close()


#: Environment variables that can contain the upstream's API key, in order of precedence.
_KEYS = ("NBRUNS_UPSTREAM_API_KEY", "OPENAI_API_KEY")


def _units(vectors: list[list[float]], count: int) -> Array:
    array = np.array(vectors, np.float32)
    if array.ndim != 2 or len(array) != count or not array.shape[1] or not np.isfinite(array).all():
        raise ValueError("it returned something else than a vector for each text, all of one length")
    units: Array = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
    return units
