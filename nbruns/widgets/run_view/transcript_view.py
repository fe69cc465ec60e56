"""The live transcript: an anywidget that receives blocks and sends differences."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbruns.widgets.blocks import Block, splice
from nbruns.widgets.highlight import utf16_length

STATIC = Path(__file__).parent.parent / "static"
#: Closing tags at the end of a new block. Its text grows before them.
_CLOSING_TAGS = re.compile(r"(?:</\w+>)*\Z")


class TranscriptView(anywidget.AnyWidget):
    """Displays blocks. `show(blocks)` can be called from any thread, at any rate.

    The trait `state` contains the whole transcript. It is not sent when it changes: pages that open later receive
    it, while open pages receive custom messages with the differences.
    """

    _esm = STATIC / "transcript.js"
    _css = STATIC / "transcript.css"

    state = traitlets.Any(None).tag(sync=True, to_json=lambda _value, view: view._whole())
    #: Whether a Cancel button is shown, and the number of times that cancelling has failed.
    cancellable = traitlets.Bool(False).tag(sync=True)
    refusals = traitlets.Int(0).tag(sync=True)
    #: Whether the form is shown below. When it is removed, the page keeps the transcript in sight.
    has_form = traitlets.Bool(False).tag(sync=True)
    #: CSS class of the copies that the notebook saves. They are hidden while the live view is shown.
    copies = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        *,
        copies: str = "",
        on_cancel: Callable[[], None] | None = None,
        on_hello: Callable[[], None] | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._blocks: dict[str, Block] = {}
        self._ids: dict[str, int] = {}
        self._sent = 0  # number of messages sent
        self._tip = [
            -1,
            0,
        ]  # the tip, where text was last inserted: number of the block, and of the characters after the text
        self._page_listens = False
        self._offered = 0  # length of the state when it was last sent without a request
        self._on_cancel = on_cancel
        self._on_hello = on_hello
        super().__init__(copies=copies)
        self.on_msg(self._receive)

    @property
    def is_seen(self) -> bool:
        """Whether a page shows the view."""
        return self._page_listens

    def show(self, blocks: list[Block]) -> None:
        """Show these blocks in every page."""
        with self._lock:
            old, self._blocks = self._blocks, {block.key: block for block in blocks}
            for key in self._blocks:
                self._ids.setdefault(key, len(self._ids))
            changed = [block for block in blocks if old.get(block.key) != block]
            order = [] if list(self._blocks)[: len(old)] == list(old) else [self._order()]
            if changed or order:
                self._sent += 1
                self._tell(self._growth(old, changed) or [self._changes(old, changed), *order])

    def _order(self) -> list[int]:
        return [self._ids[key] for key in self._blocks]

    def _tell(self, what: list[Any]) -> None:
        if self._page_listens:
            self.send([self._sent, *what])
        else:
            self._offer()

    def _growth(self, old: dict[str, Block], changed: list[Block]) -> list[Any]:
        """Return the shortest message, which is the usual one: text for the tip and, for code, the end of its marks."""
        if len(changed) != 1 or list(old) != list(self._blocks):
            return []
        before, block = old[changed[0].key], changed[0]
        start, dropped, text = splice(before.content, block.content)
        tail = utf16_length(block.content) - start - utf16_length(text)
        if dropped or [self._ids[block.key], tail] != self._tip or not _alike(before, block):
            return []
        if before.marks == block.marks:
            return [text]
        start, *_ = splice(before.marks, block.marks)
        dropped = len(before.marks) - start
        return [text, dropped, block.marks[start:]]

    def _changes(self, old: dict[str, Block], changed: list[Block]) -> list[Any]:
        return [self._change(old.get(block.key), block) for block in changed]

    def _change(self, old: Block | None, block: Block) -> list[Any]:
        number = self._ids[block.key]
        if old is None or not _alike(old, block):
            self._tip = [number, len(_closing_tags(block.content))]
            return [number, *block.to_wire()]
        start, dropped, text = splice(old.content, block.content)
        self._tip = [number, utf16_length(block.content) - start - utf16_length(text)]
        marks = splice(old.marks, block.marks) if old.marks != block.marks else []
        return [number, start, dropped, text, *marks]

    def _offer(self) -> None:
        """Send the whole state each time its size has doubled, until a page has reported that it is connected.

        A busy kernel handles that report late. In total, this sends at most twice the text.
        """
        size = sum(len(block.content) + len(block.marks) for block in self._blocks.values())
        if size >= 2 * self._offered:
            self._offered = size
            self.send_state("state")

    def _whole(self) -> list[Any]:
        with self._lock:
            blocks = [[self._ids[key], *block.to_wire()] for key, block in self._blocks.items()]
            return [self._sent, blocks, self._tip]

    def _receive(self, _widget: object, content: Any, _buffers: object) -> None:
        if not isinstance(content, dict):
            return
        if "hello" in content:
            with self._lock:
                self._page_listens = True
                if content["hello"] != self._sent:
                    self.send_state("state")
            if self._on_hello:
                self._on_hello()
        if content.get("cancel") and self._on_cancel:
            self._on_cancel()


def _alike(old: Block, new: Block) -> bool:
    """Whether the blocks differ only in their text, so that a splice is sufficient."""
    return (old.kind, old.language) == (new.kind, new.language)


def _closing_tags(html: str) -> str:
    found = _CLOSING_TAGS.search(html)
    return found[0] if found else ""
