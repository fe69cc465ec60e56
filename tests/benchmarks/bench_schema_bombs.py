"""How long others wait while the server works on JSON Schemas that would take forever."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "server"))
from served import ServerProcess
from test_schema_bombs import ARGUMENTS, BOMBS, start


def bench_waits_beside_schema_bombs(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "db", *ARGUMENTS)
    for schema in BOMBS.values():
        start(server, schema, "tools")
    waits, end = [], time.monotonic() + 5
    while time.monotonic() < end:
        began = time.perf_counter()
        requests.get(f"{server.url}/health", timeout=10).raise_for_status()
        waits.append(1000 * (time.perf_counter() - began))
    server.stop()
    waits.sort()
    print(f"\n/health beside {len(BOMBS)} schema bombs, ms   median {waits[len(waits) // 2]:.1f}", end="")
    print(
        f"   99th percentile {waits[len(waits) * 99 // 100]:.1f}   longest {waits[-1]:.1f}   ({len(waits)} requests)"
    )
