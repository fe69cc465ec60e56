"""What goes wrong while files are read: each file fails in words, and nothing else is harmed or lost."""

from __future__ import annotations

import json
import resource
import sqlite3
import threading
from asyncio import to_thread
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hostile_files
import numpy as np
import pytest
from served import ANSWER, Api, Scripts, ServerProcess, thread_server
from test_files import sent, uploaded
from test_vector_stores import OSLO, ready, search, store_of, until

from nbruns.server.models import Models
from nbruns.server.retrieval import extract

JSON = dict[str, Any]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("bom.txt", b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe", "Grüße"),
        ("broken.txt", "Grüße aus Köln, äöü, ÄÖÜ, çñø".encode() + b" \xff end", "Grüße aus Köln"),
        ("cut.txt", ("é" * 20).encode()[:-1], "é" * 19),
        ("latin.txt", "Grüße aus Köln".encode("cp1252"), "Grüße aus Köln"),
        ("little.txt", "Grüße".encode("utf-16"), "Grüße"),
        ("big.txt", b"\xfe\xff" + "Grüße".encode("utf-16-be"), "Grüße"),
        ("odd.txt", "Grüße".encode("utf-16") + b"x", "Grüße"),
        ("nul.txt", b"a" * 5000 + b"\0b", "a" * 800),
        ("no_suffix", b"plain", "plain"),
        ("deep.json", b"[" * 1_000_000, "[[["),
        ("line.txt", b"x" * 1_000_000, "xxx"),
    ],
)
def test_text_is_read_whatever_its_encoding(tmp_path: Path, name: str, data: bytes, text: str) -> None:
    answer, passages = extracted(tmp_path, name, data)
    assert answer["pieces"] and passages[0].startswith(text)


@pytest.mark.parametrize(
    ("name", "data", "code", "message"),
    [
        ("empty.txt", b"", "invalid_file", "The file is empty."),
        ("bom.txt", b"\xef\xbb\xbf", "invalid_file", "No text was found"),
        ("blank.md", b" \n" * 100_000, "invalid_file", "No text was found"),
        ("binary.txt", bytes(range(256)) * 10, "unsupported_file", "The file is not text"),
        ("wide.txt", "no mark".encode("utf-16-le"), "unsupported_file", "The file is not text"),
        ("picture.png", b"\x89PNG\r\n", "unsupported_file", "Files of the type .png are not supported"),
        ("program.exe", b"MZ" + bytes(100), "unsupported_file", "Files of the type .exe are not supported"),
        ("nothing.zzz", b"zzz", "unsupported_file", "Files of the type .zzz are not supported"),
        ("one_line.txt", b"x" * 50_000_000, "invalid_file", "The file has over 20,000,000 characters"),
        ("huge.csv", b"x" * 100_000_000, "invalid_file", "The file has over 20,000,000 characters"),
    ],
)  # fmt: skip
def test_what_has_no_text_is_refused_in_words(
    tmp_path: Path, name: str, data: bytes, code: str, message: str
) -> None:
    answer, _ = extracted(tmp_path, name, data)
    assert answer["code"] == code and answer["message"].startswith(message)


def extracted(folder: Path, name: str, data: bytes) -> tuple[JSON, list[str]]:
    """What is answered for a file, and its pieces."""
    source, target = folder / name, folder / "passages"
    source.write_bytes(data)
    answer = extract.extract(str(source), name, str(target), 800, 400)
    lines = target.read_text().splitlines() if "pieces" in answer else []
    return answer, [json.loads(line) for line in lines[: answer.get("pieces")]]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "protected.pdf": (lambda: hostile_files.pdf(2, is_protected=True), "It is protected by a password."),
    "bomb.docx": (lambda: hostile_files.docx(150), "limit"),
    "deep.html": (lambda: b"<div>" * 200_000, "No text was found"),
    "deep.ipynb": (lambda: b'{"cells":' + b"[" * 200_000, "The file can't be read"),
    "cut.docx": (lambda: hostile_files.docx(1)[:2000], "The file can't be read"),
}
#: These take gigabytes of memory or much time, before they are ended.
HEAVY: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.xlsx": (lambda: hostile_files.xlsx(2000), "Reading the file took too much"),
    "bomb.pptx": (lambda: hostile_files.pptx(3000), "The file can't be read: out of memory"),
}


