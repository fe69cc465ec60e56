"""Holds what the server answers against what its OpenAPI document says about it."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import requests
from jsonschema import Draft202012Validator

from nbruns.server.routes import OPERATIONS
from nbruns.server.routes.openapi import document

JSON = dict[str, Any]
DOCUMENT = document(OPERATIONS, "of the tests")
_PATHS = {
    re.compile(re.sub(r"{\w+}", "[^/]+", path)): described for path, described in DOCUMENT["paths"].items()
}
_STREAM = DOCUMENT["paths"]["/v1/threads/{thread_id}/runs/{run_id}/stream"]["get"]["responses"]["200"][
    "content"
]
_EVENTS = {
    event["properties"]["event"]["const"]: event["properties"]["data"].get("contentSchema")
    for event in _STREAM["text/event-stream"]["schema"]["anyOf"]
}


def check_answer(response: requests.Response) -> None:
    """Fail where an answer is not what is described."""
    path = response.request.path_url.partition("?")[0]
    method = (response.request.method or "").lower()
    described = [
        paths[method] for pattern, paths in _PATHS.items() if pattern.fullmatch(path) and method in paths
    ]
    assert response.ok <= bool(described), f"{method} {path} is answered, but not described"
    answers = described[0]["responses"] if described else {"4XX": _refusal()}
    status = str(response.status_code)
    content = (answers.get(status) or answers[f"{status[0]}XX"])["content"]
    media_type = response.headers["content-type"].partition(";")[0]
    assert media_type in content, f"{method} {path}"
    if media_type == "application/json":
        _validate(content[media_type]["schema"], response.json())


def check_event(name: str, payload: Any) -> None:
    """Fail where an event's data is not what is described."""
    assert name in _EVENTS, f"{name} is sent, but not described"
    _validate(_EVENTS[name], payload)


def _refusal() -> JSON:
    refusal: JSON = DOCUMENT["paths"]["/health"]["get"]["responses"]["4XX"]
    return refusal


def _validate(schema: JSON, payload: Any) -> None:
    _validator(json.dumps(schema)).validate(payload)


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(schema), "components": DOCUMENT["components"]})
