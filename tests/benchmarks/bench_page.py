"""What a reader feels while views stream in JupyterLab: how soon the page answers a click, with one view of 10,000
tokens at full speed and with twenty views at once."""

from __future__ import annotations

import os
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))
from bench_view import MIXED
from lab import Lab, NotebookPage, running_lab
from scenes import SETUP

#: How the browser tests start Chromium.
CHROMIUM = runpy.run_path(str(Path(__file__).parents[1] / "browser" / "conftest.py"))

VIEWS = 20
#: All of the events wait in the kernel until the gate opens: then they come as fast as the view takes them.
RUN = """
text = {text!r}
pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
"""
FULL_SPEED = f"""{SETUP}{RUN.format(text=(MIXED * 40)[:40_000])}
view = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), gate("go"), says(*pieces), run_is("completed")))
view"""
#: Some 50 tokens a second in each view, for half a minute.
TWENTY = f"""{SETUP}{RUN.format(text=(MIXED * 6)[:6_000])}
from IPython.display import display
def run(number):
    steps = paced(says(f"# Run {{number}}\\n\\n", *pieces, id=f"msg_{{number}}"), 0.02)
    return ScriptedStream(run_is("in_progress", id=f"run_{{number}}"), gate("go"), *steps, run_is("completed"))
views = [RunView(ScriptedRuns(name=f"Assistant {{n}}"), run(n)) for n in range({VIEWS})]
for view in views:
    display(view)"""
#: A button of the page's own. From the time when the browser heard of a click until its handler has run and the next
#: picture is drawn: that is what a reader waits for.
BUTTON = """() => {
    const button = document.createElement("button");
    button.style = "position: fixed; top: 0; right: 0; width: 40px; height: 40px; z-index: 10000";
    document.body.append(button);
    window.waits = [];
    button.addEventListener("click", ({ timeStamp }) => {
        button.textContent = waits.length;
        requestAnimationFrame(() => setTimeout(() => waits.push(performance.now() - timeStamp)));
    });
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM["find_chromium"](),
            chromium_sandbox=os.geteuid() != 0,
            args=CHROMIUM["OPTIONS"],
        )
        yield browser.new_page(viewport={"width": 1200, "height": 1000})
        browser.close()


def clicked_while(page: Page, goes_on: Callable[[], bool]) -> list[float]:
    """Click the button as often as the page allows; the milliseconds that each click waited."""
    page.evaluate(BUTTON)
    while goes_on():
        page.mouse.click(1180, 20)
        page.wait_for_timeout(20)
    return list(page.evaluate("waits"))


def report(what: str, waits: list[float]) -> None:
    slow = sum(wait > 100 for wait in waits)
    ordered = sorted(waits)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(
        f"{what:<42} {len(waits):>6} {statistics.median(waits):>7.0f} {p95:>5.0f} {ordered[-1]:>5.0f} {slow:>10}"
    )


def bench_clicks(lab: Lab, page: Page) -> None:
    """Clicks in the page meanwhile, in milliseconds until the next picture."""
    print("\nmeanwhile                                  clicks  median   95%   max  over 100 ms")
    for what, cell, count in (
        ("nothing", "1", 0),
        ("10,000 tokens at full speed", FULL_SPEED, 1),
        (f"{VIEWS} views at 50 tokens a second", TWENTY, VIEWS),
    ):
        (lab.folder / "go").unlink(missing_ok=True)
        # Some HTML first: for that, JupyterLab loads MathJax once in a page's life.
        cell = f"from IPython.display import HTML, display\ndisplay(HTML('<b>HTML</b>'))\n{cell}"
        notebook = NotebookPage(page, lab, lab.write_notebook(f"{count} views.ipynb", [cell]))
        notebook.run_cell(0)
        live = notebook.output(0).locator(".nbruns:not(.nbruns-saved)")
        expect(live).to_have_count(count)
        (lab.folder / "go").touch()
        report(what, clicked_while(page, going_on(notebook, count)))
        lab.stop_kernels()


def going_on(notebook: NotebookPage, count: int) -> Callable[[], bool]:
    """Tells whether a view has not ended; without views, for five seconds. Half-way, it takes a picture."""
    ended = notebook.output(0).locator(".nbruns-saved:not(.nbruns-copy *)")
    began, pictures = time.monotonic(), []

    def goes_on() -> bool:
        seconds = time.monotonic() - began
        if count > 1 and seconds > 10 and not pictures:
            pictures.append(notebook.screenshot(f"views {count}"))
        return ended.count() < count if count else seconds < 5

    return goes_on
