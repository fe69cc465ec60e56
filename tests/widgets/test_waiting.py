"""`wait()` in a cell of a real kernel: the form works meanwhile, the next cells wait, the output becomes HTML."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from kernel_cells import SETUP, Cells, kernel
from nbclient import NotebookClient
from tornado.queues import Queue

from nbruns.widgets.notebook.waiting import _read_ahead

ASK = """
import time
from scripted import *
from nbruns.widgets.run_view.view import RunView
done = ScriptedStream([*says("It is ", "12 degrees."), run_is("completed")])
view = RunView(ScriptedRuns(done), ScriptedStream(run_is("in_progress"), needs(call_json())))
while view.form is None:
    time.sleep(0.01)
print(view.form.calls[0]._output.model_id, view.form._submit.model_id)
"""


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    with kernel() as cells:
        yield cells


@pytest.fixture(params=["main shell", "subshell"])
def asked(cells: Cells, request: pytest.FixtureRequest) -> tuple[Cells, str, str]:
    """A kernel in which a run waits for an answer; the ids of the form's output and Submit."""
    cells.subshell = None
    if request.param == "subshell":
        if "subshell" not in str(
            cells.client.kernel_info(reply=True, timeout=10)["content"].get("supported_features")
        ):
            pytest.skip("this ipykernel has no subshells")
        cells.use_subshell()
    output, submit = cells.run(ASK).split()
    return cells, output, submit


