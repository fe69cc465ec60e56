"""Scores, and what they say about variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbruns  # noqa: F401  # registers the accessors
from nbruns.frames import accessor as accessor
from nbruns.frames import runs_frame


def runs(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A frame as a batch returns it."""
    count = len(rows)
    of_runs = runs_frame(
        [
            {"object": "thread.run", "id": f"run_{number}", "status": row.get("status", "completed")}
            for number, row in enumerate(rows)
        ]
    )
    answers = pd.array([row.get("answer", "text") for row in rows], dtype="string")
    own = {"prompt": [row["prompt"] for row in rows], "assistant": [row["assistant"] for row in rows]}
    frame = pd.DataFrame({**own, "answer": answers}, index=range(count)).join(of_runs)
    return frame.runs.score(**{n: _value(rows, n) for n in rows[0] if n.startswith("score")})


def _value(rows: list[dict[str, Any]], name: str) -> Any:
    return lambda row: rows[row.name][name]


def product(scores: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        {"prompt": f"p{number}", "assistant": name, "score": value}
        for name, values in scores.items()
        for number, value in enumerate(values)
    ]


def test_scores_have_the_type_of_their_values() -> None:
    frame = runs([{"prompt": "p", "assistant": "a", "answer": text} for text in ("long text", "x", None)])
    scored = frame.nbruns.score(
        length=lambda row: len(row.answer),
        part=lambda row: len(row.answer) / 2,
        is_long=lambda row: len(row.answer) > 5,
        kind=lambda row: "long" if len(row.answer) > 5 else "short",
    )
    new = scored[["length", "part", "is_long", "kind"]]
    assert [str(dtype) for dtype in new.dtypes] == ["Int64", "Float64", "boolean", "string"]
    assert new.iloc[0].tolist() == [9, 4.5, True, "long"]
    assert new.iloc[2].isna().all()  # no function is called for what was not answered
    assert "length" not in frame
    with pytest.raises(TypeError, match=r"score 'wrong' is to be a number.* not list"):
        frame.runs.score(wrong=lambda row: [1])
    with pytest.raises(ZeroDivisionError):
        frame.runs.score(broken=lambda row: 1 / 0)


def test_variants_are_compared() -> None:
    frame = runs(product({"good": [1, 1, 1, 0], "bad": [0, 0, 1, 0]}))
    told = frame.runs.compare()
    assert [*told.index] == ["good", "bad"] and told.index.name == "assistant"
    assert told["score"].tolist() == [0.75, 0.25]
    assert told["score_wins"].tolist() == [0.75, 0.25]  # two won, two tied
    assert (told["score_low"] <= told["score"]).all() and (told["score"] <= told["score_high"]).all()
    assert told["runs"].tolist() == [4, 4] and told["failures"].tolist() == [0, 0]
    assert frame.runs.compare(scores="score").equals(told)


@pytest.mark.nightly
def test_an_interval_holds_the_mean_about_as_often_as_it_says() -> None:
    drawn, held = np.random.default_rng(1), 0
    for _ in range(100):
        frame = runs(product({"a": drawn.normal(3.0, 1.0, 30).tolist()}))
        told = frame.runs.compare().iloc[0]
        held += bool(told["score_low"] <= 3.0 <= told["score_high"])
    assert 85 <= held <= 99


def test_an_interval_is_over_prompts_not_over_runs() -> None:
    once = runs(product({"a": [0, 1, 0, 1]}))
    ten_times = runs([row for row in product({"a": [0, 1, 0, 1]}) for _ in range(10)])
    bounds = ["score_low", "score_high"]
    assert once.runs.compare()[bounds].equals(ten_times.runs.compare()[bounds])


def test_failures_and_missing_scores_are_left_out_of_means() -> None:
    rows = product({"a": [1.0, 3.0, 5.0], "b": [2.0, 2.0, 2.0]})
    rows[2] |= {"answer": None, "status": "failed"}
    told = runs(rows).runs.compare()
    assert told.loc["a", ["score", "failures"]].tolist() == [2.0, 1]
    assert told["score_wins"].tolist() == [0.5, 0.5]  # of two prompts that both have answered


def test_a_single_variant_or_prompt_has_neither_wins_nor_bounds() -> None:
    told = runs(product({"a": [1.0]})).runs.compare().iloc[0]
    assert told["score"] == 1.0 and told[["score_low", "score_high", "score_wins"]].isna().all()


def test_frames_without_prompts_name_what_was_asked() -> None:
    frame = runs(product({"a": [1, 2], "b": [2, 1]})).rename(columns={"prompt": "case"})
    with pytest.raises(KeyError, match=r"Name the columns of the prompt with on="):
        frame.runs.compare()
    assert frame.runs.compare(on="case")["score_wins"].tolist() == [0.5, 0.5]
    with pytest.raises(KeyError, match="no column 'absent'"):
        frame.runs.compare(scores="absent", on="case")


def test_prompts_at_which_variants_disagree_come_first() -> None:
    frame = runs(product({"a": [1, 5, 3], "b": [1, 1, 2]}))
    told = frame.runs.disagreements(score="score")
    assert told["prompt"].tolist() == ["p1", "p1", "p2", "p2", "p0", "p0"]
    assert told["disagreement"].tolist() == [4, 4, 1, 1, 0, 0]
    texts = [{"prompt": p, "assistant": a, "answer": t} for p, a, t in ("pax", "pbx", "qax", "qby")]
    assert runs(texts).runs.disagreements()["prompt"].tolist() == ["q", "q", "p", "p"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("pqr"), st.sampled_from("ab"), st.none() | st.floats(-9, 9)), max_size=12
    )
)
def test_no_scores_raise(rows: list[tuple[str, str, float | None]]) -> None:
    given_rows = [{"prompt": p, "assistant": a, "score": s} for p, a, s in rows]
    frame = runs(given_rows) if rows else runs(product({"a": [1.0]})).iloc[:0]
    told = frame.runs.compare(scores="score")
    assert told["runs"].sum() == len(rows)
    assert len(frame.runs.disagreements(score="score")) == len(rows)


def test_a_picture_shows_each_variant_and_score() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    frame = runs(product({"good": [1, 1, 0], "bad": [0, 0, 1]})).assign(other=1.0)
    ax = frame.nbruns.plot_compare()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["good", "bad"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["score", "other"]
    assert frame.iloc[:0].runs.plot_compare(scores="score").texts[0].get_text() == "no scores"
