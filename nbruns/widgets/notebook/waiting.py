"""Block in a notebook cell while its widgets stay responsive.

A blocked cell occupies the kernel's main thread, which also handles widget messages: a click on Submit would be
handled only after the cell ends, and the cell waits for the click. Newer front ends send widget messages to a subshell
(a separate kernel thread), but others do not, and ipykernel before 7 has no subshells. So while a cell blocks here,
widget messages and the first requests of a reloaded page are taken from the kernel's queue and handled. All other
messages (such as the next cells of Run All) are put back in order afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType
from typing import Any

#: Interval in seconds for checking incoming messages.
POLL_INTERVAL = 0.05
#: Message types to handle while blocked: widget messages, and the first request of a reloaded page.
HANDLED_TYPES = ("comm_", "kernel_info_request")
#: Attributes of ipykernel's kernel and stream that are used here. Some are private, so they are checked before use.
KERNEL = ("session", "set_parent", "get_parent", "_parent_ident", "_publish_status", "shell_handlers")
STREAM = ("on_recv", "flush", "io_loop", "_recv_callback", "_recv_copy")


def wait_for(event: threading.Event, timeout: float | None = None) -> bool:
    """Wait up to `timeout` seconds for `event`; return whether it is set. Widgets stay responsive."""
    with usable_widgets() as pump:
        if pump is None:
            return event.wait(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not event.is_set() and (deadline is None or time.monotonic() < deadline):
            pump.turn()
            event.wait(POLL_INTERVAL)
    return event.is_set()


@contextlib.contextmanager
def usable_widgets() -> Iterator[_Pump | None]:
    """Keep widgets responsive in this block, which may also await. Yields None if there is no kernel."""
    global _pump
    kernel = _kernel()
    if kernel is None or threading.current_thread() is not threading.main_thread():
        yield None
        return
    _pump = _pump or _Pump(kernel)
    _pump.start()
    try:
        yield _pump
    finally:
        if _pump.stop():
            _pump = None


#: The active pump, if a cell is waiting. Used only by the main thread.
_pump: _Pump | None = None


def _kernel() -> Any:
    """Return the current IPython kernel; None in a terminal or plain Python."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    return kernel if kernel is not None and _is_known(kernel) else None


@cache
def _is_known(kernel: Any) -> bool:
    """Whether this module can take messages from the kernel. Warns once if an ipykernel version is not supported."""
    if "ipykernel" not in sys.modules:
        return False  # not an ipykernel
    stream = _stream(kernel)
    missing = [f"kernel.{name}" for name in KERNEL if not hasattr(kernel, name)]
    missing += [f"stream.{name}" for name in STREAM if not hasattr(stream, name)]
    if not hasattr(kernel, "msg_queue"):  # ipykernel 7 and later: see _frames_of
        in_context = getattr(sys.modules.get("ipykernel.utils"), "_async_in_context", None)
        nested = (
            [code for code in _code(in_context).co_consts if isinstance(code, CodeType)] if in_context else []
        )
        if not any(code.co_name == "run_in_context" and {"args", "coro"} <= _locals(code) for code in nested):
            missing.append("run_in_context")
        if "comm_task" not in _locals(_code(getattr(kernel, "shell_main", None))):
            missing.append("shell_main.comm_task")
    if missing:
        version = getattr(sys.modules["ipykernel"], "__version__", "")
        warnings.warn(
            f"nbruns doesn't know ipykernel {version} (missing: {', '.join(missing)}). Forms and buttons don't respond "
            "while a cell waits for a run: end the cell without wait(), or install an earlier ipykernel.",
            RuntimeWarning,
            stacklevel=2,
        )
    return not missing


def _code(function: Any) -> CodeType:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else (lambda: None).__code__


def _locals(code: CodeType) -> set[str]:
    return {*code.co_varnames, *code.co_cellvars, *code.co_freevars}


def _stream(kernel: Any) -> Any:
    """Return the ZMQStream that delivers messages to the kernel's main thread."""
    thread = getattr(kernel, "shell_channel_thread", None)  # ipykernel 7 and later
    if thread is not None:
        return getattr(getattr(thread.manager, "_shell_channel_to_main", None), "to_stream", None)
    return getattr(kernel, "shell_stream", None)


def _replies(kernel: Any) -> Any:
    """Return the socket or stream for replies of the kernel's main thread."""
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is not None:
        return thread.manager.get_subshell_to_shell_channel_socket(None)
    return kernel.shell_stream


