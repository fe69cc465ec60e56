"""Nested columns in the idioms of pandas and of its neighbours: they do what columns of objects do."""

from __future__ import annotations

import io
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb as duckdb_module
import pandas as pd
import polars as polars_module
import pyarrow
import pytest

from nbruns import nested_from_json, nested_to_json, runs_frame, steps_frame, tool_calls_frame

METADATA: list[Any] = [{"team": "a", "n": "9"}, {"team": "b", "n": "10"}, {"team": "a", "n": "11"}]


@pytest.fixture
def runs() -> pd.DataFrame:
    return runs_frame([{"id": f"run_{n}", "metadata": each} for n, each in enumerate(METADATA)])


@pytest.fixture
def steps() -> pd.DataFrame:
    calls = [["f", "g"], [], ["f"]]
    return steps_frame(
        [
            {
                "id": f"step_{n}",
                "step_details": {
                    "tool_calls": [{"type": "function", "function": {"name": c}} for c in names]
                },
            }
            for n, names in enumerate(calls)
        ]
    )


def excel(frame: pd.DataFrame) -> list[Any]:
    file = io.BytesIO()
    frame[["id", "metadata"]].to_excel(file, index=False)
    return pd.read_excel(file)["metadata"].tolist()


def polars(frame: pd.DataFrame) -> list[Any]:
    return polars_module.from_pandas(frame)["metadata"].to_list()


def arrow(frame: pd.DataFrame) -> list[Any]:
    return pyarrow.Table.from_pandas(frame)["metadata"].to_pylist()


def duckdb(frame: pd.DataFrame) -> list[Any]:
    rows = duckdb_module.sql("SELECT id, metadata.team FROM frame WHERE metadata.n = '10'")
    return rows.fetchall()


def csv(frame: pd.DataFrame) -> list[Any]:
    return pd.read_csv(io.StringIO(frame.to_csv()))["metadata"].tolist()


def put(frame: pd.DataFrame) -> list[Any]:
    column = frame["metadata"].copy()
    column.iat[0] = {"new": "value"}
    column.at[1] = None
    return column.tolist()


