"""`code_interpreter`: the model writes Python, which runs in a session of its thread and assistant.

The step contains the code and its outputs: logs and images. Files that the code writes become File objects. Links to
them in the message (`sandbox:/mnt/data/…`) get a `file_path` annotation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Literal
from urllib.parse import quote

from nbruns.server.hosted.protocol import Context, HostedTool, Result, ToolSchema
from nbruns.text import JSON, excerpt

#: Folder of the files in the session.
FOLDER = "/mnt/data"
#: Maximum number of characters of code, of its output for the model, and of file names in the declaration.
MAX_CODE, MAX_READ, MAX_NAMES = 100_000, 20_000, 2_000
#: Maximum number of links in a message that become annotations.
MAX_LINKS = 1_000

_CODE = re.compile(r'\s*\{\s*"code"\s*:\s*"((?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+)')
_BLOCK = re.compile(r"^```(?:python|py|Python)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(rf"sandbox:(?={FOLDER}/)")
#: The end of a path: not followed by a letter, or by a dot and a letter.
_ENDS = re.compile(r"(?![\w/-]|\.\w)")


class CodeInterpreterTool(ToolSchema):
    type: Literal["code_interpreter"]


class CodeInterpreter(HostedTool):
    """The tool."""

    schema = CodeInterpreterTool

    def declare(self, tool: JSON, files: Sequence[str]) -> JSON:
        names = excerpt(", ".join(f"{FOLDER}/{name}" for name in files), MAX_NAMES)
        there = f" These files are there: {names}." if files else ""
        return {
            "name": "code_interpreter",
            "description": (
                "Run Python in a Jupyter kernel, without a network. Variables are kept between calls. Print what you "
                f"want to read; the user sees plots that are shown. Files are in {FOLDER}; link to one that you have "
                f"written with [its name](sandbox:{FOLDER}/NAME).{there}"
            ),
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "Python code"}},
                "required": ["code"],
            },
        }

    def prepare(self, context: Context) -> None:
        context.warm()

    def describe(self, arguments: str) -> JSON:
        return {"input": _code_so_far(arguments), "outputs": []}

    async def run(self, run: JSON, arguments: str, context: Context) -> Result:
        code = _code(arguments)
        details: JSON = {"input": code, "outputs": []}
        if not code.strip():
            return Result('Pass {"code": "..."}, with Python code.', details)
        if len(code) > MAX_CODE:
            return Result(f"The code was not run: it has over {MAX_CODE:,} characters.", details)
        try:
            executed = await context.execute(code)
        except ValueError as error:
            outputs = [{"type": "logs", "logs": str(error)}]
            return Result(f"The code was not run. {error}", {**details, "outputs": outputs})
        logs = [{"type": "logs", "logs": note} for note in ("\n".join(executed.notes),) if note]
        read = [
            _shortened(each["logs"].rstrip("\n"))
            if each["type"] == "logs"
            else "[An image, which the user sees]"
            for each in executed.outputs
        ]
        made = [f"{path} was written." for path in executed.paths]
        output = "\n".join([*read, *executed.notes, *made]) or "The code ran, and printed nothing."
        outputs = [*executed.outputs, *logs]
        return Result(output, {**details, "outputs": outputs}, executed.files, executed.paths)

    def cite(self, text: str, details: Sequence[JSON], paths: Mapping[str, str]) -> list[JSON]:
        """Return the annotations of the links in a message to files that the code has written."""
        marks: list[JSON] = []
        known = {written: id for path, id in paths.items() for written in (path, quote(path))}
        for link in islice(_LINK.finditer(text), MAX_LINKS):
            fitting = [
                path
                for path in known
                if text.startswith(path, link.end()) and _ENDS.match(text, link.end() + len(path))
            ]
            if fitting:
                path = max(fitting, key=len)
                end = link.end() + len(path)
                mark = {"type": "file_path", "text": text[link.start() : end], "start_index": link.start()}
                marks.append({**mark, "end_index": end, "file_path": {"file_id": known[path]}})
        return marks

    def images(self, details: JSON) -> list[str]:
        return [each["image"]["file_id"] for each in details.get("outputs", ()) if each["type"] == "image"]

    def instructions(self) -> str:
        return (
            f"You can run Python. Files are in {FOLDER}. To run code, write it in one block that begins with "
            "```python and ends with ```, and stop; you get what it prints. Then answer without code."
        )

    def from_text(self, text: str) -> str | None:
        blocks = [block for block in _BLOCK.findall(text) if block.strip()]
        return json.dumps({"code": "\n".join(blocks)}) if blocks else None


def _code(arguments: str) -> str:
    """Return the code of a call. Small models don't always follow the declaration."""
    try:
        given: Any = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        # Either a truncated call, or code instead of JSON.
        return "" if arguments.lstrip().startswith("{") else arguments
    if isinstance(given, Mapping):
        given = given.get("code") or next((each for each in given.values() if isinstance(each, str)), "")
    return given if isinstance(given, str) else ""


def _code_so_far(arguments: str) -> str:
    """Return the code in arguments that may be incomplete."""
    found = _CODE.match(arguments[: 2 * MAX_CODE])
    if found is None:
        return ""
    text: str = json.loads(f'"{found[1]}"', strict=False)
    # Hold back the first half of a surrogate pair until the other half arrives.
    return text[:-1] if text and "\ud800" <= text[-1] <= "\udbff" else text


def _shortened(text: str) -> str:
    """Return the text for the model. From long texts, the middle is left out."""
    if len(text) <= MAX_READ:
        return text
    half = MAX_READ // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[{left_out:,} characters are left out here; print less]\n{text[-half:]}"
