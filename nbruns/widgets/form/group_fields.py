"""Fields that contain fields: objects, lists, maps and alternatives.

Nested fields are created when first shown, so that recursive schemas expand only on demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ipywidgets

from nbruns.json_schema import problems
from nbruns.text import JSON, excerpt
from nbruns.widgets.form.field import MAX_DEPTH, MISSING, Field, FieldSpec, close_all, unsent
from nbruns.widgets.form.plain_schema import alternatives, mapping, name_of
from nbruns.widgets.html import plain_html, plain_label, sendable

#: Maximum number of list rows and of alternatives; with more, the value is edited as JSON.
MAX_ROWS, MAX_ALTERNATIVES = 20, 10


class Group(Field):
    """Fields below a legend. For optional values, a checkbox selects whether the value is sent."""

    def make(self, value: Any) -> Any:
        self._body: list[Any] = []
        self._inside = ipywidgets.VBox()
        self._inside.add_class("nbruns-inside")
        self._legend = ipywidgets.HTML(self._legend_html())
        self._legend.add_class("nbruns-legend")
        self._sent: Any = None
        if not self.spec.required or self.spec.nullable or self.spec.value is None:
            self._sent = ipywidgets.Checkbox(
                value=value is not MISSING, description=self._question(), indent=False
            )
            self._sent.observe(lambda _: self._toggled(), "value")
        self.build(self.spec.default if value is MISSING else value) if self.is_sent else None
        return self._inside

    def _legend_html(self) -> str:
        return plain_html(self.spec.title) if self.spec.title else ""

    def rename(self, label: str) -> None:
        self.spec.label = label
        self._legend.value = self._legend_html()

    @property
    def is_sent(self) -> bool:
        """Whether a value is sent."""
        return self._sent is None or bool(self._sent.value)

    def _question(self) -> str:
        left_out = "null" if self.spec.required or self.spec.value is None else unsent(self.spec)
        return plain_label(f"Send a value (otherwise: {left_out})")

    def parts(self) -> list[Any]:
        switch = [] if self._sent is None else [self._sent]
        return [self._legend, self._note, *switch, self._inside]

    def build(self, value: Any) -> None:
        """Create the nested fields with a value."""
        raise NotImplementedError

    def inner(self) -> Any:
        """Return the value of the nested fields."""
        raise NotImplementedError

    def fields(self) -> list[tuple[str | int, Field]]:
        """Return the nested fields, each with its key or index."""
        raise NotImplementedError

    def value(self) -> Any:
        if not self.is_sent:
            was_null = self.spec.value is None and not self.edited
            return None if was_null or self.spec.required else MISSING
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

    def child(
        self,
        name: str,
        schema: Any,
        value: Any,
        required: bool,
        *,
        label: str | None = None,
        is_property: bool = False,
    ) -> Field:
        """Create a nested field whose changes propagate to this field."""
        field = self.spec.context.make(
            FieldSpec(
                name if label is None else label,
                {},
                value,
                required,
                whole=schema,
                context=self.spec.context,
                depth=self.spec.depth + 1,
                is_property=is_property,
            )
        )
        field.on_change(self.changed)
        return field

    def _toggled(self) -> None:
        if self.is_sent and not self._inside.children:
            given = self.spec.value
            self.build(given if given not in (MISSING, None) else self.spec.default)
        self._inside.layout.display = None if self.is_sent else "none"
        self.changed()

    def collected(self, fields: list[tuple[Any, Field]]) -> list[tuple[Any, Any]]:
        """Return the values of fields, without those left out. Raises one ValueError for all invalid fields."""
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
    """An object with named properties. Properties that are not in the schema are kept as JSON."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        fits = isinstance(spec.value, dict) or spec.value is MISSING or spec.value is None
        properties = mapping(spec.schema.get("properties"))
        names = properties.keys() | mapping(spec.value).keys()
        few = len(names) <= spec.context.left and spec.depth < MAX_DEPTH
        return spec.schema.get("type") == "object" and bool(properties) and fits and few

    def build(self, value: Any) -> None:
        given, known = mapping(value), mapping(self.spec.schema.get("properties"))
        required = self.spec.schema.get("required")
        names = required if isinstance(required, list) else []
        schemas = known | {name: True for name in given if name not in known}
        self.spec.context.left -= len(schemas)  # reserve before nested fields are created
        self.children = {
            name: self.child(name, schema, given.get(name, MISSING), name in names, is_property=True)
            for name, schema in schemas.items()
        }
        self._inside.children = [field.widget for field in self.children.values()]

    def fields(self) -> list[tuple[str | int, Field]]:
        return list(getattr(self, "children", {}).items())

    def inner(self) -> Any:
        values = dict(self.collected(self.fields()))
        order = [name for name in mapping(self.spec.value) if name in values]
        return {name: values[name] for name in order} | values


