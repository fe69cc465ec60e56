"""RunsTable without a browser: traits in, traits out, and the messages that a page would send and get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import traitlets
from eventually import until
from kernel_cells import Cells, kernel
from runs_page import ask, opened
from scripted import run_json
from sent import Sent

import nbruns
from nbruns.objects import Run
from nbruns.widgets.runs_table.table import MAX_ROWS_PER_RESPONSE, RunsTable

UNTIL = datetime(2026, 11, 20, 18, tzinfo=UTC)


RUNS = 600


EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nbruns.Client]:
    """A client of a server with 600 runs, all ended."""
    with closing(nbruns.local(tmp_path_factory.mktemp("runs"), idle_timeout=120)) as client:
        client.server.add_history(RUNS, until=UNTIL, seed=7)
        yield client
        client.server.stop()


@pytest.fixture
def table(client: nbruns.Client, sent: Sent) -> RunsTable:
    table = RunsTable(client)
    table.wait(30)
    return table


def test_all_runs_newest_first(table: RunsTable, client: nbruns.Client) -> None:
    assert list(table.frame["id"]) == list(client.runs.list()["id"])
    assert len(table.frame) == table._facts["all"] == table._facts["shown"] == RUNS
    assert table._facts["state"] == "ready" and table.selected == []


def test_the_filter_is_in_the_traits(table: RunsTable) -> None:
    everything = table.frame
    table.status = "failed"  # a single name will do
    assert table.status == ["failed"]
    assert set(table.frame["status"]) == {"failed"}
    table.status = {"failed", "incomplete"}
    assert len(table.frame) == everything["status"].isin(["failed", "incomplete"]).sum()
    table.status = []
    table.model, table.text = ["gpt-4o"], "RATE limit"
    assert len(table.frame) == everything["error_code"].eq("rate_limit_exceeded").sum() > 0
    table.model, table.text = [], ""
    table.since = UNTIL - timedelta(days=2)
    assert len(table.frame) == (everything["created_at"] >= UNTIL - timedelta(days=2)).sum() > 0
    assert table.since == "2026-11-18T18:00:00"
    table.since = timedelta(days=36500)  # for so long
    assert len(table.frame) == RUNS
    table.since = timedelta(seconds=1)
    assert len(table.frame) == 0 and table.since == "1s"
    table.since, table.until = None, "2026-11-01"
    assert table.frame["created_at"].max() < datetime(2026, 11, 1, tzinfo=UTC)


def test_the_order_is_in_a_trait(table: RunsTable) -> None:
    table.sort = "duration"
    assert table.frame["duration"].dropna().is_monotonic_increasing
    table.sort = "-total_tokens"
    assert table.frame["total_tokens"].dropna().is_monotonic_decreasing


@pytest.mark.parametrize(
    ("trait", "value", "words"),
    [
        ("sort", "colour", "use one of created_at"),
        ("since", "soon", "Use '2026-11-01'"),
        ("until", "9 x", "is not a time"),
        ("sort", "answer", "use one of created_at"),
        ("columns", ["id", "colour"], "no column 'colour'. Choose from created_at"),
        ("columns", [], "at least one"),
        ("timezone", "Europe/Nowhere", "is not a time zone"),
        ("timezone", "../etc", "is not a time zone"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    table: RunsTable, trait: str, value: str, words: str
) -> None:
    before = getattr(table, trait)
    with pytest.raises(traitlets.TraitError, match=words):
        setattr(table, trait, value)
    assert getattr(table, trait) == before
    assert len(table.frame) == RUNS


def test_a_page_gets_only_the_rows_that_it_asks_for(table: RunsTable, sent: Sent) -> None:
    (answer,) = ask(table, sent, rows=[table._version, 100, 150])
    assert answer["start"] == 100 and len(answer["rows"]) == 50
    assert [row[-1] for row in answer["rows"]] == list(table.frame["id"][100:150])
    assert all(len(row) == len(table.columns) + 1 for row in answer["rows"])
    (greedy,) = ask(table, sent, rows=[table._version, 0, 10**9])
    assert len(greedy["rows"]) == MAX_ROWS_PER_RESPONSE


def test_a_page_that_is_behind_gets_nothing_wrong(table: RunsTable, sent: Sent) -> None:
    old = table._version
    table.status = ["failed"]
    assert ask(table, sent, rows=[old, 0, 10]) == []
    ask(table, sent, choose=[old, 0, 5])
    assert table.selected == []


def test_the_state_does_not_grow_with_the_runs(table: RunsTable) -> None:
    state = {name: value for name, value in table.get_state().items() if name not in ("_esm", "_css")}
    assert len(str(state)) < 5000


def test_runs_are_selected_by_the_range(table: RunsTable, sent: Sent) -> None:
    ask(table, sent, choose=[table._version, 7, 5])
    assert [run.id for run in table.selected] == list(table.frame["id"][5:8])
    assert all(isinstance(run, Run) and run.usage for run in table.selected)


def test_opening_a_run_shows_all_there_is(table: RunsTable, client: nbruns.Client) -> None:
    table.model, table.status = "gpt-4.1", "completed"
    run = next(
        client.runs.retrieve(id, thread)
        for id, thread in zip(table.frame["id"], table.frame["thread_id"], strict=True)
    )
    table.open_run(run)
    sections = opened(table, run.id)
    assert list(sections) == ["Transcript", "Steps", "Tool calls", "Usage", "JSON"]
    messages = [*client.messages.iter(run.thread_id, order="asc")]
    answer = next(message for message in messages if message.run_id == run.id)
    assert ">user<" in sections["Transcript"]
    assert answer.text.split()[0].strip("*|") in sections["Transcript"]
    steps = client.runs.steps.list(run)
    assert sections["Steps"].count("<tr>") == 1 + len(steps)
    assert sections["Tool calls"].count("<details") == sum(map(len, steps["tool_names"]))
    assert f"{run.usage.total_tokens:,}" in sections["Usage"]
    assert run.assistant_id in sections["JSON"]
    assert table.selected == [run]


def test_selected_runs_side_by_side(table: RunsTable, sent: Sent) -> None:
    ask(table, sent, choose=[table._version, 3, 3])
    with pytest.raises(ValueError, match="at least two"):
        table.compare()
    ask(table, sent, compare=True)
    assert table._details == {}
    ask(table, sent, choose=[table._version, 3, 4])
    assert list(table.compare().frame["id"]) == [run.id for run in table.selected]
    ask(table, sent, compare=True)
    sections = opened(table, "comparison")
    assert list(sections) == ["Transcripts"]
    assert all(run.id in sections["Transcripts"] for run in table.selected)
    ask(table, sent, choose=[table._version, 0, 6])
    ask(table, sent, open="")
    ask(table, sent, compare=True)  # too many: the page has its button disabled
    assert table._details == {}


def test_a_page_opens_and_closes(table: RunsTable, sent: Sent) -> None:
    run_id = table.frame["id"][3]
    ask(table, sent, open=run_id)
    assert run_id in str(opened(table, run_id))
    ask(table, sent, open="")
    assert table._details == {}


def test_a_run_that_the_table_does_not_have(table: RunsTable, sent: Sent) -> None:
    with pytest.raises(KeyError, match="No run run_x"):
        table.open_run("run_x")
    ask(table, sent, open="run_x")
    until(lambda: table._details["state"] == "error")
    assert "No run run_x" in table._details["words"]


def test_threads_one_or_many(client: nbruns.Client, sent: Sent) -> None:
    threads = list(dict.fromkeys(client.runs.list(limit=60)["thread_id"]))
    one = RunsTable(client.runs, threads[0])
    assert set(one.frame["thread_id"]) == {threads[0]}
    many = RunsTable(client, [client.threads.retrieve(id) for id in threads], limit=1)
    assert sorted(many.frame["thread_id"]) == sorted(threads)


def test_a_frame_shows_its_rows_and_asks_for_its_runs_when_they_are_wanted(
    client: nbruns.Client, sent: Sent
) -> None:
    failures = client.runs.list().runs.failures().assign(mine="x")
    table = RunsTable(client, runs=failures)
    assert len(table.frame) == len(failures) < RUNS
    assert set(table.frame["mine"]) == {"x"}
    assert table._facts["lists"] is False
    table.open_run(table.frame["id"].iloc[0])
    assert [run.status for run in table.selected] == [table.frame["status"].iloc[0]]


def test_a_frame_of_something_else_is_refused_before_anything_is_shown(
    nowhere: nbruns.Client, sent: Sent
) -> None:
    with pytest.raises(KeyError, match="'id'"):
        RunsTable(nowhere, runs=nbruns.runs_frame([]).drop(columns="id"))
    assert sent == []


def test_no_runs_is_no_error(client: nbruns.Client, sent: Sent) -> None:
    table = RunsTable(client, client.threads.create("Nobody has run yet."))
    assert len(table.frame) == 0
    assert (table._facts["state"], table._facts["all"], dict(table._notes)) == ("ready", 0, {})
    assert "0 runs" in table.to_html()


def test_a_run_that_cannot_be_asked_for_says_so_where_it_would_be(nowhere: nbruns.Client, sent: Sent) -> None:
    table = RunsTable(nowhere, runs=[Run(run_json("completed"))])
    table.open_run("run_1")
    until(lambda: table._details["state"] == "error")
    assert "127.0.0.1:9" in table._details["words"]


def test_outside_text_is_escaped_in_what_is_saved_and_in_what_is_opened(
    nowhere: nbruns.Client, sent: Sent
) -> None:
    error = {"code": EVIL, "message": EVIL}
    table = RunsTable(nowhere, runs=[Run(run_json("failed", model=EVIL, last_error=error))])
    html = table.to_html()
    assert "<script>" not in html and "<img" not in html
    assert html.count("&lt;script&gt;") == 2  # the model and why


def test_the_saved_table_has_a_few_rows_and_says_of_how_many(table: RunsTable) -> None:
    html = table.to_html()
    assert html.count("<tr>") == 1 + 20
    assert "Showing 20 of 600 runs" in html
    table.status = ["failed"]
    assert f"{len(table.frame)} of 600 runs" in table.to_html()
    assert len(html) < 24_000


IN_A_KERNEL = """
import os
import nbruns
from nbruns.objects import Run
for name in [name for name in os.environ if name.startswith("VSCODE_")]:
    del os.environ[name]
