"""Every method that openai-python has for assistants, threads, messages, runs, steps, files, uploads, vector stores and
models, against the process that `nbruns serve` is: what it returns are its own types, what it raises its own
exceptions."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AssistantEventHandler, AsyncAssistantEventHandler, AsyncOpenAI, AzureOpenAI, OpenAI
from openai.resources.beta.assistants import Assistants
from openai.resources.beta.threads import Messages, Runs, Threads
from openai.resources.beta.threads.runs import Steps
from openai.resources.files import Files
from openai.resources.models import Models
from openai.resources.uploads.parts import Parts
from openai.resources.uploads.uploads import Uploads
from openai.resources.vector_stores.file_batches import FileBatches
from openai.resources.vector_stores.files import Files as VectorStoreFiles
from openai.resources.vector_stores.vector_stores import VectorStores
from openai.types.beta import Assistant, Thread
from openai.types.beta.threads import Message, Run
from openai.types.beta.threads.runs import RunStep

from nbruns.client import Client

pytestmark = pytest.mark.filterwarnings("ignore:.*(deprecated|should be used instead):DeprecationWarning")

RESOURCES = (Assistants, Threads, Messages, Runs, Steps)
FILE_RESOURCES = (Files, Uploads, Parts, VectorStores, VectorStoreFiles, FileBatches, Models)
#: There are no fine-tuned models to be deleted here.
NOT_SERVED = {"Models.delete"}
FERRY = "The ferry to the island leaves every two hours and takes no cars. Über 3 Stunden."
QUESTION: Any = {"role": "user", "content": "What should I wear in Oslo?"}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
#: What the handler is never told here: the server neither runs code nor breaks off.
NEVER_TOLD = {"on_image_file_done", "on_exception", "on_timeout"}


@pytest.fixture
def surface(client: Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0, timeout=30) as surface:
        yield surface


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the methods that have been called."""
    names: set[str] = set()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            names.add(name)
            return method(*args, **kwargs)

        return call

    for resource in RESOURCES + FILE_RESOURCES:
        for name in public_methods(resource):
            full = f"{_name(resource)}.{name}"
            monkeypatch.setattr(resource, name, counted(full, getattr(resource, name)))
    return names


def _name(resource: type) -> str:
    return "VectorStoreFiles" if resource is VectorStoreFiles else resource.__name__


def public_methods(resource: type) -> list[str]:
    return [name for name, value in vars(resource).items() if not name.startswith("_") and callable(value)]


def test_the_whole_surface(surface: OpenAI, called: set[str]) -> None:
    assistant = assistants(surface)
    thread = threads(surface)
    messages(surface, thread)
    for do in (runs, created_with_their_threads, streams, polls, steps):
        do(surface, assistant.id)
    assert surface.beta.threads.delete(thread.id).deleted
    assert surface.beta.assistants.delete(assistant.id).deleted
    with pytest.raises(openai.NotFoundError):
        surface.beta.assistants.retrieve(assistant.id)
    every = {f"{resource.__name__}.{name}" for resource in RESOURCES for name in public_methods(resource)}
    assert called == every


def assistants(surface: OpenAI) -> Assistant:
    of = surface.beta.assistants
    made = of.create(model="demo", name="Adviser", tools=[WEATHER], metadata={"kept": "yes"}, temperature=0.5)
    changed = of.update(made.id, name="Counsellor", response_format={"type": "text"})
    assert (changed.name, changed.metadata, changed.temperature) == ("Counsellor", {"kept": "yes"}, 0.5)
    assert of.retrieve(made.id) == changed
    others = [of.create(model="demo", name=str(number)).id for number in range(3)]
    assert [each.id for each in paged(of.list(limit=2), 4)] == [*reversed(others), made.id]
    return changed


def threads(surface: OpenAI) -> Thread:
    of = surface.beta.threads
    made = of.create(messages=[QUESTION], metadata={"a": "b"})
    assert of.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert of.retrieve(made.id).metadata == {"c": "d"}
    return made


