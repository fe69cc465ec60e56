"""A program: a server with the model `slow`, to be killed. It imports little, so that it starts soon."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator

from nbruns.server.models import Delta, Finish, Models, Prompt, TextDelta, ToolCallDelta, usage
from nbruns.server.serve import serve

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
        if prompt.tools and prompt.messages[-1]["role"] != "tool":
            await asyncio.sleep(self._pause)
            for delta in CALL:
                yield delta
            return
        for word in range(self._words):
            yield TextDelta(f"{word} ")
            await asyncio.sleep(self._pause)
        yield Finish("stop", usage(10, self._words))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("database_url")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--lifetime", type=int, default=600)
    parser.add_argument("--idle-timeout", type=float)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.05)
    asked = parser.parse_args()
    models = Models()
    models.add("slow", Slow(asked.words, asked.pause))
    serve(
        port=asked.port,
        database_url=asked.database_url,
        token=TOKEN,
        idle_timeout=asked.idle_timeout,
        on_ready=lambda url: print(url, flush=True),
        models=models,
        run_lifetime=asked.lifetime,
    )


if __name__ == "__main__":
    main()
