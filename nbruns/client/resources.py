"""Assistants, threads and messages: one method for each operation of the API. Runs are in `client.runs`.

An argument called `thread`, `assistant` or `run` takes an id or the object. `**params` are passed to the API
unchanged, including parameters that nbruns doesn't know. Source of the operations: the OpenAPI description of the
Assistants API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbruns import frames
from nbruns.client.pagination import iter_pages
from nbruns.client.stream import RunStream
from nbruns.client.transport import Transport, path_of
from nbruns.objects import APIObject, Assistant, Message, Run, Thread
from nbruns.text import JSON, excerpt
from nbruns.tools import tool_json

if TYPE_CHECKING:
    import pandas as pd

AssistantArg = str | Assistant
ThreadArg = str | Thread
RunArg = str | Run


class Resource:
    """Operations on one kind of object."""

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
    """Return the id of an object, or the id itself."""
    found = obj if isinstance(obj, str) else getattr(obj, "id", None)
    if not isinstance(found, str) or not found:
        raise TypeError(f"Pass an id or an object with an id, not {excerpt(repr(obj))}.")
    return found


def place_of(kind: str, obj: Any, thread: ThreadArg | None) -> tuple[str, str, str, str]:
    """Return the path to a run or message. Objects know their thread; with a bare id, `thread` is required."""
    thread_id = id_of(thread) if thread is not None else getattr(obj, "thread_id", None)
    if not thread_id:
        raise TypeError(
            f"With a bare id, {excerpt(repr(obj))}, pass thread=… too: {kind} belong to a thread."
        )
    return "threads", thread_id, kind, id_of(obj)


def with_tools(params: Mapping[str, Any]) -> JSON:
    """Return parameters with `tools` as the API's JSON."""
    tools = params.get("tools")
    return {**params, **({"tools": list(map(tool_json, tools))} if tools is not None else {})}


def query_of(params: Mapping[str, Any]) -> JSON:
    """Return parameters for a query string, where the list `include` is called `include[]`."""
    return {("include[]" if name == "include" else name): value for name, value in params.items()}


def query_and_body(params: Mapping[str, Any]) -> tuple[JSON, JSON]:
    """Return the query and the body of a request that starts a run: `include` belongs in the query."""
    body = with_tools(params)
    return query_of({"include": body.pop("include", None)}), body


def not_streamed(body: JSON) -> JSON:
    """Return the body of a request for a single object. Raises TypeError for `stream=True`."""
    if body.get("stream"):
        raise TypeError("stream=True is not supported here. Use the method whose name ends in _stream.")
    return body


#: The first messages of a thread: a text, texts, or messages as the API's JSON.
Messages = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


