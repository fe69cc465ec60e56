"""`%load_ext nbruns` and `%%ask`, in a real shell against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import nbruns


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Light rain in {city}"


@pytest.fixture
def shell(client: nbruns.Client) -> Iterator[InteractiveShell]:
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "nbruns")
    client.last_conversation = None
    shell.user_ns |= {"client": client, "get_weather": get_weather, "weather": nbruns.tool(get_weather)}
    yield shell
    shell.history_manager.end_session()


def ask(shell: InteractiveShell, line: str, cell: str = "What should I wear in Oslo?") -> Any:
    return shell.run_cell_magic("ask", line, cell)


def test_a_cell_is_asked_and_its_tools_answer(shell: InteractiveShell) -> None:
    view = ask(shell, "--model demo --tool get_weather --auto")
    assert isinstance(view, nbruns.RunView)
    assert view.wait(timeout=60).status == "completed"
    assert "Light rain in Oslo" in [call.output for step in view.snapshot.steps for call in step.tool_calls]


def test_without_a_model_the_local_server_demonstrates(shell: InteractiveShell) -> None:
    assert ask(shell, "").wait(timeout=60).model == "demo"


def test_without_a_client_it_is_that_of_this_machine(
    shell: InteractiveShell, client: nbruns.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    del shell.user_ns["client"]
    monkeypatch.setenv("NBRUNS_DATA", str(client.server._folder))
    run = ask(shell, "").wait(timeout=60)
    assert client.runs.retrieve(run).status == "completed"


def test_the_result_is_kept_in_a_variable_and_waited_for(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(shell, "--wait --out first", "Hello") is None
    assert shell.user_ns["first"].run.status == "completed"


def test_the_next_cell_goes_on_with_the_last_conversation(
    shell: InteractiveShell, client: nbruns.Client
) -> None:
    first = ask(shell, "--tool get_weather --auto").wait(timeout=60)
    second = ask(shell, "--auto", "And in Bergen?").wait(timeout=60)
    assert (second.thread_id, second.assistant_id) == (first.thread_id, first.assistant_id)
    assert ask(shell, "--auto --new", "Hello").wait(timeout=60).thread_id != first.thread_id
    chat = client.chat(client.assistants.create(model="demo"))
    third = ask(shell, "", "Hello").wait(timeout=60)
    assert third.thread_id == chat._thread_id


def test_a_named_thread_is_made_once_and_carried_on(shell: InteractiveShell, client: nbruns.Client) -> None:
    ask(shell, "--thread chat", "Hello").wait(timeout=60)
    ask(shell, "--thread chat", "And again").wait(timeout=60)
    texts = [message.text for message in client.messages.iter(shell.user_ns["chat"], order="asc")]
    assert [texts[0], texts[2]] == ["Hello", "And again"]
    assert len(texts) == 4


def test_the_same_line_makes_one_assistant(shell: InteractiveShell) -> None:
    views = [ask(shell, "-m demo -i 'Be brief'", "Hello") for _ in range(2)]
    runs = [view.wait(timeout=60) for view in views]
    assert runs[0].assistant_id == runs[1].assistant_id
    assert runs[0].instructions == "Be brief"


def test_an_assistant_finds_its_tools_among_the_names(shell: InteractiveShell, client: nbruns.Client) -> None:
    shell.user_ns["get_weather"] = shell.user_ns["weather"]
    shell.user_ns["helper"] = client.assistants.create(model="demo", tools=[get_weather])
    for given in ("helper", shell.user_ns["helper"].id):
        assert ask(shell, f"{given} --auto").wait(timeout=60).status == "completed"


def test_a_function_of_that_name_which_is_not_declared_a_tool_is_not_called(
    shell: InteractiveShell, client: nbruns.Client
) -> None:
    shell.user_ns["helper"] = client.assistants.create(model="demo", tools=[get_weather])
    view = ask(shell, "helper --auto --thread chat")
    (run,) = client.runs.iter(shell.user_ns["chat"])
    assert client.runs.wait(run, timeout=60).status == "requires_action"
    view.cancel()


@pytest.mark.parametrize(
    ("line", "cell", "words"),
    [
        ("", " \n", "needs a message in the lines below it"),
        ("--out 'view", "Hi", "can't parse its line"),
        ("--what", "Hi", "unrecognized arguments"),
        ("--tool nothing", "Hi", "No function nothing in this notebook"),
        ("--client get_weather", "Hi", "get_weather is not an nbruns.Client"),
        ("--thread not/one", "Hi", "neither a variable nor the id of a thread"),
    ],
)
def test_mistakes_are_told_in_a_line(shell: InteractiveShell, line: str, cell: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ask(shell, line, cell)


def test_another_server_needs_a_model(shell: InteractiveShell, client: nbruns.Client) -> None:
    shell.user_ns["client"] = nbruns.Client(client.base_url, client.api_key)
    with pytest.raises(UsageError, match="needs an assistant, or --model"):
        ask(shell, "")
