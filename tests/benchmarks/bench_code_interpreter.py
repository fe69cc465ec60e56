"""How soon a session of code_interpreter is ready, what a call costs, and what twenty sessions take."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator

from nbruns.server.interpreter.modes import why_no_sandbox
from nbruns.server.interpreter.sessions import Input, Interpreter

SESSIONS = 20


def bench_code_interpreter() -> None:
    assert why_no_sandbox() is None, why_no_sandbox()
    asyncio.run(_measure())


async def _measure() -> None:
    interpreter = Interpreter("bwrap")

    async def timed(name: str, thread: str, code: str, times: int = 1, *inputs: Input) -> None:
        began = time.perf_counter()
        for _ in range(times):
            done = await interpreter.execute((thread, "assistant"), code, inputs)
            assert not done.notes, done.notes
        print(f"{name:<44}{(time.perf_counter() - began) / times * 1000:>10.1f} ms")

    print()
    await timed("first call, no spare kernel", "a", "1")
    while interpreter._spare is None or not interpreter._spare.done():
        await asyncio.sleep(0.05)
    await timed("first call of a session, spare kernel", "b", "1")
    await timed("a call", "a", "x = 1", 100)
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    await timed("first plot", "a", plot)
    await timed("a plot", "a", plot, 10)
    await timed("a file of 30 MB brought", "a", "1", 1, Input("file-x", "x.bin", _random))
    await timed("a file of 30 MB kept", "a", "import os; open('y.bin', 'wb').write(os.urandom(30 << 20));")
    began = time.perf_counter()
    keys = [(f"many{number}", "assistant") for number in range(SESSIONS - 2)]
    await asyncio.gather(
        *(interpreter.execute(key, "import pandas as pd; pd.DataFrame({'a': [1]})") for key in keys)
    )
    print(f"{SESSIONS - 2} more sessions at once, with pandas{'':<9}{time.perf_counter() - began:>10.1f} s")
    print(
        f"memory of {SESSIONS} sessions and a spare kernel{'':<6}{_memory() / 2**20:>10.0f} MiB (proportional)"
    )
    await interpreter.close()


async def _random() -> AsyncIterator[bytes]:
    yield os.urandom(30 << 20)


def _memory() -> int:
    """Return the memory of this process' sandboxes in bytes: pages that processes share count once."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout.splitlines()
    total = 0
    for pid in (line.split()[0] for line in listed if "/run/nbruns/launch.py" in line):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            pass
    return total
