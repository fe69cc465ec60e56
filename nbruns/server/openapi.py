"""The server's own OpenAPI document, made of the tables that it checks requests with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from nbruns.server.call import Operation

JSON = dict[str, Any]


class Vocabulary(NamedTuple):
    """What all operations speak in."""

    #: Schemas that are told once, by name, and referred to from everywhere else.
    schemas: Mapping[str, JSON]
    #: What an event's data is, by the event's name.
    events: Mapping[str, JSON]
    error: JSON

    def referred(self, schema: Any) -> Any:
        """A schema, with a reference in the place of every schema that has a name."""
        name = next((name for name, named in self.schemas.items() if named is schema), None)
        return self.inside(schema) if name is None else {"$ref": f"#/components/schemas/{name}"}

    def inside(self, schema: Any) -> Any:
        """A schema that is not referred to itself."""
        if isinstance(schema, dict):
            return {key: self.referred(item) for key, item in schema.items()}
        return [self.referred(item) for item in schema] if isinstance(schema, list) else schema


def document(operations: Iterable[Operation], vocabulary: Vocabulary, version: str) -> JSON:
    """The OpenAPI document of these operations."""
    paths: JSON = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, vocabulary)
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
            "schemas": {name: vocabulary.inside(schema) for name, schema in vocabulary.schemas.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _operation(operation: Operation, vocabulary: Vocabulary) -> JSON:
    words = operation.handler.__name__.split("_")
    described: JSON = {
        "operationId": words[0] + "".join(map(str.capitalize, words[1:])),
        "summary": " ".join(words).capitalize(),
        "parameters": [*_parameters(operation)],
        "responses": {
            "200": {"description": "Done.", "content": _answers(operation, vocabulary)},
            **{status: _refusal(why, vocabulary) for status, why in _REFUSALS.items()},
        },
    }
    if operation.body is not None:
        # Where nothing is required, nothing need be sent.
        required = bool(operation.body.schema.get("required"))
        content = {"application/json": {"schema": vocabulary.referred(operation.body.schema)}}
        described["requestBody"] = {"required": required, "content": content}
    return described


_REFUSALS = {
    "4XX": "Refused: the error says why, and names the parameter that is at fault.",
    "5XX": "The server had an error; its log says more.",
}


def _refusal(why: str, vocabulary: Vocabulary) -> JSON:
    return {
        "description": why,
        "content": {"application/json": {"schema": vocabulary.referred(vocabulary.error)}},
    }


def _answers(operation: Operation, vocabulary: Vocabulary) -> JSON:
    content: JSON = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": vocabulary.referred(operation.answer)}
    if operation.answer is None or operation.streams:
        content["text/event-stream"] = {"schema": _stream(vocabulary)}
    return content


def _parameters(operation: Operation) -> Iterator[JSON]:
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for name, check in operation.query.items():
        yield {"name": name, "in": "query", "required": False, "schema": check.schema}
    if operation.answer is None:
        about = "The id of the last event that was received; the stream begins behind it."
        yield {"name": "Last-Event-ID", "in": "header", "description": about, "schema": {"type": "string"}}


def _stream(vocabulary: Vocabulary) -> JSON:
    """What each event of a stream is. The last one is `done`, unless the server ends before the run does."""
    done = {"event": {"type": "string", "const": "done"}, "data": {"type": "string", "const": "[DONE]"}}
    events = (_event(name, vocabulary.referred(of)) for name, of in vocabulary.events.items())
    return {"anyOf": [{"type": "object", "properties": done, "required": [*done]}, *events]}


def _event(name: str, of: JSON) -> JSON:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": of}
    fields = {"event": {"type": "string", "const": name}, "data": data, "id": {"type": "string"}}
    return {"type": "object", "properties": fields, "required": [*fields]}
