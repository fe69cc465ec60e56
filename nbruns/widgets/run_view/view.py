"""A run, live: what it says and does as it happens, and the form that answers its tool calls."""

from __future__ import annotations

import asyncio
import copy
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruns.client.runs import MAX_CALLS, MAX_ROUNDS
from nbruns.errors import LimitError, NbrunsError, StreamError, TimeoutError
from nbruns.objects import Assistant, Run
from nbruns.snapshot import RunSnapshot
from nbruns.text import excerpt
from nbruns.tools import Tool
from nbruns.widgets.blocks import Block
from nbruns.widgets.form.answers import Answer, answers_of, tool_of, tools_by_name
from nbruns.widgets.form.form import ToolOutputsForm, asks_approval
from nbruns.widgets.notebook.saved import SavedDisplays, in_notebook
from nbruns.widgets.notebook.threads import start_thread
from nbruns.widgets.notebook.waiting import usable_widgets, wait_for
from nbruns.widgets.run_view.incoming import StreamReader
from nbruns.widgets.run_view.transcript import Transcript, plain_text, to_html
from nbruns.widgets.run_view.transcript_view import TranscriptView

if TYPE_CHECKING:
    from nbruns.client.runs import Runs
    from nbruns.client.stream import RunStream

#: Seconds between two updates of the page, at least; more where rendering takes longer. An update has some 40
#: bytes of its own, so a slow text waits for ENOUGH deltas: not long at first, later up to LONGEST.
PACE, ENOUGH, LONGEST = 0.05, 12, 0.9
#: How much text there is before the notebook keeps a copy, and how many times more before it keeps the next:
#: JupyterLab lays the whole cell out anew for each.
FIRST_KEPT, NEXT_KEPT = 500, 3
#: Seconds between two questions whether somebody else has answered the run, and at most.
LOOK_FIRST, LOOK_MOST = 2.0, 10.0
#: What a form says that closes because the run needs no answers any more.
ENDED_ELSEWHERE = {
    "cancelling": "The run was cancelled elsewhere.",
    "cancelled": "The run was cancelled elsewhere.",
    "expired": "The run expired before its tool calls were answered.",
}


