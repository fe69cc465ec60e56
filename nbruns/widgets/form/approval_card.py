"""The card of a tool call that needs approval: the call in one line, and Approve or Deny."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets

from nbruns.objects import ToolCall
from nbruns.text import excerpt
from nbruns.widgets.form.call_line import CallLine, arguments_html, details


class ApprovalCard(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The card of one call that needs approval.

    `output` can be read and set: True approves the call, False denies it, None means no decision yet.
    """

    can_run = False

    def __init__(self, call: ToolCall, place: str = "") -> None:
        self.call = call
        self._place = place
        self._choice = ipywidgets.ToggleButtons(
            options=[("Approve", True), ("Deny", False)], value=None, description="Allow this call?"
        )
        self._choice.add_class("nbruns-choice")
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-told")
        self._choice.observe(lambda _: self.say(""), "value")
        server = self.call.to_dict().get("server_label")
        self._line = CallLine(call, place, f"on the server {excerpt(server)}" if server else "")
        head = ipywidgets.HBox([self._line, self._choice])
        head.add_class("nbruns-call-head")
        self._arguments = ipywidgets.HTML(arguments_html(call))
        super().__init__([head, details("", self._arguments), self._note])
        self.add_class("nbruns-card")

    @property
    def title(self) -> str:
        """The display name of the call."""
        return f"{self.call.name} ({self._place})" if self._place else str(self.call.name)

    @property
    def arguments(self) -> str:
        """The arguments as the model wrote them. They can't be edited."""
        return self.call.arguments

    @property
    def output(self) -> bool | None:
        """True if approved, False if denied, None if undecided."""
        choice: bool | None = self._choice.value
        return choice

    @output.setter
    def output(self, approve: bool | None) -> None:
        self._choice.value = approve

    @property
    def error(self) -> None:
        """Always None: approvals can't report errors."""
        return None

    @property
    def is_answered(self) -> bool:
        """Whether the card can be submitted."""
        return self.output is not None

    def problem(self) -> str:
        """Return why the card can't be submitted, or an empty string if it can."""
        return "" if self.is_answered else f"{self.title} is unanswered. Approve or deny it."

    def on_edit(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the answer changes."""
        self._choice.observe(lambda _: callback(), "value")

    def say(self, message: str) -> None:
        """Show a message at the end of the card."""
        self._note.value = f'<span role="alert">{escape(message)}</span>' if message else ""

    def freeze(self, frozen: bool) -> None:
        """Disable or enable the choice."""
        self._choice.disabled = frozen
