"""Assistants, threads, messages, runs and steps: a method per operation of the API.

An argument called `thread`, `assistant` or `run` takes an id or the object. Parameters that are not spelled out are
the reference's own and go to the server as they are; those that it does not know too. Source of the operations: the
OpenAPI description of the Assistants API.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from nbruns import accessor as accessor  # registers df.runs
from nbruns import frames
from nbruns.errors import TimeoutError, excerpt
from nbruns.objects import JSON, Assistant, Message, Run, RunStep, Thread
from nbruns.snapshot import RunSnapshot
from nbruns.stream import RunStream, iter_pages
from nbruns.tools import Tool, as_text, tool_json
from nbruns.transport import Check, Transport, path_of

if TYPE_CHECKING:
    import pandas as pd

    from nbruns.widgets.run_view import RunView

AssistantArg = str | Assistant
ThreadArg = str | Thread
RunArg = str | Run
#: What starts a thread: a text, texts, or messages as the API has them.
Messages = str | Sequence[str | Mapping[str, Any]]
#: Tool outputs: {tool_call_id: value} or the wire's list.
Outputs = Mapping[str, Any] | Sequence[Mapping[str, Any]]

_POLL_FIRST, _POLL_MOST = 0.3, 5.0
_LISTED_AT_ONCE = 8


class Resource:
    """Operations on one kind of object, over one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport!r})"

    def _get(self, *parts: str, **params: Any) -> JSON:
        return self._transport.request("GET", path_of(*parts), params=params).payload

    def _post(self, *parts: str, body: JSON, check: Check | None = None, **params: Any) -> JSON:
        return self._transport.request("POST", path_of(*parts), params=params, json=body, check=check).payload

    def _delete(self, *parts: str) -> None:
        self._transport.request("DELETE", path_of(*parts))


