"""openai-python's own `client.beta`, against the process that `nbruns serve` is, with the model that comes with it."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AssistantEventHandler, OpenAI

from nbruns.client import Client

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Told(AssistantEventHandler):
    """The text that the handler was told, piece by piece, and the tools that it saw called."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.called: list[str] = []

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.pieces.append(delta.value or "")

    def on_tool_call_done(self, tool_call: Any) -> None:
        self.called.append(tool_call.function.name)


def test_code_written_for_the_original_runs_with_another_base_url(client: Client) -> None:
    openai = OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0, timeout=30)
    runs = openai.beta.threads.runs
    assistant = openai.beta.assistants.create(model="demo", tools=[WEATHER])  # type: ignore[list-item]
    thread = openai.beta.threads.create(messages=[{"role": "user", "content": "What should I wear in Oslo?"}])

    with runs.stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=Told()) as asking:
        asking.until_done()
        run = asking.current_run
    assert run is not None and run.status == "requires_action" and run.required_action is not None
    [call] = run.required_action.submit_tool_outputs.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Oslo"}')

    answered = Told()
    with runs.submit_tool_outputs_stream(
        thread_id=thread.id,
        run_id=run.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "light rain, 3 °C"}],
        event_handler=answered,
    ) as answering:
        answering.until_done()
    assert len(answered.pieces) > 5 and "light rain, 3 °C" in "".join(answered.pieces)

    ended = runs.retrieve(run.id, thread_id=thread.id)
    assert ended.status == "completed" and ended.usage is not None
    assert ended.usage.total_tokens == ended.usage.prompt_tokens + ended.usage.completion_tokens > 0
    newest = openai.beta.threads.messages.list(thread.id).data[0]
    assert newest.content[0].text.value == "".join(answered.pieces)  # type: ignore[union-attr]
    ours = client.runs.retrieve(run.id, thread.id)
    assert ours.to_dict()["usage"]["total_tokens"] == ended.usage.total_tokens
