"""Other servers on the same PostgreSQL: which of them are alive, and what they have committed.

Each server holds an advisory lock for its name, on the connection on which it also listens. When the server dies, for
whatever reason, its connection ends and the lock is released. No clocks are involved.
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
#: A notification has at most 8000 bytes.
_RUNS_TOLD_AT_ONCE = 100
_RECONNECT_SECONDS = 1.0
#: A connection over a network that has gone away is noticed within a minute, on both sides.
_KEEPALIVES: JSON = {
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "connect_timeout": 10,
}
_GONE_AWAY = "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"

log = logging.getLogger(__name__)


class PeerUpdate(NamedTuple):
    """What another server has committed: the runs that have new events, and those of them that are to stop."""

    runs: list[str]
    to_stop: list[str]


class Peers:
    """Listens to the other servers, and shows them that this one is alive, until it is closed."""

    def __init__(self, url: sa.URL, name: str, on_update: Callable[[PeerUpdate | None], None]) -> None:
        """`on_update` is called with None when update may have been missed."""
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._name, self._on_news = name, on_update
        self._listening: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Show the other servers that this one is alive."""
        connection = await self._connect()
        self._listening = asyncio.create_task(self._listen(connection))

    async def leave(self) -> None:
        """Let the others carry on with what this server leaves behind."""
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
    """Tell the other servers, when the transaction is committed, which runs have new events or are to stop."""
    left = iter(sorted(runs | to_stop))
    while part := list(islice(left, _RUNS_TOLD_AT_ONCE)):
        payload = json.dumps([name, part, sorted(to_stop.intersection(part))])
        conn.execute(sa.select(sa.func.pg_notify(_CHANNEL, payload)))


def is_dead(conn: sa.Connection, name: str) -> bool:
    """Whether the server of that name has died. On SQLite there is never another."""
    if conn.dialect.name == "sqlite":
        return True
    return cast(bool, conn.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(_key(name)))))


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
