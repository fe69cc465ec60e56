"""The documentation in a browser: what saved transcripts say can be read in both themes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

pytest.importorskip("furo")
DOCS = Path(__file__).parent.parent.parent / "docs"
#: The least contrast of each text to the ground below it, and what says so (WCAG 2.1, 1.4.3).
CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const linear = (c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const found = [];
  for (const root of document.querySelectorAll(".nbruns-saved, .nbruns-runs-saved")) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      const text = walker.currentNode.textContent.trim();
      if (!text || !element.checkVisibility() || element.tagName === "STYLE") continue;
      const below = ground(element);
      const colour = over(rgba(getComputedStyle(element).color), below);
      const [light, dark] = [luminance(colour), luminance(below)].sort((a, b) => b - a);
      found.push([(light + 0.05) / (dark + 0.05), text]);
    }
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def page_of_the_tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("docs")
    only = "include_patterns=index.md,notebooks/01_tour.ipynb"
    command = [sys.executable, "-m", "sphinx", "-Q", "-b", "html", "-D", only, DOCS, built]
    subprocess.run(command, check=True, timeout=300)
    return built / "notebooks" / "01_tour.html"


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("chosen", [True, False], ids=["chosen", "of the system"])
def test_transcripts_are_legible(chromium: Browser, page_of_the_tour: Path, theme: str, chosen: bool) -> None:
    page = chromium.new_page(color_scheme="light" if chosen else theme)  # type: ignore[arg-type]
    page.goto(page_of_the_tour.as_uri())
    page.add_style_tag(content="* { transition: none !important }")
    page.evaluate("theme => { document.body.dataset.theme = theme }", theme if chosen else "auto")
    found = page.evaluate(CONTRAST)
    assert len(found) > 20
    assert [pair for pair in found if pair[0] < 4.5] == []
    page.close()
