"""Files, uploads and models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from nbruns.server.models import UnknownModelError
from nbruns.server.routes.operation import Call, get_object, list_objects, operation
from nbruns.server.schemas import objects
from nbruns.server.schemas.base import Page
from nbruns.server.schemas.errors import Refused
from nbruns.server.schemas.files import (
    MAX_FILE_BYTES,
    MAX_PART_BYTES,
    MAX_UPLOAD_BYTES,
    UPLOAD_LIFETIME,
    AddUploadPartRequest,
    CompleteUploadRequest,
    CreateFileRequest,
    CreateUploadRequest,
    DeleteFileResponse,
    FileObject,
    ListFilesQuery,
    ModelList,
    ModelObject,
    UploadObject,
    UploadPartObject,
    file_name,
)
from nbruns.server.storage import files, store
from nbruns.server.storage.blobs import NoSpace
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON

_FILE = "/v1/files/{file_id}"
_UPLOAD = "/v1/uploads/{upload_id}"


@operation("POST", "/v1/files", FileObject, form=CreateFileRequest, max_form_bytes=MAX_FILE_BYTES)
async def create_file(call: Call) -> JSON:
    file = call.file("file")
    now, params = store.now(), call.params
    after = params.get("expires_after")
    id = objects.new_id("file", "-")
    try:
        size, _ = await call.services.blobs.write(id, [file.file])
    except NoSpace:
        raise no_space() from None
    body = FileObject.new(
        id=id,
        purpose=params["purpose"],
        filename=file_name(file.filename),
        bytes=size,
        created_at=now,
        expires_at=now + after["seconds"] if after else None,
    )
    await call.db.write(lambda tx: store.add(tx.conn, files.files, body))
    return body


@operation("GET", "/v1/files", Page[FileObject], query=ListFilesQuery)
async def list_files(call: Call) -> JSON:
    return await list_objects(call, files.files, {"purpose": call.query["purpose"]})


@operation("GET", _FILE, FileObject)
async def get_file(call: Call) -> JSON:
    return await existing_file(call)


@operation("DELETE", _FILE, DeleteFileResponse)
async def delete_file(call: Call) -> JSON:
    id = call.path["file_id"]
    if not await call.db.write(files.delete_file, id):
        raise no_such_file(id)
    await call.services.blobs.delete([id])
    return DeleteFileResponse.new(id=id)


@operation("GET", _FILE + "/content", None, media_type="application/octet-stream")
async def get_file_content(call: Call) -> Response:
    file = await existing_file(call)
    headers = {
        "content-length": str(file["bytes"]),
        # Browsers download it instead of displaying it, so that scripts in it never run in the server's origin.
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file['filename'], safe='')}",
        "x-content-type-options": "nosniff",
    }
    pieces = call.services.blobs.read(file["id"])
    try:
        first = await anext(pieces, b"")  # raises before the status is sent
    except FileNotFoundError:
        message = (
            f"The content of {file['id']} is missing on this server. Restore it from a backup of its files."
        )
        raise Refused(message, status=404, param="id", code="file_content_missing") from None

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(whole(), headers=headers, media_type="application/octet-stream")


async def existing_file(call: Call) -> JSON:
    """Return the file that the path of the request names. Raises Refused if it doesn't exist."""
    id = call.path["file_id"]
    file = await call.db.read(store.get, files.files, id)
    if file is None or (file["expires_at"] or store.now() + 1) <= store.now():
        raise no_such_file(id)
    return file


def no_such_file(id: str) -> Refused:
    """Return the error for an unknown id of a file."""
    return Refused(f"No such File object: {id}", status=404, param="id")


def no_space() -> Refused:
    """Return the error for a file for which there is no disk space."""
    return Refused(
        "There is no space left for the file. Delete files, or ask whoever runs the server for more space.",
        status=507,
        type="server_error",
        code="no_space",
    )


@operation("POST", "/v1/uploads", UploadObject, CreateUploadRequest)
async def create_upload(call: Call) -> JSON:
    now, params = store.now(), call.params
    upload = UploadObject.new(
        id=objects.new_id("upload"),
        bytes=params["bytes"],
        created_at=now,
        filename=file_name(params["filename"]),
        purpose=params["purpose"],
        expires_at=now + UPLOAD_LIFETIME,
    )
    after = (params.get("expires_after") or {}).get("seconds")
    await call.db.write(lambda tx: store.add(tx.conn, files.uploads, upload, file_lifetime=after))
    return upload


