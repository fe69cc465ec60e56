"""What a server says in the headers of its answers; nothing where it says nonsense."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

#: Headers that name a request: OpenAI's, then Azure's.
REQUEST_IDS = ("x-request-id", "apim-request-id", "x-ms-request-id")


def seconds(text: str | None, unit: float = 1.0) -> float | None:
    """A number of seconds, or of another `unit`; None where it is no length of time."""
    try:
        found = float(text or "") * unit
    except ValueError:
        return None
    return found if found >= 0 and math.isfinite(found) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the server wants to be asked again; HTTP's header has a number or a date."""
    told = seconds(headers.get("retry-after-ms"), 0.001)
    told = seconds(headers.get("retry-after")) if told is None else told
    until = _date(headers, "retry-after") if told is None else None
    return told if until is None else max(0.0, until - server_time(headers))


def server_time(headers: Mapping[str, str]) -> float:
    """Unix time by the server's clock, of which its timestamps are too; by ours where it does not tell."""
    told = _date(headers, "date")
    return time.time() if told is None else told


def _date(headers: Mapping[str, str], name: str) -> float | None:
    try:
        return parsedate_to_datetime(headers[name]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
