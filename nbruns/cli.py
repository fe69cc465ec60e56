"""The `nbruns` command line, with the commands serve, stop, lab, demo and import. The others are in `commands`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from nbruns import __version__
from nbruns.commands import COMMANDS
from nbruns.commands import DATA as _DATA
from nbruns.commands import Manual as _Manual
from nbruns.errors import NbrunsError, SetupError, install_command
from nbruns.local_server import data_folder, local, server_of, serving, shown, tell_address, token_of
from nbruns.server.logs import FORMATS, LEVELS, configure
from nbruns.server.main import DEFAULT_PORT
from nbruns.text import JSON

#: Where `nbruns lab` puts copies of the notebooks, and which of them it opens.
_COPIES, _TOUR = Path("nbruns-notebooks"), "01_tour.ipynb"
#: Environment variables that can contain the upstream's API key, in order of precedence.
_KEYS = ("NBRUNS_UPSTREAM_API_KEY", "OPENAI_API_KEY")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code. Setup errors are one line on stderr, and code 1."""
    parser = _parser()
    args = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] | None = getattr(args, "command", None)
    if command is None:
        parser.print_help()
        return 0
    try:
        return command(args)
    except NbrunsError as error:
        print(f"nbruns: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nbruns",
        description="Runs of the Assistants API, on your own machine.",
        epilog="nbruns COMMAND --help describes a command and its options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nbruns {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, manual in _COMMANDS.items():
        command = commands.add_parser(
            name,
            allow_abbrev=False,
            help=manual.summary,
            description=manual.description,
            epilog=manual.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=manual.run)
        for title, options in manual.options.items():
            group = command.add_argument_group(title)
            for option, about in options.items():
                group.add_argument(option, **about)
    return parser


def _serve(args: argparse.Namespace) -> int:
    from nbruns.server.main import serve
    from nbruns.server.models import Models
    from nbruns.server.retrieval.embeddings import embedder

    folder = data_folder(args.data)
    _check(args)
    token = None if args.no_token else token_of(folder)
    configure(args.log_format, args.log_level, _secrets(args, token))
    models = Models(
        files=dict(map(_named_file, args.model)),
        upstream=args.upstream,
        upstream_api=args.upstream_api,
        aliases=dict(map(_alias, args.alias)),
    )
    models.check()
    embedding = embedder(args.embedding_model, args.upstream)
    _offer_mcp(args.mcp, folder)
    with serving(folder) as address:

        def tell(url: str) -> None:
            tell_address(address, url)
            print(f"Serving {url}/v1\nData in {shown(folder)}", flush=True)
            key = f"The API key is in {shown(folder / 'token')}"
            print("No token is required." if args.no_token else key, flush=True)

        serve(
            host=args.host,
            port=args.port,
            database_url=args.database_url or f"sqlite:///{folder / 'nbruns.sqlite'}",
            token=token,
            allowed_hosts=args.allow_host,
            idle_timeout=args.idle_timeout,
            run_lifetime=args.run_lifetime,
            delta_lifetime=args.delta_lifetime,
            on_ready=tell,
            models=models,
            allowed_origins=args.allow_origin,
            blobs=args.blobs or folder / "files",
            code_interpreter=args.code_interpreter,
            embedder=embedding,
        )
    return 0


def _offer_mcp(given: Path | None, folder: Path) -> None:
    from nbruns.server.hosted import TOOLS
    from nbruns.server.hosted.mcp import Mcp

    if given is not None and not given.is_file():
        raise SetupError(f"--mcp {given}: No such file. Use a JSON file with mcpServers.")
    tool = Mcp(given.resolve() if given else folder / "mcp.json")
    tool.check()
    TOOLS["mcp"] = tool


def _secrets(args: argparse.Namespace, token: str | None) -> list[str | None]:
    """Return the secrets to redact in the log, where libraries might write them."""
    in_urls = [urlsplit(url).password for url in (args.database_url, args.upstream) if url]
    return [token, *map(os.environ.get, (*_KEYS, "NBRUNS_JUPYTER_TOKEN")), *in_urls]


def _stop(args: argparse.Namespace) -> int:
    folder = data_folder(args.data)
    server = server_of(folder)
    if server is not None:
        server.stop()
    print(f"No server is running for {shown(folder)}." if server is None else f"Stopped: {server!r}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.port <= 65535:
        raise SetupError(f"--port {args.port}: Not a port. Use 0 to 65535; 0 takes any free port.")
    if args.upstream_api not in (None, "chat", "responses"):
        raise SetupError(f"--upstream-api {args.upstream_api}: Use chat or responses, or omit the option.")
    _check_url("--upstream", args.upstream, ("http", "https"))
    _check_url("--database-url", args.database_url, _DATABASES)


_DATABASES = ("sqlite", "postgresql", "postgresql+psycopg")


def _check_url(option: str, url: str | None, schemes: Sequence[str]) -> None:
    if url is not None and not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        begin = " or ".join(f"{scheme}://" for scheme in schemes)
        # The message omits the rest of the URL, which can contain a password.
        raise SetupError(f"{option} {url.partition(':')[0]}…: use a URL that begins with {begin}")


def _named_file(text: str) -> tuple[str, Path]:
    name, _, given = text.partition("=")
    file = Path(given).expanduser()  # some shells don't expand ~ after "="
    if not (name and file.is_file() and _begins(file) == b"GGUF"):
        raise SetupError(f"--model {text}: Use NAME=FILE with a readable GGUF file.")
    return name, file.resolve()


def _alias(text: str) -> tuple[str, str]:
    alias, _, name = text.partition("=")
    if not (alias and name):
        raise SetupError(f"--alias {text}: Use ALIAS=NAME, for example gpt-4o=smollm2 or 'gpt-*=smollm2'.")
    return alias, name


def _begins(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(4)
    except OSError:
        return b""


def _lab(args: argparse.Namespace) -> int:
    folder = data_folder(args.data)
    try:
        import jupyterlab  # noqa: F401
    except ModuleNotFoundError:
        raise SetupError(f"JupyterLab is not installed. Install it with: {install_command('lab')}") from None
    if args.notebook is not None and not args.notebook.exists():
        raise SetupError(f"No notebook or folder {args.notebook}. Omit the argument to open the tour.")
    notebook = args.notebook or _copied_notebooks(_COPIES) / _TOUR
    print(
        f"{local(folder).server}\nOpening {notebook.resolve()} in JupyterLab. Press Ctrl-C twice to stop it.",
        flush=True,
    )
    environment = {**os.environ, "NBRUNS_DATA": str(folder)}
    # Jupyter refuses to run as root, which is often the only user in a container.
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", *as_root, str(notebook)], environment)


def _copied_notebooks(folder: Path) -> Path:
    """Copy the package's notebooks to a working folder. Existing files are kept, because the user may have changed
    them.
    """
    package = Path(__file__).parent
    source = next(kept for kept in (package / "notebooks", package.parent / "notebooks") if kept.is_dir())
    try:
        folder.mkdir(exist_ok=True)
        for notebook in sorted(source.glob("[0-9]*.ipynb")):
            if not (folder / notebook.name).exists():
                shutil.copyfile(notebook, folder / notebook.name)
    except OSError as error:
        raise SetupError(
            f"Can't copy the notebooks to {folder.resolve()} ({error.strerror}). Change to another folder."
        ) from None
    return folder


def _demo(args: argparse.Namespace) -> int:
    from nbruns.demo.terminal import demonstrate

    with contextlib.closing(local(data_folder(args.data))) as client:
        demonstrate(client)
    print("\nNext: `nbruns lab` (in a clone: `make lab`) opens the tour in JupyterLab, with the same server.")
    return 0


#: Maximum number of messages about single lines that `nbruns import` prints.
_MOST_SAID = 200


def _import(args: argparse.Namespace) -> int:
    from nbruns.server.storage.imports import import_files

    folder = data_folder(args.data)
    said = 0

    def say(file: Path, line: int, text: str) -> None:
        nonlocal said
        said += 1
        if said <= _MOST_SAID:
            where = f"{file}:{line}" if line else str(file)
            print(f"{where}: {' '.join(text.split())}", file=sys.stderr)
        elif said == _MOST_SAID + 1:
            print("Further messages are left out.", file=sys.stderr)

    _check_url("--database-url", args.database_url, _DATABASES)
    url = args.database_url or f"sqlite:///{folder / 'nbruns.sqlite'}"
    done = import_files(url, args.files, say)
    nouns = ("assistant", "thread", "run", "message", "run step")
    kinds = ("assistant", "thread", "thread.run", "thread.message", "thread.run.step")
    counts = [
        _counted(done.new[kind], noun) for kind, noun in zip(kinds, nouns, strict=True) if done.new[kind]
    ]
    print(f"Imported {', '.join(counts) or 'nothing'}.")
    if done.made_threads:
        print(f"Made {_counted(done.made_threads, 'thread')} that the files name, but don't contain.")
    if known := done.known.total():
        print(f"{_counted(known, 'object')} with the same ids exist already and were left as they are.")
    if done.failures:
        print(f"Not imported: {_counted(done.failures, 'line')}, see above.")
    return 1 if done.failures else 0


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _seconds(text: str) -> int:
    """Parse a number of seconds, from 1 to a year."""
    seconds = int(text)
    if not 1 <= seconds <= 366 * 24 * 3600:
        raise argparse.ArgumentTypeError(f"{text}: use a number of seconds from 1 to {366 * 24 * 3600}")
    return seconds


_DATABASE_URL: dict[str, JSON] = {
    "--database-url": {
        "metavar": "URL",
        "default": os.environ.get("NBRUNS_DATABASE_URL") or None,
        "help": "database to use instead of the SQLite file in the data folder: sqlite:///FILE or "
        "postgresql://USER@HOST/NAME; several servers can share a PostgreSQL database (default: "
        "NBRUNS_DATABASE_URL, or the file)",
    }
}
_SERVE: dict[str, dict[str, JSON]] = {
    "where": {
        **_DATA,
        **_DATABASE_URL,
        "--blobs": {
            "metavar": "FOLDER|URL",
            "default": os.environ.get("NBRUNS_BLOBS") or None,
            "help": "where the bytes of files are stored: a folder, or for several servers a URL of fsspec such as "
            "s3://BUCKET/PREFIX (default: NBRUNS_BLOBS, or the folder files in the data folder)",
        },
        "--host": {
            "default": "127.0.0.1",
            "help": "address to listen on (default: %(default)s, this machine only; 0.0.0.0: all interfaces)",
        },
        "--port": {
            "type": int,
            "default": DEFAULT_PORT,
            "help": "port to listen on (default: %(default)s; 0: any free port)",
        },
    },
    "models": {
        "--model": {
            "action": "append",
            "default": [],
            "metavar": "NAME=FILE",
            "help": "serve a GGUF file as the model NAME, in addition to demo and smollm2; repeatable",
        },
        "--alias": {
            "action": "append",
            "default": [],
            "metavar": "ALIAS=NAME",
            "help": "let the model NAME answer to ALIAS, which can be a pattern such as gpt-*; repeatable",
        },
        "--embedding-model": {
            "metavar": "MODEL",
            "default": os.environ.get("NBRUNS_EMBEDDING_MODEL") or None,
            "help": "embedding model of vector stores: a GGUF file, or a model of the upstream (default: "
            "NBRUNS_EMBEDDING_MODEL, or all-MiniLM-L6-v2 if it is installed; without any, search by words alone)",
        },
        "--upstream": {
            "metavar": "URL",
            "help": "Chat Completions or Responses endpoint for all other model names, such as https://…/v1; set its "
            "API key in the environment",
        },
        "--upstream-api": {
            "metavar": "chat|responses",
            "default": os.environ.get("NBRUNS_UPSTREAM_API") or None,
            "help": "API of the upstream (default: NBRUNS_UPSTREAM_API, or detected for each model; chat is preferred)",
        },
    },
    "tools": {
        "--mcp": {
            "type": Path,
            "metavar": "FILE",
            "default": os.environ.get("NBRUNS_MCP") or None,
            "help": "MCP servers that runs may use, as JSON with mcpServers; read anew for each run (default: "
            "NBRUNS_MCP, or mcp.json in the data folder)",
        },
        "--code-interpreter": {
            "metavar": "bwrap|URL|unsandboxed|off",
            "default": os.environ.get("NBRUNS_CODE_INTERPRETER") or None,
            "help": "what runs the Python of code_interpreter: bwrap, a sandbox on Linux; the URL of a Jupyter server "
            "or kernel gateway; unsandboxed, as a process that can do whatever the server can; or nothing (default: "
            "NBRUNS_CODE_INTERPRETER, or bwrap if it works here, otherwise off)",
        },
    },
    "access": {
        "--no-token": {
            "action": "store_true",
            "help": "accept requests without a token (default: require the token)",
        },
        "--allow-host": {
            "action": "append",
            "default": [],
            "metavar": "NAME",
            "help": "additional host name to accept, such as the public name of a proxy; repeatable (default: the "
            "names of this machine, and any name if --host is reachable from other machines)",
        },
        "--allow-origin": {
            "action": "append",
            "default": [],
            "metavar": "ORIGIN",
            "help": "web pages of this origin may use the server, such as https://app.example.org; repeatable "
            "(default: none)",
        },
    },
    "lifetime and logging": {
        "--idle-timeout": {
            "type": float,
            "metavar": "SECONDS",
            "help": "stop after this long without requests and active runs (default: never)",
        },
        "--run-lifetime": {
            "type": _seconds,
            "metavar": "SECONDS",
            "default": 600,
            "help": "how long after its creation a run expires (default: %(default)s)",
        },
        "--delta-lifetime": {
            "type": _seconds,
            "metavar": "SECONDS",
            "default": 86_400,
            "help": "how long after the end of a run its stream keeps its deltas; then only whole messages and steps "
            "are replayed (default: %(default)s, a day)",
        },
        "--log-format": {
            "choices": [*FORMATS],
            "metavar": "|".join(FORMATS),
            "default": "text",
            "help": "format of the log on stderr: text or JSON lines (default: %(default)s)",
        },
        "--log-level": {
            "choices": [*LEVELS],
            "metavar": "|".join(LEVELS),
            "default": "info",
            "help": "minimum log level; requests are logged as info (default: %(default)s)",
        },
    },
}
_SERVE_EPILOG = f"""\
environment:
  NBRUNS_DATA              default for --data
  NBRUNS_DATABASE_URL      default for --database-url; use it if the URL contains a password, because other
                           users of this machine can see command lines
  NBRUNS_UPSTREAM_API_KEY  API key of the upstream (fallback: OPENAI_API_KEY); never leaves the server
  NBRUNS_UPSTREAM_API      default for --upstream-api
  NBRUNS_EMBEDDING_MODEL   default for --embedding-model
  NBRUNS_BLOBS             default for --blobs
  NBRUNS_MCP               default for --mcp
  NBRUNS_CODE_INTERPRETER  default for --code-interpreter
  NBRUNS_JUPYTER_TOKEN     token of the Jupyter server of --code-interpreter URL
  OTEL_EXPORTER_OTLP_ENDPOINT
                           where to send OpenTelemetry spans of runs (needs the extra telemetry; default: nowhere)

examples:
  nbruns serve
      serve the models demo and smollm2 on http://127.0.0.1:{DEFAULT_PORT}/v1
  NBRUNS_UPSTREAM_API_KEY=… nbruns serve --upstream https://api.openai.com/v1
      serve every model of the upstream
  nbruns serve --upstream http://127.0.0.1:11434/v1 --alias 'gpt-*=qwen3'
      answer old programs, which ask for gpt-4o and others, with a model of Ollama
  nbruns serve --model tiny=models/tiny.gguf --port 0
      serve a model from a file, on any free port
  nbruns serve --host 0.0.0.0 --allow-host runs.example.org --log-format json
      serve other machines, behind a proxy of that name
  OPENAI_BASE_URL=http://127.0.0.1:{DEFAULT_PORT}/v1 OPENAI_API_KEY="$(cat FOLDER/token)" python your_program.py
      run a program written for the Assistants API

API: assistants, threads, messages, runs, steps, files, uploads, vector stores and models of the Assistants API, with
streaming and the hosted tools file_search, code_interpreter and mcp. In addition:
  GET /health          {{"status": "ok"}} while the server is running; no token required
  GET /metrics         metrics for Prometheus
  GET /openapi.json    OpenAPI description of this server; no token required
  GET /v1/threads      all threads
  GET /v1/runs         all runs, filtered by thread_id, assistant_id, model and status
  GET /v1/threads/THREAD/runs/RUN/stream
                       stream of an existing run, after the event given in Last-Event-ID
  POST /v1/run_batches runs in a queue with limits, each key once
  POST /v1/bulk        runs, steps or messages of many runs or threads, as JSON lines

signals: SIGTERM and SIGINT stop the server gracefully: open streams are closed, and active runs continue at the next
start. Runs also continue after the server is killed.

exit codes: 0 stopped normally; 1 setup error, a line on stderr says what is wrong and how to fix it; 2 invalid
arguments; 130 interrupted before the server started.
"""
_IMPORT_EPILOG = """\
files: JSON, JSON lines or Parquet, or folders of these. They can contain assistants, threads, messages, runs and run
steps as the API returns them: single objects, lists, pages, and what openai-python's model_dump_json() or
client.runs.export() writes. Pass all files of one export in one command, because the objects are stored in the order in
which they were created.

Ids and creation times are kept. Objects whose ids exist already are left as they are, so you can import the same files
again. Threads that the files name but don't contain are made. Runs that had not ended become expired. References to
files and vector stores that don't exist here are left out, with a message.

examples:
  nbruns import assistants.jsonl threads/
      import a file and a folder of files
  nbruns import --database-url sqlite:///runs.sqlite export.json
      import into another database

exit codes: 0 everything was imported; 1 something could not be imported, a line on stderr says what and why, and the
rest was imported; 2 invalid arguments.
"""
_COMMANDS = {
    "serve": _Manual(
        _serve,
        "serve the Assistants API from this machine",
        "Serve the Assistants API from this machine, with the models demo and smollm2, GGUF files, and any Chat\n"
        "Completions or Responses endpoint. Prints the base URL for programs written for the API.",
        _SERVE,
        _SERVE_EPILOG,
    ),
    "stop": _Manual(
        _stop,
        "stop the server of a data folder",
        "Stop the server of a data folder, whoever started it. Active runs continue at the next start.",
        {"where": _DATA},
    ),
    "lab": _Manual(
        _lab,
        "open the tour in JupyterLab",
        "Open a notebook in JupyterLab, and start the local server.",
        {
            "where": {
                **_DATA,
                "notebook": {
                    "nargs": "?",
                    "type": Path,
                    "help": f"notebook or folder (default: the tour, copied to {_COPIES})",
                },
            }
        },
    ),
    "demo": _Manual(
        _demo,
        "run each model once, in the terminal",
        "Run each available model once, with a tool call answered by a Python function, and print the runs as a table.",
        {"where": _DATA},
    ),
    "import": _Manual(
        _import,
        "import assistants, threads and runs from files",
        "Import assistants, threads, messages, runs and run steps that were made on another server. The server of the\n"
        "data folder can be running.",
        {
            "what": {
                "files": {"nargs": "+", "type": Path, "metavar": "FILE", "help": "file or folder to import"}
            },
            "where": {**_DATA, **_DATABASE_URL},
        },
        _IMPORT_EPILOG,
    ),
    **COMMANDS,
}
