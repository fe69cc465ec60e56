"""The sandbox on Linux: bubblewrap, without a network, with a read-only system and its own small disk.

Processes in it can access the system's programs and the server's Python, `/mnt` (a disk in memory, of limited size),
their own processes, and a few devices. Nothing else is visible.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nbruns.text import excerpt

#: Limits of a session: bytes of memory and of disk, processes, threads in total, files, and open files per process.
LIMITS = {
    "memory": 1 << 30,
    "disk": 1 << 30,
    "processes": 32,
    "threads": 128,
    "files": 50_000,
    "open_files": 512,
}
#: Folders in the sandbox of a session's files and of temporary files.
DATA, TEMPORARY = "/mnt/data", "/mnt/tmp"
#: Path of `launch.py` in the sandbox.
LAUNCH, _LAUNCHER = "/run/nbruns/launch.py", Path(__file__).with_name("launch.py")
#: User and group in the sandbox. A server that runs as root starts sandboxes as nobody.
_USER, _NOBODY = "1000", "65534"
_CHECK_SECONDS = 20.0

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": TEMPORARY,
    "USER": "sandbox",
    "LANG": "C.UTF-8",
    "TMPDIR": TEMPORARY,
    "IPYTHONDIR": f"{TEMPORARY}/ipython",
    "MPLCONFIGDIR": f"{TEMPORARY}/matplotlib",
    "JUPYTER_PLATFORM_DIRS": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    # More threads of numerical libraries would not be faster, and each reserves memory.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}

#: System calls that are refused, by machine type: they use memory that no limit counts, access other processes' memory
#: or the kernel's keys, or are common targets of exploits that data analysis doesn't need.
_REFUSED: dict[str, tuple[int, tuple[int, ...]]] = {
    # ptrace, shmget, msgget, add_key, request_key, keyctl, perf_event_open, memfd_create, bpf, userfaultfd,
    # memfd_secret, io_uring_setup, unshare, setns, process_vm_readv, process_vm_writev, mount, open_by_handle_at
    "x86_64": (
        0xC000003E,
        (101, 29, 68, 248, 249, 250, 298, 319, 321, 323, 447, 425, 272, 308, 310, 311, 165, 304),
    ),
    "aarch64": (
        0xC00000B7,
        (117, 194, 186, 217, 218, 219, 241, 279, 280, 282, 447, 425, 97, 268, 270, 271, 40, 265),
    ),
}


def why_not() -> str | None:
    """Return why the sandbox doesn't work on this machine, or None if it works. Starts one to find out."""
    if sys.platform != "linux":
        return "bubblewrap is for Linux only"
    if shutil.which("bwrap") is None:
        return "bubblewrap (the program bwrap) is not installed"
    try:
        with filter_file() as fds:
            tried = subprocess.run(
                command([python(), "-I", "-S", "-c", "pass"], fds),
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_CHECK_SECONDS,
            )
    except subprocess.TimeoutExpired:
        return f"bubblewrap didn't start within {_CHECK_SECONDS:.0f} s"
    if tried.returncode == 0:
        return None
    lines = tried.stderr.strip().splitlines()
    return f"bubblewrap can't start Python here ({excerpt(lines[-1] if lines else tried.returncode)})"


def python() -> str:
    """Return the path of this Python in the sandbox."""
    return os.path.join(os.path.realpath(sys.prefix), os.path.relpath(sys.executable, sys.prefix))


