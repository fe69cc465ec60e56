"""A conversation in one view, against a real server."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

import pytest
from eventually import until
from sent import Page, Sent

import nbruns
from nbruns.client import Client
from nbruns.errors import NbrunsError
from nbruns.widgets.run_view.view import RunView

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Light rain in {city}"


def compose(view: RunView, text: str, *files: tuple[str, bytes], **more: Any) -> None:
    """Send a message as the page does: files in pieces first."""
    for number, (_, data) in enumerate(files):
        for start in range(0, max(len(data), 1), 10):
            view._composer._handle_custom_msg({"file": f"k{number}"}, [data[start : start + 10]])
    listed = [{"key": f"k{number}", "name": name} for number, (name, _) in enumerate(files)]
    view._composer._handle_custom_msg({"send": {"text": text, "files": listed, **more}}, [])


def test_what_was_asked_and_what_was_said_before_is_above(client: Client) -> None:
    assistant = client.assistants.create(model="demo")
    thread = client.threads.create(["First <b>question</b>", {"role": "assistant", "content": "An answer"}])
    client.messages.create(thread, "Second question")
    view = client.runs.watch(thread, assistant)
    view.wait(30)
    until(lambda: "Second question" in view.to_html())
    html = view.to_html()
    assert "<summary>2 earlier messages</summary>" in html and "First &lt;b&gt;question" in html
    assert html.index("earlier messages") < html.index("Second question") < html.index("demo model")


def test_the_composer_sends_and_the_same_view_answers(client: Client, sent: Sent) -> None:
    assistant = client.assistants.create(model="demo", tools=[get_weather])
    view = client.chat(assistant, tools=[get_weather])
    assert list(view.children) == [view._composer] and view.run is None
    with pytest.raises(NbrunsError, match="No message has been sent yet"):
        view.wait()
    compose(view, "What should I wear in Oslo?")
    until(lambda: view._composer.sent == 1)
    assert view.wait(30).status == "completed"
    view.send("And in Bergen?").wait(30)
    assert [run.status for run in view.runs] == ["completed", "completed"]
    assert len({run.thread_id for run in view.runs}) == 1
    until(lambda: all("sent/" not in message.id for turn in view._turns for message in turn.question))
    html = view.to_html()
    order = [
        html.index(part)
        for part in ("wear in Oslo?", "Light rain in Oslo", "And in Bergen?", "Light rain in Bergen")
    ]
    assert order == sorted(order)
    assert html.count('class="nbruns-block nbruns-head"') == 1
    texts = list(client.messages.list(view.run.thread_id)["text"])
    assert [text for text in texts if text.endswith("?")] == ["What should I wear in Oslo?", "And in Bergen?"]


def test_a_host_without_outputs_has_all_turns_in_the_transcript(client: Client, sent: Sent) -> None:
    view = client.chat(client.assistants.create(model="demo", tools=[get_weather]), tools=[get_weather])
    page = Page(view.transcript, sent)
    page.open()
    assert page.blocks == {}
    for city in ("Oslo", "Bergen", "Alta"):
        view.send(f"What should I wear in {city}?").wait(30)
    text = "".join(page.texts())
    order = [
        text.index(part) for part in ("in Oslo?", "Light rain in Oslo", "in Bergen?", "Light rain in Alta")
    ]
    assert order == sorted(order) and page.gaps == 0
    assert [text.count(f"wear in {city}?</p>") for city in ("Oslo", "Bergen", "Alta")] == [1, 1, 1]


def test_files_go_to_the_tools_that_read_them_and_images_are_shown(client: Client) -> None:
    assistant = client.assistants.create(model="demo", tools=[{"type": "file_search"}])
    view = client.chat(assistant)
    compose(view, "When is high tide?", ("tides.md", b"High tide is at 14:10."), ("a.png", PNG))
    until(lambda: view._composer.sent == 1)
    view.wait(60)
    until(lambda: "data:image/png;base64," in view.to_html())
    html = view.to_html()
    assert "tides.md" in html and "14:10" in html
    [asked] = view._turns[0].question
    [attached] = asked.attachments or []
    assert attached["tools"] == [{"type": "file_search"}]
    assert [part["type"] for part in asked.content] == ["text", "image_file"]


def test_what_is_refused_stays_in_the_page_with_the_reason(client: Client) -> None:
    view = client.chat(client.assistants.create(model="demo"))
    compose(view, "Read it", ("table.csv", b"a,b"))
    until(lambda: "neither code_interpreter nor file_search" in view._composer.problem)
    assert view._composer.sent == 0 and view.run is None
    compose(view, "Hello", model="no-such-model")
    until(lambda: "no-such-model" in view._composer.problem)
    compose(view, "Hello")
    until(lambda: view._composer.sent == 1)
    assert view.wait(30).status == "completed" and view._composer.problem == ""
    assert [m for m in client.messages.list(view.run.thread_id)["text"] if m == "Hello"] == ["Hello"]


def test_while_a_run_is_active_nothing_is_sent(client: Client) -> None:
    tool = {
        "type": "function",
        "function": {"name": "ask_somebody", "parameters": {"type": "object", "properties": {}}},
    }
    view = client.chat(client.assistants.create(model="demo", tools=[tool]))
    view.send("Ask somebody")
    until(lambda: view.form is not None)
    assert view._composer.busy and view._composer.hidden
    with pytest.raises(NbrunsError, match="has not ended"):
        view.send("Again")
    view.form.calls[0].output = "Nobody is there"
    view.form.submit()
    view.wait(30)
    assert not view._composer.busy and not view._composer.hidden


def test_a_question_is_edited_in_a_fork_and_the_original_stays(client: Client) -> None:
    assistant = client.assistants.create(model="demo", tools=[get_weather])
    view = client.chat(assistant, tools=[get_weather])
    first = view.send("What should I wear in Oslo?").wait(30)
    until(lambda: "sent/" not in view._turns[0].question[0].id)
    compose(view, "What should I wear in Bergen?", edits=view._turns[0].question[0].id)
    until(lambda: view._composer.sent == 1)
    second = view.wait(30)
    assert second.thread_id != first.thread_id
    texts = [list(client.messages.list(run.thread_id)["text"]) for run in (first, second)]
    assert [text[0] for text in texts] == ["What should I wear in Oslo?", "What should I wear in Bergen?"]
    assert "Light rain in Bergen" in view.to_html() and "A fork: asked again" in view.to_html()
    view.send("Thanks").wait(30)
    assert view.run is not None and view.run.thread_id == second.thread_id


def test_an_output_is_edited_in_a_fork(client: Client, sent: Sent) -> None:
    assistant = client.assistants.create(model="demo", tools=[get_weather])
    view = client.chat(assistant, tools=[get_weather])
    first = view.send("What should I wear in Oslo?").wait(30)
    [call] = view.snapshot.tool_calls
    view._composer._handle_custom_msg({"output": call.id}, [])
    [told] = [m["data"]["content"] for m in sent.of(view._composer) if "edit" in m["data"].get("content", {})]
    assert told == {"edit": call.id, "text": "Light rain in Oslo", "name": "get_weather"}
    compose(view, "Heavy snow", edits=call.id)
    until(lambda: view._composer.sent == 1)
    second = view.wait(30)
    assert second.thread_id != first.thread_id
    assert view.snapshot.tool_calls[0].output == "Heavy snow" and "Heavy snow" in view.snapshot.text
    assert "with another output of get_weather" in view.to_html()
    [kept] = client.runs.steps.tool_calls(first)["output"]
    assert kept == "Light rain in Oslo"


def test_an_output_that_a_fork_has_not_used_is_noted(client: Client, sent: Sent) -> None:
    assistant = client.assistants.create(model="demo", tools=[get_weather])
    thread = client.threads.create("What should I wear in Oslo?")
    run = client.runs.watch(thread, assistant, tools=[get_weather], auto=True).wait(30)
    call = next(client.runs.steps.iter(run)).tool_calls[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the view has the note instead
        forked = client.runs.fork_stream(run, outputs={call.id: "Snow"}, tool_choice="none")
        view = client.runs.watch(run=forked)
        assert view.wait(30).status == "completed"
    assert "has not made this call again" in view.to_html() and "get_weather(" in view.to_html()


def saved(view: RunView, sent: Sent, id: str) -> tuple[list[bytes], dict[str, Any]]:
    """Ask for a file as the page does: its slices, and the last message."""
    view._composer._handle_custom_msg({"download": id}, [])
    slices: list[bytes] = []

    def last() -> dict[str, Any] | None:
        given = [
            message for message in sent.of(view._composer) if "slice" in message["data"].get("content", {})
        ]
        mine = [message for message in given if message["data"]["content"]["slice"] == id]
        slices[:] = [buffer for message in mine for buffer in message["buffers"]]
        return next(
            (message["data"]["content"] for message in mine if message["data"]["content"]["ended"]), None
        )

    until(lambda: last() is not None)
    return slices, last() or {}


def test_a_file_goes_to_the_page_in_slices(client: Client, sent: Sent) -> None:
    view = client.chat(client.assistants.create(model="demo"))
    large = client.files.create(bytes(range(256)) * 2500, name="../large.bin")
    slices, last = saved(view, sent, large.id)
    assert b"".join(slices) == bytes(range(256)) * 2500 and max(map(len, slices)) == 262_144
    assert last["name"] == "large.bin"
    assert saved(view, sent, client.files.create(b"", name="empty.txt").id)[0] == [b""]


def test_a_file_that_is_too_large_or_gone_is_refused_in_words(
    client: Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = client.chat(client.assistants.create(model="demo"))
    assert saved(view, sent, "file-none") == ([], {"slice": "file-none", "ended": True})
    assert "Not downloaded." in view._composer.problem and "file-none" in view._composer.problem
    monkeypatch.setattr("nbruns.widgets.run_view.turn.MAX_DOWNLOAD", 10)
    file = client.files.create(b"eleven byte", name="a.bin")
    assert saved(view, sent, file.id)[0] == []
    assert f'client.files.download("{file.id}", ".")' in view._composer.problem


def test_a_run_that_is_told_late_to_have_ended_does_not_end_the_wait_for_the_next(client: Client) -> None:
    view = client.chat(client.assistants.create(model="demo"))
    view.send("What is a run?").wait(30)
    late = view._session
    view.send("What is a thread?")
    view._has_ended(late)
    assert view.wait(30).is_terminal


def test_models_are_listed_when_the_page_asks(client: Client) -> None:
    view = client.chat(client.assistants.create(model="demo"))
    assert view._composer.model == "demo" and view._composer.models == []
    view._composer._handle_custom_msg({"models": True}, [])
    until(lambda: {"demo", "smollm2"} <= set(view._composer.models))


def test_a_thread_that_is_continued_shows_what_was_said(client: Client, page: Any) -> None:
    thread = client.threads.create("An old question")
    view = client.chat(client.assistants.create(model="demo", name="Ada"), thread)
    until(lambda: view._page in view.children)
    opened: Page = page(view._page)
    opened.open()
    assert any("An old question" in text for text in opened.texts()) and any(
        "Ada" in text for text in opened.texts()
    )


def test_images_that_are_none_and_files_of_others_are_named(client: Client, nowhere: nbruns.Client) -> None:
    fake = client.files.create(b"<svg onload=alert(1)>", name="a.png")
    from nbruns.widgets.run_view.turn import file_shown

    assert file_shown(client.files, fake.id) == ("a.png", "")
    assert file_shown(client.files, client.files.create(PNG, name="b.png").id).image.startswith(
        "data:image/png"
    )
    assert (
        json.dumps(file_shown(client.files, client.files.create(PNG * 20_000, name="b.png").id).image) == '""'
    )
