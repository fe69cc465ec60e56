"""The server's own OpenAPI document: complete, valid, and in agreement with the reference where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from described import DOCUMENT
from jsonschema import Draft202012Validator

from nbruns.server.routes import OPERATIONS

JSON = dict[str, Any]

REFERENCES = Path(__file__).parent.parent.parent.parent / "shared" / "reference"
#: What the original lacks.
EXTRAS = {
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/threads"),
    ("GET", "/v1/runs"),
    ("GET", "/v1/messages"),
    ("GET", "/v1/threads/{thread_id}/runs/{run_id}/stream"),
    ("POST", "/v1/run_batches"),
    ("GET", "/v1/run_batches/{batch_id}"),
    ("GET", "/v1/run_batches/{batch_id}/runs"),
    ("POST", "/v1/run_batches/{batch_id}/cancel"),
    ("POST", "/v1/bulk"),
    # Of the first version of the API.
    ("POST", "/v1/assistants/{assistant_id}/files"),
    ("GET", "/v1/assistants/{assistant_id}/files"),
    ("GET", "/v1/assistants/{assistant_id}/files/{file_id}"),
    ("DELETE", "/v1/assistants/{assistant_id}/files/{file_id}"),
    ("GET", "/v1/threads/{thread_id}/messages/{message_id}/files"),
    ("GET", "/v1/threads/{thread_id}/messages/{message_id}/files/{file_id}"),
}
LIMITS = ("minimum", "maximum", "maxLength", "minItems", "maxItems", "enum", "default")
#: Limits of the reference that are not ours: left out, the model decides how hard it thinks, as was recorded.
OTHERS = {"reasoning_effort.default"}
#: Deleting a fine-tuned model: there are none.
MISSING = {("DELETE", "/v1/models/{model}")}


@pytest.fixture(scope="session")
def reference() -> JSON:
    files = [REFERENCES / f"{name}-openapi.yaml" for name in ("assistants", "files")]
    if not all(file.exists() for file in files):
        pytest.skip(f"no OpenAPI description of the Assistants API in {REFERENCES}")
    yaml = pytest.importorskip("yaml")
    read, more = (yaml.safe_load(file.read_text()) for file in files)
    read["paths"] |= more["paths"]
    read["components"]["schemas"] = {**more["components"]["schemas"], **read["components"]["schemas"]}
    reference: JSON = read
    return reference


def operations(document: JSON, prefix: str = "") -> Iterator[tuple[str, str, JSON]]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            if (method.upper(), prefix + path) not in MISSING:
                yield method.upper(), prefix + path, described


def resolved(document: JSON, schema: JSON) -> JSON:
    """A schema with the one that it refers to, and without the null that it allows."""
    if "$ref" in schema:
        return resolved(document, document["components"]["schemas"][schema["$ref"].split("/")[-1]])
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    parts = [part for part in schema.get("allOf", ()) if part.keys() != {"nullable"}]
    if len(options) == 1 or len(parts) == 1:
        return {**resolved(document, (options or parts)[0]), **{k: schema[k] for k in LIMITS if k in schema}}
    return schema


def body_of(document: JSON, described: JSON) -> JSON:
    if "requestBody" not in described:
        return {}
    [content] = described["requestBody"]["content"].values()
    return resolved(document, content["schema"])


def test_every_operation_is_in_it() -> None:
    told = {(method, path) for method, path, _ in operations(DOCUMENT)}
    assert told == {(operation.method, operation.path) for operation in OPERATIONS}
    for operation in OPERATIONS:
        described = DOCUMENT["paths"][operation.path][operation.method.lower()]
        in_query = {each["name"] for each in described["parameters"] if each["in"] == "query"}
        assert in_query == {field.alias or name for name, field in operation.query.model_fields.items()}
        body = body_of(DOCUMENT, described)
        fields = {*operation.body.model_fields} if operation.body else set()
        if operation.form is not None:
            fields = {*operation.form.model_fields, operation.form_file}
        assert {*body.get("properties", {})} == fields


def test_its_schemas_are_schemas_and_refer_to_what_is_there() -> None:
    for schema in schemas_in(DOCUMENT):
        if "$ref" in schema:
            assert schema["$ref"].removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def schemas_in(value: Any) -> Iterator[JSON]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from schemas_in(item)


def test_it_is_served_to_everybody(url: str) -> None:
    response = requests.get(f"{url}/openapi.json", timeout=10)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert {**response.json(), "info": None} == {**DOCUMENT, "info": None}
    assert response.json()["info"]["version"] == requests.get(f"{url}/health", timeout=10).json()["version"]


def test_it_has_the_operations_of_the_reference(reference: JSON) -> None:
    theirs = {(method, path) for method, path, _ in operations(reference, "/v1")}
    assert {(method, path) for method, path, _ in operations(DOCUMENT)} - EXTRAS == theirs


def test_its_parameters_are_those_of_the_reference(reference: JSON) -> None:
    for method, path, theirs in operations(reference, "/v1"):
        ours = {each["name"]: each for each in DOCUMENT["paths"][path][method.lower()]["parameters"]}
        its = {each["name"] for each in theirs.get("parameters", ())}
        # The content of results is asked for where a thread is made with its run, too.
        assert its <= ours.keys() and ours.keys() - its <= {"include[]", "before"}, path
        for each in theirs.get("parameters", ()):
            mine = ours[each["name"]]
            assert (mine["in"], mine["required"]) == (each["in"], bool(each.get("required"))), path
            agree(reference, mine["schema"], each["schema"], each["name"])


def test_its_bodies_are_those_of_the_reference(reference: JSON) -> None:
    for method, path, theirs in operations(reference, "/v1"):
        ours, its = body_of(DOCUMENT, DOCUMENT["paths"][path][method.lower()]), body_of(reference, theirs)
        # The reference's own prose and its SDKs tell of one more: create-thread-and-run takes what a run does. Azure's
        # clients and others send two that have no effect on the original.
        more = ours.get("properties", {}).keys() - its.get("properties", {}).keys()
        beyond = {"reasoning_effort", "tool_resources", "stream_options", "description", "file_ids"}
        # Programs hold the ids of assistants that were made elsewhere.
        beyond |= {"id"} if path == "/v1/assistants" else set()
        # As Azure's clients send them: approvals instead of outputs, so neither is required.
        instead = {"tool_approvals"} if path.endswith("/submit_tool_outputs") else set()
        assert more <= beyond | instead, path
        assert its.get("properties", {}).keys() <= ours.get("properties", {}).keys(), path
        assert ours.get("required", []) == ([] if instead else its.get("required", [])), path
        for name, schema in its.get("properties", {}).items():
            agree(reference, ours["properties"][name], schema, name)


def agree(reference: JSON, ours: JSON, theirs: JSON, name: str) -> None:
    """Hold that no limit differs: of a parameter, and of what is in it."""
    mine, its = resolved(DOCUMENT, ours), resolved(reference, theirs)
    for limit in LIMITS:
        if limit in its and f"{name}.{limit}" not in OTHERS and (limit != "default" or its[limit] != []):
            given, wanted = mine.get(limit), its[limit]
            if limit == "enum":
                given, wanted = sorted(given or ()), sorted(wanted)
                # Uploads are for whatever files are for, and searches name the rankers of assistants, too.
                if name in ("purpose", "ranking_options.ranker"):
                    given = [each for each in given if each in wanted]
            assert given == wanted, f"{name}.{limit}"
    for inner in its.get("properties", {}).keys() & mine.get("properties", {}).keys():
        agree(reference, mine["properties"][inner], its["properties"][inner], f"{name}.{inner}")
    if "items" in its and "oneOf" not in resolved(reference, its["items"]):
        agree(reference, mine["items"], its["items"], f"{name}[]")


def test_its_answers_have_what_the_reference_requires(reference: JSON) -> None:
    for method, path, theirs in operations(reference, "/v1"):
        ours = DOCUMENT["paths"][path][method.lower()]["responses"]["200"]["content"].get("application/json")
        if ours is None:  # the bytes of a file
            continue
        mine = resolved(DOCUMENT, ours["schema"])
        its = resolved(reference, theirs["responses"]["200"]["content"]["application/json"]["schema"])
        assert {*its["required"]} <= {*mine["required"]}, path
        for name, schema in its["properties"].items():
            enum = resolved(reference, schema).get("enum")
            if enum is not None:
                given = {*resolved(DOCUMENT, mine["properties"][name])["enum"]}
                # Files can have been uploaded for evals, and the description of batches misspells its own example.
                assert {*enum} - given <= {"vector_store.files_batch"}, f"{path} {name}"
                assert given - {*enum} <= {"evals", "vector_store.file_batch"}, f"{path} {name}"
