"""Pretty-print JSON as HTML, including incomplete JSON; other text is unchanged.

Works in one pass, so that streaming arguments can be rendered at every update.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape

from nbruns.text import excerpt
from nbruns.widgets.html import sendable

_PART = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*(?:"|\\?\Z))|(?P<sign>[{}\[\],:])|(?P<word>[^\s{}\[\],:"]+)|(?P<space>\s+)""",
    re.DOTALL,
)
_CLASSES = {"string": "s", "word": "m", "key": "d"}
INDENT = "  "
_BIDI_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
#: Maximum length of JSON that stays on one line.
MAX_LINE_LENGTH = 72

#: Maximum number of characters of one argument, and of all arguments, on one line.
MAX_VALUE, MAX_ARGUMENTS = 80, 300


def arguments_line(arguments: str) -> str:
    """Return the arguments of a call on one line, as Python writes them: `city="Oslo", days=3`.

    Long arguments are truncated. Arguments that are not a JSON object are returned unchanged.
    """
    try:
        given = json.loads(arguments or "{}", strict=False)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return excerpt(sendable(arguments), MAX_ARGUMENTS)
    shown = (
        f"{name}={excerpt(json.dumps(value, ensure_ascii=False), MAX_VALUE)}" for name, value in given.items()
    )
    return excerpt(sendable(", ".join(shown)), MAX_ARGUMENTS)


def show_controls(text: str) -> str:
    """Escape bidirectional control characters, which could disguise the text."""
    return text.translate(_BIDI_CONTROLS)


def pretty_json_html(text: str) -> str:
    """Return the text as escaped HTML; JSON, or text that starts like it, is indented and colored."""
    text = show_controls(text)
    if not text.lstrip().startswith(("{", "[")):
        return escape(text, quote=False)
    return "".join(_pieces(text, _spaces if len(text) <= MAX_LINE_LENGTH else _lines))


def _pieces(text: str, gap: Callable[[int, str], str]) -> list[str]:
    pieces: list[str] = []
    depth, parts = 0, [part for part in _PART.finditer(text) if part.lastgroup != "space"]
    following = [part[0] for part in parts[1:]] + [""]
    for part, after in zip(parts, following, strict=True):
        sign = part[0]
        if part.lastgroup != "sign":
            pieces.append(_coloured(part, is_key=after == ":"))
        elif sign in "{[":
            depth += 1
            pieces.append(sign + ("" if after in ("}", "]", "") else gap(depth, "")))
        elif sign in "}]":
            depth = max(depth - 1, 0)
            pieces.append(sign if pieces[-1:] in (["{"], ["["]) else gap(depth, "") + sign)
        else:
            pieces.append("," + gap(depth, " ") if sign == "," else ": ")
    return pieces


def _lines(depth: int, _after_comma: str) -> str:
    return "\n" + INDENT * depth


def _spaces(_depth: int, after_comma: str) -> str:
    return after_comma


def _coloured(part: re.Match[str], is_key: bool) -> str:
    name = _CLASSES["key" if is_key else str(part.lastgroup)]
    return f'<span class="nbruns-{name}">{escape(part[0], quote=False)}</span>'
