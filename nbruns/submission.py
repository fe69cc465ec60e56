"""Answers to a run's tool calls as the wire has them: outputs, or leave to call a tool. And how many functions give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbruns.errors import excerpt
from nbruns.objects import JSON, Run
from nbruns.tools.output_text import as_text

#: With `auto=True`: how often functions answer a run that requires action, and how many of its calls, at most.
MAX_ROUNDS, MAX_CALLS = 50, 500

#: Tool outputs: {tool_call_id: value} or the wire's list.
Outputs = Mapping[str, Any] | Sequence[Mapping[str, Any]]
#: Tool approvals: {tool_call_id: whether it may run} or the wire's list, whose entries can carry `headers` too.
Approvals = Mapping[str, bool] | Sequence[Mapping[str, Any]]


def outputs_json(given: Outputs, run: str | Run) -> list[JSON]:
    """Tool outputs as the wire's list; values that are not text become JSON. Raises TypeError for what is none."""
    if isinstance(given, Mapping):
        _check_ids(given, run)
        return [{"tool_call_id": call, "output": as_text(value)} for call, value in given.items()]
    return _listed(given)


def approvals_json(given: Approvals, run: str | Run) -> list[JSON]:
    """Tool approvals as the wire's list. Raises TypeError for what is neither yes nor no."""
    if isinstance(given, Mapping):
        _check_ids(given, run)
        wire: list[JSON] = [{"tool_call_id": call, "approve": approve} for call, approve in given.items()]
    else:
        wire = _listed(given)
    for approval in wire:
        # Anything else would be taken for true or false on its way, and no tool may run by mistake.
        if not isinstance(approval.get("approve"), bool):
            call, was = excerpt(approval.get("tool_call_id")), excerpt(repr(approval.get("approve")))
            raise TypeError(f"Call {call} is approved with True or False, not with {was}.")
    return wire


def answered_by(body: JSON) -> set[str]:
    """The ids of the calls that a submission answers."""
    return {str(answer.get("tool_call_id")) for answers in body.values() for answer in answers}


def _check_ids(given: Mapping[str, Any], run: str | Run) -> None:
    """Raise TypeError where answers by id would leave one of several calls that share an id without its own."""
    shared = Counter(call.id for call in run.tool_calls) if isinstance(run, Run) else Counter[Any]()
    for id in given:
        if not isinstance(id, str):
            raise TypeError(f"A tool call is answered by its id, which is a text, not {excerpt(repr(id))}.")
        if shared[id] > 1:
            raise TypeError(
                f"{shared[id]} tool calls of the run have the id {excerpt(repr(id))}, and a dict answers only one of "
                "them. Pass a list with an entry for each call, in their order: "
                "[{'tool_call_id': call.id, 'output': …} for call in run.tool_calls]."
            )


def _listed(given: Any) -> list[JSON]:
    answers: list[Any] = [*given] if isinstance(given, Iterable) else [None]
    if not all(isinstance(answer, Mapping) for answer in answers):
        raise TypeError(
            f"Answers are {{tool_call_id: answer}}, or a list of the API's objects, not {excerpt(repr(given))}."
        )
    return [dict(answer) for answer in answers]
