"""Every method that openai-python has for assistants, threads, messages, runs and steps, against the process that
`nbruns serve` is: what it returns are its own types, what it raises its own exceptions."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import AssistantEventHandler, AsyncAssistantEventHandler, AsyncOpenAI, OpenAI
from openai.resources.beta.assistants import Assistants
from openai.resources.beta.threads import Messages, Runs, Threads
from openai.resources.beta.threads.runs import Steps
from openai.types.beta import Assistant, Thread
from openai.types.beta.threads import Message, Run
from openai.types.beta.threads.runs import RunStep

from nbruns.client import Client

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

RESOURCES = (Assistants, Threads, Messages, Runs, Steps)
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

    for resource in RESOURCES:
        for name in public_methods(resource):
            full = f"{resource.__name__}.{name}"
            monkeypatch.setattr(resource, name, counted(full, getattr(resource, name)))
    return names


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
            lambda of: of.assistants.create(model="demo", tools=[{"type": "code_interpreter"}]),
            openai.BadRequestError,
            "unsupported_tool",
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
