"""Files, vector stores and models: `client.files`, `client.vector_stores`, `client.models`."""

from __future__ import annotations

import glob
import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nbruns import errors, frames
from nbruns.client.pagination import iter_pages
from nbruns.client.resources import Resource, id_of
from nbruns.client.transport import path_of
from nbruns.objects import APIObject, File, Model, VectorStore, VectorStoreFile
from nbruns.text import JSON, excerpt

if TYPE_CHECKING:
    import pandas as pd

#: A file to upload: a path, bytes, an open file, a DataFrame, or a pair of a name and one of these.
Source = Any
FileArg = str | File
VectorStoreArg = str | VectorStore

#: Seconds between two polls of a vector store, at first and at most.
_POLL_FIRST, _POLL_MOST = 0.1, 2.0
#: Larger files are uploaded with a progress bar, in bytes.
_SHOWN_BYTES = 5_000_000
#: Maximum number of files added to a vector store in one request.
_BATCH = 500


class Files(Resource):
    """Files: `client.files`."""

    def create(
        self, source: Source, *, purpose: str = "assistants", name: str | None = None, progress: bool | None = None,
        **params: Any,
    ) -> File:  # fmt: skip
        """Upload a file.

            client.files.create("report.pdf")
            client.files.create(runs, name="runs.csv")           # a DataFrame

        Args:
            source: A path, bytes, a file that is open in binary mode, a DataFrame, or a pair of a name and one of
                these. A DataFrame is sent as CSV, or as Parquet, Excel or JSON lines if `name` ends in `.parquet`,
                `.xlsx` or `.jsonl`.
            purpose: What the file is for, such as `"assistants"`, `"vision"` or `"user_data"`.
            name: Name of the file on the server. Default: the name of `source`; `file.txt` for bytes, `data.csv` for
                a DataFrame.
            progress: Whether to show a progress bar. Default: for files over 5 MB.
            **params: Other parameters of the API, such as `expires_after`.

        Raises:
            FileNotFoundError: `source` is a path, and the file doesn't exist.
            TypeError: `source` is something else.
            APIError: The server refuses the file.
        """
        fields = _form_fields({"purpose": purpose, **params})
        with _opened(source, name) as (file, file_name, size):
            shown = size > _SHOWN_BYTES if progress is None else progress
            with _bar(size, file_name[:40], shown, unit="B", unit_scale=True) as bar:
                return File(self._transport.upload("/files", fields, file, file_name, size, bar.update))

    def retrieve(self, file: FileArg) -> File:
        """Retrieve the name, size and other fields of a file. For its bytes, see `content` and `download`.

        Args:
            file: The file, or its id.

        Raises:
            NotFoundError: The file doesn't exist.
        """
        return File(self._get("files", id_of(file)))

    def content(self, file: FileArg) -> bytes:
        """Return the bytes of a file.

        Args:
            file: The file, or its id.

        Raises:
            NotFoundError: The file doesn't exist.
        """
        return b"".join(self._transport.download(path_of("files", id_of(file), "content")))

    def download(self, file: FileArg, path: str | os.PathLike[str]) -> Path:
        """Save a file on this machine. The file appears when it is complete.

            client.files.download(file, "reports/")

        Args:
            file: The file, or its id.
            path: Where to save it. In an existing folder, it keeps its own name.

        Returns:
            The path of the saved file.

        Raises:
            NotFoundError: The file doesn't exist.
            ConnectionError: The connection broke before the end of the file.
        """
        target = Path(path)
        if target.is_dir():
            known = file if isinstance(file, File) else self.retrieve(file)
            target /= Path(str(known.filename).replace("\\", "/")).name or "file"
        part = target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as saved:
                for piece in self._transport.download(path_of("files", id_of(file), "content")):
                    saved.write(piece)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def delete(self, file: FileArg) -> None:
        """Delete a file, and remove it from vector stores.

        Args:
            file: The file, or its id.

        Raises:
            NotFoundError: The file doesn't exist.
        """
        self._delete("files", id_of(file))

    def iter(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> Iterator[File]:
        """Iterate over files. Pages are requested as needed.

        Args:
            limit: Maximum number of files. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `purpose`, `after` and `before`.
        """
        return map(File, iter_pages(self._transport, "/files", {"order": order, **params}, limit))

    def list(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> pd.DataFrame:
        """Return files as a DataFrame with one row for each.

        Args:
            limit: Maximum number of files. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `purpose`, `after` and `before`.
        """
        return self._frame("file", self.iter(limit=limit, order=order, **params), limit)


class VectorStoreFiles(Resource):
    """Files of vector stores: `client.vector_stores.files`."""

    def create(self, vector_store: VectorStoreArg, file: FileArg, **params: Any) -> VectorStoreFile:
        """Add a file to a vector store. The server reads it in the background: see `client.vector_stores.wait`.

        Args:
            vector_store: The vector store, or its id.
            file: The file, or its id.
            **params: Other parameters of the API: `attributes`, by which searches can filter, and
                `chunking_strategy`.

        Raises:
            NotFoundError: The vector store or the file doesn't exist.
        """
        body = {"file_id": id_of(file), **params}
        return VectorStoreFile(self._post("vector_stores", id_of(vector_store), "files", body=body))

    def retrieve(self, vector_store: VectorStoreArg, file: FileArg) -> VectorStoreFile:
        """Retrieve the status of a file in a vector store.

        Args:
            vector_store: The vector store, or its id.
            file: The file, or its id.

        Raises:
            NotFoundError: The vector store doesn't exist or doesn't contain the file.
        """
        return VectorStoreFile(self._get("vector_stores", id_of(vector_store), "files", id_of(file)))

    def update(
        self, vector_store: VectorStoreArg, file: FileArg, attributes: Mapping[str, Any]
    ) -> VectorStoreFile:
        """Replace the attributes of a file in a vector store.

        Args:
            vector_store: The vector store, or its id.
            file: The file, or its id.
            attributes: The new attributes, at most 16. Searches can filter by them.

        Returns:
            The updated file. The object that you pass doesn't change.

        Raises:
            NotFoundError: The vector store doesn't exist or doesn't contain the file.
        """
        path = ("vector_stores", id_of(vector_store), "files", id_of(file))
        return VectorStoreFile(self._post(*path, body={"attributes": dict(attributes)}))

    def text(self, vector_store: VectorStoreArg, file: FileArg) -> str:
        """Return the text that the server has extracted from a file. Its passages are separated by empty lines.

        Args:
            vector_store: The vector store, or its id.
            file: The file, or its id.

        Raises:
            NotFoundError: The vector store doesn't exist or doesn't contain the file.
        """
        page = self._get("vector_stores", id_of(vector_store), "files", id_of(file), "content")
        return "\n\n".join(str(part.get("text", "")) for part in page.get("data", []))

    def delete(self, vector_store: VectorStoreArg, file: FileArg) -> None:
        """Remove a file from a vector store. The file itself is kept.

        Args:
            vector_store: The vector store, or its id.
            file: The file, or its id.

        Raises:
            NotFoundError: The vector store doesn't exist or doesn't contain the file.
        """
        self._delete("vector_stores", id_of(vector_store), "files", id_of(file))

    def iter(
        self, vector_store: VectorStoreArg, *, limit: int | None = None, order: str = "desc", **params: Any
    ) -> Iterator[VectorStoreFile]:
        """Iterate over the files of a vector store. Pages are requested as needed.

        Args:
            vector_store: The vector store, or its id.
            limit: Maximum number of files. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `filter` (a status, such as `"failed"`), `after` and `before`.

        Raises:
            NotFoundError: The vector store doesn't exist.
        """
        path = path_of("vector_stores", id_of(vector_store), "files")
        return map(VectorStoreFile, iter_pages(self._transport, path, {"order": order, **params}, limit))

    def list(
        self, vector_store: VectorStoreArg, *, limit: int | None = None, order: str = "desc", **params: Any
    ) -> pd.DataFrame:
        """Return the files of a vector store as a DataFrame with one row for each.

            client.vector_stores.files.list(store, filter="failed")

        Args:
            vector_store: The vector store, or its id.
            limit: Maximum number of files. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `filter` (a status, such as `"failed"`), `after` and `before`.

        Raises:
            NotFoundError: The vector store doesn't exist.
        """
        objects = self.iter(vector_store, limit=limit, order=order, **params)
        return self._frame("vector_store_file", objects, limit)


class VectorStores(Resource):
    """Vector stores: `client.vector_stores`."""

    @property
    def files(self) -> VectorStoreFiles:
        """The files of vector stores."""
        return VectorStoreFiles(self._transport)

    def create(
        self,
        sources: Source | Iterable[Source] = (),
        *,
        name: str | None = None,
        wait: bool = True,
        progress: bool | None = None,
        timeout: float | None = None,
        **params: Any,
    ) -> VectorStore:
        """Create a vector store from files, and wait until they can be searched.

            client.vector_stores.create("handbook/")                     # a folder and its subfolders
            client.vector_stores.create("reports/*.pdf", name="Reports")
            client.vector_stores.create([file, "notes.md"], expires_after={"anchor": "last_active_at", "days": 7})

        Args:
            sources: One or several of: a folder, a glob pattern, a file to upload as in `client.files.create`, an
                uploaded file or its id. Hidden files in folders are skipped.
            name: Name of the store.
            wait: Whether to wait until the server has read all files.
            progress: Whether to show a progress bar. Default: if there are several files.
            timeout: Maximum number of seconds to wait. Default: no limit.
            **params: Other parameters of the API, such as `chunking_strategy`, `expires_after` and `metadata`.

        Returns:
            The vector store. Files that could not be read are counted in `file_counts`; see
            `client.vector_stores.files.list(store, filter="failed")`.

        Raises:
            FileNotFoundError: A file doesn't exist, or no file matches a pattern.
            TimeoutError: The server has not read the files after `timeout` seconds. It continues.
            APIError: The server refuses a file.
        """
        found = _expanded(sources)
        shown = len(found) > 1 if progress is None else progress
        ids = []
        with _bar(len(found), "Uploading", shown) as bar:
            for each in found:
                if isinstance(each, File) or (
                    isinstance(each, str) and each.startswith(("file-", "assistant-"))
                ):
                    ids.append(id_of(each))
                else:
                    ids.append(Files(self._transport).create(each, progress=False).id)
                bar.update()
        body = {"name": name, **params}
        chunking = {name: body[name] for name in ("chunking_strategy",) if name in body}
        body = {name: value for name, value in body.items() if value is not None}
        store = VectorStore(
            self._post("vector_stores", body={**body, "file_ids": ids[:_BATCH]} if ids else body)
        )
        for start in range(_BATCH, len(ids), _BATCH):
            more = {"file_ids": ids[start : start + _BATCH], **chunking}
            self._post("vector_stores", store.id, "file_batches", body=more)
        return self.wait(store, progress=shown, timeout=timeout) if wait and ids else store

    def wait(
        self, vector_store: VectorStoreArg, *, progress: bool | None = None, timeout: float | None = None
    ) -> VectorStore:
        """Wait until the server has read all files of a vector store.

        Args:
            vector_store: The vector store, or its id.
            progress: Whether to show a progress bar. Default: no.
            timeout: Maximum number of seconds to wait. Default: no limit.

        Returns:
            The vector store. Files that could not be read are counted in `file_counts`.

        Raises:
            NotFoundError: The vector store doesn't exist.
            TimeoutError: The server has not read the files after `timeout` seconds. It continues.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        store, pause = self.retrieve(vector_store), _POLL_FIRST
        total = _count(store, "total")
        with _bar(total, "Reading", bool(progress)) as bar:
            while True:
                bar.n = _count(store, "total") - _count(store, "in_progress")
                bar.total = _count(store, "total")
                bar.refresh()
                if store.status != "in_progress":
                    return store
                if deadline is not None and time.monotonic() + pause > deadline:
                    raise errors.TimeoutError(
                        f"{store.id}: {_count(store, 'in_progress'):,} files were not read after {timeout:g} s. The "
                        "server continues: wait for it with client.vector_stores.wait(…)."
                    )
                time.sleep(pause)
                pause = min(pause * 1.5, _POLL_MOST)
                store = self.retrieve(vector_store)

    def retrieve(self, vector_store: VectorStoreArg) -> VectorStore:
        """Retrieve a vector store.

        Args:
            vector_store: The vector store, or its id.

        Raises:
            NotFoundError: The vector store doesn't exist.
        """
        return VectorStore(self._get("vector_stores", id_of(vector_store)))

    def update(self, vector_store: VectorStoreArg, **params: Any) -> VectorStore:
        """Update a vector store.

        Args:
            vector_store: The vector store, or its id.
            **params: The fields to change: `name`, `metadata` or `expires_after`. Other fields are kept.

        Returns:
            The updated vector store. The object that you pass doesn't change.

        Raises:
            NotFoundError: The vector store doesn't exist.
        """
        return VectorStore(self._post("vector_stores", id_of(vector_store), body=params))

    def delete(self, vector_store: VectorStoreArg) -> None:
        """Delete a vector store. Its files are kept.

        Args:
            vector_store: The vector store, or its id.

        Raises:
            NotFoundError: The vector store doesn't exist.
        """
        self._delete("vector_stores", id_of(vector_store))

    def search(self, vector_store: VectorStoreArg, query: str | Sequence[str], **params: Any) -> pd.DataFrame:
        """Search a vector store, and return the best passages as a DataFrame, best first.

            client.vector_stores.search(store, "notice period", max_num_results=5,
                                        filters={"type": "eq", "key": "year", "value": 2026})

        Args:
            vector_store: The vector store, or its id.
            query: What to search for: a text, or several.
            **params: Other parameters of the API: `max_num_results`, `filters` and `ranking_options`.

        Returns:
            A DataFrame with one row for each passage: `score` (0 to 1), `filename`, `file_id`, `text`, `attributes`.

        Raises:
            NotFoundError: The vector store doesn't exist.
        """
        body = {"query": query if isinstance(query, str) else list(query), **params}
        answer = self._post("vector_stores", id_of(vector_store), "search", body=body)
        results = [APIObject(each) for each in answer.get("data", []) if isinstance(each, Mapping)]
        return frames.list_frame(
            "search_result", [frames.list_columns("search_result", results, frames.Budget())]
        )

    def iter(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> Iterator[VectorStore]:
        """Iterate over vector stores. Pages are requested as needed.

        Args:
            limit: Maximum number of vector stores. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `after` and `before`.
        """
        return map(
            VectorStore, iter_pages(self._transport, "/vector_stores", {"order": order, **params}, limit)
        )

    def list(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> pd.DataFrame:
        """Return vector stores as a DataFrame with one row for each.

        Args:
            limit: Maximum number of vector stores. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `after` and `before`.
        """
        return self._frame("vector_store", self.iter(limit=limit, order=order, **params), limit)


class ModelsOfServer(Resource):
    """The models that runs can name: `client.models`."""

    def retrieve(self, model: str) -> Model:
        """Retrieve a model.

        Args:
            model: Name of the model. It can contain slashes.

        Raises:
            NotFoundError: The model doesn't exist.
        """
        return Model(self._get("models", *str(model).split("/")))

    def iter(self) -> Iterator[Model]:
        """Iterate over the models of the server."""
        return map(Model, self._get("models").get("data", []))

    def list(self) -> pd.DataFrame:
        """Return the models of the server as a DataFrame with one row for each."""
        return self._frame("model", self.iter(), None)


def _count(store: VectorStore, name: str) -> int:
    counts = store.file_counts if isinstance(store.file_counts, Mapping) else {}
    count = counts.get(name)
    return count if isinstance(count, int) else 0


def _expanded(sources: Source | Iterable[Source]) -> list[Source]:
    """Return the files to upload and the uploaded files, with folders and patterns expanded."""
    many = isinstance(sources, Iterable) and not _is_source(sources)
    found: list[Source] = []
    for each in sources if many else [sources]:
        if not isinstance(each, (str, os.PathLike)) or str(each).startswith("file-"):
            found.append(each)
            continue
        path = Path(each).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file, path))
        elif path.is_file():
            inside = [path]
        else:
            inside = sorted(
                Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()
            )
        if not inside:
            raise FileNotFoundError(
                f"No file is named {excerpt(str(each))}, and no file matches it as a pattern."
            )
        found += inside
    return found


def _is_source(source: object) -> bool:
    kinds = (str, os.PathLike, bytes, bytearray, io.IOBase, File)
    is_pair = isinstance(source, tuple) and len(source) == 2
    return is_pair or isinstance(source, kinds) or hasattr(source, "to_csv") or hasattr(source, "read")


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


@contextmanager
def _opened(source: Source, name: str | None) -> Iterator[tuple[IO[bytes], str, int]]:
    """Yield a source as an open file, with its name and its size in bytes."""
    if isinstance(source, tuple) and len(source) == 2:
        name, source = source[0], source[1]
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        with path.open("rb") as file:
            yield file, name or path.name, os.fstat(file.fileno()).st_size
        return
    if isinstance(source, (bytes, bytearray)):
        data, name = bytes(source), name or "file.txt"
    elif hasattr(source, "to_csv"):
        name = name or "data.csv"
        data = _table(source, name)
    elif hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise TypeError("Open the file in binary mode: open(path, 'rb').")
        name = name or Path(str(getattr(source, "name", "file"))).name
        if source.seekable():
            begin = source.tell()
            size = source.seek(0, os.SEEK_END) - begin
            source.seek(begin)
            yield source, name, size
            return
        data = source.read()
    else:
        raise TypeError(f"Pass a path, bytes, an open file or a DataFrame, not {excerpt(repr(source))}.")
    yield io.BytesIO(data), name, len(data)


def _table(frame: Any, name: str) -> bytes:
    suffix = Path(name).suffix.lower()
    plain = frames.nested_to_json(frame)
    if suffix == ".parquet":
        return bytes(plain.to_parquet())
    if suffix == ".xlsx":
        packed = io.BytesIO()
        plain.to_excel(packed, index=False)
        return packed.getvalue()
    if suffix == ".jsonl":
        return str(plain.to_json(orient="records", lines=True, date_format="iso")).encode()
    return str(plain.to_csv(index=False)).encode()


def _form_fields(params: Mapping[str, Any]) -> JSON:
    """Return parameters as the fields of a form: `expires_after={"seconds": 60}` as `expires_after[seconds]`."""
    fields: JSON = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            fields |= {f"{name}[{inner}]": str(each) for inner, each in value.items()}
        elif value is not None:
            fields[name] = str(value)
    return fields


def _bar(total: int, what: str, shown: bool, **options: Any) -> Any:
    from tqdm.auto import tqdm  # imported late because it is slow to import, especially in a notebook

    return tqdm(total=total, desc=what, disable=not shown, leave=False, **{"unit": "file", **options})
