"""The dtype "json": objects to look at, text in memory and in files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nbruns.json_array import JSONArray

VALUES: list[Any] = [
    *({"a": 1, "": "x", "\x00": "n", "κλειδί": "ü"}, {}, None, [1, [2]], [[1], [2]], "text", 5, True, 1.5),
    *(10**400, float("inf"), {"\ud800": "\ud800"}, {"a": None}, [], {"a": {"b": [{}]}}),
]


@pytest.fixture
def series() -> pd.Series[Any]:
    return pd.Series(VALUES, dtype="json", name="nested")


def test_what_is_put_in_comes_out(series: pd.Series[Any]) -> None:
    assert series.tolist() == VALUES
    assert series[0] == VALUES[0] and series[2] is None
    assert list(series.isna()) == [value is None for value in VALUES]
    assert [type(value) for value in series] == list(map(type, VALUES))


def test_an_element_is_ones_own_to_change(series: pd.Series[Any]) -> None:
    series[0]["a"] = 2
    assert series[0] == VALUES[0]


def test_what_is_no_json_is_kept_as_its_text() -> None:
    assert pd.Series([{1: pd.Timestamp(0)}], dtype="json")[0] == {"1": "1970-01-01T00:00:00"}


def test_equal_values_take_their_memory_once() -> None:
    one, many = (pd.Series([{"text": "x" * 1000}] * n, dtype="json") for n in (1, 1000))
    assert many.memory_usage(index=False, deep=True) < one.memory_usage(index=False, deep=True) + 8 * 1000


@pytest.mark.parametrize("values", [VALUES, [None, None], []])
def test_parquet_gives_back_the_same(tmp_path: Path, values: list[Any]) -> None:
    frame = pd.DataFrame({"nested": pd.Series(values, dtype="json")})
    frame.to_parquet(tmp_path / "frame.parquet")
    back = pd.read_parquet(tmp_path / "frame.parquet")
    assert str(back["nested"].dtype) == "json"
    assert back["nested"].tolist() == values


def test_it_is_selected_joined_sorted_and_grouped_as_any_column(series: pd.Series[Any]) -> None:
    assert series[series.notna()].iloc[0] == VALUES[0]
    assert series[1:3].tolist() == VALUES[1:3] and series.iloc[[3, 0]].tolist() == [VALUES[3], VALUES[0]]
    assert pd.concat([series, series]).tolist() == VALUES * 2
    assert pd.concat([series, series]).dtype == "json"
    assert series.reindex([0, 99]).tolist() == [VALUES[0], None]
    assert series.groupby(series, dropna=False).size().sum() == len(VALUES)
    assert len(pd.concat([series, series]).drop_duplicates()) == len(VALUES)
    assert series.equals(pickle.loads(pickle.dumps(series)))
    assert sorted(series.sort_values().index) == list(range(len(VALUES)))


def test_each_value_is_there_once_among_the_unique_ones(series: pd.Series[Any]) -> None:
    twice = pd.concat([series, series])
    assert list(twice.unique()) == VALUES and twice.nunique(dropna=False) == len(VALUES)
    assert twice.value_counts()['{"a":{"b":[{}]}}'] == 2
    assert (series.array == series).all() and list(series == VALUES[0]) == [True] + [False] * (
        len(VALUES) - 1
    )


def test_half_a_surrogate_pair_among_plain_objects() -> None:
    values = [{"a": "\ud800"}, {"b": 1}]
    assert pd.Series(values, dtype="json").tolist() == values


def test_what_has_no_end_is_missing() -> None:
    circle: dict[str, Any] = {}
    circle["itself"] = circle
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert pd.Series([circle, deep, {"a": 1}], dtype="json").tolist() == [None, None, {"a": 1}]


def test_elements_can_be_replaced(series: pd.Series[Any]) -> None:
    series[0] = {"z": [1]}
    series[1:3] = [{"y": 1}, [2]]
    series.iloc[3] = None
    assert series.tolist()[:5] == [{"z": [1]}, {"y": 1}, [2], None, VALUES[4]]


def test_it_can_be_seen_and_taken_as_text(series: pd.Series[Any]) -> None:
    assert "{'a': 1" in repr(series) and "\\ud800" in repr(series)
    assert series.drop(11).astype("string")[14] == '{"a":{"b":[{}]}}'
    assert series.head(
        3
    ).to_json() == '{"0":{"a":1,"":"x","\\u0000":"n","κλειδί":"ü"},"1":{},"2":null}'.replace(
        "κλειδί", "\\u03ba\\u03bb\\u03b5\\u03b9\\u03b4\\u03af"
    ).replace("ü", "\\u00fc")
    assert pd.DataFrame(series).to_dict("records")[3] == {"nested": VALUES[3]}


def test_columns_of_lists_stay_one_column() -> None:
    array = JSONArray._from_sequence([["a"], ["b"]])
    assert array.astype(object).tolist() == [["a"], ["b"]]
    assert list(array == [["a"], ["c"]]) == [False, False]  # a list is one value, as a scalar is
    assert list(array == JSONArray._from_sequence([["a"], ["c"]])) == [True, False]
