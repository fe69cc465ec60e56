"""Reading a stream of text deltas: ours, openai-python's handler, and the floor, on the same bytes over loopback."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from openai import AssistantEventHandler, OpenAI
from sseclient import SSEClient

sys.path.insert(0, str(Path(__file__).parents[1]))
from socket_server import SocketServer, stream

from nbruns.client import Client
from nbruns.snapshot import RunSnapshot
from nbruns.sse import iter_events

RUN = {
    **{
        "id": "run_1",
        "object": "thread.run",
        "thread_id": "thread_1",
        "assistant_id": "asst_1",
        "status": "in_progress",
    },
    **{"created_at": 1, "model": "m", "instructions": "", "tools": [], "parallel_tool_calls": True},
}
MESSAGE = {
    **{
        "id": "msg_1",
        "object": "thread.message",
        "thread_id": "thread_1",
        "run_id": "run_1",
        "role": "assistant",
    },
    **{"created_at": 1, "content": [], "status": "in_progress", "metadata": {}},
}


def delta(text: str) -> dict[str, object]:
    part = {"index": 0, "type": "text", "text": {"value": text}}
    return {"id": "msg_1", "object": "thread.message.delta", "delta": {"content": [part]}}


def event(name: str, payload: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(payload)}\n\n".encode()


def body(deltas: int) -> bytes:
    head = event("thread.run.in_progress", RUN) + event("thread.message.created", MESSAGE)
    end = event("thread.run.completed", {**RUN, "status": "completed"}) + b"event: done\ndata: [DONE]\n\n"
    return head + event("thread.message.delta", delta(" word")) * deltas + end


def ours(url: str) -> None:
    with Client(f"{url}/v1").runs.create_stream("thread_1", "asst_1") as events:
        events.until_done()
    assert events.snapshot.text.startswith(" word")


def openai_handler(url: str) -> None:
    openai = OpenAI(base_url=f"{url}/v1", api_key="none")
    with openai.beta.threads.runs.stream(
        thread_id="thread_1", assistant_id="asst_1", event_handler=AssistantEventHandler()
    ) as events:
        events.until_done()


def sseclient_and_json(url: str) -> None:
    response = requests.post(f"{url}/v1/threads/thread_1/runs", json={}, stream=True)
    for received in SSEClient(response.iter_content(65536)).events():
        if received.data != "[DONE]":
            json.loads(received.data)


def json_only(url: str) -> None:
    for line in requests.post(f"{url}/v1/threads/thread_1/runs", json={}).content.splitlines():
        if line.startswith(b"data: {"):
            json.loads(line[6:])


READERS: list[Callable[[str], None]] = [ours, openai_handler, sseclient_and_json, json_only]


def seconds(reader: Callable[[str], None], content: bytes, times: int = 5) -> float:
    with SocketServer(stream([content])) as server:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            reader(server.url)
            taken.append(time.perf_counter() - began)
    return min(taken)


def bench_reading() -> None:
    print(f"\n{'seconds for … deltas':24}" + "".join(f"{n:>10,}" for n in (200, 2_000, 10_000)))
    rows = {reader: [seconds(reader, body(n)) for n in (200, 2_000, 10_000)] for reader in READERS}
    for reader, row in rows.items():
        print(f"{reader.__name__:24}" + "".join(f"{s:10.3f}" for s in row))
    mine, handler, floor = (rows[reader][-1] for reader in (ours, openai_handler, json_only))
    print(
        f"10,000 deltas, times json.loads alone: {mine / floor:.1f}, openai-python's handler {handler / floor:.1f}"
    )


def bench_fold() -> None:
    print(f"\n{'folding a delta, µs':24}", end="")
    for n in (200, 2_000, 10_000, 100_000):
        snapshot, payloads = RunSnapshot(), [delta(" word") for _ in range(n)]
        began = time.perf_counter()
        for payload in payloads:
            snapshot.apply("thread.message.delta", payload)
        assert len(snapshot.text) == 5 * n
        print(f"{(time.perf_counter() - began) / n * 1e6:10.2f} ({n:,})", end="")
    print()


def bench_large_event() -> None:
    large = event("thread.message.delta", delta("x" * 3_000_000))
    pieces = [large[i : i + 128] for i in range(0, len(large), 128)]
    began = time.perf_counter()
    (received,) = iter_events(pieces)
    print(f"\n3 MB in 128-byte chunks, s {time.perf_counter() - began:.3f}   ({len(pieces):,} chunks)")
    assert len(received.data) > 3_000_000


def bench_latency() -> None:
    written: list[float] = []

    def paced() -> Iterator[bytes]:
        yield event("thread.run.in_progress", RUN)
        for _ in range(300):
            time.sleep(0.003)  # so that each is read on its own
            written.append(time.perf_counter())
            yield event("thread.message.delta", delta(" word"))
        yield event("thread.run.completed", {**RUN, "status": "completed"})

    with SocketServer(stream(paced())) as server:
        with Client(f"{server.url}/v1").runs.create_stream("thread_1", "asst_1") as events:
            read = [time.perf_counter() for e in events if e.event == "thread.message.delta"]
    delays = sorted(1000 * (b - a) for a, b in zip(written, read, strict=True))
    print(
        f"\nwrite to event, ms       median {statistics.median(delays):.2f}   99th percentile {delays[297]:.2f}"
    )


def imported(code: str) -> float:
    timed = f"import time; began = time.perf_counter(); {code}; print(time.perf_counter() - began)"
    return min(float(subprocess.check_output([sys.executable, "-c", timed])) for _ in range(5))


def bench_import() -> None:
    print(f"\nimport, s                nbruns {imported('import nbruns'):.3f}", end="")
    print(f"   nbruns.Client {imported('import nbruns; nbruns.Client'):.3f}", end="")
    print(f"   pandas + requests {imported('import pandas, requests'):.3f}")
