"""Access control by the token, Host and Origin of a request; its log line and metrics."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nbruns.server.schemas import objects
from nbruns.server.schemas.errors import Refused
from nbruns.server.storage.database import encode
from nbruns.server.telemetry import Telemetry

log = logging.getLogger(__name__)

#: Words in the paths of operations. Anything else in a path could be a misplaced secret.
_WORDS = {
    *("v1", "health", "metrics", "openapi.json", "assistants", "threads", "messages", "runs", "steps"),
    *(
        "files",
        "content",
        "uploads",
        "parts",
        "complete",
        "models",
        "vector_stores",
        "file_batches",
        "search",
    ),
    *("cancel", "submit_tool_outputs", "stream", "run_batches", "bulk"),
}
_ID = re.compile(r"(?:(?:asst|thread|msg|run|step|runbatch|vs|vsfb|upload|part)_|file-)[0-9A-Za-z]{24}")
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")


class RequestContext:
    """A request and its result, for logs and metrics. Stored in the request's scope as `context`."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = objects.new_id("req")
        #: Id of the run that the request is about, if known.
        self.run_id: str | None = None
        #: Path of the operation, with placeholders for ids; None until the request is admitted.
        self.route: str | None = None
        self._scope, self._send = scope, send
        self._began = time.perf_counter()
        self._status, self._answered = 0, 0.0
        scope["context"] = self

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self._status, self._answered = message["status"], time.perf_counter()
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self.id.encode()),
                (b"openai-version", b"2020-10-01"),
                (b"openai-processing-ms", str(self._milliseconds()).encode()),
            ]
        await self._send(message)

    def count(self, telemetry: Telemetry) -> None:
        """Count the request, and record the time until its response began."""
        answered = self._answered or time.perf_counter()
        telemetry.request(self._method, self.route or "other", self._status or 499, answered - self._began)

    @property
    def _method(self) -> str:
        method: str = self._scope["method"]
        return method if method in _METHODS else "?"

    def log(self) -> None:
        """Write the log line of the request. Health checks are logged at debug level."""
        level = logging.DEBUG if self._scope["path"] == "/health" else logging.INFO
        if log.isEnabledFor(level):
            known = self._known()
            text = "%(method)s %(path)s %(status)s %(ms)s ms"
            log.log(level, text, known, extra={"known": known})

    def _known(self) -> dict[str, object]:
        ids = {name: id for name, id in self._scope.get("path_params", {}).items() if _ID.fullmatch(id)}
        return {
            "method": self._method,
            "path": "/".join(map(_shown, self._scope["path"].split("/")[:10])),
            "status": self._status or 499,  # the client disconnected before the response
            "ms": self._milliseconds(),
            **ids,
            **({"run_id": self.run_id} if self.run_id else {}),
            "request_id": self.id,
        }

    def _milliseconds(self) -> int:
        return round((time.perf_counter() - self._began) * 1000)


def _shown(part: str) -> str:
    return part if not part or part in _WORDS or _ID.fullmatch(part) else "…"


LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Paths that need no token: their content is public, as in the package.
PUBLIC = ("/health", "/openapi.json")


class AccessMiddleware:
    """Passes admitted requests on to `app`, and records the time of the last one (`idle_seconds`)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        hosts: Iterable[str] | None,
        origins: Collection[str] = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._origins = frozenset(origins)
        self._app = self._for_pages(app) if origins else app
        self._token = token
        self._hosts = None if hosts is None else frozenset(hosts)
        self._open = 0
        self._last = time.monotonic()

    def idle_seconds(self) -> float:
        """Return the seconds since the last request; 0 while a request is open."""
        return 0.0 if self._open else time.monotonic() - self._last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Azure's clients use the prefix /openai, with or without the version.
        scope["path"] = re.sub(r"^/openai(/v1)?(?=/)", "/v1", scope["path"])
        context = RequestContext(scope, send)
        self._open += 1
        try:
            headers = Headers(scope=scope)
            # Browsers send CORS preflight requests without the token.
            is_preflight = scope["method"] == "OPTIONS" and headers.get("origin") in self._origins
            self._check(scope["path"], headers, is_preflight=is_preflight)
        except Refused as refusal:
            # Pages of allowed origins can read the error.
            is_allowed = Headers(scope=scope).get("origin") in self._origins
            refuse = _refusing(refusal)
            await (self._for_pages(refuse) if is_allowed else refuse)(scope, receive, context.send)
        else:
            await self._app(scope, receive, context.send)
        finally:
            self._open -= 1
            self._last = time.monotonic()
            context.count(self._telemetry)
            context.log()

    def _for_pages(self, app: ASGIApp) -> ASGIApp:
        return CORSMiddleware(app, **_CORS, allow_origins=[*self._origins])

    def _check(self, path: str, headers: Headers, *, is_preflight: bool) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Refused(
                "This server answers only to the name of the machine that it runs on.",
                status=403,
                code="host_refused",
            )
        origin = headers.get("origin")
        is_own = origin is None or origin.partition("://")[2].lower() == host.lower()
        if not is_own and origin not in self._origins:
            raise Refused(
                "Web pages of another origin may not use this server.", status=403, code="origin_refused"
            )
        if self._token is not None and path not in PUBLIC and not is_preflight and not self._admits(headers):
            message = "The API key is missing or wrong. Pass the server's token as the API key."
            raise Refused(message, status=401, code="invalid_api_key")

    def _admits(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("api-key", "")
        given = given.strip()
        return bool(given) and hmac.compare_digest(given.encode(), str(self._token).encode())


#: Methods and headers that web pages of allowed origins can use.
_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": ["x-request-id", "openai-poll-after-ms"],
    "max_age": 600,
}


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _refusing(refusal: Refused) -> ASGIApp:
    """Return an app that responds with this error."""
    body = encode(refusal.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": refusal.status, "headers": [*headers]})
        await send({"type": "http.response.body", "body": body})

    return refuse