@pytest.mark.parametrize(
    "files", [HOSTILE, pytest.param(HEAVY, marks=pytest.mark.nightly)], ids=["quick", "heavy"]
)
@pytest.mark.timeout(600)
def test_hostile_documents_fail_and_harm_nothing_else(
    api: Api, script: Scripts, files: dict[str, tuple[Callable[[], bytes], str]]
) -> None:
    ids = {name: uploaded(api, make(), name)["id"] for name, (make, _) in files.items()}
    good = uploaded(api, OSLO)["id"]
    store = api.post("/vector_stores", {"file_ids": [*ids.values(), good]})
    scripted = script(ANSWER)  # runs go on meanwhile
    api.until(
        api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": scripted.assistant()}), "completed"
    )
    counts = ready(api, store, seconds=500)["file_counts"]
    assert (counts["completed"], counts["failed"]) == (1, len(files))
    for name, (_, message) in files.items():
        error = api.get(f"/vector_stores/{store['id']}/files/{ids[name]}")["last_error"]
        assert error["code"] == "invalid_file" and message in error["message"], (name, error)
    assert search(api, store, "Oslo")[0]["file_id"] == good


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_pdf_of_ten_thousand_pages_is_read_while_others_are_served(api: Api, script: Scripts) -> None:
    file = uploaded(api, hostile_files.pdf(10_000), "long.pdf")
    store = api.post("/vector_stores", {"file_ids": [file["id"]]})
    assistant = script(*[ANSWER] * 5).assistant()
    for _ in range(5):
        api.until(api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": assistant}), "completed")
    assert api.get(f"/vector_stores/{store['id']}")["status"] == "in_progress"
    assert ready(api, store, seconds=500)["file_counts"]["completed"] == 1
    assert "Page 9999" in search(api, store, "page 9999", max_num_results=1)[0]["content"][0]["text"]


class Held:
    """An embedding model that waits for permission, once for each call: no real one can be halted in the middle."""

    def __init__(self, name: str = "held", width: int = 3, permissions: int = 0) -> None:
        self.name, self._width = name, width
        self.asked, self.permissions = threading.Semaphore(0), threading.Semaphore(permissions)

    async def embed(self, texts: Sequence[str], *, is_query: bool = False) -> Any:
        if not is_query:
            self.asked.release()
            await to_thread(self.permissions.acquire, timeout=30)
        return np.full((len(texts), self._width), self._width**-0.5, np.float32)

    async def close(self) -> None:
        self.permissions.release(1000)


@contextmanager
def holding(folder: Path, model: Held) -> Iterator[Api]:
    with thread_server(folder, Models(), model) as server:
        yield Api(server.url)


def rows(folder: Path, table: str) -> int:
    with sqlite3.connect(folder / "thread.sqlite") as database:
        count: int = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count


def test_a_file_or_a_store_that_is_deleted_while_it_is_read_leaves_nothing(tmp_path: Path) -> None:
    model = Held()
    with holding(tmp_path, model) as api:
        gone, kept = (uploaded(api, OSLO + text, "a.txt")["id"] for text in (b"1", b"2"))
        store = api.post("/vector_stores", {"file_ids": [gone, kept]})
        other = api.post("/vector_stores", {"file_ids": [kept]})
        for _ in range(2):
            assert model.asked.acquire(timeout=30)
        api.delete(f"/files/{gone}")
        model.permissions.release(2)
        assert ready(api, store)["file_counts"] == counts(completed=1)
        assert model.asked.acquire(timeout=30)  # the file of the other store
        api.delete(f"/vector_stores/{other['id']}")
        model.permissions.release(2)
        ready(api, api.post("/vector_stores", {"file_ids": [kept]}))
        assert rows(tmp_path, "passages") == rows(tmp_path, "vector_store_files") == 2


def test_a_batch_that_is_cancelled_in_the_middle_keeps_what_is_done(tmp_path: Path) -> None:
    model = Held()
    with holding(tmp_path, model) as api:
        files = [uploaded(api, OSLO + bytes([65 + number]), "a.txt")["id"] for number in range(5)]
        store = api.post("/vector_stores")
        path = f"/vector_stores/{store['id']}/file_batches"
        batch = api.post(path, {"file_ids": files})
        for _ in range(2):
            assert model.asked.acquire(timeout=30)
        model.permissions.release()
        assert model.asked.acquire(timeout=30)  # the third: so one of the first two is done
        cancelled = api.post(f"{path}/{batch['id']}/cancel")
        assert (cancelled["status"], cancelled["file_counts"]) == (
            "cancelled",
            counts(completed=1, cancelled=4),
        )
        model.permissions.release(10)
        again = api.post("/vector_stores", {"file_ids": files[4:]})
        ready(api, again)
        assert api.get(f"{path}/{batch['id']}")["file_counts"] == counts(completed=1, cancelled=4)
        assert rows(tmp_path, "passages") == 2
        assert api.get(f"/vector_stores/{store['id']}")["status"] == "completed"


def test_a_store_that_expires_while_its_files_are_read(tmp_path: Path) -> None:
    model = Held()
    with holding(tmp_path, model) as api:
        file = uploaded(api, OSLO)["id"]
        store = api.post("/vector_stores", {"file_ids": [file]})
        assert model.asked.acquire(timeout=30)
        with sqlite3.connect(tmp_path / "thread.sqlite", timeout=30) as database:
            database.execute("UPDATE vector_stores SET expires_at = 1")
        until(lambda: api.get(f"/vector_stores/{store['id']}")["status"] == "expired")
        model.permissions.release()
        read = api.get(f"/vector_stores/{store['id']}/files/{file}")
        assert read["status"] == "failed" and "expired before" in read["last_error"]["message"]
        model.permissions.release(2)
        ready(api, api.post("/vector_stores", {"file_ids": [file]}))
        assert rows(tmp_path, "passages") == 1


def counts(**given: int) -> JSON:
    return {
        "in_progress": 0,
        "completed": 0,
        "failed": 0,
        "cancelled": 0,
        "total": sum(given.values()),
        **given,
    }


def test_a_store_of_another_embedding_model_is_kept_and_says_so(tmp_path: Path) -> None:
    with holding(tmp_path, Held("one", 3, 100)) as api:
        store, [file] = store_of(api, OSLO)
    others = (
        (Held("two", 3, 100), "'one', and this server has 'two'"),
        (Held("one", 4, 100), "returns 4"),
    )
    for other, said in others:
        with holding(tmp_path, other) as api:
            path = f"/vector_stores/{store['id']}"
            status, error = api.refused("POST", f"{path}/search", {"query": "Oslo"})
            assert (status, error["code"]) == (400, "embedding_model_changed")
            assert "create a new store from the files" in error["message"]
            late = uploaded(api, OSLO)["id"]
            api.post(f"{path}/files", {"file_id": late})
            ready(api, store)
            refused = api.get(f"{path}/files/{late}")["last_error"]
            assert refused["code"] == "server_error" and "create a new store" in refused["message"]
            assert said in error["message"] and said in refused["message"]
            api.delete(f"{path}/files/{late}")
            new, _ = store_of(api, OSLO)
            assert len(search(api, new, "Oslo")) == 1
    with holding(tmp_path, Held("one", 3, 100)) as api:
        assert [each["file_id"] for each in search(api, store, "Oslo")] == [file]


def test_where_the_disk_is_full_uploads_are_refused_and_files_wait(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db")
    pid, limit = server.process.pid, 1_500_000
    # Its text is short, but the file is larger than what may be written.
    file = uploaded(server.api, b"\n" * 3_000_000 + OSLO)["id"]
    store = server.api.post("/vector_stores")
    assert max(each.stat().st_size for each in tmp_path.glob("db*")) < limit
    stored = sorted((tmp_path / "files").iterdir())
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    response = sent(server.api, b"x" * 2_000_000)
    assert (response.status_code, response.json()["error"]["code"]) == (507, "no_space")
    assert sorted((tmp_path / "files").iterdir()) == stored and len(server.api.get("/files")["data"]) == 1
    path = f"/vector_stores/{store['id']}/files"
    server.api.post(path, {"file_id": file})
    until(lambda: attempts(tmp_path / "db") == 1)
    until(lambda: attempts(tmp_path / "db") == 0)  # it has been given back, and waits
    assert server.api.get(f"{path}/{file}")["status"] == "in_progress"
    resource.prlimit(
        pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY)
    )  # nor can the database be written
    assert server.api.session.post(f"{server.url}/v1/threads", json={}, timeout=30).status_code >= 500
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert ready(server.api, store)["file_counts"] == counts(completed=1)
    assert search(server.api, store, "Oslo")[0]["file_id"] == file
    server.kill()


def attempts(database: Path) -> int:
    with sqlite3.connect(database, timeout=30) as opened:
        found: int = opened.execute("SELECT attempts FROM vector_store_files").fetchone()[0]
    return found


def test_a_server_with_files_to_read_is_not_idle(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", "--idle-timeout", "3")
    text = " ".join(f"Sentence number {number} is about the harbour." for number in range(60)).encode()
    files = [uploaded(server.api, text + bytes([65 + number]))["id"] for number in range(3)]
    server.api.post("/vector_stores", {"file_ids": files})
    server.api.session.close()
    assert server.process.wait(60) == 0
    with sqlite3.connect(tmp_path / "db") as database:
        assert database.execute("SELECT DISTINCT status FROM vector_store_files").fetchall() == [
            ("completed",)
        ]
    server.stop()
