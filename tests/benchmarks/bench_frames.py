"""100,000 runs as a DataFrame, against pandas.json_normalize on the same list in the same process: time and memory."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pandas as pd

from nbruns.frames import runs_frame
from nbruns.objects import Run

COUNT = 100_000
INSTRUCTIONS = (
    "You are the assistant of a weather service. Answer briefly, in the language of the question. " * 4
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": False,
    },
}


def made(count: int) -> list[dict[str, Any]]:
    """Runs with every field that OpenAI's server sent, from the seed 1."""
    chance = random.Random(1)

    def id(prefix: str) -> str:
        return prefix + "".join(chance.choices(string.ascii_letters + string.digits, k=24))

    threads, assistants = [id("thread_") for _ in range(count // 4 + 1)], [id("asst_") for _ in range(12)]
    return [one(chance, number, id("run_"), threads, assistants) for number in range(count)]


def one(
    chance: random.Random, number: int, id: str, threads: list[str], assistants: list[str]
) -> dict[str, Any]:
    created, failed = 1_790_000_000 + 20 * number, chance.random() < 0.05
    ended, prompt, completion = (
        (created + chance.randrange(2, 60)),
        chance.randrange(5000),
        chance.randrange(900),
    )
    return {
        **{"id": id, "object": "thread.run", "created_at": created, "started_at": created + 1},
        **{"assistant_id": chance.choice(assistants), "thread_id": chance.choice(threads)},
        **{"status": "failed" if failed else "completed", "expires_at": None, "cancelled_at": None},
        **{"failed_at": ended if failed else None, "completed_at": None if failed else ended},
        **{
            "required_action": None,
            "incomplete_details": None,
            "model": chance.choice(["gpt-4o", "gpt-4o-mini"]),
        },
        "last_error": {"code": "rate_limit_exceeded", "message": "Slow down."} if failed else None,
        **{"instructions": INSTRUCTIONS, "tools": [{**TOOL}], "tool_resources": {}, "reasoning_effort": None},
        **{"metadata": {"team": chance.choice(["sales", "ops"]), "user": f"user {chance.randrange(500)}"}},
        **{"temperature": 1.0, "top_p": 1.0, "max_completion_tokens": None, "max_prompt_tokens": None},
        **{"truncation_strategy": {"type": "auto", "last_messages": None}, "response_format": "auto"},
        "usage": {
            **{"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
            **{
                "prompt_token_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        },
        **{"tool_choice": "auto", "parallel_tool_calls": True},
    }


def measured(makers: dict[str, Callable[[], pd.DataFrame]], times: int) -> dict[str, tuple[float, float]]:
    """Seconds of the processor, the median of some times, and megabytes.

    They take turns: whatever else the machine does meanwhile slows all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in makers}
    size: dict[str, float] = {}
    for _ in range(times):
        for name, make in makers.items():
            began = time.process_time()
            frame = make()
            taken[name].append(time.process_time() - began)
            size[name] = frame.memory_usage(deep=True).sum() / 1e6
    return {name: (median(taken[name]), size[name]) for name in makers}


def bench_frames() -> None:
    payloads = made(COUNT)
    runs = [Run(payload) for payload in payloads]
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "pandas.json_normalize": lambda: pd.json_normalize(payloads),
        "runs_frame, of JSON": lambda: runs_frame(payloads),
        "runs_frame, of Run objects": lambda: runs_frame(runs),
    }
    rows = measured(makers, 5)
    base = rows["pandas.json_normalize"]
    print(f"\n{f'{COUNT:,} runs':28}{'s':>8}{'MB':>8}{'faster':>8}{'smaller':>9}")
    for name, (seconds, size) in rows.items():
        print(f"{name:28}{seconds:8.3f}{size:8.1f}{base[0] / seconds:7.1f}x{base[1] / size:8.1f}x")
