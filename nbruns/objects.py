"""Read-only, typed views of the API's JSON: assistants, threads, messages, runs, steps, tool calls, usage.

An object keeps every field that its server sent, known or not: attributes read the payload, `to_dict()` returns it. A
declared field that was not sent is None. Source of names and types: the OpenAPI description of the Assistants API.
"""

from __future__ import annotations

import copy
import html
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from nbruns.text import JSON, excerpt

RunStatus = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]
#: Statuses of runs that have ended.
TERMINAL_STATUSES = frozenset({"cancelled", "failed", "completed", "incomplete", "expired"})
#: Fields with the end of a run or step. The first that is set is used.
ENDS = ("completed_at", "failed_at", "cancelled_at", "expired_at")

#: Timestamps of at least this value are milliseconds, which Alibaba sends. As seconds, they would be in the year 5138.
MILLISECONDS_FROM = 100_000_000_000


def utc(timestamp: float | str | None) -> datetime | None:
    """Return a time as a datetime in UTC; None if it is not a time.

    Accepts Unix timestamps in seconds or milliseconds, as numbers or text, and ISO 8601, in UTC unless it has an
    offset.
    """
    try:
        if isinstance(timestamp, str) and "-" in timestamp[1:]:
            moment = datetime.fromisoformat(timestamp.strip())
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = float(timestamp)  # type: ignore[arg-type]  # other types raise TypeError
        return datetime.fromtimestamp(seconds / 1000 if seconds >= MILLISECONDS_FROM else seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


class APIObject:
    """A read-only view of one JSON object. `payload` is not copied and never modified."""

    __slots__ = ("_payload",)
    _payload: JSON
    _fields: ClassVar[frozenset[str]] = frozenset({"id", "object"})
    #: Fields that the repr shows, in this order.
    _shown: ClassVar[tuple[str, ...]] = ("id",)
    id: str

    def __init_subclass__(cls) -> None:
        own = {name for name, kind in cls.__annotations__.items() if not str(kind).startswith("ClassVar")}
        cls._fields = cls._fields | own

    def __init__(self, payload: Mapping[str, Any]) -> None:
        if not isinstance(payload, dict):
            if not isinstance(payload, Mapping):
                given = type(payload).__name__
                raise TypeError(f"{type(self).__name__} is made from a JSON object, not from {given}.")
            payload = dict(payload)
        object.__setattr__(self, "_payload", payload)

    if not TYPE_CHECKING:  # hidden from type checkers, so that they report misspelt attributes

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # copy and pickle look up attributes before _payload is set
                raise AttributeError(name)
            if name in self._payload:
                return self._payload[name]
            if name.endswith("_at_utc") and name.removesuffix("_utc") in self._fields | self._payload.keys():
                return utc(self._payload.get(name.removesuffix("_utc")))
            if name in self._fields:
                return None
            known = excerpt(", ".join(sorted(self._fields | self._payload.keys())), 1000)
            raise AttributeError(f"{type(self).__name__} has no field {name!r}. Its fields: {known}.")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{type(self).__name__} is read-only. Change it on the server with client.….update()."
        )

    def __dir__(self) -> list[str]:
        fields = self._fields | self._payload.keys()
        return sorted(
            {*super().__dir__(), *fields, *(f"{name}_utc" for name in fields if name.endswith("_at"))}
        )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._payload == self._payload

    def __hash__(self) -> int:
        return hash((type(self), self._payload.get("id")))

    def __reduce__(self) -> tuple[type[Self], tuple[JSON]]:
        return type(self), (self._payload,)

    def to_dict(self) -> JSON:
        """Return the JSON as the server sent it, as a copy that you can change."""
        return copy.deepcopy(self._payload)

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self._shown)
        return (
            f"{type(self).__name__}({', '.join(f'{k}={excerpt(v, 80)}' for k, v in shown if v is not None)})"
        )

    def _repr_html_(self) -> str:
        body = html.escape(excerpt_json(self._payload))
        title = html.escape(repr(self))
        return f"<details><summary><code>{title}</code></summary><pre>{body}</pre></details>"


