"""Calling a tool: what the function raises, how long it may take, and async functions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbruns.errors import ToolError
from nbruns.tools import as_tool, tool


def test_what_a_function_raises_is_an_error_fit_for_the_model() -> None:
    def burn(city: str) -> None:
        raise LookupError(f"no station in {city}\x1b[31m\nat all" + "!" * 10_000)

    with pytest.raises(ToolError) as raised:
        as_tool(burn).call({"city": "Atlantis"})
    assert str(raised.value).startswith("burn raised LookupError: no station in Atlantis\\x1b[31m at all!!!")
    assert len(str(raised.value)) < 600
    assert isinstance(raised.value.__cause__, LookupError)


def test_a_result_that_cannot_be_shown_is_a_tool_error_too() -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("I won't")

        __repr__ = __str__

    with pytest.raises(ToolError, match="speak raised RuntimeError: I won't"):
        tool(Mute, name="speak").call({})  # type: ignore[call-overload]


def test_an_interrupt_is_not_an_output() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        as_tool(stop).call({})


async def slow(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


def test_an_async_function_is_awaited() -> None:
    assert as_tool(slow).call({"n": 1}) == "2"


def test_an_async_function_is_awaited_where_a_loop_runs_already() -> None:
    async def cell() -> str:
        return as_tool(slow).call({"n": 1})

    assert asyncio.run(cell()) == "2"


def test_what_an_async_function_raises_is_a_tool_error() -> None:
    async def burn() -> None:
        raise ValueError("hot")

    with pytest.raises(ToolError, match="burn raised ValueError: hot"):
        as_tool(burn).call({})


def raising(error: BaseException) -> str:
    """What is said of a function that raises this."""

    def burn() -> None:
        raise error

    with pytest.raises(ToolError) as raised:
        as_tool(burn).call({})
    return str(raised.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("city"), "burn raised KeyError: 'city'"),
        (ValueError(), "burn raised ValueError"),
        (SystemExit(3), "burn raised SystemExit: 3"),
        (asyncio.CancelledError(), "burn raised CancelledError"),
        (TimeoutError("no answer"), "burn raised TimeoutError: no answer"),
        (
            ExceptionGroup("two stations", [OSError("north"), ValueError("south")]),
            "burn raised ExceptionGroup: two stations (2 sub-exceptions) | OSError: north | ValueError: south",
        ),
        (OSError("postgresql://ada:secret@db/x refused"), "burn raised OSError: postgresql://…@db/x refused"),
    ],
    ids=repr,
)
def test_what_is_raised_is_said_in_one_line(error: BaseException, said: str) -> None:
    assert raising(error) == said


def test_where_the_user_lives_is_nothing_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/tmp/ada")
    missing = FileNotFoundError(2, "No such file", "/tmp/ada/plans/secret.txt")
    assert raising(missing) == "burn raised FileNotFoundError: [Errno 2] No such file: '~/plans/secret.txt'"
    assert str(Path(__file__).parent) not in raising(ValueError("odd"))  # and no traceback


def test_a_tool_that_refuses_by_itself_is_said_in_its_words() -> None:
    assert raising(ToolError("there is no such city.")) == "burn: there is no such city."


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a function waits for that takes too long; opened at the end."""
    opened = threading.Event()
    yield opened
    opened.set()


def test_a_function_that_takes_too_long_is_answered_for(gate: threading.Event) -> None:
    ended = threading.Event()

    @tool(timeout=0.05)
    def wait() -> None:
        gate.wait(60)
        ended.set()

    with pytest.raises(ToolError) as late:
        wait.call({})
    assert str(late.value).startswith("wait: it took longer than 0.05 s. Python can't stop it")
    assert not ended.is_set()
    gate.set()
    assert ended.wait(5)  # as the words say: it goes on


def test_an_async_function_that_takes_too_long_is_cancelled() -> None:
    cancelled = threading.Event()

    @tool(timeout=0.05)
    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(ToolError, match=r"^wait: it took longer than 0.05 s and was cancelled\.$"):
        wait.call({})
    assert cancelled.is_set()


def test_an_async_function_that_holds_its_loop_is_answered_for(gate: threading.Event) -> None:
    @tool(timeout=0.05)
    async def hold() -> None:
        gate.wait(60)

    with pytest.raises(ToolError, match="may still be running"):
        hold.call({})


def test_within_its_time_a_function_is_as_without() -> None:
    number = contextvars.ContextVar("number", default=0)
    number.set(7)

    @tool(timeout=60)
    def count(n: int) -> int:
        return n + number.get()  # it sees what its caller sees

    @tool(timeout=60)
    async def count_slowly(n: int) -> int:
        await asyncio.sleep(0)
        return n + number.get()

    assert (count.call({"n": 1}), count_slowly.call({"n": 2})) == ("8", "9")


@pytest.mark.parametrize("error", [TimeoutError("mine"), concurrent.futures.TimeoutError("mine")])
def test_a_function_s_own_timeout_is_its_own(error: Exception) -> None:
    @tool(timeout=60)
    async def ask() -> None:
        raise error

    with pytest.raises(ToolError, match=r"^ask raised TimeoutError: mine$"):
        ask.call({})


def test_making_the_text_counts_as_well(gate: threading.Event) -> None:
    def endless() -> Iterator[int]:
        while not gate.is_set():
            time.sleep(0.01)
            yield 1

    with pytest.raises(ToolError, match="took longer"):
        tool(timeout=0.05)(endless).call({})


def test_an_interrupt_stops_the_waiting_for_a_function_with_a_timeout() -> None:
    @tool(timeout=60)
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop.call({})


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_a_number_of_seconds(timeout: float) -> None:
    with pytest.raises(ValueError, match="number of seconds above 0"):
        tool(timeout=timeout)(raising)


def test_a_program_ends_though_a_function_is_still_running() -> None:
    import subprocess

    program = (
        "import time\nfrom nbruns.tools import tool\nfrom nbruns.errors import ToolError\n"
        "@tool(timeout=0.05)\ndef wait():\n    time.sleep(600)\n"
        "try:\n    wait.call({})\nexcept ToolError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "took longer" in done.stdout


PASSED_ON: dict[str, Any] = {
    "type": "object",
    "properties": {"query": {"type": "string", "minLength": 2}, "limit": {"type": "integer", "maximum": 9}},
    "required": ["query"],
    "additionalProperties": False,
}


def test_a_function_that_takes_anything_brings_its_own_schema() -> None:
    @tool(name="search_docs", parameters=PASSED_ON)
    def pass_on(**arguments: Any) -> dict[str, Any]:
        """Search the documentation."""
        return arguments

    assert pass_on.to_dict()["function"]["parameters"] == PASSED_ON
    assert pass_on.call('{"query": "rain", "limit": 3}') == '{"query":"rain","limit":3}'
    for arguments, said in [
        ("{}", "query: Required."),
        (
            '{"query": "r", "limit": 10}',
            "query: Must have at least 2 characters, has 1.; limit: Must be at most 9.",
        ),
        ('{"query": "rain", "page": 1}', "page: Unknown property: remove it."),
        ("[1]", "the arguments are not an object: [1]"),
    ]:
        with pytest.raises(ToolError) as refused:
            pass_on.call(arguments)
        assert str(refused.value) == f"search_docs: {said}"


def test_what_is_no_schema_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="raising: parameters: Not a JSON Schema: 5 is not"):
        tool(parameters={"type": 5})(raising)
