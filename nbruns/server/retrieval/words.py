"""Search passages by words: BM25 over an index in memory, the same for every database.

The databases' own full-text searches are slower: with 100,000 passages, ranking the matches of common words took
up to 0.3 s in SQLite's FTS5 and 2 s in PostgreSQL, which also doesn't weight words by their frequency.

With each passage, the hashes of its words and their counts are stored. Words are in lower case, without accents,
and reduced to their English stems. In other languages, passages are found by equal words, and by meaning.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from snowballstemmer import stemmer

#: Constants of BM25, with the values that most search engines use.
_K1, _B = 1.2, 0.75
#: Maximum number of words of a query that are searched for.
MAX_QUERY_WORDS = 32
#: Stop words. Searching for them takes time and doesn't improve the results.
_STOP = (
    "a about an and are as at be by can do does for from had has have how i if in into is it its me my no not of on or "
    "our so than that the their them then there these they this to was we were what when where which who why will with "
    "would you your"
)
_STOP_WORDS = frozenset(_STOP.split())
_WORD = re.compile(r"\w+")
#: Scripts without spaces between words. Each of their characters counts as a word.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

#: Storage format of a word in a passage: its number, and its count in the passage.
ENTRY = np.dtype([("word", "<u4"), ("count", "u1")])
#: In memory, an entry is one integer: the word's number, the passage's row, and the count. These are the shifts.
#: Sorted entries are the lists of passages by word.
_WORD_BITS, _ROW_BITS = np.uint64(32), np.uint64(8)
_ROWS, _COUNTS = np.uint64(0xFFFFFF00), np.uint64(0xFF)

_stem = stemmer("english").stemWord


def numbers(text: str) -> NDArray[np.uint32]:
    """Return the numbers of a text's words, in order."""
    return np.fromiter(map(_number, _words(text)), np.uint32)


def packed(numbers: NDArray[np.uint32]) -> bytes:
    """Return the words of a passage in the storage format."""
    words, counts = np.unique(numbers, return_counts=True)
    entries = np.empty(len(words), ENTRY)
    entries["word"], entries["count"] = words, np.minimum(counts, 255)
    return entries.tobytes()


def query_words(query: str) -> list[int]:
    """Return the numbers of the words of a query, without stop words."""
    words = list(dict.fromkeys(_words(query)))
    telling = [word for word in words if word not in _STOP_WORDS] or words
    return list(dict.fromkeys(map(_number, telling[:MAX_QUERY_WORDS])))


def _words(text: str) -> list[str]:
    text = text.lower()
    if not text.isascii():
        text = "".join(
            each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each)
        )
        text = _UNSPACED.sub(r" \g<0> ", text)
    return _WORD.findall(text)


class _Numbers(dict[str, int]):
    """Cache of the numbers of words, because stemming is slow."""

    def __missing__(self, word: str) -> int:
        if len(self) > 200_000:
            self.clear()
        number = self[word] = crc32((_stem(word) if len(word) < 50 else word).encode())
        return number


_number = _Numbers().__getitem__


class Words(NamedTuple):
    """The words of all passages of a store."""

    #: Word, row and count of each entry, in this order.
    entries: NDArray[np.uint64]
    #: The number of words of each row.
    lengths: NDArray[np.float32]

    def scores(self, words: Iterable[int]) -> NDArray[np.float32]:
        """Return the BM25 score of each row; 0 for rows with none of the words."""
        total = len(self.lengths)
        scores = np.zeros(total, np.float32)
        if not len(self.entries):
            return scores
        length = _K1 * (1 - _B + _B * self.lengths / max(1.0, float(self.lengths.mean())))
        for word in words:
            first, last = (np.uint64(each) << _WORD_BITS for each in (word, word + 1))
            found = self.entries[slice(*np.searchsorted(self.entries, np.array([first, last], np.uint64)))]
            rows = ((found & _ROWS) >> _ROW_BITS).astype(np.intp)
            counts = (found & _COUNTS).astype(np.float32)
            rarity = np.log1p((total - len(found) + 0.5) / (len(found) + 0.5))
            scores[rows] += np.float32(rarity * (_K1 + 1)) * counts / (counts + length[rows])
        return scores


NONE = Words(np.empty(0, np.uint64), np.empty(0, np.float32))


class Unsorted:
    """The words of passages while they are loaded."""

    def __init__(self, entries: NDArray[np.uint64], lengths: NDArray[np.float32]) -> None:
        #: Sorted entries of passages that are already loaded.
        self._known = entries
        self._added: list[NDArray[np.uint64]] = []
        self._lengths = lengths

    def append(self, blobs: Sequence[bytes], rows: NDArray[np.int64]) -> None:
        """Add the words of passages, in the storage format, to these rows."""
        entries = np.frombuffer(b"".join(blobs), ENTRY)
        sizes = np.array([len(blob) // ENTRY.itemsize for blob in blobs], np.int64)
        # Row numbers have 24 bits, enough for more passages than fit into memory.
        keys = entries["word"].astype(np.uint64) << _WORD_BITS
        keys |= np.repeat(rows.astype(np.uint64) << _ROW_BITS, sizes)
        keys |= entries["count"].astype(np.uint64)
        self._added.append(keys)
        ends = np.concatenate([[0], np.cumsum(entries["count"], dtype=np.int64)])
        last = np.cumsum(sizes)
        self._lengths[rows] = ends[last] - ends[last - sizes]

    def sorted(self) -> Words:
        """Return the words of all passages."""
        added = np.concatenate([np.empty(0, np.uint64), *self._added])
        self._added.clear()
        added.sort()
        if len(self._known):
            added = np.insert(self._known, np.searchsorted(self._known, added), added)
        return Words(added, self._lengths)


def moved(words: Words, rows: NDArray[np.int64], total: int) -> Unsorted:
    """Return the words of passages that are moved to new rows, in ascending order, of `total` rows. Rows of -1 are
    left out.
    """
    kept = rows >= 0
    lengths = np.zeros(total, np.float32)
    lengths[rows[kept]] = words.lengths[kept]
    if (rows == np.arange(len(rows))).all():
        return Unsorted(words.entries, lengths)
    at = rows[((words.entries & _ROWS) >> _ROW_BITS).astype(np.intp)]
    entries = (words.entries & ~_ROWS) | (at.astype(np.uint64) << _ROW_BITS & _ROWS)
    return Unsorted(entries[at >= 0], lengths)
