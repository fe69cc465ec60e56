"""Runs, their steps, and usage."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from nbruns.server.hosted.mcp import Headers
from nbruns.server.schemas.base import (
    AnyObject,
    Chars,
    Count,
    Filter,
    Id,
    Limit,
    ListQuery,
    Metadata,
    Object,
    Schema,
    Text,
    Time,
    given,
)
from nbruns.server.schemas.threads import CreateThreadRequest, Messages
from nbruns.server.schemas.tools import (
    AssistantToolsFunction,
    HostedTool,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
    ToolResources,
    ToolResourcesObject,
    TruncationObject,
    TruncationStrategy,
)

ActiveStatus = Literal["queued", "in_progress", "requires_action", "cancelling"]
EndedStatus = Literal["cancelled", "failed", "completed", "incomplete", "expired"]
RunStatus = Literal[ActiveStatus, EndedStatus]
StepStatus = Literal["in_progress", "cancelled", "failed", "completed", "expired"]
#: The statuses of active runs, and of runs that have ended.
ACTIVE: tuple[str, ...] = get_args(ActiveStatus)
ENDED: tuple[str, ...] = get_args(EndedStatus)


class _RunSettings(Sampling):
    assistant_id: Id
    model: Id | None = None
    instructions: Text | None = None
    tools: Annotated[list[Tool], Field(max_length=20)] | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    max_prompt_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    truncation_strategy: TruncationStrategy | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(None, json_schema_extra={"default": True})
    #: Beyond the reference, as Azure's clients send it.
    tool_resources: ToolResources | None = None
    #: Accepted without effect, because a run's last event always contains its usage.
    stream_options: AnyObject | None = None


class CreateRunRequest(_RunSettings):
    additional_instructions: Text | None = None
    additional_messages: Messages | None = None


class CreateThreadAndRunRequest(_RunSettings):
    thread: Annotated[CreateThreadRequest, AfterValidator(given)] | None = None


class ToolOutput(Schema):
    tool_call_id: Id
    output: Annotated[str, Chars(1_000_000)] | None = None


class ToolApproval(Schema):
    tool_call_id: Id
    approve: bool
    headers: Headers | None = None


class SubmitToolOutputsRunRequest(Schema):
    """Outputs of function calls, or approvals of hosted ones."""

    tool_outputs: (
        Annotated[list[Annotated[ToolOutput, AfterValidator(given)]], Field(max_length=10_000)] | None
    ) = None
    #: Beyond the reference, as Azure's clients send it.
    tool_approvals: (
        Annotated[list[Annotated[ToolApproval, AfterValidator(given)]], Field(max_length=10_000)] | None
    ) = None
    stream: bool | None = None
    stream_options: AnyObject | None = None


class ListRunsQuery(ListQuery):
    thread_id: Filter | None = None
    assistant_id: Filter | None = None
    model: Filter | None = None
    status: RunStatus | None = None


_Include = Annotated[
    list[Literal["step_details.tool_calls[*].file_search.results[*].content"]] | None,
    Field(alias="include[]", max_length=10),
]


class IncludeQuery(Schema, extra="ignore"):
    include: _Include = None


class ListRunStepsQuery(ListQuery):
    include: _Include = None


class PromptTokenDetails(Schema, extra="allow"):
    cached_tokens: Count = 0


class CompletionTokensDetails(Schema, extra="allow"):
    reasoning_tokens: Count = 0


class RunCompletionUsage(Object, extra="allow"):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0
    prompt_token_details: PromptTokenDetails = Field(default_factory=lambda: {"cached_tokens": 0})  # type: ignore[assignment]
    completion_tokens_details: CompletionTokensDetails = Field(
        default_factory=lambda: {"reasoning_tokens": 0}
    )  # type: ignore[assignment]


class FunctionCall(Schema):
    name: str
    arguments: str


class RunToolCallObject(Schema):
    id: str
    type: Literal["function"]
    function: FunctionCall


class SubmitToolOutputs(Schema):
    tool_calls: list[RunToolCallObject]


class RequiredOutputs(Schema):
    type: Literal["submit_tool_outputs"]
    submit_tool_outputs: SubmitToolOutputs


class SubmitToolApproval(Schema):
    tool_calls: list[HostedTool]


class RequiredApproval(Schema):
    """Beyond the reference, as Azure has it."""

    type: Literal["submit_tool_approval"]
    submit_tool_approval: SubmitToolApproval


class RunError(Schema):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class RunIncompleteDetails(Schema):
    reason: Literal["max_completion_tokens", "max_prompt_tokens"]


def untruncated() -> Any:
    """Return the default truncation strategy of a run."""
    return {"type": "auto", "last_messages": None}


class RunObject(Object):
    id: str
    object: Literal["thread.run"] = "thread.run"
    created_at: Time
    assistant_id: str
    thread_id: str
    status: RunStatus = "queued"
    started_at: Time | None = None
    expires_at: Time | None = None
    cancelled_at: Time | None = None
    failed_at: Time | None = None
    completed_at: Time | None = None
    required_action: RequiredOutputs | RequiredApproval | None = None
    last_error: RunError | None = None
    model: str
    instructions: str | None = None
    tools: list[AssistantToolsFunction | HostedTool]
    tool_resources: ToolResourcesObject
    metadata: Metadata = Field(default_factory=dict)
    temperature: float
    top_p: float
    reasoning_effort: str | None = None
    max_completion_tokens: Count | None = None
    max_prompt_tokens: Count | None = None
    truncation_strategy: TruncationObject = Field(default_factory=untruncated)
    incomplete_details: RunIncompleteDetails | None = None
    usage: RunCompletionUsage | None = None
    response_format: ResponseFormat = "auto"
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True


class StepFunctionCall(FunctionCall):
    output: str | None


class FunctionToolCall(Schema):
    id: str
    type: Literal["function"]
    function: StepFunctionCall


class MessageCreation(Schema):
    message_id: str


class MessageCreationDetails(Schema):
    type: Literal["message_creation"]
    message_creation: MessageCreation


class ToolCallsDetails(Schema):
    type: Literal["tool_calls"]
    tool_calls: list[FunctionToolCall | HostedTool]


class RunStepError(Schema):
    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class RunStepObject(Object):
    id: str
    object: Literal["thread.run.step"] = "thread.run.step"
    created_at: Time
    run_id: str
    assistant_id: str
    thread_id: str
    type: Literal["message_creation", "tool_calls"]
    status: StepStatus = "in_progress"
    cancelled_at: Time | None = None
    completed_at: Time | None = None
    expired_at: Time | None = None
    expires_at: Time | None = None
    failed_at: Time | None = None
    last_error: RunStepError | None = None
    step_details: MessageCreationDetails | ToolCallsDetails
    usage: RunCompletionUsage | None = None
    metadata: Metadata = Field(default_factory=dict)


class RunStepDeltaDetails(Schema, extra="allow"):
    type: str


class RunStepDelta(Schema):
    step_details: RunStepDeltaDetails


class RunStepDeltaObject(Object):
    id: str
    object: Literal["thread.run.step.delta"] = "thread.run.step.delta"
    delta: RunStepDelta
