"""Assistants, threads and messages: a method per operation of the API. Runs have a room of their own.

An argument called `thread`, `assistant` or `run` takes an id or the object. Parameters that are not spelled out are
the reference's own and go to the server as they are; those that it does not know too. Source of the operations: the
OpenAPI description of the Assistants API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbruns.errors import excerpt
from nbruns.objects import JSON, Assistant, Message, Run, Thread
from nbruns.pages import iter_pages
from nbruns.resource import (
    AssistantArg,
    Resource,
    ThreadArg,
    id_of,
    not_streamed,
    place_of,
    query_and_body,
    with_tools,
)
from nbruns.stream import RunStream
from nbruns.transport import path_of

if TYPE_CHECKING:
    import pandas as pd

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
