"""`df.runs`: each question answered from a frame of runs, and a clear word for any other frame."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.pyplot
import pandas as pd
import pytest

import nbruns
from nbruns import SetupError, runs_frame, steps_frame
from nbruns.frames.plots import _STATUS_COLOURS

RUN = {
    "id": "run_1",
    "object": "thread.run",
    "status": "completed",
    "created_at": 1_700_000_000,
    "completed_at": 1_700_000_009,
}

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
    with pytest.raises(AttributeError, match=r"no column 'status'.*client\.runs\.list.*It has: a, b"):
        _ = pd.DataFrame({"a": [1], "b": [2]}).runs
    assert not hasattr(pd.DataFrame(), "runs")
    with pytest.raises(KeyError, match="no column 'model'"):
        steps_frame([]).runs.usage()


@pytest.mark.parametrize("column", ["duration", "total_tokens", "created_at"])
def test_a_renamed_column_is_missed_by_name(frame: pd.DataFrame, column: str) -> None:
    with pytest.raises(KeyError, match=f"no column '{column}'"):
        frame.rename(columns={column: "mine"}).runs.usage(freq="D")


def test_a_column_that_has_become_the_index_is_found_there(frame: pd.DataFrame) -> None:
    with pytest.raises(KeyError, match=r"no column 'model'.*in the index; reset_index\(\)"):
        frame.set_index("model").runs.usage()


def test_an_unknown_column_to_group_by_is_named(frame: pd.DataFrame) -> None:
    with pytest.raises(KeyError, match="no column 'team'"):
        frame.runs.usage(by=["model", "team"])


def test_questions_leave_the_frame_as_it_was(frame: pd.DataFrame) -> None:
    before = frame.copy(deep=True)
    frame.runs.usage(freq="D"), frame.runs.failures(), frame.runs.active()
    pd.testing.assert_frame_equal(frame, before)


def test_usage_by_day_thread_and_assistant_by_their_short_names(frame: pd.DataFrame) -> None:
    assert list(frame.runs.usage(by="day")["runs"]) == [4, 2]
    assert frame.runs.usage(by=["assistant", "day"]).index.names == ["assistant_id", "day"]
    assert list(frame.runs.usage(by="thread")["runs"]) == [6]  # of no thread
    assert list(frame.runs.usage(by=[])["runs"]) == [6]


def test_usage_by_month(frame: pd.DataFrame) -> None:
    assert list(frame.runs.usage(by=[], freq="MS").index) == [pd.Timestamp("2023-11-01", tz="UTC")]


def test_the_accessor_of_the_result_of_usage_says_where_its_column_of_runs_is(frame: pd.DataFrame) -> None:
    with pytest.raises(AttributeError, match=r"column is frame\['runs'\]"):
        _ = frame.runs.usage().runs


def test_usage_of_a_frame_read_from_parquet_is_the_same(frame: pd.DataFrame) -> None:
    texts = frame.astype({name: "string" for name in frame if frame[name].dtype == "category"})
    assert texts.runs.usage().reset_index(drop=True).equals(frame.runs.usage().reset_index(drop=True))


def test_concatenated_frames_with_other_models_still_answer(frame: pd.DataFrame) -> None:
    both = pd.concat([frame, runs_frame([run("run_7", "new", "failed")])])
    assert both.runs.usage().loc["new", "failures"] == 1
    assert both.runs.cost({"new": (1, 1)}).isna().all()


def test_a_column_that_is_there_twice_is_named(frame: pd.DataFrame) -> None:
    with pytest.raises(KeyError, match="2 columns 'model'"):
        pd.concat([frame, frame[["model"]]], axis=1).runs.usage()


PRICED = {"id": "r", "status": "completed", "model": "m", "created_at": 1_760_000_000}
TOKENS = {"prompt_tokens": 1_000_000, "completion_tokens": 500_000, "total_tokens": 1_500_000}
CACHED = {**TOKENS, "prompt_tokens_details": {"cached_tokens": 400_000}}


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        ((2, 10), TOKENS, 7.0),
        ((2, 10), CACHED, 7.0),
        ((2, 10, 1), CACHED, 6.6),
        ({"input": 2, "output": 10, "cached": 0}, CACHED, 6.2),
        ({"input": 2, "output": 10}, CACHED, 7.0),
        ((0, 0), TOKENS, 0.0),
    ],
)
def test_cost_by_own_prices(price: Any, usage: dict[str, Any], cost: float) -> None:
    assert runs_frame([{**PRICED, "usage": usage}]).runs.cost({"m": price})[0] == pytest.approx(cost)


def test_what_is_not_known_costs_a_missing_value_and_never_zero() -> None:
    unknown = [{**PRICED, "id": "a", "model": "nobody-knows-it", "usage": TOKENS}, {**PRICED, "id": "b"}]
    frame = runs_frame([*unknown, {**PRICED, "id": "c", "model": None, "usage": TOKENS}])
    assert str(frame.runs.cost().dtype) == "Float64"
    assert frame.runs.cost().isna().all()
    assert frame.runs.cost({"m": (1, 1)}).isna().all()
    assert str(runs_frame([]).runs.cost().dtype) == "Float64"


def test_cost_by_published_prices_counts_cached_tokens_at_their_own() -> None:
    runs = [{**PRICED, "id": str(i), "model": "gpt-4o", "usage": u} for i, u in enumerate([TOKENS, CACHED])]
    whole, cached = runs_frame(runs).runs.cost()
    assert whole == pytest.approx(2.5 + 5)  # $2.50 and $10.00 for a million since October 2024
    assert cached == pytest.approx(whole - 0.4 * 1.25)


def test_prices_that_rise_with_the_tokens_are_those_of_the_run() -> None:
    usage = [{"prompt_tokens": n, "completion_tokens": 0, "total_tokens": n} for n in (100_000, 300_000)]
    runs = [{**PRICED, "id": str(i), "model": "gemini-2.5-pro", "usage": u} for i, u in enumerate(usage)]
    small, large = runs_frame(runs).runs.cost()
    assert large > 3 * small > 0


def test_usage_adds_up_a_column_of_cost(frame: pd.DataFrame) -> None:
    usage = frame.assign(cost=frame.runs.cost({"small": (1e6, 0)})).runs.usage()
    assert usage.loc["small", "cost"] == 30
    assert pd.isna(usage.loc["large", "cost"])


@pytest.mark.parametrize("price", [(1,), ("a", "b"), {"input": 1}, {"output": 1, "cached": 2}])
def test_a_price_that_is_none_is_refused_with_its_model(frame: pd.DataFrame, price: Any) -> None:
    with pytest.raises(ValueError, match="The price of 'small' has to be"):
        frame.runs.cost({"small": price})


@pytest.mark.parametrize(
    ("missing", "question", "package"),
    [
        ("genai_prices", "cost()", "genai-prices"),
        ("matplotlib", "timeline()", "matplotlib"),
    ],
)
def test_a_missing_package_is_named(missing: str, question: str, package: str) -> None:
    code = f"""
