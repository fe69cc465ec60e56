"""The ASGI app around the routes: what every request goes through, and every answer."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from nbruns.server.call import Call, Rooms
from nbruns.server.checks import anything
from nbruns.server.database import encode
from nbruns.server.refusal import Refused
from nbruns.server.routes import ROUTES, Handler

JSON = dict[str, Any]

MAX_BODY_BYTES = 16 * 1024 * 1024

log = logging.getLogger(__name__)


def create_app(rooms: Rooms) -> Starlette:
    """The ASGI app; its lifespan starts and stops the engine."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        rooms.hub.connect()
        await rooms.engine.start()
        yield
        await rooms.engine.stop()

    routes = [Route(path, _endpoint(rooms, handler), methods=[method]) for method, path, handler in ROUTES]
    handlers = {HTTPException: _http_error}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]


def _endpoint(rooms: Rooms, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            answer = await handler(await _call(rooms, request))
            return answer if isinstance(answer, Response) else _json(answer)
        except Refused as refusal:
            return _json(refusal.body, refusal.status)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception as error:
            return _server_error(request, error)

    return endpoint


async def _call(rooms: Rooms, request: Request) -> Call:
    path, query = request.path_params, request.query_params
    if any("\0" in value for value in (*path.values(), *query.values())):
        raise Refused("Neither an id nor a filter has the character NUL.", code="invalid_value")
    body = _parsed(await _read(request)) if request.method == "POST" else {}
    return Call(rooms, path, query, request.headers, body)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refused(
                f"The request is larger than {MAX_BODY_BYTES:,} bytes.", status=413, code="request_too_large"
            )
    return bytes(body)


def _parsed(body: bytes) -> JSON:
    if not body.strip():
        return {}
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("We could not parse the JSON body of your request.") from None
    return anything(parsed, "body")


def _json(payload: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(payload), status, headers, "application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    method, path = request.method, request.url.path
    known = {404: f"Invalid URL ({method} {path})", 405: f"Not allowed to {method} on {path}"}
    refusal = Refused(known.get(error.status_code, str(error.detail)), status=error.status_code)
    return _json(refusal.body, error.status_code, error.headers)


def _server_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    message = "The server had an error while processing your request; its log says more."
    return _json(Refused(message, type="server_error").body, 500)
