"""The conversation in hosts other than JupyterLab: marimo, which has no ipywidgets, and Voilà, which has no cells."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent

import nbformat
import pytest
from lab import ARTEFACTS, Trouble, environment_in, free_port, need, running
from playwright.sync_api import Browser, Page, expect
from scenes import WIDGET_TESTS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

OpenPage = Callable[..., Page]

CLIENT = """import nbruns

def get_weather(city: str) -> str:
    "The weather in a city."
    print(f"called for {city}")
    return "light rain, 3 °C"

client = nbruns.local()
assistant = client.assistants.create(
    model="demo", name="Wardrobe", tools=[get_weather, {"type": "code_interpreter"}]
)
def watch(question, **options):
    thread = client.threads.create(question)
    return client.runs.watch(thread, assistant, tools=[get_weather], **options)
"""
CHAT = "chat = client.chat(assistant, tools=[get_weather])\nchat"

#: A run that stops in the middle of its answer until the test creates a file.
GATED = """def closed():
    while not pathlib.Path(__file__).with_name("gate").exists():
        time.sleep(0.02)

live = RunView(scripted.ScriptedRuns(), scripted.ScriptedStream(
    scripted.run_is("in_progress"), scripted.says("Light rain, ", complete=False), closed,
    scripted.says("Light rain, ", "3 degrees."), scripted.run_is("completed"),
))
live"""

MARIMO = {
    "chat": [
        f"import pathlib, sys, time\nsys.path.insert(0, {str(WIDGET_TESTS)!r})\nimport scripted",
        "from nbruns.widgets.run_view.view import RunView",
        GATED,
        CLIENT,
        CHAT,
    ],
    "files": [CLIENT, CHAT],
    "answers": [
        "import marimo as mo",
        CLIENT,
        "waited = watch('What should I wear in Oslo?', auto=True)\nstatus = waited.wait(60).status\nwaited",
        """asked = watch("And in Bergen?")
try:
    asked.wait(60)
except nbruns.NbrunsError as error:
    refused = str(error)
asked""",
        "refused",
        "submit = mo.ui.run_button(label='Answer in code')\nsubmit",
        """mo.stop(not submit.value)
asked.submit({call.id: "sunny" for call in asked.run.tool_calls}).wait(60).status""",
        # Not as a view: each widget by itself, as hosts do that know anywidgets only.
        """apart = watch("And in Alta?", auto=True)
mo.hstack([apart.composer, mo.ui.anywidget(apart.transcript)], widths="equal")""",
    ],
}


#: Voilà's template asks for them, wherever it runs.
VOILAS_ICONS = "/npm/@fortawesome/fontawesome-free@"


@pytest.fixture
def open_page(chromium: Browser, trouble: Trouble, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Open pages by `open_page(url, color_scheme="dark")`, which must behave."""
    contexts = []

    def open_page(url: str, **options: object) -> Page:
        contexts.append(chromium.new_context(viewport={"width": 1200, "height": 1400}, **options))
        contexts[-1].on("page", trouble.listen)
        page = contexts[-1].new_page()
        page.goto(url)
        return page

    yield open_page
    for number, context in enumerate(contexts, 1):
        context.pages[0].screenshot(path=ARTEFACTS / f"{request.node.name}-{number}.png", full_page=True)
        context.close()
    assert trouble.console_errors == []
    assert [url for url in trouble.left_the_machine if VOILAS_ICONS not in url] == []


