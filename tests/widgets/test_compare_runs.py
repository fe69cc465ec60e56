"""Runs side by side, from a real server and from snapshots."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from scripted import call_json, run_is, says, step_is
from test_transcript import EVIL, folded, text

import nbruns
from nbruns.client import Client
from nbruns.snapshot import RunSnapshot
from nbruns.widgets.run_view.transcript import COPY_NEXT, Transcript

PRICES = {"demo": (1.0, 2.0)}


@nbruns.tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return "light rain"


@pytest.fixture(scope="module")
def runs(client: Client) -> list[nbruns.Run]:
    """A run, the same with another output, and one without tools."""
    assistant = client.assistants.create("demo", tools=[get_weather])
    run = client.runs.wait(
        client.threads.create_and_run(assistant, "What should I wear in Oslo?"), timeout=20
    )
    (call,) = run.tool_calls
    run = client.runs.wait(client.runs.submit_tool_outputs(run, {call.id: "light rain"}), timeout=20)
    other = client.runs.fork(run, outputs={call.id: "heavy snow"})
    brief = {"tool_choice": "none", "response_format": {"type": "json_object"}}
    return [run, other, client.runs.fork(run, **brief)]


def cells(html: str) -> list[list[str]]:
    """The text of each part, row by row, with what is marked in brackets."""
    html = re.sub(r"<mark[^>]*>", "[", html).replace("</mark>", "]")
    rows = re.split(r'<div class="nbruns-side-row[^"]*" role="row">', html)[2:]
    return [
        [text("<i " + cell) for cell in re.split(r'<div class="nbruns-side" role="cell"', row)[1:]]
        for row in rows
    ]


def test_what_differs_is_marked(client: Client, runs: list[nbruns.Run]) -> None:
    compared = nbruns.compare(*runs[:2], client=client, prices=PRICES)
    question, call, answer = cells(compared.to_html())
    assert question == ["user What should I wear in Oslo?"] * 2
    assert [re.sub("(&lt;1|[0-9]+) s", "…", cell) for cell in call] == [
        'get_weather (city="Oslo") → [light rain] … Arguments { "city" : "Oslo" } Output [light rain]',
        'get_weather (city="Oslo") → [heavy snow] … Arguments { "city" : "Oslo" } Output [heavy snow]',
    ]
    assert "[light rain]" in answer[0] and "[heavy snow]" in answer[1]
    assert answer[0].count("[") == answer[1].count("[") == 1


def test_parts_are_aligned_and_absent_ones_shown(client: Client, runs: list[nbruns.Run]) -> None:
    compared = nbruns.compare(runs[2], *runs[:2], client=client, labels=["none", "rain", "snow"])
    rows = cells(compared.to_html())
    assert [[cell.split()[0] for cell in row][:1] for row in rows[:2]] == [["user"], ["–"]]
    assert len(rows) == 3 and all(len(row) == 3 for row in rows)
    assert 'data-label="snow"' in compared.to_html()


def test_what_the_runs_took(client: Client, runs: list[nbruns.Run]) -> None:
    compared = nbruns.compare(*runs, client=client, prices=PRICES)
    frame = compared.frame
    assert list(frame.index) == ["A", "B", "C"] and list(frame["id"]) == [run.id for run in runs]
    usage = runs[0].usage
    assert usage is not None
    assert frame["cost"]["A"] == pytest.approx((usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6)
    table = compared.to_html().partition('<table class="nbruns-took">')[2].partition("</table>")[0]
    named = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert named == ["Duration", "Input tokens", "Output tokens", "Cost"]
    assert table.count("width:100.0%") >= 4
    assert f"{usage.prompt_tokens:,}" in table


def test_unknown_costs_have_no_bar(client: Client, runs: list[nbruns.Run]) -> None:
    compared = nbruns.compare(*runs[:2], client=client, prices={"other": (1.0, 2.0)})
    assert "Cost" not in compared.to_html()
    assert compared.frame["cost"].isna().all()


def test_as_text(client: Client, runs: list[nbruns.Run]) -> None:
    lines = repr(nbruns.compare(*runs[:2], client=client, prices=PRICES)).splitlines()
    assert lines[0] == f"A: {runs[0].id} · completed · demo"
    assert "A = B: user: What should I wear in Oslo?" in lines
    assert 'A: get_weather({"city": "Oslo"}) → [-light rain-]' in lines
    assert 'B: get_weather({"city": "Oslo"}) → {+heavy snow+}' in lines


def test_everything_that_can_be_compared(client: Client, runs: list[nbruns.Run]) -> None:
    run, other, _ = runs
    view = client.runs.watch(run=run)
    view.wait(timeout=20)
    pair = (other.id, other.thread_id)
    frame = client.runs.list([other.thread_id])
    for given in ((view, view.snapshot), (run, pair), (view, frame), (frame, pair)):
        bundle = nbruns.compare(*given, client=client)._repr_mimebundle_()
        assert "Oslo" in bundle["text/plain"] and "Oslo" in bundle["text/html"]
    assert nbruns.compare(view, view.snapshot).frame["status"].tolist() == ["completed"] * 2


def test_what_can_not_be_compared(client: Client, runs: list[nbruns.Run]) -> None:
    snapshot = folded(run_is("completed"))
    with pytest.raises(ValueError, match="at least two runs"):
        nbruns.compare(runs[0], client=client)
    with pytest.raises(ValueError, match="a label for each of the 2 runs"):
        nbruns.compare(snapshot, snapshot, labels=["one"])
    with pytest.raises(TypeError, match="Pass client="):
        nbruns.compare(snapshot, runs[0])
    with pytest.raises(TypeError, match="Compare runs"):
        nbruns.compare(snapshot, "run_1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no run yet"):
        nbruns.compare(snapshot, RunSnapshot())


def test_hostile_runs_are_harmless() -> None:
    def run(output: str, said: str, **fields: Any) -> RunSnapshot:
        call = call_json(EVIL, name=EVIL)
        answered = {**call, "function": {**call["function"], "output": output}}
        return folded(step_is("completed", answered), says(said), run_is("failed", model=EVIL, **fields))

    one, two = run(EVIL, EVIL), run("other", f"**{EVIL}** and $x < y$", last_error={"message": EVIL})
    html = nbruns.compare(one, two, labels=[EVIL, EVIL[::-1]]).to_html()
    assert "<mark" in html
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(html)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in tags)
    scripts = {value for _, attributes in tags for name, value in attributes.items() if name.startswith("on")}
    assert scripts == {COPY_NEXT}
    assert EVIL in [attributes.get("data-label") for _, attributes in tags]
    for snapshot in (one, two):  # marks are all that is added
        for block in [block for block in Transcript().blocks(snapshot) if block.kind != "timeline"]:
            assert block.to_html() in re.sub(r"</?mark[^>]*>", "", html)
    plain = nbruns.compare(run("\x1b[31mred", "x"), two)._repr_mimebundle_()["text/plain"]
    assert "\x1b" not in plain
