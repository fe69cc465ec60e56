"""A named batch whose program and whose server are killed, again and again: every row is run, and none twice.

The nightly variant has 500 rows; NBRUNS_NIGHTLY=1 runs it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import nbruns
from nbruns.local_server import is_serving

PROGRAM = Path(__file__).with_name("batch_program.py")
SEED = int(os.environ.get("NBRUNS_KILLS_SEED", "7"))


def started(folder: Path, rows: int) -> subprocess.Popen[str]:
    program = subprocess.Popen(
        [sys.executable, PROGRAM, folder, str(rows)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None and program.stdout.readline() == "started\n"
    return program


def kill_server(folder: Path) -> None:
    address = json.loads((folder / "server.json").read_text())
    os.kill(address["pid"], signal.SIGKILL)
    while is_serving(folder):
        time.sleep(0.01)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("rows", "kills"), [(24, 2), pytest.param(500, 5, marks=pytest.mark.nightly, id="nightly")]
)
def test_rows_are_run_once_whatever_is_killed(tmp_path: Path, rows: int, kills: int) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    for _ in range(kills):
        program = started(tmp_path, rows)
        try:  # it may end in time, which would be too late to kill it
            program.wait(chance.uniform(0.2, 0.2 + rows / 40))
        except subprocess.TimeoutExpired:
            pass
        program.kill()
        program.wait()
        kill_server(tmp_path)
    assert started(tmp_path, rows).wait() == 0
    told = json.loads((tmp_path / "rows.json").read_text())
    assert [prompt for prompt, _, _ in told] == [f"Question {number}?" for number in range(rows)]
    assert {status for _, _, status in told} <= {"completed", "incomplete"}
    client = nbruns.local(tmp_path)
    stored = client.runs.list()
    keys = Counter(metadata["nbruns_row"] for metadata in stored["metadata"])
    print(f"{rows} rows, {len(stored)} runs, {kills} kills, {time.monotonic() - began:.0f} s")
    assert len(stored) == rows and set(keys.values()) == {1}
    assert sorted(stored["id"]) == sorted(id for _, id, _ in told)
    client.server.stop()