def messages(surface: OpenAI, thread: Thread) -> None:
    of = surface.beta.threads.messages
    parts: Any = [
        {"type": "text", "text": "And this?"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    made = of.create(thread.id, role="user", content=parts, metadata={"k": "v"})
    assert [part.type for part in made.content] == ["text", "image_url"]
    assert of.update(made.id, thread_id=thread.id, metadata={}).metadata == {}
    assert of.retrieve(made.id, thread_id=thread.id).id == made.id
    first = paged(of.list(thread.id, order="asc", limit=1), 2)
    assert [each.id for each in first][1:] == [made.id]
    assert of.delete(made.id, thread_id=thread.id).deleted
    assert [each.id for each in of.list(thread.id)] == [first[0].id]


def runs(surface: OpenAI, assistant: str) -> None:
    of = surface.beta.threads.runs
    thread = surface.beta.threads.create(messages=[QUESTION]).id
    made = of.create(thread, assistant_id=assistant, additional_instructions="Be brief.", tool_choice="auto")
    assert made.status == "queued"
    with pytest.raises(openai.BadRequestError, match=f"{thread} already has an active run {made.id}"):
        of.create(thread, assistant_id=assistant)
    assert of.poll(made.id, thread_id=thread).status == "requires_action"
    assert of.update(made.id, thread_id=thread, metadata={"k": "v"}).metadata == {"k": "v"}
    with pytest.raises(openai.BadRequestError, match="Expected tool outputs for call_ids"):
        of.submit_tool_outputs(made.id, thread_id=thread, tool_outputs=[])
    assert of.cancel(made.id, thread_id=thread).status == "cancelling"
    assert of.poll(made.id, thread_id=thread).status == "cancelled"
    again = of.create_and_poll(thread_id=thread, assistant_id=assistant)
    submitted = of.submit_tool_outputs(again.id, thread_id=thread, tool_outputs=outputs_of(again))
    assert submitted.status == "queued"
    ended = of.poll(again.id, thread_id=thread)
    assert ended.status == "completed" and ended.usage is not None and ended.usage.total_tokens > 0
    assert of.retrieve(ended.id, thread_id=thread) == ended
    assert [each.id for each in paged(of.list(thread, limit=1), 2)] == [again.id, made.id]


def created_with_their_threads(surface: OpenAI, assistant: str) -> None:
    of, thread = surface.beta.threads, {"messages": [QUESTION]}
    assert of.create_and_run(assistant_id=assistant, thread=thread).status == "queued"  # type: ignore[arg-type]
    polled = of.create_and_run_poll(assistant_id=assistant, thread=thread, tool_choice="none")  # type: ignore[arg-type]
    assert polled.status == "completed"
    with of.create_and_run_stream(assistant_id=assistant, thread=thread, event_handler=Told()) as stream:  # type: ignore[arg-type]
        assert [event.event for event in stream][:2] == ["thread.created", "thread.run.created"]
    events = [*of.create_and_run(assistant_id=assistant, thread=thread, stream=True)]  # type: ignore[arg-type]
    assert events[-1].event == "thread.run.requires_action"


def streams(surface: OpenAI, assistant: str) -> None:
    of = surface.beta.threads.runs
    thread = surface.beta.threads.create(messages=[QUESTION]).id
    asked, told = Told(), Told()
    with of.stream(thread_id=thread, assistant_id=assistant, event_handler=asked) as asking:
        run = asking.get_final_run()
    assert run.status == "requires_action"
    with of.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread, tool_outputs=outputs_of(run), event_handler=told
    ) as answering:
        [message] = answering.get_final_messages()
        assert [step.type for step in answering.get_final_run_steps()] == ["message_creation"]
    assert told.text == text_of(message) == text_of(surface.beta.threads.messages.list(thread).data[0])
    every = {name for name in vars(AssistantEventHandler) if name.startswith("on_")}
    assert every - asked.hooks - told.hooks == NEVER_TOLD
    with of.create_and_stream(thread_id=thread, assistant_id=assistant) as stream:
        assert stream.get_final_run().status == "requires_action"
        run = stream.get_final_run()
    outputs = outputs_of(run)
    *_, last = of.submit_tool_outputs(run.id, thread_id=thread, tool_outputs=outputs, stream=True)
    assert last.event == "thread.run.completed"
    *_, last = of.create(thread, assistant_id=assistant, stream=True, tool_choice="none")
    assert last.event == "thread.run.completed"


def polls(surface: OpenAI, assistant: str) -> None:
    of = surface.beta.threads.runs
    thread = surface.beta.threads.create(messages=[QUESTION]).id
    run = of.create_and_poll(thread_id=thread, assistant_id=assistant)
    run = of.submit_tool_outputs_and_poll(run_id=run.id, thread_id=thread, tool_outputs=outputs_of(run))
    assert run.status == "completed"


def steps(surface: OpenAI, assistant: str) -> None:
    of = surface.beta.threads.runs.steps
    thread = surface.beta.threads.create(messages=[QUESTION]).id
    run = surface.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)
    surface.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread, tool_outputs=outputs_of(run)
    )
    include: Any = ["step_details.tool_calls[*].file_search.results[*].content"]
    made: list[RunStep] = paged(of.list(run.id, thread_id=thread, order="asc", limit=1, include=include), 2)
    assert [step.type for step in made] == ["tool_calls", "message_creation"]
    assert of.retrieve(made[0].id, thread_id=thread, run_id=run.id) == made[0]


