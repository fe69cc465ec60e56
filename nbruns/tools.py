"""A Python function as a function tool: its schema, the validation of arguments, the call, the output as text."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints, overload

from nbruns.errors import ToolError, excerpt

if TYPE_CHECKING:
    from nbruns.objects import JSON

F = TypeVar("F", bound=Callable[..., Any])

#: Outputs longer than this many characters are cut, and say so: the API takes no more than 512 KB for a submission.
MAX_OUTPUT = 100_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Tool:
    """A function that assistants can call; made by `tool`. Calling it calls the function.

    `name`, `description` and `parameters` (a JSON Schema) are what the model sees; `returns` is the return
    annotation, None where there is none.
    """

    def __init__(
        self, function: Callable[..., Any], name: str | None = None, description: str | None = None
    ) -> None:
        if not callable(function):
            raise TypeError(f"A tool is made from a function, not from {type(function).__name__}.")
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is no tool's name: letters, digits, _ and -, at most 64. Pass name=…."
            )
        self.description = inspect.cleandoc(description or function.__doc__ or "")
        self._signature = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True) if inspect.isroutine(function) else {}
        self.returns = hints.pop("return", None)
        self._hints = hints
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name}{self._signature})"

    @functools.cached_property
    def _arguments(self) -> Any:
        """A pydantic model with a field per parameter, in their order."""
        from pydantic import ConfigDict, create_model
        from pydantic.errors import PydanticUserError

        # pydantic has names of its own (json, copy, model_…, _…): a parameter's name is its field's alias.
        fields: dict[str, Any] = {
            f"p{i}": self._field(parameter) for i, parameter in enumerate(self._signature.parameters.values())
        }
        try:
            return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)
        except PydanticUserError as error:
            raise TypeError(
                f"{self.name}: its parameters can't be described to a model: {excerpt(error.message)}"
            ) from error

    def _field(self, parameter: inspect.Parameter) -> tuple[Any, Any]:
        from pydantic import Field

        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(
                f"{self.name}: parameter {parameter} can't be named in a call; give it a plain name."
            )
        named = Field(alias=parameter.name)
        required = parameter.default is parameter.empty
        return Annotated[self._hints.get(parameter.name, Any), named], ... if required else parameter.default

    @functools.cached_property
    def parameters(self) -> JSON:
        """The JSON Schema of the arguments."""
        schema: JSON = self._arguments.model_json_schema()
        schema.pop("title", None)
        for prop in schema.get("properties", {}).values():
            prop.pop("title", None)
        return {"type": "object", "properties": {}} | schema

    def to_dict(self) -> JSON:
        """The tool as an assistant's or a run's `tools` has it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def call(self, arguments: str | Mapping[str, Any]) -> str:
        """Validate the arguments (JSON text or an object), call the function, give its output as text.

        Raises ToolError, with a message for the model and the user, where the arguments don't fit or the function
        raises.
        """
        values = self._validated(arguments)
        try:
            return as_text(_awaited(self.function(**values)))
        except Exception as error:  # whatever a user's function raises is an output for the model
            raise ToolError(f"{self.name} raised {type(error).__name__}: {excerpt(error, 500)}") from error

    def _validated(self, arguments: str | Mapping[str, Any]) -> dict[str, Any]:
        from pydantic import ValidationError

        try:
            given = json.loads(arguments or "{}") if isinstance(arguments, str) else dict(arguments)
        except (ValueError, RecursionError) as error:
            raise ToolError(f"{self.name}: the arguments are no JSON: {excerpt(arguments)}") from error
        try:
            model = self._arguments.model_validate(given)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()
            )
            raise ToolError(f"{self.name}: {excerpt(wrong, 500)}") from error
        return {name: getattr(model, f"p{i}") for i, name in enumerate(self._signature.parameters)}


@overload
def tool(function: F, /) -> Tool: ...
@overload
def tool(*, name: str | None = None, description: str | None = None) -> Callable[[F], Tool]: ...
def tool(
    function: F | None = None, /, *, name: str | None = None, description: str | None = None
) -> Tool | Callable[[F], Tool]:
    """Make a function a tool, as `@tool` or `@tool(name=…, description=…)`.

    The schema comes from its signature and type hints, the description from its docstring.
    """
    if function is not None:
        return Tool(function, name, description)
    return lambda function: Tool(function, name, description)


def as_tool(function: Tool | Callable[..., Any]) -> Tool:
    """The function as a Tool; a Tool as it is."""
    return function if isinstance(function, Tool) else Tool(function)


def tool_json(tool: Tool | Callable[..., Any] | Mapping[str, Any]) -> JSON:
    """A tool as the API takes it: from a function, a Tool, or its JSON."""
    return dict(tool) if isinstance(tool, Mapping) else as_tool(tool).to_dict()


def _awaited(result: Any) -> Any:
    """What an async function gives, awaited on a loop of its own: the kernel's is taken by the cell that runs."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    with ThreadPoolExecutor(1) as worker:
        return worker.submit(asyncio.run, wait()).result()


def as_text(value: Any) -> str:
    """A function's result as the text of a tool output: strings as they are, else JSON; cut at MAX_OUTPUT."""
    text = value if isinstance(value, str) else _json(value)
    if len(text) <= MAX_OUTPUT:
        return text
    return f"{text[:MAX_OUTPUT]}\n… cut: {len(text) - MAX_OUTPUT:,} of {len(text):,} characters left out"


def _json(value: Any) -> str:
    if hasattr(value, "to_csv"):  # a DataFrame or Series: a table says more in fewer tokens than JSON
        return str(value.to_csv())
    try:
        from pydantic_core import to_json

        return to_json(value, fallback=_plain, inf_nan_mode="strings").decode()
    except ValueError:  # a cycle, or bytes that are no text
        return repr(value)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)  # tolist: NumPy's arrays and numbers
