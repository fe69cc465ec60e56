"""A batch in a cell: its progress, the form for the calls that nobody answers, and the frame in the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lab import Lab, NotebookPage
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

BATCH = """import nbruns
client = nbruns.local()
ask = {"type": "function", "function": {"name": "ask_a_person", "description": "Ask somebody.", "parameters":
    {"type": "object", "properties": {"question": {"type": "string"}}}}}
asking = client.assistants.create(model="demo", name="asking", tools=[ask])
plain = client.assistants.create(model="demo", name="plain")
answers = client.runs.batch(["Which coat for Oslo?", "Which hat for Rome?"], [asking, plain])
answers["said"] = answers["answer"].str.extract("(the [a-z]+ one)", expand=False)
answers[["prompt", "assistant", "status", "said"]]"""


def test_calls_that_nobody_answers_are_one_form_below_the_progress(
    lab: Lab, notebook_page: Callable[..., NotebookPage]
) -> None:
    page = notebook_page(lab.write_notebook("batch.ipynb", [BATCH]))
    page.start_all()
    output = page.output(0)
    fields = output.get_by_label("Output", exact=True)
    expect(fields).to_have_count(2, timeout=60_000)
    page.screenshot("batch-form", page.cell(0))
    page.set_theme("JupyterLab Dark")
    page.screenshot("batch-form-dark", page.cell(0))
    page.set_theme("JupyterLab Light")
    for words in ("the green one", "the straw one"):  # each run goes on as soon as it has its output
        fields.first.fill(words)
        before = fields.count()
        output.get_by_role("button", name="Submit").first.click()
        expect(fields).to_have_count(before - 1)
        page.screenshot(f"batch-{before}", page.cell(0))
    page.finish(seconds=60)
    frame = output.locator("table")
    expect(frame.locator("tbody tr")).to_have_count(4)
    expect(frame).to_contain_text("the green one")
    expect(frame).to_contain_text("the straw one")
    expect(output.get_by_label("Output", exact=True)).to_have_count(0)
    assert page.error_output() == []
    page.screenshot("batch-done", page.cell(0))
