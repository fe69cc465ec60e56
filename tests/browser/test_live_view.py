"""The live view in JupyterLab and Notebook 7: it flows, it is answered while a cell waits, and it is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import WIDGET, Lab, NotebookPage, Trouble, wait_until
from playwright.sync_api import Locator, expect
from scenes import MARKDOWN, SETUP

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

OpenNotebook = Callable[..., NotebookPage]

RUN = f"""{SETUP}
text = {MARKDOWN!r}
pieces = [text[i:i + 5] for i in range(0, len(text), 5)]
calls = [call_json(), call_json('{{"city": "Bergen", "days": 3}}', id="call_2")]
answered = [{{**call, "function": {{**call["function"], "output": "3 degrees"}}}} for call in calls]
after = ScriptedStream(
    run_is("in_progress"), step_is("completed", *answered, completed_at=3),
    says("Light rain, then.", id="msg_2"), run_is("completed", usage={{"total_tokens": 1234}}),
)
view = RunView(ScriptedRuns(after), ScriptedStream(
    run_is("in_progress"), says(*pieces[:-9], complete=False), gate("rest"), says(*pieces),
    step_is("in_progress", *calls), needs(*calls),
))
view"""


@pytest.fixture
def folder(lab: Lab) -> Path:
    """The notebook's folder, with all gates shut."""
    for gate in ("rest", "end"):
        (lab.folder / gate).unlink(missing_ok=True)
    return lab.folder


def view_in(page: NotebookPage, cell: int) -> Locator:
    """The live view in a cell; not the copy that is kept beside it, out of sight."""
    return page.output(cell).locator(".nbruns:not(.nbruns-saved)")


def test_a_run_from_its_first_word_to_the_saved_notebook(
    app: str, lab: Lab, folder: Path, notebook_page: OpenNotebook, trouble: Trouble
) -> None:
    cells = [RUN, "print('It waits.')\nview.wait().status", "view", "print('next', (await view).status)"]
    path = lab.write_notebook(f"live {app}.ipynb", cells)
    page = notebook_page(path, app=app)
    page.run_cell(0)
    view = view_in(page, 0)

    # While it streams: rendered Markdown, a status that screen readers hear of, and Cancel.
    expect(view.get_by_role("status")).to_have_text("in progress")
    expect(view.get_by_role("button", name="Cancel run")).to_be_visible()
    expect(view.get_by_role("table").locator("td").first).to_have_text("18")
    expect(view.locator("li li")).to_have_text(["a large one", "or two"])
    expect(view.locator("pre .nbruns-k").first).to_have_text("def")
    for link in ("the report", "a chart"):
        expect(view.get_by_role("link", name=link)).to_have_attribute("rel", "noopener noreferrer")
    expect(view.locator(".nbruns-file")).to_have_text("[image: a chart]")
    page.screenshot(f"live-streaming {app}", page.cell(0))

    # Displayed again, and in a page that is loaded anew: the whole of it, once.
    page.run_cell(2)
    expect(view_in(page, 2).get_by_role("heading")).to_have_text("The weather in Oslo")
    page.save()
    page.reload()
    expect(view_in(page, 0)).to_have_count(1)
    expect(view.locator("li li")).to_have_text(["a large one", "or two"])
    expect(page.page.get_by_text("while the run was active").locator("visible=true")).to_have_count(0)

    # The form works while a cell waits; an interrupt leaves it as it was; the next cells wait for their turn.
    (folder / "rest").touch()
    form = page.output(0).locator(".nbruns-form")
    form.get_by_label("Output", exact=True).first.fill("3 degrees")
    expect(view.locator("details")).to_have_count(2)
    page.cell(1).locator(".jp-InputPrompt").click()
    page.start("notebook:run-cell")
    # Of a cell that has not begun, ipykernel would drop the request, and say no more of it.
    expect(page.output(1)).to_contain_text("It waits.")
    page.command("notebook:interrupt-kernel")
    expect(page.output(1)).to_contain_text("KeyboardInterrupt")
    expect(form.get_by_label("Output", exact=True).first).to_have_value("3 degrees")

    # A page that is loaded while a cell waits shows what was typed, and goes on.
    page.cell(3).locator(".jp-InputPrompt").click()
    page.start("notebook:run-cell")
    expect(page.cell(3).locator(".jp-InputPrompt")).to_have_text("[*]:")
    page.save()
    # While a kernel is busy, JupyterLab asks for widgets before it has heard of them: it says so, and asks again.
    trouble.expected = ("Error: widget model not found",)
    page.reload()
    expect(form.get_by_label("Output", exact=True).first).to_have_value("3 degrees")
    page.screenshot(f"live-form {app}", page.output(0))
    form.get_by_label("Output", exact=True).nth(1).fill("4 degrees")
    form.get_by_role("button", name="Submit").click()
    expect(view).to_contain_text("Light rain, then.")


