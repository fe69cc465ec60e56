"""Syntax highlighting, encoded as marks that are separate from the code.

Highlighted code as HTML is three to five times as long as the code. `marks` encodes the colors in about half the
length of the code, as pairs of a letter and a character count ("k3_1f4_2": a keyword of 3 characters, 1 plain, a name
of 4, 2 plain). The live view receives text and marks; `coloured_html` combines them to HTML.
"""

from __future__ import annotations

import re
from html import escape
from itertools import groupby

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Token, _TokenType, is_token_subtype
from pygments.util import ClassNotFound

#: Pygments token types and their letters (CSS class suffixes); the first match wins.
LETTERS: tuple[tuple[_TokenType, str], ...] = (
    (Token.Keyword.Constant, "a"),
    (Token.Keyword, "k"),
    (Token.Operator.Word, "k"),
    (Token.Name.Function, "f"),
    (Token.Name.Class, "f"),
    (Token.Name.Builtin, "b"),
    (Token.Name.Decorator, "d"),
    (Token.Name.Tag, "k"),
    (Token.Name.Attribute, "d"),
    (Token.Literal.String, "s"),
    (Token.Literal.Number, "m"),
    (Token.Comment, "c"),
    (Token.Generic.Deleted, "r"),
    (Token.Generic.Inserted, "i"),
    (Token.Generic.Heading, "f"),
)
PLAIN = "_"
#: Maximum length of highlighted code in characters; lexers may need seconds for longer code.
MAX_LENGTH = 200_000
#: Number of characters at the end that are highlighted again when the code grows.
REDRAWN_LENGTH = 600


def lexer_for(language: str) -> Lexer | None:
    """Return the lexer for a language name; None if it is empty or unknown."""
    try:
        return get_lexer_by_name(language) if language else None
    except ClassNotFound:
        return None


def _letter(token: _TokenType) -> str:
    return next((letter for kind, letter in LETTERS if is_token_subtype(token, kind)), PLAIN)


def marks(text: str, lexer: Lexer | None) -> str:
    """Return the marks of `text`; an empty string without a lexer or for very long text."""
    if lexer is None or len(text) > MAX_LENGTH:
        return ""
    # get_tokens() would strip and normalize the text, which would change the lengths.
    tokens = lexer.get_tokens_unprocessed(text)
    pieces = ((PLAIN if piece.isspace() else _letter(token), piece) for _, token, piece in tokens)
    runs = groupby(pieces, key=lambda piece: piece[0])
    return "".join(f"{letter}{sum(utf16_length(piece) for _, piece in run)}" for letter, run in runs)


class GrowingMarks:
    """The marks of streaming code. Only the end is highlighted again when the code grows.

    The cut is heuristic (the start of a line, after an empty line if possible), so colors may be wrong inside a very
    long string until the code is complete.
    """

    def __init__(self, language: str) -> None:
        self._lexer = lexer_for(language)
        self._kept = ""
        self._start = 0

    def update(self, text: str, complete: bool) -> str:
        """Return the marks of `text`, which must start with the text of the previous update."""
        if complete:
            return marks(text, self._lexer)
        while len(text) - self._start > 2 * REDRAWN_LENGTH and len(text) <= MAX_LENGTH:
            self._keep(text, self._cut(text))
        return self._kept + marks(text[self._start :], self._lexer)

    def _keep(self, text: str, cut: int) -> None:
        self._kept += marks(text[self._start : cut], self._lexer)
        self._start = cut

    def _cut(self, text: str) -> int:
        window = (self._start + 1, self._start + REDRAWN_LENGTH)
        for line_end in ("\n\n", "\n"):
            if (found := text.rfind(line_end, *window)) >= 0:
                return found + len(line_end)
        return window[1]


def utf16_length(text: str) -> int:
    """Return the length of `text` in UTF-16 code units, as in JavaScript."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def coloured_html(text: str, marked: str) -> str:
    """Return the code as escaped HTML, with spans for the colors in `marked`."""
    pieces, position = [], 0
    units = text if text.isascii() else _Units(text)
    for letter, length in re.findall(r"([a-z_])(\d+)", marked):
        piece = escape(units[position : position + int(length)], quote=False)
        pieces.append(piece if letter == PLAIN else f'<span class="nbruns-{letter}">{piece}</span>')
        position += int(length)
    return "".join(pieces) + escape(units[position:], quote=False)


class _Units:
    """A text sliced by UTF-16 code units, the unit of marks."""

    def __init__(self, text: str) -> None:
        self._encoded = text.encode("utf-16-le", "surrogatepass")

    def __getitem__(self, units: slice) -> str:
        start, stop = units.start * 2, None if units.stop is None else units.stop * 2
        return self._encoded[start:stop].decode("utf-16-le", "replace")
