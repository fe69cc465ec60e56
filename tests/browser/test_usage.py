"""The notebook about a month of runs as a person reads it: Run All Cells, look into the table, save, look again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lab import NotebookPage, wait_until
from playwright.sync_api import expect
from test_tour import cell_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

USAGE = "02_usage.ipynb"


def test_a_month_of_runs(notebook_page: Callable[..., NotebookPage]) -> None:
    page = notebook_page(USAGE)
    page.run_all(seconds=240)
    page.keep()
    assert [text for text in page.error_output() if "run/s" not in text] == []  # but for a progress bar

    by_model = page.output(cell_of(page, 'usage(by="model")')).text_content() or ""
    assert "gpt-4o-mini" in by_model and "cost" in by_model
    pictures = page.page.locator(".jp-OutputArea-output img")
    assert pictures.count() >= 4
    assert all(picture.evaluate("image => image.naturalWidth > 300") for picture in pictures.all())

    table = page.output(cell_of(page, "RunsTable(client"))
    expect(table.locator(".nbruns-count")).to_have_text("39 of 139 runs")
    details = table.get_by_label("Run details")
    expect(details.get_by_text("Rate limit reached")).to_be_visible()
    details.get_by_role("button", name="Close details").click()
    table.get_by_label("Search runs").fill("")
    table.get_by_role("group", name="Status").get_by_role("button", name="expired").click()
    expect(table.locator(".nbruns-count")).to_have_text("10 of 139 runs")
    first = table.locator(".nbruns-body [role=row]").first
    expect(first).to_contain_text("merino wool")  # rows are drawn anew when their questions arrive
    first.click()
    expect(details.get_by_text("The run expired")).to_be_visible()
    # README.md shows it: notebooks/images/runs_table.png
    page.screenshot("usage-table", table.locator(".nbruns-runs"))

    page.page.set_viewport_size({"width": 1200, "height": 8000})
    page.screenshot("usage")
    page.page.set_viewport_size({"width": 1200, "height": 1000})
    wait_until(lambda: "10 of 139 runs" in saved_table(page), "the table's change to be saved")
    page.lab.stop_kernels()
    reopened = notebook_page(USAGE, kernel=False)
    kept = reopened.output(cell_of(page, "RunsTable(client"))
    expect(kept.get_by_role("table")).to_contain_text("expired")
    assert "Error displaying widget" not in (reopened.page.text_content("body") or "")


def saved_table(page: NotebookPage) -> str:
    """What the file has of the table's cell, which the table brings up to date a while after a change."""
    page.save()
    return str(page.lab.read_notebook(page.path).cells[cell_of(page, "RunsTable(client")].outputs)
