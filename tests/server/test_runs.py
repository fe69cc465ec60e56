"""Runs: what they take over, what they wait for, and how they end."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from served import (
    ANSWER,
    CALL,
    OUTPUTS,
    WEATHER,
    Api,
    Scripted,
    Scripts,
    names,
    waiting_run,
)

from nbruns.server.http import Server
from nbruns.server.models import Finish, ModelError, Models, TextDelta, usage
from nbruns.server.runs import engine, transitions
from nbruns.server.storage import store
from nbruns.server.storage.database import Transaction

JSON = dict[str, Any]


def test_settings_come_from_the_assistant_unless_the_run_overrides_them(api: Api, script: Scripts) -> None:
    said, other = script(ANSWER), script(ANSWER)
    assistant = said.assistant(instructions="Be kind.", tools=[WEATHER], temperature=0.2, metadata={"a": "b"})
    path = f"/threads/{api.thread_with()}/runs"
    run = api.until(
        api.post(path, {"assistant_id": assistant, "additional_instructions": "Be brief."}), "completed"
    )
    assert (run["model"], run["instructions"], run["temperature"]) == (
        said.name,
        "Be kind.\nBe brief.",
        0.2,
    )
    assert (run["metadata"], [tool["function"]["name"] for tool in run["tools"]]) == ({}, ["get_weather"])
    overrides = {
        "model": other.name, "instructions": "Be bold.", "tools": [], "top_p": 0.5,
        "response_format": {"type": "json_object"}, "tool_choice": "none", "parallel_tool_calls": False,
        "max_completion_tokens": 256, "max_prompt_tokens": 1000, "reasoning_effort": "low", "metadata": {"k": "v"},
        "truncation_strategy": {"type": "last_messages", "last_messages": 1},
    }  # fmt: skip
    run = api.until(api.post(path, {"assistant_id": assistant, **overrides}), "completed")
    assert {name: run[name] for name in overrides} == overrides
    [prompt] = other.model.prompts
    assert (prompt.model, prompt.tools, prompt.tool_choice) == (other.name, [], "none")
    assert (prompt.max_completion_tokens, prompt.top_p, prompt.reasoning_effort) == (256, 0.5, "low")


def test_the_model_is_asked_with_the_thread(api: Api, script: Scripts) -> None:
    said = script(ANSWER, ANSWER)
    assistant = said.assistant(instructions="Be kind.")
    thread = api.thread_with("one")
    picture = [
        {"type": "text", "text": "two"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "auto"}},
    ]
    more = [{"role": "user", "content": picture}, {"role": "assistant", "content": "three"}]
    body = {"assistant_id": assistant, "additional_messages": more}
    api.until(api.post(f"/threads/{thread}/runs", body), "completed")
    last = {"type": "last_messages", "last_messages": 2}
    body = {"assistant_id": assistant, "truncation_strategy": last}
    api.until(api.post(f"/threads/{thread}/runs", body), "completed")
    assert [message["content"] for message in said.model.prompts[0].messages] == [
        "Be kind.", "one", picture, "three",
    ]  # fmt: skip
    assert [(message["role"], message["content"]) for message in said.model.prompts[1].messages] == [
        ("system", "Be kind."), ("assistant", "three"), ("assistant", "Take a coat."),
    ]  # fmt: skip


def test_a_forced_tool_is_forced_once(api: Api, script: Scripts) -> None:
    said = script(CALL, ANSWER)
    body = {"assistant_id": said.assistant(tools=[WEATHER]), "tool_choice": "required"}
    run = api.until(api.post(f"/threads/{api.thread_with()}/runs", body), "requires_action")
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    api.until(run, "completed")
    assert [prompt.tool_choice for prompt in said.model.prompts] == ["required", "auto"]


def test_usage_is_on_the_steps_and_their_sum_on_the_run(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    [step] = api.get(f"{api.run_path(run)}/steps")["data"]
    assert (run["usage"], step["usage"]) == (None, None)
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    totals = api.until(run, "completed")["usage"]
    steps = api.get(f"{api.run_path(run)}/steps")["data"]
    assert [step["usage"]["total_tokens"] for step in steps] == [35, 30]
    assert (totals["prompt_tokens"], totals["completion_tokens"], totals["total_tokens"]) == (50, 15, 65)


def test_a_thread_has_one_active_run(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    status, error = api.refused(
        "POST", f"/threads/{run['thread_id']}/runs", {"assistant_id": run["assistant_id"]}
    )
    assert status == 400
    assert error["message"] == f"Thread {run['thread_id']} already has an active run {run['id']}."
    message = {"role": "user", "content": "Wait!"}
    status, error = api.refused("POST", f"/threads/{run['thread_id']}/messages", message)
    assert status == 400
    assert error["message"] == f"Can't add messages to {run['thread_id']} while a run {run['id']} is active."


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [{"tool_call_id": "call_other", "output": "1"}],
        [{"tool_call_id": "call_oslo", "output": "1"}, {"tool_call_id": "call_oslo", "output": "2"}],
        [{"tool_call_id": "call_oslo", "output": "1"}, {"tool_call_id": "call_other", "output": "2"}],
    ],
)
def test_outputs_are_for_the_calls_all_of_them_and_no_others(
    api: Api, script: Scripts, outputs: list[JSON]
) -> None:
    run = waiting_run(api, script)
    path = f"{api.run_path(run)}/submit_tool_outputs"
    status, error = api.refused("POST", path, {"tool_outputs": outputs})
    assert (status, error["param"]) == (400, "tool_outputs")
    assert error["message"].startswith("Expected tool outputs for call_ids ['call_oslo'], got [")
    assert api.get(api.run_path(run)) == run


def test_outputs_are_taken_once(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    path = f"{api.run_path(run)}/submit_tool_outputs"
    assert api.post(path, OUTPUTS)["status"] == "queued"
    status, error = api.refused("POST", path, OUTPUTS)
    assert status == 400
    assert error["message"].endswith("do not accept tool outputs.")
    assert api.until(run, "completed")["usage"]["total_tokens"] == 65


def test_cancelling_a_run_that_works_keeps_what_it_wrote(api: Api, script: Scripts) -> None:
    assistant = script((TextDelta("Once upon"), threading.Event())).assistant()
    stream = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    for event in stream:
        if event.name == "thread.message.delta":
            break
    [run] = api.get("/runs", assistant_id=assistant)["data"]
    assert api.post(f"{api.run_path(run)}/cancel")["status"] == "cancelling"
    assert names(stream) == [
        "thread.run.cancelling",
        "thread.message.incomplete",
        "thread.run.step.cancelled",
        "thread.run.cancelled",
        "done",
    ]
    run = api.get(api.run_path(run))
    assert (run["status"], run["expires_at"], run["usage"]["total_tokens"]) == ("cancelled", None, 0)
    assert run["cancelled_at"] >= run["started_at"]
    [message] = api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"]
    assert message["content"][0]["text"]["value"] == "Once upon"
    assert message["incomplete_details"] == {"reason": "run_cancelled"}
    status, error = api.refused("POST", f"{api.run_path(run)}/cancel")
    assert (status, error["message"]) == (400, "Cannot cancel run with status 'cancelled'.")


def test_cancelling_a_run_in_mid_call_keeps_the_call_as_far_as_it_has_come(api: Api, script: Scripts) -> None:
    assistant = script((*CALL[:2], threading.Event())).assistant(tools=[WEATHER])
    stream = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    run = next(stream).data
    deltas = (event for event in stream if event.name == "thread.run.step.delta")
    next(deltas), next(deltas)
    api.post(f"{api.run_path(run)}/cancel")
    assert [event.name for event in stream][-3:] == [
        "thread.run.step.cancelled",
        "thread.run.cancelled",
        "done",
    ]
    [step] = api.get(f"{api.run_path(run)}/steps")["data"]
    [call] = step["step_details"]["tool_calls"]
    assert (step["status"], call["id"]) == ("cancelled", "call_oslo")
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":', "output": None}


def test_a_cancellation_that_nobody_was_told_of_is_found(api: Api, script: Scripts, server: Server) -> None:
    assistant = script((TextDelta("Once upon"), threading.Event())).assistant()
    stream = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    run = next(event for event in stream if event.name == "thread.run.in_progress").data
    # As another server writes it, whose notice is lost with the connection that it came by.
    asyncio.run(server.engine._db.write(transitions.cancel, run["thread_id"], run["id"]))
    assert names(stream)[-3:] == ["thread.run.step.cancelled", "thread.run.cancelled", "done"]
    assert api.get(api.run_path(run))["status"] == "cancelled"


def given_to_another(tx: Transaction, run_id: str) -> None:
    tx.conn.execute(sa.update(store.runs).where(store.runs.c.id == run_id).values(worker="another"))


def test_a_server_that_is_given_back_a_run_that_it_is_at_work_on_makes_it_once(
    server: Server, api: Api, script: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SWEEP_SECONDS", 0.02)
    gate = threading.Event()
    first = (TextDelta("Once upon"), gate, TextDelta(" a time"), Finish("stop", usage(1, 1)))
    said = script(first, (ANSWER[0], gate, *ANSWER[1:]))
    stream = api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": said.assistant()})
    run = next(event for event in stream if event.name == "thread.run.in_progress").data
    next(event for event in stream if event.name == "thread.message.delta")
    # As another server does that takes over the run while this one is cut off from the database, and then dies.
    asyncio.run(server.engine._db.write(given_to_another, run["id"]))
    next(event for event in stream if event.name == "thread.message.created")  # it is made anew
    gate.set()
    assert names(stream)[-2:] == ["thread.run.completed", "done"]
    assert names(api.rejoin(run))[-2:] == ["thread.run.completed", "done"]
    [message] = api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"]
    assert message["content"][0]["text"]["value"] == "Take a coat."
    [step] = api.get(f"{api.run_path(run)}/steps")["data"]
    assert (step["status"], len(said.model.prompts)) == ("completed", 2)


def test_a_model_that_says_nothing_completes_the_run_with_an_empty_message(api: Api, script: Scripts) -> None:
    assistant = script((TextDelta(""), Finish("stop", usage(9, 0)))).assistant()
    events = list(api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}))
    assert names(events)[-4:] == [
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
        "done",
    ]
    assert "thread.message.delta" not in names(events)
    [message] = [event.data for event in events if event.name == "thread.message.completed"]
    assert message["content"] == []
    assert events[-2].data["usage"]["prompt_tokens"] == 9


def test_an_empty_text_before_a_call_is_no_message(api: Api, script: Scripts) -> None:
    assistant = script((TextDelta(""), *CALL)).assistant(tools=[WEATHER])
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    run = api.until(run, "requires_action", "failed")
    assert [step["type"] for step in api.get(f"{api.run_path(run)}/steps")["data"]] == ["tool_calls"]
    assert api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"] == []


def test_cancelling_a_run_that_waits_counts_what_it_has_used(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    assert api.post(f"{api.run_path(run)}/cancel")["status"] == "cancelling"
    run = api.until(run, "cancelled")
    assert (run["required_action"], run["usage"]["total_tokens"]) == (None, 30)
    [step] = api.get(f"{api.run_path(run)}/steps")["data"]
    assert (step["status"], step["usage"]["total_tokens"]) == ("cancelled", 30)


def test_a_run_out_of_tokens_is_incomplete(api: Api, script: Scripts) -> None:
    assistant = script((TextDelta("Once upon"), Finish("length", usage(7, 256)))).assistant()
    body = {"assistant_id": assistant, "max_completion_tokens": 256}
    events = list(api.stream(f"/threads/{api.thread_with()}/runs", body))
    assert names(events)[-4:] == [
        "thread.message.incomplete",
        "thread.run.step.completed",
        "thread.run.incomplete",
        "done",
    ]
    run = events[-2].data
    assert run["incomplete_details"] == {"reason": "max_completion_tokens"}
    assert run["usage"]["completion_tokens"] == 256
    assert events[-4].data["incomplete_details"] == {"reason": "max_tokens"}


def test_a_limit_that_nobody_set_is_not_reported_as_one(api: Api, script: Scripts) -> None:
    assistant = script((TextDelta("Once upon"), Finish("length", usage(7, 2048)))).assistant()
    run = api.until(api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}), "failed")
    assert run["incomplete_details"] is None and run["max_completion_tokens"] is None
    assert run["last_error"]["message"].endswith(
        "cut its answer off after 2,048 tokens, at a limit of its own."
    )
    [message] = api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"]
    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "max_tokens"})
    assert message["content"][0]["text"]["value"] == "Once upon"  # kept


def test_limits_hold_over_all_turns_of_a_run(api: Api, script: Scripts) -> None:
    greedy = (*CALL[:-1], Finish("tool_calls", usage(300, 100)))
    said = script(greedy, ANSWER)
    thread = api.thread_with()
    body = {"assistant_id": said.assistant(tools=[WEATHER]), "max_completion_tokens": 256}
    run = api.until(api.post(f"/threads/{thread}/runs", body), "requires_action")
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    api.until(run, "completed")
    assert [prompt.max_completion_tokens for prompt in said.model.prompts] == [256, 156]
    body = {"assistant_id": script(greedy).assistant(tools=[WEATHER]), "max_prompt_tokens": 256}
    run = api.until(api.post(f"/threads/{thread}/runs", body), "requires_action")
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    assert api.until(run, "incomplete")["incomplete_details"] == {"reason": "max_prompt_tokens"}


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        (
            (ModelError("rate_limit_exceeded", "Slow down."),),
            {"code": "rate_limit_exceeded", "message": "Slow down."},
        ),
        ((TextDelta("Well"), Finish("content_filter", usage(1, 1))), {"code": "invalid_prompt"}),
        ((TextDelta("Well"), ValueError("secret detail")), {"code": "server_error"}),
        ((TextDelta("Well"),), {"code": "server_error"}),
    ],
)
def test_a_model_that_fails_fails_the_run(api: Api, script: Scripts, turn: Any, error: JSON) -> None:
    assistant = script(turn).assistant()
    events = list(api.stream(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}))
    assert names(events)[-2:] == ["thread.run.failed", "done"]
    run = events[-2].data
    assert run["last_error"].items() >= error.items()
    assert "secret" not in json.dumps(run)
    for step in api.get(f"{api.run_path(run)}/steps")["data"]:
        assert (step["status"], step["last_error"]["message"]) == ("failed", run["last_error"]["message"])
        assert step["last_error"]["code"] == error["code"].replace("invalid_prompt", "server_error")


def test_a_model_that_is_long_in_the_making_holds_back_nobody(
    api: Api, script: Scripts, models: Models
) -> None:
    made, asked, name = threading.Event(), threading.Event(), "long in the making"
    answer = script(ANSWER)

    def build() -> Scripted:
        asked.set()
        assert made.wait(30)
        return Scripted(ANSWER)

    models._builders[name] = build
    waiting = api.post(
        f"/threads/{api.thread_with()}/runs", {"assistant_id": answer.assistant(), "model": name}
    )
    assert asked.wait(30)
    other = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": answer.assistant()})
    assert api.until(other, "completed", "failed")["status"] == "completed"
    assert api.refused("POST", "/assistants", {"model": "none"})[1]["code"] == "model_not_found"
    assert api.get(api.run_path(waiting))["status"] == "in_progress"
    made.set()
    assert api.until(waiting, "completed", "failed")["status"] == "completed"


def test_a_run_whose_model_is_gone_fails_and_says_which_there_are(
    api: Api, script: Scripts, models: Models
) -> None:
    run = waiting_run(api, script)
    del models._built[run["model"]]
    api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
    failed = api.until(run, "failed", "completed")
    assert failed["last_error"]["code"] == "invalid_prompt"
    assert (
        f"The model '{run['model']}' does not exist here; there are 'demo'" in failed["last_error"]["message"]
    )


def test_all_runs_are_listed_and_filtered(api: Api, script: Scripts) -> None:
    said = script(ANSWER, ANSWER)
    assistant = said.assistant()
    made = [api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}) for _ in range(2)]
    for run in made:
        api.until(run, "completed")
    ids = [run["id"] for run in reversed(made)]
    assert [run["id"] for run in api.get("/runs", assistant_id=assistant)["data"]] == ids
    assert [run["id"] for run in api.get("/runs", model=said.name, status="completed")["data"]] == ids
    assert api.get("/runs", model=said.name, status="queued")["data"] == []
    assert [run["id"] for run in api.get("/runs", limit=2)["data"]] == ids
    [thread] = api.get("/threads", limit=1)["data"]
    assert thread["id"] == made[1]["thread_id"]


def test_deleting_a_thread_ends_its_run(api: Api, script: Scripts) -> None:
    run = waiting_run(api, script)
    thread = run["thread_id"]
    deleted = {"id": thread, "object": "thread.deleted", "deleted": True}
    assert api.delete(f"/threads/{thread}") == deleted
    for path in (f"/threads/{thread}", api.run_path(run), f"/threads/{thread}/messages"):
        assert api.refused("GET", path)[0] == 404
    assert api.get("/runs", thread_id=thread)["data"] == []


def test_pollers_are_told_how_often_to_look(api: Api, script: Scripts) -> None:
    response = api.send("GET", api.run_path(waiting_run(api, script)))
    assert int(response.headers["openai-poll-after-ms"]) > 0
    assert response.headers["x-request-id"].startswith("req_")
