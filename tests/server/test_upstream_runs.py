"""Runs of models that are upstream: from the endpoint's events to the run's. Against scripted endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from served import WEATHER, Api, names
from test_cli import served
from upstream_server import (
    CHAT,
    USED,
    ScriptedUpstream,
    call,
    chat,
    chunk,
    error,
    response,
    text_event,
    upstream_server,
)

import nbruns
from nbruns.server.models import Models

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs the package openai")
JSON = dict[str, Any]
KEY = "sk-a-key-that-must-not-show"
_names = (f"upstream-{number}" for number in count(1))


class Assistant:
    """An assistant whose model is upstream."""

    def __init__(self, api: Api, models: Models, server: ScriptedUpstream, endpoint: str) -> None:
        from nbruns.server.models.upstream import Upstream

        name = next(_names)
        models.add(name, Upstream(server.url, api=endpoint))
        self.api, self.server = api, server
        self.id = api.post("/assistants", {"model": name})["id"]

    def run(self, *messages: JSON, **params: Any) -> list[Any]:
        """The events of a new run on a new thread."""
        thread = self.api.post(
            "/threads", {"messages": list(messages) or [{"role": "user", "content": "Hi"}]}
        )
        body = {"assistant_id": self.id, **params}
        return list(self.api.stream(f"/threads/{thread['id']}/runs", body))


@pytest.fixture
def upstream(api: Api, models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Assistant]]:
    """upstream(answer, …, endpoint="chat"): an assistant whose model's upstream gives these answers."""
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", KEY)
    open_servers = []

    def make(*answers: Any, endpoint: str = "chat") -> Assistant:
        server = upstream_server(*answers)
        open_servers.append(server)
        return Assistant(api, models, server.__enter__(), endpoint)

    yield make
    for server in open_servers:
        server.__exit__(None, None, None)


Upstreams = Callable[..., Assistant]
REFUSAL = {"type": "response.refusal.delta", "output_index": 0, "content_index": 0, "item_id": "msg_1"}
REFUSED: list[tuple[str, list[Any]]] = [
    ("chat", chat({"content": None, "refusal": "I can't "}, {"refusal": "do that."})),
    ("responses", response({**REFUSAL, "delta": "I can't "}, {**REFUSAL, "delta": "do that."})),
]


@pytest.mark.parametrize(("endpoint", "said"), REFUSED)
def test_a_refusal_is_a_part_of_its_own(upstream: Upstreams, endpoint: str, said: list[Any]) -> None:
    events = upstream((200, said), endpoint=endpoint).run()
    deltas = [event.data["delta"]["content"][0] for event in events if event.name == "thread.message.delta"]
    assert deltas == [
        {"index": 0, "type": "refusal", "refusal": "I can't "},
        {"index": 0, "type": "refusal", "refusal": "do that."},
    ]
    [message] = [event.data for event in events if event.name == "thread.message.completed"]
    assert message["content"] == [{"type": "refusal", "refusal": "I can't do that."}]
    assert names(events)[-2:] == ["thread.run.completed", "done"]


def test_what_was_refused_is_part_of_the_conversation(upstream: Upstreams, api: Api) -> None:
    assistant = upstream((200, chat({"refusal": "No."})), (200, chat({"content": "Fine."})))
    thread = api.post("/threads", {"messages": [{"role": "user", "content": "Do it"}]})
    for _ in range(2):
        list(api.stream(f"/threads/{thread['id']}/runs", {"assistant_id": assistant.id}))
    assert assistant.server.requests[1]["messages"] == [
        {"role": "user", "content": "Do it"},
        {"role": "assistant", "content": "No."},
    ]


def test_text_and_refusal_are_parts_beside_each_other(upstream: Upstreams) -> None:
    events = upstream((200, chat({"content": "Well. "}, {"refusal": "No."}, {"content": "Sorry."}))).run()
    deltas = [event.data["delta"]["content"][0] for event in events if event.name == "thread.message.delta"]
    assert [(part["index"], part["type"]) for part in deltas] == [(0, "text"), (1, "refusal"), (0, "text")]
    [message] = [event.data for event in events if event.name == "thread.message.completed"]
    assert message["content"] == [
        {"type": "text", "text": {"value": "Well. Sorry.", "annotations": []}},
        {"type": "refusal", "refusal": "No."},
    ]


