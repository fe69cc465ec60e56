"""A run, live: its transcript as it happens, and the form that answers its tool calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruns.client.runs import MAX_CALLS, MAX_ROUNDS
from nbruns.errors import NbrunsError, TimeoutError, error_text
from nbruns.objects import Assistant, Message, Run
from nbruns.snapshot import RunSnapshot
from nbruns.text import JSON
from nbruns.tools import Tool
from nbruns.widgets.blocks import Block
from nbruns.widgets.form.form import ToolOutputsForm
from nbruns.widgets.notebook.saved import SavedDisplays, in_notebook
from nbruns.widgets.notebook.threads import start_thread
from nbruns.widgets.notebook.waiting import usable_widgets, wait_for
from nbruns.widgets.run_view.exchange import Exchange, exchange_of, fetch_questions, to_json, to_markdown
from nbruns.widgets.run_view.transcript import Transcript, plain_text, to_html
from nbruns.widgets.run_view.transcript_view import TranscriptView
from nbruns.widgets.session import Action, RunSession

if TYPE_CHECKING:
    from nbruns.client.runs import Runs
    from nbruns.client.stream import RunStream

#: Characters of text before the notebook keeps a copy, and how many times more before it keeps the next: JupyterLab
#: lays out the whole cell again for each.
FIRST_KEPT, NEXT_KEPT = 500, 3


class RunView(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """A live view of a run: its transcript and, when the run requires action, the form that answers.

    The cell returns at once; a background thread follows the run.

        view = client.runs.watch(thread, assistant, tools=[get_weather])
        view            # displays it
        run = view.wait()

    When the run has ended, the output of the cell becomes plain HTML, which is also what the notebook saves.

    Args:
        runs: The `runs` of a client.
        stream: An open `RunStream`.
        tools: Functions that the form offers to run.
        auto: Let the `tools` answer by themselves; the form appears only for calls that none of them answers.
        max_rounds: With `auto`, answer at most this often. After that the run waits, and `wait` raises LimitError.
        max_calls: The same for the number of calls.
        assistant: The assistant, for its name. Without it, the one that the run names is retrieved once.
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
        limits = {"max_rounds": max_rounds, "max_calls": max_calls}
        self._session = RunSession(
            runs, stream, tools=tools, auto=auto, **limits, on_change=self._changed, on_end=self._end
        )
        self._runs = runs
        self._assistant = assistant
        self._name_requested = False
        self._question: list[Message] | None = None  # the messages that the run responds to, once fetched
        self._lock = threading.RLock()
        self._transcript = Transcript()
        self._notes: list[tuple[str, str]] = []
        self._action: Action | None = None  # that the form is for
        self._form: ToolOutputsForm | None = None
        self._displays = SavedDisplays()
        self._kept = (False, 0)  # whether the copies have the form, and how much text
        self._page = TranscriptView(
            copies=self._displays.mark, on_cancel=self._cancel_clicked, on_hello=self._keep
        )
        super().__init__([self._page])
        self.add_class("nbruns-view")
        self._paint()
        self._session.start()

    @property
    def run(self) -> Run | None:
        """The run as last reported; None until the stream has named it."""
        return self._session.run

    @property
    def snapshot(self) -> RunSnapshot:
        """The run, its steps and messages so far."""
        return self._session.snapshot

    @property
    def form(self) -> ToolOutputsForm | None:
        """The form, while the run waits for outputs that no function provides."""
        return self._form

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until the run has ended, and return it. The form works in the meantime, also under Run All.

        Displays the view first if no cell has displayed it. Neither an error nor interrupting the kernel affects
        the run: wait again, or cancel it.

        Args:
            timeout: Maximum number of seconds to wait.

        Raises:
            TimeoutError: The run has not ended after `timeout` seconds.
            StreamError: The stream could not be read to its end.
            LimitError: Functions have answered `max_rounds` times or `max_calls` calls.
        """
        self._show_once()
        if not wait_for(self._session.ended, timeout):
            status = str(self.run.status).replace("_", " ") if self.run else "unknown"
            raise TimeoutError(
                f"The run has not ended after {timeout:g} s; its status: {status}. "
                "It goes on: wait() again, answer its form, or cancel() it."
            )
        return self._outcome()

    def _outcome(self) -> Run:
        if not self._page.is_seen:  # nbclient, for example, only receives messages of the cell that it runs
            self._save()
        if self._session.error is not None:
            raise self._session.error
        assert self.run is not None  # without a run there is an error
        return self.run

    def __await__(self) -> Generator[Any, None, Run]:
        """`await view` is `view.wait()` for a cell that shares the kernel."""
        return self._awaited().__await__()

    async def _awaited(self) -> Run:
        self._show_once()
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._session.when_ended(lambda: loop.call_soon_threadsafe(ended.set))
        with usable_widgets():
            await ended.wait()
        return self._outcome()

    def cancel(self) -> None:
        """Cancel the run. The view follows it until the server reports it as cancelled."""
        self._session.cancel()

    def on_done(self, callback: Callable[[Run], object]) -> None:
        """Call `callback(run)` when the run has ended, or immediately if it has."""
        self._session.when_ended(lambda: self._call(callback))

    def to_html(self) -> str:
        """Return the transcript as HTML that needs neither a kernel nor a network."""
        with self._lock:
            return to_html(self._blocks(self._unfinished()))

    def to_markdown(self) -> str:
        """Return the transcript as Markdown: the question, tool calls with their outputs, and answers.

        The question is fetched from the server, if it can be reached.
        """
        return to_markdown([self._exchange()], self._name())

    def to_json(self) -> str:
        """Return the question, the run, its steps and its messages as JSON text, as the server sent them."""
        return to_json([self._exchange()])

    def _exchange(self) -> Exchange:
        known = exchange_of(self.snapshot)
        if self._question is None:
            with suppress(NbrunsError):
                self._question = fetch_questions(self._runs._transport, known.run, known.messages)
        return replace(known, questions=self._question or ())

    def _name(self) -> str:
        return str((self._assistant.name if self._assistant is not None else None) or "")

    def _blocks(self, notes: list[tuple[str, str]]) -> list[Block]:
        with self.snapshot.lock:
            return self._transcript.blocks(self.snapshot, self._notes + notes, self._name())

    def _unfinished(self) -> list[tuple[str, str]]:
        """Notes for readers of the HTML of an active run."""
        if self.run is None or self._session.error is not None or self.run.is_terminal:
            return []
        ids = f'run="{self.run.id}", thread="{self.run.thread_id}"'
        return [("note", f"Saved while the run was active. To follow it again: client.runs.watch({ids})")]

    def _show_once(self) -> None:
        """Display the view if no cell has displayed it: its form could not be answered otherwise."""
        if in_notebook() and not self._displays and not self._session.ended.is_set():
            self._ipython_display_()

    def _ipython_display_(self, **_: object) -> None:
        with self._lock:
            live = not self._session.ended.is_set()
            widget = self._widget() if live else {}
            self._displays.show({**widget, **self._plain()}, copied=live)
            self._kept = (False, 0)

    def _widget(self) -> JSON:
        bundle: JSON = ipywidgets.VBox._repr_mimebundle_(self)
        return bundle

    def _plain(self) -> dict[str, str]:
        # The text is what terminals show, and what exports to LaTeX and to plain text have of the run.
        return {"text/plain": plain_text(self.snapshot), "text/html": self.to_html()}

    def __repr__(self) -> str:
        return f"RunView({self.run!r})"

    # Called in the session's thread.

    def _changed(self) -> None:
        action, run = self._session.action, self.run
        if run is not None and self._assistant is None and not self._name_requested:
            self._name_requested = True
            start_thread("nbruns-assistant", partial(self._request_name, run))
        if self._form is not None and self._action is not None and self._action.closed:
            self._form.finish(self._action.closed)
            self._notes.append(("note", f"{self._action.closed} {self._form.unsent()}".strip()))
            self._close_form()
            action = None
        if action is not self._action:
            self._close_form()
            if action is not None:
                self._open_form(action)
        self._paint()

    def _open_form(self, action: Action) -> None:
        form = ToolOutputsForm(action.run, tools=self._session.tools.values(), on_submit=self._session.submit)
        for card, answer in zip(form.calls, action.answers, strict=False):  # empty without auto
            if answer is not None:
                card.answer = answer
        if action.problem:
            form.reopen(action.problem)
        self._action, self._form = action, form
        self._page.has_form = True
        self.children = [self._page, form]
        self._keep()

    def _close_form(self) -> None:
        form, self._action, self._form = self._form, None, None
        if form is not None:
            self._page.has_form = False
            self.children = [self._page]
            form.close()

    def _request_name(self, run: Run) -> None:
        try:
            self._assistant = self._runs.assistant_of(run)
        except NbrunsError:
            return  # the view does without
        self._paint()
        if self._session.ended.is_set():
            self._save()

    def _paint(self) -> None:
        with self._lock:
            run = self.run
            self._page.show(self._blocks([]))
            self._page.cancellable = run is not None and not run.is_terminal and run.status != "cancelling"
            self._keep()

    def _keep(self) -> None:
        """Update the copies that the notebook saves: when a form comes or goes, and now and then as the text grows."""
        with self._lock:
            form, size = self._form is not None, len(self.snapshot.text)
            if self._page.is_seen and (
                form != self._kept[0] or size >= max(NEXT_KEPT * self._kept[1], FIRST_KEPT)
            ):
                self._kept = form, size
                self._displays.keep(self._plain())

    def _end(self) -> None:
        if self._session.error is not None:
            self._notes.append(("error", error_text(self._session.error)))
        self._paint()
        self._page.cancellable = False
        self._save()

    def _save(self) -> None:
        with self._lock:
            self._displays.replace(self._plain())

    def _call(self, callback: Callable[[Run], object]) -> None:
        if self.run is None or not self.run.is_terminal:
            return
        try:
            callback(self.run)
        except Exception as error:
            self._report(f"on_done: {error_text(error)}")

    def _cancel_clicked(self) -> None:
        start_thread("nbruns-cancel", self._cancel_shown)

    def _cancel_shown(self) -> None:
        try:
            self.cancel()
        except Exception as error:
            self._report(f"The run was not cancelled. {error_text(error)}")
            self._page.refusals += 1

    def _report(self, problem: str) -> None:
        self._notes.append(("error", problem))
        self._paint()
        if self._session.ended.is_set():
            self._save()
