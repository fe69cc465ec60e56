"""One tool call that may only run when it is approved: what would be called with what, and yes or no."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets

from nbruns.objects import ToolCall
from nbruns.text import excerpt
from nbruns.widgets.html import sendable
from nbruns.widgets.json_text import pretty_json_html

#: Characters of arguments that are shown where they can only be read.
MOST_SHOWN = 20_000


class ApprovalCard(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The card of one call that asks for approval. `output` is the answer, to be read or set: True approves the
    call, False denies it, None is no answer yet."""

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
        """What people call this call."""
        return f"{self.call.name} ({self._place})" if self._place else str(self.call.name)

    @property
    def arguments(self) -> str:
        """The arguments as the model wrote them; they are approved or denied as they are."""
        return self.call.arguments

    @property
    def output(self) -> bool | None:
        """Whether the call may run; None while that is open."""
        choice: bool | None = self._choice.value
        return choice

    @output.setter
    def output(self, approve: bool | None) -> None:
        self._choice.value = approve

    @property
    def error(self) -> None:
        """An approval reports no errors."""
        return None

    def problem(self) -> str:
        """Why this can't be submitted; empty where it can."""
        return "" if self.output is not None else f"{self.title} is unanswered. Approve or deny it."

    def on_edit(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the answer changes."""
        self._choice.observe(lambda _: callback(), "value")

    def say(self, message: str) -> None:
        """Show a message at the card's end."""
        self._note.value = f'<span role="alert">{escape(message)}</span>' if message else ""

    def freeze(self, frozen: bool) -> None:
        """Disable or enable the choice."""
        self._choice.disabled = frozen


def name_html(call: ToolCall, place: str) -> str:
    """A card's heading: the function's name, and which call of it."""
    name = f'<span class="nbruns-name mathjax_ignore tex2jax_ignore">{escape(excerpt(call.name))}</span>'
    return name + (f' <span class="nbruns-place">{place}</span>' if place else "")


def arguments_html(call: ToolCall) -> str:
    """The arguments to be read; of endless ones the beginning, which says so."""
    text, left = sendable(call.arguments[:MOST_SHOWN]), len(call.arguments) - MOST_SHOWN
    arguments = (pretty_json_html(text) or "none") + (f"\n… {left:,} more characters" if left > 0 else "")
    return (
        '<p class="nbruns-label">Arguments</p>'
        f'<pre class="nbruns-given mathjax_ignore tex2jax_ignore" tabindex="0">{arguments}</pre>'
    )
