"""Follow a run to its end over several streams, and answer its tool calls. No widgets, no rendering."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbruns.client.fork import ForkStream
from nbruns.client.runs import MAX_CALLS, MAX_ROUNDS, lacks_passages
from nbruns.errors import LimitError, NbrunsError, StreamError, error_text
from nbruns.objects import Run, ToolCall
from nbruns.snapshot import RunSnapshot
from nbruns.text import excerpt
from nbruns.tools import Tool
from nbruns.tools.answers import Answer, answers_of, tool_of, tools_by_name
from nbruns.widgets.notebook.threads import start_thread

if TYPE_CHECKING:
    from nbruns.client.runs import Runs
    from nbruns.client.stream import RunStream

#: PACE is the minimum number of seconds between two reports of changes; they are rarer if handling one takes longer.
#: Because each report has a cost, slow text waits for ENOUGH_EVENTS: briefly at first, later up to LONGEST seconds.
PACE, ENOUGH_EVENTS, LONGEST = 0.05, 12, 0.9
#: Seconds between two polls for whether the run was answered elsewhere: initially, and at most.
POLL_FIRST, POLL_MAX = 2.0, 10.0
#: Why a run that required action no longer needs outputs, by its new status.
CLOSED = {
    "cancelling": "The run was cancelled elsewhere.",
    "cancelled": "The run was cancelled elsewhere.",
    "expired": "The run expired before its tool calls were answered.",
}


@dataclass
class Action:
    """The tool calls of a run that requires action, while it waits for their outputs."""

    run: Run
    #: For each call, in order: the output of its function, or None if the user has to answer.
    answers: list[Answer | None]
    #: Why the outputs of the functions could not be submitted.
    problem: str = ""
    #: Why the run no longer waits, if it was answered or ended elsewhere.
    closed: str = ""


class RunSession:
    """Follows a run in a background thread, from `start()` until it ends.

    The stream updates its snapshot with each event. The session reads the stream, reports changes, and submits
    outputs. With `auto=True` the `tools` answer calls, at most `max_rounds` times and `max_calls` calls.

    `on_change` is called without arguments after changes, in the session's thread and at a limited rate. `on_end` is
    called once, after the last change. In these callbacks, read `snapshot`, `action` and `error`. Hold
    `snapshot.lock` to read several values consistently.
    """

    def __init__(
        self,
        runs: Runs,
        stream: RunStream,
        *,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        auto: bool = False,
        max_rounds: int = MAX_ROUNDS,
        max_calls: int = MAX_CALLS,
        on_change: Callable[[], object] = lambda: None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._limits = {"max_rounds": max_rounds, "max_calls": max_calls}
        if not all(isinstance(limit, int) and limit > 0 for limit in self._limits.values()):
            raise ValueError(f"max_rounds and max_calls are whole numbers above 0, not {self._limits}.")
        self.tools = tools_by_name(tools)
        #: The state of the run, which each stream of the session continues.
        self.snapshot: RunSnapshot = stream.snapshot
        #: The tool calls that the run waits for; None if it doesn't wait.
        self.action: Action | None = None
        #: The error that ended the session before the run ended; otherwise None.
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._runs, self._stream, self._auto = runs, stream, auto
        self._on_change, self._on_end = on_change, on_end
        self._used = dict.fromkeys(self._limits, 0)
        self._submitted: queue.SimpleQueue[RunStream] = queue.SimpleQueue()
        self._submitting = 0
        self._searches: set[str] = set()  # ids of steps whose passages have been requested
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    @property
    def run(self) -> Run | None:
        """The run as last reported; None until the first event of the stream."""
        return self.snapshot.run

    @property
    def unused(self) -> Sequence[ToolCall]:
        """For a fork: the calls with a changed output that the new run has not made."""
        return self._stream.unused if isinstance(self._stream, ForkStream) else ()

    def start(self) -> None:
        """Start following the run."""
        start_thread("nbruns-session", self._follow_all)

    def submit(self, outputs: Any) -> None:
        """Submit outputs or approvals for `action`, and follow the run. Errors of the request propagate."""
        action = self.action
        if action is None:
            raise NbrunsError("The run doesn't wait for tool outputs.")
        with self._lock:
            self._submitting += 1
        try:
            self._submitted.put(self._submission(action.run, outputs))
        finally:
            with self._lock:
                self._submitting -= 1

    def cancel(self) -> None:
        """Cancel the run, and follow it until the server reports it as cancelled."""
        if self.run is None:
            raise NbrunsError("No run to cancel yet: the stream has not named it.")
        self._runs.cancel(self.run)
        if self.action is not None:
            self._submitted.put(self._runs.retrieve_stream(self.run, snapshot=self.snapshot))

    def when_ended(self, callback: Callable[[], object]) -> None:
        """Call `callback()` when the session has ended, or immediately if it already has."""
        with self._lock:
            if not self.ended.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def _follow_all(self) -> None:
        try:
            stream: RunStream | None = self._stream
            while stream is not None:
                self._follow(stream)
                stream = self._next_stream()
        except Exception as error:  # stored in `error`, because an exception in a thread would be lost
            self.error = error
        try:
            self._on_end()
        finally:
            with (
                self._lock
            ):  # a callback added at the same time is called exactly once: here, or in when_ended()
                self.ended.set()
        for callback in self._callbacks:
            callback()

    def _follow(self, stream: RunStream) -> None:
        """Report changes while a thread reads the stream. Raises the stream's error after its last change."""
        reader, patience = _Reader(stream), PACE
        try:
            while reader.wait():
                began = time.monotonic()
                self._add_passages()
                self._on_change()
                time.sleep(max(PACE, 2 * (time.monotonic() - began)))
                reader.gather(ENOUGH_EVENTS, patience)
                patience = min(1.3 * patience, LONGEST)
        finally:
            reader.close()

    def _add_passages(self) -> None:
        """Request the passages that file_search found. Streams contain them only if `include` asked for them."""
        for step in self.snapshot.steps:
            if step.status == "completed" and step.id not in self._searches and lacks_passages(step):
                self._searches.add(step.id)
                full = self._runs.steps.with_passages(step)
                if full is not step:
                    self.snapshot.apply("thread.run.step.completed", full.to_dict())

    def _next_stream(self) -> RunStream | None:
        run = self.run
        if run is not None and run.is_terminal:
            return None
        if run is None or run.status != "requires_action":  # the stream was closed by the caller
            raise StreamError("The stream was closed before the run ended.", self.snapshot)
        if not run.tool_calls:
            raise StreamError(
                f"Run {excerpt(run.id)} requires action, but its server does not say for which tool calls. "
                "Try again with client.runs.watch(run=…, thread=…), or cancel the run.",
                self.snapshot,
            )
        recorded = self._stream.recorded_outputs(run) if isinstance(self._stream, ForkStream) else None
        action = Action(run, self._automatic(run) if self._auto and not recorded else [])
        outputs = recorded or [
            {"tool_call_id": call.id or "", "output": answer.output}
            for call, answer in zip(run.tool_calls, action.answers, strict=False)  # no answers without auto
            if answer is not None
        ]
        if len(outputs) == len(run.tool_calls):
            try:
                return self._submission(run, outputs)
            except NbrunsError as error:  # the outputs are kept, and the user can submit them again
                action.problem = error_text(error)
        self.action = action
        try:
            self._on_change()
            return self._answered(action)
        finally:
            self.action = None
            self._on_change()

    def _automatic(self, run: Run) -> list[Answer | None]:
        """Return the outputs of functions. Raises LimitError before a limit is exceeded."""
        calls = sum(tool_of(call, self.tools) is not None for call in run.tool_calls)
        used = {"max_rounds": min(calls, 1), "max_calls": calls}
        for name, limit in self._limits.items():
            self._used[name] += used[name]
            if self._used[name] > limit:
                raise LimitError(
                    f"Run {excerpt(run.id)} requires action again, and with auto=True functions answer at most "
                    f"{limit:,} {'times' if name == 'max_rounds' else 'calls'} ({name}). It waits until it expires. "
                    f"To continue: client.runs.watch(run=…, thread=…, tools=…, auto=True, {name}=…); or cancel it."
                )
        return answers_of(run, self.tools)

    def _submission(self, run: Run, outputs: Any) -> RunStream:
        submit = (
            self._runs.submit_tool_approvals_stream
            if run.requires_approval
            else self._runs.submit_tool_outputs_stream
        )
        return submit(run, outputs, snapshot=self.snapshot)

    def _answered(self, action: Action) -> RunStream:
        """Return the stream of a submission. Meanwhile, poll for whether the run was answered or ended elsewhere."""
        pause = POLL_FIRST
        while True:
            try:
                return self._submitted.get(timeout=pause)
            except queue.Empty:
                pause = min(pause * 1.5, POLL_MAX)
            if closed := self._closed_elsewhere(action.run):
                action.closed = closed
                self._on_change()
                return self._runs.retrieve_stream(action.run, snapshot=self.snapshot)

    def _closed_elsewhere(self, run: Run) -> str:
        """Return why the run no longer waits for outputs. Empty while it waits, or outputs are being submitted."""
        if self._submitting:
            return ""
        try:
            now = self._runs.retrieve(run)
        except NbrunsError:
            return ""  # submitting will report the error
        if self._submitting or not self._submitted.empty():
            return ""  # it may have changed because of the submission in progress
        if now.status == "requires_action" and now.tool_calls == run.tool_calls:
            return ""
        return CLOSED.get(now.status, "The tool calls were answered elsewhere.")


class _Reader:
    """Reads a stream in a thread, which updates the snapshot, and counts its events."""

    def __init__(self, stream: RunStream) -> None:
        self._changed = threading.Condition()
        self._events = 0
        self._urgent = False  # an event other than a text delta has arrived
        self._over = False
        self._closed = False
        self._error: BaseException | None = None
        start_thread("nbruns-reader", lambda: self._read(stream))

    def wait(self) -> bool:
        """Wait for events. Return False at the end of the stream. Raises the error that ended it."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._over)
            events, self._events, self._urgent = self._events, 0, False
        if not events and self._error is not None:
            raise self._error
        return events > 0

    def gather(self, enough: int, seconds: float) -> None:
        """Wait for `enough` deltas or another event, for at most `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._urgent or self._over or self._events >= enough, seconds)

    def close(self) -> None:
        """Stop reading."""
        self._closed = True

    def _read(self, stream: RunStream) -> None:
        try:
            with stream:
                for event in stream:
                    with self._changed:
                        self._events += 1
                        self._urgent = self._urgent or not event.event.endswith(".delta")
                        self._changed.notify_all()
                    if self._closed:
                        return
        except BaseException as error:
            self._error = error
        with self._changed:
            self._over = True
            self._changed.notify_all()
