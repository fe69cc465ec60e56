"""Text and JSON from outside: excerpts for messages, and JSON that is bounded in depth and size.

A JSON value of three bytes, `{},`, takes about 70 bytes in memory, so a limit on bytes alone bounds nothing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

#: A JSON object, where it enters and leaves.
JSON = dict[str, Any]
#: No server's text takes more than this many characters of a message.
EXCERPT = 200
#: JSON nested deeper than this is none of the API's.
MAX_DEPTH = 200
#: The objects, arrays and commas of a JSON text, at most: counted before it is parsed.
MAX_VALUES = 500_000

# A string, or in group 1 what begins a value. Possessive, and the closing quote optional: no text makes it look at a
# character twice.
_TOKEN = r'"(?:[^"\\]++|\\.)*+"?|([\[{,])'
_TOKENS, _BYTE_TOKENS = re.compile(_TOKEN, re.DOTALL), re.compile(_TOKEN.encode(), re.DOTALL)


class TooManyValues(ValueError):
    """A JSON text with more values than it may have."""


def parse_json(text: str | bytes, max_values: int = MAX_VALUES) -> Any:
    """Parse a JSON text.

    Raises ValueError if it is invalid or nested deeper than MAX_DEPTH, TooManyValues if it has over `max_values`
    values.
    """
    if len(text) <= MAX_DEPTH:  # most events of a stream: too short to be deep, or to have many values
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
    """Whether a JSON text has more values. Most have not, even with the commas and brackets in their strings."""
    commas = text.count(b",") if isinstance(text, bytes) else text.count(",")
    if commas + _brackets(text) <= values:
        return False
    tokens = _BYTE_TOKENS.finditer(text) if isinstance(text, bytes) else _TOKENS.finditer(text)
    return next(islice((token for token in tokens if token.lastindex), values, None), None) is not None


def _brackets(text: str | bytes) -> int:
    """As many as open, those in strings too: quickly counted, and most often too few to look further."""
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
    """Return the first `limit` characters of outside text, on one line and with control characters escaped."""
    shown = str(text)[: limit + 1]
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(shown.split()))
    return line if max(len(shown), len(line)) <= limit else line[: limit - 1] + "…"
