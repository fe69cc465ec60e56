"""What is refused, and that the answer says why."""

from __future__ import annotations

from typing import Any

import pytest
from served import (
    BROKEN,
    OUTPUTS,
    WEATHER,
    Api,
    Scripts,
    waiting_run,
)

JSON = dict[str, Any]
NO_SUCH_RUN = "/threads/thread_none/runs/run_none"
A, T, R = "/assistants", "/threads", "/threads/thread_none/runs"
MISSING, WRONG_TYPE, WRONG_VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
TOO_LONG, TOO_MANY = "string_above_max_length", "array_above_max_length"
BADLY_NAMED = {"type": "function", "function": {"name": "a b"}}
CUT = {"type": "last_messages"}


def demo(**params: Any) -> JSON:
    return {"model": "demo", **params}


def hosted(kind: str) -> JSON:
    return demo(tools=[{"type": kind}])


def message(**params: Any) -> JSON:
    return {"messages": [params]}


def run(**params: Any) -> JSON:
    return {"assistant_id": "asst_none", **params}


@pytest.mark.parametrize(
    ("path", "body", "param", "code", "said"),
    [
        (A, {}, "model", MISSING, "'model'"),
        (A, {"model": "gpt-5"}, "model", "model_not_found", "'demo'"),
        (A, {"model": 5}, "model", WRONG_TYPE, "expected a string, but got an integer"),
        (A, demo(nmae="x"), "nmae", "unknown_parameter", "'nmae'"),
        (A, demo(name="x" * 257), "name", TOO_LONG, "256"),
        (A, demo(instructions="x" * 256_001), "instructions", TOO_LONG, "256000"),
        (A, demo(temperature=2.1), "temperature", "decimal_above_max_value", "<= 2"),
        (A, demo(top_p=True), "top_p", WRONG_TYPE, "a boolean"),
        (A, demo(reasoning_effort="huge"), "reasoning_effort", WRONG_VALUE, "'xhigh'"),
        (A, demo(response_format="json"), "response_format", WRONG_VALUE, "'auto'"),
        (A, hosted("web"), "tools[0].type", "unsupported_tool", "function tools"),
        (A, hosted("web"), "tools[0].type", "unsupported_tool", "'web'"),
        (A, demo(id="asst_" + "x" * 60), "id", TOO_LONG, "64"),
        (A, demo(id="assistant 1"), "id", WRONG_VALUE, "asst_ and letters"),
        (A, demo(tools=[WEATHER] * 129), "tools", TOO_MANY, "128"),
        (A, demo(tools=[BADLY_NAMED]), "tools[0].function.name", WRONG_VALUE, "pattern"),
        (A, demo(metadata={str(n): "" for n in range(17)}), "metadata", "object_above_max_properties", "16"),
        (A, demo(metadata={"x" * 65: ""}), "metadata key", TOO_LONG, "64"),
        (A, demo(metadata={"x": "y" * 513}), "metadata.x", TOO_LONG, "512"),
        (A, demo(metadata={"x": 1}), "metadata.x", WRONG_TYPE, "a string"),
        (T, {"messages": "hi"}, "messages", WRONG_TYPE, "an array"),
        (T, message(content="hi"), "messages[0].role", MISSING, "role"),
        (T, message(role=5, content="hi"), "messages[0].role", WRONG_TYPE, "expected a string"),
        (T, message(role="system", content="hi"), "messages[0].role", WRONG_VALUE, "'user'"),
        (T, message(role="user", content=""), "messages[0].content", "empty_string", "length 0"),
        (T, message(role="user", content=[]), "messages[0].content", "empty_array", "minimum length 1"),
        (T, message(role="user", content=[{"type": "audio"}]), "messages[0].content[0].type", WRONG_VALUE, "'text'"),
        (R, {}, "assistant_id", MISSING, "assistant_id"),
        (R, run(stream="yes"), "stream", WRONG_TYPE, "expected a boolean"),
        (R, run(max_completion_tokens=255), "max_completion_tokens", "integer_below_min_value", "256"),
        (R, run(tools=[WEATHER] * 21), "tools", TOO_MANY, "20"),
        (R, run(tool_choice="f"), "tool_choice", WRONG_VALUE, "'required'"),
        (R, run(truncation_strategy=CUT), "truncation_strategy.last_messages", MISSING, "last_messages"),
        (f"{NO_SUCH_RUN}/submit_tool_outputs", {}, "tool_outputs", MISSING, "tool_outputs"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_wrong_is_named(
    api: Api, path: str, body: JSON, param: str, code: str, said: str
) -> None:
    status, error = api.refused("POST", path, body)
    assert (status, error["type"], error["param"], error["code"]) == (
        400,
        "invalid_request_error",
        param,
        code,
    )
    assert said in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/assistants/asst_none", "No assistant found with id 'asst_none'."),
        ("DELETE", "/assistants/asst_none", "No assistant found with id 'asst_none'."),
        ("GET", "/threads/thread_none", "No thread found with id 'thread_none'."),
        ("DELETE", "/threads/thread_none", "No thread found with id 'thread_none'."),
        ("GET", "/threads/thread_none/messages", "No thread found with id 'thread_none'."),
        ("GET", R, "No thread found with id 'thread_none'."),
        ("GET", NO_SUCH_RUN, "No run found with id 'run_none'."),
        ("GET", f"{NO_SUCH_RUN}/steps", "No run found with id 'run_none'."),
        ("GET", f"{NO_SUCH_RUN}/stream", "No run found with id 'run_none'."),
        ("POST", f"{NO_SUCH_RUN}/cancel", "No run found with id 'run_none'."),
        ("GET", "/nothing", "Invalid URL (GET /v1/nothing)"),
    ],
)
def test_what_is_not_there_is_not_found(api: Api, method: str, path: str, message: str) -> None:
    status, error = api.refused(method, path)
    assert (status, error["message"]) == (404, message)


def test_an_object_is_found_only_where_it_belongs(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    elsewhere = api.thread_with()
    [step] = api.get(f"{api.run_path(run)}/steps")["data"]
    [message] = api.get(f"/threads/{run['thread_id']}/messages")["data"]
    for path in (
        f"/threads/{elsewhere}/runs/{run['id']}",
        f"/threads/{elsewhere}/runs/{run['id']}/steps/{step['id']}",
        f"/threads/{elsewhere}/messages/{message['id']}",
    ):
        assert api.refused("GET", path)[0] == 404
    assert (
        api.refused("POST", f"/threads/{elsewhere}/runs/{run['id']}/submit_tool_outputs", OUTPUTS)[0] == 404
    )
    assert api.refused("POST", f"/threads/{elsewhere}/runs/{run['id']}/cancel")[0] == 404


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b'"text"', b"[" * 100_000, b'{"metadata": ' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    response = api.session.post(f"{api.url}/v1/threads", data=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_without_end_is_refused(api: Api) -> None:
    response = api.session.post(f"{api.url}/v1/threads", data=(b" " * 1024 * 1024 for _ in range(17)))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_a_nul_is_refused_before_a_database_chokes_on_it(api: Api) -> None:
    for path in ("/threads/thread%00", "/runs?status=queued%00"):
        assert api.refused("GET", path)[0] == 400


def test_an_error_of_the_server_is_an_answer_like_others(api: Api) -> None:
    for _ in range(2):  # on the same connection
        status, error = api.refused("POST", A, {"model": BROKEN})
        assert (status, error["type"], error["code"]) == (500, "server_error", None)
        assert "secret" not in error["message"]


def test_a_method_that_a_path_lacks_is_refused(api: Api) -> None:
    assert api.refused("PUT", "/threads")[0] == 405