def text_or_json(value: object) -> str:
    """Return a text unchanged and other values as JSON: some servers send arguments as objects."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def count_of(value: object) -> int | None:
    """Return a number of tokens, given as a number or text; None if it is not a number."""
    try:
        number = None if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number is not None and number.is_integer() and number >= 0 else None


def items_of(value: object) -> list[Any]:
    """Return the items of a list. A single text or object, as Alibaba sends it, counts as a list of one; any other
    value counts as an empty list.
    """
    if isinstance(value, (str, Mapping)):
        return [value]
    return value if isinstance(value, list) else []


def excerpt_json(payload: object, limit: int = 10_000) -> str:
    """Return indented JSON of at most `limit` characters, with a note if it is truncated."""
    text = json.dumps(payload, indent=2, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "backslashreplace").decode()  # lone surrogates can't be encoded
    return (
        text
        if len(text) <= limit
        else f"{text[:limit]}\n… {len(text) - limit:,} more characters: see to_dict()"
    )


class Usage(APIObject):
    """Number of tokens that a run or step used."""

    __slots__ = ()
    _shown = ("prompt_tokens", "completion_tokens", "total_tokens")
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def _usage(payload: Mapping[str, Any]) -> Usage | None:
    usage = payload.get("usage")
    return Usage(usage) if isinstance(usage, Mapping) else None


class ToolCall(APIObject):
    """One call of a tool, in a step or a required action."""

    __slots__ = ()
    _shown = ("id", "type", "name", "arguments")
    type: str

    @property
    def id(self) -> str:  # type: ignore[override]  # a property, because some servers send a number
        """Id of the call, which its output refers to; empty if the server sends none."""
        return text_or_json(self._payload.get("id"))

    @property
    def _detail(self) -> Mapping[str, Any]:
        detail = self._payload.get(str(self._payload.get("type")))
        return (
            detail if isinstance(detail, Mapping) else self._payload
        )  # Azure's MCP calls have no nested object

    @property
    def name(self) -> str:
        """Name of the function; for other tools, their type."""
        return text_or_json(self._detail.get("name") or self._payload.get("type"))

    @property
    def arguments(self) -> str:
        """Arguments as the model wrote them: usually, but not always, valid JSON.

        For file_search, the queries as JSON, if the server sends them (nbruns' own does). For code_interpreter,
        the code.
        """
        detail = self._detail
        queries = {"queries": detail["queries"]} if detail.get("queries") else None
        return text_or_json(detail.get("arguments") or detail.get("input") or queries)

    @property
    def output(self) -> str | None:
        """Output that was submitted for this call, or text that the code of code_interpreter printed; None before
        that."""
        output = self._detail.get("output")
        if output is None and self._payload.get("type") == "code_interpreter":
            logs = [text_or_json(each.get("logs")) for each in self._outputs if each.get("type") == "logs"]
            return "".join(logs) if self._outputs else None
        return None if output is None else text_or_json(output)

    @property
    def _outputs(self) -> list[JSON]:
        return [each for each in items_of(self._detail.get("outputs")) if isinstance(each, dict)]

    @property
    def images(self) -> list[str]:
        """Ids of the images that the code of code_interpreter created."""
        drawn = [each.get("image") for each in self._outputs if each.get("type") == "image"]
        return [str(image.get("file_id")) for image in drawn if isinstance(image, Mapping)]

    @property
    def results(self) -> list[JSON] | None:
        """Results of file_search: `file_name`, `file_id`, `score`, and `content` if it was included. None for other
        tools."""
        if self._payload.get("type") != "file_search":
            return None
        return [result for result in items_of(self._detail.get("results")) if isinstance(result, dict)]


def _tool_calls(container: object) -> list[ToolCall]:
    calls = container.get("tool_calls") if isinstance(container, Mapping) else None
    return [ToolCall(call) for call in items_of(calls) if isinstance(call, Mapping)]


class Assistant(APIObject):
    """A model with instructions and tools."""

    __slots__ = ()
    _shown = ("id", "name", "model")
    created_at: int | None
    name: str | None
    description: str | None
    model: str
    instructions: str | None
    tools: list[JSON]
    tool_resources: JSON | None
    metadata: dict[str, str]
    temperature: float | None
    top_p: float | None
    response_format: str | JSON | None
    reasoning_effort: str | None

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None


class Thread(APIObject):
    """A conversation."""

    __slots__ = ()
    created_at: int | None
    tool_resources: JSON | None
    metadata: dict[str, str]

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None


class Message(APIObject):
    """A message of a user or an assistant in a thread."""

    __slots__ = ()
    _shown = ("id", "role", "text")
    thread_id: str
    role: str
    status: str | None
    created_at: int | None
    completed_at: int | None
    incomplete_at: int | None
    incomplete_details: JSON | None
    assistant_id: str | None
    run_id: str | None
    content: list[JSON]
    attachments: list[JSON] | None
    metadata: dict[str, str]

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None
        completed_at_utc: datetime | None
        incomplete_at_utc: datetime | None

    @property
    def text(self) -> str:
        """Text and refusals of the message, joined by a blank line, without images and files."""
        return "\n\n".join(filter(None, map(_text_of, items_of(self._payload.get("content")))))


def _text_of(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    text = part.get("text")
    return str((text.get("value") if isinstance(text, Mapping) else text) or part.get("refusal") or "")


class _Executed(APIObject):
    """Base class of runs and steps, which have a start and an end."""

    __slots__ = ()

    @property
    def ended_at_utc(self) -> datetime | None:
        """Time at which it ended, with any status; None until then.

        The API has no such field for expired runs: they ended at `expires_at`.
        """
        expired = ("expires_at",) if self._payload.get("status") == "expired" else ()
        moments = (utc(self._payload.get(name)) for name in (*ENDS, *expired))
        return next((moment for moment in moments if moment), None)

    @property
    def duration(self) -> timedelta | None:
        """Time from `created_at` to the end; None until then, or if the server sends no such time.

        Views, tables and frames share this definition. It is the time the user waited, including the time in the
        queue and for tool outputs. It doesn't start at `started_at`, because servers reset that each time a run
        resumes after tool outputs.
        """
        start, end = utc(self._payload.get("created_at")), self.ended_at_utc
        return end - start if start and end else None


class Run(_Executed):
    """An assistant executing on a thread."""

    __slots__ = ()
    _shown = ("id", "status", "model", "thread_id")
    thread_id: str
    assistant_id: str
    status: RunStatus
    model: str
    created_at: int | None
    started_at: int | None
    expires_at: int | None
    completed_at: int | None
    failed_at: int | None
    cancelled_at: int | None
    required_action: JSON | None
    last_error: JSON | None
    incomplete_details: JSON | None
    instructions: str | None
    tools: list[JSON]
    metadata: dict[str, str]
    temperature: float | None
    top_p: float | None
    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    truncation_strategy: JSON | None
    response_format: str | JSON | None
    reasoning_effort: str | None
    tool_choice: str | JSON | None
    parallel_tool_calls: bool | None

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None
        started_at_utc: datetime | None
        expires_at_utc: datetime | None
        completed_at_utc: datetime | None
        failed_at_utc: datetime | None
        cancelled_at_utc: datetime | None

    @property
    def usage(self) -> Usage | None:
        """Usage of the run; None until it has ended."""
        return _usage(self._payload)

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended, with any status."""
        return str(self._payload.get("status")) in TERMINAL_STATUSES

    @property
    def requires_approval(self) -> bool:
        """Whether the run waits for approvals. Azure AI Foundry asks before it calls a tool of an MCP server."""
        action = self.required_action
        return isinstance(action, Mapping) and action.get("type") == "submit_tool_approval"

    @property
    def tool_calls(self) -> list[ToolCall]:
        """Tool calls that wait for outputs, or for approvals if the server asks for those."""
        action = self.required_action
        return _tool_calls(action.get(str(action.get("type")))) if isinstance(action, Mapping) else []


class RunStep(_Executed):
    """One step of a run: it creates a message, or calls tools."""

    __slots__ = ()
    _shown = ("id", "type", "status")
    run_id: str
    thread_id: str
    assistant_id: str
    type: str
    status: str
    created_at: int | None
    completed_at: int | None
    expired_at: int | None
    expires_at: int | None
    failed_at: int | None
    cancelled_at: int | None
    last_error: JSON | None
    step_details: JSON
    metadata: dict[str, str] | None

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None
        completed_at_utc: datetime | None
        expired_at_utc: datetime | None
        expires_at_utc: datetime | None
        failed_at_utc: datetime | None
        cancelled_at_utc: datetime | None

    @property
    def usage(self) -> Usage | None:
        """Usage of the step; None while it is in progress."""
        return _usage(self._payload)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """Tool calls of this step; empty for a step that creates a message."""
        return _tool_calls(self._payload.get("step_details"))

    @property
    def message_id(self) -> str | None:
        """Id of the message that this step creates; None for other steps."""
        details = self._payload.get("step_details")
        creation = details.get("message_creation") if isinstance(details, Mapping) else None
        return creation.get("message_id") if isinstance(creation, Mapping) else None


class MessageDelta(APIObject):
    """A part of a message, as a stream sends it."""

    __slots__ = ()
    delta: JSON

    @property
    def text(self) -> str:
        """The text that this delta adds."""
        delta = self._payload.get("delta")
        return "".join(map(_text_of, items_of(delta.get("content") if isinstance(delta, Mapping) else None)))


class RunStepDelta(APIObject):
    """A part of a step, as a stream sends it."""

    __slots__ = ()
    delta: JSON


class File(APIObject):
    """A file on the server."""

    __slots__ = ()
    _shown = ("id", "filename", "bytes", "purpose")
    filename: str
    bytes: int
    purpose: str
    created_at: int | None
    expires_at: int | None
    status: str | None

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None
        expires_at_utc: datetime | None


class VectorStore(APIObject):
    """Files that can be searched."""

    __slots__ = ()
    _shown = ("id", "name", "status", "file_counts")
    name: str | None
    description: str | None
    status: str
    file_counts: JSON
    usage_bytes: int
    created_at: int | None
    last_active_at: int | None
    expires_at: int | None
    expires_after: JSON | None
    metadata: dict[str, str]

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None
        last_active_at_utc: datetime | None
        expires_at_utc: datetime | None


class VectorStoreFile(APIObject):
    """A file in a vector store."""

    __slots__ = ()
    _shown = ("id", "status", "vector_store_id")
    vector_store_id: str
    status: str
    usage_bytes: int
    created_at: int | None
    last_error: JSON | None
    chunking_strategy: JSON | None
    attributes: JSON

    if TYPE_CHECKING:  # each timestamp as a datetime in UTC
        created_at_utc: datetime | None


class Model(APIObject):
    """A model that runs can name."""

    __slots__ = ()
    _shown = ("id", "owned_by")
    created: int | None
    owned_by: str


_BY_OBJECT: dict[str, type[APIObject]] = {
    "assistant": Assistant,
    "file": File,
    "model": Model,
    "vector_store": VectorStore,
    "vector_store.file": VectorStoreFile,
    "thread": Thread,
    "thread.message": Message,
    "thread.message.delta": MessageDelta,
    "thread.run": Run,
    "thread.run.step": RunStep,
    "thread.run.step.delta": RunStepDelta,
}


def parse_object(payload: JSON) -> APIObject:
    """Return a payload as an object of the class for its `object` field; an APIObject if the class is unknown."""
    return _BY_OBJECT.get(str(payload.get("object")), APIObject)(payload)