import sys; sys.modules[{missing!r}] = None
import nbruns
run = {{"id": "r", "status": "completed", "created_at": 1, "model": "m", "usage": {{"total_tokens": 1}}}}
try: nbruns.runs_frame([run]).runs.{question}
except nbruns.SetupError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install " in done.stdout and f"'{package}>=" in done.stdout
    assert SetupError.__doc__


@pytest.fixture
def pictures() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    matplotlib.pyplot.close("all")


def many(count: int) -> pd.DataFrame:
    return runs_frame(
        [
            run(f"run_{n}", f"model_{n % 12}", "completed", n % 30, seconds=9, tokens=n + 1)
            for n in range(count)
        ]
    )


def bars_of(axes: Any) -> list[list[Any]]:
    return [[path.get_extents() for path in drawn.get_paths()] for drawn in axes.collections]


@pytest.mark.parametrize("count", [0, 1, 20, 3000])
def test_a_timeline_shows_each_run_and_its_time_zone(pictures: None, count: int) -> None:
    frame = many(count)
    axes = frame.runs.timeline()
    axes.figure.draw_without_rendering()
    if count:
        waiting, running = bars_of(axes)
        assert len(waiting) == len(running) == count
        assert axes.get_xlabel() == "time (UTC)"
        assert [label.get_text() for label in axes.get_yticklabels()] == (
            list(frame["id"]) if count < 40 else [""]
        )
        assert min(bar.width for bar in running) > 0


