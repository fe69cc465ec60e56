"""Hostile text in every field of a run: nothing of it is more than text, wherever a view shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hostile import EVIL_NAME, MARKDOWN_ATTRIBUTES, MARKDOWN_TAGS, hostile_run
from scripted import ScriptedRuns, ScriptedStream, says

from nbruns.snapshot import RunSnapshot
from nbruns.widgets.run_view.transcript import COPY_ANSWER, COPY_NEXT, Transcript, plain_text, to_html
from nbruns.widgets.run_view.view import RunView

#: Every element and attribute that a transcript is made of.
TAGS = MARKDOWN_TAGS | {"style", "details", "summary"}
ATTRIBUTES = MARKDOWN_ATTRIBUTES | {
    *{"role", "open"},
    *{"data-status", "data-since", "data-lm-suppress-shortcuts", "data-jupyter-id", "id"},
}


class Seen(HTMLParser):
    """What HTML has for a browser but text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.styles: set[str] = set()
        self.ids: set[str] = set()
        self.scripts: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.links |= {value or "" for name, value in attributes if name in ("href", "src")}
        self.ids |= {value or "" for name, value in attributes if name in ("id", "data-jupyter-id")}
        self.scripts |= {value or "" for name, value in attributes if name.startswith("on")}
        self.styles |= {value or "" for name, value in attributes if name == "style"}


@pytest.mark.parametrize("ending", ["failed", "incomplete", "requires_action"])
def test_nothing_but_text_comes_of_hostile_text(ending: str) -> None:
    snapshot = RunSnapshot()
    transcript = Transcript()
    for event in hostile_run(ending):  # and at no moment on the way
        snapshot.apply(*event)
        html = to_html(transcript.blocks(snapshot, [("error", EVIL_NAME)], assistant=EVIL_NAME))
    seen = Seen(html)
    assert seen.tags <= TAGS | {"button"}
    ours = {
        "onclick",
        "type",
        "aria-label",
        "data-nbruns-insert",
        "data-nbruns-file",
        "data-nbruns-output",
        "data-error",
    }
    assert seen.attributes <= ATTRIBUTES | ours
    assert seen.scripts <= {COPY_NEXT, COPY_ANSWER}
    assert all(re.match(r"https?://|mailto:|#nbruns-[\w-]+\Z", link) for link in seen.links)
    assert all(
        re.fullmatch(
            r"text-align:\s?(left|right|center);?|width:\d+%"
            r"|margin-left:[\d.]+%;width:max\(2px,[\d.]+%\)",
            style,
        )
        for style in seen.styles
    )
    assert html.count("<style") == 1
    assert html.count("alert(1)") > 200  # all of it is there, as text


def test_no_command_reaches_a_terminal() -> None:
    snapshot = RunSnapshot()
    for event in hostile_run("requires_action"):
        snapshot.apply(*event)
    view = RunView(ScriptedRuns(name=EVIL_NAME), ScriptedStream(*hostile_run()))
    view.wait(10)
    for shown in (plain_text(snapshot), repr(view)):
        assert "pwned" in shown or len(shown) < 500
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
        shown.encode()


def test_half_characters_are_put_together() -> None:
    snapshot = RunSnapshot()
    for event in says("So \ud83d", "\ude00 it is", " \ud83d."):
        snapshot.apply(*event)
    assert Transcript().blocks(snapshot)[1].content == "<p>So 😀 it is \N{REPLACEMENT CHARACTER}.</p>"
