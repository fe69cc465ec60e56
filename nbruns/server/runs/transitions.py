"""The transitions of a run.

Each function is one write. New states and their events are committed together or not at all, even with concurrent
writers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from nbruns.server import hosted
from nbruns.server.retrieval import resources
from nbruns.server.schemas import objects
from nbruns.server.schemas.errors import Refused, not_found
from nbruns.server.schemas.runs import ACTIVE
from nbruns.server.storage import files, peers, store
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON

Ending = Literal["completed", "incomplete", "failed", "cancelled", "expired"]


class _Open(NamedTuple):
    """The statuses of unfinished steps and messages after a run has ended."""

    step: str
    step_time: str
    message_reason: str


#: By end of the run. Completed runs only have unfinished objects if a repeated turn took another path.
_UNFINISHED: dict[Ending, _Open] = {
    "completed": _Open("failed", "failed_at", "run_failed"),
    "incomplete": _Open("completed", "completed_at", "max_tokens"),
    "failed": _Open("failed", "failed_at", "run_failed"),
    "cancelled": _Open("cancelled", "cancelled_at", "run_cancelled"),
    "expired": _Open("expired", "expired_at", "run_expired"),
}
_RUN_TIME: dict[Ending, str] = {
    "completed": "completed_at",
    "incomplete": "completed_at",
    "failed": "failed_at",
    "cancelled": "cancelled_at",
}
CUT_OFF = {"code": "server_error", "message": "The server was stopped while this step was being made."}
WORKING = ("queued", "in_progress", "cancelling")
CANCELLABLE = ("queued", "in_progress", "requires_action")


class Unfinished(NamedTuple):
    """A step or message to store, and the usage of the step."""

    table: sa.Table
    body: JSON
    usage: JSON | None = None


class StartedRun(NamedTuple):
    """A run, the turn to start (None if one is running already), and the number of the event after which its stream
    begins."""

    run: JSON
    turn: int | None
    after: int


class PlaceInBatch(NamedTuple):
    """The batch of a run, and the run's key in it."""

    batch_id: str
    batch_key: str


def create(
    tx: Transaction,
    thread_id: str,
    params: JSON,
    lifetime: int,
    *,
    new_thread: JSON | None = None,
    includes_content: bool = False,
    place: PlaceInBatch | None = None,
) -> StartedRun:
    """Create a run on a thread, with its additional messages. A run in a batch waits for admission."""
    assistant = store.get(tx.conn, store.assistants, params["assistant_id"])
    if assistant is None:
        raise not_found("assistant", params["assistant_id"])
    thread = check_unlocked(tx, thread_id)
    now = store.now()
    given = params.get("tool_resources") or {}
    if given:
        params = params | {"tool_resources": resources.resolve(tx, given)}
    _add_messages(tx, thread, params.get("additional_messages") or [], now)
    run = objects.run(assistant, params, thread_id, now, lifetime)
    if not run["instructions"] and not store.has_question(tx.conn, thread_id):
        raise Refused(
            "Run creation requires a Thread with a user message or an assistant with instructions.",
            code="invalid_thread",
        )
    hosted.keep_secrets(run, given)
    if place is None:
        store.add(tx.conn, store.runs, run, worker=tx.worker, includes_content=includes_content)
    else:
        run |= {"expires_at": None}  # its lifetime begins when it starts
        store.add(tx.conn, store.runs, run, **place._asdict())
    if new_thread is not None:
        tx.emit(run["id"], "thread.created", new_thread)
    tx.emit(run["id"], "thread.run.created", run)
    tx.emit(run["id"], "thread.run.queued", run)
    return StartedRun(run, 1, 0)


def create_thread(tx: Transaction, params: JSON) -> JSON:
    """Create a thread with its first messages."""
    now = store.now()
    thread = objects.thread(
        params | {"tool_resources": resources.resolve(tx, params.get("tool_resources"))}, now
    )
    store.add(tx.conn, store.threads, thread)
    return _add_messages(tx, thread, params.get("messages") or [], now)


def _add_messages(tx: Transaction, thread: JSON, given: Sequence[JSON], now: int) -> JSON:
    """Add messages and their attachments to a thread, and return the thread."""
    messages = [objects.message(resources.message_params(tx.conn, each), thread["id"], now) for each in given]
    thread = resources.attach(tx, thread, messages)
    for message in messages:
        store.add(tx.conn, store.messages, message)
    return thread


