"""Files, uploads and models over the wire: sent as a form, kept as they are, deleted for good."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from served import Api, ServerProcess

from nbruns.server.schemas import files as schemas
from nbruns.server.storage.blobs import NoSpace

JSON = dict[str, Any]
MEGABYTE = 1 << 20


def sent(
    api: Api, data: bytes | Iterator[bytes], name: str = "notes.txt", **fields: str
) -> requests.Response:
    """The answer to an upload."""
    fields = {"purpose": "assistants", **fields}
    return api.send("POST", "/files", files={"file": (name, data)}, data=fields)


def uploaded(api: Api, data: bytes, name: str = "notes.txt", **fields: str) -> JSON:
    response = sent(api, data, name, **fields)
    assert response.status_code == 200, response.text
    body: JSON = response.json()
    return body


def content(api: Api, file: JSON) -> bytes:
    response = api.send("GET", f"/files/{file['id']}/content")
    assert response.status_code == 200
    return response.content


def test_a_file_comes_back_as_it_was_sent(api: Api) -> None:
    data = os.urandom(3 * MEGABYTE + 1)
    file = uploaded(api, data, "Grüße 你好.bin")
    assert re.fullmatch("file-[0-9A-Za-z]{24}", file["id"])
    assert (file["object"], file["bytes"], file["status"]) == ("file", len(data), "processed")
    assert (file["filename"], file["purpose"], file["expires_at"]) == ("Grüße 你好.bin", "assistants", None)
    assert api.get(f"/files/{file['id']}") == file
    response = api.send("GET", f"/files/{file['id']}/content")
    assert response.content == data
    assert response.headers["content-disposition"].startswith("attachment; filename*=UTF-8''Gr%C3%BC")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert api.delete(f"/files/{file['id']}") == {"object": "file", "deleted": True, "id": file["id"]}
    status, error = api.refused("GET", f"/files/{file['id']}")
    assert (status, error["message"], error["param"]) == (404, f"No such File object: {file['id']}", "id")
    assert api.refused("GET", f"/files/{file['id']}/content")[0] == 404
    assert api.refused("DELETE", f"/files/{file['id']}")[0] == 404


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.txt", "a.txt"),
        ("a\x01b.txt", "ab.txt"),
        ("x" * 400, "x" * 255),
    ],
)
def test_a_name_has_no_folders_and_no_control_characters(api: Api, name: str, kept: str) -> None:
    assert uploaded(api, b"x", name)["filename"] == kept


def test_lists_are_filtered_by_purpose_and_come_in_pages(api: Api) -> None:
    made = [uploaded(api, b"x", purpose="batch")["id"] for _ in range(3)]
    uploaded(api, b"x", purpose="vision")
    first = api.get("/files", purpose="batch", limit=2, order="asc")
    assert [file["id"] for file in first["data"]] == made[:2] and first["has_more"]
    rest = api.get("/files", purpose="batch", order="asc", after=first["last_id"])
    assert [file["id"] for file in rest["data"]] == made[2:] and not rest["has_more"]


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        (
            {"purpose": "world_domination"},
            "'world_domination' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals'] "
            "- 'purpose'",
            "purpose",
        ),
        ({"purpose": ""}, "'' is not one of", "purpose"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"},
            "Invalid 'expires_after.seconds'",
            "expires_after.seconds",
        ),
        ({"colour": "red"}, "Unknown parameter: 'colour'.", "colour"),
    ],
)
def test_a_form_is_checked(api: Api, fields: dict[str, str], message: str, param: str) -> None:
    before = len(api.get("/files")["data"])
    response = sent(api, b"x", **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(message) and error["param"] == param
    assert len(api.get("/files")["data"]) == before


def test_a_request_that_is_no_form_lacks_its_file(api: Api) -> None:
    for options in ({"json": {"purpose": "assistants"}}, {"data": {"purpose": "assistants"}}):
        response = api.session.post(f"{api.url}/v1/files", timeout=30, **options)
        assert response.status_code == 400
        assert response.json()["error"]["param"] in ("purpose", "file")


def test_an_expiry_is_kept_and_a_file_is_gone_after_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = uploaded(api, b"x", **fields)
    assert file["expires_at"] == file["created_at"] + 3600
    from nbruns.server.storage import store

    now = store.now
    monkeypatch.setattr(store, "now", lambda: now() + 3601)
    assert api.refused("GET", f"/files/{file['id']}")[0] == 404


def test_a_file_that_is_too_large_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbruns.server.routes import OPERATIONS

    operation = next(each for each in OPERATIONS if each.handler.__name__ == "create_file")
    assert operation.max_form_bytes == schemas.MAX_FILE_BYTES == 512 * MEGABYTE
    part = "add_upload_part"
    assert next(each for each in OPERATIONS if each.handler.__name__ == part).max_form_bytes == 64 * MEGABYTE
    upload = api.post("/uploads", upload_of(b"x" * 100))

    def endless() -> Iterator[bytes]:
        head = '--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\n'
        yield head.encode()
        for _ in range(70):
            yield b"x" * MEGABYTE

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    url = f"{api.url}/v1/uploads/{upload['id']}/parts"
    try:
        response = api.session.post(url, data=endless(), headers=headers, timeout=30)
    except requests.ConnectionError:  # the server hung up while more was being sent
        return
    assert response.status_code == 413 and response.json()["error"]["code"] == "request_too_large"


def test_where_there_is_no_space_nothing_is_kept(
    api: Api, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = api.get("/files")["data"]

    def full(id: str, sources: Any) -> Any:
        raise NoSpace

    monkeypatch.setattr(server._blobs, "_write", full)
    response = sent(api, b"x")
    assert response.status_code == 507 and "no space left" in response.json()["error"]["message"]
    assert api.get("/files")["data"] == before


def upload_of(data: bytes, **fields: Any) -> JSON:
    return {
        "filename": "big.txt", "purpose": "assistants", "bytes": len(data), "mime_type": "text/plain", **fields
    }  # fmt: skip


def part_of(api: Api, upload: JSON, data: bytes) -> str:
    response = api.send("POST", f"/uploads/{upload['id']}/parts", files={"data": ("part", data)})
    assert response.status_code == 200, response.text
    assert response.json()["upload_id"] == upload["id"]
    return str(response.json()["id"])


def test_an_upload_joins_its_parts_in_the_given_order(api: Api) -> None:
    upload = api.post("/uploads", upload_of(b"onetwothree"))
    assert (upload["status"], upload["file"]) == ("pending", None)
    parts = [part_of(api, upload, data) for data in (b"two", b"three", b"one")]
    ordered = [parts[2], parts[0], parts[1]]
    body = {"part_ids": ordered, "md5": hashlib.md5(b"onetwothree").hexdigest()}
    done = api.post(f"/uploads/{upload['id']}/complete", body)
    assert (done["status"], done["file"]["filename"], done["file"]["bytes"]) == ("completed", "big.txt", 11)
    assert content(api, done["file"]) == b"onetwothree"
    assert (
        api.refused("POST", f"/uploads/{upload['id']}/complete", body)[1]["message"]
        == "The upload is completed."
    )
    assert api.refused("POST", f"/uploads/{upload['id']}/cancel")[0] == 400


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"part_ids": ["part_nowhere"]}, "part_ids"),
        ({"part_ids": []}, "part_ids"),
        ({"md5": "0" * 32}, "md5"),
    ],
)
def test_an_upload_that_does_not_fit_stays_pending(api: Api, change: JSON, param: str) -> None:
    upload = api.post("/uploads", upload_of(b"data"))
    body = {"part_ids": [part_of(api, upload, b"data")]}
    status, error = api.refused("POST", f"/uploads/{upload['id']}/complete", {**body, **change})
    assert (status, error["param"]) == (400, param)
    assert api.post(f"/uploads/{upload['id']}/complete", body)["status"] == "completed"


def test_a_cancelled_upload_takes_nothing_more(api: Api, server: Any) -> None:
    upload = api.post("/uploads", upload_of(b"data"))
    part = part_of(api, upload, b"data")
    assert api.post(f"/uploads/{upload['id']}/cancel")["status"] == "cancelled"
    assert not (Path(server._blobs.url) / part).exists()
    response = api.send("POST", f"/uploads/{upload['id']}/parts", files={"data": ("part", b"data")})
    assert response.status_code == 400
    assert api.refused("POST", "/uploads/upload_nowhere/cancel")[0] == 404


def test_models_are_listed_and_those_that_are_not_there_are_not_found(api: Api) -> None:
    listed = api.get("/models")
    assert {"demo", "smollm2"} <= {model["id"] for model in listed["data"]}
    assert api.get("/models/demo") == {"id": "demo", "object": "model", "created": 0, "owned_by": "nbruns"}
    status, error = api.refused("GET", "/models/meta/llama-99")
    assert (status, error["code"]) == (404, "model_not_found")
    assert "--alias 'meta/llama-99=demo'" in error["message"]


def test_a_file_whose_content_is_gone_says_so(api: Api, server: Any) -> None:
    data = {"purpose": "assistants"}
    file = api.send("POST", "/files", data=data, files={"file": ("gone.txt", b"words")}).json()
    (Path(server._blobs.url) / file["id"]).unlink()
    refused = api.send("GET", f"/files/{file['id']}/content")
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "file_content_missing"
    assert "Restore it from a backup" in refused.json()["error"]["message"]
    empty = api.send("POST", "/files", data=data, files={"file": ("empty.txt", b"")}).json()
    assert api.send("GET", f"/files/{empty['id']}/content").content == b""


def test_files_outlive_the_server_and_blobs_without_a_row_are_removed(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db")
    file = uploaded(server.api, b"kept")
    server.kill()
    orphan = tmp_path / "files" / "file-ofAKilledRequest"
    orphan.write_bytes(b"x")
    os.utime(orphan, (0, 0))
    young = tmp_path / "files" / "file-ofARequestThatIsBeingServed"
    young.write_bytes(b"x")
    server = ServerProcess(tmp_path / "db")
    assert content(server.api, file) == b"kept"
    while orphan.exists():
        assert server.api.get("/files")["data"] == [file]
    assert young.exists()
    server.kill()


def test_memory_stays_flat_while_a_large_file_comes(tmp_path: Path) -> None:
    size = 128 * MEGABYTE

    class Zeros(io.RawIOBase):
        """A file of that size that is nowhere."""

        left = size

        def read(self, size: int = -1) -> bytes:
            piece = min(self.left, MEGABYTE)
            self.left -= piece
            return bytes(piece)

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="zeros"\r\n\r\n'
        zeros = Zeros()
        while piece := zeros.read():
            yield piece
        yield b"\r\n--b--\r\n"

    server = ServerProcess(tmp_path / "db")
    uploaded(server.api, b"first")
    before = peak(server.process.pid)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = server.api.session.post(f"{server.url}/v1/files", data=body(), headers=headers, timeout=60)
    assert response.json()["bytes"] == size
    assert peak(server.process.pid) - before < 50
    server.kill()


def peak(pid: int) -> float:
    """The most memory that a process has had, in megabytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
