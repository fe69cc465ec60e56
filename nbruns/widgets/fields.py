"""One value as a labelled control, made from its JSON Schema.

`FIELDS` is the table from schema to field: the first that knows a schema and can hold the value makes it.
What none of them knows is edited as JSON. Every field is validated against its schema (jsonschema), and says
what is wrong right below its control. To teach the form another kind of value, insert a field at the front.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from html import escape
from typing import Any, ClassVar

import ipywidgets
import jsonschema

from nbruns.errors import excerpt

JSONSchema = Mapping[str, Any]
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING", "__bool__": lambda self: False})()


class Field:
    """A control for one value. `read()` gives the value, MISSING for one left out, or raises ValueError."""

    #: The JSON type that the field's schema says, where that is enough to choose the field.
    json_type: ClassVar[str] = ""
    python_types: ClassVar[tuple[type, ...]] = ()

    def __init__(
        self, label: str, schema: JSONSchema, value: Any, required: bool, whole: JSONSchema | None = None
    ) -> None:
        self.label = label
        self.schema = schema
        self.required = required
        self._whole = whole or schema  # what a value is validated against: it may allow null
        self._given = value
        self.control = self.make(_shown(value))
        self._untouched = self.control.value
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-invalid")
        self.widget = ipywidgets.VBox([self.control, self._note])
        self.widget.add_class("nbruns-field")
        self.control.observe(lambda _: self.say(""), "value")

    @classmethod
    def knows(cls, schema: JSONSchema, value: Any) -> bool:
        """Whether this field can edit what the schema says, and can hold the value."""
        return schema.get("type") == cls.json_type and (value is MISSING or type(value) in cls.python_types)

    def make(self, value: Any) -> Any:
        """The control, showing the value."""
        raise NotImplementedError

    def parse(self, shown: Any) -> Any:
        """The value of what the control shows; MISSING for nothing."""
        return shown

    def say(self, message: str) -> None:
        """Show what is wrong below the control."""
        self._note.value = f'<span role="alert">{escape(message)}</span>' if message else ""

    def read(self) -> Any:
        """The value. What nobody has touched is as it was given, left out if it was left out."""
        if self.control.value == self._untouched:
            value = self._given
        else:
            value = self.parse(self.control.value)
        if value is MISSING and self.required:
            value = self.parse_empty()
        self._check(value)
        return value

    def parse_empty(self) -> Any:
        """The value of an empty control whose value is required."""
        raise ValueError("This is required.")

    def _check(self, value: Any) -> None:
        if value is MISSING:
            return
        try:
            jsonschema.validate(value, dict(self._whole))
        except jsonschema.ValidationError as error:
            raise ValueError(excerpt(error.message)) from error
        except Exception:  # a schema that is none, or refers to what is not there: the server judges
            return

    def _options(self, **more: Any) -> dict[str, Any]:
        hint = str(self.schema.get("description") or "")
        label = self.label if self.required or not self.label else f"{self.label} (optional)"
        return {"description": label, "tooltip": hint or label, "layout": {"width": "auto"}, **more}


class ChoiceField(Field):
    """One of the values that an enum lists."""

    @classmethod
    def knows(cls, schema: JSONSchema, value: Any) -> bool:
        options = cls._choices(schema)
        return bool(options) and (value is MISSING or _index(options, value) is not None)

    @staticmethod
    def _choices(schema: JSONSchema) -> list[Any]:
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        return choices if isinstance(choices, list) else []

    def make(self, value: Any) -> Any:
        choices = self._choices(self.schema)
        options = [(_text(choice), index) for index, choice in enumerate(choices)]
        first = [] if self.required else [("—", -1)]
        index = _index(choices, value)
        default = 0 if self.required else -1
        return ipywidgets.Dropdown(
            options=first + options, value=default if index is None else index, **self._options()
        )

    def parse(self, shown: Any) -> Any:
        return MISSING if shown < 0 else self._choices(self.schema)[shown]

    def parse_empty(self) -> Any:
        return self.parse(self.control.value)


class BooleanField(Field):
    """True or false, or neither where it may be left out."""

    json_type, python_types = "boolean", (bool,)

    def make(self, value: Any) -> Any:
        options = [("true", True), ("false", False)]
        missing = [] if self.required else [("—", MISSING)]
        default = value if value is not MISSING else options[1][1] if self.required else MISSING
        return ipywidgets.Dropdown(options=missing + options, value=default, **self._options())

    def parse_empty(self) -> Any:
        return self.control.value


class IntegerField(Field):
    """A whole number, typed as text so that nothing typed is lost or rounded."""

    json_type = "integer"
    python_types: ClassVar[tuple[type, ...]] = (int,)
    convert: ClassVar[Any] = int
    wrong = "This is not a whole number."

    def make(self, value: Any) -> Any:
        return ipywidgets.Text("" if value is MISSING else json.dumps(value), **self._options())

    def parse(self, shown: Any) -> Any:
        if not shown.strip():
            return MISSING
        try:
            return self.convert(shown)
        except ValueError as error:
            raise ValueError(self.wrong) from error


class NumberField(IntegerField):
    """A number."""

    json_type = "number"
    python_types: ClassVar[tuple[type, ...]] = (int, float)
    wrong = "This is not a number."

    @staticmethod
    def convert(shown: str) -> float | int:
        """Whole numbers stay whole; NaN and infinity are no JSON."""
        number = float(shown)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError
        return int(shown) if shown.strip().lstrip("+-").isdigit() else number


class DateField(Field):
    """A day, from a calendar."""

    python_types = (str,)

    @classmethod
    def knows(cls, schema: JSONSchema, value: Any) -> bool:
        fits = schema.get("type") == "string" and schema.get("format") == "date"
        return fits and (value is MISSING or _date(value) is not None)

    def make(self, value: Any) -> Any:
        return ipywidgets.DatePicker(value=None if value is MISSING else _date(value), **self._options())

    def parse(self, shown: Any) -> Any:
        return MISSING if shown is None else shown.isoformat()


class TextField(Field):
    """A text; in several lines where it is long."""

    json_type, python_types = "string", (str,)

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else value
        long = len(text) > 80 or "\n" in text
        return (ipywidgets.Textarea if long else ipywidgets.Text)(text, **self._options())

    def parse(self, shown: Any) -> Any:
        return shown if shown or self._given == "" else MISSING

    def parse_empty(self) -> Any:
        return ""


class JSONField(Field):
    """Anything else, as JSON."""

    @classmethod
    def knows(cls, schema: JSONSchema, value: Any) -> bool:
        return True

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else json.dumps(value, indent=2, ensure_ascii=False)
        control = ipywidgets.Textarea(text, rows=min(max(text.count("\n") + 1, 2), 12), **self._options())
        control.add_class("nbruns-json")
        return control

    def parse(self, shown: Any) -> Any:
        if not shown.strip():
            return MISSING
        try:
            return json.loads(shown)
        except ValueError as error:
            raise ValueError(f"This is not JSON: {error}.") from error


#: From schema to field: the first that knows the schema and can hold the value.
FIELDS: list[type[Field]] = [
    ChoiceField,
    BooleanField,
    IntegerField,
    NumberField,
    DateField,
    TextField,
    JSONField,
]


def field_for(
    label: str, schema: Any, value: Any = MISSING, *, required: bool = False, root: JSONSchema | None = None
) -> Field:
    """The field for a value; `root` is the schema that holds what a `$ref` refers to."""
    definitions = {key: root[key] for key in ("$defs", "definitions") if root and key in root}
    plain = _resolved(schema, root or {})
    maker = next(field for field in FIELDS if field.knows(plain, _shown(value)))
    whole = {**definitions, **schema} if isinstance(schema, Mapping) else {}
    return maker(label, plain, value, required, whole)


def _shown(value: Any) -> Any:
    """A null is an empty control."""
    return MISSING if value is None else value


def _resolved(schema: Any, root: JSONSchema) -> dict[str, Any]:
    """The schema with references followed and "or null" left out."""
    found: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {}
    for _ in range(10):  # references may go round in circles
        target = _definition(found.get("$ref"), root)
        nullable = _without_null(found)
        if target is not None:
            found = {**target, **{key: value for key, value in found.items() if key != "$ref"}}
        elif nullable is not None:
            found = nullable
        else:
            break
    return found


def _definition(reference: Any, root: JSONSchema) -> JSONSchema | None:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    target: Any = root
    for part in reference[2:].split("/"):
        target = target.get(part) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else None


def _without_null(schema: JSONSchema) -> dict[str, Any] | None:
    """The one schema that is left of "this or null"; None where that is not what it says."""
    kind, options = schema.get("type"), schema.get("anyOf")
    if isinstance(kind, list) and len(kind) == 2 and "null" in kind:
        return {**schema, "type": next(name for name in kind if name != "null")}
    if isinstance(options, list):
        left = [option for option in options if option != {"type": "null"}]
        if len(left) == 1 and len(options) == 2 and isinstance(left[0], Mapping):
            return {**{key: value for key, value in schema.items() if key != "anyOf"}, **left[0]}
    return None


def _index(choices: list[Any], value: Any) -> int | None:
    same = (i for i, choice in enumerate(choices) if type(choice) is type(value) and choice == value)
    return next(same, None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _date(text: Any) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        return None
