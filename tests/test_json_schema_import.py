"""What checking a value loads: the first Run of a form waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Stands for the package of that name, which is in most environments with JupyterLab: it compiles a grammar for
#: seconds when it is imported.
GRAMMAR = """
def is_valid_syntax(rule, text):
    return rule == "iri" and " " not in text
"""
PROGRAM = """
import sys
from nbruns.json_schema import problems

assert problems({"city": 1}, {"properties": {"city": {"type": "string"}}})
print([name in sys.modules for name in ("jsonschema", "rfc3987_syntax")])

from jsonschema import Draft202012Validator
validator = Draft202012Validator({"format": "iri"}, format_checker=Draft202012Validator.FORMAT_CHECKER)
print([validator.is_valid(text) for text in ("https://example.org/ü", "not an iri")])
print("rfc3987_syntax" in sys.modules)
"""


def test_checking_a_value_compiles_no_grammar_and_other_users_of_jsonschema_still_have_every_format(
    tmp_path: Path,
) -> None:
    (tmp_path / "rfc3987_syntax.py").write_text(GRAMMAR)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[True, False]", "[True, False]", "True"]
