"""Threads that may send to widgets."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable


def start_thread(name: str, target: Callable[[], object]) -> threading.Thread:
    """Run `target` in a daemon thread, for the cell that is running now.

    ipykernel 7.0 keeps that cell in a context variable, which a thread does not inherit before Python 3.14, and
    refuses widgets' messages without it; 7.1 and later look elsewhere where there is none.
    """
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(target), name=name, daemon=True)
    thread.start()
    return thread
