"""10,000 runs in a real JupyterLab: filter, sort, scroll, open, by mouse and by keyboard; then without a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from lab import Lab, NotebookPage, wait_until
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

SETUP = """
from datetime import datetime, timezone
import nbruns
client = nbruns.local("table-data", idle_timeout=300)
client.server.add_history({count}, until=datetime(2026, 11, 20, 18, tzinfo=timezone.utc), seed=7)
"""
TABLE = """
table = nbruns.RunsTable(client)
table
"""
ASK = "print(len(table.frame), [run.status for run in table.selected], table.sort, table.text)"
#: What the table is to show, counted without it.
EXPECTED = """
import json
frame = client.runs.list()
failed = frame[frame["status"] == "failed"]
limited = failed[(failed["model"] == "gpt-4o") & failed["error_message"].str.contains("Rate limit")]
print(json.dumps({
    "times": frame["created_at"].dt.strftime("%Y-%m-%d %H:%M:%S").tolist(),
    "most_tokens": int(frame["total_tokens"].max()),
    "failed": len(failed),
    "limited": len(limited),
    "lately": int((limited["created_at"] >= "2026-11-16").sum()),
}))
"""
#: Runs with words that would be markup if anything were done with them but to show them.
HOSTILE = """
import nbruns
evil = "<img src=x onerror='window.hacked = true'><b>bold</b>$x^2$"
payload = {
    "id": evil, "object": "thread.run", "thread_id": "thread_1", "assistant_id": evil, "model": evil,
    "status": "failed", "created_at": 1_790_000_000, "last_error": {"code": evil, "message": evil},
}
table = nbruns.RunsTable(nbruns.Client("http://127.0.0.1:9/v1", max_retries=0), runs=[nbruns.objects.Run(payload)])
table
"""

OpenNotebook = Callable[..., NotebookPage]


@pytest.fixture
def opened(lab: Lab, notebook_page: OpenNotebook) -> Iterator[Callable[[int], NotebookPage]]:
    """opened(count): a notebook with the table of so many runs in its second cell."""

    def open_table(count: int) -> NotebookPage:
        cells = [SETUP.format(count=count), TABLE, ASK, EXPECTED]
        page = notebook_page(lab.write_notebook("table.ipynb", cells))
        page.run_all(seconds=120)
        expect(page.output(1).locator(".nbruns-count")).to_have_text(f"{count:,} runs", timeout=60_000)
        return page

    yield open_table
    lab.clear()


def expected(page: NotebookPage) -> dict[str, Any]:
    """What the table is to show, as the fourth cell has counted it."""
    return json.loads(page.output(3).text_content() or "")


def row(page: NotebookPage, place: int) -> Locator:
    """The row of that number in the table, from 0."""
    return page.output(1).locator(f".nbruns-body [aria-rowindex='{place + 2}']")


def cell(page: NotebookPage, place: int, column: int) -> Locator:
    return row(page, place).locator(f"[aria-colindex='{column}']")


def named(page: NotebookPage, place: int, heading: str) -> Locator:
    """The cell of a row under a heading."""
    head = page.output(1).get_by_role("columnheader", name=heading)
    return cell(page, place, int(head.get_attribute("aria-colindex") or 0))


def asked(page: NotebookPage) -> Locator:
    """What the kernel knows of the table."""
    page.run_cell(2)
    return page.output(2)


def saved(page: NotebookPage) -> str:
    """The output of the table's cell as the notebook on disk has it."""
    page.save()
    return str(page.lab.read_notebook(page.path).cells[1].outputs)


