"""Assistants, threads and messages: a method per operation of the API. Runs have a room of their own.

An argument called `thread`, `assistant` or `run` takes an id or the object. Parameters that are not spelled out are
the reference's own and go to the server as they are; those that it does not know too. Source of the operations: the
OpenAPI description of the Assistants API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbruns import frames
from nbruns.client.pagination import iter_pages
from nbruns.client.stream import RunStream
from nbruns.client.transport import Transport, path_of
from nbruns.objects import JSON, APIObject, Assistant, Message, Run, Thread
from nbruns.text import excerpt
from nbruns.tools import tool_json

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


#: What starts a thread: a text, texts, or messages as the API has them.
Messages = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


class Assistants(Resource):
    """`client.assistants`"""

    def create(self, model: str, **params: Any) -> Assistant:
        """Create an assistant. `tools=`: Python functions, `nbruns.tool`s, or the API's JSON, in any mixture."""
        return Assistant(self._post("assistants", body=with_tools({"model": model, **params})))

    def retrieve(self, assistant: AssistantArg) -> Assistant:
        """Ask for an assistant. Raises NotFoundError."""
        return Assistant(self._get("assistants", id_of(assistant)))

    def update(self, assistant: AssistantArg, **params: Any) -> Assistant:
        """Change what is given, keep the rest."""
        return Assistant(self._post("assistants", id_of(assistant), body=with_tools(params)))

    def delete(self, assistant: AssistantArg) -> None:
        """Delete an assistant. Raises NotFoundError."""
        self._delete("assistants", id_of(assistant))

    def iter(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> Iterator[Assistant]:
        """All assistants, page by page, newest first unless `order="asc"`."""
        pages = iter_pages(self._transport, "/assistants", {"order": order, **params}, limit)
        return map(Assistant, pages)

    def list(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> pd.DataFrame:
        """All assistants as a DataFrame."""
        return self._frame("assistant", self.iter(limit=limit, order=order, **params), limit)


class Threads(Resource):
    """`client.threads`"""

    def create(self, messages: Messages | None = None, **params: Any) -> Thread:
        """Create a thread, with messages if given: a text, texts (of the user), or messages as the API has them."""
        return Thread(self._post("threads", body=_thread(messages, params)))

    def retrieve(self, thread: ThreadArg) -> Thread:
        """Ask for a thread. Raises NotFoundError."""
        return Thread(self._get("threads", id_of(thread)))

    def update(self, thread: ThreadArg, **params: Any) -> Thread:
        """Change what is given (`metadata`, `tool_resources`), keep the rest."""
        return Thread(self._post("threads", id_of(thread), body=params))

    def delete(self, thread: ThreadArg) -> None:
        """Delete a thread and what is in it. Raises NotFoundError."""
        self._delete("threads", id_of(thread))

    def iter(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> Iterator[Thread]:
        """All threads, where the server lists them (nbruns' own and Azure's do, OpenAI's did not)."""
        return map(Thread, iter_pages(self._transport, "/threads", {"order": order, **params}, limit))

    def list(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> pd.DataFrame:
        """All threads as a DataFrame, where the server lists them."""
        return self._frame("thread", self.iter(limit=limit, order=order, **params), limit)

    def create_and_run(self, assistant: AssistantArg, messages: Messages | None = None, **params: Any) -> Run:
        """Create a thread and start a run on it; `params` are the run's."""
        query, body = self._thread_and_run(assistant, messages, params)
        sent = self._transport.request("POST", "/threads/runs", params=query, json=not_streamed(body))
        return Run(sent.payload)

    def create_and_run_stream(
        self, assistant: AssistantArg, messages: Messages | None = None, **params: Any
    ) -> RunStream:
        """Create a thread, start a run on it, and stream the run's events."""
        query, body = self._thread_and_run(assistant, messages, params)
        body |= {"stream": True}
        opened = self._transport.open_stream("POST", "/threads/runs", params=query, json=body)
        return RunStream(self._transport, opened)

    def _thread_and_run(
        self, assistant: AssistantArg, messages: Messages | None, params: JSON
    ) -> tuple[JSON, JSON]:
        if messages is not None:
            params["thread"] = _thread(messages, params.get("thread") or {})
        return query_and_body({"assistant_id": id_of(assistant), **params})


class MessagesOfThreads(Resource):
    """`client.messages`"""

    def create(self, thread: ThreadArg, content: Any, *, role: str = "user", **params: Any) -> Message:
        """Add a message to a thread; `content` is a text, or content parts as the API has them."""
        body = {"role": role, "content": content, **params}
        return Message(self._post("threads", id_of(thread), "messages", body=body))

    def retrieve(self, message: str | Message, thread: ThreadArg | None = None) -> Message:
        """Ask for a message. `thread` is needed with a bare id."""
        return Message(self._get(*place_of("messages", message, thread)))

    def update(self, message: str | Message, *, thread: ThreadArg | None = None, **params: Any) -> Message:
        """Change what is given: `metadata`, which replaces what was there."""
        return Message(self._post(*place_of("messages", message, thread), body=params))

    def delete(self, message: str | Message, thread: ThreadArg | None = None) -> None:
        """Delete a message."""
        self._delete(*place_of("messages", message, thread))

    def iter(
        self, thread: ThreadArg, *, limit: int | None = None, order: str = "asc", **params: Any
    ) -> Iterator[Message]:
        """A thread's messages, oldest first as they are read; `run_id=` for those of one run."""
        path = path_of("threads", id_of(thread), "messages")
        return map(Message, iter_pages(self._transport, path, {"order": order, **params}, limit))

    def list(
        self, thread: ThreadArg, *, limit: int | None = None, order: str = "asc", **params: Any
    ) -> pd.DataFrame:
        """A thread's messages as a DataFrame, oldest first."""
        return self._frame("message", self.iter(thread, limit=limit, order=order, **params), limit)


def _thread(messages: Messages | None, params: JSON) -> JSON:
    if messages is None:
        return params
    given = [messages] if isinstance(messages, (str, Mapping)) else messages
    wire = [_message(m) for m in given] if isinstance(given, Iterable) else [None]
    if None in wire:
        raise TypeError(
            f"A thread starts with a text, a list of texts, or messages as dicts, not with {excerpt(repr(messages))}."
        )
    return {"messages": wire, **params}


def _message(given: Any) -> JSON | None:
    if isinstance(given, str):
        return {"role": "user", "content": given}
    return dict(given) if isinstance(given, Mapping) else None
