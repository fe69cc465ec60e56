"""The demo model's answers in Markdown: from tool outputs, and one that shows Markdown features.

For passages of files, the answer quotes the sentences that best match the words of the question, with citations of the
passages.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from nbruns.demo import code
from nbruns.server.models.protocol import Answered
from nbruns.text import JSON

#: Maximum number of rows and characters shown of an output.
ROWS, CHARACTERS = 12, 600

#: Maximum number of sentences that are quoted from files, and of words of a sentence.
SENTENCES, WORDS = 3, 60
#: Sentences are quoted if their score is at least this share of the best score.
_ENOUGH = 0.5

COLOPHON = (
    "*I am nbruns' demo model: by a script, I call tools and repeat what they gave. For an answer from a "
    "real language model, use the model `smollm2` (small, runs here, needs no key), or start the server with "
    "`nbruns serve --upstream URL`.*"
)

WITHOUT_TOOLS = """\
### You said

{quote}

I have no tools to ask in this run, so here is what a run can do:

- **stream** its text into the notebook while it is written,
- **call tools**: functions of yours, which a form or your own Python code answers,
- **cost** tokens, which are counted for every run and every step.

Give the assistant a function, and I will call it:

```python
def get_weather(city: str) -> str:
    \"\"\"The weather in a city.\"\"\"
    return f"Rain in {{city}}, 8 °C"

client.assistants.create(model="demo", tools=[get_weather])
```
"""


#: A passage in the output of file_search: its citation mark, with the name of the file, and its text.
_PASSAGE = re.compile(r"^(【\d+:\d+†([^】]*)】)\n(.*?)(?=\n\n【\d+:\d+†|\Z)", re.MULTILINE | re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+|\n\s*\n|\n(?=\s*(?:[-*+#|>]|\d+[.)]) )")
#: Marks of headings, lists and quotes at the start of a line.
_LEADING = re.compile(r"^\s*(?:[#>*+|-]+|\d+[.)])\s+")


class _Sentence(NamedTuple):
    text: str
    mark: str
    file: str
    words: frozenset[str]


def from_outputs(calls: list[Answered], said: Sequence[str] = ()) -> str:
    """Return an answer that shows the output of each call. Passages of files are searched for what was `said`."""
    passages = [found for call in calls for found in _PASSAGE.findall(call.output)]
    if calls and (passages or all(_is_search(call) for call in calls)):
        others = [call for call in calls if not _is_search(call)]
        shown = [_section(call) for call in others]
        answer = from_passages(passages, said[0] if said else "")
        return "\n\n".join([answer, *shown, "---", COLOPHON]) + "\n"
    opening = (
        "Here is what I found." if len(calls) == 1 else f"I asked {len(calls)} tools. Here is what I found."
    )
    sections = [_section(call) for call in calls]
    return "\n\n".join([opening, *sections, "---", COLOPHON]) + "\n"


def from_passages(passages: list[tuple[str, str, str]], question: str) -> str:
    """Return an answer from passages (mark, file, text): the best sentences, each with the mark of its passage."""
    if not passages:
        return "I searched the files and found nothing about that."
    files = list(dict.fromkeys(_escaped(file) for _, file, _ in passages))
    where = f"**{files[0]}**" if len(files) == 1 else f"{len(files)} files"
    number = "one passage" if len(passages) == 1 else f"{len(passages)} passages"
    best = _best([each for passage in passages for each in _sentences(*passage)], question)
    if not best:
        return (
            f"I searched the files and found nothing that answers it. The search returned {number} of {where}, but "
            "none shares a word with your question."
        )
    quoted = "\n".join(f"- {_escaped(each.text)}{each.mark}" for each in best)
    return f"This is what your files say:\n\n{quoted}\n\nThe search returned {number} of {where}."


def _best(sentences: list[_Sentence], question: str) -> list[_Sentence]:
    """Return the sentences that best match the words of the question. Rare words count more."""
    wanted = _words(question)
    frequency = Counter(word for each in sentences for word in each.words & wanted)

    def score(each: _Sentence) -> float:
        return sum(math.log(1 + len(sentences) / frequency[word]) for word in each.words & wanted)

    ranked = sorted(sentences, key=score, reverse=True)  # stable: the better passage first
    least = _ENOUGH * score(ranked[0]) if ranked else 0.0
    enough = [each for each in ranked if score(each) > 0 and score(each) >= least]
    return list({each.text: each for each in reversed(enough)}.values())[::-1][:SENTENCES]


def _sentences(mark: str, file: str, text: str) -> list[_Sentence]:
    """Return the sentences of a passage. Headings aren't sentences, but their words count for the text below them."""
    sentences, heading = [], frozenset[str]()
    for piece in _SENTENCE_END.split(text):
        if piece.lstrip().startswith("#"):
            title, _, piece = piece.lstrip().partition("\n")
            heading = _words(title)
        words = _LEADING.sub("", piece).split()
        if words:
            shown = " ".join(words[:WORDS]) + (" …" if len(words) > WORDS else "")
            sentences.append(_Sentence(shown, mark, file, _words(shown) | heading))
    return sentences


