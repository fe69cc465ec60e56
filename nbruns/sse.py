"""Parse server-sent events, as the WHATWG specification defines: bytes in, events out.

Events in the usual form of run streams are parsed here, and all others by sseclient-py. It receives complete events,
one at a time, with `\\n` line ends and valid UTF-8. On its own, sseclient-py 1.9.0 returns the incomplete event at the
end of input, loses the first event after a byte order mark, merges events separated by `\\n\\r\\n`, forgets an id
without data, and takes quadratic time on small chunks.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sseclient import SSEClient

from nbruns.errors import StreamError

#: Maximum size of an event in bytes. Larger events raise StreamError. Usual events have a few KB.
MAX_EVENT_BYTES = 4 * 1024 * 1024
#: Maximum number of lines of an event, because sseclient joins them in quadratic time. Usual events have two or three.
MAX_EVENT_LINES = 4096
#: Maximum number of digits of a reconnection time in milliseconds; longer ones are ignored.
_RETRY_DIGITS = 9

_BOM = b"\xef\xbb\xbf"
_ID = re.compile(rb"^id(?:: ?([^\n]*))?$", re.MULTILINE)
_ID_LINE = re.compile(rb"id: [^\n\0]+")


class ServerSentEvent(NamedTuple):
    """One event: its name, its data, the last id that the stream has sent, and the reconnection time in ms."""

    event: str = "message"
    data: str = ""
    id: str | None = None
    retry: int | None = None


def iter_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Yield each event of a stream when its blank line arrives. An incomplete event at the end is dropped.

    Raises StreamError for an event over MAX_EVENT_BYTES or MAX_EVENT_LINES.
    """
    last_id: str | None = None
    for block in _iter_blocks(_without_bom(chunks)):
        # Fast path for the usual form, six times as fast: one line each for `event`, `data` and optionally `id`.
        name, _, rest = block.partition(b"\n")
        data, _, tail = rest.partition(b"\n")
        if (
            len(name) > 7
            and name[:7] == b"event: "
            and data[:6] == b"data: "
            and (not tail or _ID_LINE.fullmatch(tail))
        ):
            try:
                last_id = tail[4:].decode() or last_id
                yield ServerSentEvent(name[7:].decode(), data[6:].decode(), last_id, None)
                continue
            except UnicodeDecodeError:
                pass  # invalid UTF-8 is replaced below
        block = _valid_utf8(block + b"\n\n")
        if b"\nid" in block or block.startswith(b"id"):
            ids = [value for value in _ID.findall(block) if b"\0" not in value]
            last_id = ids[-1].decode() if ids else last_id
        for event in SSEClient(iter([block])).events():
            retry = event.retry or ""
            yield ServerSentEvent(
                event.event,
                event.data,
                last_id or None,
                int(retry) if retry.isascii() and retry.isdigit() and len(retry) <= _RETRY_DIGITS else None,
            )


def _without_bom(chunks: Iterable[bytes]) -> Iterator[bytes]:
    head = b""
    pending = True
    for chunk in chunks:
        if not pending:
            yield chunk
            continue
        head += chunk
        if _BOM.startswith(head):  # too short to decide, or only the byte order mark
            pending = len(head) < len(_BOM)
            continue
        pending = False
        yield head.removeprefix(_BOM)


def _iter_blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks between blank lines, with every line end converted to `\\n`."""
    pieces: list[bytes] = []  # pieces of the current block
    size = 0
    last = b""
    after_cr = False
    for chunk in chunks:
        if not chunk:
            continue
        new = _newlines(chunk[1:] if after_cr and chunk[:1] == b"\n" else chunk)
        after_cr = chunk.endswith(b"\r")
        pieces.append(new)
        size += len(new)
        if b"\n\n" in last + new:
            *blocks, rest = _split(pieces)
            yield from filter(None, blocks)
            pieces, size = [rest], len(rest)
            new = rest
        last = new[-1:] or last
        if size > MAX_EVENT_BYTES:
            raise StreamError(
                f"An event has over {MAX_EVENT_BYTES:,} bytes: this is not a stream of run events."
            )


def _split(pieces: list[bytes]) -> list[bytes]:
    """Join the pieces and split them into blocks, of which the last is incomplete.

    Called after a blank line has arrived, not for each chunk.
    """
    return b"".join(pieces).split(b"\n\n")


def _newlines(chunk: bytes) -> bytes:
    return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk


def _valid_utf8(block: bytes) -> bytes:
    if block.count(b"\n") > MAX_EVENT_LINES:
        raise StreamError(f"An event has over {MAX_EVENT_LINES:,} lines: this is not a stream of run events.")
    try:
        block.decode()
    except UnicodeDecodeError:
        return block.decode(errors="replace").encode()
    return block
