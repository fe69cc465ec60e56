"""Vector stores over the wire: files become passages in the background, which searches find."""

from __future__ import annotations

import io
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from postgresql_server import NewDatabase
from served import Api, ServerProcess
from test_files import uploaded
from test_kills import KILLS, SEED

JSON = dict[str, Any]
OSLO = b"Oslo is the capital of Norway. In winter it is cold there, about minus three degrees, and it snows."
CATS = b"A cat sleeps for sixteen hours a day. Kittens sleep even longer. Cats purr when they are content."
PRICES = b"The yearly subscription costs 120 euros. Refunds are given within thirty days, by the same way of payment."


def until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ready(api: Api, store: JSON, seconds: float = 150) -> JSON:
    """The vector store, when all its files have been read."""
    deadline = time.monotonic() + seconds
    while (now := api.get(f"/vector_stores/{store['id']}"))["status"] == "in_progress":
        assert time.monotonic() < deadline, now
        time.sleep(0.02)
    return now


def store_of(api: Api, *texts: bytes, **params: Any) -> tuple[JSON, list[str]]:
    """A vector store of texts, and the ids of their files."""
    ids = [uploaded(api, text, f"text{number}.txt")["id"] for number, text in enumerate(texts)]
    return ready(api, api.post("/vector_stores", {"file_ids": ids, **params})), ids


def search(api: Api, store: JSON, query: str | list[str], **params: Any) -> list[JSON]:
    """The results of a search."""
    found: list[JSON] = api.post(f"/vector_stores/{store['id']}/search", {"query": query, **params})["data"]
    return found


def test_a_store_is_made_of_files_and_finds_by_words_and_by_meaning(api: Api) -> None:
    store, (oslo, cats, prices) = store_of(api, OSLO, CATS, PRICES, name="mixed", metadata={"a": "b"})
    assert store["file_counts"] == {"in_progress": 0, "completed": 3, "failed": 0, "cancelled": 0, "total": 3}
    assert store["usage_bytes"] > len(OSLO + CATS + PRICES) and store["metadata"] == {"a": "b"}
    assert search(api, store, "subscription")[0]["file_id"] == prices  # a word of it
    assert search(api, store, "How long do pets rest?")[0]["file_id"] == cats  # none of its words
    [best] = search(api, store, "weather in Scandinavia", max_num_results=1)
    assert (best["file_id"], best["filename"], best["attributes"]) == (oslo, "text0.txt", {})
    assert best["content"] == [{"type": "text", "text": OSLO.decode()}]
    scores = [each["score"] for each in search(api, store, ["winter", "kittens"])]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    assert search(api, store, "winter", ranking_options={"score_threshold": 0.99}) == []


def test_the_objects_of_a_file_in_a_store(api: Api) -> None:
    store, _ = store_of(api)
    assert (store["status"], store["file_counts"]["total"], store["usage_bytes"]) == ("completed", 0, 0)
    file = uploaded(api, OSLO)
    path = f"/vector_stores/{store['id']}/files"
    chunking = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}}
    given = {
        "file_id": file["id"],
        "attributes": {"year": 2026, "draft": True},
        "chunking_strategy": chunking,
    }
    added = api.post(path, given)
    assert (added["status"], added["chunking_strategy"], added["usage_bytes"]) == ("in_progress", chunking, 0)
    ready(api, store)
    read = api.get(f"{path}/{file['id']}")
    assert (read["status"], read["attributes"]) == ("completed", {"year": 2026, "draft": True})
    page = api.get(f"{path}/{file['id']}/content")
    assert "".join(part["text"] for part in page["data"]) == OSLO.decode() and not page["has_more"]
    assert api.post(f"{path}/{file['id']}", {"attributes": {"year": 2027}})["attributes"] == {"year": 2027}
    assert [each["id"] for each in api.get(path, filter="completed")["data"]] == [file["id"]]
    assert api.get(path, filter="failed")["data"] == []
    assert api.delete(f"{path}/{file['id']}")["deleted"]
    assert search(api, store, "Oslo") == []
    assert api.refused("GET", f"{path}/{file['id']}")[0] == 404
    assert api.get(f"/files/{file['id']}")["id"] == file["id"]  # the file itself stays


