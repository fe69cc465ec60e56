"""The base class of fields: a labeled control for one value."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import ipywidgets

from nbruns.json_schema import FORMATS, problems
from nbruns.text import JSON, excerpt
from nbruns.widgets.html import plain_html, plain_label, sendable


def close_all(widget: Any) -> None:
    """Close a widget and its descendants; ipywidgets closes only the widget itself."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    widget.close()


_silent = ContextVar("silent", default=False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """In this block and thread, reading fields leaves their messages as they are."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING", "__bool__": lambda self: False})()

#: Maximum number of fields in a form and maximum nesting depth; beyond that, values are edited as JSON.
MAX_FIELDS, MAX_DEPTH = 60, 5


@dataclass
class FormContext:
    """Context shared by the fields of a form: the root schema for references, and the number of fields left."""

    root: Mapping[str, Any]
    make: Callable[[FieldSpec], Field]
    left: int = MAX_FIELDS


@dataclass
class FieldSpec:
    """The specification of a field. `schema` is simplified, `whole` is the original schema."""

    label: str
    schema: Mapping[str, Any]
    value: Any = MISSING
    required: bool = False
    nullable: bool = False
    whole: Any = True
    context: FormContext = field(repr=False, default=None)  # type: ignore[assignment]  # set by field_for
    depth: int = 0
    is_property: bool = False

    @property
    def default(self) -> Any:
        """The default of the schema; MISSING if there is none."""
        return self.schema.get("default", MISSING)

    @property
    def title(self) -> str:
        """The label to display: the title in the schema of a property, else its name."""
        name = sendable(excerpt(self.given_title or self.label, 80))
        return name if self.required or not name else f"{name} (optional)"

    @property
    def given_title(self) -> str:
        """The title of a property in its schema; empty if there is none, or if pydantic derived it from the name."""
        title = self.whole.get("title") if self.is_property and isinstance(self.whole, Mapping) else None
        made = self.label.title().replace("_", " ").strip()
        return title if isinstance(title, str) and title.strip() and title != made else ""

    @property
    def description(self) -> str:
        """The description in the schema."""
        return sendable(excerpt(self.schema.get("description") or "", 400))


class Field:
    """Edits one value. `read()` returns it, or MISSING if it is left out; it raises ValueError if it is invalid.

    Subclasses implement `knows` (which values they support), `make` (the control) and `parse` (read the control).
    """

    #: The JSON type that selects this field, if the type is sufficient.
    json_type: ClassVar[str] = ""
    python_types: ClassVar[tuple[type, ...]] = ()

    def __init__(self, spec: FieldSpec) -> None:
        self.spec = spec
        #: Whether the user has changed the value.
        self.edited = False
        self._callbacks: list[Callable[[], object]] = []
        self._note = ipywidgets.HTML()
        self._note.add_class("nbruns-told")
        self.control: Any = self.make(MISSING if spec.value is None else spec.value)
        self._untouched = getattr(self.control, "value", None)
        self.widget = ipywidgets.VBox(self.parts())
        self.widget.add_class("nbruns-field")
        if hasattr(self.control, "value"):
            self.control.observe(lambda _: self.changed(), "value")
        self.say("")

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        """Whether this field supports the schema and can hold the value."""
        fits = spec.value is MISSING or spec.value is None or type(spec.value) in cls.python_types
        return spec.schema.get("type") == cls.json_type and fits

    def make(self, value: Any) -> Any:
        """Create the control with a value; MISSING leaves it empty."""
        raise NotImplementedError

    def parse(self, shown: Any) -> Any:
        """Convert the content of the control to a value; MISSING if it is empty."""
        return shown

    def parts(self) -> list[Any]:
        """Return the widgets of the field."""
        return [self.control, self._note]

    def empty(self) -> Any:
        """Return the value of an empty control. Raises ValueError if a value is required."""
        if not self.edited and (self.spec.value is None or self.spec.value == ""):
            return self.spec.value
        if not self.spec.required:
            return MISSING
        if self.spec.nullable:
            return None
        raise ValueError("Required.")

    def value(self) -> Any:
        """Return the current value with the right type. An unedited value is returned as given."""
        if not self.edited and self.spec.value is not MISSING:
            return self.spec.value
        try:
            value = self.parse(self.control.value)
            return self.empty() if value is MISSING else value
        except ValueError as error:
            self.say(str(error))
            raise

    def read(self) -> Any:
        """Return the value, validated against the original schema. Errors are also shown at their fields."""
        self.clear()
        value = self.value()
        found = [] if value is MISSING else problems(value, self.spec.whole, self.spec.context.root)
        for problem in found:
            self.at(problem.path).say(problem.words)
        if found:
            raise ValueError("; ".join(map(str, found)))
        return value

    def at(self, path: tuple[str | int, ...]) -> Field:
        """Return the field for a path inside the value, or the closest enclosing field."""
        return self

    def clear(self) -> None:
        """Clear error messages."""
        self.say("")

    def say(self, wrong: str) -> None:
        """Show an error message below the control, after the hint."""
        if _silent.get():
            return
        hint = f'<span class="nbruns-hint">{plain_html(self.hint())}</span>' if self.hint() else ""
        alert = f'<span role="alert">{plain_html(wrong)}</span>' if wrong else ""
        self._note.value = hint + alert

    def hint(self) -> str:
        """Return the hint: the description and an example."""
        example = FORMATS.get(str(self.spec.schema.get("format")))
        return " ".join(filter(None, [self.spec.description, example and f"Example: {example}"]))

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the value changes."""
        self._callbacks.append(callback)

    def changed(self) -> None:
        """Handle a change of the value."""
        self.edited = True
        if hasattr(self.control, "placeholder"):
            self.control.placeholder = self.placeholder_text()
        self.say("")
        for callback in self._callbacks:
            callback()

    def rename(self, label: str) -> None:
        """Change the label."""
        before = plain_label(self.spec.title)
        self.spec.label = label
        after = plain_label(self.spec.title)
        self.control.description = self.control.description.replace(before, after, 1)

    def freeze(self, frozen: bool) -> None:
        """Disable or enable the control."""
        self.control.disabled = frozen

    def placeholder_text(self) -> str:
        """Return a placeholder that says what is sent if the control is empty."""
        try:
            meant = self.empty()
        except ValueError:
            return ""
        return unsent(self.spec) if meant is MISSING else "empty string" if meant == "" else short(meant)

    def options(self, **more: Any) -> JSON:
        """Return the common keyword arguments of controls."""
        title = plain_label(self.spec.title)
        return {"description": title, "tooltip": title, "layout": {"width": "auto"}, **more}


def unsent(spec: FieldSpec) -> str:
    """Describe an argument that is not sent."""
    return "not sent" if spec.default is MISSING else f"default: {short(spec.default)}"


def short(value: Any) -> str:
    """Return a short text for a value."""
    return sendable(excerpt(value if isinstance(value, str) else to_json(value), 60))


def to_json(value: Any, indent: int | None = None) -> str:
    """Return readable JSON; non-ASCII text is escaped if it contains lone surrogates."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if sendable(text) == text else json.dumps(value, indent=indent)
