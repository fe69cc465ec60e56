"""openai-node's own `client.beta`, against the process that `nbruns serve` is: see node/openai_surface.mjs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nbruns.client import Client

SCRIPT = Path(__file__).parent / "node" / "openai_surface.mjs"


@pytest.fixture
def node() -> str:
    """The program node, with openai-node installed beside the script."""
    node, installed = shutil.which("node"), (SCRIPT.parent / "node_modules" / "openai").is_dir()
    if node is None or not installed:
        why = (
            "no node"
            if node is None
            else "no openai-node (npm install --prefix tests/node --no-package-lock)"
        )
        if os.environ.get("NBRUNS_REQUIRE_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return node


def test_every_method_of_openai_node(client: Client, node: str) -> None:
    done = subprocess.run(
        [node, SCRIPT, client.base_url],
        env={**os.environ, "OPENAI_API_KEY": str(client.api_key)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    called = json.loads(done.stdout.splitlines()[-1])
    assert {"assistants.create", "threads.createAndRunStream", "steps.retrieve"} <= {*called}
    assert len(called) > 30
