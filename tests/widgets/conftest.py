"""Fixtures for widgets: what they would send to a page, and a page that takes it as the JavaScript does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm
from ipywidgets import Widget
from sent import Page, Sent

import nbruns


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Everything that crosses the comm, from every widget made in the test."""
    messages = Sent()

    class RecordingComm(BaseComm):
        def publish_msg(
            self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any
        ) -> None:
            # As it is on the wire, so that later changes don't show.
            copied, given = json.loads(json.dumps(data)), [bytes(each) for each in buffers or ()]
            messages.append({"comm_id": self.comm_id, "type": msg_type, "data": copied, "buffers": given})

    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    return messages


@pytest.fixture
def page(sent: Sent) -> Callable[[Any], Page]:
    """Open a page on a transcript view."""
    return lambda view: Page(view, sent)


@pytest.fixture(autouse=True)
def _close_widgets() -> Iterator[None]:
    yield
    Widget.close_all()


@pytest.fixture
def nowhere() -> nbruns.Client:
    """A client of a port where nobody listens."""
    return nbruns.Client("http://127.0.0.1:9/v1", max_retries=0)