def updates_of(cells: Cells, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """What has been put in the place of something that is displayed."""
    updates = [m for m in cells.messages if m["msg_type"] == "update_display_data"]
    return [m for m in updates if m["content"]["transient"] == shown["content"]["transient"]]


def test_the_form_can_be_answered_while_a_cell_waits(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    waiting = cells.start("print('waits'); print(view.wait(20).status)")
    following = cells.start("print('next')")
    cells.until(lambda: "waits" in cells.printed(waiting), "the cell to wait")
    cells.until_idle(cells.set(output, value="sunny"))
    cells.until_idle(cells.click(submit))
    cells.until_idle(following)
    assert cells.printed(waiting) == "waits\ncompleted\n"
    assert cells.printed(following) == "next\n"
    assert cells.run("print(view._runs.submitted)") == "[{'call_1': 'sunny'}]\n"


def test_the_waiting_cell_shows_the_view_and_holds_html_before_it_ends(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    waiting = cells.start("view.wait(20); print('over')")
    cells.until(lambda: cells.of(waiting, "display_data"), "the view to be shown")
    cells.set(output, value="sunny")
    cells.click(submit)
    cells.until_idle(waiting)
    shown, room = cells.of(waiting, "display_data")
    assert "application/vnd.jupyter.widget-view+json" in shown["content"]["data"]
    replaced = updates_of(cells, shown)[-1]
    assert set(replaced["content"]["data"]) == {"text/plain", "text/html"}
    assert "while the run was active" in shown["content"]["data"]["text/html"]
    assert "while the run was active" not in replaced["content"]["data"]["text/html"]
    assert "It is 12 degrees." in replaced["content"]["data"]["text/html"]
    over, *_ = cells.of(waiting, "stream")
    assert cells.messages.index(replaced) < cells.messages.index(over)
    assert room["content"]["data"] == {} and updates_of(cells, room) == []  # no page has seen it: no copy


def test_a_copy_is_kept_for_the_time_when_the_kernel_is_gone(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    cells.run("view")
    shown, room = [m for m in cells.messages if m["msg_type"] == "display_data"][-2:]
    cells.until_idle(cells.say(cells.run("print(view._page.model_id)").strip(), {"hello": -1}))
    cells.run("pass")
    kept = updates_of(cells, room)[-1]["content"]["data"]["text/html"]
    assert 'class="nbruns-copy nbruns-copy-' in kept
    assert "get_weather" in kept and "while the run was active" in kept
    cells.set(output, value="sunny")
    cells.click(submit)
    cells.run("view.wait(20)")
    emptied, composer = updates_of(cells, room)[-2:]
    ended = updates_of(cells, shown)[-1]
    assert emptied["content"]["data"] == {}
    # A copy without its live view would show itself, and hide the end above it while the page looks where that is.
    assert cells.messages.index(emptied) < cells.messages.index(ended)
    assert list(composer["content"]["data"]) == ["application/vnd.jupyter.widget-view+json"]


def test_a_page_that_is_opened_anew_is_answered_while_a_cell_waits(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    waiting = cells.start("print('waits'); view.wait(20)")
    cells.until(lambda: "waits" in cells.printed(waiting), "the cell to wait")
    assert cells.client.kernel_info(reply=True, timeout=10)["content"]["status"] == "ok"
    cells.client.comm_info(reply=True, timeout=10)
    cells.set(output, value="sunny")
    cells.click(submit)
    cells.until_idle(waiting)
    assert cells.of(waiting, "error") == []


def test_a_view_that_is_shown_already_is_not_shown_again(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    showing = cells.start("view")
    waiting = cells.start("view.wait(20); view")
    cells.set(output, value="sunny")
    cells.click(submit)
    cells.until_idle(waiting)
    assert len(cells.of(showing, "display_data")) == 2  # the view, and room for its copy
    (shown,) = cells.of(waiting, "display_data")
    assert set(shown["content"]["data"]) == {
        "text/plain",
        "text/html",
    }  # when it has ended there is no widget


def test_interrupting_the_kernel_leaves_run_and_form_as_they_were(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    waiting = cells.start("print('waits'); view.wait(20)")
    cells.until(lambda: "waits" in cells.printed(waiting), "the cell to wait")
    cells.until_idle(cells.set(output, value="typed"))
    cells.manager.interrupt_kernel()
    cells.until_idle(waiting)
    assert [m["content"]["ename"] for m in cells.of(waiting, "error")] == ["KeyboardInterrupt"]
    assert cells.run("print(view.form.state, view.form.outputs)") == "open {'call_1': 'typed'}\n"
    cells.click(submit)
    assert cells.run("print(view.wait(20).status)").endswith("completed\n")


def test_a_wait_that_is_over_says_so_and_the_next_cell_runs(asked: tuple[Cells, str, str]) -> None:
    cells, output, _ = asked
    waiting = cells.start("view.wait(0.3)")
    cells.set(output, value="typed")
    cells.until_idle(waiting)
    assert [m["content"]["ename"] for m in cells.of(waiting, "error")] == ["TimeoutError"]
    assert cells.run("print(view.form.outputs)") == "{'call_1': 'typed'}\n"


def test_await_lets_the_form_work_too(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    waiting = cells.start("print('waits'); print((await view).status)")
    cells.until(lambda: "waits" in cells.printed(waiting), "the cell to wait")
    cells.set(output, value="sunny")
    cells.click(submit)
    cells.until_idle(waiting)
    assert cells.printed(waiting) == "waits\ncompleted\n"


def test_what_an_export_to_plain_text_or_latex_keeps_has_the_answer(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    cells.until_idle(cells.set(output, value="sunny"))
    cells.click(submit)
    cells.until_idle(cells.start("view.wait(10); None"))
    shown = cells.start("view")
    cells.until_idle(shown)
    [first, *_] = cells.of(shown, "display_data")
    assert "It is 12 degrees." in first["content"]["data"]["text/plain"]


def test_what_a_cell_prints_stays_its_own_while_widgets_work(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    cells.run(
        "view.on_done(lambda run: None); view.form.calls[0]._output.observe(lambda c: print('heard'), 'value')"
    )
    waiting = cells.start("print('before'); view.wait(20); print('after')")
    cells.until(lambda: "before" in cells.printed(waiting), "the cell to wait")
    cells.until_idle(cells.set(output, value="sunny"))
    cells.click(submit)
    cells.until_idle(waiting)
    assert cells.printed(waiting).replace("heard\n", "") == "before\nafter\n"


def test_what_was_typed_and_clicked_before_the_cell_waits_is_heard(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    for _ in range(5):  # some of these are read by the kernel before the cell waits, which ones is chance
        cells.start("view")
        waiting = cells.start("print(view.wait(10).status); view.wait()")  # waits again, as for many views
        heard = [cells.set(output, value=typed) for typed in ("s", "su", "sunny")]
        if cells.subshell:
            cells.until_idle(heard[-1])  # as the page waits for it: see form_status.js
        cells.click(submit)
        following = cells.start("print('next')")
        cells.until_idle(following)
        assert cells.of(waiting, "error") == [] and cells.printed(waiting) == "completed\n"
        assert cells.run("print(view._runs.submitted)") == "[{'call_1': 'sunny'}]\n"
        output, submit = cells.run(ASK).split()


@pytest.mark.parametrize("table", ["KERNEL", "STREAM"])
def test_a_kernel_that_has_changed_is_warned_of_in_words(cells: Cells, table: str) -> None:
    waiting = "from nbruns.widgets.notebook import waiting; from threading import Event"
    cells.run(
        f"{waiting}; known = waiting.{table}; waiting.{table} += ('renamed',); waiting._is_known.cache_clear()"
    )
    cell = cells.start("waiting.wait_for(Event(), 0.01)")
    cells.until_idle(cell)
    assert "nbruns doesn't know ipykernel" in cells.printed(cell)
    assert f"{table.lower()}.renamed" in cells.printed(
        cell
    ) and "end the cell without wait()" in cells.printed(cell)
    cells.run(f"waiting.{table} = known; waiting._is_known.cache_clear()")
    cell = cells.start("waiting.wait_for(Event(), 0.01)")
    cells.until_idle(cell)
    assert cells.printed(cell) == ""


def test_what_a_kernel_before_7_has_read_already_is_taken_in_order_and_the_rest_left() -> None:
    # The queue of ipykernel 6: number, what handles it, and its arguments, of which the kernel's own have none.
    said = [("cell",), ("click",), (), ("type",), ("cell",)]
    queue: Queue[Any] = Queue()
    for number, arguments in enumerate(said):
        queue.put_nowait((number, print, arguments))
    kernel = SimpleNamespace(msg_queue=queue)
    assert _read_ahead(kernel, lambda message: message != "cell") == ["click", "type"]
    assert [queue.get_nowait() for _ in range(queue.qsize())] == [(n, print, said[n]) for n in (0, 2, 4)]


def test_views_that_are_awaited_together_leave_the_kernel_as_it_was(asked: tuple[Cells, str, str]) -> None:
    cells, output, submit = asked
    cells.run(
        "slow = ScriptedStream(run_is('in_progress'), lambda: time.sleep(0.3), done.script[0])\n"
        "other = RunView(ScriptedRuns(), slow)"
    )
    waiting = cells.start("import asyncio; print([run.status for run in await asyncio.gather(view, other)])")
    cells.set(output, value="sunny")
    cells.click(submit)
    cells.until_idle(waiting)
    assert cells.printed(waiting) == "['completed', 'completed']\n"
    assert cells.run("print('alive')") == "alive\n"


def test_a_name_that_comes_behind_the_end_is_kept_with_the_notebook(cells: Cells) -> None:
    named = (
        "named = threading.Event()\nclass Late(ScriptedRuns):\n    def assistant_of(self, run):\n"
        "        named.wait(10)\n        return super().assistant_of(run)\n"
        "view = RunView(Late(name='Wardrobe'), ScriptedStream(*done.script))\nview.wait(20)\nview"
    )
    shown = cells.start(f"import threading\n{named}")
    cells.until_idle(shown)
    first = cells.of(shown, "display_data")[-1]
    assert "Wardrobe" not in first["content"]["data"]["text/html"]
    cells.run("named.set()")
    cells.until(lambda: updates_of(cells, first), "the name")
    assert "Wardrobe" in updates_of(cells, first)[-1]["content"]["data"]["text/html"]


SLOW = """
import time
from scripted import *
from nbruns.widgets.run_view.view import RunView
opened, shut = gate()
view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), shut, says("12 degrees."), run_is("completed")))
view"""


@pytest.mark.parametrize("waiting", ["view.wait()", "await view"])
def test_a_notebook_that_is_run_without_a_page_holds_the_end_too(waiting: str) -> None:
    # nbclient, and so `nbconvert --execute`, listens to the cell that runs, not to the one that showed the view.
    cells = [SETUP, SLOW, f"opened.set()\n{waiting};"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown, room = notebook.cells[1].outputs
    assert set(shown.data) == {"text/plain", "text/html"} and room.data == {}
    assert "12 degrees." in shown.data["text/html"]
