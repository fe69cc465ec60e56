"""Forks of runs, on a real server; and what a server sees of one, on a socket."""

from __future__ import annotations

from typing import Any

import pytest
from socket_server import SocketServer, answer, stream

import nbruns
from nbruns.client import Client
from nbruns.objects import Assistant, Run, Thread


@nbruns.tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Light rain in {city}"


@nbruns.tool
def get_time(city: str) -> str:
    """Tell the time in a city."""
    return f"Noon in {city}"


@pytest.fixture(scope="module")
def assistant(client: Client) -> Assistant:
    return client.assistants.create("demo", name="Wardrobe", tools=[get_weather, get_time])


#: What makes a run answer briefly, for tests of what is copied.
SHORT = {"tool_choice": "none", "response_format": {"type": "json_object"}}


def answered(client: Client, assistant: Assistant, thread: Thread | str, **params: Any) -> Run:
    """A run whose calls the functions have answered."""
    run = client.runs.wait(client.runs.create(thread, assistant, **params), timeout=20)
    while run.status == "requires_action":
        tools = {"get_weather": get_weather, "get_time": get_time}
        outputs = {call.id: tools[call.name].call(call.arguments) for call in run.tool_calls}
        run = client.runs.wait(client.runs.submit_tool_outputs(run, outputs), timeout=20)
    assert run.status == "completed"
    return run


@pytest.fixture(scope="module")
def run(client: Client, assistant: Assistant) -> Run:
    thread = client.threads.create("What should I wear in Oslo?", metadata={"title": "Clothes"})
    return answered(client, assistant, thread, metadata={"case": "7"})


def said(client: Client, thread: str) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in client.messages.iter(thread)]


def outputs_of(client: Client, run: Run) -> dict[str, str | None]:
    return {call.name: call.output for step in client.runs.steps.iter(run) for call in step.tool_calls}


def test_a_fork_asks_again_and_gets_the_same_outputs(client: Client, run: Run) -> None:
    before = client.threads.retrieve(run.thread_id), said(client, run.thread_id)
    fork = client.runs.fork(run)
    assert fork.status == "completed" and fork.thread_id != run.thread_id
    assert (fork.assistant_id, fork.model, fork.tools) == (run.assistant_id, run.model, run.tools)
    assert outputs_of(client, fork) == outputs_of(client, run)
    assert said(client, fork.thread_id) == before[1]
    assert (client.threads.retrieve(run.thread_id), said(client, run.thread_id)) == before
    question = next(client.messages.iter(run.thread_id))
    mark = {"forked_from_thread": run.thread_id, "forked_from_run": run.id, "forked_at": question.id}
    assert client.threads.retrieve(fork.thread_id).metadata == {"title": "Clothes", **mark}
    assert fork.metadata == {"case": "7", **mark}


def test_another_question(client: Client, run: Run) -> None:
    fork = client.runs.fork(run.id, run.thread_id, message="What should I wear in Bergen?")
    assert said(client, fork.thread_id) == [("user", "What should I wear in Bergen?")]
    assert fork.status == "requires_action"  # no record has Bergen
    assert [call.arguments for call in fork.tool_calls] == ['{"city": "Bergen"}'] * 2
    client.runs.cancel(fork)


def test_another_output(client: Client, run: Run) -> None:
    call = next(client.runs.steps.iter(run)).tool_calls[0]
    fork = client.runs.fork(run, outputs={call.id: {"sky": "snow"}})
    assert outputs_of(client, fork) == {"get_weather": '{"sky":"snow"}', "get_time": "Noon in Oslo"}
    assert "snow" in said(client, fork.thread_id)[-1][1]
    assert "snow" not in said(client, run.thread_id)[-1][1]


def test_an_output_that_is_not_asked_for_again_is_reported(client: Client, run: Run) -> None:
    call = next(client.runs.steps.iter(run)).tool_calls[1]
    with pytest.warns(UserWarning, match=r'has not made this call again.*get_time\(\{"city": "Oslo"\}\)'):
        fork = client.runs.fork(run, outputs={call.id: "Midnight"}, **SHORT)
    assert fork.status == "completed"


def test_another_model_assistant_and_instructions(client: Client, run: Run) -> None:
    other = client.assistants.create("demo", name="Other", instructions="Be brief.")
    assert client.runs.fork(run, instructions="In verse.", **SHORT).instructions == "In verse."
    fork = client.runs.fork(run, assistant=other, **SHORT)
    assert (fork.assistant_id, fork.instructions, fork.tools) == (other.id, "Be brief.", [])
    with pytest.raises(nbruns.BadRequestError, match="'gpt-4o' does not exist"):
        client.runs.fork(run, model="gpt-4o")


def test_what_the_server_refuses_leaves_nothing(client: Client, run: Run) -> None:
    before = set(client.threads.list()["id"])
    with pytest.raises(nbruns.BadRequestError):
        client.runs.fork(run, model="gpt-4o")
    for wrong in ({"at": "msg_other"}, {"outputs": {"call_other": "x"}}):
        with pytest.raises(nbruns.ForkError, match="other"):
            client.runs.fork(run, **wrong)
    assert set(client.threads.list()["id"]) == before


