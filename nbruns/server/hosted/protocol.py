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
    """An entry of `tools`, or a part of one. Unknown fields are refused, and types are not converted."""

    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)


def refused(message: str, code: str | None, within: str = "") -> PydanticCustomError:
    """Return a validation error with this message, to raise in a validator. `{name}` is replaced by the name of the
    parameter, followed by `within`."""
    return PydanticCustomError("refused", "", {"message": message, "code": code, "within": within})


@dataclass(frozen=True)
class Function:
    """A function that represents a hosted tool for the model."""

    #: Its name, description and parameters.
    definition: JSON
    #: Initial details of a call in the run step.
    details: JSON = field(default_factory=dict)


@dataclass(frozen=True)
class Functions:
    """The functions of one entry of `tools`."""

    functions: Sequence[Function]
    #: Note for the model if some functions are missing.
    note: str = ""


@dataclass(frozen=True)
class Result:
    """Result of a call of a hosted tool. `output` is the text for the model. `details` is the part of the call in
    the run step that is named after the tool's type.
    """

    output: str
    details: JSON
    #: Files that the call created, as the API's JSON, and the tool's names for them, by id. They are stored together
    #: with the result, so that a call that is executed again doesn't leave duplicates.
    files: Sequence[JSON] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Executed:
    """The outputs of Python code: texts and ids of images, in order."""

    outputs: Sequence[JSON]
    #: Further notes for the model: limits, written files, restarted sessions.
    notes: Sequence[str]
    files: Sequence[JSON] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


class Found(Protocol):
    """A passage that a search found."""

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
    """The part of the server that calls of hosted tools can use."""

    @property
    def number(self) -> int:
        """Number of earlier calls of the tool in this run."""

    @property
    def details(self) -> JSON:
        """The details of the call in the run step."""

    async def search(self, queries: Sequence[str], limit: int, ranking: JSON) -> Sequence[Found]:
        """Search the vector stores of the run. Raises ValueError with a message for the model."""

    async def execute(self, code: str) -> Executed:
        """Execute Python in the session of the run's thread and assistant.

        Errors of the code are in the outputs and notes. Raises ValueError with a message for the model if the code
        could not be executed.
        """

    def warm(self) -> None:
        """Prepare a session for code that will be executed soon."""


class HostedTool(Protocol):
    """A tool that the server runs. Subclasses inherit the methods with a body as defaults."""

    #: Whether a call in a step has its details under the tool's type, or next to `id` and `type`, as some of
    #: Azure's do.
    nested: bool = True

    @property
    def schema(self) -> type[ToolSchema]:
        """The schema of an entry of `tools`."""

    def complete(self, tool: JSON) -> JSON:
        """Return an entry of `tools` with defaults, as it is stored and returned. Raises the errors of `refused`."""
        return tool

    def declare(self, tool: JSON, files: Sequence[str]) -> JSON:
        """Return the function for an entry of `tools`: name, description and parameters. `files` contains the names of
        the tool's files in the `tool_resources`."""
        return {}

    async def functions(self, tool: JSON, run: JSON, files: Sequence[str]) -> Functions:
        """Return the functions for an entry of `tools`. Override it for tools that don't have exactly one."""
        return Functions([Function(self.declare(tool, files))])

    def prepare(self, context: Context) -> None:
        """Prepare for calls. Called when a model that can call the tool is asked."""
        return

    def describe(self, arguments: str) -> JSON:
        """Return the details of a call while the model writes its arguments. `arguments` is JSON text that may be
        incomplete."""
        ...

    def needs_approval(self, run: JSON, details: JSON) -> bool:
        """Whether the user has to approve a call with these details before it is executed."""
        return False

    def deny(self, details: JSON) -> Result:
        """Return the result of a call that the user denied."""
        return Result(DENIED, details)

    async def run(self, run: JSON, arguments: str, context: Context) -> Result:
        """Execute a call. Errors of the call are returned as a Result for the model, not raised.

        If the server is killed during a call, the call is executed again, unless its result was stored. Cancelling the
        coroutine stops the call."""
        ...

    def cite(self, text: str, details: Sequence[JSON], paths: Mapping[str, str]) -> list[JSON]:
        """Return the annotations of a message of the run. `details` contains the tool's results in the run, and `paths`
        the ids of files that it created in the thread, by the tool's names for them."""
        return []

    def images(self, details: JSON) -> list[str]:
        """Return the ids of the images of a result, which the next message shows."""
        return []

    def without_content(self, details: JSON) -> JSON:
        """Return the details without the content that is only sent if `include` asks for it."""
        return details

    def instructions(self) -> str | None:
        """Return instructions by which a model that can't call tools uses this one in its text; None if it can't."""
        return None

    def from_text(self, text: str) -> str | None:
        """Return the arguments of the call in a text; None if it contains no call."""
        return None

    def ask(self, question: str) -> str | None:
        """Return the arguments of a call to execute before a model that can't call tools is asked; None if only a model
        can write them. `question` is the user's last message.
        """
        return None

    def stored(self, resources: Any) -> Any:
        """Return the tool's part of `tool_resources` without secrets, as it is stored and returned."""
        return resources

    def keep_secrets(self, run: JSON, resources: Any) -> None:
        """Keep the secrets in the `tool_resources` of a run, in memory only. Called in any thread."""
        return None

    def keep_headers(self, run: JSON, details: JSON, headers: JSON) -> None:
        """Keep the headers in the approval of a call, in memory only. Called in any thread."""
        return None

    def forget(self, run_id: str) -> None:
        """Delete the secrets of a run that has ended. Called in any thread."""
        return None

    async def leave(self, run_id: str) -> None:
        """Close the resources that are open for a run, because it has ended or requires action."""
        return None

    async def close(self) -> None:
        """Close the resources of all runs, because the server stops."""
        return None
