"""Assistants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nbruns.server.schemas.base import Chars, Id, Metadata, Object, Schema, Text, Time, empty
from nbruns.server.schemas.tools import (
    AssistantToolsFunction,
    HostedTool,
    ResponseFormat,
    Sampling,
    Tool,
    ToolResources,
    ToolResourcesObject,
)


class ModifyAssistantRequest(Sampling):
    model: Id | None = None
    name: Annotated[str, Chars(256)] | None = None
    description: Annotated[str, Chars(512)] | None = None
    instructions: Text | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_resources: ToolResources | None = None
    metadata: Metadata | None = None
    #: From version 1 of the API: the files of the tools that use files.
    file_ids: Annotated[list[Id], Field(max_length=10_000)] | None = None


class CreateAssistantRequest(ModifyAssistantRequest):
    model: Id
    #: An extension of the API, for programs that contain the ids of assistants created on other servers.
    id: Annotated[str, Chars(64, 6, "asst_[0-9A-Za-z_-]+", "asst_ and letters, digits, _ and -")] | None = (
        None
    )


class AssistantObject(Object):
    id: str
    object: Literal["assistant"] = "assistant"
    created_at: Time
    name: str | None = None
    description: str | None = None
    model: str
    instructions: str | None = None
    tools: list[AssistantToolsFunction | HostedTool] = Field(default_factory=list)
    top_p: float = 1.0
    temperature: float = 1.0
    reasoning_effort: str | None = None
    tool_resources: ToolResourcesObject = Field(default_factory=empty)
    metadata: Metadata = Field(default_factory=dict)
    response_format: ResponseFormat = "auto"


class CreateAssistantFileRequest(Schema):
    file_id: Id


class AssistantFileObject(Object):
    """A file of an assistant, as the first version of the API has it."""

    id: str
    object: Literal["assistant.file"] = "assistant.file"
    created_at: Time
    assistant_id: str


class DeleteAssistantFileResponse(Object):
    id: str
    object: Literal["assistant.file.deleted"] = "assistant.file.deleted"
    deleted: Literal[True] = True


class DeleteAssistantResponse(Object):
    id: str
    object: Literal["assistant.deleted"] = "assistant.deleted"
    deleted: Literal[True] = True
