"""Mark the words in which texts differ, also within HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

#: Maximum number of words that difflib compares, without those equal at both ends, because it takes quadratic time.
MAX_WORDS = 3_000
#: Tags, whose attributes can contain anything in quotes; whole formulas and whole times of calls; words; spaces.
_TOKEN = re.compile(
    r"<math\b.*?</math>"
    r'|<span class="nbruns-state">[^<]*+</span>'
    r"""|<(?:[^<>"']|"[^"]*"|'[^']*')*+>"""
    r"|\s++|&#?\w+;|\w++|[^\w\s<&]|.",
    re.DOTALL,
)


def words_of(html: str) -> list[str]:
    """Split HTML into tags, words, spaces and punctuation. Joining them returns the same HTML."""
    return _TOKEN.findall(html)


def is_marked(word: str) -> bool:
    """Whether differences in this token are marked: not in tags or spaces."""
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
            if size > 1:  # a single equal word between differences is usually a coincidence
                same.update(range(start + at, start + at + size))
    return {mine[i] for i in same}


def marked(words: Sequence[str], same: set[int], mark: Callable[[str], str]) -> str:
    """Return the text with all words outside `same` marked. Adjacent words get one mark."""
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
