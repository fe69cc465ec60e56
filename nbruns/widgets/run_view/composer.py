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
#: Bytes of the files of one message that pass through the notebook. Larger files: `client.files.create(path)`.
MAX_BYTES = 64 * 1024**2
#: Bytes of a file that a page saves. Larger ones: `client.files.download(file, path)`.
MAX_DOWNLOAD = 16 * 1024**2
#: Bytes that are sent at once, and seconds between: Jupyter's server drops what is over 1 MB a second.
_SLICE, _BETWEEN = 256 * 1024, 0.3
#: Files of one message.
MAX_FILES = 10


@dataclass(frozen=True)
class Draft:
    """What a page sends: a message, what is to be done with it, and the model to ask, if another one is chosen."""

    text: str
    files: list[tuple[str, bytes]] = field(default_factory=list)
    #: The id of what this text replaces in a fork: a question, or the output of a call.
    edits: str | None = None
    model: str | None = None


class Composer(anywidget.AnyWidget):
    """Takes a message from the page. What is refused stays in the page, with the reason."""

    _esm = STATIC / "composer.js"
    _css = STATIC / "composer.css"

    #: Whether a run is active, so that nothing can be sent but Stop.
    busy = traitlets.Bool(False).tag(sync=True)
    #: Whether the view's form takes the place of the composer.
    hidden = traitlets.Bool(False).tag(sync=True)
    #: Why the last message was not sent.
    problem = traitlets.Unicode().tag(sync=True)
    #: How many messages have been sent: the page empties its field.
    sent = traitlets.Int(0).tag(sync=True)
    #: Models to choose from, filled when the page asks, and the one that answers unless another is chosen.
    models = traitlets.List(traitlets.Unicode()).tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    #: What the transcript of the same view has as `copies`: some hosts render the two apart.
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
        """Append a piece of a file: the page sends large ones in several messages."""
        with self._lock:
            if sum(map(len, self._files.values())) + len(piece) <= MAX_BYTES:
                self._files.setdefault(key, bytearray()).extend(piece)
            else:  # the page knows the limit, so this is not one of ours
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
        """The message has been sent: the page empties its field."""
        with self._lock:
            self._files.clear()
        self.problem = ""
        self.sent += 1

    def edit(self, id: str, text: str, name: str) -> None:
        """Let the page edit the output of a call."""
        self.send({"edit": id, "text": text, "name": name})

    def save(self, id: str, name: str, data: bytes) -> None:
        """Send a file to the page that has asked for it, which saves it under this name."""
        for at in range(0, max(len(data), 1), _SLICE):
            ended = at + _SLICE >= len(data)
            self.send({"slice": id, "ended": ended, "name": name}, [data[at : at + _SLICE]])
            if not ended:
                time.sleep(_BETWEEN)

    def refuse_download(self, id: str, problem: str) -> None:
        """Show why a file is not saved."""
        self.send({"slice": id, "ended": True})
        self.refuse(problem)

    def refuse(self, problem: str) -> None:
        """Show why a message was not sent. The page keeps it."""
        self.problem = ""  # said again if it is the same
        self.problem = excerpt(problem, 1000)
