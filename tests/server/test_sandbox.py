"""Hostile code against the real sandbox: nothing gets out, nothing outside is read, limits hold, the server goes on.

One interpreter serves all tests. Code that leaves its kernel alive shares a session; what kills one has its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbruns.server.interpreter import sessions
from nbruns.server.interpreter.sessions import Execution, Image, Input, Interpreter

pytestmark = pytest.mark.usefixtures("sandbox")
#: Long enough for a busy machine: only code that never ends may meet it (`impatient`).
CELL_SECONDS = 60.0
_keys = itertools.count()


class Loop:
    """An event loop in a thread, and an interpreter in it."""

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.interpreter = Interpreter("bwrap", **options)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * CELL_SECONDS)

    def run(self, code: str, *inputs: Input, key: str = "shared", again: tuple[Input, ...] = ()) -> Execution:
        done: Execution = self.do(self.interpreter.execute((key, "a"), code, inputs, again))
        return done

    def close(self) -> None:
        self.do(self.interpreter.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    loop = Loop(cell_seconds=CELL_SECONDS)
    yield loop
    loop.close()


@pytest.fixture
def impatient(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is interrupted after 2 s."""
    monkeypatch.setattr(loop.interpreter, "cell_seconds", 2.0)


Run = Callable[..., str]


@pytest.fixture
def run(loop: Loop) -> Run:
    """run(code): what the code prints in the session that the tests share."""
    return lambda code, *inputs: said(loop.run(code, *inputs))


@pytest.fixture
def lone(loop: Loop) -> Iterator[Callable[..., Execution]]:
    """lone(code): what code gives in a session of this test's own."""
    key = f"lone{next(_keys)}"
    yield lambda code, *inputs: loop.run(code, *inputs, key=key)
    loop.do(loop.interpreter.end_thread(key))


def said(done: Execution) -> str:
    return "".join(output for output in done.outputs if isinstance(output, str)) + "\n".join(done.notes)


def file(id: str, path: str, data: bytes = b"x") -> Input:
    async def read() -> AsyncIterator[bytes]:
        yield data

    return Input(id, path, read)


def refused(statement: str) -> str:
    """Code that prints the error of a statement, or that there was none."""
    caught = "except BaseException as error:\n    print(type(error).__name__, error)"
    return f"try:\n    {statement}\n{caught}\nelse:\n    print('DONE')"


@pytest.mark.parametrize(
    "path",
    [
        "/x", "/usr/x", "/etc/x", "/run/x", "/run/nbruns/x", "/dev/x", "/mnt/../x", "/sys/x",
        *(f"/{top}/x" for top in ("home", "root", "var")),
        "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/proc/1/mem",
        "/proc/1/oom_score_adj", "/dev/mem", "/dev/kmsg", "/dev/sda", "/run/nbruns/launch.py",
    ],
)  # fmt: skip
def test_nothing_outside_its_disk_can_be_written(run: Run, path: str) -> None:
    assert run(refused(f"open({path!r}, 'r+' if __import__('os').path.exists({path!r}) else 'w')")).split()[0] in (
        "OSError", "PermissionError", "FileNotFoundError",
    )  # fmt: skip


def test_the_python_that_the_server_runs_with_cannot_be_changed(run: Run) -> None:
    import pandas

    folder = os.path.realpath(Path(pandas.__file__).parent)
    assert "Read-only" in run(refused(f"open('{folder}/x', 'w')"))


