"""Fields for single values; the last of them takes any value, as JSON."""

from __future__ import annotations

import datetime
import json
import math
from typing import Any, ClassVar

import ipywidgets

from nbruns.widgets.form.field import MISSING, Asked, Field, short, to_json, unsent
from nbruns.widgets.form.plain_schema import choices
from nbruns.widgets.html import plain_label, sendable

#: Values of an enum that a list to choose from may have; with more it is typed.
MOST_CHOICES = 200
_NOTHING, _NULL = -1, -2


class ChoiceField(Field):
    """One of the values that an enum lists."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        listed = cls.listed(asked)
        given = asked.value is MISSING or asked.value is None or _index(listed, asked.value) is not None
        return 0 < len(listed) <= MOST_CHOICES and given

    @staticmethod
    def listed(asked: Asked) -> list[Any]:
        """The values that can be chosen."""
        return choices(asked.schema)

    def make(self, value: Any) -> Any:
        listed = self.listed(self.asked)
        index = _index(listed, self.asked.value)
        numbered = [(_text(choice), number) for number, choice in enumerate(listed)]
        null = (
            [("null", _NULL)] if index is None and (self.asked.nullable or self.asked.value is None) else []
        )
        nothing = "Choose…" if self.asked.required else unsent(self.asked)
        shown = _NULL if self.asked.value is None and index is None else _NOTHING if index is None else index
        return ipywidgets.Dropdown(
            options=[(nothing, _NOTHING), *null, *numbered], value=shown, **self.options()
        )

    def parse(self, shown: Any) -> Any:
        return {_NOTHING: MISSING, _NULL: None}[shown] if shown < 0 else self.listed(self.asked)[shown]

    def empty(self) -> Any:
        if self.asked.required:
            raise ValueError("Required.")
        return MISSING


class BooleanField(ChoiceField):
    """True or false."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        return asked.schema.get("type") == "boolean" and type(asked.value) in (
            bool,
            type(None),
            type(MISSING),
        )

    @staticmethod
    def listed(asked: Asked) -> list[Any]:
        return [True, False]


class IntegerField(Field):
    """A whole number, typed as text so that nothing typed is lost or rounded."""

    json_type = "integer"
    python_types: ClassVar[tuple[type, ...]] = (int,)
    convert: ClassVar[Any] = int
    wrong = "Not a whole number."

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else json.dumps(value)
        return ipywidgets.Text(text, placeholder=self.words_for_nothing(), **self.options())

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
        """Whole numbers stay whole; NaN and infinity are no JSON."""
        if not math.isfinite(float(shown)):
            raise ValueError
        return int(shown) if shown.strip().lstrip("+-").isdigit() else float(shown)


class DateField(Field):
    """A day, from a calendar."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        fits = asked.schema.get("type") == "string" and asked.schema.get("format") == "date"
        return fits and (asked.value is MISSING or asked.value is None or _date(asked.value) is not None)

    def make(self, value: Any) -> Any:
        return ipywidgets.DatePicker(value=None if value is MISSING else _date(value), **self.options())

    def parse(self, shown: Any) -> Any:
        return MISSING if shown is None else shown.isoformat()

    def hint(self) -> str:
        return self.asked.description

    def options(self, **more: Any) -> dict[str, Any]:
        options = super().options(**more)
        if self.asked.default not in (MISSING, None):  # a calendar has no placeholder to say it
            options["description"] += plain_label(f", {unsent(self.asked)}")
        return options


class TextField(Field):
    """A text; in several lines where it is long."""

    json_type, python_types = "string", (str,)

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        return super().knows(asked) and sendable(str(asked.value)) == str(asked.value)

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else value
        long = len(text) > 80 or "\n" in text or "\r" in text
        kind = ipywidgets.Textarea if long else ipywidgets.Text
        return kind(text, placeholder=self.words_for_nothing(), **self.options())

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
    """Anything else, as JSON."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        return True

    def make(self, value: Any) -> Any:
        text = "" if value is MISSING else to_json(value, indent=2)
        rows = min(max(text.count("\n") + 1, 2), 12)
        options = self.options(placeholder=self.words_for_nothing(), rows=rows)
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