class Assistants(Resource):
    """Assistants: `client.assistants`."""

    def create(self, model: str, **params: Any) -> Assistant:
        """Create an assistant.

            client.assistants.create(model="demo", name="Wardrobe", tools=[get_weather])

        Args:
            model: Name of the model.
            **params: Other parameters of the API. `tools` takes Python functions, `nbruns.tool`s and the API's
                JSON.

        Raises:
            BadRequestError: The server refuses a parameter.
        """
        return Assistant(self._post("assistants", body=with_tools({"model": model, **params})))

    def retrieve(self, assistant: AssistantArg) -> Assistant:
        """Retrieve an assistant.

        Args:
            assistant: The assistant, or its id.

        Raises:
            NotFoundError: The assistant doesn't exist.
        """
        return Assistant(self._get("assistants", id_of(assistant)))

    def update(self, assistant: AssistantArg, **params: Any) -> Assistant:
        """Update an assistant.

            client.assistants.update(assistant, instructions="Be brief.", tools=[get_weather])

        Args:
            assistant: The assistant, or its id.
            **params: The fields to change, as in `create`. Other fields are kept.

        Returns:
            The updated assistant. The object that you pass doesn't change.

        Raises:
            NotFoundError: The assistant doesn't exist.
            BadRequestError: The server refuses a parameter.
        """
        return Assistant(self._post("assistants", id_of(assistant), body=with_tools(params)))

    def delete(self, assistant: AssistantArg) -> None:
        """Delete an assistant.

        Args:
            assistant: The assistant, or its id.

        Raises:
            NotFoundError: The assistant doesn't exist.
        """
        self._delete("assistants", id_of(assistant))

    def iter(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> Iterator[Assistant]:
        """Iterate over assistants. Pages are requested as needed.

        Args:
            limit: Maximum number of assistants. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `after` and `before`.
        """
        pages = iter_pages(self._transport, "/assistants", {"order": order, **params}, limit)
        return map(Assistant, pages)

    def list(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> pd.DataFrame:
        """Return assistants as a DataFrame with one row for each.

        Args:
            limit: Maximum number of assistants. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `after` and `before`.
        """
        return self._frame("assistant", self.iter(limit=limit, order=order, **params), limit)


class Threads(Resource):
    """Threads: `client.threads`."""

    def create(self, messages: Messages | None = None, **params: Any) -> Thread:
        """Create a thread.

            client.threads.create("What should I wear in Oslo?")

        Args:
            messages: The first messages: one or several texts of the user, or messages as the API's JSON. Default:
                none.
            **params: Other parameters of the API, such as `metadata`.

        Raises:
            TypeError: `messages` is something else.
        """
        return Thread(self._post("threads", body=thread_json(messages, params)))

    def retrieve(self, thread: ThreadArg) -> Thread:
        """Retrieve a thread.

        Args:
            thread: The thread, or its id.

        Raises:
            NotFoundError: The thread doesn't exist.
        """
        return Thread(self._get("threads", id_of(thread)))

    def update(self, thread: ThreadArg, **params: Any) -> Thread:
        """Update a thread.

        Args:
            thread: The thread, or its id.
            **params: The fields to change: `metadata` or `tool_resources`. Other fields are kept.

        Returns:
            The updated thread. The object that you pass doesn't change.

        Raises:
            NotFoundError: The thread doesn't exist.
        """
        return Thread(self._post("threads", id_of(thread), body=params))

    def delete(self, thread: ThreadArg) -> None:
        """Delete a thread with its messages and runs.

        Args:
            thread: The thread, or its id.

        Raises:
            NotFoundError: The thread doesn't exist.
        """
        self._delete("threads", id_of(thread))

    def iter(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> Iterator[Thread]:
        """Iterate over threads, if the server can list them. nbruns' own and Azure's can, OpenAI's could not.

        Args:
            limit: Maximum number of threads. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `after` and `before`.
        """
        return map(Thread, iter_pages(self._transport, "/threads", {"order": order, **params}, limit))

    def list(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> pd.DataFrame:
        """Return threads as a DataFrame with one row for each, if the server can list them.

        Args:
            limit: Maximum number of threads. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `after` and `before`.
        """
        return self._frame("thread", self.iter(limit=limit, order=order, **params), limit)

    def create_and_run(self, assistant: AssistantArg, messages: Messages | None = None, **params: Any) -> Run:
        """Create a thread and start a run on it, in one request.

            client.threads.create_and_run(assistant, "What should I wear in Oslo?")

        Args:
            assistant: The assistant to run, or its id.
            messages: The first messages of the thread, as in `create`.
            **params: Other parameters of the API for the run. `thread` takes further fields of the thread, such as
                `{"metadata": {…}}`.

        Returns:
            The run. Its `thread_id` is the id of the new thread.

        Raises:
            NotFoundError: The assistant doesn't exist.
            TypeError: `messages` is something else, or `stream=True` is given. Use `create_and_run_stream`.
        """
        query, body = self._thread_and_run(assistant, messages, params)
        sent = self._transport.request("POST", "/threads/runs", params=query, json=not_streamed(body))
        return Run(sent.payload)

    def create_and_run_stream(
        self, assistant: AssistantArg, messages: Messages | None = None, **params: Any
    ) -> RunStream:
        """Create a thread, start a run on it, and stream the events of the run.

            with client.threads.create_and_run_stream(assistant, "What should I wear in Oslo?") as stream:
                run = stream.until_done()

        Args:
            assistant: The assistant to run, or its id.
            messages: The first messages of the thread, as in `create`.
            **params: Other parameters of the API, as in `create_and_run`.

        Raises:
            NotFoundError: The assistant doesn't exist.
            TypeError: `messages` is something else.
        """
        query, body = self._thread_and_run(assistant, messages, params)
        body |= {"stream": True}
        opened = self._transport.open_stream("POST", "/threads/runs", params=query, json=body)
        return RunStream(self._transport, opened)

    def _thread_and_run(
        self, assistant: AssistantArg, messages: Messages | None, params: JSON
    ) -> tuple[JSON, JSON]:
        if messages is not None:
            params["thread"] = thread_json(messages, params.get("thread") or {})
        return query_and_body({"assistant_id": id_of(assistant), **params})


class MessagesOfThreads(Resource):
    """Messages: `client.messages`."""

    def create(self, thread: ThreadArg, content: Any, *, role: str = "user", **params: Any) -> Message:
        """Add a message to a thread.

            client.messages.create(thread, "And in Bergen?")

        Args:
            thread: The thread, or its id.
            content: A text, or a list of content parts as the API's JSON.
            role: `"user"` or `"assistant"`.
            **params: Other parameters of the API, such as `attachments` and `metadata`.

        Raises:
            NotFoundError: The thread doesn't exist.
            ActiveRunError: A run of the thread is active.
        """
        body = {"role": role, "content": content, **params}
        return Message(self._post("threads", id_of(thread), "messages", body=body))

    def retrieve(self, message: str | Message, thread: ThreadArg | None = None) -> Message:
        """Retrieve a message.

        Args:
            message: The message, or its id.
            thread: The thread, if `message` is a bare id.

        Raises:
            NotFoundError: The message doesn't exist.
        """
        return Message(self._get(*place_of("messages", message, thread)))

    def update(self, message: str | Message, *, thread: ThreadArg | None = None, **params: Any) -> Message:
        """Update a message.

        Args:
            message: The message, or its id.
            thread: The thread, if `message` is a bare id.
            **params: The field to change: `metadata`.

        Returns:
            The updated message. The object that you pass doesn't change.

        Raises:
            NotFoundError: The message doesn't exist.
        """
        return Message(self._post(*place_of("messages", message, thread), body=params))

    def delete(self, message: str | Message, thread: ThreadArg | None = None) -> None:
        """Delete a message.

        Args:
            message: The message, or its id.
            thread: The thread, if `message` is a bare id.

        Raises:
            NotFoundError: The message doesn't exist.
        """
        self._delete(*place_of("messages", message, thread))

    def iter(
        self, thread: ThreadArg, *, limit: int | None = None, order: str = "asc", **params: Any
    ) -> Iterator[Message]:
        """Iterate over the messages of a thread. Pages are requested as needed.

        Args:
            thread: The thread, or its id.
            limit: Maximum number of messages. Default: all.
            order: `"asc"` (oldest first) or `"desc"`.
            **params: Other parameters of the API: `after`, `before`, and `run_id` for the messages of one run.

        Raises:
            NotFoundError: The thread doesn't exist.
        """
        path = path_of("threads", id_of(thread), "messages")
        return map(Message, iter_pages(self._transport, path, {"order": order, **params}, limit))

    def list(
        self, thread: ThreadArg, *, limit: int | None = None, order: str = "asc", **params: Any
    ) -> pd.DataFrame:
        """Return the messages of a thread as a DataFrame. For its columns, see `nbruns.messages_frame`.

        Args:
            thread: The thread, or its id.
            limit: Maximum number of messages. Default: all.
            order: `"asc"` (oldest first) or `"desc"`.
            **params: Other parameters of the API: `after`, `before`, and `run_id` for the messages of one run.

        Raises:
            NotFoundError: The thread doesn't exist.
        """
        return self._frame("message", self.iter(thread, limit=limit, order=order, **params), limit)

    def search(
        self,
        query: str,
        thread: ThreadArg | None = None,
        *,
        limit: int | None = None,
        order: str = "desc",
        **params: Any,
    ) -> pd.DataFrame:
        """Return the messages that contain all words of `query`, as a DataFrame. Upper and lower case are the same.

        Only nbruns' own server supports this operation.

            client.messages.search("oslo umbrella", limit=20)

        Args:
            query: The words, at most 256 characters together.
            thread: The thread to search in, or its id. Default: all threads.
            limit: Maximum number of messages. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters: `run_id` for the messages of one run.

        Raises:
            NotFoundError: The server doesn't support searching.
        """
        where = {"thread_id": id_of(thread)} if thread is not None else {}
        pages = iter_pages(
            self._transport, "/messages", {"query": query, "order": order, **where, **params}, limit
        )
        return self._frame("message", map(Message, pages), limit)


def thread_json(messages: Messages | None, params: JSON) -> JSON:
    """Return a thread with these first messages as the API's JSON. Raises TypeError."""
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
