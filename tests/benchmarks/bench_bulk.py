"""Reading many runs over loopback: as JSON lines, and by pages as from other servers; time and memory of both sides.

NBRUNS_BENCH_LISTED=100000 is the number of runs. Run as a program, this file is the client.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_load import TOKEN, memory, running
from bench_store import fill

LISTED = int(os.environ.get("NBRUNS_BENCH_LISTED", "100000"))


def read(url: str, how: str) -> None:
    """Read all runs in some way; print seconds and megabytes."""
    import nbruns
    from nbruns.client import transport

    if how.endswith("by pages"):
        transport._JSON_LINES = "application/x-none"
    client = nbruns.Client(f"{url}/v1", TOKEN)
    client.runs.list(limit=2)  # what is imported at first use
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    if how.startswith("list"):
        count = len(client.runs.list(limit=LISTED))
    else:
        count = sum(1 for _ in client.runs.iter(limit=LISTED))
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "count": count,
                "seconds": took,
                "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "peak": after.ru_maxrss / 1000,
                "grown": (after.ru_maxrss - before.ru_maxrss) / 1000,
            }
        )
    )


@pytest.mark.timeout(600)
def bench_lists_of_all_runs(tmp_path: Path) -> None:
    import sqlalchemy as sa

    from nbruns.server.storage import migrations, store

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}")
    store.metadata.create_all(engine)
    with engine.begin() as conn:
        store.upsert(conn, store.meta, {"key": "schema_version", "value": str(migrations.VERSION)})
        fill(conn, 0, LISTED)
    engine.dispose()
    with running("serve", str(tmp_path / "db")) as (url, pid):
        print(
            f"\n{LISTED:,} runs       seconds  cpu of the client  MB of the client, grown by   MB of the server"
        )
        for how in ("iter", "list", "iter by pages", "list by pages"):
            command = [sys.executable, __file__, url, how]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            assert told["count"] == LISTED
            print(
                f"{how:16}{told['seconds']:10.2f}{told['cpu']:17.2f}{told['peak']:18.0f}{told['grown']:10.0f}"
                f"{memory(pid):19.0f}"
            )
        print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    read(*sys.argv[1:])
