"""What widgets would send to a page, and a page that takes it as the JavaScript does."""

from __future__ import annotations

import re
from typing import Any

from ipywidgets import Widget
from jupyter_client.session import json_packer


class Sent(list[dict[str, Any]]):
    """The messages that widgets have sent, each with the id of its widget and its type."""

    def of(self, widget: Widget) -> list[dict[str, Any]]:
        """The messages of one widget."""
        return [message for message in self if message["comm_id"] == widget.comm.comm_id]

    def bytes(self) -> int:
        """How much that is, as the kernel packs it."""
        return sum(len(json_packer(message["data"])) for message in self)


class Page:
    """Keeps a transcript's blocks as transcript.js does."""

    def __init__(self, view: Any, sent: Sent) -> None:
        self.view = view
        self._sent = sent
        self._read = 0
        self.seen = -1
        self.blocks: dict[int, list[Any]] = {}
        self.gaps = 0
        self.grown = 0

    def open(self) -> None:
        """Get the state as a page that opens now, and say that it listens."""
        self._read = len(self._sent)
        self._load(self.view.get_state("state")["state"])
        self.view._handle_custom_msg({"hello": self.seen}, [])

    def take(self) -> dict[int, list[Any]]:
        """Take in all that has been sent since."""
        new, self._read = self._sent[self._read :], len(self._sent)
        for message in new:
            if message["comm_id"] == self.view.comm.comm_id:
                self._receive(message["data"])
        return self.blocks

    def texts(self) -> list[str]:
        """The contents of the blocks in their order."""
        return [block[2] for block in self.take().values()]

    def _receive(self, data: dict[str, Any]) -> None:
        if data["method"] == "update" and "state" in data["state"]:
            self._load(data["state"]["state"])
        if data["method"] == "custom":
            number, changes, *rest = data["content"]
            if number == self.seen + 1:
                self.seen = number
                self._grow(changes, rest) if isinstance(changes, str) else self._change(changes, rest)
            elif number > self.seen:
                self.gaps += 1

    def _load(self, state: list[Any]) -> None:
        self.seen, blocks, self._tip = state
        self.blocks = {block[0]: block for block in blocks}

    def _grow(self, text: str, marks: list[Any]) -> None:
        self.grown += 1
        number, tail = self._tip
        block = list(self.blocks[number])
        block[2] = spliced(block[2], length(block[2]) - tail, 0, text)
        if marks:
            block[3] = spliced(block[3], length(block[3]) - marks[0], *marks)
        self.blocks[number] = block

    def _change(self, changes: list[list[Any]], order: list[list[int]]) -> None:
        for change in changes:
            if isinstance(change[1], str):
                self._tip = [change[0], len(re.search(r"(?:</\w+>)*\Z", change[2])[0])]
                self.blocks[change[0]] = change
                continue
            block = list(self.blocks[change[0]])
            self._tip = [change[0], length(block[2]) - change[1] - change[2]]
            block[2] = spliced(block[2], *change[1:4])
            if len(change) > 4:
                block[3] = spliced(block[3], *change[4:7])
            self.blocks[change[0]] = block
        if order:
            self.blocks = {number: self.blocks[number] for number in order[0]}


def length(text: str) -> int:
    """JavaScript's `text.length`."""
    return len(text.encode("utf-16-le")) // 2


def spliced(old: str, start: int, drop: int, text: str) -> str:
    """What JavaScript's `old.slice(0, start) + text + old.slice(start + drop)` gives."""
    units = old.encode("utf-16-le")
    whole = units[: 2 * start] + text.encode("utf-16-le") + units[2 * (start + drop) :]
    return whole.decode("utf-16-le")
