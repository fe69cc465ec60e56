"""Generate the server's OpenAPI document from the operations and their schemas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from pydantic_core import core_schema

from nbruns.server.routes.operation import JSON_LINES, Operation
from nbruns.server.schemas.base import ErrorResponse
from nbruns.server.schemas.events import EVENTS
from nbruns.text import JSON

#: References to schemas, by model and mode.
Refs = Mapping[Any, JSON]

_BYTES: JSON = {"type": "string", "format": "binary"}
_REFUSALS = {
    "4XX": "Refused: the error says why, and names the parameter that is at fault.",
    "5XX": "The server had an error; its log says more.",
}


class _Generator(GenerateJsonSchema):
    """JSON Schema without titles and defaults of null, and with `enum` for single values too."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JSON:
        described = super().literal_schema(schema)
        if "const" in described:
            described["enum"] = [described.pop("const")]
        return described

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JSON:
        described = super().default_schema(schema)
        return {key: value for key, value in described.items() if key != "default" or value is not None}

    def get_title_from_name(self, name: str) -> str:
        return name


def document(operations: Iterable[Operation], version: str) -> JSON:
    """Return the OpenAPI document of these operations."""
    operations = sorted(operations, key=lambda operation: operation.path)
    used: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ErrorResponse, "serialization")]
    used += [(each.answer, "serialization") for each in operations if each.answer is not None]
    used += [(model, "serialization") for model in EVENTS.values()]
    used += [(each.body, "validation") for each in operations if each.body is not None]
    used += [(each.form, "validation") for each in operations if each.form is not None]
    used += [(each.query, "validation") for each in operations]
    refs, schemas = models_json_schema(
        list(dict.fromkeys(used)), ref_template="#/components/schemas/{model}", schema_generator=_Generator
    )
    named = schemas["$defs"]
    paths: JSON = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, refs, named)
    for query in {each.query for each in operations}:
        named.pop(refs[query, "validation"]["$ref"].rpartition("/")[2], None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nbruns",
            "version": version,
            "description": "The Assistants API as `nbruns serve` serves it. Beyond the original: lists of all "
            "threads and of all runs, lists as JSON lines, metrics, the stream of a run that exists, which begins "
            "behind Last-Event-ID, and batches of runs.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": named,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _described(operation: Operation, refs: Refs, named: Mapping[str, JSON]) -> JSON:
    words = operation.handler.__name__.split("_")
    content: JSON = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": refs[operation.answer, "serialization"]}
    if operation.lines:
        content[JSON_LINES] = {"schema": {"type": "string"}}
    if operation.answer is None or operation.streams:
        schema = _stream(refs) if operation.media_type == "text/event-stream" else _BYTES
        if operation.media_type == JSON_LINES:
            schema = {"type": "string"}
        content[operation.media_type] = {"schema": schema}
    error = {"application/json": {"schema": refs[ErrorResponse, "serialization"]}}
    described: JSON = {
        "operationId": words[0] + "".join(map(str.capitalize, words[1:])),
        "summary": " ".join(words).capitalize(),
        "parameters": [*_parameters(operation, refs, named)],
        "responses": {
            "200": {"description": "Done.", "content": content},
            **{status: {"description": why, "content": error} for status, why in _REFUSALS.items()},
        },
    }
    if operation.body is not None:
        # If no field is required, the body is optional.
        required = any(field.is_required() for field in operation.body.model_fields.values())
        schema = refs[operation.body, "validation"]
        described["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    if operation.form is not None:
        file = operation.form_file
        form = named[refs[operation.form, "validation"]["$ref"].rpartition("/")[2]]
        schema = {**form, "properties": {file: _BYTES, **form.get("properties", {})}}
        schema["required"] = [file, *form.get("required", [])]
        described["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return described


def _parameters(operation: Operation, refs: Refs, named: Mapping[str, JSON]) -> Iterator[JSON]:
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    query = named[refs[operation.query, "validation"]["$ref"].rpartition("/")[2]]
    for name, schema in query.get("properties", {}).items():
        options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
        schema = options[0] if len(options) == 1 else schema
        yield {"name": name, "in": "query", "required": False, "schema": schema}
    if operation.answer is None and operation.media_type == "text/event-stream":
        about = "The id of the last event that was received; the stream begins behind it."
        yield {"name": "Last-Event-ID", "in": "header", "description": about, "schema": {"type": "string"}}


def _stream(refs: Refs) -> JSON:
    """Return the schema of a stream's events. The last one is `done`, unless the server stops before the run ends."""
    done = {"event": {"type": "string", "const": "done"}, "data": {"type": "string", "const": "[DONE]"}}
    events = (_event(name, refs[model, "serialization"]) for name, model in EVENTS.items())
    return {"anyOf": [{"type": "object", "properties": done, "required": [*done]}, *events]}


def _event(name: str, of: JSON) -> JSON:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": of}
    fields = {"event": {"type": "string", "const": name}, "data": data, "id": {"type": "string"}}
    return {"type": "object", "properties": fields, "required": [*fields]}