class Assistants(Resource):
    """`client.assistants`"""

    def create(self, model: str, *, tools: Iterable[Any] = (), **params: Any) -> Assistant:
        """Create an assistant. `tools`: Python functions, `nbruns.tool`s, or the API's JSON, in any mixture."""
        body = {"model": model, "tools": list(map(tool_json, tools)), **params}
        return Assistant(self._post("assistants", body=body))

    def retrieve(self, assistant: AssistantArg) -> Assistant:
        """Ask for an assistant. Raises NotFoundError."""
        return Assistant(self._get("assistants", id_of(assistant)))

    def update(self, assistant: AssistantArg, **params: Any) -> Assistant:
        """Change what is given, keep the rest."""
        return Assistant(self._post("assistants", id_of(assistant), body=_with_tools(params)))

    def delete(self, assistant: AssistantArg) -> None:
        """Delete an assistant. Raises NotFoundError."""
        self._delete("assistants", id_of(assistant))

    def iter(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> Iterator[Assistant]:
        """All assistants, page by page, newest first unless `order="asc"`."""
        pages = iter_pages(self._transport, "/assistants", {"order": order, **params}, limit)
        return map(Assistant, pages)

    def list(self, *, limit: int | None = None, order: str = "desc", **params: Any) -> pd.DataFrame:
        """All assistants as a DataFrame."""
        return frames.assistants_frame(self.iter(limit=limit, order=order, **params))


class Threads(Resource):
    """`client.threads`"""

    def create(self, messages: Messages = (), **params: Any) -> Thread:
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
        return frames.threads_frame(self.iter(limit=limit, order=order, **params))

    def create_and_run(self, assistant: AssistantArg, messages: Messages = (), **params: Any) -> Run:
        """Create a thread and start a run on it; `params` are the run's."""
        return Run(self._post("threads", "runs", body=self._thread_and_run(assistant, messages, params)))

    def create_and_run_stream(
        self, assistant: AssistantArg, messages: Messages = (), **params: Any
    ) -> RunStream:
        """Create a thread, start a run on it, and stream the run's events."""
        body = self._thread_and_run(assistant, messages, params) | {"stream": True}
        return RunStream(self._transport, self._transport.open_stream("POST", "/threads/runs", json=body))

    def _thread_and_run(self, assistant: AssistantArg, messages: Messages, params: Mapping[str, Any]) -> JSON:
        thread = _thread(messages, params.get("thread") or {})
        return {"assistant_id": id_of(assistant), **_with_tools(params), "thread": thread}


class MessagesOfThreads(Resource):
    """`client.messages`"""

    def create(self, thread: ThreadArg, content: Any, *, role: str = "user", **params: Any) -> Message:
        """Add a message to a thread; `content` is a text, or content parts as the API has them."""
        body = {"role": role, "content": content, **params}
        return Message(self._post("threads", id_of(thread), "messages", body=body))

    def retrieve(self, message: str | Message, thread: ThreadArg | None = None) -> Message:
        """Ask for a message. `thread` is needed with a bare id."""
        return Message(self._get(*_place("messages", message, thread)))

    def update(
        self, message: str | Message, *, metadata: Mapping[str, str], thread: ThreadArg | None = None
    ) -> Message:
        """Replace a message's metadata."""
        return Message(self._post(*_place("messages", message, thread), body={"metadata": dict(metadata)}))

    def delete(self, message: str | Message, thread: ThreadArg | None = None) -> None:
        """Delete a message."""
        self._delete(*_place("messages", message, thread))

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
        return frames.messages_frame(self.iter(thread, limit=limit, order=order, **params))


class RunSteps(Resource):
    """`client.runs.steps`"""

    def retrieve(
        self, step: str | RunStep, run: RunArg, thread: ThreadArg | None = None, **params: Any
    ) -> RunStep:
        """Ask for a step of a run."""
        return RunStep(self._get(*_place("runs", run, thread), "steps", id_of(step), **_query(params)))

    def iter(
        self,
        run: RunArg,
        thread: ThreadArg | None = None,
        *,
        limit: int | None = None,
        order: str = "asc",
        **params: Any,
    ) -> Iterator[RunStep]:
        """A run's steps, in the order in which they were made."""
        path = path_of(*_place("runs", run, thread), "steps")
        pages = iter_pages(self._transport, path, {"order": order, **_query(params)}, limit)
        return map(RunStep, pages)

    def list(self, run: RunArg, thread: ThreadArg | None = None, **params: Any) -> pd.DataFrame:
        """A run's steps as a DataFrame, in the order in which they were made."""
        return frames.steps_frame(self.iter(run, thread, **params))


class Runs(Resource):
    """`client.runs`"""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.steps = RunSteps(transport)

    def create(self, thread: ThreadArg, assistant: AssistantArg, **params: Any) -> Run:
        """Start a run on a thread. Raises ActiveRunError while another run of the thread is active."""
        path, query, body, check = self._creation(thread, assistant, params)
        return Run(self._transport.request("POST", path, params=query, json=body, check=check).payload)

    def create_stream(self, thread: ThreadArg, assistant: AssistantArg, **params: Any) -> RunStream:
        """Start a run on a thread and stream its events."""
        path, query, body, check = self._creation(thread, assistant, params)
        opened = self._transport.open_stream(
            "POST", path, params=query, json=body | {"stream": True}, check=check
        )
        return RunStream(self._transport, opened, check=check)

    def retrieve(self, run: RunArg, thread: ThreadArg | None = None) -> Run:
        """Ask for a run as it is now."""
        return Run(self._get(*_place("runs", run, thread)))

    def retrieve_stream(self, run: RunArg, thread: ThreadArg | None = None) -> RunStream:
        """Follow a run that exists: its events from the start where the server keeps them, else its end."""
        return RunStream(self._transport, self._get(*_place("runs", run, thread)))

    def update(self, run: RunArg, *, metadata: Mapping[str, str], thread: ThreadArg | None = None) -> Run:
        """Replace a run's metadata."""
        return Run(self._post(*_place("runs", run, thread), body={"metadata": dict(metadata)}))

    def iter(
        self, thread: ThreadArg | None = None, *, limit: int | None = None, order: str = "desc", **params: Any
    ) -> Iterator[Run]:
        """A thread's runs, newest first; without a thread those of all, where the server lists them (ours does)."""
        path = "/runs" if thread is None else path_of("threads", id_of(thread), "runs")
        return map(Run, iter_pages(self._transport, path, {"order": order, **params}, limit))

    def list(
        self,
        threads: ThreadArg | Iterable[ThreadArg] | None = None,
        *,
        limit: int | None = None,
        order: str = "desc",
        after: str | None = None,
        before: str | None = None,
        **params: Any,
    ) -> pd.DataFrame:
        """The runs of one thread or of many as a DataFrame, all pages; `limit` counts per thread.

        Without threads those of all threads, where the server lists them (ours does). Columns: see
        `nbruns.runs_frame`.
        """
        params |= {"limit": limit, "order": order, "after": after, "before": before}
        if threads is None or isinstance(threads, (str, Thread)):
            return frames.runs_frame(self.iter(threads, **params))
        with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="nbruns-list") as pool:
            lists = pool.map(lambda thread: [*self.iter(thread, **params)], threads)
            return frames.runs_frame(run for runs in lists for run in runs)

    def cancel(self, run: RunArg, thread: ThreadArg | None = None) -> Run:
        """Ask the server to cancel a run; it is `cancelling` first, `cancelled` soon."""
        return Run(self._post(*_place("runs", run, thread), "cancel", body={}))

    def submit_tool_outputs(self, run: RunArg, outputs: Outputs, thread: ThreadArg | None = None) -> Run:
        """Answer all tool calls of a run that requires action, all in a single submission.

        `outputs`: {tool_call_id: value}, values that are not text go as JSON; or the wire's list.
        """
        path, body, check = self._submission(run, outputs, thread)
        return Run(self._transport.request("POST", path, json=body, check=check).payload)

    def submit_tool_outputs_stream(
        self,
        run: RunArg,
        outputs: Outputs,
        thread: ThreadArg | None = None,
        *,
        snapshot: RunSnapshot | None = None,
    ) -> RunStream:
        """Answer all tool calls of a run and stream what follows; `snapshot` carries an earlier stream's on."""
        path, body, check = self._submission(run, outputs, thread)
        opened = self._transport.open_stream("POST", path, json=body | {"stream": True}, check=check)
        return RunStream(self._transport, opened, snapshot=snapshot)

    def wait(
        self,
        run: RunArg,
        *,
        timeout: float | None = None,
        poll_interval: float | None = None,
        thread: ThreadArg | None = None,
    ) -> Run:
        """Ask until the run ends or requires action; `timeout` and `poll_interval` in seconds.

        Without `poll_interval` the server's `openai-poll-after-ms` decides, else pauses grow from 0.3 to 5 s.
        Raises TimeoutError when `timeout` is over; the run goes on.
        """
        path = path_of(*_place("runs", run, thread))
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _POLL_FIRST
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(
                    f"Run {id_of(run)} was still going on after {timeout} s; wait again, or cancel it."
                )
            patience = None if left is None else max(0.01, min(left, self._transport.timeout))
            payload, headers = self._transport.request("GET", path, timeout=patience)
            now = Run(payload)
            if now.is_terminal or now.status == "requires_action":
                return now
            told = _number(headers.get("openai-poll-after-ms"), 0.001)
            wanted = poll_interval if poll_interval is not None else told if told is not None else pause
            pause = min(pause * 1.5, _POLL_MOST)
            time.sleep(wanted if left is None else max(0.0, min(wanted, left)))

    def watch(
        self,
        thread: ThreadArg | None = None,
        assistant: AssistantArg | None = None,
        *,
        run: RunArg | None = None,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        auto: bool = False,
        **params: Any,
    ) -> RunView:
        """Start a run and show it live, or show the `run` that exists.

        Its tool calls are answered in a form, which `tools` (Python functions) can fill in; with `auto=True` they
        answer by themselves. The cell returns at once; `view.wait()` waits for the end.
        """
        stream = self._watched(thread, assistant, run, params)
        from nbruns.widgets.run_view import RunView

        return RunView(self, stream, tools=tools, auto=auto)

    def _watched(
        self,
        thread: ThreadArg | None,
        assistant: AssistantArg | None,
        run: RunArg | None,
        params: Mapping[str, Any],
    ) -> RunStream:
        if run is not None:
            return self.retrieve_stream(run, thread)
        if thread is None or assistant is None:
            raise TypeError("watch() takes a thread and an assistant to start a run, or run=… to show one.")
        return self.create_stream(thread, assistant, **params)

    def _creation(
        self, thread: ThreadArg, assistant: AssistantArg, params: Mapping[str, Any]
    ) -> tuple[str, JSON, JSON, Check]:
        body = {"assistant_id": id_of(assistant), **_with_tools(params)}
        query = {"include[]": body.pop("include", None)}
        started = time.monotonic()
        path = path_of("threads", id_of(thread), "runs")
        return path, query, body, lambda: self._created_since(path, started, body)

    def _created_since(self, path: str, started: float, body: JSON) -> JSON | None:
        """The run that a request for one has made, if its answer was lost: made since, for the same assistant."""
        page, headers = self._transport.request("GET", path, params={"order": "desc", "limit": 20})
        # By the server's clock, of which both the timestamps and the Date header are; they count whole seconds.
        since = _server_time(headers) - (time.monotonic() - started) - 2
        runs = (run for run in page.get("data") or () if isinstance(run, dict))
        same = (run for run in runs if run.get("assistant_id") == body["assistant_id"])
        wanted = body.get("metadata") or {}
        return next(
            (r for r in same if (r.get("created_at") or 0) >= since and (r.get("metadata") or {}) == wanted),
            None,
        )

    def _submission(self, run: RunArg, outputs: Outputs, thread: ThreadArg | None) -> tuple[str, JSON, Check]:
        place = _place("runs", run, thread)
        if isinstance(outputs, Mapping):
            wire = [{"tool_call_id": call, "output": as_text(value)} for call, value in outputs.items()]
        else:
            wire = [dict(output) for output in outputs]
        answered = {output.get("tool_call_id") for output in wire}

        def taken() -> JSON | None:
            now = Run(self._get(*place))
            waits = now.status == "requires_action" and answered & {call.id for call in now.tool_calls}
            return None if waits else now.to_dict()

        return path_of(*place, "submit_tool_outputs"), {"tool_outputs": wire}, taken


