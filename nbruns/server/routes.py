"""The routes: parse, call, serialise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sqlalchemy import Table
from starlette.responses import Response, StreamingResponse

from nbruns.server import parameters, store, transitions, wire
from nbruns.server.call import Call
from nbruns.server.checks import parse
from nbruns.server.database import encode
from nbruns.server.models import UnknownModelError
from nbruns.server.refusal import Refused, not_found
from nbruns.server.transitions import Started

JSON = dict[str, Any]
Handler = Callable[[Call], Awaitable[JSON | Response]]

#: How long pollers are asked to wait between two looks at a run.
POLL_AFTER_MS = "250"

try:
    VERSION = version("nbruns")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "unknown"


async def health(call: Call) -> JSON:
    return {"status": "ok", "version": VERSION}


async def create_assistant(call: Call) -> JSON:
    params = parse(parameters.ASSISTANT, call.body, "model")
    _check_model(call, params["model"])
    assistant = wire.assistant(params, store.now())
    await call.db.write(lambda tx: store.add(tx.conn, store.assistants, assistant))
    return assistant


async def list_assistants(call: Call) -> JSON:
    return await _list(call, store.assistants)


async def get_assistant(call: Call) -> JSON:
    return await _get(call, store.assistants, "assistant", call.path["assistant_id"])


async def update_assistant(call: Call) -> JSON:
    params = parse(parameters.ASSISTANT, call.body)
    if params.get("model") is not None:
        _check_model(call, params["model"])
    change = {
        name: wire.ASSISTANT_DEFAULTS.get(name) if value is None else value for name, value in params.items()
    }
    if change.get("model", "") is None:
        del change["model"]
    return await _patch(call, store.assistants, "assistant", call.path["assistant_id"], change)


async def delete_assistant(call: Call) -> JSON:
    return await _delete(call, store.assistants, "assistant", call.path["assistant_id"])


async def create_thread(call: Call) -> JSON:
    return await call.db.write(transitions.create_thread, parse(parameters.THREAD, call.body))


async def list_threads(call: Call) -> JSON:
    return await _list(call, store.threads)


async def get_thread(call: Call) -> JSON:
    return await _get(call, store.threads, "thread", call.thread_id)


async def update_thread(call: Call) -> JSON:
    params = parse(parameters.UPDATE_THREAD, call.body)
    change = {name: value or {} for name, value in params.items()}
    return await _patch(call, store.threads, "thread", call.thread_id, change)


async def delete_thread(call: Call) -> JSON:
    active = await call.db.read(store.active_run, call.thread_id)
    if not await call.db.write(lambda tx: store.delete_thread(tx, call.thread_id)):
        raise not_found("thread", call.thread_id)
    if active is not None:
        call.rooms.engine.abandon(active["id"])
    return wire.deleted("thread", call.thread_id)


async def create_message(call: Call) -> JSON:
    params = parse(parameters.MESSAGE, call.body, "role", "content")
    return await call.db.write(transitions.add_message, call.thread_id, params)


async def list_messages(call: Call) -> JSON:
    await _get_thread(call)
    where = {"thread_id": call.thread_id}
    if run_id := call.query.get("run_id"):
        where["run_id"] = run_id
    return await _list(call, store.messages, where)


async def get_message(call: Call) -> JSON:
    return await _get(call, store.messages, "message", call.path["message_id"], thread_id=call.thread_id)


async def update_message(call: Call) -> JSON:
    id = call.path["message_id"]
    return await _patch(call, store.messages, "message", id, _metadata(call), thread_id=call.thread_id)


async def delete_message(call: Call) -> JSON:
    id = call.path["message_id"]
    return await _delete(call, store.messages, "message", id, "thread.message", thread_id=call.thread_id)


async def create_run(call: Call) -> JSON | Response:
    params = parse(parameters.RUN, call.body, "assistant_id")
    await _check_run(call, params)
    return _started(call, await call.rooms.engine.create(call.thread_id, params))


async def create_thread_and_run(call: Call) -> JSON | Response:
    params = parse(parameters.THREAD_AND_RUN, call.body, "assistant_id")
    await _check_run(call, params)
    return _started(call, await call.rooms.engine.create_thread_and_run(params))


async def list_runs(call: Call) -> JSON:
    await _get_thread(call)
    return await _list(call, store.runs, {"thread_id": call.thread_id})


async def list_all_runs(call: Call) -> JSON:
    filters = ("thread_id", "assistant_id", "model", "status")
    return await _list(call, store.runs, {name: call.query[name] for name in filters if call.query.get(name)})


async def get_run(call: Call) -> Response:
    run = await _get(call, store.runs, "run", call.run_id, thread_id=call.thread_id)
    return Response(encode(run), 200, {"openai-poll-after-ms": POLL_AFTER_MS}, "application/json")


async def update_run(call: Call) -> JSON:
    return await _patch(call, store.runs, "run", call.run_id, _metadata(call), thread_id=call.thread_id)


async def cancel_run(call: Call) -> JSON:
    return await call.rooms.engine.cancel(call.thread_id, call.run_id)


async def submit_tool_outputs(call: Call) -> JSON | Response:
    params = parse(parameters.SUBMISSION, call.body, "tool_outputs")
    return _started(call, await call.rooms.engine.submit(call.thread_id, call.run_id, params["tool_outputs"]))


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


_RUNS = "/v1/threads/{thread_id}/runs"
_RUN = _RUNS + "/{run_id}"
_MESSAGE = "/v1/threads/{thread_id}/messages/{message_id}"
ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/health", health),
    ("POST", "/v1/assistants", create_assistant),
    ("GET", "/v1/assistants", list_assistants),
    ("GET", "/v1/assistants/{assistant_id}", get_assistant),
    ("POST", "/v1/assistants/{assistant_id}", update_assistant),
    ("DELETE", "/v1/assistants/{assistant_id}", delete_assistant),
    ("POST", "/v1/threads", create_thread),
    ("GET", "/v1/threads", list_threads),
    ("POST", "/v1/threads/runs", create_thread_and_run),
    ("GET", "/v1/threads/{thread_id}", get_thread),
    ("POST", "/v1/threads/{thread_id}", update_thread),
    ("DELETE", "/v1/threads/{thread_id}", delete_thread),
    ("POST", "/v1/threads/{thread_id}/messages", create_message),
    ("GET", "/v1/threads/{thread_id}/messages", list_messages),
    ("GET", _MESSAGE, get_message),
    ("POST", _MESSAGE, update_message),
    ("DELETE", _MESSAGE, delete_message),
    ("POST", _RUNS, create_run),
    ("GET", _RUNS, list_runs),
    ("GET", "/v1/runs", list_all_runs),
    ("GET", _RUN, get_run),
    ("POST", _RUN, update_run),
    ("POST", _RUN + "/cancel", cancel_run),
    ("POST", _RUN + "/submit_tool_outputs", submit_tool_outputs),
    ("GET", _RUN + "/stream", rejoin_run),
    ("GET", _RUN + "/steps", list_steps),
    ("GET", _RUN + "/steps/{step_id}", get_step),
]


async def _list(call: Call, table: Table, where: Mapping[str, str] | None = None) -> JSON:
    items, has_more = await call.db.read(store.listed, table, parameters.page(call.query), where)
    return wire.page(items, has_more)


async def _get(call: Call, table: Table, noun: str, id: str, **owner: str) -> JSON:
    found = await call.db.read(store.get, table, id, **owner)
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


def _metadata(call: Call) -> JSON:
    params = parse(parameters.UPDATE, call.body)
    return {name: value or {} for name, value in params.items()}


async def _check_run(call: Call, params: JSON) -> None:
    assistant = await _get(call, store.assistants, "assistant", params["assistant_id"])
    _check_model(call, params.get("model") or assistant["model"])


def _check_model(call: Call, name: str) -> None:
    if not call.rooms.models.knows(name):
        try:
            call.rooms.models.resolve(name)
        except UnknownModelError as error:
            raise Refused(str(error), param="model", code="model_not_found") from None


def _started(call: Call, started: Started) -> JSON | Response:
    if not call.body.get("stream"):
        return started.run
    return _stream(call, started.run["id"], started.after, started.after + 1)


def _stream(call: Call, run_id: str, after: int, until: int) -> Response:
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    return StreamingResponse(call.rooms.hub.stream(run_id, after, until), headers=headers)
