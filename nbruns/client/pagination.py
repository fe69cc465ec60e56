"""A list, over all its pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nbruns.client.transport import Transport
from nbruns.errors import APIError, LimitError
from nbruns.text import JSON, size_of

#: Page size: the maximum of the API.
_PAGE = 100
#: Maximum number of objects of a list without `limit`.
MAX_OBJECTS = 100_000
#: Bytes in memory of the objects that are held until the list is at its end, which only `before` needs.
MAX_HELD_BYTES = 64 * 1024 * 1024


def iter_pages(
    transport: Transport,
    path: str,
    params: Mapping[str, Any],
    limit: int | None = None,
    *,
    most: int | None = None,
) -> Iterator[JSON]:
    """Iterate over the objects of a list, over all pages; an object on two pages is returned once.

    With only `before`, the objects are those in front of that one, the nearest first if `limit` cuts.

    Raises:
        LimitError: The list has over `most` objects (default: MAX_OBJECTS), and `limit` doesn't allow more.
        APIError: A page contains nothing new but announces more.
    """
    query = {**params, "limit": _PAGE if limit is None else min(limit, _PAGE)}
    if query.get("before") is not None and query.get("after") is None:
        yield from _backwards(transport, path, query, limit)
        return
    count = 0
    for new in _pages(transport, path, query, "after"):
        if limit is None and count + len(new) > (most or MAX_OBJECTS):
            raise _endless(path, f"over {most or MAX_OBJECTS:,} objects")
        yield from new if limit is None else new[: limit - count]
        count += len(new)
        if limit is not None and count >= limit:
            return


def _backwards(transport: Transport, path: str, query: JSON, limit: int | None) -> Iterator[JSON]:
    found: list[JSON] = []
    held = 0
    for new in _pages(transport, path, query, "before"):
        found += reversed(new)
        if limit is not None and len(found) >= limit:
            break
        held += size_of(new)
        if held > MAX_HELD_BYTES:
            raise _endless(path, f"over {MAX_HELD_BYTES:,} bytes")
    return reversed(found[:limit])


def _pages(transport: Transport, path: str, query: JSON, cursor: str) -> Iterator[list[JSON]]:
    """The objects of one page after the other, each object once, by the cursor `after` or `before`."""
    last, key = (-1, "last_id") if cursor == "after" else (0, "first_id")
    # Numbers in the place of ids, which can be long. Python's hash of a text has 64 bits and a secret key.
    seen: set[int] = set()
    while True:
        items, page = _page(transport, path, query)
        by_id = {item["id"]: item for item in items}
        new = [item for id, item in by_id.items() if hash(id) not in seen]
        seen.update(map(hash, by_id))
        yield new
        if not page.get("has_more") or not items:
            return
        if not new:
            more = "a page with nothing new that promises more: the list has no end, or can't be read to it"
            raise APIError(more, status=200, method="GET", path=path)
        # Some servers send a cursor that is none.
        named = page.get(key)
        query[cursor] = named if isinstance(named, str) and named in by_id else items[last]["id"]


def _page(transport: Transport, path: str, query: JSON) -> tuple[list[JSON], JSON]:
    """Return a page, with fewer objects if they are too large for one answer."""
    while True:
        try:
            page, headers = transport.request("GET", path, params=query)
            break
        except LimitError:
            if query["limit"] == 1:
                raise
            query["limit"] = max(1, query["limit"] // 4)
    items = page.get("data")
    if not isinstance(items, list) or not all(map(_has_id, items)):
        problem = f"where a list of objects with ids was expected: {transport.redacted(page)}"
        request_id = transport.request_id(headers)
        raise APIError(problem, status=200, request_id=request_id, method="GET", path=path)
    return items, page


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str)


def _endless(path: str, what: str) -> LimitError:
    return LimitError(
        f"GET {path}: the list has {what}. If that is right, pass limit=… with the number of objects that you want."
    )
