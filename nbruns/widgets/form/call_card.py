"""The card of one tool call: its function, its arguments and its output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruns.objects import ToolCall
from nbruns.text import JSON, excerpt
from nbruns.tools import Tool
from nbruns.tools.answers import Answer, answer
from nbruns.widgets.form.approval_card import arguments_html, name_html
from nbruns.widgets.form.output_editor import ERROR, TEXT, OutputEditor
from nbruns.widgets.html import plain_html, sendable

if TYPE_CHECKING:
    from nbruns.widgets.form.arguments import ArgumentsEditor
from nbruns.widgets.notebook.threads import start_thread


class CallCard(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The card of one call. Read or set `output` or `error`; `run()` calls the registered function.

    `place` distinguishes calls of the same function, for example "2nd call".
    """

    def __init__(
        self, call: ToolCall, function: Mapping[str, Any], tool: Tool | None, place: str = ""
    ) -> None:
        self.call = call
        self._place = place
        self._tool = tool
        self._is_empty_output = False  # the function returned an empty string, which is a valid output
        #: The thread of the current or last run started by a click.
        self.thread: threading.Thread | None = None
        self._editor = None if tool is None else _arguments_editor(call, tool)
        self._answer = OutputEditor(call.name, None if tool is None else tool.output_schema)
        self._output = self._answer.text
        self._is_error = ipywidgets.Checkbox(description="Report as an error", indent=False)
        name = sendable(excerpt(call.name, 80))
        self._run = ipywidgets.Button(description=f"Run {name}", icon="play")
        self._run.on_click(lambda _: self._run_clicked())
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-told")
        self._answer.on_change(self._edited)
        self._is_error.observe(self._error_toggled, "value")
        if self._editor is not None:
            self._editor.on_change(lambda: self.say(""))
        described = function.get("description") or (tool.description if tool is not None else "")
        super().__init__(self._parts(str(described)))
        self.add_class("nbruns-card")

    def _parts(self, description: str) -> list[Any]:
        text = plain_html(excerpt(description, 1000))
        hint = f'<span class="nbruns-hint">{text}</span>' if description else ""
        below = ipywidgets.HBox([self._is_error])
        below.add_class("nbruns-below")
        head = ipywidgets.HTML(name_html(self.call, self._place) + hint)
        return [head, *self._argument_parts(), self._answer, below, self._note]

    def _argument_parts(self) -> list[Any]:
        if self._editor is not None:
            return [self._editor, self._run]
        return [ipywidgets.HTML(arguments_html(self.call))]

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
        if answer is not None and not answer.is_error:
            self._answer.way = TEXT
        self._output.value = "" if answer is None else sendable(answer.text)
        self._is_empty_output = answer is not None and not answer.text
        self.say("The function returned an empty string." if self._is_empty_output else "")

    def problem(self) -> str:
        """Return why the card can't be submitted, or an empty string if it can."""
        try:
            self._answer.read()
        except ValueError:
            return f"The output of {self.title} is invalid. See the message above."
        return "" if self.answer else f"{self.title} is unanswered. Enter an output or report an error."

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
        self._is_error.disabled = self._run.disabled = frozen
        self._answer.freeze(frozen)
        if self._editor is not None:
            self._editor.freeze(frozen)

    def _edited(self) -> None:
        self._is_empty_output = False
        self.say("")

    def _error_toggled(self, change: Mapping[str, Any]) -> None:
        self._answer.way = ERROR if change["new"] else self._answer.chosen

    def _run_clicked(self) -> None:
        # In a thread, so that a slow function does not block the kernel.
        self.thread = start_thread("nbruns-tool", self._run_shown)

    def _run_shown(self) -> None:
        words = self._run.description
        self._run.disabled, self._run.description = True, words.replace("Run ", "Running ", 1) + "…"
        try:
            self.run()
        except ValueError:
            pass  # shown at the field
        except Exception as error:
            self.say(f"{type(error).__name__}: {excerpt(error, 500)}")
        finally:
            self._run.disabled, self._run.description = False, words


def _arguments_editor(call: ToolCall, tool: Tool) -> ArgumentsEditor:
    from nbruns.widgets.form.arguments import ArgumentsEditor  # lazy: imports jsonschema and pydantic

    return ArgumentsEditor(call.arguments, tool.parameters)
