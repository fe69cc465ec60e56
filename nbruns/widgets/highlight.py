"""Colours for code, apart from its text.

Coloured code as HTML is three to five times as long as the code. `marks` says the same in about half its
length: a letter and a number of characters, again and again ("k3_1f4_2": a keyword of 3 characters, 1 plain
one, a name of 4, 2 plain ones). The live view gets text and marks, `coloured_html` makes HTML of both.
"""

from __future__ import annotations

import re
from html import escape
from itertools import groupby

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Token, _TokenType, is_token_subtype
from pygments.util import ClassNotFound

#: From Pygments' token types to the letters that the style sheet colours; the first match wins.
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
#: Longer code stays plain: a lexer may need seconds for it.
LONGEST = 200_000
#: How much of the code's end is coloured anew when the code grows.
OPEN_END = 600


def lexer_for(language: str) -> Lexer | None:
    """The lexer for what a code block says its language is; None for none and for unknown ones."""
    try:
        return get_lexer_by_name(language) if language else None
    except ClassNotFound:
        return None


def _letter(token: _TokenType) -> str:
    return next((letter for kind, letter in LETTERS if is_token_subtype(token, kind)), PLAIN)


def marks(text: str, lexer: Lexer | None) -> str:
    """The colours of `text`; nothing where no lexer knows it."""
    if lexer is None or len(text) > LONGEST:
        return ""
    # get_tokens() would strip and normalise the text first, and the lengths would be those of another text.
    tokens = lexer.get_tokens_unprocessed(text)
    pieces = ((PLAIN if piece.isspace() else _letter(token), piece) for _, token, piece in tokens)
    runs = groupby(pieces, key=lambda piece: piece[0])
    return "".join(f"{letter}{sum(utf16_length(piece) for _, piece in run)}" for letter, run in runs)


class GrowingMarks:
    """The marks of code that is still being written: only its open end is read again when it grows.

    Where the kept part ends is a guess (the start of a line, after an empty one if there is one), so the
    colours may be off inside a very long string until the code is complete.
    """

    def __init__(self, language: str) -> None:
        self._lexer = lexer_for(language)
        self._kept = ""
        self._start = 0

    def update(self, text: str, complete: bool) -> str:
        """The marks of all of `text`, which begins with the text of the last update."""
        if complete:
            return marks(text, self._lexer)
        while len(text) - self._start > 2 * OPEN_END and len(text) <= LONGEST:
            self._keep(text, self._cut(text))
        return self._kept + marks(text[self._start :], self._lexer)

    def _keep(self, text: str, cut: int) -> None:
        self._kept += marks(text[self._start : cut], self._lexer)
        self._start = cut

    def _cut(self, text: str) -> int:
        window = (self._start + 1, self._start + OPEN_END)
        for line_end in ("\n\n", "\n"):
            if (found := text.rfind(line_end, *window)) >= 0:
                return found + len(line_end)
        return window[1]


def utf16_length(text: str) -> int:
    """The length of `text` as JavaScript counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def coloured_html(text: str, marked: str) -> str:
    """The code as HTML, escaped, with a span around what `marked` gives a colour."""
    pieces, position = [], 0
    units = text if text.isascii() else _Units(text)
    for letter, length in re.findall(r"([a-z_])(\d+)", marked):
        piece = escape(units[position : position + int(length)], quote=False)
        pieces.append(piece if letter == PLAIN else f'<span class="nbruns-{letter}">{piece}</span>')
        position += int(length)
    return "".join(pieces) + escape(units[position:], quote=False)


class _Units:
    """A text sliced by UTF-16 code units, as marks count them."""

    def __init__(self, text: str) -> None:
        self._encoded = text.encode("utf-16-le", "surrogatepass")

    def __getitem__(self, units: slice) -> str:
        start, stop = units.start * 2, None if units.stop is None else units.stop * 2
        return self._encoded[start:stop].decode("utf-16-le", "replace")