def test_a_fork_at_a_call_waits_for_it(client: Client, run: Run) -> None:
    (first, second), step = next(client.runs.steps.iter(run)).tool_calls, next(client.runs.steps.iter(run))
    for at in (first, second.id, step):
        fork = client.runs.fork(run, at=at)
        assert fork.status == "requires_action" and len(fork.tool_calls) == 2
        client.runs.cancel(fork)
    given = client.runs.fork(run, at=second, outputs={second.id: "Midnight"})
    assert outputs_of(client, given) == {"get_weather": "Light rain in Oslo", "get_time": "Midnight"}
    again = client.runs.fork(run, replay=False)
    assert again.status == "requires_action"
    client.runs.cancel(again)


@pytest.fixture(scope="module")
def second(client: Client, assistant: Assistant, run: Run) -> Run:
    """A later run of the same thread."""
    fork = client.runs.fork(run)
    client.messages.create(fork.thread_id, "And tomorrow?")
    return answered(client, assistant, fork.thread_id)


def test_the_points_of_a_longer_conversation(client: Client, second: Run) -> None:
    thread = second.thread_id
    messages = list(client.messages.iter(thread))
    words = said(client, thread)
    assert said(client, client.runs.fork(second, **SHORT).thread_id)[:3] == words[:3]
    first = client.runs.fork(second, at=messages[0], **SHORT)
    assert said(client, first.thread_id)[:-1] == words[:1]
    told = client.runs.fork(second, at=messages[1].id, message="Wear what you like.", **SHORT)
    assert said(client, told.thread_id)[:-1] == [words[0], ("assistant", "Wear what you like.")]
    written = next(step for step in client.runs.steps.iter(second) if step.message_id)
    after = client.runs.fork(second, at=written, **SHORT)
    assert said(client, after.thread_id)[:-1] == words
    assert client.threads.retrieve(after.thread_id).metadata["forked_at"] == written.id


def test_a_run_without_a_message_of_its_own(client: Client, run: Run) -> None:
    waiting = client.runs.fork(run, replay=False)
    client.runs.wait(client.runs.cancel(waiting), timeout=20)
    client.messages.create(waiting.thread_id, "Later")
    fork = client.runs.fork(waiting, **SHORT, outputs={})
    assert said(client, fork.thread_id)[0] == ("user", "What should I wear in Oslo?")


def test_the_outputs_of_a_run_that_waits(client: Client, run: Run) -> None:
    waiting = client.runs.fork(run, replay=False)
    outputs = {call.id: f"So {call.name}" for call in waiting.tool_calls}
    fork = client.runs.fork(waiting, outputs=outputs)
    assert outputs_of(client, fork) == {"get_weather": "So get_weather", "get_time": "So get_time"}
    assert client.runs.retrieve(waiting).status == "requires_action"
    client.runs.cancel(waiting)


def test_images_attachments_and_many_messages(client: Client, assistant: Assistant) -> None:
    image = client.files.create(b"\x89PNG\r\n\x1a\n", name="sky.png", purpose="vision")
    notes = client.files.create(b"Oslo is wet.", name="notes.txt")
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_file", "image_file": {"file_id": image.id}},
        {"type": "image_url", "image_url": {"url": "https://example.org/sky.png", "detail": "low"}},
    ]
    attached = {"file_id": notes.id, "tools": [{"type": "file_search"}]}
    store = client.vector_stores.create(name="Mine")
    start: list[Any] = [f"Line {number}" for number in range(40)]
    thread = client.threads.create([*start, {"role": "user", "content": "Read.", "attachments": [attached]}])
    client.messages.create(thread, content, metadata={"n": "1"})
    run = client.runs.wait(client.runs.create(thread, assistant, **SHORT), timeout=20)
    fork = client.runs.fork(run, message="And this?")
    copies, originals = list(client.messages.iter(fork.thread_id)), list(client.messages.iter(thread))
    assert [m.text for m in copies[:41]] == [m.text for m in originals[:41]]
    assert copies[40].attachments == originals[40].attachments != []
    assert copies[41].text == "And this?" and copies[41].metadata == {"n": "1"}
    assert copies[41].content[1:] == originals[41].content[1:]
    stores = [
        client.threads.retrieve(id).tool_resources["file_search"]["vector_store_ids"]
        for id in (thread.id, fork.thread_id)
    ]
    assert stores[0] != stores[1]  # what is attached to one later is not found in the other
    found = [[file.id for file in client.vector_stores.files.iter(ids[0])] for ids in stores]
    assert found[0] == found[1] == [notes.id]
    client.threads.update(thread, tool_resources={"file_search": {"vector_store_ids": [store.id]}})
    client.vector_stores.files.create(store, client.files.create(b"Own", name="own.txt"))
    shared = client.runs.fork(run).thread_id
    assert client.threads.retrieve(shared).tool_resources["file_search"]["vector_store_ids"] == [store.id]


