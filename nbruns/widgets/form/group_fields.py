"""Fields that hold fields: objects, lists, objects with any names, and one of several alternatives.

What is inside is made when it is first shown, so that schemas which refer to themselves go no deeper than
somebody wants to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ipywidgets

from nbruns.text import excerpt
from nbruns.tools.json_schema import problems
from nbruns.widgets.form.field import DEEPEST, MISSING, Asked, Field, close_all, unsent
from nbruns.widgets.form.plain_schema import alternatives, mapping, name_of
from nbruns.widgets.html import plain_html, plain_label, sendable

#: Rows that a list may have, and alternatives that there may be; with more it is edited as JSON.
MOST_ROWS, MOST_ALTERNATIVES = 20, 10


class Group(Field):
    """Fields below a legend; where the whole may be left out, a checkbox says whether it is sent."""

    def make(self, value: Any) -> Any:
        self._body: list[Any] = []
        self._inside = ipywidgets.VBox()
        self._inside.add_class("nbruns-inside")
        self._legend = ipywidgets.HTML(self._legend_html())
        self._legend.add_class("nbruns-legend")
        self._sent: Any = None
        if not self.asked.required or self.asked.nullable or self.asked.value is None:
            self._sent = ipywidgets.Checkbox(
                value=value is not MISSING, description=self._question(), indent=False
            )
            self._sent.observe(lambda _: self._toggled(), "value")
        self.build(self.asked.default if value is MISSING else value) if self.is_sent else None
        return self._inside

    def _legend_html(self) -> str:
        return plain_html(self.asked.title) if self.asked.title else ""

    def rename(self, label: str) -> None:
        self.asked.label = label
        self._legend.value = self._legend_html()

    @property
    def is_sent(self) -> bool:
        """Whether there is a value at all."""
        return self._sent is None or bool(self._sent.value)

    def _question(self) -> str:
        left_out = "null" if self.asked.required or self.asked.value is None else unsent(self.asked)
        return plain_label(f"Send a value (otherwise: {left_out})")

    def parts(self) -> list[Any]:
        switch = [] if self._sent is None else [self._sent]
        return [self._legend, self._note, *switch, self._inside]

    def build(self, value: Any) -> None:
        """Make what is inside, showing the value."""
        raise NotImplementedError

    def inner(self) -> Any:
        """The value of what is inside."""
        raise NotImplementedError

    def fields(self) -> list[tuple[str | int, Field]]:
        """The fields inside, each with its place in the value."""
        raise NotImplementedError

    def value(self) -> Any:
        if not self.is_sent:
            was_null = self.asked.value is None and not self.edited
            return None if was_null or self.asked.required else MISSING
        return self.inner()

    def at(self, path: tuple[str | int, ...]) -> Field:
        found = dict(self.fields()).get(path[0]) if path and self.is_sent else None
        return self if found is None else found.at(path[1:])

    def clear(self) -> None:
        self.say("")
        for _, field in self.fields():
            field.clear()

    def freeze(self, frozen: bool) -> None:
        for widget in self._own_controls():
            widget.disabled = frozen
        for _, field in self.fields():
            field.freeze(frozen)

    def _own_controls(self) -> list[Any]:
        return [self._sent] if self._sent is not None else []

    def child(self, name: str, schema: Any, value: Any, required: bool, label: str | None = None) -> Field:
        """A field inside; when it changes, so does this."""
        field = self.asked.room.make(
            Asked(
                name if label is None else label,
                {},
                value,
                required,
                whole=schema,
                room=self.asked.room,
                depth=self.asked.depth + 1,
            )
        )
        field.on_change(self.changed)
        return field

    def _toggled(self) -> None:
        if self.is_sent and not self._inside.children:
            given = self.asked.value
            self.build(given if given not in (MISSING, None) else self.asked.default)
        self._inside.layout.display = None if self.is_sent else "none"
        self.changed()

    def collected(self, fields: list[tuple[Any, Field]]) -> list[tuple[Any, Any]]:
        """The values of fields, without those that are left out; all that is wrong is said before it raises."""
        values, wrong = [], []
        for name, field in fields:
            try:
                values.append((name, field.value()))
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return [(name, value) for name, value in values if value is not MISSING]


class ObjectField(Group):
    """An object with named properties. Those that the schema does not know are kept, as JSON."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        fits = isinstance(asked.value, dict) or asked.value is MISSING or asked.value is None
        properties = mapping(asked.schema.get("properties"))
        names = properties.keys() | mapping(asked.value).keys()
        few = len(names) <= asked.room.left and asked.depth < DEEPEST
        return asked.schema.get("type") == "object" and bool(properties) and fits and few

    def build(self, value: Any) -> None:
        given, known = mapping(value), mapping(self.asked.schema.get("properties"))
        required = self.asked.schema.get("required")
        names = required if isinstance(required, list) else []
        schemas = known | {name: True for name in given if name not in known}
        self.asked.room.left -= len(schemas)  # before the first of them takes more
        self.children = {
            name: self.child(name, schema, given.get(name, MISSING), name in names)
            for name, schema in schemas.items()
        }
        self._inside.children = [field.widget for field in self.children.values()]

    def fields(self) -> list[tuple[str | int, Field]]:
        return list(getattr(self, "children", {}).items())

    def inner(self) -> Any:
        values = dict(self.collected(self.fields()))
        order = [name for name in mapping(self.asked.value) if name in values]
        return {name: values[name] for name in order} | values


