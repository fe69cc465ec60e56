"""A busy server on SQLite: how long events take through it, what it holds in memory, how many runs it makes.

Three processes: the server, a scripted upstream (in the server, or an HTTP server that speaks Chat Completions), and
clients that cost little. What is streamed is the time at which the upstream wrote it. NBRUNS_BENCH_SECONDS=600 is the
long run. Run as a program, this file is one of the processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

JSON = dict[str, Any]

RUNS = int(os.environ.get("NBRUNS_BENCH_RUNS", "300"))
SECONDS = int(os.environ.get("NBRUNS_BENCH_SECONDS", "20"))
TOKENS_PER_SECOND = 20
TOKEN = "benchmark"
#: The time in a delta; that of a whole message is none.
_TIME = re.compile(rb'"thread\.message\.delta","delta".{0,60}?"value":"(\d+) ')


# The scripted upstream


async def ticks(seconds: float) -> AsyncIterator[int]:
    """The times, in ns, at which tokens are due, each as soon as the loop gets round to it."""
    start = time.monotonic() + random.random() / TOKENS_PER_SECOND
    for number in range(round(seconds * TOKENS_PER_SECOND)):
        due = start + number / TOKENS_PER_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield round(due * 1e9)


def upstream() -> None:
    """A Chat Completions endpoint that streams the times at which it writes."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    def chunk(delta: JSON, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        kind = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return b"data: " + json.dumps({**kind, "choices": [choice]}).encode() + b"\n\n"

    async def answer(request: Request) -> StreamingResponse:
        seconds = float((await request.json())["messages"][-1]["content"])

        async def body() -> AsyncIterator[bytes]:
            yield chunk({"role": "assistant", "content": ""})
            async for _ in ticks(seconds):
                yield chunk({"content": f"{time.monotonic_ns()} "})
            yield chunk({}, "stop") + b"data: [DONE]\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
    config = uvicorn.Config(app, port=0, log_level="error")
    server = uvicorn.Server(config)

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1", flush=True)
        await serving

    asyncio.run(serve())


def serve(database: str, upstream_url: str | None = None) -> None:
    """The server, with the model `ticking`."""
    from nbruns.server.main import serve
    from nbruns.server.models import Delta, Finish, Models, Prompt, TextDelta, usage

    class Ticking:
        async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
            async for due in ticks(float(prompt.messages[-1]["content"])):
                yield TextDelta(f"{due} ")
            yield Finish("stop", usage(1, 1))

    models = Models(upstream=upstream_url)
    models.add("ticking", Ticking())
    models.check()
    tell = lambda url: print(url, flush=True)  # noqa: E731
    serve(
        port=0,
        database_url=f"sqlite:///{database}",
        token=TOKEN,
        models=models,
        on_ready=tell,
        run_lifetime=2 * SECONDS + 600,  # those of ten minutes would expire on their last tokens
    )


# The clients


