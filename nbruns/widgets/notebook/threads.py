"""Threads that can send widget messages."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from nbruns.widgets.notebook.saved import marimo_notebook


def start_thread(name: str, target: Callable[[], object]) -> threading.Thread:
    """Run `target` in a daemon thread, in the context of the current cell.

    ipykernel 7.0 stores the current cell in a context variable and rejects widget messages without it. Threads do
    not inherit context variables before Python 3.14. ipykernel 7.1 and later have a fallback.

    marimo provides its own thread class. Version 0.20 drops messages from other threads, and shows what they print
    below an arbitrary cell.
    """
    context = contextvars.copy_context()
    marimo = marimo_notebook()
    kind: type[threading.Thread] = threading.Thread if marimo is None else marimo.Thread
    thread = kind(target=lambda: context.run(target), name=name, daemon=True)
    thread.start()
    return thread
