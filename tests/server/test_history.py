"""A made-up history: whole, ended, the same for the same seed, and served like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import nbruns
from nbruns.demo.history import write_history
from nbruns.errors import SetupError
from nbruns.local_server import LocalServer
from nbruns.objects import TERMINAL_STATUSES
from nbruns.server.storage import store

UNTIL = datetime(2026, 11, 20, 18, tzinfo=UTC)
TABLES = (store.assistants, store.threads, store.messages, store.runs, store.steps)

Objects = dict[str, list[dict[str, Any]]]


def written(folder: Path, **options: Any) -> Objects:
    """All objects of a history, by the name of their table."""
    url = f"sqlite:///{folder}/history.sqlite"
    asked = {"runs": 400, "until": UNTIL, "seed": 7} | options
    assert write_history(url, **asked) == asked["runs"]
    with sa.create_engine(url).connect() as conn:
        return {t.name: list(conn.scalars(sa.select(t.c.body).order_by(t.c.seq))) for t in TABLES}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return written(tmp_path_factory.mktemp("history"))


def test_the_same_seed_makes_the_same_history(history: Objects, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert written(tmp_path) == history
    other = written(tmp_path / "other", seed=8)
    assert not {run["id"] for run in other["runs"]} & {run["id"] for run in history["runs"]}


def test_it_moves_with_its_end(history: Objects, tmp_path: Path) -> None:
    earlier = written(tmp_path, until=UNTIL - timedelta(days=7))
    starts = [[run["created_at"] for run in objects["runs"]] for objects in (history, earlier)]
    assert max(starts[0]) - max(starts[1]) == pytest.approx(7 * 86400, abs=86400)


def test_every_run_has_ended_within_its_time(history: Objects) -> None:
    begin, end = (UNTIL - timedelta(days=30)).timestamp(), UNTIL.timestamp()
    for run in history["runs"]:
        assert run["status"] in TERMINAL_STATUSES
        ends = [run[f"{name}_at"] for name in ("completed", "failed", "cancelled") if run[f"{name}_at"]]
        assert len(ends) == (run["status"] != "expired"), run
        assert begin <= run["created_at"] <= run["started_at"] <= (ends or [end])[0] <= end


def test_it_has_what_a_month_has(history: Objects) -> None:
    counts = Counter(run["status"] for run in history["runs"])
    assert counts["completed"] > 350
    assert set(counts) >= {"completed", "failed", "incomplete", "cancelled"}
    assert {run["model"] for run in history["runs"]} >= {"gpt-4o", "gpt-4o-mini", "gpt-4.1", "o4-mini"}
    called = Counter(
        call["function"]["name"]
        for step in history["steps"]
        for call in step["step_details"].get("tool_calls", ())
    )
    assert called["find_order"] > 20 < called["query_warehouse"]


def test_what_belongs_together_fits(history: Objects) -> None:
    steps: dict[str, list[dict[str, Any]]] = {}
    for step in history["steps"]:
        steps.setdefault(step["run_id"], []).append(step)
    messages = {message["id"]: message for message in history["messages"]}
    for run in history["runs"]:
        own = steps.get(run["id"], [])
        assert run["usage"]["total_tokens"] == sum(step["usage"]["total_tokens"] for step in own)
        written = [step["step_details"].get("message_creation") for step in own]
        ids = [creation["message_id"] for creation in written if creation]
        assert len(ids) == (run["status"] in ("completed", "incomplete"))
        assert all(messages[id]["run_id"] == run["id"] for id in ids)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[nbruns.Client]:
    client = nbruns.local(tmp_path / "served", idle_timeout=60)
    yield client
    client.close()
    client.server.stop()


def test_a_server_serves_it_at_once(client: nbruns.Client) -> None:
    assert client.server.add_history(250, until=UNTIL) == 250
    assert client.server.add_history(250, until=UNTIL) == 0  # it is there already
    frame = client.runs.list()
    assert len(frame) == 250
    assert frame["created_at"].is_monotonic_decreasing
    run = client.runs.retrieve(frame["id"][0], thread=frame["thread_id"][0])
    assert client.runs.steps.list(run)["run_id"].eq(run.id).all()


def test_a_server_with_another_database_gets_none(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="doesn't use"):
        LocalServer(tmp_path, "http://127.0.0.1:1").add_history(10)
    assert list(tmp_path.iterdir()) == []
