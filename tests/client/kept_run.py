"""A run that goes on whatever becomes of its stream: its events, and a server that keeps it."""

from __future__ import annotations

import json
import socket
from typing import Any

from socket_server import Received, SocketServer, answer, stream

from nbruns.client import Client
from nbruns.client.stream import RunStream

IDS = {"thread_id": "thread_1", "assistant_id": "asst_1"}
RUN = {"id": "run_1", "object": "thread.run", "status": "in_progress", **IDS}
DONE = {**RUN, "status": "completed"}
STEP = {"id": "step_1", "object": "thread.run.step", "type": "message_creation", "run_id": "run_1"}
MESSAGE = {
    "id": "msg_1",
    "object": "thread.message",
    "role": "assistant",
    "run_id": "run_1",
    "status": "in_progress",
}


def content(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": {"value": text, "annotations": []}}]


def delta(text: str) -> dict[str, Any]:
    part = {"index": 0, "type": "text", "text": {"value": text}}
    return {"id": "msg_1", "object": "thread.message.delta", "delta": {"content": [part]}}


EVENTS = [
    ("thread.run.in_progress", RUN),
    ("thread.run.step.created", {**STEP, "status": "in_progress"}),
    ("thread.message.created", {**MESSAGE, "content": []}),
    ("thread.message.delta", delta("Hé")),
    ("thread.message.delta", delta(" you")),
    ("thread.message.completed", {**MESSAGE, "status": "completed", "content": content("Hé you")}),
    ("thread.run.step.completed", {**STEP, "status": "completed"}),
    ("thread.run.completed", DONE),
]
LAST = {payload["id"]: payload for name, payload in EVENTS if not name.endswith("delta")}


def wire(events: list[tuple[str, dict[str, Any]]], first_id: int | None = None) -> bytes:
    numbered = ("" if first_id is None else f"id: {first_id + i}\n" for i in range(len(events)))
    return "".join(
        f"{number}event: {name}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n"
        for number, (name, payload) in zip(numbered, events, strict=True)
    ).encode()


DONE_EVENT = b"event: done\ndata: [DONE]\n\n"
BODY, NUMBERED = wire(EVENTS) + DONE_EVENT, wire(EVENTS, 1) + DONE_EVENT


class KeptRun:
    """What a server answers whose first stream is cut after `cut` bytes while the run goes on to its end."""

    def __init__(self, body: bytes, cut: int, rejoins: bool) -> None:
        self.body, self.cut, self.rejoins = body, cut, rejoins

    def __call__(self, connection: socket.socket, request: Received) -> bool | None:
        return self._answer_to(request)(connection, request)  # type: ignore[no-any-return]

    def _answer_to(self, request: Received) -> Any:
        path = request.path.partition("?")[0].removeprefix("/v1/threads/thread_1/")
        if request.method == "POST":
            return stream([self.body[: self.cut]])
        if path == "runs/run_1/stream" and self.rejoins:
            after = int(request.headers.get("last-event-id", "0"))
            return stream([wire(EVENTS[after:], after + 1), DONE_EVENT])
        others = [
            {**LAST["msg_1"], "id": "msg_0", "role": "user"},
            {**LAST["msg_1"], "id": "msg_2", "run_id": "run_0"},
        ]
        answers = {
            "runs/run_1": DONE,
            "runs": {"data": [{**DONE, "created_at": 2**36}], "has_more": False},
            "runs/run_1/steps": {"data": [LAST["step_1"]], "has_more": False},
            # As of servers that know no filter by run.
            "messages": {"data": [*others, LAST["msg_1"]], "has_more": False},
        }
        known = answers.get(path, {"error": {"message": "no"}})
        return answer(known, 200 if path in answers else 404, Connection="keep-alive")


def create(server: SocketServer, **options: Any) -> RunStream:
    return Client(f"{server.url}/v1", timeout=5.0, max_retries=0, **options).runs.create_stream(
        "thread_1", "asst_1"
    )


def state(of: RunStream) -> tuple[Any, ...]:
    snapshot = of.snapshot
    assert snapshot.run is not None
    return (
        snapshot.run.to_dict(),
        [step.to_dict() for step in snapshot.steps],
        [message.to_dict() for message in snapshot.messages],
        snapshot.text,
    )
