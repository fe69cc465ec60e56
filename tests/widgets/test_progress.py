"""The progress bar of a long list, in a kernel: there while it takes, and nothing of a widget is left of it."""

from __future__ import annotations

from kernel_cells import kernel

WIDGET = "application/vnd.jupyter.widget-view+json"
LIST = """
import time
from nbruns import Client
from nbruns.client import concurrent
concurrent.QUIET = 0
client = Client("http://127.0.0.1:9/v1")
print(concurrent.fetch_all(client, lambda _, item: time.sleep(0.2) or item, range(20), "run"))
"""


def test_a_progress_bar_is_gone_when_the_list_is_there() -> None:
    with kernel() as cells:
        cell = cells.start(LIST)
        cells.until_idle(cell)
        assert cells.printed(cell).strip() == str(list(range(20)))
        (shown,) = cells.of(cell, "display_data")
        (last,) = cells.of(cell, "update_display_data")
    assert WIDGET in shown["content"]["data"]
    assert last["content"]["data"] == {}
    assert last["content"]["transient"] == shown["content"]["transient"]
