"""A turn of a conversation: the user's question, and the run that answers it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from nbruns.errors import NbrunsError
from nbruns.objects import File, Message, Run, items_of
from nbruns.snapshot import RunSnapshot
from nbruns.text import JSON, excerpt
from nbruns.widgets.blocks import Block
from nbruns.widgets.run_view.composer import MAX_DOWNLOAD
from nbruns.widgets.run_view.transcript import UNSTORED, FileShown, Transcript, note_block
from nbruns.widgets.session import RunSession

if TYPE_CHECKING:
    from nbruns.client.files import Files

#: Maximum size in bytes of an image that is shown and saved in the notebook. For larger ones, the name is shown.
MAX_IMAGE_BYTES = 1_000_000
#: First bytes of image formats that browsers can show and that can't contain scripts.
_IMAGES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp"})
#: Files that `file_search` can't read.
_DATA_SUFFIXES = frozenset(
    {".csv", ".tsv", ".xlsx", ".xls", ".parquet", ".zip", ".tar", ".pkl", ".npy", ".db"}
)
_UNSTORED = count(1)


@dataclass
class Turn:
    """The question, and the session that follows the run that answers it."""

    session: RunSession
    question: list[Message] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    #: Note about the origin of the turn if it is a fork; otherwise "".
    origin: str = ""
    transcript: Transcript = field(default_factory=Transcript)

    @property
    def snapshot(self) -> RunSnapshot:
        return self.session.snapshot

    def blocks(
        self, notes: Sequence[tuple[str, str]], assistant: str, files: Mapping[str, FileShown]
    ) -> list[Block]:
        """Return the blocks of the turn, starting with the head, with further notes at the end."""
        with self.snapshot.lock:
            head, *body = self.transcript.blocks(
                self.snapshot, [*self.notes, *notes], assistant, self.question, files
            )
        return [head, *([note_block("origin", "note", self.origin)] if self.origin else []), *body]


def question_of(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """Split the messages before a run into earlier messages and the question, which is the user's last messages."""
    start = len(messages)
    while start > 0 and messages[start - 1].role == "user":
        start -= 1
    return list(messages[:start]), list(messages[start:])


def unanswered_text(run: Run) -> str:
    """Return instructions for answering the tool calls of a run where no form can be shown."""
    value = "True" if run.requires_approval else "…"
    outputs = ", ".join(f'"{excerpt(call.id)}": {value}' for call in run.tool_calls)
    return (
        "This notebook can't show the form for tool outputs. Submit them in another cell, by the name of this view: "
        f"view.submit({{{outputs}}}). With auto=True, the functions in tools=… answer by themselves."
    )


def message_of(content: list[JSON], attachments: list[JSON]) -> Message:
    """Return the message to show while its id is not known yet."""
    parts = [
        {"type": "text", "text": {"value": part["text"], "annotations": []}}
        if part["type"] == "text"
        else part
        for part in content
    ]
    id = f"{UNSTORED}{next(_UNSTORED)}"
    return Message({"id": id, "role": "user", "content": parts, "attachments": attachments})


def content_of(
    files: Files, text: str, given: Iterable[tuple[str, bytes]], tools: Iterable[str]
) -> tuple[list[JSON], list[JSON]]:
    """Upload files, and return the content and attachments of a message. Images become content, other files become
    attachments for the run's tools.

    Raises NbrunsError for files that none of the tools can read.
    """
    content: list[JSON] = [{"type": "text", "text": text}] if text else []
    attachments: list[JSON] = []
    offered = set(tools)
    wanted = [(name, data, _tools_for(name, data, offered)) for name, data in given]
    for name, data, readers in wanted:
        if readers is None:
            file = files.create(data, name=name, purpose="vision", progress=False)
            content.append({"type": "image_file", "image_file": {"file_id": file.id}})
        else:
            file = files.create(data, name=name, progress=False)
            attachments.append({"file_id": file.id, "tools": [{"type": reader} for reader in readers]})
    if not content:
        content = [{"type": "text", "text": f"See {', '.join(name for name, _, _ in wanted)}."}]
    return content, attachments


def _tools_for(name: str, data: bytes, offered: set[str]) -> list[str] | None:
    """Return the tools that can read a file; None for images, which the model reads itself."""
    suffix = PurePath(name).suffix.lower()
    if suffix in _IMAGE_SUFFIXES and "code_interpreter" not in offered and _image_kind(data):
        return None
    readers: list[str] = [
        tool
        for tool in ("code_interpreter", "file_search")
        if tool in offered and (tool != "file_search" or suffix not in _DATA_SUFFIXES | _IMAGE_SUFFIXES)
    ]
    if not readers:
        known = (
            "neither code_interpreter nor file_search"
            if not offered & {"code_interpreter", "file_search"}
            else ("no code_interpreter")
        )
        raise NbrunsError(
            f"{excerpt(name, 80)} can't be attached: the assistant has {known}. Add the tool to the assistant: "
            "client.assistants.update(assistant, tools=[…])."
        )
    return readers


def _image_kind(data: bytes) -> str:
    return next((kind for start, kind in _IMAGES.items() if data.startswith(start)), "")


def ids_of_files(messages: Iterable[Message], snapshot: RunSnapshot | None) -> list[str]:
    """Return the ids of the files in a conversation: attachments, images, citations and outputs."""
    found: dict[str, None] = {}
    payloads: list[Any] = [message.to_dict() for message in messages]
    if snapshot is not None:
        payloads += [each.to_dict() for each in (*snapshot.messages, *snapshot.steps)]
    while payloads:
        value = payloads.pop()
        if isinstance(value, Mapping):
            if isinstance(id := value.get("file_id"), str):
                found[id] = None
            payloads += value.values()
        elif isinstance(value, list):
            payloads += items_of(value)
    return list(found)


def to_download(files: Files, id: str) -> tuple[str, bytes]:
    """Return the name and the bytes of a file to download in the page. Raises NbrunsError if it is too large."""
    file: File = files.retrieve(id)
    name = excerpt(PurePath(str(file.filename or id).replace("\\", "/")).name or "file", 200)
    if isinstance(file.bytes, int) and file.bytes > MAX_DOWNLOAD:
        raise NbrunsError(
            f"{name} is too large to pass through the notebook. "
            f'Save it next to the notebook: client.files.download("{id}", ".").'
        )
    return name, files.content(file)


def file_shown(files: Files, id: str) -> FileShown:
    """Request the name of a file, and its content if it is a small image. Errors of the client propagate."""
    file: File = files.retrieve(id)
    name = excerpt(file.filename or id, 100)
    small = isinstance(file.bytes, int) and file.bytes <= MAX_IMAGE_BYTES
    if not small or PurePath(name).suffix.lower() not in {*_IMAGE_SUFFIXES, ""}:
        return FileShown(name)
    data = files.content(id)
    kind = _image_kind(data)
    if not kind or len(data) > MAX_IMAGE_BYTES:
        return FileShown(name)
    return FileShown(name, f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
