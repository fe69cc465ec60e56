"""The live view while its run requires action: answered by hand, by functions, or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asked_views import DONE, asked, asking
from eventually import until
from scripted import ScriptedRuns, ScriptedStream, call_json, needs, run_is, run_json, step_is
from sent import Page, Sent
from test_tool_outputs_form import get_weather

from nbruns.errors import APIError, ConnectionError, NbrunsError
from nbruns.objects import Run
from nbruns.widgets import session
from nbruns.widgets.run_view.transcript import Transcript
from nbruns.widgets.run_view.view import RunView

OpenPage = Callable[[Any], Page]


def test_submit_goes_on_in_the_same_view(sent: Sent, page: OpenPage) -> None:
    runs = ScriptedRuns(ScriptedStream(run_is("in_progress"), *DONE))
    view = asked(runs)
    opened = page(view._page)
    opened.open()
    assert view.form is not None
    assert list(view.children) == [view._page, view.form, view._composer]
    view.form.calls[0].output = "sunny"
    view.form.submit()
    assert view.wait(5).status == "completed"
    assert runs.submitted == [{"call_1": "sunny"}]
    assert view.form is None
    assert list(view.children) == [view._page, view._composer]
    assert [block[2] for block in opened.take().values()][1:] == [
        block.content for block in Transcript().blocks(view.snapshot)[1:]
    ]


def test_outputs_are_submitted_in_code() -> None:
    runs = ScriptedRuns(APIError("the server is on fire", status=500), ScriptedStream(*DONE))
    view = asked(runs)
    with pytest.raises(APIError, match="on fire"):
        view.submit({"call_1": "sunny"})
    assert view.form is not None and view.is_active
    assert view.submit({"call_1": "sunny"}).wait(5).status == "completed"
    assert runs.submitted == [{"call_1": "sunny"}] * 2
    assert view.form is None
    with pytest.raises(NbrunsError, match="doesn't wait for tool outputs"):
        view.submit({"call_1": "sunny"})


def test_a_run_may_ask_several_times() -> None:
    again = ScriptedStream(
        step_is("in_progress", call_json(id="call_2"), id="step_2"), needs(call_json(id="call_2"))
    )
    runs = ScriptedRuns(again, ScriptedStream(*DONE))
    view = asked(runs)
    for answer in ("one", "two"):
        until(lambda: view.form is not None and view.form.state == "open" and not view.form.outputs)
        form = view.form
        assert form is not None
        form.calls[0].output = answer
        form.submit()
        until(lambda form=form: view.form is not form)
    assert view.wait(5).status == "completed"
    assert runs.submitted == [{"call_1": "one"}, {"call_2": "two"}]


def test_a_failed_submit_is_shown_and_what_was_typed_is_still_there() -> None:
    runs = ScriptedRuns(APIError("the server is on fire", status=500), ScriptedStream(*DONE))
    view = asked(runs)
    form = view.form
    assert form is not None
    form.calls[0].output = "typed"
    form._submit.click()
    until(lambda: "on fire" in form._note.value)
    assert view.form is form
    assert form.outputs == {"call_1": "typed"}
    form._submit.click()
    assert view.wait(5).status == "completed"


def test_auto_answers_with_the_registered_functions() -> None:
    runs = ScriptedRuns(ScriptedStream(*DONE))
    view = RunView(runs, asking(), tools=[get_weather], auto=True)
    assert view.wait(5).status == "completed"
    assert runs.submitted == [{"call_1": "12 celsius in Oslo"}]


def test_auto_reports_what_a_function_raises() -> None:
    runs = ScriptedRuns(ScriptedStream(*DONE))
    view = RunView(runs, asking(call_json('{"city": "Atlantis"}')), tools=[get_weather], auto=True)
    view.wait(5)
    assert runs.submitted == [{"call_1": "Error: get_weather raised LookupError: no such city"}]


def test_auto_leaves_to_the_form_what_no_function_answers() -> None:
    runs = ScriptedRuns(ScriptedStream(*DONE))
    view = asked(
        runs, call_json(), call_json(id="call_2", name="ask_the_user"), tools=[get_weather], auto=True
    )
    assert view.form is not None
    assert view.form.outputs == {"call_1": "12 celsius in Oslo"}
    view.form.calls[1].output = "blue"
    view.form.submit()
    view.wait(5)
    assert runs.submitted == [{"call_1": "12 celsius in Oslo", "call_2": "blue"}]


def test_auto_submits_that_fail_are_shown_and_raised() -> None:
    runs = ScriptedRuns(ConnectionError("no server there"))
    view = RunView(runs, asking(), tools=[get_weather], auto=True)
    until(lambda: view.form is not None)
    assert view.form is not None
    assert view.form.outputs == {"call_1": "12 celsius in Oslo"}
    assert "no server there" in view.form._note.value


def test_without_auto_functions_only_offer_themselves() -> None:
    view = asked(ScriptedRuns(), tools=[get_weather])
    assert view.form is not None
    assert view.form.outputs == {}
    assert view.form.calls[0].can_run


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often whether somebody else has answered."""
    monkeypatch.setattr(session, "POLL_FIRST", 0.05)


@pytest.mark.usefixtures("watchful")
def test_a_run_answered_elsewhere_closes_the_form_and_goes_on() -> None:
    runs = ScriptedRuns()
    runs.followed = lambda: ScriptedStream(*DONE)
    view = asked(runs)
    form = view.form
    assert form is not None
    runs.now = run_json("in_progress")
    assert view.wait(5).status == "completed"
    assert view.form is None
    assert "elsewhere" in view.to_html()
    assert runs.submitted == []
    assert form.state == "closed"
    with pytest.raises(NbrunsError, match="closed"):
        form.submit()


@pytest.mark.usefixtures("watchful")
def test_a_run_that_expires_meanwhile_ends_the_view() -> None:
    runs = ScriptedRuns(now=run_json("expired"))
    runs.followed = lambda: ScriptedStream(run_is("expired"))
    view = RunView(runs, asking())
    assert view.wait(5).status == "expired"
    assert "expired" in view.to_html()


@pytest.mark.usefixtures("watchful")
def test_a_server_that_is_away_for_a_while_changes_nothing() -> None:
    class Away(ScriptedRuns):
        asked = 0

        def retrieve(self, run: Run) -> Run:
            self.asked += 1
            raise ConnectionError("away")

    runs = Away(ScriptedStream(*DONE))
    view = asked(runs)
    until(lambda: runs.asked >= 2)
    assert view.form is not None
    view.form.calls[0].output = "sunny"
    view.form.submit()
    assert view.wait(5).status == "completed"
