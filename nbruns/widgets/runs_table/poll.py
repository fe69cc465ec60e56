"""Looking again, and again less often, at what may change: a thread that ends when there is nothing to look at."""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Seconds between two looks: at first and after a change, and at most while nothing changes.
FIRST, MOST = 1.0, 15.0
#: Seconds without any change after which it is left at that.
PATIENCE = 900.0


class Poller:
    """Calls `look` in a thread of its own: it tells whether anything has changed, None when nothing is left."""

    def __init__(self, look: Callable[[], bool | None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked_for = False

    @property
    def is_following(self) -> bool:
        """Whether it goes on."""
        return self._thread is not None

    def start(self) -> None:
        """Look from now on, if that is not so already."""
        with self._lock:
            self._asked_for = True
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._follow, args=(self._stop,), name="nbruns-table-follow", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        with self._lock:
            self._asked_for = False
            self._thread = None
            self._stop.set()

    def _follow(self, stop: threading.Event) -> None:
        pause, quiet = FIRST, 0.0
        while not stop.wait(pause):
            self._asked_for = False
            changed = self._look()
            pause, quiet = (FIRST, 0.0) if changed else (min(pause * 1.5, MOST), quiet + pause)
            if (changed is None or quiet > PATIENCE) and self._ends(stop):
                return

    def _ends(self, stop: threading.Event) -> bool:
        """Whether this is the end: not if somebody has asked for more meanwhile."""
        with self._lock:
            if self._asked_for and not stop.is_set():
                return False
            if not stop.is_set():
                self._thread = None
            return True
