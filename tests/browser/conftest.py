"""Fixtures: the system's Chromium, a JupyterLab for each test file, and pages that must behave."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lab import Lab, NotebookPage, Trouble, need, running_lab
from playwright.sync_api import Browser, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
NO_CHROMIUM = f"no Chromium found: none of {', '.join(NAMES)} on PATH, and NBRUNS_CHROMIUM is not set"
#: Chromium asks its maker's servers for many things at every start; none of them is wanted here.
OPTIONS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]

expect.set_options(timeout=15_000)  # a machine that has other things to do takes its time


def find_chromium() -> str | None:
    """The Chromium of this machine, if it has one."""
    return os.environ.get("NBRUNS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the browser tests where there is no Chromium, in one line, unless they are required."""
    if find_chromium() or os.environ.get("NBRUNS_REQUIRE_BROWSER") == "1":
        return
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=NO_CHROMIUM))


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Where Chromium is; a failure where it is required and missing."""
    return find_chromium() or pytest.fail(f"{NO_CHROMIUM}, but NBRUNS_REQUIRE_BROWSER=1", pytrace=False)


# Not for the whole session: while Playwright runs, its thread has a running event loop, which tests of other
# files that call asyncio.run() would trip over.
@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator[Browser]:
    """A headless Chromium, fresh for each test file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path,
            chromium_sandbox=os.geteuid() != 0,
            args=OPTIONS,
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_lab(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab for all test files."""
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The JupyterLab, with nothing in its folder but fresh copies of the notebooks."""
    shared_lab.clear()
    yield shared_lab


@pytest.fixture(params=["JupyterLab", pytest.param("Notebook 7", marks=pytest.mark.nightly)])
def app(request: pytest.FixtureRequest) -> str:
    """The front ends, one after the other."""
    if request.param == "Notebook 7":
        need("notebook", "Notebook 7")
    return str(request.param)


@pytest.fixture
def trouble() -> Trouble:
    """What the test's pages do that they should not."""
    return Trouble()


@pytest.fixture
def notebook_page(
    lab: Lab, chromium: Browser, trouble: Trouble, request: pytest.FixtureRequest
) -> Iterator[Callable[..., NotebookPage]]:
    """Open notebooks by `notebook_page(path, kernel=True, app="JupyterLab")`, or "Notebook 7".

    At the end a screenshot of each page is kept under the test's name, and the test fails if a page wrote an
    error to its console or asked anything of another machine.
    """
    context = chromium.new_context(viewport={"width": 1200, "height": 1000})
    context.set_default_timeout(30_000)
    context.on("page", trouble.listen)
    opened: list[NotebookPage] = []

    def open_notebook(path: str, **options: Any) -> NotebookPage:
        opened.append(NotebookPage(context.new_page(), lab, path, **options))
        return opened[-1]

    yield open_notebook
    name = re.sub(r"\W+", "-", request.node.name)
    for number, notebook in enumerate(opened, 1):
        if not notebook.page.is_closed():
            notebook.screenshot(f"{name}-{number}")
    context.close()
    lab.stop_kernels()
    assert trouble.console_errors == []
    assert trouble.left_the_machine == []
