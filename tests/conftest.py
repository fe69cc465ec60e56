"""What many tests need: a real server with a client of it, and the recordings of the real API."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbruns
from nbruns.server.interpreter.modes import why_no_sandbox

#: Beside the checkout, not in it: the recordings are somebody else's work.
RECORDINGS = Path(__file__).parent.parent.parent / "shared" / "recordings"

# Shells start what runs in the background with interrupts ignored, and what it starts inherits that: tests that
# interrupt kernels and lists would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `nightly`, unless NBRUNS_NIGHTLY=1: variants of tests that run every time."""
    if os.environ.get("NBRUNS_NIGHTLY") != "1":
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Code of models runs in a sandbox on this machine."""
    if (why := why_no_sandbox()) is not None:
        if os.environ.get("NBRUNS_REQUIRE_SANDBOX") == "1":
            pytest.fail(f"no sandbox: {why}")
        pytest.skip(f"no sandbox: {why}")


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nbruns.Client]:
    """A client of a server process of its own, shared by all tests: make your own threads and assistants."""
    client = nbruns.local(tmp_path_factory.mktemp("served"))
    yield client
    client.close()
    client.server.stop()


@pytest.fixture(scope="session")
def recordings() -> list[Path]:
    """The files of recorded exchanges, see their README for the lines."""
    found = sorted(RECORDINGS.glob("*.jsonl"))
    if not found:
        pytest.skip(f"no recordings of the real API at {RECORDINGS}")
    return found


@pytest.fixture(scope="session")
def recorded(recordings: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """The recorded exchanges by the name of their scenario."""
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in recordings}
