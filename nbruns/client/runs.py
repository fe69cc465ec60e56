"""Runs and their steps: one method for each operation of the API, and methods that wait for a run or display it.

Source of the operations: the OpenAPI description of the Assistants API.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbruns import frames
from nbruns.client.bulk import read_bulk
from nbruns.client.concurrent import fetch_all
from nbruns.client.files import Files, ModelsOfServer
from nbruns.client.fork import ForkStream, Point, copy_of, discard, unused_text
from nbruns.client.pagination import iter_pages
from nbruns.client.resources import (
    AssistantArg,
    Assistants,
    Resource,
    RunArg,
    ThreadArg,
    id_of,
    not_streamed,
    place_of,
    query_and_body,
    query_of,
)
from nbruns.client.stream import ACTION_DEADLINE, RunStream
from nbruns.client.transport import Check, Transport, path_of
from nbruns.errors import APIError, NbrunsError, TimeoutError
from nbruns.frames import accessor as accessor
from nbruns.headers import seconds, server_time
from nbruns.objects import Assistant, Message, Run, RunStep, Thread, items_of, utc
from nbruns.snapshot import RunSnapshot
from nbruns.text import JSON, excerpt
from nbruns.tools import Tool
from nbruns.tools.output_text import as_text

if TYPE_CHECKING:
    from nbruns.frames.cost import Prices
    from nbruns.widgets.run_view.view import RunView

#: With `auto=True`: maximum number of times that functions answer a run, and of calls that they answer in total.
MAX_ROUNDS, MAX_CALLS = 50, 500
#: Value of `include` that adds the text of the passages to results of file_search.
PASSAGES = "step_details.tool_calls[*].file_search.results[*].content"
#: Maximum number of seconds to wait for passages.
_PASSAGES_SECONDS = 10.0

#: Tool outputs: {tool_call_id: value}, or the API's list.
Outputs = Mapping[str, Any] | Sequence[Mapping[str, Any]]
#: Tool approvals: {tool_call_id: True or False}, or the API's list, whose entries can contain `headers` too.
Approvals = Mapping[str, bool] | Sequence[Mapping[str, Any]]


def outputs_json(given: Outputs, run: str | Run) -> list[JSON]:
    """Return tool outputs as the API's list; values that aren't text become JSON. Raises TypeError."""
    if isinstance(given, Mapping):
        _check_ids(given, run)
        return [{"tool_call_id": call, "output": as_text(value)} for call, value in given.items()]
    return _listed(given)


def approvals_json(given: Approvals, run: str | Run) -> list[JSON]:
    """Return tool approvals as the API's list. Raises TypeError for values other than True and False."""
    if isinstance(given, Mapping):
        _check_ids(given, run)
        wire: list[JSON] = [{"tool_call_id": call, "approve": approve} for call, approve in given.items()]
    else:
        wire = _listed(given)
    for approval in wire:
        # A server might convert another value to a boolean, and run a tool by mistake.
        if not isinstance(approval.get("approve"), bool):
            call, was = excerpt(approval.get("tool_call_id")), excerpt(repr(approval.get("approve")))
            raise TypeError(f"Approve call {call} with True or False, not with {was}.")
    return wire


def answered_by(body: JSON) -> set[str]:
    """Return the ids of the calls that a submission answers."""
    return {str(answer.get("tool_call_id")) for answers in body.values() for answer in answers}


def _check_ids(given: Mapping[str, Any], run: str | Run) -> None:
    """Raise TypeError if several calls share an id, because a dict can answer only one of them."""
    shared = Counter(call.id for call in run.tool_calls) if isinstance(run, Run) else Counter[Any]()
    for id in given:
        if not isinstance(id, str):
            raise TypeError(f"The id of a tool call is a string, not {excerpt(repr(id))}.")
        if shared[id] > 1:
            raise TypeError(
                f"{shared[id]} tool calls of the run have the id {excerpt(repr(id))}, and a dict can answer only one "
                "of them. Pass a list with an entry for each call, in order: "
                "[{'tool_call_id': call.id, 'output': …} for call in run.tool_calls]."
            )


def _listed(given: Any) -> list[JSON]:
    answers: list[Any] = [*given] if isinstance(given, Iterable) else [None]
    if not all(isinstance(answer, Mapping) for answer in answers):
        raise TypeError(
            f"Pass {{tool_call_id: value}}, or a list of the API's objects, not {excerpt(repr(given))}."
        )
    return [dict(answer) for answer in answers]


