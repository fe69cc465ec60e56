"""Enter the output of a call: as fields (if the return type is known), text, JSON or a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets

from nbruns.text import excerpt
from nbruns.widgets.form.field import silent
from nbruns.widgets.html import sendable

TEXT, JSON, FIELDS, FILE, ERROR = "text", "json", "fields", "file", "error"
_WAYS = {FIELDS: "Fields", TEXT: "Text", JSON: "JSON", FILE: "File content"}


class OutputEditor(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """Edits an output. `way` is the input mode; entries in other modes are kept, but not sent.

    `schema` is the JSON Schema of the return value; None if it is a string or unknown.
    """

    def __init__(self, name: str, schema: Mapping[str, Any] | None) -> None:
        self._schema = None if schema == {"type": "string"} else schema
        self._callbacks: list[Callable[[], object]] = []
        self._made: dict[str, Any] = {}
        self._placeholder = sendable(f"Return value of {excerpt(name, 80)}")
        self.text = ipywidgets.Textarea(description="Output", rows=2)
        self.text.add_class("nbruns-field")
        self.text.observe(lambda _: self._changed(), "value")
        ways = [(words, way) for way, words in _WAYS.items() if way != FIELDS or self._schema is not None]
        self._way = ipywidgets.Dropdown(
            options=ways, description="Output as", value=ways[0][1], layout={"width": "auto"}
        )
        self._way.add_class("nbruns-way")
        self._way.observe(lambda _: self._chose(), "value")
        self._is_error = False
        self._shown = [self._way, self.text]
        super().__init__(self._shown)
        self.add_class("nbruns-output")
        self._show()

    @property
    def way(self) -> str:
        """The input mode: fields, text, json, file, or error (a text that is reported as an error)."""
        return ERROR if self._is_error else self.chosen

    @way.setter
    def way(self, way: str) -> None:
        self._is_error = way == ERROR
        if way != ERROR:
            self._way.value = way
        self._show()

    @property
    def chosen(self) -> str:
        """The selected input mode, regardless of error."""
        return str(self._way.value)

    def read(self) -> str | None:
        """Return the output text, or None. Raises ValueError if it is invalid, and shows it at the field."""
        return _READ.get(self.way, _text)(self)

    @property
    def is_complete(self) -> bool:
        """Whether there is an output and it is valid. Does not show what is wrong."""
        with silent():
            try:
                return self.read() is not None
            except ValueError:
                return False

    def field(self, way: str) -> Any:
        """Return the editor for an input mode."""
        if way in (TEXT, ERROR):
            return self.text
        if way not in self._made:
            self._made[way] = _MAKE[way](self._schema)
            self._made[way].on_change(self._changed)
            self._shown.append(_widget(self._made[way]))
            self.children = list(self._shown)
        return self._made[way]

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the output changes."""
        self._callbacks.append(callback)

    def freeze(self, frozen: bool) -> None:
        """Disable or enable every control."""
        self._way.disabled = self.text.disabled = frozen
        for made in self._made.values():
            made.freeze(frozen)

    def _chose(self) -> None:
        self._show()
        self._changed()

    def _show(self) -> None:
        self.text.description = "Error" if self._is_error else "Output"
        self.text.placeholder = "What went wrong" if self._is_error else self._placeholder
        self._way.layout.display = "none" if self._is_error else None
        shown = _widget(self.field(self.way))
        for widget in self._shown[1:]:
            widget.layout.display = None if widget is shown else "none"

    def _changed(self) -> None:
        for callback in self._callbacks:
            callback()


def _widget(made: Any) -> Any:
    return getattr(made, "widget", made)


def _fields(schema: Mapping[str, Any] | None) -> Any:
    from nbruns.widgets.form.fields import field_for

    return field_for("Output", schema, required=True)


def _json(schema: Mapping[str, Any] | None) -> Any:
    from nbruns.widgets.form.fields import json_field

    return json_field("Output", True if schema is None else schema)


def _file(_: Mapping[str, Any] | None) -> Any:
    from nbruns.widgets.form.file_input import FileInput

    return FileInput("Output")


def _text(editor: OutputEditor) -> str | None:
    text = str(editor.text.value)
    return text if text.strip() else None


def _text_of_fields(editor: OutputEditor) -> str | None:
    field = editor.field(FIELDS)
    if not field.edited:
        return None
    value = field.read()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text_of_json(editor: OutputEditor) -> str | None:
    field = editor.field(JSON)
    text = str(field.control.value)
    if not text.strip():
        return None
    field.read()
    return text


def _text_of_file(editor: OutputEditor) -> str | None:
    taken: str | None = editor.field(FILE).text
    return taken


_MAKE: dict[str, Callable[[Mapping[str, Any] | None], Any]] = {FIELDS: _fields, JSON: _json, FILE: _file}
_READ: dict[str, Callable[[OutputEditor], str | None]] = {
    FIELDS: _text_of_fields,
    JSON: _text_of_json,
    FILE: _text_of_file,
}
