"""Mark the words in which texts differ, also within HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

#: Longest list of words that difflib compares; it takes quadratic time. What is equal at the ends doesn't count.
MAX_WORDS = 3_000
#: Tags, whose attributes may contain anything in quotes; formulas and times of calls as a whole; words; space.
_TOKEN = re.compile(
    r"<math\b.*?</math>"
    r'|<span class="nbruns-state">[^<]*+</span>'
    r"""|<(?:[^<>"']|"[^"]*"|'[^']*')*+>"""
    r"|\s++|&#?\w+;|\w++|[^\w\s<&]|.",
    re.DOTALL,
)


def words_of(html: str) -> list[str]:
    """Split HTML into tags, words, space and signs. Joined, they are the HTML again."""
    return _TOKEN.findall(html)


def is_marked(word: str) -> bool:
    """Whether differences in this are marked: not in tags, nor in space."""
    return not word.isspace() and (not word.startswith("<") or word.startswith("<math"))


def same_words(one: Sequence[str], other: Sequence[str]) -> set[int]:
    """Return the positions in `one` of the words that `other` has too, in the same order."""
    mine = [i for i, word in enumerate(one) if is_marked(word)]
    a, b = [one[i] for i in mine], [word for word in other if is_marked(word)]
    start = _common(a, b)
    end = _common(a[start:][::-1], b[start:][::-1])
    same = {*range(start), *range(len(a) - end, len(a))}
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    if max(len(middle_a), len(middle_b)) <= MAX_WORDS:
        for at, _, size in SequenceMatcher(None, middle_a, middle_b, autojunk=False).get_matching_blocks():
            if size > 1:  # a single word between differences is chance
                same.update(range(start + at, start + at + size))
    return {mine[i] for i in same}


def marked(words: Sequence[str], same: set[int], mark: Callable[[str], str]) -> str:
    """Return the text with what is not the same marked; words in a row are marked together."""
    parts: list[str] = []
    run: list[str] = []

    def close() -> None:
        text = "".join(run)
        kept = text.rstrip()
        parts.extend([mark(kept), text[len(kept) :]] if kept else [text])
        run.clear()

    for i, word in enumerate(words):
        if (is_marked(word) and i not in same) or (run and word.isspace()):
            run.append(word)
        else:
            close()
            parts.append(word)
    close()
    return "".join(parts)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
