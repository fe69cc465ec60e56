"""The first process in a sandbox: a program that starts a kernel and monitors its limits.

It runs in the sandbox as process 1, from this file alone, because nbruns isn't available there. No other process in the
sandbox can end or trace process 1, and when it ends, all others end too. Its exit code says why (see ENDED_BY).

The first line on stdin contains the settings. The end of stdin means that the server has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from typing import Any

#: Exit codes, by the reason why the kernel ended.
ENDED_BY = {"kernel": 40, "memory": 41, "processes": 42, "files": 43}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
#: Seconds between two checks of the resources that the sandbox uses.
_LOOK_SECONDS = 0.1


def main() -> None:
    """Run a kernel until it ends or exceeds a limit, or the server ends."""
    settings = json.loads(_line())
    limits = settings["limits"]
    if limits:
        # Keep processes of the same user from tracing it and reading its memory.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel = os.fork()
    if kernel == 0:
        _run_kernel(settings)
        os._exit(0)
    for fd in settings["fds"]:
        os.close(fd)
    why = "kernel"
    try:
        why = _watch(kernel, limits)
    finally:
        for kill in (os.killpg, os.kill):  # its group may not exist yet
            try:
                kill(kernel, signal.SIGKILL)
            except OSError:
                pass
        os._exit(ENDED_BY[why])


def _line() -> bytes:
    # Unbuffered, because the rest of stdin is read with select below.
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            os._exit(0)
        line += piece
    return line


def _watch(kernel: int, limits: dict[str, int] | None) -> str:
    """Wait until the kernel has ended or must be ended, and return the reason."""
    while True:
        readable = select.select([0], [], [], _LOOK_SECONDS)[0]
        if readable and not os.read(0, 1 << 16):
            return "kernel"
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return "kernel"
            if pid == kernel:
                return "kernel"
            if pid == 0:
                break
        if limits and (exceeded := _exceeded(limits)):
            return exceeded


def _exceeded(limits: dict[str, int]) -> str | None:
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    if len(pids) > limits["processes"]:
        return "processes"
    # Resident pages are quick to read, but count shared memory for each process.
    if sum(map(_resident, pids)) > limits["memory"] and sum(map(_proportional, pids)) > limits["memory"]:
        return "memory"
    disk = os.statvfs("/mnt")
    return "files" if disk.f_files - disk.f_ffree > limits["files"] else None


def _resident(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # the process has ended
        return 0


def _proportional(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):  # the process has ended, or hides its memory
        return _resident(pid)


def _run_kernel(settings: dict[str, Any]) -> None:
    if sys.platform == "linux":  # without a sandbox, end with the parent process
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    if settings["limits"]:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)
        _limit(settings["limits"])
    _kernel_app(settings)


def _limit(limits: dict[str, int]) -> None:
    import resource

    def limit(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    limit(resource.RLIMIT_DATA, limits["memory"])
    limit(resource.RLIMIT_FSIZE, limits["disk"])
    limit(resource.RLIMIT_NOFILE, limits["open_files"])
    limit(resource.RLIMIT_CORE, 0)
    # Counted per user namespace since Linux 5.14. Before that, the server's own processes would count too.
    if tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (5, 14):
        limit(resource.RLIMIT_NPROC, limits["threads"])
    try:  # if the machine runs out of memory, this process is killed first
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass
    os.nice(10)


def _kernel_app(settings: dict[str, Any]) -> None:
    import zmq
    from ipykernel.kernelapp import IPKernelApp

    fds: list[int] = settings["fds"]

    class KernelApp(IPKernelApp):
        """A kernel on sockets that the server opened for it, so that it needs no writable folder."""

        def _try_bind_socket(self, s: Any, port: int) -> int:
            if port > len(fds):
                raise zmq.ZMQError(22, "no such port")
            s.setsockopt(zmq.USE_FD, fds[port - 1])
            s.bind(f"ipc://{self.ip}-{port}")
            return port

        def init_heartbeat(self) -> None:
            """Do nothing: the server notices the end of this process."""
            self.heartbeat = None

        def init_crash_handler(self) -> None:
            """Do nothing: crash reports would be files that nobody reads."""

    app = KernelApp.instance()
    app.connection_file = settings["connection_file"]
    app.transport, app.ip = "ipc", settings["ip"]
    for port, name in enumerate(("shell_port", "iopub_port", "stdin_port", "control_port"), 1):
        setattr(app, name, port)
    app.hb_port = 5
    app.session.key = settings["key"].encode()
    app.config.HistoryManager.enabled = False
    app.config.InteractiveShell.colors = "nocolor"
    app.initialize([])  # type: ignore[no-untyped-call]
    app.start()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
