"""The commands for runs as users start them: tables and text for people, JSON lines for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import nbruns
from nbruns import commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a running server."""
    folder = tmp_path_factory.mktemp("commands")
    client = nbruns.local(folder)
    yield folder
    client.server.stop()


def run(*arguments: object, text: str = "", code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nbruns", *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_without_a_command_help_is_printed() -> None:
    assert "usage: nbruns" in run() and "follow a run" in run()


def test_a_question_is_answered_and_its_run_can_be_watched_and_listed(folder: Path) -> None:
    answer = run("ask", "What is a run?", "--model", "demo", "--data", folder)
    assert "What is a run?" in answer and answer.endswith("\n")
    [listed] = lines(run("runs", "--data", folder, "--json"))
    assert listed["status"] == "completed"
    assert run("watch", listed["id"], "--data", folder) == answer
    events = lines(run("watch", listed["id"], "--data", folder, "--json"))
    assert events[0]["event"] == "thread.created" and events[-1]["event"] == "thread.run.completed"
    table = run("runs", "--data", folder, "--status", "completed")
    assert listed["id"] in table and "What is a run?" in table
    assert "run_" not in run("runs", "--data", folder, "--status", "failed")
    assert "no run found" in run("watch", "run_absent", "--data", folder, code=1).lower()


def test_the_status_of_a_server_is_told(folder: Path, tmp_path: Path) -> None:
    told = json.loads(run("status", "--data", folder, "--json"))
    assert told["running"] and "demo" in told["models"] and told["active_runs"] == {}
    assert told["url"] in run("status", "--data", folder)
    assert json.loads(run("status", "--data", tmp_path, "--json"))["running"] is False
    assert "No server is running" in run("status", "--data", tmp_path)


def test_a_file_of_prompts_is_run(folder: Path, tmp_path: Path) -> None:
    pd.DataFrame({"topic": ["a", "b"], "prompt": ["One?", "Two?"]}).to_csv(tmp_path / "in.csv", index=False)
    arguments = ("batch", tmp_path / "in.csv", "--data", folder, "--name", "of the test")
    table = run(*arguments, "--output", tmp_path / "out.parquet")
    assert "completed" in table
    told = pd.read_parquet(tmp_path / "out.parquet")
    assert told["topic"].tolist() == ["a", "b"] and told["status"].eq("completed").all()
    rows = lines(run(*arguments, "--json"))  # it continues: nothing is left to run
    assert sorted(row["id"] for row in rows) == sorted(told["id"])
    [row] = lines(run("batch", "-", "--data", folder, "--json", text="Three?\n\n"))
    assert row["prompt"] == "Three?"
    for wrong in (("batch", tmp_path / "absent.csv"), ("batch", "-", "--output", tmp_path / "out.xyz")):
        assert run(*wrong, "--data", folder, code=1).startswith("nbruns: ")


def test_text_from_outside_can_not_command_the_terminal() -> None:
    assert commands._printable("a\x1b[2Jb\r\n\tc\u202e") == "a\\x1b[2Jb\\r\n\tc\\u202e"
    from io import StringIO

    written = StringIO()
    frame = pd.DataFrame({"answer": ["[red]x[/red] \x1b[31m", None], "status": ["failed", "completed"]})
    commands._console(written).print(commands._table(frame, ["status", "answer", "absent"]))
    assert "[red]x[/red] \\x1b[31m" in written.getvalue()
