"""Durations read the same in Python and in the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from nbruns.frames import runs_frame
from nbruns.objects import Run
from nbruns.snapshot import RunSnapshot
from nbruns.widgets.html import duration
from nbruns.widgets.run_view.transcript import head_html
from nbruns.widgets.run_view.transcript_view import STATIC
from nbruns.widgets.runs_table.rows import Filter, Rows

CASES = json.loads((Path(__file__).parent / "durations.json").read_text(encoding="utf-8"))


def test_python_says_each_duration_as_the_cases_have_it() -> None:
    assert [duration(seconds) for seconds, _ in CASES] == [words for _, words in CASES]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_says_each_duration_as_the_cases_have_it() -> None:
    source = (STATIC / "transcript.js").read_text(encoding="utf-8")
    (function,) = re.findall(r"^function duration\(.*?^}", source, re.DOTALL | re.MULTILINE)
    program = f"{function}\nconsole.log(JSON.stringify({json.dumps([s for s, _ in CASES])}.map(duration)))"
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [words for _, words in CASES]


def test_the_row_and_the_head_of_a_run_name_the_same_duration() -> None:
    payload: dict[str, object] = {"id": "run_1", "thread_id": "thread_1", "status": "completed"}
    payload |= {"created_at": 1_790_000_000, "started_at": 1_790_000_003, "completed_at": 1_790_000_008}
    rows = Rows(runs_frame([Run(payload)]))
    assert "8 s" in rows.cells(rows.matching(Filter(), pd.Timestamp.now("UTC")))[0]
    snapshot = RunSnapshot()
    snapshot.apply("thread.run.completed", payload)
    assert ">8 s<" in head_html(snapshot)
