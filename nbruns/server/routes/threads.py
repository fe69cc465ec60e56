"""Threads and their messages."""

from __future__ import annotations

from starlette.responses import Response

from nbruns.server.routes.operation import (
    Call,
    asked_page,
    change_object,
    delete_object,
    get_object,
    list_objects_or_lines,
    operation,
    page_of,
)
from nbruns.server.runs import transitions
from nbruns.server.schemas.base import ListQuery, Page
from nbruns.server.schemas.errors import Refused, not_found
from nbruns.server.schemas.threads import (
    CreateMessageRequest,
    CreateThreadRequest,
    DeleteMessageResponse,
    DeleteThreadResponse,
    ListMessagesQuery,
    MessageFileObject,
    MessageObject,
    ModifyRequest,
    ModifyThreadRequest,
    SearchMessagesQuery,
    ThreadObject,
)
from nbruns.server.storage import files, store
from nbruns.text import JSON

_THREAD = "/v1/threads/{thread_id}"
_MESSAGES = _THREAD + "/messages"
_MESSAGE = _MESSAGES + "/{message_id}"
_FILES = _MESSAGE + "/files"


@operation("POST", "/v1/threads", ThreadObject, CreateThreadRequest)
async def create_thread(call: Call) -> JSON:
    thread = await call.db.write(transitions.create_thread, call.params)
    call.services.ingester.wake()
    return thread


@operation("GET", "/v1/threads", Page[ThreadObject], query=ListQuery, lines=True)
async def list_threads(call: Call) -> JSON | Response:
    return await list_objects_or_lines(call, store.threads)


@operation("GET", _THREAD, ThreadObject)
async def get_thread(call: Call) -> JSON:
    return await get_object(call, store.threads, "thread", call.thread_id)


@operation("POST", _THREAD, ThreadObject, ModifyThreadRequest)
async def update_thread(call: Call) -> JSON:
    return await change_object(call, store.threads, "thread", call.thread_id, changed_fields(call))


@operation("DELETE", _THREAD, DeleteThreadResponse)
async def delete_thread(call: Call) -> JSON:
    active = await call.db.read(store.active_run, call.thread_id)
    if not await call.db.write(lambda tx: store.delete_thread(tx, call.thread_id)):
        raise not_found("thread", call.thread_id)
    if active is not None:
        call.services.engine.abandon(active["id"])
    if call.services.interpreter is not None:
        await call.services.interpreter.end_thread(call.thread_id)
    return DeleteThreadResponse.new(id=call.thread_id)


@operation("POST", _MESSAGES, MessageObject, CreateMessageRequest)
async def create_message(call: Call) -> JSON:
    message = await call.db.write(transitions.add_message, call.thread_id, call.params)
    call.services.ingester.wake()
    return message


@operation("GET", _MESSAGES, Page[MessageObject], query=ListMessagesQuery, lines=True)
async def list_messages(call: Call) -> JSON | Response:
    await get_thread(call)
    return await list_objects_or_lines(
        call, store.messages, {"thread_id": call.thread_id, "run_id": call.query["run_id"]}
    )


@operation("GET", "/v1/messages", Page[MessageObject], query=SearchMessagesQuery)
async def search_messages(call: Call) -> JSON:
    words = call.query["query"].split()
    if not words:
        raise Refused(
            "The query contains no words. Pass the words to search for.", param="query", code="invalid_value"
        )
    owner = {name: call.query[name] for name in ("thread_id", "run_id") if call.query[name]}
    return page_of(*await call.db.read(store.messages_with, asked_page(call), words, owner))


@operation("GET", _MESSAGE, MessageObject)
async def get_message(call: Call) -> JSON:
    id = call.path["message_id"]
    return await get_object(call, store.messages, "message", id, thread_id=call.thread_id)


@operation("POST", _MESSAGE, MessageObject, ModifyRequest)
async def update_message(call: Call) -> JSON:
    id, change = call.path["message_id"], changed_fields(call)
    return await change_object(call, store.messages, "message", id, change, thread_id=call.thread_id)


@operation("DELETE", _MESSAGE, DeleteMessageResponse)
async def delete_message(call: Call) -> JSON:
    id = call.path["message_id"]
    await delete_object(call, store.messages, "message", id, thread_id=call.thread_id)
    return DeleteMessageResponse.new(id=id)


# The files of a message in version 1 of the API: its attachments.


@operation("GET", _FILES, Page[MessageFileObject], query=ListQuery)
async def list_message_files(call: Call) -> JSON:
    found, more = await call.db.read(
        store.listed, files.files, asked_page(call), {"id": await _attached(call)}
    )
    return page_of([_message_file(call, file) for file in found], more)


@operation("GET", _FILES + "/{file_id}", MessageFileObject)
async def get_message_file(call: Call) -> JSON:
    id = call.path["file_id"]
    if id not in await _attached(call):
        raise not_found("file", id)
    return _message_file(call, await get_object(call, files.files, "file", id))


async def _attached(call: Call) -> list[str]:
    id = call.path["message_id"]
    message = await get_object(call, store.messages, "message", id, thread_id=call.thread_id)
    return [each["file_id"] for each in message["attachments"]]


def _message_file(call: Call, file: JSON) -> JSON:
    return MessageFileObject.new(
        id=file["id"], created_at=file["created_at"], message_id=call.path["message_id"]
    )


def changed_fields(call: Call) -> JSON:
    """Return the fields that an update of metadata or tool resources sets. A null clears a field."""
    return {name: value or {} for name, value in call.params.items()}
