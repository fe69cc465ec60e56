"""The commands as users start them: what they print, what they leave, and one line when something is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import nbruns
from nbruns import cli

OPTIONS = {
    "serve": [
        "--data",
        "--host",
        "--port",
        "--database-url",
        "--no-token",
        "--allow-host",
        "--idle-timeout",
        "--run-lifetime",
        "--delta-lifetime",
        "--log-format",
        "--log-level",
        "--model",
        "--upstream",
        "--upstream-api",
        "--alias",
        "--embedding-model",
        "--blobs",
        "--code-interpreter",
        "--allow-origin",
        "--mcp",
    ],
    "stop": ["--data"],
    "lab": ["--data", "notebook"],
    "demo": ["--data"],
    "import": ["FILE", "--data", "--database-url"],
    "status": ["--data", "--json"],
    "runs": [
        *("--status", "--model", "--assistant", "--thread", "--limit"),
        *("--data", "--base-url", "--json"),
    ],
    "watch": ["RUN", "--thread", "--data", "--base-url", "--json"],
    "ask": ["TEXT", "--model", "--instructions", "--file", "--data", "--base-url", "--json"],
    "batch": [
        *("FILE", "--model", "--assistant", "--instructions", "--repeat", "--name", "--concurrency"),
        *("--runs-per-minute", "--data", "--base-url", "--json", "--output"),
    ],
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nbruns", *map(str, arguments)]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """What becomes of a program that calls `main` itself."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture(autouse=True)
def not_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRUNS_DATA", str(tmp_path / "default"))


