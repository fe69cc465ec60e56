"""The notebooks after the tour, each run from top to bottom as its reader would, and what is stored of all of them.

`make notebooks` stores their outputs anew, as JupyterLab has saved them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from lab import ROOT, WIDGET, NotebookPage
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
#: The tour and the usage notebook have tests of their own, which do more than to run them.
OTHERS = [name for name in NOTEBOOKS if not name.startswith(("01_", "02_"))]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("name", OTHERS)
def test_the_notebook_runs_from_top_to_bottom(name: str, notebook_page: Callable[..., NotebookPage]) -> None:
    page = notebook_page(name)
    page.run_all(seconds=240)
    assert page.error_output() == []
    footnotes = page.page.locator('.jp-OutputArea .nbruns-saved a[href^="#nbruns-"]')
    for footnote in footnotes.all():
        footnote.click()
        id = (footnote.get_attribute("href") or "").removeprefix("#")
        expect(page.page.locator(f'.nbruns-saved [id="{id}"]')).to_be_in_viewport()
    assert footnotes.count() >= 3 or name != "05_files_and_search.ipynb"
    saved = page.keep()
    assert [output for output in outputs(saved) if output.output_type == "error"] == []
    transcripts = [o for o in outputs(saved) if "nbruns-saved" in o.get("data", {}).get("text/html", "")]
    assert len(transcripts) >= sum(cell.source.endswith("\nview") for cell in saved.cells) > 0


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_stored_of_it_reads_well_without_a_kernel(name: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    stored = outputs(notebook)
    assert stored, f"{name} is stored without outputs: `make notebooks`"
    assert [output for output in stored if output.output_type == "error"] == []
    assert [output for output in stored if WIDGET in output.get("data", {})] == []
    assert len(json.dumps(notebook)) < 1_500_000