@pytest.mark.nightly
def test_ten_thousand_runs(opened: Callable[[int], NotebookPage], notebook_page: OpenNotebook) -> None:
    page = opened(10_000)
    output, shown = page.output(1), expected(page)
    lately = shown["lately"]
    grid = output.get_by_role("grid", name="Runs")
    expect(grid).to_have_attribute("aria-rowcount", "10001")
    page.screenshot("runs-table", page.cell(1))

    # Any row is a scroll away, and only the rows in view are there.
    grid.evaluate("grid => grid.scrollTo(0, 5000 * 30)")
    expect(cell(page, 5004, 1)).to_have_text(shown["times"][5004])
    assert output.locator(".nbruns-body [role=row]").count() < 60

    # Sort.
    output.get_by_role("button", name="Tokens").click()
    heading = output.get_by_role("columnheader", name="Tokens")
    expect(heading).to_have_attribute("aria-sort", "descending")
    grid.evaluate("grid => grid.scrollTo(0, 0)")
    expect(named(page, 0, "Tokens")).to_have_text(f"{shown['most_tokens']:,}")

    # Filter by status, model, text and time.
    output.get_by_role("group", name="Status").get_by_role("button", name="failed").click()
    expect(output.locator(".nbruns-count")).to_have_text(f"{shown['failed']} of 10,000 runs")
    output.get_by_label("Model").select_option("gpt-4o")
    output.get_by_label("Search runs").fill("rate limit")
    expect(output.locator(".nbruns-count")).to_have_text(f"{shown['limited']} of 10,000 runs")
    expect(asked(page)).to_have_text(f"{shown['limited']} [] -total_tokens rate limit")
    output.get_by_label("Created", exact=True).select_option("custom")
    output.get_by_label("Created from, UTC").fill("2026-11-16T00:00")
    output.get_by_label("Created from, UTC").press("Tab")
    expect(output.locator(".nbruns-count")).to_have_text(f"{lately} of 10,000 runs")

    # Open a run.
    row(page, 2).click()
    details = output.get_by_label("Run details")
    expect(details.get_by_text("Rate limit reached for gpt-4o")).to_be_visible()
    page.screenshot("runs-table-opened", page.cell(1))
    details.get_by_role("tab", name="JSON").click()
    expect(details.get_by_role("tabpanel")).to_contain_text('"rate_limit_exceeded"')
    expect(asked(page)).to_have_text(f"{lately} ['failed'] -total_tokens rate limit")

    # Two runs side by side.
    row(page, 3).click(modifiers=["ControlOrMeta"])
    output.get_by_role("button", name="Compare 2").click()
    expect(details.get_by_role("table", name="Transcripts")).to_be_visible()
    expect(details.get_by_role("columnheader")).to_have_count(4)  # of the bars, and of the transcripts
    page.screenshot("runs-table-compared", page.cell(1))
    row(page, 2).click()
    expect(details.get_by_role("tab", name="JSON")).to_have_attribute("aria-selected", "true")

    # The notebook that is saved has a plain table, also without a kernel.
    wait_until(lambda: f"{lately} of 10,000 runs" in saved(page), "the plain table to be saved")
    assert "widget-view" not in saved(page)
    expect(details).to_be_visible()  # the live table is still there
    page.lab.stop_kernels()
    reopened = notebook_page(page.path, kernel=False)
    expect(reopened.output(1).get_by_role("table")).to_contain_text("Rate limit reached")
    assert "Error displaying widget" not in (reopened.page.text_content("body") or "")
    reopened.screenshot("runs-table-saved", reopened.cell(1))


