"""Killed at any moment of a busy load, the server loses nothing and does nothing twice.

Clients start runs, read streams, answer tool calls and cancel, while the server is killed with SIGKILL and started
again, at moments drawn from a seed. NBRUNS_KILLS=200 kills that often (and takes as many times four seconds)."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from served import OUTPUTS, WEATHER, Api, SentEvent, ServerProcess

from nbruns.snapshot import RunSnapshot

JSON = dict[str, Any]

KILLS = int(os.environ.get("NBRUNS_KILLS", "3"))
SEED = int(os.environ.get("NBRUNS_KILLS_SEED", "7"))
CLIENTS, WORDS = 6, 8
SETTLED = ("requires_action", "completed", "cancelled")
#: What a client sees of a server that is being killed.
GONE = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


@dataclass
class Accepted:
    """A run that a client was told of, what may become of it, and the events that the client was sent."""

    run: JSON
    may_end: tuple[str, ...]
    events: list[SentEvent] = field(default_factory=list)
    cuts: int = 0  #: how often a kill broke its stream between two events


class Load:
    """Clients of a server that comes and goes."""

    def __init__(self, assistants: dict[bool, str]) -> None:
        self.accepted: list[Accepted] = []
        self.refused: list[str] = []
        self._assistants = assistants
        self._there = threading.Condition()
        self._url: str | None = None
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._use, args=(random.Random(SEED + n),)) for n in range(CLIENTS)
        ]

    def serve_at(self, url: str | None) -> None:
        with self._there:
            self._url = url
            self._there.notify_all()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Let each client end what it is at."""
        self._over.set()
        deadline = time.monotonic() + 60
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        frames = sys._current_frames()
        stuck = [
            frames[thread.ident] for thread in self._threads if thread.is_alive() and thread.ident in frames
        ]
        assert not stuck, "\n\n".join("".join(traceback.format_stack(frame)[-12:]) for frame in stuck)

    def _api(self) -> Api:
        with self._there:
            self._there.wait_for(lambda: self._url is not None, 60)
            assert self._url is not None
            return Api(self._url)

    def _use(self, chance: random.Random) -> None:
        habits = (self._start, self._read, self._answer, self._leave, self._cancel)
        while not self._over.is_set():
            try:
                chance.choice(habits)()
            except GONE:
                time.sleep(0.05)  # no run was accepted, or what became of it is not known
            except AssertionError as error:
                self.refused.append(str(error))

    def _accept(self, *may_end: str, tools: bool = False) -> Accepted:
        body = {"assistant_id": self._assistants[tools], "thread": {"messages": [MESSAGE]}}
        accepted = Accepted(self._api().post("/threads/runs", body), may_end)
        self.accepted.append(accepted)
        return accepted

    def _start(self) -> None:
        self._accept("completed")

    def _read(self) -> None:
        accepted = Accepted({}, ("completed",))
        body = {"assistant_id": self._assistants[False], "thread": {"messages": [MESSAGE]}}
        try:
            for event in self._api().stream("/threads/runs", body):
                accepted.events.append(event)
                if event.name == "thread.run.created":
                    accepted.run = event.data
                    self.accepted.append(accepted)
        except GONE:
            if accepted.run:
                accepted.cuts += 1
                self._follow(accepted)

    def _follow(self, accepted: Accepted) -> None:
        """Read a run's events on, over as many servers as it takes."""
        while not accepted.events or accepted.events[-1].name != "done":
            try:
                last = accepted.events[-1].id if accepted.events else None
                for event in self._api().rejoin(accepted.run, last):
                    accepted.events.append(event)
            except GONE:
                accepted.cuts += bool(accepted.events)
                time.sleep(0.05)

    def _waiting(self) -> Accepted:
        accepted = self._accept("requires_action", tools=True)
        self._follow(accepted)
        assert accepted.events.pop().name == "done"
        return accepted

    def _leave(self) -> None:
        self._waiting()

    def _answer(self) -> None:
        accepted = self._waiting()
        accepted.may_end = ("requires_action", "completed")
        api = self._api()
        api.post(f"{api.run_path(accepted.run)}/submit_tool_outputs", OUTPUTS)
        accepted.may_end = ("completed",)  # the submission has been answered, so it holds
        self._follow(accepted)

    def _cancel(self) -> None:
        accepted = self._accept("completed", "cancelled")
        api = self._api()
        response = api.send("POST", f"{api.run_path(accepted.run)}/cancel", {})
        if response.status_code == 200:
            accepted.may_end = ("cancelled",)