@pytest.mark.parametrize(
    "by", ["OpenAI", "AzureOpenAI", pytest.param("AzureOpenAI v1", marks=pytest.mark.nightly)]
)
def test_the_whole_surface_of_files(client: Client, called: set[str], tmp_path: Path, by: str) -> None:
    address = client.base_url.removesuffix("/v1")
    key: Any = {"api_key": client.api_key, "max_retries": 0, "timeout": 30}
    made = {
        "OpenAI": lambda: OpenAI(base_url=client.base_url, **key),
        "AzureOpenAI": lambda: AzureOpenAI(azure_endpoint=address, api_version="2024-05-01-preview", **key),
        "AzureOpenAI v1": lambda: AzureOpenAI(base_url=f"{address}/openai/v1", api_version="preview", **key),
    }
    with made[by]() as surface:
        file = files(surface, tmp_path)
        uploads(surface, tmp_path)
        store = vector_stores(surface, file)
        vector_store_files(surface, store, file)
        file_batches(surface, store, file)
        assert surface.vector_stores.delete(store).deleted
        assert surface.files.delete(file).deleted
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            surface.files.retrieve(file)
        assert "demo" in [model.id for model in surface.models.list()]
        assert surface.models.retrieve("demo").owned_by == "nbruns"
        with pytest.raises(openai.NotFoundError) as missing:
            surface.models.retrieve("gpt-none")
        assert missing.value.code == "model_not_found"
    every = {f"{_name(each)}.{name}" for each in FILE_RESOURCES for name in public_methods(each)}
    assert called == every - NOT_SERVED


def files(surface: OpenAI, folder: Path) -> str:
    of, path = surface.files, folder / "Fähre.md"
    path.write_text(FERRY)
    made = of.create(file=path, purpose="assistants")
    assert (made.filename, made.bytes, made.status) == ("Fähre.md", len(FERRY.encode()), "processed")
    after: Any = {"anchor": "created_at", "seconds": 3600}
    brief = of.create(
        file=("a.txt", io.BytesIO(b"brief"), "text/plain"), purpose="user_data", expires_after=after
    )
    assert brief.expires_at == brief.created_at + 3600
    assert of.wait_for_processing(made.id) == of.retrieve(made.id) == made
    assert of.content(made.id).text == FERRY == of.retrieve_content(made.id)
    assert [each.id for each in paged(of.list(purpose="user_data", limit=1), 1)] == [brief.id]
    assert of.delete(brief.id).deleted
    return made.id


