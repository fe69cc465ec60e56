"""The tool-output form: one card per tool call, and one Submit button for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from html import escape
from pathlib import Path
from typing import Any, Literal

import anywidget
import ipywidgets
import traitlets

from nbruns.errors import NbrunsError, error_text
from nbruns.objects import Run, ToolCall, items_of, utc
from nbruns.text import excerpt
from nbruns.tools import Tool
from nbruns.tools.answers import tools_by_name
from nbruns.widgets.form.approval_card import ApprovalCard
from nbruns.widgets.form.call_card import CallCard
from nbruns.widgets.form.field import close_all
from nbruns.widgets.notebook.threads import start_thread

STATIC = Path(__file__).parent.parent / "static"
WAITING = "Submits when the running functions finish."
State = Literal["open", "submitting", "submitted", "expired", "closed"]


class FormStatus(anywidget.AnyWidget):
    """The number of unanswered calls, and the time until the run expires. This widget also loads the style sheet."""

    _esm = STATIC / "form_status.js"
    _css = STATIC / "form.css"

    title = traitlets.Unicode().tag(sync=True)
    #: The accessible name of the form.
    label = traitlets.Unicode().tag(sync=True)
    expires_at = traitlets.Float(None, allow_none=True).tag(sync=True)
    #: Number of submits rejected because an answer is missing or invalid.
    refused = traitlets.Int(0).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self.form_id = ""
        self._is_shown = False
        self._questions = 0
        self._answered = threading.Condition()
        self._last_answer = 0
        super().__init__(**traits)
        self.on_msg(self._receive)

    def settle(self, seconds: float = 5.0) -> None:
        """Wait until the kernel has received all input typed so far, for at most `seconds`.

        While the kernel handles a change, the page delays further changes of the same control, but not clicks.
        Without this wait, the last letters could arrive after a click on Submit. JupyterLab also sends messages to
        several threads of the kernel. Only the page knows which messages are pending.
        """
        if not self._is_shown:
            return
        with self._answered:
            self._questions += 1
            question = self._questions
        self.send({"settle": question, "form": self.form_id})
        with self._answered:
            self._answered.wait_for(lambda: self._last_answer >= question, seconds)

    def _receive(self, _widget: object, content: Any, _buffers: object) -> None:
        if not isinstance(content, dict):
            return
        self._is_shown = True
        if isinstance(settled := content.get("settled"), int):
            with self._answered:
                self._last_answer = max(self._last_answer, settled)
                self._answered.notify_all()


class ToolOutputsForm(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """Show a form for the tool outputs or approvals that a run requires.

        form = ToolOutputsForm(
            run,
            tools=[get_weather],
            on_submit=lambda outputs: client.runs.submit_tool_outputs(run, outputs),
        )

    `RunView` shows this form by itself.

    Args:
        run: A run with the status `requires_action`.
        tools: Python functions that the form can run to produce outputs.
        on_submit: Called with the outputs when the form is submitted: {tool_call_id: text}, or
            {tool_call_id: True or False} for approvals. If calls share an id or have none, it receives the API's
            list format, with one entry per call. If it raises, the form shows the error, keeps the entries, and
            can be submitted again. Without it, read `outputs` when `state` is "submitted".
    """

    def __init__(
        self,
        run: Run,
        *,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        on_submit: Callable[[Any], object] | None = None,
    ) -> None:
        self.run = run
        approvals = run.requires_approval
        self._on_submit = on_submit
        self._state: State = "open"
        self._deadline: threading.Timer | None = None
        self._lock = threading.Lock()
        self._run_all: threading.Thread | None = None
        self._waiting = False  # submit() is waiting for running functions
        self._refused = False  # the last submit was rejected; the form shows the reason until it is fixed
        known, functions = tools_by_name(tools), _functions(run)
        #: One card per call, in the order of the run's tool calls.
        self.calls: list[Any] = [
            ApprovalCard(call, place) if approvals else _card(call, functions, known, place)
            for call, place in zip(run.tool_calls, _places(run.tool_calls), strict=True)
        ]
        self._status = FormStatus(
            label="Tool calls that need approval" if approvals else "Tool calls that need output",
            expires_at=_moment(run.expires_at),
        )
        self._submit = ipywidgets.Button(description="Submit", tooltip="Submit (Ctrl+Enter)")
        self._submit.add_class("nbruns-submit")
        self._submit.on_click(lambda _: self._submit_clicked())
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-told")
        for card in self.calls:
            card.on_edit(self._edited)
            card.settle = self._status.settle
        super().__init__([*self.calls, self._footer()])
        self.add_class("nbruns-form")
        self._status.form_id = self.model_id
        self._count()
        self._deadline = self._start_clock()

    def _footer(self) -> Any:
        self._buttons = [self._submit]
        if sum(card.can_run for card in self.calls) > 1:
            run_all = ipywidgets.Button(
                description="Run all", icon="play", tooltip="Run the functions of all unanswered calls"
            )
            run_all.on_click(lambda _: self._run_all_clicked())
            self._buttons.insert(0, run_all)
        footer = ipywidgets.HBox([self._note, self._status, *self._buttons])
        footer.add_class("nbruns-footer")
        return footer

    def __repr__(self) -> str:
        return f"ToolOutputsForm({self.run!r}, {self._state})"

    @property
    def state(self) -> State:
        """One of open, submitting, submitted, expired, closed (answered elsewhere)."""
        return self._state

    @property
    def outputs(self) -> Any:
        """The answers so far: {tool_call_id: text}, or {tool_call_id: True or False} for approvals.

        If calls share an id or have none, the API's list format, with one entry per answered call, in order.
        """
        answered = [(card.call.id, card.output) for card in self.calls if card.output is not None]
        ids = {card.call.id for card in self.calls}
        if len(ids) == len(self.calls) and all(ids):
            return dict(answered)
        name = "approve" if self.run.requires_approval else "output"
        return [{"tool_call_id": id or "", name: output} for id, output in answered]

    def run_tools(self) -> None:
        """Run the registered functions of all unanswered calls."""
        for card in self.calls:
            if card.can_run and card.output is None:
                try:
                    card.run()
                except ValueError:
                    pass  # shown at the card; the other functions still run

    def submit(self) -> None:
        """Wait for running functions, then submit all answers.

        Raises:
            NbrunsError: A call is unanswered or invalid, or the form is not open. Errors of `on_submit` propagate.
                The form shows the error and keeps the entries.
        """
        if running := self._running():
            self._refused, self._waiting = False, True
            self._say(WAITING)
            for thread in running:
                thread.join()
            self._waiting = False
        outputs = self._take()
        try:
            if self._on_submit is not None:
                self._on_submit(outputs)
        except BaseException as error:
            self.reopen(error_text(error))
            raise
        self._enter("submitted", "Submitted.")

    def unsent(self) -> str:
        """Return a description of entries that can no longer be submitted; an empty string if there are none."""
        decisions = {False: "denied", True: "approved"}
        entered = [
            f"{card.title}: {decisions.get(card.output, card.output)}"
            for card in self.calls
            if card.output is not None
        ]
        return f"Not sent: {'; '.join(entered)}" if entered else ""

    def finish(self, text: str) -> None:
        """Close the form permanently and show why. The entries remain readable.

        Args:
            text: The reason to show.
        """
        self._enter("closed", text)

    def reopen(self, text: str) -> None:
        """Show why submitting failed. The form can be submitted again.

        Args:
            text: The reason to show.
        """
        self._enter("open", f"Not submitted. Your entries are kept. {text}")

    def close(self) -> None:
        """Remove the form from every page."""
        if self._deadline is not None:
            self._deadline.cancel()
        for child in self.children:
            close_all(child)
        super().close()

    def _take(self) -> Any:
        """Return the answers and set the state to submitting, so that concurrent submits are rejected."""
        with self._lock:
            if self._state != "open":
                raise NbrunsError(f"Can't submit the form: its state is '{self._state}'.")
            problems = {card.title: card.problem() for card in self.calls}
            for card in self.calls:
                if problems[card.title]:
                    card.say(problems[card.title])
            text = _not_submitted(problems)
            self._refused = bool(text)
            if text:
                self._say(text)
                self._status.refused += 1  # the page moves the focus to the first invalid control
                raise NbrunsError(text)
            self._state = "submitting"
        self._show("Submitting…")
        return self.outputs

    def _enter(self, state: State, text: str) -> None:
        with self._lock:
            self._state = state
        self._show(text)

    def _show(self, text: str) -> None:
        over = self._state != "open"
        for button in self._buttons:
            button.disabled = over
        for card in self.calls:
            card.freeze(over)
        if self._state in ("submitted", "expired", "closed"):
            self._status.expires_at = None
        self._count()
        self._say(text)

    def _say(self, text: str) -> None:
        self._note.value = f'<span role="alert">{escape(text)}</span>' if text else ""

    def _edited(self) -> None:
        if self._state == "open":
            self._count()
            self._say(self._status_text())

    def _count(self) -> None:
        """Show how many calls are left; Submit is the main action once there are none."""
        left = sum(not card.is_answered for card in self.calls)
        self._status.title = _title(left, self.run.requires_approval) if self._state == "open" else ""
        self._submit.button_style = "" if left else "primary"

    def _status_text(self) -> str:
        """Return the current status: why the last submit was rejected, or that submit() is waiting."""
        if self._refused:
            return _not_submitted({card.title: card.problem() for card in self.calls})
        return WAITING if self._waiting and self._running() else ""

    def _running(self) -> list[threading.Thread]:
        """Return the live threads of functions started by a click."""
        threads = [self._run_all, *(getattr(card, "thread", None) for card in self.calls)]
        return [t for t in threads if t and t.is_alive() and t is not threading.current_thread()]

    def _run_all_clicked(self) -> None:
        self._run_all = start_thread("nbruns-tools", self._run_all_shown)

    def _run_all_shown(self) -> None:
        self._status.settle()
        self.run_tools()

    def _submit_clicked(self) -> None:
        # In a thread, so that the kernel stays responsive and the page can disable the button.
        start_thread("nbruns-submit", self._submit_shown)

    def _submit_shown(self) -> None:
        try:
            self._status.settle()
            self.submit()
        except Exception:
            pass  # shown in the form

    def _start_clock(self) -> threading.Timer | None:
        expires_at = _moment(self.run.expires_at)
        if expires_at is None or expires_at - time.time() > threading.TIMEOUT_MAX:
            return None
        timer = threading.Timer(max(expires_at - time.time(), 0), copy_context().run, [self._expire])
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self) -> None:
        if self._state == "open":
            self._enter("expired", "The run has expired and no longer accepts tool outputs. Start a new run.")


def _moment(timestamp: Any) -> float | None:
    moment = utc(timestamp)
    return moment.timestamp() if moment else None


def _functions(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return the function definitions in the run's tools, by name."""
    declared = [tool.get("function") for tool in items_of(run.tools) if isinstance(tool, Mapping)]
    return {str(function.get("name")): function for function in declared if isinstance(function, Mapping)}