class RunSteps(Resource):
    """Steps of runs: `client.runs.steps`."""

    def retrieve(
        self, step: str | RunStep, run: RunArg, thread: ThreadArg | None = None, **params: Any
    ) -> RunStep:
        """Retrieve a step of a run.

        Args:
            step: The step, or its id.
            run: The run, or its id.
            thread: The thread, if `run` is a bare id.
            **params: Other parameters of the API: `include`.

        Raises:
            NotFoundError: The step or the run doesn't exist.
        """
        return RunStep(self._get(*place_of("runs", run, thread), "steps", id_of(step), **query_of(params)))

    def iter(
        self,
        run: RunArg,
        thread: ThreadArg | None = None,
        *,
        limit: int | None = None,
        order: str = "asc",
        **params: Any,
    ) -> Iterator[RunStep]:
        """Iterate over the steps of a run. Pages are requested as needed.

        Args:
            run: The run, or its id.
            thread: The thread, if `run` is a bare id.
            limit: Maximum number of steps. Default: all.
            order: `"asc"` (oldest first) or `"desc"`.
            **params: Other parameters of the API: `include`, `after` and `before`.

        Raises:
            NotFoundError: The run doesn't exist.
        """
        path = path_of(*place_of("runs", run, thread), "steps")
        pages = iter_pages(self._transport, path, {"order": order, **query_of(params)}, limit)
        return map(RunStep, pages)

    def with_passages(self, step: RunStep) -> RunStep:
        """Return a step with the text of the passages that its file searches have found.

        Args:
            step: A step. If it has the passages, or if they can't be retrieved within 10 seconds, it is returned
                unchanged.
        """
        if not lacks_passages(step) or not (step.thread_id and step.run_id):
            return step
        try:
            path = path_of("threads", step.thread_id, "runs", step.run_id, "steps", step.id)
            query = query_of({"include": [PASSAGES]})
            full = RunStep(
                self._transport.request("GET", path, params=query, timeout=_PASSAGES_SECONDS).payload
            )
        except NbrunsError:
            return step
        return full if full.id == step.id and full.status == step.status else step

    def list(
        self,
        runs: RunArg | Iterable[RunArg] | pd.DataFrame,
        thread: ThreadArg | None = None,
        **params: Any,
    ) -> pd.DataFrame:
        """Return the steps of one or several runs as a DataFrame. For its columns, see `nbruns.steps_frame`.

        Args:
            runs: A run, several runs, or a DataFrame of runs. Several are requested concurrently, with a progress
                bar after one second.
            thread: The thread, if `runs` is a bare id.
            **params: Other parameters of the API, and `limit` and `order` as in `iter`.

        Raises:
            NotFoundError: A run doesn't exist.
            TypeError: The DataFrame doesn't have the columns `id` (or `run_id`) and `thread_id`.
        """
        return self._frame_of("step", runs, thread, params)

    def tool_calls(
        self,
        runs: RunArg | Iterable[RunArg] | pd.DataFrame,
        thread: ThreadArg | None = None,
        **params: Any,
    ) -> pd.DataFrame:
        """Return the tool calls of one or several runs as a DataFrame with one row for each call.

        For its columns, see `nbruns.tool_calls_frame`.

        Args:
            runs: A run, several runs, or a DataFrame of runs.
            thread: The thread, if `runs` is a bare id.
            **params: Other parameters, as in `list`.

        Raises:
            NotFoundError: A run doesn't exist.
        """
        return self._frame_of("tool_call", runs, thread, params)

    def searches(
        self,
        runs: RunArg | Iterable[RunArg] | pd.DataFrame,
        thread: ThreadArg | None = None,
        **params: Any,
    ) -> pd.DataFrame:
        """Return the results of file_search in one or several runs as a DataFrame with one row for each result.

        Args:
            runs: A run, several runs, or a DataFrame of runs.
            thread: The thread, if `runs` is a bare id.
            **params: Other parameters, as in `list`. `include=None` leaves out the text of the passages.

        Returns:
            A DataFrame. `rank` is 1 for the best result of a call, `text` is the passage, and `queries` are those of
            the call, if the server sends them (nbruns' own does).

        Raises:
            NotFoundError: A run doesn't exist.
        """
        return self._frame_of("search", runs, thread, {"include": [PASSAGES], **params})

    def _frame_of(
        self,
        kind: str,
        runs: RunArg | Iterable[RunArg] | pd.DataFrame,
        thread: ThreadArg | None,
        params: Mapping[str, Any],
    ) -> pd.DataFrame:
        """Return the steps of one run, or of several, which are requested concurrently."""
        limit = params.get("limit")
        if isinstance(runs, (str, Run)):
            return self._frame(kind, self.iter(runs, thread, **params), limit)
        given: Iterable[RunArg] = _runs_of(runs) if isinstance(runs, pd.DataFrame) else runs
        # Each run once. Also raises for invalid arguments before the first request.
        many = {path_of(*place_of("runs", run, thread)): run for run in given}
        budget = frames.Budget(limit)
        ids = list(dict.fromkeys(map(id_of, many.values())))
        if len(ids) > 1 and not params:
            steps = read_bulk(self._transport, "thread.run.step", ids)
            if steps is not None:
                return frames.list_frame(kind, [frames.list_columns(kind, map(RunStep, steps), budget)])

        def fetch(transport: Transport, run: RunArg) -> frames.Columns:
            return frames.list_columns(kind, RunSteps(transport).iter(run, thread, **params), budget)

        return frames.list_frame(kind, fetch_all(self._transport, fetch, many.values(), "run"))