def command(program: list[str], filter_fds: tuple[int, ...] = ()) -> list[str]:
    """Return the command that runs a program in a new sandbox.

    Args:
        program: The command to run as process 1. It inherits open file descriptors.
        filter_fds: The file descriptors from `filter_file`.
    """
    bwrap = shutil.which("bwrap") or "bwrap"
    is_root = os.geteuid() == 0
    visible = _visible(LAUNCH if is_root else str(_LAUNCHER))
    inner = [
        *(bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--die-with-parent", "--as-pid-1", "--new-session", "--hostname", "sandbox"),
        *("--uid", _USER, "--gid", _USER, "--clearenv"),
        *(part for name, value in ENVIRONMENT.items() for part in ("--setenv", name, value)),
        *visible,
        *("--proc", "/proc"),
        *_devices(),
        *("--size", str(LIMITS["disk"]), "--tmpfs", "/mnt"),
        *(part for name in ("data", "tmp", "shm") for part in ("--dir", f"/mnt/{name}")),
        # If Python itself is somewhere in /tmp, keep /tmp.
        *(() if "/tmp" in visible else ("--symlink", TEMPORARY, "/tmp")),
        *("--remount-ro", "/", "--chdir", DATA),
        *(part for fd in filter_fds for part in ("--seccomp", str(fd))),
    ]
    if not is_root:
        return [*inner, "--", *program]
    # Root without capabilities can still write to much of /proc, so the sandbox runs as nobody. Because nobody can't
    # access a Python in root's folders, root mounts the visible folders first.
    setpriv = shutil.which("setpriv") or "setpriv"
    nobody = (setpriv, "--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups", "--")
    outer = (bwrap, "--die-with-parent", *_visible(str(_LAUNCHER)), "--bind", "/proc", "/proc")
    return [*outer, "--dev-bind", "/dev", "/dev", "--dir", "/tmp", "--", *nobody, *inner, "--", *program]


def _visible(launcher: str) -> list[str]:
    """Return the options that make parts of this machine visible, read-only."""
    options: list[str] = []
    for folder in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            options += ("--symlink", os.readlink(folder), folder)
        elif os.path.isdir(folder):
            options += ("--ro-bind", folder, folder)
    paths = ["/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime", "/etc/mime.types"]
    # For a virtual environment, include the Python that it was created with, whose recorded path may be a link.
    prefixes = {os.path.realpath(sys.prefix), sys.base_prefix, os.path.realpath(sys.base_prefix)}
    paths += sorted(path for path in prefixes if not f"{path}/".startswith("/usr/"))
    binds = {path: path for path in paths if os.path.exists(path)} | {LAUNCH: launcher}
    # Create parent folders explicitly. bubblewrap would create them accessible to its own user only.
    for folder in sorted({str(parent) for path in binds for parent in Path(path).parents[:-1]}):
        options += ("--dir", folder)
    for path, source in binds.items():
        options += ("--ro-bind", source, path)
    return options


def _devices() -> Iterator[str]:
    yield from ("--tmpfs", "/dev")
    for name in ("null", "zero", "full", "random", "urandom"):
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    yield from (
        "--symlink",
        "/proc/self/fd",
        "/dev/fd",
        "--symlink",
        "/mnt/shm",
        "/dev/shm",
        "--remount-ro",
        "/dev",
    )


class filter_file:
    """A context manager that returns the file descriptors with the system call filter; none on other machine types."""

    def __enter__(self) -> tuple[int, ...]:
        self._fds: tuple[int, ...] = ()
        program = _filter(platform.machine())
        if program:
            reading, writing = os.pipe()
            os.write(writing, program)  # fits into the buffer of a pipe
            os.close(writing)
            self._fds = (reading,)
        return self._fds

    def __exit__(self, *error: object) -> None:
        for fd in self._fds:
            os.close(fd)


def _filter(machine: str) -> bytes:
    """Return a program for the kernel's filter (classic BPF) that refuses the calls in _REFUSED and allows others."""
    if machine not in _REFUSED:
        return b""
    architecture, calls = _REFUSED[machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, unknown = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    end = len(calls)
    lines = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, end + 2, architecture),
        (load, 0, 0, 0),  # the number of the call
        (at_least, end, 0, 0x40000000),  # calls of x32, which have other numbers
        *((equal, end - at + 1, 0, number) for at, number in enumerate(calls)),
        (give, 0, 0, allow),
        (give, 0, 0, unknown),
        (give, 0, 0, refuse),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