def uploads(surface: OpenAI, folder: Path) -> None:
    of, data = surface.uploads, FERRY.encode()
    upload = of.create(bytes=len(data), filename="ferry.txt", mime_type="text/plain", purpose="assistants")
    parts = [of.parts.create(upload.id, data=piece).id for piece in (data[30:], data[:30])]
    done = of.complete(upload.id, part_ids=parts[::-1], md5=hashlib.md5(data).hexdigest())
    assert done.status == "completed" and done.file is not None
    assert surface.files.content(done.file.id).read() == data
    given: Any = {"mime_type": "text/plain", "purpose": "assistants", "part_size": 16}
    chunked = of.upload_file_chunked(file=folder / "Fähre.md", **given)
    assert chunked.file is not None and surface.files.content(chunked.file.id).read() == data
    dropped = of.create(bytes=1, filename="x", mime_type="text/plain", purpose="assistants")
    assert of.cancel(dropped.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="The upload is cancelled"):
        of.parts.create(dropped.id, data=b"x")


def vector_stores(surface: OpenAI, file: str) -> str:
    of = surface.vector_stores
    made = of.create(name="Island", file_ids=[file], metadata={"kept": "yes"})
    assert (made.file_counts.total, made.status) == (1, "in_progress")
    days: Any = {"anchor": "last_active_at", "days": 3}
    changed = of.update(made.id, name="Isle", expires_after=days)
    assert (changed.name, changed.metadata) == ("Isle", {"kept": "yes"}) and changed.expires_at is not None
    assert of.files.poll(file, vector_store_id=made.id).status == "completed"
    assert of.retrieve(made.id).status == "completed"
    assert made.id in [each.id for each in of.list(limit=100)]
    filters: Any = {"type": "eq", "key": "kind", "value": "none"}
    [found] = of.search(made.id, query="When does the boat go?", max_num_results=1, rewrite_query=True)
    assert (found.file_id, found.filename, found.content[0].text) == (file, "Fähre.md", FERRY)
    assert 0 < found.score <= 1
    assert [*of.search(made.id, query=["boat", "cars"], filters=filters)] == []
    return made.id


def vector_store_files(surface: OpenAI, store: str, file: str) -> None:
    of = surface.vector_stores.files
    assert of.retrieve(file, vector_store_id=store).status == "completed"
    assert of.update(file, vector_store_id=store, attributes={"year": 2026}).attributes == {"year": 2026}
    assert [part.text for part in of.content(file, vector_store_id=store)] == [FERRY]
    assert [each.id for each in of.list(store, filter="completed")] == [file]
    chunks: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 10}}
    polled = of.upload_and_poll(vector_store_id=store, file=("a.txt", b"An answer"), chunking_strategy=chunks)
    assert (
        polled.status == "completed"
        and polled.chunking_strategy == of.retrieve(polled.id, vector_store_id=store).chunking_strategy
    )
    assert of.delete(polled.id, vector_store_id=store).deleted
    assert of.create(store, file_id=polled.id).status == "in_progress"
    assert of.create_and_poll(polled.id, vector_store_id=store, attributes={"a": 1.5}).attributes == {
        "a": 1.5
    }
    assert of.upload(vector_store_id=store, file=("b.txt", b"Another")).vector_store_id == store
    empty = of.upload_and_poll(vector_store_id=store, file=("empty.txt", b""))
    assert empty.status == "failed" and empty.last_error is not None
    assert empty.last_error.message == "The file is empty."


def file_batches(surface: OpenAI, store: str, file: str) -> None:
    of = surface.vector_stores.file_batches
    made = of.create(store, file_ids=[file])
    assert of.poll(made.id, vector_store_id=store).status == "completed"
    assert of.retrieve(made.id, vector_store_id=store).file_counts.completed == 1
    assert [each.id for each in of.list_files(made.id, vector_store_id=store)] == [file]
    assert of.create_and_poll(store, file_ids=[file]).file_counts.completed == 1
    texts: Any = [(f"{number}.txt", f"Text {number}".encode()) for number in range(3)]
    batch = of.upload_and_poll(store, files=texts, file_ids=[file])
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == ("completed", 4, 4)
    late = of.create(store, file_ids=[file])
    try:
        assert of.cancel(late.id, vector_store_id=store).status == "cancelled"
    except openai.BadRequestError as error:  # it was faster
        assert "with status 'completed'" in error.message


