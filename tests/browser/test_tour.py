"""The tour as a person takes it: Run All Cells, answer the form, read on, save, and look at it without a kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lab import ARTEFACTS, NotebookPage
from playwright.sync_api import Locator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TOUR = "01_tour.ipynb"
#: The class names of those elements inside of which one would have to scroll.
SCROLLING = """element => [...element.querySelectorAll("*")]
    .filter(e => e.scrollHeight > e.clientHeight + 1 && getComputedStyle(e).overflowY == "auto")
    .map(e => e.className)"""


def cell_of(page: NotebookPage, source: str) -> int:
    """The number of the first code cell with that text in its source."""
    cells = page.lab.read_notebook(page.path).cells
    return next(i for i, cell in enumerate(cells) if cell.cell_type == "code" and source in cell.source)


def assert_one_line(controls: list[Locator]) -> None:
    """A text field and a select beside each other are of one height, that of one line of text."""
    boxes = [control.bounding_box() or {} for control in controls]
    assert len({(box["y"], box["height"]) for box in boxes}) == 1, boxes
    assert boxes[0]["height"] < 40


def answer_form(page: NotebookPage, cell: int) -> None:
    """Run the registered function in its card, write the other output by hand, submit."""
    form = page.output(cell).locator(".nbruns-form")
    form.wait_for()
    weather, daylight = form.locator(".nbruns-card").all()
    weather.get_by_text("get_weather(").click()
    assert_one_line([weather.get_by_label("city"), weather.get_by_label("unit")])
    weather.get_by_role("button", name="Run get_weather").click()
    page.page.wait_for_function(
        "card => card.querySelector('textarea').value.includes('Light rain')", arg=weather.element_handle()
    )
    take_picture(page, cell)
    form.get_by_role("button", name="Submit").click()
    form.get_by_text("Not submitted: get_daylight is unanswered.").wait_for()
    daylight.get_by_label("Output", exact=True).fill("dark from 15:34, says the almanac")
    form.get_by_role("button", name="Submit").click()


def take_picture(page: NotebookPage, cell: int) -> None:
    """Keep the picture that README.md shows: the whole output, so the window is as high as it needs.

    Where it shall be taken anew, copy the artefact to notebooks/images/run_view.png.
    """
    size = page.page.viewport_size
    page.page.set_viewport_size({"width": 1200, "height": 1500})
    page.page.mouse.move(0, 0)  # nothing is hovered over or has the focus
    page.page.evaluate("document.activeElement.blur()")
    page.cell(cell).evaluate("cell => cell.scrollIntoView({block: 'center'})")
    x, y, width, height = page.output(cell).evaluate(
        "e => Object.values(e.getBoundingClientRect().toJSON())"
    )[:4]
    air = {"x": x, "y": y - 4, "width": width, "height": height + 10}
    page.page.screenshot(path=ARTEFACTS / "tour-form.png", clip=air)
    page.page.set_viewport_size(size)


def test_the_tour(notebook_page: Callable[..., NotebookPage]) -> None:
    page = notebook_page(TOUR)
    watched = cell_of(page, "tools=[get_weather])\nview")
    page.start_all()
    answer_form(page, watched)

    text = page.output(watched).locator(".nbruns-blocks").locator("visible=true")
    seen = page.watch_text(text, until=lambda text: "--upstream" in text)
    page.finish(seconds=120)

    answers = [len(text) for text in seen if "Here is what I found" in text]
    # A busy page draws few of the pieces; two say that the answer didn't come at once.
    assert len(answers) >= 2, f"seen to grow: {answers}"
    assert answers == sorted(answers)
    output = page.output(watched)
    assert "completed" in (output.locator(".nbruns-badge:visible").text_content() or "")
    assert output.locator(".nbruns-form").count() == 0
    assert "while the run was active" not in (output.text_content() or "")
    assert output.locator(".nbruns-saved").evaluate(SCROLLING) == []  # nothing moves any more: it is whole
    assert "dark from 15:34, says the almanac" in (output.text_content() or "")
    assert page.error_output() == []
    small = page.output(cell_of(page, "tools=[get_weather], auto=True)")).text_content() or ""
    assert "get_weather" in small and "completed" in small
    usage = page.output(cell_of(page, 'usage(by="model")')).text_content() or ""
    assert "demo" in usage and "smollm2" in usage
    page.screenshot("tour-completed", page.cell(watched))
    page.keep()
    page.set_theme("JupyterLab Dark")
    page.page.locator("#jupyterlab-splash").wait_for(state="detached")
    page.screenshot("tour-completed-dark", page.cell(watched))
    page.save()

    page.lab.stop_kernels()
    reopened = notebook_page(TOUR, kernel=False)
    transcript = reopened.output(watched).text_content() or ""
    assert "dark from 15:34, says the almanac" in transcript
    assert "while the run was active" not in transcript
    assert "Error displaying widget" not in (reopened.page.text_content("body") or "")
