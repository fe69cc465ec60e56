"""client.files, client.vector_stores and client.models against a real server."""

from __future__ import annotations

import io
import re
import uuid
from pathlib import Path

import pandas as pd
import pytest
from socket_server import SocketServer, answer

import nbruns
from nbruns.client import Client
from nbruns.objects import File, VectorStore

TIDES = "High tide in Bergen is at 14:10, low tide at 20:25."
FERRY = "The ferry to the island leaves every two hours and takes no cars."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "tides.md").write_text(TIDES)
    (tmp_path / "docs" / "deep" / "ferry.txt").write_text(FERRY)
    (tmp_path / "docs" / ".hidden").write_text("secret")
    return tmp_path / "docs"


def test_whatever_a_file_is_made_of_it_is_uploaded(client: Client, folder: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    with open(folder / "tides.md", "rb") as opened:
        opened.seek(5)
        sources = {
            "tides.md": (folder / "tides.md", TIDES.encode()),
            "file.txt": (b"bytes", b"bytes"),
            "Grüße \"1\".txt": (("Grüße \"1\".txt", io.BytesIO(b"named")), b"named"),
            "data.csv": (frame, b"a,b\n1,x\n2,y\n"),
        }  # fmt: skip
        for name, (source, data) in sources.items():
            file = client.files.create(source)
            assert isinstance(file, File) and (file.filename, file.bytes) == (
                name.replace('"', "%22"),
                len(data),
            )
            assert client.files.content(file) == data
        part = client.files.create(opened, purpose="user_data")
        assert (part.filename, part.purpose, client.files.content(part.id)) == (
            "tides.md",
            "user_data",
            TIDES.encode()[5:],
        )
    assert pd.read_parquet(
        io.BytesIO(client.files.content(client.files.create(frame, name="t.parquet")))
    ).equals(frame)


def test_files_are_listed_saved_and_deleted(client: Client, tmp_path: Path) -> None:
    file = client.files.create(
        b"abc", name="a.txt", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.expires_at or 0) - (file.created_at or 0) == 3600
    frame = client.files.list(purpose="batch")
    row = frame[frame["id"] == file.id].iloc[0]
    assert (row["filename"], row["bytes"], row["purpose"]) == ("a.txt", 3, "batch")
    assert str(frame["created_at"].dtype) == "datetime64[ms, UTC]"
    assert client.files.download(file, tmp_path) == tmp_path / "a.txt"
    assert (tmp_path / "a.txt").read_bytes() == b"abc"
    assert client.files.download(file.id, tmp_path / "b").read_bytes() == b"abc"
    client.files.delete(file)
    with pytest.raises(nbruns.NotFoundError, match="No such File object"):
        client.files.retrieve(file)
    with pytest.raises(nbruns.NotFoundError):
        client.files.download(file.id, tmp_path / "c")
    assert not list(tmp_path.glob("c*"))


def test_what_is_no_file_is_said_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Pass a path, bytes, an open file or a DataFrame, not 5"):
        client.files.create(5)
    with pytest.raises(TypeError, match="binary mode"):
        client.files.create(io.StringIO("text"))
    with pytest.raises(FileNotFoundError):
        client.files.create(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no file matches it"):
        client.vector_stores.create(str(tmp_path / "*.nothing"))


def test_a_download_that_breaks_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    def cut(connection, request):  # type: ignore[no-untyped-def]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with SocketServer(cut) as server, pytest.raises(nbruns.ConnectionError):
        Client(server.url, "key", max_retries=0).files.download("file-1", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_upload_is_not_repeated_after_it_may_have_been_taken() -> None:
    with SocketServer(answer({"error": {"message": "no"}}, status=502)) as server:
        with pytest.raises(nbruns.ServerError):
            Client(server.url, "key").files.create(b"x")
        assert len(server.received) == 1


def test_a_folder_becomes_a_store_that_answers(client: Client, folder: Path) -> None:
    store = client.vector_stores.create(folder, name="Island", metadata={"kind": "test"}, progress=False)
    assert isinstance(store, VectorStore) and (store.status, store.name) == ("completed", "Island")
    assert store.file_counts["completed"] == 2  # the hidden one stays
    found = client.vector_stores.search(store, "When does the boat go?", max_num_results=1)
    assert list(found.columns) == ["score", "filename", "file_id", "text", "attributes"]
    assert (found["filename"][0], found["text"][0]) == ("ferry.txt", FERRY)
    assert 0 < found["score"][0] <= 1 and str(found["score"].dtype) == "Float64"
    files = client.vector_stores.files.list(store)
    assert list(files["status"]) == ["completed", "completed"] and set(files["id"]) >= {found["file_id"][0]}
    assert client.vector_stores.files.text(store, found["file_id"][0]) == FERRY
    client.vector_stores.files.update(store, found["file_id"][0], {"kind": "boat"})
    only = client.vector_stores.search(store, "tide", filters={"type": "eq", "key": "kind", "value": "boat"})
    assert list(only["filename"]) == ["ferry.txt"] and only["attributes"][0] == {"kind": "boat"}
    stores = client.vector_stores.list()
    assert stores[stores["id"] == store.id].iloc[0][["n_files", "n_completed", "n_failed"]].tolist() == [
        2,
        2,
        0,
    ]
    client.vector_stores.delete(store)
    with pytest.raises(nbruns.NotFoundError):
        client.vector_stores.retrieve(store)


def test_files_that_are_there_and_patterns_go_into_a_store(client: Client, folder: Path) -> None:
    uploaded = client.files.create(TIDES.encode(), name="tides.txt")
    store = client.vector_stores.create(
        [uploaded, str(folder / "**" / "*.txt"), ("pair.txt", b"A pair")],
        chunking_strategy={
            "type": "static",
            "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
        },
        wait=False,
    )
    done = client.vector_stores.wait(store, timeout=60)
    assert done.file_counts["completed"] == 3
    one = client.vector_stores.files.retrieve(store, uploaded)
    assert one.chunking_strategy == {
        "type": "static",
        "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
    }
    client.vector_stores.files.delete(store, uploaded)
    assert client.vector_stores.retrieve(store).file_counts["total"] == 2
    broken = client.vector_stores.files.create(store, client.files.create(b"", name="empty.txt"))
    client.vector_stores.wait(store, timeout=60)
    failed = client.vector_stores.files.list(store, filter="failed")
    assert list(failed["id"]) == [broken.id] and failed["error_message"][0] == "The file is empty."


def test_waiting_for_a_store_has_a_deadline() -> None:
    store = {
        "id": "vs_1",
        "object": "vector_store",
        "status": "in_progress",
        "file_counts": {"in_progress": 2, "total": 3},
    }
    with (
        SocketServer(answer(store)) as server,
        pytest.raises(nbruns.TimeoutError, match="2 files were not read"),
    ):
        Client(server.url, "key").vector_stores.wait("vs_1", timeout=0.3)


def test_models_are_a_frame(client: Client) -> None:
    models = client.models.list()
    assert {"demo", "smollm2"} <= set(models["id"]) and set(models["owned_by"]) == {"nbruns"}
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(nbruns.NotFoundError, match="does not exist here"):
        client.models.retrieve(f"no/such-{uuid.uuid4().hex}")


def test_the_question_to_an_assistant_with_files(client: Client, folder: Path) -> None:
    store = client.vector_stores.create(folder, progress=False)
    assistant = client.assistants.create(
        model="demo",
        tools=[{"type": "file_search"}],
        tool_resources={"file_search": {"vector_store_ids": [store.id]}},
    )
    thread = client.threads.create("When is high tide in Bergen?")
    run = client.runs.wait(client.runs.create(thread, assistant))
    message = client.messages.list(thread).iloc[-1]
    assert run.status == "completed" and "14:10" in message["text"]
    [mark, *_] = message["annotations"]
    assert re.fullmatch("【0:0†.*】", mark["text"])
    assert client.files.retrieve(mark["file_citation"]["file_id"]).filename == "tides.md"
