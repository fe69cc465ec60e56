"""Poll in a background thread with an increasing interval, until nothing is left to poll."""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Poll interval in seconds: initially and after each change, and the maximum while nothing changes.
MIN_INTERVAL, MAX_INTERVAL = 1.0, 15.0
#: Seconds without a change after which polling stops.
IDLE_TIMEOUT = 900.0


class Poller:
    """Polls in a background thread.

    `poll` returns whether anything has changed, or None when nothing is left to poll.
    """

    def __init__(self, poll: Callable[[], bool | None]) -> None:
        self._poll = poll
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._restarted = False

    @property
    def is_polling(self) -> bool:
        """Whether polling is active."""
        return self._thread is not None

    def start(self) -> None:
        """Start polling, unless it is active already."""
        with self._lock:
            self._restarted = True
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="nbruns-table-poll", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """Stop polling."""
        with self._lock:
            self._restarted = False
            self._thread = None
            self._stop.set()

    def _run(self, stop: threading.Event) -> None:
        interval, idle = MIN_INTERVAL, 0.0
        while not stop.wait(interval):
            self._restarted = False
            changed = self._poll()
            if changed:
                interval, idle = MIN_INTERVAL, 0.0
            else:
                interval, idle = min(interval * 1.5, MAX_INTERVAL), idle + interval
            if (changed is None or idle > IDLE_TIMEOUT) and self._finish(stop):
                return

    def _finish(self, stop: threading.Event) -> bool:
        """End the thread, unless start() was called in the meantime; return whether it ends."""
        with self._lock:
            if self._restarted and not stop.is_set():
                return False
            if not stop.is_set():
                self._thread = None
            return True
