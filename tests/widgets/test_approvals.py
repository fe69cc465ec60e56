"""Calls that ask for approval: read what would run, approve or deny, all in one submission."""

from __future__ import annotations

from typing import Any

import pytest
from eventually import until
from scripted import ScriptedRuns, ScriptedStream, run_is, run_json, says
from test_transcript import EVIL

from nbruns.errors import NbrunsError
from nbruns.objects import Run
from nbruns.widgets.form.approval_card import ApprovalCard
from nbruns.widgets.form.call_line import MAX_ARGUMENT_CHARS
from nbruns.widgets.form.form import ToolOutputsForm
from nbruns.widgets.run_view.view import RunView


def mcp_call(id: str = "call_1", **fields: Any) -> dict[str, Any]:
    """A call of an MCP server's tool, as Azure AI Foundry tells it."""
    known = {
        "id": id,
        "type": "mcp",
        "name": "search_docs",
        "server_label": "docs",
        "arguments": '{"query": "rain"}',
    }
    return known | fields


def asking(*calls: dict[str, Any]) -> dict[str, Any]:
    action = {"type": "submit_tool_approval", "submit_tool_approval": {"tool_calls": list(calls)}}
    return run_json("requires_action", required_action=action)


def text_of(card: ApprovalCard) -> str:
    return "".join(part.value for part in (card._line, card._arguments, card._note))


def test_each_call_is_approved_or_denied() -> None:
    taken: list[Any] = []
    form = ToolOutputsForm(Run(asking(mcp_call(), mcp_call("call_2"))), on_submit=taken.append)
    assert form._status.title == "2 calls need approval"
    assert [card.title for card in form.calls] == ["search_docs (1st call)", "search_docs (2nd call)"]
    assert "on the server docs" in text_of(form.calls[0])
    assert "rain" in text_of(form.calls[0])
    assert form.calls[0].arguments == '{"query": "rain"}'
    with pytest.raises(AttributeError, match="error"):  # an approval reports none
        form.calls[0].error = "the service is down"
    assert form.calls[0].error is None
    form.calls[0]._choice.value = True
    assert form.outputs == {"call_1": True}
    with pytest.raises(NbrunsError, match=r"Not submitted: search_docs \(2nd call\) is unanswered\."):
        form.submit()
    assert "Approve or deny it" in form.calls[1]._note.value
    assert taken == []
    form.calls[1].output = False
    assert form.calls[1]._note.value == ""
    form.submit()
    assert taken == [{"call_1": True, "call_2": False}]
    assert form.calls[0]._choice.disabled


def test_nothing_is_approved_before_somebody_says_so() -> None:
    (card,) = ToolOutputsForm(Run(asking(mcp_call()))).calls
    assert card.output is None and card._choice.value is None


def test_hostile_calls_are_text_and_bounded() -> None:
    evil = mcp_call(name=EVIL, server_label=EVIL, arguments=f'{{"x": "{EVIL}\u202e"}}' + " " * 10**6)
    (card,) = ToolOutputsForm(Run(asking(evil))).calls
    shown = text_of(card)
    assert "alert(1)" in shown and "<script" not in shown and "<img" not in shown
    assert "\u202e" not in shown  # it would turn what follows around
    assert len(shown) < 2 * MAX_ARGUMENT_CHARS and "more characters" in shown


class AskingRuns(ScriptedRuns):
    """Takes approvals, too."""

    def submit_tool_approvals_stream(self, run: Run, approvals: dict[str, bool], *, snapshot: Any) -> Any:
        self.approved = approvals
        return self.submit_tool_outputs_stream(run, {}, snapshot=snapshot)


def until_form(view: RunView) -> ToolOutputsForm:
    until(lambda: view.form is not None)
    assert view.form is not None
    return view.form


def test_a_view_submits_approvals_and_goes_on() -> None:
    runs = AskingRuns(ScriptedStream(says("Take a coat."), run_is("completed")))
    event = ("thread.run.requires_action", asking(mcp_call()))
    view = RunView(runs, ScriptedStream(run_is("in_progress"), event))
    form = until_form(view)
    form.calls[0].output = True
    form.submit()
    assert view.wait(5).status == "completed"
    assert runs.approved == {"call_1": True}
    assert "Take a coat." in view.to_html()


def test_functions_that_answer_by_themselves_approve_nothing() -> None:
    def search_docs(query: str) -> str:
        return query

    runs = AskingRuns(ScriptedStream(run_is("completed")))
    event = ("thread.run.requires_action", asking(mcp_call()))
    view = RunView(runs, ScriptedStream(event), tools=[search_docs], auto=True)
    form = until_form(view)
    assert form.outputs == {} and runs.submitted == []
    form.calls[0].output = False
    form.submit()
    view.wait(5)
    assert runs.approved == {"call_1": False}
