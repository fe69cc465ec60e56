"""The protocol of hosted tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from nbruns.text import JSON

#: What the model reads instead of an output if the user has not approved its call.
DENIED = "Error: the user did not approve this call. Do not repeat it; answer without it."


class ToolSchema(BaseModel):
    """An entry of `tools`, or a part of one. Unknown fields are refused, no type is converted into another."""

    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)


def refused(message: str, code: str | None, within: str = "") -> PydanticCustomError:
    """An error in our own words. Raise it in a validator; `{name}` in it becomes the name of the parameter, to which
    `within` is added."""
    return PydanticCustomError("refused", "", {"message": message, "code": code, "within": within})


@dataclass(frozen=True)
class Function:
    """A function that a model sees for a hosted tool."""

    #: Its name, description and parameters.
    definition: JSON
    #: What the step's entry of a call shows from the start.
    details: JSON = field(default_factory=dict)


@dataclass(frozen=True)
class Functions:
    """The functions of one entry of `tools`."""

    functions: Sequence[Function]
    #: What the model is told if there are not as many as there should be.
    note: str = ""


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

    @property
    def details(self) -> JSON:
        """What the step's entry of the call shows."""

    async def search(self, queries: Sequence[str], limit: int, ranking: JSON) -> Sequence[Found]:
        """Search the vector stores of the run. Raises ValueError with words for the model."""

    async def execute(self, code: str) -> Executed:
        """Execute Python in the session of the run's thread and assistant. Raises ValueError with words for the model.

        What goes wrong in the code is in the outputs and notes."""

    def warm(self) -> None:
        """Prepare for code to be executed soon."""


class HostedTool(Protocol):
    """A tool that the server runs. Inherit from it: what has a body here is the default."""

    #: Whether the step's entry has the details under the tool's type, or beside `id` and `type`, as some of Azure's.
    nested: bool = True

    @property
    def schema(self) -> type[ToolSchema]:
        """What an entry of `tools` may be."""

    def complete(self, tool: JSON) -> JSON:
        """Return an entry of `tools` as it is stored and shown, with defaults. Raises what `refused` makes."""
        return tool

    def declare(self, tool: JSON, files: Sequence[str]) -> JSON:
        """Return the function that the model sees for an entry of `tools`: name, description, parameters. `files` are
        the names of those in the `tool_resources` for the tool."""
        return {}

    async def functions(self, tool: JSON, run: JSON, files: Sequence[str]) -> Functions:
        """Return the functions of an entry of `tools`, for tools that have other than one."""
        return Functions([Function(self.declare(tool, files))])

    def prepare(self, context: Context) -> None:
        """Get ready for calls: a model is being asked that may call the tool."""
        return

    def describe(self, arguments: str) -> JSON:
        """Return what the step's entry shows under the tool's type while the model writes the arguments; `arguments`
        is the JSON text as far as it has come."""
        ...

    def needs_approval(self, run: JSON, details: JSON) -> bool:
        """Whether a user has to approve a call before it is executed; `details` is what its entry shows."""
        return False

    def deny(self, details: JSON) -> Result:
        """Return the result of a call that the user has not approved."""
        return Result(DENIED, details)

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

    def ask(self, question: str) -> str | None:
        """Return the arguments of a call that comes before a model is asked that can't call tools; None if only a model
        can write them. `question` is the user's last message.
        """
        return None

    def stored(self, resources: Any) -> Any:
        """Return the tool's part of `tool_resources` as it is stored and shown: without its secrets."""
        return resources

    def keep_secrets(self, run: JSON, resources: Any) -> None:
        """Remember the secrets that a run was given in `tool_resources`, in memory alone. Called in any thread."""
        return None

    def keep_headers(self, run: JSON, details: JSON, headers: JSON) -> None:
        """Remember the headers that came with the approval of a call, in memory alone. Called in any thread."""
        return None

    def forget(self, run_id: str) -> None:
        """Forget the secrets of a run, which has ended. Called in any thread."""
        return None

    async def leave(self, run_id: str) -> None:
        """End what is open for a run: it has ended, or waits."""
        return None

    async def close(self) -> None:
        """End what is open for any run: the server stops."""
        return None
