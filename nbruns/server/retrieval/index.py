"""Search in vector stores: by words (the database's full text) and by meaning (vectors), fused by rank.

The vectors of a store are one matrix in memory, compared with all of it: exact, and quick enough for a hundred thousand
passages. Each server keeps its own copy, and brings it up to date when the store's version has changed.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from nbruns.server.retrieval.embeddings import Embedder
from nbruns.server.storage import files
from nbruns.server.storage.database import Database
from nbruns.text import JSON

Array = NDArray[np.float32]

#: Results of a search that asks for no number of them.
RESULTS = 10
#: The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009).
_RRF = 60
#: So many passages of each list are fused, at least.
_CANDIDATES = 50
#: Memory for the vectors of stores; those that were searched longest ago are dropped.
MAX_VECTOR_BYTES = 2 * 1024**3
#: The most words of a query that are looked for.
_MAX_WORDS = 32
#: Words that are in every text. Looking for them takes time and finds nothing.
_STOP = (
    "a about an and are as at be by can do does for from had has have how i if in into is it its me my no not of on or "
    "our so than that the their them then there these they this to was we were what when where which who why will with "
    "would you your"
)
_STOP_WORDS = frozenset(_STOP.split())


class WrongModelError(Exception):
    """A store was built with another embedding model than the server has."""


class Result(NamedTuple):
    """A passage that was found."""

    file_id: str
    filename: str
    score: float
    attributes: JSON
    text: str


class _Vectors(NamedTuple):
    """The passages of a store that can be found: row by row their number, the number of their file, their vector."""

    version: int
    #: By number: the file's id, its row in the store, its attributes.
    files: list[tuple[str, int, JSON]]
    seqs: NDArray[np.int64]
    numbers: NDArray[np.int32]
    matrix: Array


class Index:
    """Searches vector stores."""

    def __init__(self, db: Database, embedder: Embedder | None) -> None:
        self._db, self._embedder = db, embedder
        self._loaded: OrderedDict[str, _Vectors] = OrderedDict()
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
        """Return the passages that suit the queries best, best first.

        Args:
            store_ids: Vector stores to search.
            queries: Texts to search for.
            filters: A comparison or a group of them, as in the API, that the attributes of a file must meet.
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
        """Drop the vectors of a store."""
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
        vectors = self._vectors(conn, store_id)
        allowed = np.array([_meets(filters, attributes) for _, _, attributes in vectors.files], bool)
        if not allowed.any():
            return []
        rows = None if allowed.all() else np.flatnonzero(allowed[vectors.numbers])
        weights = ranking.get("hybrid_search") or {"embedding_weight": 1.0, "text_weight": 1.0}
        most = max(_CANDIDATES, 4 * limit)
        has_vectors = query_vectors is not None and vectors.matrix.shape[1] > 0
        total = len(queries) * (weights["text_weight"] + (weights["embedding_weight"] if has_vectors else 0))
        points: dict[int, float] = {}
        similar: dict[int, float] = {}
        file_ids = None if allowed.all() else [vectors.files[at][0] for at in np.flatnonzero(allowed)]
        for at, query in enumerate(queries):
            ranked = [(weights["text_weight"], _by_words(conn, store_id, query, file_ids, most))]
            if query_vectors is not None and has_vectors:
                scores = vectors.matrix @ query_vectors[at]
                ranked.append((weights["embedding_weight"], _best(vectors.seqs, scores, rows, most)))
                for seq in {seq for _, seqs in ranked for seq in seqs}:
                    row = int(np.searchsorted(vectors.seqs, seq))
                    if row < len(vectors.seqs) and vectors.seqs[row] == seq:
                        similar[seq] = max(similar.get(seq, 0.0), float(scores[row]))
            for weight, seqs in ranked:
                for rank, seq in enumerate(seqs):
                    points[seq] = points.get(seq, 0.0) + weight * (_RRF + 1) / (_RRF + 1 + rank)
        scored = {
            seq: _score(point / total if total else 0.0, similar.get(seq) if has_vectors else None)
            for seq, point in points.items()
        }
        threshold = ranking.get("score_threshold", 0.0)
        best = sorted(
            (seq for seq in scored if scored[seq] >= threshold), key=lambda seq: (-scored[seq], seq)
        )
        return _results(conn, best, scored, vectors, limit)

    def _vectors(self, conn: sa.Connection, store_id: str) -> _Vectors:
        """Return the store's vectors as they are now."""
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
            while len(self._loaded) > 1 and self._bytes() > MAX_VECTOR_BYTES:
                self._loaded.popitem(last=False)
        return known

    def _bytes(self) -> int:
        return sum(each.matrix.nbytes for each in self._loaded.values())


