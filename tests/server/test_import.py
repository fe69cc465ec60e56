"""`nbruns import`: what was exported elsewhere goes into the database, while its server runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from openai import OpenAI
from postgresql_server import NewDatabase
from served import TOKEN, Api, ServerProcess

import nbruns
from nbruns import cli
from nbruns.server.storage import exports

JSON = dict[str, Any]
THREAD, RUN = "thread_madeElsewhere1", "run_madeElsewhere1"
ASSISTANT: JSON = {
    "id": "asst_madeElsewhere1",
    "object": "assistant",
    "created_at": 1_700_000_000,
    "name": "Adviser",
    "model": "demo",
    "instructions": "Be kind.",
    "tools": [{"type": "retrieval"}, {"type": "code_interpreter"}],
    "file_ids": [],
    "metadata": None,
}


def message(number: int, **more: Any) -> JSON:
    text = {"type": "text", "text": {"value": f"Text {number}", "annotations": []}}
    role = "user" if number % 2 else "assistant"
    of = {"object": "thread.message", "thread_id": THREAD, "role": role, "content": [text]}
    return {"id": f"msg_{number}", "created_at": 1_700_000_100 + number // 2, **of, **more}


def run_of(**more: Any) -> JSON:
    of = {"object": "thread.run", "thread_id": THREAD, "assistant_id": ASSISTANT["id"], "model": "gpt-4o"}
    ended = {"status": "completed", "completed_at": 1_700_000_109, "expires_at": None}
    return {"id": RUN, "created_at": 1_700_000_105, "tools": [], **of, **ended, **more}


def step_of(**more: Any) -> JSON:
    call = {"id": "call_1", "type": "code_interpreter", "code_interpreter": {"input": "1 + 1", "outputs": []}}
    of = {"object": "thread.run.step", "thread_id": THREAD, "run_id": RUN, "assistant_id": ASSISTANT["id"]}
    details = {"type": "tool_calls", "tool_calls": [call]}
    ended = {"type": "tool_calls", "status": "completed", "step_details": details}
    return {"id": "step_1", "created_at": 1_700_000_106, **of, **ended, **more}


def page(*items: JSON) -> JSON:
    return {"object": "list", "data": [*items], "first_id": items[0]["id"], "has_more": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("import") / "nbruns.sqlite")
    yield server
    server.kill()


class Done(NamedTuple):
    """What a command has said, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def imported(database: Path | str, *files: Path) -> Done:
    """Import files, in this process."""
    url = database if isinstance(database, str) else f"sqlite:///{database}"
    folder = files[0].parent / "data"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        code = cli.main(["import", "--data", str(folder), "--database-url", url, *map(str, files)])
    return Done(code, out.getvalue(), errors.getvalue())


@pytest.fixture
def database(server: ServerProcess) -> Path:
    return Path(server.process.args[2].removeprefix("sqlite:///"))  # type: ignore[index, union-attr]