def create_thread_and_run(
    tx: Transaction, params: JSON, lifetime: int, *, includes_content: bool = False
) -> StartedRun:
    """Create a thread and a run on it."""
    thread = create_thread(tx, params.get("thread") or {})
    return create(tx, thread["id"], params, lifetime, new_thread=thread, includes_content=includes_content)


def add_message(tx: Transaction, thread_id: str, params: JSON) -> JSON:
    """Add a message to a thread. Raises Refused if a run of the thread is active."""
    if (thread := store.lock_thread(tx.conn, thread_id)) is None:
        raise not_found("thread", thread_id)
    if (active := store.active_run(tx.conn, thread_id)) is not None:
        raise Refused(f"Can't add messages to {thread_id} while a run {active['id']} is active.")
    message = objects.message(resources.message_params(tx.conn, params), thread_id, store.now())
    resources.attach(tx, thread, [message])
    store.add(tx.conn, store.messages, message)
    return message


def update(tx: Transaction, thread_id: str, run_id: str, change: JSON) -> JSON:
    """Change fields of a run. Raises Refused if the run is in progress."""
    run = store.get(tx.conn, store.runs, run_id, lock=True, thread_id=thread_id)
    if run is None:
        raise not_found("run", run_id)
    if run["status"] == "in_progress":
        raise Refused("Cannot update run with status 'in_progress'.")
    run |= change
    store.put(tx.conn, store.runs, run)
    return run


def check_unlocked(tx: Transaction, thread_id: str) -> JSON:
    """Return a thread. Raises Refused if it doesn't exist or has an active run."""
    if (thread := store.lock_thread(tx.conn, thread_id)) is None:
        raise not_found("thread", thread_id)
    if (active := store.active_run(tx.conn, thread_id)) is not None:
        raise Refused(f"Thread {thread_id} already has an active run {active['id']}.")
    return thread


#: Number of interrupted attempts of a turn after which its run fails.
MAX_ATTEMPTS = 3


def begin_turn(tx: Transaction, run_id: str, turn: int) -> JSON | None:
    """Start a turn of a run on this server, and return the run; None if there is nothing left to do in this turn."""
    state = store.lock_run(tx.conn, run_id)
    if state is None or state.body["status"] not in WORKING or state.turn != turn:
        return None
    run = state.body
    store.begin(tx, run_id, state.attempts + 1)
    if state.attempts >= MAX_ATTEMPTS and run["status"] != "cancelling":
        message = f"The server was cut off {MAX_ATTEMPTS} times while it worked on this turn of the run."
        _end(tx, run, "failed", {"last_error": {"code": "server_error", "message": message}})
        return None
    if run["status"] == "queued":
        return _set(tx, run, status="in_progress", started_at=store.now())
    return run


def leave_turn(tx: Transaction, run_id: str, turn: int) -> None:
    """Record that a turn was stopped gracefully, so that this attempt doesn't count."""
    if store.turn_of(tx.conn, run_id) == turn:
        store.count_attempt(tx.conn, run_id, -1)


def take_over(tx: Transaction, work: store.Work) -> bool:
    """Make this server the worker of a run.

    Returns False if the previous worker is alive or another server was faster.
    """
    run = store.get(tx.conn, store.runs, work.run_id, lock=True)
    if run is None or store.worker_of(tx.conn, work.run_id) != work.worker:
        return False
    if work.worker not in (None, tx.worker) and not peers.is_dead(tx.conn, work.worker):
        return False
    store.assign(tx, work.run_id, store.turn_of(tx.conn, work.run_id))
    return True


def save(tx: Transaction, run_id: str, made: Sequence[Unfinished], *names: str) -> None:
    """Store objects of a turn, with an event for each name, if this server is still the worker of the run."""
    if _working(tx, run_id) is not None:
        _save(tx, run_id, made, *names)


def _save(tx: Transaction, run_id: str, made: Sequence[Unfinished], *names: str) -> None:
    for table, body, usage in made:
        store.save(tx.conn, table, body, **({} if usage is None else {"usage": usage}))
    bodies = {body["object"]: body for _, body, _ in made}
    for name in names:
        body = bodies[name.rpartition(".")[0]]
        tx.emit(run_id, name, _shown(tx, body) if body["object"] == "thread.run.step" else body)


def _shown(tx: Transaction, step: JSON) -> JSON:
    """Return a step as the stream of its run contains it."""
    if step["type"] == "message_creation":
        return step
    return step if store.includes_content(tx.conn, step["run_id"]) else hosted.without_content(step)


def complete_message(tx: Transaction, run_id: str, message: JSON, step: JSON, usage: JSON) -> None:
    """Complete a message and the step that created it."""
    if _working(tx, run_id) is not None:
        _complete_message(tx, run_id, message, step, usage)


