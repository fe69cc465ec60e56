"""What the log says of requests, and that no secret is in it."""

from __future__ import annotations

import json
import logging
import queue
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from served import ANSWER, BROKEN, TOKEN, Api, Scripts

from nbruns.server.logs import HIDDEN, Json, Text

JSON = dict[str, Any]
KEY = 'sk-"upstream"\\key'


class Kept(logging.Handler):
    """The log as it is written, from whichever thread."""

    def __init__(self) -> None:
        super().__init__()
        self.records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.put(record)

    def record(self) -> logging.LogRecord:
        return self.records.get(timeout=10)

    def line(self) -> JSON:
        line: JSON = json.loads(Json([TOKEN, KEY]).format(self.record()))
        return line


@pytest.fixture
def log() -> Iterator[Kept]:
    """What the server logs from now on."""
    logger, kept = logging.getLogger("nbruns.server"), Kept()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(kept)
    yield kept
    logger.removeHandler(kept)
    logger.setLevel(before)


def test_each_request_is_one_line(api: Api, script: Scripts, log: Kept) -> None:
    assistant = script(ANSWER).assistant()
    assert log.line()["path"] == "/v1/assistants"
    run = api.post("/threads/runs", {"assistant_id": assistant, "instructions": "Be short."})
    created = log.line()
    assert created.keys() >= {"time", "level", "logger", "message", "ms"}
    assert (created["method"], created["path"], created["status"]) == ("POST", "/v1/threads/runs", 200)
    assert created["run_id"] == run["id"]
    list(api.rejoin(run))
    rejoined = log.line()
    assert (rejoined["thread_id"], rejoined["run_id"]) == (run["thread_id"], run["id"])
    assert rejoined["path"] == f"/v1/threads/{run['thread_id']}/runs/{run['id']}/stream"


def test_the_line_of_a_request_has_the_id_that_its_answer_has(api: Api, log: Kept) -> None:
    response = api.send("GET", "/threads/thread_none")
    line = log.line()
    assert (line["status"], line["request_id"]) == (404, response.headers["x-request-id"])
    assert int(response.headers["openai-processing-ms"]) <= line["ms"]


def test_the_error_of_a_request_is_logged_with_its_id(api: Api, log: Kept) -> None:
    response = api.send("POST", "/assistants", {"model": BROKEN})
    error, request = log.line(), log.line()
    assert error["level"] == "error" and "ValueError" in error["error"]
    assert error["request_id"] == request["request_id"] == response.headers["x-request-id"]
    assert request["status"] == 500


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"/v1/threads/{TOKEN}", "/v1/threads/…"),
        (f"/v1/{TOKEN}/runs", "/v1/…/runs"),
        ("/v1/threads/sk-other?key=sk-other", "/v1/threads/…"),
        ("/\x1b[31mred", "/…"),
    ],
)
def test_what_is_no_word_and_no_id_is_not_in_a_line(url: str, log: Kept, path: str, shown: str) -> None:
    for method, token in (("PATCH", "sk-other"), ("GET", TOKEN)):
        requests.request(method, url + path, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        line = log.line()
        assert line["path"] == shown
        assert "other" not in json.dumps(line).lower()


def test_looks_at_the_health_are_not_worth_a_line(api: Api, url: str, log: Kept) -> None:
    requests.get(f"{url}/health", timeout=10)
    api.get("/threads", limit=1)
    assert log.line()["path"] == "/v1/threads"


@pytest.mark.parametrize("formatter", [Text, Json])
def test_a_secret_is_hidden_whoever_writes_it(formatter: type[Text]) -> None:
    try:
        raise ValueError(f"The key {KEY} was refused: {json.dumps(KEY)} {KEY!r}")
    except ValueError as error:
        what = (type(error), error, error.__traceback__)
    record = logging.LogRecord("other", logging.ERROR, "", 1, "Bearer %s", (KEY,), what)
    written = formatter([KEY, "short"]).format(record)
    assert "upstream" not in written  # whatever its quotes and backslashes have become
    assert written.count(HIDDEN) >= 4


def test_a_line_for_people_says_the_run_and_the_request(api: Api, log: Kept) -> None:
    response = api.send("POST", "/threads")
    line = Text([]).format(log.record())
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d POST /v1/threads 200 \d+ ms request_id={response.headers['x-request-id']}", line
    )
