"""openai-node's own resources, against the process that `nbruns serve` is: see the scripts in node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_cli import served

from nbruns.client import Client

SCRIPTS = Path(__file__).parent / "node"


@pytest.fixture
def node() -> str:
    """The program node, with openai-node installed beside the script."""
    node, installed = shutil.which("node"), (SCRIPTS / "node_modules" / "openai").is_dir()
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


def run(node: str, script: str, client: Client, *arguments: str) -> Any:
    """What a script says on its last line."""
    done = subprocess.run(
        [node, SCRIPTS / script, client.base_url, *arguments],
        env={**os.environ, "OPENAI_API_KEY": str(client.api_key)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_method_of_openai_node(client: Client, node: str) -> None:
    called = run(node, "openai_surface.mjs", client)
    assert {"assistants.create", "threads.createAndRunStream", "steps.retrieve"} <= {*called}
    assert len(called) > 30


@pytest.mark.nightly
def test_every_method_of_the_files_and_stores_of_its_azure_client(client: Client, node: str) -> None:
    said = run(node, "openai_files.mjs", client, "azure")
    assert {"files.create", "parts.create", "storeFiles.uploadAndPoll", "models.list"} <= {*said["called"]}
    assert len(said["called"]) > 30


def test_every_method_of_its_files_and_stores_where_models_have_aliases(tmp_path: Path, node: str) -> None:
    with served(tmp_path, "--alias", "gpt-4o=demo", "--alias", "gpt-3*=demo") as (_, url, _):
        said = run(node, "openai_files.mjs", Client(url, (tmp_path / "token").read_text().strip()))
    assert {"demo", "gpt-4o"} <= {*said["names"]} and "gpt-3*" not in said["names"]
