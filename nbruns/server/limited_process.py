"""Run functions on untrusted input in separate processes, with limits on time and memory.

A regular expression holds the interpreter lock, so neither a thread nor a timeout can stop it. A process is started
when it is first needed, reused for later calls, limited in memory, and killed when a call takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from nbruns.text import JSON

#: Maximum number of seconds and bytes of memory for a call.
SECONDS = 5.0
MEMORY_BYTES = 1024**3
#: Maximum number of processes. Further calls wait. The first call waits for the process to start.
PROCESSES = 2
_START_SECONDS = 30.0
#: Low priority, but not the lowest: at 19, background work makes no progress on a busy machine.
_BACKGROUND_NICE = 5


class LimitExceeded(Exception):
    """A call took too much time or memory."""


class Processes:
    """The processes of a server. They belong to the event loop that first uses them.

    Args:
        seconds: Maximum number of seconds for a call. Default: SECONDS.
        memory_bytes: Maximum memory of a process in bytes.
        count: Maximum number of processes.
        is_background: Whether the processes have a lower priority than the rest of the server.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        memory_bytes: int = MEMORY_BYTES,
        count: int = PROCESSES,
        is_background: bool = False,
    ) -> None:
        self.seconds = SECONDS if seconds is None else seconds
        self.memory_bytes, self.is_background = memory_bytes, is_background
        self._idle: list[asyncio.subprocess.Process] = []
        self._free = asyncio.Semaphore(count)

    async def call(self, function: str, *arguments: Any) -> Any:
        """Call `function` ("module:name") with JSON arguments, and return its JSON result.

        Raises LimitExceeded if it takes too much time or memory, RuntimeError if it raises.
        """
        async with self._free:
            process = self._idle.pop() if self._idle else await self._started(function)
            try:
                async with asyncio.timeout(self.seconds):
                    answer = await _ask(process, {"function": function, "arguments": arguments})
            except TimeoutError:
                raise LimitExceeded(f"over {self.seconds:g} s") from None
            finally:
                # After any error, including cancellation, the process may still be busy and can't be reused.
                if sys.exc_info()[0] is not None:
                    await _killed(process)
            if answer is None:
                await _killed(process)
                raise LimitExceeded(f"over {self.memory_bytes // 1024**2} MiB of memory")
            self._idle.append(process)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _killed(self._idle.pop())

    async def _started(self, function: str) -> asyncio.subprocess.Process:
        """Start a process that imports the module of the function, because the import takes longer than most calls."""
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                __name__,
                str(self.memory_bytes),
                str(_BACKGROUND_NICE if self.is_background else 0),
            ),
            # One thread, because numerical libraries would otherwise use all cores.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=2**30,
        )
        async with asyncio.timeout(_START_SECONDS):
            await _ask(process, {"function": function, "arguments": None})
        return process


async def _ask(process: asyncio.subprocess.Process, request: JSON) -> JSON | None:
    """Return the response of the process, or None if it has ended."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(json.dumps(request).encode() + b"\n")
        await process.stdin.drain()
    line = await process.stdout.readline()
    answer: JSON | None = json.loads(line) if line.endswith(b"\n") else None
    return None if answer == {"memory": True} else answer


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _requests() -> Iterator[JSON]:
    for line in sys.stdin.buffer:
        yield json.loads(line)


def main() -> None:
    """Process requests from stdin until the server closes it."""
    with contextlib.suppress(ImportError):
        import resource

        memory_bytes = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if hasattr(os, "nice"):
        os.nice(int(sys.argv[2]))
    for request in _requests():
        module, _, name = request["function"].partition(":")
        try:
            called = getattr(importlib.import_module(module), name)
            value = None if request["arguments"] is None else called(*request["arguments"])
            answer = json.dumps({"value": value})
        except MemoryError:
            answer = json.dumps({"memory": True})
        except Exception as error:
            answer = json.dumps({"error": f"{type(error).__name__}: {error}"[:500]})
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