#: name → what is asked of a frame of runs, and what the answer is.
OF_RUNS: dict[str, tuple[Callable[[pd.DataFrame], Any], Any]] = {
    "map to numbers": (lambda df: df["metadata"].map(len).tolist(), [2, 2, 2]),
    "map and add": (lambda df: df["metadata"].map(lambda m: int(m["n"])).sum(), 30),
    "map and compare": (
        lambda df: (df["metadata"].map(lambda m: int(m["n"])) > 9).tolist(),
        [False, True, True],
    ),
    "map and sort": (
        lambda df: df["metadata"].map(lambda m: int(m["n"])).sort_values().tolist(),
        [9, 10, 11],
    ),
    "map to truth": (lambda df: any(df["metadata"].map(lambda m: m["team"] == "z")), False),
    "map to a dtype": (lambda df: str(df["metadata"].map(len).dtype), "int64"),
    "filter": (
        lambda df: df[df["metadata"].map(lambda m: m["team"] == "a")]["id"].tolist(),
        ["run_0", "run_2"],
    ),
    "apply": (lambda df: df["metadata"].apply(lambda m: m["n"]).tolist(), ["9", "10", "11"]),
    "apply to rows": (
        lambda df: df.apply(lambda row: row["metadata"]["n"], axis=1).tolist(),
        ["9", "10", "11"],
    ),
    "apply to columns": (lambda df: df["metadata"].apply(pd.Series)["team"].tolist(), ["a", "b", "a"]),
    "str": (lambda df: df["metadata"].str["team"].tolist(), ["a", "b", "a"]),
    "str.get": (lambda df: df["metadata"].str.get("n").astype(int).max(), 11),
    "str.len": (lambda df: df["metadata"].str.len().tolist(), [2, 2, 2]),
    "explode": (lambda df: df["metadata"].explode().tolist(), ["team", "n"] * 3),
    "value_counts": (lambda df: df["metadata"].str["team"].value_counts().to_dict(), {"a": 2, "b": 1}),
    "group by a part": (
        lambda df: df.groupby(df["metadata"].str["team"])["id"].count().to_dict(),
        {"a": 2, "b": 1},
    ),
    "group by itself": (lambda df: df.groupby("metadata").size(), TypeError),
    "first of a group": (lambda df: df.groupby("id")["metadata"].first().tolist(), METADATA),
    "sort by itself": (lambda df: df.sort_values("metadata"), TypeError),
    "sort by a part": (
        lambda df: df.sort_values("metadata", key=lambda m: m.str["n"].astype(int), ascending=False)[
            "id"
        ].tolist(),
        ["run_2", "run_1", "run_0"],
    ),
    "merge": (lambda df: df.merge(df[["id", "metadata"]], on="id")["metadata_y"].tolist(), METADATA),
    "concatenate": (lambda df: pd.concat([df, df])["metadata"].tolist(), METADATA * 2),
    "dtype when concatenated": (lambda df: str(pd.concat([df, df])["metadata"].dtype), "object"),
    "compare with one": (lambda df: (df["metadata"] == METADATA[0]).tolist(), [True, False, False]),
    "compare with many": (lambda df: (df["metadata"] == df["metadata"]).all(), True),
    "isin": (lambda df: df["metadata"].isin(["x"]).tolist(), [False] * 3),
    "unique": (lambda df: df["metadata"].unique(), TypeError),
    "fill what is missing": (
        lambda df: df["metadata"].where(df["id"] != "run_0").fillna("-").tolist()[:1],
        ["-"],
    ),
    "drop what is missing": (lambda df: len(df["metadata"].where(df["id"] != "run_0").dropna()), 2),
    "isna": (lambda df: df["metadata"].isna().sum(), 0),
    "put": (put, [{"new": "value"}, None, METADATA[2]]),
    "json_normalize": (
        lambda df: pd.json_normalize(df["metadata"].tolist())["n"].tolist(),
        ["9", "10", "11"],
    ),
    "to_dict": (lambda df: df[["metadata"]].to_dict("records")[0], {"metadata": METADATA[0]}),
    "to_json": (lambda df: df["metadata"].head(1).to_json(), '{"0":{"team":"a","n":"9"}}'),
    "to_csv": (csv, list(map(str, METADATA))),
    "numpy": (lambda df: df["metadata"].to_numpy().tolist(), METADATA),
    "pickle": (lambda df: pickle.loads(pickle.dumps(df))["metadata"].tolist(), METADATA),
    "repr": (lambda df: "{'team': 'a'" in repr(df["metadata"]), True),
    "query": (lambda df: df.query("metadata.str['team'] == 'b'", engine="python")["id"].tolist(), ["run_1"]),
    "excel": (excel, list(map(str, METADATA))),
    "polars": (polars, METADATA),
    "arrow": (arrow, METADATA),
    "duckdb": (duckdb, [("run_1", "b")]),
}
OF_STEPS: dict[str, tuple[Callable[[pd.DataFrame], Any], Any]] = {
    "explode": (lambda df: df["tool_names"].explode().fillna("-").tolist(), ["f", "g", "-", "f"]),
    "explode the frame": (lambda df: df.explode("tool_names")["id"].value_counts()["step_0"], 2),
    "explode and count": (lambda df: df["tool_names"].explode().value_counts().to_dict(), {"f": 2, "g": 1}),
    "str.len": (lambda df: df["tool_names"].str.len().tolist(), [2, 0, 1]),
    "str.join": (lambda df: df["tool_names"].str.join("+").tolist(), ["f+g", "", "f"]),
    "contains": (lambda df: df["tool_names"].map(lambda names: "g" in names).tolist(), [True, False, False]),
    "add": (lambda df: df["tool_names"].sum(), ["f", "g", "f"]),
}


def answer(ask: Callable[[pd.DataFrame], Any], frame: pd.DataFrame) -> Any:
    try:
        return ask(frame)
    except Exception as error:  # which is an answer, too: dicts are not hashable
        return type(error)


