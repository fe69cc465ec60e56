"""Other servers on the same PostgreSQL: detect which are alive, and receive notifications of their commits.

Each server holds an advisory lock for its name, on the connection on which it also listens. When the server dies for
any reason, its connection ends and the lock is released. This doesn't depend on clocks.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import sqlalchemy as sa

from nbruns.text import JSON

if TYPE_CHECKING:  # imported only for PostgreSQL: it takes a tenth of a second
    import psycopg

_CHANNEL = "nbruns"
#: Number of runs per notification, which can have at most 8,000 bytes.
_RUNS_TOLD_AT_ONCE = 100
_RECONNECT_SECONDS = 1.0
#: Settings with which both sides detect a lost connection within a minute.
_KEEPALIVES: JSON = {
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "connect_timeout": 10,
}
_GONE_AWAY = "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"

log = logging.getLogger(__name__)


class PeerUpdate(NamedTuple):
    """A commit of another server: the runs with new events, and those that must stop."""

    runs: list[str]
    to_stop: list[str]


class Peers:
    """Receives notifications of other servers, and holds the lock that shows that this one is alive."""

    def __init__(self, url: sa.URL, name: str, on_update: Callable[[PeerUpdate | None], None]) -> None:
        """`on_update` is called with None if updates may have been missed."""
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._name, self._on_news = name, on_update
        self._listening: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Connect, and acquire the lock that shows that this server is alive."""
        connection = await self._connect()
        self._listening = asyncio.create_task(self._listen(connection))

    async def leave(self) -> None:
        """Release the lock, so that other servers can take over the runs of this one."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True, **_KEEPALIVES)
        await connection.execute(_GONE_AWAY)
        await connection.execute("SELECT pg_advisory_lock(%s)", [_key(self._name)])
        await connection.execute(f"LISTEN {_CHANNEL}")
        return connection

    async def _listen(self, connection: psycopg.AsyncConnection[Any]) -> None:
        import psycopg

        while True:
            try:
                async with connection:
                    async for notification in connection.notifies():
                        self._take(notification.payload)
            except psycopg.OperationalError:
                log.warning("The connection to PostgreSQL was lost; the other servers may carry on our runs.")
            connection = await self._reconnected()
            self._on_news(None)

    async def _reconnected(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        while True:
            try:
                return await self._connect()
            except psycopg.OperationalError:
                await asyncio.sleep(_RECONNECT_SECONDS)

    def _take(self, payload: str) -> None:
        name, runs, to_stop = json.loads(payload)
        if name != self._name:
            self._on_news(PeerUpdate(runs, to_stop))


def tell(conn: sa.Connection, name: str, runs: set[str], to_stop: set[str]) -> None:
    """Notify the other servers, after the commit of the transaction, of runs with new events and runs to stop."""
    left = iter(sorted(runs | to_stop))
    while part := list(islice(left, _RUNS_TOLD_AT_ONCE)):
        payload = json.dumps([name, part, sorted(to_stop.intersection(part))])
        conn.execute(sa.select(sa.func.pg_notify(_CHANNEL, payload)))


def is_dead(conn: sa.Connection, name: str) -> bool:
    """Whether the server with this name has died. SQLite has no other servers."""
    if conn.dialect.name == "sqlite":
        return True
    return cast(bool, conn.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(_key(name)))))


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
