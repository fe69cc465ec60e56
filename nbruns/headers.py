"""Values of response headers; invalid ones are ignored."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

#: Headers with the id of a request: OpenAI's, then Azure's.
REQUEST_IDS = ("x-request-id", "apim-request-id", "x-ms-request-id")


def seconds(text: str | None, unit: float = 1.0) -> float | None:
    """Return a number of seconds, or of another `unit`; None if the text is not a duration."""
    try:
        found = float(text or "") * unit
    except ValueError:
        return None
    return found if found >= 0 and math.isfinite(found) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which to retry: the header contains a number or a date."""
    delay = seconds(headers.get("retry-after-ms"), 0.001)
    delay = seconds(headers.get("retry-after")) if delay is None else delay
    until = _date(headers, "retry-after") if delay is None else None
    return delay if until is None else max(0.0, until - server_time(headers))


def server_time(headers: Mapping[str, str]) -> float:
    """Return the Unix time of the server's clock, from the header Date; without it, the time of this machine."""
    date = _date(headers, "date")
    return time.time() if date is None else date


def _date(headers: Mapping[str, str], name: str) -> float | None:
    try:
        return parsedate_to_datetime(headers[name]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
