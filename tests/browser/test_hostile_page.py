"""Hostile text in every field of a run, in real pages: no script runs, nobody is asked for anything, no style leaks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab, NotebookPage
from playwright.sync_api import Locator, Page, expect
from scenes import SETUP

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

CELL = f"""{SETUP}
from hostile import EVIL_NAME, hostile_run
asking, failing = hostile_run("requires_action"), hostile_run()
view = RunView(ScriptedRuns(ScriptedStream(failing[-1]), name=EVIL_NAME), ScriptedStream(asking))
view"""
#: What a style that got out would change, and what a script that ran would leave behind.
STATE = """() => ({
    background: getComputedStyle(document.body).backgroundColor,
    visible: getComputedStyle(document.body).display,
    pwned: 'pwned' in window, title: document.title,
})"""
#: Elements that only hostile text can have brought. Formulas are shown, but nothing in them leads or reacts.
FOREIGN = (
    "script, img, svg, mjx-container, iframe, object, link, base, form, "
    "input[autofocus], [onerror], [onload], [onclick]:not(button.nbruns-act), "
    "math [href], math [class], math [id], math [style], maction, annotation-xml"
)


@pytest.fixture
def dialogs() -> list[str]:
    return []


def listen(page: Page, dialogs: list[str]) -> None:
    def heard(dialog: object) -> None:
        dialogs.append(str(dialog))
        dialog.dismiss()  # type: ignore[attr-defined]

    page.on("dialog", heard)


def foreign(place: Locator) -> list[str]:
    return [str(element.evaluate("e => e.outerHTML"))[:200] for element in place.locator(FOREIGN).all()]


def test_hostile_text_is_only_text(
    lab: Lab, notebook_page: Callable[..., NotebookPage], dialogs: list[str]
) -> None:
    path = lab.write_notebook("hostile.ipynb", [CELL])
    page = notebook_page(path)
    listen(page.page, dialogs)
    before = page.page.evaluate(STATE)
    page.run_cell(0)
    output = page.output(0)
    form = output.locator(".nbruns-form")
    form.get_by_label("Output", exact=True).fill("<script>alert(1)</script>")
    for place in output.locator(".nbruns a, .nbruns summary, .nbruns p").all()[:30]:  # what waits for a mouse
        place.dispatch_event("mouseover")
    assert foreign(output.locator(".nbruns")) == []
    assert foreign(form) == []
    page.screenshot("hostile-live", page.cell(0))

    form.get_by_role("button", name="Submit").click()
    kept = output.locator(".nbruns-saved:not(.nbruns-copy *)")
    expect(kept.locator(".nbruns-badge")).to_have_text("failed")
    expect(output.locator(".nbruns-badge:visible")).to_have_count(1)
    expect(form).to_have_count(0)
    assert foreign(output.locator(".nbruns")) == []
    assert page.page.evaluate(STATE) == before | {"title": page.page.title()}
    page.save()
    exported = as_html(lab, path)
    elsewhere = page.page.context.new_page()  # where nothing may leave the machine either
    listen(elsewhere, dialogs)
    elsewhere.goto(exported.as_uri())
    expect(elsewhere.locator(".nbruns-badge")).to_have_text("failed")
    assert foreign(elsewhere.locator(".nbruns-saved")) == []
    assert elsewhere.evaluate(STATE)["visible"] == "block"
    assert elsewhere.evaluate("'pwned' in window") is False
    assert dialogs == []


def as_html(lab: Lab, path: str) -> Path:
    """What `nbconvert --to html` makes of a notebook."""
    scripts = [f"--HTMLExporter.{name}_url=" for name in ("mathjax", "require_js", "jquery", "mermaid_js")]
    command = [sys.executable, "-m", "nbconvert", "--to", "html", *scripts, str(lab.folder / path)]
    done = subprocess.run(command, env=lab.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (lab.folder / path).with_suffix(".html")
