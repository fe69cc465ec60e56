"""Programs in web pages: a page of an allowed origin uses the server with fetch, one of another origin can't."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page
from test_cli import served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

#: What a page does: an assistant, then a run whose stream it reads to the end.
PROGRAM = """async ([base, key]) => {
    const headers = {Authorization: `Bearer ${key}`, "Content-Type": "application/json"};
    const post = (path, body) => fetch(base + path, {method: "POST", headers, body: JSON.stringify(body)});
    const made = await post("/assistants", {model: "demo"});
    const {id} = await made.json();
    const thread = {messages: [{role: "user", content: "Hello"}]};
    const run = await post("/threads/runs", {assistant_id: id, thread, stream: true});
    const reader = run.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part; !(part = await reader.read()).done; ) text += part.value;
    const deleted = await fetch(`${base}/assistants/${id}`, {method: "DELETE", headers});
    return {request: made.headers.get("x-request-id"), text, deleted: (await deleted.json()).deleted};
}"""


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A page</title>")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def origins() -> Iterator[list[str]]:
    """The origins of two sites with an empty page each."""
    sites = [ThreadingHTTPServer(("127.0.0.1", 0), _Empty) for _ in range(2)]
    for site in sites:
        threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True).start()
    yield [f"http://127.0.0.1:{site.server_port}" for site in sites]
    for site in sites:
        site.shutdown()
        site.server_close()


def page_of(chromium: Browser, origin: str) -> Page:
    page = chromium.new_page()
    page.goto(origin)
    return page


def test_only_pages_of_allowed_origins_use_the_server(
    chromium: Browser, origins: list[str], tmp_path: Path
) -> None:
    allowed, other = origins
    with served(tmp_path, "--allow-origin", allowed) as (_, base, _):
        arguments = [base, (tmp_path / "token").read_text().strip()]
        said = page_of(chromium, allowed).evaluate(PROGRAM, arguments)
        assert said["request"].startswith("req_") and said["deleted"] is True
        assert "event: thread.run.completed\n" in said["text"] and "data: [DONE]" in said["text"]
        with pytest.raises(Error, match="Failed to fetch"):
            page_of(chromium, other).evaluate(PROGRAM, arguments)
        refused = page_of(chromium, allowed).evaluate(PROGRAM_REFUSED, [base, "wrong"])
        assert refused == [401, "invalid_api_key"]


#: A page of an allowed origin can read why it is refused.
PROGRAM_REFUSED = """async ([base, key]) => {
    const answer = await fetch(`${base}/assistants`, {headers: {Authorization: `Bearer ${key}`}});
    return [answer.status, (await answer.json()).error.code];
}"""
