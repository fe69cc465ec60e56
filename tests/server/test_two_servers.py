"""Two servers on one PostgreSQL: each knows of the other's runs, and carries them on when it dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from postgresql_server import NewDatabase
from served import OUTPUTS, WEATHER, Api, SentEvent, ServerProcess
from test_kills import assert_told_once

JSON = dict[str, Any]

Start = Callable[..., ServerProcess]

#: What a server says whose connection has been cut.
SWEEP_FAILED = "The runs could not be looked over; trying again."
LOST = "The connection to PostgreSQL was lost; the other servers may carry on our runs.\n"


@pytest.fixture
def database(postgresql: NewDatabase) -> str:
    return postgresql()


@pytest.fixture
def start(database: str) -> Iterator[Start]:
    """Start a server on the database of this test."""
    servers = []

    def start_(words: int = 8, pause: float = 0.02) -> ServerProcess:
        servers.append(ServerProcess(database, "--words", str(words), "--pause", str(pause)))
        return servers[-1]

    yield start_
    for server in servers:
        if server.process.poll() is None:
            assert server.stop() == 0


def started(api: Api, **params: object) -> JSON:
    assistant = api.post("/assistants", {"model": "slow", **params})["id"]
    return api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})


def up_to(events: Iterator[SentEvent], name: str) -> list[SentEvent]:
    """The events as far as the first of that name."""
    seen = []
    for event in events:
        seen.append(event)
        if event.name == name:
            break
    return seen


def test_a_stream_opened_at_one_shows_a_run_of_the_other_while_it_is_made(start: Start) -> None:
    one, other = start(pause=0.1), start()
    run = started(one.api)
    events = other.api.rejoin(run)
    seen = up_to(events, "thread.message.delta")
    assert one.api.get(one.api.run_path(run))["status"] == "in_progress"
    log = [*seen, *events]
    assert log == list(one.api.rejoin(run))
    assert_told_once(other.api, other.api.get(other.api.run_path(run)), log)


def test_outputs_are_submitted_and_runs_cancelled_at_either(start: Start) -> None:
    one, other = start(words=500, pause=0.05), start()
    waiting, working = started(one.api, tools=[WEATHER]), started(one.api)
    up_to(other.api.rejoin(waiting), "thread.run.requires_action")
    path = f"{other.api.run_path(waiting)}/submit_tool_outputs"
    assert [event.name for event in other.api.stream(path, OUTPUTS)][-2:] == ["thread.run.completed", "done"]
    events = one.api.rejoin(working)
    up_to(events, "thread.message.delta")
    assert other.api.post(f"{other.api.run_path(working)}/cancel")["status"] == "cancelling"
    assert [event.name for event in events][-2:] == ["thread.run.cancelled", "done"]
    for api, run, status in ((one.api, waiting, "completed"), (other.api, working, "cancelled")):
        assert api.get(api.run_path(run))["status"] == status
    numbers = [event.id for event in other.api.rejoin(working)][:-1]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_thread_is_locked_at_both(start: Start) -> None:
    one, other = start(words=500), start()
    run = started(one.api)
    status, error = other.api.refused(
        "POST", f"/threads/{run['thread_id']}/runs", {"assistant_id": run["assistant_id"]}
    )
    assert (status, run["id"] in error["message"]) == (400, True)


def cut_all_connections(url: str) -> int:
    """As a restart of PostgreSQL does; gives how many there were."""
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(url) as connection:
        ended = connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        return len(ended.fetchall())


def assert_both_go_on(one: ServerProcess, other: ServerProcess, waiting: JSON) -> None:
    """A new run of one is seen at the other; the run that waited is answered there, and seen here."""
    run = started(one.api)
    log = list(other.api.rejoin(run))
    assert_told_once(other.api, other.api.get(other.api.run_path(run)), log)
    other.api.post(f"{other.api.run_path(waiting)}/submit_tool_outputs", OUTPUTS)
    done = one.api.until(waiting, "completed", "failed")
    assert_told_once(one.api, done, list(one.api.rejoin(waiting)))


def test_servers_go_on_when_postgresql_has_cut_their_connections(start: Start, database: str) -> None:
    one, other = start(), start()
    waiting = started(one.api, tools=[WEATHER])
    one.api.until(waiting, "requires_action")
    assert cut_all_connections(database) >= 4
    for api in (one.api, other.api):
        assert api.get(api.run_path(waiting))["status"] == "requires_action"
    assert_both_go_on(one, other, waiting)
    for server in (one, other):
        assert server.stop() == 0
        assert LOST in server.errors


@contextmanager
def away(url: str) -> Iterator[None]:
    """PostgreSQL lets nobody into this database meanwhile, as while it is restarted."""
    name = urlsplit(url).path[1:]
    with psycopg.connect(url.replace(f"/{name}?", "/postgres?"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        assert connection.execute(ended, [name]).fetchall()
        yield
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_servers_go_on_when_postgresql_was_away(start: Start, database: str) -> None:
    one, other = start(), start()
    waiting = started(one.api, tools=[WEATHER])
    one.api.until(waiting, "requires_action")
    with away(database):
        status, error = one.api.refused("POST", "/threads", {})
        assert (status, error["type"]) == (500, "server_error")
        assert one.process.stderr is not None
        lines = iter(one.process.stderr.readline, "")
        assert any(line == f"{SWEEP_FAILED}\n" for line in lines)  # it looks after its runs, and can't
    assert_both_go_on(one, other, waiting)


@pytest.mark.parametrize("end", ["kill", pytest.param("stop", marks=pytest.mark.nightly)])
def test_the_living_carry_on_the_runs_of_the_dead(start: Start, end: str) -> None:
    one, other = start(pause=0.1), start(pause=0.1)
    runs = [started(one.api) for _ in range(5)]
    waiting = started(one.api, tools=[WEATHER])
    one.api.until(waiting, "requires_action")
    its_own = started(other.api)
    events = other.api.rejoin(runs[0])
    seen = up_to(events, "thread.message.delta")
    getattr(one, end)()
    seen += events  # it goes on in the same stream
    for run in (*runs, its_own):
        done = other.api.until(run, "completed", "failed", "expired")
        assert_told_once(other.api, done, list(other.api.rejoin(run)))
    assert seen == list(other.api.rejoin(runs[0]))
    other.api.post(f"{other.api.run_path(waiting)}/submit_tool_outputs", OUTPUTS)
    assert other.api.until(waiting, "completed")["usage"]["completion_tokens"] == 10 + 8
