"""What the server answers, as JSON Schema: the objects with every field that they have, and the lists of them."""

from __future__ import annotations

from typing import Any

from nbruns.server.checks import NULL, labels, nullable
from nbruns.server.parameters import RESPONSE_FORMAT, TOOL, TOOL_CHOICE, TOOL_RESOURCES, TRUNCATION_STRATEGY
from nbruns.server.wire import ACTIVE, ENDED

JSON = dict[str, Any]

_MESSAGE_STATUSES = ("in_progress", "incomplete", "completed")
_STEP_STATUSES = ("in_progress", "cancelled", "failed", "completed", "expired")
_TEXT: JSON = {"type": "string"}
_NUMBER: JSON = {"type": "number"}
_BOOLEAN: JSON = {"type": "boolean"}
_COUNT: JSON = {"type": "integer", "minimum": 0}
_TIME: JSON = {"type": "integer", "description": "Unix time in seconds."}


def _fields(*optional: str, **fields: JSON) -> JSON:
    return {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }


def _one_of(*values: str) -> JSON:
    return {"type": "string", "enum": [*values]}


def _list(of: JSON) -> JSON:
    return {"type": "array", "items": of}


def _dict(**fields: JSON) -> JSON:
    """An object whose fields are told only as far as they are counted on."""
    return {"type": "object", "properties": fields, "required": [*fields]}


def _kind(kind: str, /, **fields: JSON) -> JSON:
    return _fields(id=_TEXT, object=_one_of(kind), **fields)


def _owned(kind: str, /, **fields: JSON) -> JSON:
    return _kind(kind, created_at=_TIME, thread_id=_TEXT, **fields)


def _error(*codes: str) -> JSON:
    return nullable(_fields(code=_one_of(*codes), message=_TEXT))


_DETAIL = _one_of("auto", "low", "high")
_PARTS: JSON = {
    "oneOf": [
        _fields(type=_one_of("text"), text=_fields(value=_TEXT, annotations=_list({"type": "object"}))),
        _fields(type=_one_of("image_url"), image_url=_fields(url=_TEXT, detail=_DETAIL)),
        _fields(type=_one_of("image_file"), image_file=_fields(file_id=_TEXT, detail=_DETAIL)),
        _fields(type=_one_of("refusal"), refusal=_TEXT),
    ]
}
_ASKED = _fields(id=_TEXT, type=_one_of("function"), function=_fields(name=_TEXT, arguments=_TEXT))
_CALLED = _fields(
    id=_TEXT,
    type=_one_of("function"),
    function=_fields(name=_TEXT, arguments=_TEXT, output=nullable(_TEXT)),
)
_HOSTED: JSON = {
    "type": "object",
    "properties": {"id": _TEXT, "type": {"type": "string", "not": {"const": "function"}}},
    "required": ["type"],
}
_TOOL: JSON = {"anyOf": [TOOL.schema, _HOSTED]}
_DETAILS: JSON = {
    "oneOf": [
        _fields(type=_one_of("message_creation"), message_creation=_fields(message_id=_TEXT)),
        _fields(type=_one_of("tool_calls"), tool_calls=_list({"anyOf": [_CALLED, _HOSTED]})),
    ]
}
_SAMPLING: dict[str, JSON] = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "reasoning_effort": nullable(_TEXT),
    "response_format": RESPONSE_FORMAT.schema,
}
USAGE = _dict(
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    total_tokens=_COUNT,
    prompt_token_details=_dict(cached_tokens=_COUNT),
    completion_tokens_details=_dict(reasoning_tokens=_COUNT),
)