def _load(conn: sa.Connection, store_id: str, version: int, known: _Vectors | None) -> _Vectors:
    """Load what has been added to a store, keep what is there still, and drop the rest."""
    table = files.vector_store_files.c
    rows = conn.execute(
        sa.select(table.id, table.seq, table.body["attributes"])
        .where(table.vector_store_id == store_id, table.status == "completed")
        .order_by(table.seq)
    )
    current = [(row[0], row[1], row[2] or {}) for row in rows]
    old = {(id, seq): at for at, (id, seq, _) in enumerate(known.files)} if known is not None else {}
    numbers = np.full(len(old), -1, np.int32)  # of the known files: their new numbers
    fresh = {}
    for number, (id, seq, _) in enumerate(current):
        if (id, seq) in old:
            numbers[old[id, seq]] = number
        else:
            fresh[id] = number
    seqs, of_file, blobs = [], [], []
    passages = files.passages.c
    for start in range(0, len(fresh), 500):
        some = list(fresh)[start : start + 500]
        query = sa.select(passages.seq, passages.file_id, passages.vector).where(
            passages.vector_store_id == store_id, passages.file_id.in_(some)
        )
        for seq, file_id, vector in conn.execute(query):
            seqs.append(seq)
            of_file.append(fresh[file_id])
            blobs.append(vector or b"")
    width = len(blobs[0]) // 4 if blobs else 0
    added = np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), width)
    new_seqs, new_numbers = np.array(seqs, np.int64), np.array(of_file, np.int32)
    if known is not None and len(known.seqs):
        kept = numbers[known.numbers] >= 0
        if width in (0, known.matrix.shape[1]) or not blobs:
            added = added.reshape(len(blobs), known.matrix.shape[1])
            added = np.concatenate([known.matrix[kept], added])
            new_seqs = np.concatenate([known.seqs[kept], new_seqs])
            new_numbers = np.concatenate([numbers[known.numbers[kept]], new_numbers])
    order = np.argsort(new_seqs, kind="stable")
    if (order[:-1] > order[1:]).any():
        added, new_seqs, new_numbers = added[order], new_seqs[order], new_numbers[order]
    return _Vectors(version, current, new_seqs, new_numbers, np.ascontiguousarray(added))


def _best(seqs: NDArray[np.int64], scores: Array, rows: NDArray[np.intp] | None, most: int) -> list[int]:
    """Return the numbers of the passages with the highest scores, best first."""
    if rows is not None:
        seqs, scores = seqs[rows], scores[rows]
    if len(scores) > most:
        top = np.argpartition(scores, -most)[-most:]
        seqs, scores = seqs[top], scores[top]
    return [int(seq) for seq in seqs[np.argsort(-scores, kind="stable")]]


def _by_words(
    conn: sa.Connection, store_id: str, query: str, file_ids: list[str] | None, most: int
) -> list[int]:
    """Return the numbers of the passages with words of the query, best first."""
    words = list(dict.fromkeys(word.lower() for word in re.findall(r"\w+", query)))
    words = [word for word in words if word not in _STOP_WORDS][:_MAX_WORDS] or words[:_MAX_WORDS]
    if not words:
        return []
    values: JSON = {"most": most, "files": json.dumps(file_ids) if file_ids is not None else None}
    if conn.dialect.name == "sqlite":
        values["match"] = f"(vector_store_id : {_token(store_id)}) AND (text : ({_any(words)}))"
        query_text = _SQLITE_WORDS if file_ids is None else _SQLITE_WORDS_OF_FILES
    else:
        # Each word is quoted, so that none is an operator.
        values |= {"query": " | ".join(f"'{word}'" for word in words), "store": store_id}
        query_text = _POSTGRESQL_WORDS if file_ids is None else _POSTGRESQL_WORDS_OF_FILES
    names = {name: value for name, value in values.items() if f":{name}" in query_text}
    return list(conn.scalars(sa.text(query_text), names))


def _token(store_id: str) -> str:
    """The part of a store's id that is one word to the index."""
    return f'"{store_id.rpartition("_")[2]}"'


def _any(words: list[str]) -> str:
    return " OR ".join(f'"{word}"' for word in words)


_SQLITE_WORDS = """
    SELECT rowid FROM passages_words
    WHERE passages_words MATCH :match ORDER BY bm25(passages_words, 1.0, 0.0) LIMIT :most
"""
_SQLITE_WORDS_OF_FILES = """
    SELECT passages_words.rowid FROM passages_words JOIN passages ON passages.seq = passages_words.rowid
    WHERE passages_words MATCH :match AND passages.file_id IN (SELECT value FROM json_each(:files))
    ORDER BY bm25(passages_words, 1.0, 0.0) LIMIT :most
"""
_POSTGRESQL_WORDS = """
    SELECT seq FROM passages, to_tsquery('english', :query) AS query
    WHERE vector_store_id = :store AND words @@ query ORDER BY ts_rank_cd(words, query, 1) DESC, seq LIMIT :most
"""
_POSTGRESQL_WORDS_OF_FILES = """
    SELECT seq FROM passages, to_tsquery('english', :query) AS query
    WHERE vector_store_id = :store AND words @@ query
    AND file_id IN (SELECT json_array_elements_text(CAST(:files AS json)))
    ORDER BY ts_rank_cd(words, query, 1) DESC, seq LIMIT :most
"""


def _score(rank_points: float, similarity: float | None) -> float:
    """Return the score of a result, from 0 to 1: half its ranks, half its similarity, where that is known.

    Ranks alone would give the best of many useless passages the score of a good one.
    """
    if similarity is None:
        return min(1.0, rank_points)
    return min(1.0, 0.5 * rank_points + 0.5 * max(0.0, similarity))


def _results(
    conn: sa.Connection, seqs: list[int], scores: dict[int, float], vectors: _Vectors, limit: int
) -> list[Result]:
    attributes = {id: given for id, _, given in vectors.files}
    table = files.passages.c
    results: list[Result] = []
    for start in range(0, len(seqs), 500):
        some = seqs[start : start + 500]
        rows = conn.execute(sa.select(table.seq, table.file_id, table.text).where(table.seq.in_(some)))
        found = {row.seq: row for row in rows}
        # What words have found may be of a file that is being ingested.
        wanted = [found[seq] for seq in some if seq in found and found[seq].file_id in attributes]
        wanted = wanted[: limit - len(results)]
        names = files.filenames(conn, {row.file_id for row in wanted})
        results += [
            Result(
                row.file_id,
                names.get(row.file_id, row.file_id),
                scores[row.seq],
                attributes[row.file_id],
                row.text,
            )
            for row in wanted
        ]
        if len(results) >= limit:
            break
    return results


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
    """Whether the attributes of a file meet a filter. A missing attribute meets only `ne` and `nin`."""
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
    except TypeError:  # a text and a number are in no order
        return False
