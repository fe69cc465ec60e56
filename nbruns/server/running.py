"""A running server: uvicorn around the app, until it is told to stop or nobody needs it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass

import sqlalchemy as sa
import uvicorn

from nbruns.errors import SetupError
from nbruns.server import migrations, store
from nbruns.server.access import LOOPBACK, Gate
from nbruns.server.app import create_app
from nbruns.server.database import Database
from nbruns.server.engine import LIFETIME_SECONDS, Engine
from nbruns.server.live import Hub
from nbruns.server.models import Models
from nbruns.server.protocol import BoundedProtocol
from nbruns.server.routes import OPERATIONS, Services

#: How long open requests may take to end when the server stops. Streams are ended at once.
STOP_SECONDS = 3


@dataclass(frozen=True)
class Settings:
    """What a server serves, and to whom. Without a token, whoever reaches it may use it."""

    database_url: str
    token: str | None
    models: Models
    #: Seconds without a request and an active run, after which the server stops; None: never.
    idle_timeout: float | None = None
    #: Seconds after its creation, after which a run expires.
    run_lifetime: int = LIFETIME_SECONDS
    #: Names that requests may come by, besides this machine's own. Without any, a server that is reached from other
    #: machines answers to every name.
    allowed_hosts: Collection[str] = ()


def file_of(database_url: str) -> str | None:
    """The file that a SQLite URL names; None for PostgreSQL. Raises SetupError for what is neither."""
    try:
        url = sa.make_url(database_url)
    except sa.exc.ArgumentError:
        url = sa.make_url("unreadable://")
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return url.database
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise SetupError(
            "The database URL names neither a SQLite file nor PostgreSQL. Write --database-url sqlite:///FILE or "
            "--database-url postgresql://USER@HOST/NAME."
        )
    return None


class Server(uvicorn.Server):
    """uvicorn, which says when it is ready, ends streams when it is to stop, and stops when idle."""

    def __init__(self, listener: socket.socket, settings: Settings, on_ready: Callable[[str], None]) -> None:
        self._settings, self._on_ready = settings, on_ready
        self._db = Database(settings.database_url, store.EventLog())
        try:
            migrations.prepare(self._db.engine)
        except BaseException:
            self._db.close()
            raise
        self.hub = Hub(self._db)
        self.engine = Engine(self._db, settings.models, settings.run_lifetime, self.hub.catch_up)
        app = create_app(Services(self._db, self.engine, self.hub, settings.models), OPERATIONS)
        host, port = listener.getsockname()[:2]
        # Inherited by its connections. asyncio sets it only on sockets that were made for TCP by number, and without
        # it each answer waits 40 ms for the acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = {*LOOPBACK, host, *(name.lower() for name in settings.allowed_hosts)}
        is_known_by_name = settings.allowed_hosts or ipaddress.ip_address(host).is_loopback
        self._gate = Gate(app, token=settings.token, hosts=names if is_known_by_name else None)
        self._watching: asyncio.Task[None]
        super().__init__(
            uvicorn.Config(
                self._gate,
                http=BoundedProtocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
                lifespan="off",
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Not in the app's lifespan, whose errors uvicorn turns into a traceback in the log.
        self.hub.connect()
        try:
            await self.engine.start()
        except sa.exc.DBAPIError as error:
            self._db.close()
            raise SetupError(
                f"The database {self._db.engine.url.render_as_string()} can't be used ({error.orig}). Restore it from "
                "a copy, or name another with --database-url."
            ) from None
        await super().startup(sockets)
        if self.started:
            self._watching = asyncio.create_task(self._stop_when_idle())
            self._on_ready(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.hub.close()
        self._watching.cancel()
        await super().shutdown(sockets)
        if not self.force_exit:
            await self.engine.stop()
        await self._settings.models.close()
        self._db.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but a signal that has stopped the server is not raised again: `serve` just returns."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _stop_when_idle(self) -> None:
        patience = self._settings.idle_timeout
        while patience is not None and not self.should_exit:
            await asyncio.sleep(min(1.0, patience / 4))
            if self._gate.idle_seconds() >= patience and not await self._db.read(store.count_active):
                self.should_exit = True
