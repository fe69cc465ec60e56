"""Upstreams: which endpoint is asked, what is tried again, and what becomes of failures. Against scripted ones."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any

import pytest
from conversations import WEATHER, answer, asked, run, upstream
from upstream_server import (
    CHAT,
    RESPONSES,
    ScriptedUpstream,
    chat,
    chunk,
    error,
    response,
    text_event,
    upstream_server,
)

from nbruns.errors import SetupError
from nbruns.server.models import ModelError, Models, Prompt, TextDelta

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs the package openai")
KEY = "sk-a-key-that-must-not-show"
HI = chat({"content": "Hi"})
HELLO = response(text_event("Hello"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", KEY)


def test_chat_completions_is_asked_first() -> None:
    with upstream_server((200, HI)) as server:
        assert answer(upstream(server.url), asked("Hi")).text == "Hi"
        assert server.paths == [CHAT]


def test_responses_is_asked_where_there_is_no_chat_completions_and_that_is_remembered() -> None:
    with upstream_server((200, HELLO), (200, HELLO), has=(RESPONSES,)) as server:
        model = upstream(server.url)
        assert [answer(model, asked(text)).text for text in ("Hi", "Hi again")] == ["Hello", "Hello"]
        assert server.paths == [CHAT, RESPONSES, RESPONSES]


ELSEWHERE: list[tuple[int, str]] = [
    (404, "This model is only supported in v1/responses and not in v1/chat/completions."),
    (
        400,
        "Function tools with reasoning_effort are not supported in /v1/chat/completions. Use /v1/responses.",
    ),
    (405, "Method not allowed"),
    (501, "Not implemented"),
]


@pytest.mark.parametrize(("status", "said"), ELSEWHERE)
def test_responses_is_asked_for_the_models_that_want_it(status: int, said: str) -> None:
    with upstream_server((status, error(said)), (200, HELLO), (200, HELLO), (200, HI)) as server:
        model = upstream(server.url)
        for name, text in (("pro", "Hello"), ("pro", "Hello"), ("mini", "Hi")):
            assert answer(model, Prompt(name, asked("Hi").messages)).text == text
        assert server.paths == [CHAT, RESPONSES, RESPONSES, CHAT]


def test_a_model_that_is_nowhere_is_named() -> None:
    with upstream_server((404, error("No such model")), has=(CHAT,)) as server:
        with pytest.raises(ModelError, match=r"has no model 'any' \(No such model\)\. Name one") as caught:
            answer(upstream(server.url), asked("Hi"))
        assert server.paths == [CHAT, RESPONSES]
    assert caught.value.code == "invalid_prompt"


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_redirection_is_not_followed(api: str) -> None:
    with upstream_server((200, HI)) as elsewhere:
        moved = (307, "", {"Location": elsewhere.url + "/chat/completions"})
        with (
            upstream_server(moved) as server,
            pytest.raises(ModelError, match=r"redirects \(307\), which is not"),
        ):
            answer(upstream(server.url, api), asked("Hi"))
        assert elsewhere.requests == []


def test_an_answer_that_is_packed_is_refused() -> None:
    packed = {"Content-Encoding": "gzip"}
    with (
        upstream_server((200, HI, packed)) as server,
        pytest.raises(ModelError, match="packed its answer, unasked"),
    ):
        answer(upstream(server.url), asked("Hi"))


@pytest.mark.parametrize(
    ("content", "most"),
    [
        ([chunk({"content": "a" * 9 * 1024**2})], "8,388,608 bytes in one event"),
        (["\ndata: ".join(["a" * 1000] * 9000)], "8,388,608 bytes in one event"),
        ([chunk({"role": "assistant", "ignored": "a" * 1024**2})] * 70, "67,108,864 bytes"),
    ],
    ids=["one line", "lines", "events"],
)
def test_an_answer_without_end_is_cut_off(content: Any, most: str) -> None:
    with upstream_server((200, content)) as server, pytest.raises(ModelError, match=f"sent over {most}"):
        answer(upstream(server.url), asked("Hi"))
        server.gone.wait(10)


@pytest.mark.parametrize(
    ("used", "known"),
    [
        ({"prompt_tokens": 10.0, "completion_tokens": "5"}, (10, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0)),
        ({"prompt_tokens": "many", "completion_tokens": 5}, None),
        ({"prompt_tokens": True, "completion_tokens": 5}, None),
        ({"prompt_tokens": -1, "completion_tokens": 5}, None),
        ({"prompt_tokens": 5}, None),
        ("15 tokens", None),
        (None, None),
    ],
)
def test_usage_is_read_or_missing(used: Any, known: tuple[int, int] | None) -> None:
    with upstream_server((200, chat({"content": "Hi"}, used=used))) as server:
        finish = answer(upstream(server.url), asked("Hi")).finish
    assert finish is not None
    counts = finish.usage and (finish.usage["prompt_tokens"], finish.usage["completion_tokens"])
    assert counts == known


def test_a_content_of_parts_is_its_text() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    parts = [
        thought,
        {"type": "text", "text": "Take "},
        {"type": "text", "text": "a coat."},
        "!",
        None,
        {"x": 1},
    ]
    with upstream_server((200, chat({"content": parts}))) as server:
        assert answer(upstream(server.url), asked("Hi")).text == "Take a coat.!"


@pytest.mark.parametrize(("api", "path"), [("chat", CHAT), ("responses", RESPONSES)])
def test_an_endpoint_that_is_set_is_the_only_one_asked(api: str, path: str) -> None:
    with upstream_server(has=()) as server:
        with pytest.raises(ModelError, match="no such path"):
            answer(upstream(server.url, api), asked("Hi"))
        assert server.paths == [path]


def test_a_default_that_the_model_does_not_take_is_left_out_and_that_is_remembered() -> None:
    refused = (400, error("Unsupported parameter", param="parallel_tool_calls", code="unsupported_parameter"))
    cold = (400, error("Unsupported parameter", param="temperature", code="unsupported_parameter"))
    with upstream_server(refused, cold, (200, HI), (200, HI)) as server:
        model = upstream(server.url)
        for _ in range(2):
            assert answer(model, asked("Hi", WEATHER, temperature=1.0, top_p=1.0)).text == "Hi"
    assert [
        [name in sent for name in ("parallel_tool_calls", "temperature", "top_p")] for sent in server.requests
    ] == [
        [True, True, True],
        [False, True, True],
        [False, False, True],
        [False, False, True],
    ]


def test_what_the_run_has_set_is_not_left_out() -> None:
    refused = (400, error("Unsupported parameter", param="temperature", code="unsupported_parameter"))
    with upstream_server(refused) as server, pytest.raises(ModelError, match="Unsupported parameter"):
        answer(upstream(server.url), asked("Hi", temperature=0.5))


SLOW_DOWN = error("Slow down", code="rate_limit_exceeded")


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_rate_limit_is_waited_for_as_long_as_it_says(api: str) -> None:
    said = HI if api == "chat" else HELLO
    with upstream_server((429, SLOW_DOWN, {"Retry-After": "1"}), (429, SLOW_DOWN), (200, said)) as server:
        before = time.monotonic()
        assert answer(upstream(server.url, api), asked("Hi", deadline=time.time() + 60)).text.startswith("H")
        assert time.monotonic() - before >= 2  # a second as asked, and one of our own
        assert len(server.requests) == 3


def test_a_rate_limit_in_mid_stream_is_waited_for_where_nothing_had_come() -> None:
    limited = response(status="failed", error={"code": "rate_limit_exceeded", "message": "Slow down"})
    with upstream_server((200, limited), (200, HELLO)) as server:
        assert answer(upstream(server.url, "responses", 1), asked("Hi")).text == "Hello"


@pytest.mark.parametrize("header", [{"Retry-After": "120"}, {"retry-after-ms": "120000"}])
def test_a_rate_limit_that_lasts_longer_than_the_run_ends_it_at_once(header: dict[str, str]) -> None:
    with upstream_server((429, SLOW_DOWN, header)) as server:
        with pytest.raises(ModelError, match="Slow down") as caught:
            answer(upstream(server.url, max_retries=5), asked("Hi", deadline=time.time() + 60))
        assert len(server.requests) == 1
    assert caught.value.code == "rate_limit_exceeded"


def test_a_quota_that_is_used_up_is_not_waited_for() -> None:
    with upstream_server((429, error("You exceeded your quota", code="insufficient_quota"))) as server:
        with pytest.raises(ModelError, match="quota") as caught:
            answer(upstream(server.url), asked("Hi", deadline=time.time() + 60))
        assert len(server.requests) == 1
    assert caught.value.code == "rate_limit_exceeded"


def test_what_fails_in_passing_is_tried_again() -> None:
    with upstream_server((500, error("Oops")), (200, [chunk()]), (200, HI)) as server:
        with pytest.raises(ModelError, match="without finishing"):
            answer(upstream(server.url, max_retries=1), asked("Hi"))
        assert len(server.requests) == 2
        assert answer(upstream(server.url), asked("Hi")).text == "Hi"


def test_nothing_is_tried_again_once_a_part_of_the_answer_has_come() -> None:
    with upstream_server((200, [chunk({"content": "A"}), SLOW_DOWN])) as server:
        with pytest.raises(ModelError, match="Slow down"):
            answer(upstream(server.url, max_retries=3), asked("Hi", deadline=time.time() + 60))
        assert len(server.requests) == 1


TOO_LONG: list[tuple[str, tuple[int, Any]]] = [
    ("chat", (400, error("This model's maximum context length is 8192 tokens", code="context_length_exceeded"))),
    ("chat", (400, error("request (90 tokens) exceeds the available context size", type="exceed_context_size_error"))),
    ("responses", (400, error("Your input exceeds the context window of this model", code="context_length_exceeded"))),
    ("responses", (200, response(status="failed", error={"code": "context_length_exceeded", "message": "Too long"}))),
]  # fmt: skip


@pytest.mark.parametrize(("api", "refused"), TOO_LONG)
def test_of_a_conversation_that_is_too_long_the_middle_is_left_out(api: str, refused: Any) -> None:
    said = [{"role": role, "content": f"{n}{role}"} for n in range(1, 5) for role in ("user", "assistant")]
    system, last = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "And now?"}
    with upstream_server(refused, refused, (200, HI if api == "chat" else HELLO)) as server:
        assert answer(upstream(server.url, api), Prompt("m", [system, *said, last])).text
    name = "messages" if api == "chat" else "input"
    kept = [[message["content"] for message in sent[name]] for sent in server.requests]
    assert [len(messages) for messages in kept] == [10, 6, 4]
    for messages in kept:
        assert (messages[0], messages[1], messages[-1]) == ("Be kind.", "1user", "And now?")


def test_a_question_that_is_too_long_by_itself_is_an_invalid_prompt() -> None:
    with upstream_server(TOO_LONG[0][1]) as server, pytest.raises(ModelError, match="8192") as caught:
        answer(upstream(server.url), asked("Hi"))
    assert caught.value.code == "invalid_prompt" and len(server.requests) == 1


FAILURES: list[tuple[int, Any, str, str]] = [
    (429, error("Slow down"), "rate_limit_exceeded", "Slow down"),
    (400, error("Odd"), "invalid_prompt", "Odd"),
    (422, error("Odd"), "invalid_prompt", "Odd"),
    (413, error("Too large"), "invalid_prompt", "Too large"),
    (400, {"detail": "Odd"}, "invalid_prompt", "400"),
    (500, error(f"Bad {KEY}"), "server_error", "Bad …"),
    (500, error(f"Bad {'a' * 195}{KEY}"), "server_error", "Bad a"),
    (502, "<html>" + "x" * 5000, "server_error", "502"),
    (503, error("y" * 5_000_000), "server_error", "sent over 1,048,576 bytes"),
    (503, error("\x1b[31m\n\u202ered\x00"), "server_error", "red"),
    (500, {"error": {"message": {"a": "b"}}}, "server_error", "a"),
    (500, "null", "server_error", "500"),
    (200, [chunk({"content": "A"}), error("Overloaded")], "server_error", "Overloaded"),
    (200, [chunk({"content": "A"}), error("Slow", code=429)], "rate_limit_exceeded", "Slow"),
    (200, [chunk({"content": "A"})], "server_error", "without finishing"),
    (200, [chunk({"content": "A"}), "{no JSON"], "server_error", "failed"),
    (200, [chunk({"content": "A"}), "[1, 2]"], "server_error", "list where an object was due"),
    (200, "not a stream", "server_error", "without finishing"),
]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_failures(number: int) -> None:
    status, content, code, message = FAILURES[number]
    with upstream_server((status, content)) as server, pytest.raises(ModelError) as caught:
        answer(upstream(server.url), asked("Hi"))
    assert caught.value.code == code and message in caught.value.message
    assert "127.0.0.1" in caught.value.message
    assert KEY[:8] not in caught.value.message and caught.value.message.isprintable()
    assert len(caught.value.message) < 300
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_by_its_variable_only(status: int) -> None:
    with upstream_server((status, error(f"Incorrect API key provided: {KEY[:12]}***"))) as server:
        with pytest.raises(ModelError, match=rf"refused the key \({status}\): set NBRUNS_UPSTREAM") as caught:
            answer(upstream(server.url), asked("Hi"))
    assert KEY[:8] not in str(caught.value) and caught.value.code == "server_error"


def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"), upstream_server((200, HI), (500, error(KEY))) as server:
        model = upstream(server.url)
        answer(model, asked("Hi"))
        with pytest.raises(ModelError):
            answer(model, asked("Hi"))
        assert server.requests[0]["key"] == f"Bearer {KEY}"
    assert caplog.records and KEY not in caplog.text
    assert KEY not in repr(model) + repr(vars(model)["_client"])


@pytest.mark.parametrize("given", [f"{KEY}\n", f" {KEY} "])
def test_white_space_around_the_key_is_not_sent(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRUNS_UPSTREAM_API_KEY", given)
    with upstream_server((200, HI)) as server:
        answer(upstream(server.url), asked("Hi"))
        assert server.requests[0]["key"] == f"Bearer {KEY}"


def test_without_a_key_a_placeholder_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBRUNS_UPSTREAM_API_KEY")
    with upstream_server((200, HI)) as server:
        answer(upstream(server.url), asked("Hi"))
        assert server.requests[0]["key"] == "Bearer none"


def test_the_key_of_openai_is_the_second_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    with upstream_server((200, HI), (200, HI)) as server:
        answer(upstream(server.url), asked("Hi"))
        monkeypatch.delenv("NBRUNS_UPSTREAM_API_KEY")
        answer(upstream(server.url), asked("Hi"))
        assert [sent["key"] for sent in server.requests] == [f"Bearer {KEY}", "Bearer sk-other"]


def test_nobody_there() -> None:
    with upstream_server() as server:
        url = server.url
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:\d+ failed: Connection error: Connection refused\.$"):
        answer(upstream(url), asked("Hi"))


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(ModelError, match=r"^The upstream nowhere\.invalid failed: Connection error: \w"):
        answer(upstream("http://nowhere.invalid/v1"), asked("Hi"))


def test_one_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        model = upstream(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=0.2)
        with pytest.raises(ModelError, match=r"failed: Request timed out\.$"):
            answer(model, asked("Hi"))


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("how", ["close", "cancel"])
def test_stopping_closes_the_connection(api: str, how: str) -> None:
    word = "word " * 2000
    endless = [chunk({"content": word}) if api == "chat" else text_event(word)] * 10_000

    async def stop(server: ScriptedUpstream) -> None:
        deltas = upstream(server.url, api).answer(asked("Hi"))
        if how == "close":
            async with aclosing(deltas):
                assert isinstance(await anext(deltas), TextDelta)
            return
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in deltas:
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    with upstream_server((200, endless)) as server:
        run(stop(server))
        assert server.gone.wait(10)


def test_names_that_are_not_known_here_go_upstream() -> None:
    with upstream_server((200, HI)) as server:
        models = Models(upstream=server.url, upstream_api="chat")
        assert answer(models.resolve("llama-9"), Prompt("llama-9", asked("Hi").messages)).text == "Hi"
        assert server.requests[0]["model"] == "llama-9"
    assert models.resolve("other") is models.resolve("llama-9")
    assert models.resolve("demo") is not models.resolve("other")


@pytest.mark.parametrize("url", ["localhost:1234", "ftp://host/v1", "http://"])
def test_an_upstream_must_be_a_url(url: str) -> None:
    with pytest.raises(SetupError, match="must be the URL"):
        Models(upstream=url).resolve("m")


def test_an_upstream_has_one_of_two_apis() -> None:
    with pytest.raises(SetupError, match="chat or responses"):
        Models(upstream="http://127.0.0.1:9/v1", upstream_api="completions").resolve("m")


def test_whether_an_upstream_has_a_model_is_asked_once() -> None:
    async def lacking(model: Any, *names: str) -> list[str | None]:
        return [await model.lacks(name) for name in names]

    with upstream_server((200, HI), models=("qwen3", "meta/llama")) as server:
        model = upstream(server.url)
        known, gone, slashed, again = asyncio.run(lacking(model, "qwen3", "gpt-4o", "meta/llama", "qwen3"))
        assert (known, slashed, again) == (None, None, None)
        assert gone is not None and "has no model 'gpt-4o' (The model 'gpt-4o' does not exist)" in gone
        assert server.asked_for == ["qwen3", "gpt-4o", "meta/llama"]


def test_an_upstream_that_does_not_say_may_have_every_model() -> None:
    with upstream_server() as server:
        silent: Any = upstream(server.url)
        assert asyncio.run(silent.lacks("any")) is None
        assert server.asked_for == ["any"]
    gone: Any = upstream(server.url)
    assert asyncio.run(gone.lacks("any")) is None
