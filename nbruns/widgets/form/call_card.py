"""The card of one tool call: its function, its arguments and its output."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruns.objects import ToolCall
from nbruns.text import JSON, excerpt
from nbruns.tools import Tool
from nbruns.tools.answers import Answer, answer
from nbruns.widgets.form.call_line import CallLine, arguments_html, details
from nbruns.widgets.form.output_editor import ERROR, TEXT, OutputEditor
from nbruns.widgets.html import plain_label, sendable
from nbruns.widgets.notebook.threads import start_thread

if TYPE_CHECKING:
    from nbruns.widgets.form.arguments import ArgumentsEditor


class CallCard(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The card of one call. Read or set `output` or `error`; `run()` calls the registered function.

    Where a function is registered, the output editor stays closed until there is an output to see, or until the
    user wants to enter one.

    `place` distinguishes calls of the same function, for example "2nd call".
    """

    def __init__(
        self, call: ToolCall, function: Mapping[str, Any], tool: Tool | None, place: str = ""
    ) -> None:
        self.call = call
        self._place = place
        self._tool = tool
        self._is_empty_output = False  # the function returned an empty string, which is a valid output
        self._arguments_are_edited = False  # since the head line was last updated
        #: The thread of the current or last run started by a click.
        self.thread: threading.Thread | None = None
        #: Waits until all changes that the page has sent have arrived.
        self.settle: Callable[[], object] = lambda: None
        self._editor = None if tool is None else _arguments_editor(call, tool)
        self._answer = OutputEditor(call.name, None if tool is None else tool.output_schema)
        self._output = self._answer.text
        described = str(function.get("description") or (tool.description if tool is not None else "") or "")
        self._line = CallLine(call, place, description=described)
        title = plain_label(excerpt(self.title, 80))
        self._is_error = ipywidgets.ToggleButton(description="Report error", tooltip=f"Report error: {title}")
        self._is_error.add_class("nbruns-quiet")
        self._enter = ipywidgets.Button(description="Enter output", tooltip=f"Enter output: {title}")
        self._enter.add_class("nbruns-quiet").add_class("nbruns-enter")
        self._enter.on_click(lambda _: self._open())
        self._run = ipywidgets.Button(
            description="Run", icon="play", button_style="primary", tooltip=f"Run {title}"
        )
        self._run.add_class("nbruns-run")
        self._run.on_click(lambda _: self._run_clicked())
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-told")
        self._answer.on_change(self._edited)
        self._is_error.observe(self._error_toggled, "value")
        if self._editor is not None:
            self._editor.on_change(self._arguments_edited)
        super().__init__(self._parts(described))
        self.add_class("nbruns-card")
        if tool is None:
            self._open()
        else:
            self._answer.layout.display = "none"

    def _parts(self, description: str) -> list[Any]:
        actions = ipywidgets.HBox(
            [self._is_error] if self._tool is None else [self._enter, self._is_error, self._run]
        )
        actions.add_class("nbruns-actions")
        head = ipywidgets.HBox([self._line, actions])
        head.add_class("nbruns-call-head")
        arguments = self._editor or ipywidgets.HTML(arguments_html(self.call))
        return [head, details(description, arguments), self._answer, self._note]

    def _open(self) -> None:
        self._answer.layout.display = None
        self._enter.layout.display = "none"

    @property
    def title(self) -> str:
        """The display name of the call: the function name, and the position if it is called more than once."""
        return f"{self.call.name} ({self._place})" if self._place else str(self.call.name)

    @property
    def arguments(self) -> JSON | str:
        """The current arguments: those in the fields, or those of the model if they can't be edited.

        Raises ValueError if a field is invalid; the field shows the message as well.
        """
        return self.call.arguments if self._editor is None else self._editor.read()

    @property
    def answer(self) -> Answer | None:
        """The answer to submit; None if the call is unanswered or the entry is invalid."""
        try:
            text = self._answer.read()
        except ValueError:
            return None
        if text is None and self._is_empty_output:
            text = ""
        return None if text is None else Answer(text, bool(self._is_error.value))

    @answer.setter
    def answer(self, answer: Answer | None) -> None:
        self._is_error.value = answer is not None and answer.is_error
        if answer is not None:
            self._open()
            if not answer.is_error:
                self._answer.way = TEXT
        self._output.value = "" if answer is None else sendable(answer.text)
        self._is_empty_output = answer is not None and not answer.text
        self.say("The function returned an empty string." if self._is_empty_output else "")

    @property
    def is_answered(self) -> bool:
        """Whether the card can be submitted. Does not show what is wrong with it."""
        return self._is_empty_output or self._answer.is_complete

    def problem(self) -> str:
        """Return why the card can't be submitted, or an empty string if it can."""
        try:
            self._answer.read()
        except ValueError:
            return f"The output of {self.title} is invalid. See the message above."
        ways = "Run it, enter an output" if self.can_run else "Enter an output"
        return "" if self.answer else f"{self.title} is unanswered. {ways} or report an error."

    @property
    def output(self) -> str | None:
        """The text to submit; None if the call is unanswered."""
        return None if self.answer is None else self.answer.output

    @output.setter
    def output(self, text: str | None) -> None:
        self.answer = None if text is None else Answer(text)

    @property
    def error(self) -> str | None:
        """The error to report; None if the answer is not an error."""
        return self.answer.text if self.answer is not None and self.answer.is_error else None

    @error.setter
    def error(self, text: str | None) -> None:
        self.answer = None if text is None else Answer(text, is_error=True)

    @property
    def can_run(self) -> bool:
        """Whether a function is registered for this call."""
        return self._tool is not None

    def run(self) -> None:
        """Call the registered function with the current arguments; its output or error becomes the answer.

        Raises:
            ValueError: No function is registered, or the arguments are invalid.
        """
        if self._tool is None:
            raise ValueError(f"No function is registered for {self.call.name}. Pass it in tools=[…].")
        try:
            arguments = self.arguments
        except ValueError as error:
            self.say("The function was not run because its arguments are invalid. See above.")
            raise ValueError(f"{self.call.name}: {error}") from error
        if self._arguments_are_edited:
            self._arguments_are_edited = False
            self._line.show(arguments if isinstance(arguments, str) else json.dumps(arguments))
        self.answer = answer(self._tool, arguments)

    def on_edit(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the answer changes."""
        self._answer.on_change(callback)
        self._is_error.observe(lambda _: callback(), "value")

    def say(self, message: str) -> None:
        """Show a message at the end of the card."""
        self._note.value = f'<span role="alert">{escape(message)}</span>' if message else ""

    def freeze(self, frozen: bool) -> None:
        """Disable or enable every control, keeping the values."""
        self._is_error.disabled = self._enter.disabled = self._run.disabled = frozen
        self._answer.freeze(frozen)
        if self._editor is not None:
            self._editor.freeze(frozen)

    def _edited(self) -> None:
        self._is_empty_output = False
        self.say("")

    def _arguments_edited(self) -> None:
        self._arguments_are_edited = True
        self.say("")

    def _error_toggled(self, change: Mapping[str, Any]) -> None:
        self._answer.way = ERROR if change["new"] else self._answer.chosen
        if change["new"]:
            self._open()

    def _run_clicked(self) -> None:
        # In a thread, so that a slow function does not block the kernel.
        self.thread = start_thread("nbruns-tool", self._run_shown)

    def _run_shown(self) -> None:
        self._run.disabled, self._run.description = True, "Running…"
        try:
            self.settle()
            self.run()
        except ValueError:
            pass  # shown at the field
        except Exception as error:
            self.say(f"{type(error).__name__}: {excerpt(error, 500)}")
        finally:
            self._run.disabled, self._run.description = False, "Run"


def _arguments_editor(call: ToolCall, tool: Tool) -> ArgumentsEditor:
    from nbruns.widgets.form.arguments import ArgumentsEditor  # lazy: imports jsonschema and pydantic

    return ArgumentsEditor(call.arguments, tool.parameters)
