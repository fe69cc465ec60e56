"""The demo model's Markdown: answers made from tool outputs, and one that shows what Markdown can do."""

from __future__ import annotations

import json
import re
from typing import Any

from nbruns.server.models.protocol import Answered
from nbruns.text import JSON

#: Maximum number of rows and characters shown of an output.
ROWS, CHARACTERS = 12, 600

COLOPHON = (
    "*I am nbruns' demo model: by a script, I call tools and repeat what they gave. For an answer from a "
    "real language model, use the model `smollm2` (small, runs here, needs no key), or start the server with "
    "`nbruns serve --upstream URL`.*"
)

WITHOUT_TOOLS = """\
### You said

{quote}

I have no tools to ask in this run, so here is what a run can do:

- **stream** its text into the notebook while it is written,
- **call tools**: functions of yours, which a form or your own Python code answers,
- **cost** tokens, which are counted for every run and every step.

Give the assistant a function, and I will call it:

```python
def get_weather(city: str) -> str:
    \"\"\"The weather in a city.\"\"\"
    return f"Rain in {{city}}, 8 °C"

client.assistants.create(model="demo", tools=[get_weather])
```
"""


def from_outputs(calls: list[Answered]) -> str:
    """Return an answer that shows the output of each call."""
    opening = (
        "Here is what I found." if len(calls) == 1 else f"I asked {len(calls)} tools. Here is what I found."
    )
    sections = [f"### {_heading(call)}\n\n{_output(call.output)}" for call in calls]
    return "\n\n".join([opening, *sections, "---", COLOPHON]) + "\n"


def without_tools(said: list[str]) -> str:
    """Return an answer to the latest message, if there is no tool to call."""
    return WITHOUT_TOOLS.format(quote=_quote(said[0] if said else "")) + "\n---\n\n" + COLOPHON + "\n"


def as_object(said: list[str]) -> JSON:
    """An answer as a JSON object of no particular schema."""
    return {"answer": f"You said: {said[0] if said else ''}", "model": "demo", "scripted": True}


def _heading(call: Answered) -> str:
    """The call as it was made, in words: `get_weather`: Oslo."""
    arguments = _parsed(call.arguments)
    values = list(arguments.values()) if isinstance(arguments, dict) else []
    shown = ", ".join(_cell(value) for value in values if isinstance(value, str | int | float))
    return f"`{call.name}`" + (f": {shown}" if shown else "")


def _output(output: str) -> str:
    value = _parsed(output)
    if isinstance(value, dict) and value:
        return _table(["", ""], [[_bold(key), _cell(inner)] for key, inner in value.items()])
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = list(dict.fromkeys(key for row in value for key in row))
        rows = [[_cell(row.get(column, "")) for column in columns] for row in value]
        return _table([_cell(column) for column in columns], rows)
    if isinstance(value, list) and value:
        return _shortened([f"- {_cell(item)}" for item in value], "- … and {} more")
    return _quote(value if isinstance(value, str) else output)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [_row(header), _row(["---"] * len(header))]
    more = _row(["…", *[""] * (len(header) - 1)])
    return "\n".join([*lines, _shortened([_row(row) for row in rows], more)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shortened(lines: list[str], more: str) -> str:
    left = len(lines) - ROWS
    return "\n".join([*lines[:ROWS], more.format(left)] if left > 0 else lines)


def _bold(key: str) -> str:
    return f"**{_cell(key)}**" if key.strip() else ""


def _cell(value: Any) -> str:
    """A value in one line, with what Markdown would take for marks escaped."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _escaped(" ".join(text.split())[:CHARACTERS])


def _quote(text: str) -> str:
    shown = text if len(text) <= CHARACTERS else text[:CHARACTERS] + " …"
    return "\n".join(f"> {_escaped(line)}".rstrip() for line in shown.splitlines() or ["(nothing)"])


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)
