"""Frames of objects from elsewhere: other libraries', pages, events, recordings, files."""

from __future__ import annotations

import gzip
import json
import types
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pytest
from azure.ai.agents.models import RunStep as AzureStep
from azure.ai.agents.models import ThreadMessage as AzureMessage
from azure.ai.agents.models import ThreadRun as AzureRun
from openai.pagination import AsyncCursorPage, SyncCursorPage
from openai.types.beta.threads import Message as OpenAIMessage
from openai.types.beta.threads import Run as OpenAIRun
from openai.types.beta.threads.runs import RunStep as OpenAIStep

from nbruns.frames import (
    OBJECT_NAMES,
    assistants_frame,
    messages_frame,
    runs_frame,
    steps_frame,
    threads_frame,
    tool_calls_frame,
)
from nbruns.frames.sources import to_jsonl
from nbruns.objects import Message, Run

FRAMES = {
    "run": runs_frame,
    "step": steps_frame,
    "message": messages_frame,
    "assistant": assistants_frame,
    "thread": threads_frame,
}
THEIRS = {
    "run": (OpenAIRun, AzureRun),
    "step": (OpenAIStep, AzureStep),
    "message": (OpenAIMessage, AzureMessage),
}
Recorded = dict[str, list[dict[str, Any]]]

RUN = {"id": "run_1", "object": "thread.run", "status": "completed", "created_at": 1_700_000_000}
MESSAGE = {"id": "msg_1", "object": "thread.message", "role": "user", "content": "Hi"}


def lines(file: Path, *values: Any) -> Path:
    file.write_text("".join(json.dumps(value) + "\n" for value in values))
    return file


def recorded_objects(recorded: Recorded, kind: str) -> list[dict[str, Any]]:
    """The whole objects of a kind in the recordings' plain answers, each as it was last."""
    bodies = [e["body"] for exchanges in recorded.values() for e in exchanges if isinstance(e["body"], dict)]
    items = [item for body in bodies for item in (body["data"] if body.get("object") == "list" else [body])]
    return list({i["id"]: i for i in items if i.get("object") == OBJECT_NAMES[kind]}.values())


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("library", [0, 1], ids=["openai-python", "azure-ai-agents"])
def test_other_libraries_objects_give_the_same_frame(kind: str, library: int, recorded: Recorded) -> None:
    ours = recorded_objects(recorded, kind)
    theirs = [
        AzureOrOpenAI(item) if library else AzureOrOpenAI.construct(**item)
        for AzureOrOpenAI in [THEIRS[kind][library]]
        for item in ours
    ]
    assert len(ours) > 1
    pd.testing.assert_frame_equal(FRAMES[kind](theirs), FRAMES[kind](ours))


def test_a_page_of_openai_python_is_taken_with_its_runs() -> None:
    page = SyncCursorPage[OpenAIRun].construct(data=[OpenAIRun.construct(**RUN)], has_more=False)
    assert list(runs_frame(page)["id"]) == ["run_1"]
    assert list(runs_frame([page, page])["id"]) == ["run_1"]


@pytest.mark.parametrize("kind", FRAMES)
def test_recordings_are_read_from_their_files(kind: str, recordings: list[Path], recorded: Recorded) -> None:
    frame = FRAMES[kind](recordings)
    assert {item["id"] for item in recorded_objects(recorded, kind)} <= {*frame["id"]}
    assert frame["created_at"].notna().all() and frame["id"].is_unique
    exchanges = [exchange for file in recordings for exchange in recorded[file.stem]]
    pd.testing.assert_frame_equal(FRAMES[kind](exchanges), frame)


def test_every_recording_alone_gives_frames_too(recordings: list[Path]) -> None:
    for file in recordings:
        for kind, frame_of in FRAMES.items():
            pd.testing.assert_series_equal(
                frame_of(file).dtypes == "category", frame_of([]).dtypes == "category"
            )
            assert len(frame_of(str(file))) == len(frame_of(file)), (file, kind)


def test_a_recorded_stream_gives_the_run_as_it_ended(recordings: list[Path]) -> None:
    stream = next(file for file in recordings if file.stem == "stream_run")
    assert list(runs_frame(stream)["status"]) == ["completed"]
    assert list(messages_frame(stream)["role"]) == ["assistant"]


def test_recorded_tool_calls_have_their_arguments_and_outputs(recordings: list[Path]) -> None:
    calls = tool_calls_frame(recordings)
    assert {"function", "code_interpreter", "file_search"} >= {*calls["type"]} != set()
    assert calls["run_id"].notna().all() and calls["step_id"].notna().all()


def test_a_file_of_json_lines_may_hold_runs_pages_and_others(tmp_path: Path) -> None:
    page = {"object": "list", "data": [{**RUN, "id": "run_2"}, MESSAGE]}
    event = {"event": "thread.run.completed", "data": {**RUN, "id": "run_3"}}
    file = lines(tmp_path / "runs.jsonl", RUN, page, MESSAGE, event, {"id": "bare"})
    file.write_text("\ufeff" + file.read_text() + "\n\n", encoding="utf-8")
    assert list(runs_frame(file)["id"]) == ["run_1", "run_2", "run_3", "bare"]
    assert list(messages_frame(str(file))["id"]) == ["msg_1", "bare"]
    assert list(runs_frame([file, {**RUN, "id": "run_4"}])["id"])[-1] == "run_4"


