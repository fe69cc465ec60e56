"""The columns `question`, `answer` and `assistant_name`, which are added on request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import nbruns
from nbruns.client.transport import Extras


@pytest.fixture(params=["in few requests", "one by one"])
def either(client: nbruns.Client, request: pytest.FixtureRequest) -> Iterator[nbruns.Client]:
    """A client of a server that reads many threads at once, and of one that doesn't."""
    twin = client.__copy__()
    if request.param == "one by one":
        twin.extras = Extras(has_bulk=False)
    yield twin
    twin.close()


def test_they_are_what_was_asked_and_answered(either: nbruns.Client) -> None:
    def weather(city: str) -> str:
        """The weather."""
        return "Rain"

    assistant = either.assistants.create("demo", name="Wardrobe")
    asking = either.assistants.create("demo", tools=[weather])
    thread = either.threads.create("Unasked.")
    limits = {"max_completion_tokens": 256}
    runs = []
    for question in ("A coat?", "A hat?"):
        either.messages.create(thread, question)
        runs.append(either.runs.wait(either.runs.create(thread, assistant, **limits)))
    waiting = either.runs.wait(either.threads.create_and_run(asking, "Oslo?"))
    frame = either.runs.list([thread, waiting.thread_id], add=["question", "answer", "assistant_name"])
    told = frame.set_index("id").loc[[*(run.id for run in runs), waiting.id]]
    assert told["question"].tolist() == ["A coat?", "A hat?", "Oslo?"]
    assert told["answer"].str.contains("A (?:coat|hat)", regex=True).tolist()[:2] == [True, True]
    assert told["answer"].isna().tolist() == [False, False, True]
    assert told["assistant_name"].fillna("none").tolist() == ["Wardrobe", "Wardrobe", "none"]
    filtered = either.runs.add_columns(frame[frame["id"] == runs[1].id][["id", "thread_id"]], "question")
    assert filtered["question"].tolist() == ["A hat?"]
    empty = either.runs.add_columns(frame.iloc[:0], ["question", "answer", "assistant_name"])
    assert empty.dtypes.equals(frame.dtypes)
    with pytest.raises(ValueError, match="not 'cost'"):
        either.runs.add_columns(frame, "cost")
