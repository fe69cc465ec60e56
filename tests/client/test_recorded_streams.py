"""Recorded streams of the real API, cut anywhere, against a server that keeps the run going: nothing twice, nothing
missing."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from shares import check_in_shares, cuts
from socket_server import Received, SocketServer, answer, stream

from nbruns.client import Client
from nbruns.client import stream as stream_module
from nbruns.client.stream import RunStream
from nbruns.objects import Run
from nbruns.snapshot import RunSnapshot
from nbruns.sse import iter_events

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
SCENARIOS = ["stream_run", "stream_file_search", "stream_tool_call"]
pytestmark = pytest.mark.skipif(
    not RECORDINGS.exists(), reason=f"no recordings of the real API at {RECORDINGS}"
)


class Leg(NamedTuple):
    """One recorded stream of a run: a run has a second one when its tool calls are answered."""

    path: str
    request: dict[str, Any]
    body: bytes


def legs_of(scenario: str) -> list[Leg]:
    lines = map(json.loads, (RECORDINGS / f"{scenario}.jsonl").read_text().splitlines())
    return [
        Leg(e["path"].partition("?")[0].removeprefix("/v1"), e["request"], e["body"].encode())
        for e in lines
        if isinstance(e["body"], str)
    ]


def numbered(legs: list[Leg]) -> list[Leg]:
    """The same legs from a server that numbers its events, through all of them."""
    number = iter(range(1, 10_000))
    return [
        leg._replace(
            body=re.sub(rb"^event: ", lambda _: b"id: %d\nevent: " % next(number), leg.body, flags=re.M)
        )
        for leg in legs
    ]


class KeptRun:
    """A server that cuts each leg's stream after so many bytes, but knows how the leg ends."""

    def __init__(self, legs: list[Leg], rejoins: bool) -> None:
        self.legs = numbered(legs) if rejoins else legs
        self.rejoins = rejoins
        self.cuts = [len(leg.body) for leg in legs]
        self.ended: list[RunSnapshot] = []  # how each leg ends, told to who asks
        self._now = 0

    def __call__(self, connection: socket.socket, request: Received) -> bool | None:
        return self._answer_to(request)(connection, request)

    def _answer_to(self, request: Received) -> Callable[..., bool | None]:
        path = request.path.partition("?")[0]
        if request.method == "POST":
            self._now = [leg.path for leg in self.legs].index(path)
            return stream([self.legs[self._now].body[: self.cuts[self._now]]])
        if path.endswith("/stream") and self.rejoins:
            after = int(request.headers.get("last-event-id", "0"))
            events = b"".join(leg.body for leg in self.legs[: self._now + 1]).split(b"\n\n")
            return stream([b"\n\n".join(e for e in events if _number(e) > after) + b"\n\n"])
        known = self._known(path.rsplit("/", 1)[-1])
        return answer(known, 404 if known is None else 200, Connection="keep-alive")

    def _known(self, name: str) -> dict[str, Any] | None:
        ended = self.ended[self._now]
        assert ended.run is not None
        run = ended.run.to_dict()
        lists = {
            "steps": [step.to_dict() for step in ended.steps],
            "messages": [message.to_dict() for message in ended.messages],
            "runs": [{**run, "created_at": 2**36}],  # new by every clock
        }
        if name in lists:
            return {"data": lists[name], "has_more": False}
        return run if name == run["id"] else None


def _number(event: bytes) -> int:
    found = re.match(rb"id: (\d+)\n", event)
    return int(found[1]) if found else 0


def start(client: Client, leg: Leg) -> RunStream:
    params = {name: value for name, value in leg.request.items() if name not in ("stream", "assistant_id")}
    if leg.path == "/threads/runs":
        return client.threads.create_and_run_stream(leg.request["assistant_id"], **params)
    return client.runs.create_stream(leg.path.split("/")[2], leg.request["assistant_id"], **params)


def read(
    client: Client, legs: list[Leg], keep: Callable[[RunStream], None] = lambda _: None
) -> tuple[Any, ...]:
    """Read a run's legs to the end; gives the state at the end, and the text as it came."""
    texts: list[str] = []
    with start(client, legs[0]) as events:
        texts += events.text_deltas()
    keep(events)
    for leg in legs[1:]:
        run, outputs = events.run, leg.request["tool_outputs"]
        assert isinstance(run, Run) and run.status == "requires_action"
        with client.runs.submit_tool_outputs_stream(run, outputs, snapshot=events.snapshot) as events:
            texts += events.text_deltas()
        keep(events)
    return *state(events.snapshot), "".join(texts)


