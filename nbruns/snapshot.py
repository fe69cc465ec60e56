"""Fold a run's events into a snapshot of its state. No I/O.

    snapshot = RunSnapshot()
    for event in events:
        snapshot.apply(event.event, payload)
    snapshot.run, snapshot.steps, snapshot.messages, snapshot.text

Whole objects replace the state, and deltas append to it. Text is stored as a list of pieces until it is read, so that
the cost of a delta doesn't depend on the length of the text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from nbruns.objects import Message, Run, RunStep, Thread, ToolCall
from nbruns.text import JSON, size_of

#: Names of strings that deltas append to. All other strings in a delta replace the previous value.
GROWING = frozenset({"value", "arguments", "input", "logs", "refusal"})
#: Lists whose entries arrive complete. Entries without an index are appended.
_WHOLE_ENTRIES = frozenset({"annotations", "outputs", "results"})
# Key for the index of an entry, which is needed to place later deltas. It is not a field of the object, and is never
# returned.
_INDEX = "\0index"


_T = TypeVar("_T")


class RunSnapshot:
    """State of a run as reported by its events, over one or several streams.

        snapshot = nbruns.RunSnapshot()
        for event in stream:
            snapshot.apply(event.event, event.data.to_dict())

    Each stream has a snapshot: `stream.snapshot`.
    """

    def __init__(self) -> None:
        #: Held while an event is applied and while a property is read. Hold it to read several properties
        #: consistently.
        self.lock = threading.RLock()
        self._run: JSON | None = None
        self._thread: JSON | None = None
        self._steps: JSON = {}
        self._messages: JSON = {}
        self._read: JSON = {}  # cached values of the properties, cleared by each event
        #: Id of the last event, after which a dropped stream resumes. None if the server doesn't number events.
        self.last_event_id: str | None = None
        #: The payload of an `error` event; None if there was none.
        self.error: JSON | None = None
        #: Number of events with an unknown name or an unexpected payload, which have no effect.
        self.ignored = 0

    def __getstate__(self) -> JSON:
        with self.lock:
            return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: JSON) -> None:
        self.__dict__.update(state, lock=threading.RLock())

    def apply(self, name: str, payload: JSON) -> None:
        """Apply one event. Unknown events are counted in `ignored`.

        Args:
            name: Name of the event, such as `thread.run.completed`.
            payload: Its data as parsed JSON, which is not modified.
        """
        fold = _fold_for(name, payload) if isinstance(payload, dict) else None
        if fold is None:
            self.ignored += 1
            return
        with self.lock:
            fold(self, payload)
            if self._read:
                self._read.clear()

    @property
    def run(self) -> Run | None:
        """The run; None until an event contains it."""
        return None if self._run is None else Run(self._run)

    @property
    def thread(self) -> Thread | None:
        """The thread, if the stream created it; otherwise None."""
        return None if self._thread is None else Thread(self._thread)

    @property
    def steps(self) -> list[RunStep]:
        """Steps of the run, in the order of their first event."""
        return self._cached("steps", lambda: [RunStep(_plain(step)) for step in self._steps.values()])

    @property
    def messages(self) -> list[Message]:
        """Messages of the run, in the order of their first event, with their text so far."""
        return self._cached(
            "messages", lambda: [Message(_plain(message)) for message in self._messages.values()]
        )

    @property
    def text(self) -> str:
        """The text of all messages so far, joined by a blank line."""
        return self._cached("text", lambda: "\n\n".join(m.text for m in self.messages if m.text))

    @property
    def tool_calls(self) -> list[ToolCall]:
        """Calls of all steps, with their arguments and outputs so far. If there are no steps, the calls that the run
        waits for.
        """
        return [call for step in self.steps for call in step.tool_calls] or (
            self.run.tool_calls if self.run else []
        )

    def size(self) -> int:
        """Return the approximate size of the state in memory, in bytes."""
        with self.lock:
            kept = [self._run, self._thread, *self._steps.values(), *self._messages.values()]
            return sum(size_of(_plain(each)) for each in kept)

    def _cached(self, name: str, build: Callable[[], _T]) -> _T:
        with self.lock:
            if name not in self._read:
                self._read[name] = build()
            value: _T = self._read[name]
        return value

    def _set_run(self, payload: JSON) -> None:
        self._run = dict(payload)

    def _set_thread(self, payload: JSON) -> None:
        self._thread = dict(payload)

    def _set_step(self, payload: JSON) -> None:
        self._steps[payload["id"]] = _growable(payload)

    def _set_message(self, payload: JSON) -> None:
        content = payload.get("content")
        listed = {"content": [content]} if isinstance(content, dict) else {}  # Alibaba sends a single object
        self._messages[payload["id"]] = _growable({**payload, **listed})

    def _grow_step(self, payload: JSON) -> None:
        _merge(
            self._steps.get(payload["id"]) or self._started(self._steps, payload, {}), payload.get("delta")
        )

    def _grow_message(self, payload: JSON) -> None:
        known = self._messages.get(payload["id"])
        if known is not None and _append_text(known, payload.get("delta")):
            return
        empty = {"role": "assistant", "content": []}
        _merge(known or self._started(self._messages, payload, empty), payload.get("delta"))

    def _started(self, known: JSON, payload: JSON, more: JSON) -> JSON:
        """Add and return the initial state of an object whose first event is a delta."""
        run = self._run or {}
        ids = {name: run.get(name) for name in ("thread_id", "assistant_id")}
        kind = str(payload.get("object")).removesuffix(".delta")
        known_of_run = {"run_id": run.get("id"), **ids, "status": "in_progress"}
        started: JSON = {"id": payload["id"], "object": kind, **known_of_run, **more}
        known[payload["id"]] = started
        return started

    def _set_error(self, payload: JSON) -> None:
        error = payload.get("error")
        self.error = dict(error) if isinstance(error, dict) else dict(payload)


Fold = Callable[[RunSnapshot, JSON], None]

_BY_OBJECT: dict[str, Fold] = {
    "thread": RunSnapshot._set_thread,
    "thread.run": RunSnapshot._set_run,
    "thread.run.step": RunSnapshot._set_step,
    "thread.run.step.delta": RunSnapshot._grow_step,
    "thread.message": RunSnapshot._set_message,
    "thread.message.delta": RunSnapshot._grow_message,
}
# If a server omits `object`, the name of the event determines the kind of object. The longest prefix is used.
_BY_NAME: list[tuple[str, Fold]] = sorted(_BY_OBJECT.items(), key=lambda item: -len(item[0]))


def _fold_for(name: str, payload: JSON) -> Fold | None:
    if name == "error":
        return RunSnapshot._set_error
    if not isinstance(payload.get("id"), str):
        return None
    if "object" in payload:
        return _BY_OBJECT.get(str(payload["object"]))
    return next((fold for prefix, fold in _BY_NAME if name.startswith(f"{prefix}.") or name == prefix), None)


class _Text:
    """A growing string, stored as pieces that are joined when it is read."""

    __slots__ = ("pieces",)

    def __init__(self, piece: str) -> None:
        self.pieces = [piece] if piece else []

    def read(self) -> str:
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


def _growable(value: Any, key: str = "") -> Any:
    """Return a copy of JSON in which strings that deltas append to are `_Text` objects."""
    if isinstance(value, dict):
        return {k: _growable(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_growable(item, key) for item in value]
    return _Text(value) if key in GROWING and isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Return the JSON of a `_growable` value."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != _INDEX}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.read() if isinstance(value, _Text) else value


def _append_text(known: JSON, delta: Any) -> bool:
    """Append a delta that only adds text to a message's last part, as most do. Return False for other deltas.

    A fast path for `_merge`, which takes ten times as long.
    """
    try:
        (part,) = delta["content"]
        index, text = part["index"], part["text"]
        piece = text["value"]
        if (len(delta), len(part), len(text), part["type"]) != (1, 3, 1, "text") or type(piece) is not str:
            return False
        content = known["content"]
        if not _is_last(content, index) or content[index]["type"] != "text":
            return False
        value = content[index]["text"]["value"]
    except (KeyError, TypeError, ValueError):
        return False  # not a text delta
    if type(value) is not _Text:
        return False
    value.pieces.append(piece)
    return True


def _merge(known: JSON, delta: Any, without: str = "") -> None:
    if not isinstance(delta, dict):
        return
    for key, new in delta.items():
        if key == without:
            continue
        old = known.get(key)
        if type(old) is str and old == new:
            continue  # most fields of a delta are unchanged
        if isinstance(old, _Text) and isinstance(new, str):
            old.pieces.append(new)
        elif isinstance(old, dict) and isinstance(new, dict):
            _merge(old, new)
        elif isinstance(old, list) and isinstance(new, (list, dict)):
            _merge_list(old, new if isinstance(new, list) else [new], key)
        elif isinstance(new, dict):
            known[key] = _merged(new)
        elif isinstance(new, list):
            known[key] = []
            _merge_list(known[key], new, key)
        elif new is not None or old is None:
            known[key] = _growable(new, key)


def _merged(delta: JSON, without: str = "") -> JSON:
    """Return the object that results from applying a delta to an empty object."""
    made: JSON = {}
    _merge(made, delta, without)
    return made


def _merge_list(known: list[Any], delta: list[Any], key: str) -> None:
    for entry in delta:
        place = _place(known, entry, key) if isinstance(entry, dict) else None
        if place is not None:
            _merge(known[place], entry, without="index")
        elif isinstance(entry, dict):
            index = {_INDEX: entry["index"]} if "index" in entry else {}
            known.append(index | _merged(entry, without="index"))
        else:
            known.append(entry)


def _place(known: list[Any], entry: JSON, key: str) -> int | None:
    """Return the index of the entry that a delta's entry continues; None for a new one.

    An id decides. Otherwise the index does, unless it belongs to another id (some servers repeat index 0 for
    parallel calls). With neither, the delta continues the last entry of its type.
    """
    identity, index = entry.get("id"), entry.get("index")
    if not identity and _is_last(known, index):
        return index  # fast path for text deltas
    if identity and (same := _last(known, lambda old, _: old.get("id") == identity)) is not None:
        return same
    if isinstance(index, int):
        place = _last(known, lambda old, i: old.get(_INDEX, i) == index)
        return place if place is None or not identity or not known[place].get("id") else None
    if identity or key in _WHOLE_ENTRIES:
        return None
    last = known[-1] if known and isinstance(known[-1], dict) else None
    fits = last is not None and entry.get("type") in (None, last.get("type"))
    return len(known) - 1 if fits else None


def _is_last(known: list[Any], index: Any) -> bool:
    """Whether an index belongs to the last object: a fast path for `_last`."""
    if not known or type(index) is not int or index != len(known) - 1:
        return False
    return type(known[index]) is dict and bool(known[index].get(_INDEX, index) == index)


def _last(known: list[Any], fits: Callable[[JSON, int], bool]) -> int | None:
    """Return the index of the last object for which `fits` returns True; None if there is none."""
    places = reversed(range(len(known)))
    return next((i for i in places if isinstance(known[i], dict) and fits(known[i], i)), None)