class _Pump:
    """Handles the kernel's messages while a cell waits. Views awaited at the same time share one pump."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._stream = _stream(kernel)
        self._callback, self._copy = self._stream._recv_callback, self._stream._recv_copy
        self._others: list[Any] = []
        self._users = 0
        self._cell = kernel._parent_ident["shell"], kernel.get_parent("shell")

    def start(self) -> None:
        """Add a waiter."""
        self._users += 1
        if self._users == 1:
            self._stream.on_recv(self._receive, copy=False)
            for message in _read_ahead(self._kernel, self._is_needed):
                self._receive(message)

    def stop(self) -> bool:
        """Remove a waiter; return whether none is left."""
        self._users -= 1
        if self._users == 0:
            self._restore_parent()  # an interrupt may have occurred while handling a message
            # on_recv() also checks for messages received meanwhile, which the event loop would otherwise miss.
            self._stream.on_recv(self._callback, copy=self._copy)
            for message in self._others:
                self._stream.io_loop.add_callback(self._callback, message)
        return self._users == 0

    def turn(self) -> None:
        """Handle received messages."""
        self._stream.flush()

    def _receive(self, message: list[Any]) -> None:
        if self._is_needed(message):
            self._handle(message)
        else:
            self._others.append(message)

    def _is_needed(self, frames: list[Any]) -> bool:
        if len(frames) < 2:  # an internal message of the kernel that cells can run again
            return False
        session = self._kernel.session
        _, (_signature, header, *_) = session.feed_identities(frames, copy=False)
        return str(session.unpack(header.bytes)["msg_type"]).startswith(HANDLED_TYPES)

    def _handle(self, frames: list[Any]) -> None:
        """Handle a message immediately, as the kernel would, then direct output to the waiting cell again."""
        kernel = self._kernel
        idents, frames = kernel.session.feed_identities(frames, copy=False)
        message = kernel.session.deserialize(frames, content=True, copy=False)
        kernel.set_parent(idents, message, channel="shell")
        kernel._publish_status("busy", "shell")
        try:
            handled = kernel.shell_handlers[message["header"]["msg_type"]](_replies(kernel), idents, message)
            if inspect.iscoroutine(handled):  # from kernel_info_request, which never suspends
                with contextlib.suppress(StopIteration):
                    handled.send(None)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            kernel._publish_status("idle", "shell", parent=message)
            self._restore_parent()

    def _restore_parent(self) -> None:
        """Direct output to the waiting cell again."""
        self._kernel.set_parent(*self._cell, channel="shell")


def _read_ahead(kernel: Any, wanted: Callable[[list[Any]], bool]) -> list[list[Any]]:
    """Remove and return the wanted messages that the kernel has already read but not yet handled."""
    if hasattr(kernel, "msg_queue"):
        return _queued(kernel.msg_queue, wanted)
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    in_order = sorted(tasks, key=lambda task: (len(task.get_name()), task.get_name()))  # Task-9, Task-10
    found = filter(None, map(_frames_of, in_order))
    return [_taken(frames) for frames in found if wanted(frames)]


def _queued(messages: Any, wanted: Callable[[list[Any]], bool]) -> list[list[Any]]:
    """Remove and return messages before ipykernel 7: they are in a queue, as (number, handler, arguments)."""
    entries = [messages.get_nowait() for _ in range(messages.qsize())]
    is_wanted = [bool(arguments) and wanted(arguments[-1]) for _, _, arguments in entries]
    for entry, taken in zip(entries, is_wanted, strict=True):
        if not taken:
            messages.put_nowait(entry)
    return [entry[2][-1] for entry, taken in zip(entries, is_wanted, strict=True) if taken]


def _frames_of(task: asyncio.Task[Any]) -> list[Any] | None:
    """Return the message of a task. Since ipykernel 7, each message is an argument of a pending task."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    if frame is None or frame.f_code.co_name != "run_in_context":
        return None
    frames = (frame.f_locals.get("args") or (None,))[-1]
    return frames if isinstance(frames, list) and not _is_handled(frame.f_locals.get("coro")) else None


def _is_handled(shell_main: Any) -> bool:
    """Whether handling has started: shell_main() has ended, or its task for the message has begun."""
    if shell_main is None:
        return False
    if shell_main.cr_frame is None:
        return True
    task = shell_main.cr_frame.f_locals.get("comm_task")
    return task is not None and inspect.getcoroutinestate(task.get_coro()) != inspect.CORO_CREATED


def _taken(frames: list[Any]) -> list[Any]:
    """Return a copy of the frames, and replace the task's message with one that the kernel skips."""
    copied = list(frames)
    frames[:] = [type(frames[0])(b"stop aborting")]
    return copied
