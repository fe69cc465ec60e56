"""One answer of a language model that runs in a thread, read piece by piece in the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing

from nbruns.server.models.protocol import FinishReason, ModelError
from nbruns.text import JSON

Chunk = JSON
Messages = list[JSON]
#: Starts a request in a thread; the function it is given takes the chunks, and returns True to stop it.
Start = Callable[[JSON, Callable[[Chunk], bool]], "Future[None]"]


class _TooLong(Exception):
    """The messages do not fit into the context."""


class Generation:
    """Pieces of an answer as they arrive; then why it ended, and its usage."""

    def __init__(
        self,
        start: Start,
        request: JSON,
        messages: Messages,
        shorter: Callable[[Messages], Messages],
    ) -> None:
        self.reason: FinishReason = "stop"
        self.prompt_tokens = self.completion_tokens = 0
        self._start, self._request, self._messages, self._shorter = start, request, messages, shorter

    async def text(self) -> str:
        """The whole answer."""
        return "".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncGenerator[str]:
        """Yield the text as it comes."""
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                if piece := self._read(chunk):
                    yield piece

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """Yield the chunks as they come; messages that are too long are made shorter until they fit."""
        while True:
            try:
                async with aclosing(self._chunks()) as chunks:
                    async for chunk in chunks:
                        yield _checked(chunk)
                return
            except _TooLong as too_long:
                if (messages := self._shorter(self._messages)) == self._messages:
                    raise ModelError("invalid_prompt", f"The model failed: {too_long}") from None
                self._messages = messages

    def _read(self, chunk: Chunk) -> str:
        if "usage" in chunk:
            self.prompt_tokens = chunk["usage"]["prompt_tokens"]
            self.completion_tokens = chunk["usage"]["completion_tokens"]
        text = ""
        for choice in chunk["choices"]:
            self.reason = choice.get("finish_reason") or self.reason
            text += choice["delta"].get("content") or ""
        return text

    async def _chunks(self) -> AsyncGenerator[Chunk]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
        stopped = threading.Event()

        def on_chunk(chunk: Chunk) -> bool:
            if not stopped.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, chunk)
            return stopped.is_set()

        def on_end(job: Future[None]) -> None:
            if not stopped.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, job.exception())

        job = self._start({**self._request, "messages": self._messages}, on_chunk)
        job.add_done_callback(on_end)
        try:
            while isinstance(item := await arrived.get(), dict):
                yield item
            if item is not None:
                raise item
        finally:
            stopped.set()
            job.cancel()


def _checked(chunk: Chunk) -> Chunk:
    if "error" not in chunk:
        return chunk
    message = str(chunk["error"].get("message"))
    if chunk["error"].get("type") == "exceed_context_size_error":
        raise _TooLong(message)
    raise ModelError("server_error", f"The model failed: {message}")
