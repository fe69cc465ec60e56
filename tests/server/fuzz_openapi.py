"""schemathesis against a real server: requests made up from the OpenAPI documents, those that fit and those that don't.
No answer may be a server's error, or other than described. Not part of every run, as it takes minutes:
pytest -o python_files='fuzz_*.py' tests/server"""

from __future__ import annotations

import os
import zlib
from typing import Any

import pytest
import schemathesis
from described import DOCUMENT
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from served import TOKEN, WEATHER, Api
from test_openapi import REFERENCE

JSON = dict[str, Any]
SAID = {"role": "user", "content": "What should I wear in Oslo?"}

RUN = "/threads/{thread_id}/runs/{run_id}"

load_all_checks()
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
HELD = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
HELD_BY_OURS = [*HELD, *CHECKS.get_by_names(["status_code_conformance", "negative_data_rejection"])]
fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[*HealthCheck],
)


def reference() -> JSON:
    """The reference, with what was recorded in the place of what it says where the two differ."""
    yaml = pytest.importorskip("yaml")
    if not REFERENCE.exists():
        pytest.skip(f"no OpenAPI description of the Assistants API at {REFERENCE}", allow_module_level=True)
    document: JSON = _as_recorded(yaml.safe_load(REFERENCE.read_text()))
    for path in ("/threads/runs", "/threads/{thread_id}/runs", RUN + "/submit_tool_outputs"):
        # Of the streams, the reference tells in words.
        document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"] = {}
    return document


def _as_recorded(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_recorded(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _as_recorded(item) for key, item in value.items()}
    properties = value.get("properties")
    if isinstance(properties, dict):
        # Empty lists have no first id, and runs of assistants without instructions have none.
        for name in ("first_id", "last_id", "instructions"):
            if name in properties:
                properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    if value.pop("nullable", False):  # OpenAPI 3.0's word, which means nothing in 3.1
        value = {"anyOf": [value, {"type": "null"}]}
    return value


# Hypothesis comes upon bodies that are too large for the server to look into.
REFUSED = {"expected-statuses": ["400", "401", "404", "405", "413"]}
_refusing = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": REFUSED}})
ours = schemathesis.openapi.from_dict(DOCUMENT, config=_refusing)
theirs = schemathesis.openapi.from_dict(reference())


def at_what_is_there(api: Api, case: Case) -> None:
    """Let half of the requests that fit go to objects that are there: a run that requires action, and what is its."""
    fits = case.meta is not None and case.meta.generation.mode.is_positive
    if not fits or zlib.crc32(repr((case.path_parameters, case.body)).encode()) % 2:
        return
    assistant = api.post("/assistants", {"model": "demo", "tools": [WEATHER]})["id"]
    if isinstance(case.body, dict) and isinstance(case.body.get("assistant_id"), str):
        case.body["assistant_id"] = assistant
    if case.path_parameters:
        run = api.post("/threads/runs", {"assistant_id": assistant, "thread": {"messages": [SAID]}})
        if "run_id" in case.path_parameters:
            run = api.until(run, "requires_action")
        [message] = api.get(f"/threads/{run['thread_id']}/messages")["data"]
        there = {"assistant_id": assistant, "thread_id": run["thread_id"], "run_id": run["id"]}
        there["message_id"] = message["id"]
        if "step_id" in case.path_parameters:
            there["step_id"] = api.get(f"{api.run_path(run)}/steps")["data"][0]["id"]
        case.path_parameters.update({name: there[name] for name in case.path_parameters})


@ours.parametrize()
@fuzzed
def test_every_answer_is_as_our_document_says(case: Case, url: str) -> None:
    at_what_is_there(Api(url), case)
    case.call_and_validate(base_url=url, headers=AUTHORIZED, checks=HELD_BY_OURS)


@theirs.parametrize()
@fuzzed
def test_every_answer_is_as_the_reference_says(case: Case, url: str) -> None:
    at_what_is_there(Api(url), case)
    case.call_and_validate(base_url=f"{url}/v1", headers=AUTHORIZED, checks=HELD)
