"""What programs written for the Assistants API do, kind by kind: the calls of each in their order, with the official
client as it is configured by its environment, and the names of models that they ask for. Each returns what such a
program prints."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from openai import AssistantEventHandler, AsyncOpenAI, AzureOpenAI, OpenAI
from openai.types.beta.threads import Run
from test_cli import served

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.usefixtures("sandbox"),
]

CSV = b"city,rain\nOslo,8\nRome,2\nBergen,14\n"
GUIDE = b"# House rules\n\nBreakfast is from 07:00 to 10:00. The sauna opens at 16:00 and takes six people.\n"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server's address and its key, where every model of the old programs is another name of `demo`."""
    folder = tmp_path_factory.mktemp("programs")
    with served(folder, "--alias", "gpt-*=demo") as (_, url, _):
        yield url, (folder / "token").read_text().strip()


@pytest.fixture(autouse=True)
def environment(address: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user of such a program sets; the program itself stays as it is."""
    url, key = address
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", url.removesuffix("/v1"))
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", key)


def polled(client: OpenAI, run: Run) -> Run:
    """Wait as programs did before the client had a method for it."""
    while run.status in ("queued", "in_progress", "cancelling"):
        time.sleep(0.05)
        run = client.beta.threads.runs.retrieve(thread_id=run.thread_id, run_id=run.id)
    return run


def latest(client: OpenAI, thread: str) -> str:
    [part, *_] = client.beta.threads.messages.list(thread_id=thread).data[0].content
    assert part.type == "text"
    return part.text.value


def tutor(folder: Path) -> str:
    """Polling, with code_interpreter."""
    client = OpenAI()
    assistant = client.beta.assistants.create(
        name="Tutor",
        instructions="Solve it.",
        tools=[{"type": "code_interpreter"}],
        model="gpt-4-1106-preview",
    )
    thread = client.beta.threads.create()
    client.beta.threads.messages.create(thread_id=thread.id, role="user", content="What is 12 * 37?")
    run = client.beta.threads.runs.create(
        thread_id=thread.id, assistant_id=assistant.id, instructions="Address the user as Jane."
    )
    assert polled(client, run).status == "completed"
    steps = client.beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc")
    [call] = steps.data[0].step_details.tool_calls  # type: ignore[union-attr]
    assert call.type == "code_interpreter"
    assert [output.logs for output in call.code_interpreter.outputs] == ["444\n"]  # type: ignore[union-attr]
    return latest(client, thread.id)


def functions(folder: Path) -> str:
    """Functions that the program calls itself, in a loop."""
    client = OpenAI()
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[WEATHER])
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "What should I wear in Oslo?"}])
    run = polled(client, client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id))
    while run.status == "requires_action":
        assert run.required_action is not None
        outputs: list[Any] = []
        for call in run.required_action.submit_tool_outputs.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            outputs.append(
                {"tool_call_id": call.id, "output": json.dumps({"city": city, "sky": "light rain"})}
            )
        submit = client.beta.threads.runs.submit_tool_outputs
        run = polled(client, submit(thread_id=thread.id, run_id=run.id, tool_outputs=outputs))
    assert run.status == "completed" and run.usage is not None
    return latest(client, thread.id)


def streaming(folder: Path) -> str:
    """An event handler that answers calls in the middle of its stream."""
    client, said = OpenAI(), list[str]()

    class Handler(AssistantEventHandler):
        def on_event(self, event: Any) -> None:
            if event.event == "thread.run.requires_action":
                calls = event.data.required_action.submit_tool_outputs.tool_calls
                outputs: Any = [{"tool_call_id": call.id, "output": "light rain"} for call in calls]
                with client.beta.threads.runs.submit_tool_outputs_stream(
                    thread_id=event.data.thread_id,
                    run_id=event.data.id,
                    tool_outputs=outputs,
                    event_handler=Handler(),
                ) as stream:
                    stream.until_done()

        def on_text_delta(self, delta: Any, snapshot: Any) -> None:
            said.append(delta.value)

    assistant = client.beta.assistants.create(model="gpt-4o-mini", tools=[WEATHER])
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "What should I wear in Rome?"}])
    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=Handler()
    ) as stream:
        stream.until_done()
    assert "".join(said) == latest(client, thread.id)
    return "".join(said)


def table(folder: Path) -> str:
    """A table is uploaded, code reads it, and the program saves the picture and the file that it makes."""
    client, path = OpenAI(), folder / "rain.csv"
    path.write_bytes(CSV)
    file = client.files.create(file=path.open("rb"), purpose="assistants")
    assistant = client.beta.assistants.create(
        model="gpt-4-turbo",
        tools=[{"type": "code_interpreter"}],
        tool_resources={"code_interpreter": {"file_ids": [file.id]}},
    )
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Plot the rain, please."}])
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "completed"
    said = ""
    for part in client.beta.threads.messages.list(thread.id).data[0].content:
        if part.type == "image_file":
            client.files.content(part.image_file.file_id).write_to_file(folder / "plot.png")
        elif part.type == "text":
            said = part.text.value
            for mark in part.text.annotations:
                assert mark.type == "file_path" and mark.text.startswith("sandbox:/mnt/data/")
                saved = folder / mark.text.rpartition("/")[2]
                saved.write_bytes(client.files.content(mark.file_path.file_id).read())
                said = said.replace(mark.text, saved.name)
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "summary.csv").read_text().startswith(",rain")
    return said


def search(folder: Path) -> str:
    """Documents go into a vector store; the answer cites them, and the program makes footnotes."""
    client, path = OpenAI(), folder / "house.md"
    path.write_bytes(GUIDE)
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[{"type": "file_search"}])
    store = client.vector_stores.create(name="Handbooks")
    with path.open("rb") as opened:
        batch = client.vector_stores.file_batches.upload_and_poll(vector_store_id=store.id, files=[opened])
    assert (batch.status, batch.file_counts.completed) == ("completed", 1)
    client.beta.assistants.update(
        assistant.id, tool_resources={"file_search": {"vector_store_ids": [store.id]}}
    )
    return cited(
        client, assistant.id, {"messages": [{"role": "user", "content": "When does the sauna open?"}]}
    )


def attachment(folder: Path) -> str:
    """A document is attached to a message, and so goes into the thread's own store."""
    client = OpenAI()
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[{"type": "file_search"}])
    file = client.files.create(file=("house.md", GUIDE), purpose="assistants")
    message = {
        "role": "user",
        "content": "When does the sauna open?",
        "attachments": [{"file_id": file.id, "tools": [{"type": "file_search"}]}],
    }
    return cited(client, assistant.id, {"messages": [message]})