def _complete_message(tx: Transaction, run_id: str, message: JSON, step: JSON, usage: JSON) -> None:
    over = {"status": "completed", "completed_at": max(store.now(), message["created_at"])}
    completed = (
        Unfinished(store.messages, message | over),
        Unfinished(store.steps, step | over | {"usage": objects.usage(usage)}, usage),
    )
    _save(tx, run_id, completed, "thread.message.completed", "thread.run.step.completed")


def complete(tx: Transaction, run_id: str, message: JSON, step: JSON, usage: JSON) -> None:
    """Complete a run and its last message in one write, so that a turn with a complete message is not repeated."""
    run = _working(tx, run_id)
    if run is None:
        return
    _complete_message(tx, run_id, message, step, usage)
    _end(tx, run, "cancelled" if run["status"] == "cancelling" else "completed", {})


def require_action(tx: Transaction, run_id: str, step: JSON, usage: JSON) -> None:
    """Set a run to `requires_action`, for the outputs of the tool calls in `step`."""
    run = _working(tx, run_id)
    if run is None:
        return
    store.save(tx.conn, store.steps, step, usage=usage)
    if run["status"] == "cancelling":
        _end(tx, run, "cancelled", {})
        return
    _close_unfinished(tx, run, _UNFINISHED["completed"], spared=step["id"])
    _require(tx, run, [_asked_for(call) for call in _calls(step)])


def _require(tx: Transaction, run: JSON, calls: list[JSON]) -> None:
    _require_action(tx, run, "submit_tool_outputs", calls)


def _require_action(tx: Transaction, run: JSON, type: str, calls: list[JSON]) -> None:
    action = {"type": type, type: {"tool_calls": calls}}
    _set(tx, run, status="requires_action", required_action=action)


def require_approval(tx: Transaction, run_id: str, calls: list[JSON]) -> None:
    """Set a run to `requires_action`, for the approval of hosted calls."""
    run = _working(tx, run_id)
    if run is None:
        return
    if run["status"] == "cancelling":
        _end(tx, run, "cancelled", {})
        return
    _require_action(tx, run, "submit_tool_approval", [hosted.asked_for(call) for call in calls])


def call_hosted(tx: Transaction, run_id: str, step: JSON, calls: JSON, usage: JSON) -> int | None:
    """Store the calls of hosted tools. Return the number of the next turn, which executes them; None if the run doesn't
    continue on this server.
    """
    run = _working(tx, run_id)
    if run is None:
        return None
    store.save(tx.conn, store.steps, step, usage=usage, hosted=calls)
    if run["status"] == "cancelling":
        _end(tx, run, "cancelled", {})
        return None
    _close_unfinished(tx, run, _UNFINISHED["completed"], spared=step["id"])
    turn = store.turn_of(tx.conn, run_id) + 1
    store.assign(tx, run_id, turn)
    return turn


def answer_hosted(
    tx: Transaction, run_id: str, step_id: str, call_id: str, result: hosted.Result
) -> JSON | None:
    """Store the result of a hosted tool, and return the step; None if the run doesn't continue on this server."""
    if _working(tx, run_id) is None:
        return None
    step = store.get(tx.conn, store.steps, step_id)
    assert step is not None
    calls = step["step_details"]["tool_calls"]
    index = next(index for index, call in enumerate(calls) if call["id"] == call_id)
    type = calls[index]["type"]
    details = result.details
    if not store.includes_content(tx.conn, run_id):
        details = hosted.TOOLS[type].without_content(details)
    shown = objects.newly_shown(hosted.details_of(calls[index]), details)
    calls[index] = hosted.entry(call_id, type, result.details)
    asked = store.hosted_calls(tx.conn, run_id)
    of_step = {call["id"]: asked[call["id"]] for call in calls if call["id"] in asked}
    for file in result.files:
        store.add(tx.conn, files.files, file)
    of_step[call_id] |= {"output": result.output, "paths": dict(result.paths)}
    store.save(tx.conn, store.steps, step, hosted=of_step)
    delta = {"index": index, **hosted.entry(call_id, type, shown)}
    tx.emit(run_id, "thread.run.step.delta", objects.tool_call_delta(step_id, delta))
    return step


def complete_hosted(tx: Transaction, run_id: str) -> bool:
    """Complete the step after its hosted calls, or require action for its function calls.

    Returns whether the turn continues.
    """
    run = _working(tx, run_id)
    if run is None:
        return False
    steps = [step for step in store.of_run(tx.conn, store.steps, run_id) if step["status"] == "in_progress"]
    asked = [_asked_for(call) for step in steps for call in _calls(step) if call["type"] == "function"]
    if not asked or run["status"] == "cancelling":
        _complete_calls(tx, run, {})
        return True
    _require(tx, run, asked)
    return False