class RunView(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """A live view of a run: its transcript and, when the run requires action, the form that answers.

    `runs` is a client's `runs`, `stream` an open `RunStream`. `tools` are functions that the form offers to
    run; with `auto=True` they answer by themselves, and the form appears only for calls that no function
    answers. They answer at most `max_rounds` times and `max_calls` calls: a run that asks for more is left
    waiting, and `wait` raises LimitError. Without `assistant`, the one that the run names is asked for, once,
    for its name. Reading goes on in a background thread: the cell returns at once.

        view = client.runs.watch(thread, assistant, tools=[get_weather])
        view            # shows it
        run = view.wait()

    When the run has ended, the output of the cell is plain HTML, and so is what the notebook saves.
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
        assistant: Assistant | None = None,
    ) -> None:
        self._runs = runs
        self._assistant = assistant
        self._asked_name = False
        self._stream = stream
        self._tools = tools_by_name(tools)
        self._auto = auto
        self._limits = {"max_rounds": max_rounds, "max_calls": max_calls}
        if not all(isinstance(limit, int) and limit > 0 for limit in self._limits.values()):
            raise ValueError(f"max_rounds and max_calls are whole numbers above 0, not {self._limits}.")
        self._used = dict.fromkeys(self._limits, 0)
        self._snapshot = copy.deepcopy(stream.snapshot)  # the stream's own is its reader's
        self._lock = threading.RLock()
        self._transcript = Transcript()
        self._notes: list[tuple[str, str]] = []
        self._error: BaseException | None = None
        self._form: ToolOutputsForm | None = None
        self._streams: queue.SimpleQueue[RunStream] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._callbacks: list[Callable[[], object]] = []
        self._displays = SavedDisplays()
        self._kept = (False, 0)  # whether the copies have the form, and how much text
        self._page = TranscriptView(
            copies=self._displays.mark, on_cancel=self._cancel_clicked, on_hello=self._keep
        )
        super().__init__([self._page])
        self.add_class("nbruns-view")
        self._paint()
        start_thread("nbruns-view", self._live)

    @property
    def run(self) -> Run | None:
        """The run as last heard of; None until the stream has named it."""
        return self.snapshot.run

    @property
    def snapshot(self) -> RunSnapshot:
        """The run, its steps and messages so far."""
        return self._snapshot

    @property
    def form(self) -> ToolOutputsForm | None:
        """The form, while the run waits for answers that no function gives by itself."""
        return self._form

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until the run has ended and give it; the form works meanwhile, also under Run All.

        Shows the view first if no cell has shown it. Raises TimeoutError after `timeout` seconds, and what
        broke the stream if it could not be read to its end. Neither that nor interrupting the kernel
        touches the run: wait again, or cancel it.
        """
        self._show_once()
        if not wait_for(self._ended, timeout):
            status = str(self.run.status).replace("_", " ") if self.run else "not known yet"
            raise TimeoutError(
                f"The run has not ended after {timeout:g} s; its status: {status}. "
                "It goes on: wait() again, answer its form, or cancel() it."
            )
        return self._outcome()

    def _outcome(self) -> Run:
        if not self._page.is_seen:  # nbclient, say, which hears only what belongs to the cell that it runs
            self._save()
        if self._error is not None:
            raise self._error
        assert self.run is not None  # without a run there is an error
        return self.run

    def __await__(self) -> Generator[Any, None, Run]:
        """`await view` is `view.wait()` for a cell that shares the kernel."""
        return self._awaited().__await__()

    async def _awaited(self) -> Run:
        self._show_once()
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._when_ended(lambda: loop.call_soon_threadsafe(ended.set))
        with usable_widgets():
            await ended.wait()
        return self._outcome()

    def cancel(self) -> None:
        """Cancel the run. The view follows until the server says that it is cancelled."""
        if self.run is None:
            raise NbrunsError("There is no run to cancel yet: the stream has not named it.")
        self._runs.cancel(self.run)
        if self._form is not None:
            self._streams.put(self._runs.retrieve_stream(self.run))

    def on_done(self, callback: Callable[[Run], object]) -> None:
        """Call `callback(run)` when the run has ended, or at once if it has."""
        self._when_ended(lambda: self._call(callback))

    def to_html(self) -> str:
        """The transcript so far as HTML that needs no kernel and asks nothing of the network."""
        with self._lock:
            return to_html(self._blocks(self._unfinished()))

    def _blocks(self, notes: list[tuple[str, str]]) -> list[Block]:
        name = self._assistant.name if self._assistant is not None else None
        return self._transcript.blocks(self._snapshot, self._notes + notes, str(name or ""))

    def _unfinished(self) -> list[tuple[str, str]]:
        """What a reader of HTML should know of a run that goes on."""
        if self.run is None or self._error is not None or self.run.is_terminal:
            return []
        ids = f'run="{self.run.id}", thread="{self.run.thread_id}"'
        return [("note", f"This was saved while the run was going on. client.runs.watch({ids}) picks it up.")]

    def _show_once(self) -> None:
        """Show the view where it is waited for, if no cell has shown it: its form could not be answered."""
        if in_notebook() and not self._displays and not self._ended.is_set():
            self._ipython_display_()

    def _ipython_display_(self, **_: object) -> None:
        with self._lock:
            live = not self._ended.is_set()
            widget = self._widget() if live else {}
            self._displays.show({**widget, **self._plain()}, copied=live)
            self._kept = (False, 0)

    def _widget(self) -> dict[str, Any]:
        bundle: dict[str, Any] = ipywidgets.VBox._repr_mimebundle_(self)
        return bundle

    def _plain(self) -> dict[str, str]:
        # The text is what terminals show, and what exports to LaTeX and to plain text have of the run.
        return {"text/plain": plain_text(self._snapshot), "text/html": self.to_html()}

    def __repr__(self) -> str:
        return f"RunView({self.run!r})"

    # The life of the view: one stream after the other, until the run has ended. Runs in a thread of its own.

    def _live(self) -> None:
        try:
            stream: RunStream | None = self._stream
            while stream is not None:
                self._follow(stream)
                stream = self._next_stream()
        except Exception as error:  # whatever it was, it is shown and raised by wait(), not lost in a thread
            self._error = error
            self._notes.append(("error", _words(error)))
        self._end()

    def _ask_name(self, run: Run) -> None:
        try:
            self._assistant = self._runs.assistant_of(run)
        except NbrunsError:
            return  # the view does without
        self._paint()
        if self._ended.is_set():
            self._save()

    def _follow(self, stream: RunStream) -> None:
        """Fold the stream's events in as they come, and paint now and then."""
        incoming = StreamReader(stream)
        try:
            self._fold(incoming)
        finally:
            incoming.close()

    def _fold(self, incoming: StreamReader) -> None:
        patience = PACE
        while events := incoming.take():
            with self._lock:
                for event in events:
                    self._snapshot.apply(event.event, event.data.to_dict())
            if self.run is not None and self._assistant is None and not self._asked_name:
                self._asked_name = True
                start_thread("nbruns-assistant", partial(self._ask_name, self.run))
            began = time.monotonic()
            self._paint()
            time.sleep(max(PACE, 2 * (time.monotonic() - began)))
            incoming.gather(ENOUGH, patience)
            patience = min(1.3 * patience, LONGEST)

    def _next_stream(self) -> RunStream | None:
        run = self.run
        if run is not None and run.is_terminal:
            return None
        if run is None or run.status != "requires_action":  # somebody has closed the stream
            raise StreamError("The stream was closed before the run had ended.", self._snapshot)
        if not run.tool_calls:
            raise StreamError(
                f"Run {excerpt(run.id)} requires action, but its server does not say for which tool calls. "
                "Look again with client.runs.watch(run=…, thread=…), or cancel the run.",
                self._snapshot,
            )
        answers = self._automatic(run) if self._auto else []
        problem = ""
        if answers and None not in answers:
            given = [
                {"tool_call_id": call.id or "", "output": answer.output}
                for call, answer in zip(run.tool_calls, answers, strict=True)
                if answer is not None
            ]
            try:
                return self._submitted(run, given)
            except NbrunsError as error:  # the form has the answers and can be submitted again
                problem = _words(error)
        form = self._open_form(run, answers, problem)
        try:
            return self._answered(run)
        finally:
            self._close_form(form)

    def _automatic(self, run: Run) -> list[Answer | None]:
        """What the functions answer. Raises LimitError instead of calling one too many."""
        calls = sum(tool_of(call, self._tools) is not None for call in run.tool_calls)
        used = {"max_rounds": min(calls, 1), "max_calls": calls}
        for name, limit in self._limits.items():
            self._used[name] += used[name]
            if self._used[name] > limit:
                raise LimitError(
                    f"Run {excerpt(run.id)} requires action again, and with auto=True functions answer at most "
                    f"{limit:,} {'times' if name == 'max_rounds' else 'calls'} ({name}). It waits until it expires. "
                    f"To continue: client.runs.watch(run=…, thread=…, tools=…, auto=True, {name}=…); or cancel it."
                )
        return answers_of(run, self._tools)

    def _open_form(self, run: Run, answers: Sequence[Answer | None], problem: str) -> ToolOutputsForm:
        form = ToolOutputsForm(
            run, tools=self._tools.values(), on_submit=lambda given: self._submit(run, given)
        )
        for card, answer in zip(form.calls, answers, strict=False):  # none where there is no auto
            if answer is not None:
                card.answer = answer
        if problem:
            form.reopen(problem)
        self._form = form
        self._page.has_form = True
        self.children = [self._page, form]
        self._keep()
        return form

    def _close_form(self, form: ToolOutputsForm) -> None:
        self._form = None
        self._page.has_form = False
        self.children = [self._page]
        form.close()

    def _submit(self, run: Run, outputs: Any) -> None:
        self._streams.put(self._submitted(run, outputs))

    def _submitted(self, run: Run, outputs: Any) -> RunStream:
        with self._lock:
            snapshot = copy.deepcopy(self._snapshot)
        if asks_approval(run):
            return self._runs.submit_tool_approvals_stream(run, outputs, snapshot=snapshot)
        return self._runs.submit_tool_outputs_stream(run, outputs, snapshot=snapshot)

    def _answered(self, run: Run) -> RunStream:
        """Wait for the stream that an answer opens; follow the run if it was answered elsewhere."""
        pause = LOOK_FIRST
        while True:
            try:
                return self._streams.get(timeout=pause)
            except queue.Empty:
                pause = min(pause * 1.5, LOOK_MOST)
            if self._form is not None and self._form.state != "submitting" and self._went_on(run, self._form):
                return self._runs.retrieve_stream(run)

    def _went_on(self, run: Run, form: ToolOutputsForm) -> bool:
        try:
            now = self._runs.retrieve(run)
        except NbrunsError:
            return False  # submitting will say what is wrong
        if now.status == "requires_action" and now.tool_calls == run.tool_calls:
            return False
        words = ENDED_ELSEWHERE.get(now.status, "The tool calls were answered elsewhere.")
        form.finish(words)
        self._notes.append(("note", f"{words} {form.unsent()}".strip()))
        return True

    def _paint(self) -> None:
        with self._lock:
            run = self.run
            self._page.show(self._blocks([]))
            self._page.cancellable = run is not None and not run.is_terminal and run.status != "cancelling"
            self._keep()

    def _keep(self) -> None:
        """Keep the copies up with what a page shows: when a form comes or goes, and now and then as the text grows."""
        with self._lock:
            form, size = self._form is not None, len(self._snapshot.text)
            if self._page.is_seen and (
                form != self._kept[0] or size >= max(NEXT_KEPT * self._kept[1], FIRST_KEPT)
            ):
                self._kept = form, size
                self._displays.keep(self._plain())

    def _end(self) -> None:
        try:
            self._paint()
            self._page.cancellable = False
            self._save()
        finally:
            with self._lock:  # a callback that is given now is called: here, or by who gives it
                self._ended.set()
        for callback in self._callbacks:
            callback()

    def _save(self) -> None:
        with self._lock:
            self._displays.replace(self._plain())

    def _when_ended(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def _call(self, callback: Callable[[Run], object]) -> None:
        if self.run is None or not self.run.is_terminal:
            return
        try:
            callback(self.run)
        except Exception as error:
            self._say(f"on_done: {_words(error)}")

    def _cancel_clicked(self) -> None:
        start_thread("nbruns-cancel", self._cancel_shown)

    def _cancel_shown(self) -> None:
        try:
            self.cancel()
        except Exception as error:
            self._say(f"The run was not cancelled. {_words(error)}")
            self._page.refusals += 1

    def _say(self, problem: str) -> None:
        self._notes.append(("error", problem))
        self._paint()
        if self._ended.is_set():
            self._save()


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, NbrunsError) else f"{type(error).__name__}: {excerpt(error, 500)}"