def cited(client: OpenAI, assistant: str, given: Any) -> str:
    """Ask, and put the names of files where the answer cites them."""
    thread = client.beta.threads.create(**given)
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant)
    assert run.status == "completed"
    [message] = client.beta.threads.messages.list(thread_id=thread.id, run_id=run.id)
    [part] = message.content
    assert part.type == "text" and part.text.annotations
    said, names = part.text.value, []
    for number, mark in enumerate(part.text.annotations):
        said = said.replace(mark.text, f"[{number}]")
        assert mark.type == "file_citation"
        names.append(f"[{number}] {client.files.retrieve(mark.file_citation.file_id).filename}")
    assert names[0] == "[0] house.md" and "【" not in said
    return "\n".join([said, *names])


def azure(folder: Path) -> str:
    """Azure's client and paths, and a function with a key that the API doesn't have."""
    client = AzureOpenAI(api_version="2024-05-01-preview")
    function = {**WEATHER["function"], "module": "weather_service"}
    tools: Any = [{"type": "function", "function": function}]
    assistant = client.beta.assistants.create(name="Azure", model="gpt-4", tools=tools)
    thread = client.beta.threads.create()
    client.beta.threads.messages.create(thread.id, role="user", content="What should I wear in Oslo?")
    run = polled(client, client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id))
    assert run.required_action is not None
    calls = run.required_action.submit_tool_outputs.tool_calls
    outputs: Any = [{"tool_call_id": call.id, "output": "light rain"} for call in calls]
    run = client.beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=outputs)
    assert polled(client, run).status == "completed"
    return latest(client, thread.id)


