"""Search in vector stores: by words (BM25) and by meaning (vectors), fused by rank.

The vectors of a store are one matrix in memory, and so are its words. Each query is compared with all of them.
This is exact, works with any filter and database, and is fast enough for several hundred thousand passages. Each
server has its own copy, and updates it when the store's version has changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from nbruns.server.retrieval import words as words_of
from nbruns.server.retrieval.embeddings import Embedder
from nbruns.server.retrieval.words import Words, query_words
from nbruns.server.storage import files
from nbruns.server.storage.database import Database
from nbruns.text import JSON

Array = NDArray[np.float32]

#: Default number of results.
RESULTS = 10
#: Constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009). The paper uses 60 for lists of
#: 1,000 results, with which the scores of the best passages differ too little
#: (tests/benchmarks/bench_retrieval_quality.py).
_RRF = 10
#: Minimum number of passages of each list that are fused.
_CANDIDATES = 50
#: Maximum memory in bytes for the vectors and words of stores. The least recently searched stores are dropped.
MAX_BYTES = 2 * 1024**3
#: Number of files whose passages are loaded with one query.
_FILES_AT_ONCE = 100


class WrongModelError(Exception):
    """A store was built with another embedding model than the server has."""


class Result(NamedTuple):
    """A passage found by a search."""

    file_id: str
    filename: str
    score: float
    attributes: JSON
    text: str


class _Passages(NamedTuple):
    """The searchable passages of a store, row by row."""

    version: int
    #: The files, by number: id, row in the table of files, attributes.
    files: list[tuple[str, int, JSON]]
    #: For each row: its row in the table of passages, the number of its file, its vector.
    seqs: NDArray[np.int64]
    numbers: NDArray[np.int32]
    matrix: Array
    words: Words

    @property
    def nbytes(self) -> int:
        arrays = (self.seqs, self.numbers, self.matrix, *self.words)
        return sum(array.nbytes for array in arrays)


_NONE = _Passages(
    0, [], np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, 0), np.float32), words_of.NONE
)


class Index:
    """Searches vector stores."""

    def __init__(self, db: Database, embedder: Embedder | None) -> None:
        self._db, self._embedder = db, embedder
        self._loaded: OrderedDict[str, _Passages] = OrderedDict()
        self._lock = Lock()

    async def search(
        self,
        store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        filters: JSON | None = None,
        limit: int = RESULTS,
        ranking: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        """Return the passages that match the queries best, best first.

        Args:
            store_ids: Vector stores to search.
            queries: Texts to search for.
            filters: A comparison or a group of comparisons, as in the API, that the attributes of a file must match.
            limit: Maximum number of results.
            ranking: `score_threshold` and the weights in `hybrid_search`, as in the API.

        Raises:
            WrongModelError: A store was built with another embedding model.
            EmbeddingError: The queries could not be embedded.
        """
        vectors = None
        if self._embedder is not None:
            vectors = await self._embedder.embed(queries, is_query=True)
        found: list[Result] = []
        for store_id in store_ids:
            found += await self._db.read(
                self._search, store_id, list(queries), vectors, filters, limit, ranking or {}
            )
        return sorted(found, key=lambda result: -result.score)[:limit]

    def forget(self, store_id: str) -> None:
        """Drop the passages of a store from memory."""
        with self._lock:
            self._loaded.pop(store_id, None)

    def _search(
        self,
        conn: sa.Connection,
        store_id: str,
        queries: list[str],
        query_vectors: Array | None,
        filters: JSON | None,
        limit: int,
        ranking: Mapping[str, Any],
    ) -> list[Result]:
        passages = self._passages(conn, store_id)
        width = passages.matrix.shape[1]
        if query_vectors is not None and width not in (0, query_vectors.shape[1]):
            raise WrongModelError(
                f"The vector store {store_id} was built with an embedding model that returns {width:,} numbers for a "
                f"text, and this server's returns {query_vectors.shape[1]:,}. Start the server with that model, or "
                "create a new store from the files."
            )
        allowed = np.array([_meets(filters, attributes) for _, _, attributes in passages.files], bool)
        if not allowed.any():
            return []
        rows = None if allowed.all() else np.flatnonzero(allowed[passages.numbers])
        weights = ranking.get("hybrid_search") or {"embedding_weight": 1.0, "text_weight": 1.0}
        most = max(_CANDIDATES, 4 * limit)
        has_vectors = query_vectors is not None and width > 0
        total = len(queries) * (weights["text_weight"] + (weights["embedding_weight"] if has_vectors else 0))
        points: dict[int, float] = {}
        similar: dict[int, float] = {}
        for at, query in enumerate(queries):
            by_words = passages.words.scores(query_words(query))
            ranked = [(weights["text_weight"], _best(by_words, rows, most, above=0.0))]
            if query_vectors is not None and has_vectors:
                scores = passages.matrix @ query_vectors[at]
                ranked.append((weights["embedding_weight"], _best(scores, rows, most)))
                for row in {row for _, found in ranked for row in found}:
                    similar[row] = max(similar.get(row, 0.0), float(scores[row]))
            for weight, found in ranked:
                for rank, row in enumerate(found):
                    points[row] = points.get(row, 0.0) + weight * (_RRF + 1) / (_RRF + 1 + rank)
        scored = {
            row: _score(point / total if total else 0.0, similar.get(row) if has_vectors else None)
            for row, point in points.items()
        }
        threshold = ranking.get("score_threshold", 0.0)
        best = sorted(
            (row for row in scored if scored[row] >= threshold), key=lambda row: (-scored[row], row)
        )
        return _results(conn, best[:limit], scored, passages)

    def _passages(self, conn: sa.Connection, store_id: str) -> _Passages:
        """Return the current passages of a store."""
        table = files.vector_stores.c
        row = conn.execute(sa.select(table.version, table.embedding).where(table.id == store_id)).first()
        version, embedding = (row.version, row.embedding) if row is not None else (0, None)
        if embedding is not None and self._embedder is not None and embedding != self._embedder.name:
            raise WrongModelError(
                f"The vector store {store_id} was built with the embedding model {embedding!r}, and this server has "
                f"{self._embedder.name!r}. Start the server with that model, or create a new store from the files."
            )
        with self._lock:
            known = self._loaded.get(store_id)
        if known is None or known.version != version:
            known = _load(conn, store_id, version, known)
        with self._lock:
            self._loaded[store_id] = known
            self._loaded.move_to_end(store_id)
            while len(self._loaded) > 1 and sum(each.nbytes for each in self._loaded.values()) > MAX_BYTES:
                self._loaded.popitem(last=False)
        return known


def _load(conn: sa.Connection, store_id: str, version: int, known: _Passages | None) -> _Passages:
    """Return the passages of a store: load added ones, keep existing ones, and drop deleted ones."""
    table = files.vector_store_files.c
    found = conn.execute(
        sa.select(table.id, table.seq, table.body["attributes"])
        .where(table.vector_store_id == store_id, table.status == "completed")
        .order_by(table.seq)
    )
    current = [(row[0], row[1], row[2] or {}) for row in found]
    known = known or _NONE
    old = {(id, seq): at for at, (id, seq, _) in enumerate(known.files)}
    renumbered = np.full(len(old) + 1, -1, np.int32)  # new numbers of the known files
    fresh: dict[str, int] = {}
    for number, (id, seq, _) in enumerate(current):
        if (id, seq) in old:
            renumbered[old[id, seq]] = number
        else:
            fresh[id] = number
    passages = files.passages.c
    groups = [list(fresh)[start : start + _FILES_AT_ONCE] for start in range(0, len(fresh), _FILES_AT_ONCE)]
    of_groups = [
        sa.and_(passages.vector_store_id == store_id, passages.file_id.in_(group)) for group in groups
    ]
    added = [
        row for of in of_groups for row in conn.execute(sa.select(passages.seq, passages.file_id).where(of))
    ]
    kept = renumbered[known.numbers] >= 0
    count = int(kept.sum())
    seqs = np.concatenate([known.seqs[kept], np.array([row[0] for row in added], np.int64)])
    numbers = np.concatenate(
        [renumbered[known.numbers[kept]], np.array([fresh[row[1]] for row in added], np.int32)]
    )
    # Files are ingested concurrently, so new passages can belong between existing ones.
    order = np.argsort(seqs, kind="stable")
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.arange(len(order))
    at = dict(zip((row[0] for row in added), row_of[count:].tolist(), strict=True))
    matrix = np.zeros((len(order), known.matrix.shape[1]), np.float32) if count else None
    if matrix is not None:
        matrix[row_of[:count]] = known.matrix[kept]
    moved = np.full(len(known.seqs), -1, np.int64)
    moved[kept] = row_of[:count]
    words = words_of.moved(known.words, moved, len(order))
    for of in of_groups:
        rows, blobs = [], []
        for seq, vector, said in conn.execute(
            sa.select(passages.seq, passages.vector, passages.words).where(of)
        ):
            if seq not in at:  # on PostgreSQL, it may have been added in the meantime
                continue
            rows.append(at[seq])
            blobs.append(said)
            if matrix is None:
                matrix = np.zeros((len(order), len(vector or b"") // 4), np.float32)
            matrix[at[seq]] = np.frombuffer(vector or b"", "<f4")
        words.append(blobs, np.array(rows, np.int64))
    if matrix is None:
        matrix = np.zeros((0, 0), np.float32)
    return _Passages(version, current, seqs[order], numbers[order], matrix, words.sorted())


def _best(scores: Array, rows: NDArray[np.intp] | None, most: int, above: float = -np.inf) -> list[int]:
    """Return the rows with the highest scores above a number, best first."""
    if rows is None:
        rows = np.flatnonzero(scores > above)
    else:
        rows = rows[scores[rows] > above]
    scores = scores[rows]
    if len(scores) > most:
        top = np.sort(np.argpartition(scores, -most)[-most:])
        rows, scores = rows[top], scores[top]
    return [int(row) for row in rows[np.argsort(-scores, kind="stable")]]


def _score(rank_points: float, similarity: float | None) -> float:
    """Return the score of a result, from 0 to 1: the mean of its rank points and its similarity, if that is known.

    With ranks alone, the best of many irrelevant passages would get the score of a relevant one.
    """
    if similarity is None:
        return min(1.0, rank_points)
    return min(1.0, 0.5 * rank_points + 0.5 * max(0.0, similarity))


def _results(
    conn: sa.Connection, rows: list[int], scores: dict[int, float], passages: _Passages
) -> list[Result]:
    table = files.passages.c
    seqs = [int(passages.seqs[row]) for row in rows]
    texts = {
        row.seq: row.text for row in conn.execute(sa.select(table.seq, table.text).where(table.seq.in_(seqs)))
    }
    found = [passages.files[passages.numbers[row]] for row in rows]
    names = files.filenames(conn, {id for id, _, _ in found})
    return [
        Result(id, names.get(id, id), scores[row], attributes, texts[seq])
        for row, seq, (id, _, attributes) in zip(rows, seqs, found, strict=True)
        if seq in texts  # on PostgreSQL, it may have been deleted in the meantime
    ]


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, other: value == other and isinstance(value, bool) == isinstance(other, bool),
    "ne": lambda value, other: value != other or isinstance(value, bool) != isinstance(other, bool),
    "gt": lambda value, other: value > other,
    "gte": lambda value, other: value >= other,
    "lt": lambda value, other: value < other,
    "lte": lambda value, other: value <= other,
    "in": lambda value, other: value in (other if isinstance(other, list) else [other]),
    "nin": lambda value, other: value not in (other if isinstance(other, list) else [other]),
}


def _meets(filters: JSON | None, attributes: Mapping[str, Any]) -> bool:
    """Whether the attributes of a file match a filter. A missing attribute only matches `ne` and `nin`."""
    if filters is None:
        return True
    if filters["type"] in ("and", "or"):
        each = (_meets(part, attributes) for part in filters["filters"])
        return all(each) if filters["type"] == "and" else any(each)
    value = attributes.get(filters["key"])
    if value is None:
        return filters["type"] in ("ne", "nin")
    try:
        return _COMPARE[filters["type"]](value, filters["value"])
    except TypeError:  # a text can't be compared with a number
        return False
