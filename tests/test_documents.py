"""What README.md and the pages in docs/ show: every block of Python runs, every command exists."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

import nbruns
from nbruns import cli
from nbruns.frames import COLUMNS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Blocks that a reader types into a notebook, and, in HTML comments, what stands in for a reader's own machine.
CELLS = re.compile(
    r"^(?:```(?:python|ipython)\n(.*?)^```$|<!-- python\n(.*?)^-->$)", re.MULTILINE | re.DOTALL
)
#: What programs.md says of a program that could be run.
RESULTS = ("ran", "in part")
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def cells(page: Path) -> list[str]:
    """The page's blocks of Python, those in comments too, in their order."""
    text = page.read_text(encoding="utf-8")
    return [shown or hidden for shown, hidden in CELLS.findall(text)]


def commands() -> list[tuple[str, str]]:
    """Each line after a prompt in a page's console blocks, without its comment."""
    blocks = [(page, block) for page in PAGES for block in CONSOLE.findall(page.read_text(encoding="utf-8"))]
    lines = [(page, line) for page, block in blocks for line in block.splitlines()]
    return [(_name(page), line.removeprefix("$ ")) for page, line in lines if line.startswith("$ ")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a server that every page joins with `nbruns.local()`."""
    folder = tmp_path_factory.mktemp("documents")
    with nbruns.local(folder) as client:
        yield folder
        client.server.stop()


@pytest.mark.parametrize("page", [page for page in PAGES if cells(page)], ids=_name)
def test_every_block_of_python_runs(
    page: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRUNS_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    shell = InteractiveShell()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")  # what a notebook shows: deprecations where its own code is to blame
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
        for cell in cells(page):
            result = shell.run_cell(cell)
            result.raise_error()
            assert not re.search(r"\bnp\.", repr(result.result)), "numpy's numbers are not nice to read"
    assert [str(each.message) for each in warned] == [], "a reader sees these warnings"
    shell.history_manager.end_session()


@pytest.mark.parametrize(("page", "line"), [c for c in commands() if c[1].startswith("nbruns ")])
def test_every_command_of_ours_is_one(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    cli._parser().parse_args([word for word in words if word != "&"])


def test_the_table_of_old_programs_counts_the_list() -> None:
    uses = {
        "streams": "streams",
        "function tools": "functions",
        "`code_interpreter`": "code_interpreter",
        "files, `file_search` or `retrieval`": "file_search|retrieval|vector stores|files|file_ids|uploads",
        "Azure OpenAI": "Azure",
    }
    page = (ROOT / "docs" / "how-to" / "programs.md").read_text(encoding="utf-8")
    tried = [line.split(" | ") for line in page.splitlines() if line.startswith("| [")]
    rows = [row for row in tried if len(row) == 4]
    counted = {
        name: [
            str(sum(bool(re.search(words, row[1])) and row[2] == result for row in rows))
            for result in RESULTS
        ]
        for name, words in uses.items()
    }
    counted[f"**all {len(tried)}**"] = [f"**{sum(row[2] == result for row in rows)}**" for result in RESULTS]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| they use | ran | ran in part |\n|---|---|---|\n")[2].partition("\n\n")[0]
    shown = dict((row[0], row[1:]) for row in (line.strip("| ").split(" | ") for line in table.splitlines()))
    assert shown == counted
    assert {row[2] for row in rows} == set(RESULTS)


def test_the_reference_has_every_column_with_its_dtype() -> None:
    text = (ROOT / "docs" / "reference" / "frames.md").read_text(encoding="utf-8")
    words = {"run": "Runs", "step": "Steps", "message": "Messages", "tool_call": "Tool calls"}
    words |= {"assistant": "Assistants", "thread": "Threads", "search": "Searches", "model": "Models"}
    words |= {
        "file": "Files",
        "vector_store": "Vector stores",
        "vector_store_file": "Files of a vector store",
    }
    words |= {"search_result": "Search results"}
    for kind, columns in COLUMNS.items():
        listed = text.partition(f"\n{words[kind]}\n\n")[2].partition("\n\n")[0].splitlines()
        found = {
            name: line.split("`")[1]
            for line in listed
            for name in re.findall(r"`(\w+)`", line.partition(":")[2])
        }
        assert found == {name: dtype for name, (dtype, _) in columns.items()}, kind


def test_every_benchmark_on_the_page_is_one() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "benchmarks").glob("bench_*.py")]
    benchmarks = re.findall(r"^(?:async )?def (bench_\w+)", "\n".join(files), re.MULTILINE)
    picked = {name: [each for each in benchmarks if name in each] for name in named}
    assert len(named) > 20
    assert {name: each for name, each in picked.items() if len(each) != 1} == {}


def test_every_make_target_is_one() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = "\n".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CONTRIBUTING.md"])
    code = re.findall(r"```.*?```|`[^`]+`", pages, re.DOTALL)
    named = {target for piece in code for target in re.findall(r"\bmake ([a-z]+)", piece)}
    assert {"demo", "test"} <= named <= targets
