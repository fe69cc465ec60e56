"""`code_interpreter` on the server: the model's code runs, its outputs are steps, files, images and links."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from served import WEATHER, Api, Scripts, ServerProcess
from slow_server import TOKEN
from test_files import content, uploaded
from test_kills import assert_same_state

from nbruns.errors import SetupError
from nbruns.server import hosted
from nbruns.server.hosted.code_interpreter import CodeInterpreter
from nbruns.server.interpreter import modes, sandbox
from nbruns.server.models import Finish, TextDelta, ToolCallDelta, usage

JSON = dict[str, Any]
TOOL: JSON = {"type": "code_interpreter"}
CALLED = Finish("tool_calls", usage(20, 10))
CSV = b"city,rain\nOslo,8\nRome,2\nBergen,14\n"
#: A PNG of one pixel, so that most tests need no matplotlib.
PIXEL = (
    "from IPython.display import Image, display\nimport base64\ndisplay(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUg"
    "AAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')))"
)

pytestmark = pytest.mark.usefixtures("sandbox")


def running(code: str, id: str = "call_1") -> tuple[Any, ...]:
    """A turn that calls the tool, its arguments in pieces."""
    arguments = json.dumps({"code": code})
    pieces = [arguments[at : at + 7] for at in range(0, len(arguments), 7)]
    call = (ToolCallDelta(0, id, "code_interpreter"), *(ToolCallDelta(0, arguments=each) for each in pieces))
    return (*call, CALLED)


def saying(text: str) -> tuple[Any, ...]:
    return (TextDelta(text), Finish("stop", usage(30, 5)))


DONE = saying("Done.")


def run_on(api: Api, thread: str, assistant: str, **params: Any) -> tuple[JSON, list[Any]]:
    """A run that has completed, and its events."""
    events = list(api.stream(f"/threads/{thread}/runs", {"assistant_id": assistant, **params}))
    run = api.get(api.run_path(events[-2].data))
    assert run["status"] == "completed", run["last_error"]
    return run, events


def calls_of(api: Api, run: JSON) -> list[JSON]:
    """What the steps of a run show of its calls."""
    steps = api.get(f"{api.run_path(run)}/steps", order="asc")["data"]
    return [call[call["type"]] for step in steps for call in step["step_details"].get("tool_calls", [])]


def logs_of(api: Api, run: JSON) -> str:
    outputs = [output for call in calls_of(api, run) for output in call["outputs"]]
    return "".join(output["logs"] for output in outputs if output["type"] == "logs")


def answer_of(api: Api, run: JSON) -> JSON:
    message: JSON = api.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"][0]
    return message


def test_code_runs_and_its_images_and_files_are_in_the_message(api: Api, script: Scripts) -> None:
    code = f"print('é', 6 * 7)\n{PIXEL}\nopen('/mnt/data/a b.txt', 'w').write('hello');"
    text = "See [it](sandbox:/mnt/data/a b.txt), not sandbox:/mnt/data/a b.txt.gz or sandbox:/mnt/data/x."
    said = script(running(code), saying(text))
    run, events = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    assert_same_state(api, run, events)
    [call] = calls_of(api, run)
    logs, image = call["outputs"]
    assert (call["input"], logs) == (code, {"type": "logs", "logs": "é 42\n"})
    message = answer_of(api, run)
    picture, said_text = message["content"]
    assert picture == {"type": "image_file", "image_file": {"file_id": image["image"]["file_id"]}}
    [link] = said_text["text"]["annotations"]
    assert (link["type"], link["text"]) == ("file_path", "sandbox:/mnt/data/a b.txt")
    assert text[link["start_index"] : link["end_index"]] == link["text"]
    written = api.get(f"/files/{link['file_path']['file_id']}")
    assert (written["purpose"], written["filename"], content(api, written)) == (
        "assistants_output",
        "a b.txt",
        b"hello",
    )
    drawn = api.get(f"/files/{picture['image_file']['file_id']}")
    assert content(api, drawn).startswith(b"\x89PNG") and drawn["filename"].endswith(".png")
    assert said.model.prompts[-1].messages[-1]["content"] == (
        "é 42\n[An image, which the user sees]\n/mnt/data/a b.txt was written."
    )
    deltas = [event.data["delta"]["content"][0] for event in events if event.name == "thread.message.delta"]
    assert [(each["index"], each["type"]) for each in deltas] == [(0, "image_file"), (1, "text")]


def test_the_code_is_streamed_while_the_model_writes_it(api: Api, script: Scripts) -> None:
    code = 'print("\\n\\u00e9\\U0001f600")\n# \\ é 😀 "quoted"\n'
    said = script(running(code), DONE)
    _, events = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    deltas = [
        event.data["delta"]["step_details"]["tool_calls"][0]["code_interpreter"]
        for event in events
        if event.name == "thread.run.step.delta"
    ]
    assert deltas[0] == {"input": "", "outputs": []}
    assert len(deltas) > 5 and "".join(delta.get("input", "") for delta in deltas) == code
    assert deltas[-1] == {"outputs": [{"index": 0, "type": "logs", "logs": "\né😀\n"}]}


def test_variables_and_files_stay_from_run_to_run(api: Api, script: Scripts) -> None:
    said = script(
        running("x = 41; open('/mnt/data/kept.txt', 'w').write('1')"), DONE,
        running("print(x + 1, open('/mnt/data/kept.txt').read())"), saying("sandbox:/mnt/data/kept.txt"),
    )  # fmt: skip
    assistant, thread = said.assistant(tools=[TOOL]), api.thread_with()
    run_on(api, thread, assistant)
    api.post(f"/threads/{thread}/messages", {"role": "user", "content": "And now?"})
    run, _ = run_on(api, thread, assistant)
    assert logs_of(api, run) == "42 1\n"
    # The link is to a file of the earlier run.
    assert answer_of(api, run)["content"][0]["text"]["annotations"][0]["type"] == "file_path"


def test_files_of_assistant_thread_and_message_are_there(api: Api, script: Scripts) -> None:
    ids = [uploaded(api, CSV, f"{name}.csv")["id"] for name in ("assistants", "threads", "messages")]
    said = script(
        running("import os\nprint(sorted(os.listdir('/mnt/data')), open('messages.csv').read())"), DONE
    )
    assistant = said.assistant(tools=[TOOL], tool_resources={"code_interpreter": {"file_ids": ids[:1]}})
    attachments = [{"file_id": ids[2], "tools": [TOOL]}]
    message = {"role": "user", "content": "Sum it up", "attachments": attachments}
    resources = {"code_interpreter": {"file_ids": ids[1:2]}}
    thread = api.post("/threads", {"messages": [message], "tool_resources": resources})["id"]
    run, _ = run_on(api, thread, assistant)
    names = sorted([*ids, "assistants.csv", "threads.csv", "messages.csv"])
    assert logs_of(api, run) == f"{names} {CSV.decode()}\n"
    description = said.model.prompts[0].tools[0]["function"]["description"]
    assert "/mnt/data/assistants.csv, /mnt/data/threads.csv, /mnt/data/messages.csv" in description


def test_an_error_is_what_the_model_reads(api: Api, script: Scripts) -> None:
    said = script(running("1 / 0"), DONE)
    run, _ = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    assert "ZeroDivisionError: division by zero" in logs_of(api, run)
    assert "\x1b" not in logs_of(api, run)
    assert "ZeroDivisionError" in said.model.prompts[-1].messages[-1]["content"]


def test_long_output_is_shortened_for_the_model(api: Api, script: Scripts) -> None:
    said = script(running("print('a' * 50_000 + 'z' * 50_000)"), DONE)
    run, _ = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    assert len(logs_of(api, run)) == 100_001
    read = said.model.prompts[-1].messages[-1]["content"]
    assert read.startswith("aaa") and read.endswith("zzz") and "80,000 characters are left out" in read


@pytest.mark.parametrize(
    ("arguments", "logs"),
    [("print(1)", "1\n"), ('{"python": "print(2)"}', "2\n"), ("{}", ""), ('{"code": ', ""), ('"print(3)"', "3\n"),
     ('{"code": 5}', ""), ("[" * 5_000, None), ('{"code": "print(4)\n"}', "4\n")],
)  # fmt: skip
def test_arguments_that_are_not_as_declared_are_read_or_answered(
    api: Api, script: Scripts, arguments: str, logs: str | None
) -> None:
    said = script((ToolCallDelta(0, "call_1", "code_interpreter", arguments), CALLED), DONE)
    run, events = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    assert_same_state(api, run, events)
    if logs is not None:
        assert logs_of(api, run) == logs
    if not logs:
        assert said.model.prompts[-1].messages[-1]["content"]


def test_a_kernel_that_dies_harms_no_other_run(api: Api, script: Scripts) -> None:
    other = script(running("import time; time.sleep(0.5); print('fine')"), DONE)
    beside = api.post(f"/threads/{api.thread_with()}/runs", {"assistant_id": other.assistant(tools=[TOOL])})
    said = script(
        running("import os; x = 1; os._exit(1)"), running("print('x' in globals())", "call_2"), DONE
    )
    run, _ = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    first, second = calls_of(api, run)
    assert "The Python process ended. Its variables are lost" in first["outputs"][0]["logs"]
    assert second["outputs"][0]["logs"] == "False\n"
    assert "A new session was started: variables" in said.model.prompts[-1].messages[-1]["content"]
    assert logs_of(api, api.until(beside, "completed")) == "fine\n"


def test_a_cancelled_run_stops_its_code(api: Api, script: Scripts) -> None:
    said = script(running("while True: pass"), DONE)
    assistant, thread = said.assistant(tools=[TOOL]), api.thread_with()
    run = api.post(f"/threads/{thread}/runs", {"assistant_id": assistant})
    for event in api.rejoin(run):  # until the code has been written
        if event.name == "thread.run.step.delta" and len(said.model.prompts) == 1:
            break
    api.post(f"{api.run_path(run)}/cancel")
    assert api.until(run, "cancelled")["status"] == "cancelled"
    said = script(running("print(1)"), DONE)
    run, _ = run_on(api, thread, assistant, model=said.name)
    assert logs_of(api, run).endswith("1\n")


def test_a_deleted_thread_ends_its_session(api: Api, script: Scripts, server: Any) -> None:
    said = script(running("x = 1"), DONE)
    assistant, thread = said.assistant(tools=[TOOL]), api.thread_with()
    run_on(api, thread, assistant)
    slots = server._settings.interpreter._slots
    assert (thread, assistant) in slots
    api.delete(f"/threads/{thread}")
    assert (thread, assistant) not in slots


WHERE: list[tuple[str, Any, str]] = [
    ("/assistants", lambda tool: {"model": "demo", "tools": [tool]}, "tools[0].type"),
    ("/assistants/{assistant}", lambda tool: {"tools": [tool]}, "tools[0].type"),
    ("/threads/{thread}/runs", lambda tool: {"assistant_id": "{plain}", "tools": [tool]}, "tools[0].type"),
    (
        "/threads/{thread}/runs",
        lambda tool: {"assistant_id": "{plain}", "tool_choice": tool},
        "tool_choice.type",
    ),
    ("/threads/{thread}/runs", lambda tool: {"assistant_id": "{assistant}"}, "tools[0].type"),
    ("/threads/runs", lambda tool: {"assistant_id": "{plain}", "tools": [tool]}, "tools[0].type"),
    ("/threads/runs", lambda tool: {"assistant_id": "{assistant}"}, "tools[0].type"),
    (
        "/threads/{thread}/messages",
        lambda tool: {"role": "user", "content": "x", "attachments": [{"file_id": "f", "tools": [tool]}]},
        "attachments[0].tools[0].type",
    ),
    (
        "/threads",
        lambda tool: {
            "messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "f", "tools": [tool]}]}]
        },
        "messages[0].attachments[0].tools[0].type",
    ),
]


@pytest.mark.parametrize(("path", "body", "param"), WHERE)
def test_without_an_interpreter_the_tool_is_refused_with_three_ways_out(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, body: Any, param: str
) -> None:
    known = {
        "assistant": api.post("/assistants", {"model": "demo", "tools": [TOOL]})["id"],
        "plain": api.post("/assistants", {"model": "demo"})["id"],
        "thread": api.thread_with(),
    }
    monkeypatch.setitem(hosted.REFUSED, "code_interpreter", modes.ways_out("bubblewrap is not installed"))
    sent = body(TOOL)
    if "assistant_id" in sent:
        sent["assistant_id"] = sent["assistant_id"].format(**known)
    status, error = api.refused("POST", path.format(**known), sent)
    assert (status, error["code"], error["param"]) == (400, "unsupported_tool", param)
    assert error["message"] == f"'{param.removesuffix('.type')}': {hosted.explanation('code_interpreter')}"
    for way in ("bubblewrap is not installed", "Linux, bubblewrap", "--code-interpreter URL", "unsandboxed"):
        assert way in error["message"]


def test_which_interpreter_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = modes.interpreter(None)
    assert found is not None and found.mode == "bwrap"
    assert modes.interpreter("off") is None
    for wrong in ("docker", "ftp://x", "http://", "http://user:secret@x", "http://x:99999"):
        with pytest.raises(SetupError, match="--code-interpreter"):
            modes.interpreter(wrong)
    monkeypatch.setenv("PATH", "/nowhere")
    assert modes.interpreter(None) is None
    with pytest.raises(SetupError, match="bwrap\\) is not installed"):
        modes.interpreter("bwrap")
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    assert "Linux only" in (sandbox.why_not() or "")


def test_a_model_that_cannot_call_tools_writes_a_block(api: Api, script: Scripts) -> None:
    block = "Let me count.\n```python\nprint(6 * 7)\n```\n"
    said = script(saying(block), saying("It is 42."))
    said.model.calls_tools = False  # type: ignore[attr-defined]
    run, events = run_on(
        api, api.thread_with(), said.assistant(tools=[TOOL, WEATHER], instructions="Be brief.")
    )
    steps, messages = assert_same_state(api, run, events)
    assert [step["type"] for step in steps] == ["message_creation", "tool_calls", "message_creation"]
    assert calls_of(api, run) == [{"input": "print(6 * 7)\n", "outputs": [{"type": "logs", "logs": "42\n"}]}]
    assert [message["content"][0]["text"]["value"] for message in messages] == [block, "It is 42."]
    first, second = said.model.prompts
    assert [tool["function"]["name"] for tool in first.tools] == ["get_weather"]
    assert "```python" in first.messages[0]["content"]
    assert second.messages[-1]["content"] == "42"


def test_blocks_are_run_only_so_often(api: Api, script: Scripts) -> None:
    said = script(*[saying("```python\nprint(1)\n```")] * 5)
    said.model.calls_tools = False  # type: ignore[attr-defined]
    run, _ = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    assert len(calls_of(api, run)) == 4


def test_a_model_with_tools_may_write_blocks_that_are_not_run(api: Api, script: Scripts) -> None:
    said = script(saying("```python\nprint(1)\n```"))
    run, _ = run_on(api, api.thread_with(), said.assistant(tools=[TOOL]))
    assert calls_of(api, run) == []


def test_killed_in_the_middle_the_run_goes_on_in_a_new_kernel_and_the_model_is_told(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    server = ServerProcess(tmp_path / "db", "--blobs", str(tmp_path / "files"), "--words", "2")
    assistant = server.api.post("/assistants", {"model": "coder", "tools": [TOOL]})["id"]
    run = server.api.post(f"/threads/{server.api.thread_with()}/runs", {"assistant_id": assistant})
    while len(calls_of(server.api, run)) < 2:  # the first has been answered, the second is running
        time.sleep(0.05)
    time.sleep(0.5)
    server.kill()
    server = ServerProcess(tmp_path / "db", "--blobs", str(tmp_path / "files"), "--words", "2")
    done = server.api.until(run, "completed", "failed")
    assert done["status"] == "completed", done["last_error"]
    first, second = calls_of(server.api, done)
    assert first["outputs"] == [{"type": "logs", "logs": "first\n"}]
    logs = "".join(output["logs"] for output in second["outputs"])
    assert "A new session was started: variables and imports of earlier calls are gone" in logs
    assert "x False kept" in logs
    assert_same_state(server.api, done, list(server.api.rejoin(done)))
    outputs = server.api.get("/files", purpose="assistants_output")["data"]
    assert [each["filename"] for each in outputs] == ["kept.txt"]
    assert server.stop() == 0


def test_demo_reads_a_table_draws_it_and_shows_what_python_gave(api: Api, url: str) -> None:
    """A flow of the cookbook, with OpenAI's client: upload, ask, fetch the image and the file."""
    pytest.importorskip("matplotlib")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN)
    file = client.files.create(file=("rain.csv", CSV), purpose="assistants")
    assistant = client.beta.assistants.create(model="demo", tools=[{"type": "code_interpreter"}])
    thread = client.beta.threads.create(
        messages=[
            {
                "role": "user",
                "content": "Plot the rain in each city.",
                "attachments": [{"file_id": file.id, "tools": [{"type": "code_interpreter"}]}],
            }
        ]
    )
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "completed", run.last_error
    [message] = client.beta.threads.messages.list(thread.id, run_id=run.id).data
    image, text = message.content
    assert image.type == "image_file" and text.type == "text"
    assert client.files.content(image.image_file.file_id).read().startswith(b"\x89PNG")
    assert "3 rows, 2 columns" in text.text.value and "Bergen    14" in text.text.value
    [link] = text.text.annotations
    assert link.type == "file_path"
    assert b"mean,8.0" in client.files.content(link.file_path.file_id).read()
    [_, step] = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id).data
    assert step.step_details.type == "tool_calls"
    call = step.step_details.tool_calls[0]
    assert call.type == "code_interpreter" and "read_csv('/mnt/data/rain.csv')" in call.code_interpreter.input


