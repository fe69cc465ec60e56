"""openai-python, as it was written for the original, does not notice the difference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from served import ANSWER, CALL, TOKEN, WEATHER, Script, Scripts

from nbruns.server.models import Finish, TextDelta, usage

openai = pytest.importorskip("openai")
from openai import AssistantEventHandler, OpenAI  # noqa: E402
from openai.types.beta.threads import Run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
OUTPUTS = [{"tool_call_id": "call_oslo", "output": "-3 °C"}]


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0, timeout=30) as client:
        yield client


class Told(AssistantEventHandler):
    """What the event handler was told."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.calls: list[Any] = []
        self.ended: list[str] = []

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.text += delta.value or ""
        assert snapshot.value == self.text

    def on_tool_call_done(self, tool_call: Any) -> None:
        self.calls.append(tool_call)

    def on_event(self, event: Any) -> None:
        if event.event.startswith("thread.run.") and "step" not in event.event:
            self.ended.append(event.data.status)


def thread_of(client: OpenAI, text: str = "What should I wear in Oslo?") -> str:
    return client.beta.threads.create(messages=[{"role": "user", "content": text}]).id


def test_create_stream_requires_action_submit_completed(client: OpenAI, script: Scripts) -> None:
    name = script(CALL, ANSWER).name
    assistant = client.beta.assistants.create(model=name, instructions="Be kind.", tools=[WEATHER])  # type: ignore[list-item]
    thread = thread_of(client)
    first = Told()
    with client.beta.threads.runs.stream(
        thread_id=thread, assistant_id=assistant.id, event_handler=first
    ) as stream:
        stream.until_done()
        run = stream.current_run
    assert run is not None and run.required_action is not None
    assert first.ended == ["queued", "queued", "in_progress", "requires_action"]
    [call] = run.required_action.submit_tool_outputs.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Oslo"}')
    second = Told()
    with client.beta.threads.runs.submit_tool_outputs_stream(
        thread_id=thread,
        run_id=run.id,
        tool_outputs=OUTPUTS,  # type: ignore[arg-type]
        event_handler=second,
    ) as stream:
        stream.until_done()
        steps, messages = stream.get_final_run_steps(), stream.get_final_messages()
    assert second.ended == ["queued", "in_progress", "completed"]
    assert second.text == "Take a coat."
    assert [step.type for step in steps] == ["message_creation"]
    assert [part.text.value for message in messages for part in message.content if part.type == "text"] == [
        second.text
    ]
    done = client.beta.threads.runs.retrieve(run.id, thread_id=thread)
    assert done.usage is not None
    assert (done.status, done.usage.total_tokens) == ("completed", 65)


def test_polling(client: OpenAI, script: Scripts) -> None:
    said = script(CALL, ANSWER)
    runs, thread = client.beta.threads.runs, thread_of(client)
    run = runs.create_and_poll(thread_id=thread, assistant_id=said.assistant(tools=[WEATHER]))
    assert run.status == "requires_action"
    run = runs.submit_tool_outputs_and_poll(run_id=run.id, thread_id=thread, tool_outputs=OUTPUTS)  # type: ignore[arg-type]
    assert run.status == "completed"
    steps = runs.steps.list(run.id, thread_id=thread, order="asc").data
    assert [step.type for step in steps] == ["tool_calls", "message_creation"]
    assert runs.steps.retrieve(steps[0].id, thread_id=thread, run_id=run.id) == steps[0]
    [message] = client.beta.threads.messages.list(thread, run_id=run.id)
    assert message.content[0].type == "text"
    assert message.content[0].text.value == "Take a coat."


def test_create_thread_and_run(client: OpenAI, script: Scripts) -> None:
    said = script(ANSWER, ANSWER)
    thread: Any = {"messages": [{"role": "user", "content": "Hello"}]}
    assistant = said.assistant()
    assert (
        client.beta.threads.create_and_run_poll(assistant_id=assistant, thread=thread).status == "completed"
    )
    told = Told()
    with client.beta.threads.create_and_run_stream(
        assistant_id=assistant, thread=thread, event_handler=told
    ) as stream:
        assert "".join(stream.text_deltas) == "Take a coat."


def test_cancel(client: OpenAI, script: Scripts) -> None:
    gate = threading.Event()
    said = script((TextDelta("Once upon"), gate, Finish("stop", usage(1, 1))))
    runs, thread = client.beta.threads.runs, thread_of(client)
    run = runs.create(thread, assistant_id=said.assistant())
    with pytest.raises(openai.BadRequestError, match=f"already has an active run {run.id}"):
        runs.create(thread, assistant_id=run.assistant_id)
    assert runs.cancel(run.id, thread_id=thread).status == "cancelling"
    assert runs.poll(run.id, thread_id=thread).status == "cancelled"


def test_lists_are_paged_through(client: OpenAI, script: Scripts) -> None:
    thread = thread_of(client, "0")
    for number in range(1, 7):
        client.beta.threads.messages.create(
            thread, role="user", content=str(number), metadata={"n": str(number)}
        )
    pages = client.beta.threads.messages.list(thread, limit=3)
    assert [part.text.value for message in pages for part in message.content if part.type == "text"] == list(
        "6543210"
    )
    assert [run for run in client.beta.threads.runs.list(thread)] == []


def test_everything_can_be_changed_and_deleted(client: OpenAI, script: Scripts) -> None:
    said: Script = script(ANSWER)
    assistants, threads = client.beta.assistants, client.beta.threads
    assistant = assistants.create(model=said.name, name="A")
    assert assistants.update(assistant.id, name="B").name == "B"
    assert assistants.retrieve(assistant.id).name == "B"
    assert assistant.id in [listed.id for listed in assistants.list(limit=5).data]
    thread = threads.update(threads.create().id, metadata={"k": "v"})
    message = threads.messages.create(thread.id, role="user", content="Hi")
    assert threads.messages.update(message.id, thread_id=thread.id, metadata={"k": "v"}).metadata == {
        "k": "v"
    }
    run: Run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert threads.runs.update(run.id, thread_id=thread.id, metadata={"k": "v"}).metadata == {"k": "v"}
    assert threads.messages.delete(message.id, thread_id=thread.id).deleted
    assert threads.delete(thread.id).deleted
    assert assistants.delete(assistant.id).deleted


def test_errors_are_its_typed_exceptions(client: OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="No thread found with id 'thread_none'"):
        client.beta.threads.retrieve("thread_none")
    with pytest.raises(openai.BadRequestError) as refused:
        client.beta.assistants.create(model="gpt-4o")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.request_id is not None
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").beta.threads.create()
