"""Text file input. The browser checks the size; the kernel checks the content."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbruns.text import excerpt

STATIC = Path(__file__).parent.parent / "static"

#: Maximum file size in bytes. The API accepts at most 512 KB per submission, for all calls together.
MAX_FILE = 400_000
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class FileInput(anywidget.AnyWidget):
    """A file input. `text` is the content of the file, or None; `problem` says why a file was rejected."""

    _esm = STATIC / "file_input.js"

    label = traitlets.Unicode().tag(sync=True)
    limit = traitlets.Int(MAX_FILE).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)
    #: Messages about an accepted file and about a rejected one.
    told = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)

    def __init__(self, label: str) -> None:
        self.text: str | None = None
        self._callbacks: list[Callable[[], object]] = []
        super().__init__(label=label)
        self.on_msg(self._receive)

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever a file is chosen."""
        self._callbacks.append(callback)

    def take(self, name: str, content: bytes) -> None:
        """Accept a file. A rejected file leaves the previous one in place."""
        try:
            self.text = decoded(name, content)
            self.told, self.problem = f"{excerpt(name, 80)}: {len(content):,} bytes", ""
        except ValueError as error:
            self.problem = str(error)
        for callback in self._callbacks:
            callback()

    def freeze(self, frozen: bool) -> None:
        """Disable or enable the control."""
        self.disabled = frozen

    def _receive(self, _widget: object, content: Any, buffers: Any) -> None:
        if not self.disabled and isinstance(content, dict) and "name" in content and buffers:
            self.take(str(content["name"]), bytes(buffers[0]))


def decoded(name: str, content: bytes) -> str:
    """Decode a text file.

    Raises:
        ValueError: The file is too large, or is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    shown = excerpt(name, 80)
    if len(content) > MAX_FILE:
        raise ValueError(f"{shown} is too large: {len(content):,} bytes. The limit is {MAX_FILE:,} bytes.")
    encoding = next((e for mark, e in _BOMS.items() if content.startswith(mark)), "utf-8")
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
