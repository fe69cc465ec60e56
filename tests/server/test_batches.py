"""Batches of runs on the server: a queue with limits, in which a key is run once."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from postgresql_server import NewDatabase
from served import ANSWER, ENDED, Api, Scripts, ServerProcess

from nbruns.server.models import Finish, TextDelta, usage

JSON = dict[str, Any]


def rows(assistant: str, count: int, **params: Any) -> list[JSON]:
    return [
        {
            "key": f"row-{number}",
            "assistant_id": assistant,
            "thread": {"messages": [{"role": "user", "content": f"Question {number}"}]},
            **params,
        }
        for number in range(count)
    ]


def add(api: Api, name: str, runs: list[JSON], **limits: Any) -> JSON:
    return api.post("/run_batches", {"name": name, "runs": runs, **limits})


def until_ended(api: Api, batch: JSON, count: int) -> list[JSON]:
    while True:
        runs: list[JSON] = api.get(f"/run_batches/{batch['id']}/runs")["data"]
        if sum(run["status"] in ENDED for run in runs) == count:
            return runs
        time.sleep(0.02)


def test_rows_that_are_added_again_are_run_once(api: Api, script: Scripts) -> None:
    model = script(*[ANSWER] * 6)
    assistant = model.assistant()
    first = add(api, "added again", rows(assistant, 4), concurrency=2)
    assert first["run_counts"] == {"queued": 4}
    again = add(api, "added again", rows(assistant, 6), concurrency=3)
    assert (again["id"], again["concurrency"]) == (first["id"], 3)
    runs = until_ended(api, first, 6)
    assert [run["key"] for run in runs] == [f"row-{number}" for number in range(6)]
    assert {run["status"] for run in runs} == {"completed"}
    assert len(model.model.prompts) == 6
    assert api.get(f"/run_batches/{first['id']}")["run_counts"] == {"completed": 6}


def test_no_more_runs_are_at_work_than_the_limit(api: Api, script: Scripts) -> None:
    gates = [threading.Event() for _ in range(5)]
    turns = [[gate, TextDelta("Done."), Finish("stop", usage(1, 1))] for gate in gates]
    batch = add(api, "limited", rows(script(*turns).assistant(), 5), concurrency=2)
    path = f"/run_batches/{batch['id']}"
    for done, gate in enumerate(gates):
        expected = {"completed": done, "in_progress": min(2, 5 - done), "queued": max(0, 3 - done)}
        expected = {status: count for status, count in expected.items() if count}
        while (counts := api.get(path)["run_counts"]) != expected:
            assert counts.get("in_progress", 0) <= 2
            time.sleep(0.01)
        gate.set()
    until_ended(api, batch, 5)


def test_a_waiting_run_has_no_end_yet_and_can_be_cancelled(api: Api, script: Scripts) -> None:
    gate = threading.Event()
    model = script([gate, *ANSWER], ANSWER, ANSWER)
    batch = add(api, "cancelled", rows(model.assistant(), 3), concurrency=1)
    _, second, _ = (api.get(api.run_path(run)) for run in api.get(f"/run_batches/{batch['id']}/runs")["data"])
    assert (second["status"], second["expires_at"]) == ("queued", None)
    assert api.post(f"{api.run_path(second)}/cancel")["status"] == "cancelled"
    assert [event.name for event in api.rejoin(second)][-2:] == ["thread.run.cancelled", "done"]
    cancelled = api.post(f"/run_batches/{batch['id']}/cancel")
    assert cancelled["run_counts"]["cancelled"] == 2
    gate.set()
    # What was cancelled did not do what was asked, so that it is run when it is added again.
    add(api, "cancelled", rows(model.assistant(), 3), concurrency=1)
    runs = until_ended(api, batch, 3)
    assert {run["status"] for run in runs} == {"completed"}
    assert api.get(api.run_path(second))["status"] == "cancelled"


def test_runs_begin_at_the_rate_of_their_batch(api: Api, script: Scripts) -> None:
    batch = add(api, "rated", rows(script(*[ANSWER] * 4).assistant(), 4), concurrency=4, runs_per_minute=60)
    runs = until_ended(api, batch, 4)
    begun = [api.get(api.run_path(run))["started_at"] for run in runs]
    # The first two at once, as a batch may catch up with a second. The API's times are whole seconds.
    assert begun == sorted(begun) and begun[-1] - begun[0] >= 1


def test_rows_of_a_batch_are_refused_as_runs_are(api: Api, script: Scripts) -> None:
    assistant = script().assistant()
    for wrong, param in (
        ({"key": "a/b"}, "runs[0].key"),
        ({"model": "no such model"}, "model"),
        ({"temperature": 3.0}, "runs[0].temperature"),
        ({"tool_choice": {"type": "function", "function": {"name": "absent"}}}, "tool_choice"),
    ):
        status, error = api.refused(
            "POST", "/run_batches", {"name": "refused", "runs": rows(assistant, 1, **wrong)}
        )
        assert (status, error["param"]) == (400, param)
    status, _ = api.refused("POST", "/run_batches", {"name": "refused", "runs": rows("asst_absent", 1)})
    assert status == 404
    assert api.refused("GET", "/run_batches/runbatch_absent")[0] == 404


def slow_batch(server: ServerProcess, count: int, **limits: Any) -> JSON:
    assistant = server.api.post("/assistants", {"model": "slow"})["id"]
    return add(server.api, "slow", rows(assistant, count), **limits)


def test_a_batch_continues_on_a_server_that_was_killed(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", "--words", "3")
    batch = slow_batch(server, 8, concurrency=2)
    server.kill()
    server = ServerProcess(tmp_path / "db", "--words", "3")
    runs = until_ended(server.api, batch, 8)
    assert {run["status"] for run in runs} == {"completed"}
    server.stop()


def test_servers_on_one_database_share_a_batch(postgresql: NewDatabase) -> None:
    database = postgresql()
    servers = [ServerProcess(database, "--words", "3") for _ in range(2)]
    batch = slow_batch(servers[0], 40, concurrency=4)
    runs = until_ended(servers[1].api, batch, 40)
    assert {run["status"] for run in runs} == {"completed"}
    import sqlalchemy as sa

    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as conn:
        workers = Counter(conn.scalars(sa.text("SELECT worker FROM runs")))
    engine.dispose()
    assert len(workers) == 2, workers
    for server in servers:
        server.stop()


def lines(api: Api, method: str, path: str, body: JSON | None = None, **query: Any) -> list[JSON]:
    response = api.send(method, path, body, params=query, headers={"Accept": "application/jsonl"})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in response.text.splitlines()]


def test_lists_are_json_lines_to_those_who_accept_them(api: Api, script: Scripts) -> None:
    batch = add(api, "lines", rows(script(*[ANSWER] * 25).assistant(), 25), concurrency=25)
    runs = until_ended(api, batch, 25)
    paged = api.get("/runs", limit=25)["data"]
    assert lines(api, "GET", "/runs", limit=3)[:25] == paged
    assert [run["id"] for run in lines(api, "GET", "/runs", order="asc", after=paged[3]["id"])] == [
        run["id"] for run in paged[2::-1]
    ]
    thread = runs[0]["thread_id"]
    assert lines(api, "GET", f"/threads/{thread}/runs") == api.get(f"/threads/{thread}/runs")["data"]
    of_thread = f"/threads/{thread}/messages"
    assert lines(api, "GET", of_thread, order="asc") == api.get(of_thread, order="asc")["data"]
    refused = api.send("GET", "/runs", params={"after": "run_x"}, headers={"Accept": "application/jsonl"})
    assert refused.status_code == 400


def test_objects_of_many_runs_and_threads_are_read_at_once(api: Api, script: Scripts) -> None:
    batch = add(api, "bulk", rows(script(*[ANSWER] * 3).assistant(), 3))
    runs = until_ended(api, batch, 3)
    ids, threads = [run["id"] for run in runs], [run["thread_id"] for run in runs]
    found = lines(api, "POST", "/bulk", {"object": "thread.run", "run_ids": ids})
    assert found == [api.get(api.run_path(run)) for run in runs]
    steps = lines(api, "POST", "/bulk", {"object": "thread.run.step", "run_ids": ids})
    assert sorted(step["run_id"] for step in steps) == sorted(ids)
    messages = lines(api, "POST", "/bulk", {"object": "thread.message", "thread_ids": threads})
    assert Counter(message["thread_id"] for message in messages) == dict.fromkeys(threads, 2)
    absent = {"object": "thread.run.step", "run_ids": [*ids, "run_absent"]}
    assert api.refused("POST", "/bulk", absent)[0] == 404
    for wrong in ({}, {"run_ids": [], "thread_ids": []}):
        assert api.refused("POST", "/bulk", {"object": "thread.run", **wrong})[0] == 400


@pytest.mark.parametrize("size", [10, 3_000])
def test_lines_are_the_same_however_they_are_cut_into_queries(
    api: Api, script: Scripts, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    from nbruns.server.storage import store

    batch = add(api, f"cut at {size}", rows(script(*[ANSWER] * 5).assistant(), 5))
    runs = until_ended(api, batch, 5)
    body = {"object": "thread.message", "thread_ids": [run["thread_id"] for run in runs]}
    whole = lines(api, "GET", "/runs"), lines(api, "POST", "/bulk", body)
    monkeypatch.setattr(store, "MAX_BODIES", size)
    assert (lines(api, "GET", "/runs"), lines(api, "POST", "/bulk", body)) == whole
