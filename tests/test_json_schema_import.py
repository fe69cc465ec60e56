"""What checking a value loads: the first Run of a form waits for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rfc3987_syntax")

PROGRAM = """
import sys
from nbruns.json_schema import problems

assert problems({"city": 1}, {"properties": {"city": {"type": "string"}}})
print([name in sys.modules for name in ("jsonschema", "lark", "rfc3987_syntax")])

from jsonschema import Draft202012Validator
validator = Draft202012Validator({"format": "iri"}, format_checker=Draft202012Validator.FORMAT_CHECKER)
print([validator.is_valid(text) for text in ("https://example.org/ü", "not an iri")])
"""


def test_checking_a_value_compiles_no_grammar_and_other_users_of_jsonschema_still_have_every_format() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[True, False, False]", "[True, False]"]
