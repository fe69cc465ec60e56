"""Untrusted text and JSON: excerpts for messages, and JSON parsing with limits on depth and number of values.

A limit on the bytes of a JSON text is not enough: three bytes such as `{},` take about 70 bytes in memory.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

#: A JSON object, as it is received or sent.
JSON = dict[str, Any]
#: Maximum number of characters of a server's text in a message.
EXCERPT = 200
#: Maximum nesting depth of JSON, more than the API uses.
MAX_DEPTH = 200
#: Maximum number of objects, arrays and commas in a JSON text, counted before it is parsed.
MAX_VALUES = 500_000

# A string, or in group 1 a character that begins a value. Possessive quantifiers and the optional closing quote prevent
# backtracking, so that matching takes linear time.
_TOKEN = r'"(?:[^"\\]++|\\.)*+"?|([\[{,])'
_TOKENS, _BYTE_TOKENS = re.compile(_TOKEN, re.DOTALL), re.compile(_TOKEN.encode(), re.DOTALL)


class TooManyValues(ValueError):
    """A JSON text has more values than allowed."""


def parse_json(text: str | bytes, max_values: int = MAX_VALUES) -> Any:
    """Parse a JSON text.

    Raises ValueError if it is invalid or nested deeper than MAX_DEPTH, TooManyValues if it has over `max_values`
    values.
    """
    if len(text) <= MAX_DEPTH:  # too short for deep nesting or many values, as most events are
        return json.loads(text)
    if _has_over(text, max_values):
        raise TooManyValues(f"JSON with over {max_values:,} values")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("JSON without end") from None
    if _brackets(text) > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels")
    return value


def size_of(value: Any) -> int:
    """Return the size of a JSON value in memory, in bytes."""
    size, level = 0, [value]
    while level:
        size += sum(map(sys.getsizeof, level))
        size += sum(sum(map(sys.getsizeof, outer)) for outer in level if isinstance(outer, dict))
        level = [inner for outer in level for inner in _inside(outer)]
    return size


def _has_over(text: str | bytes, values: int) -> bool:
    """Whether a JSON text has more than this number of values.

    First counts all commas and brackets, including those in strings, which is fast and usually sufficient.
    """
    commas = text.count(b",") if isinstance(text, bytes) else text.count(",")
    if commas + _brackets(text) <= values:
        return False
    tokens = _BYTE_TOKENS.finditer(text) if isinstance(text, bytes) else _TOKENS.finditer(text)
    return next(islice((token for token in tokens if token.lastindex), values, None), None) is not None


def _brackets(text: str | bytes) -> int:
    """Return the number of opening brackets, including those in strings, which is an upper bound of the depth."""
    if isinstance(text, bytes):
        return text.count(b"[") + text.count(b"{")
    return text.count("[") + text.count("{")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
    return any(isinstance(each, (dict, list)) for each in level)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def excerpt(text: object, limit: int = EXCERPT) -> str:
    """Return the first `limit` characters of a text, on one line and with control characters escaped."""
    shown = str(text)[: limit + 1]
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(shown.split()))
    return line if max(len(shown), len(line)) <= limit else line[: limit - 1] + "…"
