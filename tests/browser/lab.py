"""A real JupyterLab of the test's own, and a page in which a notebook is open as its reader sees it.

The same server has Notebook 7, where it is installed. Both are driven through JupyterLab's commands (open, run,
save), the notebook's content by clicks and keys.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pytest
import requests
from playwright.sync_api import ConsoleMessage, Error, Locator, Page, Request, WebSocket

from nbruns.local_server import is_serving, local

ROOT = Path(__file__).parent.parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
ARTEFACTS = Path(__file__).parent / "artefacts"
START_SECONDS = 60

#: The pop-up that asks about news covers the notebook; cells out of view shall be there for the test to read.
OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
SERVER_OPTIONS = [
    "--no-browser",
    "--LabApp.expose_app_in_browser=True",
    "--JupyterNotebookApp.expose_app_in_browser=True",
    "--allow-root",
    "--IdentityProvider.token=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
    "--ServerApp.disable_check_xsrf=true",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port_retries=0",
]

#: Not ours: jupyterlab-widgets 3.0 asks every notebook for its kernel, also one that has none; Notebook 7.6 asks
#: for a setting and a command that only JupyterLab has.
KNOWN_ERROR = re.compile(
    r"TypeError: .* \(reading 'kernel'\)\n\s+at \S+ \(\S+/@jupyter-widgets/jupyterlab-manager/"
    r"|TypeError: .* \(reading 'schema'\)\n\s+at \S+/static/notebook/"
    r"|Error: Command 'filebrowser:open-path' not registered\.\n\s+at \S+ \(\S+/static/notebook/"
)


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, the folder it shows, and the Python and environment of its kernels."""

    url: str
    folder: Path
    executable: str
    environment: dict[str, str]

    def sessions(self) -> list[dict[str, Any]]:
        """The notebooks that have a kernel, as Jupyter's `/api/sessions` tells."""
        answer = requests.get(f"{self.url}/api/sessions", timeout=10)
        answer.raise_for_status()
        return answer.json()

    def is_connected(self, path: str) -> bool:
        """Tell whether the kernel of a notebook has a page connected to it and waits for work.

        The kernel shows idle before that, and what a page runs then is lost.
        """
        kernels = [session["kernel"] for session in self.sessions() if session["path"] == path]
        return any(kernel["connections"] >= 1 and kernel["execution_state"] == "idle" for kernel in kernels)

    def stop_kernels(self) -> None:
        """End every kernel, as closing the laptop would."""
        for session in self.sessions():
            requests.delete(f"{self.url}/api/sessions/{session['id']}", timeout=30).raise_for_status()

    def clear(self) -> None:
        """Leave nothing of earlier tests: neither servers nor files, but the notebooks as they are stored."""
        _stop_local_servers(self.folder.parent)
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(ROOT / "notebooks", self.folder, dirs_exist_ok=True)
        shutil.rmtree(self.environment["NBRUNS_DATA"], ignore_errors=True)

    def python(self, program: str) -> str:
        """Run a program where the notebooks run, and return what it printed."""
        command = [self.executable, "-c", program]
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write_notebook(self, path: str, cells: Sequence[str]) -> str:
        """Write a notebook of code cells and return its path."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / path)
        return path

    def read_notebook(self, path: str) -> nbformat.NotebookNode:
        """The notebook as it is on disk."""
        return nbformat.read(self.folder / path, as_version=4)

    def distrust(self, path: str) -> None:
        """Have JupyterLab take a notebook for somebody else's, as after a download: it sanitises its HTML."""
        notebook = self.read_notebook(path)
        notebook.metadata["changed"] = "so that the signature does not fit"
        nbformat.write(notebook, self.folder / path)


def need(module: str, name: str) -> None:
    """Skip the test where a front end is not installed; fail where the browser tests are required."""
    if find_spec(module) is None:
        missing = f"{name} is not installed"
        if os.environ.get("NBRUNS_REQUIRE_BROWSER") == "1":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Ask again and again until it is so; an AssertionError says what never came."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def running_lab(folder: Path, python: str = sys.executable) -> Iterator[Lab]:
    """JupyterLab on a free port of 127.0.0.1, with copies of the notebooks and none of the user's settings.

    It and its kernels are what the environment of that `python` has.
    """
    environment = environment_in(folder, python)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", dirs_exist_ok=True)
    port = free_port()
    lab = Lab(f"http://127.0.0.1:{port}", folder / "notebooks", python, environment)
    options = [*SERVER_OPTIONS, f"--ServerApp.port={port}", f"--ServerApp.root_dir={lab.folder}"]
    with running([python, "-m", "jupyterlab", *options], f"{lab.url}/api", environment, folder):
        yield lab


