"""Assistants."""

from __future__ import annotations

from nbruns.server.models import UnknownModelError
from nbruns.server.retrieval import resources
from nbruns.server.routes.operation import (
    Call,
    delete_object,
    get_object,
    list_objects,
    operation,
)
from nbruns.server.schemas import objects
from nbruns.server.schemas.assistants import (
    AssistantObject,
    CreateAssistantRequest,
    DeleteAssistantResponse,
    ModifyAssistantRequest,
)
from nbruns.server.schemas.base import ListQuery, Page
from nbruns.server.schemas.errors import Refused, not_found
from nbruns.server.storage import store
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON

_ASSISTANT = "/v1/assistants/{assistant_id}"


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
    # A null sets what leaving it out at creation means; a model there must be.
    defaults = AssistantObject.defaults()
    change = {
        name: defaults[name] if value is None else value
        for name, value in call.params.items()
        if name != "file_ids" and (value is not None or name != "model")
    }
    id = call.path["assistant_id"]

    def update(tx: Transaction) -> JSON:
        before = store.get(tx.conn, store.assistants, id, lock=True)
        if before is None:
            raise not_found("assistant", id)
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


async def check_model(call: Call, name: str) -> None:
    """Refuse the name of a model that isn't there."""
    try:
        await call.services.models.check_name(name)
    except UnknownModelError as error:
        raise Refused(str(error), param="model", code="model_not_found") from None
