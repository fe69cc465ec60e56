"""Sessions of code_interpreter: a kernel with files for each thread and assistant, ended after a time without calls."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nbruns.server.interpreter import kernels, sandbox
from nbruns.server.interpreter.kernels import (
    GatewayKernel,
    Kernel,
    KernelEnded,
    KernelUnavailable,
    LocalKernel,
)
from nbruns.text import JSON, excerpt, parse_json

#: Maximum number of seconds for a cell, and for it to stop after an interrupt.
CELL_SECONDS, STOP_SECONDS = 120.0, 5.0
#: Seconds after its last call after which a session is ended.
IDLE_SECONDS = 20 * 60.0
#: Maximum number of sessions. If there are more, the one that has been idle longest is ended.
MAX_SESSIONS = 20
#: Maximum number of characters of a cell's text that are kept.
MAX_TEXT = 1_000_000
#: Maximum number of messages and bytes that a cell can send, including images. Ordinary code stays far below.
MAX_MESSAGES, MAX_SENT = 20_000, 64 << 20
#: Maximum number of a cell's images and written files that are kept, and of bytes of an image, a file, and all files.
MAX_IMAGES, MAX_FILES = 20, 20
MAX_IMAGE, MAX_FILE, MAX_ALL_FILES = 20 << 20, 128 << 20, 256 << 20
#: Number of bytes of a file in one message.
_PIECE = 3 << 20
#: Maximum number of seconds for a kernel to respond to requests about its files.
_ANSWER_SECONDS = 60.0
#: Maximum number of seconds that outputs can arrive after the end of their cell.
_LATE_SECONDS = 2.0
_INSIDE = Path(__file__).with_name("inside.py")
_ANSI = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")

#: A thread and an assistant.
Key = tuple[str, str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Image:
    """An image that a cell displays."""

    type: str
    data: bytes


@dataclass(frozen=True)
class Input:
    """A file to provide in a session. `path` is relative to its folder. The file is also available under its id."""

    id: str
    path: str
    read: Callable[[], AsyncIterator[bytes]]


_Files = tuple[Sequence[Input], Sequence[Input]]


@dataclass(frozen=True)
class Written:
    """A file that a cell wrote or changed. `path` is its absolute path in the session."""

    path: str
    size: int
    content: IO[bytes]


@dataclass
class Execution:
    """The result of a cell: texts and images in order, written files, and notes for the model."""

    #: Whether this is the first cell of the session, so that variables of earlier cells don't exist.
    is_new: bool
    outputs: list[str | Image] = field(default_factory=list)
    files: list[Written] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Interpreter:
    """The sessions of a server. It belongs to the event loop that first uses it.

    Args:
        mode: `bwrap`, `unsandboxed`, or the URL of a Jupyter server or kernel gateway.
        cell_seconds: Maximum number of seconds for a cell.
        idle_seconds: Seconds after which an idle session is ended.
        max_sessions: Maximum number of sessions.
    """

    def __init__(
        self,
        mode: str,
        *,
        cell_seconds: float = CELL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self.mode, self.cell_seconds, self.idle_seconds = mode, cell_seconds, idle_seconds
        self.max_sessions = max_sessions
        self._slots: dict[Key, _Slot] = {}
        self._executing = asyncio.Semaphore(max_sessions)
        self._spare: asyncio.Task[_Session] | None = None
        self._warmed_at = 0.0
        self._context: object = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    def warm(self, key: Key | None = None) -> None:
        """Start a kernel for a session in advance, while the model is still writing."""
        self._warmed_at = time.monotonic()
        if key not in self._slots and self._spare is None and len(self._slots) < self.max_sessions:
            self._spare = asyncio.create_task(self._started())
            self._spare.add_done_callback(lambda task: task.cancelled() or task.exception())
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())

    async def execute(
        self, key: Key, code: str, inputs: Sequence[Input] = (), again: Sequence[Input] = ()
    ) -> Execution:
        """Execute a cell in the session of a thread and assistant, with the files `inputs`. A new session also gets the
        files `again`, which an earlier session wrote.

        Errors are in the notes. Cancelling stops the cell. If the cell stops in time, the session is kept.
        """
        stop = asyncio.Event()
        work = asyncio.create_task(self._execute(key, code, (inputs, again), stop))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        work.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            raise

    async def end_thread(self, thread_id: str) -> None:
        """End the sessions of a deleted thread."""
        for key in [key for key in self._slots if key[0] == thread_id]:
            await self._end(key)

    async def close(self) -> None:
        """End all kernels."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end_spare()
        await asyncio.gather(*(self._end(key) for key in [*self._slots]))

    async def _execute(self, key: Key, code: str, files: _Files, stop: asyncio.Event) -> Execution:
        async with self._executing:
            slot = self._slots.setdefault(key, _Slot())
            slot.users += 1
            try:
                await self._make_room()
                async with slot.lock:
                    return await self._execute_in(slot, code, files, stop)
            finally:
                slot.users, slot.last_used = slot.users - 1, time.monotonic()
                if slot.session is None and not slot.users and self._slots.get(key) is slot:
                    del self._slots[key]

    async def _execute_in(self, slot: _Slot, code: str, files: _Files, stop: asyncio.Event) -> Execution:
        session = slot.session
        is_new = session is None or not await session.is_alive()
        if session is None or is_new:
            try:
                session = slot.session = await self._taken()
            except KernelUnavailable as error:
                return Execution(False, notes=[str(error)])
        done = Execution(is_new)
        try:
            inputs, again = files
            await session.bring(inputs, again if is_new else (), done)
            await session.run(code, self.cell_seconds, stop, done)
            await session.collect(done)
        except BaseException as error:
            slot.session = None
            await session.kernel.close()
            if not isinstance(error, KernelEnded):
                raise
            done.notes.append(f"{error} Its variables are lost. The next call starts a new process.")
        return done

    async def _make_room(self) -> None:
        """End the longest idle session if there are too many. At least one is idle, because the number of executing
        sessions is limited to the same maximum.
        """
        while len(self._slots) > self.max_sessions:
            idle = [key for key, slot in self._slots.items() if not slot.users]
            await self._end(min(idle, key=lambda key: self._slots[key].last_used))

    async def _taken(self) -> _Session:
        """Return a session with a kernel: the spare one, or a new one."""
        spare, self._spare = self._spare, None
        session = None
        if spare is not None:
            try:
                session = await spare
            except KernelUnavailable:
                pass  # retry below
        if session is None or not await session.is_alive():
            session = await self._started()
        self.warm()
        return session

    async def _started(self) -> _Session:
        if self._context is None and self.mode in ("bwrap", "unsandboxed"):
            self._context = kernels.new_context()
        kernel: Kernel
        if self.mode in ("bwrap", "unsandboxed"):
            kernel = await LocalKernel.start(self._context, is_sandboxed=self.mode == "bwrap")
        else:
            kernel = await GatewayKernel.start(self.mode)
        session = _Session(kernel)
        try:
            await session.begin()
        except KernelEnded as error:
            await kernel.close()
            raise KernelUnavailable(f"Python could not be started: {error}") from None
        except BaseException:
            await kernel.close()
            raise
        return session

    async def _end(self, key: Key) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None and slot.session is not None:
            await slot.session.end()

    async def _end_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.cancel()
            [session] = await asyncio.gather(spare, return_exceptions=True)
            if isinstance(session, _Session):
                await session.end()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(10.0, self.idle_seconds / 4))
            try:
                await self._end_idle()
            except Exception:
                log.exception("Idle sessions of code_interpreter could not be ended; trying again.")

    async def _end_idle(self) -> None:
        since = time.monotonic() - self.idle_seconds
        for key in [key for key, slot in self._slots.items() if not slot.users and slot.last_used < since]:
            await self._end(key)
        if self._spare is not None and not self._slots and self._warmed_at < since:
            await self._end_spare()


