"""A request with its answer: the headers that every answer has, and its line in the log."""

from __future__ import annotations

import logging
import re
import time

from starlette.types import Message, Scope, Send

from nbruns.server import wire

log = logging.getLogger(__name__)

#: The words that paths are made of. Whatever else is in one may be a secret at the wrong place.
_WORDS = {
    *("v1", "health", "openapi.json", "assistants", "threads", "messages", "runs", "steps"),
    *("cancel", "submit_tool_outputs", "stream"),
}
_ID = re.compile(r"(?:asst|thread|msg|run|step)_[0-9A-Za-z]{24}")
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")


class Exchange:
    """One request and what becomes of it. It is in the request's scope, as `exchange`."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = wire.new_id("req")
        #: The run that was asked for, as far as that is known.
        self.run_id: str | None = None
        self._scope, self._send = scope, send
        self._began = time.perf_counter()
        self._status = 0
        scope["exchange"] = self

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self.id.encode()),
                (b"openai-version", b"2020-10-01"),
                (b"openai-processing-ms", str(self._milliseconds()).encode()),
            ]
        await self._send(message)

    def log(self) -> None:
        """Write the line; nobody wants to read of every look at the server's health."""
        level = logging.DEBUG if self._scope["path"] == "/health" else logging.INFO
        if log.isEnabledFor(level):
            known = self._known()
            text = "%(method)s %(path)s %(status)s %(ms)s ms"
            log.log(level, text, known, extra={"known": known})

    def _known(self) -> dict[str, object]:
        method = self._scope["method"]
        ids = {name: id for name, id in self._scope.get("path_params", {}).items() if _ID.fullmatch(id)}
        return {
            "method": method if method in _METHODS else "?",
            "path": "/".join(map(_shown, self._scope["path"].split("/")[:10])),
            "status": self._status or 499,  # the client was gone before there was an answer
            "ms": self._milliseconds(),
            **ids,
            **({"run_id": self.run_id} if self.run_id else {}),
            "request_id": self.id,
        }

    def _milliseconds(self) -> int:
        return round((time.perf_counter() - self._began) * 1000)


def _shown(part: str) -> str:
    return part if not part or part in _WORDS or _ID.fullmatch(part) else "…"