def pictures(folder: Path) -> str:
    """Pictures in a message: one uploaded, one by its address."""
    client = OpenAI()
    file = client.files.create(file=("pixel.png", PIXEL), purpose="vision")
    content: Any = [
        {"type": "text", "text": "What is the difference between these images?"},
        {"type": "image_file", "image_file": {"file_id": file.id, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    thread = client.beta.threads.create(messages=[{"role": "user", "content": content}])
    assistant = client.beta.assistants.create(model="gpt-4o")
    assert client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id).usage
    return latest(client, thread.id)


def first_version(folder: Path) -> str:
    """The shapes of the API's first version: `retrieval`, and files by their ids, as requests without a client."""
    client = OpenAI()
    headers = {"Authorization": f"Bearer {client.api_key}", "OpenAI-Beta": "assistants=v1"}

    def post(path: str, body: Any) -> Any:
        answer = requests.post(f"{client.base_url}{path}", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    file = client.files.create(file=("house.md", GUIDE), purpose="assistants").id
    shape = {"model": "gpt-4-1106-preview", "tools": [{"type": "retrieval"}], "file_ids": [file]}
    assistant = post("assistants", shape)["id"]
    thread = post("threads", {})["id"]
    post(
        f"threads/{thread}/messages", {"role": "user", "content": "When does the sauna open?", "file_ids": []}
    )
    run = post(f"threads/{thread}/runs", {"assistant_id": assistant})
    assert polled(client, Run.model_construct(**run)).status == "completed"
    return latest(client, thread)


def bot(folder: Path) -> str:
    """A bot: an assistant from its configuration, a thread for each user, a second question, and what users undo."""
    client = OpenAI()
    configured = "asst_abc123configured"
    client.beta.assistants.create(model="gpt-4", instructions="Be kind.", extra_body={"id": configured})
    threads = {user: client.beta.threads.create(metadata={"user": user}).id for user in ("ann", "bob")}
    for user, thread in threads.items():
        for question in ("What is a run?", "What is a thread?"):
            client.beta.threads.messages.create(thread_id=thread, role="user", content=f"{user}: {question}")
            run = polled(client, client.beta.threads.runs.create(thread_id=thread, assistant_id=configured))
            assert run.status == "completed"
    run = client.beta.threads.runs.create(thread_id=threads["bob"], assistant_id=configured)
    with pytest.raises(openai.BadRequestError, match="while a run"):
        client.beta.threads.messages.create(threads["bob"], role="user", content="Wait")
    client.beta.threads.runs.cancel(thread_id=threads["bob"], run_id=run.id)
    assert polled(client, run).status in ("cancelled", "completed")
    assert len(client.beta.threads.runs.list(threads["ann"]).data) == 2
    said = latest(client, threads["ann"])
    assert all(client.beta.threads.delete(thread).deleted for thread in threads.values())
    with pytest.raises(openai.NotFoundError):
        client.beta.threads.retrieve(threads["ann"])
    return said


def events(folder: Path) -> str:
    """One request for the thread and its run, and events as they come."""
    client, said = OpenAI(), list[str]()
    assistant = client.beta.assistants.create(model="gpt-3.5-turbo")
    thread: Any = {"messages": [{"role": "user", "content": "What is a run?"}]}
    stream = client.beta.threads.create_and_run(assistant_id=assistant.id, thread=thread, stream=True)
    for event in stream:
        if event.event == "thread.message.delta":
            said += [part.text.value for part in event.data.delta.content or [] if part.type == "text"]  # type: ignore[union-attr,misc]
    return "".join(said)


def web(folder: Path) -> str:
    """A web application: many users at once with the asynchronous client."""

    async def ask(client: AsyncOpenAI, assistant: str, user: int) -> str:
        thread = await client.beta.threads.create()
        await client.beta.threads.messages.create(thread.id, role="user", content=f"What is a run? ({user})")
        async with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant) as stream:
            return "".join([text async for text in stream.text_deltas])

    async def scenario() -> list[str]:
        async with AsyncOpenAI() as client:
            assistant = await client.beta.assistants.create(model="gpt-4o")
            return await asyncio.gather(*(ask(client, assistant.id, user) for user in range(5)))

    said = asyncio.run(scenario())
    assert len(said) == 5 and all(said)
    return said[0]


#: The kinds of programs, and a word of what each prints in the end.
PROGRAMS: dict[Callable[[Path], str], str] = {
    tutor: "444",
    functions: "light rain",
    streaming: "light rain",
    table: "summary.csv",
    search: "16:00",
    attachment: "16:00",
    azure: "light rain",
    pictures: "image",
    first_version: "16:00",
    bot: "run",
    events: "run",
    web: "run",
}


@pytest.mark.parametrize("program", PROGRAMS, ids=[program.__name__ for program in PROGRAMS])
def test_a_program_runs_as_it_was_written(program: Callable[[Path], str], tmp_path: Path) -> None:
    assert PROGRAMS[program] in program(tmp_path)
