"""Columns of runs that need more requests: the question, the answer, and the name of the assistant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from nbruns.client.bulk import read_bulk
from nbruns.client.concurrent import fetch_all
from nbruns.client.pagination import iter_pages
from nbruns.client.transport import Transport, path_of
from nbruns.errors import NotFoundError
from nbruns.objects import Message, utc
from nbruns.text import JSON, excerpt

#: The columns that can be added.
COLUMNS = ("question", "answer", "assistant_name")


def with_columns(transport: Transport, frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a frame of runs with these columns: see `Runs.add_columns`."""
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise ValueError(f"Columns that can be added are {', '.join(COLUMNS)}, not {excerpt(unknown[0])!r}.")
    added: dict[str, Any] = {}
    if {"question", "answer"}.intersection(names):
        questions, answers = _texts(transport, frame)
        added |= {"question": questions, "answer": answers}
    if "assistant_name" in names:
        added["assistant_name"] = _assistant_names(transport, frame)
    return frame.assign(**{name: pd.array(added[name], dtype="string") for name in names})


def _texts(transport: Transport, frame: pd.DataFrame) -> tuple[list[str | None], list[str | None]]:
    """Return the user's last message before each run, and the text that the run wrote."""
    threads = list(frame["thread_id"].dropna().unique())
    wanted = set(frame["id"].dropna())
    created = dict(zip(frame["id"], frame["created_at"], strict=True)) if "created_at" in frame else {}
    by_thread: dict[str, list[tuple[str, Any]]] = {}
    for run, thread in zip(frame["id"], frame["thread_id"], strict=True):
        by_thread.setdefault(thread, []).append((run, created.get(run)))
    questions: dict[str, str | None] = {}
    answers: dict[str, list[str]] = {run: [] for run in wanted}
    for thread, messages in _conversations(transport, threads):
        runs_of_thread = dict(by_thread.get(thread, ()))
        said: list[tuple[Any, str]] = []
        for message in map(Message, messages):
            run = message.run_id
            if message.role == "user":
                said.append((utc(message.created_at), message.text))
            elif run in answers:
                answers[run].append(message.text)
                questions.setdefault(run, said[-1][1] if said else None)
        for run, moment in runs_of_thread.items():
            if run not in questions:  # it wrote no message: use the last message before it was created
                before = [text for at, text in said if at is None or pd.isna(moment) or at <= moment]
                questions[run] = before[-1] if before else None
    return (
        [questions.get(run) for run in frame["id"]],
        ["\n\n".join(answers[run]) if answers.get(run) else None for run in frame["id"]],
    )


def _conversations(transport: Transport, threads: Sequence[str]) -> Iterable[tuple[str, list[JSON]]]:
    """Yield each thread with its messages, oldest first."""
    found = read_bulk(transport, "thread.message", threads, "thread_id") if threads else iter(())
    if found is None:

        def fetch(fork: Transport, thread: str) -> tuple[str, list[JSON]]:
            return thread, list(iter_pages(fork, path_of("threads", thread, "messages"), {"order": "asc"}))

        yield from fetch_all(transport, fetch, threads, "thread")
        return
    thread, messages = "", list[JSON]()
    for message in found:  # the messages of each thread are consecutive
        if message["thread_id"] != thread:
            if messages:
                yield thread, messages
            thread, messages = message["thread_id"], []
        messages.append(message)
    if messages:
        yield thread, messages


def _assistant_names(transport: Transport, frame: pd.DataFrame) -> list[str | None]:
    ids = frame["assistant_id"]

    def fetch(fork: Transport, id: str) -> str | None:
        try:
            name = fork.request("GET", path_of("assistants", id)).payload.get("name")
        except NotFoundError:  # the assistant was deleted
            return None
        return name if isinstance(name, str) else None

    unique = list(ids.dropna().unique())
    names: Mapping[Any, str | None] = dict(
        zip(unique, fetch_all(transport, fetch, unique, "assistant"), strict=True)
    )
    return [names.get(id) if isinstance(id, str) else None for id in ids]
