"""Hosted tools: the server runs them, and the model is asked again in the same run."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from served import ANSWER, OUTPUTS, WEATHER, Api, Scripts, ServerProcess, names
from test_kills import assert_same_state

from nbruns.server import hosted
from nbruns.server.hosted import TOOLS, Result, explanation
from nbruns.server.models import Finish, TextDelta, ToolCallDelta, usage

JSON = dict[str, Any]
ABACUS: JSON = {"type": "abacus"}


class AbacusTool(hosted.ToolSchema):
    type: Literal["abacus"]


class Abacus(hosted.HostedTool):
    """A tool that adds numbers. It shows the sum that is asked for while the model writes it, and can be held up."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.cancelled = threading.Event()

    schema = AbacusTool

    def declare(self, tool: JSON, files: Sequence[str]) -> JSON:
        numbers = {"type": "array", "items": {"type": "number"}}
        return {"name": "abacus", "description": "Add numbers", "parameters": {"properties": {"n": numbers}}}

    def describe(self, arguments: str) -> JSON:
        return {"input": arguments, "outputs": []}

    async def run(self, run: JSON, arguments: str, context: hosted.Context) -> Result:
        self.runs.append(arguments)
        try:
            await asyncio.to_thread(self.go.wait, 30)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        total = sum(json.loads(arguments)["n"])
        outputs = [{"type": "logs", "logs": f"{total}"}]
        return Result(f"The sum is {total}.", {"input": arguments, "outputs": outputs})

    def cite(self, text: str, details: Sequence[JSON], paths: Mapping[str, str]) -> list[JSON]:
        sums = [each["outputs"][0]["logs"] for each in details]
        return [
            {
                "type": "sum",
                "text": found,
                "start_index": text.index(found),
                "end_index": text.index(found) + 1,
            }
            for found in sums
            if found in text
        ]


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Abacus]:
    tool = Abacus()
    monkeypatch.setitem(hosted.TOOLS, "abacus", tool)
    yield tool
    tool.go.set()


def calling(id: str, *numbers: int, index: int = 0) -> tuple[ToolCallDelta, ...]:
    """The deltas of a call of the abacus, its arguments in two pieces."""
    arguments = json.dumps({"n": numbers})
    return (
        ToolCallDelta(index, id, "abacus"),
        ToolCallDelta(index, arguments=arguments[:6]),
        ToolCallDelta(index, arguments=arguments[6:]),
    )


CALLED = Finish("tool_calls", usage(20, 10))
SUM = (TextDelta("It is "), TextDelta("5."), Finish("stop", usage(30, 5)))


def test_a_hosted_call_is_run_shown_and_cited_and_the_model_asked_again(
    api: Api, script: Scripts, abacus: Abacus
) -> None:
    said = script((*calling("call_1", 2, 3), CALLED), SUM)
    run_id = api.thread_with()
    events = list(api.stream(f"/threads/{run_id}/runs", {"assistant_id": said.assistant(tools=[ABACUS])}))
    assert names(events) == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.delta",
        "thread.run.step.completed",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "thread.message.delta",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
        "done",
    ]
    run = events[-2].data
    assert abacus.runs == ['{"n": [2, 3]}']
    first, second = said.model.prompts
    assert [tool["function"]["name"] for tool in first.tools] == ["abacus"]
    assert second.messages[-2]["tool_calls"][0]["function"] == {
        "name": "abacus",
        "arguments": '{"n": [2, 3]}',
    }
    assert second.messages[-1] == {"role": "tool", "tool_call_id": "call_1", "content": "The sum is 5."}
    calls, message = api.get(f"{api.run_path(run)}/steps", order="asc")["data"]
    shown = {"input": '{"n": [2, 3]}', "outputs": [{"type": "logs", "logs": "5"}]}
    assert calls["step_details"]["tool_calls"] == [{"id": "call_1", "type": "abacus", "abacus": shown}]
    assert (calls["usage"]["total_tokens"], message["usage"]["total_tokens"]) == (30, 35)
    assert run["usage"]["total_tokens"] == 65
    [answer] = api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"]
    [mark] = answer["content"][0]["text"]["annotations"]
    assert (mark["type"], mark["text"], mark["start_index"]) == ("sum", "5", 6)
    assert_same_state(api, run, events)