class _Slot:
    """The place of a session, which executes one call at a time. It can have several kernels in succession."""

    def __init__(self) -> None:
        self.session: _Session | None = None
        self.lock = asyncio.Lock()
        #: Number of calls that are executing or waiting.
        self.users = 0
        self.last_used = time.monotonic()


class _Session:
    """A kernel and the state of its files."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._folder = sandbox.DATA
        #: Paths of the files that were copied into the session, by id.
        self._brought: dict[str, str] = {}

    async def begin(self) -> None:
        """Prepare the kernel. Raises KernelEnded."""
        source = _INSIDE.read_text(encoding="utf-8")
        await self._ask(f"exec({source!r}, {{'__name__': '_nbruns'}})")
        folder = await self._ask(f"__import__('_nbruns').start({self.kernel.data!r}, {MAX_TEXT + 1})")
        self._folder = folder.decode(errors="replace") or sandbox.DATA

    async def is_alive(self) -> bool:
        """Whether the kernel still responds. If not, it is ended."""
        try:
            await self._ask("''")
        except KernelEnded:
            await self.kernel.close()
            return False
        except _Failed:
            pass
        return True

    async def end(self) -> None:
        """End the kernel, and remove a folder that was created for it."""
        if not self.kernel.data:
            try:
                async with asyncio.timeout(2):
                    await self._ask("__import__('_nbruns').remove()")
            except (KernelEnded, TimeoutError):
                pass
        await self.kernel.close()

    async def bring(self, inputs: Sequence[Input], again: Sequence[Input], done: Execution) -> None:
        """Copy missing files into the session, also under their ids, then files that an earlier session wrote."""
        new = [each for each in inputs if each.id not in self._brought]
        for each in new:
            path = each.path if each.path not in self._brought.values() else f"{each.id}-{each.path}"
            self._brought[each.id] = path
            await self._put(each, path, done)
            if path != each.id:
                await self._ask(f"__import__('_nbruns').link({each.id!r}, {path!r})")
        for each in again:
            await self._put(each, each.path, done)
        if new or again:
            await self._changed()

    async def _put(self, file: Input, path: str, done: Execution) -> None:
        try:
            begins = True
            async for piece in _pieces(file.read()):
                text = base64.b64encode(piece).decode()
                await self._ask(f"__import__('_nbruns').put({path!r}, '{text}', {begins})")
                begins = False
        except (_Failed, FileNotFoundError) as error:
            done.notes.append(f"The file {excerpt(path)} is not available: {excerpt(error)}")

    async def run(self, code: str, seconds: float, stop: asyncio.Event, done: Execution) -> None:
        """Execute a cell. It is interrupted after `seconds`, or when `stop` is set."""
        collected = _Outputs(done, self._shown)
        if self._folder != sandbox.DATA:
            code = code.replace(sandbox.DATA, self._folder)
        cell = asyncio.create_task(_request(self.kernel, code, {}, collected.take))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([cell, stopping], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not cell.done():
                await self.kernel.interrupt()
                await asyncio.wait([cell], timeout=STOP_SECONDS)
                late = f"The code ran for over {seconds:g} s and was interrupted."
                if not cell.done():
                    raise KernelEnded(f"{late} It didn't stop, and so was ended.")
                done.notes.append(late)
            await cell
        except _Flood:
            raise KernelEnded(f"The code sent over {MAX_SENT >> 20} MiB of output and was ended.") from None
        finally:
            stopping.cancel()
            cell.cancel()
            await asyncio.gather(cell, stopping, return_exceptions=True)
            collected.close()

    async def collect(self, done: Execution) -> None:
        """Read the files that the cell wrote."""
        try:
            found = await self._changed()
            left = MAX_ALL_FILES
            for name, size in found[:MAX_FILES]:
                path = f"{sandbox.DATA}/{name}"
                if size > min(MAX_FILE, left):
                    done.notes.append(f"{excerpt(path)} is too large to be kept: it has {size:,} bytes.")
                    continue
                content = await self._content(name, size)
                done.files.append(Written(path, size, content))
                left -= size
            if len(found) > MAX_FILES:
                done.notes.append(f"Of {len(found):,} new files, {MAX_FILES} are kept.")
        except _Failed as error:
            done.notes.append(f"The files in {sandbox.DATA} could not be read: {excerpt(error)}")

    async def _content(self, name: str, size: int) -> IO[bytes]:
        content: IO[bytes] = tempfile.SpooledTemporaryFile(1 << 20)  # noqa: SIM115  # closed when it is stored
        try:
            for at in range(0, size, _PIECE):
                content.write(
                    await self._ask(f"__import__('_nbruns').get({name!r}, {at}, {min(_PIECE, size - at)})")
                )
        except BaseException:
            content.close()
            raise
        content.seek(0)
        return content

    async def _changed(self) -> list[tuple[str, int]]:
        """Return the names and sizes of new and changed files."""
        try:
            found = parse_json(await self._ask("__import__('_nbruns').changed()"))
        except ValueError as error:
            raise _Failed(f"the list can't be read ({error})") from None
        entries = found.items() if isinstance(found, dict) else ()
        return [
            (name, size)
            for name, size in entries
            if isinstance(size, int)
            and size >= 0
            and not Path(name).is_absolute()
            and ".." not in Path(name).parts
        ]

    async def _ask(self, expression: str) -> bytes:
        """Evaluate an expression in the kernel, and decode its base64 result. Raises _Failed, KernelEnded."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reply = await _request(self.kernel, "", {"it": expression}, lambda type, content: 0)
        except TimeoutError:
            raise KernelEnded("The Python process didn't answer and was ended.") from None
        except _Flood:
            raise KernelEnded("The Python process sent too much and was ended.") from None
        try:
            answer = reply["user_expressions"]["it"]
            if answer["status"] != "ok":
                raise _Failed(f"{answer['ename']}: {answer['evalue']}")
            text = answer["data"].get("text/plain", "None")
            return b"" if text == "None" else base64.b64decode(text[1:-1], validate=True)
        except (KeyError, TypeError, AttributeError, binascii.Error, ValueError) as error:
            raise _Failed(f"no answer that can be read ({type(error).__name__})") from None

    def _shown(self, text: str) -> str:
        return text if self._folder == sandbox.DATA else text.replace(self._folder, sandbox.DATA)


