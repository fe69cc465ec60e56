"""Convert objects to DataFrames. Columns and dtypes don't depend on the rows, even if there are none. No I/O.

COLUMNS has a table for each kind of object: column, dtype, and path in the JSON. A DataFrame is built column by
column. Missing and invalid values become typed missing values and raise no exceptions. Nested values are dicts and
lists in object columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice, repeat
from typing import Any

import pandas as pd

from nbruns.errors import LimitError
from nbruns.frames.columns import (
    CATEGORY,
    COUNT,
    DURATION,
    FILLED_BY,
    NESTED,
    NUMBER,
    TEXT,
    TIME,
    Column,
    elapsed,
    json_text,
    typed,
)
from nbruns.objects import ENDS, TERMINAL_STATUSES, APIObject, Message, RunStep, ToolCall, items_of
from nbruns.text import JSON, size_of

#: Source of a column's values: paths in the JSON, of which the first that exists is used; or a function of all
#: payloads.
Source = str | Callable[[list[JSON]], list[Any]]
Columns = dict[str, Column]

#: Number of rows per block: see `columns`.
_BLOCK = 4000
#: Number of rows per block of a list that is being requested. Only the JSON of one block is kept in memory.
_LISTED_BLOCK = 100
#: Approximate size in memory of a row's numbers, times and categories, in bytes.
_ROW_BYTES = 200
#: Maximum size in memory of the rows of a list without `limit`, in bytes.
MAX_LIST_BYTES = 64 * 1024 * 1024
_NOTHING: JSON = {}


def _called(steps: list[JSON]) -> list[list[str]]:
    return [[call.name for call in RunStep(step).tool_calls] for step in steps]


def _tools(assistants: list[JSON]) -> list[list[str]]:
    tools = (items_of(assistant.get("tools")) for assistant in assistants)
    return [[_tool_name(tool) for tool in each if isinstance(tool, Mapping)] for each in tools]


def _tool_counts(runs: list[JSON]) -> list[int]:
    return [len(tools if type(tools) is list else items_of(tools)) for tools in _get("tools", runs)]


def _tool_name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    return str((function.get("name") if isinstance(function, Mapping) else None) or tool.get("type"))


def _texts(messages: list[JSON]) -> list[str]:
    return [Message(message).text for message in messages]


def _all_annotations(messages: list[JSON]) -> list[list[Any]]:
    return list(map(_annotations, messages))


def _annotations(message: JSON) -> list[Any]:
    parts = (part.get("text") for part in items_of(message.get("content")) if isinstance(part, Mapping))
    return [a for text in parts if isinstance(text, Mapping) for a in items_of(text.get("annotations"))]


def _found_texts(results: list[JSON]) -> list[str]:
    parts = (
        [part for part in items_of(each.get("content")) if isinstance(part, Mapping)] for each in results
    )
    return ["\n".join(str(part.get("text") or "") for part in each) for each in parts]


_USAGE: dict[str, tuple[str, Source]] = {
    "prompt_tokens": (COUNT, "usage.prompt_tokens"),
    "completion_tokens": (COUNT, "usage.completion_tokens"),
    "total_tokens": (COUNT, "usage.total_tokens"),
    # OpenAI's server wrote prompt_token_details, its description has prompt_tokens_details.
    "cached_tokens": (
        COUNT,
        "usage.prompt_token_details.cached_tokens usage.prompt_tokens_details.cached_tokens",
    ),
    "reasoning_tokens": (COUNT, "usage.completion_tokens_details.reasoning_tokens"),
}
_ERROR: dict[str, tuple[str, Source]] = {
    "error_code": (CATEGORY, "last_error.code"),
    "error_message": (TEXT, "last_error.message"),
}


def _columns(text: str = "", category: str = "", time: str = "") -> dict[str, tuple[str, Source]]:
    kinds = ((TEXT, text), (CATEGORY, category), (TIME, time))
    return {name: (dtype, name) for dtype, names in kinds for name in names.split()}


#: For each kind of object: column → (dtype, path in the JSON). Durations are computed, see _DURATIONS.
COLUMNS: dict[str, dict[str, tuple[str, Source]]] = {
    "run": {
        **_columns(text="id thread_id", category="assistant_id model status"),
        **_columns(time="created_at started_at completed_at failed_at cancelled_at expires_at"),
        "duration": (DURATION, ""),
        "queued_time": (DURATION, ""),
        "running_time": (DURATION, ""),
        **_USAGE,
        **_ERROR,
        "incomplete_reason": (CATEGORY, "incomplete_details.reason"),
        "n_tools": (COUNT, _tool_counts),
        "required_action": (CATEGORY, "required_action.type"),
        "metadata": (NESTED, "metadata"),
    },
    "step": {
        **_columns(text="id run_id thread_id", category="assistant_id type status"),
        **_columns(time="created_at completed_at failed_at cancelled_at expired_at"),
        "duration": (DURATION, ""),
        "tool_names": (NESTED, _called),
        "message_id": (TEXT, "step_details.message_creation.message_id"),
        **_USAGE,
        **_ERROR,
    },
    "message": {
        **_columns(text="id thread_id run_id", category="assistant_id role status"),
        **_columns(time="created_at completed_at incomplete_at"),
        "text": (TEXT, _texts),
        "attachments": (NESTED, "attachments"),
        "annotations": (NESTED, _all_annotations),
        "incomplete_reason": (CATEGORY, "incomplete_details.reason"),
        "metadata": (NESTED, "metadata"),
    },
    # One row per call, made of a step's payload and one of its calls', see _calls.
    "tool_call": {
        **_columns(text="id run_id thread_id step_id", category="assistant_id type name status"),
        "arguments": (NESTED, "arguments"),
        "arguments_text": (TEXT, "arguments_text"),
        "output": (TEXT, "output"),
        "n_results": (COUNT, "n_results"),
        "files": (NESTED, "files"),
        "top_score": (NUMBER, "top_score"),
        "results": (NESTED, "results"),
        **_columns(time="created_at completed_at"),
        "latency": (DURATION, ""),
    },
    "assistant": {
        **_columns(text="id name", category="model", time="created_at"),
        **_columns(text="description instructions"),
        "tool_names": (NESTED, _tools),
        "metadata": (NESTED, "metadata"),
    },
    "thread": {
        **_columns(text="id", time="created_at"),
        "metadata": (NESTED, "metadata"),
    },
    "file": {
        **_columns(text="id filename", category="purpose status"),
        "bytes": (COUNT, "bytes"),
        **_columns(time="created_at expires_at"),
    },
    "vector_store": {
        **_columns(text="id name", category="status"),
        "n_files": (COUNT, "file_counts.total"),
        "n_completed": (COUNT, "file_counts.completed"),
        "n_failed": (COUNT, "file_counts.failed"),
        "usage_bytes": (COUNT, "usage_bytes"),
        **_columns(time="created_at last_active_at expires_at"),
        "metadata": (NESTED, "metadata"),
    },
    "vector_store_file": {
        **_columns(text="id vector_store_id", category="status"),
        "usage_bytes": (COUNT, "usage_bytes"),
        **_columns(time="created_at"),
        **_ERROR,
        "attributes": (NESTED, "attributes"),
    },
    "search_result": {
        "score": (NUMBER, "score"),
        **_columns(text="filename file_id"),
        "text": (TEXT, _found_texts),
        "attributes": (NESTED, "attributes"),
    },
    # One row per result of a file_search call, see _results.
    "search": {
        **_columns(text="run_id thread_id step_id call_id"),
        "queries": (NESTED, "queries"),
        "rank": (COUNT, "rank"),
        "score": (NUMBER, "score"),
        "filename": (TEXT, "file_name"),
        "file_id": (TEXT, "file_id"),
        "text": (TEXT, _found_texts),
        "attributes": (NESTED, "attributes"),
        **_columns(time="created_at"),
    },
    "model": {
        **_columns(text="id", category="owned_by"),
    },
}

#: For each kind of object: duration → the column of its start, and columns of which the first that is set is its
#: end. The same definition as `Run.duration` and `RunStep.duration`.
_DURATIONS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "run": {
        "duration": ("created_at", ENDS),
        "queued_time": ("created_at", ("started_at",)),
        "running_time": ("started_at", ENDS),
    },
    "step": {"duration": ("created_at", ENDS)},
    "tool_call": {"latency": ("created_at", ("completed_at",))},
}

#: For each kind of object: the value of `object` in its JSON.
OBJECT_NAMES = {
    "run": "thread.run",
    "step": "thread.run.step",
    "message": "thread.message",
    "assistant": "assistant",
    "thread": "thread",
}


def runs_frame(runs: Any, *, metadata: bool = False) -> pd.DataFrame:
    """Return runs as a DataFrame, with one row for each, in order.

    A run given twice counts once, in its latest state.

    `duration` is the time from creation to end, as `Run.duration` defines it. `queued_time` (created → started) and
    `running_time` (started → ended) are its parts. Servers reset `started_at` when a run resumes after tool
    outputs, so they divide such a run at its last start.

    Args:
        runs: Run objects, their JSON, and objects of openai-python and azure-ai-agents; pages, events and recorded
            exchanges that contain some; or the path of a file of JSON lines with any of these.
        metadata: Whether to add a text column `metadata.KEY` for each key.

    Returns:
        A DataFrame with the columns that the reference lists for runs. Times are in UTC, durations are timedeltas,
        and token counts are nullable integers, missing until the run ends.

    Raises:
        TypeError: An element is not a run.
        ValueError: A line is not JSON.
    """
    return _frame("run", runs, metadata)


def steps_frame(steps: Any) -> pd.DataFrame:
    """Return run steps as a DataFrame with one row for each, in order.

    Args:
        steps: Run steps in any form that `runs_frame` accepts for runs.

    Returns:
        A DataFrame with the columns that the reference lists for steps. `duration` is the time from creation to end.

    Raises:
        TypeError: An element is not a step.
        ValueError: A line is not JSON.
    """
    return _frame("step", steps)


def messages_frame(messages: Any, *, metadata: bool = False) -> pd.DataFrame:
    """Return messages as a DataFrame with one row for each, in order.

    Args:
        messages: Messages in any form that `runs_frame` accepts for runs.
        metadata: Whether to add a text column `metadata.KEY` for each key.

    Returns:
        A DataFrame with the columns that the reference lists for messages.

    Raises:
        TypeError: An element is not a message.
        ValueError: A line is not JSON.
    """
    return _frame("message", messages, metadata)


def tool_calls_frame(steps: Any) -> pd.DataFrame:
    """Return tool calls as a DataFrame with one row for each.

    `arguments` is parsed, and missing if the model wrote invalid JSON. The text is in `arguments_text`. `latency` is
    the time from the creation of the step to its end, because the API has no other times. It has whole seconds on
    most servers, includes the time to write the arguments, and for parallel calls lasts until the last output. It is
    missing until then.

    For code_interpreter, `arguments_text` is the code, `output` the text that it printed, and `files` the ids of its
    images. For file_search, `arguments` has the `queries` if the server sends them, `files` the names of the files
    found, best first, and `results` the results as sent. `client.runs.steps.searches` has a row for each result.

    Args:
        steps: The steps that contain the calls, in any form that `steps_frame` accepts.

    Returns:
        A DataFrame with the columns that the reference lists for tool calls.

    Raises:
        TypeError: An element is not a step.
        ValueError: A line is not JSON.
    """
    rows = [call for step in _searched("step", _listed(steps)) for call in _calls(step)]
    return _built("tool_call", _filled("tool_call", rows) or {})


def assistants_frame(assistants: Any, *, metadata: bool = False) -> pd.DataFrame:
    """Return assistants as a DataFrame with one row for each. For its columns, see COLUMNS["assistant"]."""
    return _frame("assistant", assistants, metadata)


def threads_frame(threads: Any, *, metadata: bool = False) -> pd.DataFrame:
    """Return threads as a DataFrame with one row for each. For its columns, see COLUMNS["thread"]."""
    return _frame("thread", threads, metadata)


def nested_to_json(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the DataFrame with its nested columns (`metadata`, `arguments`, …) as JSON text.

    Databases have no type for dicts. Parquet gives every row the keys of all rows, and supports neither empty objects
    nor columns of mixed types. JSON text keeps everything. `nested_from_json` is the inverse.

        nbruns.nested_to_json(runs).to_parquet("runs.parquet")

    Args:
        frame: A DataFrame of runs, steps, messages, tool calls or other objects.

    Returns:
        A copy. Other columns don't change.
    """
    nested = [name for name in _nested_in(frame) if frame[name].dtype == "object"]
    texts = {name: pd.array([json_text(value) for value in frame[name]], dtype="string") for name in nested}
    return frame.assign(**texts)


