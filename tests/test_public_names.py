"""The public names: these, all of them, and nothing loaded before it is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
from pathlib import Path

import mypy.api
import pytest

import nbruns
from nbruns import errors

NAMES = {
    *("Client", "local", "tool", "mcp_tools", "RunStream", "RunView", "RunsTable", "ToolOutputsForm"),
    *("Comparison", "compare"),
    *("runs_frame", "steps_frame", "messages_frame", "tool_calls_frame", "to_jsonl"),
    *("nested_to_json", "nested_from_json"),
    *("Assistant", "Event", "Message", "Run", "RunSnapshot", "RunStep", "Thread", "Tool"),
    *("File", "Model", "VectorStore", "VectorStoreFile"),
}
ERRORS = {
    name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.NbrunsError)
}

#: What a notebook that only wants a client should not wait for.
HEAVY = {
    *("ipywidgets", "anywidget", "IPython", "matplotlib", "markdown_it", "pydantic", "pandas", "requests"),
    *("starlette", "uvicorn", "sqlalchemy", "openai", "xllamacpp"),
}


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_the_public_names_are_those_of_the_design_and_the_errors() -> None:
    assert set(nbruns.__all__) == NAMES | ERRORS
    assert len(nbruns.__all__) == len(set(nbruns.__all__))


@pytest.mark.parametrize("name", sorted(NAMES | ERRORS))
def test_every_public_name_can_be_got_and_says_what_it_is(name: str) -> None:
    value = getattr(nbruns, name)
    assert not isinstance(value, types.ModuleType)
    assert inspect.getdoc(value)


def test_every_public_name_can_be_got_first() -> None:
    code = "import nbruns, sys; [getattr(nbruns, name) for name in sorted(nbruns.__all__, reverse={})]; print('all')"
    assert [python(code.format(order)) for order in (True, False)] == ["all", "all"]


def test_dir_offers_the_public_names_before_they_are_loaded() -> None:
    assert python("import nbruns; print(set(nbruns.__all__) <= set(dir(nbruns)))") == "True"


def test_a_star_import_gives_the_public_names() -> None:
    assert python("from nbruns import *; print(local.__name__, tool.__name__, TimeoutError.__module__)") == (
        "local tool nbruns.errors"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nbruns' has no attribute 'locale'"):
        _ = nbruns.locale


@pytest.mark.parametrize("first", ["nbruns.local_server", "nbruns.tools", "nbruns.client", "nbruns.cli"])
def test_no_module_takes_the_place_of_a_public_name(first: str) -> None:
    code = f"import {first}, nbruns, inspect; print(inspect.isfunction(nbruns.local), inspect.isfunction(nbruns.tool))"
    assert python(code) == "True True"


def test_import_nbruns_is_light() -> None:
    loaded = {name.split(".")[0] for name in python("import nbruns, sys; print(*sys.modules)").split()}
    assert "nbruns" in loaded
    assert loaded & HEAVY == set()


TYPED = """
from nbruns import Assistant, Event, File, Message, Run, RunSnapshot, RunStep, Thread, Tool, VectorStore
def f(run: Run, step: RunStep, message: Message, thread: Thread, assistant: Assistant, event: Event) -> None:
    created: int | None = run.created_at
    {attribute}
def g(snapshot: RunSnapshot, tool: Tool, file: File, store: VectorStore) -> None:
    text: str = snapshot.text
    name: str = file.filename
    number: int = store.usage_bytes
"""


#: What a user writes, and what mypy says of it.
WRITTEN = {
    "run.statuss": '"Run" has no attribute "statuss"',
    "step.run_idd": '"RunStep" has no attribute',
    "message.texts": '"Message" has no attribute',
    "thread.title": '"Thread" has no attribute',
    "assistant.tool": '"Assistant" has no attribute',
    "event.name": '"Event" has no attribute',
    "age: int = run.created_at": "Incompatible types in assignment",
    "moment = run.created_at_utc; moment.year": 'Item "None" of "datetime | None"',
    "print(run.status, run.usage, event.data, message.text, step.tool_calls)": "",
}


def test_a_misspelt_attribute_is_a_type_error(tmp_path: Path) -> None:
    files = {tmp_path / f"user_{number}.py": written for number, written in enumerate(WRITTEN)}
    for file, written in files.items():
        file.write_text(TYPED.format(attribute=written))
    # The cache of the repository's own checks: without it, this takes half a minute.
    cache = str(Path(__file__).parent.parent / ".mypy_cache")
    out, _, _ = mypy.api.run(["--strict", "--cache-dir", cache, *map(str, files)])
    for file, written in files.items():
        said = "\n".join(line for line in out.splitlines() if file.name in line)
        assert WRITTEN[written] in said if WRITTEN[written] else not said, out
