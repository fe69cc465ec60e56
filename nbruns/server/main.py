"""Run the server in this process: open the port and the database, serve, and close them."""

from __future__ import annotations

import errno
import gc
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from nbruns.errors import SetupError, install_command

if TYPE_CHECKING:
    from nbruns.server.interpreter.sessions import Interpreter
    from nbruns.server.models import Models
    from nbruns.server.retrieval.embeddings import Embedder

DEFAULT_PORT = 8765
#: Thresholds of Python's cyclic garbage collector: new objects, then collections of the younger generation. With the
#: defaults, it would run constantly while hundreds of runs stream, and each collection pauses them all.
_GC_THRESHOLDS = (100_000, 50, 100)


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    database_url: str,
    token: str | None,
    idle_timeout: float | None = None,
    on_ready: Callable[[str], None] | None = None,
    models: Models | None = None,
    run_lifetime: int = 600,
    delta_lifetime: int = 86_400,
    allowed_hosts: Collection[str] = (),
    allowed_origins: Collection[str] = (),
    blobs: str | Path | None = None,
    embedder: Embedder | None = None,
    code_interpreter: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until the server has been idle for `idle_timeout` seconds.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes any free port.
        database_url: SQLAlchemy URL: sqlite:///FILE or postgresql://…
        token: Token that requests must carry. With None, everyone who can reach the port can use the server.
        idle_timeout: Seconds without requests and active runs after which the server stops.
        on_ready: Called with the server's URL (without /v1) when it accepts requests.
        models: Models that runs can name. Default: the registered ones.
        run_lifetime: Seconds after its creation when a run expires.
        delta_lifetime: Seconds after the end of a run when the deltas of its stream are deleted.
        allowed_hosts: Host names to accept in addition to this machine's own, such as the public name of a proxy.
        allowed_origins: Origins of web pages that may use the server, such as https://app.example.org.
        blobs: Folder, or URL of fsspec such as s3://bucket/prefix, for the bytes of files. Default: the folder `files`
            next to the SQLite file.
        embedder: Embedding model of vector stores. Default: all-MiniLM-L6-v2, if it is installed.
        code_interpreter: What runs the Python of code_interpreter: `bwrap`, `unsandboxed`, `off`, or the URL of a
            Jupyter server or kernel gateway. Default: `bwrap` if it works here, otherwise `off`.

    Raises:
        SetupError: The port is taken, the database can't be used, a package is missing, or the token is empty.
    """
    if token is not None and not token.strip():
        raise SetupError(
            "The token is empty. Pass a text that nobody can guess, or None to let everybody in."
        )
    with _listening(host, port) as listener:
        try:
            from nbruns.server import http
            from nbruns.server.interpreter import modes
            from nbruns.server.models import Models
            from nbruns.server.retrieval.embeddings import embedder as default_embedder
        except ModuleNotFoundError as error:
            raise SetupError(
                f"The server needs the package {error.name!r}, which is not installed. Install what it needs with: "
                f"{install_command('server')}"
            ) from None
        interpreter = modes.interpreter(code_interpreter)
        with _only_server_of(http.sqlite_path(database_url)):
            settings = http.Settings(
                database_url,
                token,
                models or Models(),
                idle_timeout,
                run_lifetime,
                delta_lifetime,
                allowed_hosts,
                allowed_origins,
                blobs,
                embedder or default_embedder(),
                interpreter,
                _refused(interpreter, code_interpreter),
            )
            gc.set_threshold(*_GC_THRESHOLDS)
            http.Server(listener, settings, on_ready or print).run(sockets=[listener])


def _refused(interpreter: Interpreter | None, mode: str | None) -> dict[str, str]:
    """Return the error messages for hosted tools that are not available, by type."""
    from nbruns.server.interpreter import modes

    if interpreter is not None:
        return {}
    return {"code_interpreter": modes.ways_out(modes.why_no_sandbox() if mode is None else None)}


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is in use" if taken else f"can't be listened on ({error.strerror or error})"
            mend = (
                "Stop what is using it, or name another with --port"
                if taken
                else "Name another --host or --port"
            )
            raise SetupError(f"Port {port} on {host} {why}. {mend} (--port 0 takes any free one).") from None
        listener.listen(512)
        yield listener


@contextmanager
def _only_server_of(file: str | None) -> Iterator[None]:
    """Lock a SQLite file, so that no second server executes the same runs."""
    if file is None:
        yield
        return
    try:
        path = Path(file).resolve()  # a symbolic link names the same file
        if not path.parent.is_dir():  # FileLock would create the folder, so a typo would go unnoticed
            raise NotADirectoryError(errno.ENOENT, "no such folder")
        if path.exists() and path.stat().st_nlink > 1:
            raise SetupError(
                f"The database {file} has more than one name (hard links), and two servers or SQLite's journals could "
                "meet in it unseen. Delete the other names, or copy the file."
            )
        lock = FileLock(f"{path}-lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise SetupError(
            f"Another server is using the database {file}. Use that one, or name another file with --database-url."
        ) from None
    except OSError as error:
        raise SetupError(
            f"The database {file} cannot be opened for writing ({error.strerror or error}). Name a file in a "
            "folder that exists and is yours, with --database-url sqlite:///FILE."
        ) from None
    try:
        yield
    finally:
        lock.release()
