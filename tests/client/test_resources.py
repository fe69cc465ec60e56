"""Every operation of the client, against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest
from socket_server import SocketServer, answer, stream

import nbruns
from nbruns.client import Client
from nbruns.objects import Assistant, Run, RunStep, Thread

RUN = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "status": "queued"}


@nbruns.tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Light rain in {city}"


@pytest.fixture(scope="module")
def assistant(client: Client) -> Assistant:
    return client.assistants.create("demo", name="Wardrobe", tools=[get_weather], metadata={"made": "here"})


@pytest.fixture
def thread(client: Client) -> Thread:
    return client.threads.create("What should I wear in Oslo?")


@pytest.fixture
def waiting(client: Client, assistant: Assistant, thread: Thread) -> Iterator[Run]:
    """A run that requires action."""
    run = client.runs.wait(client.runs.create(thread, assistant), timeout=20)
    yield run
    if not client.runs.retrieve(run).is_terminal:
        client.runs.wait(client.runs.cancel(run), timeout=20)


def outputs_of(run: Run) -> dict[str, str]:
    return {call.id: get_weather.call(call.arguments) for call in run.tool_calls}


def test_assistants(client: Client) -> None:
    made = client.assistants.create("demo", name="One", tools=[get_weather, get_weather.to_dict()])
    assert made.tools[0] == made.tools[1] and made.tools[0]["function"]["name"] == "get_weather"
    changed = client.assistants.update(made, name="Two", tools=[])
    assert (changed.id, changed.name, changed.tools) == (made.id, "Two", [])
    assert client.assistants.retrieve(made.id) == changed
    assert made.id in set(client.assistants.list()["id"])
    client.assistants.delete(made)
    with pytest.raises(nbruns.NotFoundError, match=made.id):
        client.assistants.retrieve(made)


def test_threads(client: Client) -> None:
    made = client.threads.create(["One", {"role": "assistant", "content": "Two"}], metadata={"a": "b"})
    assert list(client.messages.list(made)["role"]) == ["user", "assistant"]
    assert client.threads.update(made, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.threads.retrieve(made).metadata == {"c": "d"}
    assert made.id in set(client.threads.list(limit=5)["id"])
    client.threads.delete(made)
    with pytest.raises(nbruns.NotFoundError):
        client.threads.retrieve(made)


def test_messages(client: Client, thread: Thread) -> None:
    made = client.messages.create(thread, "And in Bergen?", metadata={"n": "1"})
    assert made.text == "And in Bergen?" and client.messages.retrieve(made) == made
    assert client.messages.update(made, metadata={"n": "2"}).metadata == {"n": "2"}
    assert client.messages.retrieve(made.id, thread).metadata == {"n": "2"}
    assert list(client.messages.list(thread)["text"]) == ["What should I wear in Oslo?", "And in Bergen?"]
    assert [m.id for m in client.messages.iter(thread, order="desc", limit=1)] == [made.id]
    client.messages.delete(made)
    assert len(client.messages.list(thread)) == 1


def test_messages_that_contain_words(client: Client) -> None:
    answer = {"role": "assistant", "content": "In Vestfold"}
    thread = client.threads.create(["Wo liegt Tønsberg-Süd?", "tØNSBERG 100%", answer])
    other = client.threads.create("tønsberg_x")
    texts = lambda *query, **more: list(client.messages.search(*query, **more)["text"])  # noqa: E731
    assert texts("TØNSBERG") == ["tønsberg_x", "tØNSBERG 100%", "Wo liegt Tønsberg-Süd?"]
    assert texts("tønsberg", order="asc", limit=2) == ["Wo liegt Tønsberg-Süd?", "tØNSBERG 100%"]
    assert texts("süd liegt", thread) == ["Wo liegt Tønsberg-Süd?"]  # all words, in any order
    assert texts("vestFOLD in", thread) == ["In Vestfold"]
    assert texts("tønsberg 100%") == ["tØNSBERG 100%"]  # signs are signs, not wildcards
    assert texts("tønsberg_x", other) == ["tønsberg_x"] and texts("tønsberg%x") == []
    assert texts("thread.message", thread) == texts("user", thread) == []  # only what was said
    with pytest.raises(nbruns.BadRequestError, match="no words"):
        texts("  ")


def test_a_search_goes_on_over_pages(client: Client) -> None:
    for start in range(0, 250, 50):
        client.threads.create([f"Qwertz {number}" for number in range(start, start + 50)])
    found = client.messages.search("qwertz", order="asc")
    assert list(found["text"]) == [f"Qwertz {number}" for number in range(250)]


def test_a_run_from_creation_to_its_end(client: Client, waiting: Run) -> None:
    assert waiting.status == "requires_action" and [c.name for c in waiting.tool_calls] == ["get_weather"]
    with pytest.raises(nbruns.ActiveRunError) as caught:
        client.runs.create(waiting.thread_id, waiting.assistant_id)
    assert caught.value.run_id == waiting.id
    with pytest.raises(nbruns.ActiveRunError, match="Wait for that run") as caught:
        client.messages.create(waiting.thread_id, "And in Bergen?")
    assert caught.value.run_id == waiting.id
    with pytest.raises(nbruns.BadRequestError, match="call_nobody_made"):
        client.runs.submit_tool_outputs(waiting, {"call_nobody_made": "x"})
    ended = client.runs.wait(client.runs.submit_tool_outputs(waiting, outputs_of(waiting)), timeout=20)
    assert ended.status == "completed" and ended.usage is not None and ended.usage.total_tokens > 0
    assert client.runs.retrieve(ended.id, ended.thread_id) == ended
    assert client.runs.update(ended, metadata={"seen": "yes"}).metadata == {"seen": "yes"}
    steps = list(client.runs.steps.iter(ended))
    assert [step.type for step in steps] == ["tool_calls", "message_creation"]
    assert steps[0].tool_calls[0].output == "Light rain in Oslo"
    assert isinstance(client.runs.steps.retrieve(steps[1].id, ended), RunStep)
    frame = client.runs.steps.list(ended)
    assert (
        list(frame["tool_names"]) == [["get_weather"], []]
        and frame["total_tokens"].sum() == ended.usage.total_tokens
    )
    for runs in (ended, [ended], client.runs.list(ended.thread_id)):
        calls = client.runs.steps.tool_calls(runs)
        assert calls[["name", "arguments", "output"]].values.tolist() == [
            ["get_weather", {"city": "Oslo"}, "Light rain in Oslo"]
        ]
    answer = client.messages.list(ended.thread_id, run_id=ended.id)
    assert "Light rain in Oslo" in answer["text"].iloc[0]


def test_streams_fold_to_what_the_server_keeps(client: Client, assistant: Assistant, thread: Thread) -> None:
    with client.runs.create_stream(thread, assistant) as asking:
        run = asking.until_done()
    with client.runs.submit_tool_outputs_stream(run, outputs_of(run), snapshot=asking.snapshot) as answering:
        pieces = list(answering.text_deltas())
    snapshot = answering.snapshot
    assert snapshot.run == client.runs.retrieve(run)
    assert snapshot.steps == list(client.runs.steps.iter(run))
    assert snapshot.messages == list(client.messages.iter(thread, run_id=run.id))
    assert len(pieces) > 5 and "".join(pieces) == snapshot.text
    with client.runs.retrieve_stream(run.id, thread) as again:
        again.until_done()
    assert (again.snapshot.run, again.snapshot.steps, again.snapshot.messages) == (
        snapshot.run,
        snapshot.steps,
        snapshot.messages,
    )


def test_a_thread_and_its_run_in_one(client: Client, assistant: Assistant) -> None:
    run = client.threads.create_and_run(assistant, "What should I wear in Oslo?", tool_choice="none")
    assert client.runs.wait(run, timeout=20).status == "completed"
    with client.threads.create_and_run_stream(assistant, "And in Bergen?", tool_choice="none") as stream:
        first = next(stream)
        assert stream.until_done().status == "completed"
    assert first.event == "thread.created" and stream.snapshot.thread == first.data


def test_cancelling(client: Client, waiting: Run) -> None:
    assert client.runs.cancel(waiting).status in ("cancelling", "cancelled")
    assert client.runs.wait(waiting, timeout=20).status == "cancelled"
    with pytest.raises(nbruns.BadRequestError, match="cancelled"):
        client.runs.submit_tool_outputs(waiting, outputs_of(waiting))


def test_runs_of_one_thread_of_many_and_of_all(client: Client, assistant: Assistant) -> None:
    made = [client.threads.create_and_run(assistant, "Hello", tool_choice="none") for _ in range(3)]
    ended = [client.runs.wait(run, timeout=20) for run in made]
    threads = [run.thread_id for run in ended]
    one, many, everything = client.runs.list(threads[0]), client.runs.list(threads), client.runs.list(limit=3)
    assert list(one["id"]) == [ended[0].id]
    assert list(many["id"]) == [run.id for run in ended]
    assert set(everything["id"]) == {run.id for run in ended}
    assert one.dtypes.astype(str).to_dict() == client.runs.list([]).dtypes.astype(str).to_dict()
    usage = many.runs.usage(by="model")
    assert isinstance(usage, pd.DataFrame) and usage.loc["demo", "runs"] == 3


def test_a_model_that_does_not_exist(client: Client) -> None:
    with pytest.raises(
        nbruns.BadRequestError, match=r"'gpt-4o' does not exist here; there are 'demo', 'smollm2'"
    ):
        client.assistants.create("gpt-4o")


def test_what_to_include_goes_in_the_query_wherever_a_run_starts() -> None:
    query = "?include%5B%5D=a%5B%2A%5D&include%5B%5D=b"
    with SocketServer(answer(RUN), answer(RUN), stream([]), stream([])) as server:
        client, include = Client(server.url), {"include": ["a[*]", "b"]}
        client.runs.create("thread_1", "asst_1", **include)
        client.threads.create_and_run("asst_1", "Hello", **include)
        client.runs.create_stream("thread_1", "asst_1", **include).close()
        client.threads.create_and_run_stream("asst_1", "Hello", **include).close()
    assert [r.path for r in server.received] == 2 * [
        f"/threads/thread_1/runs{query}",
        f"/threads/runs{query}",
    ]
    assert all("include" not in r.body for r in server.received)


def test_what_starts_a_thread() -> None:
    message = {"role": "user", "content": "Hello"}
    with SocketServer(answer({"id": "thread_1"})) as server:
        for given in ("Hello", ["Hello"], message, [message], (each for each in ["Hello"])):
            Client(server.url).threads.create(given)  # type: ignore[arg-type]
        Client(server.url).threads.create()
    assert [r.body for r in server.received] == 5 * [{"messages": [message]}] + [{}]


@pytest.mark.parametrize("given", [5, True, [5], b"bytes", object()])
def test_what_does_not_start_a_thread_is_not_sent(given: object) -> None:
    with SocketServer(answer(RUN)) as server:
        client = Client(server.url)
        for call in (client.threads.create, lambda given: client.threads.create_and_run("asst_1", given)):
            with pytest.raises(TypeError, match="A thread starts with a text, a list of texts, or messages"):
                call(given)  # type: ignore[arg-type]
    assert server.received == []


def test_a_stream_has_methods_of_its_own() -> None:
    with SocketServer(answer(RUN)) as server:
        with pytest.raises(TypeError, match="_stream"):
            Client(server.url).runs.create("thread_1", "asst_1", stream=True)
        with pytest.raises(TypeError, match="_stream"):
            Client(server.url).threads.create_and_run("asst_1", stream=True)
    assert server.received == []


@pytest.mark.parametrize("given", [5, "x", ["x"], [None], b"x"])
def test_what_is_no_output_is_not_sent(given: object) -> None:
    with SocketServer(answer(RUN)) as server, pytest.raises(TypeError, match="tool_call_id: value"):
        Client(server.url).runs.submit_tool_outputs(Run(RUN), given)  # type: ignore[arg-type]
    assert server.received == []


def test_outputs_can_be_any_iterable() -> None:
    output = {"tool_call_id": "call_1", "output": "x"}
    with SocketServer(answer(RUN)) as server:
        Client(server.url).runs.submit_tool_outputs(Run(RUN), (each for each in [output]))  # type: ignore[arg-type]
    assert server.received[0].body == {"tool_outputs": [output]}
