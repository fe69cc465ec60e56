"""Health, metrics and OpenAPI description of the server."""

from __future__ import annotations

from functools import cache

from starlette.responses import Response

from nbruns import __version__
from nbruns.server.routes.openapi import document
from nbruns.server.routes.operation import OPERATIONS, Call, operation
from nbruns.server.schemas.base import Document, Health
from nbruns.server.storage import files, store
from nbruns.server.storage.database import encode
from nbruns.text import JSON


@operation("GET", "/health", Health)
async def health(call: Call) -> JSON:
    return Health.new(version=__version__)


@operation("GET", "/metrics", None, media_type="text/plain")
async def get_metrics(call: Call) -> Response:
    active = await call.db.read(store.count_active)
    waiting = await call.db.read(files.count_in_progress)
    metrics = call.services.telemetry.exposition(active, waiting, call.services.streams.count)
    return Response(metrics, 200, media_type="text/plain; version=0.0.4; charset=utf-8")


@operation("GET", "/openapi.json", Document)
async def describe(call: Call) -> Response:
    return Response(_document(), 200, media_type="application/json")


@cache
def _document() -> str:
    return encode(document(OPERATIONS, __version__))