def written(folder: Path, *parts: Any, name: str = "export.jsonl") -> Path:
    """A file with these values, one a line; texts are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in parts) + "\n")
    return file


def test_a_conversation_from_elsewhere_goes_on(server: ServerProcess, database: Path, tmp_path: Path) -> None:
    newest_first = page(*(message(number) for number in range(6, 0, -1)))
    file = written(tmp_path, ASSISTANT, newest_first, run_of(), page(step_of()))
    done = imported(database, file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Imported 1 assistant, 1 run, 6 messages, 1 run step.",
        "Made 1 thread that the files name, but don't contain.",
    ]
    api = server.api
    before = [api.get(path) for path in everything(api)]
    assistant = api.get(f"/assistants/{ASSISTANT['id']}")
    assert assistant["created_at"] == ASSISTANT["created_at"]
    assert [tool["type"] for tool in assistant["tools"]] == ["file_search", "code_interpreter"]
    texts = [
        each["content"][0]["text"]["value"]
        for each in api.get(f"/threads/{THREAD}/messages", order="asc")["data"]
    ]
    assert texts == [f"Text {number}" for number in range(1, 7)]
    assert api.get(f"/threads/{THREAD}")["created_at"] == 1_700_000_100
    [step] = api.get(f"/threads/{THREAD}/runs/{RUN}/steps")["data"]
    assert step["step_details"] == step_of()["step_details"]
    assert [event.name for event in api.rejoin(run_of())] == ["thread.run.completed", "done"]
    command = [sys.executable, "-m", "nbruns", "import", "--database-url", f"sqlite:///{database}", file]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[0] == "Imported nothing."
    assert again.stdout.splitlines()[1].startswith("9 objects with the same ids exist already")
    assert [api.get(path) for path in everything(api)] == before
    assert api.get("/assistants")["data"].count(assistant) == 1
    api.post(f"/threads/{THREAD}/messages", {"role": "user", "content": "Hello again"})
    run = {"assistant_id": ASSISTANT["id"], "tools": []}
    assert api.until(api.post(f"/threads/{THREAD}/runs", run), "completed")["model"] == "demo"
    api.delete(f"/threads/{THREAD}")


def everything(api: Api) -> list[str]:
    of = [f"/threads/{THREAD}/messages", f"/threads/{THREAD}/runs", f"/threads/{THREAD}/runs/{RUN}/steps"]
    return [f"/assistants/{ASSISTANT['id']}", f"/threads/{THREAD}", *of]


def test_what_cannot_be_imported_is_said_line_by_line_and_the_rest_goes_in(
    server: ServerProcess, database: Path, tmp_path: Path
) -> None:
    thread = {"id": "thread_2", "object": "thread", "created_at": "2023-11-14T22:13:20Z"}
    file = written(
        tmp_path,
        thread,
        '{"id": "asst_cut", "object": "assis',
        message(1, id="msg_bad1", thread_id="thread_2", role="system"),
        message(1, id="msg_bad2", thread_id="thread_2", created_at="yesterday"),
        step_of(id="step_bad", run_id="run_nowhere"),
        {"object": "vector_store", "id": "vs_1"},
        {"hello": "world"},
        '{"object": "thread", "id": "thread_inf", "created_at": 1e999}',
        message(1, id="../etc", thread_id="thread_2"),
        {"object": "thread.message.delta", "id": "msg_1", "delta": {}},
        run_of(id="run_2", thread_id="thread_2", status="requires_action", required_action={"type": "x"}),
        run_of(id="run_3", thread_id="thread_2", status="failed", last_error={"code": "too_odd", "message": "No"}),
        message(3, id="msg_good", thread_id="thread_2"),
        {"id": "asst_noModel", "object": "assistant", "created_at": 1},
        '{"id": "thread_3", "object": "thread",',
    )  # fmt: skip
    done = imported(database, file)
    assert done.returncode == 1
    said = {line.split(": ")[0].rpartition(":")[2]: line for line in done.stderr.splitlines()}
    for number, words in {
        2: "This is not JSON (Invalid control character at): {",
        3: "The message msg_bad1 is not imported: Invalid value: 'system'. Supported values are",
        4: "yesterday in 'created_at' is no time",
        5: "its run run_nowhere of the thread",
        6: "'vector_store' is not imported",
        7: "No assistant, thread, message, run or step is in this",
        8: "a number is too large",
        9: "'../etc' is no id ('id')",
        11: "run_2: it was requires_action when it was exported, and is imported as expired",
        14: "it has no 'model'",
        15: "The file ends in the middle of this value",
    }.items():
        assert words in said.pop(str(number)), number
    assert said == {}
    assert done.stdout.splitlines()[0] == "Imported 1 thread, 2 runs, 1 message."
    assert done.stdout.splitlines()[-1] == "Not imported: 10 lines, see above."
    assert server.api.get("/threads/thread_2")["created_at"] == 1_700_000_000
    assert server.api.get("/threads/thread_2/runs/run_2")["status"] == "expired"
    error = server.api.get("/threads/thread_2/runs/run_3")["last_error"]
    assert error == {"code": "server_error", "message": "too_odd: No"}


def test_files_that_are_not_here_are_left_out(server: ServerProcess, database: Path, tmp_path: Path) -> None:
    api = server.api
    here = api.send("POST", "/files", data={"purpose": "assistants"}, files={"file": ("a.txt", b"x")}).json()[
        "id"
    ]
    store = api.post("/vector_stores")["id"]
    resources = {
        "file_search": {"vector_store_ids": ["vs_elsewhere"]},
        "code_interpreter": {"file_ids": [here, "file-elsewhere"]},
    }
    attachments = [{"file_id": id, "tools": [{"type": "file_search"}]} for id in ("file-elsewhere", here)]
    file = written(
        tmp_path,
        {**ASSISTANT, "id": "asst_files", "tool_resources": resources, "file_ids": ["file-elsewhere"]},
        message(1, id="msg_files", thread_id="thread_files", attachments=attachments),
        {
            "id": "thread_here",
            "object": "thread",
            "created_at": 1,
            "tool_resources": {"file_search": {"vector_store_ids": [store]}},
        },
    )
    done = imported(database, file)
    assert done.returncode == 0, done.stderr
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()] == [
        "asst_files: its file_ids, of the first version of the API, are left out: the files are not here.",
        "asst_files: files and vector stores in its tool_resources that don't exist here are left out.",
        "msg_files: files and vector stores in its attachments that don't exist here are left out.",
    ]
    kept = api.get("/assistants/asst_files")["tool_resources"]
    assert kept == {"file_search": {"vector_store_ids": []}, "code_interpreter": {"file_ids": [here]}}
    assert api.get("/threads/thread_files/messages/msg_files")["attachments"] == attachments[1:]
    assert api.get("/threads/thread_here")["tool_resources"]["file_search"] == {"vector_store_ids": [store]}


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_what_the_clients_write_is_read(server: ServerProcess, tmp_path: Path) -> None:
    """From one server into another: openai-python's models as JSON, pretty or not, and nbruns' own export."""
    client = nbruns.Client(f"{server.url}/v1", TOKEN)
    with OpenAI(base_url=client.base_url, api_key=client.api_key) as openai:
        assistant = openai.beta.assistants.create(model="demo", name="Zoë", tools=[{"type": "file_search"}])
        thread = openai.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])
        run = openai.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
        steps = openai.beta.threads.runs.steps.list(run.id, thread_id=thread.id)
        messages = openai.beta.threads.messages.list(thread.id)
    objects = tmp_path / "objects"
    written(objects, assistant.model_dump_json(indent=2), thread.model_dump_json(), name="made.json")
    written(objects, steps.model_dump_json(indent=1), messages.model_dump_json(), name="lists.json")
    written(objects, f"[{run.model_dump_json()}]", name="run.json")
    (objects / "utf16.json").write_text(assistant.model_dump_json(), encoding="utf-16")
    client.runs.export(tmp_path / "runs", threads=[thread.id])
    first, second = tmp_path / "first.sqlite", tmp_path / "second.sqlite"
    assert (done := imported(first, objects)).returncode == 0, done.stderr
    assert done.stdout == f"Imported 1 assistant, 1 thread, 1 run, 2 messages, {len(steps.data)} run steps.\n"
    assert imported(second, tmp_path / "runs", objects).returncode == 0
    for database in (first, second):
        other = ServerProcess(database)
        with OpenAI(base_url=f"{other.url}/v1", api_key=client.api_key) as openai:
            assert openai.beta.assistants.retrieve(assistant.id) == assistant
            assert openai.beta.threads.messages.list(thread.id).data == messages.data
            assert openai.beta.threads.runs.steps.list(run.id, thread_id=thread.id).data == steps.data
            again = openai.beta.threads.runs.retrieve(run.id, thread_id=thread.id)
            if database == second:  # an export has neither of these, and came first
                again.tools, again.instructions = run.tools, run.instructions
            assert again == run
        other.kill()


def test_the_memory_stays_flat_while_a_large_export_is_imported(tmp_path: Path) -> None:
    megabyte = 1024**2
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    text = {"type": "text", "text": {"value": "x" * 200_000, "annotations": []}}
    for file, count in ((small, 1), (large, 150)):
        many = [
            message(number, id=f"msg_{number:03}", thread_id=f"thread_{number % 7}", content=[text])
            for number in range(count)
        ]
        file.write_text(json.dumps(many))  # one list without a line break
    assert large.stat().st_size > 28 * megabyte
    said, peaks = zip(*(peak_of_import(file) for file in (small, large)), strict=True)
    assert said[1].startswith("Imported 150 messages.\nMade 7 threads")
    assert peaks[1] - peaks[0] < 20 * megabyte


def peak_of_import(file: Path) -> tuple[str, int]:
    """What the import of a file says, and the most bytes of memory that it takes."""
    program = (
        "import resource, sys; from nbruns.cli import main; main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    arguments = ["import", "--data", file.parent / file.stem, file]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )
    *said, peak = done.stdout.splitlines()
    assert done.stderr == ""
    return "\n".join(said), int(peak)


def test_a_value_that_is_too_large_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MAX_VALUE_CHARS", 1000)
    monkeypatch.setattr(exports, "_PIECE_CHARS", 100)
    large = {"object": "thread", "id": "thread_large", "metadata": {"x": "y" * 5000}}
    file = written(
        tmp_path, {"object": "thread", "id": "a"}, large, "[" * 5000, {"object": "thread", "id": "b"}
    )
    first, refused, last = exports.read(file)
    assert isinstance(refused, exports.Unreadable) and "over 1,000 characters" in refused.why
    assert [each.object["id"] for each in (first, last) if isinstance(each, exports.Found)] == ["a", "b"]
    assert [each.line for each in (first, refused, last)] == [1, 2, 4]


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_values_are_found_wherever_the_file_is_cut_into_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(exports, "_PIECE_CHARS", piece)
    threads = [
        {"object": "thread", "id": f'"{number}\\ü\n', "metadata": {"n": -1.5e3}} for number in range(5)
    ]
    for text in (
        json.dumps(threads),
        json.dumps(threads, indent=2),
        json.dumps({"data": threads}),
        "\n".join(json.dumps(each, ensure_ascii=False) for each in threads),
        "".join(json.dumps(each, indent=1) for each in threads),
        "\n".join(f"{json.dumps(each)},\r\n" for each in threads),
    ):
        file = tmp_path / "values.json"
        file.write_text(text, newline="")
        assert [each.object for each in exports.read(file) if isinstance(each, exports.Found)] == threads


def test_files_and_databases_that_are_none_are_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    binary = tmp_path / "binary.json"
    binary.write_bytes(b'{"object": "thread", "id": "thread_1", "created_at": 1}\n\xff\xfe\xfd')
    parquet = tmp_path / "not.parquet"
    parquet.write_bytes(b"PAR1")
    done = imported(tmp_path / "db.sqlite", tmp_path / "nowhere", tmp_path / "empty", binary, parquet)
    assert done.returncode == 1
    nowhere, empty, text, runs = done.stderr.splitlines()
    assert nowhere.endswith("nowhere: It can't be read: No such file or directory.")
    assert empty.endswith("No file of JSON, JSON lines or Parquet is in this folder.")
    assert "It is no UTF-8 text" in text and "It is no Parquet file" in runs
    done = imported("mysql://x", binary)
    assert (done.returncode, done.stdout) == (1, "") and "use a URL that begins with sqlite://" in done.stderr


def test_postgresql_takes_an_import(postgresql: NewDatabase, tmp_path: Path) -> None:
    url = postgresql()
    file = written(tmp_path, ASSISTANT, run_of(), step_of(), *(message(number) for number in (1, 2)))
    for said in ("Imported 1 assistant, 1 run, 2 messages, 1 run step.", "Imported nothing."):
        done = imported(url, file)
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, said), done.stderr


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_an_assistant_is_made_under_a_given_id(server: ServerProcess) -> None:
    api = server.api
    made = api.post("/assistants", {"model": "demo", "id": "asst_abc123"})
    assert made["id"] == "asst_abc123" and api.get("/assistants/asst_abc123") == made
    status, error = api.refused("POST", "/assistants", {"model": "demo", "id": "asst_abc123"})
    assert (status, error["param"], error["code"]) == (409, "id", "id_taken")
    with OpenAI(base_url=f"{api.url}/v1", api_key=TOKEN, max_retries=0) as openai:
        other = openai.beta.assistants.create(model="demo", extra_body={"id": "asst_by-openai_1"})
    assert other.id == "asst_by-openai_1"
    client = nbruns.Client(f"{api.url}/v1", TOKEN)
    assert client.assistants.create("demo", id="asst_by_nbruns").id == "asst_by_nbruns"
    with pytest.raises(nbruns.ConflictError, match="An assistant with the id 'asst_by_nbruns' exists"):
        client.assistants.create("demo", id="asst_by_nbruns")