class Reader(asyncio.Protocol):
    """One run's stream: when its events were written, in ns, and how many ms later they came."""

    def __init__(self, request: bytes) -> None:
        self.delays: list[tuple[int, float]] = []
        self.done = asyncio.get_running_loop().create_future()
        self._request, self._rest, self._tail = request, b"", b""

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        head, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        for match in _TIME.finditer(head):
            self.delays.append((int(match[1]), (now - int(match[1])) / 1e6))
        self._tail = (self._tail + data)[-200:]
        if b"[DONE]" in self._tail and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def post(path: str, body: JSON) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /v1{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    return (
        f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
    )


def clients(url: str, assistant: str, runs: str, seconds: str) -> None:
    """Stream runs all at once; print the delays of their events."""

    async def stream() -> None:
        port = int(url.rpartition(":")[2])
        thread = {"messages": [{"role": "user", "content": seconds}]}
        request = post("/threads/runs", {"assistant_id": assistant, "thread": thread, "stream": True})
        loop = asyncio.get_running_loop()
        opened = [
            loop.create_connection(lambda: Reader(request), "127.0.0.1", port) for _ in range(int(runs))
        ]
        readers = [reader for _, reader in await asyncio.gather(*opened)]
        await asyncio.gather(*(reader.done for reader in readers))
        delays = [reader.delays for reader in readers]
        print(json.dumps({"delays": delays, "cpu": resource.getrusage(resource.RUSAGE_SELF).ru_utime}))

    asyncio.run(stream())


def makers(url: str, assistant: str, fetch_all: str, seconds: str) -> None:
    """Make runs, so many at once, each when the last has ended; print how many."""

    async def make(until: float) -> int:
        port, made = int(url.rpartition(":")[2]), 0
        body = {"assistant_id": assistant, "thread": {"messages": [{"role": "user", "content": "0"}]}}
        request = post("/threads/runs", body | {"stream": True})
        while time.monotonic() < until:
            connect = asyncio.get_running_loop().create_connection(lambda: Reader(request), "127.0.0.1", port)
            transport, reader = await connect
            await reader.done
            transport.close()
            made += 1
        return made

    async def make_all() -> None:
        until = time.monotonic() + float(seconds)
        print(sum(await asyncio.gather(*(make(until) for _ in range(int(fetch_all))))))

    asyncio.run(make_all())


def deaf(url: str, assistant: str, runs: str, seconds: str) -> None:
    """Stream runs and read nothing of them."""
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    thread = {"messages": [{"role": "user", "content": seconds}]}
    request = post("/threads/runs", {"assistant_id": assistant, "thread": thread, "stream": True})
    sockets = []
    for _ in range(int(runs)):
        sockets.append(socket.socket())
        sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sockets[-1].connect(address)
        sockets[-1].sendall(request)
    time.sleep(3600)


# The measurements


def program(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)


@contextmanager
def running(*arguments: str) -> Iterator[tuple[str, int]]:
    """A process of ours: its URL and its number."""
    started = program(*arguments)
    try:
        assert started.stdout is not None
        yield started.stdout.readline().strip(), started.pid
    finally:
        started.terminate()
        started.wait(30)


def asked(url: str, method: str, path: str, body: JSON | None = None) -> JSON:
    import requests

    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = requests.request(method, f"{url}/v1{path}", json=body, headers=headers, timeout=60)
    response.raise_for_status()
    answer: JSON = response.json()
    return answer


def memory(pid: int) -> float:
    """What a process has in memory, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def cpu(pid: int) -> float:
    """The seconds that a process has had of a processor."""
    ticks_used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks_used)) / os.sysconf("SC_CLK_TCK")


def percentile(sorted_values: list[float], part: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * part))]


def stream(server: tuple[str, int], model: str, label: str, runs: int = RUNS) -> None:
    url, pid = server
    assistant = asked(url, "POST", "/assistants", {"model": model})["id"]
    before, began = cpu(pid), time.monotonic()
    reading = program("clients", url, assistant, str(runs), str(SECONDS))
    held = []
    while reading.poll() is None and reading.stdout is not None:
        held.append(memory(pid))
        try:
            told = json.loads(reading.communicate(timeout=SECONDS / 10)[0])
        except subprocess.TimeoutExpired:
            continue
    took, used = time.monotonic() - began, cpu(pid) - before
    delays = sorted(delay for run in told["delays"] for _, delay in run)
    # Before, they all start in the same moment, and after, they end so.
    first, last = max(run[0][0] for run in told["delays"]), min(run[-1][0] for run in told["delays"])
    all_stream = sorted(
        delay for run in told["delays"] for written, delay in run if first + 1e9 < written < last
    )
    lost = runs * SECONDS * TOKENS_PER_SECOND - len(delays)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg()[:2])
    print(f"\n{label}: {runs} runs of {TOKENS_PER_SECOND} tokens/s for {SECONDS} s, {took:.0f} s in all")
    print(f"events {len(delays):,}, lost {lost}   load of the machine {load} on {os.cpu_count()} processors")
    for name, values in (("all events", delays), (f"{len(all_stream):,} while all stream", all_stream)):
        row = "   ".join(f"{part:g} % {percentile(values, part / 100):7.1f}" for part in (50, 90, 99, 99.9))
        print(f"delay in ms, {name:26} {row}   most {values[-1]:7.1f}")
    print(f"server: {used / took:.0%} of a processor; clients {told['cpu'] / took:.0%}")
    print("MB held " + " ".join(f"{mb:.0f}" for mb in held[:: max(1, len(held) // 10)]))


def bench_streams_of_a_model_in_the_server(tmp_path: Path) -> None:
    with running("serve", str(tmp_path / "db")) as server:
        stream(server, "ticking", "a model in the server")


def bench_streams_of_an_upstream(tmp_path: Path) -> None:
    with running("upstream") as (upstream_url, _):
        with running("serve", str(tmp_path / "db"), upstream_url) as server:
            stream(server, "m", "an upstream over HTTP")


def bench_streams_next_to_readers_that_read_nothing(tmp_path: Path) -> None:
    with running("serve", str(tmp_path / "db")) as server:
        assistant = asked(server[0], "POST", "/assistants", {"model": "ticking"})["id"]
        before = memory(server[1])
        silent = program("deaf", server[0], assistant, str(RUNS // 3), str(2 * SECONDS))
        try:
            stream(
                server,
                "ticking",
                f"next to {RUNS // 3} that read nothing ({before:.0f} MB before)",
                RUNS // 3,
            )
        finally:
            silent.terminate()
            silent.wait(30)


def bench_streams_while_a_vector_store_is_built(tmp_path: Path) -> None:
    import requests

    sentence = "In the year {} the harvest of place {} was good, and the ships came back before the winter. "
    text = "".join(sentence.format(1000 + number, number) for number in range(20_000))
    with running("serve", str(tmp_path / "db")) as server:
        stream(server, "ticking", "alone", 50)
        headers, fields = {"Authorization": f"Bearer {TOKEN}"}, {"purpose": "assistants"}
        ids = [
            requests.post(
                f"{server[0]}/v1/files",
                files={"file": ("a.txt", text)},
                data=fields,
                headers=headers,
                timeout=60,
            ).json()["id"]
            for _ in range(4)
        ]
        store = asked(server[0], "POST", "/vector_stores", {"file_ids": ids})
        stream(server, "ticking", "while a vector store is built", 50)
        print(asked(server[0], "GET", f"/vector_stores/{store['id']}")["file_counts"])


def bench_runs_made(tmp_path: Path) -> None:
    with running("serve", str(tmp_path / "db")) as (url, pid):
        assistant = asked(url, "POST", "/assistants", {"model": "ticking"})["id"]
        print(f"\n{'runs at once':16}{'made in a second':>18}{'ms of the server for each':>28}")
        for fetch_all in (1, 10, 50):
            before, seconds = cpu(pid), min(10, SECONDS)
            made = int(program("makers", url, assistant, str(fetch_all), str(seconds)).communicate()[0])
            print(f"{fetch_all:<16}{made / seconds:18.1f}{1000 * (cpu(pid) - before) / made:28.1f}")
        print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    {each.__name__: each for each in (upstream, serve, clients, makers, deaf)}[sys.argv[1]](*sys.argv[2:])
