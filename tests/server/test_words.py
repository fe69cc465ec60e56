"""Passages by their words: BM25 as it is defined, whatever has been added, moved and left out before."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

import numpy as np
import pytest

from nbruns.server.retrieval import words

VOCABULARY = re.findall(
    r"\w+", "oslo is cold in winter and the cats of bergen sleep in rain while ships wait for wind"
)


def loaded(texts: list[str]) -> words.Words:
    return added(words.NONE, np.arange(0), texts)


def added(known: words.Words, rows: np.ndarray, texts: list[str], at: list[int] | None = None) -> words.Words:
    """The words of known passages that have moved to these rows, and of texts in the others."""
    total = int((rows >= 0).sum()) + len(texts)
    unsorted = words.moved(known, rows, total)
    blobs = [words.packed(words.numbers(text)) for text in texts]
    unsorted.append(blobs, np.array(at if at is not None else range(total - len(texts), total), np.int64))
    return unsorted.sorted()


def bm25(texts: list[str], query: str) -> list[float]:
    """The scores by the book (Robertson and Zaragoza 2009), for words that are their own stems."""
    counts = [Counter(text.split()) for text in texts]
    lengths = [counted.total() for counted in counts]
    mean = sum(lengths) / len(lengths)
    scores = [0.0] * len(texts)
    for word in query.split():
        having = sum(word in counted for counted in counts)
        rarity = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for at, counted in enumerate(counts):
            often = counted[word]
            scores[at] += rarity * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * lengths[at] / mean))
    return scores


def test_scores_are_those_of_bm25_also_after_changes() -> None:
    chance = random.Random(3)
    texts = [" ".join(chance.choices(VOCABULARY, k=chance.randint(1, 40))) for _ in range(200)]
    query = "oslo winter rain wind"
    numbers = words.query_words(query)
    np.testing.assert_allclose(loaded(texts).scores(numbers), bm25(texts, query), rtol=1e-5)
    # Of the first 100, every third goes; the other 100 come between what stays.
    known, kept = loaded(texts[:100]), [at for at in range(100) if at % 3]
    order = sorted(range(len(kept) + 100), key=lambda at: chance.random() if at >= len(kept) else at)
    place = {at: row for row, at in enumerate(order)}
    stay = sorted(place[at] for at in range(len(kept)))
    rows = np.full(100, -1, np.int64)
    rows[kept] = stay
    free = [row for row in range(len(order)) if row not in set(stay)]
    now = added(known, rows, texts[100:], free)
    together = [""] * len(order)
    for row, text in zip([*stay, *free], [*(texts[at] for at in kept), *texts[100:]], strict=True):
        together[row] = text
    np.testing.assert_allclose(now.scores(numbers), bm25(together, query), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The ships were sailing", "ship sails"),
        ("Ein Café in Zürich", "cafe ZURICH"),
        ("東京の天気", "天気"),
        ("ﬁne type", "fine"),
        ("version_2 of x86", "X86"),
        ("to be or not to be", "to be"),
        ("x" * 100_000, "x" * 100_000),
    ],
)
def test_words_are_found_in_other_forms(text: str, query: str) -> None:
    scores = loaded([text, "something else"]).scores(words.query_words(query))
    assert scores[0] > 0 and scores[1] == 0


@pytest.mark.parametrize("query", ["", "?!", "\0", "🙂"])
def test_a_query_without_words_finds_nothing(query: str) -> None:
    assert not loaded(["a text"]).scores(words.query_words(query)).any()


def test_a_store_without_passages_has_no_scores() -> None:
    assert len(words.NONE.scores(words.query_words("oslo"))) == 0
    assert loaded([]).scores([1]).shape == (0,)
