"""The live transcript: an anywidget that gets blocks, and of changed blocks only the difference."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbruns.widgets.blocks import Block, splice

STATIC = Path(__file__).parent / "static"


class TranscriptView(anywidget.AnyWidget):
    """Shows blocks. `show(blocks)` may be called from any thread, as often as one likes.

    What a page needs to show the whole transcript is in the trait `state`. It is never sent when it changes:
    it is what a page gets that opens late, while open pages get custom messages with the differences.
    """

    _esm = STATIC / "transcript.js"
    _css = STATIC / "transcript.css"

    state = traitlets.Any(None).tag(sync=True, to_json=lambda _value, view: view._whole())
    #: Whether a Cancel button is there, and how many times cancelling has failed.
    cancellable = traitlets.Bool(False).tag(sync=True)
    refusals = traitlets.Int(0).tag(sync=True)
    #: Whether the form is below: when it goes, the page stays with the transcript.
    has_form = traitlets.Bool(False).tag(sync=True)

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._lock = threading.RLock()
        self._blocks: dict[str, Block] = {}
        self._ids: dict[str, int] = {}
        self._sent = 0  # messages
        self._page_listens = False
        self._offered = 0  # how long the state was when it was last sent unasked
        self._on_cancel = on_cancel
        super().__init__()
        self.on_msg(self._receive)

    def show(self, blocks: list[Block]) -> None:
        """Make these blocks what every page shows."""
        with self._lock:
            order = list(self._blocks)
            changes = [self._change(block) for block in blocks if self._blocks.get(block.key) != block]
            self._blocks = {block.key: block for block in blocks}
            if changes or order != list(self._blocks):
                self._send_changes(changes, appended=list(self._blocks)[: len(order)] == order)

    def _change(self, block: Block) -> list[Any]:
        old = self._blocks.get(block.key)
        number = self._ids.setdefault(block.key, len(self._ids))
        if old is None or (old.kind, old.language) != (block.kind, block.language):
            return [number, *block.to_wire()]
        marks = splice(old.marks, block.marks) if block.kind == "code" and old.marks != block.marks else []
        return [number, *splice(old.content, block.content), *marks]

    def _send_changes(self, changes: list[Any], appended: bool) -> None:
        self._sent += 1
        if not self._page_listens:
            return self._offer()
        order = [] if appended else [[self._ids[key] for key in self._blocks]]
        self.send([self._sent, changes, *order])

    def _offer(self) -> None:
        """Until a page has said that it listens (a busy kernel would not hear it), send the whole state, but
        only each time it has doubled: that is at most twice the text in all."""
        size = sum(len(block.content) + len(block.marks) for block in self._blocks.values())
        if size >= 2 * self._offered:
            self._offered = size
            self.send_state("state")

    def _whole(self) -> list[Any]:
        with self._lock:
            blocks = [[self._ids[key], *block.to_wire()] for key, block in self._blocks.items()]
            return [self._sent, blocks]

    def _receive(self, _widget: object, content: Any, _buffers: object) -> None:
        if not isinstance(content, dict):
            return
        if "hello" in content:
            with self._lock:
                self._page_listens = True
                if content["hello"] != self._sent:
                    self.send_state("state")
        if content.get("cancel") and self._on_cancel:
            self._on_cancel()