def test_a_file_that_is_deleted_is_found_no_more(api: Api) -> None:
    store, (oslo, cats) = store_of(api, OSLO, CATS)
    assert search(api, store, "Oslo")[0]["file_id"] == oslo
    api.delete(f"/files/{oslo}")
    assert [each["file_id"] for each in search(api, store, "Oslo")] == [cats]
    assert api.get(f"/vector_stores/{store['id']}")["file_counts"]["total"] == 1


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"type": "eq", "key": "year", "value": 2025}, {"a"}),
        ({"type": "ne", "key": "year", "value": 2025}, {"b", "c"}),
        ({"type": "gt", "key": "year", "value": 2025}, {"b"}),
        ({"type": "gte", "key": "year", "value": 2025.0}, {"a", "b"}),
        ({"type": "lt", "key": "year", "value": 2026}, {"a"}),
        ({"type": "lte", "key": "year", "value": "2026"}, set()),
        ({"type": "in", "key": "kind", "value": ["x", "y"]}, {"a", "b"}),
        ({"type": "nin", "key": "kind", "value": ["x"]}, {"b", "c"}),
        ({"type": "eq", "key": "draft", "value": True}, {"c"}),
        ({"type": "eq", "key": "year", "value": True}, set()),
        (
            {
                "type": "and",
                "filters": [
                    {"type": "gte", "key": "year", "value": 2025},
                    {"type": "or", "filters": [{"type": "eq", "key": "kind", "value": "y"}]},
                ],
            },
            {"b"},
        ),
    ],
)
def test_searches_are_filtered_by_attributes(api: Api, filters: JSON, found: set[str]) -> None:
    store = api.post("/vector_stores")
    attributes: dict[str, JSON] = {
        "a": {"year": 2025, "kind": "x"},
        "b": {"year": 2026, "kind": "y"},
        "c": {"draft": True},
    }
    files = []
    for name, given in attributes.items():
        file = uploaded(api, f"The report {name} says that Oslo is cold.".encode(), f"{name}.txt")
        files.append({"file_id": file["id"], "attributes": given})
    batch = api.post(f"/vector_stores/{store['id']}/file_batches", {"files": files})
    assert batch["file_counts"]["total"] == 3
    ready(api, store)
    assert {each["filename"][0] for each in search(api, store, "Oslo", filters=filters)} == found


def test_batches_are_counted_and_a_broken_file_does_not_hold_them_up(api: Api) -> None:
    store = api.post("/vector_stores")
    files = [
        uploaded(api, OSLO, "good.txt"),
        uploaded(api, b"", "empty.txt"),
        uploaded(api, b"\x89PNG\r\n", "picture.png"),
        uploaded(api, b"%PDF-1.7 not one", "broken.pdf"),
        uploaded(api, b"\0\0\0\0", "binary"),
    ]
    path = f"/vector_stores/{store['id']}/file_batches"
    batch = api.post(path, {"file_ids": [file["id"] for file in files], "attributes": {"a": 1}})
    assert batch["status"] == "in_progress"
    ready(api, store)
    done = api.get(f"{path}/{batch['id']}")
    assert (done["status"], done["file_counts"]["completed"], done["file_counts"]["failed"]) == (
        "completed",
        1,
        4,
    )
    failed = {
        each["id"]: each["last_error"]
        for each in api.get(f"{path}/{batch['id']}/files", filter="failed")["data"]
    }
    codes = [failed[file["id"]]["code"] for file in files[1:]]
    assert codes == ["invalid_file", "unsupported_file", "invalid_file", "unsupported_file"]
    assert failed[files[1]["id"]]["message"] == "The file is empty."
    assert api.refused("POST", f"{path}/{batch['id']}/cancel")[0] == 400


