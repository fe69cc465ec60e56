"""A run as blocks: in order, in plain words, and harmless whatever is in it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from scripted import call_json, needs, run_is, run_json, says, step_is
from test_markdown import assert_harmless

from nbruns.snapshot import RunSnapshot
from nbruns.widgets.run_view.transcript import COPY_ANSWER, COPY_NEXT, STYLE, Transcript, copy_button, to_html

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`&"


def folded(*events: Any) -> RunSnapshot:
    snapshot = RunSnapshot()
    for event in events:
        for name, payload in event if isinstance(event, list) else [event]:
            snapshot.apply(name, payload)
    return snapshot


def blocks(*events: Any) -> dict[str, str]:
    return {block.key: block.content for block in Transcript().blocks(folded(*events))}


def text(html: str) -> str:
    return " ".join(
        re.sub(r"<style>.*?</style>|<button.*?</button>|<[^>]*>", " ", html, flags=re.DOTALL).split()
    )


def recorded_events(exchanges: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for exchange in exchanges:
        if isinstance(exchange["body"], str):
            for lines in exchange["body"].strip().split("\n\n"):
                name, data = (line.partition(": ")[2] for line in lines.split("\n"))
                events += [] if name == "done" else [(name, json.loads(data))]
    return events


def test_the_recorded_run_reads_from_top_to_bottom(recorded: dict[str, list[dict[str, Any]]]) -> None:
    snapshot = folded(recorded_events(recorded["stream_tool_call"]))
    html = to_html(Transcript().blocks(snapshot))
    assert text(html) == (
        "completed · gpt-4o · 5 s · 598 tokens · run_oyfV44CrJXYJkvb2qsd80LvJ "
        "get_current_weather () → warm and sunny 1 s Arguments {} Output warm and sunny "
        + snapshot.text
        + " 2 steps · 5 s · 598 tokens · $0.0019 get_current_weather 1 s answer 1 s"
    )


@pytest.mark.parametrize("scenario", ["stream_run", "stream_file_search"])
def test_every_recorded_stream_has_a_transcript(
    scenario: str, recorded: dict[str, list[dict[str, Any]]]
) -> None:
    events = recorded_events(recorded[scenario])
    live, snapshot = Transcript(), RunSnapshot()
    for name, payload in events:
        snapshot.apply(name, payload)
        shown = live.blocks(snapshot)
    assert to_html(shown) == to_html(Transcript().blocks(folded(events)))
    assert len({block.key for block in shown}) == len(shown)


def test_recorded_code_interpreter_steps_show_code_and_name_images(recorded: dict[str, Any]) -> None:
    steps = [
        step
        for exchange in recorded["run_steps_code_interpreter"]
        if "/steps" in exchange["path"]
        for step in exchange["body"]["data"]
    ]
    shown = text(
        to_html(Transcript().blocks(folded(*[("thread.run.step.completed", step) for step in steps])))
    )
    assert "code_interpreter" in shown
    assert "LinearRegression" in shown
    images = re.findall(r"file_id\": \"(\S+?)\"", json.dumps([step["step_details"] for step in steps]))
    assert images
    assert all(f"[image: {image}]" in shown for image in images)


def test_steps_and_messages_stand_in_the_order_in_which_they_happened() -> None:
    writing = {"type": "message_creation", "message_creation": {"message_id": "msg_1"}}
    shown = blocks(
        step_is("in_progress", call_json(), id="step_1"),
        ("thread.run.step.created", {"id": "step_2", "object": "thread.run.step", "step_details": writing}),
        says("First."),
        step_is("in_progress", call_json(id="call_2"), id="step_3"),
        says("Last.", id="msg_2"),
    )
    assert list(shown) == ["head", "call/call_1", "msg_1/0", "call/call_2", "msg_2/0"]


def test_arguments_show_as_they_stream() -> None:
    def call(arguments: str) -> str:
        return text(blocks(step_is("in_progress", call_json(arguments)))["call/call_1"])

    assert call('{"ci') == 'get_weather (…) called Arguments { "ci'
    assert call('{"city": "Oslo"}') == 'get_weather (city="Oslo") called Arguments { "city" : "Oslo" }'


def test_a_call_says_that_it_waits_and_how_long_it_took() -> None:
    waiting = blocks(step_is("in_progress", call_json()), needs(call_json()))
    assert "awaiting output" in waiting["call/call_1"]
    assert "awaiting output" in blocks(needs(call_json()))["call/call_1"]  # a server that sends no steps
    answered = call_json()
    answered["function"]["output"] = "12 °C"
    done = blocks(step_is("completed", answered, created_at=100, completed_at=165))
    assert text(done["call/call_1"]) == (
        'get_weather (city="Oslo") → 12 °C 1 min 05 s Arguments { "city" : "Oslo" } Output 12 °C'
    )


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            run_is("failed", last_error={"code": "rate_limit_exceeded", "message": "Slow down."}),
            "The run failed: Slow down. (rate_limit_exceeded)",
        ),
        (run_is("failed"), "The run failed."),
        (
            run_is("incomplete", incomplete_details={"reason": "max_completion_tokens"}),
            "The answer was cut off: the run reached max_completion_tokens.",
        ),
        (run_is("incomplete", incomplete_details={"reason": "odd"}), "The run ended incomplete: odd"),
        (run_is("cancelled"), "The run was cancelled."),
        (run_is("expired"), "The run expired before it was completed"),
    ],
)
def test_endings_are_told_in_plain_words(event: Any, words: str) -> None:
    assert text(blocks(event)["ending"]).startswith(words)


def test_a_completed_run_needs_no_words() -> None:
    assert list(blocks(run_is("completed"))) == ["head"]


def test_images_and_cited_files_are_named() -> None:
    content = [
        {"type": "image_file", "image_file": {"file_id": "file-chart"}},
        {
            "type": "text",
            "text": {
                "value": "See [0].",
                "annotations": [
                    {"type": "file_citation", "text": "[0]", "file_citation": {"file_id": "file-book"}}
                ],
            },
        },
    ]
    message = {"id": "msg_1", "object": "thread.message", "status": "completed", "role": "assistant"}
    shown = blocks(("thread.message.completed", message | {"content": content}))
    assert text(shown["msg_1/files"]) == "[image: file-chart] [[0] file-book]"


ODD: list[Any] = [None, 5, "x", ["y"], {"type": 7}]


def test_what_no_server_should_send_takes_nothing_from_what_it_says() -> None:
    code = {"input": "1 + 1", "outputs": [*ODD, {"type": "logs", "logs": "two"}]}
    call = {"id": "call_1", "type": "code_interpreter", "code_interpreter": code}
    content = [*ODD, {"type": "text", "text": {"value": "It is 2.", "annotations": ODD}}]
    message = {"id": "msg_1", "object": "thread.message", "status": "completed", "role": "assistant"}
    for odd in ODD[1:]:
        shown = blocks(
            step_is("failed", call, last_error=odd),
            ("thread.message.completed", message | {"content": content}),
            run_is("failed", last_error=odd),
        )
        assert "two" in text(shown["call/call_1"])
        assert "It is 2." in "".join(shown.values())
        assert text(shown["step_1/error"]) == "This step failed."
        assert text(shown["ending"]) == "The run failed."


def evil_events() -> list[Any]:
    """Hostile text in every field that a transcript shows."""
    call = {"id": EVIL, "type": "function", "function": {"name": EVIL, "arguments": EVIL, "output": EVIL}}
    odd = {"id": "odd", "type": EVIL, EVIL: {"x": EVIL}}
    code = {
        "type": "code_interpreter",
        "code_interpreter": {"input": EVIL, "outputs": [{"type": "logs", "logs": EVIL}]},
    }
    image = {"id": "i", "type": "code_interpreter"}
    image["code_interpreter"] = {"outputs": [{"type": "image", "image": {"file_id": EVIL}}]}
    search = {
        "id": "s",
        "type": "file_search",
        "file_search": {"results": [{"file_name": EVIL, "score": 0.5}]},
    }
    error = {"code": EVIL, "message": EVIL}
    run = {"model": EVIL, "id": EVIL, "thread_id": EVIL, "assistant_id": EVIL, "last_error": error}
    return [
        ("thread.run.failed", run_json("failed") | run),
        step_is("failed", call, odd, {"id": "c"} | code, image, search, last_error=error),
        says(EVIL, complete=False),
        says("```" + EVIL.replace("`", "") + "\n" + EVIL, id="msg_2"),
        ("error", {"error": {"message": EVIL, "code": EVIL}}),
    ]


def test_hostile_text_is_harmless_in_every_field() -> None:
    shown = Transcript().blocks(folded(*evil_events()), notes=[("error", EVIL)])
    html = to_html(shown).replace(STYLE, "")
    for block in shown:
        assert "<script" not in block.to_html()
        assert "<img" not in block.to_html()
    for ours in (COPY_NEXT, COPY_ANSWER):  # the only scripts, in which is nothing of the run
        html = html.replace(copy_button(ours), "").replace(copy_button(ours, "Copy answer"), "")
    html = re.sub(
        r'<button type="button" class="nbruns-act" (data-nbruns-insert title="[^"]*">Insert as cell'
        r'|data-nbruns-file="[^"]*" aria-label="[^"]*">Download'
        r'|data-nbruns-output="[^"]*" title="[^"]*">Change)</button>',
        "",
        html,
    )
    outside_our_tags = re.sub(r"<(/?(details|summary|style)( open)?)>", "", html)
    outside_our_tags = re.sub(
        r' (data-status|data-since|role|tabindex|aria-label)="[^"]*"', "", outside_our_tags
    )
    assert_harmless(outside_our_tags)
    assert html.count("alert(1)") >= 12  # it is there, as text


def test_an_unknown_status_is_shown_and_can_not_break_out() -> None:
    head = blocks(run_is('odd" onclick="alert(1)'))["head"]
    assert 'onclick="' not in head
    assert "odd&quot; onclick=" in head


def test_saved_html_needs_nothing_from_outside() -> None:
    html = to_html(Transcript().blocks(folded(run_is("completed"), says("Hello"))))
    assert html.count("<style>") == 1
    assert not re.search(r"https?:|url\(|@import|<script|<link", html)


def test_saved_html_is_shown_whole() -> None:
    html = to_html(Transcript().blocks(folded(run_is("completed"), says("Hello")))).replace(STYLE, "")
    assert 'class="nbruns-scroll"' not in html


def refuses(*pieces: str) -> list[Any]:
    """The events of a message that is a refusal."""
    known = {"id": "msg_1", "object": "thread.message", "role": "assistant", "content": []}
    deltas = [
        {
            "id": "msg_1",
            "object": "thread.message.delta",
            "delta": {"content": [{"index": 0, "type": "refusal", "refusal": piece}]},
        }
        for piece in pieces
    ]
    return [("thread.message.created", known), *(("thread.message.delta", delta) for delta in deltas)]


def test_a_refusal_is_told_from_an_answer() -> None:
    shown = Transcript().blocks(folded(refuses("I cannot ", EVIL), run_is("completed")))
    (refusal,) = [block for block in shown if block.kind == "refusal"]
    assert text(refusal.to_html()).startswith("The model refused I cannot &lt;script&gt;")
    assert [block.kind for block in shown] == ["head", "refusal"]


def test_an_incomplete_run_is_neither_an_error_nor_a_success() -> None:
    details = {"reason": "max_completion_tokens"}
    shown = Transcript().blocks(folded(says("A co"), run_is("incomplete", incomplete_details=details)))
    assert [block.kind for block in shown] == ["head", "text", "caution"]
    assert "max_completion_tokens" in shown[-1].content
    sheet = re.findall(r'data-status="incomplete"\] \{([^}]*)\}', STYLE)
    assert sheet == [" --nb-status: var(--nb-warn); "]
