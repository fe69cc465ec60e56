"""Runs cells in a real IPython kernel of its own and clicks what they show, as a front end would."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

HERE = Path(__file__).parent
SETUP = f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent.parent)!r}]"


class Cells:
    """The front end's side of a kernel."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.messages: list[dict[str, Any]] = []
        self.subshell: str | None = None

    def start(self, code: str) -> str:
        """Start a cell; gives its message's id."""
        return str(self.client.execute(code))

    def run(self, code: str) -> str:
        """Run a cell to its end; gives what it printed, raises what it raised."""
        cell = self.start(code)
        self.until_idle(cell)
        for message in self.of(cell, "error"):
            raise AssertionError("\n".join(message["content"]["traceback"]))
        return self.printed(cell)

    def printed(self, cell: str) -> str:
        """What a cell has printed so far."""
        return "".join(message["content"]["text"] for message in self.of(cell, "stream"))

    def of(self, cell: str, kind: str) -> list[dict[str, Any]]:
        """The messages of one kind that a cell has sent so far."""
        return [
            m for m in self.messages if m["msg_type"] == kind and m["parent_header"].get("msg_id") == cell
        ]

    def until(self, condition: Callable[[], object], what: str, seconds: float = 20) -> None:
        """Read messages until it is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}; {self.messages[-3:]}"
            with contextlib.suppress(Exception):  # queue.Empty: nothing yet
                self.messages.append(self.client.get_iopub_msg(timeout=0.1))

    def until_idle(self, cell: str) -> None:
        """Wait for the end of a cell, or of a widget's message."""
        self.until(
            lambda: any(m["content"]["execution_state"] == "idle" for m in self.of(cell, "status")), "idle"
        )

    def use_subshell(self) -> None:
        """Send widgets' messages to a subshell, as JupyterLab does."""
        self.client.control_channel.send(self.client.session.msg("create_subshell_request"))
        self.subshell = self.client.control_channel.get_msg(timeout=10)["content"]["subshell_id"]

    def set(self, widget: str, **state: Any) -> str:
        """Change a widget's traits, as typing into it does."""
        return self._send(widget, {"method": "update", "state": state, "buffer_paths": []})

    def click(self, widget: str) -> str:
        """Click a button."""
        return self.say(widget, {"event": "click"})

    def say(self, widget: str, content: dict[str, Any]) -> str:
        """Send a widget's own message."""
        return self._send(widget, {"method": "custom", "content": content})

    def _send(self, widget: str, data: dict[str, Any]) -> str:
        message = self.client.session.msg("comm_msg", {"comm_id": widget, "data": data})
        if self.subshell:
            message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])


@contextlib.contextmanager
def kernel() -> Iterator[Cells]:
    """A kernel with this Python, its messages, and nothing of the user's settings."""
    manager = KernelManager()
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, display_name="Python 3", language="python")
    manager.start_kernel()
    cells = None
    try:
        cells = Cells(manager)
        cells.run(SETUP)
        yield cells
    finally:
        if cells is not None:
            cells.client.stop_channels()
        if manager.is_alive():
            manager.shutdown_kernel()  # asked, not killed: what runs at a kernel's end runs here too