def lacks_passages(step: RunStep) -> bool:
    """Whether a step has results of file_search without their text."""
    return any(not result.get("content") for call in step.tool_calls for result in call.results or ())


def _runs_of(frame: pd.DataFrame) -> list[Run]:
    """Return the runs of a DataFrame: its rows, or the runs of its steps or messages."""
    column = _column(frame, "run_id", "id")
    unique = frame[[column, "thread_id"]].dropna().drop_duplicates()
    return [
        Run({"id": id, "thread_id": thread})
        for id, thread in zip(unique[column], unique["thread_id"], strict=True)
    ]


def threads_of(frame: pd.DataFrame) -> list[str]:
    """Return the thread ids in a DataFrame of threads, runs, steps or messages."""
    return list(frame[_column(frame, "thread_id", "id")].dropna().unique())


def _column(frame: pd.DataFrame, *names: str) -> str:
    found = next((name for name in names if name in frame), None)
    if found is None:
        known = excerpt(", ".join(map(str, frame.columns)))
        raise TypeError(f"The frame has no column {' or '.join(names)}. It has: {known}.")
    return found


_POLL_FIRST, _POLL_MOST = 0.3, 5.0
#: Maximum number of earlier messages that a view shows, and of messages that are read to find them.
EARLIER_MESSAGES, _LOOKED_AT = 200, 1000
#: Maximum number of seconds between two polls, even if the server suggests a longer pause.
_PAUSE_MOST = 3600.0


