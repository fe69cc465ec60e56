"""What becomes of runs when the server does not live as long as they do."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from served import OUTPUTS, WEATHER, Api, SentEvent, ServerProcess

from nbruns.snapshot import RunSnapshot

JSON = dict[str, object]


def started(api: Api, **params: object) -> dict[str, object]:
    assistant = api.post("/assistants", {"model": "slow", **params})["id"]
    return api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})


def test_a_run_survives_a_kill_in_mid_message(tmp_path: Path) -> None:
    first = ServerProcess(tmp_path / "db", "--words", "20")
    run = started(first.api)
    seen: list[SentEvent] = []
    for event in first.api.rejoin(run):
        seen.append(event)
        if event.name == "thread.message.delta" and len(seen) > 12:
            break
    first.kill()

    second = ServerProcess(tmp_path / "db", "--words", "20")
    api = second.api
    rest = list(api.rejoin(run, after=seen[-1].id))
    assert rest[-1].name == "done"
    numbers = [event.id for event in seen + rest[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert_told_once(api, run, seen + rest[:-1])
    second.stop()


def assert_told_once(api: Api, run: dict[str, object], events: list[SentEvent]) -> None:
    """The run has one set of steps and messages, and its events fold to just that."""
    assert api.get(api.run_path(run))["status"] == "completed"
    messages = [
        m for m in api.get(f"/threads/{run['thread_id']}/messages")["data"] if m["role"] == "assistant"
    ]
    assert [m["content"][0]["text"]["value"] for m in messages] == ["".join(f"{n} " for n in range(20))]
    steps = api.get(f"{api.run_path(run)}/steps", order="asc")["data"]
    snapshot = RunSnapshot()
    for event in events:
        snapshot.apply(event.name, event.data)
    assert [message.to_dict() for message in snapshot.messages] == messages
    assert [step.to_dict() for step in snapshot.steps] == steps
    assert snapshot.run is not None
    assert snapshot.run.to_dict() == api.get(api.run_path(run))


@pytest.mark.nightly
def test_a_run_that_requires_action_waits_through_kills(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db")
    run = started(server.api, tools=[WEATHER])
    waiting = server.api.until(run, "requires_action")
    server.kill()
    server = ServerProcess(tmp_path / "db")
    assert server.api.get(server.api.run_path(run)) == waiting
    path = f"{server.api.run_path(run)}/submit_tool_outputs"
    server.api.post(path, OUTPUTS)
    server.kill()  # the submission has been answered, so it holds
    server = ServerProcess(tmp_path / "db")
    done = server.api.until(run, "completed")
    assert done["usage"]["total_tokens"] == 30 + 20
    steps = server.api.get(f"{server.api.run_path(run)}/steps", order="asc")["data"]
    assert [(step["type"], step["status"]) for step in steps] == [
        ("tool_calls", "completed"),
        ("message_creation", "completed"),
    ]
    assert steps[0]["step_details"]["tool_calls"][0]["function"]["output"] == "-3 °C"
    server.stop()


def test_a_stopped_server_ends_streams_at_once_and_parks_its_runs(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", "--words", "1000", "--pause", "0.1")
    run = started(server.api)
    events = server.api.rejoin(run)
    names = [next(events).name for _ in range(8)]
    assert "thread.message.delta" in names
    assert server.stop() == 0
    assert "done" not in [event.name for event in events]
    assert server.errors == ""
    server = ServerProcess(tmp_path / "db", "--words", "3")
    assert server.api.until(run, "completed")["usage"]["completion_tokens"] == 3
    server.stop()


@pytest.mark.nightly
def test_a_run_that_was_committed_just_before_a_kill_is_begun_by_the_next_server(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", "--words", "100", "--pause", "0.1")
    queued, waiting = started(server.api), started(server.api, tools=[WEATHER])
    server.api.until(waiting, "requires_action")
    server.kill()
    with sqlite3.connect(tmp_path / "db") as database:  # as a kill right behind each commit leaves them
        for run, status in ((queued, "queued"), (waiting, "cancelling")):
            change = f"status = '{status}', leg = leg + 1, body = json_set(body, '$.status', '{status}')"
            assert database.execute(f"UPDATE runs SET {change} WHERE id = ?", [run["id"]]).rowcount == 1
    server = ServerProcess(tmp_path / "db", "--words", "3")
    assert server.api.until(queued, "completed")["usage"]["completion_tokens"] == 3
    assert server.api.until(waiting, "cancelled", "completed")["status"] == "cancelled"
    server.stop()


def test_runs_expire_while_they_wait_while_they_work_and_while_nobody_serves(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", "--lifetime", "5", "--words", "1000", "--pause", "0.02")
    waiting, working = started(server.api, tools=[WEATHER]), started(server.api)
    server.api.until(waiting, "requires_action")
    for run in (waiting, working):
        expired = server.api.until(run, "expired")
        assert expired["expires_at"] <= time.time()
        assert expired["required_action"] is None
        [step] = server.api.get(f"{server.api.run_path(run)}/steps")["data"]
        assert step["status"] == "expired"
        assert step["expired_at"] >= run["expires_at"]
    [message] = server.api.get(f"/threads/{working['thread_id']}/messages", run_id=working["id"])["data"]
    assert message["incomplete_details"] == {"reason": "run_expired"}
    assert message["content"][0]["text"]["value"].startswith("0 1 2 ")
    late = started(server.api, tools=[WEATHER])
    server.api.until(late, "requires_action")
    server.kill()
    time.sleep(max(0.0, late["expires_at"] - time.time()))  # type: ignore[operator]
    server = ServerProcess(tmp_path / "db")
    assert server.api.get(server.api.run_path(late))["status"] == "expired"
    assert [event.name for event in server.api.rejoin(late)][-3:] == [
        "thread.run.step.expired",
        "thread.run.expired",
        "done",
    ]
    status, error = server.api.refused("POST", f"{server.api.run_path(late)}/submit_tool_outputs", OUTPUTS)
    assert (status, error["message"]) == (400, 'Runs in status "expired" do not accept tool outputs.')
    server.stop()


def test_an_idle_server_ends_by_itself_but_not_under_a_run(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", "--idle-timeout", "0.2", "--words", "10", "--pause", "0.1")
    run = started(server.api)
    server.api.session.close()
    assert server.process.wait(30) == 0
    with sqlite3.connect(tmp_path / "db") as database:
        assert database.execute("SELECT status FROM runs WHERE id = ?", [run["id"]]).fetchall() == [
            ("completed",)
        ]
    assert server.stop() == 0


def test_one_server_at_a_time_has_a_file(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db")
    with pytest.raises(AssertionError, match="SetupError: Another server is using the database"):
        ServerProcess(tmp_path / "db")
    server.stop()
