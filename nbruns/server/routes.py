"""The routes: parse, call, serialise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table
from starlette.responses import Response, StreamingResponse

from nbruns import __version__
from nbruns.server import store, transitions, wire
from nbruns.server.call import Call
from nbruns.server.database import encode
from nbruns.server.models import UnknownModelError
from nbruns.server.refusal import Refused, not_found
from nbruns.server.transitions import Started

JSON = dict[str, Any]

#: How long pollers are asked to wait between two looks at a run.
POLL_AFTER_MS = "250"


async def health(call: Call) -> JSON:
    return {"status": "ok", "version": __version__}


async def create_assistant(call: Call) -> JSON:
    _check_model(call, call.params["model"])
    assistant = wire.assistant(call.params, store.now())
    await call.db.write(lambda tx: store.add(tx.conn, store.assistants, assistant))
    return assistant


async def list_assistants(call: Call) -> JSON:
    return await _list(call, store.assistants)


async def get_assistant(call: Call) -> JSON:
    return await _get(call, store.assistants, "assistant", call.path["assistant_id"])


async def update_assistant(call: Call) -> JSON:
    if call.params.get("model") is not None:
        _check_model(call, call.params["model"])
    change = {
        name: wire.ASSISTANT_DEFAULTS.get(name) if value is None else value
        for name, value in call.params.items()
    }
    if change.get("model", "") is None:
        del change["model"]
    return await _patch(call, store.assistants, "assistant", call.path["assistant_id"], change)


async def delete_assistant(call: Call) -> JSON:
    return await _delete(call, store.assistants, "assistant", call.path["assistant_id"])


async def create_thread(call: Call) -> JSON:
    return await call.db.write(transitions.create_thread, call.params)


async def list_threads(call: Call) -> JSON:
    return await _list(call, store.threads)


async def get_thread(call: Call) -> JSON:
    return await _get(call, store.threads, "thread", call.thread_id)


async def update_thread(call: Call) -> JSON:
    return await _patch(call, store.threads, "thread", call.thread_id, _change(call))


async def delete_thread(call: Call) -> JSON:
    active = await call.db.read(store.active_run, call.thread_id)
    if not await call.db.write(lambda tx: store.delete_thread(tx, call.thread_id)):
        raise not_found("thread", call.thread_id)
    if active is not None:
        call.rooms.engine.abandon(active["id"])
    return wire.deleted("thread", call.thread_id)


async def create_message(call: Call) -> JSON:
    return await call.db.write(transitions.add_message, call.thread_id, call.params)


async def list_messages(call: Call) -> JSON:
    await _get_thread(call)
    return await _list(call, store.messages, {"thread_id": call.thread_id, "run_id": call.query["run_id"]})


async def get_message(call: Call) -> JSON:
    return await _get(call, store.messages, "message", call.path["message_id"], thread_id=call.thread_id)


async def update_message(call: Call) -> JSON:
    id = call.path["message_id"]
    return await _patch(call, store.messages, "message", id, _change(call), thread_id=call.thread_id)


async def delete_message(call: Call) -> JSON:
    id = call.path["message_id"]
    return await _delete(call, store.messages, "message", id, "thread.message", thread_id=call.thread_id)


async def create_run(call: Call) -> JSON | Response:
    await _check_run(call)
    return _started(call, await call.rooms.engine.create(call.thread_id, call.params))


async def create_thread_and_run(call: Call) -> JSON | Response:
    await _check_run(call)
    return _started(call, await call.rooms.engine.create_thread_and_run(call.params))


async def list_runs(call: Call) -> JSON:
    await _get_thread(call)
    return await _list(call, store.runs, {"thread_id": call.thread_id})


async def list_all_runs(call: Call) -> JSON:
    filters = ("thread_id", "assistant_id", "model", "status")
    return await _list(call, store.runs, {name: call.query[name] for name in filters})


async def get_run(call: Call) -> Response:
    run = await _get(call, store.runs, "run", call.run_id, thread_id=call.thread_id)
    return Response(encode(run), 200, {"openai-poll-after-ms": POLL_AFTER_MS}, "application/json")


async def update_run(call: Call) -> JSON:
    return await _patch(call, store.runs, "run", call.run_id, _change(call), thread_id=call.thread_id)


async def cancel_run(call: Call) -> JSON:
    return await call.rooms.engine.cancel(call.thread_id, call.run_id)


async def submit_tool_outputs(call: Call) -> JSON | Response:
    outputs = call.params["tool_outputs"]
    return _started(call, await call.rooms.engine.submit(call.thread_id, call.run_id, outputs))


async def rejoin_run(call: Call) -> Response:
    """The run's stream from behind the event that Last-Event-ID names, or from its beginning."""
    run = await _get(call, store.runs, "run", call.run_id, thread_id=call.thread_id)
    last = await call.db.read(store.last_event, run["id"])
    named = call.headers.get("last-event-id", "")
    after = min(int(named), last) if named.isascii() and named.isdigit() else 0
    working = run["status"] in ("queued", "in_progress", "cancelling")
    return _stream(call, run["id"], after, last + 1 if working else last)