def test_runs_at_the_same_time_are_drawn_in_lanes_of_their_own(pictures: None) -> None:
    frame = runs_frame([run(f"run_{n}", "m", "completed", seconds=50) for n in range(60)])
    axes = frame.runs.timeline()
    assert len({bar.y0 for bar in bars_of(axes)[1]}) == 60


def test_many_runs_say_how_wide_they_are_drawn(pictures: None) -> None:
    frame = runs_frame([run(f"run_{n}", "m", "completed", n, seconds=5) for n in range(60)])
    axes = frame.runs.timeline()
    assert axes.get_ylabel() == "runs, drawn at least 3 h wide"  # of two months, where 5 s could not be seen
    assert [round(bar.width * 24, 1) for bar in bars_of(axes)[1]] == [2.8] * 60


def test_a_run_that_has_expired_is_drawn_until_then(pictures: None) -> None:
    expired = run("run_1", "m", "expired") | {"expires_at": 1_700_000_000 + 600}
    going_on = run("run_2", "m", "in_progress") | {"expires_at": 1_700_000_000 + DAY}
    bars = bars_of(runs_frame([expired, going_on]).runs.timeline())[1]
    assert [round(bar.width * DAY) for bar in bars] == [600, 600]  # what goes on ends with the picture
    frame = runs_frame([expired, going_on]).drop(columns="expires_at")
    assert len(bars_of(frame.runs.timeline())[1]) == 2


def test_no_two_of_the_few_have_the_same_colour(pictures: None) -> None:
    statuses = [
        "completed",
        "failed",
        "incomplete",
        "cancelled",
        "expired",
        "in_progress",
        "dreaming",
        "waking",
    ]
    frame = runs_frame([run(f"run_{s}", "m", s) for s in statuses])
    handles, names = frame.runs.plot_usage("runs", by="status").get_legend_handles_labels()
    assert len({handle.patches[0].get_facecolor() for handle in handles}) == len(names) == len(statuses)


def test_a_model_has_the_same_colour_in_each_picture(pictures: None, frame: pd.DataFrame) -> None:
    for value in ("total_tokens", "cost"):
        priced = frame.assign(cost=frame.runs.cost({"small": (100, 1), "large": (0, 0)}))
        handles, names = priced.runs.plot_usage(value).get_legend_handles_labels()
        colours = dict(zip(names, [handle.patches[0].get_facecolor() for handle in handles], strict=True))
        assert matplotlib.colors.to_hex(colours["large"]) == "#0072b2", value


