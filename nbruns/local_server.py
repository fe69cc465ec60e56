"""`local()`: starts or joins the server on this machine, and gives a client of it. The only place, besides the
command line, where both sides meet.

A data folder holds the database, the server's token (kept, so that other programs can be pointed at it once and for
all), its log, and while it serves its address. Whoever serves a folder holds its lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import requests
from filelock import FileLock, Timeout

from nbruns import __version__
from nbruns.errors import SetupError, excerpt

if TYPE_CHECKING:
    from nbruns.client import Client

#: Seconds without a request and without an active run, after which a server that `local()` started ends by itself.
IDLE_TIMEOUT = 3600.0
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 15.0


class LocalServer:
    """The server behind a `local()` client: `url` is where it listens, `stop()` ends it."""

    def __init__(self, folder: Path, url: str, pid: int) -> None:
        self.url = url
        self._folder = folder
        self._pid = pid

    def __repr__(self) -> str:
        return f"LocalServer({self.url}, data in {self._folder})"

    def stop(self) -> None:
        """End the server. Runs that were active go on when it is started again; nothing is lost."""
        with contextlib.suppress(ProcessLookupError):
            if is_serving(self._folder):
                os.kill(self._pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while is_serving(self._folder):
            if time.monotonic() > deadline:
                raise SetupError(
                    f"{self!r} has not ended within {_STOP_TIMEOUT:.0f} s; its process is {self._pid}."
                )
            time.sleep(0.05)


def local(data: str | Path | None = None, *, idle_timeout: float = IDLE_TIMEOUT, **options: float) -> Client:
    """A client of the server on this machine, which is started if it is not serving already.

    `data` is the folder of its database (default: NBRUNS_DATA, or the user's data folder). The server is a process of
    its own: it outlives the kernel, is joined by the next `local()` with the same data, and ends by itself after
    `idle_timeout` seconds without a request and an active run. `client.server` has its `url` and `stop()`. `options`
    are the Client's `timeout` and `max_retries`. Raises SetupError where it can't be started.
    """
    from nbruns.client import Client

    folder = data_folder(data)
    with FileLock(folder / "starting.lock", timeout=_START_TIMEOUT):
        server = _joined(folder) or _started(folder, idle_timeout)
    client = Client(f"{server.url}/v1", token_of(folder), **options)  # type: ignore[arg-type]  # max_retries is whole
    client.server = server
    return client


def data_folder(data: str | Path | None = None) -> Path:
    """The folder of a server's data, made if need be, for its owner's eyes only. Raises SetupError."""
    folder = Path(data or os.environ.get("NBRUNS_DATA") or platformdirs.user_data_path("nbruns")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SetupError(
            f"{folder}: {error.strerror}. Name another folder, with --data or NBRUNS_DATA."
        ) from None
    if not os.access(folder, os.W_OK):
        raise SetupError(f"{folder} can't be written. Name another folder, with --data or NBRUNS_DATA.")
    return folder.resolve()


def token_of(folder: Path) -> str:
    """The token of a folder's server: made once, kept in the folder for its owner to read."""
    kept = folder / "token"
    if not kept.exists():
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"nbruns-{secrets.token_urlsafe(32)}")
    return kept.read_text().strip()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """Hold a folder while serving it; gives the file to tell the address in. Raises SetupError if another does."""
    lock, address = FileLock(folder / "serving.lock"), folder / "server.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        url = (_address(folder) or {}).get("url", "an address of its own")
        raise SetupError(
            f"{folder} is served already, at {url}. Use that server, or name another --data."
        ) from None
    try:
        yield address
    finally:
        address.unlink(missing_ok=True)
        lock.release()


def tell_address(file: Path, url: str) -> None:
    """Write down where a folder's server listens, for `local()` to join it."""
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps({"url": url, "pid": os.getpid(), "version": __version__}))
    draft.replace(file)


def is_serving(folder: Path) -> bool:
    """Whether a server holds this folder."""
    lock = FileLock(folder / "serving.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _joined(folder: Path) -> LocalServer | None:
    address = _address(folder)
    if address is None or not is_serving(folder):
        return None
    server = LocalServer(folder, str(address["url"]), int(address["pid"]))
    if address.get("version") != __version__:
        server.stop()  # its runs go on under the version that is installed now
        return None
    _await_health(server.url)
    return server


def _started(folder: Path, idle_timeout: float) -> LocalServer:
    command = [sys.executable, "-m", "nbruns", "serve", "--data", str(folder), "--port", "0"]
    command += ["--idle-timeout", str(idle_timeout)]
    # A session of its own: a kernel's restart ends the kernel's processes, and this one is to stay.
    own = {"creationflags": 0x00000008} if sys.platform == "win32" else {"start_new_session": True}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            **own,  # type: ignore[call-overload]
        )
    deadline = time.monotonic() + _START_TIMEOUT
    while (address := _address(folder)) is None or address.get("pid") != process.pid:
        if process.poll() is not None:
            told = (folder / "server.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise SetupError(f"The local server did not start: {excerpt(*told or ['it said nothing'], 500)}")
        if time.monotonic() > deadline:
            process.kill()
            raise SetupError(
                f"The local server did not start within {_START_TIMEOUT:.0f} s; see {folder}/server.log."
            )
        time.sleep(0.02)
    return LocalServer(folder, str(address["url"]), process.pid)


def _await_health(url: str) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT
    while True:
        try:
            if requests.get(f"{url}/health", timeout=_STOP_TIMEOUT).ok:
                return
        except requests.RequestException as error:
            if time.monotonic() > deadline:
                raise SetupError(
                    f"The server at {url} holds its data folder, but does not answer. End it."
                ) from error
        time.sleep(0.05)


def _address(folder: Path) -> dict[str, object] | None:
    try:
        address = json.loads((folder / "server.json").read_text())
    except (OSError, ValueError):
        return None
    return address if isinstance(address, dict) else None