def state(snapshot: RunSnapshot) -> tuple[Any, ...]:
    assert snapshot.run is not None
    steps, messages = snapshot.steps, snapshot.messages
    return (
        snapshot.run.to_dict(),
        [s.to_dict() for s in steps],
        [m.to_dict() for m in messages],
        snapshot.text,
    )


def folded(leg: Leg, before: RunSnapshot | None) -> RunSnapshot:
    snapshot = RunSnapshot()
    for known in [] if before is None else [before.run, *before.steps, *before.messages]:
        assert known is not None
        snapshot.apply(known.object, known.to_dict())
    for event in iter_events([leg.body]):
        if event.event != "done":
            snapshot.apply(event.event, json.loads(event.data))
    return snapshot


@contextmanager
def kept(scenario: str, rejoins: bool) -> Iterator[tuple[Client, KeptRun]]:
    run = KeptRun(legs_of(scenario), rejoins)
    for leg in run.legs:
        run.ended.append(folded(leg, run.ended[-1] if run.ended else None))
    with SocketServer(run) as server:
        yield Client(server.url, timeout=5.0, max_retries=0), run


def first_cut(leg: Leg) -> int:
    """A new thread's run can be found when the thread is known; before that nobody knows what was made."""
    return leg.body.index(b"\n\n") + 2 if leg.path == "/threads/runs" else 0


def around_events(leg: Leg) -> list[int]:
    """Within each event: in its name, its data, its blank line, and right behind it."""
    ends = [found.end() for found in re.finditer(rb"\n\n", leg.body)]
    places = {end + offset for end in ends for offset in (-2, -1, 0, 1, 20)} | {0}
    return sorted(place for place in places if first_cut(leg) <= place < len(leg.body))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.0)


@pytest.mark.parametrize(
    ("scenario", "rejoins"),
    [
        pytest.param("stream_run", True, id="stream_run-rejoining"),
        pytest.param("stream_run", False, id="stream_run-asking", marks=pytest.mark.nightly),
        pytest.param("stream_file_search", True, id="stream_file_search-rejoining"),
        pytest.param("stream_file_search", False, id="stream_file_search-asking"),
        pytest.param("stream_tool_call", True, id="stream_tool_call-rejoining"),
        pytest.param("stream_tool_call", False, id="stream_tool_call-asking", marks=pytest.mark.nightly),
    ],
)
def test_cut_around_each_event(scenario: str, rejoins: bool) -> None:
    with kept(scenario, rejoins) as (client, run):
        whole = read(client, run.legs)
        assert whole[0]["status"] == "completed" and whole[3] == whole[4] != ""
        for number, leg in enumerate(run.legs):
            run.cuts = [len(each.body) for each in run.legs]
            for run.cuts[number] in around_events(leg):
                assert read(client, run.legs) == whole, f"leg {number} cut after {run.cuts[number]} bytes"


@pytest.mark.timeout(600)  # thousands of connections, on a slow machine too
@pytest.mark.parametrize("rejoins", [True, False], ids=["rejoining", "asking"])
def test_cut_after_any_byte(rejoins: bool) -> None:
    with kept("stream_tool_call", rejoins) as (client, run):
        first = run.legs[0]
        with start(client, first) as events:
            events.until_done()
        whole = state(events.snapshot)
    assert whole[0]["status"] == "requires_action" and len(whole[1]) == 1

    def check(positions: Sequence[int]) -> None:
        with kept("stream_tool_call", rejoins) as (client, run):
            for run.cuts[0] in positions:
                with start(client, first) as events:
                    events.until_done()
                assert state(events.snapshot) == whole, f"cut after {run.cuts[0]} bytes"

    check_in_shares(check, cuts(first.body, first_cut(first)))


def test_every_leg_cut_at_once() -> None:
    with kept("stream_tool_call", rejoins=True) as (client, run):
        whole = read(client, run.legs)
        for share in range(1, 10):
            run.cuts = [max(first_cut(leg), len(leg.body) * share // 10) for leg in run.legs]
            assert read(client, run.legs) == whole