def submit(tx: Transaction, thread_id: str, run_id: str, outputs: Sequence[JSON]) -> StartedRun:
    """Store the outputs of a run's tool calls, and queue the run again."""
    run = _waiting(tx, thread_id, run_id, "outputs", outputs)
    after = store.last_event(tx.conn, run_id)
    _complete_calls(tx, run, {output["tool_call_id"]: output.get("output") or "" for output in outputs})
    return _resumed(tx, run, after)


def approve(tx: Transaction, thread_id: str, run_id: str, approvals: Sequence[JSON]) -> StartedRun:
    """Store the approvals of a run's hosted calls, and queue the run again. Its next turn executes the calls."""
    run = _waiting(tx, thread_id, run_id, "approval", approvals)
    after = store.last_event(tx.conn, run_id)
    of_call = {approval["tool_call_id"]: approval for approval in approvals}
    for step in store.of_run(tx.conn, store.steps, run_id):
        calls = {call["id"]: call for call in _calls(step) if call["id"] in of_call}
        if step["status"] != "in_progress" or not calls:
            continue
        asked = store.hosted_calls(tx.conn, run_id)
        of_step = {call["id"]: asked[call["id"]] for call in _calls(step) if call["id"] in asked}
        for id, call in calls.items():
            of_step[id] |= {"approved": of_call[id]["approve"]}
            if of_call[id].get("headers"):
                hosted.keep_headers(run, call, of_call[id]["headers"])
        store.put(tx.conn, store.steps, step, hosted=of_step)
    return _resumed(tx, run, after)


def _waiting(tx: Transaction, thread_id: str, run_id: str, what: str, answers: Sequence[JSON]) -> JSON:
    """Return the run for these outputs or approvals. Raises Refused if it doesn't wait for exactly these."""
    run = _existing(tx, thread_id, run_id)
    plural = what.removesuffix("s") + "s"
    if run["status"] != "requires_action" or run["expires_at"] <= store.now():
        status = "expired" if run["status"] == "requires_action" else run["status"]
        raise Refused(f'Runs in status "{status}" do not accept tool {plural}.')
    required = run["required_action"]
    if required["type"] != f"submit_tool_{what}":
        other = "approvals" if what == "outputs" else "outputs"
        raise Refused(f"This run waits for tool {other}, not for tool {plural}.", param=f"tool_{plural}")
    asked = [call["id"] for call in required[required["type"]]["tool_calls"]]
    given = [answer.get("tool_call_id") for answer in answers]
    if sorted(asked) != sorted(map(str, given)):
        raise Refused(
            f"Expected tool {plural} for call_ids {asked}, got {given}.",
            param=f"tool_{plural}",
            code="invalid_value",
        )
    return run


def _resumed(tx: Transaction, run: JSON, after: int) -> StartedRun:
    run = _set(tx, run, status="queued", required_action=None)
    turn = store.turn_of(tx.conn, run["id"]) + 1
    store.assign(tx, run["id"], turn)
    return StartedRun(run, turn, after)


def cancel(tx: Transaction, thread_id: str, run_id: str) -> StartedRun:
    """Cancel a run. If it waits for outputs, no turn is running, so a new turn is started to end it."""
    run = _existing(tx, thread_id, run_id)
    if run["status"] not in CANCELLABLE:
        raise Refused(f"Cannot cancel run with status '{run['status']}'.")
    if store.worker_of(tx.conn, run_id) is None:  # the run is waiting in a batch
        return StartedRun(cancel_unbegun(tx, run), None, 0)
    turn = None
    if run["status"] == "requires_action":
        turn = store.turn_of(tx.conn, run_id) + 1
        store.assign(tx, run_id, turn)
    tx.to_stop.add(run_id)
    return StartedRun(_set(tx, run, status="cancelling", required_action=None), turn, 0)


def cancel_unbegun(tx: Transaction, run: JSON) -> JSON:
    """Cancel a run that is waiting in a batch, and therefore has no worker to stop."""
    return _end(tx, run, "cancelled", {})


def expire(tx: Transaction, run_id: str) -> None:
    """End an overdue run as expired."""
    run = store.get(tx.conn, store.runs, run_id, lock=True)
    if run is not None and run["status"] in ACTIVE and run["expires_at"] <= store.now():
        _end(tx, run, "expired", {})


