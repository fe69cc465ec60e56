"""A server to test against: in a thread of this process, with models that a test scripts, or in a process of its
own that can be killed (see `slow_server`)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import requests
from described import check_answer, check_event
from slow_server import CALL, TOKEN

from nbruns.server.http import Server, Settings
from nbruns.server.interpreter.modes import interpreter
from nbruns.server.models import Delta, Finish, Models, Prompt, TextDelta, usage
from nbruns.server.retrieval.embeddings import Embedder
from nbruns.server.retrieval.embeddings import embedder as default_embedder
from nbruns.sse import iter_events

JSON = dict[str, Any]
BROKEN = "broken"
ENDED = ("completed", "incomplete", "failed", "cancelled", "expired")
REPOSITORY = Path(__file__).parent.parent.parent
#: A function tool; CALL is a call of it in the pieces in which models send one.
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather in a city"}}
OUTPUTS = {"tool_outputs": [{"tool_call_id": "call_oslo", "output": "-3 °C"}]}
ANSWER = (TextDelta("Take "), TextDelta("a coat."), Finish("stop", usage(30, 5)))

Turn = Iterable[Delta | Exception | threading.Event | float]


class Scripted:
    """A model that says what a test has enqueued, turn by turn. An event in a turn is waited for, a number slept."""

    def __init__(self, *turns: Turn) -> None:
        self.turns = deque(turns)
        self.prompts: list[Prompt] = []

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        self.prompts.append(prompt)
        for item in self.turns.popleft():
            if isinstance(item, Exception):
                raise item
            if isinstance(item, threading.Event):
                await asyncio.get_running_loop().run_in_executor(None, item.wait, 30)
            elif isinstance(item, int | float):
                await asyncio.sleep(item)
            else:
                yield item


class Registry(Models):
    """Models, one of which makes the server stumble when it is named."""

    def knows(self, name: str) -> bool:
        if name == BROKEN:
            raise ValueError("secret detail")
        return super().knows(name)


class SentEvent(NamedTuple):
    """An event as a stream has sent it."""

    name: str
    data: Any
    id: int | None


class Api:
    """A bare client: what is sent is what the test says, what comes is what the server says."""

    def __init__(self, url: str, token: str | None = TOKEN) -> None:
        self.url = url
        self.session = requests.Session()
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        response = self.session.request(method, f"{self.url}/v1{path}", json=body, timeout=30, **options)
        check_answer(response)
        return response

    def get(self, path: str, **query: Any) -> JSON:
        return _ok(self.send("GET", path, params=query))

    def post(self, path: str, body: Any = None) -> JSON:
        return _ok(self.send("POST", path, {} if body is None else body))

    def delete(self, path: str) -> JSON:
        return _ok(self.send("DELETE", path))

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, JSON]:
        response = self.send(method, path, body, **options)
        assert response.status_code >= 400, response.text
        assert response.json().keys() == {"error"}
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
        return response.status_code, response.json()["error"]

    def stream(self, path: str, body: JSON) -> Iterator[SentEvent]:
        return sent_events(self.send("POST", path, {**body, "stream": True}, stream=True))

    def rejoin(self, run: JSON, after: int | None = None) -> Iterator[SentEvent]:
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        path = f"/threads/{run['thread_id']}/runs/{run['id']}/stream"
        return sent_events(self.send("GET", path, headers=headers, stream=True))

    def thread_with(self, text: str = "What should I wear in Oslo?") -> str:
        id: str = self.post("/threads", {"messages": [{"role": "user", "content": text}]})["id"]
        return id

    def run_path(self, run: JSON) -> str:
        return f"/threads/{run['thread_id']}/runs/{run['id']}"

    def until(self, run: JSON, *statuses: str) -> JSON:
        """The run, as soon as it has one of these statuses; its stream tells when to look."""
        while (now := self.get(self.run_path(run)))["status"] not in statuses:
            assert now["status"] not in ENDED, now["last_error"] or now["status"]
            for event in self.rejoin(now):
                if (
                    event.data != "[DONE]"
                    and event.data.get("status") in statuses
                    and "run.step" not in event.name
                ):
                    break
        return now


def sent_events(response: requests.Response) -> Iterator[SentEvent]:
    """The events of a response, as they come; closing the iteration closes the connection."""
    with response:
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        for event in iter_events(iter(lambda: response.raw.read1(65536), b"")):
            if event.event == "done":
                assert event.data == "[DONE]"
                yield SentEvent("done", "[DONE]", None)
            else:
                sent = SentEvent(event.event, json.loads(event.data), int(event.id or -1))
                if not event.event.endswith(".delta") or (sent.id or 0) < 50:  # one is like the other
                    check_event(sent.name, sent.data)
                yield sent


def _ok(response: requests.Response) -> JSON:
    assert response.status_code == 200, response.text
    payload: JSON = response.json()
    return payload


@contextmanager
def thread_server(folder: Path, models: Models, embedder: Embedder | None = None) -> Iterator[Server]:
    """A server in a thread."""
    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(
            listener,
            Settings(
                f"sqlite:///{folder / 'thread.sqlite'}",
                TOKEN,
                models,
                embedder=embedder or default_embedder(),
                interpreter=interpreter(None),
            ),
            lambda url: ready.set(),
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(30)
        yield server
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Script:
    """A scripted model on a server, and assistants that answer with it."""

    def __init__(self, api: Api, name: str, model: Scripted) -> None:
        self.api, self.name, self.model = api, name, model

    def assistant(self, **params: Any) -> str:
        """The id of a new assistant."""
        id: str = self.api.post("/assistants", {"model": self.name, **params})["id"]
        return id


Scripts = Callable[..., Script]


def waiting_run(api: Api, script: Scripts, *turns: Turn, **params: Any) -> JSON:
    """A run that requires action."""
    assistant = script(CALL, *(turns or (ANSWER,))).assistant(tools=[WEATHER], **params)
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    return api.until(run, "requires_action")


def names(events: Iterable[SentEvent]) -> list[str]:
    """The names of events, a row of the same ones as one."""
    return [name for name, _ in groupby(event.name for event in events)]


def as_events(body: str) -> list[SentEvent]:
    """The events of a recorded stream."""
    events = []
    for block in filter(None, body.split("\n\n")):
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        events.append(SentEvent(name, data if name == "done" else json.loads(data), None))
    return events


class ServerProcess:
    """A server in a process, with the model `slow`, on a file or a URL."""

    def __init__(self, database: Path | str, *arguments: str) -> None:
        url = database if isinstance(database, str) else f"sqlite:///{database}"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("slow_server.py"), url, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.stderr.read() if self.process.stderr else ""
        self.api = Api(self.url)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self._ended()

    def stop(self) -> int:
        """End it in order; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def _ended(self) -> int:
        self.errors = self.process.communicate(timeout=30)[1]
        return self.process.returncode