def test_the_servers_files_environment_and_processes_are_not_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret-token")
    assert "FileNotFoundError" in run(refused(f"open('{tmp_path / 'token'}')"))
    assert "FileNotFoundError" in run(refused(f"open('{Path.home() / '.bashrc'}')"))
    assert "FileNotFoundError" in run(refused(f"open('{Path(__file__)}')"))
    assert "FileNotFoundError" in run(refused("open('/etc/passwd')"))
    assert "FileNotFoundError" in run(refused("open('/etc/shadow')"))
    environment = run("import os; print(dict(os.environ))")
    assert "NBRUNS" not in environment and "PYTEST" not in environment and str(Path.home()) not in environment
    pids = run("print([name for name in __import__('os').listdir('/proc') if name.isdigit()])")
    assert len(eval(pids)) == 2  # its process 1, and the kernel
    names = run("print([open(f'/proc/{n}/cmdline').read() for n in (1, 2)])")
    assert "pytest" not in names and "nbruns serve" not in names


@pytest.mark.parametrize("path", ["mem", "environ", "root", "cwd", "fd", "maps", "exe"])
def test_the_first_process_cannot_be_looked_into(run: Run, path: str) -> None:
    act = "os.listdir" if path == "fd" else "os.readlink" if path in ("root", "cwd", "exe") else "open"
    assert "PermissionError" in run(refused(f"__import__('os'); import os; {act}('/proc/1/{path}')"))


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV]
)
def test_signals_do_not_end_the_first_process(run: Run, number: signal.Signals) -> None:
    run(f"import os; os.kill(1, {number.value})")
    assert run("print(1)") == "1\n"


def test_signals_reach_nobody_outside(run: Run) -> None:
    pid = os.getpid()
    assert "ProcessLookupError" in run(refused(f"__import__('os').kill({pid}, 0)"))


@pytest.mark.parametrize(
    "call",
    [
        "c.ptrace(16, 1, 0, 0)",
        "c.unshare(0x10000000)",
        "c.unshare(0x20000)",
        "c.mount(b'none', b'/mnt/data', b'tmpfs', 0, 0)",
        "c.setns(0, 0)",
        "c.shmget(0, 1 << 30, 0o1600)",
        "c.memfd_create(b'x', 0)",
        "c.syscall(321, 0, 0, 0)",
        "c.setuid(0)",
        "c.chroot(b'/mnt')",
        "c.sethostname(b'x', 1)",
        "c.swapon(b'/mnt/x', 0)",
        "c.umount2(b'/mnt', 2)",
        "c.prctl(24, 0, 0, 0, 0)",
    ],
)
def test_system_calls_that_lead_out_are_refused(run: Run, call: str) -> None:
    code = f"import ctypes; c = ctypes.CDLL(None, use_errno=True); print({call}, ctypes.get_errno())"
    result, error = run(code).split()
    assert result == "-1" and error in ("1", "22", "38"), (result, error)