class Runs(Resource):
    """Runs: `client.runs`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.steps = RunSteps(transport)

    @property
    def files(self) -> Files:
        """The files of the same server."""
        return Files(self._transport)

    def model_names(self) -> Sequence[str]:
        """Return the names of the server's models.

        Raises:
            NotFoundError: The server doesn't list its models.
        """
        return [str(model.id) for model in ModelsOfServer(self._transport).iter()]

    def create(self, thread: ThreadArg, assistant: AssistantArg, **params: Any) -> Run:
        """Start a run on a thread. It continues in the background: see `wait` and `watch`.

            run = client.runs.create(thread, assistant, instructions="Be brief.")

        Args:
            thread: The thread, or its id.
            assistant: The assistant to run, or its id.
            **params: Other parameters of the API, such as `instructions`, `model` or `tools`. `tools` takes Python
                functions too.

        Raises:
            ActiveRunError: Another run of the thread is active.
            NotFoundError: The thread or the assistant doesn't exist.
            BadRequestError: The server refuses a parameter.
            TypeError: `stream=True` is given. Use `create_stream`.
        """
        path, query, body, check = self._creation(thread, assistant, params)
        sent = self._transport.request("POST", path, params=query, json=not_streamed(body), check=check)
        return Run(sent.payload)

    def create_stream(self, thread: ThreadArg, assistant: AssistantArg, **params: Any) -> RunStream:
        """Start a run on a thread, and stream its events.

            with client.runs.create_stream(thread, assistant) as stream:
                for text in stream.text_deltas():
                    print(text, end="")

        Args:
            thread: The thread, or its id.
            assistant: The assistant to run, or its id.
            **params: Other parameters of the API, as in `create`.

        Raises:
            ActiveRunError: Another run of the thread is active.
            NotFoundError: The thread or the assistant doesn't exist.
            BadRequestError: The server refuses a parameter.
        """
        path, query, body, check = self._creation(thread, assistant, params)
        opened = self._transport.open_stream(
            "POST", path, params=query, json=body | {"stream": True}, check=check
        )
        return RunStream(self._transport, opened, check=check)

    def retrieve(self, run: RunArg, thread: ThreadArg | None = None) -> Run:
        """Retrieve a run in its current state.

        Args:
            run: The run, or its id.
            thread: The thread, if `run` is a bare id.

        Raises:
            NotFoundError: The run doesn't exist.
        """
        return Run(self._get(*place_of("runs", run, thread)))

    def retrieve_stream(
        self, run: RunArg, thread: ThreadArg | None = None, *, snapshot: RunSnapshot | None = None
    ) -> RunStream:
        """Follow an existing run.

        The stream starts with the first event if the server keeps events. Otherwise it polls until the run ends.

        Args:
            run: The run, or its id.
            thread: The thread, if `run` is a bare id.
            snapshot: The snapshot of an earlier stream, to continue after its last event.

        Raises:
            NotFoundError: The run doesn't exist.
        """
        return RunStream(self._transport, self._get(*place_of("runs", run, thread)), snapshot=snapshot)

    def update(self, run: RunArg, *, thread: ThreadArg | None = None, **params: Any) -> Run:
        """Update a run.

        Args:
            run: The run, or its id.
            thread: The thread, if `run` is a bare id.
            **params: The field to change: `metadata`.

        Returns:
            The updated run. The object that you pass doesn't change.

        Raises:
            NotFoundError: The run doesn't exist.
        """
        return Run(self._post(*place_of("runs", run, thread), body=params))

    def iter(
        self, thread: ThreadArg | None = None, *, limit: int | None = None, order: str = "desc", **params: Any
    ) -> Iterator[Run]:
        """Iterate over the runs of a thread, or of all threads. Pages are requested as needed.

        Args:
            thread: The thread, or its id. Default: all threads, if the server can list their runs.
            limit: Maximum number of runs. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            **params: Other parameters of the API: `after` and `before`. Without a thread, nbruns' own server also
                filters by `assistant_id`, `model` and `status`.

        Raises:
            NotFoundError: The thread doesn't exist, or the server can't list the runs of all threads.
        """
        path = "/runs" if thread is None else path_of("threads", id_of(thread), "runs")
        return map(Run, iter_pages(self._transport, path, {"order": order, **params}, limit))

    def list(
        self,
        threads: ThreadArg | Iterable[ThreadArg] | pd.DataFrame | None = None,
        *,
        limit: int | None = None,
        order: str = "desc",
        after: str | None = None,
        before: str | None = None,
        add: Sequence[str] = (),
        **params: Any,
    ) -> pd.DataFrame:
        """Return runs as a DataFrame, over all pages. For its columns, see `nbruns.runs_frame`.

        Args:
            threads: A thread, several threads, or a DataFrame with a row for each. Several are requested
                concurrently, with a progress bar after one second. Default: all threads, if the server can list
                their runs.
            limit: Maximum number of runs of each thread. Default: all.
            order: `"desc"` (newest first) or `"asc"`.
            after: Return only the runs after the run with this id, in the given order.
            before: Return only the runs before the run with this id, in the given order.
            add: Further columns: see `add_columns`.
            **params: Other parameters of the API, as in `iter`.

        Raises:
            NotFoundError: A thread doesn't exist, or the server can't list the runs of all threads.
            ValueError: A further column doesn't exist.
        """
        params |= {"limit": limit, "order": order, "after": after, "before": before}
        return self.add_columns(self._listed(threads, limit, params), add)

    def _listed(
        self, threads: ThreadArg | Iterable[ThreadArg] | pd.DataFrame | None, limit: int | None, params: JSON
    ) -> pd.DataFrame:
        if threads is None or isinstance(threads, (str, Thread)):
            return self._frame("run", self.iter(threads, **params), limit)
        many = threads_of(threads) if isinstance(threads, pd.DataFrame) else map(id_of, threads)
        budget = frames.Budget(limit)

        def fetch(transport: Transport, thread: ThreadArg) -> frames.Columns:
            return frames.list_columns("run", Runs(transport).iter(thread, **params), budget)

        return frames.list_frame("run", fetch_all(self._transport, fetch, dict.fromkeys(many), "thread"))

    def add_columns(self, frame: pd.DataFrame, names: str | Sequence[str]) -> pd.DataFrame:
        """Return a frame of runs with further columns, which need more requests. Filter the frame first.

            client.runs.add_columns(runs.runs.failures(), ["question", "answer"])

        Args:
            frame: A frame of runs.
            names: One or several of `"question"` (the user's last message before the run), `"answer"` (the text that
                the run has written) and `"assistant_name"`.

        Raises:
            ValueError: A column can't be added.
        """
        from nbruns.client.texts import with_columns

        return with_columns(self._transport, frame, [names] if isinstance(names, str) else list(names))

    def export(
        self,
        folder: str | PathLike[str],
        threads: ThreadArg | Iterable[ThreadArg] | pd.DataFrame | None = None,
        *,
        since: Any = None,
    ) -> Path:
        """Write runs to a folder of Parquet files, one for each month. A later call updates the folder.

        `pd.read_parquet`, DuckDB, Dask and Spark can read the folder. Nested columns contain JSON text. You can
        interrupt an export at any moment: the next one continues, and each run is exported once, in its latest
        state.

            client.runs.export("runs", since="2026-11-01")
            runs = nbruns.nested_from_json(pd.read_parquet("runs"))

        Args:
            folder: The folder, which is created if necessary.
            threads: A thread, several threads, or a DataFrame with a row for each. Default: all threads, if the server
                can list them.
            since: Export only runs created from then on: a date, a datetime or a text (in UTC unless it has an
                offset). Default: all runs.

        Returns:
            The folder.

        Raises:
            SetupError: pyarrow is missing (extra `parquet`).
            TypeError: No threads are given, and the server can list neither all runs nor all threads.
            ValueError: `since` is not a point in time.
        """
        from nbruns.client.export import export_runs

        if isinstance(threads, (str, Thread)):
            threads = [threads]
        keys = threads_of(threads) if isinstance(threads, pd.DataFrame) else threads
        export_runs(self._transport, Path(folder), None if keys is None else map(id_of, keys), since)
        return Path(folder)

    def assistant_of(self, run: Run) -> Assistant:
        """Retrieve the assistant of a run.

        Args:
            run: The run.

        Raises:
            NotFoundError: The assistant doesn't exist.
        """
        return Assistant(self._get("assistants", run.assistant_id))

    def messages_before(
        self, run: Run | None, thread: ThreadArg, limit: int = EARLIER_MESSAGES
    ) -> Sequence[Message]:
        """Return the messages of a thread that are older than the answer of a run, oldest first.

        Args:
            run: The run. None returns the messages of the whole thread.
            thread: The thread, or its id.
            limit: Maximum number of messages, of which the newest are returned.

        Raises:
            NotFoundError: The thread doesn't exist.
        """
        path = path_of("threads", id_of(thread), "messages")
        newest = []
        for payload in iter_pages(self._transport, path, {"order": "desc"}, _LOOKED_AT):
            message = Message(payload)
            if run is not None:
                made, since = utc(message.created_at), utc(run.created_at)
                if message.run_id == run.id or (made and since and made > since):
                    continue
            newest.append(message)
            if len(newest) == limit:
                break
        return newest[::-1]

    def cancel(self, run: RunArg, thread: ThreadArg | None = None) -> Run:
        """Cancel a run. Its status becomes `cancelling` first, then `cancelled`.

        Args:
            run: The run, or its id.
            thread: The thread, if `run` is a bare id.

        Raises:
            NotFoundError: The run doesn't exist.
            BadRequestError: The run has already ended.
        """
        return Run(self._post(*place_of("runs", run, thread), "cancel"))

    def submit_tool_outputs(self, run: RunArg, outputs: Outputs, thread: ThreadArg | None = None) -> Run:
        """Submit the outputs of all tool calls of a run that requires action, in one request.

            client.runs.submit_tool_outputs(run, {call.id: "Heavy snow" for call in run.tool_calls})

        Args:
            run: The run, or its id.
            outputs: `{tool_call_id: value}`, where values that aren't text are sent as JSON; or the API's list,
                which also works for calls that share an id.
            thread: The thread, if `run` is a bare id.

        Raises:
            BadRequestError: The run doesn't require action, or an output is missing.
            TypeError: `outputs` is something else, or is a dict although several calls share an id.
        """
        return self._submit(run, {"tool_outputs": outputs_json(outputs, run)}, thread)

    def submit_tool_outputs_stream(
        self,
        run: RunArg,
        outputs: Outputs,
        thread: ThreadArg | None = None,
        *,
        snapshot: RunSnapshot | None = None,
    ) -> RunStream:
        """Submit tool outputs, and stream the events that follow.

        Args:
            run: The run, or its id.
            outputs: The outputs, as in `submit_tool_outputs`.
            thread: The thread, if `run` is a bare id.
            snapshot: The snapshot of an earlier stream of the run, to be continued.

        Raises:
            BadRequestError: The run doesn't require action, or an output is missing.
            TypeError: `outputs` is something else, or is a dict although several calls share an id.
        """
        return self._submit_stream(run, {"tool_outputs": outputs_json(outputs, run)}, thread, snapshot)

    def submit_tool_approvals(
        self, run: RunArg, approvals: Approvals, thread: ThreadArg | None = None
    ) -> Run:
        """Approve or deny the tool calls of a run whose `required_action` has the type `submit_tool_approval`.

        Azure AI Foundry asks for approval before it calls a tool of an MCP server.

        Args:
            run: The run, or its id.
            approvals: `{tool_call_id: True or False}`, or the API's list of `{"tool_call_id", "approve"}`. Entries of
                the list can contain `headers`, which are passed to the MCP server.
            thread: The thread, if `run` is a bare id.

        Raises:
            BadRequestError: The run doesn't require approval, or a decision is missing.
            TypeError: A decision is neither True nor False, or `approvals` is a dict although several calls share an
                id.
        """
        return self._submit(run, {"tool_approvals": approvals_json(approvals, run)}, thread)

    def submit_tool_approvals_stream(
        self,
        run: RunArg,
        approvals: Approvals,
        thread: ThreadArg | None = None,
        *,
        snapshot: RunSnapshot | None = None,
    ) -> RunStream:
        """Approve or deny tool calls, and stream the events that follow.

        Args:
            run: The run, or its id.
            approvals: The decisions, as in `submit_tool_approvals`.
            thread: The thread, if `run` is a bare id.
            snapshot: The snapshot of an earlier stream of the run, to be continued.

        Raises:
            BadRequestError: The run doesn't require approval, or a decision is missing.
            TypeError: A decision is neither True nor False, or `approvals` is a dict although several calls share an
                id.
        """
        return self._submit_stream(run, {"tool_approvals": approvals_json(approvals, run)}, thread, snapshot)

    def wait(
        self,
        run: RunArg,
        *,
        timeout: float | None = None,
        poll_interval: float | None = None,
        thread: ThreadArg | None = None,
    ) -> Run:
        """Poll until a run ends or requires action.

            run = client.runs.wait(client.runs.create(thread, assistant), timeout=60)

        Args:
            run: The run, or its id.
            timeout: Maximum number of seconds to wait. Default: no limit.
            poll_interval: Seconds between two requests. Default: the server's `openai-poll-after-ms`, otherwise
                from 0.3 to 5 seconds, increasing.
            thread: The thread, if `run` is a bare id.

        Returns:
            The run. Some servers report the tool calls of a run late: `wait` then polls for up to 10 more seconds.

        Raises:
            TimeoutError: The run is still active after `timeout` seconds. It continues on the server.
            NotFoundError: The run doesn't exist.
        """
        path = path_of(*place_of("runs", run, thread))
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, late = _POLL_FIRST, None
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            over = (
                f"Run {id_of(run)} is still active after {timeout} s. Call wait() again, or cancel the run."
            )
            if left is not None and left <= 0:
                raise TimeoutError(over)
            try:
                payload, headers = self._transport.request("GET", path, timeout=left)
            except TimeoutError as error:
                if deadline is None or time.monotonic() + _POLL_FIRST < deadline:
                    raise
                raise TimeoutError(over) from error
            now = Run(payload)
            if now.status == "requires_action":
                late = late or time.monotonic()
                if now.tool_calls or time.monotonic() - late > ACTION_DEADLINE:
                    return now
            elif now.is_terminal:
                return now
            suggested = seconds(headers.get("openai-poll-after-ms"), 0.001)
            wanted = poll_interval if poll_interval is not None else pause if suggested is None else suggested
            pause = min(pause * 1.5, _POLL_MOST)
            time.sleep(max(0.0, min(wanted, _PAUSE_MOST if left is None else left)))

    def fork(self, run: RunArg, thread: ThreadArg | None = None, **changes: Any) -> Run:
        """Copy the conversation of a run into a new thread, and run it again from there with changes.

            client.runs.fork(run, model="another-model")
            client.runs.fork(run, message="And in Bergen?")              # instead of the run's question
            client.runs.fork(run, outputs={call.id: "Heavy snow"})       # instead of the submitted output

        The original doesn't change. For what is copied, see `fork_stream`.

        Args:
            run: The run to fork, or its id.
            thread: The thread, if `run` is a bare id.
            **changes: The other arguments of `fork_stream`: `at`, `message`, `outputs`, `assistant`, `replay`, and
                parameters of the new run.

        Returns:
            The new run, once it has ended or requires outputs that are not on record. Its thread is `thread_id`; the
            metadata of both names the original. If it ends without making a call whose output was changed, `fork`
            warns.

        Raises:
            ForkError: The conversation has no such point, or the run no such call. Nothing was created.
            APIError: The server refuses the copy or the run. The copy was deleted.
            StreamError: The stream of the new run could not be read to its end.
        """
        with self.fork_stream(run, thread, **changes) as stream:
            new = stream.until_done()
        if new.is_terminal and stream.unused:
            warnings.warn(unused_text(stream.unused), stacklevel=2)
        return new

    def fork_stream(
        self,
        run: RunArg,
        thread: ThreadArg | None = None,
        *,
        at: Point | None = None,
        message: Any = None,
        outputs: Outputs = (),
        assistant: AssistantArg | None = None,
        replay: bool = True,
        **params: Any,
    ) -> ForkStream:
        """Fork a run as `fork` does, and stream the events of the new run.

            view = client.runs.watch(run=client.runs.fork_stream(run, model="another-model"))

        The copy contains the messages up to `at`, in order: text, images, attachments and metadata. Files are shared,
        not copied. The API can't copy tool calls, so the new run asks the model again. Where the model makes a call
        that is on record (the same function with the same arguments), the recorded output answers it. Tools that the
        server runs itself, such as `code_interpreter`, run again. Ids and times are new, refusals become text, and
        citations lose their links.

        Args:
            run: The run to fork, or its id.
            thread: The thread, if `run` is a bare id.
            at: The point to fork at, as an object or its id. At a message, the copy ends with that message. At a tool
                call, or a step with tool calls, recorded outputs answer only the calls before it. Default: the end of
                the messages that the run was given.
            message: New text for the last message of the copy, which by default is the run's question. Its images and
                attachments are kept. Or new content, as the API's list of parts.
            outputs: New outputs for function calls of the original, as for `submit_tool_outputs`. If the new run
                doesn't make such a call, the stream's `unused` contains the call.
            assistant: Another assistant to run, with its own settings. Default: the assistant of the original.
            replay: Whether recorded outputs answer calls. The record is only used for forks at the question of the
                run, or at one of its calls.
            **params: Parameters of the new run, such as `model`, `instructions` or `tools`. Other parameters are those
                of the original, unless there is another assistant.

        Raises:
            ForkError: The conversation has no such point, or the run no such call. Nothing was created.
            APIError: The server refuses the copy or the run, for example because a file was deleted. The copy was
                deleted.
        """
        copied = copy_of(
            self._transport, self.retrieve(run, thread), at=at, message=message, outputs=outputs_json(outputs, run),
            assistant=None if assistant is None else id_of(assistant), replay=replay, params=params,
        )  # fmt: skip
        path, query, body, check = self._creation(copied.thread, copied.assistant, copied.params)
        body |= {"stream": True}
        try:
            opened = self._transport.open_stream("POST", path, params=query, json=body, check=check)
        except APIError:
            discard(self._transport, copied.thread)
            raise
        submit = self.submit_tool_outputs_stream
        return ForkStream(self._transport, opened, copied.record, submit, check)

    def watch(
        self,
        thread: ThreadArg | None = None,
        assistant: AssistantArg | None = None,
        *,
        run: RunArg | RunStream | None = None,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        auto: bool = False,
        max_rounds: int = MAX_ROUNDS,
        max_calls: int = MAX_CALLS,
        **params: Any,
    ) -> RunView:
        """Start a run and display it live, or display an existing `run`. The cell returns immediately.

            view = client.runs.watch(thread, assistant, tools=[get_weather])
            view
            run = view.wait()

        Args:
            thread: The thread on which to start a run, or of an existing `run` that is a bare id.
            assistant: The assistant to run, or its id.
            run: An existing run to display instead, or an open stream of one, such as that of `fork_stream`.
            tools: Python functions that can answer tool calls. A form offers to run them.
            auto: Whether the functions answer without asking.
            max_rounds: With `auto`, maximum number of times that the functions answer. After that, `view.wait()`
                raises LimitError, and the run waits.
            max_calls: The same for the number of calls.
            **params: Other parameters of the API for a new run, as in `create`.

        Raises:
            TypeError: Neither a run, nor a thread and an assistant are given.
            ValueError: `max_rounds` or `max_calls` is not a whole number above 0.
            ActiveRunError: Another run of the thread is active.
        """
        stream = self._watched(thread, assistant, run, params)
        from nbruns.widgets.run_view.view import RunView

        return RunView(
            self,
            stream,
            tools=tools,
            auto=auto,
            max_rounds=max_rounds,
            max_calls=max_calls,
            assistant=assistant,
            params=params,
        )

    def batch(
        self,
        prompts: Any,
        assistants: Any,
        *,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        repeat: int = 1,
        concurrency: int = 8,
        name: str | None = None,
        runs_per_minute: int | None = None,
        prices: Prices | None = None,
        **params: Any,
    ) -> pd.DataFrame:
        """Run every prompt with every assistant, and return one row for each run.

            client.runs.batch(
                questions, [{"model": "demo"}, {"model": "demo", "instructions": "Be brief."}], name="brief"
            )

        On nbruns' own server, the runs wait in a queue on the server, which continues after this program ends. A
        batch with a name resumes where it was interrupted: it runs only the rows that are missing, or whose run
        was cancelled, expired or rate limited. After a rate limit, the batch waits and retries.

        Args:
            prompts: Texts, lists of messages, or a DataFrame with a column `prompt`, `messages` or `question`, whose
                other columns are kept.
            assistants: One or several of: an assistant, its id, or a dict with parameters of the run such as `model`,
                `instructions` or `temperature`, and optionally `assistant` and a `name` for the column `assistant`.
                For a dict without an assistant, one is created, and used again by later batches.
            tools: Python functions that answer tool calls. Assistants that are created can call them. In a notebook,
                one form shows all other calls; elsewhere, runs that wait for them are returned as they are.
            repeat: Number of runs for each prompt and assistant.
            concurrency: Maximum number of runs at the same time.
            name: Name by which the batch can be continued, at most 256 characters. Default: a random name.
            runs_per_minute: Maximum number of runs started in a minute. Default: no limit.
            prices: Prices for the column `cost`: see `df.runs.cost`.
            **params: Other parameters of the API, for all runs.

        Returns:
            A DataFrame with the columns of the prompts, `assistant`, `repeat`, `answer`, `parsed` (the JSON of the
            answer, if `response_format` asks for it), `tool_calls`, `error`, `cost`, and the columns of
            `nbruns.runs_frame`. A column of the prompts with one of these names is called `input.NAME`.

        Raises:
            TypeError: A prompt or an assistant is something else.
            ValueError: There is no assistant, or `repeat`, `concurrency` or `name` is out of range.
            APIError: The server refused a request. A run that is refused as invalid doesn't end the batch: its row has
                an `error`.
            ConnectionError: The server didn't respond for a minute. Call again with the same name to continue.
        """
        from nbruns.client.batch import run_batch

        return run_batch(
            self,
            Assistants(self._transport),
            prompts,
            assistants,
            tools=tools,
            repeat=repeat,
            prices=prices,
            concurrency=concurrency,
            name=name,
            runs_per_minute=runs_per_minute,
            params=params,
        )

    def judge(
        self,
        frame: pd.DataFrame,
        question: str,
        judge: Any,
        *,
        schema: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        prefix: str = "judge_",
        **options: Any,
    ) -> pd.DataFrame:
        """Have a model judge the answers of a batch, and return the frame with its judgements as columns.

            client.runs.judge(runs, "Does the answer agree with `expected`?", "gpt-5", columns=["expected", "answer"])

        Args:
            frame: A frame with the column `answer`, such as `batch` returns.
            question: The question that the judge answers.
            judge: The name of a model, an assistant, or a dict as in `batch`.
            schema: JSON Schema of a judgement: an object, whose properties become columns. Default: `score` from 1 to
                5, and `reason`.
            columns: The columns that the judge sees. Default: the prompt and `answer`.
            prefix: Prefix of the names of the new columns.
            **options: Other arguments of `batch`, such as `name` and `concurrency`.

        Returns:
            The frame with the new columns. They are missing where there is no answer, and where the judge wrote
            anything that the schema doesn't allow.

        Raises:
            ValueError: The schema is invalid, or the index of the frame is not unique.
            KeyError: The frame lacks a column.
        """
        from nbruns.client.batch import judged

        return judged(self, frame, question, judge, schema=schema, columns=columns, prefix=prefix, **options)

    def _watched(
        self,
        thread: ThreadArg | None,
        assistant: AssistantArg | None,
        run: RunArg | RunStream | None,
        params: Mapping[str, Any],
    ) -> RunStream:
        if isinstance(run, RunStream):
            return run
        if run is not None:
            return self.retrieve_stream(run, thread)
        if thread is None or assistant is None:
            raise TypeError("Pass a thread and an assistant to start a run, or run=… to display one.")
        return self.create_stream(thread, assistant, **params)

    def _creation(
        self, thread: ThreadArg, assistant: AssistantArg, params: Mapping[str, Any]
    ) -> tuple[str, JSON, JSON, Check]:
        query, body = query_and_body({"assistant_id": id_of(assistant), **params})
        started = time.monotonic()
        path = path_of("threads", id_of(thread), "runs")
        return path, query, body, lambda: self._created_since(path, started, body)

    def _created_since(self, path: str, started: float, body: JSON) -> JSON | None:
        """Return the run that a request created although its response was lost; None if there is no such run."""
        page, headers = self._transport.request("GET", path, params={"order": "desc", "limit": 20})
        # Use the server's clock. It sets both the timestamps and the Date header, in whole seconds.
        since = server_time(headers) - (time.monotonic() - started) - 2
        wanted = body["assistant_id"], body.get("metadata") or {}

        def is_it(run: JSON) -> bool:
            made = utc(run.get("created_at"))
            same = (run.get("assistant_id"), run.get("metadata") or {}) == wanted
            return same and made is not None and made.timestamp() >= since

        return next((run for run in items_of(page.get("data")) if isinstance(run, dict) and is_it(run)), None)

    def _submit(self, run: RunArg, body: JSON, thread: ThreadArg | None) -> Run:
        place = place_of("runs", run, thread)
        path, check = path_of(*place, "submit_tool_outputs"), self._taken(place, answered_by(body))
        return Run(self._transport.request("POST", path, json=body, check=check).payload)

    def _submit_stream(
        self, run: RunArg, body: JSON, thread: ThreadArg | None, snapshot: RunSnapshot | None
    ) -> RunStream:
        place, answered = place_of("runs", run, thread), answered_by(body)
        path, check = path_of(*place, "submit_tool_outputs"), self._taken(place, answered)
        opened = self._transport.open_stream("POST", path, json=body | {"stream": True}, check=check)
        return RunStream(
            self._transport, opened, snapshot=snapshot, check=lambda: self._get(*place), answered=answered
        )

    def _taken(self, place: tuple[str, ...], answered: Collection[str]) -> Check:
        """Return a check for whether the outputs of these calls have arrived: the run no longer waits for them."""

        def taken() -> JSON | None:
            now = Run(self._get(*place))
            waits = now.status == "requires_action" and not {call.id for call in now.tool_calls}.isdisjoint(
                answered
            )
            return None if waits else now.to_dict()

        return taken
