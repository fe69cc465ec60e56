"""What a live view sends to its page: bytes over the comm for each byte of the answer, and updates a second."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm
from jupyter_client.session import json_packer

sys.path.insert(0, str(Path(__file__).parents[1] / "widgets"))
from scripted import ScriptedRuns, ScriptedStream, run_is, says

import nbruns
from nbruns.objects import Message
from nbruns.widgets import session
from nbruns.widgets.run_view.view import RunView
from nbruns.widgets.session import LONGEST, PACE

CHARACTERS_PER_TOKEN = 4
#: About 300 tokens of everything that an answer is made of; the answer is this again and again.
MIXED = """## How the weather is made

The **wind** over the sea takes up water, and where it meets the mountains it has to *rise*, cool and let the
water go: that is why it rains in `Bergen` on two days of three. See [the table](https://example.org/rain) below.

- Bergen: 2,250 mm a year, on 239 days
- Oslo: 763 mm, on 113 days, most of it in the summer
- Tromsø: 1,031 mm, of which a third falls as snow

| city   | mm    | days |
|--------|-------|------|
| Bergen | 2,250 | 239  |
| Oslo   | 763   | 113  |

```python
def wettest(cities: dict[str, float]) -> str:
    # the one with the most rain
    return max(cities, key=lambda city: cities[city])
```

1. Take an umbrella, or better a coat with a hood: the rain there comes from the side.
2. Take a second pair of shoes.

> There is no bad weather, only bad clothes.

"""
CODE = (
    "```python\n"
    + "".join(f"def function_{i}(x):\n    return x * {i}  # note\n\n" for i in range(900))
    + "```\n"
)


class Counted:
    """Counts what widgets send as the kernel packs it: the messages' data, and how many updates there are."""

    def __init__(self) -> None:
        self.bytes = 0
        self.updates = 0

    def comm(self, *args: Any, **kwargs: Any) -> BaseComm:
        counted = self

        class CountingComm(BaseComm):
            def publish_msg(self, msg_type: str, data: Any = None, **_: Any) -> None:
                counted.bytes += len(json_packer(data))
                counted.updates += msg_type == "comm_msg"

        return CountingComm(*args, **kwargs)


def paced(text: str, rate: float) -> Iterator[Any]:
    """The events of an answer that comes at so many tokens a second."""
    pieces = [text[i : i + CHARACTERS_PER_TOKEN] for i in range(0, len(text), CHARACTERS_PER_TOKEN)]
    began: list[float] = []

    def wait_for(number: int) -> None:
        began[:] = began or [time.perf_counter()]
        time.sleep(max(0.0, began[0] + number / rate - time.perf_counter()))

    for number, event in enumerate(says(*pieces)):
        yield lambda number=number: wait_for(number)
        yield event


def measured(
    monkeypatch: pytest.MonkeyPatch, text: str, rate: float, haste: float = 1
) -> tuple[Counted, float]:
    """What a view sends of a text at so many tokens a second, and how long that would take. All is done so many
    times faster, the view's pauses too: that is the same traffic, and the bench ends before lunch."""
    counted = Counted()
    monkeypatch.setattr(session, "PACE", PACE / haste)
    monkeypatch.setattr(session, "LONGEST", LONGEST / haste)
    rate *= haste
    monkeypatch.setattr(comm, "create_comm", counted.comm)
    stream = ScriptedStream(run_is("in_progress"), *paced(text, rate), run_is("completed"))
    view = RunView(ScriptedRuns(), stream)
    view._page._handle_custom_msg({"hello": 0}, [])  # a page that listens
    counted.bytes = counted.updates = 0  # what widgets cost that say nothing, their code for the most part
    began = time.perf_counter()
    view.wait()
    return counted, haste * (time.perf_counter() - began)


def report(what: str, text: str, counted: Counted, seconds: float) -> None:
    size = len(text.encode())
    print(
        f"{what:<34} {size:>8,} {counted.bytes:>9,} {counted.bytes / size:>7.2f} "
        f"{counted.updates / seconds:>10.1f} {seconds:>8.1f}"
    )


def bench_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 tokens of mixed Markdown, and 40 KB of code, at several speeds."""
    print("\nanswer                                 bytes      comm   times  updates/s  seconds")
    text = "".join(itertools.islice(itertools.cycle(MIXED), 10_000 * CHARACTERS_PER_TOKEN))
    for rate, haste in ((10, 20), (50, 8), (200, 2), (1_000, 1), (100_000, 1)):
        report(f"Markdown, {rate:,} tokens a second", text, *measured(monkeypatch, text, rate, haste))
    for rate, haste in ((50, 8), (1_000, 1)):
        report(f"code, {rate:,} tokens a second", CODE, *measured(monkeypatch, CODE, rate, haste))


def turn(number: int) -> ScriptedStream:
    """A run that says something of everything."""
    id = f"run_{number}"
    return ScriptedStream(
        run_is("in_progress", id=id), *says(MIXED, id=f"msg_{number}"), run_is("completed", id=id)
    )


def bench_a_hundred_turns(tmp_path: Path) -> None:
    """A thread of 100 questions and answers is opened in a view, and one of 100 turns is rendered anew."""
    client = nbruns.local(tmp_path / "served")
    assistant = client.assistants.create(model="demo")
    messages = [{"role": role, "content": text} for text in [MIXED] * 100 for role in ("user", "assistant")]
    thread = client.threads.create(messages[:100])
    for message in messages[100:]:
        client.messages.create(thread, message["content"], role=message["role"])
    print("\nseconds")
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        view = client.chat(assistant, thread)
        while "earlier messages" not in view.to_html():
            time.sleep(0.001)
        taken.append(time.perf_counter() - began)
    print(f"{min(taken):.3f} open a thread of 200 messages, {len(view.to_html()) / 1e6:.1f} MB of HTML")
    many = RunView(ScriptedRuns(), turn(0))
    many.wait()
    for number in range(1, 100):
        many._begin(
            turn(number), [Message({"id": f"asked_{number}", "role": "user", "content": "And then?"})]
        )
        many.wait()
    began = time.perf_counter()
    size = len(many.to_html())
    print(f"{time.perf_counter() - began:.3f} render 100 turns, {size / 1e6:.1f} MB of HTML")
    client.server.stop()