def _card(
    call: ToolCall, functions: Mapping[str, Mapping[str, Any]], tools: Mapping[str, Tool], place: str
) -> CallCard:
    tool = tools.get(call.name) if call.type == "function" else None
    return CallCard(call, functions.get(call.name, {}), tool, place)


def _places(calls: list[ToolCall]) -> list[str]:
    """Return the position of each call among those of its function; empty for single calls."""
    names = [call.name for call in calls]
    return [
        f"{_ordinal(names[:i].count(name) + 1)} call" if names.count(name) > 1 else ""
        for i, name in enumerate(names)
    ]


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _title(number: int, approvals: bool) -> str:
    if number == 0:
        return "Ready to submit"
    calls, need = ("1 call", "needs") if number == 1 else (f"{number} calls", "need")
    return f"{calls} {need} {'approval' if approvals else 'output'}"


def _not_submitted(problems: Mapping[str, str]) -> str:
    """Summarize the problems of all calls; an empty string if there are none."""
    unanswered = [excerpt(title, 80) for title, problem in problems.items() if "unanswered" in problem]
    wrong = [problem for problem in problems.values() if problem and "unanswered" not in problem]
    are = "is" if len(unanswered) == 1 else "are"
    named = [f"{', '.join(unanswered)} {are} unanswered."] if unanswered else []
    return f"Not submitted: {' '.join(named + wrong)}" if named or wrong else ""
