"""Recorded exchanges about files, vector stores, file_search, attachments and images: the same requests to this server
are answered with the same fields of the same types, and the client reads the recorded answers without loss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from served import Api, Scripted, as_events
from test_file_search import answering, searching

import nbruns
from nbruns import objects
from nbruns.frames import Budget, list_columns, list_frame
from nbruns.server.hosted import TOOLS
from nbruns.server.models import Models

JSON = dict[str, Any]
SCENARIOS = (
    "files",
    "vector_stores",
    "vector_store_files",
    "file_search",
    "stream_file_search",
    "message_attachments",
    "image_messages",
)
FOODS = b"This file describes the favorite foods of several people.\n\nFilip Carola: cake"
#: What this server says in addition: the queries of a search, and fields that the reference has and these recordings
#: have not.
MORE = {"queries", "metadata", "status", "incomplete_details", "incomplete_at", "completed_at", "expired_at"}
#: An error's second form, which the original has for its own sites.
LESS = {"detail"}
#: What is empty or filled differently here: which tools a thread has resources for, and an old field of citations.
OPEN = {"tool_resources", "file_citation", "metadata", "attributes"}
_ID = re.compile(r"(?:asst|thread|msg|run|step|vs|vsfb|call)_\w+|file-\w+")


class Replay:
    """Sends recorded requests to this server, with its own ids in the place of the recorded ones."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.ids: dict[str, str] = {}

    def send(self, exchange: JSON) -> Any:
        """What this server answers: JSON, or the events of a stream."""
        recorded, path = exchange["body"], self.here(exchange["path"].removeprefix("/v1"))
        if exchange["method"] == "POST" and path == "/files":
            purpose = recorded.get("purpose", "world_domination")
            name = recorded.get("filename", "x.txt")
            return self.uploaded(name, purpose).json()
        for id in set(re.findall(r"file-\w+", json.dumps(exchange["request"]))) - self.ids.keys():
            self.ids[id] = self.uploaded("before.txt", "assistants").json()["id"]
        body = json.loads(self.here(json.dumps(exchange["request"])))
        if isinstance(recorded, str):
            return [*self.api.stream(path, body)]
        if re.search(r"/runs/\w+$", path):
            run = {"id": path.rpartition("/")[2], "thread_id": path.split("/")[2]}
            self.api.until(run, "completed")
        response = self.api.send(exchange["method"], path, body)
        assert response.status_code == exchange["status"], response.text
        return response.json()

    def uploaded(self, name: str, purpose: str) -> Any:
        return self.api.send("POST", "/files", data={"purpose": purpose}, files={"file": (name, FOODS)})

    def here(self, text: str) -> str:
        return _ID.sub(lambda found: self.ids.get(found[0], found[0]), text)

    def compare(self, recorded: Any, ours: Any, where: str) -> None:
        """Hold ours against what was recorded, and learn which id stands for which."""
        if isinstance(recorded, dict) and isinstance(ours, dict):
            missing, extra = recorded.keys() - ours.keys() - LESS, ours.keys() - recorded.keys() - MORE
            if where.rpartition(".")[2] not in OPEN:
                assert (missing, extra) == (set(), set()), where
            for name in recorded.keys() & ours.keys():
                self.compare(recorded[name], ours[name], f"{where}.{name}")
        elif isinstance(recorded, list) and isinstance(ours, list):
            for each, other in zip(recorded, ours, strict=False):
                self.compare(each, other, where)
        elif recorded is not None and ours is not None:
            assert type(recorded) is type(ours), where
            if isinstance(recorded, str) and _ID.fullmatch(recorded) and _ID.fullmatch(ours):
                self.ids[recorded] = ours


@pytest.fixture
def replay(api: Api, models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    # Offered or not: here it is only named.
    monkeypatch.setitem(TOOLS, "code_interpreter", TOOLS.get("code_interpreter", TOOLS["file_search"]))
    said = "Filip's favorite food is cake 【0:0†favorite_foods.txt】."
    for name in ("gpt-4o", "gpt-4o-mini"):
        models.add(name, Scripted(searching("Filip's favorite food"), answering(said)))
    yield Replay(api)
    for name in ("gpt-4o", "gpt-4o-mini"):
        del models._built[name]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recorded_requests_are_answered_alike(
    replay: Replay, recorded: dict[str, list[JSON]], scenario: str
) -> None:
    for exchange in recorded[scenario]:
        where = f"{exchange['method']} {exchange['path']}"
        theirs, ours = exchange["body"], replay.send(exchange)
        if not isinstance(theirs, str):
            replay.compare(theirs, ours, where)
            continue
        found = {(event.name, kind_of(event)): event.data for event in reversed(ours)}
        for event in as_events(theirs)[:-1]:
            if not event.name.endswith(".delta"):
                replay.compare(event.data, found[event.name, kind_of(event)], f"{where} {event.name}")
        kinds = {json.dumps(deltas_of(events)) for events in (as_events(theirs), ours)}
        assert len(kinds) == 1, kinds


def kind_of(event: Any) -> Any:
    """The type of a step; other objects have none."""
    return event.data.get("type") if isinstance(event.data, dict) else None


def deltas_of(events: Any) -> list[list[str]]:
    """The fields that the deltas of messages and calls have, however the text is cut."""
    found = set()
    for event in events:
        if event.name.endswith(".delta"):
            delta = event.data["delta"]
            for part in delta.get("content") or delta["step_details"]["tool_calls"]:
                found.add((event.name, *sorted(part.keys() - MORE)))
    return sorted(map(list, found))


CLASSES = {
    "file": ("file", objects.File),
    "vector_store": ("vector_store", objects.VectorStore),
    "vector_store.file": ("vector_store_file", objects.VectorStoreFile),
    "assistant": ("assistant", objects.Assistant),
    "thread": ("thread", objects.Thread),
    "thread.message": ("message", objects.Message),
    "thread.run": ("run", objects.Run),
    "thread.run.step": ("step", objects.RunStep),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_client_reads_what_was_recorded(recorded: dict[str, list[JSON]], scenario: str) -> None:
    seen = 0
    for exchange in recorded[scenario]:
        body = exchange["body"]
        found = [event.data for event in as_events(body)[:-1]] if isinstance(body, str) else [body]
        for each in [inner for outer in found for inner in outer.get("data", [outer])]:
            if each.get("object") not in CLASSES or each.get("deleted"):
                continue
            seen += 1
            kind, of = CLASSES[each["object"]]
            read = of(each)
            assert read.to_dict() == each and read.id == each["id"]
            frame = list_frame(kind, [list_columns(kind, [read], Budget(None))])
            for name in frame.columns.intersection([*each]):
                value = frame[name][0]
                if isinstance(each[name], str | int) and not isinstance(value, pd.Timestamp):
                    assert value == each[name], name
                elif isinstance(value, pd.Timestamp):
                    assert value.timestamp() == each[name]
    assert seen


def test_citations_and_passages_of_the_recordings_are_in_the_frames(recorded: dict[str, list[JSON]]) -> None:
    messages = nbruns.messages_frame(recorded["file_search"])
    [mark] = messages["annotations"][messages["role"] == "assistant"].iloc[0]
    assert mark["text"] == "【4:0†favorite_foods.txt】"
    steps = nbruns.steps_frame(recorded["file_search"])
    assert ["file_search"] in [list(names) for names in steps["tool_names"]]
