"""Assistants."""

from __future__ import annotations

from nbruns.server.models import UnknownModelError
from nbruns.server.retrieval import resources
from nbruns.server.routes.operation import (
    Call,
    asked_page,
    delete_object,
    get_object,
    list_objects,
    operation,
    page_of,
)
from nbruns.server.schemas import objects
from nbruns.server.schemas.assistants import (
    AssistantFileObject,
    AssistantObject,
    CreateAssistantFileRequest,
    CreateAssistantRequest,
    DeleteAssistantFileResponse,
    DeleteAssistantResponse,
    ModifyAssistantRequest,
)
from nbruns.server.schemas.base import ListQuery, Page
from nbruns.server.schemas.errors import Refused, not_found
from nbruns.server.storage import files, store
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON

_ASSISTANT = "/v1/assistants/{assistant_id}"
_FILES = _ASSISTANT + "/files"
_FILE = _FILES + "/{file_id}"


@operation("POST", "/v1/assistants", AssistantObject, CreateAssistantRequest)
async def create_assistant(call: Call) -> JSON:
    await check_model(call, call.params["model"])

    def create(tx: Transaction) -> JSON:
        id = call.params.get("id")
        if id is not None and store.get(tx.conn, store.assistants, id) is not None:
            raise Refused(f"An assistant with the id '{id}' exists.", status=409, param="id", code="id_taken")
        resolved = {"tool_resources": resources.assistant_resources(tx, call.params)}
        given = {name: value for name, value in call.params.items() if name != "file_ids"}
        assistant = objects.assistant(given | resolved, store.now())
        store.add(tx.conn, store.assistants, assistant)
        return assistant

    created = await call.db.write(create)
    call.services.ingester.wake()
    return created


@operation("GET", "/v1/assistants", Page[AssistantObject], query=ListQuery)
async def list_assistants(call: Call) -> JSON:
    return await list_objects(call, store.assistants)


@operation("GET", _ASSISTANT, AssistantObject)
async def get_assistant(call: Call) -> JSON:
    return await get_object(call, store.assistants, "assistant", call.path["assistant_id"])


@operation("POST", _ASSISTANT, AssistantObject, ModifyAssistantRequest)
async def update_assistant(call: Call) -> JSON:
    if call.params.get("model") is not None:
        await check_model(call, call.params["model"])
    # A null resets a field to its default at creation. The model is required.
    defaults = AssistantObject.defaults()
    change = {
        name: defaults[name] if value is None else value
        for name, value in call.params.items()
        if name != "file_ids" and (value is not None or name != "model")
    }
    id = call.path["assistant_id"]

    def update(tx: Transaction) -> JSON:
        before = _locked(tx, id)
        resolved = {"tool_resources": resources.assistant_resources(tx, call.params, before)}
        changed = before | change | resolved
        store.put(tx.conn, store.assistants, changed)
        return changed

    changed = await call.db.write(update)
    call.services.ingester.wake()
    return changed


@operation("DELETE", _ASSISTANT, DeleteAssistantResponse)
async def delete_assistant(call: Call) -> JSON:
    id = call.path["assistant_id"]
    await delete_object(call, store.assistants, "assistant", id)
    return DeleteAssistantResponse.new(id=id)


# The files of an assistant in version 1 of the API: all files of its tools, however they were added.


@operation("POST", _FILES, AssistantFileObject, CreateAssistantFileRequest)
async def create_assistant_file(call: Call) -> JSON:
    id, file_id = call.path["assistant_id"], call.params["file_id"]

    def add(tx: Transaction) -> JSON:
        assistant = _locked(tx, id)
        resources.add_assistant_file(tx, assistant, file_id)
        file = store.get(tx.conn, files.files, file_id)
        assert file is not None  # add_assistant_file refuses others
        return _assistant_file(id, file)

    added = await call.db.write(add)
    call.services.ingester.wake()
    return added


@operation("GET", _FILES, Page[AssistantFileObject], query=ListQuery)
async def list_assistant_files(call: Call) -> JSON:
    ids = await _file_ids(call)
    found, more = await call.db.read(store.listed, files.files, asked_page(call), {"id": ids})
    return page_of([_assistant_file(call.path["assistant_id"], file) for file in found], more)


@operation("GET", _FILE, AssistantFileObject)
async def get_assistant_file(call: Call) -> JSON:
    id = call.path["file_id"]
    if id not in await _file_ids(call):
        raise not_found("file", id)
    return _assistant_file(call.path["assistant_id"], await get_object(call, files.files, "file", id))


@operation("DELETE", _FILE, DeleteAssistantFileResponse)
async def delete_assistant_file(call: Call) -> JSON:
    id, file_id = call.path["assistant_id"], call.path["file_id"]

    def remove(tx: Transaction) -> None:
        assistant = _locked(tx, id)
        if file_id not in resources.assistant_file_ids(tx.conn, assistant):
            raise not_found("file", file_id)
        resources.remove_assistant_file(tx, assistant, file_id)

    await call.db.write(remove)
    return DeleteAssistantFileResponse.new(id=file_id)


async def _file_ids(call: Call) -> list[str]:
    assistant = await get_object(call, store.assistants, "assistant", call.path["assistant_id"])
    return await call.db.read(resources.assistant_file_ids, assistant)


def _locked(tx: Transaction, id: str) -> JSON:
    assistant = store.get(tx.conn, store.assistants, id, lock=True)
    if assistant is None:
        raise not_found("assistant", id)
    return assistant


def _assistant_file(assistant_id: str, file: JSON) -> JSON:
    return AssistantFileObject.new(id=file["id"], created_at=file["created_at"], assistant_id=assistant_id)


async def check_model(call: Call, name: str) -> None:
    """Raise Refused if the model doesn't exist."""
    try:
        await call.services.models.check_name(name)
    except UnknownModelError as error:
        raise Refused(str(error), param="model", code="model_not_found") from None
