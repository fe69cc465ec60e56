"""What a transcript is made of: keyed blocks, and the difference between two states of one text."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from nbruns.widgets.highlight import coloured_html, utf16_length


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of a transcript: safe HTML, or code as plain text with its colours apart."""

    key: str
    kind: str  # head, text, code, call, note or error: what the style sheet knows
    content: str  # HTML; for kind "code" the code itself
    marks: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", mended(self.content))
        object.__setattr__(self, "language", mended(self.language))

    def to_html(self) -> str:
        """The block on its own, as the saved notebook has it."""
        inner = self.content
        if self.kind == "code":
            label = f' data-language="{escape(self.language)}"' if self.language else ""
            inner = f"<pre{label}><code>{coloured_html(self.content, self.marks)}</code></pre>"
        return f'<div class="nbruns-block nbruns-{self.kind}">{inner}</div>'

    def to_wire(self) -> list[str]:
        """The block as JSON for the live view."""
        wire = [self.kind, self.content]
        return wire if self.kind != "code" else [*wire, self.marks, self.language]


def mended(text: str) -> str:
    """The text with the halves of characters put together that came apart on the way, and odd halves replaced:
    JSON lets them through, no page takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def splice(old: str, new: str) -> list[Any]:
    """How to make `new` of `old`: [start, characters to drop, text to put there], counted in UTF-16."""
    start = _common_prefix(old, new)
    end = _common_suffix(old[start:], new[start:])
    dropped = old[start : len(old) - end]
    return [utf16_length(old[:start]), utf16_length(dropped), new[start : len(new) - end]]


def _common_prefix(a: str, b: str) -> int:
    if b.startswith(a):
        return len(a)
    low, high = 0, min(len(a), len(b))
    while low < high:  # slices compare at the speed of C, a loop over characters does not
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
