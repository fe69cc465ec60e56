"""Fields for single values. JSONField accepts any value."""

from __future__ import annotations

import datetime
import json
import math
from typing import Any, ClassVar

import ipywidgets

from nbruns.text import JSON
from nbruns.widgets.form.field import MISSING, Field, FieldSpec, short, to_json, unsent
from nbruns.widgets.form.plain_schema import choices
from nbruns.widgets.html import plain_label, sendable

#: Maximum number of enum values for a dropdown; with more, the value is typed.
MAX_CHOICES = 200
_NOTHING, _NULL = -1, -2


class ChoiceField(Field):
    """A dropdown for the values of an enum."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        listed = cls.listed(spec)
        given = spec.value is MISSING or spec.value is None or _index(listed, spec.value) is not None
        return 0 < len(listed) <= MAX_CHOICES and given

    @staticmethod
    def listed(spec: FieldSpec) -> list[Any]:
        """Return the values to choose from."""
        return choices(spec.schema)

    def make(self, value: Any) -> Any:
        listed = self.listed(self.spec)
        index = _index(listed, self.spec.value)
        numbered = [(_text(choice), number) for number, choice in enumerate(listed)]
        null = [("null", _NULL)] if index is None and (self.spec.nullable or self.spec.value is None) else []
        nothing = "Choose…" if self.spec.required else unsent(self.spec)
        shown = _NULL if self.spec.value is None and index is None else _NOTHING if index is None else index
        return ipywidgets.Dropdown(
            options=[(nothing, _NOTHING), *null, *numbered], value=shown, **self.options()
        )

    def parse(self, shown: Any) -> Any:
        return {_NOTHING: MISSING, _NULL: None}[shown] if shown < 0 else self.listed(self.spec)[shown]

    def empty(self) -> Any:
        if self.spec.required:
            raise ValueError("Required.")
        return MISSING


class BooleanField(ChoiceField):
    """True or false."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        return spec.schema.get("type") == "boolean" and type(spec.value) in (
            bool,
            type(None),
            type(MISSING),
        )

    @staticmethod
    def listed(spec: FieldSpec) -> list[Any]:
        return [True, False]


class IntegerField(Field):
    """An integer, entered as text so that no input is lost or rounded."""

    json_type = "integer"
    python_types: ClassVar[tuple[type, ...]] = (int,)
    convert: ClassVar[Any] = int
    wrong = "Not a whole number."

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else json.dumps(value)
        return ipywidgets.Text(text, placeholder=self.placeholder_text(), **self.options())

    def parse(self, shown: Any) -> Any:
        if not shown.strip():
            return MISSING
        try:
            return self.convert(shown)
        except (ValueError, OverflowError) as error:
            raise ValueError(self.wrong) from error


class NumberField(IntegerField):
    """A number."""

    json_type = "number"
    python_types: ClassVar[tuple[type, ...]] = (int, float)
    wrong = "Not a number."

    @staticmethod
    def convert(shown: str) -> float | int:
        """Convert to int or float. NaN and infinity are rejected, because JSON does not support them."""
        if not math.isfinite(float(shown)):
            raise ValueError
        return int(shown) if shown.strip().lstrip("+-").isdigit() else float(shown)


class DateField(Field):
    """A date picker."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        fits = spec.schema.get("type") == "string" and spec.schema.get("format") == "date"
        return fits and (spec.value is MISSING or spec.value is None or _date(spec.value) is not None)

    def make(self, value: Any) -> Any:
        return ipywidgets.DatePicker(value=None if value is MISSING else _date(value), **self.options())

    def parse(self, shown: Any) -> Any:
        return MISSING if shown is None else shown.isoformat()

    def hint(self) -> str:
        return self.spec.description

    def options(self, **more: Any) -> JSON:
        options = super().options(**more)
        if self.spec.default not in (MISSING, None):  # date pickers have no placeholder
            options["description"] += plain_label(f", {unsent(self.spec)}")
        return options


class TextField(Field):
    """A text input; a text area for long or multiline values."""

    json_type, python_types = "string", (str,)

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        return super().knows(spec) and sendable(str(spec.value)) == str(spec.value)

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else value
        long = len(text) > 80 or "\n" in text or "\r" in text
        kind = ipywidgets.Textarea if long else ipywidgets.Text
        return kind(text, placeholder=self.placeholder_text(), **self.options())

    def parse(self, shown: Any) -> Any:
        return shown or MISSING

    def empty(self) -> Any:
        try:
            return super().empty()
        except ValueError:
            if not self.edited:
                raise
            return ""


class JSONField(Field):
    """The fallback: edit any value as JSON."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        return True

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else to_json(value, indent=2)
        rows = min(max(text.count("\n") + 1, 2), 12)
        options = self.options(placeholder=self.placeholder_text(), rows=rows)
        options["description"] += " (JSON)" if options["description"] else "JSON"
        control = ipywidgets.Textarea(text, **options)
        control.add_class("nbruns-json")
        return control

    def parse(self, shown: Any) -> Any:
        if not shown.strip():
            return MISSING
        try:
            return json.loads(shown)
        except RecursionError as error:
            raise ValueError("Nested too deeply.") from error
        except ValueError as error:
            raise ValueError(f"Not valid JSON: {error}.") from error


#: Keywords that a schema for any value can contain.
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated"}


class AnyField(JSONField):
    """A value of any kind inside a list or an object. Input that is not JSON is taken as text."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        plain = spec.value is MISSING or isinstance(spec.value, (str, int, float, type(None)))
        any_value = spec.whole is not False and not spec.schema.keys() - _ANNOTATIONS
        return spec.depth > 0 and plain and any_value

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else self._written(value)
        long = len(text) > 80 or "\n" in text
        kind = ipywidgets.Textarea if long else ipywidgets.Text
        return kind(text, placeholder=self.placeholder_text(), **self.options())

    def placeholder_text(self) -> str:
        return super().placeholder_text() or 'Text, or JSON such as 3, true, "3"'

    def parse(self, shown: Any) -> Any:
        try:
            return super().parse(shown)
        except ValueError:
            if shown.strip()[0] in '{["':  # meant as JSON
                raise
            return shown

    def _written(self, value: Any) -> str:
        """Return the value as the user would enter it. Text that can't be confused with JSON has no quotes."""
        if isinstance(value, str) and value.strip() and sendable(value) == value:
            try:
                if self.parse(value) == value:
                    return value
            except ValueError:
                pass
        return to_json(value)


def _index(listed: list[Any], value: Any) -> int | None:
    same = (i for i, choice in enumerate(listed) if type(choice) is type(value) and choice == value)
    return next(same, None)


def _text(value: Any) -> str:
    return sendable(value[:200]) if isinstance(value, str) and value else short(value) or '""'


def _date(text: Any) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        return None
