"""Edit the arguments of a call: one field per parameter, or JSON if they don't match the schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets

from nbruns.text import JSON
from nbruns.widgets.form.field import Field
from nbruns.widgets.form.fields import field_for
from nbruns.widgets.form.group_fields import ObjectField
from nbruns.widgets.html import sendable


class ArgumentsEditor(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """Edits the arguments that a model wrote. `read()` returns them in the form that the tool accepts."""

    def __init__(self, arguments: str, parameters: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._field: Field | None = None
        self._raw: ipywidgets.Textarea | None = None
        given = _parsed(arguments)
        if isinstance(given, dict) and (given or parameters.get("properties")):
            self._field = field_for("", parameters, given, required=True)
        elif not isinstance(given, dict):  # not an object, so fields can't show it: edit the raw text
            self._raw = self._raw_editor()
        super().__init__([self._raw] if self._raw else [self._field.widget] if self._field else [])
        self.add_class("nbruns-arguments")

    @property
    def fields(self) -> dict[str | int, Field]:
        """The field of each argument; empty if the arguments are edited as JSON."""
        return dict(self._field.fields()) if isinstance(self._field, ObjectField) else {}

    def _raw_editor(self) -> Any:
        shown = sendable(self._arguments)
        rows = min(max(shown.count("\n") + 1, 2), 12)
        control = ipywidgets.Textarea(shown, description="Arguments (JSON)", rows=rows)
        control.add_class("nbruns-field").add_class("nbruns-json")
        return control

    def read(self) -> JSON | str:
        """Return the current arguments. Raises ValueError if one is invalid, and shows the message at its field."""
        if self._raw is not None:
            unchanged = self._raw.value == sendable(self._arguments)
            return self._arguments if unchanged else str(self._raw.value)
        value: JSON = {} if self._field is None else self._field.read()
        return value

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever an argument changes."""
        if self._raw is not None:
            self._raw.observe(lambda _: callback(), "value")
        if self._field is not None:
            self._field.on_change(callback)

    def freeze(self, frozen: bool) -> None:
        """Disable or enable every control."""
        if self._raw is not None:
            self._raw.disabled = frozen
        if self._field is not None:
            self._field.freeze(frozen)


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}", strict=False)
    except (ValueError, RecursionError):
        return None
