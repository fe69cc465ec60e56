"""Vector stores, their files, batches of files, and searches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema

from nbruns.server.hosted.file_search import RankingOptions
from nbruns.server.schemas.base import (
    BY_TYPE,
    Chars,
    Count,
    Id,
    ListQuery,
    Metadata,
    Object,
    Schema,
    Text,
    Time,
    given,
    plain,
    refused,
)
from nbruns.text import JSON

FileStatus = Literal["in_progress", "completed", "cancelled", "failed"]
#: OpenAI's default: chunks of at most 800 tokens, which overlap by 400.
AUTO_CHUNKING: JSON = {
    "type": "static",
    "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
}


class AutoChunking(Schema):
    type: Literal["auto"]


class ChunkSize(Schema):
    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0, le=2048)]


class StaticChunking(Schema):
    type: Literal["static"]
    static: ChunkSize


def _chunking(strategy: StaticChunking) -> JSON:
    size = strategy.static
    if size.chunk_overlap_tokens > size.max_chunk_size_tokens // 2:
        message = "'{name}.chunk_overlap_tokens' must be at most half of 'max_chunk_size_tokens'."
        raise refused(message, "invalid_value", ".static")
    return plain(strategy)


ChunkingStrategy = Annotated[
    Annotated[AutoChunking, AfterValidator(lambda _: AUTO_CHUNKING), Tag("<auto>")]
    | Annotated[StaticChunking, AfterValidator(_chunking), Tag("<static>")],
    BY_TYPE,
]


def _at_most_16(attributes: JSON) -> JSON:
    if len(attributes) > 16:
        raise refused("'{name}' has over 16 properties.", "object_above_max_properties")
    return attributes


def _kind_of_value(value: Any) -> str:
    kind = type(value).__name__
    return f"({kind})" if kind in ("bool", "int", "float") else "(str)"


Value = Annotated[
    Annotated[str, Chars(512), Tag("(str)")]
    | Annotated[bool, Tag("(bool)")]
    | Annotated[int, Tag("(int)")]
    | Annotated[float, Tag("(float)")],
    Discriminator(_kind_of_value),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "maxLength": 512}, {"type": "boolean"}, {"type": "number"}]}
    ),
]
Attributes = Annotated[
    dict[Annotated[str, Chars(64)], Value],
    AfterValidator(_at_most_16),
    Field(json_schema_extra={"maxProperties": 16}),
]


class ExpiresAfterDays(Schema):
    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


Expiry = Annotated[ExpiresAfterDays, AfterValidator(plain)]


class UpdateVectorStoreRequest(Schema):
    name: Annotated[str, Chars(256)] | None = None
    description: Annotated[str, Chars(512)] | None = None
    expires_after: Expiry | None = None
    metadata: Metadata | None = None


class CreateVectorStoreRequest(UpdateVectorStoreRequest):
    file_ids: Annotated[list[Id], Field(max_length=500)] | None = None
    chunking_strategy: ChunkingStrategy | None = None


class FileCounts(Schema):
    in_progress: Count
    completed: Count
    failed: Count
    cancelled: Count
    total: Count


class VectorStoreObject(Object):
    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: Time
    name: str | None = None
    description: str | None = None
    usage_bytes: Count
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfterDays | None = None
    expires_at: Time | None = None
    last_active_at: Time
    metadata: Metadata = Field(default_factory=dict)


class DeleteVectorStoreResponse(Object):
    id: str
    object: Literal["vector_store.deleted"] = "vector_store.deleted"
    deleted: Literal[True] = True


class CreateVectorStoreFileRequest(Schema):
    file_id: Id
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class UpdateVectorStoreFileRequest(Schema):
    attributes: Attributes | None


class ListVectorStoreFilesQuery(ListQuery):
    filter: FileStatus | None = None


class FileError(Schema):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class VectorStoreFileObject(Object):
    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    usage_bytes: Count = 0
    created_at: Time
    vector_store_id: str
    status: FileStatus = "in_progress"
    last_error: FileError | None = None
    chunking_strategy: StaticChunking
    attributes: Attributes = Field(default_factory=dict)


class DeleteVectorStoreFileResponse(Object):
    id: str
    object: Literal["vector_store.file.deleted"] = "vector_store.file.deleted"
    deleted: Literal[True] = True


class TextOfFile(Schema):
    type: Literal["text"]
    text: str


class VectorStoreFileContent(Object):
    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[TextOfFile]
    has_more: bool = False
    next_page: str | None = None


GivenFile = Annotated[CreateVectorStoreFileRequest, AfterValidator(given)]


class CreateFileBatchRequest(Schema):
    file_ids: Annotated[list[Id], Field(min_length=1, max_length=2000)] | None = None
    files: Annotated[list[GivenFile], Field(min_length=1, max_length=2000)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class FileBatchObject(Object):
    id: str
    object: Literal["vector_store.file_batch"] = "vector_store.file_batch"
    created_at: Time
    status: FileStatus
    vector_store_id: str
    file_counts: FileCounts


class ComparisonFilter(Schema):
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"] = "eq"
    key: Annotated[str, Chars(64)]
    value: Annotated[
        Annotated[Value, Tag("(str)")] | Annotated[list[Value], Field(max_length=1000), Tag("(list)")],
        Discriminator(lambda value: "(list)" if isinstance(value, list) else "(str)"),
    ]


class CompoundFilter(Schema):
    type: Literal["and", "or"]
    filters: Annotated[list[Filters], Field(max_length=100)]


def _kind_of_filter(value: Any) -> str:
    return "(group)" if isinstance(value, dict) and value.get("type") in ("and", "or") else "(comparison)"


Filters = Annotated[
    Annotated[ComparisonFilter, Tag("(comparison)")] | Annotated[CompoundFilter, Tag("(group)")],
    Discriminator(_kind_of_filter),
]


class SearchRequest(Schema):
    query: (
        Annotated[
            Annotated[str, Chars(least=1)],
            Tag("(str)"),
        ]
        | Annotated[list[Annotated[str, Chars(least=1)]], Field(min_length=1, max_length=16), Tag("(list)")]
    ) = Field(discriminator=Discriminator(lambda value: "(list)" if isinstance(value, list) else "(str)"))
    filters: Annotated[Filters, AfterValidator(plain)] | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = Field(
        None, json_schema_extra={"default": 10}
    )
    ranking_options: Annotated[RankingOptions, AfterValidator(plain)] | None = None
    #: Accepted without effect, because models write their queries themselves.
    rewrite_query: bool | None = Field(None, json_schema_extra={"default": False})


class SearchResult(Schema):
    file_id: str
    filename: str
    score: Annotated[float, Field(ge=0, le=1)]
    attributes: Attributes | None
    content: list[TextOfFile]


class SearchResults(Object):
    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[Text]
    data: list[SearchResult]
    has_more: bool = False
    next_page: str | None = None
