"""Threads and their messages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from nbruns.server.schemas.base import (
    BY_TYPE,
    Chars,
    Filter,
    Id,
    ListQuery,
    Metadata,
    Object,
    Schema,
    Text,
    Time,
    empty,
    given,
    plain,
)
from nbruns.server.schemas.tools import AttachmentTool, ToolResources, ToolResourcesObject
from nbruns.text import JSON

Detail = Literal["auto", "low", "high"]
MessageStatus = Literal["in_progress", "incomplete", "completed"]


def text_content(text: str) -> JSON:
    """Return a content part with a text."""
    return {"type": "text", "text": {"value": text, "annotations": []}}


class TextPart(Schema):
    type: Literal["text"]
    text: Text


class ImageUrl(Schema):
    url: Text
    detail: Detail | None = None


class ImageUrlPart(Schema):
    type: Literal["image_url"]
    image_url: ImageUrl


def _image(part: ImageUrlPart) -> JSON:
    part.image_url.detail = part.image_url.detail or "auto"
    return plain(part)


class ImageFile(Schema):
    file_id: Id
    detail: Detail | None = None


class ImageFilePart(Schema):
    type: Literal["image_file"]
    image_file: ImageFile


def _image_file(part: ImageFilePart) -> JSON:
    part.image_file.detail = part.image_file.detail or "auto"
    return plain(part)


Part = Annotated[
    Annotated[TextPart, AfterValidator(lambda part: text_content(part.text)), Tag("<text>")]
    | Annotated[ImageUrlPart, AfterValidator(_image), Tag("<image_url>")]
    | Annotated[ImageFilePart, AfterValidator(_image_file), Tag("<image_file>")],
    BY_TYPE,
]


def _text_or_list(value: Any) -> str:
    return "(str)" if isinstance(value, str) else "(list)"


Content = Annotated[
    Annotated[str, Chars(least=1), AfterValidator(lambda text: [text_content(text)]), Tag("(str)")]
    | Annotated[list[Part], Field(min_length=1, max_length=10_000), Tag("(list)")],
    Discriminator(_text_or_list),
]


class Attachment(Schema):
    file_id: Id
    tools: Annotated[list[AttachmentTool], Field(max_length=10_000)] | None = None


class CreateMessageRequest(Schema):
    role: Literal["user", "assistant"]
    content: Content
    attachments: (
        Annotated[list[Annotated[Attachment, AfterValidator(plain)]], Field(max_length=10_000)] | None
    ) = None
    metadata: Metadata | None = None
    #: From version 1 of the API: attachments for all tools that use files.
    file_ids: Annotated[list[Id], Field(max_length=10_000)] | None = None


#: A message in a request for a thread or a run.
GivenMessage = Annotated[CreateMessageRequest, AfterValidator(given)]
Messages = Annotated[list[GivenMessage], Field(max_length=10_000)]


class ModifyRequest(Schema):
    """A change of a message or of a run."""

    metadata: Metadata | None = None


class ModifyThreadRequest(ModifyRequest):
    tool_resources: ToolResources | None = None


class CreateThreadRequest(ModifyThreadRequest):
    messages: Messages | None = None


class ListMessagesQuery(ListQuery):
    run_id: Filter | None = None


class SearchMessagesQuery(ListQuery):
    #: Words. A message matches if its text contains all of them.
    query: Filter
    thread_id: Filter | None = None
    run_id: Filter | None = None


class ThreadObject(Object):
    id: str
    object: Literal["thread"] = "thread"
    created_at: Time
    metadata: Metadata = Field(default_factory=dict)
    tool_resources: ToolResourcesObject = Field(default_factory=empty)


class DeleteThreadResponse(Object):
    id: str
    object: Literal["thread.deleted"] = "thread.deleted"
    deleted: Literal[True] = True


class TextValue(Schema):
    value: str
    annotations: list[JSON]


class TextContent(Schema):
    type: Literal["text"]
    text: TextValue


class RefusalContent(Schema):
    type: Literal["refusal"]
    refusal: str


class MessageIncompleteDetails(Schema):
    reason: Literal["content_filter", "max_tokens", "run_cancelled", "run_expired", "run_failed"]


class MessageObject(Object):
    id: str
    object: Literal["thread.message"] = "thread.message"
    created_at: Time
    assistant_id: str | None = None
    thread_id: str
    run_id: str | None = None
    status: MessageStatus = "completed"
    incomplete_details: MessageIncompleteDetails | None = None
    incomplete_at: Time | None = None
    completed_at: Time | None = None
    role: Literal["user", "assistant"]
    content: list[TextContent | ImageUrlPart | ImageFilePart | RefusalContent]
    attachments: list[JSON] = Field(default_factory=list)
    metadata: Metadata = Field(default_factory=dict)


class MessageFileObject(Object):
    """A file of a message, as the first version of the API has it."""

    id: str
    object: Literal["thread.message.file"] = "thread.message.file"
    created_at: Time
    message_id: str


class DeleteMessageResponse(Object):
    id: str
    object: Literal["thread.message.deleted"] = "thread.message.deleted"
    deleted: Literal[True] = True


class MessageContentDelta(Schema, extra="allow"):
    index: int
    type: str


class MessageDelta(Schema):
    content: list[MessageContentDelta]


class MessageDeltaObject(Object):
    id: str
    object: Literal["thread.message.delta"] = "thread.message.delta"
    delta: MessageDelta