async def list_steps(call: Call) -> JSON:
    await _get(call, store.runs, "run", call.run_id, thread_id=call.thread_id)
    return await _list(call, store.steps, {"run_id": call.run_id})


async def get_step(call: Call) -> JSON:
    return await _get(
        call, store.steps, "run step", call.path["step_id"], thread_id=call.thread_id, run_id=call.run_id
    )


async def _list(call: Call, table: Table, filters: Mapping[str, str | None] | None = None) -> JSON:
    page = store.Page(**{name: call.query[name] for name in ("limit", "order", "after", "before")})
    where = {name: value for name, value in (filters or {}).items() if value is not None}
    items, has_more = await call.db.read(store.listed, table, page, where)
    return wire.page(items, has_more)


async def _get(call: Call, table: Table, noun: str, id: str, **owner: str) -> JSON:
    found = await call.db.read(store.get, table, id, **owner)  # type: ignore[arg-type]  # no owner is called lock
    if found is None:
        raise not_found(noun, id)
    return found


async def _get_thread(call: Call) -> JSON:
    return await _get(call, store.threads, "thread", call.thread_id)


async def _patch(call: Call, table: Table, noun: str, id: str, change: JSON, **owner: str) -> JSON:
    changed = await call.db.write(lambda tx: store.patch(tx.conn, table, id, change, **owner))
    if changed is None:
        raise not_found(noun, id)
    return changed


async def _delete(
    call: Call, table: Table, noun: str, id: str, object: str | None = None, **owner: str
) -> JSON:
    if not await call.db.write(lambda tx: store.delete(tx.conn, table, id, **owner)):
        raise not_found(noun, id)
    return wire.deleted(object or noun, id)


def _change(call: Call) -> JSON:
    return {name: value or {} for name, value in call.params.items()}


async def _check_run(call: Call) -> None:
    params = call.params
    assistant = await _get(call, store.assistants, "assistant", params["assistant_id"])
    _check_model(call, params.get("model") or assistant["model"])
    _check_tool_choice(params.get("tool_choice"), params.get("tools", assistant["tools"]) or [])


def _check_tool_choice(choice: str | JSON | None, tools: list[JSON]) -> None:
    if isinstance(choice, dict):
        if choice["type"] == "function":
            wanted = f"function tool '{choice['function']['name']}'"
            has = any(choice["function"]["name"] == tool.get("function", {}).get("name") for tool in tools)
        else:
            wanted = f"tool '{choice['type']}'"
            has = any(choice["type"] == tool["type"] for tool in tools)
        if not has:
            message = f"Invalid value for 'tool_choice': the run has no {wanted}."
            raise Refused(message, param="tool_choice", code="invalid_value")


def _check_model(call: Call, name: str) -> None:
    if not call.rooms.models.knows(name):
        try:
            call.rooms.models.resolve(name)
        except UnknownModelError as error:
            raise Refused(str(error), param="model", code="model_not_found") from None


def _started(call: Call, started: Started) -> JSON | Response:
    call.exchange.run_id = started.run["id"]
    if not call.params.get("stream"):
        return started.run
    return _stream(call, started.run["id"], started.after, started.after + 1)


def _stream(call: Call, run_id: str, after: int, until: int) -> Response:
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    return StreamingResponse(call.rooms.hub.stream(run_id, after, until), headers=headers)
