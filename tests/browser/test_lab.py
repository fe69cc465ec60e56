"""The rig itself: a small notebook runs in JupyterLab, its widgets work, and trouble is noticed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from lab import Lab, NotebookPage, Trouble
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

SLIDER = "import ipywidgets\nslider = ipywidgets.IntSlider(value=3, description='Amount')\nslider"
COUNTER = '''
import anywidget, traitlets

class Counter(anywidget.AnyWidget):
    _esm = """
    export default { render({ model, el }) {
        const button = document.createElement("button")
        const show = () => { button.textContent = `count ${model.get("count")}` }
        button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes() }
        model.on("change:count", show)
        show()
        el.append(button)
    } }
    """
    count = traitlets.Int(0).tag(sync=True)

counter = Counter()
counter
'''
TYPING = """
import time
from IPython.display import display, Pretty
shown = display(Pretty(""), display_id=True)
for length in range(1, 9):
    time.sleep(0.15)
    shown.update(Pretty("abcdefgh"[:length]))
"""
SCRIPT = """
from IPython.display import HTML
HTML("<b>kept</b><script>window.ran = true</script>")
"""

OpenNotebook = Callable[..., NotebookPage]


def test_widgets_work_and_the_kernel_hears_of_it(lab: Lab, notebook_page: OpenNotebook) -> None:
    cells = [SLIDER, COUNTER, "print(f'{slider.value=} {counter.count=}')", "1/0"]
    notebook = notebook_page(lab.write_notebook("widgets.ipynb", cells))
    notebook.run_all()
    expect(notebook.output(2)).to_have_text("slider.value=3 counter.count=0")

    readout = notebook.output(0).locator(".widget-readout")
    readout.fill("7")
    readout.press("Enter")
    button = notebook.output(1).get_by_role("button", name="count 0")
    button.click()
    expect(notebook.output(1).get_by_role("button", name="count 1")).to_be_visible()

    notebook.run_cell(2)
    expect(notebook.output(2)).to_have_text("slider.value=7 counter.count=1")
    (traceback,) = notebook.error_output()
    assert "ZeroDivisionError" in traceback


def test_text_is_seen_to_grow(lab: Lab, notebook_page: OpenNotebook) -> None:
    notebook = notebook_page(lab.write_notebook("typing.ipynb", [TYPING]))
    notebook.start_all()
    texts = notebook.watch_text(notebook.output(0), lambda text: "abcdefgh" in text)
    notebook.finish()
    assert len(texts) >= 5
    assert all(later.strip().startswith(earlier.strip()) for earlier, later in pairwise(texts))


@pytest.mark.parametrize("trusted", [True, False])
def test_a_saved_notebook_is_read_without_a_kernel(
    lab: Lab, notebook_page: OpenNotebook, trusted: bool
) -> None:
    path = lab.write_notebook("saved.ipynb", [SCRIPT])
    notebook = notebook_page(path)
    notebook.run_all()
    notebook.save()
    assert "<b>kept</b>" in lab.read_notebook(path).cells[0].outputs[0].data["text/html"]

    notebook.page.close()
    lab.stop_kernels()
    if not trusted:
        lab.distrust(path)
    again = notebook_page(path, kernel=False)
    expect(again.output(0)).to_contain_text("kept")
    assert again.page.evaluate("'ran' in window") is trusted
    assert lab.sessions() == []


def test_trouble_is_noticed(lab: Lab, notebook_page: OpenNotebook) -> None:
    notebook = notebook_page(lab.write_notebook("trouble.ipynb", ["1"]))
    noticed = Trouble()
    page = notebook.page.context.browser.new_page()
    noticed.listen(page)
    with page.expect_event("requestfailed"):
        page.evaluate("console.error('a cry'); fetch('http://elsewhere.invalid/x').catch(() => 0)")
    page.close()
    assert noticed.console_errors[0].startswith("a cry")
    assert noticed.left_the_machine == ["http://elsewhere.invalid/x"]
