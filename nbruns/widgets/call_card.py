"""One tool call in the form: what is called with what, and the answer to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets

from nbruns.errors import excerpt
from nbruns.objects import ToolCall
from nbruns.tools import Tool
from nbruns.widgets.answers import Answer, answer
from nbruns.widgets.arguments import ArgumentsEditor
from nbruns.widgets.json_text import pretty_json_html
from nbruns.widgets.threads import start_thread


class CallCard(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The card of one call. `output` and `error` are the answer, to be read or set; `run()` calls the function.

    `place` tells apart the calls of one function: "2nd call".
    """

    def __init__(
        self, call: ToolCall, function: Mapping[str, Any], tool: Tool | None, place: str = ""
    ) -> None:
        self.call = call
        self._place = place
        self._tool = tool
        self._empty_is_meant = False  # the function gave an empty text: that is an answer, too
        self._editor = None if tool is None else ArgumentsEditor(call.arguments, tool.parameters)
        self._output = ipywidgets.Textarea(
            description="Output", placeholder=f"What {call.name} gives back", rows=3, continuous_update=True
        )
        self._output.add_class("nbruns-field")
        self._is_error = ipywidgets.Checkbox(description="Report this as an error", indent=False)
        self._run = ipywidgets.Button(description=f"Run {call.name}", icon="play")
        self._run.on_click(lambda _: self._run_clicked())
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-invalid")
        self._output.observe(self._edited, "value")
        self._is_error.observe(self._error_toggled, "value")
        super().__init__(self._parts(str(function.get("description") or "")))
        self.add_class("nbruns-card")

    def _parts(self, description: str) -> list[Any]:
        told = f'<span class="nbruns-hint">{escape(description)}</span>' if description else ""
        name = f'<span class="nbruns-name">{escape(self.call.name)}</span>'
        place = f' <span class="nbruns-place">{self._place}</span>' if self._place else ""
        head = ipywidgets.HTML(name + place + told)
        below = ipywidgets.HBox([self._is_error])
        below.add_class("nbruns-below")
        shown = [head, *self._argument_parts(), self._output, below, self._note]
        return shown

    def _argument_parts(self) -> list[Any]:
        if self._editor is not None:
            return [self._editor, self._run]
        arguments = pretty_json_html(self.call.arguments) or "none"
        return [
            ipywidgets.HTML(
                f'<p class="nbruns-label">Arguments</p><pre class="nbruns-given">{arguments}</pre>'
            )
        ]

    @property
    def title(self) -> str:
        """What people call this call: the function's name, and which call of it where there are several."""
        return f"{self.call.name} ({self._place})" if self._place else str(self.call.name)

    @property
    def arguments(self) -> dict[str, Any] | str:
        """The arguments as they stand in the fields; as the model sent them where there are none to edit.

        Raises ValueError where a field's content does not fit; the words are at the field, too.
        """
        return self.call.arguments if self._editor is None else self._editor.read()

    @property
    def answer(self) -> Answer | None:
        """What will be submitted; None while the call is unanswered."""
        text = str(self._output.value)
        if not text.strip() and not self._empty_is_meant:
            return None
        return Answer(text, bool(self._is_error.value))

    @answer.setter
    def answer(self, answer: Answer | None) -> None:
        self._output.value = "" if answer is None else answer.text
        self._is_error.value = answer is not None and answer.is_error
        self._empty_is_meant = answer is not None and not answer.text
        self.say("The function gave back an empty text." if self._empty_is_meant else "")

    @property
    def output(self) -> str | None:
        """The text that will be submitted; None while the call is unanswered."""
        return None if self.answer is None else self.answer.output

    @output.setter
    def output(self, text: str | None) -> None:
        self.answer = None if text is None else Answer(text)

    @property
    def error(self) -> str | None:
        """The error that will be reported; None where the answer is none."""
        return self.answer.text if self.answer is not None and self.answer.is_error else None

    @error.setter
    def error(self, text: str | None) -> None:
        self.answer = None if text is None else Answer(text, is_error=True)

    @property
    def can_run(self) -> bool:
        """Whether a function is registered for this call."""
        return self._tool is not None

    def run(self) -> None:
        """Call the registered function with the arguments as they stand; its output, or its error, is the answer."""
        if self._tool is None:
            raise ValueError(f"No function is registered for {self.call.name}: pass it in tools=[…].")
        try:
            arguments = self.arguments
        except ValueError as error:
            self.say("The function was not run: see the arguments above.")
            raise ValueError(f"{self.call.name}: {error}") from error
        self.answer = answer(self._tool, arguments)

    def on_edit(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the answer changes."""
        self._output.observe(lambda _: callback(), "value")

    def say(self, message: str) -> None:
        """Show a message at the card's end."""
        self._note.value = f'<span role="alert">{escape(message)}</span>' if message else ""

    def freeze(self, frozen: bool) -> None:
        """Disable or enable every control; what they hold stays."""
        for control in (self._output, self._is_error, self._run):
            control.disabled = frozen
        if self._editor is not None:
            self._editor.freeze(frozen)

    def _edited(self, _change: object) -> None:
        self._empty_is_meant = False
        self.say("")

    def _error_toggled(self, change: Mapping[str, Any]) -> None:
        self._output.description = "Error" if change["new"] else "Output"

    def _run_clicked(self) -> None:
        # In a thread: a function that takes its time must not hold the kernel.
        start_thread("nbruns-tool", self._run_shown)

    def _run_shown(self) -> None:
        self._run.disabled, self._run.description = True, f"Running {self.call.name} …"
        try:
            self.run()
        except ValueError:
            pass  # said at the field
        except Exception as error:
            self.say(f"{type(error).__name__}: {excerpt(error, 500)}")
        finally:
            self._run.disabled, self._run.description = False, f"Run {self.call.name}"
