"""The commands runs, watch, ask, status and batch: runs in a terminal, as tables and live text or as JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbruns.errors import SetupError
from nbruns.local_server import data_folder, local, server_of, shown
from nbruns.objects import APIObject, MessageDelta, Run, RunStep
from nbruns.text import JSON, excerpt

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from nbruns.client import Client
    from nbruns.client.stream import RunStream

#: Statuses of runs that have not ended.
_ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")
_COLOURS = {"completed": "green", "failed": "red", "expired": "red", "incomplete": "red", "cancelled": "dim"}


class Manual(NamedTuple):
    """The help texts and options of a command, and the function that runs it."""

    run: Callable[[argparse.Namespace], int]
    summary: str
    description: str
    #: Arguments of argparse for each option, by the title of their group.
    options: Mapping[str, Mapping[str, Mapping[str, Any]]]
    epilog: str = ""


def _status(args: argparse.Namespace) -> int:
    folder = data_folder(args.data)
    server = server_of(folder)
    if server is None:
        told: JSON = {"running": False, "data": str(folder)}
    else:
        with closing(local(folder)) as client:
            counts = {status: len(list(client.runs.iter(status=status, limit=100))) for status in _ACTIVE}
            told = {
                "running": True,
                "url": f"{server.url}/v1",
                "data": str(folder),
                "models": [model.id for model in client.models.iter()],
                "active_runs": {status: count for status, count in counts.items() if count},
            }
    if args.json:
        _print_json(told)
    elif server is None:
        print(f"No server is running for {shown(folder)}. Start one with 'nbruns serve'.")
    else:
        active = ", ".join(
            f"{'100 or more' if count == 100 else count} {status}"
            for status, count in told["active_runs"].items()
        )
        print(f"Serving {told['url']}\nData in {shown(folder)}")
        print(f"Models: {_printable(', '.join(told['models']))}\nActive runs: {active or 'none'}")
    return 0


def _runs(args: argparse.Namespace) -> int:
    filters = {"status": args.status, "model": args.model, "assistant_id": args.assistant}
    with closing(_client(args)) as client:
        if args.json:
            for run in client.runs.iter(args.thread, limit=args.limit, **filters):
                _print_json(run.to_dict())
            return 0
        frame = client.runs.list(args.thread, limit=args.limit, add=["question"], **filters)
    columns = ["id", "created_at", "status", "model", "total_tokens", "duration", "question"]
    _console().print(_table(frame, columns))
    return 0


def _watch(args: argparse.Namespace) -> int:
    from nbruns.client.bulk import read_bulk

    with closing(_client(args)) as client:
        found = None if args.thread else read_bulk(client, "thread.run", [args.run_id])
        run = Run(next(found)) if found is not None else args.run_id
        if isinstance(run, str) and not args.thread:
            raise SetupError("This server finds no runs without their thread. Pass --thread THREAD.")
        return _follow(client.runs.retrieve_stream(run, args.thread), args)


def _ask(args: argparse.Namespace) -> int:
    from nbruns.client.batch import variants_of

    text = sys.stdin.read() if args.text == "-" else args.text
    with closing(_client(args)) as client:
        known = [model.id for model in client.models.iter()] if args.model is None else []
        model = args.model or next((name for name in ("smollm2", "demo") if name in known), None)
        if model is None:
            raise SetupError("Name a model with --model.")
        variant: JSON = {"model": model}
        message: JSON = {"role": "user", "content": text}
        if args.instructions:
            variant["instructions"] = args.instructions
        if args.file:
            variant["tools"] = [{"type": "file_search"}]
            files = [client.files.create(file, purpose="assistants") for file in args.file]
            message["attachments"] = [
                {"file_id": file.id, "tools": [{"type": "file_search"}]} for file in files
            ]
        [asked] = variants_of(variant, client.assistants, [])
        return _follow(client.threads.create_and_run_stream(asked.assistant_id, message), args)


def _follow(stream: RunStream, args: argparse.Namespace) -> int:
    """Print a stream as it arrives. Return the exit code: 0 if the run completes, otherwise 1."""
    with stream:
        if args.json:
            for event in stream:
                _print_json({"event": event.event, "data": event.data.to_dict()})
        else:
            _show(stream)
    run = stream.run
    assert run is not None  # otherwise reading the stream raises StreamError
    if run.status == "requires_action" and not args.json:
        calls = ", ".join(f"{call.name}({call.arguments})" for call in run.tool_calls)
        print(_printable(f"Awaiting output of {calls}. Answer it with client.runs.watch(run={run.id!r}, …)."))
    elif run.status != "completed" and not args.json:
        why = run.last_error or run.incomplete_details or {}
        message = why.get("message") or why.get("reason") or ""
        print(_printable(f"The run ended as {run.status}. {message}".strip()), file=sys.stderr)
    return 0 if run.status == "completed" else 1


def _show(stream: RunStream) -> None:
    """Print text as it arrives, formatted in a terminal, and each tool call on one line."""
    from rich.live import Live
    from rich.markdown import Markdown

    console = _console()
    if not console.is_terminal:
        ends_in_newline = True
        for event in stream:
            if isinstance(event.data, MessageDelta) and event.data.text:
                text = _printable(event.data.text)
                print(text, end="", flush=True)
                ends_in_newline = text.endswith("\n")
            for line in _calls(event.event, event.data):
                print(line, flush=True)
        if not ends_in_newline:
            print()
        return
    text = ""
    # While the answer is written, only as much as fits is shown. At the end, the whole answer remains.
    with Live(console=console, refresh_per_second=8, vertical_overflow="ellipsis") as live:
        for event in stream:
            if isinstance(event.data, MessageDelta) and event.data.text:
                text += _printable(event.data.text)
                live.update(Markdown(text))
            for line in _calls(event.event, event.data):
                live.console.print(line, markup=False, highlight=False, style="dim")
        live.vertical_overflow = "visible"


def _calls(name: str, data: APIObject) -> Iterator[str]:
    if name == "thread.run.step.completed" and isinstance(data, RunStep):
        for call in data.tool_calls:
            output = f" → {excerpt(call.output, 120)}" if call.output else ""
            yield f"{excerpt(call.name or call.type, 64)}({excerpt(call.arguments, 200)}){output}"


def _batch(args: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from nbruns.client.batch import Batch, Result, frame_of, planned, variants_of

    prompts = _prompts(args.file)
    check = _writer(args.output) if args.output else None
    with closing(_client(args)) as client:
        given: list[Any] = [
            *args.assistant,
            *(
                {"model": model, **({"instructions": args.instructions} if args.instructions else {})}
                for model in args.model
            ),
        ]
        rows = planned(prompts, variants_of(given or [{"model": "demo"}], client.assistants, []), args.repeat)
        running = Batch(
            client.runs,
            rows,
            name=args.name,
            concurrency=args.concurrency,
            runs_per_minute=args.runs_per_minute,
        )
        results: dict[str, Result] = {}
        with Progress(
            *(BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn()),
            console=_console(sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as progress:
            task = progress.add_task("runs", total=len(rows))
            for result in running.results():
                results[result.row.key] = result
                failed = sum(each.error is not None for each in results.values())
                progress.update(task, advance=1, description=f"{failed} failed" if failed else "runs")
                if args.json:
                    _print_json(_plain(frame_of([result])))
        frame = frame_of([results[row.key] for row in rows])
    if check is not None:
        check(frame)
    if not args.json:
        inputs = [name for name in frame.columns if name not in ("assistant", "answer")][:1]
        _console().print(_table(frame, [*inputs, "assistant", "status", "total_tokens", "answer", "error"]))
    return 0 if frame["error"].isna().all() else 1


def _prompts(file: str) -> Any:
    """Return the prompts of a file: a DataFrame, or a list of its lines."""
    import pandas as pd

    if file == "-":
        return [line for line in sys.stdin.read().splitlines() if line.strip()]
    path = Path(file)
    read: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": pd.read_csv,
        ".jsonl": lambda path: pd.read_json(path, lines=True),
        ".parquet": pd.read_parquet,
    }
    try:
        if path.suffix in read:
            return read[path.suffix](path)
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, ImportError) as error:
        raise SetupError(f"Can't read {file}: {excerpt(error)}") from error


def _writer(file: Path) -> Callable[[pd.DataFrame], object]:
    """Return the function that writes the result. Called first, so that a wrong name fails before anything is run."""
    from nbruns.frames import nested_to_json

    write: dict[str, Callable[[pd.DataFrame], object]] = {
        ".csv": lambda frame: nested_to_json(frame).to_csv(file, index=False),
        ".jsonl": lambda frame: frame.to_json(file, orient="records", lines=True, date_format="iso"),
        ".parquet": lambda frame: nested_to_json(frame).to_parquet(file, index=False),
    }
    if file.suffix not in write:
        raise SetupError(f"--output {file}: Use a name that ends in {', '.join(write)}.")
    if not file.absolute().parent.is_dir():
        raise SetupError(f"--output {file}: There is no folder {file.absolute().parent}.")
    return write[file.suffix]


def _plain(frame: pd.DataFrame) -> JSON:
    [row] = json.loads(frame.to_json(orient="records", date_format="iso"))
    assert isinstance(row, dict)
    return row


def _client(args: argparse.Namespace) -> Client:
    """Return a client of the server given by --base-url, or of the local one, which is started if necessary."""
    if args.base_url:
        from nbruns.client import Client

        return Client(args.base_url)
    return local(data_folder(args.data))


def _console(file: Any = None) -> Console:
    from rich.console import Console

    return Console(file=file, highlight=False, markup=False, emoji=False)


def _table(frame: pd.DataFrame, columns: Iterable[str]) -> Any:
    """Return the columns as a table. Text from servers is shown as plain text, without markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [name for name in columns if name in frame]
    table = Table(box=box.SIMPLE_HEAD)
    for name in names:
        is_number = frame[name].dtype.kind in "iufm"
        table.add_column(name.replace("_", " "), justify="right" if is_number else "left", overflow="fold")
    for row in frame[names].itertuples(index=False, name=None):
        table.add_row(*(Text(_cell(value), _COLOURS.get(str(value), "")) for value in row))
    return table


