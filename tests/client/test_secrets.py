"""A key is sent to its server and is nowhere else: each repr, error, log record, widget and saved notebook is searched.

The servers here are as indiscreet as they can be: they say the key back in their errors.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets
import nbformat
import pytest
from nbclient import NotebookClient
from socket_server import Answer, Received, SocketServer, answer, hang_up, stream

import nbruns
from nbruns.client import Client

KEY = "sk-known-0123456789"
TOKEN = "eyJ-token-0123456789"
NETRC = "netrc-password-0123456789"
IDS = {"thread_id": "thread_1", "assistant_id": "asst_1"}
RUN = {"id": "run_1", "object": "thread.run", "status": "completed", **IDS}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKING = {
    **RUN,
    "status": "requires_action",
    "required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [CALL]}},
}


class Token(NamedTuple):
    """What azure-identity's credentials give."""

    token: str
    expires_on: int = 0


class Credential:
    """Like one of azure-identity's."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def get_token(self, *scopes: str) -> Token:
        self.scopes += scopes
        return Token(TOKEN)


def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"Rain in {city}"


def clients(url: str) -> list[Client]:
    """One for each way of saying who we are."""
    options: dict[str, Any] = {"timeout": 2.0, "max_retries": 0}
    return [
        Client(f"{url}/v1", KEY, **options),
        Client(f"{url}/openai", KEY, **options),
        Client(f"{url}/v1", token_provider=lambda: TOKEN, **options),
        Client(f"{url}/v1", token_provider=Credential(), **options),
    ]


def indiscreet(status: int) -> Answer:
    """Says the header with the key back, in each field that it has."""

    def send(connection: Any, request: Received) -> bool | None:
        secret = request.headers.get("authorization") or request.headers.get("api-key")
        told = f"Incorrect API key provided: {secret}."
        fields = dict.fromkeys(("message", "code", "type", "param"), told)
        return answer({"error": fields}, status, x_request_id="req_7")(connection, request)

    return send


#: What says the key back where it could come apart, or where nobody would look for it; `{}` is the key.
ECHOES = [
    b'HTTP/1.1 400 No\r\nX-Request-Id: {}\r\nConnection: close\r\n\r\n{"error": {"message": "No."}}',
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 190 + b"{}",
    b'HTTP/1.1 400 No\r\nConnection: close\r\n\r\n{"error": {"message": "' + b"x" * 990 + b'{}"}}',
    b'HTTP/1.1 400 No\r\nConnection: close\r\n\r\n{"error": {"message": {"for": ["{}"]}}}',
    b"HTTP/1.1 307 Moved\r\nLocation: /login?for={}\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: {}\n\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    b'event: error\ndata: {"message": "No {}."}\n\n',
]


def echo(form: bytes) -> Answer:
    def send(connection: Any, request: Received) -> None:
        secret = request.headers.get("authorization") or request.headers.get("api-key") or ""
        connection.sendall(form.replace(b"{}", secret.removeprefix("Bearer ").encode()))

    return send


def found_in(texts: list[str]) -> list[str]:
    """Those that show a secret, or the start of one that would do to guess the rest."""
    return [text for text in texts if any(secret[:9] in text for secret in (KEY, TOKEN, NETRC))]


def told_by(error: BaseException) -> list[str]:
    """All that an error says, and those that led to it."""
    texts = ["".join(traceback.format_exception(error))]
    chain: BaseException | None = error
    while chain is not None:
        texts += [str(chain), repr(chain), repr(chain.args), repr(vars(chain))]
        chain = chain.__cause__ or chain.__context__
    return texts


CALLS: list[Callable[[Client], Any]] = [
    lambda client: client.assistants.create("demo"),
    lambda client: client.runs.create("thread_1", "asst_1", tools=[]),
    lambda client: client.runs.list("thread_1"),
    lambda client: client.runs.list(["thread_1", "thread_2"]),
    lambda client: client.runs.wait("run_1", thread="thread_1", timeout=0.02),
    lambda client: client.runs.create_stream("thread_1", "asst_1").until_done(),
    lambda client: client.threads.create_and_run_stream("asst_1", "Hello").until_done(),
    lambda client: client.runs.submit_tool_outputs_stream("run_1", {"call_1": "x"}, "thread_1").until_done(),
]
MOVED = answer({}, 307, Location="http://127.0.0.1:9/v1?from=elsewhere")
ANSWERS: list[Answer] = [
    *(indiscreet(status) for status in (200, 400, 401, 404, 429, 500)),
    answer(body=b"<html>"),
    answer(body=b""),
    *(echo(form) for form in ECHOES),
    MOVED,
    hang_up,
    stream([b"data: <html>\n\n"]),
    stream([b"event: error\ndata: {}\n\n"]),
]


def test_no_error_and_no_log_record_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []
    for each in ANSWERS:
        with SocketServer(each) as server:
            for client in clients(server.url):
                for call in CALLS:
                    with pytest.raises(nbruns.NbrunsError) as caught:
                        call(client)
                    errors.append(caught.value)
        assert any(
            r.headers.get("authorization", r.headers.get("api-key", ""))[-16:] in KEY for r in server.received
        )
    assert {type(error).__name__ for error in errors} >= {
        "AuthenticationError",
        "ConnectionError",
        "StreamError",
    }
    assert not found_in([text for error in errors for text in told_by(error)])
    assert len(caplog.records) > 100 and any(r.name.startswith("urllib3") for r in caplog.records)
    assert not found_in([repr(vars(r)) for r in caplog.records] + [caplog.text])


def test_a_list_that_is_none_shows_no_secret() -> None:
    no_list = echo(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"data": "No list for {}."}')
    with SocketServer(no_list) as server:
        for client in clients(server.url):
            with pytest.raises(nbruns.APIError, match="No list for") as caught:
                client.runs.list("thread_1")
            assert not found_in(told_by(caught.value))


def test_no_object_and_no_widget_shows_a_secret() -> None:
    with SocketServer(answer(ASKING)) as server:
        for client in clients(server.url):
            run = client.runs.retrieve("run_1", "thread_1")
            shown = [
                client,
                client.runs._transport._session.auth,
                client.runs,
                client.runs.steps,
                client.threads,
                client.messages,
                client.assistants,
            ]
            with client.runs.retrieve_stream(run) as events:
                shown += [run, events, events.snapshot]
            view = client.runs.watch(run=run, tools=[get_weather])
            form = nbruns.ToolOutputsForm(run, on_submit=partial(client.runs.submit_tool_outputs, run))
            state = json.dumps(ipywidgets.Widget.get_manager_state(), default=repr)
            texts = [repr(each) for each in shown] + [str(each) for each in shown]
            texts += [each._repr_html_() for each in shown if hasattr(each, "_repr_html_")]
            assert "call_1" in state or "run_1" in state
            assert not found_in([state, view.to_html(), repr(view), repr(form), *texts])
            view.close()
            form.close()


def test_each_request_has_its_clients_secret_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(
        f"machine 127.0.0.1 login somebody password {NETRC}\ndefault login other password {NETRC}\n"
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with SocketServer(answer(RUN)) as server:
        for client in [*clients(server.url), Client(server.url)]:
            client.runs.retrieve("run_1", "thread_1")
    sent = [(r.headers.get("authorization"), r.headers.get("api-key")) for r in server.received]
    bearers = [f"Bearer {KEY}", None, f"Bearer {TOKEN}", f"Bearer {TOKEN}", None]
    assert sent == [(bearer, KEY if i == 1 else None) for i, bearer in enumerate(bearers)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_other_host_gets_a_request(status: int) -> None:
    with SocketServer(answer(RUN)) as other:
        with SocketServer(
            answer({}, status, Location=f"{other.url}/v1/threads/thread_1/runs/run_1")
        ) as server:
            for client in clients(server.url):
                for call in CALLS:
                    with pytest.raises(nbruns.NbrunsError):
                        call(client)
    assert other.received == []


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}\r\n"])
def test_a_key_from_a_file_ends_with_a_line_break(key: str) -> None:
    with SocketServer(answer(RUN)) as server:
        Client(server.url, key).runs.retrieve("run_1", "thread_1")
        Client(server.url, token_provider=lambda: key).runs.retrieve("run_1", "thread_1")
    assert [r.headers["authorization"] for r in server.received] == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize("key", [f"{KEY}\r\nX-Other: header", f"{KEY}…", f"\x00{KEY}"])
def test_a_key_that_no_header_carries_is_refused_unseen(key: str) -> None:
    with SocketServer(answer(RUN)) as server:
        with pytest.raises(ValueError, match="api_key has characters") as caught:
            Client(server.url, key)
        with pytest.raises(ValueError, match="token of token_provider has characters") as of_token:
            Client(server.url, token_provider=lambda: key).runs.retrieve("run_1", "thread_1")
    assert server.received == []
    assert not found_in([*told_by(caught.value), *told_by(of_token.value)])


@pytest.mark.parametrize("given", [None, "", 5, b"bytes"])
def test_what_is_no_token_is_not_sent(given: Any) -> None:
    with SocketServer(answer(RUN)) as server, pytest.raises(TypeError, match="token_provider returned"):
        Client(server.url, token_provider=lambda: given).runs.retrieve("run_1", "thread_1")
    assert server.received == []


NOTEBOOK = [
    "import logging, os, nbruns; logging.basicConfig(level=0)",
    "def get_weather(city: str) -> str:\n    return 'Rain'",
    "client = nbruns.Client(); client",
    "assistant = client.assistants.create('demo', tools=[get_weather]); assistant",
    "thread = client.threads.create('What should I wear in Oslo?'); thread",
    "view = client.runs.watch(thread, assistant, tools=[get_weather], auto=True); view",
    "view.wait(timeout=30)",
    "client.runs.list(thread)",
    "client.runs.retrieve('run_missing', thread)",
    "nbruns.Client(client.base_url, client.api_key + 'x').runs.list(thread)",
    "vars(client.runs), [client.runs, client.threads]",
]


def test_a_saved_notebook_has_no_key(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.api_key is not None
    monkeypatch.setenv("NBRUNS_BASE_URL", client.base_url)
    monkeypatch.setenv("NBRUNS_API_KEY", client.api_key)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in NOTEBOOK])
    NotebookClient(notebook, allow_errors=True, timeout=60, kernel_name="python3").execute()
    nbformat.write(notebook, tmp_path / "saved.ipynb")
    saved = (tmp_path / "saved.ipynb").read_text()
    assert "NotFoundError" in saved and "AuthenticationError" in saved and "urllib3" in saved
    assert "application/vnd.jupyter.widget-state+json" in saved and "Client(http://127.0.0.1" in saved
    assert client.api_key not in saved
