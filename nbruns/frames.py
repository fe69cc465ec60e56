"""Objects as DataFrames, with the same columns and dtypes for no rows, one row and many. Pure.

COLUMNS is the place to look: per kind of object a table from column to its dtype and the function that reads
it from the JSON. A frame is built column by column; what is missing or odd becomes a typed missing value,
never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from nbruns.objects import JSON, MILLISECONDS_FROM, APIObject, Message, RunStep, items_of

Read = Callable[[JSON], Any]

_TEXT, _CATEGORY, _COUNT, _OBJECT = "string", "category", "Int64", "object"
_TIME: Any = "datetime64[ms, UTC]"  # Any: the stubs know dtypes only as literals
_DURATION: Any = "timedelta64[ms]"


def _get(*path: str) -> Read:
    """Reads a nested field; None where any part of the path is missing."""

    def read(payload: JSON) -> Any:
        value: Any = payload
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    return read


def _either(*reads: Read) -> Read:
    return lambda payload: next((value for read in reads if (value := read(payload)) is not None), None)


def _names(payload: JSON) -> list[str]:
    return [call.name for call in RunStep(payload).tool_calls]


def _annotations(payload: JSON) -> list[Any]:
    texts = map(_get("text"), items_of(payload.get("content")))
    return [a for text in texts if isinstance(text, Mapping) for a in items_of(text.get("annotations"))]


# OpenAI's server wrote prompt_token_details, its description has prompt_tokens_details.
_CACHED = (_get("usage", name, "cached_tokens") for name in ("prompt_token_details", "prompt_tokens_details"))
_USAGE: dict[str, tuple[str, Read]] = {
    "prompt_tokens": (_COUNT, _get("usage", "prompt_tokens")),
    "completion_tokens": (_COUNT, _get("usage", "completion_tokens")),
    "total_tokens": (_COUNT, _get("usage", "total_tokens")),
    "cached_tokens": (_COUNT, _either(*_CACHED)),
    "reasoning_tokens": (_COUNT, _get("usage", "completion_tokens_details", "reasoning_tokens")),
}


def _columns(text: str = "", category: str = "", time: str = "") -> dict[str, tuple[str, Read]]:
    kinds = ((_TEXT, text), (_CATEGORY, category), (_TIME, time))
    return {name: (dtype, _get(name)) for dtype, names in kinds for name in names.split()}


#: Per kind of object: column → (dtype, how it is read from the JSON).
COLUMNS: dict[str, dict[str, tuple[str, Read]]] = {
    "run": {
        **_columns(text="id thread_id", category="assistant_id model status"),
        **_columns(time="created_at started_at completed_at failed_at cancelled_at expires_at"),
        # The durations are filled in from the times, by runs_frame and steps_frame.
        "queued_time": (_DURATION, lambda _: None),
        "running_time": (_DURATION, lambda _: None),
        **_USAGE,
        "error_code": (_CATEGORY, _get("last_error", "code")),
        "error_message": (_TEXT, _get("last_error", "message")),
        "incomplete_reason": (_CATEGORY, _get("incomplete_details", "reason")),
        "n_tools": (_COUNT, lambda payload: len(items_of(payload.get("tools")))),
        "required_action": (_CATEGORY, _get("required_action", "type")),
        "metadata": (_OBJECT, _get("metadata")),
    },
    "step": {
        **_columns(text="id run_id thread_id", category="assistant_id type status"),
        **_columns(time="created_at completed_at failed_at cancelled_at expired_at"),
        "duration": (_DURATION, lambda _: None),
        "tool_names": (_OBJECT, _names),
        "message_id": (_TEXT, _get("step_details", "message_creation", "message_id")),
        **_USAGE,
        "error_code": (_CATEGORY, _get("last_error", "code")),
        "error_message": (_TEXT, _get("last_error", "message")),
    },
    "message": {
        **_columns(text="id thread_id run_id", category="assistant_id role status"),
        **_columns(time="created_at completed_at incomplete_at"),
        "text": (_TEXT, lambda payload: Message(payload).text),
        "attachments": (_OBJECT, _get("attachments")),
        "annotations": (_OBJECT, _annotations),
        "incomplete_reason": (_CATEGORY, _get("incomplete_details", "reason")),
        "metadata": (_OBJECT, _get("metadata")),
    },
    "assistant": {
        **_columns(text="id name", category="model", time="created_at"),
        **_columns(text="description instructions"),
        "tool_names": (_OBJECT, lambda payload: list(map(_tool_name, items_of(payload.get("tools"))))),
        "metadata": (_OBJECT, _get("metadata")),
    },
    "thread": {
        **_columns(text="id", time="created_at"),
        "metadata": (_OBJECT, _get("metadata")),
    },
}


def _tool_name(tool: Any) -> str:
    return str(_get("function", "name")(tool) or _get("type")(tool))


def runs_frame(runs: Iterable[Any]) -> pd.DataFrame:
    """Runs as a DataFrame, one row each, in their order; a run given twice counts once, as it was last.

    `runs`: Run objects or their JSON. Columns: see COLUMNS["run"]; times are UTC, `queued_time` (created →
    started) and `running_time` (started → ended) are timedeltas, token counts nullable integers, missing
    until a run ends.
    """
    frame = _frame("run", runs)
    ended = frame["completed_at"].fillna(frame["failed_at"]).fillna(frame["cancelled_at"])
    return frame.assign(
        queued_time=_elapsed(frame["created_at"], frame["started_at"]),
        running_time=_elapsed(frame["started_at"], ended),
    )


def steps_frame(steps: Iterable[Any]) -> pd.DataFrame:
    """Run steps as a DataFrame, one row each. Columns: see COLUMNS["step"]; `duration` is a timedelta."""
    frame = _frame("step", steps)
    ended = frame["completed_at"].fillna(frame["failed_at"]).fillna(frame["cancelled_at"])
    ended = ended.fillna(frame["expired_at"])
    return frame.assign(duration=_elapsed(frame["created_at"], ended))


def messages_frame(messages: Iterable[Any]) -> pd.DataFrame:
    """Messages as a DataFrame, one row each. Columns: see COLUMNS["message"]."""
    return _frame("message", messages)


def assistants_frame(assistants: Iterable[Any]) -> pd.DataFrame:
    """Assistants as a DataFrame, one row each. Columns: see COLUMNS["assistant"]."""
    return _frame("assistant", assistants)


def threads_frame(threads: Iterable[Any]) -> pd.DataFrame:
    """Threads as a DataFrame, one row each. Columns: see COLUMNS["thread"]."""
    return _frame("thread", threads)


def _frame(kind: str, objects: Iterable[Any]) -> pd.DataFrame:
    payloads = list({_key(payload): payload for payload in map(_payload, objects)}.values())
    return pd.DataFrame(
        {
            name: _typed([read(payload) for payload in payloads], dtype)
            for name, (dtype, read) in COLUMNS[kind].items()
        }
    )


def _key(payload: JSON) -> str | int:
    given = payload.get("id")
    return given if isinstance(given, str) else id(payload)


def _payload(obj: Any) -> JSON:
    if isinstance(obj, APIObject):
        return obj._payload
    if isinstance(obj, dict):
        return obj
    raise TypeError(f"A row is made from an object of the API or its JSON, not from {type(obj).__name__}.")


def _typed(values: list[Any], dtype: str) -> pd.Series[Any]:
    return _TYPED[dtype](values)


def _text(values: list[Any]) -> pd.Series[Any]:
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, default=str) for v in values]
    return pd.Series(texts, dtype="string")


def _category(values: list[Any]) -> pd.Series[Any]:
    return _text(values).astype("category")


def _numbers(values: list[Any]) -> pd.Series[Any]:
    return pd.Series(list(map(_number, values)), dtype="Float64")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 2**63 else None  # false for what is not a number, too


def _count(values: list[Any]) -> pd.Series[Any]:
    return _numbers(values).round().astype("Int64")


def _time(values: list[Any]) -> pd.Series[Any]:
    seconds = _numbers(values)
    seconds = seconds.mask(seconds >= MILLISECONDS_FROM, seconds / 1000)
    milliseconds = (seconds * 1000).round().astype("Int64")
    times = pd.to_datetime(milliseconds, unit="ms", utc=True, errors="coerce")
    typed: pd.Series[Any] = times.astype(_TIME)
    return typed


def _duration(values: list[Any]) -> pd.Series[Any]:
    missing: pd.Series[Any] = pd.Series(pd.NaT, index=range(len(values)), dtype=_DURATION)
    return missing


def _elapsed(start: pd.Series[Any], end: pd.Series[Any]) -> pd.Series[Any]:
    elapsed: pd.Series[Any] = (end - start).astype(_DURATION)
    return elapsed


_TYPED: dict[str, Callable[[list[Any]], pd.Series[Any]]] = {
    _TEXT: _text,
    _CATEGORY: _category,
    _COUNT: _count,
    _TIME: _time,
    _DURATION: _duration,
    _OBJECT: lambda values: pd.Series(values, dtype="object"),
}
