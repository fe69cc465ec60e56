"""Import objects of other servers into the database of this one: see `import_files`.

All objects are first written to a temporary file, because an export can be larger than the memory and its pages can be
newest first, while lists are in the order in which objects are stored. Then they are stored in groups, each in one
transaction, so that a server that is using the database never waits long.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import sqlalchemy as sa
from pydantic import ValidationError

from nbruns.objects import utc
from nbruns.server.hosted import TOOLS
from nbruns.server.schemas.base import refusal
from nbruns.server.schemas.runs import ACTIVE, ENDED, RunError, RunStepError
from nbruns.server.schemas.threads import ThreadObject, text_content
from nbruns.server.storage import files, migrations, store
from nbruns.server.storage.database import Database, Transaction, encode
from nbruns.server.storage.exports import SCHEMAS, Unreadable, files_of, read
from nbruns.text import JSON, excerpt

#: Maximum number of objects, and of characters of their JSON, per transaction.
_GROUP, _GROUP_CHARS = 500, 4 * 1024**2
#: In the order of import, because a step requires its run, and a message its thread.
_TABLES: dict[str, sa.Table] = {
    "assistant": store.assistants,
    "thread": store.threads,
    "thread.run": store.runs,
    "thread.message": store.messages,
    "thread.run.step": store.steps,
}
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

#: Called with a file, a line in it (0: the whole file), and a message about it.
Say = Callable[[Path, int, str], None]


@dataclass
class Imported:
    """The result of an import: numbers of new and of existing objects by kind, of threads created because the files
    refer to them, and of failures."""

    new: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    made_threads: int = 0
    failures: int = 0


def import_files(database_url: str, paths: Iterable[Path], say: Say) -> Imported:
    """Import the objects of files and folders into a database. Objects with existing ids are not changed.

    Args:
        database_url: As in `serve`. A server can be using the database.
        paths: Files of JSON, JSON lines or Parquet, or folders of them.
        say: Called for each object that can't be imported, or that is changed by the import.

    Raises:
        SetupError: The database can't be used, or a package is missing.
    """
    done = Imported()
    database = Database(database_url, store.EventLog())
    try:
        migrations.prepare(database.engine)
        with (
            tempfile.TemporaryDirectory(prefix="nbruns-import-") as folder,
            closing(sqlite3.connect(Path(folder, "staged.sqlite"))) as staged,
        ):
            _Import(database.engine, staged, say, done).work(paths)
    finally:
        database.close()
    return done


class _Staged(NamedTuple):
    """An object that has been read."""

    file: Path
    line: int
    notes: list[str]
    body: JSON


_STAGE = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE staged (position INTEGER PRIMARY KEY, kind TEXT, id TEXT, owner TEXT, thread TEXT, created_at INTEGER,
    ended INTEGER, file TEXT, line INTEGER, notes TEXT, body TEXT, UNIQUE (kind, id));
"""
#: If an object occurs several times, as in the events of a stream, the last ended state is used.
_PUT = """
INSERT INTO staged (kind, id, owner, thread, created_at, ended, file, line, notes, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET ended = excluded.ended,
file = excluded.file, line = excluded.line, notes = excluded.notes, body = excluded.body WHERE excluded.ended >= ended
"""
#: Whether the objects of each list are oldest first, so that those of the same second keep their order. Lists within a
#: single second are assumed to have the same order as the others.
_DIRECTIONS = """
CREATE TABLE directions AS SELECT kind, owner, sum((created_at > before) - (created_at < before)) AS up FROM
    (SELECT kind, owner, created_at, lag(created_at, 1, created_at) OVER (PARTITION BY kind, owner ORDER BY position)
    AS before FROM staged) GROUP BY kind, owner;
UPDATE directions SET up = (SELECT sum(up) FROM directions) WHERE up = 0;
CREATE INDEX direction ON directions (kind, owner);
"""
_IN_ORDER = """
SELECT file, line, notes, body FROM staged JOIN directions USING (kind, owner) WHERE kind = ?
ORDER BY created_at, CASE WHEN up >= 0 THEN position ELSE -position END
"""
_UNTOLD_THREADS = """
SELECT thread, min(created_at) FROM staged WHERE thread != '' AND thread NOT IN
    (SELECT id FROM staged WHERE kind = 'thread') GROUP BY thread ORDER BY min(created_at)
"""


