"""A program that is to be killed: it starts or joins a local server, runs a named batch and prints its rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbruns


def main(folder: str, rows: str) -> None:
    """Run the batch in a data folder."""
    client = nbruns.local(folder)
    print("started", flush=True)
    prompts = [f"Question {number}?" for number in range(int(rows))]
    told = client.runs.batch(
        prompts, {"model": "demo", "max_completion_tokens": 256}, name="killed", concurrency=8
    )
    Path(folder, "rows.json").write_text(json.dumps(told[["prompt", "id", "status"]].values.tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
