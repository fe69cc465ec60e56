"""Frames: the same columns and dtypes whatever the rows hold, and no exception for odd JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nbruns.frames import (
    _BLOCK,
    COLUMNS,
    assistants_frame,
    messages_frame,
    nested_from_json,
    nested_to_json,
    runs_frame,
    steps_frame,
    threads_frame,
    tool_calls_frame,
)
from nbruns.objects import Message, Run, RunStep, parse_object

FRAMES: dict[str, Callable[..., pd.DataFrame]] = {
    "run": runs_frame,
    "step": steps_frame,
    "message": messages_frame,
    "assistant": assistants_frame,
    "thread": threads_frame,
}
OBJECTS = {"run": "thread.run", "step": "thread.run.step", "message": "thread.message"}

RUN = {
    "id": "run_1",
    "object": "thread.run",
    "thread_id": "thread_1",
    "assistant_id": "asst_1",
    "model": "demo",
    "status": "completed",
    "created_at": 1_700_000_000,
    "started_at": 1_700_000_002,
    "completed_at": 1_700_000_012,
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "metadata": {"team": "weather"},
}
STEP = {
    "id": "step_1",
    "run_id": "run_1",
    "type": "tool_calls",
    "status": "completed",
    "created_at": 1_700_000_002,
    "completed_at": 1_700_000_005,
    "step_details": {
        "type": "tool_calls",
        "tool_calls": [{"type": "function", "function": {"name": "f"}}, {"type": "code_interpreter"}],
    },
}
MESSAGE = {
    "id": "msg_1",
    "role": "assistant",
    "content": [{"type": "text", "text": {"value": "Hi", "annotations": [{"type": "file_citation"}]}}],
    "attachments": [{"file_id": "file_1"}],
}
ASSISTANT = {"id": "asst_1", "model": "demo", "tools": [{"type": "file_search"}, *RUN["tools"]]}
WHOLE = {"run": RUN, "step": STEP, "message": MESSAGE, "assistant": ASSISTANT, "thread": {"id": "thread_1"}}

ENDLESS: dict[str, Any] = {}
ENDLESS["type"] = ENDLESS

ODD: list[Any] = [
    *(
        None,
        [],
        {},
        "",
        "x",
        "5",
        5,
        -5,
        1.5,
        True,
        float("nan"),
        float("inf"),
        10**19,
        10**400,
        1e300,
        9.3e18,
    ),
    *([1], [None], [[1]], {"a": 1}, [{"type": 3}], [{"text": 5}], [{"text": {"annotations": 5}}], "\ud800"),
    *(ENDLESS, [ENDLESS], {5: 1}, {(1, 2): 3}),
    *({"type": []}, {"tool_calls": 5}, {"tool_calls": [5]}, {"message_creation": 5}, {"code": [1]}),
    *({"prompt_tokens": odd} for odd in ([], {}, "7", 10**30, True, -1, float("nan"))),
]


def shape(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return [(name, "category" if dtype == "category" else str(dtype)) for name, dtype in frame.dtypes.items()]


def recorded_objects(value: Any, kind: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        lines = (line.removeprefix("data: ") for line in value.splitlines() if line.startswith("data: {"))
        value = list(map(json.loads, lines))
    if isinstance(value, dict) and value.get("object") == "list":
        value = value["data"]
    items = value if isinstance(value, list) else [value]
    return [item for item in items if item.get("object") == OBJECTS.get(kind, kind)]


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_and_dtypes_are_the_same_for_no_rows_one_and_many(kind: str) -> None:
    none, one = FRAMES[kind]([]), FRAMES[kind]([WHOLE[kind]])
    many = FRAMES[kind]([{"id": f"id_{i}"} for i in range(50)] + [WHOLE[kind]])
    assert [name for name, _ in shape(none)] == [*COLUMNS[kind]]
    assert shape(none) == shape(one) == shape(many)
    assert (len(none), len(one), len(many)) == (0, 1, 51)


@pytest.mark.parametrize("kind", FRAMES)
def test_every_recorded_object_fits(kind: str, recorded: dict[str, list[dict[str, Any]]]) -> None:
    bodies = [exchange["body"] for exchanges in recorded.values() for exchange in exchanges]
    objects = [item for body in bodies for item in recorded_objects(body, kind)]
    frame = FRAMES[kind](objects)
    assert shape(frame) == shape(FRAMES[kind]([]))
    assert list(frame["id"]) == list(dict.fromkeys(item["id"] for item in objects)) != []
    assert frame["created_at"].notna().all()


@pytest.mark.parametrize("kind", FRAMES)
def test_no_field_of_any_type_is_an_exception(kind: str) -> None:
    expected = shape(FRAMES[kind]([]))
    for field in {*WHOLE[kind], *COLUMNS[kind], "usage", "tools", "content", "step_details", "last_error"}:
        rows = [{**WHOLE[kind], "id": f"id_{i}", field: odd} for i, odd in enumerate(ODD)]
        frame = FRAMES[kind](rows)
        assert shape(frame) == expected, field
        assert len(frame) == len(ODD) if field != "id" else len(frame) > 20


def test_a_run_becomes_a_typed_row() -> None:
    row = runs_frame([RUN]).iloc[0]
    assert (row["id"], row["model"], row["status"], row["n_tools"]) == ("run_1", "demo", "completed", 1)
    assert row["created_at"] == pd.Timestamp("2023-11-14 22:13:20", tz="UTC")
    assert row["queued_time"] == pd.Timedelta(seconds=2)
    assert row["running_time"] == pd.Timedelta(seconds=10)
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (10, 5, 15)
    assert row["metadata"] == {"team": "weather"}


ENDINGS: list[dict[str, Any]] = [
    {},
    {"status": "failed", "completed_at": None, "failed_at": 1_700_000_012},
    {"status": "cancelled", "completed_at": None, "cancelled_at": 1_700_000_012},
    {"status": "expired", "completed_at": None, "expires_at": 1_700_000_012},
    {"status": "expired", "completed_at": None, "started_at": None, "expires_at": 1_700_000_012},
    {"started_at": 1_700_000_009},  # as servers set it when the run resumes after its tool outputs
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_runs_duration_is_the_time_from_its_creation_to_its_end(ending: dict[str, Any]) -> None:
    run = {**RUN, **ending}
    assert Run(run).duration == runs_frame([run])["duration"][0] == pd.Timedelta(seconds=12)
    assert Run(run).ended_at_utc == pd.Timestamp(1_700_000_012, unit="s", tz="UTC")


def test_a_duration_is_its_time_in_the_queue_and_its_running_time() -> None:
    frame = runs_frame([{**RUN, **ending, "id": f"run_{n}"} for n, ending in enumerate(ENDINGS)])
    parts = frame["queued_time"] + frame["running_time"]
    assert (parts[frame["started_at"].notna()] == pd.Timedelta(seconds=12)).sum() == len(ENDINGS) - 1


@pytest.mark.parametrize(
    "going_on", [{"status": "in_progress", "expires_at": 1_700_000_600}, {"created_at": "x"}]
)
def test_without_an_end_or_a_beginning_there_is_no_duration(going_on: dict[str, Any]) -> None:
    run = {**RUN, "completed_at": None, **going_on}
    assert Run(run).duration is None and runs_frame([run])["duration"].isna().all()


@pytest.mark.parametrize("kind", ["run", "step"])
def test_objects_and_frames_agree_on_every_recorded_duration(
    kind: str, recorded: dict[str, list[dict[str, Any]]]
) -> None:
    bodies = [exchange["body"] for exchanges in recorded.values() for exchange in exchanges]
    objects = [item for body in bodies for item in recorded_objects(body, kind)]
    each_once = list({item["id"]: item for item in objects if item["status"] == "completed"}.values())
    frame = FRAMES[kind](each_once)
    assert list(frame["duration"]) == [parse_object(item).duration for item in each_once] != []


@pytest.mark.parametrize("end", ["completed_at", "failed_at", "cancelled_at", "expired_at"])
def test_a_steps_duration_ends_however_the_step_did(end: str) -> None:
    step = {**STEP, "completed_at": None, end: 1_700_000_009}
    assert steps_frame([step])["duration"][0] == RunStep(step).duration == pd.Timedelta(seconds=7)


def test_a_run_that_goes_on_has_no_usage_and_no_durations_yet() -> None:
    row = runs_frame([{**RUN, "status": "in_progress", "completed_at": None, "usage": None}]).iloc[0]
    assert (
        row[
            ["duration", "running_time", "prompt_tokens", "completion_tokens", "total_tokens", "completed_at"]
        ]
        .isna()
        .all()
    )


def test_seconds_as_text_and_milliseconds_are_the_same_moment() -> None:
    sent = [1_700_000_000, 1_700_000_000_000, "1700000000", "1700000000000", 1_700_000_000.0]
    frame = runs_frame([{"id": str(i), "created_at": moment} for i, moment in enumerate(sent)])
    assert set(frame["created_at"]) == {pd.Timestamp("2023-11-14 22:13:20", tz="UTC")}


def test_what_is_no_number_is_missing_and_never_another_number() -> None:
    sent = [float("inf"), float("nan"), 10**400, 1e300, 10**19, "x", None, [], {"a": 1}]
    frame = runs_frame(
        [{"id": str(i), "created_at": n, "usage": {"prompt_tokens": n}} for i, n in enumerate(sent)]
    )
    assert frame[["created_at", "prompt_tokens"]].isna().all(axis=None)


def test_error_fields_are_read_out_of_their_objects() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Slow down."}
    row = runs_frame([{"id": "r", "last_error": error, "incomplete_details": {"reason": "max_tokens"}}]).iloc[
        0
    ]
    assert (row["error_code"], row["error_message"], row["incomplete_reason"]) == (
        *error.values(),
        "max_tokens",
    )


@pytest.mark.parametrize("name", ["prompt_token_details", "prompt_tokens_details"])
def test_cached_tokens_are_found_under_both_spellings(name: str) -> None:
    usage = {
        "prompt_tokens": 9,
        name: {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    row = runs_frame([{"id": "r", "usage": usage}]).iloc[0]
    assert (row["cached_tokens"], row["reasoning_tokens"]) == (4, 2)


def test_statuses_and_models_nobody_has_heard_of_are_kept() -> None:
    frame = runs_frame([RUN, {"id": "r", "status": "dreaming", "model": "gpt-99"}])
    assert list(frame["status"]) == ["completed", "dreaming"]
    assert list(frame["model"]) == ["demo", "gpt-99"]


def test_a_run_given_twice_counts_once_at_its_first_place_as_it_was_last() -> None:
    frame = runs_frame([{**RUN, "status": "queued"}, {"id": "run_2"}, RUN])
    assert list(frame["id"]) == ["run_1", "run_2"]
    assert frame["status"][0] == "completed"


def test_objects_without_an_id_are_not_taken_for_the_same() -> None:
    assert len(runs_frame([{"status": "queued"}, {"status": "queued"}])) == 2


def test_texts_are_texts_where_there_is_no_arrow_to_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pd.option_context("mode.string_storage", "python"):
        frame = runs_frame([RUN, {"id": "run_2"}])
        assert list(frame["id"]) == ["run_1", "run_2"] and frame["error_message"].isna().all()
        assert frame["id"].dtype.storage == "python"


def test_metadata_with_odd_keys_is_kept_as_it_is() -> None:
    odd = {"": "empty", "a.b": "dot", "\x00": "nul", "id": "mine", "κλειδί": "x"}
    frame = runs_frame([{"id": "r", "metadata": odd}])
    assert frame["metadata"][0] == odd
    assert frame["id"][0] == "r"


def test_steps_name_their_tools_and_messages() -> None:
    written = {"id": "step_2", "step_details": {"message_creation": {"message_id": "msg_1"}}}
    frame = steps_frame([STEP, written])
    assert list(frame["tool_names"]) == [["f", "code_interpreter"], []]
    assert frame["message_id"].isna()[0] and frame["message_id"][1] == "msg_1"


def test_messages_have_their_text_attachments_and_annotations() -> None:
    row = messages_frame([MESSAGE]).iloc[0]
    assert (row["text"], row["attachments"]) == ("Hi", [{"file_id": "file_1"}])
    assert row["annotations"] == [{"type": "file_citation"}]


def test_assistants_name_their_tools() -> None:
    assert assistants_frame([ASSISTANT])["tool_names"][0] == ["file_search", "f"]


def test_objects_and_their_json_give_the_same_frame() -> None:
    pd.testing.assert_frame_equal(runs_frame([Run(RUN)]), runs_frame(iter([RUN])))
    pd.testing.assert_frame_equal(messages_frame([Message(MESSAGE)]), messages_frame([MESSAGE]))


@pytest.mark.parametrize("row", [None, 5, b"run_1", ["run_1"]])
def test_what_is_no_object_is_refused_with_its_type(row: Any) -> None:
    with pytest.raises(TypeError, match=r"not from (NoneType|int|bytes|str)"):
        runs_frame([row])


def test_a_frame_is_refused_with_what_was_meant() -> None:
    with pytest.raises(TypeError, match=r"client\.runs\.steps\.tool_calls\(frame\)"):
        tool_calls_frame(steps_frame([]))


def test_metadata_is_expanded_into_columns_of_text_on_request() -> None:
    odd = {"": "empty", "a.b": "dot", "id": "mine", "n": 5, "κλειδί": "x"}
    frame = runs_frame([{"id": "r", "metadata": odd}, {"id": "s", "metadata": None}], metadata=True)
    added = list(frame.columns)[len(COLUMNS["run"]) :]
    assert added == ["metadata.", "metadata.a.b", "metadata.id", "metadata.n", "metadata.κλειδί"]
    assert {str(frame[name].dtype) for name in added} == {"string"}
    assert (frame["metadata.id"][0], frame["metadata.n"][0], frame["id"][0]) == ("mine", "5", "r")
    assert frame[added].iloc[1].isna().all()
    assert list(
        messages_frame([Message(MESSAGE | {"metadata": {"k": "v"}})], metadata=True)["metadata.k"]
    ) == ["v"]
    assert list(runs_frame([], metadata=True).columns) == [*COLUMNS["run"]]


def tool_calls(*calls: dict[str, Any], **step: Any) -> pd.DataFrame:
    return tool_calls_frame(
        [{**STEP, "step_details": {"type": "tool_calls", "tool_calls": [*calls]}, **step}]
    )


def test_tool_calls_are_rows_with_parsed_arguments_output_and_latency() -> None:
    function = {"name": "f", "arguments": '{"city": "Oslo"}', "output": "-3 °C"}
    python = {"input": "1 + 1", "outputs": []}
    frame = tool_calls(
        {"id": "call_1", "type": "function", "function": function},
        {"id": "call_2", "type": "code_interpreter", "code_interpreter": python},
    )
    first, second = frame.iloc[0], frame.iloc[1]
    assert (first["run_id"], first["step_id"], first["id"], first["name"]) == (
        "run_1",
        "step_1",
        "call_1",
        "f",
    )
    assert (first["arguments"], first["output"]) == ({"city": "Oslo"}, "-3 °C")
    assert first["latency"] == pd.Timedelta(seconds=3)
    assert (second["name"], second["arguments"], second["arguments_text"]) == (
        "code_interpreter",
        None,
        "1 + 1",
    )


def test_tool_calls_that_wait_have_no_output_and_no_latency() -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"half', "output": None},
    }
    row = tool_calls(call, completed_at=None, status="in_progress").iloc[0]
    assert row[["output", "latency", "completed_at", "arguments"]].isna().all()
    assert row["arguments_text"] == '{"half'


@pytest.mark.parametrize("odd", ODD)
def test_odd_tool_calls_are_no_exception(odd: Any) -> None:
    none = shape(tool_calls_frame([]))
    assert [name for name, _ in none] == [*COLUMNS["tool_call"]]
    assert shape(tool_calls_frame([{**STEP, "step_details": odd}])) == none
    assert shape(tool_calls({"id": odd, "type": "function", "function": odd}, created_at=odd)) == none


CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"a": [1, null]}', "output": "x"},
}


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_parquet_gives_back_tool_calls_and_columns_of_metadata(calls: int, tmp_path: Path) -> None:
    runs = [{**RUN, "id": f"run_{n}", "metadata": {"": "x", "a.b": "y", "id": str(n)}} for n in range(calls)]
    for frame in (tool_calls(*[CALL] * calls), runs_frame(runs, metadata=True)):
        nested_to_json(frame).to_parquet(tmp_path / "frame.parquet")
        back = nested_from_json(pd.read_parquet(tmp_path / "frame.parquet"))
        assert len(back) == calls and shape(back) == shape(frame)
        pd.testing.assert_frame_equal(back, frame, check_categorical=False)


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("rows", ["none", "one", "many"])
def test_parquet_gives_back_every_value_and_dtype(kind: str, rows: str, tmp_path: Path) -> None:
    many = [{"id": "bare"}, WHOLE[kind], {"id": "odd", "metadata": {"": "x", "a.b": "y"}, "tools": []}]
    frame = FRAMES[kind]({"none": [], "one": [WHOLE[kind]], "many": many}[rows])
    nested_to_json(frame).to_parquet(tmp_path / "frame.parquet")
    back = nested_from_json(pd.read_parquet(tmp_path / "frame.parquet"))
    assert shape(back) == shape(frame)
    # Where there are no categories, they come back as an Index of no texts of another dtype.
    pd.testing.assert_frame_equal(back, frame, check_categorical=False)


def test_runs_of_several_blocks_are_one_frame() -> None:
    runs = [
        {**RUN, "id": f"run_{n}", "model": f"m{n % 7}", "metadata": {"n": str(n)}}
        for n in range(2 * _BLOCK + 500)
    ]
    runs[1_700] |= {"model": None, "created_at": "x", "usage": 5, "metadata": 7}
    frame = runs_frame(runs)
    assert list(frame["id"]) == [run["id"] for run in runs]
    assert frame["model"].astype("object").where(frame["model"].notna(), None).tolist() == [
        r["model"] for r in runs
    ]
    assert frame["metadata"].tolist() == [run["metadata"] for run in runs]
    assert frame["total_tokens"].isna().sum() == frame["created_at"].isna().sum() == 1
