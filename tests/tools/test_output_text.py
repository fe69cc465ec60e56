"""Whatever a function gives, as text for a model: sensibly, bounded, and honest about what is left out."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import pathlib
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

from nbruns.tools import MAX_OUTPUT, as_text
from nbruns.tools.output_text import NoText


class Sky(Enum):
    CLEAR = "clear"
    RAIN = "rain"


class Place(pydantic.BaseModel):
    city: str
    country: str = "NO"


@dataclasses.dataclass
class Span:
    start: date
    days: int = 1


class Plain:
    def __init__(self) -> None:
        self.city, self.when = "Oslo", date(2026, 8, 26)


FRAME = pd.DataFrame({"city": ["Oslo"], "degrees": [3]})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("", ""),
        (None, "null"),
        (3, "3"),
        ({"a": [1, 2.5, True, None]}, '{"a":[1,2.5,true,null]}'),
        ("Ærø 東京", "Ærø 東京"),
        ({"é": "東"}, '{"é":"東"}'),
        (datetime(2026, 8, 26, 12), '"2026-08-26T12:00:00"'),
        (pd.Timestamp("2026-08-26"), '"2026-08-26T00:00:00"'),
        (float("nan"), '"NaN"'),
        ({"a": float("inf")}, '{"a":"Infinity"}'),
        (np.int64(3), "3"),
        ({"n": np.float32(0.5), "a": np.array([1, 2])}, '{"n":0.5,"a":[1,2]}'),
        (b"text", "text"),
        (bytearray("Ærø".encode()), "Ærø"),
        ({"a": b"text", "b": memoryview(b"more")}, '{"a":"text","b":"more"}'),
        (Place(city="Oslo"), '{"city":"Oslo","country":"NO"}'),
        (Span(date(2026, 8, 26)), '{"start":"2026-08-26","days":1}'),
        (Sky.RAIN, '"rain"'),
        ((1, 2), "[1,2]"),
        (FRAME, "city,degrees\nOslo,3\n"),
        (FRAME["city"], "city\nOslo\n"),
        (ValueError("odd"), '"odd"'),
        (FRAME.set_index("city"), "city,degrees\nOslo,3\n"),
        (FRAME.iloc[[0, 0]].set_axis([7, 8]), ",city,degrees\n7,Oslo,3\n8,Oslo,3\n"),
        (
            {"table": FRAME, "column": FRAME["degrees"]},
            '{"table":[{"city":"Oslo","degrees":3}],"column":{"0":3}}',
        ),
        ([pd.NaT, pd.NA, None], "[null,null,null]"),
        ({"a": pd.NA}, '{"a":null}'),
        (pd.NaT, "null"),
        (np.datetime64("2026-08-26T12:00:00.000000001"), '"2026-08-26T12:00:00.000000001"'),
        (np.array(["2026-08-26"], dtype="M8[ns]"), '["2026-08-26T00:00:00.000000000"]'),
        (np.bool_(True), "true"),
        ({np.int64(3): np.str_("x")}, '{"3":"x"}'),
        ({(1, 2): 3}, '{"1,2":3}'),
        (decimal.Decimal("1.50"), '"1.50"'),
        (timedelta(hours=1), '"PT1H"'),
        (pathlib.PurePosixPath("a/b"), '"a/b"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (collections.Counter("aab"), '{"a":2,"b":1}'),
        (range(3), "[0,1,2]"),
        ({"a": 1}.values(), "[1]"),
        ((n for n in (1, 2)), "[1,2]"),
        (3 + 4j, '"3+4j"'),
        (Plain(), '{"city":"Oslo","when":"2026-08-26"}'),
        ({"half a pair": "\ud800"}, '{"half a pair":"\\ud800"}'),
        ("half a pair \ud800", "half a pair \\ud800"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),  # the same in each process
)
def test_outputs_as_text(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_a_cycle_is_text_too() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert as_text(cycle) == "[1, [...]]"


@pytest.mark.parametrize("make", [lambda n: "é" * n, lambda n: ["é" * n]])
def test_a_huge_output_is_cut_and_says_so(make: Callable[[int], Any]) -> None:
    text = as_text(make(3 * MAX_OUTPUT))
    assert len(text.encode()) < 512 * 1024  # the API takes no more
    assert text.count("é") >= MAX_OUTPUT - 10
    kept, _, said = text.rpartition("\n… cut: ")
    assert len(kept) == MAX_OUTPUT
    assert said.endswith("characters left out")


def test_of_a_huge_table_whole_rows_are_kept() -> None:
    text = as_text(pd.DataFrame({"n": range(1_000_000)}))
    kept, _, said = text.rpartition("… cut: ")
    assert said == "the table has 1,000,000 rows, more than 100,000 characters"
    rows = kept.splitlines()
    assert rows == ["n", *map(str, range(len(rows) - 1))]
    assert MAX_OUTPUT - 10 < len(kept) <= MAX_OUTPUT


class LikePolars:
    """What of Polars' tables is made use of."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def head(self, n: int) -> LikePolars:
        return LikePolars(min(n, self.rows))

    def write_csv(self) -> str:
        return "n\n" + "".join(f"{i}\n" for i in range(self.rows))


def test_a_table_of_polars_is_csv_too() -> None:
    assert as_text(LikePolars(2)) == "n\n0\n1\n"
    assert as_text(LikePolars(10**12)).endswith(
        f"the table has {10**12:,} rows, more than 100,000 characters"
    )


def test_a_table_of_one_huge_row_is_cut_all_the_same() -> None:
    text = as_text(pd.DataFrame({"a": ["é" * 3 * MAX_OUTPUT]}))
    assert len(text) < MAX_OUTPUT + 100
    assert text.startswith("a\n")
    assert "… cut: the table has 1 rows" in text


def test_a_picture_is_no_text() -> None:
    from matplotlib.figure import Figure

    for value in (Figure(), {"figure": Figure()}, [Figure().add_subplot()]):
        with pytest.raises(NoText, match=r"it returned an image .*Return the numbers that the image shows"):
            as_text(value)


@pytest.mark.parametrize("value", [b"\xff\x00", {"a": b"\xff\x00"}])
def test_bytes_that_are_no_text_are_refused(value: Any) -> None:
    with pytest.raises(NoText, match="2 bytes that are not text"):
        as_text(value)


def test_what_is_nested_without_end_is_cut() -> None:
    nested: list[Any] = [pd.NaT]
    for _ in range(10_000):
        nested = [nested]
    assert len(as_text(nested)) < 20_000


def test_an_output_that_just_fits_is_whole() -> None:
    assert as_text("x" * MAX_OUTPUT) == "x" * MAX_OUTPUT
