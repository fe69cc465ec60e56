"""The dtype "json" of nested columns (metadata, tool names, arguments): objects to look at, JSON text in memory.

A column of dicts takes four times the memory, and no file format has it: Parquet would give every row the keys of
all others. Kept as text, a value is small, equal ones are one, and `to_parquet` and `read_parquet` give the same
back. Reading an element gives a new dict or list, or None.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray, ExtensionDtype, register_extension_dtype, take
from pydantic_core import PydanticSerializationError, from_json, to_json

#: What to_json raises for half a surrogate pair, or for what JSON has no words for.
_NO_JSON = (PydanticSerializationError, ValueError)


@register_extension_dtype
class JSONDtype(ExtensionDtype):
    """Whatever JSON can say; null is the missing value."""

    name: ClassVar[Any] = "json"  # Any: properties in the stubs
    type: ClassVar[Any] = object
    kind: ClassVar[Any] = "O"
    na_value: ClassVar[Any] = None

    @classmethod
    def construct_array_type(cls) -> Any:
        return JSONArray

    def __from_arrow__(self, array: Any) -> JSONArray:
        """What pyarrow calls when it reads a column of this dtype: an Array or ChunkedArray of text."""
        return JSONArray(text if text is None else text.encode() for text in array.to_pylist())


class JSONArray(ExtensionArray):
    """An array of JSON texts that reads and writes as the objects that they stand for."""

    def __init__(self, texts: Iterable[bytes | None]) -> None:
        given = list(texts)
        one_of_each: dict[bytes | None, bytes | None] = {}
        self._texts = np.array(list(map(one_of_each.setdefault, given, given)), dtype=object)

    @classmethod
    def _of(cls, texts: np.ndarray[Any, Any]) -> Self:
        array = cls.__new__(cls)
        array._texts = texts
        return array

    @classmethod
    def _from_sequence(cls, scalars: Iterable[Any], *, dtype: Any = None, copy: bool = False) -> Self:
        return cls(encoded(list(scalars)))

    @classmethod
    def _from_factorized(cls, values: Any, original: JSONArray) -> Self:
        return cls._of(np.asarray(values, dtype=object))

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[Self]) -> Self:
        return cls._of(np.concatenate([array._texts for array in to_concat]))

    @property
    def dtype(self) -> JSONDtype:
        return JSONDtype()

    @property
    def nbytes(self) -> int:
        """The references and the texts, each text once."""
        return self._texts.nbytes + sum(map(sys.getsizeof, set(self._texts)))

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[Any]:
        return map(_decoded, self._texts)

    def __getitem__(self, item: Any) -> Any:
        picked = self._texts[pd.api.indexers.check_array_indexer(self, item)]
        return self._of(picked) if isinstance(picked, np.ndarray) else _decoded(picked)

    def __setitem__(self, key: Any, value: Any) -> None:
        key = pd.api.indexers.check_array_indexer(self, key)
        one = (
            np.ndim(self._texts[key]) == 0 or not pd.api.types.is_list_like(value) or isinstance(value, dict)
        )
        self._texts[key] = _encoded(value) if one else self._from_sequence(value)._texts

    def __eq__(self, other: object) -> Any:
        if isinstance(other, (pd.Series, pd.Index, pd.DataFrame)):
            return NotImplemented
        others = other if isinstance(other, (JSONArray, np.ndarray)) else [other] * len(self)
        return np.array([mine == theirs for mine, theirs in zip(self, others, strict=True)], dtype=bool)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        objects = np.fromiter(self, dtype=object, count=len(self))
        return objects if dtype is None else objects.astype(dtype, copy=False)

    def __arrow_array__(self, type: Any = None) -> Any:
        """What pyarrow calls when it writes: text, so that every reader of the file can make sense of it."""
        import pyarrow  # type: ignore[import-untyped]

        return pyarrow.array(self.texts(), type=type or pyarrow.string())

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        if isinstance(pd.api.types.pandas_dtype(dtype), pd.StringDtype):
            return pd.array(self.texts(), dtype=dtype)
        return super().astype(dtype, copy=copy)

    def isna(self) -> Any:
        return pd.isna(self._texts)

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> Self:
        filler = _encoded(fill_value)
        taken: Any = take(self._texts, indices, allow_fill=allow_fill, fill_value=filler)
        return self._of(taken)

    def copy(self) -> Self:
        return self._of(self._texts.copy())

    def view(self, dtype: Any = None) -> Any:
        return self._of(self._texts[:]) if dtype is None else super().view(dtype)

    def texts(self) -> list[str | None]:
        """The JSON text of each element, None where it is missing."""
        return [text.decode() if isinstance(text, bytes) else None for text in self._texts]

    def unique(self) -> Self:
        """Each value once, in the order in which they come; of objects themselves pandas could not tell."""
        return self._of(pd.unique(self._texts))

    def value_counts(self, dropna: bool = True) -> pd.Series[int]:
        return pd.Series(self.astype("string")).value_counts(dropna=dropna)

    def _values_for_factorize(self) -> tuple[np.ndarray[Any, Any], Any]:
        return self._texts, None

    def _values_for_argsort(self) -> np.ndarray[Any, Any]:
        return np.array([text if isinstance(text, bytes) else b"" for text in self._texts], dtype=object)

    def _formatter(self, boxed: bool = False) -> Callable[[Any], str]:
        return lambda value: str(value).encode("utf-8", "backslashreplace").decode()


def encoded(values: list[Any]) -> list[bytes | None]:
    """The JSON of each value; None of what is missing."""
    if set(map(type, values)) <= {dict, list}:
        try:
            return list(map(to_json, values))
        except _NO_JSON:
            pass
    return list(map(_encoded, values))


def _encoded(value: Any) -> bytes | None:
    """The JSON of a value; None of what is missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return None
    for to_bytes in (to_json, _leniently):
        try:
            return to_bytes(value)
        except (*_NO_JSON, RecursionError):
            pass
    return None  # without an end


def _leniently(value: Any) -> bytes:
    return json.dumps(value, default=str, skipkeys=True, separators=(",", ":")).encode()


def _decoded(text: bytes | float | None) -> Any:
    if not isinstance(text, bytes):  # pandas fills gaps with a missing value of its own choice
        return None
    try:
        return from_json(text)
    except ValueError:  # escapes of half surrogate pairs, which json alone reads
        return json.loads(text)
