"""The HTTP server: uvicorn around the app, with limits on requests, until it is stopped or idle."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import signal
import socket
import threading
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
import uvicorn
from platformdirs import user_data_path
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nbruns.errors import SetupError
from nbruns.server import hosted
from nbruns.server.app import create_app
from nbruns.server.interpreter.sessions import Interpreter
from nbruns.server.middleware import LOOPBACK, AccessMiddleware
from nbruns.server.models import Models
from nbruns.server.retrieval.embeddings import Embedder
from nbruns.server.retrieval.index import Index
from nbruns.server.retrieval.ingestion import Ingester
from nbruns.server.routes import OPERATIONS, Services
from nbruns.server.runs.engine import DELTA_LIFETIME_SECONDS, LIFETIME_SECONDS, Engine
from nbruns.server.runs.streams import RunStreams
from nbruns.server.runs.toolbox import Toolbox
from nbruns.server.storage import files, migrations, store
from nbruns.server.storage.blobs import Blobs
from nbruns.server.storage.database import Database
from nbruns.server.telemetry import Telemetry, traces
from nbruns.text import JSON

#: Maximum number of bytes of a request's head, and of everything else except its body. The same limit as h11's.
MAX_HEAD_BYTES = 65_536
#: Seconds for a request's head to arrive, from the start of the connection or the end of the previous request.
HEAD_TIMEOUT = 20.0
#: Minimum number of bytes of a body in the time that a head may take.
MIN_BODY_BYTES = 8_192
#: Maximum number of pipelined requests. A single read can contain 14,000.
MAX_PIPELINED_REQUESTS = 32

_OVERRIDDEN = ("connection_made", "connection_lost", "data_received")
_CALLBACKS = ("on_message_begin", "on_headers_complete", "on_body", "on_message_complete")
if missing := [name for name in _OVERRIDDEN + _CALLBACKS if not hasattr(HttpToolsProtocol, name)]:
    raise SetupError(
        f"uvicorn {uvicorn.__version__} reads HTTP in a way that this nbruns doesn't know (no {', '.join(missing)}). "
        "The size of requests would not be limited. Install an earlier uvicorn."
    )


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with limits. Without them, it accepts heads of any length and never times out."""

    #: Bytes received since a head, a piece of a body, or a request was last complete.
    _pending = 0
    #: Bytes of the body received since the last check of the time.
    _body_bytes = 0
    _in_head = True
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        if self._clock is None:
            # Blank lines don't begin a request, but any byte stops uvicorn's own timeout for idle connections.
            self._wait()
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(
                431, "Request Header Fields Too Large", f"The head is over {MAX_HEAD_BYTES:,} bytes."
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._wait()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            self.transport.close()
            raise ValueError(
                "too many requests ahead"
            )  # so that the rest of the received bytes is not parsed
        self._in_head, self._pending = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        self._stop_waiting()
        super().on_message_complete()

    def _wait(self) -> None:
        self._stop_waiting()
        self._body_bytes = 0
        self._clock = self.loop.call_later(HEAD_TIMEOUT, self._time_is_up)

    def _stop_waiting(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        # No timeout while a request is being answered, for the next request or for a body that isn't read.
        cycle = self.cycle
        is_answering = cycle is not None and not (cycle.more_body or cycle.response_complete)
        is_body_on_time = not self._in_head and (self.flow.read_paused or self._body_bytes >= MIN_BODY_BYTES)
        if is_answering or is_body_on_time:
            self._wait()
        elif not self.transport.is_closing():
            self._refuse(408, "Request Timeout", "The rest of the request did not come in time.")

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            error: JSON = {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
            body = json.dumps({"error": error}).encode()
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


#: Seconds for open requests to finish when the server stops. Streams are closed immediately.
SHUTDOWN_TIMEOUT = 3


@dataclass(frozen=True)
class Settings:
    """Settings of a server. Without a token, everyone who can reach the port can use it."""

    database_url: str
    token: str | None
    models: Models
    #: Seconds without requests and active runs after which the server stops. None: never.
    idle_timeout: float | None = None
    #: Seconds from its creation after which a run expires.
    run_lifetime: int = LIFETIME_SECONDS
    #: Seconds from the end of a run after which the deltas of its stream are deleted.
    delta_lifetime: int = DELTA_LIFETIME_SECONDS
    #: Host names to accept in addition to this machine's own. Without any, a server that listens for other machines
    #: accepts all names.
    allowed_hosts: Collection[str] = ()
    #: Origins of web pages that may use the server.
    allowed_origins: Collection[str] = ()
    #: Folder or fsspec URL for the bytes of files. Default: the folder `files` next to the SQLite file.
    blobs: str | Path | None = None
    #: The embedding model of vector stores: see `embeddings.embedder`.
    embedder: Embedder | None = None
    #: Interpreter for code_interpreter. None: the tool is not available.
    interpreter: Interpreter | None = None
    #: Error messages for hosted tools that are not available, by type.
    refused_tools: Mapping[str, str] = field(default_factory=dict)


def sqlite_path(database_url: str) -> str | None:
    """Return the file of a SQLite URL, or None for PostgreSQL. Raises SetupError for other URLs."""
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


def _files_folder(database_url: str) -> Path:
    file = sqlite_path(database_url)
    return Path(file).resolve().parent / "files" if file else user_data_path("nbruns") / "files"


class Server(uvicorn.Server):
    """uvicorn that reports when it is ready, closes streams when it stops, and stops when idle."""

    def __init__(self, listener: socket.socket, settings: Settings, on_ready: Callable[[str], None]) -> None:
        self._settings, self._on_ready = settings, on_ready
        self._db = Database(settings.database_url, store.EventLog())
        try:
            migrations.prepare(self._db.engine)
        except BaseException:
            self._db.close()
            raise
        self._telemetry = Telemetry(traces())
        self._db.on_commit = self._telemetry.commit
        self.streams = RunStreams(self._db, self._telemetry)
        self._blobs = Blobs(settings.blobs or _files_folder(settings.database_url))
        index = Index(self._db, settings.embedder)
        self._ingester = Ingester(self._db, self._blobs, settings.embedder)
        self.engine = Engine(
            self._db,
            settings.models,
            settings.run_lifetime,
            self.streams.catch_up,
            Toolbox(index, self._ingester, self._blobs, settings.interpreter),
            settings.delta_lifetime,
            self._telemetry,
        )
        services = Services(
            self._db,
            self.engine,
            self.streams,
            settings.models,
            self._blobs,
            index,
            self._ingester,
            settings.interpreter,
            self._telemetry,
        )
        hosted.REFUSED.clear()
        hosted.REFUSED.update(settings.refused_tools)
        app = create_app(services, OPERATIONS)
        host, port = listener.getsockname()[:2]
        # Connections inherit the option. asyncio only sets it on sockets created with the number of TCP. Without it,
        # each response waits 40 ms for the acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = {*LOOPBACK, host, *(name.lower() for name in settings.allowed_hosts)}
        is_known_by_name = settings.allowed_hosts or ipaddress.ip_address(host).is_loopback
        self._access = AccessMiddleware(
            app,
            token=settings.token,
            hosts=names if is_known_by_name else None,
            origins=settings.allowed_origins,
            telemetry=self._telemetry,
        )
        self._watching: asyncio.Task[None]
        super().__init__(
            uvicorn.Config(
                self._access,
                http=BoundedProtocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
                lifespan="off",
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Not in the app's lifespan, because uvicorn logs errors there as tracebacks.
        self.streams.connect()
        try:
            await self._blobs.check()
            await self.engine.start()
            await self._ingester.start()
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
        self.streams.close()
        self._watching.cancel()
        await super().shutdown(sockets)
        if not self.force_exit:
            await self.engine.stop()
        await hosted.close()
        await self._ingester.stop()
        if self._settings.interpreter is not None:
            await self._settings.interpreter.close()
        await self._settings.models.close()
        self._blobs.close()
        self._db.close()
        await asyncio.to_thread(self._telemetry.close)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Like uvicorn's, but doesn't raise the signal that stopped the server again, so that `serve` just returns."""
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
            if self._access.idle_seconds() >= patience and not await self._db.read(_has_work):
                self.should_exit = True


def _has_work(conn: sa.Connection) -> bool:
    return sum(store.count_active(conn).values()) > 0 or files.count_in_progress(conn) > 0