class _Import:
    """One import, from the files to the database."""

    def __init__(self, engine: sa.Engine, staged: sqlite3.Connection, say: Say, done: Imported) -> None:
        self._engine, self._staged, self._say, self._done = engine, staged, say, done

    def work(self, paths: Iterable[Path]) -> None:
        self._staged.executescript(_STAGE)
        for path in paths:
            if not (found := files_of(path)):
                self._failed(path, 0, "No file of JSON, JSON lines or Parquet is in this folder.")
            for file in found:
                self._stage(file)
        self._staged.executescript(_DIRECTIONS)
        for kind in _TABLES:
            if kind == "thread":
                self._make_threads()
            for group in _groups(self._staged.execute(_IN_ORDER, (kind,))):
                objects = [
                    _Staged(Path(file), line, json.loads(notes), json.loads(body))
                    for file, line, notes, body in group
                ]
                with self._engine.connect().execution_options(writes=True) as conn, conn.begin():
                    self._store(conn, kind, objects)

    def _failed(self, file: Path, line: int, why: str) -> None:
        self._done.failures += 1
        self._say(file, line, why)

    def _stage(self, file: Path) -> None:
        for found in read(file):
            if isinstance(found, Unreadable):
                self._failed(file, found.line, found.why)
                continue
            try:
                body, notes = normalized(found.object)
            except ValueError as error:
                kind, id = found.object["object"], excerpt(found.object.get("id"), 70)
                self._failed(file, found.line, f"The {_noun(kind)} {id} is not imported: {error}")
                continue
            kind = body["object"]
            owner = body["run_id"] if kind == "thread.run.step" else body.get("thread_id") or ""
            ended = found.object.get("status") not in ACTIVE
            row = (kind, body["id"], owner, body.get("thread_id") or "", body["created_at"], ended)
            self._staged.execute(_PUT, (*row, str(file), found.line, encode(notes), encode(body)))

    def _make_threads(self) -> None:
        """Create the threads of messages, runs and steps that no file contains, because few exports include threads."""
        for group in _groups(self._staged.execute(_UNTOLD_THREADS)):
            with self._engine.connect().execution_options(writes=True) as conn, conn.begin():
                known = _known(conn, store.threads, [id for id, _ in group])
                for id, created_at in group:
                    if id not in known:
                        store.add(conn, store.threads, ThreadObject.new(id=id, created_at=created_at))
                        self._done.made_threads += 1

    def _store(self, conn: sa.Connection, kind: str, group: list[_Staged]) -> None:
        table = _TABLES[kind]
        known = _known(conn, table, [each.body["id"] for each in group])
        runs = {}
        if kind == "thread.run.step":
            runs = _threads_of_runs(conn, {each.body["run_id"] for each in group})
        tx = Transaction(conn, "import")
        for file, line, notes, body in group:
            if body["id"] in known:
                self._done.known[kind] += 1
                continue
            if kind == "thread.run.step" and runs.get(body["run_id"]) != body["thread_id"]:
                run = f"its run {body['run_id']} of the thread {body['thread_id']} is neither here nor in the files."
                self._failed(file, line, f"The run step {body['id']} is not imported: {run}")
                continue
            kept = _with_what_is_here(conn, body)
            left_out = "files and vector stores in its {} that don't exist here are left out."
            notes += [left_out.format(name) for name in sorted(kept) if kept[name] != body[name]]
            for note in notes:
                self._say(file, line, f"{body['id']}: {note}")
            store.add(conn, table, kept)
            self._done.new[kind] += 1
            if kind == "thread.run":
                # Streams of the run then contain its end.
                tx.emit(body["id"], f"thread.run.{body['status']}", kept)
        store.EventLog().write(tx)


def _noun(kind: str) -> str:
    return kind.removeprefix("thread.").replace(".", " ")


