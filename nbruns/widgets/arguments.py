"""A call's arguments as fields, one for each parameter; as JSON where they are not what the schema says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ipywidgets

from nbruns.widgets.fields import MISSING, Field, JSONField, field_for


class ArgumentsEditor(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """Edits the arguments that a model wrote. `read()` gives them as the tool takes them."""

    def __init__(self, arguments: str, parameters: Mapping[str, Any]) -> None:
        self._fields: dict[str, Field] = {}
        self._raw: ipywidgets.Textarea | None = None
        self._fill(arguments, parameters)
        super().__init__(self._controls())
        self.add_class("nbruns-arguments")

    def _fill(self, arguments: str, parameters: Mapping[str, Any]) -> None:
        given = _parsed(arguments)
        if isinstance(given, dict):
            self._fields = _fields(given, parameters)
        else:  # nothing that fields could show: exactly what the model wrote, to be mended
            rows = min(max(arguments.count("\n") + 1, 2), 12)
            self._raw = ipywidgets.Textarea(arguments, description="Arguments (JSON)", rows=rows)
            self._raw.add_class("nbruns-field").add_class("nbruns-json")

    def _controls(self) -> list[Any]:
        return [field.widget for field in self._fields.values()] if self._raw is None else [self._raw]

    def read(self) -> dict[str, Any] | str:
        """The arguments as they stand. Raises ValueError, with the words at the field, where one is wrong."""
        if self._raw is not None:
            return str(self._raw.value)
        values, wrong = {}, []
        for name, field in self._fields.items():
            try:
                values[name] = field.read()
            except ValueError as error:
                field.say(str(error))
                wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return {name: value for name, value in values.items() if value is not MISSING}

    def freeze(self, frozen: bool) -> None:
        """Disable or enable every control."""
        controls = [field.control for field in self._fields.values()] if self._raw is None else [self._raw]
        for control in controls:
            control.disabled = frozen


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return None


def _fields(given: dict[str, Any], parameters: Mapping[str, Any]) -> dict[str, Field]:
    properties = parameters.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    required = parameters.get("required")
    names = required if isinstance(required, list) else []
    fields = {
        name: field_for(name, schema, given.get(name, MISSING), required=name in names, root=parameters)
        for name, schema in known.items()
    }
    unknown = {
        name: JSONField(name, {}, value, required=False) for name, value in given.items() if name not in known
    }
    return fields | unknown
