"""`local()` on real processes: one server per folder, joined, ended, killed, replaced, and its files private."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from filelock import FileLock

import nbruns
from nbruns import local_server
from nbruns.local_server import LocalServer, data_folder, is_serving, serving, tell_address, token_of

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for data that is not there yet; whatever serves it in the end is ended."""
    folder = tmp_path / "data"
    yield folder
    if folder.is_dir():
        LocalServer(folder, "").stop()


def address(folder: Path) -> dict[str, object]:
    return json.loads((folder / "server.json").read_text())


def until(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_second_local_joins_the_first_and_after_a_stop_the_next_keeps_the_data(folder: Path) -> None:
    first, second = nbruns.local(folder), nbruns.local(str(folder))
    assert first.server.url == second.server.url == address(folder)["url"]
    assert address(folder)["pid"] != os.getpid()
    thread = first.threads.create("Remember me.")
    assert second.threads.retrieve(thread.id) == thread

    second.server.stop()
    assert not is_serving(folder)
    assert not (folder / "server.json").exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{first.server.url}/health", timeout=5)
    second.server.stop()  # a second time is no error

    third = nbruns.local(folder)
    assert third.api_key == first.api_key
    assert list(third.messages.list(thread)["text"]) == ["Remember me."]


def test_a_server_that_was_killed_is_replaced(folder: Path) -> None:
    first = nbruns.local(folder)
    thread = first.threads.create("Remember me.")
    killed = address(folder)["pid"]
    assert isinstance(killed, int) and killed > 1  # a signal to less would go to many processes
    os.kill(killed, signal.SIGKILL)
    until(lambda: not is_serving(folder))

    second = nbruns.local(folder)
    assert address(folder)["pid"] != killed
    assert second.threads.retrieve(thread.id) == thread
    first.server.stop()  # ends whoever serves the folder now, not the number of a process that is gone
    assert not is_serving(folder)


@pytest.mark.parametrize(
    ("home", "folder", "shown"),
    [
        ("/people/ann", "/people/ann/.local/share/nbruns", "~/.local/share/nbruns"),
        ("/people/ann", "/people/anna/nbruns", "/people/anna/nbruns"),
        ("/", "/var/lib/nbruns", "/var/lib/nbruns"),
    ],
)
def test_whose_home_it_is_is_not_shown(
    home: str, folder: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    server = LocalServer(Path(folder), "http://127.0.0.1:1")
    assert repr(server) == f"LocalServer(http://127.0.0.1:1, data in {shown})"


def test_the_token_and_the_data_are_for_their_owner_alone(tmp_path: Path, folder: Path) -> None:
    client = nbruns.local(folder)
    client.threads.create("Private.")
    assert mode(folder) == 0o700
    assert mode(folder / "token") == 0o600
    kept = (folder / "token").read_text()
    assert client.api_key == kept and len(kept) > 40
    assert kept not in (folder / "server.log").read_text() + (folder / "server.json").read_text() + repr(
        client.server
    )
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        assert (
            requests.get(f"{client.server.url}/v1/assistants", headers=headers, timeout=10).status_code == 401
        )


def test_the_files_are_private_in_a_folder_that_others_may_enter(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    nbruns.local(folder).threads.create("Private.")
    secret = {
        path.name: oct(mode(path)) for path in folder.iterdir() if path.stat().st_size and mode(path) & 0o077
    }
    assert secret == {}
    assert {"token", "server.log", "nbruns.sqlite"} <= {path.name for path in folder.iterdir()}


def test_two_programs_that_start_at_once_start_one_server(folder: Path) -> None:
    code = "import nbruns, sys; print(nbruns.local(sys.argv[1]).server.url)"
    programs = [python(code, folder) for _ in range(3)]
    said = [program.communicate(timeout=90) for program in programs]
    assert [program.returncode for program in programs] == [0, 0, 0], said
    assert {out.strip() for out, _ in said} == {address(folder)["url"]}


def test_the_server_outlives_the_program_that_started_it_and_ends_when_idle(folder: Path) -> None:
    started = python("import nbruns, sys; nbruns.local(sys.argv[1], idle_timeout=2); print('on')", folder)
    assert started.communicate(timeout=60)[0].strip() == "on"
    assert requests.get(f"{address(folder)['url']}/health", timeout=10).json()["status"] == "ok"
    until(lambda: not is_serving(folder))
    assert not (folder / "server.json").exists()


def test_local_waits_for_a_server_that_is_starting(folder: Path) -> None:
    serve = python(
        "from nbruns.cli import main; main(['serve', '--port', '0', '--data', __import__('sys').argv[1]])",
        folder,
    )
    until(lambda: folder.is_dir() and is_serving(folder))  # it holds the folder, and does not answer yet
    client = nbruns.local(folder)
    assert address(folder)["pid"] == serve.pid
    client.server.stop()
    assert serve.wait(timeout=30) == 0


def test_a_server_of_another_version_is_replaced(folder: Path) -> None:
    first = nbruns.local(folder)
    old = address(folder)
    (folder / "server.json").write_text(json.dumps(old | {"version": "0.0.1"}))
    second = nbruns.local(folder)
    assert address(folder)["version"] == nbruns.__version__
    assert address(folder)["pid"] != old["pid"]
    assert second.api_key == first.api_key


@pytest.mark.parametrize("pid", [-1, 0, 1, True, None, "5", 5.0])
def test_an_address_whose_process_is_no_single_one_is_no_address(tmp_path: Path, pid: object) -> None:
    # A signal to 0 or -1 goes to many processes. Only the reading is tested: nothing is signalled here.
    (tmp_path / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": pid}))
    assert local_server._address(tmp_path) is None


def test_the_folder_is_named_by_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRUNS_DATA", str(folder))
    assert data_folder() == folder.resolve()
    assert data_folder(folder / "other") == folder.resolve() / "other"


def test_a_folder_is_served_once(tmp_path: Path) -> None:
    with serving(tmp_path) as file:
        tell_address(file, "http://127.0.0.1:1")
        with pytest.raises(
            nbruns.SetupError, match=r"is in use by the server at http://127\.0\.0\.1:1\. Use that"
        ):
            with serving(tmp_path):
                pass
        assert address(tmp_path)["pid"] == os.getpid()
    assert not is_serving(tmp_path)
    assert not (tmp_path / "server.json").exists()


def test_a_token_is_made_once_however_many_ask_for_it(tmp_path: Path) -> None:
    code = "import pathlib, sys; from nbruns.local_server import token_of; print(token_of(pathlib.Path(sys.argv[1])))"
    programs = [python(code, tmp_path) for _ in range(4)]
    tokens = {program.communicate(timeout=60)[0].strip() for program in programs}
    assert tokens == {token_of(tmp_path)} != {""}
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("kept", ["", "\n", " \t\n", "né", "a\nb"])
def test_a_file_without_a_token_is_said_with_the_way_out(folder: Path, kept: str) -> None:
    folder.mkdir()
    (folder / "token").write_text(kept)
    with pytest.raises(nbruns.SetupError, match=r"token contains no token\. Delete it"):
        nbruns.local(folder)
    assert not is_serving(folder)
    (folder / "token").unlink()
    assert nbruns.local(folder).threads.create().id


def test_a_full_disk_is_said_in_a_line(folder: Path) -> None:
    """No byte can be written: what a full disk does, too."""
    code = """
import resource, sys, nbruns
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try: nbruns.local(sys.argv[1])
except nbruns.SetupError as error: print(error)
"""
    process = python(code, folder)
    told, errors = process.communicate(timeout=60)
    assert errors == ""
    assert "is not writable" in told and "Free some space" in told
    assert not list(folder.glob("token*"))


def test_a_file_in_the_folders_place_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(nbruns.SetupError, match=r"^\S+file: File exists. Pass another folder with --data"):
        nbruns.local(tmp_path / "file")
    with pytest.raises(nbruns.SetupError, match=r"^\S+deeper: Not a directory. Pass another folder"):
        nbruns.local(tmp_path / "file" / "deeper")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is waited for is waited for half a second, not a minute."""
    monkeypatch.setattr(local_server, "_START_TIMEOUT", 0.5)
    monkeypatch.setattr(local_server, "_STOP_TIMEOUT", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_folder_that_is_held_without_an_address_is_said(tmp_path: Path) -> None:
    with serving(tmp_path):
        with pytest.raises(nbruns.SetupError, match=r"holds .*, but has not published its address. Stop it."):
            nbruns.local(tmp_path)


@pytest.mark.usefixtures("impatient")
def test_another_program_that_never_ends_starting_the_server_is_said(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "starting.lock"),
        pytest.raises(nbruns.SetupError, match=r"has been starting the server of .* Stop that program"),
    ):
        nbruns.local(tmp_path)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("answers", [None, b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"])
def test_a_server_that_does_not_answer_is_said(tmp_path: Path, answers: bytes | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(tmp_path) as file:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if answers is None:
            listener.close()
        else:  # such as a proxy's, that stands between
            threading.Thread(target=answer_all, args=(listener, answers), daemon=True).start()
        tell_address(file, url)
        with pytest.raises(
            nbruns.SetupError, match=f"server at {url} holds .* but does not respond. Stop it."
        ):
            nbruns.local(tmp_path)


def answer_all(listener: socket.socket, answer: bytes) -> None:
    """Give everybody the same answer, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)


def test_a_server_that_does_not_start_in_time_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "_START_TIMEOUT", 0.01)  # what it imports takes longer
    others = set(threading.enumerate())  # those of other tests' servers among them
    with pytest.raises(nbruns.SetupError, match=r"did not start within .* see .*server\.log") as refused:
        nbruns.local(folder)
    assert str(folder) in str(refused.value)
    until(lambda: set(threading.enumerate()) <= others)
    assert not is_serving(folder)


STUBBORN = """
import signal, sys, time
from pathlib import Path
from nbruns.local_server import serving, tell_address
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with serving(Path(sys.argv[1])) as file:
    tell_address(file, "http://127.0.0.1:1")
    time.sleep(60)
"""


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_end_is_said_with_its_process(tmp_path: Path) -> None:
    stubborn = python(STUBBORN, tmp_path)
    until((tmp_path / "server.json").exists)
    try:
        with pytest.raises(nbruns.SetupError, match=f"did not stop .* its process id is {stubborn.pid}"):
            LocalServer(tmp_path, "http://127.0.0.1:1").stop()
        assert stubborn.poll() is None and is_serving(tmp_path)
    finally:
        stubborn.kill()
        stubborn.communicate()


READ_ONLY = """
import os, sys
from nbruns.errors import SetupError
from nbruns.local_server import data_folder
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
try:
    data_folder(sys.argv[1])
except SetupError as error:
    print(error)
os.seteuid(os.getuid())  # whatever measures coverage writes at the end
"""


def test_a_folder_that_cannot_be_written_is_said_in_a_line() -> None:
    with tempfile.TemporaryDirectory() as reachable:  # pytest's own are not, for anybody but root
        os.chmod(reachable, 0o755)
        locked = Path(reachable) / "locked"
        locked.mkdir(mode=0o555)
        said = [python(READ_ONLY, place).communicate(timeout=60) for place in (locked, locked / "deeper")]
    way_out = "Pass another folder with --data or NBRUNS_DATA.\n"
    assert said[0] == (f"{locked} is not writable. {way_out}", "")
    assert said[1] == (f"{locked / 'deeper'}: Permission denied. {way_out}", "")


def test_a_broken_database_is_said_in_a_line(folder: Path) -> None:
    folder.mkdir()
    (folder / "nbruns.sqlite").write_bytes(b"This is no database. " * 1000)
    with pytest.raises(nbruns.SetupError) as refused:
        nbruns.local(folder)
    said = str(refused.value)
    assert said.startswith("The local server did not start: ") and "\n" not in said
    assert str(folder / "nbruns.sqlite") in said
    assert not is_serving(folder)


def test_a_database_from_a_newer_version_is_said_in_a_line(folder: Path) -> None:
    nbruns.local(folder).server.stop()
    with sqlite3.connect(folder / "nbruns.sqlite") as database:
        assert database.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'").rowcount == 1
    database.close()
    with pytest.raises(nbruns.SetupError, match="is from a newer nbruns") as refused:
        nbruns.local(folder)
    said = str(refused.value)
    assert "\n" not in said and "Install" in said and "99" in said
    assert not is_serving(folder)