def test_what_a_hosted_call_shows_comes_in_deltas(api: Api, script: Scripts, abacus: Abacus) -> None:
    assistant = script((*calling("call_1", 2, 3), CALLED), SUM).assistant(tools=[ABACUS])
    events = list(api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}))
    deltas = [
        event.data["delta"]["step_details"]["tool_calls"][0]["abacus"]
        for event in events
        if event.name == "thread.run.step.delta"
    ]
    assert deltas == [
        {"input": "", "outputs": []},
        {"input": '{"n": '},
        {"input": "[2, 3]}"},
        {"outputs": [{"index": 0, "type": "logs", "logs": "5"}]},
    ]


def test_the_model_may_call_hosted_tools_again_and_again(api: Api, script: Scripts, abacus: Abacus) -> None:
    said = script((*calling("call_1", 1), CALLED), (*calling("call_1", 2), CALLED), SUM)
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": said.assistant(tools=[ABACUS])})
    run = api.until(run, "completed", "failed")
    assert abacus.runs == ['{"n": [1]}', '{"n": [2]}']
    assert [m["role"] for m in said.model.prompts[-1].messages] == ["user", *["assistant", "tool"] * 2]
    assert run["usage"]["total_tokens"] == 30 + 30 + 35


def test_of_mixed_calls_the_hosted_are_run_and_the_others_awaited(
    api: Api, script: Scripts, abacus: Abacus
) -> None:
    weather = (ToolCallDelta(1, "call_oslo", "get_weather"), ToolCallDelta(1, arguments="{}"))
    said = script((*calling("call_1", 2, 3), *weather, CALLED), ANSWER)
    run = api.post(
        f"/threads/{api.thread_with()}/runs", {"assistant_id": said.assistant(tools=[ABACUS, WEATHER])}
    )
    run = api.until(run, "requires_action", "failed")
    asked = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert [call["id"] for call in asked] == ["call_oslo"]
    [step] = api.get(f"{api.run_path(run)}/steps")["data"]
    assert step["step_details"]["tool_calls"][0]["abacus"]["outputs"] == [{"type": "logs", "logs": "5"}]
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    done = api.until(run, "completed", "failed")
    assert [m["content"] for m in said.model.prompts[-1].messages[-2:]] == ["The sum is 5.", "-3 °C"]
    assert abacus.runs == ['{"n": [2, 3]}']
    assert_same_state(api, done, list(api.rejoin(done)))


def test_a_run_is_cancelled_while_its_hosted_call_runs(api: Api, script: Scripts, abacus: Abacus) -> None:
    abacus.go.clear()
    said = script((*calling("call_1", 2), CALLED))
    body = {"assistant_id": said.assistant(tools=[ABACUS])}
    run = api.post(f"/threads/{api.thread_with()}/runs", body)
    while not abacus.runs:  # the call is running
        api.get("/assistants")
    api.post(f"{api.run_path(run)}/cancel")
    done = api.until(run, "cancelled", "failed", "completed")
    assert (done["status"], abacus.cancelled.wait(10)) == ("cancelled", True)
    [step] = api.get(f"{api.run_path(run)}/steps")["data"]
    assert step["status"] == "cancelled"


