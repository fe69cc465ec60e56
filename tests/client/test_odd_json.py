"""Whatever JSON a server sends where an object of the API is expected: it is shown or ignored, never raised about."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbruns import objects
from nbruns.objects import APIObject, Message, Run, RunStep, parse_object
from nbruns.snapshot import RunSnapshot

NAMES = [
    *("id", "object", "type", "status", "role", "delta", "content", "text", "value", "annotations", "index"),
    *(
        "step_details",
        "tool_calls",
        "function",
        "mcp",
        "code_interpreter",
        "name",
        "arguments",
        "input",
        "output",
    ),
    *(
        "logs",
        "outputs",
        "message_creation",
        "message_id",
        "required_action",
        "submit_tool_outputs",
        "last_error",
    ),
    *("incomplete_details", "usage", "metadata", "created_at", "completed_at", "error", "message"),
]
WORDS = st.sampled_from(
    [*NAMES, "thread.run", "thread.message", "tool_calls", "completed", "requires_action", "x"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
PAYLOADS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
KINDS = [
    *("thread", "thread.run", "thread.run.step", "thread.run.step.delta"),
    *("thread.message", "thread.message.delta", "error"),
]
CLASSES = [kind for kind in vars(objects).values() if isinstance(kind, type) and issubclass(kind, APIObject)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=40)
@given(payload=PAYLOADS)
def test_every_attribute_of_any_object_can_be_read(kind: type[APIObject], payload: dict[str, Any]) -> None:
    made = kind(payload)
    for name in dir(made):
        getattr(made, name)
    assert isinstance(repr(made), str) and made._repr_html_() and made.to_dict() == payload
    assert isinstance(parse_object(payload), APIObject)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), PAYLOADS), max_size=5))
def test_any_events_can_be_folded(events: list[tuple[str, dict[str, Any]]]) -> None:
    snapshot = RunSnapshot()
    for name, payload in events:
        before = json.dumps(payload)
        # The same few objects, so that they meet.
        snapshot.apply(
            name, {**payload, "id": payload.get("id") if name == "error" else name.removesuffix(".delta")}
        )
        assert json.dumps(payload) == before
        read = (
            snapshot.run,
            snapshot.thread,
            snapshot.steps,
            snapshot.messages,
            snapshot.text,
            snapshot.tool_calls,
        )
        assert all(isinstance(step, RunStep) for step in snapshot.steps)
        assert all(isinstance(message, Message) for message in snapshot.messages)
        assert snapshot.run is None or isinstance(snapshot.run, Run)
        assert repr(read) and isinstance(snapshot.text, str)


@settings(deadline=None, max_examples=40)
@given(VALUES)
def test_what_is_no_object_is_ignored(payload: Any) -> None:
    snapshot = RunSnapshot()
    if not isinstance(payload, dict):
        snapshot.apply("thread.run.created", payload)
        assert snapshot.ignored == 1 and snapshot.run is None
