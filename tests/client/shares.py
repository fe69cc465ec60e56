"""Where streams are cut, and checks of many such positions, several at once: they mostly wait for sockets."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

#: Cut after every single byte: NBRUNS_NIGHTLY=1, which takes minutes.
EVERY_BYTE = os.environ.get("NBRUNS_NIGHTLY") == "1"
#: Otherwise so many positions, drawn from a seed, beside those around the end of each event.
SAMPLE, SEED = 40, int(os.environ.get("NBRUNS_CUTS_SEED", "7"))
_AT_ONCE = 4


def cuts(body: bytes, first: int = 0) -> list[int]:
    """Positions to cut a stream at: around each event's end and a sample of all others, or every one."""
    every = range(first, len(body))
    if EVERY_BYTE:
        return list(every)
    ends = [found.end() for found in re.finditer(rb"\n\n", body)]
    around = {end + offset for end in ends for offset in (-2, -1, 0, 1)} | {first}
    sample = random.Random(SEED).sample(every, min(SAMPLE, len(every)))
    return sorted((around | set(sample)) & set(every))


def check_in_shares(check: Callable[[Sequence[int]], None], positions: Sequence[int]) -> None:
    """Have every position checked; `check` gets a share of them, and uses a server of its own for it."""
    shares = [positions[i::_AT_ONCE] for i in range(_AT_ONCE)]
    assert sorted(position for share in shares for position in share) == sorted(positions)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(check, shares))  # raises what a check has raised
