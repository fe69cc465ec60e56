"""Streams of a run's events, starting at any event, for any number of readers.

Events are logged before they are published. So a reader's buffer can drop events: if the reader detects a gap in the
numbers, it reads the log. A slow reader only needs a bounded buffer, and doesn't delay others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager

from nbruns.server.storage import store
from nbruns.server.storage.database import Database, Event
from nbruns.server.telemetry import Telemetry

BUFFER = 256
KEEP_ALIVE_SECONDS = 15.0
DONE = b"event: done\ndata: [DONE]\n\n"
# Without a blank line, which SDKs that remember the last id would take for the end of an empty event.
KEEP_ALIVE = b": keep-alive\n"


class RunStreams:
    """Passes events to the open streams of this server."""

    def __init__(self, db: Database, telemetry: Telemetry) -> None:
        self._db, self._telemetry = db, telemetry
        self._feeds: dict[str, set[_Subscription]] = {}
        self._closed = False

    def connect(self) -> None:
        """Start passing committed events to readers in the running event loop."""
        loop = asyncio.get_running_loop()

        def publish(events: list[Event]) -> None:
            _call_soon(loop, self._publish, events)
            self._telemetry.events(events)

        self._db.on_events = publish

    @property
    def count(self) -> int:
        """Number of open streams."""
        return sum(map(len, self._feeds.values()))

    def catch_up(self, runs: Collection[str] | None = None) -> None:
        """Make the streams of these runs (None: of all) read the log, because another server has written to it."""
        for run_id in list(self._feeds) if runs is None else runs:
            for feed in self._feeds.get(run_id, ()):
                feed.behind = True
                feed.wake.set()

    def close(self) -> None:
        """End all streams, so that the server can stop. Readers can reconnect after its restart."""
        self._closed = True
        for feed in [feed for feeds in self._feeds.values() for feed in feeds]:
            feed.wake.set()

    async def stream(self, run_id: str, after: int, until: int) -> AsyncIterator[bytes]:
        """Yield a run's events after number `after` as an event stream.

        It ends with the first event, at number `until` or later, after which the run requires action or has ended.
        """
        last = after
        with self._feed(run_id) as feed:
            while last < until and not self._closed:
                logged = feed.behind
                events = await self._log(feed, run_id, last) if logged else feed.take()
                new = [event for event in events if event.number > last]
                # The log of an old run has gaps, because its deltas were deleted.
                if not logged and [event.number for event in new] != list(
                    range(last + 1, last + 1 + len(new))
                ):
                    feed.behind = True
                elif new:
                    new = _up_to_end(new, until)
                    last = new[-1].number
                    yield b"".join(map(frame, new))
                    if last >= until and new[-1].name in store.LAST_EVENTS:
                        break
                    until = max(until, last + 1)
                elif not feed.behind and not await feed.more():
                    yield KEEP_ALIVE
                    if not await self._db.read(store.last_event, run_id):
                        return  # the thread was deleted, and its runs with it
        if not self._closed:
            yield DONE

    async def _log(self, feed: _Subscription, run_id: str, number: int) -> list[Event]:
        feed.behind = False  # reset it before reading, because a write during the read sets it again
        events = await self._db.read(store.events_after, run_id, number, BUFFER)
        feed.behind = feed.behind or bool(events)  # there may be more
        return events

    @contextmanager
    def _feed(self, run_id: str) -> Iterator[_Subscription]:
        feed = _Subscription()
        self._feeds.setdefault(run_id, set()).add(feed)
        try:
            yield feed
        finally:
            self._feeds[run_id].discard(feed)
            if not self._feeds[run_id]:
                del self._feeds[run_id]

    def _publish(self, events: list[Event]) -> None:
        for event in events:
            for feed in self._feeds.get(event.run_id, ()):
                feed.events.append(event)
                feed.wake.set()


class _Subscription:
    """The events for one reader since it last took some."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=BUFFER)
        self.wake = asyncio.Event()
        #: Whether the next events must be read from the log.
        self.behind = True

    def take(self) -> list[Event]:
        events = list(self.events)
        self.events.clear()
        self.wake.clear()
        return events

    async def more(self) -> bool:
        """Wait for events. Return False if there is none for KEEP_ALIVE_SECONDS."""
        # asyncio.timeout would take more time than everything else for an event.
        timer = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self.wake.set)
        await self.wake.wait()
        timer.cancel()
        return timer.when() > asyncio.get_running_loop().time()


def frame(event: Event) -> bytes:
    """Return an event as bytes. The id comes last, because some clients expect the name in the first line."""
    return f"event: {event.name}\ndata: {event.data}\nid: {event.number}\n\n".encode()


def _up_to_end(events: list[Event], until: int) -> list[Event]:
    for index, event in enumerate(events):
        if event.number >= until and event.name in store.LAST_EVENTS:
            return events[: index + 1]
    return events


def _call_soon(
    loop: asyncio.AbstractEventLoop, publish: Callable[[list[Event]], None], events: list[Event]
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(publish, events)
