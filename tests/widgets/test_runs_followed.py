"""RunsTable and its server: lists that do not come, and runs that go on while they are shown."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from eventually import until
from runs_page import ask, opened
from scripted import WEATHER, run_json
from sent import Sent
from socket_server import Received, SocketServer, answer

import nbruns
from nbruns.objects import Run
from nbruns.widgets.runs_table import poll
from nbruns.widgets.runs_table.table import RunsTable


def test_runs_that_cannot_be_listed_say_so_under_the_table(nowhere: nbruns.Client, sent: Sent) -> None:
    table = RunsTable(nowhere)
    with pytest.raises(nbruns.ConnectionError):
        table.wait(30)
    assert table._facts["state"] == "error"
    assert "127.0.0.1:9" in table._notes["list"]
    with pytest.raises(nbruns.ConnectionError):
        _ = table.frame


def test_a_run_that_goes_on_is_looked_at_until_it_has_ended(
    client: nbruns.Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "MIN_INTERVAL", 0.05)
    assistant = client.assistants.create("demo", tools=[{"type": "function", "function": WEATHER}])
    thread = client.threads.create("What should I wear in Oslo?")
    run = client.runs.wait(client.runs.create(thread, assistant), timeout=30)
    assert run.status == "requires_action"

    table = RunsTable(client, thread)
    assert list(table.frame["status"]) == ["requires_action"]
    assert table._facts["active"] == 1
    until(lambda: table._poller.is_polling)
    table.open_run(run)
    opened(table, run.id)
    client.runs.submit_tool_outputs(run, {call.id: "rain" for call in run.tool_calls})
    until(lambda: list(table.frame["status"]) == ["completed"])
    until(lambda: not table._poller.is_polling)  # nothing is left to look at
    assert table._facts["active"] == 0
    assert table.selected[0].usage is not None
    assert "completed" in table._details["head"]  # what is open is kept up to date too


@pytest.mark.parametrize("by", ["opening", "selecting"])
def test_an_end_that_is_heard_of_by_the_way_shows_in_the_rows(
    by: str, client: nbruns.Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "MIN_INTERVAL", 3600.0)  # nobody looks by themselves
    assistant = client.assistants.create("demo")
    thread = client.threads.create("Hello")
    run = client.runs.wait(client.runs.create(thread, assistant), timeout=30)
    table = RunsTable(client, runs=nbruns.runs_frame([run.to_dict() | {"status": "in_progress"}]))
    assert table._facts["active"] == 1
    if by == "opening":
        table.open_run(run)
        opened(table, run.id)
    else:
        ask(table, sent, choose=[table._version, 0, 0])
        assert table.selected == [run]
    assert list(table.frame["status"]) == ["completed"]
    assert table._facts["active"] == 0
    assert table._poll() is None
    table.close()


def test_an_answer_that_comes_late_does_not_take_an_end_back(nowhere: nbruns.Client, sent: Sent) -> None:
    ended = Run(run_json("completed"))
    table = RunsTable(nowhere, runs=[Run(run_json("in_progress"))])
    assert table._merge([ended])
    assert not table._merge([Run(run_json("in_progress"))])
    assert list(table.frame["status"]) == ["completed"]
    table._chosen = [ended.id]
    assert table.selected == [ended]


def test_nobody_looks_when_no_page_does_or_the_table_is_closed(nowhere: nbruns.Client, sent: Sent) -> None:
    table = RunsTable(nowhere, runs=[Run(run_json("in_progress"))])
    assert table._poller.is_polling
    ask(table, sent, hello="a")
    ask(table, sent, hello="b")
    ask(table, sent, bye="a")
    assert table._poller.is_polling
    ask(table, sent, bye="b")
    assert not table._poller.is_polling
    ask(table, sent, hello="c")
    assert table._poller.is_polling
    table.close()
    assert not table._poller.is_polling
    until(lambda: all(thread.name != "nbruns-table-poll" for thread in threading.enumerate()))


def test_what_keeps_it_from_looking_is_said_and_taken_back(
    nowhere: nbruns.Client, client: nbruns.Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "MIN_INTERVAL", 0.05)
    table = RunsTable(nowhere, runs=[Run(run_json("in_progress"))])
    until(lambda: "follow" in table._notes)
    assert table._notes["follow"].startswith("Failed to refresh active runs. ")
    table._runs = client.runs  # the server is back, but knows nothing of this run any more
    until(lambda: "follow" not in table._notes)
    until(lambda: not table._poller.is_polling)


def test_refresh_of_given_runs_looks_again_at_those_that_go_on(nowhere: nbruns.Client, sent: Sent) -> None:
    table = RunsTable(nowhere, runs=[Run(run_json("in_progress"))])
    table._poller.stop()
    ask(table, sent, refresh=True)
    assert table._poller.is_polling
    assert len(table.frame) == 1  # and nothing is listed


def test_waiting_for_a_list_that_does_not_come(sent: Sent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the question and never answers
        table = RunsTable(nbruns.Client(f"http://127.0.0.1:{silent.getsockname()[1]}", max_retries=0))
        with pytest.raises(nbruns.TimeoutError, match=r"Timed out after 0\.1 s while listing runs"):
            table.wait(0.1)
        assert repr(table) == "RunsTable(0 runs, still loading)"
        table.close()


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_that_lists_the_runs_of_threads_only_is_told_of(status: int, sent: Sent) -> None:
    with SocketServer(answer({"error": {"message": "Invalid URL"}}, status)) as server:
        tables = [RunsTable(nbruns.Client(server.url), *threads) for threads in ([], ["thread_1"])]
        for table in tables:
            with pytest.raises(nbruns.APIError, match="Invalid URL"):
                table.wait(30)
    assert ["Pass the threads: RunsTable(client, threads)" in table._notes["list"] for table in tables] == [
        True,
        False,
    ]


def test_a_list_is_asked_for_once_at_a_time_and_left_when_the_table_is_closed(sent: Sent) -> None:
    asked, go = threading.Event(), threading.Event()
    page = answer({"data": [run_json("completed")], "has_more": True, "last_id": "run_1"})

    def held(connection: socket.socket, request: Received) -> bool | None:
        asked.set()
        assert go.wait(10)
        return page(connection, request)

    with SocketServer(held) as server:
        table = RunsTable(nbruns.Client(server.url))
        assert asked.wait(10)
        table.refresh()
        waiting = threading.Thread(target=table.wait)
        waiting.start()
        table.close()
        waiting.join(5)
        assert not waiting.is_alive()
        go.set()
        until(lambda: all(thread.name != "nbruns-table-list" for thread in threading.enumerate()))
    assert len(server.received) == 1
    assert len(table.frame) == 0


def test_who_asks_while_it_ends_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll, "MIN_INTERVAL", 0.05)
    meanwhile = [lambda: follower.start(), lambda: (follower.stop(), follower.start()), lambda: None]
    looks: list[Any] = []

    def look() -> None:  # nothing is left to look at
        looks.append(follower._thread)
        meanwhile[len(looks) - 1]()

    follower = poll.Poller(look)
    follower.start()
    until(lambda: len(looks) == 3 and not follower.is_polling)
    assert looks[0] is looks[1] is not looks[2] is not None
    assert not any(thread.is_alive() for thread in looks[:2])
