"""A request, as the routes see it, and an operation, as it is described."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from nbruns.server.checks import Check
from nbruns.server.database import Database
from nbruns.server.exchange import Exchange
from nbruns.server.models import Models

if TYPE_CHECKING:
    from nbruns.server.engine import Engine
    from nbruns.server.live import Hub

JSON = dict[str, Any]


@dataclass(frozen=True)
class Rooms:
    """What the routes work with."""

    db: Database
    engine: Engine
    hub: Hub
    models: Models


@dataclass(frozen=True)
class Call:
    """A request, as far as a route needs it, its query and body (`params`) having been checked."""

    rooms: Rooms
    path: Mapping[str, str]
    query: JSON
    headers: Mapping[str, str]
    params: JSON
    exchange: Exchange

    @property
    def db(self) -> Database:
        return self.rooms.db

    @property
    def thread_id(self) -> str:
        return self.path["thread_id"]

    @property
    def run_id(self) -> str:
        return self.path["run_id"]


@dataclass(frozen=True)
class Operation:
    """What can be asked: where, with what, and what the answer is. Requests are checked against it, and
    /openapi.json is made of it."""

    method: str
    path: str
    handler: Callable[[Call], Awaitable[JSON | Response]]
    #: The schema of what is answered; None for an event stream.
    answer: JSON | None
    body: Check | None = None
    query: Mapping[str, Check] = field(default_factory=dict)

    @property
    def streams(self) -> bool:
        """Whether the answer can be an event stream, where it is asked for."""
        return self.body is not None and "stream" in self.body.schema["properties"]
