"""A list, over all its pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nbruns.errors import APIError
from nbruns.objects import JSON
from nbruns.transport import Transport

#: Objects asked for at once: the most that the API gives.
_PAGE = 100


def iter_pages(
    transport: Transport, path: str, params: Mapping[str, Any], limit: int | None = None
) -> Iterator[JSON]:
    """The objects of a list, over all its pages, `limit` at most; one that stands on two pages comes once.

    With `before` alone, they are those that end there, as the API has it: the nearest ones where `limit` cuts.
    """
    query = {**params, "limit": _PAGE if limit is None else min(limit, _PAGE)}
    if query.get("before") is not None and query.get("after") is None:
        yield from _backwards(transport, path, query, limit)
        return
    seen: set[str] = set()
    while True:
        items, page = _page(transport, path, query)
        new = [item for item in items if item["id"] not in seen]
        for item in new if limit is None else new[: limit - len(seen)]:
            seen.add(item["id"])
            yield item
        if not page.get("has_more") or not new or len(seen) == limit:
            return
        query["after"] = page.get("last_id") or new[-1]["id"]


def _backwards(transport: Transport, path: str, query: JSON, limit: int | None) -> Iterator[JSON]:
    found: dict[str, JSON] = {}
    while True:
        items, page = _page(transport, path, query)
        new = [item for item in reversed(items) if item["id"] not in found]
        found.update((item["id"], item) for item in new)
        if not page.get("has_more") or not new or (limit is not None and len(found) >= limit):
            break
        query["before"] = page.get("first_id") or new[-1]["id"]
    return reversed(list(found.values())[:limit])


def _page(transport: Transport, path: str, query: JSON) -> tuple[list[JSON], JSON]:
    page, headers = transport.request("GET", path, params=query)
    items = page.get("data")
    if not isinstance(items, list) or not all(map(_has_id, items)):
        told = f"where a list of objects with ids was expected: {transport.told(page)}"
        request_id = transport.request_id(headers)
        raise APIError(told, status=200, request_id=request_id, method="GET", path=path)
    return items, page


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str)