def _groups(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows in groups. The last column of a row is its JSON, if it has any."""
    group: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row[-1]) if isinstance(row[-1], str) else 0
        if len(group) == _GROUP or size > _GROUP_CHARS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _known(conn: sa.Connection, table: sa.Table, ids: list[str]) -> set[str]:
    return set(conn.scalars(sa.select(table.c.id).where(table.c.id.in_(ids))))


def _threads_of_runs(conn: sa.Connection, ids: set[str]) -> dict[str, str]:
    rows = conn.execute(sa.select(store.runs.c.id, store.runs.c.thread_id).where(store.runs.c.id.in_(ids)))
    return {row.id: row.thread_id for row in rows}


def _with_what_is_here(conn: sa.Connection, body: JSON) -> JSON:
    """Return an object without references to files and vector stores that don't exist on this server."""
    resources = {
        tool: {name: _existing(conn, name, given) for name, given in of_tool.items()}
        for tool, of_tool in (body.get("tool_resources") or {}).items()
    }
    named = [each["file_id"] for each in body.get("attachments") or [] if each.get("file_id")]
    missing = set(files.unknown_files(conn, named))
    attachments = [each for each in body.get("attachments") or [] if each.get("file_id") not in missing]
    kept = {"tool_resources": resources, "attachments": attachments}
    return body | {name: value for name, value in kept.items() if name in body}


def _existing(conn: sa.Connection, name: str, given: Any) -> Any:
    if name == "file_ids" and given:
        missing = set(files.unknown_files(conn, given))
        return [id for id in given if id not in missing]
    if name == "vector_store_ids" and given:
        known = _known(conn, files.vector_stores, given)
        return [id for id in given if id in known]
    return given


def normalized(given: JSON) -> tuple[JSON, list[str]]:
    """Return an object of another server in the form in which this one stores it, and notes about the changes.

    Raises ValueError with the reason if it can't be stored.
    """
    kind = given["object"]
    schema = SCHEMAS[kind]
    body = {name: given[name] for name in schema.model_fields if given.get(name) is not None}
    for name in [name for name in body if name.endswith("_at")]:
        if (moment := utc(body[name])) is None:
            raise ValueError(f"{excerpt(body[name], 50)} in '{name}' is no time.")
        body[name] = int(moment.timestamp())
    if isinstance(resources := body.get("tool_resources"), dict):  # SDKs write nulls for missing fields
        body["tool_resources"] = {tool: given for tool, given in resources.items() if given is not None}
    notes = _FORMS[kind](body)
    if given.get("file_ids"):
        notes.append("its file_ids, of the first version of the API, are left out: the files are not here.")
    if missing := [
        name for name, field in schema.model_fields.items() if field.is_required() and name not in body
    ]:
        raise ValueError(f"it has no '{missing[0]}'.")
    for name in {"id", "thread_id", "run_id", "assistant_id"} & body.keys():
        if not (isinstance(body[name], str) and _ID.fullmatch(body[name])):
            raise ValueError(f"{excerpt(repr(body[name]), 80)} is no id ('{name}').")
    body = schema.new(**body)
    try:
        schema.model_validate(body)
    except ValidationError as error:
        raise ValueError(str(refusal(error))) from None
    return body, notes


def _tools(body: JSON) -> list[str]:
    tools = body.get("tools")
    if not isinstance(tools, list):
        return []
    notes = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            continue
        if tool.get("type") == "retrieval":  # file_search, in the first version of the API
            tools[index] = tool = {**tool, "type": "file_search"}
        if (hosted := TOOLS.get(str(tool.get("type")))) is not None:
            try:
                checked = hosted.schema.model_validate(tool).model_dump(exclude_none=True, by_alias=True)
            except ValidationError:
                checked = {"type": tool["type"]}
                notes.append(f"settings of its tool {tool['type']} that are not known here are left out.")
            tools[index] = hosted.complete(checked)
    return notes


def _run(body: JSON) -> list[str]:
    body.update({name: value for name, value in _RUN_DEFAULTS.items() if name not in body})
    notes = _tools(body)
    body.pop("required_action", None)
    if body.get("status") not in ENDED:
        notes.append(
            f"it was {excerpt(body.get('status'), 30)} when it was exported, and is imported as expired."
        )
        body["status"] = "expired"
    _error(body, RunError)
    return notes


_RUN_DEFAULTS: JSON = {"tools": [], "tool_resources": {}, "temperature": 1.0, "top_p": 1.0}


def _message(body: JSON) -> list[str]:
    if isinstance(body.get("content"), str):
        body["content"] = [text_content(body["content"])]
    if body.get("status") == "in_progress":
        ended = {"incomplete_details": {"reason": "run_expired"}, "incomplete_at": body.get("created_at")}
        body.update(status="incomplete", **ended)
    return []


def _step(body: JSON) -> list[str]:
    if body.get("status") == "in_progress":
        body.update(status="expired", expired_at=body.get("created_at"))
    _error(body, RunStepError)
    return []


def _error(body: JSON, schema: type[RunError | RunStepError]) -> None:
    """Move an error code that the API doesn't have into the message."""
    error = body.get("last_error")
    known = get_args(schema.model_fields["code"].annotation)
    if isinstance(error, dict) and (code := error.get("code")) not in known:
        message = f"{excerpt(code, 60)}: {error.get('message') or ''}"
        body["last_error"] = {"code": "server_error", "message": message}


_FORMS: dict[str, Callable[[JSON], list[str]]] = {
    "assistant": _tools,
    "thread": lambda body: [],
    "thread.run": _run,
    "thread.message": _message,
    "thread.run.step": _step,
}