def test_an_event_handler_told_by_an_asynchronous_client(client: Client) -> None:
    async def scenario() -> str:
        async with AsyncOpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as surface:
            assistant = await surface.beta.assistants.create(model="demo")
            thread: Any = {"messages": [QUESTION]}
            handler: AsyncAssistantEventHandler = AsyncAssistantEventHandler()
            async with surface.beta.threads.create_and_run_stream(
                assistant_id=assistant.id, thread=thread, event_handler=handler
            ) as stream:
                text = "".join([piece async for piece in stream.text_deltas])
            [message] = await handler.get_final_messages()
            assert text_of(message) == text
            return text

    assert len(asyncio.run(scenario())) > 10


def test_answers_as_they_came(surface: OpenAI) -> None:
    raw = surface.beta.threads.with_raw_response.create()
    assert raw.headers["x-request-id"].startswith("req_") and raw.headers["openai-version"] == "2020-10-01"
    assert isinstance(raw.parse(), Thread)
    with surface.beta.threads.with_streaming_response.retrieve(raw.parse().id) as streamed:
        assert streamed.parse() == raw.parse()


@pytest.mark.parametrize(
    ("do", "raised", "code"),
    [
        (lambda of: of.threads.retrieve("thread_none"), openai.NotFoundError, None),
        (lambda of: of.assistants.create(model="gpt-none"), openai.BadRequestError, "model_not_found"),
        (lambda of: of.assistants.list(limit=101), openai.BadRequestError, "integer_above_max_value"),
        (lambda of: of.threads.create(extra_body={"x": 1}), openai.BadRequestError, "unknown_parameter"),
        (
            lambda of: of.assistants.create(model="demo", tools=[{"type": "bing_grounding"}]),
            openai.BadRequestError,
            "unsupported_tool",
        ),
        (
            lambda of: of.threads.create(tool_resources={"file_search": {"vector_store_ids": ["vs_nope"]}}),
            openai.BadRequestError,
            "invalid_value",
        ),
        (
            lambda of: of.threads.create(metadata={"k": "v" * (16 * 1024 * 1024)}),
            openai.APIStatusError,
            "request_too_large",
        ),
    ],
)
def test_its_own_exceptions(
    surface: OpenAI, do: Any, raised: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(raised) as refused:
        do(surface.beta)
    assert refused.value.code == code
    assert refused.value.request_id is not None
    assert refused.value.type == "invalid_request_error"


def test_its_exceptions_for_the_key_and_the_name(surface: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        surface.with_options(api_key="wrong").beta.threads.create()
    with pytest.raises(openai.PermissionDeniedError):
        surface.beta.threads.create(extra_headers={"Host": "evil.example"})


class Told(AssistantEventHandler):
    """The text that the handler was told, and which of its hooks were called."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.hooks: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            object.__getattribute__(self, "hooks").add(name)
        return super().__getattribute__(name)

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.text += delta.value or ""
        assert snapshot.value.endswith(delta.value or "")


def paged(page: Any, count: int) -> list[Any]:
    """The first objects of a list that its SDK pages through."""
    return [item for item, _ in zip(page, range(count), strict=False)]


def outputs_of(run: Run) -> Any:
    """An output for each call that a run waits for."""
    assert run.required_action is not None
    calls = run.required_action.submit_tool_outputs.tool_calls
    return [{"tool_call_id": call.id, "output": "light rain, 3 °C"} for call in calls]


def text_of(message: Message) -> str:
    return "".join(part.text.value for part in message.content if part.type == "text")
