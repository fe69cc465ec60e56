"""`local()`: start the server on this machine or connect to it, and return a client.

A data folder contains the database, the server's token (which stays the same, so that other programs can use it), the
log and, while the server runs, its address. The server of a folder holds its lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock, Timeout

from nbruns import __version__
from nbruns.errors import SetupError
from nbruns.text import JSON, excerpt

if TYPE_CHECKING:
    from nbruns.client import Client

#: Seconds without requests and active runs after which a server started by `local()` stops.
IDLE_TIMEOUT = 3600.0
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 15.0


class LocalServer:
    """The local server of a client that `local()` returned: `client.server`.

    Attributes:
        url: Address of the server, such as `http://127.0.0.1:8765`.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._folder = folder

    def __repr__(self) -> str:
        return f"LocalServer({self.url}, data in {shown(self._folder)})"

    def stop(self) -> None:
        """Stop the server. Its data is kept, and active runs continue when it starts again.

        Raises:
            SetupError: The server did not stop within 15 seconds.
        """
        # Look up the current process: the one connected to earlier may have ended, and its id may be reused.
        pid = _pid(self._folder) if is_serving(self._folder) else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while is_serving(self._folder) and _pid(self._folder) in (pid, None):
            if time.monotonic() > deadline:
                raise SetupError(
                    f"{self!r} did not stop within {_STOP_TIMEOUT:.0f} s; its process id is {pid}."
                )
            time.sleep(0.05)

    def add_history(
        self, runs: int, *, days: float = 30, until: datetime | None = None, seed: int = 1
    ) -> int:
        """Add made-up runs that have ended, with their assistants, threads, messages and steps, to try things out.

            client.server.add_history(2_000)

        Args:
            runs: Number of runs.
            days: Length of the history in days.
            until: End of the history. Default: now.
            seed: The same `seed` and `until` create the same history. An existing one is not added again.

        Returns:
            The number of added runs.

        Raises:
            SetupError: The server stores its data elsewhere, for example in PostgreSQL.
        """
        from nbruns.demo.history import write_history

        file = self._folder / "nbruns.sqlite"
        if not file.exists():
            raise SetupError(f"{self!r} doesn't use {file}, so no history can be added.")
        return write_history(f"sqlite:///{file}", runs=runs, days=days, until=until, seed=seed)

    def add_mcp_server(
        self,
        label: str,
        server: str | Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Let runs of this server use an MCP server, by `{"type": "mcp", "server_label": label}` in their `tools`.

            client.server.add_mcp_server("time", "uvx mcp-server-time")

        The entry is written to the file `mcp.json` in the data folder, which only its owner can read, and takes effect
        at once. It replaces a server with the same label.

        Args:
            label: Name of the server, 1 to 64 letters, digits, _ and -.
            server: A command, as text or as a list of its words, or a URL.
            headers: HTTP headers for a URL.
            env: Environment variables for a command, which inherits only a few, such as PATH.

        Raises:
            SetupError: The file can't be read or written, or the label is not valid.
        """
        from nbruns.server.hosted.mcp import Mcp
        from nbruns.tools.mcp import server_json

        file = self._folder / "mcp.json"
        try:
            content = json.loads(file.read_text()) if file.exists() else {}
            content.setdefault("mcpServers", {})[label] = server_json(server, headers, env)
        except (ValueError, AttributeError, TypeError) as error:
            raise SetupError(f"{shown(file)}: {excerpt(error)}") from None
        draft = self._folder / f"mcp.json.{os.getpid()}"
        with _writing(self._folder):
            try:
                with open(draft, "w", opener=_private) as written:
                    json.dump(content, written, indent=2)
                Mcp(draft).check()
                draft.replace(file)
            finally:
                draft.unlink(missing_ok=True)


def local(data: str | Path | None = None, *, idle_timeout: float = IDLE_TIMEOUT, **options: float) -> Client:
    """Return a client of the server on this machine. Starts the server if it isn't running.

        client = nbruns.local()

    The server is a separate process: it outlives the kernel, and later calls with the same data connect to it.
    `client.server` has its `url` and `stop()`.

    Args:
        data: Folder of its database. Default: the environment variable NBRUNS_DATA, or the user's data folder.
        idle_timeout: Seconds without requests and active runs after which the server stops.
        **options: `timeout` and `max_retries` of `nbruns.Client`.

    Raises:
        SetupError: The server can't be started, or the folder is not writable.
    """
    folder = data_folder(data)
    token = token_of(folder)
    try:
        starting = FileLock(folder / "starting.lock", timeout=2 * _START_TIMEOUT)
        with _writing(folder):
            starting.acquire()
        try:
            server = _joined(folder) or _started(folder, idle_timeout)
        finally:
            starting.release()
    except Timeout:
        raise SetupError(
            f"Another program has been starting the server of {shown(folder)} for minutes. Stop that program."
        ) from None
    from nbruns.client import Client

    client = Client(f"{server.url}/v1", token, **options)  # type: ignore[arg-type]  # max_retries is whole
    client.server = server
    return client


def server_of(folder: Path) -> LocalServer | None:
    """Return the running server of a folder, or None."""
    address = _address(folder) if is_serving(folder) else None
    return None if address is None else LocalServer(folder, str(address.get("url")))


def data_folder(data: str | Path | None = None) -> Path:
    """Return the folder of a server's data, created for the owner only if necessary. Raises SetupError."""
    folder = Path(data or os.environ.get("NBRUNS_DATA") or platformdirs.user_data_path("nbruns")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SetupError(
            f"{shown(folder)}: {error.strerror}. Pass another folder with --data or NBRUNS_DATA."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise SetupError(f"{shown(folder)} is not writable. Pass another folder with --data or NBRUNS_DATA.")
    return folder.resolve()


def shown(path: Path) -> str:
    """Return a path for display, with ~ for the home folder, so that shared outputs don't contain the user's name."""
    home = Path(
        os.path.expanduser("~")
    ).resolve()  # without a home folder, this stays "~", which is a parent of no path
    at_home = path.is_relative_to(home) and home != home.parent
    return f"~/{path.relative_to(home).as_posix()}" if at_home else str(path)


def token_of(folder: Path) -> str:
    """Return the token of a folder's server, which is created once and readable by the owner only.

    Raises SetupError if the file is not readable or writable, or contains no token.
    """
    kept = folder / "token"
    with _writing(folder):
        if not kept.exists():
            _write_token(kept)
        token = kept.read_text(errors="replace").strip()
    if not (token and token.isascii() and token.isprintable()):
        raise SetupError(f"{shown(kept)} contains no token. Delete it; the next start creates a new one.")
    return token


def _write_token(kept: Path) -> None:
    # Write to a draft, then link it: readers never see an incomplete token, and only one of two writers succeeds.
    draft = kept.with_name(f"token.{os.getpid()}")
    try:
        with open(draft, "w", opener=_private) as file:
            file.write(f"nbruns-{secrets.token_urlsafe(32)}")
            file.flush()
            os.fsync(file.fileno())  # otherwise the token could be empty after a power failure
        with contextlib.suppress(FileExistsError):
            os.link(draft, kept)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise a SetupError if a file can't be written, for example because the disk is full."""
    try:
        yield
    except Timeout:  # a subclass of OSError
        raise
    except OSError as error:
        raise SetupError(
            f"{shown(folder)} is not writable ({error.strerror}). Free some space there, or pass another "
            "folder with --data or NBRUNS_DATA."
        ) from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """Lock a folder while serving it. Yields the path of the file for the address.

    Raises SetupError if another server holds the lock.
    """
    lock, address = FileLock(folder / "serving.lock"), folder / "server.json"
    try:
        with _writing(folder):
            lock.acquire(timeout=0.5)  # wait briefly, because is_serving() holds the lock for a moment
    except Timeout:
        url = (_address(folder) or {}).get("url", "an unknown address")
        raise SetupError(
            f"{shown(folder)} is in use by the server at {url}. Use that server, stop it (nbruns stop), "
            "or pass another --data."
        ) from None
    address.unlink(missing_ok=True)  # left by a server that was killed
    before = os.umask(0o077)  # other users may have access to the folder
    try:
        yield address
    finally:
        os.umask(before)
        address.unlink(missing_ok=True)
        lock.release()


def tell_address(file: Path, url: str) -> None:
    """Write the server's address to the file, so that `local()` can connect to the server."""
    draft = file.with_suffix(".new")
    with _writing(file.parent):
        draft.write_text(json.dumps({"url": url, "pid": os.getpid(), "version": __version__}))
        draft.replace(file)


def is_serving(folder: Path) -> bool:
    """Whether a server holds the lock of this folder."""
    lock = FileLock(folder / "serving.lock")
    try:
        with _writing(folder):
            lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _joined(folder: Path) -> LocalServer | None:
    """Return the folder's running server, once it responds; None if no server is running. A server of another version
    of nbruns is stopped first.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    while is_serving(folder):
        address = _address(folder)
        if address is not None:
            server = LocalServer(folder, address["url"])
            if address.get("version") != __version__:
                server.stop()  # its runs continue on the server that is started next
                return None
            _await_health(server.url)
            return server
        if time.monotonic() > deadline:
            raise SetupError(f"A server holds {shown(folder)}, but has not published its address. Stop it.")
        time.sleep(0.05)  # the server is starting or stopping
    return None


def _started(folder: Path, idle_timeout: float) -> LocalServer:
    command = [sys.executable, "-m", "nbruns", "serve", "--data", str(folder), "--port", "0"]
    # The log file is never truncated, so log only warnings and errors.
    command += ["--idle-timeout", str(idle_timeout), "--log-level", "warning"]
    # Start it in its own session, so that it survives a restart of the kernel, which ends the kernel's processes.
    own = {"creationflags": 0x00000008} if sys.platform == "win32" else {"start_new_session": True}
    with _writing(folder):
        log = open(folder / "server.log", "wb", opener=_private)  # noqa: SIM115
    with log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            **own,
        )
    # Wait for its exit in a thread, otherwise it remains a zombie until this process ends.
    threading.Thread(target=process.wait, name="nbruns-server-ends", daemon=True).start()
    deadline = time.monotonic() + _START_TIMEOUT
    import nbruns.client  # noqa: F401  # slow: import it while the server starts

    while (address := _address(folder)) is None or address["pid"] != process.pid:
        if process.poll() is not None:
            lines = (folder / "server.log").read_text(errors="replace").strip().splitlines() or [
                "server.log is empty; is the disk full?"
            ]
            why = lines[-1].removeprefix("nbruns: ")
            raise SetupError(f"The local server did not start: {excerpt(why, 500)}")
        if time.monotonic() > deadline:
            process.kill()
            raise SetupError(
                f"The local server did not start within {_START_TIMEOUT:.0f} s; see {shown(folder)}/server.log."
            )
        time.sleep(0.02)
    return LocalServer(folder, address["url"])


def _await_health(url: str) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT
    while not _is_healthy(url):
        if time.monotonic() > deadline:
            raise SetupError(f"The server at {url} holds its data folder, but does not respond. Stop it.")
        time.sleep(0.05)


def _is_healthy(url: str) -> bool:
    import requests

    try:
        return requests.get(f"{url}/health", timeout=_STOP_TIMEOUT).ok
    except requests.RequestException:
        return False


def _address(folder: Path) -> JSON | None:
    """Return what the folder's server wrote with `tell_address` (url, pid, version), or None."""
    try:
        address = json.loads((folder / "server.json").read_text())
    except (OSError, ValueError):
        return None
    # stop() sends a signal to this process id. Ids of 0 or less would address several processes.
    is_valid = isinstance(address, dict) and isinstance(address.get("url"), str)
    return address if is_valid and type(address.get("pid")) is int and address["pid"] > 1 else None


def _pid(folder: Path) -> int | None:
    return (_address(folder) or {}).get("pid")
