"""The live view: it follows a run over its streams, lets its calls be answered, and never loses anything."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from asked_views import DONE, asked
from eventually import until
from scripted import ScriptedRuns, ScriptedStream, gate, run_is, says
from sent import Page, Sent

from nbruns.errors import APIError, ConnectionError, NbrunsError, StreamError, TimeoutError
from nbruns.objects import TERMINAL_STATUSES, Run
from nbruns.widgets.run_view.view import RunView

OpenPage = Callable[[Any], Page]


def test_a_run_without_tools_is_followed_to_its_end() -> None:
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("queued"), *DONE))
    run = view.wait(5)
    assert run.status == "completed"
    assert view.run == run
    assert view.snapshot.text == "It is 12 °C."
    assert "12 °C." in view.to_html()
    assert view.form is None


def test_the_cell_returns_at_once_and_text_shows_while_it_streams(sent: Sent, page: OpenPage) -> None:
    first, pause = gate()
    second, end = gate()
    pieces = says("It is ", "12 °C.")
    view = RunView(
        ScriptedRuns(), ScriptedStream(run_is("in_progress"), pieces[:2], pause, pieces[2:], end, *DONE[-1:])
    )
    opened = page(view._page)
    opened.open()
    until(lambda: opened.texts()[1:] == ["<p>It is</p>"])
    first.set()
    until(lambda: opened.texts()[1:] == ["<p>It is 12 °C.</p>"])
    second.set()
    view.wait(5)


def test_a_broken_stream_is_shown_below_and_raised_by_wait() -> None:
    view = RunView(
        ScriptedRuns(),
        ScriptedStream(run_is("in_progress"), *says("Half", complete=False), StreamError("cut off")),
    )
    with pytest.raises(StreamError, match="cut off"):
        view.wait(5)
    assert "cut off" in view.to_html()
    assert "Half" in view.to_html()
    with pytest.raises(StreamError):
        view.wait(5)


def test_any_other_trouble_is_shown_too() -> None:
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), ValueError("<b>odd</b>")))
    with pytest.raises(ValueError, match="odd"):
        view.wait(5)
    assert "ValueError: &lt;b&gt;odd" in view.to_html()


def test_a_stream_that_somebody_closed_is_no_end() -> None:
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress")))
    with pytest.raises(StreamError, match="closed before the run ended"):
        view.wait(5)


def test_a_wait_that_is_over_leaves_all_as_it_was() -> None:
    runs = ScriptedRuns(ScriptedStream(*DONE))
    view = asked(runs)
    form = view.form
    assert form is not None
    form.calls[0].output = "typed"
    with pytest.raises(TimeoutError, match=r"not ended after 0\.1 s; its status: requires action"):
        view.wait(0.1)
    assert view.form is form
    assert form.outputs == {"call_1": "typed"}
    assert form.state == "open"
    form.submit()
    assert view.wait(5).status == "completed"


def test_an_interrupted_wait_leaves_all_as_it_was() -> None:
    view = asked(ScriptedRuns(ScriptedStream(*DONE)))
    form = view.form
    assert form is not None
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        view.wait(10)
    assert view.form is form
    form.calls[0].output = "sunny"
    form.submit()
    assert view.wait(5).status == "completed"


def test_it_can_be_awaited() -> None:
    opened, pause = gate()

    async def main() -> Run:
        view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), pause, *DONE))
        asyncio.get_running_loop().call_later(0.1, opened.set)
        return await view

    assert asyncio.run(main()).status == "completed"


def test_on_done_is_called_once_with_the_run() -> None:
    opened, pause = gate()
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), pause, *DONE))
    early: list[Run] = []
    view.on_done(early.append)
    assert early == []
    opened.set()
    view.wait(5)
    until(lambda: early)
    late: list[Run] = []
    view.on_done(late.append)
    assert [run.status for run in early + late] == ["completed", "completed"]


def test_on_done_is_not_called_for_a_run_that_may_still_go_on() -> None:
    called, before = list[Run](), set(threading.enumerate())
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), StreamError("gone", None)))
    view.on_done(called.append)
    with pytest.raises(StreamError):
        view.wait(5)
    until(lambda: not set(threading.enumerate()) - before)
    view.on_done(called.append)
    assert called == []


def test_a_callback_that_comes_just_as_the_run_ends_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    at_its_end, given = threading.Event(), threading.Event()
    save = RunView._save

    class Slow(list[Any]):
        def append(self, callback: Any) -> None:
            given.set()
            assert not view._session.ended.wait(0.1)
            super().append(callback)

    def held(view: RunView) -> None:
        save(view)
        at_its_end.set()
        given.wait(5)

    monkeypatch.setattr(RunView, "_save", held)
    view = RunView(ScriptedRuns(), ScriptedStream(*DONE))
    view._session._callbacks = Slow()
    assert at_its_end.wait(5)
    called: list[Run] = []
    view.on_done(called.append)
    until(lambda: [run.status for run in called] == ["completed"])


def test_an_error_in_a_callback_is_shown() -> None:
    view = RunView(ScriptedRuns(), ScriptedStream(*DONE))
    view.wait(5)
    view.on_done(lambda run: {}["nope"])
    assert "KeyError" in view.to_html()


def test_cancel_while_streaming() -> None:
    opened, pause = gate()
    runs = ScriptedRuns()
    view = RunView(
        runs, ScriptedStream(run_is("in_progress"), pause, run_is("cancelling"), run_is("cancelled"))
    )
    until(lambda: view._page.cancellable)
    view._page._handle_custom_msg({"cancel": True}, [])
    until(lambda: runs.cancelled == 1)
    opened.set()
    assert view.wait(5).status == "cancelled"
    assert "The run was cancelled." in view.to_html()
    assert view._page.cancellable is False


def test_cancel_while_the_form_waits() -> None:
    runs = ScriptedRuns()
    runs.followed = lambda: ScriptedStream(run_is("cancelling"), run_is("cancelled"))
    view = asked(runs)
    view.cancel()
    assert view.wait(5).status == "cancelled"
    assert view.form is None


def test_a_cancel_that_fails_is_shown_and_the_button_comes_back() -> None:
    class Refusing(ScriptedRuns):
        def cancel(self, run: Run) -> Run:
            raise APIError("can't cancel that", status=400)

    view = asked(Refusing())
    view._page._handle_custom_msg({"cancel": True}, [])
    until(lambda: view._page.refusals == 1)
    assert "can&#x27;t cancel that" in view.to_html()
    assert view._page.cancellable is True


def test_cancelling_nothing_says_so() -> None:
    opened, pause = gate()
    view = RunView(ScriptedRuns(), ScriptedStream(pause, *DONE))
    with pytest.raises(NbrunsError, match="No run to cancel yet"):
        view.cancel()
    opened.set()
    view.wait(5)


def test_a_page_that_opens_late_shows_everything(sent: Sent, page: OpenPage) -> None:
    view = asked(ScriptedRuns())
    late = page(view._page)
    late.open()
    assert [block[1] for block in late.blocks.values()] == ["head", "call"]
    assert view.form is not None
    assert view.get_state("children")["children"] == [
        f"IPY_MODEL_{w.model_id}" for w in (view._page, view.form, view._composer)
    ]


def test_at_most_twenty_updates_a_second(sent: Sent, page: OpenPage) -> None:
    pieces = says(*["word "] * 400)
    slow = [step for piece in pieces for step in (lambda: time.sleep(0.001), piece)]
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), slow, run_is("completed")))
    opened = page(view._page)
    opened.open()
    began = time.monotonic()
    view.wait(10)
    took = time.monotonic() - began
    messages = [m for m in sent.of(view._page) if m["data"].get("method") == "custom"]
    assert 3 <= len(messages) <= 20 * took + 3
    assert opened.texts()[-1].count("word") == 400


def test_several_views_do_not_mix() -> None:
    views = [
        RunView(ScriptedRuns(), ScriptedStream(says(f"I am {n}."), run_is("completed"))) for n in range(5)
    ]
    for number, view in enumerate(views):
        view.wait(5)
        assert view.snapshot.text == f"I am {number}."


def test_in_a_plain_python_it_works_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    view = RunView(ScriptedRuns(), ScriptedStream(*DONE))
    view.wait(5)
    assert capsys.readouterr().out == ""


def test_html_of_a_run_that_goes_on_says_so_and_how_to_pick_it_up() -> None:
    view = asked(ScriptedRuns())
    assert "while the run was active" in view.to_html()
    assert "client.runs.watch(run=&quot;run_1&quot;, thread=&quot;thread_1&quot;)" in view.to_html()


@pytest.mark.parametrize("status", sorted(TERMINAL_STATUSES))
def test_html_of_a_run_that_has_ended_does_not_say_that_it_goes_on(status: str) -> None:
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), run_is(status)))
    view.wait(5)
    assert f'data-status="{status}"' in view.to_html()
    assert "was active" not in view.to_html()


def test_threads_end_with_the_run() -> None:
    before = set(threading.enumerate())

    def names() -> set[str]:
        return {thread.name for thread in set(threading.enumerate()) - before}

    opened, pause = gate()
    view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), pause, *DONE))
    until(lambda: view.run is not None)
    until(lambda: names() == {"nbruns-session", "nbruns-reader"})  # the one that asks for a name has done so
    opened.set()
    view.wait(5)
    until(lambda: not set(threading.enumerate()) - before)


def test_a_view_does_without_the_name_of_an_assistant_that_it_can_not_have() -> None:
    asked_for, refused = threading.Event(), ConnectionError("The server is gone.")

    class Nameless(ScriptedRuns):
        def assistant_of(self, run: Run) -> Any:
            asked_for.set()
            raise refused

    view = RunView(Nameless(), ScriptedStream(run_is("in_progress"), lambda: asked_for.wait(5), *DONE))
    assert view.wait(5).status == "completed"
    assert asked_for.is_set() and "The server is gone" not in view.to_html()
    assert "12 °C." in view.to_html()