@contextlib.contextmanager
def served(
    folder: Path, *options: object, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`nbruns serve`, once it has said where; gives the process, the base URL, and what it said."""
    process = subprocess.Popen(
        command("serve", "--data", folder, "--port", 0, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert said[0].startswith("Serving http://127.0.0.1:"), process.stderr.read()
        yield process, said[0].split()[1], "".join(said)
    finally:
        process.kill()
        process.communicate()


def is_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line that a command ended with, which says what is wrong and how to mend it."""
    assert (done.returncode, done.stdout) == (1, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("nbruns: ") and len(line) > 50
    return line


@pytest.mark.parametrize("name", OPTIONS)
def test_help_tells_of_every_option(name: str) -> None:
    done = run(name, "--help", COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, "")
    listed = {
        option for option in OPTIONS[name] if re.search(rf"^  {option}\b.* \w+", done.stdout, re.MULTILINE)
    }
    assert listed == {*OPTIONS[name]}
    assert set(re.findall(r"^  (--\w[\w-]*)", done.stdout, re.MULTILINE)) <= listed


def test_the_manual_tells_of_every_default_environment_variable_and_exit_code() -> None:
    told = run("serve", "--help", COLUMNS="200").stdout
    options = re.split(
        r"^  (?=--)", told.partition("where:")[2].partition("environment:")[0], flags=re.MULTILINE
    )[1:]
    without = [option.split()[0] for option in options if "default:" not in option]
    assert without == ["--model", "--alias", "--upstream"]  # none unless it is named
    source = "".join(path.read_text() for path in Path(nbruns.__file__).parent.rglob("*.py"))
    clients_and_tests = {"NBRUNS_BASE_URL", "NBRUNS_API_KEY"}
    assert {*re.findall(r"\bNBRUNS_[A-Z_]+\b", source)} - clients_and_tests <= {
        *re.findall(r"\bNBRUNS_[A-Z_]+", told)
    }
    assert all(f"{code} " in told.partition("exit codes:")[2] for code in (0, 1, 2, 130))


def test_help_tells_of_every_command() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert {*re.findall(r"^    (\w+) +\w", done.stdout, re.MULTILINE)} == {*OPTIONS}


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"nbruns {nbruns.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["sing"], ["serve", "--port", "many"], ["serve", "--por", "1"], ["demo", "x"]]
)
def test_what_is_no_command_is_answered_with_the_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: nbruns") and "Traceback" not in done.stderr


def test_serve_serves_until_it_is_told_to_stop_and_leaves_no_address(tmp_path: Path) -> None:
    with served(tmp_path) as (process, url, said):
        kept = json.loads((tmp_path / "server.json").read_text())
        assert kept == {"url": url.removesuffix("/v1"), "pid": process.pid, "version": nbruns.__version__}
        client = nbruns.Client(url, (tmp_path / "token").read_text())
        assert client.threads.create("Hello.").id.startswith("thread_")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert not (tmp_path / "server.json").exists()
        assert str(tmp_path / "token") in said
        assert "Traceback" not in err


def test_serve_ends_at_ctrl_c_without_a_traceback(tmp_path: Path) -> None:
    with served(tmp_path) as (process, _, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode in (0, 130)
        assert "Traceback" not in err
        assert not (tmp_path / "server.json").exists()


def test_ctrl_c_before_it_serves_is_130_without_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a database that never answers
        port = silent.getsockname()[1]
        options = ["--data", tmp_path, "--port", 0, "--database-url", f"postgresql://me@127.0.0.1:{port}/x"]
        process = subprocess.Popen(
            command("serve", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with asked_by_postgresql(silent):
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=30)
    assert (process.returncode, *said) == (130, "", "")
    assert not (tmp_path / "server.json").exists()


def asked_by_postgresql(listener: socket.socket) -> socket.socket:
    """A connection of a PostgreSQL client. The port may have been another server's before, whose clients still call."""
    listener.settimeout(60)
    while True:
        connection, _ = listener.accept()
        connection.settimeout(60)
        # https://www.postgresql.org/docs/current/protocol-message-formats.html: SSLRequest or GSSENCRequest
        if connection.recv(8, socket.MSG_WAITALL) in (
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\0\0\0\x08\x04\xd2\x16\x30",
        ):
            return connection
        connection.close()


def test_ctrl_c_while_the_program_loads_is_130_without_a_traceback() -> None:
    program = """if True:
        import os, signal, sys
        from nbruns.__main__ import main

        class Interrupts:
            @staticmethod
            def find_spec(name, *_):
                if name == "nbruns.cli":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Interrupts)
        sys.exit(main())
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_token_is_in_no_output(tmp_path: Path) -> None:
    with served(tmp_path) as (process, url, said):
        token = (tmp_path / "token").read_text()
        for given in (token, f"{token}x", ""):
            headers = {"Authorization": f"Bearer {given}"}
            requests.post(f"{url}/threads", headers=headers, json={"messages": 5}, timeout=10)
            requests.get(f"{url}/nowhere/{given}", headers=headers, timeout=10)
        process.terminate()
        out, err = process.communicate(timeout=30)
        assert token not in said + out + err
        assert [
            path.name for path in tmp_path.iterdir() if path.is_file() and token.encode() in path.read_bytes()
        ] == ["token"]


def test_the_log_is_lines_of_json_and_has_no_secret(tmp_path: Path) -> None:
    upstream = "http://somebody:in-the-url@127.0.0.1:1/v1"
    secrets = {"NBRUNS_UPSTREAM_API_KEY": "sk-upstream-key", "OPENAI_API_KEY": "sk-other-key"}
    options = ("--log-format", "json", "--upstream", upstream)
    with served(tmp_path, *options, **secrets) as (process, url, said):
        token = (tmp_path / "token").read_text()
        client = nbruns.Client(url, token)
        assistant = client.assistants.create(model="gpt-none", instructions="private instructions")
        thread = client.threads.create("private question")
        run = client.runs.wait(
            client.runs.create(thread, assistant, metadata={"k": "private label"}), timeout=60
        )
        assert run.status == "failed"  # there is no such upstream
        requests.get(
            f"{url}/threads/{token}?key={token}", headers={"Authorization": f"Bearer {token}"}, timeout=10
        )
        process.terminate()
        err = process.communicate(timeout=30)[1]
    lines = [json.loads(line) for line in err.splitlines()]
    created = next(line for line in lines if line.get("method") == "POST" and line["path"].endswith("/runs"))
    assert (created["run_id"], created["status"]) == (run.id, 200)
    assert {"time", "level", "ms", "request_id"} <= created.keys()
    for secret in (token, "in-the-url", "private", *secrets.values()):
        assert secret not in said + err


def test_a_log_level_leaves_requests_out(tmp_path: Path) -> None:
    with served(tmp_path, "--log-level", "warning") as (process, url, _):
        assert requests.get(f"{url}/threads", timeout=10).status_code == 401
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""


def test_the_database_can_be_named_in_the_environment(tmp_path: Path) -> None:
    with served(tmp_path, NBRUNS_DATABASE_URL=f"sqlite:///{tmp_path / 'other.sqlite'}"):
        assert (tmp_path / "other.sqlite").exists() and not (tmp_path / "nbruns.sqlite").exists()


def test_a_server_answers_to_its_own_name_and_to_those_that_it_is_told(tmp_path: Path) -> None:
    with served(tmp_path, "--allow-host", "Runs.example.org") as (_, url, _):
        health = url.removesuffix("v1") + "health"
        for host, status in (("runs.example.org", 200), ("runs.example.org:443", 200), ("evil.example", 403)):
            assert requests.get(health, headers={"Host": host}, timeout=10).status_code == status
        assert requests.get(health, timeout=10).status_code == 200


def test_without_a_token_whoever_reaches_the_port_is_let_in(tmp_path: Path) -> None:
    with served(tmp_path, "--no-token") as (_, url, said):
        assert requests.get(f"{url}/assistants", timeout=10).status_code == 200
        assert "No token is required." in said.splitlines()
        assert not (tmp_path / "token").exists()


def test_serve_ends_when_idle(tmp_path: Path) -> None:
    with served(tmp_path, "--idle-timeout", 1) as (process, _, _):
        assert process.wait(timeout=30) == 0


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = is_one_line(run("serve", "--data", tmp_path, "--port", port))
    assert f"Port {port} on 127.0.0.1 is in use" in line and "--port" in line
    assert not (tmp_path / "server.json").exists()


def test_stop_ends_the_server_of_a_folder(tmp_path: Path) -> None:
    with served(tmp_path) as (process, url, _):
        done = run("stop", "--data", tmp_path)
        assert done.returncode == 0 and f"Stopped: LocalServer({url.removesuffix('/v1')}, " in done.stdout
        assert process.wait(10) == 0
    again = run("stop", "--data", tmp_path)
    assert (again.returncode, again.stdout) == (0, f"No server is running for {tmp_path}.\n")


def test_a_folder_served_already_is_one_line(tmp_path: Path) -> None:
    with served(tmp_path) as (process, url, _):
        line = is_one_line(run("serve", "--data", tmp_path, "--port", 0))
        assert f"{tmp_path} is in use by the server at {url.removesuffix('/v1')}" in line and "--data" in line
        assert "nbruns stop" in line
        assert process.poll() is None
        assert (tmp_path / "server.json").exists()  # still the first one's


@pytest.mark.parametrize(
    "model", ["tiny", "tiny=", "=tiny.gguf", "tiny=/nowhere/tiny.gguf", f"tiny={__file__}", "tiny=/"]
)
def test_a_model_that_is_no_file_is_one_line(tmp_path: Path, model: str) -> None:
    line = is_one_line(run("serve", "--data", tmp_path, "--port", 0, "--model", model))
    assert f"--model {model}: Use NAME=FILE with a readable GGUF file." in line


UNREADABLE = """
import os, sys
import nbruns.server.models, nbruns.server.retrieval.embeddings  # while Python itself can be read
from nbruns.cli import main
if os.geteuid() == 0:
    os.seteuid(65534)  # root may read anything
code = main(sys.argv[1:])
os.seteuid(os.getuid())  # whatever measures coverage writes at the end
sys.exit(code)
"""


def test_a_model_that_is_somebody_elses_is_one_line() -> None:
    with tempfile.TemporaryDirectory() as reachable:  # pytest's own are not, for anybody but root
        os.chmod(reachable, 0o777)
        (model := Path(reachable) / "tiny.gguf").write_bytes(b"GGUF")
        model.chmod(0)
        options = ["serve", "--data", f"{reachable}/data", "--model", f"tiny={model}"]
        line = is_one_line(python(UNREADABLE, *options))
    assert f"--model tiny={model}: Use NAME=FILE with a readable GGUF file." in line


def test_a_model_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert cli._named_file("tiny=~/tiny.gguf") == ("tiny", (tmp_path / "tiny.gguf").resolve())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", 65536], "--port 65536: Not a port. Use 0 to 65535"),
        (["--port", -1], "--port -1: Not a port. Use 0 to 65535"),
        (["--host", "192.0.2.1"], "Name another --host or --port"),
        (
            ["--upstream", "example.org/v1"],
            "--upstream example.org/v1…: use a URL that begins with http:// or https://",
        ),
        (["--upstream", "http://"], "The upstream must be the URL of an endpoint"),
        (["--upstream-api", "completions"], "--upstream-api completions: Use chat or responses"),
        (
            ["--database-url", "mysql://me:secret@db/x"],
            "--database-url mysql…: use a URL that begins with sqlite:// or postgresql://",
        ),
        (["--database-url", "postgresql://me:secret@127.0.0.1:1/x"], "cannot be opened for writing"),
        (["--data", "/dev/null"], "/dev/null: File exists. Pass another folder"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(tmp_path: Path, options: list[object], said: str) -> None:
    line = is_one_line(run("serve", "--data", tmp_path, "--port", 0, *options))
    assert said in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("missing", "arguments", "remedy"),
    [
        ("sqlalchemy", ["serve", "--port", "0"], "'sqlalchemy>="),
        ("uvicorn", ["serve", "--port", "0"], "'uvicorn>="),
        (
            "openai",
            ["serve", "--port", "0", "--upstream", "http://127.0.0.1:9/v1"],
            "pip install 'openai[aiohttp]>=",
        ),
        ("jupyterlab", ["lab"], "'jupyterlab>="),
    ],
)
def test_a_missing_extra_is_one_line(tmp_path: Path, missing: str, arguments: list[str], remedy: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from nbruns.cli import main; sys.exit(main())"
    line = is_one_line(python(code, *arguments, "--data", tmp_path))
    assert "pip install" in line and remedy in line
    assert "nbruns[" not in line  # it is in no index


@pytest.mark.parametrize("bytes_per_file", [0, 60, 4096, 20_000])
def test_a_disk_that_is_full_at_the_first_start_is_one_line(tmp_path: Path, bytes_per_file: int) -> None:
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_per_file}, {bytes_per_file}))"
    done = python(
        f"{code}; from nbruns.cli import main; sys.exit(main())", "serve", "--data", tmp_path, "--port", "0"
    )
    line = is_one_line(done)
    assert "is not writable" in line or "cannot be opened for writing" in line


def test_an_empty_token_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    line = is_one_line(run("serve", "--data", tmp_path, "--port", 0))
    assert line.endswith("token contains no token. Delete it; the next start creates a new one.")


def test_another_name_of_a_served_database_is_one_line(tmp_path: Path) -> None:
    with served(tmp_path / "one"):
        for link in (os.link, os.symlink):
            other = tmp_path / link.__name__
            link(tmp_path / "one" / "nbruns.sqlite", other)
            line = is_one_line(
                run("serve", "--data", tmp_path / "two", "--port", 0, "--database-url", f"sqlite:///{other}")
            )
            assert "more than one name" in line or "Another server is using the database" in line
            other.unlink()


def test_a_run_expires_when_the_operator_says(tmp_path: Path) -> None:
    with served(tmp_path, "--run-lifetime", "2") as (_, url, _):
        headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text()}"}
        tool = {"type": "function", "function": {"name": "ask", "parameters": {"type": "object"}}}
        body = {"model": "demo", "instructions": "Ask.", "tools": [tool]}
        assistant = requests.post(f"{url}/assistants", headers=headers, json=body).json()
        asked = {
            "assistant_id": assistant["id"],
            "thread": {"messages": [{"role": "user", "content": "Ask!"}]},
        }
        made = requests.post(f"{url}/threads/runs", headers=headers, json=asked).json()
        assert made["expires_at"] - made["created_at"] == 2
    refused = run("serve", "--run-lifetime", "0")
    assert refused.returncode == 2 and "from 1 to" in refused.stderr


def test_a_broken_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "nbruns.sqlite").write_bytes(b"This is no database. " * 1000)
    line = is_one_line(run("serve", "--data", tmp_path, "--port", 0))
    assert str(tmp_path / "nbruns.sqlite") in line and "--database-url" in line


#: JupyterLab is replaced by a program that says what it was told to open.
LAB = """
import os, sys, types
sys.modules["jupyterlab"] = types.ModuleType("jupyterlab")
os.execve = lambda program, arguments, environment: print("opens", arguments[-1])
import nbruns
from nbruns.cli import main
print("nbruns is in", nbruns.__file__)
sys.exit(main())
"""
NOTEBOOKS = sorted((Path(nbruns.__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))


def test_lab_opens_copies_of_the_notebooks_and_keeps_what_was_changed(tmp_path: Path) -> None:
    changed = tmp_path / "nbruns-notebooks" / "02_usage.ipynb"
    for _ in range(2):
        done = python(LAB, "lab", "--data", tmp_path / "data", cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "opens nbruns-notebooks/01_tour.ipynb", done
        changed.write_text("mine")
    assert sorted(each.name for each in changed.parent.iterdir()) == [each.name for each in NOTEBOOKS]
    assert changed.read_text() == "mine"
    run("stop", "--data", tmp_path / "data")


def test_the_wheel_carries_the_notebooks_that_lab_opens(tmp_path: Path) -> None:
    """The wheel unpacked is what pip installs."""
    root = Path(nbruns.__file__).parent.parent
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = python(LAB, "lab", "--data", tmp_path / "data", cwd=tmp_path, env=environment)
    assert f"nbruns is in {installed}" in done.stdout, done
    for notebook in NOTEBOOKS:
        assert (tmp_path / "nbruns-notebooks" / notebook.name).read_bytes() == notebook.read_bytes()
    run("stop", "--data", tmp_path / "data")


def test_lab_says_that_a_notebook_is_not_there(tmp_path: Path) -> None:
    assert "No notebook or folder" in is_one_line(run("lab", "--data", tmp_path, tmp_path / "none.ipynb"))


def test_a_database_that_is_broken_further_down_is_one_line(tmp_path: Path) -> None:
    """Its tables are listed, but the one of the runs can't be read."""
    file = tmp_path / "nbruns.sqlite"
    run("serve", "--data", tmp_path, "--port", 0, "--idle-timeout", 0.1)
    with contextlib.closing(sqlite3.connect(file)) as db:
        [size] = db.execute("PRAGMA page_size").fetchone()
        pages = db.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'runs'").fetchall()
    with file.open("r+b") as opened:
        for [page] in pages:
            opened.seek((page - 1) * size)
            opened.write(b"\xff" * size)
    line = is_one_line(run("serve", "--data", tmp_path, "--port", 0, "--idle-timeout", 0.1))
    assert "database disk image is malformed" in line and "--database-url" in line