class _Failed(Exception):
    """A request to a kernel failed. The message says why."""


class _Flood(Exception):
    """A cell sent more than the limit."""


async def _request(
    kernel: Kernel, code: str, expressions: dict[str, str], on_output: Callable[[str, JSON], int]
) -> JSON:
    """Execute code, and return the reply. `on_output` is called with the outputs, and returns their size in bytes."""
    content = {
        "code": code,
        "silent": bool(expressions),
        "store_history": not expressions,
        "user_expressions": expressions,
        "allow_stdin": False,
        "stop_on_error": True,
    }
    id = await kernel.send("shell", "execute_request", content)
    reply: JSON | None = None
    messages = sent = 0
    while True:
        try:
            # Outputs can arrive after the reply. If the kernel had to drop messages, their end may be missing.
            async with asyncio.timeout(None if reply is None else _LATE_SECONDS):
                message = await kernel.receive()
        except TimeoutError:
            if reply is None:
                raise
            return reply
        messages += 1
        if message["parent_header"].get("msg_id") == id:
            type, content = message["header"].get("msg_type"), message["content"]
            if message["channel"] == "shell":
                reply = content
            elif type == "status" and content.get("execution_state") == "idle":
                if reply is not None:
                    return reply
                reply = await _reply(kernel, id)
                return reply
            elif isinstance(type, str):
                sent += on_output(type, content)
        if messages > MAX_MESSAGES or sent > MAX_SENT:
            raise _Flood


