"""Streams of a run's events, from any event on, for any number of readers.

Every event is in the log before it is published, so the buffer of a reader can drop events: a reader that detects a
gap in the numbers reads the log instead. A slow reader costs a bounded buffer and delays nobody.
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
# No blank line behind it: SDKs that remember the last id would take one for the end of an empty event.
KEEP_ALIVE = b": keep-alive\n"


class RunStreams:
    """Hands events to the streams that are open at this server."""

    def __init__(self, db: Database, telemetry: Telemetry) -> None:
        self._db, self._telemetry = db, telemetry
        self._feeds: dict[str, set[_Subscription]] = {}
        self._closed = False

    def connect(self) -> None:
        """Begin to hand on what the database commits, to readers in the running loop."""
        loop = asyncio.get_running_loop()

        def publish(events: list[Event]) -> None:
            _call_soon(loop, self._publish, events)
            self._telemetry.events(events)

        self._db.on_events = publish

    @property
    def count(self) -> int:
        """How many streams are open."""
        return sum(map(len, self._feeds.values()))

    def catch_up(self, runs: Collection[str] | None = None) -> None:
        """Have the streams of these runs (None: of all) read the log: another server has written there."""
        for run_id in list(self._feeds) if runs is None else runs:
            for feed in self._feeds.get(run_id, ()):
                feed.behind = True
                feed.wake.set()

    def close(self) -> None:
        """End all streams, so that the server can stop; their readers may rejoin when it is back."""
        self._closed = True
        for feed in [feed for feeds in self._feeds.values() for feed in feeds]:
            feed.wake.set()

    async def stream(self, run_id: str, after: int, until: int) -> AsyncIterator[bytes]:
        """Yield a run's events after number `after` as an event stream.

        It ends with the first event, from number `until` on, after which the run waits or has ended.
        """
        last = after
        with self._feed(run_id) as feed:
            while last < until and not self._closed:
                logged = feed.behind
                events = await self._log(feed, run_id, last) if logged else feed.take()
                new = [event for event in events if event.number > last]
                # The log of an old run has gaps where its deltas were.
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
                        return  # the thread has been deleted, and the run with it
        if not self._closed:
            yield DONE

    async def _log(self, feed: _Subscription, run_id: str, number: int) -> list[Event]:
        feed.behind = False  # before reading: a write during the read sets it again
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
    """What has come for one reader since it last looked."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=BUFFER)
        self.wake = asyncio.Event()
        #: What comes next is in the log, not here.
        self.behind = True

    def take(self) -> list[Event]:
        events = list(self.events)
        self.events.clear()
        self.wake.clear()
        return events

    async def more(self) -> bool:
        """Wait for something to do; return False after a long silence."""
        # asyncio.timeout would cost more than all else that is done for an event.
        timer = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self.wake.set)
        await self.wake.wait()
        timer.cancel()
        return timer.when() > asyncio.get_running_loop().time()


def frame(event: Event) -> bytes:
    """An event as it goes over the wire. The id comes last: some readers look for the name in the first line."""
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
