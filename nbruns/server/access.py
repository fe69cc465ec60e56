"""Who may ask: the token, the Host and the Origin of a request, and how much it may send."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from nbruns.server.database import encode
from nbruns.server.exchange import Exchange
from nbruns.server.refusal import Refused

LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: What needs no token: it says nothing that is not in the package for everybody to read.
PUBLIC = ("/health", "/openapi.json")


class Gate:
    """Lets requests through to `app`, and knows when the last one was (`idle_since`)."""

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Iterable[str] | None) -> None:
        self._app = app
        self._token = token
        self._hosts = None if hosts is None else frozenset(hosts)
        self._open = 0
        self._last = time.monotonic()

    def idle_seconds(self) -> float:
        """For how long nothing has been asked; 0 while a request is open."""
        return 0.0 if self._open else time.monotonic() - self._last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Azure's clients ask under /openai, with and without the version.
        scope["path"] = re.sub(r"^/openai(/v1)?(?=/)", "/v1", scope["path"])
        exchange = Exchange(scope, send)
        self._open += 1
        try:
            self._check(scope["path"], Headers(scope=scope))
        except Refused as refusal:
            await _refuse(exchange.send, refusal)
        else:
            await self._app(scope, receive, exchange.send)
        finally:
            self._open -= 1
            self._last = time.monotonic()
            exchange.log()

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Refused(
                "This server answers only to the name of the machine that it runs on.",
                status=403,
                code="host_refused",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Refused(
                "Web pages of another origin may not use this server.", status=403, code="origin_refused"
            )
        if self._token is not None and path not in PUBLIC and not self._admits(headers):
            message = "The API key is missing or wrong. Pass the server's token as the API key."
            raise Refused(message, status=401, code="invalid_api_key")

    def _admits(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("api-key", "")
        given = given.strip()
        return bool(given) and hmac.compare_digest(given.encode(), str(self._token).encode())


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(send: Send, refusal: Refused) -> None:
    body = encode(refusal.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
