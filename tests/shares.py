"""Checks of many positions, several at once: a client and its server mostly wait for sockets, and for each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

_AT_ONCE = 4


def check_in_shares(check: Callable[[Sequence[int]], None], positions: Sequence[int]) -> None:
    """Have every position checked; `check` gets a share of them, and uses a server of its own for it."""
    shares = [positions[i::_AT_ONCE] for i in range(_AT_ONCE)]
    assert sorted(position for share in shares for position in share) == sorted(positions)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(check, shares))  # raises what a check has raised
