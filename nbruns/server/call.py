"""A request, as the routes see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbruns.server.database import Database
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
    """A request, as far as a route needs it."""

    rooms: Rooms
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: JSON

    @property
    def db(self) -> Database:
        return self.rooms.db

    @property
    def thread_id(self) -> str:
        return self.path["thread_id"]

    @property
    def run_id(self) -> str:
        return self.path["run_id"]