@operation(
    "POST",
    _UPLOAD + "/parts",
    UploadPartObject,
    form=AddUploadPartRequest,
    form_file="data",
    max_form_bytes=MAX_PART_BYTES,
)
async def add_upload_part(call: Call) -> JSON:
    data, upload_id = call.file("data"), call.path["upload_id"]
    _check_pending(await get_object(call, files.uploads, "upload", upload_id))
    part = UploadPartObject.new(id=objects.new_id("part"), created_at=store.now(), upload_id=upload_id)
    try:
        size, _ = await call.services.blobs.write(part["id"], [data.file])
    except NoSpace:
        raise no_space() from None

    def add(tx: Transaction) -> None:
        upload = store.get(tx.conn, files.uploads, upload_id, lock=True)
        _check_pending(upload)
        if sum(files.parts_of(tx.conn, upload_id).values()) + size > MAX_UPLOAD_BYTES:
            raise Refused(f"An upload has at most {MAX_UPLOAD_BYTES:,} bytes.", param="data")
        store.add(tx.conn, files.upload_parts, part, size=size)

    try:
        await call.db.write(add)
    except Refused:
        await call.services.blobs.delete([part["id"]])
        raise
    return part


@operation("POST", _UPLOAD + "/complete", UploadObject, CompleteUploadRequest)
async def complete_upload(call: Call) -> JSON:
    upload_id, part_ids = call.path["upload_id"], call.params["part_ids"]
    upload = await get_object(call, files.uploads, "upload", upload_id)
    _check_pending(upload)
    sizes = await call.db.read(files.parts_of, upload_id)
    if unknown := [id for id in part_ids if id not in sizes]:
        raise Refused(f"No such part: '{unknown[0]}'.", param="part_ids", code="invalid_value")
    if (size := sum(sizes[id] for id in part_ids)) != upload["bytes"]:
        raise Refused(
            f"The parts have {size:,} bytes, and the upload was created for {upload['bytes']:,}.",
            param="part_ids",
            code="invalid_value",
        )
    blobs, id = call.services.blobs, objects.new_id("file", "-")
    try:
        _, md5 = await blobs.write(id, (blobs.open(part) for part in part_ids))
    except NoSpace:
        raise no_space() from None
    now = store.now()

    def complete(tx: Transaction) -> JSON:
        current = store.get(tx.conn, files.uploads, upload_id, lock=True)
        _check_pending(current)
        if (wanted := call.params.get("md5")) and wanted.lower() != md5:
            message = f"The file's MD5 is {md5}, not the given one. Upload its parts again."
            raise Refused(message, param="md5", code="invalid_value")
        lifetime = files.file_lifetime(tx.conn, upload_id)
        file = FileObject.new(
            id=id,
            purpose=upload["purpose"],
            filename=upload["filename"],
            bytes=size,
            created_at=now,
            expires_at=now + lifetime if lifetime else None,
        )
        store.add(tx.conn, files.files, file)
        done = upload | {"status": "completed", "file": file}
        store.put(tx.conn, files.uploads, done)
        files.delete_upload(tx, upload_id)
        return done

    try:
        done = await call.db.write(complete)
    except Refused:
        await blobs.delete([id])
        raise
    await blobs.delete(sizes)
    return done


@operation("POST", _UPLOAD + "/cancel", UploadObject)
async def cancel_upload(call: Call) -> JSON:
    upload_id = call.path["upload_id"]

    def cancel(tx: Transaction) -> tuple[JSON, list[str]]:
        upload = store.get(tx.conn, files.uploads, upload_id, lock=True)
        _check_pending(upload)
        assert upload is not None
        store.put(tx.conn, files.uploads, cancelled := upload | {"status": "cancelled"})
        return cancelled, files.delete_upload(tx, upload_id)

    await get_object(call, files.uploads, "upload", upload_id)
    cancelled, parts = await call.db.write(cancel)
    await call.services.blobs.delete(parts)
    return cancelled


def _check_pending(upload: JSON | None) -> None:
    if upload is None or upload["status"] != "pending" or upload["expires_at"] <= store.now():
        status = (
            "gone" if upload is None else "expired" if upload["status"] == "pending" else upload["status"]
        )
        raise Refused(f"The upload is {status}.", code="invalid_value")


@operation("GET", "/v1/models", ModelList)
async def list_models(call: Call) -> JSON:
    return ModelList.new(data=[_model(*each) for each in await call.services.models.listed()])


@operation("GET", "/v1/models/{model}", ModelObject)
async def get_model(call: Call) -> JSON:
    name = call.path["model"]
    known = dict(await call.services.models.listed())
    if name in known:
        return _model(name, known[name])
    try:
        await call.services.models.check_name(name)
    except UnknownModelError as error:
        raise Refused(str(error), status=404, param="model", code="model_not_found") from None
    return _model(name, "upstream")


def _model(name: str, owner: str) -> JSON:
    return ModelObject.new(id=name, created=0, owned_by=owner)