def test_a_call_that_a_kill_cut_off_is_run_again_and_one_that_was_answered_is_not(tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    tally.touch()
    arguments = ("--words", "3", "--tally", str(tally))
    server = ServerProcess(tmp_path / "db", *arguments)
    assistant = server.api.post("/assistants", {"model": "slow", "tools": [{"type": "tally"}]})["id"]
    path = f"/threads/{server.api.thread_with()}/runs"
    run = server.api.post(path, {"assistant_id": assistant})
    while "slow" not in tally.read_text():
        assert server.api.get(server.api.run_path(run))["status"] in ("queued", "in_progress")
    server.kill()
    server = ServerProcess(tmp_path / "db", *arguments)
    done = server.api.until(run, "completed", "failed")
    assert tally.read_text().split() == ["quick", "slow", "slow"]
    [calls, _], _ = assert_same_state(server.api, done, list(server.api.rejoin(done)))
    outputs = [call["tally"]["outputs"] for call in calls["step_details"]["tool_calls"]]
    assert outputs == [[{"type": "logs", "logs": "counted"}]] * 2
    server.stop()


def test_a_tool_choice_names_a_hosted_tool(api: Api, script: Scripts, abacus: Abacus) -> None:
    said = script((*calling("call_1", 2, 3), CALLED), SUM)
    body = {"assistant_id": said.assistant(tools=[ABACUS]), "tool_choice": ABACUS}
    api.until(api.post(f"/threads/{api.thread_with()}/runs", body), "completed")
    named = {"type": "function", "function": {"name": "abacus"}}
    assert [prompt.tool_choice for prompt in said.model.prompts] == [named, "auto"]
    body["tools"] = [WEATHER]
    status, error = api.refused("POST", f"/threads/{api.thread_with()}/runs", body)
    assert (status, "the run has no tool 'abacus'" in error["message"]) == (400, True)


def test_a_function_of_the_users_keeps_its_name_beside_a_hosted_tool(
    api: Api, script: Scripts, abacus: Abacus
) -> None:
    own = {"type": "function", "function": {"name": "abacus"}}
    said = script((*calling("call_1", 2), CALLED))
    run = api.post(
        f"/threads/{api.thread_with()}/runs", {"assistant_id": said.assistant(tools=[ABACUS, own])}
    )
    api.until(run, "requires_action")
    functions = [tool["function"]["name"] for tool in said.model.prompts[0].tools]
    assert functions == ["abacus", "abacus_hosted"]
    assert abacus.runs == []


def test_a_hosted_tool_checks_its_own_entry_and_others_are_refused(api: Api, abacus: Abacus) -> None:
    body = {"model": "demo", "tools": [{"type": "abacus", "beads": 9}]}
    status, error = api.refused("POST", "/assistants", body)
    assert (status, error["param"]) == (400, "tools[0].beads")


def places(api: Api, tool: JSON, assistant: str) -> list[tuple[str, JSON, str]]:
    """Every place where a tool can be named: path, body, and the parameter that names it."""
    attached = {"role": "user", "content": "x", "attachments": [{"file_id": "file-x", "tools": [tool]}]}
    thread = api.thread_with()
    runs = f"/threads/{thread}/runs"
    return [
        ("/assistants", {"model": "demo", "tools": [WEATHER, tool]}, "tools[1].type"),
        (f"/assistants/{assistant}", {"tools": [tool]}, "tools[0].type"),
        (runs, {"assistant_id": assistant, "tools": [tool]}, "tools[0].type"),
        (runs, {"assistant_id": assistant, "tool_choice": tool}, "tool_choice.type"),
        ("/threads/runs", {"assistant_id": assistant, "tools": [tool]}, "tools[0].type"),
        ("/threads/runs", {"assistant_id": assistant, "thread": {"messages": [attached]}},
         "thread.messages[0].attachments[0].tools[0].type"),
        ("/threads", {"messages": [attached]}, "messages[0].attachments[0].tools[0].type"),
        (runs, {"assistant_id": assistant, "additional_messages": [attached]},
         "additional_messages[0].attachments[0].tools[0].type"),
        (f"/threads/{thread}/messages", attached, "attachments[0].tools[0].type"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["abacus", "bing_grounding"])
def test_a_tool_that_is_off_or_unknown_is_refused_alike_wherever_it_is_named(
    api: Api, abacus: Abacus, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with_it = api.post("/assistants", {"model": "demo", "tools": [WEATHER, ABACUS]})["id"]
    monkeypatch.delitem(TOOLS, "abacus")
    without = api.post("/assistants", {"model": "demo"})["id"]
    asked = places(api, {"type": kind}, without)
    if kind == "abacus":  # the assistant was made while it was on
        asked += [
            (path, {"assistant_id": with_it}, "tools[1].type")
            for path in (f"/threads/{api.thread_with()}/runs", "/threads/runs")
        ]
    for path, body, param in asked:
        status, error = api.refused("POST", path, body)
        assert (status, error["code"], error["param"]) == (400, "unsupported_tool", param), path
        assert error["message"] == f"'{param.removesuffix('.type')}': {explanation(kind)}"
    assert f"does not run the hosted tool '{kind}' (it runs " in explanation(kind)
    if kind == "abacus":
        run = {"assistant_id": with_it, "tools": []}  # a run may do without
        assert api.post("/threads/runs", run | {"instructions": "Be kind."})["tools"] == []