async def _reply(kernel: Kernel, id: str) -> JSON:
    """Return the reply to a request after its outputs have arrived."""
    while True:
        message = await kernel.receive()
        if message["channel"] == "shell" and message["parent_header"].get("msg_id") == id:
            content: JSON = message["content"]
            return content


class _Outputs:
    """Collects the outputs of a cell, within limits."""

    def __init__(self, done: Execution, shown: Callable[[str], str]) -> None:
        self._done, self._shown = done, shown
        self._text: list[str] = []
        self._length = self._images = 0
        self._is_cut = False

    def take(self, type: str, content: JSON) -> int:
        """Add an output, and return its size in bytes."""
        data = content.get("data")
        if type == "stream":
            return self._add_text(content.get("text"))
        if type == "error":
            lines = content.get("traceback")
            if not isinstance(lines, list) or not lines:
                lines = [f"{content.get('ename')}: {content.get('evalue')}"]
            return self._add_text("\n".join(map(str, lines)) + "\n")
        if type == "clear_output":
            self._text.clear()
            self._done.outputs.clear()
        elif type in ("display_data", "execute_result") and isinstance(data, dict):
            for kind in ("image/png", "image/jpeg"):
                if isinstance(data.get(kind), str):
                    return self._add_image(kind, data[kind])
            text = data.get("text/plain")
            return self._add_text(f"{text}\n" if isinstance(text, str) else "")
        return 1_000

    def close(self) -> None:
        """Complete the last text."""
        if self._text:
            self._done.outputs.append(self._shown(_ANSI.sub("", "".join(self._text))))
            self._text = []
        if self._is_cut:
            self._done.notes.append(f"The output was cut off after {MAX_TEXT:,} characters.")
            self._is_cut = False

    def _add_text(self, text: object) -> int:
        if not isinstance(text, str):
            return 1_000
        kept = text[: max(0, MAX_TEXT - self._length)]
        self._is_cut |= len(kept) < len(text)
        self._length += len(kept)
        if kept:
            self._text.append(kept)
        return len(text) + 1_000

    def _add_image(self, kind: str, text: str) -> int:
        self._images += 1
        try:
            image = base64.b64decode(text)
        except ValueError:
            image = b""
        if self._images > MAX_IMAGES or not image or len(image) > MAX_IMAGE:
            note = f"Only {MAX_IMAGES} images of at most {MAX_IMAGE >> 20} MiB are kept."
            if note not in self._done.notes:
                self._done.notes.append(note)
        else:
            if self._text:
                self._done.outputs.append(self._shown(_ANSI.sub("", "".join(self._text))))
                self._text = []
            self._done.outputs.append(Image(kind, image))
        return len(text)


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the bytes of a file in pieces that fit into a message. Yields at least one piece, also for empty files."""
    kept, is_empty = bytearray(), True
    async for more in stream:
        kept += more
        while len(kept) >= _PIECE:
            yield bytes(kept[:_PIECE])
            del kept[:_PIECE]
            is_empty = False
    if kept or is_empty:
        yield bytes(kept)
