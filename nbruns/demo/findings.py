"""Find values for the parameters of a tool in a user's message: places, names, dates, numbers, quoted phrases.

Uses regular expressions, no language model: enough to call `get_weather(city)` with "Oslo" for a question about Oslo.
"""

from __future__ import annotations

import re

#: Capitalised words that are not names at the start of a sentence.
_OPENERS = (
    "a an and are as at be by call can check compare convert could create did do does explain find for from "
    "get give has have hello hey hi how i i'd i'm if in is it let list look make may my no of ok on or our "
    "please plan say send set should show tell thanks that the there these they this to translate was we "
    "what what's when where which who why will with would write yes you your"
)
OPENERS = frozenset(_OPENERS.split())

#: For each kind of finding: its pattern, which has one group.
PATTERNS: dict[str, str] = {
    "quoted": r"[\"“„«]([^\"”“»\n]{1,200})[\"”“»]",
    "email": r"\b([\w.+-]+@[\w-]+(?:\.[\w-]+)+)",
    "url": r"\b(https?://[^\s<>\"']*[^\s<>\"'.,;:!?)])",
    "date": r"\b(\d{4}-\d{2}-\d{2})\b",
    "time": r"\b(\d{1,2}:\d{2}(?::\d{2})?)\b",
    "day": r"\b((?i:today|tomorrow|tonight|yesterday|(?:mon|tues|wednes|thurs|fri|satur|sun)day))\b",
    "number": r"(?<![\w.:/-])(-?\d+(?:\.\d+)?)(?![\w:/-]|\.\d)",
    "code": r"\b([A-Z]{2,}(?:-?\d+)?|[A-Z]+-\d+)\b",
}

#: Kinds of findings for a parameter, by a word in its name, else in its description. The first matching row is used.
SUITS: list[tuple[str, tuple[str, ...]]] = [
    (r"e?mail", ("email",)),
    (r"url|uri|link|website", ("url",)),
    (r"date|day|deadline|when|since|until", ("date", "day")),
    (r"time|hour|clock", ("time",)),
    (
        r"city|cities|place|location|town|countr|region|origin|destination|address|harbou?r|port\b|airport|station|"
        r"island|mountain|lake|river|beach|venue|hotel|restaurant|warehouse",
        ("place", "quoted"),
    ),
    (r"currenc|ticker|symbol|code|id\b|ids\b|sku", ("code", "number", "quoted")),
    (r"number|order|invoice|zip|postal|phone", ("number", "code", "quoted")),
    (r"query|question|search|prompt|message|sentence|topic", ("quoted", "message")),
    (r"text|phrase|content|expression|word", ("quoted", "message")),
    (r"title|subject", ("quoted",)),
    (r"name|person|user|customer|author|company|who\b|recipient", ("name", "quoted", "email")),
]

#: Maximum number of characters searched in each of the five latest messages.
SEARCHED = 2000

_TOKEN = re.compile(r"[^\W\d_][\w'’-]*")
_PLACE = re.compile(r"\b(?:in|at|near|from|to|for|around|about)\s+([^\W\d_][\w'’-]*)", re.IGNORECASE)


class Findings:
    """Values found in messages (latest first). Each value is used at most once."""

    def __init__(self, messages: list[str]) -> None:
        self.messages = [message[:SEARCHED] for message in messages[:5]]
        self._taken: set[object] = set()

    def offers(self, *labels: str) -> list[str]:
        """Return the texts for a parameter with these labels (format, name, description), best first."""
        kinds = next(filter(None, map(suited, labels)), ("quoted",))
        found = [text for kind in kinds for message in self.messages for text in _find(kind, message)]
        return [text for text in dict.fromkeys(found) if text not in self._taken]

    def numbers(self) -> list[float | int]:
        """Return the numbers in the messages."""
        found = [_number(text) for message in self.messages for text in _find("number", message)]
        return [number for number in dict.fromkeys(found) if number not in self._taken]

    def mentions(self, word: str) -> bool:
        """Whether a message contains this word."""
        pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
        return bool(word) and any(re.search(pattern, message, re.IGNORECASE) for message in self.messages)

    def take(self, value: object) -> None:
        """Remove `value`, so that two places in a message fill two parameters."""
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            self._taken.add(value)


def suited(label: str) -> tuple[str, ...]:
    """Return the kinds of findings for a parameter with this name, format or description, best first; () if unknown."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", label)
    return next((kinds for words, kinds in SUITS if re.search(rf"\b(?:{words})", spaced, re.IGNORECASE)), ())


def _number(text: str) -> float | int:
    return float(text) if "." in text else int(text)


def _find(kind: str, message: str) -> list[str]:
    if kind == "message":
        return [message.strip()] if message.strip() else []
    if kind == "name":
        return _names(message)
    if kind == "place":
        names = _names(message)
        after = [match[1] for match in _PLACE.finditer(message)]
        # Prefer "in Oslo" to other names. Without capitalised words, use "in oslo".
        return [name for name in names if name.split()[0] in after] + names if names else after
    return [match[1] for match in re.finditer(PATTERNS[kind], message)]


def _names(message: str) -> list[str]:
    """Return sequences of capitalised words. Those at the start of a sentence come last, unless they begin a list."""
    runs: list[tuple[bool, list[str]]] = []
    end = -1
    for match in _TOKEN.finditer(message):
        word = match[0]
        if not word[0].isupper() or word.lower().replace("’", "'") in OPENERS:
            continue
        if runs and message[end : match.start()] == " ":
            runs[-1][1].append(word)
        else:
            runs.append((_opens(message, match), [word]))
        end = match.end()
    return [" ".join(words) for _, words in sorted(runs, key=lambda run: run[0])]


def _opens(message: str, match: re.Match[str]) -> bool:
    before, after = message[: match.start()].rstrip(), message[match.end() :]
    return (not before or before[-1] in ".!?:") and not re.match(r",| and |\W*$", after)
