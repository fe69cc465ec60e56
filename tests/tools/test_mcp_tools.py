"""`mcp_tools`: the tools of an MCP server, called from this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("mcp")

import mcp_processes

import nbruns
from nbruns.tools.answers import answer, tools_by_name
from nbruns.tools.mcp import McpTools

HOSTILE = [sys.executable, str(mcp_processes.SERVERS / "by_hand.py")]


@pytest.fixture(scope="module")
def notes() -> Iterator[McpTools]:
    with nbruns.mcp_tools([*mcp_processes.NOTES], env={"PLACE": "Oslo, in the north"}) as tools:
        yield tools


def test_a_servers_tools_are_tools(notes: McpTools) -> None:
    assert [tool.name for tool in notes] == ["add", "environment", "picture", "fail"]
    add = notes[0]
    assert isinstance(add, nbruns.Tool) and len(notes) == 4 and len(notes[1:]) == 3
    function = add.to_dict()["function"]
    assert (function["name"], function["description"]) == ("add", "Add a note.")
    assert function["parameters"]["required"] == ["text"]
    assert add.call('{"text": "Buy milk"}') == "Noted: Buy milk"
    assert add(text="Buy milk") == "Noted: Buy milk"
    assert notes[2].call({}) == "A cat:\n[image image/png, 3 bytes]"
    assert "add, environment" in repr(notes)


def test_errors_are_outputs_that_the_model_can_read(notes: McpTools) -> None:
    add, _, _, fail = notes
    with pytest.raises(nbruns.ToolError, match=r"add: text: Required\."):
        add.call("{}")
    with pytest.raises(nbruns.ToolError, match="fail: Error executing tool fail"):
        fail.call({})
    assert answer(tools_by_name(notes)["fail"], "{}").output.startswith("Error: fail: ")


def test_its_environment_is_bare_and_never_shown(notes: McpTools, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notes[1].call({"name": "PLACE"}) == "[hidden]"
    assert notes[1].call({"name": "PYTHONPATH"}) == "(none)"
    assert "Oslo" not in repr(notes)


def test_a_url_with_headers() -> None:
    with mcp_processes.notes_at_url("--token", "a-secret-token") as url:
        with nbruns.mcp_tools(url, headers={"Authorization": "Bearer a-secret-token"}) as tools:
            assert tools[0].call({"text": "Hello"}) == "Noted: Hello"
            assert "secret" not in repr(tools)
        with pytest.raises(nbruns.ToolError, match=r"failed\. It refused access \(HTTP 401\)"):
            nbruns.mcp_tools(url)


def test_names_that_the_api_does_not_know_are_changed() -> None:
    with nbruns.mcp_tools([*HOSTILE, "names"]) as tools:
        assert [tool.name for tool in tools] == ["search", "dots_and_slashes"]
        assert tools[1].call({}) == "found"


def test_a_server_that_dies_is_told_with_its_last_words_and_started_again() -> None:
    with nbruns.mcp_tools([*HOSTILE, "die"]) as tools:
        for _ in range(2):
            with pytest.raises(
                nbruns.ToolError, match=r"Its program ended\. Its program wrote: The disk is on fire"
            ):
                tools[0].call({})


def test_a_server_that_hangs_is_left() -> None:
    with nbruns.mcp_tools([*HOSTILE, "hang"], timeout=0.5) as tools:
        with pytest.raises(nbruns.ToolError, match=r"did not answer within 0\.5 seconds"):
            tools[0].call({})


def test_a_closed_connection_says_so() -> None:
    tools = nbruns.mcp_tools([*HOSTILE, "names"])
    tools.close()
    tools.close()
    with pytest.raises(nbruns.ToolError, match="is closed"):
        tools[0].call({})


def test_what_is_no_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in ("", "  ", []):
        with pytest.raises(ValueError, match="a command, or a URL"):
            nbruns.mcp_tools(nothing)
    with pytest.raises(ValueError, match="above 0"):
        nbruns.mcp_tools("x", timeout=0)
    with pytest.raises(nbruns.ToolError, match="can't be started: No such file"):
        nbruns.mcp_tools("/nowhere/to/be/found --at all")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(nbruns.SetupError, match="package mcp is not installed"):
        nbruns.mcp_tools("x")
