"""A stream's events as a page can take them: read in a thread of their own, handed out by the handful."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from nbruns.text import size_of
from nbruns.widgets.notebook.threads import start_thread

if TYPE_CHECKING:
    from nbruns.client.stream import Event, RunStream


#: Bytes in memory of the events that may wait for the page; the stream is read on when they are taken.
MAX_WAITING = 8 * 1024 * 1024


class StreamReader:
    """Reads a stream in a thread; `take()` gives what has come since. `close()` ends the reading."""

    def __init__(self, stream: RunStream) -> None:
        self._events: deque[Event] = deque()
        self._news = threading.Condition()
        self._urgent = False  # something other than text is waiting
        self._waiting = 0
        self._over = False
        self._closed = False
        self._error: BaseException | None = None
        start_thread("nbruns-reader", lambda: self._read(stream))

    def take(self) -> list[Event]:
        """Wait for an event and give all that are there; nothing when the stream is at its end. Raises what
        broke the stream, once all that came before has been given."""
        with self._news:
            self._news.wait_for(lambda: self._events or self._over)
            events, self._events, self._urgent, self._waiting = list(self._events), deque(), False, 0
            self._news.notify_all()
        if not events and self._error is not None:
            raise self._error
        return events

    def gather(self, enough: int, seconds: float) -> None:
        """Wait until `enough` deltas or something more urgent have come, at most so long."""
        with self._news:
            self._news.wait_for(
                lambda: (
                    self._urgent or self._over or len(self._events) >= enough or self._waiting >= MAX_WAITING
                ),
                seconds,
            )

    def close(self) -> None:
        """Read no more."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _read(self, stream: RunStream) -> None:
        try:
            with stream:
                for event in stream:
                    if not self._add(event):
                        return
        except BaseException as error:
            self._error = error
        with self._news:
            self._over = True
            self._news.notify_all()

    def _add(self, event: Event) -> bool:
        """Wait for room and add the event; whether anybody still wants to have it."""
        size = size_of(event.data._payload)
        with self._news:
            self._news.wait_for(lambda: self._closed or self._waiting < MAX_WAITING)
            self._waiting += size
            self._events.append(event)
            self._urgent = self._urgent or not event.event.endswith(".delta")
            self._news.notify_all()
            return not self._closed
