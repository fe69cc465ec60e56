"""The live transcript: differences cross the comm, late pages get it all, and traffic grows with the text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from scripted import RUN, call_json, needs, run_is, says, step_is
from sent import Page, Sent
from test_markdown import TEXT

from nbruns.snapshot import RunSnapshot
from nbruns.widgets.blocks import Block, splice
from nbruns.widgets.markdown import MarkdownBlocks
from nbruns.widgets.run_view.transcript import Transcript
from nbruns.widgets.run_view.transcript_view import TranscriptView

OpenPage = Callable[[Any], Page]


def wire(blocks: list[Block]) -> list[list[str]]:
    return [block.to_wire() for block in blocks]


def shown(page: Page) -> list[list[Any]]:
    return [block[1:] for block in page.take().values()]


def streamed(view: TranscriptView, text: str, step: int) -> list[Block]:
    markdown = MarkdownBlocks("m/")
    for end in range(step, len(text) + step, step):
        blocks = markdown.update(text[:end], complete=end >= len(text))
        view.show(blocks)
    return blocks


def test_a_page_shows_what_python_rendered(sent: Sent, page: OpenPage) -> None:
    view = TranscriptView()
    opened = page(view)
    opened.open()
    blocks = streamed(view, TEXT, 7)
    assert shown(opened) == wire(blocks)
    assert opened.gaps == 0


def test_a_page_that_opens_late_shows_all_and_goes_on(sent: Sent, page: OpenPage) -> None:
    view = TranscriptView()
    streamed(view, TEXT[:300], 10)
    late, later = page(view), page(view)
    late.open()
    streamed(view, TEXT[:500], 10)
    later.open()
    blocks = streamed(view, TEXT, 10)
    assert shown(late) == shown(later) == wire(blocks)


def test_a_page_that_missed_messages_asks_and_gets_all(sent: Sent, page: OpenPage) -> None:
    view = TranscriptView()
    opened = page(view)
    opened.open()
    view.show([Block("a", "text", "one")])
    sent.clear()  # lost on the way
    opened._read = 0
    view.show([Block("a", "text", "one two")])
    opened.take()
    assert opened.gaps == 1
    view._handle_custom_msg({"hello": opened.seen}, [])
    assert opened.texts() == ["one two"]


def test_nobody_listening_yet_costs_little_and_loses_nothing(sent: Sent, page: OpenPage) -> None:
    view = TranscriptView()
    deaf = page(view)
    deaf._load(view.get_state("state")["state"])
    text = "word " * 2000
    sent.clear()
    streamed(view, text, 20)
    assert sent.bytes() < 3 * len(text)
    assert deaf.texts() != []  # it shows something all the same


def test_nothing_is_sent_where_nothing_changed(sent: Sent, page: OpenPage) -> None:
    view = TranscriptView()
    page(view).open()
    blocks = [Block("a", "text", "one"), Block("b", "code", "x = 1", "_5", "python")]
    view.show(blocks)
    sent.clear()
    view.show(list(blocks))
    assert sent == []


@pytest.mark.parametrize("message", [None, [], "hello", 5, {}, {"unknown": 1}])
def test_odd_messages_change_nothing(message: Any, sent: Sent) -> None:
    heard: list[str] = []
    view = TranscriptView(on_cancel=lambda: heard.append("cancel"), on_hello=lambda: heard.append("hello"))
    sent.clear()
    view._handle_custom_msg(message, [])
    assert (heard, list(sent), view.is_seen) == ([], [], False)


def test_blocks_that_move_come_or_go_are_told(sent: Sent, page: OpenPage) -> None:
    view = TranscriptView()
    opened = page(view)
    opened.open()
    a, b, c = (Block(key, "text", key) for key in "abc")
    for blocks in ([a, b], [a, c, b], [c, b], [b, c, a], [Block("b", "error", "new kind"), c]):
        view.show(blocks)
        assert shown(opened) == wire(blocks)


def test_splices_make_the_new_text_in_javascripts_counting() -> None:
    from sent import spliced

    letters = random.Random(7)
    for _ in range(500):
        old, new = ("".join(letters.choices("ab😀é", k=letters.randint(0, 12))) for _ in range(2))
        assert spliced(old, *splice(old, new)) == new
    assert splice("<p>one</p>", "<p>one two</p>") == [6, 0, " two"]


@pytest.mark.parametrize("step", [80, 400])
def test_traffic_is_at_most_three_times_the_text(step: int, sent: Sent, page: OpenPage) -> None:
    words = random.Random(3)
    vocabulary = [
        "weather",
        "rain",
        "**Oslo**",
        "`wind`",
        "and",
        "the",
        "model",
        "returns",
        "a",
        "value",
        "for",
        "every",
        "city",
        "over",
        "time",
    ]
    prose = "\n\n".join(" ".join(words.choices(vocabulary, k=80)) for _ in range(20))
    items = "\n".join(f"- {' '.join(words.choices(vocabulary, k=9))}" for _ in range(60))
    table = "| a | b |\n|---|---|\n" + "\n".join(
        f"| {words.random():.5f} | {words.random():.5f} |" for _ in range(40)
    )
    code = (
        "```python\n" + "".join(f"def f{i}(x):\n    return x * {i}  # note\n\n" for i in range(60)) + "```\n"
    )
    text = "\n\n".join([prose, items, table, code, prose])
    view = TranscriptView()
    page(view).open()
    sent.clear()
    streamed(view, text, step)
    assert sent.bytes() < 3 * len(text)


def test_one_long_code_block_is_never_sent_again(sent: Sent, page: OpenPage) -> None:
    code = "```python\n" + "".join(
        f"def function_{i}(x):\n    return x * {i}  # note\n\n" for i in range(900)
    )
    assert len(code) > 40_000
    view = TranscriptView()
    opened = page(view)
    opened.open()
    before = sent.bytes()
    blocks = streamed(view, code, 200)
    assert sent.bytes() - before < 3 * len(code)
    assert shown(opened) == wire(blocks)


def test_traffic_is_linear_in_the_length(sent: Sent, page: OpenPage) -> None:
    def traffic(length: int) -> int:
        view = TranscriptView()
        page(view).open()
        sent.clear()
        streamed(view, "one two three four five " * length, 80)
        return sent.bytes()

    assert traffic(400) < 2.2 * traffic(200)


def test_a_growing_call_is_told_by_its_ends(sent: Sent, page: OpenPage) -> None:
    view, transcript, snapshot = TranscriptView(), Transcript(), RunSnapshot()
    opened = page(view)
    opened.open()
    arguments = '{"city": "Oslo", "note": "' + "so on " * 200 + '"}'
    snapshot.apply(*step_is("in_progress", call_json("")))
    before = sent.bytes()
    for start in range(0, len(arguments), 30):
        delta = {"index": 0, "type": "function", "function": {"arguments": arguments[start : start + 30]}}
        details = {"step_details": {"type": "tool_calls", "tool_calls": [delta]}}
        payload = {"id": "step_1", "object": "thread.run.step.delta", "delta": details}
        snapshot.apply("thread.run.step.delta", payload)
        view.show(transcript.blocks(snapshot))
    assert sent.bytes() - before < 5 * len(arguments)
    assert shown(opened) == wire(transcript.blocks(snapshot))


def test_runs_do_not_mix(sent: Sent, page: OpenPage) -> None:
    views = [TranscriptView() for _ in range(3)]
    pages = [page(view) for view in views]
    for opened in pages:
        opened.open()
    for number, view in enumerate(views):
        view.show([Block("text", "text", f"run {number}")])
    assert [opened.texts() for opened in pages] == [["run 0"], ["run 1"], ["run 2"]]


def test_no_metadata_and_no_keys_are_in_the_state(sent: Sent) -> None:
    view, snapshot = TranscriptView(), RunSnapshot()
    for event in [needs(call_json(), metadata={"secret": "sk-1"}), *says("Hi"), run_is("completed")]:
        snapshot.apply(*event)
    view.show(Transcript().blocks(snapshot))
    assert "sk-1" not in str(view.get_state())
    assert RUN in str(view.get_state("state"))
