"""`nbruns serve | stop | lab | demo`: each command's arguments, and what they set off."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nbruns import __version__
from nbruns.errors import NbrunsError, SetupError
from nbruns.local_server import data_folder, local, server_of, serving, tell_address, token_of
from nbruns.server.serve import DEFAULT_PORT

_TOUR = Path("notebooks/01_tour.ipynb")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code. What goes wrong on this machine is one line on stderr, and code 1."""
    asked = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = asked.command
    try:
        return command(asked)
    except NbrunsError as error:
        print(f"nbruns: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nbruns", description="Runs of the Assistants API, on your own machine.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"nbruns {__version__}")
    commands = parser.add_subparsers(required=True, metavar="serve | stop | lab | demo")

    serve = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="serve the Assistants API from this machine",
        description="Serve the Assistants API from this machine, over the models demo and smollm2, GGUF files, and any "
        "Chat Completions or Responses endpoint. Programs written for the API reach it by its base URL, which is "
        "printed.",
    )
    serve.set_defaults(command=_serve)
    _add_data(serve)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)"
    )
    serve.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="port to listen at (default: %(default)s; 0: any free one)",
    )
    serve.add_argument(
        "--database-url", metavar="URL", help="a database other than the folder's SQLite file: postgresql://…"
    )
    serve.add_argument("--no-token", action="store_true", help="let in whoever reaches the port")
    serve.add_argument(
        "--idle-timeout", type=float, metavar="SECONDS", help="end when nobody has asked for so long"
    )
    serve.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a GGUF file to serve as NAME; repeatable",
    )
    serve.add_argument(
        "--upstream",
        metavar="URL",
        help="Chat Completions or Responses endpoint for all other model names; its key is "
        "NBRUNS_UPSTREAM_API_KEY or OPENAI_API_KEY in the environment",
    )
    serve.add_argument(
        "--upstream-api",
        metavar="chat|responses",
        default=os.environ.get("NBRUNS_UPSTREAM_API") or None,
        help="the endpoint to ask (default: NBRUNS_UPSTREAM_API, or found out for each model: chat where it is there)",
    )

    stop = commands.add_parser(
        "stop",
        allow_abbrev=False,
        help="end the server that serves a data folder",
        description="End the server that serves a data folder, whoever started it. Its runs go on with the next start.",
    )
    stop.set_defaults(command=_stop)
    _add_data(stop)

    lab = commands.add_parser(
        "lab",
        allow_abbrev=False,
        help="open the tour in JupyterLab",
        description="Open a notebook in JupyterLab, with the local server running.",
    )
    lab.set_defaults(command=_lab)
    _add_data(lab)
    lab.add_argument(
        "notebook", nargs="?", type=Path, default=_TOUR, help="notebook or folder (default: %(default)s)"
    )

    demo = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="one run of each model, in the terminal",
        description="Run each model that is "
        "here once, with a tool call answered by a Python function, and tabulate the runs.",
    )
    demo.set_defaults(command=_demo)
    _add_data(demo)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="where the database, token and log are kept (default: NBRUNS_DATA, or the user's data folder)",
    )


def _serve(asked: argparse.Namespace) -> int:
    from nbruns.server.models import Models
    from nbruns.server.serve import serve

    folder = data_folder(asked.data)
    _check(asked)
    with serving(folder) as address:

        def tell(url: str) -> None:
            tell_address(address, url)
            print(f"Serving {url}/v1\nData in {folder}", flush=True)
            print(
                "No token is asked for." if asked.no_token else f"The API key is in {folder / 'token'}",
                flush=True,
            )

        serve(
            host=asked.host,
            port=asked.port,
            database_url=asked.database_url or f"sqlite:///{folder / 'nbruns.sqlite'}",
            token=None if asked.no_token else token_of(folder),
            idle_timeout=asked.idle_timeout,
            on_ready=tell,
            models=Models(
                files=dict(map(_named_file, asked.model)),
                upstream=asked.upstream,
                upstream_api=asked.upstream_api,
            ),
        )
    return 0


def _stop(asked: argparse.Namespace) -> int:
    folder = data_folder(asked.data)
    server = server_of(folder)
    if server is not None:
        server.stop()
    print(f"No server serves {folder}." if server is None else f"Ended: {server!r}")
    return 0


def _check(asked: argparse.Namespace) -> None:
    if not 0 <= asked.port <= 65535:
        raise SetupError(f"--port {asked.port}: ports are 0 to 65535; 0 takes any free one.")
    if asked.upstream_api not in (None, "chat", "responses"):
        raise SetupError(f"--upstream-api {asked.upstream_api}: write chat or responses, or leave it out.")
    for option, url, schemes in (
        ("--upstream", asked.upstream, ("http", "https")),
        ("--database-url", asked.database_url, ("sqlite", "postgresql", "postgresql+psycopg")),
    ):
        if url is not None and not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            begin = " or ".join(f"{scheme}://" for scheme in schemes)
            # Not the whole URL: it may hold a password.
            raise SetupError(f"{option} {url.partition(':')[0]}…: write a URL that begins with {begin}")


def _named_file(text: str) -> tuple[str, Path]:
    name, _, given = text.partition("=")
    file = Path(given)
    if not (name and file.is_file() and _begins(file) == b"GGUF"):
        raise SetupError(f"--model {text}: write NAME=FILE, with a GGUF file that exists.")
    return name, file.resolve()


def _begins(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(4)
    except OSError:
        return b""


def _lab(asked: argparse.Namespace) -> int:
    folder = data_folder(asked.data)
    try:
        import jupyterlab  # noqa: F401
    except ModuleNotFoundError:
        raise SetupError(
            "JupyterLab is not installed. Install it with: pip install 'nbruns[lab,server]'"
        ) from None
    notebook = asked.notebook if asked.notebook.exists() else Path()
    print(
        f"{local(folder).server}\nOpening {notebook.resolve()} in JupyterLab; end it with Ctrl-C, twice.",
        flush=True,
    )
    environment = {**os.environ, "NBRUNS_DATA": str(folder)}
    # Containers have nobody but root; elsewhere, whoever starts this as root has been warned by their system.
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", *as_root, str(notebook)], environment)


def _demo(asked: argparse.Namespace) -> int:
    from nbruns.demo import demonstrate

    with contextlib.closing(local(data_folder(asked.data))) as client:
        demonstrate(client)
    print("\nNext: `make lab` opens the tour in JupyterLab, against this same server.")
    return 0
