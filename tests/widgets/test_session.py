"""A run that is followed without any widget: its streams, its answers, and what it reports."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from asked_views import DONE, asking
from eventually import until
from scripted import ScriptedRuns, ScriptedStream, call_json, gate, needs, run_is, run_json, says

from nbruns.client.fork import ForkStream, Record, _Call
from nbruns.errors import LimitError, NbrunsError, StreamError
from nbruns.objects import ToolCall
from nbruns.snapshot import RunSnapshot
from nbruns.widgets import session as session_module
from nbruns.widgets.session import RunSession


def get_weather(city: str, unit: str = "celsius", days: int = 1) -> str:
    return f"sunny in {city}"


def followed(*args: Any, **options: Any) -> RunSession:
    session = RunSession(*args, **options)
    session.start()
    return session


def ended(session: RunSession) -> RunSession:
    assert session.ended.wait(20)
    return session


def test_it_needs_no_widgets() -> None:
    code = (
        "import sys, nbruns.widgets.session; print({'ipywidgets', 'anywidget', 'IPython'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_event_is_folded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: Counter[str] = Counter()
    apply = RunSnapshot.apply

    def counting(snapshot: RunSnapshot, name: str, payload: dict[str, Any]) -> None:
        folded[name] += 1
        apply(snapshot, name, payload)

    monkeypatch.setattr(RunSnapshot, "apply", counting)
    pieces = [f"{n} " for n in range(100)]
    session = ended(
        followed(ScriptedRuns(), ScriptedStream(run_is("in_progress"), *says(*pieces), run_is("completed")))
    )
    assert session.snapshot.text == "".join(pieces)
    assert folded["thread.message.delta"] == 100 and set(folded.values()) == {1, 100}


def test_changes_are_reported_while_text_grows_and_the_end_once() -> None:
    opened, pause = gate()
    seen, ends = list[str](), list[str]()
    stream = ScriptedStream(
        run_is("in_progress"),
        *says("It ", complete=False),
        pause,
        *says("It ", "rains."),
        run_is("completed"),
    )
    session = RunSession(
        ScriptedRuns(),
        stream,
        on_change=lambda: seen.append(session.snapshot.text),
        on_end=lambda: ends.append(session.snapshot.text),
    )
    session.start()
    until(lambda: "It " in seen)
    opened.set()
    ended(session)
    assert seen[-1] == "It rains." and ends == ["It rains."]


def test_functions_answer_and_the_snapshot_is_continued() -> None:
    runs = ScriptedRuns(ScriptedStream(*DONE))
    session = ended(followed(runs, asking(), tools=[get_weather], auto=True))
    assert runs.submitted == [{"call_1": "sunny in Oslo"}]
    assert session.run is not None and session.run.status == "completed"
    assert [step.type for step in session.snapshot.steps] == ["tool_calls"]
    assert session.action is None and session.error is None


def test_an_action_waits_for_outputs_by_hand() -> None:
    runs = ScriptedRuns(ScriptedStream(*DONE))
    session = followed(runs, asking(), tools=[get_weather])
    until(lambda: session.action is not None)
    assert session.action is not None and session.action.answers == []
    session.submit({"call_1": "fog"})
    ended(session)
    assert runs.submitted == [{"call_1": "fog"}] and session.action is None
    with pytest.raises(NbrunsError, match="doesn't wait"):
        session.submit({"call_1": "again"})


def test_what_no_function_answers_is_left_to_a_person_with_the_others_answers() -> None:
    calls = call_json(), call_json(id="call_2", name="get_news")
    session = followed(ScriptedRuns(ScriptedStream(*DONE)), asking(*calls), tools=[get_weather], auto=True)
    until(lambda: session.action is not None)
    assert session.action is not None
    assert [answer and answer.output for answer in session.action.answers] == ["sunny in Oslo", None]
    session.submit({"call_1": "sunny in Oslo", "call_2": "none"})
    ended(session)


def test_outputs_that_were_not_taken_can_be_submitted_again() -> None:
    runs = ScriptedRuns(NbrunsError("The server is away."), ScriptedStream(*DONE))
    session = followed(runs, asking(), tools=[get_weather], auto=True)
    until(lambda: session.action is not None)
    assert session.action is not None and session.action.problem == "The server is away."
    session.submit({"call_1": "sunny in Oslo"})
    ended(session)
    assert len(runs.submitted) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("completed", "answered elsewhere"),
        ("cancelled", "cancelled elsewhere"),
        ("expired", "expired before"),
    ],
)
def test_a_run_that_went_on_elsewhere_is_followed(
    status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "POLL_FIRST", 0.01)
    runs, closed = ScriptedRuns(), list[str]()
    runs.followed = lambda: ScriptedStream(run_is(status))
    session = RunSession(
        runs, asking(), on_change=lambda: closed.append(session.action.closed if session.action else "")
    )
    session.start()
    until(lambda: session.action is not None)
    runs.now = run_json(status)
    ended(session)
    assert session.run is not None and session.run.status == status
    assert any(words in each for each in closed)


def test_what_breaks_the_stream_is_kept() -> None:
    session = ended(followed(ScriptedRuns(), ScriptedStream(run_is("in_progress"), StreamError("cut off"))))
    assert str(session.error) == "cut off"
    session = ended(followed(ScriptedRuns(), ScriptedStream(run_is("in_progress"))))
    assert "closed before the run ended" in str(session.error)


def test_limits_are_checked_and_kept() -> None:
    with pytest.raises(ValueError, match="max_rounds"):
        RunSession(ScriptedRuns(), asking(), max_rounds=0)
    runs = ScriptedRuns(ScriptedStream(needs(call_json(id="call_2"))))
    session = ended(followed(runs, asking(), tools=[get_weather], auto=True, max_rounds=1))
    assert isinstance(session.error, LimitError) and len(runs.submitted) == 1


class ScriptedFork(ScriptedStream, ForkStream):
    """A fork whose new run tells a script."""

    def __init__(self, record: Record, *script: Any) -> None:
        super().__init__(*script)
        self._record = record


def test_a_fork_replays_what_follows_a_call_that_is_answered_by_hand() -> None:
    recorded = ToolCall(call_json('{"city": "Bergen"}', "call_9"))
    fork = ScriptedFork(Record([_Call(recorded, "Midnight", changed=True)]), needs(call_json()))
    again = ScriptedStream(needs(call_json('{ "city": "Bergen" }', "call_2")))
    runs = ScriptedRuns(again, ScriptedStream(run_is("completed")))
    session = followed(runs, fork)
    until(lambda: session.action is not None)
    assert session.unused == [recorded]
    session.submit({"call_1": "Snow"})
    assert ended(session).error is None
    assert runs.submitted == [{"call_1": "Snow"}, {"call_2": "Midnight"}]
    assert session.unused == []