class Rows(Group):
    """A variable number of fields of one kind, with Add and Remove buttons."""

    def build(self, value: Any) -> None:
        self.rows: list[tuple[Field, Any]] = []
        self._add = ipywidgets.Button(description="Add", icon="plus", tooltip=f"Add to {self.spec.title}")
        self._add.add_class("nbruns-add")
        self._add.on_click(lambda _: self._added())
        for item in self.items_of(value):
            self._append(item)
        self._show()

    def items_of(self, value: Any) -> list[Any]:
        """Return the values of the rows."""
        raise NotImplementedError

    def row(self, number: int, item: Any) -> Field:
        """Create the field of a row."""
        raise NotImplementedError

    def value(self) -> Any:
        untouched = self.spec.value is MISSING and not self.edited and not self.fields()
        if untouched and self.spec.required and self.is_sent:
            self.say("Required.")
            raise ValueError("Required.")
        return super().value()

    def fields(self) -> list[tuple[str | int, Field]]:
        return [(number, field) for number, (field, _) in enumerate(getattr(self, "rows", []))]

    def _append(self, item: Any) -> None:
        number = len(self.rows) + 1
        self.spec.context.left -= 1
        field = self.row(number, item)
        remove = ipywidgets.Button(icon="times", tooltip=f"Remove {field.spec.label}")
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
            other.rename(f"{self.spec.label} {number}")
            line.children[1].tooltip = f"Remove {other.spec.label}"
        self._show()
        for line in gone:
            close_all(line)
        self.changed()

    def _show(self) -> None:
        self._inside.children = [*(line for _, line in self.rows), self._add]
        self._add.disabled = len(self.rows) >= MAX_ROWS

    def freeze(self, frozen: bool) -> None:
        super().freeze(frozen)
        if not frozen and hasattr(self, "rows"):
            self._show()

    def _own_controls(self) -> list[Any]:
        lines = [line.children[1] for _, line in getattr(self, "rows", [])]
        return [*super()._own_controls(), *lines, *([self._add] if hasattr(self, "rows") else [])]


class ListField(Rows):
    """A list, with one row per item."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        fits = spec.value is MISSING or spec.value is None or isinstance(spec.value, list)
        short = len(spec.value) <= MAX_ROWS if isinstance(spec.value, list) else True
        items = spec.schema.get("items")
        deep = spec.depth >= MAX_DEPTH or spec.context.left <= MAX_ROWS // 4
        one_kind = isinstance(items, Mapping) and "prefixItems" not in spec.schema
        return spec.schema.get("type") == "array" and one_kind and fits and short and not deep

    def items_of(self, value: Any) -> list[Any]:
        return value if isinstance(value, list) else []

    def row(self, number: int, item: Any) -> Field:
        return self.child(f"{self.spec.label} {number}", self.spec.schema["items"], item, required=True)

    def inner(self) -> Any:
        return [value for _, value in self.collected(self.fields())]


class MapField(Rows):
    """An object with arbitrary names: one row per name and value."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        fits = spec.value is MISSING or spec.value is None or isinstance(spec.value, dict)
        values = spec.schema.get("additionalProperties")
        few = len(mapping(spec.value)) <= MAX_ROWS and spec.depth < MAX_DEPTH and spec.context.left > 2
        named = bool(mapping(spec.schema.get("properties")))
        any_names = isinstance(values, Mapping) or values is True
        return spec.schema.get("type") == "object" and any_names and not named and fits and few

    def items_of(self, value: Any) -> list[Any]:
        return list(mapping(value).items())

    def row(self, number: int, item: Any) -> Field:
        name, value = (MISSING, MISSING) if item is MISSING else item
        properties = {
            "name": {"type": "string", "minLength": 1},
            "value": self.spec.schema["additionalProperties"],
        }
        pair = {"type": "object", "properties": properties, "required": ["name", "value"]}
        given = {key: part for key, part in (("name", name), ("value", value)) if part is not MISSING}
        field = self.child(f"{self.spec.label} {number}", pair, given, required=True)
        field.widget.add_class("nbruns-pair")
        return field

    def inner(self) -> Any:
        values: JSON = {}
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
    """One of several kinds of value: a dropdown for the kind, and the field of the selected kind."""

    @classmethod
    def knows(cls, spec: FieldSpec) -> bool:
        options = alternatives(spec.schema)
        few = (
            1 < len(options) <= MAX_ALTERNATIVES
            and spec.depth < MAX_DEPTH
            and spec.context.left > len(options)
        )
        return few and (spec.value is MISSING or spec.value is None or _chosen(spec) is not None)

    def build(self, value: Any) -> None:
        options, root = alternatives(self.spec.schema), self.spec.context.root
        names = [name_of(option, root, number) for number, option in enumerate(options, 1)]
        self._made: dict[int, Field] = {}
        chosen = 0 if value is MISSING else _chosen(replace(self.spec, value=value)) or 0
        self._kind = ipywidgets.Dropdown(
            options=[(sendable(excerpt(name, 80)), number) for number, name in enumerate(names)],
            value=chosen,
            description=plain_label(f"{excerpt(self.spec.label, 80)}: kind"),
            layout={"width": "auto"},
        )
        self._kind.observe(lambda _: self._chose(), "value")
        self._inside.children = [self._kind]
        self._open(value)

    def _open(self, value: Any) -> None:
        number = self._kind.value
        if number not in self._made:
            self.spec.context.left -= 1
            option, name = alternatives(self.spec.schema)[number], self._kind.label
            self._made[number] = self.child(self.spec.label, option, value, required=True, label=name)
            self._inside.children = [*self._inside.children, self._made[number].widget]
        for other, field in self._made.items():  # the others keep their entries
            field.widget.layout.display = None if other == number else "none"

    def _chose(self) -> None:
        self._open(MISSING)
        self.changed()

    @property
    def chosen(self) -> Field:
        """The field of the selected kind."""
        return self._made[self._kind.value]

    def fields(self) -> list[tuple[str | int, Field]]:
        return list(getattr(self, "_made", {}).items())

    def inner(self) -> Any:
        return self.chosen.value()

    def at(self, path: tuple[str | int, ...]) -> Field:
        return self.chosen.at(path) if self.is_sent and path else self

    def _own_controls(self) -> list[Any]:
        return [*super()._own_controls(), *([self._kind] if hasattr(self, "_kind") else [])]


def _chosen(spec: FieldSpec) -> int | None:
    """Return the index of the first alternative that the value matches, or None."""
    options = alternatives(spec.schema)
    fitting = (i for i, o in enumerate(options) if not problems(spec.value, o, spec.context.root))
    return next(fitting, None)
