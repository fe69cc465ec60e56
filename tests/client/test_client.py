"""A client as an object: copied, never pickled, with headers of one's own, and errors that are the builtins' too."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from socket_server import SocketServer, answer, hang_up, stream

import nbruns
from nbruns.client import Client

KEY = "sk-never-to-be-seen"
RUN = {
    "id": "run_1",
    "object": "thread.run",
    "thread_id": "thread_1",
    "assistant_id": "asst_1",
    "status": "completed",
}


def client(server: SocketServer, **options: Any) -> Client:
    return Client(f"{server.url}/v1", **{"api_key": KEY, "timeout": 5.0, "max_retries": 0, **options})


def own_token() -> str:
    return "token-of-a-provider"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("access", [{}, {"api_key": None, "token_provider": own_token}], ids=["key", "token"])
def test_a_copy_asks_as_the_original_over_connections_of_its_own(copied: Any, access: dict[str, Any]) -> None:
    with SocketServer(answer(RUN, Connection="keep-alive")) as server:
        original = client(
            server, api_version="v1", default_headers={"X-Team": "blue"}, max_retries=2, **access
        )
        original.runs.retrieve("run_1", "thread_1")
        twin = copied({"client": original}["client"])
        twin.runs.retrieve("run_1", "thread_1")
        original.close()
        twin.runs.retrieve("run_1", "thread_1")
        assert type(twin) is Client and twin is not original and twin.runs is not original.runs
    first, second, _ = server.received
    assert first == second and first.headers["x-team"] == "blue"
    assert (twin.timeout, twin.max_retries, twin.api_version, repr(twin)) == (5.0, 2, "v1", repr(original))


def test_what_holds_a_client_can_be_copied_too() -> None:
    with SocketServer(answer(RUN)) as server:
        held = copy.deepcopy({"runs": client(server).runs})
        assert held["runs"].retrieve("run_1", "thread_1").id == "run_1"


@pytest.mark.parametrize("what", ["client", "runs"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_client_is_not_pickled_for_the_pickle_would_hold_its_key(what: str, protocol: int) -> None:
    made = Client("http://127.0.0.1:9/v1", KEY)
    with pytest.raises(TypeError, match=r"hold its key\. Make a client where you need it") as caught:
        pickle.dumps(made if what == "client" else made.runs, protocol)
    assert KEY not in str(caught.value)


def test_default_headers_are_sent_with_every_request_and_ours_stay() -> None:
    event = b"event: thread.run.completed\ndata: %b\n\n" % json.dumps(RUN).encode()
    headers = {"Ocp-Apim-Subscription-Key": " gateway-key\n", "user-agent": "mine/1.0"}
    with SocketServer(answer(RUN), answer(RUN), stream([event])) as server:
        runs = client(server, default_headers=headers).runs
        runs.retrieve("run_1", "thread_1")
        runs.create("thread_1", "asst_1")
        runs.create_stream("thread_1", "asst_1").until_done()
    for request in server.received:
        assert request.headers["ocp-apim-subscription-key"] == "gateway-key"
        assert request.headers["user-agent"] == "mine/1.0"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["openai-beta"] == "assistants=v2"
    assert server.received[1].headers["content-type"] == "application/json"
    assert server.received[2].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "API-KEY",
        "content-type",
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Accept",
        "Connection",
    ],
)
def test_headers_that_would_break_a_request_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"can't set {name}: nbruns sets it. .*api_key=") as caught:
        Client("http://127.0.0.1:9", default_headers={name: "a-secret-value"})
    assert "a-secret-value" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "kind", "said"),
    [
        ({"X-A": "a\r\nX-B: b-secret"}, ValueError, "The value of X-A in default_headers has characters"),
        ({"X-A": "schlüssel-secret"}, ValueError, "The value of X-A in default_headers has characters"),
        ({"X A": "secret"}, ValueError, "'X A' is not a valid header name"),
        ({"X-A\n": "secret"}, ValueError, r"is not a valid header name"),
        ({"": "secret"}, ValueError, "'' is not a valid header name"),
        ({"X-A": 5}, TypeError, "a dict of names and texts, and 'X-A' is not"),
        ({5: "secret"}, TypeError, "a dict of names and texts, and 5 is not"),
        ("X-A: secret", TypeError, "a dict of names and texts, not str"),
    ],
)
def test_what_is_no_header_is_refused_without_its_value(
    headers: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        Client("http://127.0.0.1:9", default_headers=headers)
    assert "secret" not in str(caught.value)


def test_what_default_headers_hold_is_not_shown() -> None:
    said = {
        "error": {"message": "The key gateway-secret-1 of team blue is wrong: Basic Z2F0ZXdheS1zZWNyZXQ."}
    }
    headers = {"X-Key": "gateway-secret-1", "Proxy-Auth": "Basic Z2F0ZXdheS1zZWNyZXQ", "X-Team": "blue"}
    with SocketServer(answer(said, 403)) as server:
        made = client(server, default_headers=headers)
        with pytest.raises(nbruns.PermissionDeniedError) as caught:
            made.runs.retrieve("run_1", "thread_1")
    assert "The key [not shown] of team blue is wrong" in str(caught.value)
    for shown in (str(caught.value), repr(made), repr(made.runs), str(dir(made))):
        assert "gateway-secret" not in shown and "Z2F0" not in shown


def test_no_connection_and_no_answer_in_time_are_the_builtins_too() -> None:
    with SocketServer(hang_up) as server:
        with pytest.raises(ConnectionError) as broken:
            client(server).threads.create("Hello")
    with SocketServer(answer({**RUN, "status": "queued"})) as server:
        with pytest.raises(TimeoutError) as late:
            client(server).runs.wait("run_1", thread="thread_1", timeout=0.05)
    for caught, kind in ((broken, nbruns.ConnectionError), (late, nbruns.TimeoutError)):
        assert type(caught.value) is kind and isinstance(caught.value, (OSError, nbruns.NbrunsError))
        again = pickle.loads(pickle.dumps(caught.value))
        assert type(again) is kind and str(again) == str(caught.value)
    assert not isinstance(late.value, ConnectionError) and not isinstance(broken.value, TimeoutError)


def test_a_urllib3_that_has_changed_is_warned_of_in_words() -> None:
    code = "import urllib3; urllib3.HTTPResponse = type('Other', (), {'read1': None}); import nbruns.client.connections"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nbruns doesn't know urllib3" in done.stderr and "(missing: shutdown)" in done.stderr
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import nbruns.client.connections"], capture_output=True
    )
    assert done.returncode == 0