def _cell(value: Any) -> str:
    if str(value) in ("None", "<NA>", "NaT", "nan"):
        return ""
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M:%S"))
    if hasattr(value, "total_seconds"):
        return f"{value.total_seconds():.1f} s"
    return excerpt(value, 200)


def _printable(text: str) -> str:
    """Return text from a server without control characters, which could control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _print_json(value: JSON) -> None:
    print(json.dumps(value), flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: use a whole number above 0")
    return number


DATA: dict[str, JSON] = {
    "--data": {
        "type": Path,
        "metavar": "FOLDER",
        "help": "folder for the database, token and log (default: NBRUNS_DATA, or the user's data folder)",
    }
}
_SERVER: dict[str, JSON] = {
    **DATA,
    "--base-url": {
        "metavar": "URL",
        "default": os.environ.get("NBRUNS_BASE_URL") or None,
        "help": "use this server; its API key is in NBRUNS_API_KEY (default: NBRUNS_BASE_URL, or the local server, "
        "which is started if it is not running)",
    },
}
_JSON: dict[str, JSON] = {
    "--json": {"action": "store_true", "help": "print JSON lines for scripts instead of a table or text"}
}
_INSTRUCTIONS: dict[str, JSON] = {
    "--instructions": {"metavar": "TEXT", "help": "instructions for the models (default: none)"}
}
COMMANDS: dict[str, Manual] = {
    "status": Manual(
        _status,
        "tell whether a server is running, and what it works on",
        "Tell whether the server of a data folder is running, with its models and active runs.",
        {"where": DATA, "output": _JSON},
    ),
    "runs": Manual(
        _runs,
        "list runs",
        "List runs, newest first.",
        {
            "which": {
                "--status": {"metavar": "STATUS", "help": "runs with this status, such as failed"},
                "--model": {"metavar": "MODEL", "help": "runs of this model"},
                "--assistant": {"metavar": "ID", "help": "runs of this assistant"},
                "--thread": {"metavar": "ID", "help": "runs of this thread"},
                "--limit": {
                    "type": _positive,
                    "metavar": "COUNT",
                    "default": 20,
                    "help": "maximum number of runs (default: %(default)s)",
                },
            },
            "where": _SERVER,
            "output": _JSON,
        },
    ),
    "watch": Manual(
        _watch,
        "follow a run",
        "Print the text and tool calls of a run from its beginning, live until it ends or requires action.",
        {
            "which": {
                "run_id": {"metavar": "RUN", "help": "id of the run"},
                "--thread": {
                    "metavar": "ID",
                    "help": "its thread, which other servers than nbruns' own need",
                },
            },
            "where": _SERVER,
            "output": _JSON,
        },
        "exit codes: 0 the run completed; 1 it ended otherwise, or requires action\n",
    ),
    "ask": Manual(
        _ask,
        "ask a model, and print its answer live",
        "Start a run on a new thread, and print its answer live.",
        {
            "what": {
                "text": {"metavar": "TEXT", "help": "the question; - reads it from the standard input"},
                "--model": {
                    "metavar": "MODEL",
                    "help": "model to ask (default: smollm2, or demo without it)",
                },
                **_INSTRUCTIONS,
                "--file": {
                    "action": "append",
                    "default": [],
                    "metavar": "FILE",
                    "help": "file that the model can search; repeatable",
                },
            },
            "where": _SERVER,
            "output": _JSON,
        },
        "exit codes: 0 the run completed; 1 it ended otherwise, or requires action\n",
    ),
    "batch": Manual(
        _batch,
        "run many prompts",
        "Run each prompt of a file with each model and assistant, and print a table of the answers.",
        {
            "what": {
                "file": {
                    "metavar": "FILE",
                    "help": "prompts: .csv, .jsonl or .parquet with a column prompt, messages or question; any other "
                    "file has a prompt in each line; - is the standard input",
                },
                "--model": {
                    "action": "append",
                    "default": [],
                    "metavar": "MODEL",
                    "help": "model to run the prompts with; repeatable (default: demo)",
                },
                "--assistant": {
                    "action": "append",
                    "default": [],
                    "metavar": "ID",
                    "help": "assistant to run the prompts with; repeatable",
                },
                **_INSTRUCTIONS,
                "--repeat": {
                    "type": _positive,
                    "metavar": "COUNT",
                    "default": 1,
                    "help": "runs of each prompt (default: %(default)s)",
                },
                "--name": {
                    "metavar": "NAME",
                    "help": "name by which an interrupted batch continues when it is started again",
                },
            },
            "pace": {
                "--concurrency": {
                    "type": _positive,
                    "metavar": "COUNT",
                    "default": 8,
                    "help": "maximum number of runs at the same time (default: %(default)s)",
                },
                "--runs-per-minute": {
                    "type": _positive,
                    "metavar": "COUNT",
                    "help": "maximum number of runs started in a minute (default: no limit)",
                },
            },
            "where": _SERVER,
            "output": {
                **_JSON,
                "--output": {
                    "type": Path,
                    "metavar": "FILE",
                    "help": "also write the rows to this .csv, .jsonl or .parquet file",
                },
            },
        },
        "exit codes: 0 all runs completed; 1 some did not\n",
    ),
}
