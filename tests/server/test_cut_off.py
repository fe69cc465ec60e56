"""A run that takes its server down, or is cut off again and again, ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import ServerProcess

SLOW = ("--words", "400", "--pause", "0.02")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.nightly)])
def test_a_run_that_was_cut_off_three_times_fails_at_the_next_start(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    database = tmp_path / "db" if kind == "sqlite" else request.getfixturevalue("postgresql")()
    server = ServerProcess(database, *SLOW)
    assistant = server.api.post("/assistants", {"model": "slow"})["id"]
    run = server.api.post(f"/threads/{server.api.thread_with()}/runs", {"assistant_id": assistant})
    last = 0
    for _ in range(3):
        last = next(e.id or 0 for e in server.api.rejoin(run, last) if e.name == "thread.message.delta")
        assert server.api.get(server.api.run_path(run))["status"] == "in_progress"
        server.kill()
        server = ServerProcess(database, *SLOW)
    run = server.api.until(run, "failed")
    assert run["last_error"]["code"] == "server_error"
    assert "was cut off 3 times" in run["last_error"]["message"]
    [step] = server.api.get(f"{server.api.run_path(run)}/steps")["data"]
    assert step["status"] == "failed"
    *_, done = server.api.rejoin(run)
    assert done.name == "done"
    # The thread is free, and the server works.
    short = server.api.post("/assistants", {"model": "demo"})["id"]
    after = server.api.post(f"/threads/{run['thread_id']}/runs", {"assistant_id": short})
    server.api.until(after, "completed")
    assert server.stop() == 0


@pytest.mark.nightly
def test_stops_in_good_order_are_not_counted(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", "--words", "60", "--pause", "0.05")
    assistant = server.api.post("/assistants", {"model": "slow"})["id"]
    run = server.api.post(f"/threads/{server.api.thread_with()}/runs", {"assistant_id": assistant})
    for _ in range(3):
        next(event for event in server.api.rejoin(run) if event.name == "thread.message.delta")
        assert server.stop() == 0
        server = ServerProcess(tmp_path / "db", "--words", "60", "--pause", "0.05")
    server.api.until(run, "completed")
    assert server.stop() == 0
