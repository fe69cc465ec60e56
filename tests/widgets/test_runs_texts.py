"""Questions, answers and names in RunsTable, which are requested for the rows in view, and the search in messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from eventually import until
from runs_page import ask
from scripted import run_json
from sent import Sent
from socket_server import SocketServer, answer

import nbruns
from nbruns.client.transport import Transport
from nbruns.errors import ConnectionError, NotFoundError
from nbruns.objects import Run
from nbruns.widgets.runs_table import texts
from nbruns.widgets.runs_table.rows import RunText
from nbruns.widgets.runs_table.table import RunsTable
from nbruns.widgets.runs_table.texts import Loader, RunsOfThread, fetch_texts

EVIL = "<script>alert(1)</script>"
SAID = ["question", "answer", "assistant"]


@pytest.fixture(scope="module")
def told(client: nbruns.Client) -> list[Run]:
    """Two runs of one assistant, each on its own thread."""
    assistant = client.assistants.create("demo", name=f"Wardrobe {EVIL}")
    questions = (f"Which {EVIL} coat?", "Which HAT for the\nZeppelin?")
    threads = [client.threads.create(question) for question in questions]
    return [client.runs.wait(client.runs.create(thread, assistant), timeout=30) for thread in threads]


def test_rows_in_view_get_their_texts_once(client: nbruns.Client, told: list[Run], sent: Sent) -> None:
    table = RunsTable(client, runs=told, columns=SAID)
    table.sort = "created_at"
    (rows,) = ask(table, sent, rows=[table._version, 0, 9])
    assert [row[:2] for row in rows["rows"]] == [[None, None]] * 2
    until(lambda: set(table._names.values()) == {f"Wardrobe {EVIL}"})
    assert rows["version"] == table._version  # names don't change the order
    assert [label for _, _, label in table._facts["assistants"]] == [f"Wardrobe {EVIL}"]
    sent.clear()
    table._handle_custom_msg({"texts": [table._version, 0, 1]}, [])
    until(lambda: len(table._texts) == 2 and table._text_loader.idle.is_set())
    found: dict[str, Any] = {}
    for message in sent.of(table):
        if message["data"]["method"] == "custom":
            found |= message["data"]["content"]["texts"]
    answers = [client.messages.list(run.thread_id)["text"].iloc[-1] for run in told]
    assert [found[run.id][0] for run in told] == [f"Which {EVIL} coat?", "Which HAT for the Zeppelin?"]
    assert [found[run.id][1] for run in told] == [" ".join(text.split())[:200] for text in answers]
    table._handle_custom_msg({"texts": [table._version, 0, 1]}, [])
    assert table._text_loader.idle.is_set()  # known by now
    (rows,) = ask(table, sent, rows=[table._version, 0, 9])
    assert [row[0] for row in rows["rows"]] == [found[run.id][0] for run in told]
    html = table.to_html()
    assert "Zeppelin" in html and "&lt;script&gt;" in html and EVIL not in html
    assert ">Question<" in html and ">Status<" not in html


def test_the_search_finds_what_was_asked_and_answered(client: nbruns.Client, told: list[Run]) -> None:
    table = RunsTable(client, runs=told)
    table.text = "zeppelin hat"
    assert list(table.frame["id"]) == [told[1].id]
    table.text = "demo model"  # the answers say so
    assert len(table.frame) == 2 and table._facts["can_search"]
    table.status = ["failed"]
    assert len(table.frame) == 0
    table.status, table.text = [], told[0].id
    assert list(table.frame["id"]) == [told[0].id]
    table.text = "neither"
    assert len(table.frame) == 0
    table.text = "hat " * 100  # more than the server takes
    assert len(table.frame) == 0 and dict(table._notes) == {}
    table.assistant, table.text = [f"Wardrobe {EVIL}"], ""
    until(lambda: len(table.frame) == 2)
    table.metadata = {"team": None}
    assert len(table.frame) == 0


@pytest.mark.parametrize("status", [404, 405])
def test_where_the_server_cannot_search_what_is_loaded_is_searched(status: int, sent: Sent) -> None:
    refusal = answer({"error": {"message": "Unknown request URL"}}, status=status)
    with SocketServer(refusal) as server:
        client = nbruns.Client(f"{server.url}/v1", max_retries=0)
        runs = [Run(run_json("completed", id=f"run_{n}", thread_id=f"thread_{n}")) for n in range(3)]
        table = RunsTable(client, runs=runs)
        table._take_texts({"run_1": RunText("Which hat?", "The GREEN one")}, None)
        table.text = "green hat"
        assert list(table.frame["id"]) == ["run_1"]
        assert table._facts["can_search"] is False and dict(table._notes) == {}
        table._take_texts({"run_2": RunText("Another green hat?", "")}, None)
        assert set(table.frame["id"]) == {"run_1", "run_2"}
        table.text = "hat?"
        assert set(table.frame["id"]) == {"run_1", "run_2"}
        assert sum("query=" in request.path for request in server.received) == 1


def test_a_server_that_takes_no_query_for_a_search_finds_nothing_wrong(sent: Sent) -> None:
    listed = {
        "object": "list",
        "has_more": False,
        "data": [message(1, run_id="run_1", text="something else")],
    }
    with SocketServer(answer(listed)) as server:
        client = nbruns.Client(f"{server.url}/v1", max_retries=0)
        table = RunsTable(client, runs=[Run(run_json("completed"))])
        table.text = "hat"
        assert len(table.frame) == 0


def test_what_cannot_be_loaded_is_said_once_and_not_asked_for_again_and_again(
    nowhere: nbruns.Client, sent: Sent
) -> None:
    runs = [Run(run_json("completed", id=f"run_{n}", thread_id=f"thread_{n}")) for n in range(40)]
    table = RunsTable(nowhere, runs=runs)
    ask(table, sent, texts=[table._version, 0, 39])
    until(lambda: "127.0.0.1:9" in table._notes.get("texts", ""))
    assert table._text_loader.idle.wait(20)
    assert table._texts == {} and table._text_loader._waiting == {}
    table.text = "hat"
    until(lambda: "Messages were not searched" in table._notes.get("search", ""))
    table.text = ""
    assert "search" not in table._notes


def message(number: int, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": {"value": fields.pop("text", f"text {number}"), "annotations": []}}]
    known = {"id": f"msg_{number}", "object": "thread.message", "thread_id": "thread_1", "created_at": number}
    return known | {"role": "assistant", "content": content} | fields


def thread_of(messages: list[dict[str, Any]]) -> Callable[..., Any]:
    """Answers of a server that has these messages in a thread."""

    def serve(connection: Any, request: Any) -> Any:
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        listed = messages if query["order"] == "asc" else messages[::-1]
        if "run_id" in query:
            listed = [each for each in listed if each.get("run_id") == query["run_id"]]
        if "after" in query:
            listed = listed[[each["id"] for each in listed].index(query["after"]) + 1 :]
        count = int(query["limit"])
        page = {"object": "list", "data": listed[:count], "has_more": len(listed) > count}
        return answer(page)(connection, request)

    return serve


def texts_of(messages: list[dict[str, Any]], **created: int) -> tuple[Mapping[str, RunText], int]:
    """The texts of runs that were created then, and how many requests it took."""
    times = tuple(pd.Timestamp(seconds, unit="s", tz="UTC") for seconds in created.values())
    with SocketServer(thread_of(messages)) as server:
        transport = Transport(f"{server.url}/v1", max_retries=0)
        found = fetch_texts(transport, RunsOfThread("thread_1", tuple(created), times))
        return found, len(server.received)


def test_the_runs_of_a_thread_take_one_request() -> None:
    messages = [
        message(1, role="user", text="First"),
        message(2, run_id="run_1", text="One"),
        message(3, run_id="run_1", text="more"),
        message(5, role="user", text="Second"),
        message(8, role="user", text="Third"),
        message(9, run_id="run_3", text="Three"),
        message(11, run_id="run_4", text="Three again"),
    ]
    found, requests = texts_of(messages, run_1=1, run_2=5, run_3=8, run_4=10, run_0=0)
    assert found == {
        "run_1": RunText("First", "One more"),
        "run_2": RunText("Second", ""),  # it has written nothing
        "run_3": RunText("Second Third", "Three"),
        "run_4": RunText("Third", "Three again"),
        "run_0": RunText("", ""),
    }
    assert requests == 1


def test_a_run_far_back_in_a_long_thread_is_asked_for_by_itself() -> None:
    messages = [message(1, role="user", text="First"), message(2, run_id="run_1", text="One")]
    messages += [message(n, run_id=f"other_{n}") for n in range(3, 300)]
    found, requests = texts_of(messages, run_1=1, other_299=299)
    assert found == {"run_1": RunText("First", "One"), "other_299": RunText("", "text 299")}
    assert requests == 3


def test_texts_are_short_and_fit_into_a_line() -> None:
    found, _ = texts_of([message(1, run_id="run_1", text="a\n\ud800 " + "b" * 9000)], run_1=1)
    assert len(found["run_1"].answer) == 1000 and found["run_1"].answer.startswith("a \\ud800 b")


def test_the_last_wanted_is_loaded_first_and_not_more_than_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(texts, "MAX_WAITING", 10)
    opened, lock = threading.Event(), threading.Lock()
    order, active, most = list[int](), 0, 0
    loaded: dict[str, int] = {}

    def load(key: int) -> dict[str, int]:
        nonlocal active, most
        with lock:
            order.append(key)
            active, most = active + 1, max(most, active + 1)
        assert opened.wait(20)
        with lock:
            active -= 1
        if key == 7:
            raise NotFoundError("Gone", status=404)
        return {str(key): key}

    loader = Loader(load, lambda values, _: loaded.update(values))
    loader.want(range(4))
    until(lambda: len(order) == 4)
    loader.want(range(100, 200))  # scrolled past
    loader.want([2, 5, 6, 7])
    opened.set()
    assert loader.idle.wait(20)
    assert order[4:7] == [5, 6, 7] and len(order) == 4 + 10 and most <= 4
    assert set(loaded) == {str(key) for key in order if key != 7}


def test_a_lasting_error_ends_loading_until_more_is_wanted() -> None:
    problems = list[BaseException | None]()

    def load(key: int) -> dict[str, int]:
        if key < 50:
            raise ConnectionError("No answer")
        return {str(key): key}

    loader = Loader(load, lambda _, problem: problems.append(problem))
    loader.want(range(50))
    assert loader.idle.wait(20)
    assert 1 <= len(problems) <= 4 and all(isinstance(each, ConnectionError) for each in problems)
    loader.want([60])
    assert loader.idle.wait(20)
    assert problems[-1] is None
