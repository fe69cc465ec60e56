"""The first steps of a notebook: `nbruns.local()` from nothing, and the first token of the first run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FIRST_STEPS = """
import sys, time
began = time.perf_counter()
import nbruns
client = nbruns.local(sys.argv[1])
started = time.perf_counter()
assistant, thread = client.assistants.create(model="demo"), client.threads.create("What should I wear?")
asked = time.perf_counter()
with client.runs.create_stream(thread, assistant) as stream:
    next(stream.text_deltas())
    print(started - began, time.perf_counter() - asked)
client.server.stop()
"""


def bench_first_steps(tmp_path: Path) -> None:
    print("\nseconds            local()   first token")
    for number in range(5):
        command = [sys.executable, "-c", FIRST_STEPS, str(tmp_path / str(number))]
        local, token = map(float, subprocess.check_output(command, text=True).split())
        print(f"attempt {number + 1} {local:17.2f} {token:13.2f}")