def test_a_stream_goes_on_through_the_recorded_calls(client: Client, run: Run) -> None:
    with client.runs.fork_stream(run) as stream:
        names = [event.event for event in stream]
    assert names.index("thread.run.requires_action") < names.index("thread.message.created")
    assert names[-1] == "thread.run.completed"
    assert stream.run == client.runs.retrieve(stream.run)
    assert stream.snapshot.text == said(client, run.thread_id)[-1][1]


def test_a_view_shows_a_fork(client: Client, run: Run) -> None:
    view = client.runs.watch(run=client.runs.fork_stream(run))
    assert view.wait(timeout=20).status == "completed"
    assert "Light rain in Oslo" in view.to_html()


def test_a_closed_stream_submits_nothing(client: Client, run: Run) -> None:
    stream = client.runs.fork_stream(run)
    for event in stream:
        if event.event == "thread.run.requires_action":
            stream.close()
    assert stream.run is not None and client.runs.wait(stream.run, timeout=20).status == "requires_action"
    client.runs.cancel(stream.run)


RUN = {
    "id": "run_1", "object": "thread.run", "thread_id": "thread_1", "assistant_id": "asst_1", "status": "completed",
    "model": "m", "instructions": "", "tools": [], "temperature": 0.5, "top_p": None, "created_at": 10,
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "id": "msg_2",
    "role": "assistant",
    "created_at": 2,
    "content": [{"type": "refusal", "refusal": "No."}],
}
ODD = [
    {"id": "msg_1", "role": "user", "created_at": 1, "content": {"type": "text", "text": {"value": "Hello"}}},
    REFUSED,
    {"id": "msg_3", "role": "assistant", "created_at": 3, "content": [], "status": "incomplete"},
    {"id": "msg_4", "role": "user", "created_at": 4, "content": ["Again"], "attachments": ["odd", {}]},
]


def page(*items: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(items), "has_more": False}


def test_what_is_sent_uses_the_original_api_only() -> None:
    """As Azure has it too: a thread with the messages that it takes, and a run with the original's settings."""
    full = {f"key_{n}": "x" for n in range(16)}
    ended = b'event: thread.run.completed\ndata: {"id": "run_2", "status": "completed"}\n\n'
    answers = [
        answer(RUN), answer(page()), answer(page(*ODD)), answer({"id": "thread_1", "metadata": full}),
        answer({"id": "thread_2"}), stream([ended]),
    ]  # fmt: skip
    with SocketServer(*answers) as server:
        client = Client(f"{server.url}/api/projects/p", api_version="v1")
        assert client.runs.fork("run_1", "thread_1", temperature=1, metadata={"a": "b"}).id == "run_2"
    sent = [(r.method, r.path.partition("?")[0].removeprefix("/api/projects/p")) for r in server.received]
    assert sent == [
        ("GET", "/threads/thread_1/runs/run_1"),
        ("GET", "/threads/thread_1/runs/run_1/steps"),
        ("GET", "/threads/thread_1/messages"),
        ("GET", "/threads/thread_1"),
        ("POST", "/threads"),
        ("POST", "/threads/thread_2/runs"),
    ]
    assert all("api-version=v1" in r.path for r in server.received)
    mark = {"forked_from_thread": "thread_1", "forked_from_run": "run_1", "forked_at": "msg_4"}
    thread, run = server.received[-2].body, server.received[-1].body
    assert thread["metadata"] == {f"key_{n}": "x" for n in range(13)} | mark
    assert thread["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Again"},
    ]
    assert run == {
        "assistant_id": "asst_1", "model": "m", "instructions": "", "tools": [], "temperature": 1,
        "metadata": {"a": "b"} | mark, "stream": True,
    }  # fmt: skip


def test_a_copy_that_is_refused_halfway_is_deleted() -> None:
    many = [{"id": f"msg_{n}", "role": "user", "created_at": n, "content": f"Line {n}"} for n in range(40)]
    refused = answer({"error": {"message": "No file found with id 'file_1'."}}, 400)
    answers = [
        answer({**RUN, "created_at": 50}), answer(page()), answer(page(*many)), answer({"id": "thread_1"}),
        answer({"id": "thread_2"}), answer({"id": "msg_x"}), refused, answer({"deleted": True}),
    ]  # fmt: skip
    with SocketServer(*answers) as server, pytest.raises(nbruns.BadRequestError, match="file_1"):
        Client(server.url).runs.fork("run_1", "thread_1")
    assert len(server.received[4].body["messages"]) == 32
    assert server.received[5].body == {"role": "user", "content": "Line 32"}
    assert (server.received[-1].method, server.received[-1].path) == ("DELETE", "/threads/thread_2")


def test_no_question_to_change() -> None:
    with (
        SocketServer(answer(RUN), answer(page()), answer(page())) as server,
        pytest.raises(nbruns.ForkError, match="no question"),
    ):
        Client(server.url).runs.fork("run_1", "thread_1", message="What?")
    assert [r.method for r in server.received] == ["GET"] * 3
