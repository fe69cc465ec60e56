"""JSON from outside, as deep as it may be: what reads it further on does so by recursion."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

#: JSON nested deeper than this is none of the API's.
MAX_DEPTH = 200


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError where it is none, or nested deeper than MAX_DEPTH."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("JSON without end") from None
    if _brackets(text) > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels")
    return value


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
