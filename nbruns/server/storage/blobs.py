"""Blobs: the bytes of files, in a folder or at any URL that fsspec supports, such as s3://bucket/prefix.

A blob is written under a new name before its row is stored, and deleted after its row, so each row has a blob. If the
server is killed in between, the blob without a row is removed at a later start.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from nbruns.errors import SetupError
from nbruns.text import excerpt

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
#: Seconds after which blobs without a row are removed. The rows of younger blobs may not be stored yet.
ORPHAN_SECONDS = 24 * 3600
#: Error numbers for a lack of disk space.
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class NoSpace(Exception):
    """There is no disk space left for a file."""


class Blobs:
    """The bytes of files, by id. `url` is a folder or a URL of fsspec, which is opened at its first use."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        self._opened: tuple[Any, str] | None = None
        # A separate thread pool, so that slow uploads don't block other work in threads.
        self._threads = ThreadPoolExecutor(8, "nbruns-blobs")

    async def check(self) -> None:
        """Create the folder. Raises SetupError if that is not possible."""
        try:
            await self._run(lambda: self._fs[0].makedirs(self._fs[1], exist_ok=True))
        except Exception as error:  # each kind of storage raises different errors
            raise SetupError(
                f"Files can't be stored at {self.url.rpartition('@')[2]} ({type(error).__name__}: {excerpt(error)}). "
                "Pass a folder that you may write to, or a URL of fsspec, with --blobs."
            ) from None

    async def write(self, id: str, sources: Iterable[IO[bytes]]) -> tuple[int, str]:
        """Store the concatenation of these files. Return its size in bytes and its MD5. Raises NoSpace."""
        return await self._run(self._write, id, sources)

    async def read(self, id: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob in pieces. Raises FileNotFoundError."""
        file = await self._run(self.open, id)
        try:
            while piece := await self._run(file.read, CHUNK_BYTES):
                yield piece
        finally:
            await self._run(file.close)

    async def copy(self, id: str, path: Path) -> None:
        """Copy a blob to a file on this machine. Raises FileNotFoundError, NoSpace."""

        def copied() -> None:
            try:
                with self.open(id) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
            except OSError as error:
                if error.errno in FULL:
                    raise NoSpace from error
                raise

        await self._run(copied)

    def open(self, id: str) -> IO[bytes]:
        """Open a blob for reading. Blocks: call it in a thread."""
        fs, folder = self._fs
        opened: IO[bytes] = fs.open(f"{folder}/{id}", "rb")
        return opened

    async def delete(self, ids: Collection[str]) -> None:
        """Delete blobs. Missing blobs are ignored."""
        if ids:
            await self._run(self._delete, ids)

    async def delete_orphans(self, has_row: Callable[[list[str]], Any]) -> None:
        """Delete old blobs whose ids are not among those that `has_row` (a coroutine function) returns."""

        def old() -> list[str]:
            fs, folder = self._fs
            now = time.time()
            return [
                each["name"].rpartition("/")[2]
                for each in fs.ls(folder, detail=True)
                if each["type"] == "file" and now - _seconds(each) > ORPHAN_SECONDS
            ]

        if ids := await self._run(old):
            await self.delete(set(ids) - set(await has_row(ids)))

    def close(self) -> None:
        """Wait for pending writes."""
        self._threads.shutdown()

    @property
    def _fs(self) -> tuple[Any, str]:
        if self._opened is None:
            fs, folder = import_module("fsspec.core").url_to_fs(self.url)
            self._opened = fs, folder.rstrip("/")
        return self._opened

    def _write(self, id: str, sources: Iterable[IO[bytes]]) -> tuple[int, str]:
        fs, folder = self._fs
        size, digest = 0, hashlib.md5(usedforsecurity=False)
        try:
            with fs.open(f"{folder}/{id}", "wb") as target:
                for source in sources:
                    while piece := source.read(CHUNK_BYTES):
                        target.write(piece)
                        digest.update(piece)
                        size += len(piece)
        except OSError as error:
            self._delete([id])
            if error.errno in FULL:
                raise NoSpace from error
            raise
        return size, digest.hexdigest()

    def _delete(self, ids: Iterable[str]) -> None:
        fs, folder = self._fs
        for id in ids:
            try:
                fs.rm_file(f"{folder}/{id}")
            except FileNotFoundError:
                pass

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))


def _seconds(entry: Any) -> float:
    """Return the Unix time at which a blob was written. File systems store it in different fields."""
    known = (entry.get(name) for name in ("mtime", "LastModified", "created"))
    made: Any = next((each for each in known if each is not None), time.time())
    return float(made.timestamp() if hasattr(made, "timestamp") else made)
