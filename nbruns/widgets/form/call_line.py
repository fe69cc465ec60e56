"""The head line of a card: the call as one line of code, which opens to show all of its arguments."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets

from nbruns.objects import ToolCall
from nbruns.text import excerpt
from nbruns.widgets.html import plain_html, sendable
from nbruns.widgets.json_text import arguments_line, pretty_json_html

#: Maximum number of characters shown of read-only arguments.
MAX_ARGUMENT_CHARS = 20_000


class CallLine(ipywidgets.HTML):  # type: ignore[misc]  # ipywidgets is not typed
    """One line of a card: `get_weather(city="Oslo")`. While it is open, the page shows the details below it.

    Args:
        call: The call.
        place: Distinguishes calls of the same function, for example "2nd call".
        hint: More to show on the line.
        description: What the function does, for the tooltip.
    """

    def __init__(self, call: ToolCall, place: str = "", hint: str = "", description: str = "") -> None:
        self._call = call
        self._title = escape(excerpt(sendable(description)))
        self._after = "".join(
            f' <span class="nbruns-place">{escape(text)}</span>' for text in (place, hint) if text
        )
        super().__init__()
        self.add_class("nbruns-call-line")
        self.show(call.arguments)

    def show(self, arguments: str) -> None:
        """Show these arguments, with the line closed."""
        name = escape(excerpt(sendable(self._call.name)))
        self.value = (
            f'<details class="mathjax_ignore tex2jax_ignore"><summary title="{self._title}"><span class="nbruns-code">'
            f'<span class="nbruns-name">{name}</span>'
            f'<span class="nbruns-given-line">({escape(arguments_line(arguments))})</span></span>'
            f"{self._after}</summary></details>"
        )


def details(description: str, content: Any) -> Any:
    """Return what an open line shows: the description of the function, and its arguments."""
    text = f'<span class="nbruns-hint">{plain_html(excerpt(description, 1000))}</span>'
    box = ipywidgets.VBox([*([ipywidgets.HTML(text)] if description else []), content])
    box.add_class("nbruns-call-details")
    return box


def arguments_html(call: ToolCall) -> str:
    """Return read-only arguments as HTML, truncated to MAX_ARGUMENT_CHARS."""
    text, left = sendable(call.arguments[:MAX_ARGUMENT_CHARS]), len(call.arguments) - MAX_ARGUMENT_CHARS
    arguments = (pretty_json_html(text) or "none") + (f"\n… {left:,} more characters" if left > 0 else "")
    return f'<pre class="nbruns-given mathjax_ignore tex2jax_ignore" tabindex="0">{arguments}</pre>'
