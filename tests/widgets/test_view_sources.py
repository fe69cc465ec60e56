"""What a file search has found, and footnotes: in the view, in plain text, live and saved, whatever is in them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from scripted import run_is, says, step_is
from socket_server import SocketServer, answer
from test_transcript import EVIL, folded, recorded_events, text

import nbruns
from nbruns.client.runs import PASSAGES
from nbruns.objects import RunStep
from nbruns.snapshot import RunSnapshot
from nbruns.widgets.run_view.details import fetch_details
from nbruns.widgets.run_view.sources import MAX_NAME, MAX_PASSAGE, MAX_RESULTS
from nbruns.widgets.run_view.transcript import Transcript, plain_text, to_html
from nbruns.widgets.runs_table.details import to_wire


def found(name: str, passage: str | None = None, score: Any = 0.5, id: str = "") -> dict[str, Any]:
    content = {} if passage is None else {"content": [{"type": "text", "text": passage}]}
    return {"file_id": id or f"file-{name}", "file_name": name, "score": score, "attributes": {}, **content}


def search(*results: dict[str, Any], queries: Any = None, id: str = "call_1") -> dict[str, Any]:
    asked = {} if queries is None else {"queries": queries}
    return {"id": id, "type": "file_search", "file_search": {**asked, "results": list(results)}}


def cites(value: str, *annotations: dict[str, Any], id: str = "msg_1") -> tuple[str, dict[str, Any]]:
    content = [{"type": "text", "text": {"value": value, "annotations": list(annotations)}}]
    known = {"id": id, "object": "thread.message", "role": "assistant", "status": "completed"}
    return "thread.message.completed", known | {"content": content}


def cited(mark: str, **detail: Any) -> dict[str, Any]:
    return {"type": "file_citation", "text": mark, "file_citation": detail}


def shown(*events: Any) -> dict[str, str]:
    return {block.key: block.content for block in Transcript().blocks(folded(*events))}


def opened(html: str) -> dict[str, str]:
    """What each footnote of a page leads to: its text by the text of the link."""
    links = re.findall(r'<a href="#(nbruns-[A-Za-z0-9-]+)"[^>]*>(.*?)</a>', html)
    return {
        label: text(html.partition(f' id="{id}"')[2].partition(">")[2].partition("</div>")[0])
        for id, label in links
    }


def test_a_search_shows_its_queries_and_the_files_with_scores_and_passages() -> None:
    call = search(
        found("a.md", "# Tides\nHigh at 14:10.", 0.75), found("b.md", score=1), queries=["tide", "Bergen"]
    )
    done = step_is("completed", call, created_at=1, completed_at=3)
    html = shown(done)["call/call_1"]
    assert text(html) == (
        'file_search ("tide", "Bergen") 2 results · 2 s Queries tide Bergen Found '
        "a.md Tides High at 14:10. 0.75 # Tides High at 14:10. b.md 1.00"
    )
    assert html.count('<details class="nbruns-source">') == 1  # nothing to unfold without a passage


def test_a_search_without_results_says_so_and_one_that_goes_on_does_not() -> None:
    assert "no results" in shown(step_is("completed", search(), created_at=1, completed_at=1))["call/call_1"]
    assert text(shown(step_is("in_progress", search()))["call/call_1"]) == "file_search called"


def test_the_recorded_answer_has_a_footnote_that_leads_to_the_recorded_passage(
    recorded: dict[str, list[dict[str, Any]]],
) -> None:
    snapshot = folded(recorded_events(recorded["stream_file_search"]))
    html = to_html(Transcript().blocks(snapshot))
    assert "Filip's favorite food is cake[1]." in unescape(re.sub("<[^>]*>", "", html))
    assert opened(html) == {"[1]": text(snapshot.tool_calls[0].results[0]["content"][0]["text"])}
    assert plain_text(snapshot).splitlines()[1:] == [
        "file_search()",
        "Filip's favorite food is cake[1].",
        "[1] favorite_foods.txt: The favorite food of several people: - Summanus Ferdinand: tacos - Tekakwitha Effie: "
        "pizza - Filip Carola: cake",
    ]


def test_marks_are_numbered_as_they_appear_and_lead_to_what_they_name() -> None:
    calls = (
        search(found("a.md", "first"), found("b.md", "second")),
        search(found("a.md", "third"), found("c.md", "fourth"), id="call_2"),
    )
    said = cites("B【0:1†b.md】, C【1:1†c.md】 and B again【0:1†b.md】, elsewhere counted【7:0†a.md】.")
    shown_html = shown(step_is("completed", *calls), said)
    html = "".join(shown_html.values())
    assert text(shown_html["msg_1/0"]) == "B [1] , C [2] and B again [1] , elsewhere counted [3] ."
    assert opened(html) == {"[1]": "second", "[2]": "fourth", "[3]": "first"}


def test_the_file_that_an_annotation_names_decides() -> None:
    call = search(found("a.md", "by place", id="file-1"), found("b.md", "by file", id="file-2"))
    html = "".join(
        shown(
            step_is("completed", call), cites("X【0:0†source】", cited("【0:0†source】", file_id="file-2"))
        ).values()
    )
    assert opened(html) == {"[1]": "by file"} and "b.md" in html


def test_without_passages_the_footnote_leads_to_the_name() -> None:
    mark = "【4:0†a.md】"
    bare = shown(
        step_is("completed", search(found("a.md", id="file-1"))),
        cites(f"X{mark}", cited(mark, file_id="file-1")),
    )
    assert text(bare["msg_1/sources"]) == "Sources [1] a.md 0.50"
    azure = shown(
        cites(f"X{mark}", cited(mark, file_id="file-1", quote="the quote"))
    )  # no step tells the results
    assert opened("".join(azure.values())) == {"[1]": "the quote"}
    page = {
        "type": "url_citation",
        "text": mark,
        "url_citation": {"url": "https://a.example", "title": "A page"},
    }
    assert '<a href="https://a.example" target="_blank"' in shown(cites(f"X{mark}", page))["msg_1/sources"]


def test_a_mark_that_names_nothing_found_says_so_when_the_answer_is_complete() -> None:
    said = says("X【9:9†no.md】")
    assert "not among the results" in shown(said)["msg_1/sources"]
    assert "not among the results" not in shown(said[:-1])["msg_1/sources"]


def test_a_link_to_a_file_that_was_written_becomes_a_footnote() -> None:
    path = "sandbox:/mnt/data/größe a_b.csv".replace(" ", "_")
    written = {"type": "file_path", "text": path, "file_path": {"file_id": "file-7"}}
    blocks = shown(cites(f"[Download it]({path}).", written))
    assert text(blocks["msg_1/0"]) == "Download it [1] ."
    assert text(blocks["msg_1/sources"]) == "Sources [1] größe_a_b.csv"
    assert "sandbox:" not in "".join(blocks.values())
    assert "[Download it][1]." in plain_text(folded(cites(f"[Download it]({path}).", written)))


def test_marks_in_code_stay_what_they_are() -> None:
    blocks = shown(cites("`【0:0†a.md】`\n\n```\n【0:0†a.md】\n```\n"))
    assert blocks["msg_1/0"] == "<p><code>【0:0†a.md】</code></p>"
    assert blocks["msg_1/1"] == "【0:0†a.md】"


def test_a_half_mark_is_hidden_and_the_live_view_ends_as_the_saved_one() -> None:
    value = "Tide【0:0†a_b*c*.md】 and *more【0:1†x.md】*. Not 【this】."
    live, snapshot = (
        Transcript(),
        folded(step_is("completed", search(found("a_b*c*.md", "p"), found("x.md", "q")))),
    )
    for event in says(*value):
        snapshot.apply(*event)
        blocks = live.blocks(snapshot)
        assert not re.search(r"†|【\d", "".join(block.content for block in blocks if block.kind == "text"))
    assert to_html(blocks) == to_html(Transcript().blocks(snapshot))
    assert text(blocks[2].content) == "Tide [1] and more [2] . Not 【this】."


def test_hostile_names_passages_and_marks_are_only_text() -> None:
    mark, bidi = f"【0:0†{EVIL}】", "a\u202egpj.exe"
    call = search(
        found(EVIL, EVIL, score=EVIL, id=EVIL), found(bidi, bidi, score=float("inf")), queries=[EVIL, bidi, 5]
    )
    evil_id = 'm"><script>alert(1)</script>'
    events = (step_is("completed", call), cites(f"X{mark}", cited(mark, file_id=EVIL), id=evil_id))
    html = "".join(block.to_html() for block in Transcript().blocks(folded(*events)))
    assert "<script" not in html and "<img" not in html and "\u202e" not in html
    assert html.count("alert(1)") >= 5
    assert re.search(r'<a href="#nbruns-m---script-alert-1---script--1"', html)
    assert "\u202e" not in plain_text(folded(*events))


def test_what_is_shown_is_bounded() -> None:
    call = search(*[found("n" * 1000, "p" * 100_000)] * (MAX_RESULTS + 3))
    marks = "".join(f"【0:{at}†x】" for at in range(1000))
    html = "".join(shown(step_is("completed", call), cites(marks)).values())
    assert "… and 3 more" in html and f"… {100_000 - MAX_PASSAGE:,} more characters" in html
    assert "n" * MAX_NAME not in html
    assert html.count('href="#nbruns-') == 200


@pytest.fixture(scope="module")
def searched(client: nbruns.Client) -> nbruns.Run:
    """A run that has searched a file and cites it, made without asking for passages."""
    store = client.vector_stores.create(b"High tide in Bergen is at 14:10.", progress=False)
    assistant = client.assistants.create(
        model="demo",
        tools=[{"type": "file_search"}],
        tool_resources={"file_search": {"vector_store_ids": [store.id]}},
    )
    thread = client.threads.create("When is high tide in Bergen?")
    with client.runs.create_stream(thread, assistant) as stream:
        return stream.until_done()


def test_the_view_asks_for_passages_and_the_table_does(client: nbruns.Client, searched: nbruns.Run) -> None:
    view = client.runs.watch(run=searched)
    view.wait(timeout=30)
    passage = "High tide in Bergen is at 14:10."
    assert opened(view.to_html()) == {"[1]": passage}
    assert [call.arguments for call in view.snapshot.tool_calls] == [
        '{"queries": ["When is high tide in Bergen?"]}'
    ]
    details = fetch_details(client.runs, client, searched.id, searched.thread_id)
    assert opened(dict(to_wire(details)["sections"])["Transcript"]) == {"[1]": passage}


def test_a_server_that_does_not_send_passages_is_asked_once(
    client: nbruns.Client, searched: nbruns.Run
) -> None:
    [step, *_] = [step for step in client.runs.steps.iter(searched) if step.tool_calls]
    assert "content" not in step.tool_calls[0].results[0]
    refusal = answer(
        {"error": {"message": "Unknown parameter: 'include[]'.", "param": "include[]"}}, status=400
    )
    with SocketServer(refusal) as server:
        other = nbruns.Client(server.url, "key", max_retries=0)
        assert other.runs.steps.with_passages(step) is step
        assert len(server.received) == 1
    full = client.runs.steps.with_passages(step)
    assert full.tool_calls[0].results[0]["content"] and client.runs.steps.with_passages(full) is full
    other_step = RunStep({**step.to_dict(), "step_details": {"tool_calls": []}})
    assert client.runs.steps.with_passages(other_step) is other_step


def test_searches_are_a_frame_with_a_row_for_each_result(client: nbruns.Client, searched: nbruns.Run) -> None:
    frame = client.runs.steps.searches(searched)
    [row] = frame.to_dict("records")
    assert (row["queries"], row["rank"], row["filename"]) == (["When is high tide in Bergen?"], 1, "file.txt")
    assert row["text"] == "High tide in Bergen is at 14:10." and 0 < row["score"] <= 1
    assert (row["run_id"], row["thread_id"]) == (searched.id, searched.thread_id)
    bare = client.runs.steps.searches(searched, include=None)
    assert list(bare["text"]) == [""] and dict(bare.dtypes) == dict(frame.dtypes)
    calls = client.runs.steps.tool_calls([searched], include=[PASSAGES])
    [call] = calls.to_dict("records")
    assert (call["n_results"], call["files"], call["top_score"]) == (1, ["file.txt"], row["score"])
    assert call["arguments"] == {"queries": ["When is high tide in Bergen?"]}
    assert call["results"][0]["content"][0]["text"] == row["text"]


def test_a_run_that_is_followed_in_an_odd_state_is_shown() -> None:
    snapshot = RunSnapshot()
    for event in (run_is("in_progress"), step_is("completed", search(found("a.md", "x"), "odd", None))):  # type: ignore[arg-type]
        snapshot.apply(*event)
    assert "1 result ·" in to_html(Transcript().blocks(snapshot))
