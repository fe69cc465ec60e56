"""The protocol of hosted tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from nbruns.text import JSON


class ToolSchema(BaseModel):
    """An entry of `tools`, or a part of one. Unknown fields are refused, no type is converted into another."""

    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)


@dataclass(frozen=True)
class Result:
    """Result of a call of a hosted tool: `output` is the text for the model, `details` is shown in the run
    step's entry of the call, under the tool's type.
    """

    output: str
    details: JSON
    #: Files that the call has made, as the API shows them, and what the tool calls them, by id. They are stored with
    #: the result, so that a call that is executed again leaves no second one.
    files: Sequence[JSON] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Executed:
    """What Python code gave: its texts, and the ids of its images, in their order."""

    outputs: Sequence[JSON]
    #: What the model is to know besides: limits, files that were written, sessions that began anew.
    notes: Sequence[str]
    files: Sequence[JSON] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


class Found(Protocol):
    """A passage that a search has found."""

    @property
    def file_id(self) -> str: ...
    @property
    def filename(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def attributes(self) -> JSON: ...
    @property
    def text(self) -> str: ...


class Context(Protocol):
    """What a call of a hosted tool may use of the server."""

    @property
    def number(self) -> int:
        """How many calls of the tool have been answered in this run before."""

    async def search(self, queries: Sequence[str], limit: int, ranking: JSON) -> Sequence[Found]:
        """Search the vector stores of the run. Raises ValueError with words for the model."""

    async def execute(self, code: str) -> Executed:
        """Execute Python in the session of the run's thread and assistant. Raises ValueError with words for the model.

        What goes wrong in the code is in the outputs and notes."""

    def warm(self) -> None:
        """Prepare for code to be executed soon."""


class HostedTool(Protocol):
    """A tool that the server runs. Tools inherit from it what they don't need."""

    @property
    def schema(self) -> type[ToolSchema]:
        """What an entry of `tools` may be."""

    def complete(self, tool: JSON) -> JSON:
        """Return an entry of `tools` as it is stored and shown, with defaults."""
        return tool

    def declare(self, tool: JSON, files: Sequence[str]) -> JSON:
        """Return the function that the model sees for an entry of `tools`: name, description, parameters. `files` are
        the names of those in the `tool_resources` for the tool."""
        ...

    def prepare(self, context: Context) -> None:
        """Get ready for calls: a model is being asked that may call the tool."""
        return

    def describe(self, arguments: str) -> JSON:
        """Return what the step's entry shows under the tool's type while the model writes the arguments; `arguments`
        is the JSON text as far as it has come."""
        ...

    async def run(self, run: JSON, arguments: str, context: Context) -> Result:
        """Execute a call. What goes wrong within the call is a Result that the model can read, not an exception.

        A call that a kill has cut off is executed again; one whose result was stored is not. Cancelling the coroutine
        stops the call."""
        ...

    def cite(self, text: str, details: Sequence[JSON], paths: Mapping[str, str]) -> list[JSON]:
        """Return the annotations of a message of the run; `details` are those of the tool's results in it, `paths` what
        the tool calls the files that it has made in the thread so far, with their ids."""
        return []

    def images(self, details: JSON) -> list[str]:
        """Return the ids of the images of a result, which the next message shows."""
        return []

    def without_content(self, details: JSON) -> JSON:
        """Return the details without what is only shown to those who ask for it with `include`."""
        return details

    def instructions(self) -> str | None:
        """Return how a model that can't call tools uses this one in its text; None if it can't."""
        return None

    def from_text(self, text: str) -> str | None:
        """Return the arguments of the call that is in a text, if there is one."""
        return None


@runtime_checkable
class AskedUpFront(Protocol):
    """What a hosted tool can have besides: it is called before a model that can't call tools is asked."""

    def ask(self, question: str) -> str:
        """Return the arguments of the call; `question` is the user's last message."""
        ...
