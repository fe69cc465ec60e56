"""`nbruns demo`: one run of each model in a terminal, with its tool call answered by a Python function."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from nbruns.errors import RunFailed, excerpt
from nbruns.objects import Run, RunStep
from nbruns.tools import Tool, tool

if TYPE_CHECKING:
    import pandas as pd

    from nbruns.client import Client
    from nbruns.stream import RunStream

MODELS = ("demo", "smollm2")
QUESTION = "What should I wear in Oslo today?"

_BOLD, _DIM, _BLUE, _END = ("\033[1m", "\033[2m", "\033[34m", "\033[0m") if sys.stdout.isatty() else ("",) * 4


@tool
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, object]:
    """Tell the weather in a city."""
    degrees = 3 if unit == "celsius" else 37
    return {"city": city, "sky": "light rain", "temperature": degrees, "unit": unit, "wind": "8 m/s"}


def demonstrate(client: Client) -> None:
    """Run each model once on a thread of its own, then print the runs and the usage by model."""
    runs = [_run(client, model) for model in MODELS]
    frame = client.runs.list([run.thread_id for run in runs])
    columns = ["id", "model", "status", "created_at", "running_time", "prompt_tokens", "completion_tokens"]
    print(f"\n{_BOLD}Runs{_END}  client.runs.list(threads)\n{_shown(frame[columns])}")
    print(
        f"\n{_BOLD}Usage{_END}  client.runs.list(threads).runs.usage(by='model')\n{_shown(frame.runs.usage())}"
    )


def _run(client: Client, model: str) -> Run:
    print(f"\n{_BOLD}{model}{_END}  {_DIM}{QUESTION}{_END}")
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
    if run.status != "completed":
        raise RunFailed(run)
    return run


def _answer(function: Tool, arguments: str) -> str:
    output = function.call(arguments)
    print(f"{_BLUE}  {function.name}({excerpt(arguments)}) → {excerpt(output)}{_END}\n")
    return output


def _show(stream: RunStream) -> Run:
    """Print a stream's text while it arrives."""
    for event in stream:
        if event.event == "thread.message.delta":
            _print_piece(event.data.text)
        elif event.event == "thread.run.step.created" and isinstance(event.data, RunStep):
            print(f"{_DIM}  {event.data.type}{_END}")
    print()
    return stream.until_done()


def _print_piece(text: str) -> None:
    # What a model writes could be a terminal's escape sequence.
    print("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text), end="", flush=True)


def _shown(frame: pd.DataFrame) -> str:
    return frame.to_string(index=frame.index.name is not None, max_colwidth=40)
