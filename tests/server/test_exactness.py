"""Details of the original that programs have come to count on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from served import ANSWER, CALL, OUTPUTS, WEATHER, Api, Scripts, as_events, waiting_run

from nbruns.server.models import Finish, TextDelta, ToolCallDelta, usage

JSON = dict[str, Any]
KINDS = ("thread.run", "thread.run.step", "thread.message")
SCHEMA = {"type": "object", "properties": {"coat": {"type": "boolean"}}, "required": ["coat"]}
TWO_CALLS = (
    ToolCallDelta(0, "call_a", "get_weather", "{}"),
    ToolCallDelta(1, "call_b", "get_weather", "{}"),
    Finish("tool_calls", usage(1, 1)),
)


def test_what_is_null_at_which_status_was_recorded(
    api: Api, script: Scripts, recorded: dict[str, list[JSON]]
) -> None:
    """Of each object and status: what is never null is never null, and what is always null is always null."""
    real = nulls(
        payload for exchanges in recorded.values() for each in exchanges for payload in shown(each["body"])
    )
    run = waiting_run(api, script, instructions="Be kind.")
    list(api.stream(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS))
    ours = [event.data for event in api.rejoin(run) if event.id]
    ours += api.get(f"{api.run_path(run)}/steps")["data"]
    seen = set()
    for (kind, status, name), values in nulls(payload for each in ours for payload in shown(each)).items():
        expected = real.get((kind, status, name))
        if expected is not None and name != "instructions":
            seen.add((kind, status))
            assert values <= expected, f"{kind} {status}: {name}"
    assert len(seen) == 8


def nulls(payloads: Iterable[JSON]) -> dict[tuple[str, str, str], set[bool]]:
    found: dict[tuple[str, str, str], set[bool]] = {}
    for payload in payloads:
        for name, value in payload.items():
            found.setdefault((payload["object"], payload["status"], name), set()).add(value is None)
    return found


def shown(body: Any) -> Iterable[JSON]:
    """The runs, steps and messages with a status in a body."""
    events = [event.data for event in as_events(body)[:-1]] if isinstance(body, str) else [body]
    for payload in events:
        for each in payload.get("data", [payload]):
            if each.get("object") in KINDS and "status" in each:
                yield each


def test_the_settings_of_a_run_are_told_as_they_were_recorded(
    api: Api, script: Scripts, recorded: dict[str, list[JSON]]
) -> None:
    *_, context = recorded["response_format"]
    assistant = script(ANSWER).assistant(response_format={"type": "text"})
    body = {**context["request"], "assistant_id": assistant}
    include = "step_details.tool_calls[*].file_search.results[*].content"
    run = api.send("POST", f"/threads/{api.thread_with()}/runs", body, params={"include[]": include}).json()
    for name in (
        "response_format",
        "tool_choice",
        "truncation_strategy",
        "parallel_tool_calls",
        "tools",
        "metadata",
    ):
        assert run[name] == context["body"][name], name


@pytest.mark.parametrize(
    "format",
    [
        "auto",
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "advice", "schema": SCHEMA, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "advice"}},
    ],
)
def test_response_formats_reach_the_model(api: Api, script: Scripts, format: Any) -> None:
    said = script(ANSWER)
    body = {"assistant_id": said.assistant(), "response_format": format}
    run = api.post(f"/threads/{api.thread_with()}/runs", body)
    assert run["response_format"] == format
    api.until(run, "completed")
    assert said.model.prompts[0].response_format == format


@pytest.mark.parametrize(
    ("format", "param"),
    [
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a b"}}, "response_format.json_schema.name"),
        ({"type": "json_object", "json_schema": {"name": "a"}}, "response_format.json_schema"),
        ({"type": "yaml"}, "response_format.type"),
        ({}, "response_format.type"),
        (5, "response_format"),
    ],
)
def test_other_response_formats_are_refused(api: Api, format: Any, param: str) -> None:
    status, error = api.refused("POST", "/assistants", {"model": "demo", "response_format": format})
    assert (status, error["param"]) == (400, param)


def test_a_function_can_be_asked_for_by_its_name(api: Api, script: Scripts) -> None:
    said = script(CALL, ANSWER)
    choice = {"type": "function", "function": {"name": "get_weather"}}
    body = {
        "assistant_id": said.assistant(tools=[WEATHER]),
        "tool_choice": choice,
        "parallel_tool_calls": False,
    }
    run = api.until(api.post(f"/threads/{api.thread_with()}/runs", body), "requires_action")
    assert (run["tool_choice"], run["parallel_tool_calls"]) == (choice, False)
    [prompt] = said.model.prompts
    assert (prompt.tool_choice, prompt.parallel_tool_calls) == (choice, False)


@pytest.mark.parametrize("tools", [None, [], [{"type": "function", "function": {"name": "another"}}]])
def test_a_function_that_the_run_lacks_cannot_be_asked_for(api: Api, script: Scripts, tools: Any) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    had = [WEATHER] if tools == [] else []
    body = {"assistant_id": script().assistant(tools=had), "tool_choice": choice, "tools": tools}
    for path in (f"/threads/{api.thread_with()}/runs", "/threads/runs"):
        status, error = api.refused("POST", path, body)
        assert (status, error["param"]) == (400, "tool_choice")
        assert error["message"].endswith("the run has no function tool 'get_weather'.")


def test_all_calls_are_answered_in_one_go(api: Api, script: Scripts) -> None:
    run = waiting_run_of(api, script, TWO_CALLS, ANSWER)
    path = f"{api.run_path(run)}/submit_tool_outputs"
    for given in (["call_a"], ["call_b"], ["call_a", "call_a"], ["call_a", "call_b", "call_c"]):
        outputs = [{"tool_call_id": id, "output": "1"} for id in given]
        status, error = api.refused("POST", path, {"tool_outputs": outputs})
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert error["message"] == f"Expected tool outputs for call_ids ['call_a', 'call_b'], got {given}."
    outputs = [{"tool_call_id": "call_b", "output": "B"}, {"tool_call_id": "call_a"}]
    assert api.post(path, {"tool_outputs": outputs})["required_action"] is None
    api.until(run, "completed")
    step = api.get(f"{api.run_path(run)}/steps", order="asc")["data"][0]
    assert [call["function"]["output"] for call in step["step_details"]["tool_calls"]] == ["", "B"]


def waiting_run_of(api: Api, script: Scripts, *turns: Any) -> JSON:
    assistant = script(*turns).assistant(tools=[WEATHER])
    return api.until(
        api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}), "requires_action"
    )


def test_a_run_outlives_its_assistant(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    assert api.delete(f"/assistants/{run['assistant_id']}")["deleted"]
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    assert api.until(run, "completed")["assistant_id"] == run["assistant_id"]
    status, error = api.refused(
        "POST", f"/threads/{run['thread_id']}/runs", {"assistant_id": run["assistant_id"]}
    )
    assert (status, error["message"]) == (404, f"No assistant found with id '{run['assistant_id']}'.")


def test_an_assistant_that_changes_does_not_change_its_runs(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script, instructions="Be kind.")
    api.post(f"/assistants/{run['assistant_id']}", {"instructions": "Be rude.", "model": "demo", "tools": []})
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    ended = api.until(run, "completed")
    assert (ended["instructions"], ended["model"], ended["tools"]) == ("Be kind.", run["model"], run["tools"])


def test_a_message_can_be_deleted_and_changed_while_a_run_is_active(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    path = f"/threads/{run['thread_id']}/messages"
    [message] = api.get(path)["data"]
    assert api.post(f"{path}/{message['id']}", {"metadata": {"k": "v"}})["metadata"] == {"k": "v"}
    assert api.delete(f"{path}/{message['id']}")["object"] == "thread.message.deleted"
    assert api.refused("DELETE", f"{path}/{message['id']}")[0] == 404
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    assert api.until(run, "completed")["status"] == "completed"


def test_deleting_the_thread_of_a_run_that_works_ends_its_stream(api: Api, script: Scripts) -> None:
    assistant = script((TextDelta("Once upon"), threading.Event())).assistant()
    stream = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    run = next(stream).data
    api.delete(f"/threads/{run['thread_id']}")
    assert api.refused("GET", api.run_path(run))[0] == 404
    assert api.refused("GET", f"{api.run_path(run)}/stream")[0] == 404


def test_additional_messages_are_on_the_thread_before_the_run(api: Api, script: Scripts) -> None:
    more = [
        {"role": role, "content": text, "metadata": {"of": role}}
        for role, text in (("user", "1"), ("assistant", "2"))
    ]
    body = {"assistant_id": script(ANSWER).assistant(), "additional_messages": more}
    thread = api.thread_with("0")
    run = api.until(api.post(f"/threads/{thread}/runs", body), "completed")
    messages = api.get(f"/threads/{thread}/messages", order="asc")["data"]
    said = [(message["role"], message["content"][0]["text"]["value"]) for message in messages]
    assert said == [("user", "0"), ("user", "1"), ("assistant", "2"), ("assistant", "Take a coat.")]
    assert [message["metadata"] for message in messages] == [{}, {"of": "user"}, {"of": "assistant"}, {}]
    assert [message["run_id"] for message in messages] == [None, None, None, run["id"]]
    assert [
        message["id"] for message in api.get(f"/threads/{thread}/messages", run_id=run["id"])["data"]
    ] == [messages[-1]["id"]]


def test_every_list_has_cursors(api: Api, script: Scripts) -> None:
    turns = itertools.chain.from_iterable((CALL, ANSWER) for _ in range(3))
    assistant = script(*turns).assistant(tools=[WEATHER])
    thread = api.thread_with()
    for _ in range(3):
        run = api.until(api.post(f"/threads/{thread}/runs", {"assistant_id": assistant}), "requires_action")
        api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
        api.until(run, "completed")
    script().assistant()
    api.thread_with()
    for path, least in (
        (f"/threads/{thread}/runs", 3),
        (f"/threads/{thread}/messages", 4),
        (f"{api.run_path(run)}/steps", 2),
        ("/assistants", 2),
        ("/threads", 2),
        ("/runs", 3),
    ):
        whole = [item["id"] for item in api.get(path, limit=100)["data"]]
        assert len(whole) >= least
        first = api.get(path, limit=1)
        assert (first["first_id"], first["last_id"], first["has_more"]) == (whole[0], whole[0], True)
        second = api.get(path, limit=1, after=whole[0])
        assert [item["id"] for item in second["data"]] == [whole[1]]
        assert [item["id"] for item in api.get(path, before=whole[1], limit=1)["data"]] == [whole[0]]
        oldest = api.get(path, limit=100, order="asc", after="", before="")
        assert [item["id"] for item in oldest["data"]][:1] == whole[-1:] or len(whole) == 100


@pytest.mark.parametrize(
    ("limit", "most"), [("name", 256), ("description", 512), ("instructions", 256_000), ("model", 256)]
)
def test_texts_are_as_long_as_they_may_be(api: Api, limit: str, most: int) -> None:
    fits = {"model": "demo", limit: "é" * most}
    if limit != "model":
        assert api.post("/assistants", fits)[limit] == "é" * most
    status, error = api.refused("POST", "/assistants", {"model": "demo", limit: "é" * (most + 1)})
    assert (status, error["code"], error["param"]) == (400, "string_above_max_length", limit)
    assert error["message"] == (
        f"Invalid '{limit}': string too long. Expected a string with maximum length {most}, but got a string with "
        f"length {most + 1} instead."
    )


def test_metadata_is_as_large_as_it_may_be(api: Api) -> None:
    labels = {f"{number:064}": "x" * 512 for number in range(16)}
    thread = api.post("/threads", {"metadata": labels})
    assert thread["metadata"] == labels
    assert api.post(f"/threads/{thread['id']}", {"metadata": {}})["metadata"] == {}
    assert api.post(f"/threads/{thread['id']}", {"metadata": None})["metadata"] == {}


def test_values_that_are_none_of_those_allowed_are_told_which_are(api: Api) -> None:
    message = {"role": "system", "content": "x"}
    _, error = api.refused("POST", f"/threads/{api.thread_with()}/messages", message)
    assert error["message"] == "Invalid value: 'system'. Supported values are: 'user' and 'assistant'."
    _, error = api.refused("POST", "/assistants", {"model": "demo", "reasoning_effort": "huge"})
    assert error["message"].endswith("'high', 'xhigh', and 'max'.")


def test_every_answer_has_the_headers_of_the_original(api: Api, recorded: dict[str, list[JSON]]) -> None:
    theirs = {
        name.lower() for exchanges in recorded.values() for each in exchanges for name in each["headers"]
    }
    for path in ("/assistants", "/assistants/asst_none", "/nothing"):
        assert theirs <= {name.lower() for name in api.send("GET", path).headers}
