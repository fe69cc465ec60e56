"""Who is let in."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from served import (
    TOKEN,
)

JSON = dict[str, Any]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"api-key": "wrong"}, {"Authorization": TOKEN}]
)
def test_without_the_token_nothing_is_told(url: str, headers: dict[str, str]) -> None:
    for path in ("/v1/threads", "/v1/nothing", "/"):
        response = requests.get(url + path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["x-request-id"]
        assert TOKEN not in response.text


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {TOKEN}"}, {"api-key": TOKEN}])
def test_the_token_is_a_bearer_token_or_an_api_key(url: str, headers: dict[str, str]) -> None:
    assert requests.get(f"{url}/v1/threads", headers=headers).status_code == 200


def test_health_needs_no_token(url: str) -> None:
    assert requests.get(f"{url}/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "host_refused"),
        ({"Host": "127.0.0.1.evil.example"}, "host_refused"),
        ({"Host": "[::bad"}, "host_refused"),
        ({"Origin": "https://evil.example"}, "origin_refused"),
        ({"Origin": "null"}, "origin_refused"),
        ({"Origin": "http://127.0.0.1:1"}, "origin_refused"),
    ],
)
def test_a_web_page_does_not_reach_it(url: str, headers: dict[str, str], code: str) -> None:
    for path in ("/health", "/v1/threads"):
        response = requests.get(url + path, headers={"Authorization": f"Bearer {TOKEN}", **headers})
        assert (response.status_code, response.json()["error"]["code"]) == (403, code)


def test_a_page_of_its_own_would(url: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert requests.get(f"{url}/v1/threads", headers={**headers, "Origin": url}).status_code == 200
    by_name = url.replace("127.0.0.1", "localhost")
    assert requests.get(f"{url}/health", headers={"Host": by_name.removeprefix("http://")}).status_code == 200
