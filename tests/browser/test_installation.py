"""What others install: the wheel into an empty environment, and Binder's files with the tour opened in a browser.

Both fetch packages from an index, so they run where NBRUNS_REQUIRE_INSTALLATION=1 says that one can be reached.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Lab, NotebookPage, running_lab
from test_tour import TOUR, answer_form, cell_of

ROOT = Path(__file__).parent.parent.parent
#: With the environment: installing takes a minute or two.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.environ.get("NBRUNS_REQUIRE_INSTALLATION") != "1",
        reason="installs packages from an index: set NBRUNS_REQUIRE_INSTALLATION=1",
    ),
]

#: A newcomer's first program: the server, a run with a tool call, its table.
FIRST = """
import nbruns, pathlib
assert "site-packages" in nbruns.__file__, nbruns.__file__
assert pathlib.Path(nbruns.__file__).with_name("py.typed").exists()

@nbruns.tool
def get_weather(city: str) -> str:
    return f"Light rain in {city}"

client = nbruns.local("data")
assistant = client.assistants.create(model="demo", tools=[get_weather])
thread = client.threads.create("What should I wear in Oslo?")
view = client.runs.watch(thread, assistant, tools=[get_weather], auto=True)
print(view.wait(timeout=60).status, client.runs.list(thread)["n_tools"].tolist())
assert "Light rain in Oslo" in view.to_html()
client.server.stop()
"""


def clean(**more: str) -> dict[str, str]:
    """This environment without what would lead a new Python back to this one's packages."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in hidden} | more


def environment(folder: Path) -> Path:
    """A new virtual environment with nothing but pip in it; gives its folder of programs."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if sys.platform == "win32" else "bin")


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=clean(**more), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    programs = environment(tmp_path / "env")
    run(programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[server]", cwd=tmp_path)
    assert run(programs / "nbruns", "--version", cwd=tmp_path).startswith("nbruns ")
    (tmp_path / "first.py").write_text(FIRST)
    assert run(programs / "python", "first.py", cwd=tmp_path) == "completed [1]\n"


@pytest.fixture(scope="module")
def lab(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab from an environment that binder/postBuild has made of a copy of what is committed."""
    folder = tmp_path_factory.mktemp("binder")
    checkout = folder / "checkout"
    run("git", "clone", "--quiet", ROOT, checkout, cwd=folder)
    programs = environment(folder / "env")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    run("bash", "binder/postBuild", cwd=checkout, PATH=path)
    (folder / "lab").mkdir()
    with running_lab(folder / "lab", python=str(programs / "python")) as lab:
        yield lab


@pytest.mark.browser
def test_binder_gives_a_working_tour(lab: Lab, notebook_page: Callable[..., NotebookPage]) -> None:
    page = notebook_page(TOUR)
    page.start_all()
    watched = cell_of(page, "tools=[get_weather])\nview")
    answer_form(page, watched)
    page.finish(seconds=120)
    assert page.error_output() == []
    assert "completed" in (page.output(watched).locator(".nbruns-badge:visible").text_content() or "")
    where = page.lab.python("import nbruns; print(nbruns.__file__)")
    assert "binder" in where and "checkout" in where
