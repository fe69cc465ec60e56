"""Files and vector stores that assistants, threads and messages name: checked, and made where they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from nbruns.server import hosted
from nbruns.server.retrieval import vector_stores
from nbruns.server.schemas.errors import Refused
from nbruns.server.storage import files, store
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON


def resolve(tx: Transaction, resources: JSON | None) -> JSON:
    """Return `tool_resources` as they are stored: vector stores that are described in it are created.

    Raises Refused for ids of files and vector stores that don't exist.
    """
    resolved: JSON = {}
    for tool, given in (resources or {}).items():
        if not isinstance(given, dict):  # they name neither files nor vector stores
            resolved[tool] = hosted.TOOLS[tool].stored(given)
            continue
        kept = {name: value for name, value in given.items() if name != "vector_stores"}
        check_files(tx.conn, kept.get("file_ids") or [], f"tool_resources.{tool}.file_ids")
        for id in kept.get("vector_store_ids") or []:
            if store.get(tx.conn, files.vector_stores, id) is None:
                raise Refused(
                    f"No vector store found with id '{id}'.",
                    param=f"tool_resources.{tool}.vector_store_ids",
                    code="invalid_value",
                )
        made = [vector_stores.create(tx, each)["id"] for each in given.get("vector_stores") or []]
        if made:
            kept["vector_store_ids"] = [*(kept.get("vector_store_ids") or []), *made]
        resolved[tool] = kept
    return resolved


def check_files(conn: sa.Connection, ids: Iterable[str], param: str) -> None:
    """Refuse ids that no file has."""
    if unknown := files.unknown_files(conn, ids):
        raise Refused(f"No file found with id '{unknown[0]}'.", param=param, code="invalid_value")


def attach(tx: Transaction, thread: JSON, messages: Sequence[JSON]) -> JSON:
    """Make the files that messages attach for a tool available to it in the thread, and return the thread.

    Files to be searched go into the thread's vector store, which is made for them and lives for seven days after its
    last use.
    """
    for message in messages:
        attached = message.get("attachments") or []
        check_files(tx.conn, [each["file_id"] for each in attached], "attachments.file_id")
        images = [
            part["image_file"]["file_id"] for part in message["content"] if part["type"] == "image_file"
        ]
        check_files(tx.conn, images, "content.image_file.file_id")
    resources: dict[str, Any] = {name: dict(value) for name, value in thread["tool_resources"].items()}
    for tool, ids in _attached(messages).items():
        own = resources.setdefault(tool, {})
        if tool != "file_search":
            own["file_ids"] = list(dict.fromkeys([*(own.get("file_ids") or []), *ids]))
        elif own.get("vector_store_ids"):
            store_id = own["vector_store_ids"][0]
            known = files.files_of(tx.conn, store_id, ids)
            vector_stores.add_files(tx, store_id, [{"file_id": id} for id in ids if id not in known])
        else:
            expiry = {"anchor": "last_active_at", "days": vector_stores.ATTACHMENT_DAYS}
            made = vector_stores.create(tx, {"file_ids": ids, "expires_after": expiry})
            own["vector_store_ids"] = [made["id"]]
    if resources != thread["tool_resources"]:
        thread = thread | {"tool_resources": resources}
        store.put(tx.conn, store.threads, thread)
    return thread


def _attached(messages: Sequence[JSON]) -> dict[str, list[str]]:
    """Return the ids of attached files by the tool that they are for."""
    found: dict[str, list[str]] = {}
    for message in messages:
        for each in message.get("attachments") or []:
            for tool in each.get("tools") or []:
                ids = found.setdefault(tool["type"], [])
                if each["file_id"] not in ids:
                    ids.append(each["file_id"])
    return found