def test_documents_of_many_types_are_read(api: Api) -> None:
    pages = {
        "page.html": b"<html><script>no()</script><h1>Fjords</h1><p>Deep water</p></html>",
        "notes.md": b"# Fjords\n\nDeep *water*",
        "code.py": b"def fjord():\n    return 'deep water'\n",
        "data.json": b'{"fjord": "deep water"}',
        "latin.txt": "Fjörd: tiefes Wasser, deep water".encode("cp1252"),
        "wide.txt": "Fjord: deep water".encode("utf-16"),
        "letter.docx": docx("Fjords have deep water"),
    }
    ids = {uploaded(api, data, name)["id"]: name for name, data in pages.items()}
    store = ready(api, api.post("/vector_stores", {"file_ids": [*ids]}))
    assert store["file_counts"]["completed"] == len(pages), api.get(f"/vector_stores/{store['id']}/files")
    for id, name in ids.items():
        page = api.get(f"/vector_stores/{store['id']}/files/{id}/content")
        text = "".join(part["text"] for part in page["data"]).lower()
        assert "deep" in text and "wa" in text and "no()" not in text, name


def docx(text: str) -> bytes:
    """A Word document, as small as it may be."""
    space = "http://schemas.openxmlformats.org"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{space}/package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/word/document.xml" '
        'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{space}/package/2006/relationships"><Relationship Id="r" '
        f'Type="{space}/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{space}/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>{text}'
        "</w:t></w:r></w:p></w:body></w:document>",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_long_texts_are_split_and_each_part_is_found(api: Api) -> None:
    sentences = [
        f"In the year {1000 + number} the harvest of place {number} was good." for number in range(150)
    ]
    store, [file] = store_of(api, " ".join(sentences).encode())
    page = api.get(f"/vector_stores/{store['id']}/files/{file}/content")["data"]
    assert len(page) > 2 and max(len(part["text"]) for part in page) <= 800 * 4
    for number in (3, 76, 149):
        best = search(api, store, str(1000 + number), max_num_results=2)
        assert any(f"the year {1000 + number} " in each["content"][0]["text"] for each in best)