def _words(text: str) -> frozenset[str]:
    """Return the words of a text, without stop words, and without endings such as those of plurals."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(
        word if word.isdigit() else word[:6].rstrip("s") for word in words if word not in _LITTLE
    )


_SMALL_WORDS = (
    "a an and any are as at be by can did do does for from had has have how i if in is it its many may me much must my "
    "no not of on or our shall should so tell than that the their them there these they this to us was we what when "
    "where which who whom whose why will with would you your"
)
_LITTLE = frozenset(_SMALL_WORDS.split())


def _is_search(call: Answered) -> bool:
    return call.name.startswith("file_search") and (
        _PASSAGE.match(call.output) is not None or call.output == "Nothing was found in the files."
    )


def _section(call: Answered) -> str:
    written = code.code_of(_parsed(call.arguments)) if call.name == code.FUNCTION else None
    if written is not None:
        return code.answer(written, call.output)
    return f"### {_heading(call)}\n\n{_output(call.output)}"


def without_tools(said: list[str]) -> str:
    """Return an answer to the latest message, if there is no tool to call."""
    return WITHOUT_TOOLS.format(quote=_quote(said[0] if said else "")) + "\n---\n\n" + COLOPHON + "\n"


def as_object(said: list[str]) -> JSON:
    """Return an answer as a JSON object, without a schema."""
    return {"answer": f"You said: {said[0] if said else ''}", "model": "demo", "scripted": True}


def _heading(call: Answered) -> str:
    """Return a heading for a call, such as `get_weather`: Oslo."""
    arguments = _parsed(call.arguments)
    values = list(arguments.values()) if isinstance(arguments, dict) else []
    shown = ", ".join(_cell(value) for value in values if isinstance(value, str | int | float))
    return f"`{call.name}`" + (f": {shown}" if shown else "")


def _output(output: str) -> str:
    value = _parsed(output)
    if isinstance(value, dict) and value:
        return _table(["field", "value"], [[_cell(key), _cell(inner)] for key, inner in value.items()])
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = list(dict.fromkeys(key for row in value for key in row))
        rows = [[_cell(row.get(column, "")) for column in columns] for row in value]
        return _table([_cell(column) for column in columns], rows)
    if isinstance(value, list) and value:
        return _shortened([f"- {_cell(item)}" for item in value], "- … and {} more")
    return _quote(value if isinstance(value, str) else output)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [_row(header), _row(["---"] * len(header))]
    more = _row(["…", *[""] * (len(header) - 1)])
    return "\n".join([*lines, _shortened([_row(row) for row in rows], more)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shortened(lines: list[str], more: str) -> str:
    left = len(lines) - ROWS
    return "\n".join([*lines[:ROWS], more.format(left)] if left > 0 else lines)


def _cell(value: Any) -> str:
    """Return a value on one line, with Markdown markup escaped."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _escaped(" ".join(text.split())[:CHARACTERS])


def _quote(text: str) -> str:
    shown = text if len(text) <= CHARACTERS else text[:CHARACTERS] + " …"
    return "\n".join(f"> {_escaped(line)}".rstrip() for line in shown.splitlines() or ["(nothing)"])


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)
