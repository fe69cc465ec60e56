"""What tests of models leave behind is closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conversations import opened, run


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the upstreams that a test has opened."""
    yield
    while opened:
        run(opened.pop().close())