@pytest.fixture(scope="module")
def marimo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of marimo's editor, which runs all cells of a notebook that is opened, and its notebooks."""
    need("marimo", "marimo")
    folder = tmp_path_factory.mktemp("marimo")
    environment = environment_in(folder)
    settings = Path(environment["XDG_CONFIG_HOME"], "marimo", "marimo.toml")
    settings.parent.mkdir()
    settings.write_text('[runtime]\nauto_instantiate = true\n[display]\ntheme = "system"\n')
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    for name, cells in MARIMO.items():
        functions = [f"@app.cell\ndef _():\n{indent(cell, '    ')}\n    return\n" for cell in cells]
        text = "\n\n".join(["import marimo\n\napp = marimo.App()", *functions])
        (notebooks / f"{name}.py").write_text(text, encoding="utf-8")
    port = free_port()
    options = ["--headless", "--no-token", "--skip-update-check", "--host=127.0.0.1", f"--port={port}"]
    command = [sys.executable, "-m", "marimo", "edit", *options, str(notebooks)]
    with running(command, f"http://127.0.0.1:{port}/health", environment, folder):
        yield f"http://127.0.0.1:{port}", notebooks


@pytest.fixture(scope="module")
def voila(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a notebook in Voilà."""
    need("voila", "Voilà")
    folder = tmp_path_factory.mktemp("voila")
    cells = [
        CLIENT,
        CHAT,
        "asked = watch('What should I wear in Oslo?')\nasked",
        "print(watch('And in Bergen?', auto=True).wait(60).status)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "chat.ipynb")
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = ["--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}", "--show_tracebacks=True"]
    command = [sys.executable, "-m", "voila", *options, str(folder / "notebooks")]
    with running(command, url, environment_in(folder), folder):
        yield f"{url}/voila/render/chat.ipynb"


def ask(page: Page, text: str, number: int = 0) -> None:
    """Send a message by the composer of that number, when it can."""
    composer = page.locator(".nbruns-composer").nth(number)
    expect(composer.get_by_role("button", name="Send")).to_be_visible()
    composer.get_by_label("Message").fill(text)
    composer.get_by_label("Message").press("Enter")


def test_marimo_streams_and_goes_on(marimo: tuple[str, Path], open_page: OpenPage) -> None:
    url, folder = marimo
    page = open_page(f"{url}/?file=chat.py")
    live, chat = page.locator(".nbruns").nth(0), page.locator(".nbruns").nth(1)
    expect(live).to_contain_text("Light rain,", timeout=30_000)
    expect(live.get_by_role("status")).to_have_text("in progress")
    (folder / "gate").touch()
    expect(live).to_contain_text("Light rain, 3 degrees.")
    expect(live.get_by_role("status")).to_have_text("completed")

    expect(chat).to_be_hidden(timeout=30_000)  # nothing has been asked yet
    ask(page, "What should I wear in Oslo?", 1)
    expect(chat.get_by_role("status")).to_have_text("completed")
    ask(page, "And in Bergen?", 1)
    expect(chat.locator(".nbruns-said")).to_have_text(["What should I wear in Oslo?", "And in Bergen?"])
    expect(chat.get_by_text("Here is what I found.")).to_have_count(2)
    expect(chat.get_by_role("status")).to_have_text("completed")
    page.screenshot(path=ARTEFACTS / "marimo-light.png")

    # The buttons of the transcript reach the composer, which marimo renders apart.
    chat.get_by_role("button", name="Edit").first.click()
    message = page.locator(".nbruns-composer").nth(1).get_by_label("Message")
    expect(message).to_have_value("What should I wear in Oslo?")
    ask(page, "And in Alta?", 1)
    expect(chat).to_contain_text("A fork: asked again")
    expect(chat.locator(".nbruns-said").last).to_have_text("And in Alta?")
    expect(chat.locator(".nbruns-said").last).to_be_in_viewport()
    expect(chat.get_by_role("status")).to_have_text("completed")
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=ARTEFACTS / "marimo-dark.png")

    # A page that is loaded anew shows all of it.
    page.reload()
    expect(chat.locator(".nbruns-said")).to_have_count(3)


@pytest.mark.nightly
def test_marimo_sends_files_and_saves_them(marimo: tuple[str, Path], open_page: OpenPage) -> None:
    page = open_page(f"{marimo[0]}/?file=files.py")
    chat, composer = page.locator(".nbruns"), page.locator(".nbruns-composer")
    expect(composer).to_be_visible(timeout=30_000)
    table = {"name": "weather.csv", "mimeType": "text/csv", "buffer": b"city,degrees\nOslo,3\nBergen,7\n"}
    composer.locator("input[type=file]").set_input_files(table)  # type: ignore[arg-type]
    ask(page, "Plot the table with Python")
    expect(chat.locator("img.nbruns-image")).to_be_visible(timeout=30_000)
    expect(chat.locator(".nbruns-user")).to_contain_text("weather.csv")
    with page.expect_download() as download:
        chat.get_by_role("button", name="Download summary.csv").click()
    assert "degrees" in download.value.path().read_text()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.get_by_role("button", name="Insert as cell").click()
    expect(chat.get_by_role("button", name="Copied: paste it into a cell")).to_be_visible()
    assert "read_csv" in page.evaluate("navigator.clipboard.readText()")


@pytest.mark.nightly
def test_marimo_waits_and_is_answered_in_code(marimo: tuple[str, Path], open_page: OpenPage) -> None:
    page = open_page(f"{marimo[0]}/?file=answers.py")
    views = page.locator(".nbruns")
    waited, asked, apart = (views.nth(number) for number in range(3))
    expect(waited.get_by_role("status")).to_have_text("completed", timeout=30_000)
    expect(asked.locator(".nbruns-call")).to_contain_text("awaiting output")
    expect(asked.locator(".nbruns-note")).to_contain_text("view.submit({")
    expect(page.get_by_text("This notebook can't show the form").last).to_be_visible()  # what wait() raised
    page.get_by_role("button", name="Answer in code").click()
    expect(asked.get_by_role("status")).to_have_text("completed")
    expect(asked).to_contain_text("sunny")
    expect(asked.locator(".nbruns-note")).to_have_count(0)
    expect(apart.get_by_role("status")).to_have_text("completed")
    expect(apart.get_by_role("button", name="Retry")).to_be_visible()
    # What a function prints is below the cell whose run has called it.
    expect(page.locator(".marimo-cell").last).to_contain_text("called for Alta")


def test_voila_converses_and_answers(voila: str, open_page: OpenPage, trouble: Trouble) -> None:
    # Voilà's own: icons from elsewhere, and extensions of JupyterLab that fit another version.
    trouble.expected = ("Failed to load resource: net::ERR_", "Error: The getter for the shared module")
    page = open_page(voila)
    asked, waited = (page.locator(".nbruns-view").nth(number) for number in (1, 2))
    form = asked.locator(".nbruns-form")
    expect(form).to_be_visible(timeout=40_000)
    expect(waited.locator(".nbruns-badge")).to_have_text("completed")
    form.get_by_role("button", name="Enter output").click()
    form.get_by_label("Output", exact=True).fill("sunny")
    form.get_by_role("button", name="Submit").click()
    expect(asked.locator(".nbruns-badge")).to_have_text("completed")
    expect(asked.locator(".nbruns")).to_contain_text("sunny")

    chat = page.locator(".nbruns-view").first
    for city in ("Oslo", "Bergen"):
        ask(page, f"What should I wear in {city}?")
        expect(chat.locator(".nbruns-said").last).to_have_text(f"What should I wear in {city}?")
        expect(chat.locator(".nbruns-badge")).to_have_text("completed")
    expect(chat.locator(".nbruns-said:visible")).to_have_count(2)
    expect(chat.get_by_text("Here is what I found.")).to_have_count(2)
    chat.get_by_role("button", name="Retry").last.click()
    expect(chat).to_contain_text("A fork: asked again")
    expect(chat.locator(".nbruns-said:visible")).to_have_count(3)
    page.screenshot(path=ARTEFACTS / "voila-light.png", full_page=True)

    # Each reader has a kernel of their own.
    dark = open_page(f"{voila}?theme=dark")
    expect(dark.locator(".nbruns-form")).to_be_visible(timeout=40_000)
    expect(dark.locator(".nbruns-said:visible")).to_have_text(
        ["What should I wear in Oslo?", "And in Bergen?"]
    )
