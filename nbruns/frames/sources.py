"""Read API objects from other libraries' objects, pages, events, recorded exchanges and files.

Objects are identified by the value of `object` in their JSON ("thread.run"). Containers are searched. Objects of
another kind are skipped inside containers, and raise TypeError as rows.
"""

from __future__ import annotations

import gzip
import inspect
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, cast

from nbruns.objects import APIObject
from nbruns.sse import iter_events
from nbruns.text import JSON, excerpt

#: Methods that return the JSON of an object: of nbruns and openai-python, azure-ai-agents, and pydantic.
_GIVES_JSON = ("to_dict", "as_dict", "model_dump")
_OTHERS = {"thread.run", "thread.run.step", "thread.message", "assistant", "thread"}


def found_in(objects: Iterable[Any], name: str) -> Iterator[JSON]:
    """Return the JSON of every object called `name`, in order.

    An element is an object or its JSON, a page, an event, a recorded exchange (`body`), or the path of a file of
    JSON lines. JSON without a kind counts as one.

    Raises:
        TypeError: An element is none of these.
        ValueError: A line is not JSON.
    """
    for given in objects:
        if isinstance(given, (str, os.PathLike)):
            for value in _lines(Path(given)):
                yield from _rows(value, name, _passed_over)
        else:
            yield from _rows(_json_of(given), name, _refused)


def to_jsonl(objects: Iterable[Any], file: str | os.PathLike[str]) -> Path:
    """Write objects to a file of JSON lines, each as its server sent it.

    The DataFrame functions can read the file. It appears when it is complete.

        nbruns.to_jsonl(client.runs.iter(), "runs.jsonl.gz")
        runs = nbruns.runs_frame("runs.jsonl.gz")

    Args:
        objects: Objects of nbruns, openai-python or azure-ai-agents, or their JSON.
        file: Path of the file. If it ends in `.gz`, the file is compressed.

    Returns:
        The path of the file.

    Raises:
        TypeError: An element is neither an object nor JSON.
    """
    path = Path(file)
    unfinished = path.with_name(f".unfinished.{path.name}")
    try:
        with _opened(unfinished, "wt") as lines:
            lines.writelines(json.dumps(_json_of(given), default=str) + "\n" for given in objects)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _lines(file: Path) -> Iterator[Any]:
    """Yield the values of JSON lines, or the items of a JSON array, from a file that can be compressed with gzip."""
    number, line = 0, ""
    try:
        with _opened(file, "rt") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007
                if line.strip():
                    yield json.loads(line)
    except UnicodeDecodeError:
        raise ValueError(
            f"{file} is not text. Files of JSON lines are, or those packed with gzip (.gz)."
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is not a whole gzip file ({error}).") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {number}, is not JSON ({error}): {excerpt(line, 80)!r}. Each line must be one JSON object."
        ) from None


def _opened(file: Path, mode: Literal["rt", "wt"]) -> IO[str]:
    encoding = "utf-8-sig" if mode == "rt" else "utf-8"  # some files begin with a byte order mark
    if file.suffix == ".gz":
        return cast(IO[str], gzip.open(file, mode, encoding=encoding))
    return file.open(mode, encoding=encoding)


def _json_of(given: Any) -> Any:
    """Return the JSON of an object; an iterable (such as a page of another library) as a list."""
    if isinstance(given, APIObject):
        return given._payload
    if isinstance(given, dict):
        return given
    _refuse_async(given)
    if hasattr(given, "__aiter__"):  # a page of openai-python's asynchronous client that was awaited
        return [_json_of(each) for each in given.data]
    if not isinstance(given, type) and not _is_page(given):
        for method in _GIVES_JSON:
            if callable(getattr(given, method, None)):
                return getattr(given, method)()
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes, bytearray)):
        return [_json_of(each) for each in given]
    raise TypeError(
        f"A row is made from an object of the API or its JSON, not from {type(given).__name__}; "
        "files are given by their path."
    )


def _refuse_async(given: Any) -> None:
    """Raise TypeError for an asynchronous list, because its other pages can't be awaited here."""
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()
        raise TypeError(
            f"This is a {type(given).__name__} that has not been awaited: write `await` before it."
        )
    if not hasattr(given, "__aiter__") or isinstance(given, dict):
        return
    has_all = isinstance(getattr(given, "data", None), list) and not (
        _is_page(given) and given.has_next_page()
    )
    if not has_all:
        raise TypeError(
            f"This {type(given).__name__} is an asynchronous list with more pages than are here: "
            "collect it first, with `[each async for each in …]`."
        )


def _is_page(given: Any) -> bool:
    """Whether it is a page of openai-python, which can be dumped as JSON, but requests more pages when iterated."""
    return hasattr(given, "has_next_page")


def _rows(value: Any, name: str, otherwise: Callable[[JSON, str], Iterator[JSON]]) -> Iterator[JSON]:
    if isinstance(value, list):
        for item in value:
            yield from _rows(item, name, otherwise)
    elif isinstance(value, dict) and value.get("object") != name and (held := _held(value)) is not None:
        yield from _inside(held, name)
    elif isinstance(value, dict):
        yield from otherwise(value, name) if value.get("object") != name else iter((value,))
    else:
        raise TypeError(
            f"A row is made from an object of the API or its JSON, not from {type(value).__name__}."
        )


def _held(value: JSON) -> Any:
    """Return the contents of a page, an event or a recorded exchange; None for anything else."""
    if "body" in value and ("path" in value or "status" in value):
        return value["body"] or []
    if value.get("object") == "list" or ("event" in value and "data" in value):
        return value.get("data") or []
    return None


def _inside(held: Any, name: str) -> Iterator[JSON]:
    """Yield the objects called `name` in a page, an event, an exchange or an event stream."""
    if isinstance(held, str):
        for event in iter_events([held.encode()]):
            yield from _inside(_parsed(event.data), name)
    elif isinstance(held, list):
        for item in held:
            yield from _inside(item, name)
    elif isinstance(held, dict):
        inner = None if held.get("object") == name else _held(held)
        if inner is not None:
            yield from _inside(inner, name)
        elif held.get("object") == name:
            yield held


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:  # "[DONE]"
        return None
    return None if isinstance(value, str) else value


def _passed_over(value: JSON, name: str) -> Iterator[JSON]:
    if not isinstance(value.get("object"), str):
        yield value


def _refused(value: JSON, name: str) -> Iterator[JSON]:
    kind = value.get("object")
    if isinstance(kind, str) and kind in _OTHERS:
        raise TypeError(f"These are rows of {name!r}, and {excerpt(value.get('id'), 80)!r} is a {kind!r}.")
    yield value