def test_by_keyboard_in_the_dark_and_in_a_narrow_window(opened: Callable[[int], NotebookPage]) -> None:
    page = opened(500)
    output, shown = page.output(1), expected(page)
    page.set_theme("JupyterLab Dark")
    page.page.locator("#jupyterlab-splash").wait_for(state="detached")
    keyboard = page.page.keyboard
    output.get_by_role("button", name="Created (UTC)").focus()
    grid = output.get_by_role("grid")
    grid.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        keyboard.press(key)
    active = grid.evaluate(
        "grid => document.getElementById(grid.getAttribute('aria-activedescendant'))?.ariaRowIndex"
    )
    assert active == "4"
    expect(row(page, 2)).to_have_attribute("aria-selected", "true")
    details = output.get_by_label("Run details")
    details.get_by_role("tab", name="Steps").click()
    expect(details.get_by_role("table")).to_contain_text("message creation")
    keyboard.press("ArrowRight")
    expect(details.get_by_role("tab", name="Tool calls")).to_be_focused()
    page.screenshot("runs-table-dark", page.cell(1))
    keyboard.press("Escape")
    expect(details).to_be_hidden()
    expect(grid).to_be_focused()

    keyboard.press("Shift+ArrowDown")
    keyboard.press("Shift+ArrowDown")
    expect(output.locator("[role=row][aria-selected=true]")).to_have_count(3)
    keyboard.press("End")
    expect(cell(page, 499, 1)).to_have_text(shown["times"][-1])
    keyboard.press("x")  # would cut the cell, were the key JupyterLab's
    expect(grid).to_be_visible()

    page.page.set_viewport_size({"width": 560, "height": 900})
    expect(cell(page, 499, 4)).to_be_hidden()
    assert grid.evaluate("grid => grid.scrollWidth - grid.clientWidth") == 0
    page.screenshot("runs-table-narrow", page.cell(1))
    page.set_theme("JupyterLab Light")


@pytest.mark.nightly
def test_the_output_is_drawn_anew_around_it(
    opened: Callable[[int], NotebookPage], notebook_page: OpenNotebook
) -> None:
    page = opened(500)
    output = page.output(1)
    output.get_by_role("grid").evaluate("grid => grid.scrollTo(0, 3000)")
    search = output.get_by_label("Search runs")
    search.press_sequentially("gpt")
    page.page.evaluate("window.place = document.querySelector('.nbruns-place')")
    page.page.wait_for_function("!window.place.isConnected")  # the plain table has been replaced by the next
    expect(search).to_be_focused()
    search.press_sequentially("-4.1")
    expect(search).to_have_value("gpt-4.1")
    search.fill("gpt-4.1 timeout")
    expect(output.get_by_text("No matching runs")).to_be_visible()
    output.get_by_role("button", name="Clear filters").click()
    expect(output.locator(".nbruns-count")).to_have_text("500 runs")
    expect(output.locator(".nbruns-runs")).to_have_count(1)

    # A page that is opened later has the live table too.
    wait_until(lambda: "Showing 20 of 500 runs" in saved(page), "the plain table to be saved")
    page.page.close()
    page = notebook_page(page.path)
    expect(page.output(1).locator(".nbruns-count")).to_have_text("500 runs", timeout=30_000)
    expect(cell(page, 0, 2)).to_have_text("completed")


def test_what_runs_say_is_only_ever_text(lab: Lab, notebook_page: OpenNotebook) -> None:
    page = notebook_page(lab.write_notebook("hostile.ipynb", ["import nbruns.objects", HOSTILE]))
    page.run_all()
    cells = page.output(1).locator(".nbruns-body [role=gridcell]")
    reason = page.output(1).locator(".nbruns-body .nbruns-why")
    expect(reason).to_have_text("<img src=x onerror='window.hacked = true'><b>bold</b>$x^2$")
    cells.first.click()
    details = page.output(1).get_by_label("Run details")
    expect(details.locator(".nbruns-told.nbruns-error")).to_contain_text("is not an id: nothing was sent")
    assert page.output(1).locator("img, b").count() == 0
    assert page.page.evaluate("'hacked' in window") is False


REASONS = """
import nbruns.objects
payload = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "demo", "status": "failed"}
reasons = ["short", "a long reason " * 40]
runs = [
    nbruns.objects.Run({**payload, "id": f"run_{i}", "created_at": 1_790_000_000 + i,
                        "last_error": {"code": "server_error", "message": reason}})
    for i, reason in enumerate(reasons)
]
table = nbruns.RunsTable(nbruns.Client("http://127.0.0.1:9/v1", max_retries=0), runs=runs)
table
"""