def test_steps_are_drawn_below_their_runs(pictures: None) -> None:
    frame = many(3)
    step = {"type": "tool_calls", "created_at": 1_700_000_001, "completed_at": 1_700_000_003}
    steps = steps_frame(
        [{"id": "s1", "run_id": "run_1", **step}, {"id": "s2", "run_id": "elsewhere", **step}]
    )
    axes = frame.runs.timeline(steps)
    assert [len(bars) for bars in bars_of(axes)] == [3, 3, 1]
    assert "step: tool calls" in [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("count", [0, 1, 20, 3000])
def test_the_picture_of_usage_adds_up(pictures: None, count: int) -> None:
    frame = many(count)
    axes = frame.runs.plot_usage()
    axes.figure.draw_without_rendering()
    drawn = sum(bar.get_height() for bar in axes.patches)
    assert drawn == (frame["total_tokens"].sum() if count else 0)
    if count:
        named = [text.get_text() for text in axes.get_legend().get_texts()]
        assert len(named) == min(count, 9) and ("others" in named) == (count > 8)


@pytest.mark.parametrize("count", [1, 3, 25])
def test_runs_are_counted_in_whole_numbers(pictures: None, count: int) -> None:
    frame = many(count).assign(created_at=pd.Timestamp("2026-11-12", tz="UTC"))
    axes = frame.runs.plot_usage("runs")
    axes.figure.draw_without_rendering()
    assert [tick for tick in axes.get_yticks() if tick != round(tick)] == []


def test_the_picture_of_cost_takes_published_prices_where_the_frame_has_none(pictures: None) -> None:
    runs = [
        {**PRICED, "id": str(n), "model": model, "usage": TOKENS} for n, model in enumerate(["gpt-4o", "?"])
    ]
    frame = runs_frame(runs)
    axes = frame.runs.plot_usage("cost")
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(
        7.5
    )  # the other's price is not known
    assert "cost" not in frame


def test_usage_is_drawn_in_the_frames_own_time_zone(pictures: None) -> None:
    frame = many(20)
    axes = frame.assign(created_at=frame["created_at"].dt.tz_convert("Europe/Oslo")).runs.plot_usage(
        "runs", by="status"
    )
    assert axes.get_xlabel() == "time (Europe/Oslo)"
    assert sum(bar.get_height() for bar in axes.patches) == 20


def test_a_picture_of_a_column_that_is_not_there_names_it(frame: pd.DataFrame) -> None:
    with pytest.raises(KeyError, match="no column 'tokens'"):
        frame.runs.plot_usage("tokens")
    with pytest.raises(KeyError, match="no column 'duration'"):
        frame.drop(columns="duration").runs.timeline()


def test_a_picture_fits_light_and_dark_pages(pictures: None) -> None:
    """No background, text of a middle grey, and nothing that makes IPython lay a background under it."""
    from matplotlib_inline.backend_inline import _fetch_figure_metadata

    frame = runs_frame([{**RUN, "id": f"run_{n}", "created_at": 1_700_000_000 + n * 100} for n in range(60)])
    for runs in (frame, frame.head(3), frame.head(0)):
        for axes in (runs.runs.timeline(), runs.runs.plot_usage("runs")):
            assert axes.figure.patch.get_alpha() == axes.patch.get_alpha() == 0
            texts = [
                axes.title,
                axes.xaxis.label,
                *axes.get_xticklabels(),
                *axes.get_yticklabels(),
                *axes.texts,
            ]
            legend = axes.get_legend()
            texts += legend.get_texts() if legend else []
            for text in texts:
                grey = sum(matplotlib.colors.to_rgb(text.get_color())) / 3
                assert 0.45 < grey < 0.55, text
            axes.figure.canvas.draw()
            assert _fetch_figure_metadata(axes.figure) is None


def test_a_users_style_is_kept(pictures: None) -> None:
    with matplotlib.pyplot.style.context("dark_background"):
        axes = runs_frame([RUN]).runs.timeline()
    assert matplotlib.colors.to_hex(axes.figure.get_facecolor()) == "#000000"


def test_statuses_have_the_colours_of_the_widgets() -> None:
    css = (Path(nbruns.__file__).parent / "widgets/static/transcript.css").read_text()
    for name, status in (
        ("good", "completed"),
        ("bad", "failed"),
        ("warn", "requires_action"),
        ("accent", "in_progress"),
    ):
        [colour] = re.findall(rf"--nb-{name}: var\(--jp-[\w-]+, light-dark\((#\w+), #\w+\)\)", css)
        assert _STATUS_COLOURS[status] == colour


def test_costs_are_in_dollars_and_the_legend_is_in_the_order_of_the_stack(pictures: None) -> None:
    runs = [
        {
            **RUN,
            "id": model,
            "model": model,
            "usage": {"prompt_tokens": n, "completion_tokens": n, "total_tokens": 2 * n},
        }
        for model, n in (("large", 9_000), ("small", 1_000))
    ]
    frame = runs_frame(runs)
    frame = frame.assign(cost=frame.runs.cost({"large": (10.0, 10.0), "small": (10.0, 10.0)}))
    axes = frame.runs.plot_usage("cost")
    assert axes.get_title("left").startswith("cost: $")
    assert all(axes.yaxis.get_major_formatter()(value, 0).startswith("$") for value in (0, 0.5, 2000))
    bottoms = {bars.get_label(): bars.patches[0].get_y() for bars in axes.containers}
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == sorted(bottoms, key=lambda name: -bottoms[name])
