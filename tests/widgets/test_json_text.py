"""JSON for people, whole or cut off."""

from __future__ import annotations

import json
import re
from html import unescape
from itertools import pairwise

import pytest

from nbruns.widgets.json_text import MAX_ARGUMENTS, MAX_LINE_LENGTH, arguments_line, pretty_json_html

VALUE = {
    "city": 'Os"lo \\ <b>&',
    "numbers": [1, -2.5e3, True, None],
    "nested": {"empty": {}, "none": [], "deep": [{"a": "b"}, {"c": ["d"]}]},
}


def plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_long_json_is_indented_and_still_the_same_json() -> None:
    shown = plain(pretty_json_html(json.dumps(VALUE)))
    assert json.loads(shown) == VALUE
    assert shown == json.dumps(VALUE, indent=2)


def test_short_json_stays_on_one_line() -> None:
    assert plain(pretty_json_html('{"city":"Oslo","days":[1,2]}')) == '{"city": "Oslo", "days": [1, 2]}'


def test_cut_off_json_is_shown_as_far_as_it_goes() -> None:
    text = json.dumps(VALUE)
    squeezed = re.sub(r"\s", "", text)
    for end in range(len(text) + 1):
        shown = pretty_json_html(text[:end])
        assert squeezed.startswith(re.sub(r"\s", "", plain(shown)))
        assert "<b>" not in shown


def test_growing_json_only_grows_once_it_is_long() -> None:
    text = json.dumps({"text": "word " * 50})
    shown = [pretty_json_html(text[:end]) for end in range(MAX_LINE_LENGTH + 1, len(text) - 2)]
    assert all(later.startswith(earlier.removesuffix("</span>")) for earlier, later in pairwise(shown))


@pytest.mark.parametrize("text", ["sunny, 12 °C", "", "}}", "null", '<script>alert("x")</script>'])
def test_what_is_no_json_is_left_alone(text: str) -> None:
    assert plain(pretty_json_html(text)) == text
    assert "<script" not in pretty_json_html(text)


@pytest.mark.parametrize("text", ["[}]{", '{"a" "b"', "[1 2,,3", '{"a":\n\n1}', "{{{{[[[["])
def test_broken_json_is_shown_all_the_same(text: str) -> None:
    assert re.sub(r"\s", "", plain(pretty_json_html(text))) == re.sub(r"\s", "", text)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ('{"city": "Ærø", "days": 3, "dry": true}', 'city="Ærø", days=3, dry=true'),
        ("{}", ""),
        ("", ""),
        ('["Oslo"]', '["Oslo"]'),
        ('{"city": "Os', '{"city": "Os'),
        ('{"a": "\u202eb"}', r'a="\u202eb"'),
        ('{"a": "\\ud800"}', r'a="\ud800"'),
    ],
)
def test_arguments_are_one_line_of_code(arguments: str, line: str) -> None:
    assert arguments_line(arguments) == line


def test_a_line_of_arguments_is_bounded() -> None:
    assert arguments_line(json.dumps({"a": "x" * 1000, "b": 1})) == f'a="{"x" * 78}…, b=1'
    assert len(arguments_line(json.dumps(dict.fromkeys(map(str, range(1000)), 1)))) == MAX_ARGUMENTS
    assert len(arguments_line("[" * 100_000)) == MAX_ARGUMENTS
