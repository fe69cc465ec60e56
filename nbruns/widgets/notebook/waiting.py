"""Waiting inside a notebook cell without making its widgets deaf.

A cell that waits holds the kernel's main thread, where the messages of widgets are handled: a click on Submit
would be heard when the cell has ended, which waits for the click. Newer front ends send such messages to a
subshell (a thread of the kernel for them), others do not, and ipykernel before 7 has none. So while a cell
waits here, messages for widgets are taken from the kernel's queue and handled, and the questions of a page that
is opened anew; all others (the next cells of Run All) are put back in their order when the wait is over.
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

#: Seconds between two looks at what has come in.
TURN = 0.05
#: What is handled meanwhile: all that widgets say, and what a page asks first that is opened anew.
NEEDED = ("comm_", "kernel_info_request")
#: What is used of ipykernel's kernel and of its stream. Some of it is private, so it is checked before it is used.
KERNEL = ("session", "set_parent", "get_parent", "_parent_ident", "_publish_status", "shell_handlers")
STREAM = ("on_recv", "flush", "io_loop", "_recv_callback", "_recv_copy")


def wait_for(event: threading.Event, timeout: float | None = None) -> bool:
    """Wait until `event` is set, at most `timeout` seconds; tells whether it is. Widgets stay usable."""
    with usable_widgets() as pump:
        if pump is None:
            return event.wait(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not event.is_set() and (deadline is None or time.monotonic() < deadline):
            pump.turn()
            event.wait(TURN)
    return event.is_set()


@contextlib.contextmanager
def usable_widgets() -> Iterator[_Pump | None]:
    """Widgets are usable in this block, also one that awaits. None where there is no kernel to take them from."""
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


#: The one that pumps, while somebody waits; only the main thread has a hand on it.
_pump: _Pump | None = None


def _kernel() -> Any:
    """The IPython kernel that we run in; None in a terminal or a plain Python."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    return kernel if kernel is not None and _is_known(kernel) else None


@cache
def _is_known(kernel: Any) -> bool:
    """Whether the kernel is one that this module can take messages from. Warns once if it is not."""
    if "ipykernel" not in sys.modules:
        return False  # a kernel of another kind
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
    """The ZMQStream by which messages reach the kernel's main thread."""
    thread = getattr(kernel, "shell_channel_thread", None)  # ipykernel 7 and later
    if thread is not None:
        return getattr(getattr(thread.manager, "_shell_channel_to_main", None), "to_stream", None)
    return getattr(kernel, "shell_stream", None)


def _replies(kernel: Any) -> Any:
    """Where the kernel's main thread puts its replies."""
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is not None:
        return thread.manager.get_subshell_to_shell_channel_socket(None)
    return kernel.shell_stream


class _Pump:
    """Takes the kernel's messages for as long as somebody waits: views that are awaited together share it."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._stream = _stream(kernel)
        self._callback, self._copy = self._stream._recv_callback, self._stream._recv_copy
        self._others: list[Any] = []
        self._users = 0
        self._cell = kernel._parent_ident["shell"], kernel.get_parent("shell")

    def start(self) -> None:
        """One more waits."""
        self._users += 1
        if self._users == 1:
            self._stream.on_recv(self._receive, copy=False)
            for message in _read_ahead(self._kernel, self._is_needed):
                self._receive(message)

    def stop(self) -> bool:
        """One less waits; tells whether nobody does."""
        self._users -= 1
        if self._users == 0:
            self._back_to_the_cell()  # an interrupt may have come while a message was handled
            # on_recv() also looks whether more has come in since, which the loop would otherwise not notice.
            self._stream.on_recv(self._callback, copy=self._copy)
            for message in self._others:
                self._stream.io_loop.add_callback(self._callback, message)
        return self._users == 0

    def turn(self) -> None:
        """Handle what has come in."""
        self._stream.flush()

    def _receive(self, message: list[Any]) -> None:
        if self._is_needed(message):
            self._handle(message)
        else:
            self._others.append(message)

    def _is_needed(self, frames: list[Any]) -> bool:
        if len(frames) < 2:  # the kernel's word to itself that cells may run again
            return False
        session = self._kernel.session
        _, (_signature, header, *_) = session.feed_identities(frames, copy=False)
        return str(session.unpack(header.bytes)["msg_type"]).startswith(NEEDED)

    def _handle(self, frames: list[Any]) -> None:
        """What the kernel does with a message, but at once; then the waiting cell's output is its own again."""
        kernel = self._kernel
        idents, frames = kernel.session.feed_identities(frames, copy=False)
        message = kernel.session.deserialize(frames, content=True, copy=False)
        kernel.set_parent(idents, message, channel="shell")
        kernel._publish_status("busy", "shell")
        try:
            handled = kernel.shell_handlers[message["header"]["msg_type"]](_replies(kernel), idents, message)
            if inspect.iscoroutine(handled):  # that of kernel_info_request, which waits for nothing
                with contextlib.suppress(StopIteration):
                    handled.send(None)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            kernel._publish_status("idle", "shell", parent=message)
            self._back_to_the_cell()

    def _back_to_the_cell(self) -> None:
        """What is printed and displayed from now on belongs to the cell that waits."""
        self._kernel.set_parent(*self._cell, channel="shell")


def _read_ahead(kernel: Any, wanted: Callable[[list[Any]], bool]) -> list[list[Any]]:
    """The wanted messages that the kernel has read already, but would handle only after the cell that waits:
    taken from it."""
    if hasattr(kernel, "msg_queue"):
        return _queued(kernel.msg_queue, wanted)
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    in_order = sorted(tasks, key=lambda task: (len(task.get_name()), task.get_name()))  # Task-9, Task-10
    found = filter(None, map(_frames_of, in_order))
    return [_taken(frames) for frames in found if wanted(frames)]


def _queued(messages: Any, wanted: Callable[[list[Any]], bool]) -> list[list[Any]]:
    """Before ipykernel 7: they are in a queue, as (number, handler, arguments)."""
    entries = [messages.get_nowait() for _ in range(messages.qsize())]
    is_wanted = [bool(arguments) and wanted(arguments[-1]) for _, _, arguments in entries]
    for entry, taken in zip(entries, is_wanted, strict=True):
        if not taken:
            messages.put_nowait(entry)
    return [entry[2][-1] for entry, taken in zip(entries, is_wanted, strict=True) if taken]


def _frames_of(task: asyncio.Task[Any]) -> list[Any] | None:
    """Since ipykernel 7: each is an argument of a task, in the order in which they came, that waits for its turn."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    if frame is None or frame.f_code.co_name != "run_in_context":
        return None
    frames = (frame.f_locals.get("args") or (None,))[-1]
    return frames if isinstance(frames, list) and not _is_handled(frame.f_locals.get("coro")) else None


def _is_handled(shell_main: Any) -> bool:
    """Whether the kernel is at it: shell_main() has ended, or its own task for the message has begun."""
    if shell_main is None:
        return False
    if shell_main.cr_frame is None:
        return True
    task = shell_main.cr_frame.f_locals.get("comm_task")
    return task is not None and inspect.getcoroutinestate(task.get_coro()) != inspect.CORO_CREATED


def _taken(frames: list[Any]) -> list[Any]:
    """A copy of the frames; their task is left with a message that the kernel skips."""
    copied = list(frames)
    frames[:] = [type(frames[0])(b"stop aborting")]
    return copied