def test_there_is_no_network(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connect = f"__import__('socket').create_connection(('127.0.0.1', {port}), 1)"
        assert "DONE" not in run(refused(connect))
    assert "DONE" not in run(refused("__import__('socket').create_connection(('192.0.2.1', 80), 1)"))
    assert "DONE" not in run(refused("__import__('socket').getaddrinfo('example.org', 80)"))
    assert run("import socket; print([name for _, name in socket.if_nameindex()])") == "['lo']\n"


def test_sockets_of_the_machine_are_not_there(run: Run) -> None:
    for path in ("/run/dbus/system_bus_socket", "/var/run/docker.sock", "/tmp/.X11-unix/X0"):
        connect = f"__import__('socket').socket(__import__('socket').AF_UNIX).connect({path!r})"
        assert "FileNotFoundError" in run(refused(connect))


def test_nothing_that_the_server_has_open_is_inherited(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        shown = run(
            "import os\nfor fd in os.listdir('/proc/self/fd'):\n"
            "    try: print(os.readlink(f'/proc/self/fd/{fd}'))\n    except OSError: pass"
        )
        own = {link for link in map(_link, os.listdir("/proc/self/fd")) if link.startswith("socket")}
    assert own and not own & {*shown.split()}
    kinds = {line.partition(":")[0] for line in shown.split()}
    assert kinds <= {"socket", "pipe", "anon_inode", "/dev/null", "/proc/2/fd", "/dev/urandom", "/dev/random"}


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # closed meanwhile
        return ""


def test_device_files_cannot_be_made(run: Run) -> None:
    assert "PermissionError" in run(refused("__import__('os').mknod('/mnt/data/sda', 0o60600, 0x800)"))


@pytest.mark.usefixtures("impatient")
def test_endless_code_is_interrupted_and_variables_stay(loop: Loop, run: Run) -> None:
    run("kept = 5")
    done = loop.run("while True: pass")
    assert done.notes == ["The code ran for over 2 s and was interrupted."]
    assert run("print(kept)") == "5\n"


@pytest.mark.usefixtures("impatient")
def test_code_that_ignores_interrupts_is_ended(
    lone: Callable[..., Execution], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "STOP_SECONDS", 0.5)
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    [note] = lone(code).notes
    assert "didn't stop, and so was ended. Its variables are lost" in note
    done = lone("print(1)")
    assert (done.is_new, done.outputs) == (True, ["1\n"])


@pytest.mark.usefixtures("impatient")
def test_a_fork_bomb_is_ended(lone: Callable[..., Execution], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "STOP_SECONDS", 0.5)
    done = lone("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    # On a busy machine, the time may be up before the processes have been counted.
    assert "was ended. Its variables are lost" in said(done)
    assert lone("print(1)").outputs == ["1\n"]


def test_processes_are_limited(lone: Callable[..., Execution]) -> None:
    code = "import subprocess, time\nfor _ in range(40): subprocess.Popen(['sleep', '99'])\ntime.sleep(99)"
    assert "over 32 processes" in said(lone(code))


def test_threads_are_limited(lone: Callable[..., Execution]) -> None:
    start = "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    code = f"import threading, time\nfor _ in range(1000): {start}"
    assert "can't start new thread" in said(lone(code))


def test_more_memory_than_there_may_be_is_an_error_of_the_code(run: Run) -> None:
    run("kept = 6")
    assert "MemoryError" in run("bytearray(10 << 30)")
    assert "MemoryError" in run("import numpy; numpy.ones(1 << 31)")
    assert run("print(kept)") == "6\n"


def test_memory_is_counted_over_processes_and_shared_memory(lone: Callable[..., Execution]) -> None:
    filled = "m = mmap.mmap(-1, 4 << 30)\nfor at in range(1500): m.write(bytes(1 << 20))"
    code = f"import mmap, time\n{filled}\ntime.sleep(60)"
    assert "over 1,024 MiB of memory" in said(lone(code))


def test_the_disk_is_limited(lone: Callable[..., Execution]) -> None:
    code = "import os; fd = os.open('big', os.O_CREAT | os.O_RDWR); os.posix_fallocate(fd, 0, 1000 << 20)"
    assert "is too large to be kept" in said(lone(code))
    assert "No space left on device" in said(lone("os.posix_fallocate(os.open('more', 66), 0, 100 << 20)"))
    assert "File too large" in said(lone("os.remove('big'); os.posix_fallocate(fd, 0, 1100 << 20)"))


def test_so_is_the_number_of_files(lone: Callable[..., Execution]) -> None:
    code = "import os\nfor n in range(60_000): os.close(os.open(f'/mnt/data/{n}', os.O_CREAT))"
    assert "over 50,000 files" in said(lone(code))


def test_output_is_cut_off_with_a_word_and_the_code_runs_on(run: Run, loop: Loop) -> None:
    done = loop.run("for _ in range(5_000): print('x' * 1000)\nafter = 1")
    assert len(said(done)) < 1_001_000
    assert done.notes == ["The output was cut off after 1,000,000 characters."]
    assert run("print(after)") == "1\n"


@pytest.mark.usefixtures("impatient")
def test_endless_output_is_interrupted(loop: Loop) -> None:
    done = loop.run("while True: print('x' * 1000)")
    assert done.notes[0] == "The code ran for over 2 s and was interrupted."
    assert len(said(done)) < 1_001_000


def test_a_kernel_that_floods_the_server_is_ended(
    lone: Callable[..., Execution], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_MESSAGES", 50)
    done = lone("from IPython.display import display\nwhile True: display(1)")
    assert "of output and was ended" in said(done)


def test_output_of_programs_counts_too(lone: Callable[..., Execution]) -> None:
    done = lone("import subprocess; subprocess.run('yes | head -c 3000000', shell=True)")
    assert len(said(done)) < 1_001_000


@pytest.mark.parametrize(
    "how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()", "ctypes.string_at(0)"]
)
def test_a_kernel_that_dies_in_the_middle_is_an_error_to_read(
    lone: Callable[..., Execution], how: str
) -> None:
    done = lone(f"print('before', flush=True); import os, ctypes; {how}")
    assert done.notes == [
        "The Python process ended. Its variables are lost. The next call starts a new process."
    ]
    assert lone("print(1)").outputs == ["1\n"]


def test_a_kernel_that_dies_between_calls_is_replaced(lone: Callable[..., Execution]) -> None:
    lone("import os, threading; threading.Timer(0.1, os._exit, [0]).start()")
    time.sleep(0.5)
    done = lone("print(1)")
    assert (done.is_new, done.outputs, done.notes) == (True, ["1\n"], [])


def test_input_is_not_waited_for(run: Run) -> None:
    assert "StdinNotImplementedError" in run("input('name')")


def test_links_that_point_out_are_not_followed_and_are_no_files(lone: Callable[..., Execution]) -> None:
    code = (
        "import os\nos.symlink('/etc/passwd', '/mnt/data/passwd')\nos.symlink('/usr', '/mnt/data/usr')\n"
        "os.mkfifo('/mnt/data/pipe')\nopen('/mnt/data/real.txt', 'w').write('1')\n"
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/mnt/data/sock')\n"
        "os.symlink('/proc/1/environ', '/mnt/data/environ')"
    )
    assert [each.path for each in lone(code).files] == ["/mnt/data/real.txt"]


def test_a_file_that_becomes_a_link_while_it_is_read_gives_nothing_of_outside(
    lone: Callable[..., Execution],
) -> None:
    code = (
        "import sys, os\nm = sys.modules['_nbruns']; old = m.get\n"
        "def get(name, start, size):\n    os.remove('/mnt/data/a'); os.symlink('/usr/lib/os-release', '/mnt/data/a')\n"
        "    return old(name, start, size)\nm.get = get\nopen('/mnt/data/a', 'w').write('1')"
    )
    done = lone(code)
    assert (done.files, "could not be read" in said(done)) == ([], True)


def test_hostile_names_are_names(lone: Callable[..., Execution]) -> None:
    names = ["a\nb", "a'b", 'a"b', "a\\b", "${x}", "; rm -rf", "\u202egnp.exe", "x" * 250, "-rf", "a b", "ü"]
    done = lone(f"for name in {names!r}: open(f'/mnt/data/{{name}}', 'w').write(name)")
    assert {each.path for each in done.files} == {f"/mnt/data/{name}" for name in names}
    assert all(each.content.read().decode() == each.path.removeprefix("/mnt/data/") for each in done.files)


def test_a_kernel_cannot_name_files_outside_its_folder(lone: Callable[..., Execution]) -> None:
    lie = '{"/etc/passwd": 5, "../../x": 5, "a": -1, "b": "x", "c": 99999999999}'
    code = f"import sys\nm = sys.modules['_nbruns']\nm.changed = lambda: m.encoded({lie!r}.encode())"
    done = lone(code)
    assert done.files == []
    assert [note for note in done.notes if "too large" in note]


@pytest.mark.parametrize(
    "answer", ["'x' * 50", "None", "'!' * 10", "m.encoded(b'[1, 2')", "m.encoded(b'[]')", "1/0"]
)
def test_answers_about_files_that_make_no_sense_are_notes(
    lone: Callable[..., Execution], answer: str
) -> None:
    done = lone(f"import sys\nm = sys.modules['_nbruns']\nm.changed = lambda: {answer}\nprint(1)")
    assert (done.outputs, done.files) == (["1\n"], [])


def test_only_new_and_changed_files_are_kept(lone: Callable[..., Execution]) -> None:
    first = lone("open('/mnt/data/a.txt', 'w').write('1')", file("file-1", "given.csv"))
    assert [each.path for each in first.files] == ["/mnt/data/a.txt"]
    assert lone("print(open('/mnt/data/a.txt').read())").files == []
    second = lone("import os; os.makedirs('/mnt/data/out'); open('/mnt/data/out/b.txt', 'w').write('22')")
    assert [(each.path, each.size) for each in second.files] == [("/mnt/data/out/b.txt", 2)]
    assert len(lone("for n in range(30): open(f'/mnt/data/{n}', 'w').write('x')").files) == sessions.MAX_FILES


def test_files_are_there_by_name_and_id(lone: Callable[..., Execution]) -> None:
    large = os.urandom(7 << 20)
    inputs = (
        file("file-1", "a.csv", b"1,2"),
        file("file-2", "a.csv", b"3,4"),
        file("file-3", "big", large),
        file("file-4", "none", b""),
    )
    done = lone(
        "import os, hashlib; print(sorted(os.listdir('.')), hashlib.md5(open('big', 'rb').read()).hexdigest())",
        *inputs,
    )
    assert said(done) == (
        "['a.csv', 'big', 'file-1', 'file-2', 'file-2-a.csv', 'file-3', 'file-4', 'none'] "
        f"{hashlib.md5(large).hexdigest()}\n"
    )
    assert said(lone("print(open('/mnt/data/a.csv').read(), open('/mnt/data/file-2').read())")) == "1,2 3,4\n"


def test_a_plot_is_an_image(lone: Callable[..., Execution]) -> None:
    pytest.importorskip("matplotlib")
    done = lone("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('after')")
    image, text = done.outputs
    assert isinstance(image, Image) and image.data.startswith(b"\x89PNG") and text == "after\n"


def test_sessions_do_not_see_one_another(lone: Callable[..., Execution], run: Run) -> None:
    run("open('/mnt/data/mine', 'w').write('1'); mine = 1")
    assert said(lone("print('mine' in globals(), __import__('os').listdir('/mnt/data'))")) == "False []\n"


def test_a_cancelled_call_stops_its_code(loop: Loop) -> None:
    loop.run("kept = 7", key="cancelled")

    async def cancelled() -> None:
        work = asyncio.ensure_future(
            loop.interpreter.execute(("cancelled", "a"), "import time\nwhile True: time.sleep(0.01)")
        )
        await asyncio.sleep(0.3)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    loop.do(cancelled())
    assert said(loop.run("print(kept)", key="cancelled")) == "7\n"


def test_the_longest_idle_session_makes_room() -> None:
    loop = Loop(max_sessions=2)
    try:
        for key in ("a", "b", "a", "c"):
            loop.run("x = 1", key=key)
        assert [loop.run("print('x' in globals())", key=key).is_new for key in ("c", "a", "b")] == [
            False,
            False,
            True,
        ]
    finally:
        loop.close()


def test_idle_sessions_end_and_leave_no_process() -> None:
    before = _children()
    loop = Loop(idle_seconds=0.2)
    try:
        loop.run("x = 1")
        deadline = time.monotonic() + 20
        while loop.interpreter._slots or loop.interpreter._spare:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert loop.run("x").is_new
    finally:
        loop.close()
    assert _children() <= before


def _children() -> set[str]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {line for line in listed.stdout.splitlines() if "bwrap" in line}
