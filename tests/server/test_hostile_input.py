"""Input that no honest program sends: it is kept as it is, or refused, and never breaks anything."""

from __future__ import annotations

import json
import logging
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from served import OUTPUTS, TOKEN, WEATHER, Api, Scripts, waiting_run

JSON = dict[str, Any]
NASTY = [
    "\0",
    "\ud83d",
    "\udc00\ud83d",
    "\u2028",
    "\x1b[31m",
    "𝕏" * 200,
    "'; DROP TABLE runs; --",
    "%00",
    "{}",
    "‮",
]


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"properties": {"x": value}} if len(str(value)) % 2 else {"items": [value]}
    return value


@pytest.mark.parametrize("text", NASTY)
def test_any_text_is_kept_wherever_text_is(api: Api, text: str) -> None:
    labels = {"k": text[:512], text[:64]: "v"}
    tool = {
        "type": "function",
        "function": {"name": "f", "description": text, "parameters": {"description": text}},
    }
    made = api.post(
        "/assistants",
        {"model": "demo", "name": text, "instructions": text, "metadata": labels, "tools": [tool]},
    )
    kept = api.get(f"/assistants/{made['id']}")
    assert (kept["name"], kept["instructions"], kept["metadata"]) == (text, text, labels)
    assert kept["tools"][0]["function"]["description"] == text
    thread = api.post("/threads", {"messages": [{"role": "user", "content": text}]})["id"]
    [message] = api.get(f"/threads/{thread}/messages")["data"]
    assert message["content"][0]["text"]["value"] == text


@pytest.mark.parametrize("text", NASTY)
def test_any_output_is_kept(api: Api, script: Scripts, text: str) -> None:
    run = waiting_run(api, script)
    outputs = {"tool_outputs": [{**OUTPUTS["tool_outputs"][0], "output": text}]}
    api.post(f"{api.run_path(run)}/submit_tool_outputs", outputs)
    api.until(run, "completed")
    step = api.get(f"{api.run_path(run)}/steps", order="asc")["data"][0]
    assert step["step_details"]["tool_calls"][0]["function"]["output"] == text


@pytest.mark.parametrize("id", ["\0", "\ud83d", "a\nb", "\x7f", "\x1b[31m"])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/assistants", lambda id: {"model": id}, "model"),
        ("/threads/t/runs", lambda id: {"assistant_id": id}, "assistant_id"),
        ("/threads/t/runs", lambda id: {"assistant_id": "a", "model": id}, "model"),
        (
            "/threads/t/runs/r/submit_tool_outputs",
            lambda id: {"tool_outputs": [{"tool_call_id": id}]},
            "tool_outputs[0].tool_call_id",
        ),
    ],
)
def test_what_no_database_takes_is_no_id_and_no_model(
    api: Api, id: str, path: str, body: Any, param: str
) -> None:
    status, error = api.refused("POST", path, body(id))
    assert (status, error["param"], error["code"]) == (400, param, "invalid_value")


@pytest.mark.parametrize(
    "id", ["%00", "%ff", "%ed%a0%bd", "..%2f..", "a" * 10_000, "%F0%9F%A7%A5", "'", "%22"]
)
def test_an_id_that_nothing_can_have_names_nothing(api: Api, id: str) -> None:
    for path in (
        f"/threads/{id}",
        f"/assistants/{id}",
        f"/threads/{id}/runs/{id}/steps/{id}",
        f"/threads/{id}/messages",
    ):
        status, _ = api.refused("GET", path)
        assert status in (400, 404)
    for query in ("after", "before", "run_id"):
        response = api.session.get(f"{api.url}/v1/threads/t/messages?{query}={id}", timeout=10)
        assert response.status_code in (400, 404)


@pytest.mark.parametrize(
    "literal",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "9" * 5000,
        "01",
        "+1",
        "0x10",
        "'a'",
        '"\n"',
        '"\\ud8"',
        "[1,]",
    ],
)
def test_what_is_no_json_is_refused(api: Api, literal: str) -> None:
    body = f'{{"name": "f", "parameters": {{"default": {literal}}}}}'
    response = api.session.post(
        f"{api.url}/v1/assistants",
        data=f'{{"model": "demo", "tools": [{{"type": "function", "function": {body}}}]}}'.encode(),
        timeout=10,
    )
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "We could not parse the JSON body of your request."


