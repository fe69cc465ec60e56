"""The card of a tool call that needs approval: its name, its arguments, and Approve or Deny."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets

from nbruns.objects import ToolCall
from nbruns.text import excerpt
from nbruns.widgets.html import sendable
from nbruns.widgets.json_text import pretty_json_html

#: Maximum number of characters shown of read-only arguments.
MAX_ARGUMENT_CHARS = 20_000


class ApprovalCard(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The card of one call that needs approval.

    `output` can be read and set: True approves the call, False denies it, None means no decision yet.
    """

    can_run = False

    def __init__(self, call: ToolCall, place: str = "") -> None:
        self.call = call
        self._place = place
        self._choice = ipywidgets.RadioButtons(
            options=[("Approve", True), ("Deny", False)], value=None, description="Allow this call?"
        )
        self._choice.add_class("nbruns-field")
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-told")
        self._choice.observe(lambda _: self.say(""), "value")
        arguments = ipywidgets.HTML(arguments_html(call))
        super().__init__([ipywidgets.HTML(self._head()), arguments, self._choice, self._note])
        self.add_class("nbruns-card")

    def _head(self) -> str:
        server = self.call.to_dict().get("server_label")
        where = f' <span class="nbruns-hint">on the server {escape(excerpt(server))}</span>' if server else ""
        return name_html(self.call, self._place) + where

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

    def problem(self) -> str:
        """Return why the card can't be submitted, or an empty string if it can."""
        return "" if self.output is not None else f"{self.title} is unanswered. Approve or deny it."

    def on_edit(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the answer changes."""
        self._choice.observe(lambda _: callback(), "value")

    def say(self, message: str) -> None:
        """Show a message at the end of the card."""
        self._note.value = f'<span role="alert">{escape(message)}</span>' if message else ""

    def freeze(self, frozen: bool) -> None:
        """Disable or enable the choice."""
        self._choice.disabled = frozen


def name_html(call: ToolCall, place: str) -> str:
    """Return the heading of a card: the function name, and the position if it is called more than once."""
    name = f'<span class="nbruns-name mathjax_ignore tex2jax_ignore">{escape(excerpt(call.name))}</span>'
    return name + (f' <span class="nbruns-place">{place}</span>' if place else "")


def arguments_html(call: ToolCall) -> str:
    """Return read-only arguments as HTML, truncated to MAX_ARGUMENT_CHARS."""
    text, left = sendable(call.arguments[:MAX_ARGUMENT_CHARS]), len(call.arguments) - MAX_ARGUMENT_CHARS
    arguments = (pretty_json_html(text) or "none") + (f"\n… {left:,} more characters" if left > 0 else "")
    return (
        '<p class="nbruns-label">Arguments</p>'
        f'<pre class="nbruns-given mathjax_ignore tex2jax_ignore" tabindex="0">{arguments}</pre>'
    )
