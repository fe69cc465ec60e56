"""The objects and their lists, as they go over the wire."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from served import (
    ANSWER,
    CALL,
    OUTPUTS,
    WEATHER,
    Api,
    Scripts,
    as_events,
    waiting_run,
)

JSON = dict[str, Any]

MESSAGE_STATE = {"status", "incomplete_details", "incomplete_at", "completed_at"}
SHOWN = (
    "assistant", "assistant.deleted", "list", "thread", "thread.deleted", "thread.message", "thread.message.deleted",
    "thread.message.delta", "thread.run", "thread.run.step",
)  # fmt: skip


def test_every_object_has_the_shape_of_the_recordings(
    api: Api, script: Scripts, recorded: dict[str, list[JSON]]
) -> None:
    """The keys that were recorded, in their order, with their types; beyond them only what the reference requires."""
    beyond = {"thread.message": MESSAGE_STATE, "thread.run.step": {"expired_at", "metadata"}}
    real: dict[str, JSON] = {}
    for exchanges in recorded.values():
        for context in exchanges:
            for payload in objects_in(context):
                if payload.get("object") not in SHOWN:
                    continue  # of operations that are not supported
                known = real.setdefault(payload["object"], {})
                known |= {k: v for k, v in payload.items() if v is not None or k not in known}
    ours = list(one_of_each(api, script))
    assert {payload["object"] for payload in ours} == set(SHOWN)
    for payload in ours:
        kind = payload["object"]
        extra = payload.keys() - real[kind].keys()
        assert extra <= beyond.get(kind, set()), kind
        for key in payload.keys() & real[kind].keys():
            if payload[key] is not None and real[kind][key] is not None:
                assert type(payload[key]) is type(real[kind][key]), (kind, key)


def one_of_each(api: Api, script: Scripts) -> Iterable[JSON]:
    run = waiting_run(api, script)
    yield from (
        event.data for event in api.stream(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS) if event.id
    )
    yield api.get(f"/assistants/{run['assistant_id']}")
    for path in (f"{api.run_path(run)}/steps", f"/threads/{run['thread_id']}/messages", "/assistants"):
        page = api.get(path)
        yield page
        yield from page["data"]
    message = api.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Thanks."})
    yield message
    yield api.get(f"/threads/{run['thread_id']}")
    yield api.delete(f"/threads/{run['thread_id']}/messages/{message['id']}")
    yield api.delete(f"/threads/{run['thread_id']}")
    yield api.delete(f"/assistants/{run['assistant_id']}")


def test_fields_come_in_the_order_of_the_recordings(
    api: Api, script: Scripts, recorded: dict[str, list[JSON]]
) -> None:
    assistant, thread, run = (recorded["run_operations"][at]["body"] for at in (0, 1, 4))
    ours = api.get(f"/assistants/{script(ANSWER).assistant()}")
    assert list(ours) == list(assistant)
    assert {**ours, "id": "", "created_at": 0, "model": ""} == {
        **assistant,
        "id": "",
        "created_at": 0,
        "model": "",
    }
    assert list(api.post("/threads")) == list(thread)
    mine = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": ours["id"]})
    assert list(mine) == list(run)
    of_the_day = {"id", "created_at", "expires_at", "assistant_id", "thread_id", "model"}
    assert {k: v for k, v in mine.items() if k not in of_the_day} == {
        k: v for k, v in run.items() if k not in of_the_day
    }
    assert mine["expires_at"] - mine["created_at"] == run["expires_at"] - run["created_at"] == 600


def test_assistants_are_changed_field_by_field(api: Api, script: Scripts) -> None:
    said = script()
    id = said.assistant(
        name="A", instructions="Be kind.", metadata={"a": "b"}, tools=[WEATHER], temperature=0.1
    )
    changed = api.post(
        f"/assistants/{id}", {"name": "B", "instructions": None, "tools": None, "temperature": None}
    )
    assert (changed["name"], changed["instructions"], changed["tools"]) == ("B", None, [])
    assert (changed["temperature"], changed["metadata"], changed["model"]) == (1.0, {"a": "b"}, said.name)
    assert api.get(f"/assistants/{id}") == changed


def test_an_assistant_keeps_its_model_where_none_is_named(api: Api, script: Scripts) -> None:
    said = script()
    changed = api.post(f"/assistants/{(id := said.assistant())}", {"model": None, "name": "B"})
    assert (changed["model"], changed["name"]) == (said.name, "B")
    assert api.get(f"/assistants/{id}") == changed


@pytest.mark.parametrize(
    ("path", "noun"),
    [
        ("/assistants/asst_none", "assistant"),
        ("/threads/thread_none", "thread"),
        ("/threads/{}/messages/msg_none", "message"),
        ("/threads/{}/runs/run_none", "run"),
    ],
)
def test_what_is_not_there_is_not_changed(api: Api, path: str, noun: str) -> None:
    path = path.format(api.thread_with())
    status, error = api.refused("POST", path, {"metadata": {"a": "b"}})
    id = path.rpartition("/")[2]
    assert (status, error["message"]) == (404, f"No {noun} found with id '{id}'.")


def test_messages_and_threads_and_runs_keep_their_metadata(api: Api, script: Scripts) -> None:
    gate = threading.Event()
    assistant = script((gate, *ANSWER)).assistant()
    thread = api.post("/threads", {"metadata": {"a": "b"}})
    path = f"/threads/{thread['id']}"
    assert api.post(path, {"metadata": {"c": "d"}})["metadata"] == {"c": "d"}
    message = api.post(f"{path}/messages", {"role": "user", "content": "Hi", "metadata": {"m": "1"}})
    assert api.post(f"{path}/messages/{message['id']}", {"metadata": {"m": "2"}}) == {
        **message,
        "metadata": {"m": "2"},
    }
    run = api.post(f"{path}/runs", {"assistant_id": assistant, "metadata": {"r": "1"}})
    api.until(run, "in_progress")
    status, error = api.refused("POST", api.run_path(run), {"metadata": {"r": "2"}})
    assert (status, error["message"]) == (400, "Cannot update run with status 'in_progress'.")
    gate.set()
    assert api.until(run, "completed")["metadata"] == {"r": "1"}
    assert api.post(api.run_path(run), {"metadata": {"r": "2"}})["metadata"] == {"r": "2"}
    assert api.get(api.run_path(run))["metadata"] == {"r": "2"}


@pytest.mark.parametrize(
    ("said", "assistant", "run", "starts"),
    [
        ([], {}, {}, False),
        ([{"role": "assistant", "content": "Hi"}], {}, {}, False),
        ([], {"instructions": ""}, {"instructions": ""}, False),
        ([{"role": "user", "content": "Hi"}], {}, {}, True),
        ([], {"instructions": "Be short."}, {}, True),
        ([], {}, {"instructions": "Be short."}, True),
        ([], {}, {"additional_messages": [{"role": "user", "content": "Hi"}]}, True),
    ],
)
def test_a_run_needs_a_question_or_instructions(
    api: Api, script: Scripts, said: list[JSON], assistant: JSON, run: JSON, starts: bool
) -> None:
    thread = api.post("/threads", {"messages": said})["id"]
    body = {"assistant_id": script(ANSWER).assistant(**assistant), **run}
    if starts:
        api.until(api.post(f"/threads/{thread}/runs", body), "completed")
        return
    status, error = api.refused("POST", f"/threads/{thread}/runs", body)
    assert (status, error["code"]) == (400, "invalid_thread")
    assert (
        error["message"]
        == "Run creation requires a Thread with a user message or an assistant with instructions."
    )
    assert api.get(f"/threads/{thread}/runs")["data"] == []


def test_an_answer_is_dated_after_its_question_and_listed_behind_it(api: Api, script: Scripts) -> None:
    thread = api.thread_with()
    assistant = script(ANSWER, ANSWER).assistant()
    for _ in range(2):
        api.until(api.post(f"/threads/{thread}/runs", {"assistant_id": assistant}), "completed")
        api.post(f"/threads/{thread}/messages", {"role": "user", "content": "And then?"})
    listed = api.get(f"/threads/{thread}/messages", order="asc")["data"]
    assert [message["role"] for message in listed] == ["user", "assistant", "user", "assistant", "user"]
    for question, answer in ((listed[0], listed[1]), (listed[2], listed[3])):
        assert question["created_at"] < answer["created_at"] <= answer["completed_at"]


def test_a_run_takes_what_other_clients_send_with_it(api: Api, script: Scripts) -> None:
    resources = {"file_search": {"vector_store_ids": []}}
    body = {"assistant_id": script(CALL, ANSWER).assistant(tools=[WEATHER]), "tool_resources": resources}
    body["stream_options"] = {"include_usage": True}
    run = api.until(api.post(f"/threads/{api.thread_with()}/runs", body), "requires_action")
    assert run["tool_resources"] == resources
    submitted = {**OUTPUTS, "stream_options": None}
    *_, last, _ = api.stream(f"{api.run_path(run)}/submit_tool_outputs", submitted)
    assert last.name == "thread.run.completed"


def test_function_tools_are_filled_in(api: Api, script: Scripts) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    [kept] = api.get(f"/assistants/{script().assistant(tools=[tool])}")["tools"]
    assert kept == {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False},
    }


@pytest.fixture(scope="class")
def thread(url: str) -> tuple[Api, str, list[str]]:
    api = Api(url)
    messages = [{"role": "user", "content": str(number)} for number in range(25)]
    thread = api.post("/threads", {"messages": messages})["id"]
    page = api.get(f"/threads/{thread}/messages", order="asc", limit=100)
    assert [message["content"][0]["text"]["value"] for message in page["data"]] == [str(n) for n in range(25)]
    return api, f"/threads/{thread}/messages", [message["id"] for message in page["data"]]


def page(thread: tuple[Api, str, list[str]], **query: Any) -> tuple[list[int], bool]:
    api, path, ids = thread
    query = {k: ids[v] if k in ("after", "before") else v for k, v in query.items()}
    page = api.get(path, **query)
    found = [ids.index(message["id"]) for message in page["data"]]
    assert (page["first_id"], page["last_id"]) == ((ids[found[0]], ids[found[-1]]) if found else (None, None))
    return found, page["has_more"]


def test_the_newest_twenty_come_first(thread: tuple[Api, str, list[str]]) -> None:
    assert page(thread) == ([*range(24, 4, -1)], True)


@pytest.mark.parametrize(
    ("query", "found", "has_more"),
    [
        ({"limit": 3}, [24, 23, 22], True),
        ({"limit": 25}, [*range(24, -1, -1)], False),
        ({"limit": 100, "order": "asc"}, [*range(25)], False),
        ({"limit": 2, "after": 5}, [4, 3], True),
        ({"limit": 2, "after": 1}, [0], False),
        ({"limit": 2, "after": 0}, [], False),
        ({"limit": 2, "after": 5, "order": "asc"}, [6, 7], True),
        ({"limit": 2, "before": 5}, [7, 6], True),
        ({"limit": 2, "before": 23}, [24], False),
        ({"limit": 2, "before": 5, "order": "asc"}, [3, 4], True),
        ({"limit": 9, "after": 8, "before": 4}, [7, 6, 5], False),
    ],
)
def test_cursors(thread: tuple[Api, str, list[str]], query: JSON, found: list[int], has_more: bool) -> None:
    assert page(thread, **query) == (found, has_more)


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ({"limit": "0"}, "limit", "integer_below_min_value"),
        ({"limit": "-5"}, "limit", "integer_below_min_value"),
        ({"limit": "101"}, "limit", "integer_above_max_value"),
        ({"limit": "9" * 50}, "limit", "integer_above_max_value"),
        ({"limit": "ten"}, "limit", "invalid_type"),
        ({"limit": "²"}, "limit", "invalid_type"),
        ({"order": "up"}, "order", "invalid_value"),
        ({"after": "msg_none"}, "after", "invalid_value"),
        ({"before": "msg_none"}, "before", "invalid_value"),
    ],
)
def test_bad_pages_are_refused(
    thread: tuple[Api, str, list[str]], query: JSON, param: str, code: str
) -> None:
    api, path, _ = thread
    status, error = api.refused("GET", path, params=query)
    assert (status, error["param"], error["code"]) == (400, param, code)


def objects_in(context: JSON) -> Iterable[JSON]:
    """All the API's objects in a recorded context."""
    body = context["body"]
    payloads = [event.data for event in as_events(body)[:-1]] if isinstance(body, str) else [body]
    for payload in payloads:
        yield payload
        yield from payload.get("data", ()) if payload.get("object") == "list" else ()
