"""Call a function with a timeout, await async ones, and describe what it raises."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from nbruns.errors import ToolError
from nbruns.text import excerpt

T = TypeVar("T")

#: Seconds that an async function has for cleanup after it is cancelled.
GRACE = 0.5
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def call_in_time(call: Callable[[], Any], then: Callable[[Any], T], timeout: float | None) -> T:
    """Return `then` of the result of `call`, awaited if necessary. Raises ToolError after `timeout` seconds.

    Without a timeout, a plain function runs in the caller's thread. An async function always runs on an event loop
    in a separate thread, because the running cell occupies the kernel's loop.
    """
    if timeout is not None:
        return _in_thread(lambda: then(_completed(call(), timeout)), timeout)
    result = call()
    return then(_in_thread(lambda: _completed(result, None)) if inspect.isawaitable(result) else result)


def _completed(result: Any, timeout: float | None) -> Any:
    return asyncio.run(_awaited(result, timeout)) if inspect.isawaitable(result) else result


async def _awaited(result: Any, timeout: float | None) -> Any:
    try:
        async with asyncio.timeout(timeout) as limit:
            return await result
    except TimeoutError:
        if not limit.expired():  # the function itself raised it
            raise
    raise ToolError(f"it took longer than {timeout:g} s and was cancelled.")


def _in_thread(call: Callable[[], T], timeout: float | None = None) -> T:
    """Run the call in a thread that the interpreter doesn't wait for at exit."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # the caller raises it
            future.set_exception(error)

    context = contextvars.copy_context()  # so that prints of the function appear in the same cell
    thread = threading.Thread(target=context.run, args=(run,), name="nbruns-tool", daemon=True)
    thread.start()
    thread.join(None if timeout is None else timeout + GRACE)
    if not future.done():
        raise ToolError(
            f"it took longer than {timeout:g} s. Python can't stop it: it may still be running, "
            "but its result will be ignored."
        )
    return future.result()


def raised_words(error: BaseException) -> str:
    """Return an exception as text for the model. The text is sent to a server, so it contains no traceback, no
    passwords of URLs, and ~ instead of the home folder. Otherwise the message is unchanged."""
    parts = [f"{type(error).__name__}: {_private(error)}" if str(error) else type(error).__name__]
    parts += [raised_words(inner) for inner in getattr(error, "exceptions", ())[:3]]
    return excerpt(" | ".join(parts), 500)


def _private(error: BaseException) -> str:
    home = str(Path.home())
    text = str(error).replace(home, "~") if len(home) > 1 else str(error)
    return _PASSWORD.sub("…", text)
