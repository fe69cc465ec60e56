"""Files and uploads."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from nbruns.server.schemas.base import (
    Chars,
    Count,
    Filter,
    Id,
    ListQuery,
    Object,
    Schema,
    Time,
    plain,
    refused,
    whole_number,
)

#: Purposes of uploaded files, and of files that the server creates.
UploadPurpose = Literal["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]
Purpose = Literal[UploadPurpose, "assistants_output", "batch_output", "fine-tune-results"]
#: Maximum size of a file that is sent in one request, of a part of an upload, and of an upload, in bytes.
MAX_FILE_BYTES, MAX_PART_BYTES, MAX_UPLOAD_BYTES = 512 * 1024**2, 64 * 1024**2, 8 * 1024**3
#: Seconds after which an upload expires.
UPLOAD_LIFETIME = 3600


def _purpose(value: Any) -> Any:
    known = [*get_args(UploadPurpose)]
    if isinstance(value, str) and value not in known:
        raise refused(f"'{value[:100]}' is not one of {known} - '{{name}}'", None)
    return value


GivenPurpose = Annotated[UploadPurpose, BeforeValidator(_purpose)]


class FileExpirationAfter(Schema):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000), BeforeValidator(whole_number)]


ExpiresAfter = Annotated[FileExpirationAfter, AfterValidator(plain)]


class CreateFileRequest(Schema):
    """The fields of the form beside the file itself."""

    purpose: GivenPurpose
    expires_after: ExpiresAfter | None = None


class ListFilesQuery(ListQuery):
    limit: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(whole_number)] = 10_000
    purpose: Filter | None = None


class FileObject(Object):
    object: Literal["file"] = "file"
    id: str
    purpose: Purpose
    filename: str
    bytes: Count
    created_at: Time
    expires_at: Time | None = None
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = None


def file_name(given: str | None) -> str:
    """Return the name of a file, without folders and control characters."""
    name = re.split(r"[/\\]", given or "")[-1]
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", name)[:255] or "file"


class DeleteFileResponse(Object):
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
    id: str


FileName = Annotated[str, Chars(512, 1)]


class CreateUploadRequest(Schema):
    filename: FileName
    purpose: GivenPurpose
    bytes: Annotated[int, Field(ge=0, le=MAX_UPLOAD_BYTES)]
    mime_type: Annotated[str, Chars(256)]
    expires_after: ExpiresAfter | None = None


class AddUploadPartRequest(Schema):
    """The fields of the form beside the data itself: none."""


class CompleteUploadRequest(Schema):
    part_ids: Annotated[list[Id], Field(max_length=10_000)]
    md5: Annotated[str, Chars(64)] | None = None


class UploadObject(Object):
    id: str
    object: Literal["upload"] = "upload"
    bytes: Count
    created_at: Time
    filename: str
    purpose: Purpose
    status: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    expires_at: Time
    file: FileObject | None = None


class UploadPartObject(Object):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: Time
    upload_id: str


class ModelObject(Object):
    """A model that runs can name."""

    id: str
    object: Literal["model"] = "model"
    created: Time
    owned_by: str


class ModelList(Object):
    object: Literal["list"] = "list"
    data: list[ModelObject]
