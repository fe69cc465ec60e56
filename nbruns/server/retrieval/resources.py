"""Files and vector stores of assistants, threads and messages: check their ids, and create new vector stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from nbruns.server import hosted
from nbruns.server.retrieval import vector_stores
from nbruns.server.schemas.errors import Refused
from nbruns.server.storage import files, store
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON


def resolve(tx: Transaction, resources: JSON | None) -> JSON:
    """Return `tool_resources` as they are stored. Vector stores described in them are created.

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
    """Raise Refused for ids of files that don't exist."""
    if unknown := files.unknown_files(conn, ids):
        raise Refused(f"No file found with id '{unknown[0]}'.", param=param, code="invalid_value")


def message_params(conn: sa.Connection, params: JSON) -> JSON:
    """Return the parameters of a message, with `file_ids` (API version 1) converted to attachments."""
    given = {name: value for name, value in params.items() if name != "file_ids"}
    if ids := params.get("file_ids"):
        check_files(conn, ids, "file_ids")
        tools = [{"type": tool} for tool in hosted.FILE_TOOLS if hosted.offered(tool)]
        attached = [{"file_id": id, "tools": tools} for id in dict.fromkeys(ids)]
        given["attachments"] = [*(given.get("attachments") or []), *attached]
    return given


def assistant_resources(tx: Transaction, params: JSON, before: JSON | None = None) -> JSON:
    """Return the `tool_resources` of a new or changed assistant, including its `file_ids` (API version 1).

    The files replace those of the assistant's tools that use files. `before` is the assistant before the change.
    """
    now = {"tools": [], "tool_resources": {}, **(before or {})}
    resolved: JSON = now["tool_resources"]
    if "tool_resources" in params:
        resolved = resolve(tx, params["tool_resources"])
    ids = params.get("file_ids")
    if ids is None:
        return resolved
    check_files(tx.conn, ids, "file_ids")
    resolved = dict(resolved)
    for tool in _file_tools(now["tools"] if params.get("tools") is None else params["tools"]):
        resolved.pop(tool, None)
        if ids and tool == "file_search":
            made = vector_stores.create(tx, {"file_ids": list(dict.fromkeys(ids))})
            resolved[tool] = {"vector_store_ids": [made["id"]]}
        elif ids:
            resolved[tool] = {"file_ids": list(dict.fromkeys(ids))}
    return resolved


def _file_tools(tools: Sequence[JSON]) -> list[str]:
    """Return the assistant's tools that use files; all such tools if it has none of them."""
    there = [tool for tool in hosted.FILE_TOOLS if hosted.offered(tool)]
    return [tool for tool in there if any(each["type"] == tool for each in tools)] or there


def assistant_file_ids(conn: sa.Connection, assistant: JSON) -> list[str]:
    """Return the ids of the files of an assistant's tools, for version 1 of the API."""
    found: dict[str, None] = {}
    for given in assistant["tool_resources"].values():
        if not isinstance(given, dict):  # contains neither files nor vector stores
            continue
        found |= dict.fromkeys(given.get("file_ids") or [])
        for store_id in given.get("vector_store_ids") or []:
            found |= dict.fromkeys(files.ids_of(conn, store_id))
    return list(found)


def add_assistant_file(tx: Transaction, assistant: JSON, file_id: str) -> None:
    """Add a file to the assistant's tools that use files."""
    check_files(tx.conn, [file_id], "file_id")
    resources = dict(assistant["tool_resources"])
    for tool in _file_tools(assistant["tools"]):
        resources[tool] = _with_files(tx, tool, resources.get(tool) or {}, [file_id])
    store.put(tx.conn, store.assistants, assistant | {"tool_resources": resources})


def remove_assistant_file(tx: Transaction, assistant: JSON, file_id: str) -> None:
    """Remove a file from the assistant's tools. The file itself is kept."""
    resources = dict(assistant["tool_resources"])
    for tool, given in resources.items():
        if not isinstance(given, dict):
            continue
        if file_id in (given.get("file_ids") or []):
            resources[tool] = given | {"file_ids": [id for id in given["file_ids"] if id != file_id]}
        for store_id in given.get("vector_store_ids") or []:
            files.remove(tx, store_id, file_id)
    store.put(tx.conn, store.assistants, assistant | {"tool_resources": resources})


def _with_files(
    tx: Transaction, tool: str, given: JSON, ids: Sequence[str], expires_after: JSON | None = None
) -> JSON:
    """Return the resources of a tool with more files.

    Files for file_search are added to its vector store, which is created if necessary.
    """
    if tool != "file_search":
        return given | {"file_ids": list(dict.fromkeys([*(given.get("file_ids") or []), *ids]))}
    if given.get("vector_store_ids"):
        store_id = given["vector_store_ids"][0]
        known = files.files_of(tx.conn, store_id, ids)
        vector_stores.add_files(tx, store_id, [{"file_id": id} for id in ids if id not in known])
        return given
    made = vector_stores.create(tx, {"file_ids": ids, "expires_after": expires_after})
    return given | {"vector_store_ids": [made["id"]]}


def attach(tx: Transaction, thread: JSON, messages: Sequence[JSON]) -> JSON:
    """Make the attached files of messages available to their tools in the thread, and return the thread.

    Files for file_search are added to the thread's vector store, which is created if necessary and expires seven
    days after its last use.
    """
    for message in messages:
        attached = message.get("attachments") or []
        check_files(tx.conn, [each["file_id"] for each in attached], "attachments.file_id")
        images = [
            part["image_file"]["file_id"] for part in message["content"] if part["type"] == "image_file"
        ]
        check_files(tx.conn, images, "content.image_file.file_id")
    resources: JSON = dict(thread["tool_resources"])
    expiry = {"anchor": "last_active_at", "days": vector_stores.ATTACHMENT_DAYS}
    for tool, ids in _attached(messages).items():
        resources[tool] = _with_files(tx, tool, resources.get(tool) or {}, ids, expiry)
    if resources != thread["tool_resources"]:
        thread = thread | {"tool_resources": resources}
        store.put(tx.conn, store.threads, thread)
    return thread


def _attached(messages: Sequence[JSON]) -> dict[str, list[str]]:
    """Return the ids of attached files, by tool."""
    found: dict[str, list[str]] = {}
    for message in messages:
        for each in message.get("attachments") or []:
            for tool in each.get("tools") or []:
                ids = found.setdefault(tool["type"], [])
                if each["file_id"] not in ids:
                    ids.append(each["file_id"])
    return found