class Rows(Group):
    """Any number of fields of one kind, with a button to add one and one to remove each."""

    def build(self, value: Any) -> None:
        self.rows: list[tuple[Field, Any]] = []
        self._add = ipywidgets.Button(description="Add", icon="plus", tooltip=f"Add to {self.asked.title}")
        self._add.add_class("nbruns-add")
        self._add.on_click(lambda _: self._added())
        for item in self.items_of(value):
            self._append(item)
        self._show()

    def items_of(self, value: Any) -> list[Any]:
        """The values of the rows."""
        raise NotImplementedError

    def row(self, number: int, item: Any) -> Field:
        """The field of a row."""
        raise NotImplementedError

    def value(self) -> Any:
        untouched = self.asked.value is MISSING and not self.edited and not self.fields()
        if untouched and self.asked.required and self.is_sent:
            self.say("Required.")
            raise ValueError("Required.")
        return super().value()

    def fields(self) -> list[tuple[str | int, Field]]:
        return [(number, field) for number, (field, _) in enumerate(getattr(self, "rows", []))]

    def _append(self, item: Any) -> None:
        number = len(self.rows) + 1
        self.asked.room.left -= 1
        field = self.row(number, item)
        remove = ipywidgets.Button(icon="times", tooltip=f"Remove {field.asked.label}")
        remove.add_class("nbruns-remove")
        line = ipywidgets.HBox([field.widget, remove])
        line.add_class("nbruns-row")
        remove.on_click(lambda _: self._removed(field))
        self.rows.append((field, line))

    def _added(self) -> None:
        self._append(MISSING)
        self._show()
        self.changed()

    def _removed(self, field: Field) -> None:
        gone = [line for other, line in self.rows if other is field]
        self.rows = [(other, line) for other, line in self.rows if other is not field]
        for number, (other, line) in enumerate(self.rows, 1):
            other.rename(f"{self.asked.label} {number}")
            line.children[1].tooltip = f"Remove {other.asked.label}"
        self._show()
        for line in gone:
            close_all(line)
        self.changed()

    def _show(self) -> None:
        self._inside.children = [*(line for _, line in self.rows), self._add]
        self._add.disabled = len(self.rows) >= MOST_ROWS

    def freeze(self, frozen: bool) -> None:
        super().freeze(frozen)
        if not frozen and hasattr(self, "rows"):
            self._show()

    def _own_controls(self) -> list[Any]:
        lines = [line.children[1] for _, line in getattr(self, "rows", [])]
        return [*super()._own_controls(), *lines, *([self._add] if hasattr(self, "rows") else [])]


