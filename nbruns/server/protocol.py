"""HTTP as uvicorn reads it, with bounds on the size and the time of what comes before a request can be refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nbruns.errors import SetupError

#: The most bytes of a request's head, and of whatever else is not its body: h11's limit.
MAX_HEAD_BYTES = 65_536
#: So long a head may take from its connection's or its predecessor's end on.
HEAD_SECONDS = 20.0
#: While a body comes, it brings so many bytes in the time that a head may take.
MIN_BODY_BYTES = 8_192
#: The most requests that may wait on a connection for the answers before theirs. One read brings up to 14,000.
MAX_AHEAD = 32

_OVERRIDDEN = ("connection_made", "connection_lost", "data_received")
_CALLBACKS = ("on_message_begin", "on_headers_complete", "on_body", "on_message_complete")
if missing := [name for name in _OVERRIDDEN + _CALLBACKS if not hasattr(HttpToolsProtocol, name)]:
    raise SetupError(
        f"uvicorn {uvicorn.__version__} reads HTTP in a way that this nbruns doesn't know (no {', '.join(missing)}). "
        "The size of requests would not be limited. Install an earlier uvicorn."
    )


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which takes heads of any length and waits for ever for the rest of a request."""

    #: Bytes since something of a request was complete: its head, a piece of its body, or all of it.
    _pending = 0
    #: Bytes of the body since the last look at the clock.
    _brought = 0
    _in_head = True
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        if self._clock is None:
            # Blank lines begin no request, but uvicorn stops its own clock for idle connections at any byte.
            self._wait()
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(
                431, "Request Header Fields Too Large", f"The head is over {MAX_HEAD_BYTES:,} bytes."
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._wait()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_AHEAD:
            self.transport.close()
            raise ValueError("too many requests ahead")  # so that the rest of what was read is not parsed
        self._in_head, self._pending = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        self._brought += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        self._stop_waiting()
        super().on_message_complete()

    def _wait(self) -> None:
        self._stop_waiting()
        self._brought = 0
        self._clock = self.loop.call_later(HEAD_SECONDS, self._time_is_up)

    def _stop_waiting(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        # What comes behind a request may be late until that is answered, and so may a body that we don't read.
        cycle = self.cycle
        is_answering = cycle is not None and not (cycle.more_body or cycle.response_complete)
        is_body_on_time = not self._in_head and (self.flow.read_paused or self._brought >= MIN_BODY_BYTES)
        if is_answering or is_body_on_time:
            self._wait()
        elif not self.transport.is_closing():
            self._refuse(408, "Request Timeout", "The rest of the request did not come in time.")

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            error: dict[str, Any] = {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
            body = json.dumps({"error": error}).encode()
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()
