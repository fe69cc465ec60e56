"""Descriptions in a docstring, of the function and of each parameter, parsed by griffe (Google, NumPy, Sphinx)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

#: Start of a section about parameters. Without one, griffe is not loaded.
_PARAMETERS = re.compile(
    r"^\s*(:param\b|(args|arguments|params|parameters|other parameters)\s*:?\s*$)", re.I | re.M
)


def read_docstring(docstring: str | None, parameters: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the description without the parameters, and the description of each documented parameter.

    A docstring that describes no parameter is returned unchanged.
    """
    text = inspect.cleandoc(docstring or "")
    if not _PARAMETERS.search(text):
        return text, {}
    sections = _sections(text)
    found = {
        item.name.lstrip("*"): " ".join(item.description.split())
        for section in sections
        if section.kind.value in ("parameters", "other parameters")
        for item in section.value
    }
    known = {name: words for name, words in found.items() if name in parameters and words}
    if not known:
        return text, {}
    return "\n\n".join(filter(None, map(_words, sections))), known


def _sections(text: str) -> list[Any]:
    import griffe

    silent: Any = {"warnings": False}
    return griffe.parse_auto(
        griffe.Docstring(text, lineno=1),
        default="google",
        per_style_options={"google": silent, "numpy": silent, "sphinx": silent},
    )


def _words(section: Any) -> str:
    """Return a section as text for the model; empty for sections that repeat the schema."""
    return _WORDS.get(section.kind.value, lambda _: "")(section)


def _listed(title: str) -> Callable[[Any], str]:
    def words(section: Any) -> str:
        items = [" ".join(item.description.split()) for item in section.value if item.description]
        return f"{title}: {'; '.join(items)}" if items else ""

    return words


def _raised(section: Any) -> str:
    return "Raises: " + "; ".join(
        f"{item.annotation}: {' '.join(item.description.split())}" for item in section.value
    )


def _examples(section: Any) -> str:
    return "Examples:\n" + "\n".join(text for _, text in section.value)


def _admonition(section: Any) -> str:
    return f"{section.title or section.value.kind.title()}: {section.value.description}"


_WORDS: dict[str, Callable[[Any], str]] = {
    "text": lambda section: str(section.value),
    "returns": _listed("Returns"),
    "yields": _listed("Yields"),
    "raises": _raised,
    "examples": _examples,
    "admonition": _admonition,
    "deprecated": lambda section: f"Deprecated: {section.value.description}",
}