@pytest.mark.parametrize("idiom", OF_RUNS)
def test_a_column_of_dicts_does_what_a_column_of_objects_does(runs: pd.DataFrame, idiom: str) -> None:
    ask, expected = OF_RUNS[idiom]
    plain = runs.assign(metadata=pd.Series(METADATA, dtype=object))
    assert answer(ask, runs) == answer(ask, plain) == expected


@pytest.mark.parametrize("idiom", OF_STEPS)
def test_a_column_of_lists_does_what_a_column_of_objects_does(steps: pd.DataFrame, idiom: str) -> None:
    ask, expected = OF_STEPS[idiom]
    plain = steps.assign(tool_names=pd.Series([["f", "g"], [], ["f"]], dtype=object))
    assert answer(ask, steps) == answer(ask, plain) == expected


VALUES: list[Any] = [
    *({"a": "1"}, {"b": "2"}, {}, None, {"a": 1}, {"a": [1, {"b": None}]}, {"κλειδί": "ü", "": "\x00"}),
    *({"half": "\ud800"}, [], [1, "x"], "text", "", 5, True, 1.5, 10**30),
]


@pytest.mark.parametrize("values", [VALUES, [{}, {}], [None, None], [["a"], ["b"]], []], ids=str)
def test_every_nested_value_comes_back_from_parquet(values: list[Any], tmp_path: Path) -> None:
    frame = runs_frame([{"id": f"run_{n}", "metadata": value} for n, value in enumerate(values)])
    nested_to_json(frame).to_parquet(tmp_path / "runs.parquet")
    stored = pd.read_parquet(tmp_path / "runs.parquet")
    assert str(stored["metadata"].dtype) == "string"
    back = nested_from_json(stored)
    assert back["metadata"].tolist() == frame["metadata"].tolist() == values
    assert list(map(type, back["metadata"])) == list(map(type, values))
    assert str(back["metadata"].dtype) == "object"


def test_every_nested_value_comes_back_from_a_database(runs: pd.DataFrame) -> None:
    with sqlite3.connect(":memory:") as database:
        nested_to_json(runs)[["id", "metadata"]].to_sql("runs", database, index=False)
        found = database.execute("SELECT id FROM runs WHERE json_extract(metadata, '$.n') = '10'").fetchall()
        back = nested_from_json(pd.read_sql("SELECT * FROM runs", database))
    assert found == [("run_1",)] and back["metadata"].tolist() == METADATA


def test_arguments_of_differing_types_come_back_as_they_were(tmp_path: Path) -> None:
    arguments = ['{"a": 1}', '{"a": [1, 2]}', '{"a": "x"}', "no JSON"]
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"arguments": a}} for n, a in enumerate(arguments)
    ]
    frame = tool_calls_frame([{"id": "step_1", "step_details": {"tool_calls": calls}}])
    nested_to_json(frame).to_parquet(tmp_path / "calls.parquet")
    back = nested_from_json(pd.read_parquet(tmp_path / "calls.parquet"))
    assert back["arguments"].tolist() == [{"a": 1}, {"a": [1, 2]}, {"a": "x"}, None]
    assert back["arguments_text"].tolist() == arguments  # a column of text stays as it is


def test_there_and_back_twice_is_the_same_as_once(runs: pd.DataFrame) -> None:
    texts = nested_to_json(runs)
    assert nested_to_json(texts)["metadata"].tolist() == texts["metadata"].tolist()
    assert nested_from_json(nested_from_json(texts))["metadata"].tolist() == METADATA
    assert runs["metadata"].tolist() == METADATA  # the frame that was given is not changed


def test_values_that_have_no_json_are_missing_in_text_only() -> None:
    endless: dict[str, Any] = {}
    endless["itself"] = endless
    frame = runs_frame([{"id": "run_1", "metadata": endless}, {"id": "run_2", "metadata": {(1, 2): 3}}])
    assert frame["metadata"][0] is endless and "run_1" in repr(frame)
    assert nested_to_json(frame)["metadata"].isna().all()
