"""An OpenAPI description as tests need it: its operations, and values that reach every alternative of a schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import referencing
import yaml
from referencing.jsonschema import DRAFT202012

Schema = dict[str, Any]
_URI = "urn:description"


class Operation(NamedTuple):
    """One operation: its name, method, path template, and the schemas of what goes in and out."""

    name: str
    method: str
    path: str
    query: dict[str, Schema]
    body: Schema | None
    answer: Schema


class Description:
    """An OpenAPI 3.1 description."""

    def __init__(self, text: str) -> None:
        self.document: dict[str, Any] = _with_null(yaml.load(text, Loader=yaml.CSafeLoader))
        resource = referencing.Resource(contents=self.document, specification=DRAFT202012)
        self._registry: Any = referencing.Registry().with_resource(_URI, resource)
        self.operations = {operation.name: operation for operation in self._operations()}

    @classmethod
    def read(cls, path: Path) -> Description:
        return cls(path.read_text(encoding="utf-8"))

    def schema(self, name: str) -> Schema:
        """A schema of the components."""
        found: Schema = self.document["components"]["schemas"][name]
        return found

    def _operations(self) -> Iterator[Operation]:
        for path, methods in self.document["paths"].items():
            for method, told in methods.items():
                query = {p["name"]: p["schema"] for p in told.get("parameters", ()) if p["in"] == "query"}
                body, answer = told.get("requestBody"), told["responses"]["200"]
                yield Operation(
                    told["operationId"],
                    method.upper(),
                    path,
                    query,
                    _json_schema(body) if body else None,
                    _json_schema(answer),
                )

    def check(self, value: Any, schema: Schema) -> None:
        """Raises ValidationError where a value does not fit a schema of this description."""
        rooted = _with_absolute_refs(schema)
        jsonschema.Draft202012Validator(rooted, registry=self._registry).validate(value)

    def check_request(self, operation: Operation, method: str, target: str, body: Any) -> None:
        """Assert that a request is one of the operation's, as the description has it."""
        parts = urlsplit(target)
        template = re.escape(operation.path).replace(r"\{", "{").replace(r"\}", "}")
        assert method == operation.method
        assert re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), parts.path), parts.path
        sent: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            assert name in operation.query, f"{operation.name} has no query parameter {name!r}"
            schema = operation.query[name]
            as_listed = [*sent.get(name, []), value]
            sent[name] = as_listed if schema["type"] == "array" else _READ.get(schema["type"], str)(value)
            self.check(sent[name], schema)
        if operation.body is None:
            assert body is None, f"{operation.name} has no body, and {body!r} was sent"
        else:
            self.check(body, operation.body)

    def samples(self, schema: Schema, depth: int = 0) -> list[Any]:
        """Values of a schema that take each of its alternatives, each enumerated value and null at least once."""
        if "$ref" in schema:
            return self.samples(self._resolved(schema["$ref"]), depth)
        if "enum" in schema:
            return list(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return [v for branch in _branches(schema, union) for v in self.samples(branch, depth)]
        if "allOf" in schema:
            return self.samples(_merged([self._dereferenced(part) for part in schema["allOf"]]), depth)
        kind = schema.get("type", "object")
        if kind == "object":
            return self._objects(schema, depth)
        if kind == "array":
            items = self.samples(schema.get("items", {}), depth + 1)
            most = schema.get("maxItems", len(items))
            return [items[:most], *([[]] if not schema.get("minItems") else [])]
        return _plain(kind, schema)

    def _objects(self, schema: Schema, depth: int) -> list[Any]:
        properties = {name: self.samples(s, depth + 1) for name, s in schema.get("properties", {}).items()}
        if not properties:
            return [{"key": "value"}, {}]
        full = [
            {name: values[i % len(values)] for name, values in properties.items()}
            for i in range(max(map(len, properties.values())))
        ]
        required = {name: properties[name][0] for name in schema.get("required", ())}
        return [*full, required] if required != full[0] else full

    def _dereferenced(self, schema: Schema) -> Schema:
        return self._resolved(schema["$ref"]) if "$ref" in schema else schema

    def _resolved(self, reference: str) -> Schema:
        return self.schema(reference.removeprefix("#/components/schemas/"))


_READ: dict[str, Any] = {"integer": int, "number": float}


def _plain(kind: str, schema: Schema) -> list[Any]:
    if kind == "null":
        return [None]
    if kind == "boolean":
        return [True, False]
    if kind == "string":
        return [schema.get("example", "text")]
    return [schema.get("example", schema.get("default", schema.get("minimum", 1)))]


def _json_schema(told: dict[str, Any]) -> Schema:
    schema: Schema = told["content"]["application/json"]["schema"]
    return schema


def _merged(parts: list[Schema]) -> Schema:
    properties = {name: s for part in parts for name, s in part.get("properties", {}).items()}
    required = [name for part in parts for name in part.get("required", ())]
    rest = {name: value for part in parts for name, value in part.items()}
    return {**rest, **({"properties": properties, "required": required} if properties else {})}


def _branches(schema: Schema, union: str) -> Iterator[Schema]:
    """The alternatives, each with what they share: some only say which of the shared properties are there."""
    shared = {name: value for name, value in schema.items() if name != union}
    for branch in schema[union]:
        if "properties" not in shared:
            yield branch
            continue
        others = {
            name for other in schema[union] if other is not branch for name in other.get("required", ())
        }
        properties = {name: s for name, s in shared["properties"].items() if name not in others}
        yield {**shared, **branch, "properties": properties}


def _with_null(value: Any) -> Any:
    """Version 3.0's `nullable` as 3.1 has it: the reference mixes the two."""
    if isinstance(value, dict):
        rest = {k: _with_null(v) for k, v in value.items() if k != "nullable"}
        return {"anyOf": [rest, {"type": "null"}]} if value.get("nullable") and rest else rest
    return list(map(_with_null, value)) if isinstance(value, list) else value


def _with_absolute_refs(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: f"{_URI}{v}" if k == "$ref" and str(v).startswith("#") else _with_absolute_refs(v)
            for k, v in value.items()
        }
    return list(map(_with_absolute_refs, value)) if isinstance(value, list) else value