def test_columns_are_straight_whatever_a_row_says_and_whether_a_run_is_open(
    lab: Lab, notebook_page: OpenNotebook
) -> None:
    # Without the mark, too, at which the live table would take its place.
    stripped = "re.sub('<style>.*?</style>|data-nbruns-table=.[^ >]*', '', table.to_html())"
    plain = f"import re\nfrom IPython.display import HTML\nHTML({stripped})"
    page = notebook_page(lab.write_notebook("reasons.ipynb", [REASONS, plain]))
    page.run_all()
    output = page.output(0)
    expect(output.locator(".nbruns-body .nbruns-cell").first).to_be_visible()

    def are_straight() -> bool:
        first, *others = output.locator(".nbruns-line").evaluate_all(
            "lines => lines.map((line) => [...line.children].map((cell) => cell.getBoundingClientRect().left))"
        )
        return len(others) == 2 and all(
            len(each) == len(first) and each == pytest.approx(first, abs=0.5) for each in others
        )

    for width in (800, 1500, 1300):
        page.page.set_viewport_size({"width": width, "height": 900})
        wait_until(are_straight, f"straight columns at {width}")

    heads = output.get_by_role("columnheader").locator("visible=true")
    before = heads.all_text_contents()
    page.screenshot("runs-table-light", page.cell(0))
    output.locator(".nbruns-body [role=row]").first.click()
    expect(output.get_by_label("Run details")).to_be_visible()
    assert heads.all_text_contents() == before
    page.screenshot("runs-table-with-a-run", page.cell(0))

    output.get_by_label("Search runs").fill("nothing says this")
    empty = output.get_by_text("No matching runs")
    expect(empty).to_be_visible()
    filters, words = output.locator(".nbruns-top").bounding_box(), empty.bounding_box()
    assert filters and words
    assert 0 <= words["y"] - (filters["y"] + filters["height"]) < 60
    page.screenshot("runs-table-empty", page.cell(0))

    # As other programs show the saved table: without its style sheet.
    cells = page.output(1).locator("td")
    expect(cells.first).to_be_visible()
    aligned = cells.evaluate_all(
        "cells => cells.map((cell) => [cell.className, getComputedStyle(cell).textAlign])"
    )
    assert {side for kind, side in aligned if "number" not in kind} == {"left"}
    assert {side for kind, side in aligned if "number" in kind} == {"right"}


SAID = """
import nbruns
client = nbruns.local()
ada = client.assistants.create("demo", name="Ada")
evil = "<img src=x onerror='window.hacked = true'> <b>Which hat</b> for Bergen?"
told = {
    "team=search": client.threads.create(evil),
    "team=ads": client.threads.create("Which coat for Oslo?"),
}
for pair, thread in told.items():
    key, value = pair.split("=")
    client.runs.wait(client.runs.create(thread, ada, metadata={key: value}), timeout=60)
runs = client.runs.list(list(told.values()))
bob = client.assistants.create("demo", name="Bob")
client.runs.wait(client.runs.create(list(told.values())[1], bob), timeout=60)
"""
SAID_TABLE = """
table = nbruns.RunsTable(client, list(told.values()))
table
"""
SAID_ASK = (
    "print(table.columns, table.timezone, table.since)\nprint(str(table.frame['created_at'].iloc[0])[:19])"
)


