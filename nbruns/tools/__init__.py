"""Function tools from Python functions: derive the schema, validate the arguments, call the function."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints, overload

from nbruns.errors import ToolError
from nbruns.text import excerpt
from nbruns.tools.output_text import MAX_OUTPUT as MAX_OUTPUT
from nbruns.tools.output_text import NoText, as_text

if TYPE_CHECKING:
    from nbruns.text import JSON

F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Tool:
    """A function that assistants can call, created by `tool`. Calling it calls the function.

    Attributes:
        name: Name for the model.
        returns: The return annotation, or None.
        timeout: Seconds after which a call fails, or None for no limit.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        description: str | None = None,
        *,
        timeout: float | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"A tool is made from a function, not from {type(function).__name__}.")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"A tool's timeout is a number of seconds above 0, not {timeout!r}.")
        self.function = function
        self.timeout = timeout
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is not a valid tool name. Use at most 64 letters, digits, _ and -, or pass name=…."
            )
        self._signature = inspect.signature(function)
        self._hints = _hints(function, self.name)
        self.returns = self._hints.pop("return", None)
        self._described = description
        if parameters is not None:
            self.parameters = _own_schema(parameters, self.name)
        self._validates_by_schema = parameters is not None
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name}{self._signature})"

    @functools.cached_property
    def _told(self) -> tuple[str, dict[str, str]]:
        """The descriptions in the docstring: of the function, and of each parameter."""
        from nbruns.tools.docstring import read_docstring

        return read_docstring(self.function.__doc__, self._signature.parameters)

    @property
    def description(self) -> str:
        """Description of the function for the model; those of its parameters are in `parameters`."""
        return inspect.cleandoc(self._described) if self._described is not None else self._told[0]

    @functools.cached_property
    def _arguments(self) -> Any:
        """A pydantic model with one field for each parameter, in order."""
        from pydantic import ConfigDict, create_model
        from pydantic.errors import PydanticUserError

        # pydantic reserves names (json, copy, model_…, _…), so the name of a parameter is the alias of its field.
        fields: JSON = {
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
                f"{self.name}: parameter {parameter} can't be passed by name. Use a plain parameter."
            )
        named = Field(alias=parameter.name)
        required = parameter.default is parameter.empty
        return Annotated[self._hints.get(parameter.name, Any), named], ... if required else parameter.default

    @functools.cached_property
    def parameters(self) -> JSON:
        """JSON Schema of the arguments, for the model."""
        schema: JSON = self._arguments.model_json_schema()
        schema.pop("title", None)
        for name, prop in schema.get("properties", {}).items():
            prop.pop("title", None)
            if name in self._told[1]:
                prop.setdefault("description", self._told[1][name])
        return {"type": "object", "properties": {}} | schema

    @functools.cached_property
    def output_schema(self) -> JSON | None:
        """JSON Schema of the return value; None without an annotation, or if it is not JSON."""
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        if self.returns in (None, type(None), Any):
            return None
        try:
            return TypeAdapter(self.returns).json_schema()
        except PydanticUserError:
            return None

    def to_dict(self) -> JSON:
        """Return the tool as the API's JSON, for the `tools` of an assistant or a run."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def call(self, arguments: str | Mapping[str, Any]) -> str:
        """Validate the arguments, call the function, and return its output as text.

        Args:
            arguments: The arguments, as JSON text or as an object.

        Raises:
            ToolError: The arguments are invalid, the function raised or exceeded its timeout, or its result can't
                be converted to text. The message is for the model and the user.
        """
        from nbruns.tools.calling import call_in_time, raised_words

        values = self._validated(arguments)
        try:
            return call_in_time(lambda: self.function(**values), as_text, self.timeout)
        except KeyboardInterrupt:
            raise
        except (ToolError, NoText) as error:
            raise ToolError(f"{self.name}: {error}") from error
        except (
            BaseException
        ) as error:  # any exception of the function, even SystemExit, becomes the tool output
            raise ToolError(f"{self.name} raised {raised_words(error)}") from error

    def _validated(self, arguments: str | Mapping[str, Any]) -> JSON:
        from pydantic import ValidationError

        try:
            given = (
                json.loads(arguments or "{}", strict=False) if isinstance(arguments, str) else dict(arguments)
            )
        except (ValueError, RecursionError) as error:
            raise ToolError(f"{self.name}: the arguments are not JSON: {excerpt(arguments)}") from error
        if self._validates_by_schema:
            return self._checked(given)
        try:
            model = self._arguments.model_validate(given)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()
            )
            raise ToolError(f"{self.name}: {excerpt(wrong, 500)}") from error
        return {name: getattr(model, f"p{i}") for i, name in enumerate(self._signature.parameters)}

    def _checked(self, given: Any) -> JSON:
        from nbruns.json_schema import problems

        if not isinstance(given, dict):
            raise ToolError(f"{self.name}: the arguments are not an object: {excerpt(given)}")
        wrong = "; ".join(map(str, problems(given, self.parameters)))
        if wrong:
            raise ToolError(f"{self.name}: {excerpt(wrong, 500)}")
        return given


def _hints(function: Callable[..., Any], name: str) -> JSON:
    """Return the type hints of a function, a partial, or the `__call__` of another object."""
    annotated: Any = function.func if isinstance(function, functools.partial) else function
    if not inspect.isroutine(annotated):
        annotated = annotated.__init__ if inspect.isclass(annotated) else type(annotated).__call__
    try:
        return get_type_hints(annotated, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{name}: its type hints name {error.name!r}, which is not there when the program runs."
        ) from error


def _own_schema(parameters: Mapping[str, Any], name: str) -> JSON:
    from nbruns.json_schema import check_schema

    try:
        check_schema(parameters)
    except ValueError as error:
        raise ValueError(f"{name}: parameters: {error}") from error
    return {"type": "object", "properties": {}} | dict(parameters)


@overload
def tool(function: F, /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Callable[[F], Tool]: ...
def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Tool | Callable[[F], Tool]:
    """Create a tool from a function, as `@tool` or `@tool(name=…, timeout=…)`. The function can be async.

        @nbruns.tool(timeout=10)
        def get_weather(city: str) -> str:
            'Current weather in a city.'

    The schema is derived from the signature and type hints, the descriptions from the docstring (Google, NumPy or
    Sphinx style).

    Args:
        function: The function, if the decorator has no arguments.
        name: Name for the model, at most 64 letters, digits, _ and -. Default: the name of the function.
        description: Description for the model. Default: from the docstring.
        timeout: Seconds after which the call is answered with an error. Default: no limit. An async function is
            cancelled. A plain function can't be stopped in Python: it continues in its thread, and its result is
            ignored.
        parameters: JSON Schema for a function that takes `**arguments`, such as one that forwards them to an MCP
            server. Default: from the signature.

    Returns:
        The tool, or with arguments, a decorator that returns it.

    Raises:
        TypeError: `function` is not callable, or its type hints can't be resolved.
        ValueError: The name, the timeout or the JSON Schema is invalid.
    """
    if function is not None:
        return Tool(function, name, description, timeout=timeout, parameters=parameters)
    return lambda function: Tool(function, name, description, timeout=timeout, parameters=parameters)


def as_tool(function: Tool | Callable[..., Any]) -> Tool:
    """Return a function as a Tool. A Tool is returned unchanged."""
    return function if isinstance(function, Tool) else Tool(function)


def tool_json(tool: Tool | Callable[..., Any] | Mapping[str, Any]) -> JSON:
    """Return a function, a Tool or the JSON of a tool as the API's JSON."""
    return dict(tool) if isinstance(tool, Mapping) else as_tool(tool).to_dict()
