"""Read exported objects from files: JSON and JSON lines of any program, and the Parquet files of `client.runs.export`.

Objects can be in lists, pages, events and recorded exchanges, which are searched. Only one value of a file is in memory
at a time, and its size is limited.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from nbruns.errors import SetupError, install_command
from nbruns.server.schemas.assistants import AssistantObject
from nbruns.server.schemas.base import Object
from nbruns.server.schemas.runs import RunObject, RunStepObject
from nbruns.server.schemas.threads import MessageObject, ThreadObject
from nbruns.text import JSON, excerpt

#: Schemas of the objects to read, by the `object` of their JSON.
SCHEMAS: dict[str, type[Object]] = {
    "assistant": AssistantObject,
    "thread": ThreadObject,
    "thread.run": RunObject,
    "thread.message": MessageObject,
    "thread.run.step": RunStepObject,
}
#: Maximum number of characters of a value: a line, an element of a list, or a page.
MAX_VALUE_CHARS = 32 * 1024**2
_PIECE_CHARS = 256 * 1024
_ROWS = 1000
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")

#: Separators of values. The elements of top-level lists are read one by one.
_BETWEEN = re.compile(r"[\s,\[\]\ufeff]*")


class Found(NamedTuple):
    """An object, and the line or row of its file at which it begins."""

    line: int
    object: JSON


class Unreadable(NamedTuple):
    """A part of a file that can't be read, and the reason."""

    line: int
    why: str


def files_of(path: Path) -> list[Path]:
    """Return the file, or the supported files in a folder. Names that begin with _ or . are skipped."""
    if not path.is_dir():
        return [path]
    found = (each for each in path.rglob("*") if each.suffix in _SUFFIXES and each.is_file())
    return sorted(each for each in found if not each.name.startswith(("_", ".")))


def read(file: Path) -> Iterator[Found | Unreadable]:
    """Yield the objects of a file in order, and an Unreadable for each part that can't be read.

    Raises SetupError for a Parquet file if pyarrow is missing.
    """
    try:
        if file.suffix == ".parquet":
            yield from _read_parquet(file)
            return
        with file.open("rb") as opened:
            begin = opened.read(2)
        is_utf16 = begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with file.open(encoding="utf-16" if is_utf16 else "utf-8") as text:
            for line, value in _values(text):
                yield from [value] if isinstance(value, Unreadable) else _found(line, value)
    except UnicodeError:
        yield Unreadable(0, "It is no UTF-8 text; what comes before is imported.")
    except OSError as error:
        yield Unreadable(0, f"It can't be read: {error.strerror or error}.")


def _values(file: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield each JSON value of a text with the line at which it begins; an Unreadable for invalid JSON."""
    text, at, line, is_over = "", 0, 1, False
    while True:
        begin = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # the pattern always matches
        line += text.count("\n", at, begin)
        at = begin
        if at == len(text):
            if not (text := file.read(_PIECE_CHARS)):
                return
            at = 0
            continue
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if not is_over and _is_cut(error, text) and len(text) - at <= MAX_VALUE_CHARS:
                more = file.read(max(_PIECE_CHARS, len(text) - at))
                text, at, is_over = text[at:] + more, 0, not more
                continue
            value = Unreadable(line, _why(error, text, at))
            while (end := text.find("\n", at)) < 0 and (more := file.read(_PIECE_CHARS)):
                text, at = more, 0
            end = len(text) if end < 0 else end
        yield line, value
        line += text.count("\n", at, end)
        at, is_over = end, False


def _is_cut(error: Exception, text: str) -> bool:
    """Whether a value is only invalid because the rest of it has not been read yet."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - 16


def _why(error: Exception, text: str, at: int) -> str:
    if isinstance(error, RecursionError):
        return "This is nested too deeply."
    if len(text) - at > MAX_VALUE_CHARS:
        return f"This is one JSON value of over {MAX_VALUE_CHARS:,} characters. Write each object on a line of its own."
    if _is_cut(error, text):
        return "The file ends in the middle of this value."
    said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return f"This is not JSON ({said}): {excerpt(text[at : at + 200], 60)}"


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"JSON has no {constant}")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError("a number is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _found(line: int, value: Any) -> Iterator[Found | Unreadable]:
    others: list[str] = []
    is_empty = True
    inside = [value]
    while inside:
        each = inside.pop()
        if isinstance(each, list):
            inside += reversed(each)
        elif isinstance(each, dict):
            kind = each.get("object")
            if isinstance(kind, str) and kind in SCHEMAS:
                yield Found(line, each)
                is_empty = False
                # Some exports contain a thread's messages inside the thread.
                inside += [
                    more for name, more in reversed(each.items()) if name not in SCHEMAS[kind].model_fields
                ]
                continue
            if isinstance(kind, str):
                others.append(kind)
            inside += reversed(each.values())
    # Ignore deltas and similar events of a stream. Its other events contain the complete objects.
    if is_empty and not all(kind.endswith((".delta", ".deleted", "list")) for kind in others or [""]):
        kinds = ", ".join(sorted({excerpt(repr(kind), 40) for kind in others}))
        yield Unreadable(
            line,
            f"{kinds} is not imported."
            if others
            else "No assistant, thread, message, run or step is in this.",
        )


def _read_parquet(file: Path) -> Iterator[Found | Unreadable]:
    try:
        from pyarrow import ArrowException  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ImportError as error:
        raise SetupError(f"Parquet files need the package pyarrow: {install_command('parquet')}") from error
    try:
        with ParquetFile(file) as opened:
            if not {"id", "thread_id", "status"} <= {*opened.schema_arrow.names}:
                yield Unreadable(0, "This is no export of runs: there is no column id, thread_id or status.")
                return
            number = 0
            for batch in opened.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield Found(number, _run_of(row))
    except ArrowException as error:
        yield Unreadable(0, f"It is no Parquet file: {excerpt(error)}")


def _run_of(row: JSON) -> JSON:
    """Return the run of a row as JSON. Its instructions and tools are not in the export."""
    run = {
        name: row.get(name) for name in RunObject.model_fields if name in row and name != "required_action"
    }
    run = {
        name: value.timestamp() if name.endswith("_at") and value else value for name, value in run.items()
    }
    tokens = {name: row.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    if None not in tokens.values():
        cached, reasoning = row.get("cached_tokens") or 0, row.get("reasoning_tokens") or 0
        run["usage"] = {
            **tokens,
            "prompt_token_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    if row.get("error_code"):
        run["last_error"] = {"code": row["error_code"], "message": row.get("error_message") or ""}
    if row.get("incomplete_reason"):
        run["incomplete_details"] = {"reason": row["incomplete_reason"]}
    if isinstance(metadata := row.get("metadata"), str):
        run["metadata"] = json.loads(metadata)
    return {"object": "thread.run", **run}