def id_of(obj: Any) -> str:
    """The id of an object, or the id itself."""
    found = obj if isinstance(obj, str) else getattr(obj, "id", None)
    if not isinstance(found, str) or not found:
        raise TypeError(f"An id or an object with one is needed, not {excerpt(repr(obj))}.")
    return found


def _place(kind: str, obj: Any, thread: ThreadArg | None) -> tuple[str, str, str, str]:
    """The path to a run or message: objects know their thread, bare ids don't."""
    thread_id = id_of(thread) if thread is not None else getattr(obj, "thread_id", None)
    if not thread_id:
        raise TypeError(f"With a bare id, {excerpt(repr(obj))}, pass thread=… too: {kind} live in a thread.")
    return "threads", thread_id, kind, id_of(obj)


def _thread(messages: Messages, params: Mapping[str, Any]) -> JSON:
    texts = [messages] if isinstance(messages, str) else messages
    wire = [{"role": "user", "content": m} if isinstance(m, str) else dict(m) for m in texts]
    return {**({"messages": wire} if wire else {}), **params}


def _with_tools(params: Mapping[str, Any]) -> JSON:
    tools = params.get("tools")
    return {**params, **({"tools": list(map(tool_json, tools))} if tools is not None else {})}


def _query(params: Mapping[str, Any]) -> JSON:
    return {("include[]" if name == "include" else name): value for name, value in params.items()}


def _server_time(headers: Mapping[str, str]) -> float:
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return datetime.now(UTC).timestamp()


def _number(text: str | None, unit: float) -> float | None:
    try:
        return float(text or "") * unit
    except ValueError:
        return None
