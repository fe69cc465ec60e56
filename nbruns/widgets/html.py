"""Escape and format external text for pages."""

from __future__ import annotations

import math
from html import escape


def sendable(text: str) -> str:
    """Escape lone surrogates, which can't be sent to a page."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain_html(text: str) -> str:
    """Return the text as escaped HTML that MathJax ignores."""
    return f'<span class="mathjax_ignore tex2jax_ignore">{escape(sendable(text))}</span>'


def plain_label(text: str) -> str:
    """Return the text for an ipywidgets label. TeX delimiters become full-width look-alikes, so that pages don't
    render them as formulas."""
    plain = sendable(text)
    if plain.count("$") > 1:
        plain = plain.replace("$", "＄")
    for sign in ("(", "[", "begin"):
        plain = plain.replace(f"\\{sign}", f"＼{sign}")
    return plain


def money(dollars: float) -> str:
    """Format an amount in US dollars, with two significant digits below a cent."""
    return (
        f"${dollars:,.2f}"
        if dollars >= 0.1 or not dollars
        else f"${dollars:.2g}"
        if dollars >= 0.0001
        else "<$0.0001"
    )


def duration(seconds: float) -> str:
    """Format seconds for display. Truncated, not rounded, so that a running counter never exceeds the final value.

    `duration` in transcript.js does the same; tests/widgets/durations.json has test cases for both.
    """
    whole = math.floor(max(seconds, 0))
    if whole < 60:
        return f"{whole} s" if whole else "<1 s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
