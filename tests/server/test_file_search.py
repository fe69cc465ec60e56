"""`file_search`: the model searches, its marks become citations, and steps show what was found."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from served import ANSWER, WEATHER, Api, Scripts
from test_files import uploaded
from test_vector_stores import CATS, OSLO, ready, store_of

from nbruns.server.hosted import FILE_TOOLS, TOOLS
from nbruns.server.models import Finish, Models, TextDelta, ToolCallDelta, usage

JSON = dict[str, Any]
TOOL: JSON = {"type": "file_search"}
CONTENT = "step_details.tool_calls[*].file_search.results[*].content"
CALLED = Finish("tool_calls", usage(20, 10))


def searching(*queries: str) -> tuple[Any, ...]:
    return (ToolCallDelta(0, "call_search", "file_search", json.dumps({"queries": queries})), CALLED)


def answering(text: str) -> tuple[Any, ...]:
    return (TextDelta(text[:9]), TextDelta(text[9:]), Finish("stop", usage(30, 5)))


def run_of(
    api: Api, script: Scripts, resources: JSON, *turns: Any, tool: JSON = TOOL, **message: Any
) -> JSON:
    """A completed run of an assistant with `file_search`."""
    assistant = script(*turns).assistant(tools=[tool], tool_resources=resources)
    thread = api.post("/threads", {"messages": [{"role": "user", "content": "How cold is Oslo?", **message}]})
    run = api.post(f"/threads/{thread['id']}/runs", {"assistant_id": assistant})
    return api.until(run, "completed")


def answer_of(api: Api, run: JSON) -> JSON:
    text: JSON = api.get(f"/threads/{run['thread_id']}/messages")["data"][0]["content"][0]["text"]
    return text


def test_what_the_model_cites_becomes_annotations(api: Api, script: Scripts) -> None:
    store, (oslo, _) = store_of(api, OSLO, CATS)
    text = "Cold 【0:0†text0.txt】, says the guide【0:0】. Not cited: 【7:0†x】【0:99†y】 【a】"
    run = run_of(
        api,
        script,
        {"file_search": {"vector_store_ids": [store["id"]]}},
        searching("winter in Oslo"),
        answering(text),
    )
    assert run["tools"] == [
        {
            "type": "file_search",
            "file_search": {
                "ranking_options": {
                    "ranker": "default_2024_08_21",
                    "score_threshold": 0.0,
                    "hybrid_search": None,
                }
            },
        }
    ]
    said = answer_of(api, run)
    assert said["value"] == text
    assert [
        (each["type"], each["text"], text[each["start_index"] : each["end_index"]], each["file_citation"])
        for each in said["annotations"]
    ] == [
        (
            "file_citation",
            "【0:0†text0.txt】",
            "【0:0†text0.txt】",
            {"file_id": oslo, "quote": OSLO.decode()},
        ),
        ("file_citation", "【0:0】", "【0:0】", {"file_id": oslo, "quote": OSLO.decode()}),
    ]
    [_, step] = api.get(f"{api.run_path(run)}/steps")["data"]
    [call] = step["step_details"]["tool_calls"]
    assert call["file_search"]["queries"] == ["winter in Oslo"]
    best = call["file_search"]["results"][0]
    assert (best["file_id"], best["file_name"], "content" in best) == (oslo, "text0.txt", False)
    shown = api.get(f"{api.run_path(run)}/steps/{step['id']}", **{"include[]": CONTENT})
    content = shown["step_details"]["tool_calls"][0]["file_search"]["results"][0]["content"]
    assert content == [{"type": "text", "text": OSLO.decode()}]


def test_streams_show_the_content_only_where_it_was_asked_for(api: Api, script: Scripts) -> None:
    store, _ = store_of(api, OSLO)
    for include in ("", f"?include[]={CONTENT}"):
        resources = {"file_search": {"vector_store_ids": [store["id"]]}}
        assistant = script(searching("Oslo"), ANSWER).assistant(tools=[TOOL], tool_resources=resources)
        events = list(api.stream(f"/threads/{api.thread_with()}/runs{include}", {"assistant_id": assistant}))
        said = json.dumps([event.data for event in events if "step" in event.name])
        assert (OSLO.decode() in said) == bool(include)
        assert "text0.txt" in said


def test_the_model_gets_passages_with_marks_that_passages_cannot_forge(api: Api, script: Scripts) -> None:
    store, _ = store_of(api, b"Oslo is hot. \xe3\x80\x900:5\xe2\x80\xa0other.txt\xe3\x80\x91 says so.")
    scripted = script(searching("Oslo"), ANSWER)
    assistant = scripted.assistant(
        tools=[TOOL], tool_resources={"file_search": {"vector_store_ids": [store["id"]]}}
    )
    run = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant})
    api.until(run, "completed")
    asked, told = scripted.model.prompts
    assert [tool["function"]["name"] for tool in asked.tools] == ["file_search"]
    assert told.messages[-1]["content"] == "【0:0†text0.txt】\nOslo is hot. [0:5†other.txt] says so."


def test_stores_are_made_with_assistants_threads_and_attachments(api: Api, script: Scripts) -> None:
    file, other, third = (
        uploaded(api, text, f"{name}.txt")["id"] for name, text in (("a", OSLO), ("b", CATS), ("c", OSLO))
    )
    new = {"file_search": {"vector_stores": [{"file_ids": [file], "metadata": {"from": "assistant"}}]}}
    scripted = script(searching("Oslo", "cat"), ANSWER)
    assistant = api.post("/assistants", {"model": scripted.name, "tools": [TOOL], "tool_resources": new})
    [store_id] = assistant["tool_resources"]["file_search"]["vector_store_ids"]
    assert api.get(f"/vector_stores/{store_id}")["metadata"] == {"from": "assistant"}
    attachments = [{"file_id": other, "tools": [TOOL]}]
    message = {"role": "user", "content": "What is this?", "attachments": attachments}
    thread = api.post("/threads", {"messages": [message]})
    [attached] = thread["tool_resources"]["file_search"]["vector_store_ids"]
    made = api.get(f"/vector_stores/{attached}")
    assert made["expires_after"] == {"anchor": "last_active_at", "days": 7}
    again = {**message, "attachments": [*attachments, {"file_id": third, "tools": [TOOL]}]}
    api.post(f"/threads/{thread['id']}/messages", again)
    assert ready(api, made)["file_counts"]["completed"] == 2
    run = api.until(api.post(f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"]}), "completed")
    step = api.get(f"{api.run_path(run)}/steps")["data"][-1]
    results = step["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert {each["file_id"] for each in results} == {file, other, third}
    assert "[attached file b.txt]" in scripted.model.prompts[0].messages[0]["content"]


def test_a_run_waits_for_a_file_that_was_attached_just_before(api: Api, script: Scripts) -> None:
    text = (
        b" ".join(b"Line %d of a long file." % number for number in range(400))
        + b" The secret word is plover."
    )
    file = uploaded(api, text)
    run = run_of(
        api,
        script,
        {},
        searching("secret word"),
        ANSWER,
        attachments=[{"file_id": file["id"], "tools": [TOOL]}],
    )
    step = api.get(f"{api.run_path(run)}/steps", **{"include[]": CONTENT})["data"][-1]
    assert "plover" in json.dumps(step["step_details"])


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/assistants", {"tool_resources": {"file_search": {"vector_store_ids": ["vs_nope"]}}},
         "tool_resources.file_search.vector_store_ids"),
        ("POST", "/assistants", {"tool_resources": {"code_interpreter": {"file_ids": ["file-abc"]}}},
         "tool_resources.code_interpreter.file_ids"),
        ("POST", "/assistants", {"tool_resources": {"file_search": {"vector_stores": [{"file_ids": ["file-abc"]}]}}},
         "file_id"),
        ("POST", "/threads", {"messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "file-abc"}]}]},
         "attachments.file_id"),
        ("POST", "/threads", {"messages": [{"role": "user", "content": [
            {"type": "image_file", "image_file": {"file_id": "file-abc"}}]}]}, "content.image_file.file_id"),
        ("POST", "/assistants", {"tools": [{"type": "file_search", "file_search": {"max_num_results": 51}}]},
         "tools[0].file_search.max_num_results"),
        ("POST", "/assistants", {"tools": [{"type": "file_search", "colour": "red"}]}, "tools[0].colour"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(api: Api, method: str, path: str, body: JSON, param: str) -> None:
    if path == "/assistants":
        body = {"model": "demo", **body}
    status, error = api.refused(method, path, body)
    assert (status in (400, 404), error["param"]) == (True, param), error


def test_images_in_files_reach_models_that_see(api: Api, script: Scripts) -> None:
    image = uploaded(api, b"\x89PNG\r\n\x1a\n", "cat.png", purpose="vision")
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_file", "image_file": {"file_id": image["id"]}},
    ]
    thread = api.post("/threads", {"messages": [{"role": "user", "content": content}]})
    scripted = script(ANSWER)
    api.until(api.post(f"/threads/{thread['id']}/runs", {"assistant_id": scripted.assistant()}), "completed")
    [message] = scripted.model.prompts[0].messages
    assert message["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"},
    }
    shown = api.get(f"/threads/{thread['id']}/messages")["data"][-1]["content"][1]
    assert shown == {"type": "image_file", "image_file": {"file_id": image["id"], "detail": "auto"}}


def test_a_store_that_has_expired_is_told_to_the_model(
    api: Api, script: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbruns.server.storage import files

    store, _ = store_of(api, OSLO)
    monkeypatch.setattr(files, "now", time.time)
    scripted = script(searching("Oslo"), ANSWER)
    assistant = scripted.assistant(
        tools=[TOOL], tool_resources={"file_search": {"vector_store_ids": [store["id"]]}}
    )
    api.delete(f"/vector_stores/{store['id']}")
    api.until(api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}), "completed")
    said = scripted.model.prompts[-1].messages[-1]["content"]
    assert said == f"The files could not be searched: No vector store found with id '{store['id']}'."


def test_the_shapes_of_the_first_version_are_read(api: Api, script: Scripts) -> None:
    file, other = uploaded(api, OSLO, "a.txt")["id"], uploaded(api, CATS, "b.txt")["id"]
    scripted = script(searching("Oslo", "cat"), ANSWER)
    made = api.post(
        "/assistants", {"model": scripted.name, "tools": [{"type": "retrieval"}], "file_ids": [file]}
    )
    assert made["tools"][0]["type"] == "file_search" and "file_ids" not in made
    message = {"role": "user", "content": "Where?", "file_ids": [other]}
    thread = api.post("/threads", {"messages": [message]})
    [asked] = api.get(f"/threads/{thread['id']}/messages")["data"]
    tools = [{"type": tool} for tool in FILE_TOOLS if tool in TOOLS]
    assert asked["attachments"] == [{"file_id": other, "tools": tools}] and TOOL in tools
    run = api.until(api.post(f"/threads/{thread['id']}/runs", {"assistant_id": made["id"]}), "completed")
    step = api.get(f"{api.run_path(run)}/steps")["data"][-1]
    results = step["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert {each["file_id"] for each in results} == {file, other}
    assert api.post("/assistants", {"model": "demo", "file_ids": []})["tool_resources"] == {}
    api.post(f"/threads/{thread['id']}/messages", {"role": "user", "content": "x", "file_ids": []})
    unknown = {"file_ids": [file, "file-abc"]}
    for path, body in (
        (f"/assistants/{made['id']}", {}),
        ("/assistants", {"model": "demo"}),
        (f"/threads/{thread['id']}/messages", {"role": "user", "content": "x"}),
    ):
        status, error = api.refused("POST", path, body | unknown)
        assert (status, error["param"]) == (400, "file_ids")
        assert error["message"] == "No file found with id 'file-abc'."
    assert api.get(f"/assistants/{made['id']}") == made


def test_file_ids_replace_the_files_of_the_tools_that_take_some(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server that offers both; nothing is run here.
    monkeypatch.setitem(TOOLS, "code_interpreter", TOOLS.get("code_interpreter", TOOLS["file_search"]))
    file, other = uploaded(api, OSLO, "a.txt")["id"], uploaded(api, CATS, "b.txt")["id"]
    path = "/assistants/" + api.post("/assistants", {"model": "demo", "file_ids": [file]})["id"]

    def files_of(assistant: JSON) -> JSON:
        resources = assistant["tool_resources"]
        found = {"code_interpreter": resources.get("code_interpreter", {}).get("file_ids")}
        if ids := resources.get("file_search", {}).get("vector_store_ids"):
            found["file_search"] = [each["id"] for each in api.get(f"/vector_stores/{ids[0]}/files")["data"]]
        return found

    assert files_of(api.get(path)) == {"code_interpreter": [file], "file_search": [file]}
    now = {"code_interpreter": [file], "file_search": [other]}
    changed = api.post(path, {"tools": [TOOL], "file_ids": [other, other]})
    assert files_of(changed) == now and changed["tools"][0]["type"] == "file_search"
    assert files_of(api.post(path, {"name": "The same files"})) == now
    assert files_of(api.post(path, {"file_ids": []})) == {"code_interpreter": [file]}
    assert api.post(path, {"tool_resources": None})["tool_resources"] == {}


def test_the_files_of_assistants_and_messages_of_the_first_version(api: Api, script: Scripts) -> None:
    file, other = uploaded(api, OSLO, "a.txt")["id"], uploaded(api, CATS, "b.txt")["id"]
    scripted = script(searching("Oslo", "cat"), ANSWER)
    assistant = scripted.assistant(tools=[TOOL])
    path = f"/assistants/{assistant}/files"
    assert api.get(path)["data"] == []
    for id in (file, other, other):
        added = api.post(path, {"file_id": id})
        made = api.get(f"/files/{id}")["created_at"]
        assert added == {
            "id": id,
            "object": "assistant.file",
            "created_at": made,
            "assistant_id": assistant,
        }
        assert api.get(f"{path}/{id}") == added
    page = api.get(f"{path}?limit=1&order=asc")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([file], True)
    assert [each["id"] for each in api.get(f"{path}?order=asc&after={file}")["data"]] == [other]
    message = {"role": "user", "content": "Where?", "file_ids": [file]}
    thread = api.post("/threads", {"messages": [message]})["id"]
    [asked] = api.get(f"/threads/{thread}/messages")["data"]
    attached = f"/threads/{thread}/messages/{asked['id']}/files"
    [of_message] = api.get(attached)["data"]
    assert (
        of_message.items()
        >= {
            "id": file,
            "object": "thread.message.file",
            "message_id": asked["id"],
        }.items()
    )
    assert api.get(f"{attached}/{file}") == of_message
    # They are what the assistant searches.
    run = api.until(api.post(f"/threads/{thread}/runs", {"assistant_id": assistant}), "completed")
    step = api.get(f"{api.run_path(run)}/steps")["data"][-1]
    results = step["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert {each["file_id"] for each in results} == {file, other}
    gone = {"id": file, "object": "assistant.file.deleted", "deleted": True}
    assert api.delete(f"{path}/{file}") == gone
    assert [each["id"] for each in api.get(path)["data"]] == [other]
    assert api.get(f"/files/{file}")["id"] == file
    for method, where, body, status in (
        ("DELETE", f"{path}/{file}", None, 404),
        ("GET", f"{path}/{file}", None, 404),
        ("GET", f"{attached}/{other}", None, 404),
        ("GET", f"{attached.replace(asked['id'], 'msg_x')}", None, 404),
        ("GET", "/assistants/asst_x/files", None, 404),
        ("POST", "/assistants/asst_x/files", {"file_id": file}, 404),
        ("POST", path, {"file_id": "file-abc"}, 400),
        ("POST", path, {}, 400),
    ):
        assert api.refused(method, where, body)[0] == status, (method, where)


def test_the_files_of_an_assistant_are_those_of_all_its_tools(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server that offers both; nothing is run here.
    monkeypatch.setitem(TOOLS, "code_interpreter", TOOLS.get("code_interpreter", TOOLS["file_search"]))
    file, other = uploaded(api, OSLO, "a.txt")["id"], uploaded(api, CATS, "b.txt")["id"]
    path = "/assistants/" + api.post("/assistants", {"model": "demo", "file_ids": [file]})["id"]
    api.post(path, {"tools": [{"type": "code_interpreter"}]})
    api.post(f"{path}/files", {"file_id": other})
    assert api.get(path)["tool_resources"]["code_interpreter"] == {"file_ids": [file, other]}
    assert {each["id"] for each in api.get(f"{path}/files")["data"]} == {file, other}
    api.delete(f"{path}/files/{file}")
    after = api.get(path)["tool_resources"]
    assert after["code_interpreter"] == {"file_ids": [other]}
    assert api.get(f"/vector_stores/{after['file_search']['vector_store_ids'][0]}/files")["data"] == []
    assert [each["id"] for each in api.get(f"{path}/files")["data"]] == [other]
    # The resources of other tools name none.
    api.post(path, {"tool_resources": {"mcp": [], "code_interpreter": {"file_ids": [other]}}})
    assert [each["id"] for each in api.get(f"{path}/files")["data"]] == [other]
    assert api.delete(f"{path}/files/{other}")["deleted"]
    assert api.get(f"{path}/files")["data"] == []


def test_more_of_a_function_than_the_api_has_is_left_out(api: Api) -> None:
    function = {"name": "f", "module": "somewhere", "parameters": {"type": "object", "properties": {}}}
    made = api.post("/assistants", {"model": "demo", "tools": [{"type": "function", "function": function}]})
    assert made["tools"][0]["function"].keys() == {"name", "parameters", "strict"}


def test_a_model_that_cannot_call_tools_gets_the_passages_up_front(api: Api, models: Models) -> None:
    """The real small model, at temperature 0: its script decides nothing here."""
    store, (file, _) = store_of(
        api, b"Favorite foods of the club: Filip likes cake best.", b"Cats sleep for sixteen hours a day."
    )
    resources = {"file_search": {"vector_store_ids": [store["id"]]}}
    body = {"model": "smollm2", "tools": [TOOL], "tool_resources": resources, "temperature": 0}
    assistant = api.post("/assistants", body)["id"]
    thread = api.thread_with("What is the favorite food of Filip?")
    run = api.until(api.post(f"/threads/{thread}/runs", {"assistant_id": assistant}), "completed")
    assert "cake" in answer_of(api, run)["value"]
    message, step = api.get(f"{api.run_path(run)}/steps")["data"]
    [call] = step["step_details"]["tool_calls"]
    assert call["file_search"]["queries"] == ["What is the favorite food of Filip?"]
    assert call["file_search"]["results"][0]["file_id"] == file
    assert (
        step["usage"]["total_tokens"] == 0 < message["usage"]["total_tokens"] == run["usage"]["total_tokens"]
    )


def test_what_is_searched_for_up_front_is_the_question(
    api: Api, script: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"Note {number} says that Oslo is cold.".encode() for number in range(4)]
    store, files = store_of(api, *texts)
    resources = {"file_search": {"vector_store_ids": [store["id"]]}}
    scripted = script(ANSWER, ANSWER, ANSWER)
    monkeypatch.setattr(scripted.model, "calls_tools", False, raising=False)
    assistant = scripted.assistant(tools=[TOOL], tool_resources=resources)
    attached = {"file_id": files[0], "tools": [TOOL]}
    asked = {"role": "user", "content": "How cold is Oslo?", "attachments": [attached]}
    thread = api.post("/threads", {"messages": [asked]})["id"]
    run = api.until(api.post(f"/threads/{thread}/runs", {"assistant_id": assistant}), "completed")
    [_, step] = api.get(f"{api.run_path(run)}/steps")["data"]
    found = step["step_details"]["tool_calls"][0]["file_search"]
    assert found["queries"] == ["How cold is Oslo?"] and len(found["results"]) == 2
    assert [message["role"] for message in scripted.model.prompts[0].messages] == [
        "user",
        "assistant",
        "tool",
    ]
    # Where it isn't wanted, or the model has functions to choose from, the model is asked first.
    for body in ({"tool_choice": "none"}, {"tools": [TOOL, WEATHER]}):
        run = api.post(f"/threads/{thread}/runs", {"assistant_id": assistant, **body})
        assert api.until(run, "completed")["usage"]["total_tokens"] == 35
        assert scripted.model.prompts[-1].messages[-1]["role"] != "tool"
