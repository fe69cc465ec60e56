"""Traits that take what people write: one name or many, a time or how long ago."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import traitlets

from nbruns.errors import excerpt
from nbruns.widgets.runs_rows import moment_text


class Names(traitlets.List):  # type: ignore[type-arg]  # its subclass is of str
    """A list of names; a single name will do."""

    def validate(self, obj: Any, value: Any) -> Any:
        wanted = [value] if isinstance(value, str) else value if isinstance(value, list) else list(value)
        return super().validate(obj, wanted)


class Moment(traitlets.Unicode):  # type: ignore[type-arg]
    """A point in time as text; a datetime, or a timedelta for so long ago, will do."""

    def validate(self, obj: Any, value: Any) -> Any:
        if isinstance(value, timedelta):
            value = f"{value.total_seconds():.0f}s"
        text = "" if value is None else value.isoformat() if isinstance(value, datetime) else str(value)
        try:
            return moment_text(text)
        except ValueError:
            raise traitlets.TraitError(
                f"{self.name}={excerpt(value, 60)!r} is no time: write '2026-11-01', a datetime, or '7D' for "
                "seven days ago."
            ) from None