def test_an_array_of_json_is_read_too(tmp_path: Path) -> None:
    assert list(runs_frame(lines(tmp_path / "runs.json", [RUN]))["id"]) == ["run_1"]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = lines(tmp_path / "runs.jsonl", RUN)
    file.write_text(file.read_text() + '{"id": "run_2", "obj')
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2, is not JSON .*run_2"):
        runs_frame(file)


def test_any_mapping_is_json_and_a_number_is_none() -> None:
    run = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1"}
    assert list(runs_frame([types.MappingProxyType(run)])["id"]) == ["run_1"]
    for nonsense in (5, [[5]], object()):
        with pytest.raises(TypeError, match="A row is made from an object of the API or its JSON, not from"):
            runs_frame([nonsense])  # type: ignore[list-item]


def test_lines_and_mappings_of_other_kinds(tmp_path: Path) -> None:
    assert list(runs_frame([MappingProxyType(RUN)])["id"]) == ["run_1"]
    with pytest.raises(TypeError, match="not from int"):
        runs_frame(lines(tmp_path / "runs.jsonl", RUN, 5))


def test_one_object_alone_is_a_frame_of_one_row() -> None:
    assert list(runs_frame(RUN)["id"]) == list(runs_frame(Run(RUN))["id"]) == ["run_1"]


def test_what_says_to_be_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"rows of 'thread\.run', and 'msg_1' is a 'thread\.message'"):
        runs_frame([Run(RUN), Message(MESSAGE)])


def test_a_deleted_object_in_a_recording_is_no_row() -> None:
    exchange = {"path": "/v1/threads/t", "status": 200, "body": {"id": "t", "object": "thread.deleted"}}
    failed = {"path": "/v1/threads/t", "status": 404, "body": {"error": {"message": "No thread"}}}
    assert len(threads_frame([exchange, failed])) == 0


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_that_ended_stays_ended_whichever_page_came_first(order: int) -> None:
    pages = [{"object": "list", "data": [{**RUN, "status": status}]} for status in ("queued", "completed")]
    assert list(runs_frame(pages[::order])["status"]) == ["completed"]


def test_json_lines_give_back_every_field(tmp_path: Path, recorded: Recorded) -> None:
    runs = recorded_objects(recorded, "run")
    file = to_jsonl(map(Run, runs), tmp_path / "runs.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == runs
    pd.testing.assert_frame_equal(runs_frame(file), runs_frame(runs))
    assert [each.name for each in tmp_path.iterdir()] == ["runs.jsonl"]


def test_json_lines_that_fail_on_the_way_leave_the_file_as_it_was(tmp_path: Path) -> None:
    file = to_jsonl([RUN], tmp_path / "runs.jsonl")
    with pytest.raises(TypeError, match="not from int"):
        to_jsonl([RUN, 5], file)
    assert len(runs_frame(file)) == 1


def test_packed_json_lines_are_read_and_written(tmp_path: Path) -> None:
    file = to_jsonl([RUN], tmp_path / "runs.jsonl.gz")
    assert file.read_bytes().startswith(b"\x1f\x8b") and gzip.decompress(file.read_bytes()).startswith(
        b'{"id"'
    )
    assert len(runs_frame(file)) == 1 and [each.name for each in tmp_path.iterdir()] == ["runs.jsonl.gz"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("runs.jsonl", gzip.compress(b"{}", mtime=0), "is not text"),
        ("runs.jsonl.gz", gzip.compress(b'{"id": "run_1"}', mtime=0)[:20], "not a whole gzip file"),
        ("runs.jsonl.gz", b'{"id": "run_1"}', "not a whole gzip file"),
        ("runs.jsonl.gz", gzip.compress(b"{no", mtime=0), "line 1, is not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        runs_frame(tmp_path / name)


def test_an_asynchronous_page_is_read_where_it_is_all() -> None:
    page = AsyncCursorPage[OpenAIRun].construct(data=[OpenAIRun.construct(**RUN)], has_more=False)
    assert list(runs_frame(page)["id"]) == list(runs_frame([page])["id"]) == [RUN["id"]]


def test_an_asynchronous_list_that_is_not_all_here_is_refused_with_the_way_out() -> None:
    async def listed() -> AsyncIterator[dict[str, Any]]:
        yield RUN

    async def awaited() -> list[dict[str, Any]]:
        return [RUN]

    page = AsyncCursorPage[OpenAIRun].construct(data=[OpenAIRun.construct(**RUN)], has_more=True)
    for given in (page, listed(), [listed()]):
        with pytest.raises(TypeError, match=r"\[each async for each in …\]"):
            runs_frame(given)
    for waiting in (awaited(), [awaited()]):
        with pytest.raises(TypeError, match="write `await` before it"):
            runs_frame(waiting)
