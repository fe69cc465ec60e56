"""Generate candidates for the strings and numbers of a schema, the most plausible first. The caller validates them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from typing import Any

import rstr

from nbruns.demo.findings import suited
from nbruns.json_schema import FORMATS
from nbruns.text import JSON

NAMED = {
    "country": "Norway",
    "language": "English",
    "currency": "EUR",
    "timezone": "Europe/Oslo",
    "id": "1",
    "title": "An example",
}
#: Example values for each kind that `findings.suited` returns.
OF_KIND = {
    "place": "Oslo",
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "url": "https://example.org/",
    "date": "2026-08-26",
    "time": "09:30",
    "code": "A-1024",
    "number": "1024",
}
#: An example in a description: "The city and state, e.g. San Francisco, CA".
_EXAMPLE = re.compile(
    r"(?:\be\.g\.|\bfor example|\bsuch as)[,:]?\s+[\"'“`]?(.{1,80}?)(?:[\"'”`;()\n]|\.(?:\s|$)|\s(?:or|and)\s|$)",
    re.IGNORECASE,
)

#: Maximum number of characters generated for a pattern.
LONGEST = 1000
#: Number of different candidates, for arrays whose items must be unique.
VARIANTS = 20


def strings(node: JSON, name: str) -> Iterator[str]:
    """Yield strings for a parameter: by its format, the example in its description, its name, and its pattern."""
    described = _EXAMPLE.search(str(node.get("description", ""))[:LONGEST])
    kinds = suited(name)
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]", " ", name).lower().strip()
    words = [FORMATS.get(node.get("format", "")), described and described[1]]
    words += [NAMED.get(spaced), NAMED.get(spaced.rpartition(" ")[2]), *map(OF_KIND.get, kinds)]
    words += FORMATS.values() if "pattern" in node else ()
    least, most = min(node.get("minLength", 0), LONGEST), min(node.get("maxLength", LONGEST), LONGEST)
    for word in filter(None, words):
        yield _fitted(word, least, most)
    for repeats in (0, 1, least, most) if "pattern" in node else ():
        yield from _matching(node["pattern"], repeats)
    for number in range(1, VARIANTS):
        word = f"some {spaced}" if spaced else "an example"
        yield _fitted(f"{word} {number}" if number > 1 else word, least, most)


def integers(node: JSON) -> Iterator[int]:
    """Yield integers near the bounds of the schema."""
    for number in numbers(node):
        yield math.ceil(number)
        yield math.floor(number)


def numbers(node: JSON) -> Iterator[float | int]:
    """Yield numbers: 1 and 0, the bounds and their neighbours, the middle, multiples."""
    low, high = _bound(node, "inimum"), _bound(node, "aximum")
    step = node.get("multipleOf", 1)
    start = low if low is not None else high - VARIANTS * step if high is not None else 1
    yield from (1, 0)
    yield from (number for number in (low, high) if number is not None)
    if low is not None and high is not None:
        yield (low + high) / 2
    first = math.ceil(start / step) * step
    yield from (first + number * step for number in range(VARIANTS))


def _bound(node: JSON, word: str) -> float | int | None:
    stated = (node.get(f"m{word}"), node.get(f"exclusiveM{word}"))
    found = [n for n in stated if isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e300]
    return (max if word == "inimum" else min)(found, default=None)


def _fitted(text: str, least: int, most: int) -> str:
    return (text if len(text) >= least else (text + " ") * least)[: min(max(least, len(text)), most)]


def _matching(pattern: str, repeats: int) -> Iterator[str]:
    try:
        yield rstr.Rstr(_Plainest(repeats)).xeger(pattern)
    except Exception:  # an unsupported pattern, or one that requires too long a text
        return


class _Plainest(random.Random):
    """Deterministic replacement for random: selects the first letter and the first branch, and minimal repetitions."""

    def __init__(self, repeats: int) -> None:
        super().__init__(0)
        self.repeats, self.left = repeats, LONGEST

    def choice(self, seq: Any) -> Any:
        if all(isinstance(one, str) for one in seq):
            return min(seq, key=lambda one: (not one.isalpha(), not one.isalnum(), one))
        return seq[0]

    def randint(self, a: int, b: int) -> int:
        number = max(a, min(self.repeats, b))
        self.left -= number
        if self.left < 0:
            raise ValueError("the pattern asks for too long a text")
        return number
