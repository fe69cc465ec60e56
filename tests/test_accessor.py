"""`df.runs`: each question answered from a frame of runs, and a clear word for any other frame."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from nbruns import runs_frame, steps_frame

DAY = 86_400


def run(
    id: str, model: str, status: str, day: int = 0, *, seconds: int = 0, tokens: int | None = None
) -> dict[str, Any]:
    usage = tokens and {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    created = 1_700_000_000 + day * DAY
    return {
        "id": id,
        "model": model,
        "assistant_id": f"asst_{model}",
        "status": status,
        "created_at": created,
        "started_at": created,
        "completed_at": created + seconds if seconds else None,
        "usage": usage,
    }


@pytest.fixture
def frame() -> pd.DataFrame:
    return runs_frame(
        [
            run("run_1", "small", "completed", seconds=1, tokens=10),
            run("run_2", "small", "completed", seconds=3, tokens=20),
            run("run_3", "small", "failed", day=1),
            run("run_4", "large", "completed", day=1, seconds=5, tokens=100),
            run("run_5", "mute", "queued"),
            run("run_6", "mute", "expired"),
        ]
    )


def test_usage_counts_by_model(frame: pd.DataFrame) -> None:
    usage = frame.runs.usage()
    assert list(usage.index) == ["large", "mute", "small"]
    assert list(usage["runs"]) == [1, 2, 3]
    assert list(usage["failures"]) == [0, 1, 1]
    small = usage.loc["small"]
    assert (small["prompt_tokens"], small["completion_tokens"], small["total_tokens"]) == (30, 2, 32)
    assert small["median_time"] == pd.Timedelta(seconds=2)
    assert small["p95_time"] == pd.Timedelta(seconds=2.9)


def test_tokens_that_no_run_reported_are_missing_and_not_zero(frame: pd.DataFrame) -> None:
    mute = frame.runs.usage().loc["mute"]
    assert (
        mute[["prompt_tokens", "completion_tokens", "total_tokens", "median_time", "p95_time"]].isna().all()
    )


def test_usage_by_several_columns(frame: pd.DataFrame) -> None:
    usage = frame.runs.usage(by=["model", "status"])
    assert usage.index.names == ["model", "status"]
    assert usage.loc[("small", "completed"), "runs"] == 2
    assert usage.loc[("small", "failed"), "failures"] == 1
    assert len(usage) == 5  # only combinations that there are


def test_usage_by_model_and_day(frame: pd.DataFrame) -> None:
    usage = frame.runs.usage(freq="D")
    days = [pd.Timestamp("2023-11-14", tz="UTC"), pd.Timestamp("2023-11-15", tz="UTC")]
    assert usage.loc[("small", days[0]), "runs"] == 2
    assert usage.loc[("small", days[1]), "failures"] == 1
    assert usage.loc[("large", days[1]), "prompt_tokens"] == 100
    assert usage["runs"].sum() == len(frame)


def test_usage_has_the_same_columns_and_dtypes_without_runs(frame: pd.DataFrame) -> None:
    none = runs_frame([]).runs.usage()
    assert len(none) == 0
    assert list(none.dtypes.items()) == list(frame.runs.usage().dtypes.items())


def test_runs_without_a_model_are_counted_too() -> None:
    usage = runs_frame([{"id": "run_1", "status": "completed"}]).runs.usage()
    assert list(usage["runs"]) == [1]


def test_failures_and_active_runs(frame: pd.DataFrame) -> None:
    assert list(frame.runs.failures()["id"]) == ["run_3", "run_6"]
    assert list(frame.runs.active()["id"]) == ["run_5"]


def test_a_filtered_and_a_concatenated_frame_still_answer(frame: pd.DataFrame) -> None:
    assert list(frame[frame["model"] == "small"].runs.usage()["runs"]) == [3]
    both = pd.concat([frame, runs_frame([run("run_7", "small", "completed", tokens=1)])])
    assert both.runs.usage().loc["small", "prompt_tokens"] == 31


def test_a_frame_that_is_not_of_runs_says_which_column_is_missing() -> None:
    with pytest.raises(KeyError, match=r"no column 'status'.*client\.runs\.list.*It has: a, b"):
        _ = pd.DataFrame({"a": [1], "b": [2]}).runs
    with pytest.raises(KeyError, match="no column 'model'"):
        steps_frame([]).runs.usage()


@pytest.mark.parametrize("column", ["running_time", "total_tokens", "created_at"])
def test_a_renamed_column_is_missed_by_name(frame: pd.DataFrame, column: str) -> None:
    with pytest.raises(KeyError, match=f"no column '{column}'"):
        frame.rename(columns={column: "mine"}).runs.usage(freq="D")


def test_an_unknown_column_to_group_by_is_named(frame: pd.DataFrame) -> None:
    with pytest.raises(KeyError, match="no column 'team'"):
        frame.runs.usage(by=["model", "team"])


def test_questions_leave_the_frame_as_it_was(frame: pd.DataFrame) -> None:
    before = frame.copy(deep=True)
    frame.runs.usage(freq="D"), frame.runs.failures(), frame.runs.active()
    pd.testing.assert_frame_equal(frame, before)
