"""Footnotes in a saved page: they open their source without JavaScript, and fit narrow and dark pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import ARTEFACTS
from playwright.sync_api import Browser, expect

from nbruns.snapshot import RunSnapshot
from nbruns.widgets.run_view.transcript import Transcript, to_html

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]

NAME = "a-very-long-name-of-a-file-without-any-space-" * 3 + ".md"
PASSAGE = "# Tides\n\nHigh tide in Bergen is at 14:10, and low tide at 20:25. " + "Long " * 300
RESULTS = [
    {"file_name": name, "score": 0.75 - at / 5, "content": [{"type": "text", "text": PASSAGE}]}
    for at, name in enumerate(("tides.md", NAME, "harbour.pdf"))
]
CALL = {
    "id": "call_1",
    "type": "file_search",
    "file_search": {"queries": ["high tide " * 20, "Bergen"], "results": RESULTS},
}
TEXT = f"High tide is at **14:10**【0:0†tides.md】【0:1†{NAME}】." + "\n\nA paragraph.\n" * 60
#: JupyterLab's dark theme, as far as the style sheet asks for it.
DARK = """:root { --jp-layout-color1: #111; --jp-content-font-color1: #fff; --jp-border-color2: #424242;
    --jp-content-link-color: #64b5f6; --jp-brand-color1: #2196f3 } body { background: #111 }"""


@pytest.fixture
def page_url(tmp_path: Path) -> str:
    snapshot = RunSnapshot()
    step = {
        "id": "step_1",
        "object": "thread.run.step",
        "status": "completed",
        "created_at": 1,
        "completed_at": 3,
    }
    snapshot.apply(
        "thread.run.step.completed", step | {"step_details": {"type": "tool_calls", "tool_calls": [CALL]}}
    )
    content = [{"type": "text", "text": {"value": TEXT, "annotations": []}}]
    message = {"id": "msg_1", "object": "thread.message", "role": "assistant", "status": "completed"}
    snapshot.apply("thread.message.completed", message | {"content": content})
    file = tmp_path / "saved.html"
    html = to_html(Transcript().blocks(snapshot))
    file.write_text(f"<!doctype html><meta charset=utf-8><style></style>{html}", encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize(("width", "style"), [(1100, ""), (360, DARK)], ids=["wide-light", "narrow-dark"])
def test_a_footnote_opens_its_source_without_javascript(
    width: int, style: str, page_url: str, chromium: Browser
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 700}, java_script_enabled=False)
    page = context.new_page()
    file = Path(page_url.removeprefix("file://"))
    file.write_text(file.read_text(encoding="utf-8").replace("<style></style>", f"<style>{style}</style>"))
    page.goto(page_url)
    first = page.locator(".nbruns-sources .nbruns-passage").first
    expect(first).to_be_hidden()
    page.get_by_role("link", name="[1]").click()
    expect(first).to_be_in_viewport()
    expect(page.locator(".nbruns-sources details[open]")).to_have_count(1)
    page.screenshot(path=ARTEFACTS / f"footnote-{width}.png")
    page.get_by_role("link", name="[2]").click()
    expect(page.locator(".nbruns-sources .nbruns-passage").nth(1)).to_be_in_viewport()
    page.locator(".nbruns-call summary").first.click()
    page.locator(".nbruns-found summary").first.click()
    expect(page.locator(".nbruns-found .nbruns-passage").first).to_be_visible()
    page.locator(".nbruns-call").scroll_into_view_if_needed()
    page.screenshot(path=ARTEFACTS / f"search-{width}.png")
    for part in page.locator(".nbruns-source, .nbruns-queries, .nbruns-call").all():
        box = part.bounding_box()
        assert box is None or box["x"] + box["width"] <= width
    context.close()