ASSISTANT = _kind(
    "assistant",
    created_at=_TIME,
    name=nullable(_TEXT),
    description=nullable(_TEXT),
    model=_TEXT,
    instructions=nullable(_TEXT),
    tools=_list(_TOOL),
    tool_resources=TOOL_RESOURCES.schema,
    metadata=labels.schema,
    **_SAMPLING,
)
THREAD = _kind("thread", created_at=_TIME, metadata=labels.schema, tool_resources=TOOL_RESOURCES.schema)
MESSAGE = _owned(
    "thread.message",
    assistant_id=nullable(_TEXT),
    run_id=nullable(_TEXT),
    status=_one_of(*_MESSAGE_STATUSES),
    incomplete_details=nullable(
        _fields(reason=_one_of("content_filter", "max_tokens", "run_cancelled", "run_expired", "run_failed"))
    ),
    incomplete_at=nullable(_TIME),
    completed_at=nullable(_TIME),
    role=_one_of("user", "assistant"),
    content=_list(_PARTS),
    attachments=_list({"type": "object"}),
    metadata=labels.schema,
)
RUN = _owned(
    "thread.run",
    assistant_id=_TEXT,
    status=_one_of(*ACTIVE, *ENDED),
    started_at=nullable(_TIME),
    expires_at=nullable(_TIME),
    cancelled_at=nullable(_TIME),
    failed_at=nullable(_TIME),
    completed_at=nullable(_TIME),
    required_action=nullable(
        _fields(type=_one_of("submit_tool_outputs"), submit_tool_outputs=_fields(tool_calls=_list(_ASKED)))
    ),
    last_error=_error("server_error", "rate_limit_exceeded", "invalid_prompt"),
    model=_TEXT,
    instructions=nullable(_TEXT),
    tools=_list(_TOOL),
    tool_resources=TOOL_RESOURCES.schema,
    metadata=labels.schema,
    max_completion_tokens=nullable(_COUNT),
    max_prompt_tokens=nullable(_COUNT),
    truncation_strategy=TRUNCATION_STRATEGY.schema,
    incomplete_details=nullable(_fields(reason=_one_of("max_completion_tokens", "max_prompt_tokens"))),
    usage=nullable(USAGE),
    tool_choice={"anyOf": [TOOL_CHOICE.schema, _HOSTED]},
    parallel_tool_calls=_BOOLEAN,
    **_SAMPLING,
)
STEP = _owned(
    "thread.run.step",
    run_id=_TEXT,
    assistant_id=_TEXT,
    type=_one_of("message_creation", "tool_calls"),
    status=_one_of(*_STEP_STATUSES),
    cancelled_at=nullable(_TIME),
    completed_at=nullable(_TIME),
    expired_at=nullable(_TIME),
    expires_at=nullable(_TIME),
    failed_at=nullable(_TIME),
    last_error=_error("server_error", "rate_limit_exceeded"),
    step_details=_DETAILS,
    usage=nullable(USAGE),
    metadata=labels.schema,
)
MESSAGE_DELTA = _kind("thread.message.delta", delta=_dict(content=_list(_dict(index=_COUNT, type=_TEXT))))
STEP_DELTA = _kind("thread.run.step.delta", delta=_dict(step_details=_dict(type=_TEXT)))

ERROR = _fields(
    error=_fields(message=_TEXT, type=_TEXT, param=nullable(_TEXT), code=nullable(_TEXT)),
)
HEALTH = _fields(status=_one_of("ok"), version=_TEXT)
DOCUMENT = _dict(openapi=_TEXT, info={"type": "object"}, paths={"type": "object"})

#: The objects by the names that the OpenAPI description of the Assistants API gives them.
NAMED: dict[str, JSON] = {
    "AssistantObject": ASSISTANT,
    "ThreadObject": THREAD,
    "MessageObject": MESSAGE,
    "RunObject": RUN,
    "RunStepObject": STEP,
    "MessageDeltaObject": MESSAGE_DELTA,
    "RunStepDeltaObject": STEP_DELTA,
    "RunCompletionUsage": USAGE,
    "ErrorResponse": ERROR,
}
#: What an event's data is, by the event's name.
EVENTS: dict[str, JSON] = {
    "thread.created": THREAD,
    **{f"thread.run.{status}": RUN for status in ("created", *ACTIVE, *ENDED)},
    **{f"thread.run.step.{status}": STEP for status in ("created", *_STEP_STATUSES)},
    "thread.run.step.delta": STEP_DELTA,
    **{f"thread.message.{status}": MESSAGE for status in ("created", *_MESSAGE_STATUSES)},
    "thread.message.delta": MESSAGE_DELTA,
}


def page_of(item: JSON) -> JSON:
    """A page of a list."""
    cursor = {"anyOf": [_TEXT, NULL]}
    return _fields(
        object=_one_of("list"), data=_list(item), first_id=cursor, last_id=cursor, has_more=_BOOLEAN
    )


def deleted(object: str) -> JSON:
    """The answer to a deletion."""
    return _kind(f"{object}.deleted", deleted={"type": "boolean", "const": True})
