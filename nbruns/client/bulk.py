"""Read the objects of many runs or threads in a few requests: an extension of nbruns' own server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from nbruns.client.transport import Answer, Transport
from nbruns.errors import APIError
from nbruns.text import JSON

#: Maximum number of ids in one request, set by the server.
IDS_AT_ONCE = 1_000
Kind = Literal["thread.run", "thread.run.step", "thread.message"]


def read_bulk(
    transport: Transport, kind: Kind, ids: Sequence[str], owner: Literal["run_id", "thread_id"] = "run_id"
) -> Iterator[JSON] | None:
    """Iterate over the objects of these runs or threads as they arrive: in the order of the ids, oldest first.

    Returns None if the server doesn't support this; request each list separately then. Raises NotFoundError if an
    id doesn't exist.
    """
    if not transport.extras.has_bulk:
        return None
    first = _group(transport, kind, ids[:IDS_AT_ONCE], owner)
    if first is None:
        transport.extras.has_bulk = False
        return None
    return _all(transport, kind, ids, owner, first)


def _all(
    transport: Transport,
    kind: Kind,
    ids: Sequence[str],
    owner: Literal["run_id", "thread_id"],
    first: list[JSON],
) -> Iterator[JSON]:
    yield from first
    for at in range(IDS_AT_ONCE, len(ids), IDS_AT_ONCE):
        yield from _group(transport, kind, ids[at : at + IDS_AT_ONCE], owner) or ()


def _group(
    transport: Transport, kind: Kind, ids: Sequence[str], owner: Literal["run_id", "thread_id"]
) -> list[JSON] | None:
    """Return the objects of at most IDS_AT_ONCE ids; None if the server doesn't have this operation."""
    try:
        lines = transport.open_list("POST", "/bulk", json={"object": kind, f"{owner}s": list(ids)})
    except APIError as error:
        # The error for a missing object has the code not_found; the error for a missing operation doesn't.
        if error.status in (400, 404, 405, 501) and error.code != "not_found":
            return None
        raise
    if isinstance(lines, Answer):
        return None
    by_id: dict[str, list[JSON]] = {id: [] for id in ids}
    own = "id" if kind == "thread.run" and owner == "run_id" else owner
    for objects in lines:
        for each in objects:
            if (owner_id := each.get(own)) in by_id:
                by_id[owner_id].append(each)
    return [each for id in ids for each in by_id[id]]
