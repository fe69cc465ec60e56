"""Choose the field for a JSON Schema.

The first class in `FIELDS` that supports the schema and can hold the value is used; JSONField is the fallback. Every
field validates its value against the schema and shows errors below its control. To support another kind of value,
insert a field class at the front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nbruns.widgets.form.field import MISSING as MISSING
from nbruns.widgets.form.field import Field, FieldSpec, FormContext
from nbruns.widgets.form.group_fields import AlternativesField, ListField, MapField, ObjectField
from nbruns.widgets.form.plain_schema import shape_of
from nbruns.widgets.form.scalar_fields import (
    AnyField,
    BooleanField,
    ChoiceField,
    DateField,
    IntegerField,
    JSONField,
    NumberField,
    TextField,
)

#: Field classes in order of precedence.
FIELDS: list[type[Field]] = [
    ChoiceField,
    BooleanField,
    IntegerField,
    NumberField,
    DateField,
    TextField,
    ObjectField,
    MapField,
    ListField,
    AlternativesField,
    AnyField,
    JSONField,
]


def field_for(
    label: str, schema: Any, value: Any = MISSING, *, required: bool = False, root: Any = None
) -> Field:
    """Return the field for a value. `root` is the schema that `$ref` points into, by default `schema`."""
    whole = root if isinstance(root, Mapping) else schema if isinstance(schema, Mapping) else {}
    return _make(FieldSpec(label, {}, value, required, whole=schema, context=FormContext(whole, _make)))


def json_field(label: str, schema: Any) -> JSONField:
    """Return a JSON field for any value that matches the schema."""
    root = schema if isinstance(schema, Mapping) else {}
    return JSONField(FieldSpec(label, {}, required=True, whole=schema, context=FormContext(root, _make)))


def _make(spec: FieldSpec) -> Field:
    shape = shape_of(spec.whole, spec.context.root)
    plain = replace(spec, schema=shape.schema, nullable=shape.nullable)
    return next(field for field in FIELDS if field.knows(plain))(plain)