class ListField(Rows):
    """A list, a row for each item."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        fits = asked.value is MISSING or asked.value is None or isinstance(asked.value, list)
        short = len(asked.value) <= MOST_ROWS if isinstance(asked.value, list) else True
        items = asked.schema.get("items")
        deep = asked.depth >= DEEPEST or asked.room.left <= MOST_ROWS // 4
        one_kind = isinstance(items, Mapping) and "prefixItems" not in asked.schema
        return asked.schema.get("type") == "array" and one_kind and fits and short and not deep

    def items_of(self, value: Any) -> list[Any]:
        return value if isinstance(value, list) else []

    def row(self, number: int, item: Any) -> Field:
        return self.child(f"{self.asked.label} {number}", self.asked.schema["items"], item, required=True)

    def inner(self) -> Any:
        return [value for _, value in self.collected(self.fields())]


class MapField(Rows):
    """An object whose names are up to the caller: a row for each, of a name and a value."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        fits = asked.value is MISSING or asked.value is None or isinstance(asked.value, dict)
        values = asked.schema.get("additionalProperties")
        few = len(mapping(asked.value)) <= MOST_ROWS and asked.depth < DEEPEST and asked.room.left > 2
        named = bool(mapping(asked.schema.get("properties")))
        return (
            asked.schema.get("type") == "object"
            and isinstance(values, Mapping)
            and not named
            and fits
            and few
        )

    def items_of(self, value: Any) -> list[Any]:
        return list(mapping(value).items())

    def row(self, number: int, item: Any) -> Field:
        name, value = (MISSING, MISSING) if item is MISSING else item
        properties = {
            "name": {"type": "string", "minLength": 1},
            "value": self.asked.schema["additionalProperties"],
        }
        pair = {"type": "object", "properties": properties, "required": ["name", "value"]}
        given = {key: part for key, part in (("name", name), ("value", value)) if part is not MISSING}
        return self.child(f"{self.asked.label} {number}", pair, given, required=True)

    def inner(self) -> Any:
        values: dict[str, Any] = {}
        for number, pair in self.collected(self.fields()):
            if pair["name"] in values:
                field = self.rows[number][0]
                field.say(f"Duplicate name {pair['name']!r}.")
                raise ValueError(f"{pair['name']}: Duplicate name.")
            values[pair["name"]] = pair["value"]
        return values

    def at(self, path: tuple[str | int, ...]) -> Field:
        names = [row.children["name"].control.value for row, _ in self.rows if isinstance(row, ObjectField)]
        if not path or path[0] not in names:
            return self
        return self.rows[names.index(path[0])][0].at(("value", *path[1:]))


class AlternativesField(Group):
    """One of several kinds of value: a list to choose the kind from, and its field below."""

    @classmethod
    def knows(cls, asked: Asked) -> bool:
        options = alternatives(asked.schema)
        few = (
            1 < len(options) <= MOST_ALTERNATIVES and asked.depth < DEEPEST and asked.room.left > len(options)
        )
        return few and (asked.value is MISSING or asked.value is None or _chosen(asked) is not None)

    def build(self, value: Any) -> None:
        options, root = alternatives(self.asked.schema), self.asked.room.root
        names = [name_of(option, root, number) for number, option in enumerate(options, 1)]
        self._made: dict[int, Field] = {}
        chosen = 0 if value is MISSING else _chosen(replace(self.asked, value=value)) or 0
        self._kind = ipywidgets.Dropdown(
            options=[(sendable(excerpt(name, 80)), number) for number, name in enumerate(names)],
            value=chosen,
            description=plain_label(f"{excerpt(self.asked.label, 80)}: kind"),
            layout={"width": "auto"},
        )
        self._kind.observe(lambda _: self._chose(), "value")
        self._inside.children = [self._kind]
        self._open(value)

    def _open(self, value: Any) -> None:
        number = self._kind.value
        if number not in self._made:
            self.asked.room.left -= 1
            option, name = alternatives(self.asked.schema)[number], self._kind.label
            self._made[number] = self.child(self.asked.label, option, value, required=True, label=name)
            self._inside.children = [*self._inside.children, self._made[number].widget]
        for other, field in self._made.items():  # what was typed into the others stays
            field.widget.layout.display = None if other == number else "none"

    def _chose(self) -> None:
        self._open(MISSING)
        self.changed()

    @property
    def chosen(self) -> Field:
        """The field of the kind that is chosen."""
        return self._made[self._kind.value]

    def fields(self) -> list[tuple[str | int, Field]]:
        return list(getattr(self, "_made", {}).items())

    def inner(self) -> Any:
        return self.chosen.value()

    def at(self, path: tuple[str | int, ...]) -> Field:
        return self.chosen.at(path) if self.is_sent and path else self

    def _own_controls(self) -> list[Any]:
        return [*super()._own_controls(), *([self._kind] if hasattr(self, "_kind") else [])]


def _chosen(asked: Asked) -> int | None:
    """Which of the alternatives the value fits."""
    options = alternatives(asked.schema)
    fitting = (i for i, o in enumerate(options) if not problems(asked.value, o, asked.room.root))
    return next(fitting, None)