def test_the_end_is_kept_as_html_and_the_reader_stays_where_they_read(
    app: str, lab: Lab, folder: Path, notebook_page: OpenNotebook
) -> None:
    (folder / "rest").touch()
    path = lab.write_notebook(f"ended {app}.ipynb", [RUN])
    page = notebook_page(path, app=app)
    page.page.set_viewport_size({"width": 1000, "height": 500})
    page.run_cell(0)
    form = page.output(0).locator(".nbruns-form")
    for number in range(2):
        form.get_by_label("Output", exact=True).nth(number).fill("3 degrees")
    form.get_by_role("button", name="Submit").click()
    saved = page.output(0).locator(".nbruns-saved")
    expect(saved).to_contain_text("Light rain, then.")
    expect(page.output(0).locator(".nbruns:visible")).to_have_count(1)
    assert saved.bounding_box()["height"] > 500  # all of it, of which the reader saw the end
    expect(saved.get_by_text("Light rain, then.")).to_be_in_viewport()
    page.screenshot(f"ended {app}")

    page.save()
    shown, room = lab.read_notebook(path).cells[0].outputs
    assert set(shown.data) == {"text/html", "text/plain"}
    assert set(room.data) == {WIDGET}  # the composer
    assert "Light rain, then." in shown.data["text/html"]


#: A run of a real server, which goes on when the kernel is gone.
SERVED = """import nbruns
client = nbruns.local()
assistant = client.assistants.create(model="demo", name="Wardrobe", tools=[{"type": "function", "function": {
    "name": "ask_somebody", "parameters": {"type": "object", "properties": {"question": {"type": "string"}}}}}])
thread = client.threads.create("What should I wear in Oslo?")
view = client.runs.watch(thread, assistant)
view"""


def test_a_run_outlives_the_kernel_and_is_picked_up(
    lab: Lab, notebook_page: OpenNotebook, trouble: Trouble
) -> None:
    path = lab.write_notebook("restarted.ipynb", [SERVED, "print(1)"])
    page = notebook_page(path)
    page.run_cell(0)
    expect(page.output(0).locator(".nbruns-form")).to_be_visible(timeout=20_000)
    expect(view_in(page, 0).get_by_text("Wardrobe")).to_be_visible()
    page.output(0).get_by_label("Output", exact=True).fill("a scarf")
    wait_until(lambda: "picks it up" in copy_in(page), "the copy")
    page.save()
    page.restart_kernel()
    expect(page.output(0).locator(".nbruns-view").get_by_role("button")).to_have_count(
        0
    )  # nobody would hear of a click
    expect(page.output(0).get_by_label("Output", exact=True)).to_have_value("a scarf")
    page.screenshot("kernel gone", page.cell(0))
    # The reader sees nothing of it, but JupyterLab tells the console of every widget whose kernel is gone.
    trouble.expected = ("Error: widget model not found",)
    page.reload()
    output = page.output(0)
    kept = output.locator(".nbruns-saved")
    expect(kept).to_be_visible()
    expect(kept).to_contain_text("ask_somebody")
    expect(page.page.get_by_text("Error displaying widget").locator("visible=true")).to_have_count(0)
    page.screenshot("restarted", page.cell(0))
    expect(kept).to_be_visible()

    words = kept.locator(".nbruns-note").inner_text()
    (call,) = re.findall(r"client\.runs\.watch\(.*?\)", words)
    path = lab.write_notebook("picked up.ipynb", [f"import nbruns\nclient = nbruns.local()\n{call}"])
    again = notebook_page(path)
    again.run_cell(0)
    form = again.output(0).locator(".nbruns-form")
    form.get_by_label("Output", exact=True).fill("a coat")
    form.get_by_role("button", name="Submit").click()
    ended = again.output(0).locator(".nbruns-saved:not(.nbruns-copy *)")
    expect(ended.locator(".nbruns-badge")).to_have_text("completed", timeout=20_000)
    expect(ended).to_contain_text("a coat")


def copy_in(page: NotebookPage) -> str:
    """What the notebook would keep of the first cell, if its kernel went now."""
    return page.output(0).locator(".nbruns-copy").first.text_content(timeout=10_000) or ""
