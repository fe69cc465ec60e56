"""Transcript blocks, and the difference between two versions of a text."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from nbruns.widgets.highlight import coloured_html, utf16_length


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a transcript: safe HTML, or plain code with separate color marks."""

    key: str
    kind: str  # head, text, code, call, refusal, note, caution or error; a CSS class suffix
    content: str  # HTML; for kind "code", the plain code
    marks: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", repair_surrogates(self.content))
        object.__setattr__(self, "language", repair_surrogates(self.language))

    def to_html(self) -> str:
        """Return the block as static HTML, for the saved notebook."""
        inner = self.content
        if self.kind == "code":
            label = f' data-language="{escape(self.language)}"' if self.language else ""
            inner = f"<pre{label}><code>{coloured_html(self.content, self.marks)}</code></pre>"
        return f'<div class="nbruns-block nbruns-{self.kind}">{inner}</div>'

    def to_wire(self) -> list[str]:
        """Return the block as JSON for the live view."""
        wire = [self.kind, self.content]
        return wire if self.kind != "code" else [*wire, self.marks, self.language]


def repair_surrogates(text: str) -> str:
    """Join surrogate pairs that were split, and replace lone surrogates. JSON permits them, pages reject them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def splice(old: str, new: str) -> list[Any]:
    """Return the edit from `old` to `new`: [start, characters to drop, text to insert], in UTF-16 units."""
    start = _common_prefix(old, new)
    end = _common_suffix(old[start:], new[start:])
    dropped = old[start : len(old) - end]
    return [utf16_length(old[:start]), utf16_length(dropped), new[start : len(new) - end]]


def _common_prefix(a: str, b: str) -> int:
    if b.startswith(a):
        return len(a)
    low, high = 0, min(len(a), len(b))
    while low < high:  # comparing slices is much faster than a loop over characters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _common_suffix(a: str, b: str) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        same = a[len(a) - middle : len(a) - low] == b[len(b) - middle : len(b) - low]
        low, high = (middle, high) if same else (low, middle - 1)
    return low
