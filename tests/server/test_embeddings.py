"""Embedding models: our all-MiniLM-L6-v2 beside llama.cpp's, GGUF files, and those of an upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minilm_gguf
import numpy as np
import pytest
from served import Api, thread_server
from test_vector_stores import CATS, OSLO, ready, search, store_of
from upstream_server import error, upstream_server

from nbruns.errors import SetupError
from nbruns.server.models import Models
from nbruns.server.retrieval import embeddings
from nbruns.server.retrieval.embeddings import EmbeddingError, embedder

TEXTS = [
    "Oslo is the capital of Norway.",
    "How long do cats sleep?",
    "The yearly subscription costs 120 euros; refunds within 30 days!",
    "naïve café, ÅNGSTRÖM — 東京の天気 and 'quotes'",
    "x",
    "def fjord(depth_m: float) -> str:\n    return f'{depth_m:.1f} m'\n",
    "-3 °C, 5 €, ½ ™ © and №7",
    "unbelievably antidisestablishmentarianism",
]


def embedded(model: embeddings.Embedder, texts: Sequence[str], **options: Any) -> np.ndarray:
    async def scenario() -> np.ndarray:
        try:
            return await model.embed(texts, **options)
        finally:
            await model.close()

    return asyncio.run(scenario())


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("xllamacpp")
    file = tmp_path_factory.mktemp("gguf") / "minilm.gguf"
    minilm_gguf.write(file)
    return file


def test_our_minilm_computes_what_llama_cpp_does_with_the_same_weights(gguf_file: Path) -> None:
    ours, theirs = embedder(), embedder(str(gguf_file))
    assert ours is not None and theirs is not None
    assert (ours.name, theirs.name) == ("all-MiniLM-L6-v2", "gguf:minilm.gguf")
    one, other = embedded(ours, TEXTS), embedded(theirs, TEXTS)
    assert one.shape == other.shape == (len(TEXTS), 384)
    assert (one * other).sum(axis=1).min() > 0.9999


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours() -> None:
    model, alone = embedder(), embedder()
    assert model is not None and alone is not None
    texts = [*TEXTS, "word " * 400, "z" * 10_000, ""]
    together = embedded(model, texts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedded(alone, TEXTS[1:2], is_query=True)[0], together[1], atol=1e-5)


def test_a_store_is_built_and_searched_with_a_gguf_file(gguf_file: Path, tmp_path: Path) -> None:
    with thread_server(tmp_path, Models(), embedder(str(gguf_file))) as server:
        api = Api(server.url)
        store, (_, cats) = store_of(api, OSLO, CATS + b" " + b"word " * 2000)
        assert search(api, store, "How long do pets rest?")[0]["file_id"] == cats


def test_a_file_that_is_no_model_and_names_without_an_upstream_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF nothing")
    model = embedder(str(broken))
    assert model is not None
    with pytest.raises(EmbeddingError, match=r"broken\.gguf"):
        embedded(model, ["a"])
    for name in ("missing.gguf", "text-embedding-3-small"):
        with pytest.raises(SetupError, match="There is no embedding model"):
            embedder(name)


PATH = "/v1/embeddings"


def vectors(*rows: Sequence[float]) -> tuple[int, Any]:
    data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
    used = {"prompt_tokens": 1, "total_tokens": 1}
    return 200, {"object": "list", "model": "m", "data": data, "usage": used}


def test_an_upstreams_model_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", "secret")
    status, shuffled = vectors([3, 4], [0, 2])
    shuffled["data"].reverse()
    with upstream_server(
        (429, error("slow down"), {"Retry-After": "0"}), (status, shuffled), has=(PATH,)
    ) as upstream:
        model = embedder("text-embedding-3-small", upstream.url)
        assert model is not None and model.name == "upstream:text-embedding-3-small"
        np.testing.assert_allclose(embedded(model, ["a", "b"]), [[0.6, 0.8], [0, 1]])
        asked = upstream.requests[-1]
        assert (asked["path"], asked["key"]) == (PATH, "Bearer secret")
        assert (asked["model"], asked["input"]) == ("text-embedding-3-small", ["a", "b"])


@pytest.mark.parametrize(
    "answer",
    [
        (404, error("no such model")),
        (401, error("key sk-secret is wrong")),
        vectors([1, 2]),  # one for two texts
        vectors([1, 2], [1]),
        vectors([1, float("nan")], [1, 2]),
        (200, {"object": "list", "data": None}),
        (200, {"data": [{"embedding": "text"}, {}]}),
        (200, "no JSON"),
        vectors([], []),
    ],
)  # fmt: skip
def test_what_an_upstream_says_wrong_is_an_error_in_words(answer: tuple[int, Any]) -> None:
    with upstream_server(answer, has=(PATH,)) as upstream:
        model = embedder("m", upstream.url)
        assert model is not None
        with pytest.raises(EmbeddingError, match="upstream's m"):
            embedded(model, ["a", "b"])


def test_an_upstream_that_fails_fails_files_and_queries_in_words(tmp_path: Path) -> None:
    answers = [vectors([1, 0]), (400, error("too many tokens")), (400, error("no queries"))]
    with upstream_server(*answers, has=(PATH,)) as upstream:
        with thread_server(tmp_path, Models(), embedder("m", upstream.url)) as server:
            api = Api(server.url)
            store, _ = store_of(api, OSLO)
            late, [file] = store_of(api, CATS)
            assert ready(api, late)["file_counts"]["failed"] == 1
            said = api.get(f"/vector_stores/{late['id']}/files/{file}")["last_error"]
            assert said["code"] == "server_error" and "too many tokens" in said["message"]
            status, refused = api.refused("POST", f"/vector_stores/{store['id']}/search", {"query": "Oslo"})
            assert status == 502 and "no queries" in refused["message"]
