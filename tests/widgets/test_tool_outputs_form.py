"""The form: every call answered, nothing typed ever lost, nothing submitted twice."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from eventually import until
from ipywidgets import Widget
from scripted import ScriptedRuns, ScriptedStream, call_json, needs, run_is
from sent import Sent
from test_transcript import EVIL

from nbruns.errors import BadRequestError, NbrunsError
from nbruns.objects import Run
from nbruns.tools import as_tool
from nbruns.widgets.form.form import ToolOutputsForm
from nbruns.widgets.run_view.view import RunView


def get_weather(city: str, unit: str = "celsius", days: int = 1) -> str:
    """The weather in a city."""
    if city == "Atlantis":
        raise LookupError("no such city")
    return f"12 {unit} in {city}"


def run(*calls: dict[str, Any], **fields: Any) -> Run:
    return Run(needs(*(calls or [call_json()]), **fields)[1])


def words(form: ToolOutputsForm) -> str:
    return str(form._note.value)


def controls(form: ToolOutputsForm) -> list[Widget]:
    """Every control that one can type into or click."""
    found, todo = [], [form]
    while todo:
        widget = todo.pop()
        todo += getattr(widget, "children", ())
        found += [widget] if hasattr(widget, "disabled") else []
    return found


def test_it_collects_an_answer_for_every_call() -> None:
    taken: list[dict[str, str]] = []
    form = ToolOutputsForm(run(call_json(), call_json(id="call_2")), on_submit=taken.append)
    assert [card.call.id for card in form.calls] == ["call_1", "call_2"]
    form.calls[0].output = "sunny"
    form.calls[1].error = "the service is down"
    assert form.calls[1].error == "the service is down"
    form.submit()
    assert taken == [{"call_1": "sunny", "call_2": "Error: the service is down"}]
    assert form.state == "submitted"
    assert repr(form) == f"ToolOutputsForm({form.run!r}, submitted)"


def test_submitted_empty_it_says_which_call_is_unanswered() -> None:
    taken: list[Any] = []
    form = ToolOutputsForm(run(call_json(), call_json(id="call_2")), on_submit=taken.append)
    form.calls[0].output = "sunny"
    form.calls[1].output = "   "
    with pytest.raises(NbrunsError, match=r"get_weather \(2nd call\) is unanswered"):
        form.submit()
    assert "get_weather (2nd call) is unanswered" in form.calls[1]._note.value
    assert form.calls[0]._note.value == ""
    assert (form.state, taken) == ("open", [])
    form.calls[1].output = "rain"
    assert form.calls[1]._note.value == words(form) == ""  # the messages go when they no longer hold


def test_calls_are_named_as_people_would() -> None:
    names = ["get_weather", "get_sunset", "get_weather", *["ask"] * 22]
    form = ToolOutputsForm(run(*[call_json(id=f"call_{i}", name=name) for i, name in enumerate(names)]))
    titles = [card.title for card in form.calls]
    assert titles[:3] == ["get_weather (1st call)", "get_sunset", "get_weather (2nd call)"]
    assert [titles[2 + n] for n in (3, 4, 11, 12, 13, 21, 22)] == [
        f"ask ({place} call)" for place in ("3rd", "4th", "11th", "12th", "13th", "21st", "22nd")
    ]
    assert [place in form.calls[0]._line.value for place in ("1st call", "2nd call")] == [True, False]
    with pytest.raises(NbrunsError) as refused:
        form.submit()
    shown = "".join([str(refused.value), words(form), *(card._note.value for card in form.calls)])
    assert "Not submitted: get_weather (1st call), get_sunset, get_weather (2nd call), " in shown
    assert "call_" not in shown  # ids mean nothing to a person


def test_a_failed_submit_keeps_everything_and_can_be_repeated() -> None:
    answers: list[Any] = [BadRequestError("no such run", status=400), ConnectionResetError("reset"), None]
    taken: list[dict[str, str]] = []

    def on_submit(outputs: dict[str, str]) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        taken.append(outputs)

    form = ToolOutputsForm(run(), tools=[get_weather], on_submit=on_submit)
    form.calls[0]._editor.fields["city"].control.value = "Bergen"
    form.calls[0].output = "typed with care"
    for kind, told in (
        (BadRequestError, "no such run"),
        (ConnectionResetError, "ConnectionResetError: reset"),
    ):
        with pytest.raises(kind):
            form.submit()
        assert told in words(form)
        assert form.state == "open"
        assert form.outputs == {"call_1": "typed with care"}
        assert form.calls[0].arguments == {"city": "Bergen"}
        assert not any(control.disabled for control in controls(form))
    form.submit()
    assert taken == [{"call_1": "typed with care"}]


def test_it_can_not_be_submitted_twice() -> None:
    entered, go = threading.Event(), threading.Event()
    taken: list[Any] = []

    def on_submit(outputs: dict[str, str]) -> None:
        entered.set()
        assert go.wait(5)
        taken.append(outputs)

    form = ToolOutputsForm(run(), on_submit=on_submit)
    form.calls[0].output = "sunny"
    for _ in range(3):
        form._submit.click()
    assert entered.wait(5)
    assert form.state == "submitting"
    assert all(control.disabled for control in controls(form))
    with pytest.raises(NbrunsError, match="submitting"):
        form.submit()
    go.set()
    until(lambda: form.state == "submitted")
    with pytest.raises(NbrunsError, match="submitted"):
        form.submit()
    assert taken == [{"call_1": "sunny"}]


def test_a_click_never_holds_the_kernel() -> None:
    go = threading.Event()
    form = ToolOutputsForm(run(), on_submit=lambda _: go.wait(5))
    form.calls[0].output = "sunny"
    began = time.monotonic()
    form._submit.click()
    assert time.monotonic() - began < 1
    go.set()
    until(lambda: form.state == "submitted")


def test_functions_fill_it_in_with_the_arguments_as_edited() -> None:
    form = ToolOutputsForm(run(call_json(), call_json(id="call_2", name="unknown")), tools=[get_weather])
    assert form.calls[0].arguments == {"city": "Oslo"}
    form.calls[0]._editor.fields["unit"].control.value = "fahrenheit"
    form.run_tools()
    assert form.outputs == {"call_1": "12 fahrenheit in Oslo"}
    assert not form.calls[1].can_run
    with pytest.raises(ValueError, match="No function is registered for unknown"):
        form.calls[1].run()


def test_run_tools_leaves_typed_answers_alone() -> None:
    form = ToolOutputsForm(run(), tools=[get_weather])
    form.calls[0].output = "my own"
    form.run_tools()
    assert form.outputs == {"call_1": "my own"}


def test_what_a_function_raises_is_an_error_to_report_and_to_see() -> None:
    form = ToolOutputsForm(run(call_json('{"city": "Atlantis"}')), tools=[get_weather])
    form.calls[0]._run.click()
    until(lambda: form.calls[0].error is not None)
    assert form.calls[0].error == "get_weather raised LookupError: no such city"
    assert form.outputs == {"call_1": "Error: get_weather raised LookupError: no such city"}


def test_trouble_beside_the_function_is_said_and_it_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = as_tool(get_weather)
    form = ToolOutputsForm(run(), tools=[tool])
    with monkeypatch.context() as broken:
        broken.setattr(tool, "call", lambda _: 1 / 0)
        form.calls[0]._run.click()
        until(lambda: "ZeroDivisionError: division by zero" in form.calls[0]._note.value)
    until(lambda: not form.calls[0]._run.disabled)
    assert form.outputs == {}
    form.calls[0]._run.click()
    until(lambda: form.outputs == {"call_1": "12 celsius in Oslo"})


def test_an_empty_text_that_a_function_gives_is_an_answer() -> None:
    def get_weather(city: str) -> str:
        return ""

    form = ToolOutputsForm(run(), tools=[get_weather])
    form.run_tools()
    assert form.outputs == {"call_1": ""}
    form.calls[0]._output.value = "x"
    form.calls[0]._output.value = ""
    assert form.outputs == {}


@pytest.mark.parametrize("arguments", ["not json", '["Oslo"]', '{"city": "Os', '"Oslo"'])
def test_arguments_that_no_field_can_show_are_edited_as_they_came(arguments: str) -> None:
    form = ToolOutputsForm(run(call_json(arguments)), tools=[get_weather], on_submit=lambda _: None)
    assert form.calls[0].arguments == arguments
    form.run_tools()
    assert form.calls[0].error is not None
    form.calls[0].output = None
    form.calls[0]._editor._raw.value = '{"city": "Oslo"}'
    form.run_tools()
    assert form.outputs == {"call_1": "12 celsius in Oslo"}
    form.submit()
    assert all(control.disabled for control in controls(form))


def test_a_wrong_field_says_so_and_the_function_is_not_run() -> None:
    form = ToolOutputsForm(run(), tools=[get_weather])
    days = form.calls[0]._editor.fields["days"]
    days.control.value = "two"
    form.run_tools()
    assert form.outputs == {}
    assert "Not a whole number" in days._note.value
    assert "The function was not run" in form.calls[0]._note.value
    days.control.value = "2"
    assert "not a whole" not in days._note.value
    assert form.calls[0]._note.value == ""
    form.run_tools()
    assert form.outputs == {"call_1": "12 celsius in Oslo"}


def test_arguments_that_the_schema_does_not_know_are_kept_and_said_to_be_too_many() -> None:
    form = ToolOutputsForm(run(call_json('{"city": "Oslo", "mood": {"good": true}}')), tools=[get_weather])
    mood = form.calls[0]._editor.fields["mood"]
    assert json.loads(mood.control.value) == {"good": True}
    form.run_tools()
    assert form.outputs == {}
    assert "Unknown property" in mood._note.value
    mood.control.value = ""
    form.run_tools()
    assert form.outputs == {"call_1": "12 celsius in Oslo"}


def test_when_the_time_is_over_it_closes_and_keeps_what_was_typed() -> None:
    form = ToolOutputsForm(run(expires_at=time.time() + 0.3), on_submit=lambda _: None)
    form.calls[0].output = "too late"
    assert form.state == "open"
    until(lambda: form.state == "expired")
    assert "expired" in words(form)
    assert all(control.disabled for control in controls(form))
    assert form.outputs == {"call_1": "too late"}
    with pytest.raises(NbrunsError, match="expired"):
        form.submit()


def test_what_comes_after_submitting_does_not_unsay_it() -> None:
    form = ToolOutputsForm(run(expires_at=time.time() + 60), on_submit=lambda _: None)
    form.calls[0].output = "in time"
    form.submit()
    form._expire()  # as its clock does when the time has come
    form.calls[0].output = "more"
    assert form.state == "submitted"
    assert "Submitted." in words(form)


def test_what_was_entered_is_not_lost_where_somebody_else_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbruns.widgets.session.POLL_FIRST", 0.05)
    runs = ScriptedRuns()
    view = RunView(runs, ScriptedStream(needs(call_json())))
    until(lambda: view.form is not None)
    view.form.calls[0].output = "typed with care"
    runs.followed = lambda: ScriptedStream(run_is("completed"))
    runs.now = run_is("in_progress")[1]
    view.wait(5)
    html = view.to_html()
    assert "The tool calls were answered elsewhere." in html
    assert "Not sent: get_weather: typed with care" in html


def test_a_run_without_a_deadline_stays_open() -> None:
    form = ToolOutputsForm(run(expires_at=None))
    assert form._status.expires_at is None
    assert form.state == "open"


def test_hostile_text_is_text_in_every_place(sent: Sent) -> None:
    call = call_json(arguments=EVIL, id=EVIL, name=EVIL)
    function = {"name": EVIL, "description": EVIL, "parameters": {"type": "object"}}
    form = ToolOutputsForm(run(call, tools=[{"type": "function", "function": function}]))
    with pytest.raises(NbrunsError):
        form.submit()
    form.finish(EVIL)
    html = [
        value
        for message in sent
        for name, value in message["data"].get("state", {}).items()
        if name == "value" and isinstance(value, str)
    ]
    assert any("alert(1)" in value for value in html)
    assert not any("<script" in value or "<img" in value for value in html)
    assert all(not w.description_allow_html for w in controls(form) if hasattr(w, "description_allow_html"))


def test_hostile_schemas_and_arguments_are_text_in_the_fields(sent: Sent) -> None:
    from nbruns.widgets.form.arguments import ArgumentsEditor

    schema = {
        "type": "object",
        "properties": {
            EVIL: {"type": "integer", "description": EVIL},
            "choice": {"enum": [EVIL, 1]},
            "odd": {"type": EVIL},
        },
        "required": [EVIL],
    }
    editor = ArgumentsEditor(json.dumps({EVIL: EVIL, "choice": EVIL, "odd": EVIL}), schema)
    with pytest.raises(ValueError, match="Must be a whole number"):
        editor.read()
    notes = [field._note.value for field in editor.fields.values()]
    assert any("alert(1)" in note for note in notes)
    assert not any("<script" in note or "<img" in note for note in notes)


def test_every_control_is_labelled() -> None:
    form = ToolOutputsForm(run(), tools=[get_weather])
    unlabelled = [control for control in controls(form) if not getattr(control, "description", "")]
    assert unlabelled == []


def test_closing_takes_every_widget_along(sent: Sent) -> None:
    form = ToolOutputsForm(run(), tools=[get_weather])
    form.close()
    shown = {
        m["comm_id"]: m["data"]["state"]["_model_name"]
        for m in sent
        if m["type"] == "comm_open" and m["data"]["state"].get("_model_module") != "@jupyter-widgets/base"
    }
    closed = {m["comm_id"] for m in sent if m["type"] == "comm_close"}
    left = {name for comm_id, name in shown.items() if comm_id not in closed}
    assert len(shown) > 10
    assert {name for name in left if not name.endswith("StyleModel")} == set()


def test_a_function_is_not_run_with_what_does_not_fit_and_can_be_run_again() -> None:
    form = ToolOutputsForm(run(call_json('{"city": "Oslo", "days": 1}')), tools=[get_weather])
    (card,) = form.calls
    days = card._editor.fields["days"]
    days.control.value = "many"
    card._run_shown()
    assert card.output is None and 'role="alert"' in days._note.value
    assert (card._run.disabled, card._run.description) == (False, "Run")
    days.control.value = "2"
    card._run_shown()
    assert card.output == "12 celsius in Oslo"


def test_submit_waits_for_functions_that_run_and_then_submits() -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(city: str) -> str:
        started.set()
        go_on.wait(30)
        return f"rain in {city}"

    taken: list[Any] = []
    calls = (call_json(name="slow"), call_json(id="call_2"))
    form = ToolOutputsForm(run(*calls), tools=[slow], on_submit=taken.append)
    form.calls[0]._run.click()
    form._submit.click()
    assert started.wait(30)
    until(lambda: "running functions" in words(form))
    form.calls[1].output = "sunny"  # an edit meanwhile does not take the words away
    assert "running functions" in words(form)
    assert taken == []
    go_on.set()
    until(lambda: taken)
    assert list(taken[0]) == ["call_1", "call_2"]
    assert taken[0]["call_1"].startswith("rain in")


def test_a_refusal_stays_until_it_is_no_longer_true() -> None:
    form = ToolOutputsForm(run(call_json(), call_json(id="call_2")))
    with pytest.raises(NbrunsError):
        form.submit()
    form.calls[0].output = "sunny"
    assert "get_weather (2nd call) is unanswered" in words(form)
    assert "1st call" not in words(form)
    form.calls[1].output = "rain"
    assert words(form) == ""


def test_the_footer_counts_what_is_left_and_shows_no_fault_in_passing() -> None:
    def measure() -> float: ...

    form = ToolOutputsForm(run(call_json("{}", name="measure"), call_json(id="call_2")), tools=[measure])
    assert (form._status.title, form._submit.button_style) == ("2 calls need output", "")
    degrees = form.calls[0]._answer.field("fields")
    degrees.control.value = "cold"
    assert form._status.title == "2 calls need output"
    assert degrees._note.value == ""  # nobody has submitted yet
    degrees.control.value = "-3"
    assert form._status.title == "1 call needs output"
    form.calls[1].error = "out of order"
    assert (form._status.title, form._submit.button_style) == ("Ready to submit", "primary")
    form.calls[1].output = None
    assert form._status.title == "1 call needs output"
    form.finish("Answered elsewhere.")
    assert form._status.title == ""


def test_where_a_function_is_registered_running_it_comes_first() -> None:
    form = ToolOutputsForm(run(call_json(), call_json(id="call_2", name="ask")), tools=[get_weather])
    weather, ask = form.calls
    is_open = [card._answer.layout.display != "none" for card in form.calls]
    assert is_open == [False, True]
    assert weather._run in weather.children[0].children[1].children
    assert ask._run not in ask.children[0].children[1].children
    weather.run()
    assert weather._answer.layout.display is None and weather._enter.layout.display == "none"
    other = ToolOutputsForm(run(), tools=[get_weather]).calls[0]
    other._enter.click()
    assert other._answer.layout.display is None
    third = ToolOutputsForm(run(), tools=[get_weather]).calls[0]
    third._is_error.value = True
    assert third._answer.layout.display is None


def test_the_line_shows_the_arguments_with_which_the_function_ran() -> None:
    form = ToolOutputsForm(run(call_json('{"city": "Oslo"}')), tools=[get_weather])
    (card,) = form.calls
    assert "(city=&quot;Oslo&quot;)" in card._line.value
    card._editor.fields["city"].control.value = "Bergen"
    card.run()
    assert "(city=&quot;Bergen&quot;)" in card._line.value


def test_submit_waits_for_what_a_page_has_not_sent_yet(sent: Sent) -> None:
    taken: list[Any] = []
    form = ToolOutputsForm(run(), on_submit=taken.append)
    status = form._status
    form.calls[0].output = "A"
    status._handle_custom_msg({"hello": True}, [])
    status._handle_custom_msg("nonsense", [])
    form._submit.click()
    until(lambda: any(m["data"].get("content") == {"settle": 1, "form": form.model_id} for m in sent))
    assert form.state == "open"
    form.calls[0].output = "Anna"
    status._handle_custom_msg({"settled": 1}, [])
    until(lambda: taken)
    assert taken == [{"call_1": "Anna"}]
