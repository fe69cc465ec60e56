"""JSON Schemas that take for ever: the run fails, others don't notice, and the server lives through a restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import requests
from served import ServerProcess

JSON = dict[str, Any]
BOMBS: dict[str, JSON] = {
    "pattern": {"type": "string", "pattern": "^(a+)+$", "default": "a" * 40 + "!"},
    "another pattern": {"type": "string", "pattern": r"^([a-zA-Z0-9:/._-]*)*$\b!"},
    "unique items": {"type": "array", "uniqueItems": True, "default": [{"n": n} for n in range(30_000)]},
    "references": {"anyOf": [{"$ref": "#"}] * 8},
    "alternatives": {"allOf": [{"anyOf": [{"const": f"{i}-{j}"} for j in range(400)]} for i in range(3)]},
    "options": {"enum": [f"option {n}" for n in range(20_000)]},
    "items": {"type": "array", "minItems": 1_000_000_000},
    "characters": {"type": "string", "minLength": 100_000_000_000},
}
#: Those whose example can't be made, in the time that the server here has.
FAILING = {"pattern", "another pattern", "unique items", "references", "alternatives"}
ARGUMENTS = ("--seconds-for-schemas", "1")


def start(server: ServerProcess, schema: JSON, through: str) -> JSON:
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    if through == "tools":
        body: JSON = {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}
    else:
        wanted = {"name": "f", "schema": parameters}
        body = {"response_format": {"type": "json_schema", "json_schema": wanted}}
    assistant = server.api.post("/assistants", {"model": "demo", **body})["id"]
    # What the demo model writes of thousands of items would take a minute to stream.
    short = {"assistant_id": assistant, "max_completion_tokens": 400}
    return server.api.post(f"/threads/{server.api.thread_with()}/runs", short)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("through", ["tools", pytest.param("response_format", marks=pytest.mark.nightly)])
def test_a_bomb_fails_and_nobody_else_waits(tmp_path: Path, through: str) -> None:
    server = ServerProcess(tmp_path / "db", *ARGUMENTS)
    bombs = (
        BOMBS if through == "tools" else {name: BOMBS[name] for name in ("pattern", "references", "options")}
    )
    runs = {name: start(server, schema, through) for name, schema in bombs.items()}
    waits, going = [], dict(runs)
    while going:
        began = time.perf_counter()
        assert requests.get(f"{server.url}/health", timeout=10).ok
        waits.append(time.perf_counter() - began)
        for name, run in list(going.items()):
            runs[name] = server.api.get(server.api.run_path(run))
            if runs[name]["status"] not in ("queued", "in_progress"):
                del going[name]
    # Each bomb would block the server for a second, so that it would answer once between two of them.
    print(f"{len(waits)} answers in between, the slowest after {1000 * max(waits):.0f} ms")
    assert len(waits) > 10
    for name in FAILING & bombs.keys():
        error = runs[name]["last_error"]
        assert runs[name]["status"] == "failed" and error["code"] == "invalid_prompt", name
        assert "JSON Schema of " in error["message"] and "over 1 s" in error["message"]
    server.kill()
    server = ServerProcess(tmp_path / "db", *ARGUMENTS)
    assert requests.get(f"{server.url}/health", timeout=5).ok
    ended = server.api.until(start(server, {"type": "integer"}, through), "requires_action", "completed")
    assert ended["last_error"] is None
    assert server.stop() == 0


@pytest.mark.nightly
@pytest.mark.timeout(120)
def test_a_server_that_is_killed_under_a_bomb_starts_again(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db")
    run = start(server, BOMBS["pattern"], "tools")
    for _ in range(3):
        server.api.until(run, "in_progress")
        server.kill()
        server = ServerProcess(tmp_path / "db")
    run = server.api.until(run, "failed")
    assert run["last_error"]["message"]
    assert server.stop() == 0