@pytest.mark.parametrize("number", [2**63, 10**30, -(10**30), 10**400, 0.1, 1e300, True, "1"])
@pytest.mark.parametrize("name", ["max_prompt_tokens", "temperature", "top_p"])
def test_numbers_beyond_the_limits_are_refused(api: Api, name: str, number: Any) -> None:
    if name != "max_prompt_tokens" and number == 0.1:
        number = -number
    status, error = api.refused("POST", "/threads/t/runs", {"assistant_id": "a", name: number})
    assert (status, error["param"]) == (400, name)
    assert len(error["message"]) < 200


def test_objects_may_be_in_one_another_but_not_without_end(api: Api) -> None:
    def parameters(depth: int) -> JSON:
        return {
            "model": "demo",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": nested(depth)}}],
        }

    made = api.post("/assistants", parameters(40))
    assert api.get(f"/assistants/{made['id']}")["tools"][0]["function"]["parameters"] == nested(40)
    for depth in (60, 200, 400):
        status, error = api.refused("POST", "/assistants", parameters(depth))
        assert (status, error["code"]) == (400, "object_above_max_depth")
        assert error["param"] == "tools[0].function.parameters"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "utf-8-sig"])
def test_other_encodings_are_read_or_refused(api: Api, encoding: str) -> None:
    body = json.dumps({"metadata": {"k": "naïve"}}, ensure_ascii=False).encode(encoding)
    response = api.session.post(f"{api.url}/v1/threads", data=body, timeout=10)
    assert response.status_code in (200, 400)
    if response.ok:
        assert response.json()["metadata"] == {"k": "naïve"}


def test_the_same_key_twice_and_thousands_of_keys(api: Api) -> None:
    response = api.session.post(
        f"{api.url}/v1/threads", data=b'{"metadata": {}, "metadata": {"k": "v"}}', timeout=10
    )
    assert response.json()["metadata"] == {"k": "v"}
    assert api.refused("POST", "/threads", {str(n): n for n in range(100_000)})[0] == 400
    assert api.refused("POST", "/threads", {"messages": [{}] * 10_001})[1]["code"] == "array_above_max_length"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/threads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/threads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_next_one_is_served(api: Api, head: bytes) -> None:
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as connection:
        connection.sendall(head)
        connection.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert not said or said.split(b" ", 2)[1] in (b"400", b"401", b"403")
    assert api.get("/threads", limit=1)["object"] == "list"


def test_a_request_that_is_broken_off_does_nothing_and_is_no_error(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(api.url)
    newest = api.get("/threads", limit=1)["data"]
    head = f"POST /v1/threads HTTP/1.1\r\nHost: {address.netloc}\r\napi-key: {TOKEN}\r\nContent-Length: 100\r\n\r\n"
    with caplog.at_level(logging.INFO):
        with socket.create_connection((address.hostname, address.port or 0), timeout=10) as connection:
            connection.sendall(head.encode() + b'{"metadata": {')
        deadline = time.monotonic() + 10
        while not (told := [record for record in caplog.records if "POST" in record.getMessage()]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [record.levelname for record in told] == ["INFO"]
    assert "A request failed." not in caplog.messages
    assert api.get("/threads", limit=1)["data"] == newest


@pytest.mark.parametrize("header", ["Authorization", "api-key"])
@pytest.mark.parametrize(
    "value", [b"Bearer \xff\xfe", b"Bearer", b"bearer  ", b"Basic " + TOKEN.encode(), b"\x80" * 5000]
)
def test_a_nasty_key_is_a_wrong_key(api: Api, header: str, value: bytes) -> None:
    response = api.session.get(
        f"{api.url}/v1/threads", headers={"Authorization": b"", header: value}, timeout=10
    )
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_name_that_a_path_has_twice(api: Api) -> None:
    assert api.refused("GET", "//threads")[0] == 404
    assert api.refused("POST", "/threads/runs/cancel", {})[0] == 404


def test_tools_with_any_parameters_reach_the_model(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script, metadata={"k": "\0"})
    assert run["tools"][0]["function"]["name"] == WEATHER["function"]["name"]  # type: ignore[index]
