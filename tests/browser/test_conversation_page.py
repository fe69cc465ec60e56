"""The conversation in the cell: asked, answered, continued, in JupyterLab and Notebook 7."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from lab import Lab, NotebookPage
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

ASK = """import nbruns
def get_weather(city: str) -> str:
    "The weather in a city."
    return "light rain, 3 °C"

client = nbruns.local()
assistant = client.assistants.create(model="demo", name="Wardrobe", tools=[get_weather])
thread = client.threads.create("What should I wear in Oslo?")
view = client.runs.watch(thread, assistant, tools=[get_weather], auto=True)
view"""


def test_a_conversation_goes_on_below_the_answer(
    app: str, lab: Lab, notebook_page: Callable[..., NotebookPage]
) -> None:
    path = lab.write_notebook(f"conversation {app}.ipynb", [ASK, "view.wait().status"])
    page = notebook_page(path, app=app)
    page.run_cell(0)
    output = page.output(0)
    saved = output.locator(".nbruns-saved")
    expect(saved).to_be_visible(timeout=30_000)
    expect(saved.locator(".nbruns-said")).to_have_text("What should I wear in Oslo?")
    composer = output.locator(".nbruns-composer")
    expect(composer).to_have_count(1)
    page.screenshot(f"conversation-1 {app}", page.cell(0))
    composer.get_by_label("Message").fill("And in Bergen?")
    page.screenshot(f"conversation-2 {app}", page.cell(0))
    composer.get_by_label("Message").press("Enter")
    expect(saved.locator(".nbruns-said")).to_have_text(
        ["What should I wear in Oslo?", "And in Bergen?"], timeout=30_000
    )
    expect(composer.get_by_label("Message")).to_have_value("")
    expect(composer.get_by_role("button", name="Send")).to_be_visible()
    page.screenshot(f"conversation-3 {app}", page.cell(0))
    page.set_theme("JupyterLab Dark")
    page.screenshot(f"conversation-dark {app}", page.cell(0))


CODE = """import nbruns
client = nbruns.local()
assistant = client.assistants.create(model="demo", tools=[{"type": "code_interpreter"}])
file = client.files.create(b"city,degrees\\nOslo,3\\nBergen,7\\n", name="weather.csv")
attachment = {"file_id": file.id, "tools": [{"type": "code_interpreter"}]}
thread = client.threads.create()
client.messages.create(thread, "Plot the table with Python", attachments=[attachment])
view = client.runs.watch(thread, assistant)
view"""


@pytest.mark.parametrize("app", ["JupyterLab", "Notebook 7"], indirect=True)
def test_code_is_run_drawn_put_into_a_cell_and_its_file_downloaded(
    app: str, lab: Lab, notebook_page: Callable[..., NotebookPage]
) -> None:
    path = lab.write_notebook(f"code {app}.ipynb", [CODE, "print('the next cell')"])
    page = notebook_page(path, app=app)
    page.run_cell(0)
    output = page.output(0)
    saved = output.locator(".nbruns-saved")
    expect(saved.locator("img.nbruns-image")).to_have_attribute(
        "src", re.compile("^data:image/png;base64,"), timeout=60_000
    )
    expect(output.locator(".nbruns-composer")).to_be_visible()
    page.screenshot(f"code {app}", page.cell(0))
    saved.get_by_role("button", name="Insert as cell").click()
    expect(page.cell(1).locator(".cm-content")).to_contain_text("read_csv")
    expect(page.cell(2).locator(".cm-content")).to_contain_text("the next cell")
    page.screenshot(f"inserted {app}")
    with page.page.expect_download() as download:
        saved.get_by_role("button", name="Download summary.csv").click()
    assert download.value.suggested_filename == "summary.csv"
    assert "degrees" in download.value.path().read_text()


def test_a_question_and_an_output_are_edited_in_forks(
    lab: Lab, notebook_page: Callable[..., NotebookPage]
) -> None:
    path = lab.write_notebook("edited.ipynb", [ASK])
    page = notebook_page(path)
    page.run_cell(0)
    saved, composer = page.output(0).locator(".nbruns-saved"), page.output(0).locator(".nbruns-composer")
    expect(composer).to_be_visible(timeout=30_000)
    saved.get_by_role("button", name="Edit").click()
    message = composer.get_by_label("Message")
    expect(message).to_have_value("What should I wear in Oslo?")
    message.fill("What should I wear in Bergen?")
    page.screenshot("editing", page.cell(0))
    message.press("Enter")
    expect(saved).to_contain_text("A fork: asked again", timeout=30_000)
    expect(saved.locator(".nbruns-said").last).to_have_text("What should I wear in Bergen?")
    expect(message).to_have_value("")
    page.screenshot("edited", page.cell(0))

    saved.locator(".nbruns-call summary").last.click()
    saved.get_by_role("button", name="Change").last.click()
    expect(message).to_have_value("light rain, 3 °C")
    expect(composer).to_contain_text("Changes the output of get_weather in a new thread")
    page.screenshot("editing-output", page.cell(0))
    message.fill("heavy snow")
    message.press("Enter")
    expect(saved).to_contain_text("with another output of get_weather", timeout=30_000)
    expect(saved.locator(".nbruns-gave").last).to_have_text("heavy snow")
    expect(message).to_have_value("")
    page.screenshot("edited-output", page.cell(0))
