"""The protocol of hosted tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


class HostedTool(Protocol):
    """A tool that the server runs."""

    @property
    def schema(self) -> type[ToolSchema]:
        """What an entry of `tools` may be."""

    def complete(self, tool: JSON) -> JSON:
        """Return an entry of `tools` as it is stored and shown, with defaults."""
        ...

    def declare(self, tool: JSON) -> JSON:
        """Return the function that the model sees for an entry of `tools`: name, description, parameters."""
        ...

    def describe(self, arguments: str) -> JSON:
        """Return what the step's entry shows under the tool's type while the model writes the arguments; `arguments`
        is the JSON text as far as it has come."""
        ...

    async def run(self, run: JSON, arguments: str, context: Context) -> Result:
        """Execute a call. What goes wrong within the call is a Result that the model can read, not an exception.

        A call that a kill has cut off is executed again; one whose result was stored is not. Cancelling the coroutine
        stops the call."""
        ...

    def cite(self, text: str, details: Sequence[JSON]) -> list[JSON]:
        """Return the annotations of a message of the run; `details` are those of the tool's results in it."""
        ...

    def without_content(self, details: JSON) -> JSON:
        """Return the details without what is only shown to those who ask for it with `include`."""
        ...


@runtime_checkable
class AskedUpFront(Protocol):
    """What a hosted tool can have besides: it is called before a model that can't call tools is asked."""

    def ask(self, question: str) -> str:
        """Return the arguments of the call; `question` is the user's last message."""
        ...
