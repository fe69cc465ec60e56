"""Logs of old runs: their deltas are deleted, and whoever comes back reaches the same end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from served import Api, Scripts, SentEvent, ServerProcess, waiting_run

from nbruns.server.storage import store
from nbruns.server.storage.database import Database, Transaction
from nbruns.snapshot import RunSnapshot

JSON = dict[str, Any]


def folded(events: list[SentEvent]) -> JSON:
    """Return what events lead to: the run, its steps and its messages."""
    snapshot = RunSnapshot()
    for event in events:
        if event.name != "done":
            snapshot.apply(event.name, event.data)
    assert snapshot.run is not None and not snapshot.ignored
    of_run = {"steps": snapshot.steps, "messages": snapshot.messages}
    return {
        "run": snapshot.run.to_dict(),
        **{name: [one.to_dict() for one in of_run[name]] for name in of_run},
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_whoever_comes_back_to_an_old_run_reaches_the_same_end(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = tmp_path / "db" if kind == "sqlite" else request.getfixturevalue("postgresql")()
    server = ServerProcess(database, "--delta-lifetime", "1", "--words", "20", "--pause", "0")
    api = server.api
    assistant = api.post("/assistants", {"model": "slow"})["id"]
    whole = list(api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}))
    run = next(event.data for event in whole if event.name == "thread.run.created")
    assert sum(event.name == "thread.message.delta" for event in whole) == 20
    pruned = whole
    while any(event.name.endswith(".delta") for event in pruned):
        pruned = list(api.rejoin(run))
    assert pruned == [event for event in whole if not event.name.endswith(".delta")]
    for seen in range(1, len(whole)):
        assert folded(whole[:seen] + list(api.rejoin(run, whole[seen - 1].id))) == folded(whole)
    assert server.stop() == 0


def test_only_ended_runs_lose_deltas_and_each_only_once(
    api: Api, script: Scripts, tmp_path: Path, opened: Callable[[str], Database]
) -> None:
    """Written about in a database of its own, so that the other tests' runs keep theirs."""
    database = opened(f"sqlite:///{tmp_path / 'db'}")
    store.metadata.create_all(database.engine)
    waiting = waiting_run(api, script)
    ended = [{**waiting, "id": f"run_{n}", "status": "completed", "completed_at": 100 + n} for n in range(3)]
    with database.engine.begin() as conn:
        for n, run in enumerate([{**waiting, "completed_at": 1}, *ended]):
            store.add(conn, store.runs, {**run, "thread_id": f"thread_{n}"})
            rows = [(1, "thread.run.created"), (2, "thread.message.delta"), (3, "thread.run.step.delta")]
            conn.execute(
                sa.insert(store.events),
                [{"run_id": run["id"], "number": no, "name": name, "data": "{}"} for no, name in rows],
            )

    def pruned(before: int, limit: int = 10) -> tuple[int, dict[str, int]]:
        with database.engine.begin() as conn:
            old = store.to_prune(conn, before, limit)
            store.prune(Transaction(conn, "local"), old)
            query = sa.select(store.events.c.run_id, sa.func.count()).group_by(store.events.c.run_id)
            return len(old), {id: n for id, n in conn.execute(query).all()}

    all_there = {waiting["id"]: 3, "run_0": 3, "run_1": 3, "run_2": 3}
    assert pruned(100) == (0, all_there)
    assert pruned(102, limit=1) == (1, all_there | {"run_0": 1})
    assert pruned(102) == (1, all_there | {"run_0": 1, "run_1": 1})
    assert pruned(102) == (0, all_there | {"run_0": 1, "run_1": 1})
    assert pruned(1_000) == (1, all_there | {"run_0": 1, "run_1": 1, "run_2": 1})


def test_the_search_for_old_runs_reads_an_index(tmp_path: Path, opened: Callable[[str], Database]) -> None:
    database = opened(f"sqlite:///{tmp_path / 'db'}")
    store.metadata.create_all(database.engine)
    asked: list[str] = []
    sa.event.listen(
        database.engine, "before_cursor_execute", lambda conn, cursor, statement, *_: asked.append(statement)
    )
    with database.engine.begin() as conn:
        store.to_prune(conn, 1, 10)
        [query] = [statement for statement in asked if statement.startswith("SELECT")]
        plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", (10, 0)[: query.count("?")]).all()
    assert "runs_to_prune" in str(plan)
