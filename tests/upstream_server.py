"""A scripted upstream: a Chat Completions and Responses endpoint on a real socket that answers as a test says, for
what no real server can be made to do: rate limits, refusals, filters, broken streams, parallel calls."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = dict[str, Any]
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
USED = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


class ScriptedUpstream(ThreadingHTTPServer):
    """Gives each request to one of the paths in `has` the next of its answers, (status, content) or (status,
    content, headers), and 404 to others. A list is streamed, an event each: objects as they are, text as it is."""

    daemon_threads = True

    def __init__(
        self,
        *answers: tuple[Any, ...],
        has: tuple[str, ...] = (CHAT, RESPONSES),
        models: tuple[str, ...] | None = None,
    ) -> None:
        self.answers, self.has, self.requests = list(answers), has, list[JSON]()
        #: The models that it tells of; None: it can't be asked for any.
        self.models, self.asked_for = models, list[str]()
        self.gone = threading.Event()
        super().__init__(("127.0.0.1", 0), _Endpoint)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def paths(self) -> list[str]:
        """Where it was asked, in order."""
        return [request["path"] for request in self.requests]


class _Endpoint(BaseHTTPRequestHandler):
    server: ScriptedUpstream

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
        absent = (404, error("no such path"))
        status, content, *headers = self.server.answers.pop(0) if self.path in self.server.has else absent
        streamed = isinstance(content, list)
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
        for header in headers:
            for name, value in header.items():
                self.send_header(name, value)
        self.end_headers()
        try:
            for part in content if streamed else [content]:
                said = part if isinstance(part, str) else json.dumps(part)
                self.wfile.write(f"data: {said}\n\n".encode() if streamed else said.encode())
                self.wfile.flush()
        except OSError:
            self.server.gone.set()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/v1/models").removeprefix("/")
        self.server.asked_for.append(name)
        models = [{"id": each, "object": "model"} for each in self.server.models or ()]
        missing = error(f"The model '{name}' does not exist", code="model_not_found")
        found: JSON = {"data": models} if not name else next((m for m in models if m["id"] == name), missing)
        if self.server.models is None:
            found = error(f"Cannot GET {self.path}")
        said = json.dumps(found).encode()
        self.send_response(404 if "error" in found else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def upstream_server(*answers: tuple[Any, ...], **options: Any) -> Iterator[ScriptedUpstream]:
    """A scripted upstream while the block runs."""
    with ScriptedUpstream(*answers, **options) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def error(message: str, **fields: Any) -> JSON:
    """An error as endpoints put it."""
    return {"error": {"message": message, "type": "t", "code": None, "param": None, **fields}}


def chunk(delta: JSON | None = None, finish: str | None = None, **more: Any) -> JSON:
    """A chunk of Chat Completions."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
        **more,
    }


def call(index: int | None, id: str | None, name: str | None, arguments: Any) -> JSON:
    """A delta with a piece of a tool call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    place = {} if index is None else {"index": index}
    return {"tool_calls": [{**place, **({"id": id, "type": "function"} if id else {}), "function": function}]}


def chat(*deltas: JSON, finish: str = "stop", used: Any = USED) -> list[Any]:
    """An answer of Chat Completions."""
    return [*map(chunk, deltas), chunk({}, finish), chunk(usage=used), "[DONE]"]


def response(*events: JSON, status: str = "completed", used: JSON | None = None, **fields: Any) -> list[Any]:
    """An answer of Responses, with `fields` in its last event."""
    used = used or {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    begun = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
    ended = {"id": "resp_1", "status": status, "output": [], "usage": used, **fields}
    numbered = enumerate([begun, *events, {"type": f"response.{status}", "response": ended}])
    return [{"sequence_number": number, **event} for number, event in numbered]


def text_event(delta: str) -> JSON:
    """More text, as Responses puts it."""
    return {
        "type": "response.output_text.delta",
        "output_index": 0,
        "content_index": 0,
        "item_id": "msg_1",
        "delta": delta,
    }


def call_added(index: int | None, id: str | None, name: str) -> JSON:
    """The start of a call, as Responses puts it; `id` is the item's, and ends the call's."""
    item = {
        "type": "function_call",
        **({"id": f"fc_{id}", "call_id": f"call_{id}"} if id else {}),
        "name": name,
        "arguments": "",
    }
    return {
        "type": "response.output_item.added",
        **({} if index is None else {"output_index": index}),
        "item": item,
    }


def call_arguments(index: int | None, id: str | None, delta: str) -> JSON:
    """More arguments of a call, as Responses puts them."""
    place = {} if index is None else {"output_index": index}
    return {
        "type": "response.function_call_arguments.delta",
        **place,
        **({"item_id": f"fc_{id}"} if id else {}),
        "delta": delta,
    }


def call_done(index: int | None, id: str | None, name: str, arguments: Any) -> JSON:
    """A whole call, as Responses puts it."""
    added = call_added(index, id, name)
    return {
        **added,
        "type": "response.output_item.done",
        "item": {**added["item"], "arguments": arguments, "status": "completed"},
    }
