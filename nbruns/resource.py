"""What all resources share: a transport, the paths to objects, and parameters as the wire has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nbruns import frames
from nbruns.errors import excerpt
from nbruns.objects import JSON, APIObject, Assistant, Run, Thread
from nbruns.tools import tool_json
from nbruns.transport import Transport, path_of

if TYPE_CHECKING:
    import pandas as pd

AssistantArg = str | Assistant
ThreadArg = str | Thread
RunArg = str | Run


class Resource:
    """Operations on one kind of object, over one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport!r})"

    def _get(self, *parts: str, **params: Any) -> JSON:
        return self._transport.request("GET", path_of(*parts), params=params).payload

    def _post(self, *parts: str, body: JSON | None = None) -> JSON:
        return self._transport.request("POST", path_of(*parts), json=body).payload

    def _frame(self, kind: str, objects: Iterable[APIObject], limit: int | None) -> pd.DataFrame:
        return frames.list_frame(kind, [frames.list_columns(kind, objects, frames.Budget(limit))])

    def _delete(self, *parts: str) -> None:
        self._transport.request("DELETE", path_of(*parts))


def id_of(obj: Any) -> str:
    """The id of an object, or the id itself."""
    found = obj if isinstance(obj, str) else getattr(obj, "id", None)
    if not isinstance(found, str) or not found:
        raise TypeError(f"An id or an object with one is needed, not {excerpt(repr(obj))}.")
    return found


def place_of(kind: str, obj: Any, thread: ThreadArg | None) -> tuple[str, str, str, str]:
    """The path to a run or message: objects know their thread, bare ids don't."""
    thread_id = id_of(thread) if thread is not None else getattr(obj, "thread_id", None)
    if not thread_id:
        raise TypeError(f"With a bare id, {excerpt(repr(obj))}, pass thread=… too: {kind} live in a thread.")
    return "threads", thread_id, kind, id_of(obj)


def with_tools(params: Mapping[str, Any]) -> JSON:
    """Parameters whose `tools` are the API's JSON, whatever they were given as."""
    tools = params.get("tools")
    return {**params, **({"tools": list(map(tool_json, tools))} if tools is not None else {})}


def query_of(params: Mapping[str, Any]) -> JSON:
    """Parameters as a query has them: the list `include` goes by the name `include[]`."""
    return {("include[]" if name == "include" else name): value for name, value in params.items()}


def query_and_body(params: Mapping[str, Any]) -> tuple[JSON, JSON]:
    """What starts a run as the wire has it: `include` in the query, the rest in the body."""
    body = with_tools(params)
    return query_of({"include": body.pop("include", None)}), body


def not_streamed(body: JSON) -> JSON:
    """The body of a request that is answered by an object. Raises TypeError where it asks for a stream."""
    if body.get("stream"):
        raise TypeError("stream=True has methods of its own: those whose names end in _stream.")
    return body
