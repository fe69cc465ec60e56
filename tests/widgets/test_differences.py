"""Words in which texts differ: found, marked within HTML, and in bounded time."""

from __future__ import annotations

import pytest

from nbruns.widgets.differences import MAX_WORDS, marked, same_words, words_of


def diff(one: str, other: str) -> str:
    words = words_of(other)
    return marked(words, same_words(words, words_of(one)), "[{}]".format)


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("", "", ""),
        ("same text", "same text", "same text"),
        ("same  text", "same text", "same text"),  # space is no difference
        ("light rain, 3 °C", "heavy snow, -12 °C", "[heavy snow, -12] °C"),
        ("", "all new", "[all new]"),
        ("a b c d", "a b x c d", "a b [x] c d"),
        ("I have a red coat", "You own this coat", "[You own this] coat"),
        ("<p>one two</p>", "<p>one <b>two</b></p>", "<p>one <b>two</b></p>"),
        ("<p>one two</p>", "<p>one <b>three</b> four</p>", "<p>one <b>[three]</b> [four]</p>"),
        ("<p>x</p>", '<p title="a > b">y</p>', '<p title="a > b">[y]</p>'),
        ("a &amp; b", "a &lt; b", "a [&lt;] b"),
        ("<math><mi>x</mi></math> y", "<math><mi>z</mi></math> y", "[<math><mi>z</mi></math>] y"),
        ('<span class="nbruns-state">1 s</span>', '<span class="nbruns-state">2 s</span>', None),
    ],
)
def test_differences(one: str, other: str, shown: str | None) -> None:
    assert diff(one, other) == (other if shown is None else shown)


def test_what_has_no_difference_is_what_it_was() -> None:
    for text in ("<p>a<br>b & c", "<" * 50, "a < b > c", "<a title='>", "日本語 שלום", "\n\n x \t"):
        assert "".join(words_of(text)) == text
        assert diff(text, text) == text


def test_long_texts_are_compared_at_their_ends_only() -> None:
    size = MAX_WORDS + 1
    one, other = (" ".join([*(f"w{n}" for n in range(size)), word]) for word in ("old", "new"))
    assert diff(one, other).endswith(f"w{size - 1} [new]")  # a long beginning in common costs nothing
    many = " ".join(f"v{n}" for n in range(size))
    assert diff(one, f"w0 {many} old") == f"w0 [{many}] old"
