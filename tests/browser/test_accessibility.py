"""Access: axe finds nothing serious in what a view shows, in light and dark; focus can be seen; keys reach all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab, NotebookPage
from playwright.sync_api import expect
from scenes import MARKDOWN, SETUP

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

AXE = Path(__file__).parent.parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
#: JupyterLab's body has no height and hides what is beyond, so that axe would take all there is for hidden.
RUN_AXE = """async places => {
    document.body.style.height = "100vh"
    const { passes, violations } = await axe.run({ include: places })
    const said = v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 200)} ${n.any.map(a => a.message).join(" ")}`)
    return {
        seen: passes.find(rule => rule.id == "color-contrast").nodes.length,
        serious: violations.filter(v => ["serious", "critical"].includes(v.impact)).flatMap(said),
    }
}"""
#: Three views in all their states: one streams, one asks and says that it was not submitted, two have ended.
CELL = f"""{SETUP}
from IPython.display import display
from nbruns.errors import StreamError
usage = {{"total_tokens": 1234, "prompt_tokens": 1000, "completion_tokens": 234}}
output = {{"output": "3 degrees"}}
done = call_json(); done["function"] |= output
passage = {{"file_name": "a.md", "score": 0.5, "content": [{{"type": "text", "text": "A passage."}}]}}
search = {{"id": "s", "type": "file_search", "file_search": {{"queries": ["a"], "results": [passage]}}}}
cited = {MARKDOWN!r} + "\\n\\nCited【0:0†a.md】."
streaming = RunView(ScriptedRuns(), ScriptedStream(
    run_is("in_progress"), step_is("completed", done, completed_at=3), says({MARKDOWN!r}), gate("never")))
asking = RunView(ScriptedRuns(), ScriptedStream(
    run_is("in_progress"), step_is("in_progress", call_json()), needs(call_json())))
failed = RunView(ScriptedRuns(), ScriptedStream(
    run_is("in_progress"), step_is("completed", done, search, completed_at=3), says(cited),
    run_is("failed", usage=usage, last_error={{"code": "rate_limit_exceeded", "message": "Slow down."}})))
broken = RunView(ScriptedRuns(), ScriptedStream(run_is("in_progress"), StreamError("The line went dead.")))
for view in (failed, broken):
    try: view.wait(5)
    except StreamError: pass
for view in (streaming, asking, failed, broken):
    view._ipython_display_()
"""

#: The table, with a failed run.
TABLE = """
import nbruns
run = {"id": "run_1", "thread_id": "thread_1", "assistant_id": "asst_1", "model": "demo", "status": "failed",
       "created_at": 1_790_000_000, "last_error": {"code": "server_error", "message": "Out of order."}}
table = nbruns.RunsTable(nbruns.Client("http://127.0.0.1:9/v1", max_retries=0), runs=[nbruns.objects.Run(run)])
table"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The axe of tests/node/package.json."""
    if not AXE.is_file():
        words = "axe-core is not installed: npm install --prefix tests/node --no-package-lock"
        if os.environ.get("NBRUNS_REQUIRE_BROWSER") == "1":
            pytest.fail(words, pytrace=False)
        pytest.skip(words)
    return AXE.read_text(encoding="utf-8")


def test_nothing_serious_stands_in_anybodys_way(
    axe: str, lab: Lab, notebook_page: Callable[..., NotebookPage]
) -> None:
    page = notebook_page(lab.write_notebook("access.ipynb", [CELL, TABLE]))
    page.page.set_viewport_size({"width": 1200, "height": 2600})
    page.run_cell(0)
    output = page.output(0)
    submit = output.get_by_role("button", name="Submit")
    submit.click()
    expect(output.locator(".nbruns-form").get_by_role("alert").first).to_be_visible()
    page.run_cell(1)
    table = page.output(1)
    table.locator(".nbruns-body [role=row]").first.click()
    expect(table.get_by_label("Run details")).to_be_visible()
    table.get_by_role("button", name="Choose columns").click()
    expect(table.get_by_role("group", name="Columns")).to_be_visible()
    page.page.evaluate(axe)
    for theme in ("Light", "Dark"):
        page.set_theme(f"JupyterLab {theme}")
        page.page.locator("#jupyterlab-splash").wait_for(state="detached")
        page.screenshot(f"access-{theme}", page.cell(0))
        page.screenshot(f"access-table-{theme}", page.cell(1))
        menu = table.get_by_role("group", name="Columns").bounding_box()
        button = table.get_by_role("button", name="Choose columns").bounding_box()
        assert menu and button  # side by side, though the page has been scrolled
        assert (
            min(
                abs(menu["y"] - button["y"] - button["height"]), abs(button["y"] - menu["y"] - menu["height"])
            )
            < 8
        )
        found = page.page.evaluate(RUN_AXE, [".nbruns-view", ".nbruns-saved", ".nbruns-runs"])
        assert found["serious"] == []
        assert found["seen"] > 60  # texts, which axe has looked at

    output.get_by_role("button", name="Cancel run").first.focus()
    page.page.keyboard.press("Tab")  # from the header to the transcript, and what folds in it
    transcript = output.get_by_role("group", name="Run transcript").first
    expect(transcript).to_be_focused()
    assert transcript.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    output.locator("summary").first.focus()
    page.page.keyboard.press("Enter")
    expect(output.locator("details").first).to_have_attribute("open", "")

    page.page.set_viewport_size({"width": 560, "height": 2600})
    page.screenshot("access-narrow", page.cell(0))
    wide = "e => [...e.querySelectorAll('.nbruns, .nbruns-form')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert output.evaluate(wide) == 0
