"""Waiting inside a notebook cell without making its widgets deaf.

A cell that waits holds the kernel's main thread, where the messages of widgets are handled: a click on Submit
would be heard when the cell has ended, which waits for the click. Newer front ends send such messages to a
subshell (a thread of the kernel for them), others do not, and ipykernel before 7 has none. So while a cell
waits here, messages for widgets are taken from the kernel's queue and handled; all others (the next cells of
Run All) are put back in their order when the wait is over.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

#: Seconds between two looks at what has come in.
TURN = 0.05


def wait_for(event: threading.Event, timeout: float | None = None) -> bool:
    """Wait until `event` is set, at most `timeout` seconds; tells whether it is. Widgets stay usable."""
    kernel = _kernel()
    if kernel is None or threading.current_thread() is not threading.main_thread():
        return event.wait(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    with _Pump(kernel) as pump:
        while not event.is_set() and (deadline is None or time.monotonic() < deadline):
            pump.turn()
            event.wait(TURN)
    return event.is_set()


def _kernel() -> Any:
    """The IPython kernel that we run in; None in a terminal or a plain Python."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    return kernel if _stream(kernel) is not None else None


def _stream(kernel: Any) -> Any:
    """The ZMQStream by which messages reach the kernel's main thread."""
    thread = getattr(kernel, "shell_channel_thread", None)  # ipykernel 7 and later
    if thread is not None:
        return getattr(getattr(thread.manager, "_shell_channel_to_main", None), "to_stream", None)
    return getattr(kernel, "shell_stream", None)


class _Pump:
    """Takes the kernel's messages for as long as the `with` block lasts."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._stream = _stream(kernel)
        self._callback, self._copy = self._stream._recv_callback, self._stream._recv_copy
        self._others: list[Any] = []

    def __enter__(self) -> Self:
        self._stream.on_recv(self._receive, copy=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        # on_recv() also looks whether more has come in since, which the loop would otherwise not notice.
        self._stream.on_recv(self._callback, copy=self._copy)
        for message in self._others:
            self._stream.io_loop.add_callback(self._callback, message)

    def turn(self) -> None:
        """Handle what has come in."""
        self._stream.flush()

    def _receive(self, message: list[Any]) -> None:
        session = self._kernel.session
        idents, frames = session.feed_identities(message, copy=False)
        if len(message) > 1 and self._is_for_widgets(session.deserialize(frames, content=False, copy=False)):
            self._handle(idents, session.deserialize(frames, content=True, copy=False))
        else:
            self._others.append(message)

    @staticmethod
    def _is_for_widgets(message: dict[str, Any]) -> bool:
        return str(message["header"]["msg_type"]).startswith("comm_")

    def _handle(self, idents: Any, message: dict[str, Any]) -> None:
        """What the kernel does with a message, but at once: and then the waiting cell's output is its own again."""
        kernel = self._kernel
        cell, cell_ident = kernel.get_parent("shell"), kernel._parent_ident["shell"]
        kernel.set_parent(idents, message, channel="shell")
        kernel._publish_status("busy", "shell")
        try:
            kernel.shell_handlers[message["header"]["msg_type"]](self._stream, idents, message)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            kernel._publish_status("idle", "shell")
            kernel.set_parent(cell_ident, cell, channel="shell")
