"""Who is let in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from served import (
    ANSWER,
    CALL,
    TOKEN,
    WEATHER,
    Scripts,
)

from nbruns.errors import SetupError
from nbruns.server.main import serve
from nbruns.server.middleware import AccessMiddleware

JSON = dict[str, Any]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"api-key": "wrong"}, {"Authorization": TOKEN}]
)
def test_without_the_token_nothing_is_told(url: str, headers: dict[str, str]) -> None:
    for path in ("/v1/threads", "/v1/nothing", "/"):
        response = requests.get(url + path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["x-request-id"]
        assert TOKEN not in response.text


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {TOKEN}"}, {"api-key": TOKEN}])
def test_the_token_is_a_bearer_token_or_an_api_key(url: str, headers: dict[str, str]) -> None:
    assert requests.get(f"{url}/v1/threads", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer "}, {"Authorization": "Bearer"}, {"api-key": " "}]
)
def test_an_empty_credential_is_never_admitted(headers: dict[str, str]) -> None:
    """Not even by a gate that was given an empty token, which no server is."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("let in")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/v1/threads", "headers": raw}
    asyncio.run(AccessMiddleware(app, token="", hosts=None)(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_a_server_is_not_started_with_an_empty_token(tmp_path: Path, token: str) -> None:
    with pytest.raises(SetupError, match=r"The token is empty\. Pass a text"):
        serve(port=0, database_url=f"sqlite:///{tmp_path / 'x.sqlite'}", token=token)


@pytest.mark.parametrize("prefix", ["/openai", "/openai/v1"])
def test_azures_paths_are_served(url: str, prefix: str) -> None:
    address = f"{url}{prefix}/threads?api-version=2024-05-01-preview"
    assert requests.post(address, headers={"api-key": TOKEN}, json={}).json()["object"] == "thread"
    assert requests.post(address, json={}).status_code == 401


def test_openais_azure_client_runs_unchanged(url: str, script: Scripts) -> None:
    assistant = script(CALL, ANSWER).assistant(tools=[WEATHER])
    client = openai.AzureOpenAI(azure_endpoint=url, api_key=TOKEN, api_version="2024-05-01-preview")
    threads: Any = client.beta.threads
    thread = threads.create(messages=[{"role": "user", "content": "What should I wear?"}])
    with threads.runs.stream(thread_id=thread.id, assistant_id=assistant) as stream:
        run = list(stream)[-1].data
    calls = run.required_action.submit_tool_outputs.tool_calls
    outputs = [{"tool_call_id": call.id, "output": "rain"} for call in calls]
    run = threads.runs.submit_tool_outputs_and_poll(run_id=run.id, thread_id=thread.id, tool_outputs=outputs)
    assert run.status == "completed"
    assert threads.messages.list(thread_id=thread.id).data[0].content[0].text.value


def test_health_needs_no_token(url: str) -> None:
    assert requests.get(f"{url}/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "host_refused"),
        ({"Host": "127.0.0.1.evil.example"}, "host_refused"),
        ({"Host": "[::bad"}, "host_refused"),
        ({"Origin": "https://evil.example"}, "origin_refused"),
        ({"Origin": "null"}, "origin_refused"),
        ({"Origin": "http://["}, "origin_refused"),
        ({"Origin": "http://127.0.0.1:1"}, "origin_refused"),
    ],
)
def test_a_web_page_does_not_reach_it(url: str, headers: dict[str, str], code: str) -> None:
    for path in ("/health", "/v1/threads"):
        response = requests.get(url + path, headers={"Authorization": f"Bearer {TOKEN}", **headers})
        assert (response.status_code, response.json()["error"]["code"]) == (403, code)


def test_a_page_of_its_own_would(url: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert requests.get(f"{url}/v1/threads", headers={**headers, "Origin": url}).status_code == 200
    by_name = url.replace("127.0.0.1", "localhost")
    assert requests.get(f"{url}/health", headers={"Host": by_name.removeprefix("http://")}).status_code == 200
