"""What a page asks of a table of runs, and what it gets."""

from __future__ import annotations

from typing import Any

from eventually import until
from sent import Sent

from nbruns.widgets.runs_table.table import RunsTable


def ask(table: RunsTable, sent: Sent, **message: Any) -> list[dict[str, Any]]:
    """What the page gets for a message."""
    sent.clear()
    table._handle_custom_msg(message, [])
    told = [m["data"]["content"] for m in sent.of(table) if m["data"]["method"] == "custom"]
    return [each for each in told if "renamed" not in each]  # which may come at any time


def opened(table: RunsTable, run: str) -> dict[str, str]:
    """The sections of a run that has been opened, by name."""
    until(lambda: table._details.get("id") == run and table._details["state"] != "loading")
    assert table._details["state"] == "ready", table._details
    return dict(table._details["sections"])
