"""The ASGI app: reads and validates each request, calls the operation, and sends the response."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from nbruns.server.middleware import RequestContext
from nbruns.server.routes.files import no_space
from nbruns.server.routes.operation import Call, Operation, Services
from nbruns.server.schemas.base import parse, parse_query
from nbruns.server.schemas.errors import Refused
from nbruns.server.storage.blobs import FULL
from nbruns.server.storage.database import encode
from nbruns.text import JSON

MAX_BODY_BYTES = 16 * 1024 * 1024
#: Maximum size in bytes of a form without its file: all other fields, and the boundaries.
MAX_FIELD_BYTES = 64 * 1024

log = logging.getLogger(__name__)


def create_app(services: Services, operations: Iterable[Operation]) -> Starlette:
    """Return the ASGI app. The server starts and stops the engine behind it."""
    # "{" sorts after all letters, so /threads/runs is matched before /threads/{thread_id}.
    operations = sorted(operations, key=lambda operation: operation.path)
    # Model names can contain slashes.
    paths = [each.path.replace("{model}", "{model:path}") for each in operations]
    routes = [
        Route(path, _endpoint(services, each), methods=[each.method])
        for path, each in zip(paths, operations, strict=True)
    ]
    handlers = {HTTPException: _http_error}
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]


def _endpoint(services: Services, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        request.scope["context"].route = operation.path
        try:
            call = await _call(services, operation, request)
            try:
                answer = await operation.handler(call)
            finally:
                for file in call.uploads.values():
                    await file.close()
            return answer if isinstance(answer, Response) else _json(answer)
        except Refused as refusal:
            return _json(refusal.body, refusal.status)
        except ClientDisconnect:
            return Response(status_code=400)  # the client has disconnected
        except Exception as error:
            return _server_error(request, error)

    return endpoint


async def _call(services: Services, operation: Operation, request: Request) -> Call:
    path = request.path_params
    if "\0" in "".join(path.values()):
        raise Refused("No id has the character NUL.", code="invalid_value")
    query = parse_query(operation.query, request.query_params.multi_items())
    uploads: Mapping[str, UploadFile] = {}
    if operation.form is not None:
        fields, uploads = await _read_form(request, operation.max_form_bytes)
        try:
            params = parse(operation.form, fields)
        except Refused:
            for file in uploads.values():
                await file.close()
            raise
    else:
        params = parse(operation.body, _parse_json(await _read(request))) if operation.body else {}
    return Call(services, path, query, request.headers, params, uploads, request.scope["context"])


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refused(
                f"The request is larger than {MAX_BODY_BYTES:,} bytes.", status=413, code="request_too_large"
            )
    return bytes(body)


async def _read_form(request: Request, most: int) -> tuple[JSON, Mapping[str, UploadFile]]:
    """Return the fields and the files of a form. Files larger than a megabyte are on disk, in temporary files."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > most + MAX_FIELD_BYTES:
            raise Refused(f"The file is larger than {most:,} bytes.", status=413, code="request_too_large")
        return message

    limits = {"max_files": 1, "max_fields": 20, "max_part_size": MAX_FIELD_BYTES}
    try:
        form = await Request(request.scope, receive).form(**limits)
    except OSError as error:
        if error.errno in FULL:
            raise no_space() from None
        raise
    fields: JSON = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            outer, _, inner = name.removesuffix("]").partition("[")  # expires_after[seconds]
            if inner:
                fields.setdefault(outer, {})[inner] = value
            else:
                fields[name] = value
    return fields, {name: value for name, value in form.items() if isinstance(value, UploadFile)}


def _parse_json(body: bytes) -> Any:
    try:
        return (
            json.loads(body, parse_constant=_refuse_constant, parse_float=_finite_float)
            if body.strip()
            else {}
        )
    except (ValueError, RecursionError):
        raise Refused("We could not parse the JSON body of your request.") from None


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"JSON has no {constant}.")  # although Python's json module accepts it


def _finite_float(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError("This number is too large to be written again.")
    return number


def _json(payload: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(payload), status, headers, "application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    method, path = request.method, request.url.path
    known = {404: f"Invalid URL ({method} {path})", 405: f"Not allowed to {method} on {path}"}
    refusal = Refused(known.get(error.status_code, str(error.detail)), status=error.status_code)
    return _json(refusal.body, error.status_code, error.headers)


def _server_error(request: Request, error: Exception) -> Response:
    context: RequestContext = request.scope["context"]
    log.error("A request failed.", exc_info=error, extra={"known": {"request_id": context.id}})
    message = "The server had an error while processing your request; its log says more."
    return _json(Refused(message, type="server_error").body, 500)