def nested_from_json(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the DataFrame with its nested columns parsed from JSON text.

    For data written by `nested_to_json` or `client.runs.export`:

        runs = nbruns.nested_from_json(pd.read_parquet("runs.parquet"))

    Args:
        frame: A DataFrame with nested columns as JSON text.

    Returns:
        A copy. Text that is not JSON doesn't change.
    """
    parsed = {name: list(map(_parsed_text, frame[name])) for name in _nested_in(frame)}
    return frame.assign(
        **{name: pd.Series(values, frame.index, dtype="object") for name, values in parsed.items()}
    )


def _nested_in(frame: pd.DataFrame) -> list[str]:
    names = {name for columns in COLUMNS.values() for name, (dtype, _) in columns.items() if dtype == NESTED}
    return [name for name in frame.columns if name in names]


def _parsed_text(value: Any) -> Any:
    if value is pd.NA or (isinstance(value, float) and value != value):
        return None
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _frame(kind: str, objects: Any, metadata: bool = False) -> pd.DataFrame:
    rows = _listed(objects)
    columns = _filled(kind, rows, OBJECT_NAMES[kind])
    if columns is None or not columns["id"].each_once():
        rows = _searched(kind, rows)
        columns = _filled(kind, rows)
        assert columns is not None  # it is only given up on objects that are not named
    frame = _built(kind, columns)
    return frame.join(_metadata(_json(rows))) if metadata else frame


class Budget:
    """Maximum size in memory of the rows of one frame, over all its lists. A `limit` removes it."""

    def __init__(self, limit: int | None = None) -> None:
        self._left = MAX_LIST_BYTES if limit is None else math.inf

    def spend(self, size: int) -> None:
        """Subtract `size` bytes. Raises LimitError if the budget is exceeded; with several threads, slightly late."""
        self._left -= size
        if self._left < 0:
            raise LimitError(
                f"The list takes over {MAX_LIST_BYTES:,} bytes of memory. If that is right, pass limit=… with the "
                "number of objects that you want, or read them one by one with iter()."
            )


def list_columns(kind: str, objects: Iterable[APIObject], budget: Budget) -> Columns:
    """Return the columns of listed objects, each object once. Only the JSON of one block is kept."""
    rows: Iterable[Any] = objects
    if kind in _ROWS:
        rows = (row for step in objects for row in _ROWS[kind](step._payload))
    columns = _filled(kind, rows, size=_LISTED_BLOCK, budget=budget)
    assert columns is not None  # it is only given up on objects that are not named
    return columns


def list_frame(kind: str, lists: Iterable[Columns]) -> pd.DataFrame:
    """Return the rows of several lists, concatenated, as a DataFrame."""
    columns = list_columns(kind, (), Budget())
    for each in lists:
        for name, column in columns.items():
            column.extend(each[name])
    return _built(kind, columns)


def _filled(
    kind: str,
    rows: Iterable[Any],
    named: str | None = None,
    *,
    size: int = _BLOCK,
    budget: Budget | None = None,
) -> Columns | None:
    """Return the columns read from the JSON; None if a row is not an object of that kind."""
    sources = COLUMNS[kind]
    columns: Columns = {name: FILLED_BY[dtype]() for name, (dtype, _) in sources.items() if dtype != DURATION}
    rest = iter(rows)
    while block := _json(list(islice(rest, size))):
        if named and (set(map(type, block)) != {dict} or _get("object", block).count(named) < len(block)):
            return None
        if budget is not None:
            budget.spend(len(block) * _ROW_BYTES)
        read = {"": block}
        for name, column in columns.items():
            values = _values(sources[name][1], read)
            column.add(values)
            if budget is not None and sources[name][0] in (TEXT, NESTED):
                budget.spend(size_of(values))
    return columns


def _built(kind: str, columns: Columns) -> pd.DataFrame:
    arrays = {name: column.array() for name, column in columns.items()}
    arrays |= durations(kind, arrays)
    return pd.DataFrame({name: arrays[name] for name in COLUMNS[kind]}, copy=False)


def durations(kind: str, columns: JSON | pd.DataFrame) -> JSON:
    """Return the columns of durations, computed from the columns of times."""
    times = dict(columns.items())
    if kind == "run":  # runs have no field expired_at: see `Run.ended_at_utc`
        expired = pd.Series(columns["status"]).isin(["expired"])
        times["expired_at"] = pd.Series(columns["expires_at"]).where(expired)
    made = _DURATIONS.get(kind, {}).items()
    return {name: elapsed(times[start], *(times[end] for end in ends)) for name, (start, ends) in made}


def _values(source: Source, read: dict[str, list[JSON]]) -> list[Any]:
    """Return the values of a column, None if missing. `read` keeps objects on longer paths."""
    if callable(source):
        return source(read[""])
    first, *others = (_at(path, read) for path in source.split())
    for other in others:
        if any(other):
            first = [mine if mine is not None else theirs for mine, theirs in zip(first, other, strict=True)]
    return first


def _at(path: str, read: dict[str, list[JSON]]) -> list[Any]:
    above, _, name = path.rpartition(".")
    if above not in read:
        held = _at(above, read)
        read[above] = [each if type(each) is dict else _NOTHING for each in held] if any(held) else []
    return _get(name, read[above]) or [None] * len(read[""])


def _get(name: str, objects: list[JSON]) -> list[Any]:
    return list(map(dict.get, objects, repeat(name)))  # 100,000 values in 5 ms; a comprehension takes 8 ms


def _metadata(rows: list[JSON]) -> pd.DataFrame:
    given = [m if isinstance(m, dict) else {} for m in (row.get("metadata") for row in rows)]
    keys = dict.fromkeys(chain.from_iterable(given))
    return pd.DataFrame(
        {f"metadata.{key}": typed([m.get(key) for m in given], TEXT) for key in keys},
        index=pd.RangeIndex(len(rows)),
    )


def _calls(step: JSON) -> Iterator[JSON]:
    shared = {
        name: step.get(name) for name in ("run_id", "thread_id", "assistant_id", "status", "created_at")
    }
    ended = next((step.get(name) for name in ENDS if step.get(name) is not None), None)
    for call in RunStep(step).tool_calls:
        yield shared | {
            "id": call.to_dict().get("id"),
            "step_id": step.get("id"),
            "type": call.to_dict().get("type"),
            "name": call.name,
            "arguments": _parsed(call.arguments),
            "arguments_text": call.arguments or None,
            "output": call.output,
            **_search(call),
            "completed_at": ended,
        }


def _results(step: JSON) -> Iterator[JSON]:
    shared = {name: step.get(name) for name in ("run_id", "thread_id", "created_at")} | {
        "step_id": step.get("id")
    }
    for call in RunStep(step).tool_calls:
        arguments = _parsed(call.arguments)
        queries = arguments.get("queries") if isinstance(arguments, dict) else None
        for rank, result in enumerate(call.results or (), 1):
            yield result | shared | {"call_id": call.id, "queries": queries, "rank": rank}


#: Kinds of rows of which a step can contain several.
_ROWS: dict[str, Callable[[JSON], Iterator[JSON]]] = {"tool_call": _calls, "search": _results}


def _search(call: ToolCall) -> JSON:
    """Return the columns of a file_search call; an empty dict for other calls."""
    if call.images:
        return {"files": call.images}
    if (results := call.results) is None:
        return {}
    names = dict.fromkeys(str(result.get("file_name") or result.get("file_id") or "") for result in results)
    scores = typed([result.get("score") for result in results], NUMBER)
    return {
        "n_results": len(results),
        "files": list(names),
        "top_score": None if scores.isna().all() else scores.max(),
        "results": results,
    }


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments, strict=False)  # some servers send raw newlines in strings
    except (ValueError, RecursionError):
        return None


def _listed(objects: Any) -> list[Any]:
    if isinstance(objects, pd.DataFrame):
        raise TypeError(
            "This is already a DataFrame. Pass API objects or their JSON. For the steps and tool calls "
            "of a frame of runs, use client.runs.steps.list(frame) and client.runs.steps.tool_calls(frame)."
        )
    one = (
        isinstance(objects, (str, Mapping))
        or not isinstance(objects, Iterable)
        or hasattr(objects, "__aiter__")
    )
    return [objects] if one else list(objects)


def _json(rows: list[Any]) -> list[Any]:
    return [row._payload if isinstance(row, APIObject) else row for row in rows]


def _searched(kind: str, rows: list[Any]) -> list[JSON]:
    """Return the JSON of each object of the kind, at its first position and in its latest state.

    Once an object has ended, an active state of it is ignored: pages read concurrently can be out of order.
    """
    from nbruns.frames.sources import found_in  # imported late because most frames don't need it

    kept: dict[str | int, JSON] = {}
    for row in found_in(rows, OBJECT_NAMES[kind]):
        given = row.get("id")
        key = given if isinstance(given, str) else id(row)
        if not (key in kept and _has_ended(kept[key]) and not _has_ended(row)):
            kept[key] = row
    return list(kept.values())


def _has_ended(row: JSON) -> bool:
    status = row.get("status")
    return isinstance(status, str) and status in TERMINAL_STATUSES
