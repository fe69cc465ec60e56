"""How soon a kernel handles a click on a button while twenty views stream in it, and when all of them end at once.

A real kernel without a page: clicks go over its shell channel, as a front end sends them, and say when they were sent.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))
from bench_view import MIXED
from scenes import SETUP

VIEWS = 20
#: Each click's time until its handler runs, and when the handler ran. The second half of a run is when all views end.
BUTTON = """
import ipywidgets, threading, time
button, waits = ipywidgets.Button(), []
button.on_msg(lambda _, content, buffers: waits.append((time.time(), time.time() - content["sent"])))
button.model_id"""
#: 5,000 tokens in each view, the last 400 of them at 50 a second, and then all end at once.
RUN = f"""{SETUP}
from IPython.display import display
text = {(MIXED * 20)[:20_000]!r}
pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
go, end = threading.Event(), threading.Event()
arrived = threading.Semaphore(0)
def run(number):
    *begun, told = says(*pieces, id=f"msg_{{number}}")
    slow = paced(begun[-400:], 0.02)
    return ScriptedStream(
        run_is("in_progress", id=f"run_{{number}}"), begun[:-400],
        lambda: (arrived.release(), go.wait()), slow,
        lambda: (arrived.release(), end.wait()), told, run_is("completed"),
    )
views = [RunView(ScriptedRuns(name=f"Assistant {{n}}"), run(n)) for n in range({VIEWS})]
for view in views:
    display(view)
"""
HELLO = """
for view in views:
    view._page._handle_custom_msg({"hello": 0}, [])
"""
END = """
def all_arrived():
    for view in views:
        arrived.acquire()
    time.sleep(2)  # what was told at once is shown
    return time.time()

def end_all():
    globals()["streaming"] = all_arrived()
    go.set()
    globals()["began"] = all_arrived()
    end.set()
    for view in views:
        view._session.ended.wait()
    globals()["done"] = time.time()
ending = threading.Thread(target=end_all)
ending.start()
"""


@pytest.fixture
def kernel() -> Iterator[BlockingKernelClient]:
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def ran(kernel: BlockingKernelClient, code: str, value: str = "None") -> Any:
    """Run code to its end in the kernel; the value of an expression there."""
    message = kernel.execute(
        code, user_expressions={"value": f"__import__('json').dumps({value})"}, reply=True, timeout=60
    )
    content = message["content"]
    assert content["status"] == "ok", content
    return json.loads(content["user_expressions"]["value"]["data"]["text/plain"].strip("'"))


def report(what: str, waits: list[float]) -> None:
    ordered = sorted(1000 * wait for wait in waits)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"{what:<28} {len(ordered):>6} {statistics.median(ordered):>7.0f} {p95:>7.0f} {ordered[-1]:>7.0f}")


def bench_handlers(kernel: BlockingKernelClient) -> None:
    """Milliseconds until the handler of a click has run, for a click every 20 ms."""
    ran(kernel, BUTTON)
    comm = ran(kernel, "", "button.model_id")
    ran(kernel, RUN)
    ran(kernel, HELLO + END)
    deadline = time.monotonic() + 120
    while not (rounds := ran_if_due(kernel, deadline)):
        for _ in range(25):
            content = {"comm_id": comm, "data": {"method": "custom", "content": {"sent": time.time()}}}
            kernel.shell_channel.send(kernel.session.msg("comm_msg", content))
            time.sleep(0.02)
    streaming, began, done, waits = rounds
    print("\nmeanwhile                    clicks  median     95%     max")
    report(f"{VIEWS} views stream", [wait for at, wait in waits if streaming < at < began])
    ending = [wait for at, wait in waits if began <= at <= done + 0.1]
    report(f"{VIEWS} views end in {done - began:.1f} s", ending)


def ran_if_due(kernel: BlockingKernelClient, deadline: float) -> Any:
    """When the views began to end, when they had ended, and what each click waited; None before."""
    assert time.monotonic() < deadline, "the views have not ended"
    return ran(kernel, "", "[streaming, began, done, waits] if 'done' in globals() else None")
