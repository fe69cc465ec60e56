"""Runs that a test scripts: streams of real events, and a `client.runs` that hands them out and keeps books."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from nbruns.client.runs import Outputs, outputs_json
from nbruns.client.stream import Event
from nbruns.errors import NotFoundError
from nbruns.objects import Assistant, Message, Run, parse_object
from nbruns.snapshot import RunSnapshot

RUN, THREAD, ASSISTANT = "run_1", "thread_1", "asst_1"
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer"},
        },
        "required": ["city"],
    },
}

Told = tuple[str, dict[str, Any]]


def run_json(status: str = "in_progress", **fields: Any) -> dict[str, Any]:
    """A run as the server tells it."""
    now = int(time.time())
    known = {
        "id": RUN,
        "object": "thread.run",
        "thread_id": THREAD,
        "assistant_id": ASSISTANT,
        "status": status,
    }
    times = {"created_at": now, "started_at": now, "expires_at": now + 600}
    tools = {"tools": [{"type": "function", "function": WEATHER}], "model": "demo"}
    return known | times | tools | fields


def run_is(status: str, **fields: Any) -> Told:
    """The event that says how the run is."""
    return f"thread.run.{status}", run_json(status, **fields)


def call_json(
    arguments: str = '{"city": "Oslo"}', id: str = "call_1", name: str = "get_weather"
) -> dict[str, Any]:
    """A tool call as the model made it."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def needs(*calls: dict[str, Any], **fields: Any) -> Told:
    """The event that the run requires answers to these calls."""
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": list(calls)}}
    return run_is("requires_action", required_action=action, **fields)


def step_is(status: str, *calls: dict[str, Any], id: str = "step_1", **fields: Any) -> Told:
    """The event that says how a step that calls tools is."""
    details = {"type": "tool_calls", "tool_calls": list(calls)}
    known = {"id": id, "object": "thread.run.step", "type": "tool_calls", "status": status, "run_id": RUN}
    return f"thread.run.step.{status}", known | {
        "step_details": details,
        "created_at": 1,
        "usage": None,
    } | fields


def says(*pieces: str, id: str = "msg_1", complete: bool = True) -> list[Told]:
    """The events of a message that comes in pieces."""
    known = {"id": id, "object": "thread.message", "role": "assistant", "run_id": RUN, "content": []}
    events: list[Told] = [("thread.message.created", known | {"status": "in_progress"})]
    for piece in pieces:
        delta = {"content": [{"index": 0, "type": "text", "text": {"value": piece}}]}
        events.append(("thread.message.delta", {"id": id, "object": "thread.message.delta", "delta": delta}))
    if complete:
        content = [{"type": "text", "text": {"value": "".join(pieces), "annotations": []}}]
        events.append(("thread.message.completed", known | {"status": "completed", "content": content}))
    return events


class ScriptedStream:
    """Tells a script: events one after the other; a callable is called, an exception is raised."""

    def __init__(self, *script: Any, snapshot: RunSnapshot | None = None) -> None:
        self.script = script
        self.snapshot = snapshot or RunSnapshot()
        self._events = self._tell()

    def _tell(self) -> Iterator[Event]:
        for told in itertools.chain.from_iterable(s if isinstance(s, list) else [s] for s in self.script):
            if isinstance(told, BaseException):
                raise told
            if callable(told):
                told()
                continue
            self.snapshot.apply(*told)
            yield Event(told[0], parse_object(told[1]))

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class ScriptedRuns:
    """Hands out `answers` (streams, or exceptions to raise) as outputs are submitted; `now` is the run as it is."""

    def __init__(self, *answers: Any, now: dict[str, Any] | None = None, name: str = "Wardrobe") -> None:
        self.name = name
        self.answers = list(answers)
        self.now = now
        self.submitted: list[dict[str, str]] = []
        self.cancelled = 0
        self.before: list[Message] = []
        self.followed: Callable[[], Any] | None = None

    def submit_tool_outputs_stream(self, run: Run, outputs: Outputs, *, snapshot: RunSnapshot) -> Any:
        self.submitted.append(
            {given["tool_call_id"]: given["output"] for given in outputs_json(outputs, run)}
        )
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        answer.snapshot = snapshot
        return answer

    def retrieve(self, run: Run | str) -> Any:
        if isinstance(run, str):
            raise NotFoundError(f"No file {run!r}", status=404)
        return Run(self.now) if self.now is not None else run

    def retrieve_stream(self, run: Run, *, snapshot: RunSnapshot) -> Any:
        assert self.followed is not None
        followed = self.followed()
        followed.snapshot = snapshot
        return followed

    def assistant_of(self, run: Run) -> Assistant:
        return Assistant({"id": run.assistant_id, "name": self.name})

    @property
    def files(self) -> Any:
        return self

    def messages_before(self, run: Run | None, thread: str) -> list[Message]:
        return self.before

    def cancel(self, run: Run) -> Run:
        self.cancelled += 1
        return Run(run_json("cancelling"))


def gate() -> tuple[threading.Event, Callable[[], object]]:
    """An event, and a step of a script that waits for it."""
    opened = threading.Event()
    return opened, lambda: opened.wait(10)


def paced(events: Iterable[Told], seconds: float) -> list[Any]:
    """The events with a pause before each."""
    return [step for event in events for step in (lambda: time.sleep(seconds), event)]