runs = [Run({"id": f"run_{s}", "thread_id": "t", "status": s}) for s in ("completed", "failed")]
table = nbruns.RunsTable(nbruns.Client("http://127.0.0.1:9/v1", max_retries=0), runs=runs)
"""


WIDGET = "application/vnd.jupyter.widget-view+json"


def shown(cells: Cells, kind: str) -> list[dict[str, Any]]:
    """What has been displayed so far, from whichever cell or thread."""
    return [message["content"] for message in cells.messages if message["msg_type"] == kind]


def test_a_notebook_keeps_a_plain_table_that_follows_the_live_one() -> None:
    with kernel() as cells:
        cells.run(IN_A_KERNEL + "\ntable")
        (first,) = shown(cells, "display_data")
        cells.run("table.status = 'failed'")
        cells.until(lambda: shown(cells, "update_display_data"), "the output to follow")
        # VS Code and Colab find no place in an output's HTML, so there the widget is in it until the end.
        cells.run("os.environ['VSCODE_PID'] = '1'\ntable")
        (_, live) = shown(cells, "display_data")
        cells.run("table.close(); table.status = []")
        cells.until(lambda: len(shown(cells, "update_display_data")) == 3, "the last of both outputs")
        cells.manager.shutdown_kernel()
    follows, *last = shown(cells, "update_display_data")
    assert first["data"]["text/plain"] == "RunsTable(2 runs)" and WIDGET not in first["data"]
    assert follows["data"]["text/plain"] == "RunsTable(1 of 2 runs)"
    assert follows["transient"] == first["transient"]
    assert WIDGET in live["data"] and "1 of 2 runs" in live["data"]["text/html"]
    assert [output["transient"] for output in last] == [first["transient"], live["transient"]]
    assert all(
        WIDGET not in output["data"] and "1 of 2 runs" in output["data"]["text/html"] for output in last
    )


@pytest.mark.parametrize("message", [None, [], "x", {"unknown": 1}, {}])
def test_odd_messages_change_nothing(table: RunsTable, sent: Sent, message: Any) -> None:
    before = table._version
    table._handle_custom_msg(message, [])
    assert table._version == before


def test_refresh_brings_new_runs(client: nbruns.Client, sent: Sent) -> None:
    assistant = client.assistants.create("demo")
    thread = client.threads.create("Hello.")
    table = RunsTable(client, thread)
    assert len(table.frame) == 0
    client.runs.wait(client.runs.create(thread, assistant), timeout=30)
    ask(table, sent, refresh=True)
    assert list(table.frame["status"]) == ["completed"]
