"""Convert a function's result to a tool output: texts are unchanged, tables become CSV, anything else JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

#: Maximum number of characters of an output. Longer ones are truncated, with a note. The API allows 512 KB per
#: request.
MAX_OUTPUT = 100_000
#: Packages whose objects are images. Their text would only be a name and a size.
PICTURES = {"PIL", "altair", "bokeh", "matplotlib", "plotly", "seaborn"}
#: Maximum nesting depth of values that are not JSON.
_DEEPEST = 50


class NoText(ValueError):
    """A value can't be converted to text."""


def as_text(value: Any) -> str:
    """Return the result of a function as text of at most MAX_OUTPUT characters, with a note about what was left
    out.

    Raises NoText for images, and for bytes that are not text.
    """
    if _is_table(value):
        text = _table(value)
    else:
        text = _cut(value if isinstance(value, str) else _json(value))
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate can't be sent


def _cut(text: str) -> str:
    left_out = len(text) - MAX_OUTPUT
    if left_out <= 0:
        return text
    return f"{text[:MAX_OUTPUT]}\n… cut: {left_out:,} of {len(text):,} characters left out"


def _is_table(value: Any) -> bool:
    return hasattr(value, "head") and (hasattr(value, "to_csv") or hasattr(value, "write_csv"))


def _table(value: Any) -> str:
    """Return a table as CSV, which needs fewer tokens than JSON. Only rows that can fit are written."""
    rows = value.head(MAX_OUTPUT // 2)
    if hasattr(rows, "write_csv"):  # Polars
        text = str(rows.write_csv())
    else:
        index = rows.index  # pandas: a default index contains only row numbers
        numbered = type(index).__name__ == "RangeIndex" and index.name is None and index.start == 0
        text = str(rows.to_csv(index=not numbered))
    if len(text) <= MAX_OUTPUT and len(rows) == len(value):
        return text
    whole = text.rfind("\n", 0, MAX_OUTPUT) + 1 or MAX_OUTPUT
    return f"{text[:whole]}… cut: the table has {len(value):,} rows, more than {MAX_OUTPUT:,} characters"


def _json(value: Any) -> str:
    from pydantic_core import PydanticSerializationError, to_json

    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(bytes(value))
    try:
        return to_json(value, fallback=_plain, inf_nan_mode="strings").decode()
    except PydanticSerializationError as error:  # convert each item separately
        if "Circular reference" in str(error):
            return repr(value)
        return json.dumps(_pieces(value), ensure_ascii=False, separators=(",", ":"))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise NoText(
            f"it returned {len(value):,} bytes that are not text. Return their content as text, or base64."
        ) from error


def _pieces(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): _pieces(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_pieces(item, depth + 1) for item in value]
    return _piece(value, depth)


def _piece(value: Any, depth: int) -> Any:
    from pydantic_core import PydanticSerializationError, to_json

    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(bytes(value))
    if _is_missing(value):
        return None
    try:
        return json.loads(to_json(value, inf_nan_mode="strings"))
    except PydanticSerializationError:
        plain = _plain(value)
        return plain if isinstance(plain, str) else _pieces(plain, depth + 1)


def _is_missing(value: Any) -> bool:
    """Whether a value is pandas' NA or NaT."""
    return type(value).__name__ in ("NAType", "NaTType")


def _plain(value: Any) -> Any:
    """Return a value as JSON, or as text if it has no JSON. Raises NoText for images."""
    kind = type(value)
    if kind.__module__.split(".")[0] in PICTURES:
        raise NoText(
            f"it returned an image ({kind.__name__}), but the output of a tool is text. "
            "Return the numbers that the image shows."
        )
    if hasattr(value, "to_dict"):  # a table in a list or an object
        return value.to_dict("records") if hasattr(value, "columns") else value.to_dict()
    if isinstance(value, memoryview):
        return bytes(value)
    kind_of_numbers = getattr(getattr(value, "dtype", None), "kind", "")
    if kind_of_numbers in tuple("mM"):  # NumPy's times would become nanoseconds
        return value.astype(str).tolist()
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return value.tolist()
    if isinstance(value, Collection) and not isinstance(value, str):
        return dict(value) if isinstance(value, Mapping) else list(value)
    if _is_missing(value):
        return None
    says_nothing = object.__repr__(value) == str(value)  # such a text only contains a memory address
    return dict(vars(value)) if says_nothing and hasattr(value, "__dict__") else str(value)
