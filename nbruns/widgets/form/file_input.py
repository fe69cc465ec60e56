"""A text file's content, chosen in the browser: how big it may be is checked there, what it holds here."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbruns.text import excerpt

STATIC = Path(__file__).parent.parent / "static"

#: Bytes of a file that is taken: the API takes no more than 512 KB for a submission, of all calls together.
MAX_FILE = 400_000
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class FileInput(anywidget.AnyWidget):
    """Takes a text file. `text` is its content, None while there is none; `problem` says why it was refused."""

    _esm = STATIC / "file_input.js"

    label = traitlets.Unicode().tag(sync=True)
    limit = traitlets.Int(MAX_FILE).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)
    #: What is said of the file that was taken, and of one that was not.
    told = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)

    def __init__(self, label: str) -> None:
        self.text: str | None = None
        self._heard: list[Callable[[], object]] = []
        super().__init__(label=label)
        self.on_msg(self._receive)

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever another file has been chosen."""
        self._heard.append(callback)

    def take(self, name: str, content: bytes) -> None:
        """Take a file. One that is refused leaves the file before as it was."""
        try:
            self.text = decoded(name, content)
            self.told, self.problem = f"{excerpt(name, 80)}: {len(content):,} bytes", ""
        except ValueError as error:
            self.problem = str(error)
        for callback in self._heard:
            callback()

    def freeze(self, frozen: bool) -> None:
        """Disable or enable the control."""
        self.disabled = frozen

    def _receive(self, _widget: object, content: Any, buffers: Any) -> None:
        if not self.disabled and isinstance(content, dict) and "name" in content and buffers:
            self.take(str(content["name"]), bytes(buffers[0]))


def decoded(name: str, content: bytes) -> str:
    """The text of a file. Raises ValueError where it is too big, or no text in UTF-8 (or UTF-16 with its mark)."""
    shown = excerpt(name, 80)
    if len(content) > MAX_FILE:
        raise ValueError(f"{shown} is too large: {len(content):,} bytes. The limit is {MAX_FILE:,} bytes.")
    encoding = next((e for mark, e in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{shown} is not UTF-8 text (invalid byte at offset {error.start:,}). "
            "Tool outputs must be text. Save the file as UTF-8, or describe its content in words."
        ) from error
    if "\0" in text:
        raise ValueError(f"{shown} is a binary file: it contains null bytes. Tool outputs must be text.")
    return text
