"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, reached by a socket there."""

from __future__ import annotations

import getpass
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

#: Gives the URL of a new, empty database.
NewDatabase = Callable[[], str]

# Nothing in it outlives the tests, so it need not reach the disk.
_HASTE = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "listen_addresses=",
    "max_connections=80",
)


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is; Debian keeps those of the server out of the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(debian[-1]) if debian else shutil.which(name)


@contextmanager
def cluster() -> Iterator[NewDatabase]:
    """A PostgreSQL that runs meanwhile; skips where there is none, unless NBRUNS_REQUIRE_POSTGRESQL=1."""
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        why = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        (pytest.fail if os.environ.get("NBRUNS_REQUIRE_POSTGRESQL") == "1" else pytest.skip)(why)
    # The path of a socket may not be long.
    folder = Path(tempfile.mkdtemp(prefix="nbruns-pg-", dir=_memory()))
    # PostgreSQL refuses to be root; its package has made a user for it.
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    shutil.chown(folder, user)
    owned = {"user": user, "cwd": folder} if os.geteuid() == 0 else {"cwd": folder}
    made = [initdb, "-D", folder / "data", "-U", "nbruns", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    subprocess.run(made, check=True, capture_output=True, **owned)
    options = itertools.chain.from_iterable(("-c", option) for option in _HASTE)
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [postgres, "-D", folder / "data", "-k", folder, *options], stdout=log, stderr=log, **owned
        )
    try:
        yield _databases(f"host={folder} user=nbruns", folder)
    finally:
        server.send_signal(signal.SIGINT)  # "fast": whoever is connected is disconnected
        server.wait(30)
        shutil.rmtree(folder)


def _memory() -> Path | None:
    """A folder in memory, where there is one: each database is 300 files, which a busy disk takes minutes to delete."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2**30 else None


def _databases(reached: str, folder: Path) -> NewDatabase:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"{reached} dbname=postgres").close()
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
    numbers = itertools.count(1)

    def new() -> str:
        name = f"test_{next(numbers)}"
        with psycopg.connect(f"{reached} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://nbruns@/{name}?host={folder}"

    return new
