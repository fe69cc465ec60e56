"""Tools, and the settings that assistants and runs share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationError

from nbruns.server.hosted import TOOLS, explanation, offered
from nbruns.server.hosted.mcp import McpResource
from nbruns.server.schemas.base import (
    BY_TYPE,
    MAX_NUMBER,
    AnyObject,
    Id,
    Metadata,
    Name,
    Schema,
    Text,
    given,
    plain,
    refusal,
    refused,
    tag_of,
)
from nbruns.server.schemas.vector_stores import ChunkingStrategy
from nbruns.text import JSON


def _tag_of_tool(value: Any) -> str | None:
    # Tools other than functions are hosted tools. Those that this server doesn't offer are refused later.
    tag = tag_of(value)
    return tag if tag in (None, "(str)", "<function>") else "(hosted)"


class HostedTool(Schema, extra="allow"):
    """A tool that the server runs, or a call of it."""

    type: Annotated[str, Field(json_schema_extra={"not": {"const": "function"}})]


def _offered(tool: HostedTool) -> HostedTool:
    if not offered(tool.type):
        raise refused(f"'{{name}}': {explanation(tool.type)}", "unsupported_tool", ".type")
    return tool


def _checked(tool: HostedTool) -> JSON:
    hosted = TOOLS[tool.type]
    try:
        return hosted.complete(plain(hosted.schema.model_validate(tool.model_dump())))
    except ValidationError as error:
        problem = refusal(error).error
        message = str(problem["message"]).replace(f"'{problem['param']}", f"'{{name}}.{problem['param']}", 1)
        raise refused(message, problem["code"], f".{problem['param']}") from None


def _today(tool: Any) -> Any:
    """Convert the tool `retrieval` of version 1 of the API to `file_search`."""
    return (
        {**tool, "type": "file_search"}
        if isinstance(tool, dict) and tool.get("type") == "retrieval"
        else tool
    )


def _named(tool: HostedTool) -> JSON:
    return {"type": tool.type}


class FunctionObject(Schema, extra="ignore"):
    """A function. Programs send more with it than the API has, such as its module."""

    name: Name
    description: Text | None = None
    parameters: AnyObject | None = None
    strict: bool | None = None


class AssistantToolsFunction(Schema):
    type: Literal["function"]
    function: FunctionObject


def _filled(tool: AssistantToolsFunction) -> JSON:
    function = tool.function
    function.parameters = function.parameters or {"type": "object", "properties": {}}
    function.strict = function.strict or False
    return plain(tool)


_BY_TOOL = Discriminator(_tag_of_tool)
Tool = Annotated[
    Annotated[AssistantToolsFunction, AfterValidator(_filled), Tag("<function>")]
    | Annotated[HostedTool, AfterValidator(_offered), AfterValidator(_checked), Tag("(hosted)")],
    _BY_TOOL,
    BeforeValidator(_today),
]
#: A tool of an attachment: a hosted tool without settings.
AttachmentTool = Annotated[
    HostedTool, BeforeValidator(_today), AfterValidator(_offered), AfterValidator(_named)
]


class FunctionName(Schema):
    name: Name


class AssistantsNamedToolChoice(Schema):
    type: Literal["function"]
    function: FunctionName


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(str)")]
    | Annotated[AssistantsNamedToolChoice, AfterValidator(plain), Tag("<function>")]
    | Annotated[HostedTool, AfterValidator(_offered), AfterValidator(_named), Tag("(hosted)")],
    _BY_TOOL,
]


class ResponseFormatText(Schema):
    type: Literal["text"]


class ResponseFormatJsonObject(Schema):
    type: Literal["json_object"]


class JsonSchemaFormat(Schema):
    name: Name
    description: Text | None = None
    schema_: AnyObject | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormatJsonSchema(Schema):
    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


ResponseFormat = Annotated[
    Annotated[Literal["auto"], Tag("(str)")]
    | Annotated[ResponseFormatText, AfterValidator(plain), Tag("<text>")]
    | Annotated[ResponseFormatJsonObject, AfterValidator(plain), Tag("<json_object>")]
    | Annotated[ResponseFormatJsonSchema, AfterValidator(plain), Tag("<json_schema>")],
    BY_TYPE,
]


class CodeInterpreterResources(Schema):
    file_ids: Annotated[list[Id], Field(max_length=20)] | None = None


class NewVectorStore(Schema):
    """A vector store that is made with an assistant or a thread."""

    file_ids: Annotated[list[Id], Field(max_length=100_000_000)] | None = None
    chunking_strategy: ChunkingStrategy | None = None
    metadata: Metadata | None = None


class FileSearchResources(Schema):
    vector_store_ids: Annotated[list[Id], Field(max_length=1)] | None = None
    vector_stores: (
        Annotated[list[Annotated[NewVectorStore, AfterValidator(given)]], Field(max_length=1)] | None
    ) = None


class ToolResourcesObject(Schema):
    code_interpreter: CodeInterpreterResources | None = None
    file_search: FileSearchResources | None = None
    #: Beyond the reference, as Azure's clients send it.
    mcp: Annotated[list[McpResource], Field(max_length=20)] | None = None


ToolResources = Annotated[ToolResourcesObject, AfterValidator(plain)]


class TruncationObject(Schema):
    type: Literal["auto", "last_messages"]
    last_messages: Annotated[int, Field(ge=1, le=MAX_NUMBER)] | None = None


def _truncation(strategy: TruncationObject) -> JSON:
    if strategy.type == "last_messages" and strategy.last_messages is None:
        code = "missing_required_parameter"
        raise refused("Missing required parameter: '{name}.last_messages'.", code, ".last_messages")
    return strategy.model_dump()


TruncationStrategy = Annotated[TruncationObject, AfterValidator(_truncation)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Sampling(Schema):
    """How a model is to answer."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, json_schema_extra={"default": 1})
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, json_schema_extra={"default": 1})
    reasoning_effort: ReasoningEffort | None = None
    response_format: ResponseFormat | None = None
