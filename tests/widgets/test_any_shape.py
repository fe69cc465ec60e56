"""No shape of any field raises out of a transcript, a form or a frame: each field in turn is made another."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

import nbruns
from nbruns.objects import Run
from nbruns.snapshot import RunSnapshot
from nbruns.widgets.form.form import ToolOutputsForm
from nbruns.widgets.run_view.transcript import Transcript, plain_text, to_html

JSON = dict[str, Any]
#: All odd values for every field; otherwise a sample of them, other ones for each field.
NIGHTLY = os.environ.get("NBRUNS_NIGHTLY") == "1"
ODD: list[Any] = [
    None,
    "text",
    5,
    2.5,
    True,
    [],
    {},
    [None],
    ["a"],
    {"a": 1},
    [{"a": 1}],
    "9" * 400,
    -1,
    1e300,
]
MISSING = object()
IDS = {"thread_id": "thread_1", "assistant_id": "asst_1", "run_id": "run_1", "created_at": 1_700_000_000}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
FUNCTION = {"name": "get_weather", "arguments": '{"city": "Oslo"}', "output": "rain"}
RUN: JSON = {
    **IDS,
    "id": "run_1",
    "object": "thread.run",
    "model": "m",
    "status": "requires_action",
    "expires_at": 4_000_000_000,
    "tools": [
        {
            "type": "function",
            "function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}},
        }
    ],
    "required_action": {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {"tool_calls": [{"id": "call_1", "type": "function", "function": FUNCTION}]},
    },
    "last_error": None,
    "metadata": {"k": "v"},
}
ENDED: JSON = {**RUN, "status": "failed", "required_action": None, "failed_at": 1_700_000_009, "usage": USAGE}
ENDED["last_error"] = {"code": "server_error", "message": "Sorry."}
CALLS: list[JSON] = [
    {"id": "call_1", "type": "function", "function": FUNCTION},
    {
        "id": "call_2",
        "type": "code_interpreter",
        "code_interpreter": {"input": "1", "outputs": [{"type": "logs", "logs": "1"}]},
    },
    {
        "id": "call_3",
        "type": "file_search",
        "file_search": {"results": [{"file_name": "a.md", "score": 0.5}]},
    },
]
STEP: JSON = {
    **IDS,
    "id": "step_1",
    "object": "thread.run.step",
    "type": "tool_calls",
    "status": "completed",
    "completed_at": 1_700_000_002,
    "usage": USAGE,
    "step_details": {"type": "tool_calls", "tool_calls": CALLS},
}
CITED = {"type": "url_citation", "text": "[1]", "url_citation": {"url": "https://a.example", "title": "A"}}
MESSAGE: JSON = {
    **IDS,
    "id": "msg_1",
    "object": "thread.message",
    "role": "assistant",
    "status": "completed",
    "content": [
        {"type": "text", "text": {"value": "Hello [1]", "annotations": [CITED]}},
        {"type": "image_file", "image_file": {"file_id": "file-1"}},
    ],
    "attachments": [],
    "metadata": {},
}
MESSAGE_DELTA: JSON = {
    "id": "msg_1",
    "object": "thread.message.delta",
    "delta": {"content": [{"index": 0, "type": "text", "text": {"value": "Hi", "annotations": [CITED]}}]},
}
STEP_DELTA: JSON = {
    "id": "step_1",
    "object": "thread.run.step.delta",
    "delta": {"step_details": {"type": "tool_calls", "tool_calls": [{"index": 0, **CALLS[0]}]}},
}
EVENTS: list[tuple[str, JSON]] = [
    ("thread.run.requires_action", RUN),
    ("thread.run.failed", ENDED),
    ("thread.run.step.completed", STEP),
    ("thread.message.completed", MESSAGE),
    ("thread.message.delta", MESSAGE_DELTA),
    ("thread.run.step.delta", STEP_DELTA),
]
FRAMES = {
    "thread.run": [nbruns.runs_frame],
    "thread.run.step": [nbruns.steps_frame, nbruns.tool_calls_frame],
    "thread.message": [nbruns.messages_frame],
}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from paths(value[key], (*path, key))


def changed(value: JSON, path: tuple[Any, ...], new: Any) -> JSON:
    value = copy.deepcopy(value)
    place: Any = value
    for key in path[:-1]:
        place = place[key]
    if new is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return value


@pytest.mark.parametrize(("name", "payload"), EVENTS, ids=[name for name, _ in EVENTS])
def test_any_field_may_be_anything(name: str, payload: JSON) -> None:
    tried, chosen = 0, random.Random(name)
    for path in paths(payload):
        for new in [*(ODD if NIGHTLY else chosen.sample(ODD, 4)), None, MISSING]:
            odd = changed(payload, path, new)
            snapshot = RunSnapshot()
            if "run." not in name or "step" in name:
                snapshot.apply("thread.run.in_progress", {**RUN, "status": "in_progress"})
            snapshot.apply(name, odd)
            assert to_html(list(Transcript().blocks(snapshot))) and plain_text(snapshot)
            for frame in FRAMES.get(payload["object"], ()):
                frame([odd])
            if payload["object"] == "thread.run":
                run = Run(odd)
                assert repr(run) and run._repr_html_() and run.duration != 0
                if run.status == "requires_action":
                    ToolOutputsForm(run).close()
            tried += 1
    assert tried > 50


def test_arguments_that_are_the_object_itself_are_json() -> None:
    run = Run(
        changed(
            RUN,
            ("required_action", "submit_tool_outputs", "tool_calls", 0, "function", "arguments"),
            {"city": "Ås"},
        )
    )
    [call] = run.tool_calls
    assert json.loads(call.arguments) == {"city": "Ås"}
    frame = nbruns.tool_calls_frame(
        [changed(STEP, ("step_details", "tool_calls", 0, "function", "arguments"), {"city": "Ås"})]
    )
    assert frame["arguments"][0] == {"city": "Ås"}


def test_raw_newlines_in_arguments_are_read() -> None:
    odd = changed(
        STEP, ("step_details", "tool_calls", 0, "function", "arguments"), '{"city": "Oslo\nSentrum"}'
    )
    assert nbruns.tool_calls_frame([odd])["arguments"][0] == {"city": "Oslo\nSentrum"}

    @nbruns.tool
    def get_weather(city: str) -> str:
        return city

    assert get_weather.call('{"city": "Oslo\nSentrum"}') == "Oslo\nSentrum"


def test_times_as_texts_of_iso_8601_are_read() -> None:
    odd = {
        **ENDED,
        "created_at": "2024-08-29T06:12:29.250Z",
        "failed_at": "2024-08-29T08:12:41+02:00",
        "expires_at": "2030-08-29T06:22:30",
    }
    run = Run(odd)
    frame = nbruns.runs_frame([odd, RUN])
    assert run.duration is not None and run.duration.total_seconds() == 11.75
    assert frame["duration"][0].total_seconds() == 11.75
    assert frame["expires_at"][0].isoformat() == "2030-08-29T06:22:30+00:00"
    waiting = {**RUN, "expires_at": "2030-08-29T06:22:30"}
    form = ToolOutputsForm(Run(waiting))
    assert form._status.expires_at == frame["expires_at"][0].timestamp()
    form.close()


def test_a_cited_page_is_a_link_and_a_cited_file_its_name() -> None:
    snapshot = RunSnapshot()
    snapshot.apply("thread.run.in_progress", {**RUN, "status": "in_progress"})
    file = {
        "type": "file_citation",
        "text": "[2]",
        "file_citation": {"file_id": "file-1", "file_name": "a<b.md"},
    }
    evil = {
        "type": "url_citation",
        "text": "[3]",
        "url_citation": {"url": "javascript:alert(1)", "title": "<b>"},
    }
    snapshot.apply(
        "thread.message.completed",
        changed(MESSAGE, ("content", 0, "text", "annotations"), [CITED, file, evil]),
    )
    html = to_html(list(Transcript().blocks(snapshot)))
    assert '<a href="https://a.example" target="_blank" rel="noopener noreferrer">A</a>' in html
    assert "[[2] a&lt;b.md]" in html
    assert 'href="javascript' not in html and "<b>" not in html
