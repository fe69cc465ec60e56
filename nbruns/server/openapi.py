"""The server's own OpenAPI document, made of the tables that it checks requests with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from nbruns.server import answers, parameters
from nbruns.server.call import Operation
from nbruns.server.checks import labels

JSON = dict[str, Any]

#: Schemas that are told once and referred to from everywhere else.
_NAMED: dict[str, JSON] = {
    **answers.NAMED,
    "CreateMessageRequest": parameters.CREATE_MESSAGE.schema,
    "CreateThreadRequest": parameters.CREATE_THREAD.schema,
    "AssistantToolsFunction": parameters.TOOL.schema,
    "AssistantsApiResponseFormatOption": parameters.RESPONSE_FORMAT.schema,
    "AssistantsApiToolChoiceOption": parameters.TOOL_CHOICE.schema,
    "TruncationObject": parameters.TRUNCATION_STRATEGY.schema,
    "ToolResources": parameters.TOOL_RESOURCES.schema,
    "Metadata": labels.schema,
}
_NAMES = {id(schema): name for name, schema in _NAMED.items()}


def _event(name: str, of: JSON) -> JSON:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": of}
    fields = {"event": {"type": "string", "const": name}, "data": data, "id": {"type": "string"}}
    return {"type": "object", "properties": fields, "required": [*fields]}


_DONE = {"event": {"type": "string", "const": "done"}, "data": {"type": "string", "const": "[DONE]"}}
#: What each event of a stream is. The last one is `done`, unless the server ends before the run does.
_STREAM: JSON = {
    "anyOf": [
        {"type": "object", "properties": _DONE, "required": ["event", "data"]},
        *(_event(name, of) for name, of in answers.EVENTS.items()),
    ]
}


def document(operations: Iterable[Operation], version: str) -> JSON:
    """The OpenAPI document of these operations."""
    paths: JSON = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nbruns",
            "version": version,
            "description": "The Assistants API as `nbruns serve` serves it. Beyond the original: lists of all "
            "threads and of all runs, and the stream of a run that exists, which begins behind Last-Event-ID.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": {name: _inside(schema) for name, schema in _NAMED.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _operation(operation: Operation) -> JSON:
    words = operation.handler.__name__.split("_")
    described: JSON = {
        "operationId": words[0] + "".join(map(str.capitalize, words[1:])),
        "summary": " ".join(words).capitalize(),
        "parameters": [*_parameters(operation)],
        "responses": {
            "200": {"description": "Done.", "content": _answers(operation)},
            **{status: _refusal(why) for status, why in _REFUSALS.items()},
        },
    }
    if operation.body is not None:
        # Where nothing is required, nothing need be sent.
        required = bool(operation.body.schema.get("required"))
        content = {"application/json": {"schema": _referred(operation.body.schema)}}
        described["requestBody"] = {"required": required, "content": content}
    return described


_REFUSALS = {
    "4XX": "Refused: the error says why, and names the parameter that is at fault.",
    "5XX": "The server had an error; its log says more.",
}


def _refusal(why: str) -> JSON:
    return {"description": why, "content": {"application/json": {"schema": _referred(answers.ERROR)}}}


def _answers(operation: Operation) -> JSON:
    content: JSON = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": _referred(operation.answer)}
    if operation.answer is None or operation.streams:
        content["text/event-stream"] = {"schema": _referred(_STREAM)}
    return content


def _parameters(operation: Operation) -> Iterator[JSON]:
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for name, check in operation.query.items():
        yield {"name": name, "in": "query", "required": False, "schema": check.schema}
    if operation.answer is None:
        about = "The id of the last event that was received; the stream begins behind it."
        yield {"name": "Last-Event-ID", "in": "header", "description": about, "schema": {"type": "string"}}


def _referred(schema: Any) -> Any:
    """A schema, with a reference in the place of every schema that has a name."""
    name = _NAMES.get(id(schema))
    return _inside(schema) if name is None else {"$ref": f"#/components/schemas/{name}"}


def _inside(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _referred(item) for key, item in schema.items()}
    return [_referred(item) for item in schema] if isinstance(schema, list) else schema
