"""Outside text that stays text on its way to a page and in it."""

from __future__ import annotations

import math
from html import escape


def sendable(text: str) -> str:
    """The text without halves of surrogate pairs, which could not be sent to a page."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain_html(text: str) -> str:
    """The text as HTML that is nothing but text: a page that knows TeX would set it between dollar signs."""
    return f'<span class="mathjax_ignore tex2jax_ignore">{escape(sendable(text))}</span>'


def plain_label(text: str) -> str:
    """The text for a label of ipywidgets, which pages set as TeX where they find any: with wide look-alikes of the
    signs that would begin it."""
    plain = sendable(text)
    if plain.count("$") > 1:
        plain = plain.replace("$", "＄")
    for sign in ("(", "[", "begin"):
        plain = plain.replace(f"\\{sign}", f"＼{sign}")
    return plain


def duration(seconds: float) -> str:
    """Seconds as people say them, cut off rather than rounded: a counter then never shows more than the end does.

    The page's `duration` in transcript.js does the same; tests/widgets/durations.json has the cases of both.
    """
    whole = math.floor(max(seconds, 0))
    if whole < 60:
        return f"{whole} s" if whole else "<1 s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