@pytest.mark.parametrize(
    ("question", "logs"),
    [("What is 17 * (3 + 4)?", "119\n"), ("Run this:\n```python\nprint('hi')\n```", "hi\n"), ("Hello", "")],
)
def test_demo_runs_code_where_there_is_something_to_run(api: Api, question: str, logs: str) -> None:
    assistant = api.post("/assistants", {"model": "demo", "tools": [TOOL]})["id"]
    run, _ = run_on(api, api.thread_with(question), assistant)
    assert logs_of(api, run) == logs


def test_arguments_are_shown_as_far_as_they_have_come() -> None:
    tool, code = CodeInterpreter(), 'a = "\\n" # \\ é 😀\tend'
    for arguments in (json.dumps({"code": code}), json.dumps({"code": code}, ensure_ascii=False, indent=1)):
        shown = [tool.describe(arguments[:end])["input"] for end in range(len(arguments) + 1)]
        assert shown[-1] == code
        assert all(later.startswith(earlier) for earlier, later in pairwise(shown))


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Jupyter server with the token `letmein`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("jupyter")
    options = [f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=letmein",
               "--no-browser", "--allow-root"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                requests.get(f"{url}/api", timeout=5)
                break
            except requests.ConnectionError:
                assert process.poll() is None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("mode", ["jupyter", "unsandboxed"])
def test_outside_the_sandbox_a_session_has_a_folder_of_its_own(
    mode: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from test_sandbox import file, said

    monkeypatch.setenv("NBRUNS_JUPYTER_TOKEN", "letmein")
    found = modes.interpreter(request.getfixturevalue("jupyter") if mode == "jupyter" else mode)
    assert found is not None
    interpreter = found
    interpreter.cell_seconds = 20

    async def use() -> None:
        key = ("thread", "assistant")
        code = (
            "import os\nprint(open('/mnt/data/a.csv').read(), os.listdir('/mnt/data'))\n"
            "open('/mnt/data/out', 'w').write('1')\nx = 1"
        )
        done = await interpreter.execute(key, code, [file("file-1", "a.csv", CSV)])
        assert CSV.decode() in said(done) and "file-1" in said(done), said(done)
        assert [each.path for each in done.files] == ["/mnt/data/out"]
        assert [each.content.read() for each in done.files] == [b"1"]
        done = await interpreter.execute(key, "print(os.getcwd(), x)\n" + PIXEL)
        assert said(done) == "/mnt/data 1\n" and len(done.outputs) == 2
        assert "NameError" in said(await interpreter.execute(("other", "a"), "x"))
        interpreter.cell_seconds = 0.5
        assert (await interpreter.execute(key, "while True: pass")).notes[0].endswith("was interrupted.")
        interpreter.cell_seconds = 20
        assert said(await interpreter.execute(key, "print(x)")) == "1\n"
        [note] = (await interpreter.execute(key, "os.kill(os.getpid(), 9)")).notes
        assert "The Python process ended" in note
        done = await interpreter.execute(key, "print(1)")
        assert (done.is_new, said(done)) == (True, "1\n")
        await interpreter.close()

    asyncio.run(use())


def test_a_jupyter_server_that_refuses_is_words_for_the_model(
    jupyter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setenv("NBRUNS_JUPYTER_TOKEN", "wrong")
    for url, words in (
        (jupyter, "Set its token in NBRUNS_JUPYTER_TOKEN"),
        ("http://127.0.0.1:9", "started no kernel"),
    ):
        interpreter = modes.interpreter(url)
        assert interpreter is not None
        done = asyncio.run(interpreter.execute(("t", "a"), "1"))
        assert words in done.notes[0] and "wrong" not in done.notes[0]