@contextlib.contextmanager
def running(command: Sequence[str], url: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A server, from when this address answers, with its log in the folder; and its end."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until(lambda: _answers(process, url, log.name), f"{url} to answer", START_SECONDS)
            yield
        finally:
            _end(process)
            _stop_local_servers(folder)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server, which ends its kernels first; they end by themselves when it is gone.

    An extension of JupyterLab may wait for ever in its shutdown.
    """
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop_local_servers(folder: Path) -> None:
    """End the servers that notebooks have started: they outlive their kernels."""
    for address in folder.rglob("server.json"):
        if is_serving(address.parent):
            local(address.parent).server.stop()


def environment_in(folder: Path, python: str = sys.executable) -> dict[str, str]:
    """Every folder that Jupyter, IPython, Matplotlib or nbruns may look into, moved below `folder`."""
    others = "JUPYTER|IPYTHON|NBRUNS|OPENAI"
    if python != sys.executable:
        others += "|PYTHONPATH"  # which would lead it to this environment's packages
    kept = {name: value for name, value in os.environ.items() if not re.match(others, name)}
    variables = "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR MPLCONFIGDIR"
    variables += " XDG_CONFIG_HOME XDG_DATA_HOME XDG_CACHE_HOME XDG_STATE_HOME XDG_RUNTIME_DIR HOME"
    own = {variable: str(folder / variable.lower()) for variable in variables.split()}
    own["NBRUNS_DATA"] = f"{own['HOME']}/.local/share/nbruns"
    for path in own.values():
        Path(path).mkdir(mode=0o700, parents=True)
    _write_json(Path(own["JUPYTER_CONFIG_DIR"], "labconfig", "default_setting_overrides.json"), OVERRIDES)
    kernel = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    _write_json(Path(own["JUPYTER_DATA_DIR"], "kernels", "python3", "kernel.json"), kernel)
    return (
        kept
        | own
        | {"JUPYTER_PREFER_ENV_PATH": "0", "JUPYTER_NO_CONFIG": "", "NO_PROXY": "127.0.0.1,localhost"}
    )


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _answers(process: subprocess.Popen[bytes], url: str, log: str) -> bool:
    assert process.poll() is None, f"The server ended at once:\n{Path(log).read_text()}"
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


@dataclass
class Trouble:
    """What a page did that it should not have done."""

    console_errors: list[str] = field(default_factory=list)
    left_the_machine: list[str] = field(default_factory=list)
    #: How errors begin that a test brings about, however often and late a page tells of them.
    expected: tuple[str, ...] = ()

    def listen(self, page: Page) -> None:
        """Hear of all that the page does from now on."""
        page.on("console", self._heard)
        page.on("pageerror", self._raised)
        page.on("request", self._asked)
        page.on("websocket", self._asked)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._add(f"{message.text} ({message.location.get('url')})")

    def _raised(self, error: Error) -> None:
        if not KNOWN_ERROR.match(error.stack or ""):
            self._add(error.stack or error.message)

    def _add(self, error: str) -> None:
        if not error.startswith(self.expected or ("\0",)):
            self.console_errors.append(error)

    def _asked(self, request: Request | WebSocket) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob", "file") and address.hostname not in (
            "127.0.0.1",
            "localhost",
        ):
            self.left_the_machine.append(request.url)


class NotebookPage:
    """A notebook, open in JupyterLab or Notebook 7; `page` is Playwright's, for all that is not here."""

    def __init__(
        self, page: Page, lab: Lab, path: str, *, kernel: bool = True, app: str = "JupyterLab"
    ) -> None:
        self.page = page
        self.lab = lab
        self.path = path
        self._app = app
        place = f"doc/workspaces/{uuid.uuid4().hex}" if app == "JupyterLab" else f"notebooks/{path}"
        page.goto(f"{lab.url}/{place}")
        self._open(kernel)
        if kernel:
            wait_until(self._is_connected, f"a kernel that is connected to {path}")

    def _open(self, kernel: bool = True) -> None:
        self.page.wait_for_function("window.jupyterapp")
        self.page.evaluate("jupyterapp.restored")
        if self._app == "JupyterLab":
            preference = {} if kernel else {"shouldStart": False, "canStart": False}
            self.command("docmanager:open", path=self.path, factory="Notebook", kernelPreference=preference)
        self.cell(0).wait_for()

    def reload(self) -> None:
        """Load the page anew, as F5 does; the kernel may be busy."""
        self.page.reload()
        self._open()

    def restart_kernel(self) -> None:
        """Restart the kernel and wait until it can run cells again."""
        page_code = "async () => await jupyterapp.shell.currentWidget.sessionContext.restartKernel()"
        self.page.evaluate(page_code)
        wait_until(self._is_connected, "the kernel to be there again")

    def _is_connected(self) -> bool:
        """Tell whether the page, too, knows of its kernel and has heard that it is idle.

        A page that doesn't yet clears the cells that it should run, and says that it has run them.
        """
        context = "jupyterapp.shell.currentWidget.sessionContext"
        heard = self.page.evaluate(f"{context}.isReady && {context}.session?.kernel?.status === 'idle'")
        return heard and self.lab.is_connected(self.path)

    def start(self, command: str, **arguments: object) -> None:
        """Start a command of JupyterLab; `finish` waits for its end."""
        page_code = "([name, arguments]) => { window.started = jupyterapp.commands.execute(name, arguments) }"
        self.page.evaluate(page_code, [command, arguments])

    def finish(self, seconds: float = 60) -> None:
        """Wait for the end of what was started."""
        self.page.evaluate(
            "() => { window.ended = false; window.started.finally(() => window.ended = true) }"
        )
        self.page.wait_for_function("window.ended", timeout=seconds * 1000)

    def command(self, command: str, **arguments: object) -> None:
        """Run a command of JupyterLab to its end."""
        self.start(command, **arguments)
        self.finish()

    def start_all(self) -> None:
        """Start all cells, as Run All Cells does; the next call need not wait for them."""
        self.start("notebook:run-all-cells")

    def run_all(self, seconds: float = 60) -> None:
        """Run all cells to their end."""
        self.start_all()
        self.finish(seconds)

    def run_cell(self, index: int, seconds: float = 60) -> None:
        """Select a cell and run it to its end."""
        self.cell(index).locator(".jp-InputPrompt").click()
        self.start("notebook:run-cell")
        self.finish(seconds)

    def cell(self, index: int) -> Locator:
        """The cell of that number, from 0, text cells counted too."""
        return self.page.locator(".jp-NotebookPanel .jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """What a cell shows below its code; the text of a value begins with its prompt, `[1]:`."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def error_output(self) -> list[str]:
        """Every traceback, and whatever cells printed to standard error."""
        return self.page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_text_contents()

    def watch_text(self, element: Locator, until: Callable[[str], object], seconds: float = 30) -> list[str]:
        """Look at an element about 30 times a second; every different text it had, until one is as wanted."""
        texts = [element.text_content() or ""]
        deadline = time.monotonic() + seconds
        while not until(texts[-1]):
            assert time.monotonic() < deadline, f"after {seconds} s the text is still {texts[-1]!r}"
            self.page.wait_for_timeout(30)
            text = element.text_content() or ""
            texts += [text] if text != texts[-1] else []
        return texts

    def save(self) -> None:
        """Save the notebook, its outputs too."""
        self.command("docmanager:save")

    def keep(self) -> nbformat.NotebookNode:
        """Save the notebook and return it; `make notebooks` stores it in notebooks/ too, with its outputs."""
        self.save()
        saved = self.lab.read_notebook(self.path)
        if os.environ.get("NBRUNS_STORE_NOTEBOOKS") == "1":
            # Not what differs from machine to machine, or asks for a kernel.
            saved.metadata.pop("widgets", None)
            saved.metadata.language_info = {"name": "python"}
            for cell in saved.cells:
                cell.metadata.pop("execution", None)
                for output in cell.get("outputs", ()):
                    output.get("data", {}).pop(WIDGET, None)  # a form that nobody has answered
            nbformat.write(saved, ROOT / "notebooks" / self.path)
        return saved

    def set_theme(self, theme: str) -> None:
        """Change to "JupyterLab Light" or "JupyterLab Dark"."""
        self.command("apputils:change-theme", theme=theme)

    def screenshot(self, name: str, element: Locator | None = None) -> Path:
        """Keep a picture of the page, or of one element, among the artefacts."""
        path = ARTEFACTS / f"{name}.png"
        (element or self.page).screenshot(path=path)
        return path
