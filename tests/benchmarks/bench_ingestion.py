"""Files into a server: 512 MB uploaded, text ingested without and with embedding, and the embedding model alone.

Run as a program, this file is a server without an embedding model.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from bench_load import TOKEN, asked, cpu, running
from bench_search import texts

from nbruns.server.retrieval import embeddings, minilm

JSON = dict[str, Any]

MEGABYTE = 1 << 20
FILES, FILE_MEGABYTES, EMBEDDED_KILOBYTES = 8, 2, 100


def serve_words(database: str) -> None:
    """A server that finds passages by their words alone."""
    from nbruns.server.http import Server, Settings
    from nbruns.server.models import Models

    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(f"sqlite:///{database}", TOKEN, Models())
        Server(listener, settings, lambda url: print(url, flush=True)).run(sockets=[listener])


@contextmanager
def serving_words(database: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, __file__, str(database)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.terminate()


def upload(url: str, data: Any, name: str = "text.txt") -> str:
    """The id of the file, which is sent as it is read."""
    boundary = b"--boundary\r\nContent-Disposition: form-data; name="

    def body() -> Iterator[bytes]:
        yield boundary + b'"purpose"\r\n\r\nassistants\r\n'
        yield boundary + f'"file"; filename="{name}"\r\n\r\n'.encode()
        yield from data
        yield b"\r\n--boundary--\r\n"

    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "multipart/form-data; boundary=boundary",
    }
    response = requests.post(f"{url}/v1/files", data=body(), headers=headers, timeout=600)
    response.raise_for_status()
    return str(response.json()["id"])


def peak(pid: int) -> float:
    """The most memory that a process has had, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def family(pid: int) -> list[int]:
    """A process and those that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@pytest.mark.timeout(3600)
def bench_upload_of_512_megabytes(tmp_path: Path) -> None:
    with serving_words(tmp_path / "db") as (url, pid):
        upload(url, [b"first"])
        before, began, used = peak(pid), time.perf_counter(), cpu(pid)
        upload(url, (os.urandom(MEGABYTE) for _ in range(511)))
        took = time.perf_counter() - began
        print(
            f"\n512 MB in {took:.1f} s, {cpu(pid) - used:.1f} s of a processor   memory +{peak(pid) - before:.0f} MB"
        )
        said()


@pytest.mark.timeout(3600)
def bench_ingestion_without_embedding(tmp_path: Path) -> None:
    data = "\n".join(texts(FILE_MEGABYTES * MEGABYTE // 1100)).encode()
    with serving_words(tmp_path / "db") as (url, pid):
        ingested(url, pid, [data] * FILES)


@pytest.mark.timeout(3600)
def bench_ingestion_with_embedding(tmp_path: Path) -> None:
    data = "\n".join(texts(EMBEDDED_KILOBYTES * 1024 // 1100)).encode()
    with running("serve", str(tmp_path / "db")) as (url, pid):
        ingested(url, pid, [data, data])


def ingested(url: str, pid: int, contents: list[bytes]) -> None:
    ids = [upload(url, [content]) for content in contents]
    began, used = time.perf_counter(), cpu(pid)
    store = asked(url, "POST", "/vector_stores", {"file_ids": ids})
    while store["status"] == "in_progress":
        time.sleep(0.1)
        store = asked(url, "GET", f"/vector_stores/{store['id']}")
    took, size = time.perf_counter() - began, sum(map(len, contents)) / MEGABYTE
    assert store["file_counts"]["completed"] == len(ids)
    print(f"\n{len(ids)} files, {size:.1f} MB of text in {took:.1f} s: {size / took:.2f} MB/s")
    spent = {each: cpu(each) for each in family(pid)}
    spent[pid] -= used
    print(f"seconds of a processor: server {spent.pop(pid):.1f}, its processes {sum(spent.values()):.1f}")
    said()


@pytest.mark.timeout(3600)
def bench_embedding() -> None:
    some = [text[:800] for text in texts(64)]
    tokens = sum(len(minilm._tokens(text)) for text in some)
    size = sum(len(text.encode()) for text in some)

    async def measure() -> tuple[float, float]:
        model = embeddings.embedder()
        assert model is not None
        await model.embed(["warm"])
        [child] = family(os.getpid())[-1:]
        began, used = time.perf_counter(), cpu(child)
        for _ in range(3):
            await model.embed(some)
        figures = time.perf_counter() - began, cpu(child) - used
        await model.close()
        return figures

    print(f"\n{'all-MiniLM-L6-v2':24} tokens/s     KB/s")
    for name, seconds in zip(("by the clock", "of one processor"), asyncio.run(measure()), strict=True):
        print(f"{name:24} {3 * tokens / seconds:8.0f} {3 * size / 1024 / seconds:8.1f}")
    said()


def said() -> None:
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    serve_words(sys.argv[1])
