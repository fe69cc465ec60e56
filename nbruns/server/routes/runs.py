"""Runs, their streams and their steps."""

from __future__ import annotations

from starlette.responses import Response, StreamingResponse

from nbruns.server.hosted import explanation, offered, without_content
from nbruns.server.routes.assistants import check_model
from nbruns.server.routes.operation import (
    Call,
    get_object,
    list_objects,
    list_objects_or_lines,
    operation,
    polled,
)
from nbruns.server.routes.threads import changed_fields, get_thread
from nbruns.server.runs import transitions
from nbruns.server.runs.transitions import StartedRun
from nbruns.server.schemas.base import ListQuery, Page, missing
from nbruns.server.schemas.errors import Refused
from nbruns.server.schemas.runs import (
    CreateRunRequest,
    CreateThreadAndRunRequest,
    IncludeQuery,
    ListRunsQuery,
    ListRunStepsQuery,
    RunObject,
    RunStepObject,
    SubmitToolOutputsRunRequest,
)
from nbruns.server.schemas.threads import ModifyRequest
from nbruns.server.storage import store
from nbruns.text import JSON

_RUNS = "/v1/threads/{thread_id}/runs"
_RUN = _RUNS + "/{run_id}"


@operation("POST", _RUNS, RunObject, CreateRunRequest, IncludeQuery)
async def create_run(call: Call) -> JSON | Response:
    await check_run(call, call.params)
    includes_content = bool(call.query["include"])
    started = await call.services.engine.create(
        call.thread_id, call.params, includes_content=includes_content
    )
    return _started(call, started)


@operation("POST", "/v1/threads/runs", RunObject, CreateThreadAndRunRequest, IncludeQuery)
async def create_thread_and_run(call: Call) -> JSON | Response:
    await check_run(call, call.params)
    started = await call.services.engine.create_thread_and_run(
        call.params, includes_content=bool(call.query["include"])
    )
    return _started(call, started)


@operation("GET", _RUNS, Page[RunObject], query=ListQuery, lines=True)
async def list_runs(call: Call) -> JSON | Response:
    await get_thread(call)
    return await list_objects_or_lines(call, store.runs, {"thread_id": call.thread_id})


@operation("GET", "/v1/runs", Page[RunObject], query=ListRunsQuery, lines=True)
async def list_all_runs(call: Call) -> JSON | Response:
    filters = ("thread_id", "assistant_id", "model", "status")
    return await list_objects_or_lines(call, store.runs, {name: call.query[name] for name in filters})


@operation("GET", _RUN, RunObject)
async def get_run(call: Call) -> Response:
    return polled(await _get_run(call))


@operation("POST", _RUN, RunObject, ModifyRequest)
async def update_run(call: Call) -> JSON:
    return await call.db.write(transitions.update, call.thread_id, call.run_id, changed_fields(call))


@operation("POST", _RUN + "/cancel", RunObject)
async def cancel_run(call: Call) -> JSON:
    return await call.services.engine.cancel(call.thread_id, call.run_id)


@operation("POST", _RUN + "/submit_tool_outputs", RunObject, SubmitToolOutputsRunRequest)
async def submit_tool_outputs(call: Call) -> JSON | Response:
    outputs, approvals = call.params.get("tool_outputs"), call.params.get("tool_approvals")
    if outputs is not None and approvals is not None:
        raise Refused("Pass either 'tool_outputs' or 'tool_approvals'.", param="tool_approvals")
    if approvals is not None:
        return _started(call, await call.services.engine.approve(call.thread_id, call.run_id, approvals))
    if outputs is None:
        raise missing("tool_outputs")
    return _started(call, await call.services.engine.submit(call.thread_id, call.run_id, outputs))


@operation("GET", _RUN + "/stream", None)
async def rejoin_run(call: Call) -> Response:
    """Return the run's stream, after the event given by Last-Event-ID or from its beginning."""
    # Read the last event before the status. In the other order, the run could end in between, and the stream would wait
    # for an event after the run's end.
    last = await call.db.read(store.last_event, call.run_id)
    run = await _get_run(call)
    working = run["status"] in ("queued", "in_progress", "cancelling")
    if not working:  # the run may have ended in between
        last = await call.db.read(store.last_event, run["id"])
    named = call.headers.get("last-event-id", "")
    is_number = named.isascii() and named.isdigit()
    after = min(int(named[:19]), last) if is_number else 0  # event numbers have at most 19 digits
    return _stream(call, run["id"], after, last + 1 if working else last)


@operation("GET", _RUN + "/steps", Page[RunStepObject], query=ListRunStepsQuery)
async def list_steps(call: Call) -> JSON:
    await _get_run(call)
    page = await list_objects(call, store.steps, {"run_id": call.run_id})
    return page if call.query["include"] else page | {"data": list(map(without_content, page["data"]))}


@operation("GET", _RUN + "/steps/{step_id}", RunStepObject, query=IncludeQuery)
async def get_step(call: Call) -> JSON:
    owner = {"thread_id": call.thread_id, "run_id": call.run_id}
    step = await get_object(call, store.steps, "run step", call.path["step_id"], **owner)
    return step if call.query["include"] else without_content(step)


async def _get_run(call: Call) -> JSON:
    return await get_object(call, store.runs, "run", call.run_id, thread_id=call.thread_id)


async def check_run(call: Call, params: JSON) -> None:
    """Raise Refused for a run that names something that doesn't exist."""
    assistant = await get_object(call, store.assistants, "assistant", params["assistant_id"])
    await check_model(call, params.get("model") or assistant["model"])
    tools = assistant["tools"] if params.get("tools") is None else params["tools"]
    _check_offered(tools)
    _check_tool_choice(params.get("tool_choice"), tools)


def _check_offered(tools: list[JSON]) -> None:
    """Raise Refused for tools that this server doesn't offer: the assistant may come from another server."""
    for index, tool in enumerate(tools):
        if tool["type"] != "function" and not offered(tool["type"]):
            param = f"tools[{index}]"
            message = f"'{param}': {explanation(tool['type'])}"
            raise Refused(message, param=f"{param}.type", code="unsupported_tool")


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


def _started(call: Call, started: StartedRun) -> JSON | Response:
    call.context.run_id = started.run["id"]
    if not call.params.get("stream"):
        return started.run
    return _stream(call, started.run["id"], started.after, started.after + 1)


def _stream(call: Call, run_id: str, after: int, until: int) -> Response:
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    return StreamingResponse(call.services.streams.stream(run_id, after, until), headers=headers)