MESSAGE = {"role": "user", "content": "What should I wear in Oslo?"}
#: Without a limit on attempts: here every run is to be carried on, however often it is cut off.
ARGUMENTS = ("--words", str(WORDS), "--pause", "0.02", "--lifetime", "86400", "--attempts", "1000000")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.nightly)])
@pytest.mark.timeout(120 + 20 * KILLS)
def test_whenever_it_is_killed_every_run_is_carried_on_once(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    database = tmp_path / "db" if kind == "sqlite" else request.getfixturevalue("postgresql")()
    chance, began = random.Random(SEED), time.monotonic()
    server = ServerProcess(database, *ARGUMENTS)
    load = Load(
        {
            tools: server.api.post("/assistants", {"model": "slow", "tools": [WEATHER] if tools else []})[
                "id"
            ]
            for tools in (False, True)
        }
    )
    load.start()
    for _ in range(KILLS):
        load.serve_at(server.url)
        time.sleep(chance.uniform(0.0, 3.0))
        load.serve_at(None)
        server.kill()
        server = ServerProcess(database, *ARGUMENTS)
    load.serve_at(server.url)
    try:
        load.finish()
    except AssertionError:
        print("unsettled", [run for run in all_runs(server.api) if run["status"] not in SETTLED])
        server.kill()
        print(server.errors)
        raise
    stored = settled(server.api)
    told(load, stored, time.monotonic() - began)
    assert load.refused == []
    assert {accepted.run["id"] for accepted in load.accepted} <= stored.keys(), "lost"
    assert [run["id"] for run in stored.values() if run["status"] not in SETTLED] == []
    for accepted in load.accepted:
        assert stored[accepted.run["id"]]["status"] in accepted.may_end
    seen = {accepted.run["id"]: accepted.events for accepted in load.accepted}
    compared = 0
    for run in stored.values():
        log = list(server.api.rejoin(run))
        assert_told_once(server.api, run, log)
        # Whatever a client has been sent, over however many servers, is in the log for good.
        sent = seen.get(run["id"], [])
        assert sent == log[: len(sent)]
        compared += len(log)
    print(f"each with one set of steps and messages {len(stored)}   their events, none twice {compared}")
    server.stop()


def settled(api: Api) -> dict[str, JSON]:
    """All runs by id, when they have settled or nothing has changed for long."""
    deadline = time.monotonic() + 60
    while True:
        stored = {run["id"]: run for run in all_runs(api)}
        if all(run["status"] in SETTLED for run in stored.values()) or time.monotonic() > deadline:
            return stored
        time.sleep(0.5)


def all_runs(api: Api) -> Iterator[JSON]:
    page = api.get("/runs", limit=100)
    yield from page["data"]
    while page["has_more"]:
        page = api.get("/runs", limit=100, after=page["last_id"])
        yield from page["data"]


def assert_told_once(api: Api, run: JSON, log: list[SentEvent]) -> None:
    """A run has one set of steps and messages, and its events, without a gap, fold to just that."""
    SHAPES[run["status"]](run, *assert_same_state(api, run, log))


def assert_same_state(api: Api, run: JSON, log: list[SentEvent]) -> tuple[list[JSON], list[JSON]]:
    """A run's events, without a gap, fold to its stored state; returns its steps and messages."""
    assert log[-1].name == "done"
    assert [event.id for event in log[:-1]] == list(range(1, len(log)))
    steps = api.get(f"{api.run_path(run)}/steps", order="asc")["data"]
    messages = api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"], order="asc")["data"]
    snapshot = RunSnapshot()
    for event in log[:-1]:
        snapshot.apply(event.name, event.data)
    assert snapshot.run is not None
    assert snapshot.run.to_dict() == run
    assert [step.to_dict() for step in snapshot.steps] == steps
    assert [m.to_dict() for m in snapshot.messages if m.run_id == run["id"]] == messages
    return steps, messages


def completed(run: JSON, steps: list[JSON], messages: list[JSON]) -> None:
    calls = ["tool_calls"] if run["tools"] else []
    assert [step["type"] for step in steps] == [*calls, "message_creation"]
    assert {step["status"] for step in steps} == {"completed"}
    assert [m["content"][0]["text"]["value"] for m in messages] == ["".join(f"{n} " for n in range(WORDS))]


def requires_action(run: JSON, steps: list[JSON], messages: list[JSON]) -> None:
    assert [(step["type"], step["status"]) for step in steps] == [("tool_calls", "in_progress")]
    assert messages == []


def cancelled(run: JSON, steps: list[JSON], messages: list[JSON]) -> None:
    # Where all had been said when the cancellation came, the message is complete.
    became = [(step["status"], message["status"]) for step, message in zip(steps, messages, strict=True)]
    assert became in ([], [("cancelled", "incomplete")], [("completed", "completed")])


SHAPES: dict[str, Callable[[JSON, list[JSON], list[JSON]], None]] = {
    "completed": completed,
    "requires_action": requires_action,
    "cancelled": cancelled,
}


def told(load: Load, stored: dict[str, JSON], seconds: float) -> None:
    """The table of what happened, for those who look (pytest -s)."""
    ids = [accepted.run["id"] for accepted in load.accepted]
    statuses = Counter(run["status"] for run in stored.values())
    print(f"\nkills {KILLS}   seed {SEED}   runs accepted {len(ids)}   stored {len(stored)}")
    print("   ".join(f"{status} {count}" for status, count in sorted(statuses.items())))
    lost, stuck = len(set(ids) - stored.keys()), sum(run["status"] not in SETTLED for run in stored.values())
    cut = [accepted for accepted in load.accepted if accepted.cuts]
    print(f"streams cut {len(cut)}   rejoined {sum(accepted.cuts for accepted in cut)} times")
    print(f"lost {lost}   stuck {stuck}   refused {len(load.refused)}   seconds {seconds:.0f}")
