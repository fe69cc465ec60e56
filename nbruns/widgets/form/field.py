"""A labelled control for one value: what every kind of field has in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import ipywidgets

from nbruns.text import excerpt
from nbruns.tools.json_schema import FORMATS, problems
from nbruns.widgets.html import plain_html, plain_label, sendable


def close_all(widget: Any) -> None:
    """Close a widget and all that are inside: ipywidgets closes only the outermost."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    widget.close()


MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING", "__bool__": lambda self: False})()

#: Fields that a form may have, and how deeply they may be nested; beyond that, values are edited as JSON.
MOST_FIELDS, DEEPEST = 60, 5


@dataclass
class Room:
    """What the fields of one form share: the schema that references mean, and how many more there may be."""

    root: Mapping[str, Any]
    make: Callable[[Asked], Field]
    left: int = MOST_FIELDS


@dataclass
class Asked:
    """What a field is asked to edit: `schema` as plain as can be, `whole` as it came."""

    label: str
    schema: Mapping[str, Any]
    value: Any = MISSING
    required: bool = False
    nullable: bool = False
    whole: Any = True
    room: Room = field(repr=False, default=None)  # type: ignore[assignment]  # field_for gives it
    depth: int = 0

    @property
    def default(self) -> Any:
        """What an argument is that is not sent; MISSING where the schema does not say."""
        return self.schema.get("default", MISSING)

    @property
    def title(self) -> str:
        """The label as shown: the name is outside text."""
        name = sendable(excerpt(self.label, 80))
        return name if self.required or not name else f"{name} (optional)"

    @property
    def description(self) -> str:
        """What the schema says of the value."""
        return sendable(excerpt(self.schema.get("description") or "", 400))


class Field:
    """Edits one value. `read()` gives it, MISSING for one left out; it raises ValueError where it does not fit.

    A kind of field says which values it `knows`, makes its `control` and reads what that shows by `parse`.
    """

    #: The JSON type that the field's schema says, where that is enough to choose the field.
    json_type: ClassVar[str] = ""
    python_types: ClassVar[tuple[type, ...]] = ()

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        #: Whether somebody has changed something.
        self.edited = False
        self._heard: list[Callable[[], object]] = []
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-told")
        self.control: Any = self.make(MISSING if asked.value is None else asked.value)
        self._untouched = getattr(self.control, "value", None)
        self.widget = ipywidgets.VBox(self.parts())
        self.widget.add_class("nbruns-field")
        if hasattr(self.control, "value"):
            self.control.observe(lambda _: self.changed(), "value")
        self.say("")

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        """Whether this field can edit what the schema says, and can hold the value."""
        fits = asked.value is MISSING or asked.value is None or type(asked.value) in cls.python_types
        return asked.schema.get("type") == cls.json_type and fits

    def make(self, value: Any) -> Any:
        """The control, showing the value; MISSING is shown as nothing."""
        raise NotImplementedError

    def parse(self, shown: Any) -> Any:
        """The value of what the control shows; MISSING where it shows nothing."""
        return shown

    def parts(self) -> list[Any]:
        """The widgets that make up the field."""
        return [self.control, self._note]

    def empty(self) -> Any:
        """What it means that the control shows nothing. Raises ValueError where that can't be."""
        if not self.edited and (self.asked.value is None or self.asked.value == ""):
            return self.asked.value
        if not self.asked.required:
            return MISSING
        if self.asked.nullable:
            return None
        raise ValueError("Required.")

    def value(self) -> Any:
        """The value as it stands, of the right kind; what nobody has touched is as it was given."""
        if not self.edited and self.asked.value is not MISSING:
            return self.asked.value
        try:
            value = self.parse(self.control.value)
            return self.empty() if value is MISSING else value
        except ValueError as error:
            self.say(str(error))
            raise

    def read(self) -> Any:
        """The value, validated against the whole schema; what is wrong is said at each field, too."""
        self.clear()
        value = self.value()
        found = [] if value is MISSING else problems(value, self.asked.whole, self.asked.room.root)
        for problem in found:
            self.at(problem.path).say(problem.words)
        if found:
            raise ValueError("; ".join(map(str, found)))
        return value

    def at(self, path: tuple[str | int, ...]) -> Field:
        """The field for a place inside the value, or the closest one around it."""
        return self

    def clear(self) -> None:
        """Take back what was said to be wrong."""
        self.say("")

    def say(self, wrong: str) -> None:
        """Show below the control what is wrong with it, behind the hint."""
        hint = f'<span class="nbruns-hint">{plain_html(self.hint())}</span>' if self.hint() else ""
        alert = f'<span role="alert">{plain_html(wrong)}</span>' if wrong else ""
        self._note.value = hint + alert

    def hint(self) -> str:
        """What helps to fill the field in."""
        example = FORMATS.get(str(self.asked.schema.get("format")))
        return " ".join(filter(None, [self.asked.description, example and f"Example: {example}"]))

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the value changes."""
        self._heard.append(callback)

    def changed(self) -> None:
        """The value is another one now."""
        self.edited = True
        if hasattr(self.control, "placeholder"):
            self.control.placeholder = self.words_for_nothing()
        self.say("")
        for callback in self._heard:
            callback()

    def rename(self, label: str) -> None:
        """Give it another label."""
        before = plain_label(self.asked.title)
        self.asked.label = label
        after = plain_label(self.asked.title)
        self.control.description = self.control.description.replace(before, after, 1)

    def freeze(self, frozen: bool) -> None:
        """Disable or enable the control."""
        self.control.disabled = frozen

    def words_for_nothing(self) -> str:
        """What is sent where the control shows nothing."""
        try:
            meant = self.empty()
        except ValueError:
            return ""
        return unsent(self.asked) if meant is MISSING else "empty string" if meant == "" else short(meant)

    def options(self, **more: Any) -> dict[str, Any]:
        """What every control is made with."""
        title = plain_label(self.asked.title)
        return {"description": title, "tooltip": title, "layout": {"width": "auto"}, **more}


def unsent(asked: Asked) -> str:
    """Words for an argument that is not sent."""
    return "not sent" if asked.default is MISSING else f"default: {short(asked.default)}"


def short(value: Any) -> str:
    """A value in a few words."""
    return sendable(excerpt(value if isinstance(value, str) else to_json(value), 60))


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON for people, or with escapes where it could not be sent otherwise."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if sendable(text) == text else json.dumps(value, indent=indent)