def test_columns_messages_assistants_metadata_and_the_time_zone(
    lab: Lab, notebook_page: OpenNotebook
) -> None:
    page = notebook_page(lab.write_notebook("said.ipynb", [SAID, SAID_TABLE, SAID_ASK]))
    session = page.page.context.new_cdp_session(page.page)
    session.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})  # 9 hours, all year
    page.page.set_viewport_size({"width": 1600, "height": 900})
    page.run_all(seconds=120)
    output = page.output(1)
    count = output.locator(".nbruns-count")
    expect(count).to_have_text("3 runs", timeout=30_000)

    # Questions and answers come for the rows in view, as text.
    expect(named(page, 2, "Question")).to_have_text(
        "<img src=x onerror='window.hacked = true'> <b>Which hat</b> for Bergen?"
    )
    expect(named(page, 1, "Question")).to_have_text("Which coat for Oslo?")
    expect(named(page, 1, "Answer")).to_contain_text("I have no tools to ask")
    expect(named(page, 0, "Assistant")).to_have_text("Bob")
    assert output.locator("img, .nbruns-body b").count() == 0
    page.screenshot("runs-table-questions", page.cell(1))

    # Search in messages, and filter by assistant and metadata.
    output.get_by_label("Search runs").fill("HAT bergen")
    expect(count).to_have_text("1 of 3 runs")
    output.get_by_label("Search runs").fill("")
    expect(count).to_have_text("3 runs")
    output.get_by_label("Assistant", exact=True).select_option("Ada (2)")
    expect(count).to_have_text("2 of 3 runs")
    output.get_by_label("Metadata").select_option("team: ads (1)")
    expect(count).to_have_text("1 of 3 runs")
    output.get_by_label("Metadata").select_option("All metadata")
    output.get_by_label("Assistant", exact=True).select_option("All assistants")
    expect(count).to_have_text("3 runs")

    # Local time, also in the custom range.
    output.get_by_role("button", name="UTC", exact=True).click()
    expect(output.get_by_role("columnheader", name="Created (Tokyo)")).to_be_visible()
    output.get_by_label("Created", exact=True).select_option("custom")
    output.get_by_label("Created from, local time").fill("2026-01-02T03:04")
    output.get_by_label("Created from, local time").press("Tab")
    page.run_cell(2)
    expect(page.output(2)).to_contain_text("Asia/Tokyo 2026-01-01T18:04:00")
    utc = (page.output(2).text_content() or "").strip().splitlines()[-1]
    local = datetime.fromisoformat(utc) + timedelta(hours=9)
    expect(named(page, 0, "Created")).to_have_text(f"{local:%Y-%m-%d %H:%M:%S}")
    output.get_by_label("Created", exact=True).select_option("")

    # Choose columns. The menu stays open while the notebook's copy is written, and the choice is remembered.
    output.get_by_role("button", name="Choose columns").click()
    menu = output.get_by_role("group", name="Columns")
    for name in ("Status", "Answer", "Assistant", "Model", "Duration", "Tokens", "Cost", "Reason"):
        menu.get_by_label(name, exact=True).uncheck()
    menu.get_by_label("Thread").check()
    wait_until(lambda: ">Thread</th>" in saved(page) and ">Answer</th>" not in saved(page), "the columns")
    expect(menu).to_be_visible()
    page.screenshot("runs-table-columns", page.cell(1))
    page.page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(output.get_by_role("columnheader")).to_have_text(["Created (Tokyo)", "Question", "Thread", "Run"])
    page.run_cell(2)
    expect(page.output(2)).to_contain_text("['created_at', 'question', 'thread_id', 'id']")
    for theme in ("Dark", "Light"):
        page.set_theme(f"JupyterLab {theme}")
        for width in (400, 800):
            page.page.set_viewport_size({"width": width, "height": 900})
            expect(output.get_by_role("columnheader").last).to_be_visible()
            page.screenshot(f"runs-table-columns-{width}-{theme.lower()}", page.cell(1))
    assert page.page.evaluate("'hacked' in window") is False

    page.save()
    page.lab.stop_kernels()
    reopened = notebook_page(page.path, kernel=False)
    kept = reopened.output(1).get_by_role("table")
    expect(kept.get_by_role("columnheader")).to_have_text(["Created (Tokyo)", "Question", "Thread", "Run"])
    expect(kept).to_contain_text("<b>Which hat</b>")
    assert reopened.page.evaluate("'hacked' in window") is False
    reopened.screenshot("runs-table-columns-saved", reopened.cell(1))
