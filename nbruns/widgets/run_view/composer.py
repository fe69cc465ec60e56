"""The composer below a finished run: text and files that continue the conversation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbruns.text import JSON, excerpt

STATIC = Path(__file__).parent.parent / "static"
#: Maximum size in bytes of all files of a message. Upload larger files with `client.files.create(path)`.
MAX_BYTES = 64 * 1024**2
#: Maximum size in bytes of a file to download in the page. For larger ones, use `client.files.download(file, path)`.
MAX_DOWNLOAD = 16 * 1024**2
#: Bytes of a message to the page, and seconds between two: Jupyter's server drops messages above 1 MB per second.
_SLICE, _BETWEEN = 256 * 1024, 0.3
#: Maximum number of files of a message.
MAX_FILES = 10


@dataclass(frozen=True)
class Draft:
    """A message from the page, with its files, the object that it edits, and the model if the user chose one."""

    text: str
    files: list[tuple[str, bytes]] = field(default_factory=list)
    #: Id of the question or the call whose text or output this text replaces in a fork.
    edits: str | None = None
    model: str | None = None


class Composer(anywidget.AnyWidget):
    """The input for messages. A message that is refused stays in the page, with the reason."""

    _esm = STATIC / "composer.js"
    _css = STATIC / "composer.css"

    #: Whether a run is active. Then only Stop is available.
    busy = traitlets.Bool(False).tag(sync=True)
    #: Whether the composer is hidden, because the view shows a form.
    hidden = traitlets.Bool(False).tag(sync=True)
    #: Why the last message was not sent.
    problem = traitlets.Unicode().tag(sync=True)
    #: Number of messages sent. When it changes, the page clears its input.
    sent = traitlets.Int(0).tag(sync=True)
    #: The models to choose from, loaded when the page requests them, and the default model.
    models = traitlets.List(traitlets.Unicode()).tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    #: The value of `copies` of the same view's transcript, by which the page matches the two if the host renders them
    #: separately.
    view = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        on_send: Callable[[Draft], object],
        on_stop: Callable[[], object],
        on_models: Callable[[], object],
        on_download: Callable[[str], object],
        on_output: Callable[[str], object],
        **traits: Any,
    ) -> None:
        self._on_send, self._on_stop, self._on_models = on_send, on_stop, on_models
        self._on_download, self._on_output = on_download, on_output
        self._files: dict[str, bytearray] = {}
        self._lock = threading.Lock()
        super().__init__(**traits)
        self.on_msg(self._receive)

    def _receive(self, _widget: object, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict):
            return
        if isinstance(piece := content.get("file"), str) and buffers:
            self._take(piece, bytes(buffers[0]))
        elif isinstance(key := content.get("remove"), str):
            self._files.pop(key, None)
        elif isinstance(sent := content.get("send"), dict):
            self._on_send(self._draft(sent))
        elif content.get("stop"):
            self._on_stop()
        elif content.get("models"):
            self._on_models()
        elif isinstance(id := content.get("download"), str):
            self._on_download(id)
        elif isinstance(id := content.get("output"), str):
            self._on_output(id)

    def _take(self, key: str, piece: bytes) -> None:
        """Append a piece of a file. The page sends large files in several messages."""
        with self._lock:
            if sum(map(len, self._files.values())) + len(piece) <= MAX_BYTES:
                self._files.setdefault(key, bytearray()).extend(piece)
            else:  # our page checks the limit itself, so ignore this message
                self._files.pop(key, None)

    def _draft(self, sent: JSON) -> Draft:
        listed = [each for each in sent.get("files") or [] if isinstance(each, dict)][:MAX_FILES]
        with self._lock:
            files = [
                (str(each.get("name") or "file"), bytes(self._files[each["key"]]))
                for each in listed
                if each.get("key") in self._files
            ]
        edits, model = sent.get("edits"), sent.get("model")
        return Draft(
            str(sent.get("text") or ""), files, str(edits) if edits else None, str(model) if model else None
        )

    def accept(self) -> None:
        """Report that the message was sent. The page clears its input."""
        with self._lock:
            self._files.clear()
        self.problem = ""
        self.sent += 1

    def edit(self, id: str, text: str, name: str) -> None:
        """Let the page edit the output of a call."""
        self.send({"edit": id, "text": text, "name": name})

    def save(self, id: str, name: str, data: bytes) -> None:
        """Send a file to the page that requested it, which saves it under this name."""
        for at in range(0, max(len(data), 1), _SLICE):
            ended = at + _SLICE >= len(data)
            self.send({"slice": id, "ended": ended, "name": name}, [data[at : at + _SLICE]])
            if not ended:
                time.sleep(_BETWEEN)

    def refuse_download(self, id: str, problem: str) -> None:
        """Show why a file can't be downloaded."""
        self.refuse(problem)
        self.send({"slice": id, "ended": True})

    def refuse(self, problem: str) -> None:
        """Show why a message was not sent. The page keeps it."""
        self.problem = ""  # so that the same text is a change again
        self.problem = excerpt(problem, 1000)
