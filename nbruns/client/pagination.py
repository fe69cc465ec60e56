"""Iterate over lists, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nbruns.client.transport import Answer, Lines, Transport
from nbruns.errors import APIError, ConnectionError, LimitError, TimeoutError
from nbruns.text import JSON, size_of

#: Page size: the maximum of the API.
_PAGE = 100
#: Maximum number of objects of a list without `limit`.
MAX_OBJECTS = 100_000
#: Maximum size in bytes of the objects kept in memory while the list is read to its end, as `before` requires.
MAX_HELD_BYTES = 64 * 1024 * 1024


def iter_pages(
    transport: Transport,
    path: str,
    params: Mapping[str, Any],
    limit: int | None = None,
    *,
    most: int | None = None,
) -> Iterator[JSON]:
    """Iterate over the objects of a list, over all pages. An object on two pages is yielded once.

    Lists of more than one page are requested as JSON lines in one response, if the server supports them.

    With only `before`, the objects before that one are yielded. `limit` then keeps those nearest to it.

    Raises:
        LimitError: The list has over `most` objects (default: MAX_OBJECTS), and `limit` doesn't allow more.
        APIError: A page contains nothing new but announces more.
    """
    query = {**params, "limit": _PAGE if limit is None else min(limit, _PAGE)}
    if query.get("before") is not None and query.get("after") is None:
        yield from _backwards(transport, path, query, limit)
        return
    count = 0
    for new in _pages(transport, path, query, "after", lines=limit is None or limit > _PAGE):
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


def _pages(
    transport: Transport, path: str, query: JSON, cursor: str, *, lines: bool = False
) -> Iterator[list[JSON]]:
    """Yield the new objects of each page, following the cursor `after` or `before`."""
    last, key = (-1, "last_id") if cursor == "after" else (0, "first_id")
    # Hashes instead of ids, which can be long. Python's hash of a string has 64 bits and a secret key.
    seen: set[int] = set()
    while True:
        page = _page(transport, path, query, lines=lines)
        if not isinstance(page, tuple):
            yield from _from_lines(transport, path, query, page)
            return
        items, about = page
        by_id = {item["id"]: item for item in items}
        new = [item for id, item in by_id.items() if hash(id) not in seen]
        seen.update(map(hash, by_id))
        yield new
        if not about.get("has_more") or not items:
            return
        if not new:
            more = "a page with nothing new that promises more: the list has no end, or can't be read to it"
            raise APIError(more, status=200, method="GET", path=path)
        # Some servers send a cursor that is not the id of an object on the page.
        named = about.get(key)
        query[cursor] = named if isinstance(named, str) and named in by_id else items[last]["id"]


def _from_lines(transport: Transport, path: str, query: JSON, lines: Lines) -> Iterator[list[JSON]]:
    """Yield the objects of JSON lines. If they are cut off, continue with pages after the last object received."""
    while True:
        came = False
        try:
            for items in lines:
                if not all(map(_has_id, items)):
                    raise APIError("lines without ids in a list", status=200, method="GET", path=path)
                yield items
                query["after"], came = items[-1]["id"], True
            return
        except (ConnectionError, TimeoutError):
            if not came:
                raise
            again = transport.open_list("GET", path, params=query)
            if isinstance(again, Answer):
                raise
            lines = again


def _page(transport: Transport, path: str, query: JSON, *, lines: bool) -> tuple[list[JSON], JSON] | Lines:
    """Return a page, or JSON lines if `lines` is set and the server sends them.

    If a page is too large, a smaller one is requested.
    """
    while True:
        try:
            if lines:
                opened = transport.open_list("GET", path, params=query)
            else:
                opened = transport.request("GET", path, params=query)
            break
        except LimitError:
            if query["limit"] == 1:
                raise
            query["limit"] = max(1, query["limit"] // 4)
    if not isinstance(opened, Answer):
        return opened
    page, headers = opened
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
