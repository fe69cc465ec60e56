"""A program: a server with the model `slow`, to be killed. It imports little, so that it starts soon."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

from nbruns.server import hosted, limited_process
from nbruns.server.hosted.mcp import Mcp
from nbruns.server.main import serve
from nbruns.server.models import Delta, Finish, Models, Prompt, TextDelta, ToolCallDelta, usage
from nbruns.server.retrieval import ingestion
from nbruns.server.runs import transitions

TOKEN = "correct horse"
CALL = (
    ToolCallDelta(0, "call_oslo", "get_weather"),
    ToolCallDelta(0, arguments='{"city":'),
    ToolCallDelta(0, arguments='"Oslo"}'),
    Finish("tool_calls", usage(20, 10)),
)


class Slow:
    """A model for servers that are killed: calls the first tool, if there is one, then counts, slowly."""

    def __init__(self, words: int, pause: float) -> None:
        self._words, self._pause = words, pause

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        if [tool["function"]["name"] for tool in prompt.tools] == ["tally"] and len(prompt.messages) == 1:
            for index, mark in enumerate(("quick", "slow")):
                yield ToolCallDelta(index, f"call_{mark}", "tally", mark)
            yield Finish("tool_calls", usage(20, 10))
        elif [tool["function"]["name"] for tool in prompt.tools][:1] == ["notes_add"] and len(
            prompt.messages
        ) == 1:
            for index, label in enumerate(("notes", "guarded")):
                text = "slow" if label == "notes" else label
                yield ToolCallDelta(index, f"call_{label}", f"{label}_add", f'{{"text": "{text}"}}')
            yield Finish("tool_calls", usage(20, 10))
        elif prompt.tools and prompt.messages[-1]["role"] != "tool":
            await asyncio.sleep(self._pause)
            for delta in CALL:
                yield delta
        else:
            async for delta in self._count():
                yield delta

    async def _count(self) -> AsyncIterator[Delta]:
        for word in range(self._words):
            yield TextDelta(f"{word} ")
            await asyncio.sleep(self._pause)
        yield Finish("stop", usage(10, self._words))


class Coder:
    """A model that runs code twice: the second takes longer than any test until the session is a new one."""

    FIRST = "x = 1; open('/mnt/data/kept.txt', 'w').write('kept')\nprint('first')"
    SECOND = (
        "import time\nif 'x' in globals(): time.sleep(60)\n"
        "print('x', 'x' in globals(), open('/mnt/data/kept.txt').read())"
    )

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        run = sum(message["role"] == "tool" for message in prompt.messages)
        if run < 2:
            arguments = json.dumps({"code": (self.FIRST, self.SECOND)[run]})
            yield ToolCallDelta(0, f"call_{run}", "code_interpreter", arguments)
            yield Finish("tool_calls", usage(20, 10))
        else:
            yield TextDelta("Done.")
            yield Finish("stop", usage(20, 10))


class TallyTool(hosted.ToolSchema):
    type: Literal["tally"]


class Tally(hosted.HostedTool):
    """A hosted tool that writes a line to a file at each call. The first "slow" one takes longer than any test."""

    def __init__(self, file: Path) -> None:
        self._file = file

    schema = TallyTool

    def declare(self, tool: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
        return {"name": "tally"}

    def describe(self, arguments: str) -> dict[str, Any]:
        return {"input": arguments, "outputs": []}

    async def run(self, run: dict[str, Any], arguments: str, context: hosted.Context) -> hosted.Result:
        with self._file.open("a") as file:
            file.write(f"{arguments}\n")
        if self._file.read_text().split().count("slow") == 1 and arguments == "slow":
            await asyncio.sleep(600)
        outputs = [{"type": "logs", "logs": "counted"}]
        return hosted.Result("counted", {"input": arguments, "outputs": outputs})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("database_url")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--lifetime", type=int, default=600)
    parser.add_argument("--delta-lifetime", type=int, default=86_400)
    parser.add_argument("--idle-timeout", type=float)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--seconds-for-schemas", type=float, default=limited_process.SECONDS)
    parser.add_argument("--blobs", type=Path)
    parser.add_argument("--mcp", type=Path)
    parser.add_argument("--tally", type=Path, default=Path("/dev/null"))
    asked = parser.parse_args()
    transitions.MAX_ATTEMPTS = ingestion.MAX_ATTEMPTS = asked.attempts
    limited_process.SECONDS = asked.seconds_for_schemas
    hosted.TOOLS["tally"] = Tally(asked.tally)
    hosted.TOOLS["mcp"] = Mcp(asked.mcp)
    models = Models()
    models.add("coder", Coder())
    models.add("slow", Slow(asked.words, asked.pause))
    serve(
        port=asked.port,
        database_url=asked.database_url,
        token=TOKEN,
        idle_timeout=asked.idle_timeout,
        on_ready=lambda url: print(url, flush=True),
        models=models,
        run_lifetime=asked.lifetime,
        delta_lifetime=asked.delta_lifetime,
        blobs=asked.blobs,
    )


if __name__ == "__main__":
    main()
