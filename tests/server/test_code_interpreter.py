"""`code_interpreter` on the server: the model's code runs, its outputs are steps, files, images and links."""

from __future__ import annotations

import json
from typing import Any

from served import Api, Scripts
from test_kills import assert_same_state

from nbruns.server.models import Finish, TextDelta, ToolCallDelta, usage

JSON = dict[str, Any]
TOOL: JSON = {"type": "code_interpreter"}
CALLED = Finish("tool_calls", usage(20, 10))
PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()"


def running(code: str, id: str = "call_1") -> tuple[Any, ...]:
    """A turn that calls the tool, its arguments in pieces."""
    arguments = json.dumps({"code": code})
    pieces = [arguments[at : at + 7] for at in range(0, len(arguments), 7)]
    return (
        ToolCallDelta(0, id, "code_interpreter"),
        *(ToolCallDelta(0, arguments=piece) for piece in pieces),
        CALLED,
    )


def saying(text: str) -> tuple[Any, ...]:
    return (TextDelta(text), Finish("stop", usage(30, 5)))


def run_on(api: Api, thread: str, assistant: str) -> tuple[JSON, list[Any]]:
    events = list(api.stream(f"/threads/{thread}/runs", {"assistant_id": assistant}))
    return api.get(api.run_path(events[-2].data)), events


def calls_of(api: Api, run: JSON) -> list[JSON]:
    """The calls of code_interpreter in a run."""
    steps = api.get(f"{api.run_path(run)}/steps", order="asc")["data"]
    return [call[call["type"]] for step in steps for call in step["step_details"].get("tool_calls", [])]


def test_code_runs_and_its_plot_is_in_the_message(api: Api, script: Scripts) -> None:
    said = script(
        running(f"print(6 * 7)\n{PLOT}\nopen('/mnt/data/a b.txt', 'w').write('hello')"),
        saying("See [it](sandbox:/mnt/data/a b.txt), not sandbox:/mnt/data/a b.txt.gz."),
    )
    run, events = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    assert run["status"] == "completed", run["last_error"]
    assert_same_state(api, run, events)
    [call] = calls_of(api, run)
    assert call["outputs"][0]["type"], call
    print(call)
    [message] = api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"]
    print(message)
    print(said.model.prompts[-1].messages[-1])