def test_cached_and_reasoning_tokens_are_added_up_over_a_run(upstream: Upstreams, api: Api) -> None:
    used = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    called = chat(call(0, "call_a", "get_weather", "{}"), finish="tool_calls", used=used)
    assistant = upstream((200, called), (200, chat({"content": "Cold."}, used=used)))
    run = assistant.run(tools=[WEATHER])[-2].data
    outputs = {"tool_outputs": [{"tool_call_id": "call_a", "output": "-3 °C"}]}
    api.post(f"{api.run_path(run)}/submit_tool_outputs", outputs)
    run = api.until(run, "completed")
    assert run["usage"] == {
        "prompt_tokens": 18,
        "completion_tokens": 8,
        "total_tokens": 26,
        "prompt_token_details": {"cached_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 6},
    }
    steps = api.get(f"{api.run_path(run)}/steps")["data"]
    assert [step["usage"]["prompt_token_details"]["cached_tokens"] for step in steps] == [5, 5]


FILTERED: list[tuple[str, list[Any]]] = [
    ("chat", chat({"content": "A"}, finish="content_filter")),
    (
        "responses",
        response(text_event("A"), status="incomplete", incomplete_details={"reason": "content_filter"}),
    ),
]


@pytest.mark.parametrize(("endpoint", "said"), FILTERED)
def test_a_content_filter_fails_the_run(upstream: Upstreams, endpoint: str, said: list[Any]) -> None:
    events = upstream((200, said), endpoint=endpoint).run()
    run = events[-2].data
    assert (run["status"], run["last_error"]["code"]) == ("failed", "invalid_prompt")
    [message] = [event.data for event in events if event.name == "thread.message.incomplete"]
    assert message["incomplete_details"] == {"reason": "content_filter"}


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_an_error_becomes_last_error_without_the_key_and_without_its_bulk(
    upstream: Upstreams, endpoint: str
) -> None:
    hostile = error(f"{KEY} <script>\x1b[31m" + "x" * 1_000_000)
    run = upstream((400, hostile), endpoint=endpoint).run()[-2].data
    assert (run["status"], run["last_error"]["code"]) == ("failed", "invalid_prompt")
    message = run["last_error"]["message"]
    assert "(400): … <script>" in message and message.isprintable() and len(message) < 300
    assert KEY not in json.dumps(run)


def test_a_rate_limit_that_outlasts_the_run_is_its_last_error(upstream: Upstreams) -> None:
    run = upstream((429, error("Slow down"), {"Retry-After": "3600"})).run()[-2].data
    assert (run["status"], run["last_error"]["code"]) == ("failed", "rate_limit_exceeded")


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_cancelling_a_run_closes_the_connection(upstream: Upstreams, api: Api, endpoint: str) -> None:
    word = "word " * 20
    endless = [chunk({"content": word}) if endpoint == "chat" else text_event(word)]

    class Endless(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            while True:
                time.sleep(0.01)
                yield endless[0]

    assistant = upstream((200, Endless()), endpoint=endpoint)
    thread = api.thread_with()
    events = api.stream(f"/threads/{thread}/runs", {"assistant_id": assistant.id})
    run = next(event.data for event in events if event.name == "thread.run.in_progress")
    next(event for event in events if event.name == "thread.message.delta")
    api.post(f"{api.run_path(run)}/cancel")
    assert assistant.server.gone.wait(10)
    assert api.until(run, "cancelled")["last_error"] is None


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}


def test_images_are_shown_to_the_model(upstream: Upstreams) -> None:
    content = [{"type": "text", "text": "What is this?"}, IMAGE]
    assistant = upstream((200, chat({"content": "A dog."})))
    assert assistant.run({"role": "user", "content": content})[-2].data["status"] == "completed"
    [sent] = assistant.server.requests
    assert sent["messages"] == [{"role": "user", "content": content}]


def test_what_others_than_users_show_is_named(upstream: Upstreams) -> None:
    assistant = upstream((200, chat({"content": "A dog."})))
    assistant.run({"role": "assistant", "content": [IMAGE]}, {"role": "user", "content": "And?"})
    [sent] = assistant.server.requests
    assert sent["messages"][0] == {"role": "assistant", "content": "[image https://example.com/a.png]"}


def test_a_limit_of_prompt_tokens_shortens_the_conversation(upstream: Upstreams) -> None:
    before = [{"role": "user", "content": f"{n} " + "word " * 80} for n in range(10)]
    assistant = upstream((200, chat({"content": "A"})))
    assistant.run(*before, {"role": "user", "content": "And now?"}, max_prompt_tokens=256)
    [sent] = assistant.server.requests
    assert [message["content"][:3] for message in sent["messages"]] == ["0 w", "9 w", "And"]


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_usage_that_nobody_told_is_missing_not_zero(
    upstream: Callable[..., Assistant], endpoint: str
) -> None:
    silent = (
        chat({"content": "Hi"}, used=None)
        if endpoint == "chat"
        else response(text_event("Hi"), used={"x": 1})
    )
    *_, ended, _ = upstream((200, silent), endpoint=endpoint).run()
    assert (ended.name, ended.data["usage"]) == ("thread.run.completed", None)
    frame = nbruns.runs_frame([ended.data])
    assert frame[["prompt_tokens", "completion_tokens", "total_tokens"]].isna().all(axis=None)
    assert frame.runs.cost({frame["model"][0]: (1.0, 1.0)}).isna().all()


def test_usage_of_which_a_part_is_missing_is_missing(upstream: Callable[..., Assistant]) -> None:
    first = [
        chunk(call(0, "call_1", "get_weather", "{}")),
        chunk({}, "tool_calls"),
        chunk(usage=USED),
        "[DONE]",
    ]
    made = upstream((200, first), (200, chat({"content": "Hi"}, used=None)))
    *_, waiting, _ = made.run(tools=[WEATHER])
    run = waiting.data
    calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    outputs = {"tool_outputs": [{"tool_call_id": each["id"], "output": "rain"} for each in calls]}
    *_, ended, _ = made.api.stream(f"{made.api.run_path(run)}/submit_tool_outputs", outputs)
    assert (ended.name, ended.data["usage"]) == ("thread.run.completed", None)
    steps = made.api.get(f"{made.api.run_path(run)}/steps", order="asc")["data"]
    assert [step["usage"] and step["usage"]["total_tokens"] for step in steps] == [13, None]


@pytest.mark.parametrize(
    "more",
    [
        lambda n: chunk({"content": "word " * 2000}),
        lambda n: chunk(call(0, "call_1" if n == 0 else None, "f" if n == 0 else None, "1" * 10_000)),
        lambda n: chunk(call(n, f"call_{n}", "f", "{}")),
    ],
    ids=["text", "arguments", "calls"],
)
def test_an_answer_that_goes_on_forever_is_cut_off(
    upstream: Callable[..., Assistant], more: Callable[[int], JSON]
) -> None:
    made = upstream((200, [more(n) for n in range(400)]))
    *_, ended, _ = made.run(tools=[WEATHER])
    assert ended.name == "thread.run.failed"
    assert "it was cut off" in ended.data["last_error"]["message"]


def test_a_model_that_the_upstream_lacks_is_refused_and_its_runs_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = (404, error("The model 'retired' does not exist", code="model_not_found"))
    with upstream_server(
        gone, (200, chat({"content": "Hi"})), has=(CHAT,), models=("qwen3", "retired")
    ) as up:
        options = (
            "--upstream",
            up.url,
            "--alias",
            "gpt-4o=qwen3",
            "--alias",
            "gpt-4*=gone",
            "--alias",
            "old=retired",
        )
        with served(tmp_path, *options) as (_, url, _):
            api = Api(url.removesuffix("/v1"), (tmp_path / "token").read_text().strip())
            listed = {each["id"]: each["owned_by"] for each in api.get("/models")["data"]}
            assert listed.items() >= {"qwen3": "upstream", "gpt-4o": "alias", "demo": "nbruns"}.items()
            lacks = f"The upstream {up.url[7:-3]} has no model"
            for name, said in (
                ("gpt-5", f"{lacks} 'gpt-5' (The model 'gpt-5' does not exist). Name one that it has."),
                (
                    "gpt-4-turbo",
                    f"'gpt-4-turbo' stands for 'gone' here. {lacks} 'gone' (The model 'gone' does not",
                ),
            ):
                assistant = api.post("/assistants", {"model": "demo"})["id"]
                for status, method, path, body in (
                    (400, "POST", "/assistants", {"model": name}),
                    (400, "POST", f"/assistants/{assistant}", {"model": name}),
                    (
                        400,
                        "POST",
                        f"/threads/{api.thread_with()}/runs",
                        {"assistant_id": assistant, "model": name},
                    ),
                    (400, "POST", "/threads/runs", {"assistant_id": assistant, "model": name}),
                    (404, "GET", f"/models/{name}", None),
                ):
                    got, refused = api.refused(method, path, body)
                    assert (got, refused["code"], refused["param"]) == (status, "model_not_found", "model")
                    assert refused["message"].startswith(said)
            assert api.get("/models/gpt-4o")["owned_by"] == "alias"
            # One that the upstream has ceased to have since it said so.
            assistant = api.post("/assistants", {"model": "old"})["id"]
            run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
            failed = api.until(run, "failed")
            assert (failed["model"], failed["last_error"]["code"]) == ("old", "invalid_prompt")
            assert failed["last_error"]["message"].startswith(
                f"'old' stands for 'retired' here. {lacks} 'retired'"
            )
            assistant = api.post("/assistants", {"model": "gpt-4o"})["id"]
            run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
            assert api.until(run, "completed")["model"] == "gpt-4o"
            assert up.requests[-1]["model"] == "qwen3"
