"""Which rows of a frame a filter lets through, in which order, and what their cells say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbruns.frames import runs_frame
from nbruns.widgets.runs_table.rows import (
    COLUMNS,
    Filter,
    Rows,
    RunText,
    complete,
    moment,
    moment_text,
    updated,
)

NOW = pd.Timestamp("2026-11-20T12:00:00Z")
MONDAY = int(pd.Timestamp("2026-11-16T08:00:00Z").timestamp())


def run(id: str, status: str = "completed", at: int = MONDAY, **fields: Any) -> dict[str, Any]:
    known = {"id": id, "object": "thread.run", "thread_id": "thread_1", "assistant_id": "asst_1"}
    return known | {"status": status, "model": "demo", "created_at": at, "started_at": at} | fields


RUNS = [
    run("run_a", completed_at=MONDAY + 90, usage={"total_tokens": 1200}, metadata={"team": "Süd"}),
    run(
        "run_b",
        "failed",
        MONDAY + 60,
        assistant_id="asst_2",
        metadata={"team": 7},
        failed_at=MONDAY + 61,
        last_error={"code": "server_error", "message": "It broke."},
    ),
    run(
        "run_c", "incomplete", MONDAY + 86400, incomplete_details={"reason": "max_prompt_tokens"}, model="big"
    ),
    run("run_d", "in_progress", MONDAY + 3 * 86400, usage=None),
    {"id": "run_e", "status": None, "created_at": "not a time"},
]


def found(frame: pd.DataFrame, **wanted: Any) -> list[str]:
    rows = Rows(frame, {"asst_1": "Ada"})
    return list(frame["id"].iloc[rows.matching(Filter(**wanted), NOW)])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "dcbae"),
        ({"status": ["failed", "incomplete"]}, "cb"),
        ({"model": ["big"]}, "c"),
        ({"text": "BROKE it"}, "b"),
        ({"text": "server_error"}, "b"),
        ({"text": "süd"}, "a"),
        ({"text": "team run_c"}, ""),
        ({"text": "said", "said_in": {"run_c", "run_a"}}, "ca"),
        ({"text": "broke", "said_in": {"run_c"}}, "cb"),
        ({"assistant": ["asst_2"]}, "b"),
        ({"assistant": ["Ada"]}, "dca"),
        ({"assistant": ["Ada", "asst_2"], "status": ["failed"]}, "b"),
        ({"metadata": {"team": "Süd"}}, "a"),
        ({"metadata": {"team": None}}, "ba"),
        ({"metadata": {"team": "Süd", "n": None}}, ""),
        ({"since": "2026-11-17"}, "dc"),
        ({"since": "36h"}, "d"),
        ({"until": "2026-11-16T08:00:30Z"}, "a"),
        ({"since": "2026-11-16T09:00:30+01:00", "until": "2026-11-18"}, "cb"),
        ({"sort": "created_at"}, "abcde"),
        ({"sort": "duration"}, "bacde"),
        ({"sort": "-total_tokens"}, "abcde"),
        ({"sort": "-model"}, "abdce"),
        ({"sort": "why"}, "bcade"),
        ({"sort": "assistant"}, "acdbe"),
    ],
)
def test_what_a_filter_lets_through_and_in_which_order(wanted: dict[str, Any], expected: str) -> None:
    assert found(runs_frame(RUNS), **wanted) == [f"run_{letter}" for letter in expected]


def test_cells_are_text_and_nothing_for_what_is_missing() -> None:
    rows = Rows(runs_frame(RUNS))
    listed = rows.cells(rows.matching(Filter(), NOW), [*COLUMNS], texts={"run_e": RunText()})
    assert all(cells[-1] == cells[-2] for cells in listed)  # each row ends with the id, whatever its columns
    named = [dict(zip(COLUMNS, cells, strict=False)) for cells in listed]
    by_id = {cells["id"]: cells for cells in named}
    a = by_id["run_a"]
    assert (a["created_at"], a["duration"], a["total_tokens"]) == (
        "2026-11-16 08:00:00",
        "1 min 30 s",
        "1,200",
    )
    assert [by_id[f"run_{letter}"]["why"] for letter in "abc"] == ["", "It broke.", "max prompt tokens"]
    assert set(by_id["run_e"].values()) == {"run_e", ""}
    assert {name for name, text in a.items() if text is None} == {"question", "answer"}  # not loaded
    assert all(isinstance(text, str) for name, text in a.items() if name not in ("question", "answer"))


def test_cells_are_those_of_the_chosen_columns_in_the_chosen_time_zone() -> None:
    prices = {"demo": (1000.0, 2000.0)}
    run_f = run("run_f", usage={"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500})
    rows = Rows(runs_frame([run_f, RUNS[2]]), {"asst_1": "Ada"}, prices)
    columns = ("cost", "assistant", "answer", "created_at")
    cells = rows.cells(np.array([0, 1]), columns, "Asia/Tokyo", {"run_f": RunText("Hm?", "x" * 999)})
    assert cells == [
        ["$2.00", "Ada", "x" * 200, "2026-11-16 17:00:00", "run_f"],
        ["", "Ada", None, "2026-11-17 17:00:00", "run_c"],
    ]


def test_messages_belong_to_the_run_that_wrote_or_answers_them() -> None:
    rows = Rows(runs_frame(RUNS))

    def at(seconds: int) -> pd.Timestamp:
        return pd.Timestamp(MONDAY + seconds, unit="s", tz="UTC")

    assert rows.said_by([("run_b", "thread_1", at(0)), ("run_x", None, None)]) == {"run_b", "run_x"}
    assert rows.said_by([(None, "thread_1", at(-5)), (None, "thread_1", at(60))]) == {"run_a", "run_b"}
    assert (
        rows.said_by([(None, "thread_1", at(10**7)), (None, "thread_2", at(0)), (None, None, None)]) == set()
    )


def test_metadata_is_offered_by_value_unless_it_has_too_many() -> None:
    runs = [run(f"run_{n}", metadata={"team": "AB"[n % 2], "trace": n}) for n in range(30)]
    rows = Rows(runs_frame([*runs, run("run_x", metadata={"note": "y" * 500})]))
    pairs = [("trace", None, 30), ("team", "A", 15), ("team", "B", 15), ("note", None, 1)]
    assert rows.metadata_pairs() == pairs


def test_no_runs_have_no_rows() -> None:
    rows = Rows(runs_frame([]))
    assert rows.cells(rows.matching(Filter(text="x", since="1h", status=["failed"]), NOW)) == []
    assert (rows.counts("status", Filter(), NOW), rows.active(), rows.position("run_a")) == ([], [], None)


def test_any_frame_that_names_runs_will_do() -> None:
    frame = runs_frame(RUNS)
    doubled = pd.concat([frame, frame.assign(id=frame["id"] + "2")])  # its index has every number twice
    assert found(doubled[["id", "thread_id", "status"]], status=["failed"]) == ["run_b", "run_b2"]
    odd = frame.assign(status=frame["status"].astype(str), model=None)
    assert found(odd, text="broke") == ["run_b"]
    assert len(Rows(doubled).cells(Rows(doubled).matching(Filter(), NOW))) == 10


def test_a_frame_of_something_else_says_what_it_lacks() -> None:
    with pytest.raises(KeyError, match="'thread_id'"):
        complete(pd.DataFrame({"id": ["run_a"]}))


def test_active_runs_are_those_that_may_still_change() -> None:
    assert Rows(runs_frame(RUNS)).active() == [("run_d", "thread_1")]


def test_fresh_runs_take_their_places() -> None:
    frame = runs_frame(RUNS).assign(mine=range(5))
    fresh = runs_frame([run("run_d", "expired", model="new"), run("run_x")])
    after = updated(frame, fresh)
    assert list(after["status"])[:4] == ["completed", "failed", "incomplete", "expired"]
    assert after["model"][3] == "new" and list(after["mine"]) == list(range(5)) and len(after) == 5
    assert [str(dtype) for dtype in after.dtypes] == [str(dtype) for dtype in frame.dtypes]
    assert list(frame["status"])[3] == "in_progress"  # the frame that was given stays as it is


@pytest.mark.parametrize("text", ["", "  "])
def test_no_time_is_no_bound(text: str) -> None:
    assert moment_text(text) == ""


@pytest.mark.parametrize("text", ["yesterdayish", "7 parsecs", "NaT", "7"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        print(moment(text, NOW))


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert moment_text("2026-11-01") == "2026-11-01T00:00:00"
    assert moment_text("2026-11-01T10:00+02:00") == "2026-11-01T08:00:00"
    assert moment_text(" 7D ") == "7D"
    assert moment("7D", NOW) == pd.Timestamp("2026-11-13T12:00:00Z")


def test_counts_are_of_the_rows_that_the_rest_of_the_filter_lets_through() -> None:
    rows = Rows(runs_frame(RUNS))
    whole = dict(rows.counts("status", Filter(), NOW))
    some = dict(rows.counts("status", Filter(until="2026-11-16T08:00:30Z"), NOW))  # run_a alone
    assert sum(whole.values()) > 1
    assert sum(some.values()) == 1
    assert some.keys() == whole.keys()
    (status,) = [name for name, count in some.items() if count]
    assert dict(rows.counts("status", Filter(status=[status]), NOW)) == whole  # its own choice doesn't count
