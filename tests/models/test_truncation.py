"""Conversations that are too long."""

from __future__ import annotations

from typing import Any

import pytest

from nbruns.server.models import truncation

SYSTEM = {"role": "system", "content": "s" * 40}
SAID = [{"role": role, "content": f"{n}" * 40} for n in (1, 2, 3) for role in ("user", "assistant")]
QUESTION = {"role": "user", "content": "q" * 40}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "function": {"name": "f"}}]}
OUTPUT = {"role": "tool", "tool_call_id": "call_1", "content": "o" * 40}
ALL: list[dict[str, Any]] = [SYSTEM, *SAID, QUESTION, CALL, OUTPUT]


def test_what_fits_stays_as_it_is() -> None:
    assert truncation.within(ALL, 1000) == ALL
    assert truncation.within([], 0) == []


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [(99, [0, 2, 3, 4, 5]), (85, [0, 3, 4, 5]), (65, [0, 5]), (55, [0]), (45, []), (0, [])],
)
def test_the_middle_goes_first_and_the_first_message_last(tokens: int, kept: list[int]) -> None:
    shortened = truncation.within(ALL, tokens)
    assert shortened == [SYSTEM, *(SAID[at] for at in kept), QUESTION, CALL, OUTPUT]
    assert tokens < 50 or sum(map(truncation._length, shortened)) <= tokens * truncation.CHARACTERS_PER_TOKEN


def test_half_of_what_can_go_goes_at_a_time_until_nothing_can() -> None:
    lengths, messages = [], ALL
    while not lengths or len(messages) < lengths[-1]:
        lengths.append(len(messages))
        messages = truncation.shorter(messages)
    assert lengths == [10, 7, 5, 4] and messages == [SYSTEM, QUESTION, CALL, OUTPUT]


def test_an_image_counts_for_nothing() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/" + "a" * 4000}}
    seen = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
    assert truncation.within([*SAID, seen], 100) == [*SAID, seen]
