"""A conversation as Markdown and JSON."""

from __future__ import annotations

import json
from typing import Any

from scripted import call_json, needs, run_is, says, step_is
from test_transcript import folded

import nbruns
from nbruns.objects import Message
from nbruns.widgets.markdown import markdown_html
from nbruns.widgets.run_view.details import details_of, to_json, to_markdown

ASKED = Message(
    {
        "id": "msg_0",
        "role": "user",
        "content": [
            {"type": "text", "text": {"value": "What should I *wear*?"}},
            {"type": "image_file", "image_file": {"file_id": "file-1"}},
        ],
        "attachments": [{"file_id": "file-2"}],
    }
)


def answered(call: dict[str, Any], output: str) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "output": output}}


def test_as_markdown() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 1234}
    done = run_is("completed", created_at=10, completed_at=13, usage=usage)
    snapshot = folded(step_is("completed", answered(call_json(), "Light rain")), says("A coat."), done)
    assert to_markdown([details_of(snapshot, [ASKED])], "Wardrobe") == (
        "## User\n\nWhat should I *wear*?\n\n[image: file-1] [file: file-2]\n\n"
        '### Call of `get_weather`\n\n```json\n{"city": "Oslo"}\n```\n\nOutput:\n\n```\nLight rain\n```\n\n'
        "## Wardrobe\n\nA coat.\n\n"
        "*completed · demo · 3 s · 1,234 tokens · run_1*\n"
    )


def test_a_call_without_output_and_a_run_that_has_said_nothing() -> None:
    text = to_markdown([details_of(folded(step_is("in_progress", call_json()), needs(call_json())))])
    assert text.endswith("```\n\n*No output yet*\n\n*requires action · demo · run_1*\n")


def test_code_and_its_logs() -> None:
    detail = {
        "input": "print(1)",
        "outputs": [{"type": "logs", "logs": "1"}, {"type": "image", "image": {}}, "odd"],
    }
    call = {"id": "call_1", "type": "code_interpreter", "code_interpreter": detail}
    text = to_markdown([details_of(folded(step_is("completed", call), run_is("completed")))])
    assert "```python\nprint(1)\n```\n\nOutput:\n\n```\n1\n```" in text


def test_no_output_and_no_name_gets_out_of_its_place() -> None:
    output = "```\n# Not a heading\n````"
    call = answered(call_json("{}", name="a`*b*\n# c"), output)
    text = to_markdown([details_of(folded(step_is("completed", call), run_is("completed")))], "x\n# y")
    html = markdown_html(text)
    assert html.count("<h1") == 0 and html.count("<h3") == 1
    assert "# Not a heading" in html


def test_as_json() -> None:
    snapshot = folded(step_is("completed", call_json()), says("A coat."), run_is("completed"))
    (told,) = json.loads(to_json([details_of(snapshot, [ASKED])]))
    assert told["run"] == snapshot.run.to_dict()  # type: ignore[union-attr]
    assert told["questions"] == [ASKED.to_dict()]
    assert [told["steps"], told["messages"]] == [
        [each.to_dict() for each in objects] for objects in (snapshot.steps, snapshot.messages)
    ]


def test_a_view_writes_its_conversation(client: nbruns.Client) -> None:
    assistant = client.assistants.create("demo", name="Wardrobe")
    thread = client.threads.create("Hello")
    view = client.runs.watch(thread, assistant, response_format={"type": "json_object"})
    run = view.wait(timeout=20)
    text = view.to_markdown()
    assert text.startswith("## User\n\nHello\n\n## Wardrobe\n\n{") and text.endswith(f"{run.id}*\n")
    assert view.snapshot.text in text
    (told,) = json.loads(view.to_json())
    assert told["run"] == client.runs.retrieve(run).to_dict()
    assert [told["questions"], told["messages"]] == [
        [each.to_dict()] for each in client.messages.iter(thread)
    ]
