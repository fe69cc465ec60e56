"""Split a text into passages (the API's chunks), at the ends of paragraphs, sentences or words."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Estimated number of characters per token, because the tokenizer depends on the model.
CHARACTERS_PER_TOKEN = 4
#: Maximum number of tokens of a piece, which embedding models can read at once.
MAX_PIECE_TOKENS = 200

#: Places to split a text, best first: ends of paragraphs, lines, sentences, words.
_ENDS = [
    re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!?。！？]['\"”’)\]]*\s+|[。！？]", r"\s+")
]


def split(text: str, chunk_tokens: int, overlap_tokens: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the pieces of a text, and its passages: the indexes of the first and the last piece of each.

    Passages have at most `chunk_tokens` tokens, and share at most `overlap_tokens` of them with the previous
    passage. Pieces don't overlap, so that each part of a text is embedded once.
    """
    most = min(MAX_PIECE_TOKENS, max(1, chunk_tokens // 4)) * CHARACTERS_PER_TOKEN
    pieces = [piece for piece in _pieces(text, most) if piece.strip()]
    return pieces, list(
        _passages(pieces, chunk_tokens * CHARACTERS_PER_TOKEN, overlap_tokens * CHARACTERS_PER_TOKEN)
    )


def _pieces(text: str, most: int) -> Iterator[str]:
    start = 0
    while len(text) - start > most:
        end = _end(text, start, start + most)
        yield text[start:end]
        start = end
    yield text[start:]


def _end(text: str, start: int, limit: int) -> int:
    """Return the best position to split at, in the second half of the text that fits."""
    half = (start + limit) // 2
    for ends in _ENDS:
        found = [match.end() for match in ends.finditer(text, half, limit)]
        if found:
            return found[-1]
    return limit


def _passages(pieces: list[str], most: int, overlap: int) -> Iterator[tuple[int, int]]:
    first = 0
    while first < len(pieces):
        last, size = first, len(pieces[first])
        while last + 1 < len(pieces) and size + len(pieces[last + 1]) <= most:
            last += 1
            size += len(pieces[last])
        yield first, last
        if last + 1 == len(pieces):
            return
        following, shared = last + 1, 0
        while following - 1 > first and shared + len(pieces[following - 1]) <= overlap:
            following -= 1
            shared += len(pieces[following])
        first = following
