"""A run's event stream: events in, snapshot out, resumed after a dropped connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import requests

from nbruns import errors
from nbruns.client.connections import hang_up
from nbruns.client.pagination import iter_pages
from nbruns.client.transport import Check, Transport, iter_chunks, path_of
from nbruns.errors import APIError, LimitError, StreamError
from nbruns.objects import (
    TERMINAL_STATUSES,
    APIObject,
    Message,
    MessageDelta,
    Run,
    parse_object,
)
from nbruns.snapshot import RunSnapshot
from nbruns.sse import ServerSentEvent, iter_events
from nbruns.text import JSON, TooManyValues, excerpt, parse_json, size_of

#: Seconds without an answer after which a dropped stream is given up.
CARRY_ON_DEADLINE = 60.0
#: Seconds for which a run that requires action is polled for its tool calls, because some servers report them late.
ACTION_DEADLINE = 10.0
#: Maximum number of reconnects of one stream.
MAX_RECONNECTS = 100
#: Maximum size of a run's events in bytes, decompressed, over all connections. 100,000 tokens take about 30 MB.
MAX_STREAM_BYTES = 256 * 1024 * 1024
#: Maximum size of a run's steps and messages in memory, in bytes.
MAX_SNAPSHOT_BYTES = 16 * 1024 * 1024
#: Maximum number of objects, arrays and commas in the JSON of one event.
MAX_EVENT_VALUES = 100_000
#: Bytes of events after which the size of the snapshot is measured again.
_WEIGHED_EVERY = 1024 * 1024
_POLL_FIRST, _POLL_MOST = 0.25, 2.0
_ENDS = frozenset(f"thread.run.{status}" for status in TERMINAL_STATUSES)

T = TypeVar("T")


class Event(NamedTuple):
    """One event of a run."""

    #: Name of the event, such as `thread.message.delta`.
    event: str
    #: The object that the event reports: a run, a step, a message, or a delta.
    data: APIObject
    #: Id of the event, if the server numbers events.
    id: str | None = None


class RunStream:
    """Events of a run, in order, as an iterator. Use it in a `with` block, or read it to its end.

        with client.runs.create_stream(thread, assistant) as stream:
            for text in stream.text_deltas():
                print(text, end="")

    The stream ends when the run ends or requires action. If the connection drops, the run continues on the server,
    and the stream reconnects: it resumes after the last event if the server numbers events, otherwise it polls
    until the run ends. In both cases the final `snapshot` equals that of an unbroken stream.

    Raises:
        StreamError: While iterating, the server could not be reached for 60 seconds.
        APIError: While iterating, the server refused a request.
        LimitError: While iterating, the stream exceeded 256 MiB or 100 reconnects, or the state of the run 16 MiB.
    """

    def __init__(
        self,
        transport: Transport,
        opened: requests.Response | JSON,
        *,
        snapshot: RunSnapshot | None = None,
        check: Check | None = None,
        answered: Collection[str] = (),
    ) -> None:
        """Args:
        transport: The transport of the client.
        opened: The response of an event stream, or the JSON of a run to follow without one.
        snapshot: The snapshot of an earlier stream, to be continued.
        check: Finds the run if the stream drops before it names one.
        answered: Ids of tool calls that were just submitted: a `requires_action` for them doesn't end the
            stream.
        """
        #: The state of the run so far.
        self.snapshot: RunSnapshot = snapshot or RunSnapshot()
        self._answered = frozenset(answered)
        self._transport = transport
        self._response = opened if isinstance(opened, requests.Response) else None
        self._check = check
        self._ended = False
        self._closed = False
        self._received = 0
        self._weighed = -_WEIGHED_EVERY  # a continued snapshot is measured immediately
        if not isinstance(opened, requests.Response):
            self.snapshot.apply(f"thread.run.{opened.get('status')}", opened)
        self._events = self._iterate()

    @property
    def run(self) -> Run | None:
        """The run as last reported; None until the first event has named it."""
        return self.snapshot.run

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __next__(self) -> Event:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RunStream({self.run!r}{', closed' if self._closed else ''})"

    def text_deltas(self) -> Iterator[str]:
        """Iterate over the text of the run's messages, piece by piece as it arrives.

        Raises the same errors as iterating over the stream.
        """
        for event in self:
            if isinstance(event.data, MessageDelta) and event.data.text:
                yield event.data.text

    def until_done(self) -> Run:
        """Read the stream to its end, and return the run.

        Returns:
            The run, which has ended or requires action.

        Raises:
            StreamError: The stream was closed before it named a run, or the server could not be reached.
            APIError: The server refused a request.
            LimitError: The stream exceeded a limit.
        """
        for _ in self:
            pass
        if self.run is None:
            raise StreamError("The stream was closed before it named a run.", self.snapshot)
        return self.run

    def close(self) -> None:
        """Stop reading. Another thread can call this. The run continues: to stop it, use `client.runs.cancel`."""
        self._closed = True
        if self._response is not None:
            hang_up(self._response)

    def _iterate(self) -> Iterator[Event]:
        damage: errors.NbrunsError | None = None
        if self._response is not None:
            try:
                yield from self._read(self._response)
            except (errors.ConnectionError, errors.TimeoutError, StreamError) as error:
                damage = error
        if not self._ended and not self._closed:
            try:
                yield from self._carry_on(damage)
            except StreamError:
                if not self._closed:
                    raise

    def _read(self, response: requests.Response, *, rejoined: bool = False) -> Iterator[Event]:
        """Yield the events of one connection. Sets `_ended` when an event reports the end of the run."""
        try:
            for received in iter_events(self._counted(iter_chunks(response))):
                self.snapshot.last_event_id = received.id or self.snapshot.last_event_id
                name, payload = _named(received)
                if name == "done":
                    return
                self.snapshot.apply(name, payload)
                self._weigh()
                # `_ended` can become False again: a resumed stream can contain a requires_action that is answered.
                if name.startswith("thread.run.") and not name.startswith("thread.run.step."):
                    if not rejoined:  # the server has the outputs, and may reuse the ids of the calls
                        self._answered = frozenset()
                    self._ended = self._is_end(name, payload)
                yield Event(name, parse_object(payload), received.id)
        finally:
            response.close()

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._received += len(chunk)
            if self._received > MAX_STREAM_BYTES:
                raise self._over(f"has sent over {MAX_STREAM_BYTES:,} bytes")
            yield chunk

    def _weigh(self) -> None:
        if self._received - self._weighed >= _WEIGHED_EVERY:
            self._weighed = self._received
            if self.snapshot.size() > MAX_SNAPSHOT_BYTES:
                raise self._over(f"takes over {MAX_SNAPSHOT_BYTES:,} bytes of memory")

    def _over(self, what: str) -> LimitError:
        run = self.run.id if self.run else "unknown"
        return LimitError(
            f"The stream of run {self._transport.redacted(run)} {what}; it was closed. snapshot has what arrived. "
            "Follow the run with client.runs.wait(…), or end it with client.runs.cancel(…)."
        )

    def _carry_on(self, damage: errors.NbrunsError | None) -> Iterator[Event]:
        run = self.run or self._answer_to(self._found)
        if run is None or not run.thread_id:
            raise StreamError(
                f"The stream ended before it named a run and its thread. {self._why(damage)}", self.snapshot
            )
        if not isinstance(damage, StreamError) and self.snapshot.error is None:
            yield from self._rejoined(run, damage)
        if not self._ended and not self._closed:
            yield from self._ask(run)

    def _rejoined(self, run: Run, damage: errors.NbrunsError | None) -> Iterator[Event]:
        """Reconnect, and yield the remaining events. Returns early if the server can't resume streams."""
        heard = time.monotonic()
        reconnects = 0
        while not self._ended and not self._closed:
            if reconnects == MAX_RECONNECTS:
                raise self._over(f"was dropped and rejoined {MAX_RECONNECTS} times")
            reconnects += 1
            try:
                for event in self._rejoin(run):
                    yield event
                    heard = time.monotonic()
            except (APIError, StreamError):
                return
            except (errors.ConnectionError, errors.TimeoutError) as error:
                damage = error
            if time.monotonic() - heard > CARRY_ON_DEADLINE:
                raise self._given_up(damage)
            if not self._ended:
                time.sleep(_POLL_FIRST)

    def _answer_to(self, question: Callable[[], T]) -> T:
        """Return what `question` returns, with retries. Raises StreamError after 60 seconds without a response."""
        asked = time.monotonic()
        while True:
            try:
                return question()
            except (errors.ConnectionError, errors.TimeoutError, errors.ServerError) as error:
                if self._closed or time.monotonic() - asked > CARRY_ON_DEADLINE:
                    raise self._given_up(error) from error
            time.sleep(_POLL_FIRST)

    def _is_end(self, name: str, payload: JSON) -> bool:
        if name != "thread.run.requires_action":
            return name in _ENDS
        asked = {call.id for call in Run(payload).tool_calls}
        return bool(asked) and asked.isdisjoint(self._answered)

    def _found(self) -> Run | None:
        """Find the run of a stream that dropped before its first run event, by the check or in its new thread."""
        if self._check:
            known = self._check()
        elif self.snapshot.thread:
            path = path_of("threads", self.snapshot.thread.id, "runs")
            known = next(iter_pages(self._transport, path, {}, 1), None)
        else:
            known = None
        return None if known is None else Run(known)

    def _rejoin(self, run: Run) -> Iterator[Event]:
        path = path_of("threads", run.thread_id, "runs", run.id, "stream")
        opened = self._transport.open_stream("GET", path, last_event_id=self.snapshot.last_event_id)
        assert isinstance(opened, requests.Response)  # always the case without a check
        self._response = opened
        return self._read(opened, rejoined=True)

    def _ask(self, run: Run) -> Iterator[Event]:
        """Poll a run until it ends, then yield what the lost events would have reported."""
        path = path_of("threads", run.thread_id, "runs", run.id)
        pause = _POLL_FIRST
        late = None  # time since which the run requires action without listing its tool calls
        while not self._closed:
            payload = self._answer_to(lambda: self._transport.request("GET", path).payload)
            if payload.get("status") != "requires_action":
                self._answered = frozenset()
            late = late or time.monotonic() if _is_late(payload) else None
            is_over = late is not None and time.monotonic() - late > ACTION_DEADLINE
            if is_over or self._is_end(f"thread.run.{payload.get('status')}", payload):
                yield from self._told(run, payload)
                return
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL_MOST)

    def _told(self, run: Run, ended: JSON) -> Iterator[Event]:
        of_run = path_of("threads", run.thread_id, "runs", run.id, "steps")
        of_thread = path_of("threads", run.thread_id, "messages")
        known = {step.id: step for step in self.snapshot.steps}
        for step in self._listed(of_run, {"order": "asc"}, lambda _: True):
            if step["id"] not in known or known[step["id"]].to_dict() != step:
                yield self._apply(f"thread.run.step.{step.get('status')}", step)

        def is_of_run(message: JSON) -> bool:  # not every server supports the parameter run_id
            return message.get("run_id") == run.id and message.get("role") == "assistant"

        for message in self._listed(of_thread, {"order": "asc", "run_id": run.id}, is_of_run):
            yield from self._told_message(message)
        self._ended = True
        yield self._apply(f"thread.run.{ended['status']}", ended)

    def _listed(self, path: str, params: JSON, is_wanted: Callable[[JSON], bool]) -> list[JSON]:
        def listed() -> list[JSON]:
            found, size = [], 0
            for item in filter(is_wanted, iter_pages(self._transport, path, params)):
                size += size_of(item)
                if size > MAX_SNAPSHOT_BYTES:
                    raise self._over(f"takes over {MAX_SNAPSHOT_BYTES:,} bytes of memory")
                found.append(item)
            return found

        return self._answer_to(listed)

    def _told_message(self, message: JSON) -> Iterator[Event]:
        known = {m.id: m for m in self.snapshot.messages}.get(message["id"])
        before, after = known.text if known else "", Message(message).text
        if after != before and after.startswith(before):
            text = {"index": 0, "type": "text", "text": {"value": after[len(before) :]}}
            delta = {"id": message["id"], "object": "thread.message.delta", "delta": {"content": [text]}}
            yield self._apply("thread.message.delta", delta)
        # Lists can omit the status. The run has ended, so the message is complete.
        status = message.get("status") or "completed"
        if known is None or known.to_dict() != message:
            yield self._apply(f"thread.message.{status}", {**message, "status": status})

    def _apply(self, name: str, payload: JSON) -> Event:
        self.snapshot.apply(name, payload)
        return Event(name, parse_object(payload))

    def _given_up(self, damage: errors.NbrunsError | None) -> StreamError:
        run = self.run.id if self.run else "unknown"
        return StreamError(
            f"The stream of run {run} broke off ({self._why(damage)}), and the server was silent for "
            f"{CARRY_ON_DEADLINE:.0f} s. The run may still be active: check with client.runs.retrieve(…). "
            "error.snapshot has the events so far.",
            self.snapshot,
        )

    def _why(self, damage: errors.NbrunsError | None) -> str:
        said = (self.snapshot.error or {}).get("message")
        return self._transport.redacted(said or damage or "No reason was given.")


def _is_late(payload: JSON) -> bool:
    return payload.get("status") == "requires_action" and not Run(payload).tool_calls


def _named(received: ServerSentEvent) -> tuple[str, JSON]:
    """Return the name and payload of an event. Some servers send the name in the payload."""
    if received.event == "done" or received.data.strip() == "[DONE]":
        return "done", {}
    payload = _object(received.data)
    if received.event != "message":
        return received.event, payload
    if isinstance(payload.get("event"), str) and isinstance(payload.get("data"), dict):  # Astra
        return payload["event"], payload["data"]
    kind, status = str(payload.get("object", "message")), payload.get("status")
    return (f"{kind}.{status}" if status else kind), payload


def _object(data: str) -> JSON:
    try:
        payload = parse_json(data, MAX_EVENT_VALUES)
    except TooManyValues as error:
        raise StreamError(f"An event's data is {error}: this is not a stream of run events.") from error
    except ValueError:
        payload = None
        with suppress(ValueError):  # an example in the API reference has one brace too many
            payload = parse_json(data.rstrip().removesuffix("}"), MAX_EVENT_VALUES)
    if isinstance(payload, dict):
        return payload
    raise StreamError(f"An event's data is not a JSON object: {excerpt(data)}")
