"""A conversation in a cell: the live transcript of a run, the form for its tool calls, and the composer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruns.client.fork import unused_text
from nbruns.client.runs import MAX_CALLS, MAX_ROUNDS
from nbruns.errors import NbrunsError, TimeoutError, error_text
from nbruns.objects import Assistant, Message, Run, Thread, ToolCall, items_of
from nbruns.snapshot import RunSnapshot
from nbruns.text import JSON, excerpt
from nbruns.tools import Tool
from nbruns.widgets.blocks import Block
from nbruns.widgets.form.form import ToolOutputsForm
from nbruns.widgets.notebook.saved import SavedDisplays, in_notebook, marimo_notebook, updates_outputs
from nbruns.widgets.notebook.threads import start_thread
from nbruns.widgets.notebook.waiting import POLL_INTERVAL, usable_widgets, wait_for
from nbruns.widgets.run_view.composer import Composer, Draft
from nbruns.widgets.run_view.details import RunDetails, details_of, to_json, to_markdown
from nbruns.widgets.run_view.transcript import (
    FileShown,
    assistant_html,
    earlier_block,
    is_stored,
    plain_text,
    to_html,
)
from nbruns.widgets.run_view.transcript_view import TranscriptView
from nbruns.widgets.run_view.turn import (
    Turn,
    content_of,
    file_shown,
    ids_of_files,
    message_of,
    question_of,
    to_download,
    unanswered_text,
)
from nbruns.widgets.session import Action, RunSession

if TYPE_CHECKING:
    from nbruns.client.resources import AssistantArg, ThreadArg
    from nbruns.client.runs import Approvals, Outputs, Runs
    from nbruns.client.stream import RunStream

#: Number of characters after which the notebook saves the first copy, and factor by which the text grows until the
#: next. Copies are rare because JupyterLab renders the whole cell again for each.
FIRST_KEPT, NEXT_KEPT = 500, 3
#: Parameters of a run that the next run doesn't inherit.
_ONCE = frozenset({"additional_messages", "additional_instructions", "metadata"})
FORKED = "A fork: asked again in a new thread, on a copy of what was said before the question."
FORKED_AT_CALL = "A fork: asked again in a new thread, with another output of {name}."
#: Held while a view renders its final state. Twenty views that render at once would block clicks in the kernel.
_ENDING = threading.Lock()
#: Maximum number of files of a conversation whose names and images are requested.
_MAX_FILES_SHOWN = 50


class RunView(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """A live view of a run and its conversation.

    The view shows the messages and the run, a form while the run requires action, and a composer whose messages start
    the next run. The cell returns immediately; a background thread follows the run.

        view = client.runs.watch(thread, assistant, tools=[get_weather])
        view            # displays it
        run = view.wait()
        view.send("And tomorrow?").wait()

    When a run has ended, its transcript becomes plain HTML, which the notebook also saves.

    Args:
        runs: The `runs` of a client.
        stream: An open `RunStream`; None to begin with the composer.
        thread: Without a stream, the thread that the composer continues.
        tools: Python functions that the form offers to run.
        auto: Whether the functions answer without asking. The form then only shows calls without a function.
        max_rounds: With `auto`, maximum number of times that the functions answer. After that, the run waits, and
            `wait` raises LimitError.
        max_calls: The same for the number of calls.
        assistant: The assistant, or its id. Default: the assistant of the run.
        params: Parameters of the run. Runs started by the composer have the same.

    Raises:
        ValueError: `max_rounds` or `max_calls` is not a whole number above 0.
    """

    def __init__(
        self,
        runs: Runs,
        stream: RunStream | None,
        *,
        thread: ThreadArg | None = None,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        auto: bool = False,
        max_rounds: int = MAX_ROUNDS,
        max_calls: int = MAX_CALLS,
        assistant: AssistantArg | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self._session_of = partial(
            RunSession, runs, tools=list(tools), auto=auto, max_rounds=max_rounds, max_calls=max_calls
        )
        self._params = {name: value for name, value in (params or {}).items() if name not in _ONCE}
        self._runs = runs
        self._thread_id = thread.id if isinstance(thread, Thread) else thread
        self._assistant_id = assistant.id if isinstance(assistant, Assistant) else assistant
        self._assistant = assistant if isinstance(assistant, Assistant) else None
        self._lock = threading.RLock()
        self._sending = threading.Lock()
        self._turns: list[Turn] = []
        self._earlier: list[Message] = []
        self._earlier_known, self._earlier_shown = (0, 0), list[Block]()
        self._files: dict[str, FileShown] = {}
        self._requested: set[str] = set()  # ids of files
        self._action: Action | None = None  # the action that the form is for
        self._form: ToolOutputsForm | None = None
        self._marimo = marimo_notebook()
        self._unanswered = ""  # instructions for a run that requires action, where no form can be shown
        self._paused = threading.Event()  # set when the run has ended, or can't be answered by a form
        self._shown = False
        self._displays = SavedDisplays()
        self._kept = (False, 0)  # whether the saved copies have the form, and their number of characters
        self._is_live = False  # whether the page shows a live run
        self._page = TranscriptView(
            copies=self._displays.mark, on_cancel=self._cancel_clicked, on_hello=self._keep
        )
        self._composer = Composer(
            on_send=lambda draft: start_thread("nbruns-send", partial(self._send_drafted, draft)),
            on_stop=self._cancel_clicked,
            on_models=lambda: start_thread("nbruns-models", self._list_models),
            on_download=lambda id: start_thread("nbruns-download", partial(self._download, id)),
            on_output=self._edit_output,
            view=self._displays.mark,
        )
        super().__init__([self._page, self._composer] if stream is not None else [self._composer])
        self.add_class("nbruns-view")
        if stream is not None:
            self._begin(stream, [])
        elif self._thread_id is not None:
            self._composer.model = excerpt(self._assistant.model or "", 100) if self._assistant else ""
            start_thread("nbruns-thread", self._request_earlier)

    def _begin(self, stream: RunStream, question: list[Message], origin: str = "") -> None:
        """Start following a run. `origin` is a note about the origin of the turn if it is a fork."""
        session = self._session_of(stream, on_change=self._changed, on_end=self._end)
        first = not self._turns
        with self._lock:
            self._turns.append(Turn(session, question, origin=origin))
            self._paused.clear()
            self._is_live = True
            self._kept = (False, 0)
            self._composer.busy, self._composer.problem = True, ""
            self._arrange()
        self._paint()
        if not first:
            self._keep()
        session.when_ended(partial(self._has_ended, session))
        session.start()

    def _has_ended(self, session: RunSession) -> None:
        with self._lock:
            if session is self._session:  # otherwise the next run has begun already
                self._paused.set()

    @property
    def run(self) -> Run | None:
        """The run as last reported; None until the first event of the stream."""
        return self._turns[-1].session.run if self._turns else None

    @property
    def runs(self) -> list[Run]:
        """The runs of this view, as last reported."""
        return [turn.session.run for turn in self._turns if turn.session.run is not None]

    @property
    def snapshot(self) -> RunSnapshot:
        """The run, its steps and messages so far."""
        return self._turns[-1].snapshot if self._turns else RunSnapshot()

    @property
    def is_active(self) -> bool:
        """Whether the view follows a run."""
        return bool(self._turns) and not self._session.ended.is_set()

    @property
    def _session(self) -> RunSession:
        if not self._turns:
            raise NbrunsError("No message has been sent yet. Use the composer, or send(text).")
        return self._turns[-1].session

    @property
    def form(self) -> ToolOutputsForm | None:
        """The form, while the run waits for outputs that no function provides; otherwise None."""
        return self._form

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until the run has ended. The form stays usable meanwhile, even with Run All.

        If no cell has displayed the view, `wait` displays it. Neither an error nor interrupting the kernel affects the
        run: wait again, or cancel it.

            run = client.runs.watch(thread, assistant).wait(timeout=60)

        Args:
            timeout: Maximum number of seconds to wait. Default: no limit.

        Returns:
            The run, whether or not it completed: see `run.status`.

        Raises:
            TimeoutError: The run has not ended after `timeout` seconds.
            StreamError: The stream could not be read to its end.
            LimitError: Functions have answered `max_rounds` times or `max_calls` calls.
            NbrunsError: No message has been sent yet; or the run requires action in marimo, which can't show the form.
        """
        self._show_once()
        if not wait_for(self._paused, timeout):
            status = str(self.run.status).replace("_", " ") if self.run else "unknown"
            raise TimeoutError(
                f"The run has not ended after {timeout:g} s; its status: {status}. "
                "It continues. Call wait() again, answer its form, or cancel() it."
            )
        return self._outcome()

    def _outcome(self) -> Run:
        if self._unanswered:
            raise NbrunsError(self._unanswered)
        if (
            not self._page.is_seen
        ):  # nbclient, for example, only receives updates from the cell that it is running
            self._save()
        if self._session.error is not None:
            raise self._session.error
        assert self.run is not None  # otherwise an error was raised above
        return self.run

    def __await__(self) -> Generator[Any, None, Run]:
        """Await the end of the run, like `wait()`, without blocking the event loop."""
        return self._awaited().__await__()

    async def _awaited(self) -> Run:
        self._show_once()
        with usable_widgets():
            while not self._paused.is_set():
                await asyncio.sleep(POLL_INTERVAL)
        return self._outcome()

    def send(
        self, text: str, *, files: Iterable[tuple[str, bytes]] = (), model: str | None = None
    ) -> RunView:
        """Send a message, and follow the run that answers it in this view. The composer does the same.

            view.send("What is in this picture?", files=[("oslo.png", data)]).wait()

        Args:
            text: The message.
            files: Pairs of a name and bytes: images for models with vision, other files for `code_interpreter` and
                `file_search`, whichever the assistant has.
            model: Model for this run. Default: the model of the assistant.

        Returns:
            This view.

        Raises:
            NbrunsError: The last run is active, no tool can read a file, or the server refuses the message.
        """
        with self._sending:
            if self.is_active:
                raise NbrunsError("The last run has not ended. Wait for it, answer its form, or cancel() it.")
            if self._thread_id is None or self._assistant_id is None:
                raise NbrunsError("The view doesn't know the thread yet: the stream has not named its run.")
            content, attachments = content_of(self._runs.files, text, files, self._hosted_tools())
            message = {"role": "user", "content": content, "attachments": attachments}
            params = {**self._params, **({"model": model} if model else {})}
            # Send the message in the request for the run, so that it isn't added if the run is refused.
            stream = self._runs.create_stream(
                self._thread_id, self._assistant_id, additional_messages=[message], **params
            )
            self._begin(stream, [message_of(content, attachments)])
        return self

    def fork(
        self, at: str | Message | ToolCall, text: str | None = None, *, model: str | None = None
    ) -> RunView:
        """Ask a question of this view again in a new thread, with another text, output of a call, or model.

        The conversation up to the question is copied (see `client.runs.fork`). The original doesn't change, and this
        view continues in the new thread.

        Args:
            at: The question or the function call to fork at, or its id.
            text: New text of the question, or new output of the call. Default: the same.
            model: Model of the new run. Default: the model of the original.

        Returns:
            This view.

        Raises:
            NbrunsError: The last run is active, or the server refuses the copy.
        """
        id = at if isinstance(at, str) else at.id
        with self._sending:
            if self.is_active:
                raise NbrunsError("The last run has not ended. Wait for it, answer its form, or cancel() it.")
            called = self._called(id)
            at_question = (t for t in self._turns if any(each.id == id for each in t.question))
            turn = called[0] if called else next(at_question, self._turns[0])
            run = turn.session.run
            if run is None:
                raise NbrunsError("The view doesn't know the run yet: the stream has not named it.")
            params: JSON = {"model": model} if model else {}
            if called:
                outputs = {} if text is None else {id: text}
                stream = self._runs.fork_stream(run, outputs=outputs, **params)
                asked, origin = (
                    [each.text for each in turn.question],
                    FORKED_AT_CALL.format(name=called[1].name),
                )
            else:
                known = next((each for each in (*turn.question, *self._earlier) if each.id == id), None)
                if known is not None and text == known.text:
                    text = None
                stream = self._runs.fork_stream(run, at=id, message=text, **params)
                shown = known.text if text is None and known is not None else text or ""
                asked, origin = [shown], FORKED
            copies = [message_of([{"type": "text", "text": each}], []) for each in asked]
            self._begin(stream, copies, origin)
        return self

    def _called(self, id: str) -> tuple[Turn, ToolCall] | None:
        """Return the turn and the call with this id, or None."""
        made = ((turn, call) for turn in self._turns for call in turn.snapshot.tool_calls)
        return next((each for each in made if each[1].id == id), None)

    def _edit_output(self, id: str) -> None:
        if called := self._called(id):
            self._composer.edit(id, called[1].output or "", called[1].name)

    def _hosted_tools(self) -> list[str]:
        tools = self._params.get("tools")
        if tools is None:
            if self._assistant is None and self.run is not None:
                self._assistant = self._runs.assistant_of(self.run)
            tools = self._assistant.tools if self._assistant is not None else ()
        return [str(tool.get("type")) for tool in items_of(tools) if isinstance(tool, Mapping)]

    def _send_drafted(self, draft: Draft) -> None:
        try:
            if draft.edits and draft.files:
                raise NbrunsError("An edited question keeps its files. Attach others to a new message.")
            if draft.edits:
                self.fork(draft.edits, draft.text, model=draft.model)
            else:
                self.send(draft.text, files=draft.files, model=draft.model)
        except Exception as error:  # shown at the composer, which keeps the message
            self._composer.refuse(f"Not sent. {error_text(error)}")
        else:
            self._composer.accept()

    def _list_models(self) -> None:
        try:
            self._composer.models = [excerpt(name, 200) for name in self._runs.model_names()]
        except NbrunsError:
            pass  # the server doesn't list models: keep the assistant's model

    def _download(self, id: str) -> None:
        try:
            name, data = to_download(self._runs.files, id)
        except Exception as error:  # shown at the composer
            self._composer.refuse_download(id, f"Not downloaded. {error_text(error)}")
        else:
            self._composer.problem = ""
            self._composer.save(id, name, data)

    def submit(self, outputs: Outputs | Approvals) -> RunView:
        """Submit the outputs of all tool calls that the run waits for. The form does the same.

        Args:
            outputs: `{tool_call_id: value}`; for a run that requires approval, `{tool_call_id: True or False}`. Or a
                list as in `client.runs.submit_tool_outputs`.

        Returns:
            This view.

        Raises:
            NbrunsError: The run doesn't wait for outputs, or the server refuses them.
        """
        session, unanswered = self._session, self._unanswered
        if unanswered:
            self._unanswered = ""
            self._paused.clear()
        try:
            session.submit(outputs)
        except BaseException:
            if unanswered and session.action is not None:
                self._unanswered = unanswered
                self._paused.set()
            raise
        return self

    def cancel(self) -> None:
        """Cancel the run. The view follows it until the server reports it as cancelled.

        Raises:
            NbrunsError: No run is known yet, or the server refuses to cancel it, for example because it has ended.
        """
        self._session.cancel()

    def on_done(self, callback: Callable[[Run], object]) -> None:
        """Call a function when the run has ended, or immediately if it already has.

            view.on_done(lambda run: print(run.status))

        Args:
            callback: Called with the run. The view shows its errors.

        Raises:
            NbrunsError: No message has been sent yet.
        """
        self._session.when_ended(lambda: self._call(callback))

    def to_html(self) -> str:
        """Return the transcript as HTML that needs neither a kernel nor a network."""
        with self._lock:
            return to_html(self._all_blocks(self._unfinished()))

    def to_markdown(self) -> str:
        """Return the conversation as Markdown: questions, tool calls with their outputs, and answers."""
        return to_markdown(self._all_details(), self._name)

    def to_json(self) -> str:
        """Return the questions, runs, steps and messages as JSON text, as the server sent them."""
        return to_json(self._all_details())

    def _all_details(self) -> list[RunDetails]:
        """Return the details of all turns. Questions that are missing are requested, if the server can be reached."""
        for turn in self._turns:
            if not turn.question and turn.session.run is not None:
                with suppress(NbrunsError):
                    run = turn.session.run
                    turn.question = question_of(self._runs.messages_before(run, run.thread_id))[1]
        return [replace(details_of(turn.snapshot), questions=turn.question) for turn in self._turns]

    def _all_blocks(self, notes: list[tuple[str, str]]) -> list[Block]:
        """Return the blocks of all turns, with only one head, that of the last run."""
        blocks = [self._blocks(turn, notes if turn is self._turns[-1] else []) for turn in self._turns]
        # Number the keys, because turns have blocks with the same keys, such as notes.
        bodies = [
            replace(block, key=f"{number} {block.key}")
            for number, (_, *body) in enumerate(blocks)
            for block in body
        ]
        earlier = self._earlier_blocks()
        head = blocks[-1][0] if blocks else Block("head", "head", assistant_html(self._name))
        return [head, *earlier, *bodies]

    def _earlier_blocks(self) -> list[Block]:
        """Return the collapsed conversation before the first turn. It is rendered again only after it has changed."""
        known = len(self._earlier), len(self._files)
        if known != self._earlier_known:
            self._earlier_known = known
            self._earlier_shown = [earlier_block(self._earlier, self._files)] if self._earlier else []
        return self._earlier_shown

    def _blocks(self, turn: Turn, notes: list[tuple[str, str]]) -> list[Block]:
        return turn.blocks(notes, self._name, self._files)

    @property
    def _name(self) -> str:
        """The name of the assistant; empty if it is unknown."""
        return str((self._assistant.name if self._assistant is not None else None) or "")

    def _unfinished(self) -> list[tuple[str, str]]:
        """Return notes for readers of saved HTML of an active run."""
        if self.run is None or self._session.error is not None or self.run.is_terminal:
            return []
        ids = f'run="{self.run.id}", thread="{self.run.thread_id}"'
        return [("note", f"Saved while the run was active. To follow it again: client.runs.watch({ids})")]

    def _show_once(self) -> None:
        """Display the view if no cell has displayed it, because its form could not be answered otherwise."""
        if self._session.ended.is_set() or self._shown:
            return
        if self._marimo is not None:
            self._marimo.output.append(self)
        elif in_notebook():
            self._ipython_display_()

    def _ipython_display_(self, **_: object) -> None:
        with self._lock:
            self._shown = True
            if self._is_first_live:
                self._displays.show({**self._widget(), **self._plain()}, {})
            elif self._turns and updates_outputs():
                self._displays.show(self._plain(), self._widget() if self._page.is_seen else None)
            else:
                self._displays.show({**self._widget(), "text/plain": repr(self)}, {})
            self._kept = (False, 0)
            if self._displays and self._is_live and not self._is_first_live:
                self._page.show(self._blocks(self._turns[-1], []))  # the earlier turns are HTML

    @property
    def _is_first_live(self) -> bool:
        """Whether the view follows its first run, so that the whole transcript is live. Earlier turns are HTML."""
        return len(self._turns) == 1 and self._is_live

    def _display_(self) -> Any:
        # Called by marimo, which can display anywidgets, but no containers of ipywidgets.
        self._shown = True
        return self._marimo.vstack([self._page, self._composer])

    @property
    def transcript(self) -> TranscriptView:
        """The transcript alone, an anywidget, for hosts that can't display containers of ipywidgets."""
        return self._page

    @property
    def composer(self) -> Composer:
        """The composer alone, an anywidget. Together, `transcript` and `composer` are the view without its form."""
        return self._composer

    def _widget(self) -> JSON:
        bundle: JSON = ipywidgets.VBox._repr_mimebundle_(self)
        return {name: data for name, data in bundle.items() if name != "text/plain"}

    def _plain(self) -> dict[str, str]:
        # Terminals, and exports to LaTeX and plain text, use the text.
        return {"text/plain": plain_text(self.snapshot), "text/html": self._html()}

    def _html(self) -> str:
        """Return the transcript as HTML, in which the turn shown by the live view is hidden while the view exists."""
        if len(self._turns) < 2 or not self._is_live:
            return self.to_html()
        live, notes = self._turns[-1], self._unfinished()
        before = self._turns[:-1]
        bodies = chain.from_iterable(self._blocks(turn, [])[1:] for turn in before)
        head, *body = self._blocks(live, notes)
        earlier = self._earlier_blocks()
        return to_html([head, *earlier, *bodies], body, self._displays.mark)

    def __repr__(self) -> str:
        return f"RunView({self.run!r})"

    # Called in the session's thread.

    def _changed(self) -> None:
        action, run, turn = self._session.action, self.run, self._turns[-1]
        if run is not None:
            self._know(run)
        if self._action is not None and self._action.closed:
            unsent = ""
            if self._form is not None:
                self._form.finish(self._action.closed)
                unsent = self._form.unsent()
            turn.notes.append(("note", f"{self._action.closed} {unsent}".strip()))
            self._close_form()
            action = None
        if action is not self._action:
            self._close_form()
            if action is not None:
                self._open_form(action)
        self._paint()

    def _know(self, run: Run) -> None:
        """Store the model, thread and assistant of a new run, and request details that are not in its events."""
        model = excerpt(run.model or "", 100)  # it can contain characters that can't be sent to a page
        if self._composer.model == model and self._thread_id == run.thread_id:
            return
        first = self._thread_id != run.thread_id or len(self._turns) == 1
        self._thread_id, self._composer.model = run.thread_id, model
        if self._assistant_id is None:
            self._assistant_id = run.assistant_id
        if first:
            start_thread("nbruns-thread", partial(self._request, run, self._turns[-1]))

    def _open_form(self, action: Action) -> None:
        if self._marimo is not None:
            self._action, self._unanswered = action, unanswered_text(action.run)
            self._paused.set()
            return
        form = ToolOutputsForm(action.run, tools=self._session.tools.values(), on_submit=self._session.submit)
        for card, answer in zip(form.calls, action.answers, strict=False):  # no answers without auto
            if answer is not None:
                card.answer = answer
        if action.problem:
            form.reopen(action.problem)
        self._action, self._form = action, form
        self._page.has_form = self._composer.hidden = True
        self._arrange()
        self._keep()

    def _close_form(self) -> None:
        form, self._action, self._form = self._form, None, None
        if self._unanswered:
            self._unanswered = ""
            self._paused.clear()
        if form is not None:
            self._page.has_form = self._composer.hidden = False
            self._arrange()
            form.close()

    def _arrange(self) -> None:
        # After the run has ended, the page is hidden if there is HTML above it. There is none if the notebook was
        # reloaded meanwhile, because it lost the ids under which outputs are updated.
        shown = self._turns or self._earlier
        if self._turns and not self._is_live:
            self.add_class("nbruns-over")
        else:
            self.remove_class("nbruns-over")
        parts = [self._page if shown else None, self._form, self._composer]
        self.children = [part for part in parts if part is not None]

    def _request(self, run: Run, turn: Turn) -> None:
        """Request the assistant's name, the question, earlier messages, and the files that they name."""
        try:
            if self._assistant is None:
                self._assistant = self._runs.assistant_of(run)
            self._paint_all()
        except NbrunsError:
            pass  # shown without the name
        try:
            if turn is self._turns[0] and not turn.question:
                self._earlier, turn.question = question_of(self._runs.messages_before(run, run.thread_id))
            self._paint_all()
        except NbrunsError:
            pass
        self._request_files()

    def _request_earlier(self) -> None:
        """Request the messages of the thread, for a view that begins with the composer."""
        try:
            self._earlier = list(self._runs.messages_before(None, self._thread_id or ""))
        except NbrunsError:
            return
        if self._earlier and not self._turns:
            self._arrange()
            self._page.show(self._all_blocks([]))
            self._request_files()

    def _request_rest(self, turn: Turn) -> None:
        """Request the ids of messages that were sent with the run, so that they can be edited, and new files."""
        run = turn.session.run
        if run is not None and not all(map(is_stored, turn.question)):
            try:
                turn.question = question_of(self._runs.messages_before(run, run.thread_id))[1]
            except NbrunsError:
                return
            self._paint_all()
        self._request_files()

    def _request_files(self) -> None:
        """Request the names and images of the files that the conversation names."""
        messages = [*self._earlier, *chain.from_iterable(turn.question for turn in self._turns)]
        named = chain.from_iterable(ids_of_files((), turn.snapshot) for turn in self._turns)
        wanted = [
            id for id in dict.fromkeys((*ids_of_files(messages, None), *named)) if id not in self._requested
        ]
        for id in wanted[: _MAX_FILES_SHOWN - len(self._requested)]:
            self._requested.add(id)
            try:
                self._files[id] = file_shown(self._runs.files, id)
            except NbrunsError:
                continue  # the id is shown instead
        if wanted:
            self._paint_all()

    def _paint_all(self) -> None:
        """Update the transcript with requested details, including the parts that are HTML."""
        if not self._turns:
            self._page.show(self._all_blocks([]))
            return
        self._paint()
        if not self._is_live:
            self._save()

    def _paint(self) -> None:
        with self._lock:
            run, turn = self.run, self._turns[-1]
            # If outputs contain HTML of the earlier turns, the page only shows the last turn.
            if self._is_first_live or not self._displays:
                self._page.show(self._all_blocks([("note", self._unanswered)] if self._unanswered else []))
            else:
                self._page.show(self._blocks(turn, []))
            self._page.cancellable = run is not None and not run.is_terminal and run.status != "cancelling"
            self._keep()

    def _keep(self) -> None:
        """Update the saved copies when a form appears or disappears, and when the text has grown enough."""
        with self._lock:
            form, size = self._form is not None, len(self.snapshot.text)
            if self._page.is_seen and (
                form != self._kept[0] or size >= max(NEXT_KEPT * self._kept[1], FIRST_KEPT)
            ):
                self._kept = form, size
                self._displays.keep(self._plain())

    def _end(self) -> None:
        if self._session.error is not None:
            self._turns[-1].notes.append(("error", error_text(self._session.error)))
        if unused := unused_text(self._session.unused):
            self._turns[-1].notes.append(("note", unused))
        with _ENDING:
            self._paint()
            self._page.cancellable = self._composer.busy = False
            self._is_live = False
            self._save()
        turn = self._turns[-1]
        unstored = any(not is_stored(message) for message in turn.question)
        if unstored or set(ids_of_files((), self.snapshot)) - self._requested:
            start_thread("nbruns-files", partial(self._request_rest, turn))

    def _save(self) -> None:
        with self._lock:
            # Without a page, for example with nbclient, the composer is useless.
            widget = self._widget() if self._page.is_seen else {}
            self._arrange()
            self._displays.replace(self._plain(), widget)

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
        self._turns[-1].notes.append(("error", problem))
        self._paint_all()