def test_what_does_not_exist_or_does_not_fit_is_refused(api: Api) -> None:
    status, error = api.refused("POST", "/vector_stores", {"file_ids": ["file-abc"]})
    assert (status, error["message"]) == (404, "No such File object: file-abc")
    store, _ = store_of(api)
    path = f"/vector_stores/{store['id']}"
    assert (
        api.refused("GET", "/vector_stores/vs_nope")[1]["message"]
        == "No vector store found with id 'vs_nope'."
    )
    for method, rest, body in [
        ("POST", "/files", {"file_id": "file-abc"}),
        ("GET", "/files/file-abc", None),
        ("GET", "/file_batches/vsfb_nope", None),
        ("POST", "/file_batches", {"file_ids": ["file-abc"]}),
    ]:
        assert api.refused(method, path + rest, body)[0] == 404
    for rest, body, param in [
        ("/file_batches", {}, "file_ids"),
        ("/search", {"query": "x", "max_num_results": 51}, "max_num_results"),
        ("/search", {"query": "x", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters.type"),
        ("/files", {"file_id": "x", "attributes": {"a": [1]}}, "attributes.a"),
        ("/files", {"file_id": "x", "attributes": {str(n): n for n in range(17)}}, "attributes"),
    ]:
        status, error = api.refused("POST", path + rest, body)
        assert (status, error["param"]) == (400, param)


def test_hostile_words_are_words(api: Api) -> None:
    store, _ = store_of(api, OSLO)
    for query in (
        '" OR 1',
        "a' | !b & (",
        "NEAR(",
        "*",
        "text : x",
        "vector_store_id:",
        "ÆØÅ",
        "\u0000",
        "-",
        "AND",
    ):
        assert isinstance(search(api, store, query), list)


def test_a_store_expires_after_its_last_use(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbruns.server.storage import store as storage

    store, _ = store_of(api, OSLO, expires_after={"anchor": "last_active_at", "days": 1})
    assert store["expires_at"] == store["last_active_at"] + 24 * 3600
    now = storage.now
    monkeypatch.setattr(storage, "now", lambda: now() + 20 * 3600)
    search(api, store, "Oslo")
    used = api.get(f"/vector_stores/{store['id']}")
    assert used["expires_at"] > store["expires_at"]
    monkeypatch.setattr(storage, "now", lambda: now() + 50 * 3600)
    assert api.get(f"/vector_stores/{store['id']}")["status"] == "expired"
    status, error = api.refused("POST", f"/vector_stores/{store['id']}/search", {"query": "Oslo"})
    assert (status, error["message"]) == (400, f"Vector store {store['id']} is expired.")
    assert api.delete(f"/vector_stores/{store['id']}")["deleted"]


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.nightly)])
@pytest.mark.timeout(120 + 20 * KILLS)
def test_a_server_that_is_killed_while_it_reads_finishes_and_stores_nothing_twice(
    tmp_path: Path, postgresql: NewDatabase, database: str
) -> None:
    url = f"sqlite:///{tmp_path / 'db'}" if database == "sqlite" else postgresql()
    # Without a limit on attempts: here every file is to be read, however often it is cut off.
    arguments = ("--blobs", str(tmp_path / "files"), "--attempts", "1000000")
    chance, engine = (
        random.Random(SEED),
        sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://")),
    )
    server = ServerProcess(url, *arguments)
    text = " ".join(f"Sentence number {number} is about the harbour." for number in range(100)).encode()
    files = [uploaded(server.api, text + str(number).encode())["id"] for number in range(2 + 2 * KILLS)]
    store = server.api.post("/vector_stores")
    path = f"/vector_stores/{store['id']}/file_batches"
    batches = [server.api.post(path, {"file_ids": part})["id"] for part in (files[::2], files[1::2])]
    cut = begun = 0
    for _ in range(KILLS):
        until(lambda before=begun: number(engine, BEGUN) > before)
        time.sleep(chance.uniform(0.0, 0.3))
        server.kill()
        begun = number(engine, BEGUN)
        cut += number(engine, UNFINISHED) > 0
        server = ServerProcess(url, *arguments)
    assert cut > 0  # in the middle of a file
    done = ready(server.api, store, 60 + 10 * KILLS)
    assert done["file_counts"]["completed"] == len(files)
    assert {server.api.get(f"{path}/{batch}")["status"] for batch in batches} == {"completed"}
    for file in files:
        page = server.api.get(f"/vector_stores/{store['id']}/files/{file}/content")["data"]
        texts = [part["text"] for part in page]
        assert len(texts) == len(set(texts)) and "number 0 " in texts[0] and "number 99 " in texts[-1]
    server.kill()
    engine.dispose()


#: How often a file has been begun, and how many of those that have been begun are unfinished.
BEGUN = "SELECT sum(attempts) FROM vector_store_files"
UNFINISHED = "SELECT count(*) FROM vector_store_files WHERE status = 'in_progress' AND attempts > 0"


def number(engine: sa.Engine, query: str) -> int:
    with engine.connect() as conn:
        return int(conn.scalar(sa.text(query)) or 0)


def test_two_servers_share_the_work_and_see_the_same_index(tmp_path: Path, postgresql: NewDatabase) -> None:
    url, folder = postgresql(), ("--blobs", str(tmp_path / "files"))
    one, other = ServerProcess(url, *folder), ServerProcess(url, *folder)
    files = [uploaded(one.api, OSLO + str(number).encode(), f"{number}.txt")["id"] for number in range(20)]
    store = one.api.post("/vector_stores")
    path = f"/vector_stores/{store['id']}/file_batches"
    batch = one.api.post(path, {"file_ids": files})
    assert ready(other.api, store)["file_counts"]["completed"] == 20
    assert other.api.get(f"{path}/{batch['id']}")["file_counts"]["completed"] == 20
    with psycopg.connect(url) as database:
        assert database.execute("SELECT max(attempts) FROM vector_store_files").fetchone() == (
            1,
        )  # none twice
    for each in (one, other):
        found = search(each.api, store, "capital of Norway", max_num_results=50)
        assert sorted(result["file_id"] for result in found) == sorted(files)
    other.api.delete(f"/files/{files[0]}")
    found = search(one.api, store, "capital of Norway", max_num_results=50)
    assert sorted(result["file_id"] for result in found) == sorted(files[1:])
    one.kill()
    other.kill()