def end(
    tx: Transaction,
    /,
    run_id: str,
    ending: Ending,
    unfinished: Sequence[Unfinished] = (),
    message_reason: str | None = None,
    **why: Any,
) -> None:
    """End an active run of this server.

    `unfinished` contains the unfinished objects of its turn. `message_reason` is the reason for an incomplete message.
    `why` contains the run's `last_error` or `incomplete_details`."""
    run = _working(tx, run_id)
    if run is None:
        return
    _save(tx, run_id, unfinished)
    cancelled = run["status"] == "cancelling"
    _end(tx, run, "cancelled" if cancelled else ending, {} if cancelled else why, message_reason)


def _existing(tx: Transaction, thread_id: str, run_id: str) -> JSON:
    store.lock_thread(tx.conn, thread_id)
    run = store.get(tx.conn, store.runs, run_id, lock=True, thread_id=thread_id)
    if run is None:
        raise not_found("run", run_id)
    return run


def _working(tx: Transaction, run_id: str) -> JSON | None:
    """Return the run if it is active and this server is its worker, otherwise None."""
    state = store.lock_run(tx.conn, run_id)
    if state is None or state.worker != tx.worker:
        return None
    return state.body if state.body["status"] in ("in_progress", "cancelling") else None


def _set(tx: Transaction, run: JSON, **change: Any) -> JSON:
    """Change fields of a run that this transaction has locked."""
    run = run | change
    store.put(tx.conn, store.runs, run)
    tx.emit(run["id"], f"thread.run.{run['status']}", run)
    return run


def _asked_for(call: JSON) -> JSON:
    function = {name: call["function"][name] for name in ("name", "arguments")}
    return {"id": call["id"], "type": "function", "function": function}


def _calls(step: JSON) -> list[JSON]:
    calls: list[JSON] = step["step_details"].get("tool_calls", [])
    return calls


def _complete_calls(tx: Transaction, run: JSON, outputs: Mapping[str, str]) -> None:
    usages = store.step_usages(tx.conn, run["id"])
    for step in store.of_run(tx.conn, store.steps, run["id"]):
        if step["status"] == "in_progress":
            for call in _calls(step):
                if call["type"] == "function":
                    call["function"]["output"] = outputs[call["id"]]
            used = usages.get(step["id"], objects.NO_USAGE)
            step |= {"status": "completed", "completed_at": store.now(), "usage": objects.usage(used)}
            _save(tx, run["id"], [Unfinished(store.steps, step, used)], "thread.run.step.completed")


def _end(
    tx: Transaction, run: JSON, ending: Ending, why: Mapping[str, Any], message_reason: str | None = None
) -> JSON:
    become = _UNFINISHED[ending]
    if message_reason is not None:
        become = become._replace(message_reason=message_reason)
    usages = _close_unfinished(tx, run, become, error=why.get("last_error"))
    change: JSON = {"status": ending, "required_action": None, **why}
    if ending in _RUN_TIME:
        change |= {_RUN_TIME[ending]: store.now(), "expires_at": None}
    ended = _set(tx, run, **change, usage=objects.total_usage(usages))
    hosted.forget(run["id"])
    return ended


def _close_unfinished(
    tx: Transaction, run: JSON, become: _Open, *, error: JSON | None = None, spared: str | None = None
) -> list[JSON]:
    """Close unfinished steps and messages. Return the known usage of the steps."""
    now = store.now()
    for message in store.of_run(tx.conn, store.messages, run["id"]):
        if message["status"] == "in_progress":
            reason = {"reason": become.message_reason}
            body = message | {"status": "incomplete", "incomplete_details": reason, "incomplete_at": now}
            store.save(tx.conn, store.messages, body)
            tx.emit(run["id"], "thread.message.incomplete", body)
    usages = []
    for step, known in store.steps_with_usage(tx.conn, run["id"]):
        used = objects.NO_USAGE if known is None else known
        is_open = step["status"] == "in_progress" and step["id"] != spared
        if known is not None or is_open:
            usages.append(used)
        if is_open:
            body = step | {"status": become.step, become.step_time: now, "usage": objects.usage(used)}
            if become.step == "failed":
                body["last_error"] = _of_step(error or CUT_OFF)
            store.save(tx.conn, store.steps, body, usage=used)
            tx.emit(run["id"], f"thread.run.step.{become.step}", _shown(tx, body))
    return usages


def _of_step(error: JSON) -> JSON:
    # The code invalid_prompt exists only for runs, not for steps.
    return error | {"code": "server_error"} if error["code"] == "invalid_prompt" else error
