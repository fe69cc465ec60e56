"""An output by hand: as fields, text, JSON or a file's content; each kept, one sent."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import date
from typing import Any, Literal

import pandas as pd
import pydantic
import pytest
from scripted import call_json, needs
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from nbruns.errors import NbrunsError
from nbruns.objects import Run
from nbruns.widgets.form.call_card import CallCard
from nbruns.widgets.form.field import Field
from nbruns.widgets.form.file_input import MAX_FILE, decoded
from nbruns.widgets.form.form import ToolOutputsForm
from nbruns.widgets.form.group_fields import ListField, MapField, ObjectField
from nbruns.widgets.form.scalar_fields import BooleanField, ChoiceField, DateField, IntegerField, NumberField


class Sky(enum.Enum):
    CLEAR = "clear"
    RAIN = "rain"


class Place(pydantic.BaseModel):
    city: str
    floor: int = 0


@dataclasses.dataclass
class Span:
    start: date
    days: int = 1


class Report(TypedDict):
    degrees: float
    sky: Sky


def card_of(returns: Any, name: str = "ask") -> CallCard:
    """The card of a call of a function with that return annotation."""

    def ask() -> Any: ...

    ask.__annotations__["return"] = returns
    form = ToolOutputsForm(Run(needs(call_json("{}", name=name))[1]), tools=[ask])
    return form.calls[0]  # type: ignore[no-any-return]


def field_of(card: CallCard) -> Field:
    return card._answer.field("fields")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("returns", "kind"),
    [
        (int, IntegerField),
        (float, NumberField),
        (bool, BooleanField),
        (date, DateField),
        (Literal["a", "b"], ChoiceField),
        (Sky, ChoiceField),
        (int | None, IntegerField),
        (Place, ObjectField),
        (Span, ObjectField),
        (Report, ObjectField),
        (list[int], ListField),
        (list[Place], ListField),
        (dict[str, float], MapField),
        (dict, MapField),
        (list, ListField),
    ],
)
def test_the_return_annotation_makes_the_fields(returns: Any, kind: type[Field]) -> None:
    card = card_of(returns)
    assert card._answer.way == "fields"
    assert type(field_of(card)) is kind
    assert card.output is None  # nobody has answered yet


@pytest.mark.parametrize("returns", [str, None, Any, pd.DataFrame, type(None)])
def test_where_it_does_not_say_a_text_is_written(returns: Any) -> None:
    card = card_of(returns)
    assert card._answer.way == "text"
    assert "Fields" not in [name for name, _ in card._answer._way.options]


@pytest.mark.parametrize(
    ("returns", "typed", "output"),
    [
        (int, "3", "3"),
        (float, "1.5", "1.5"),
        (bool, 1, "false"),
        (Literal["a", "b"], 1, "b"),
        (Sky, 0, "clear"),
    ],
)
def test_what_is_chosen_or_typed_is_the_output(returns: Any, typed: Any, output: str) -> None:
    card = card_of(returns)
    field_of(card).control.value = typed
    assert card.output == output


def test_an_object_is_the_output_as_json() -> None:
    card = card_of(Place)
    field_of(card).children["city"].control.value = "Ærø"
    assert card.output == '{"city": "Ærø"}'


def test_what_does_not_fit_is_not_submitted_and_said_at_its_field() -> None:
    taken: list[Any] = []

    def ask() -> Span: ...

    form = ToolOutputsForm(Run(needs(call_json("{}", name="ask"))[1]), tools=[ask], on_submit=taken.append)
    card = form.calls[0]
    start, days = (field_of(card).children[name] for name in ("start", "days"))
    days.control.value = "many"
    assert form.outputs == {}
    with pytest.raises(
        NbrunsError, match=r"Not submitted: The output of ask is invalid\. See the message above\."
    ):
        form.submit()
    assert "Not a whole number" in days._note.value and "Required" in start._note.value
    assert form._status.refused == 1
    start.control.value, days.control.value = date(2026, 8, 26), "2"
    assert card._note.value == form._note.value == ""  # what was wrong may be right now
    form.submit()
    assert [json.loads(outputs["call_1"]) for outputs in taken] == [{"start": "2026-08-26", "days": 2}]


def test_each_way_keeps_what_was_entered_and_one_is_sent() -> None:
    card = card_of(int)
    editor = card._answer
    field_of(card).control.value = "3"
    editor._way.value = "text"
    assert card.output is None
    card._output.value = "three"
    assert card.output == "three"
    editor._way.value = "json"
    editor.field("json").control.value = "[3"
    assert card.output is None and "Not valid JSON" in editor.field("json")._note.value
    editor.field("json").control.value = "[3]"
    assert card.output is None and "Must be a whole number" in editor.field("json")._note.value
    editor.field("json").control.value = " 33 "
    assert card.output == " 33 "
    editor._way.value = "file"
    assert card.output is None
    editor.field("file").take("answer.txt", b"from a file")
    assert card.output == "from a file"
    for way, output in (("fields", "3"), ("text", "three"), ("json", " 33 "), ("file", "from a file")):
        editor._way.value = way
        assert card.output == output
        shown = [widget for widget in editor.children[1:] if widget.layout.display != "none"]
        assert len(shown) == 1


def test_an_error_is_a_text_in_every_way_and_the_way_comes_back() -> None:
    card = card_of(int)
    field_of(card).control.value = "3"
    card._is_error.value = True
    assert card.output is None and card._answer._way.layout.display == "none"
    card._output.value = "out of order"
    assert card.output == "Error: out of order" and card.error == "out of order"
    card._is_error.value = False
    assert card.output == "3" and card.error is None


def test_a_function_s_output_is_shown_as_it_is() -> None:
    def ask() -> Place:
        return Place(city="Oslo")

    form = ToolOutputsForm(Run(needs(call_json("{}", name="ask"))[1]), tools=[ask])
    form.run_tools()
    assert form.outputs == {"call_1": '{"city":"Oslo","floor":0}'}
    assert form.calls[0]._answer.way == "text"


def test_without_a_function_json_is_any_json() -> None:
    card = ToolOutputsForm(Run(needs(call_json())[1])).calls[0]
    card._answer._way.value = "json"
    card._answer.field("json").control.value = '{"any": ["thing"]}'
    assert card.output == '{"any": ["thing"]}'
    card._answer.field("json").control.value = " \n"
    assert card.output is None and "is unanswered" in card.problem()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Ærø\r\n".encode(), "Ærø\r\n"),
        (b"\xef\xbb\xbfa", "a"),
        ("Ærø".encode("utf-16"), "Ærø"),
        (b"", ""),
    ],
)
def test_a_file_is_text(content: bytes, text: str) -> None:
    assert decoded("a.txt", content) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n", r"photo is not UTF-8 text \(invalid byte at offset 0\)\. Tool outputs must be text"),
        (b"abc\xe6", r"invalid byte at offset 3"),
        (b"a\0b", r"photo is a binary file: it contains null bytes"),
        (b"x" * (MAX_FILE + 1), r"photo is too large: 400,001 bytes\. The limit is 400,000 bytes\."),
    ],
)
def test_what_is_no_text_or_too_big_is_refused_in_words(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decoded("photo", content)


def test_a_refused_file_leaves_the_one_before() -> None:
    card = card_of(str)
    card._answer._way.value = "file"
    chooser = card._answer.field("file")
    chooser._receive(chooser, {"name": "a.txt"}, [memoryview(b"good")])
    chooser._receive(chooser, {"name": "<b>.png"}, [memoryview(b"\xff")])
    assert card.output == "good" and "<b>.png is not UTF-8 text" in chooser.problem
    assert chooser.told == "a.txt: 4 bytes"
    chooser.freeze(True)
    chooser._receive(chooser, {"name": "late.txt"}, [memoryview(b"late")])
    assert card.output == "good"
    chooser._receive(chooser, "nonsense", [])
    assert (
        b"good" not in json.dumps(chooser.get_state(), default=str).encode()
    )  # nothing to be saved with a notebook


def test_an_empty_file_is_an_answer() -> None:
    card = card_of(str)
    card._answer._way.value = "file"
    card._answer.field("file").take("empty.txt", b"")
    assert card.output == ""


def test_values_of_any_kind_are_entered_as_one_would_say_them() -> None:
    card = card_of(dict)
    field = field_of(card)
    entered = {
        "city": "Oslo",
        "degrees": "3",
        "dry": "false",
        "code": '"0150"',
        "tags": '["a"]',
        "at": "18:00",
    }
    for number, (name, text) in enumerate(entered.items()):
        field._add.click()
        row = field.rows[number][0]
        row.children["name"].control.value, row.children["value"].control.value = name, text
    expected = {"city": "Oslo", "degrees": 3, "dry": False, "code": "0150", "tags": ["a"], "at": "18:00"}
    assert card.output is not None and json.loads(card.output) == expected
    row.children["value"].control.value = "[1, 2"
    assert card.output is None
    assert "Not valid JSON" in row.children["value"]._note.value
    names = card_of(list)
    field_of(names)._add.click()
    field_of(names).rows[0][0].control.value = "Anna"
    assert names.output == '["Anna"]'


def test_labels_are_the_titles_that_somebody_gave() -> None:
    class Room(pydantic.BaseModel):
        max_price: float = pydantic.Field(title="Highest price, in €")
        free_from: date
        where: Place

    labels = [field.spec.title for _, field in field_of(card_of(Room)).fields()]
    assert labels == ["Highest price, in €", "free_from", "where"]
