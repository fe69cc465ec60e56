"""The event stream's format, after the WHATWG specification's text and examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbruns import sse
from nbruns.errors import StreamError
from nbruns.sse import ServerSentEvent, iter_events


def events(*chunks: bytes) -> list[ServerSentEvent]:
    return list(iter_events(chunks))


def data(*chunks: bytes) -> list[str]:
    return [event.data for event in events(*chunks)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"], id="three data lines"),
        pytest.param(
            b": test\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
            ["first", "second", " third"],
            id="comment, ids, space",
        ),
        pytest.param(b"data\n\ndata\ndata\n\ndata:", ["", "\n"], id="empty data, and a half event"),
        pytest.param(b"data:test\n\ndata: test\n\n", ["test", "test"], id="one space is dropped"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", ["a"], id="byte order mark"),
        pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", ["b"], id="only one byte order mark"),
        pytest.param(b"data: a\r\rdata: b\r\r", ["a", "b"], id="CR"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"], id="CRLF"),
        pytest.param(b"data: a\n\r\ndata: b\n\r\n", ["a", "b"], id="LF, then CRLF"),
        pytest.param(b"data: a\r\n\ndata: b\r\n\r", ["a", "b"], id="every line end"),
        pytest.param(b"\n\n\ndata: a\n\n\n\ndata: b\n\n", ["a", "b"], id="blank lines to spare"),
        pytest.param(
            b"Data: no\ndata : no\n data: no\ndatas: no\ndata: yes\n\n", ["yes"], id="field names are exact"
        ),
        pytest.param(
            "data: Grüße 🌮\u2028x\x85\n\n".encode(), ["Grüße 🌮\u2028x\x85"], id="Unicode line ends are text"
        ),
        pytest.param(b"data: a\xff\xfe\n\n", ["a\ufffd\ufffd"], id="invalid UTF-8"),
        pytest.param(b"event: x\n\nid: 1\n\n", [], id="no data, no event"),
    ],
)
def test_data(stream: bytes, expected: list[str]) -> None:
    assert data(stream) == expected
    assert data(*(stream[i : i + 1] for i in range(len(stream)))) == expected
    assert data(*(stream[i : i + 2] for i in range(0, len(stream), 2))) == expected


def test_the_name_is_of_one_event_only() -> None:
    assert [e.event for e in events(b"event: add\ndata: 1\n\ndata: 2\n\nevent:\ndata: 3\n\n")] == [
        "add",
        "message",
        "message",
    ]


def test_the_id_stays_until_it_is_set_again() -> None:
    stream = (
        b"data: 1\n\nid: 7\ndata: 2\n\ndata: 3\n\nid: 8\n\ndata: 4\n\nid: 9\x00\ndata: 5\n\nid\ndata: 6\n\n"
    )
    assert [e.id for e in events(stream)] == [None, "7", "7", "8", "8", None]


@pytest.mark.parametrize("digits", [10, 5000])
def test_numbers_of_many_digits_are_no_time_and_an_id_like_any_other(digits: int) -> None:
    number = b"9" * digits
    (event,) = events(b"retry: %b\nid: %b\ndata: 1\n\n" % (number, number))
    assert event.retry is None and event.id == number.decode()


def test_retry_is_a_number_or_nothing() -> None:
    assert [
        e.retry for e in events(b"retry: 10\ndata: 1\n\nretry: soon\ndata: 2\n\nretry: -1\ndata: 3\n\n")
    ] == [10, None, None]


def test_an_event_comes_with_its_blank_line() -> None:
    sent: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b"data: a\n", b"\n", b"data: b\r\n\r", b"\ndata: c", b"\n\n"):
            sent.append(chunk)
            yield chunk

    assert [(event.data, len(sent)) for event in iter_events(chunks())] == [("a", 2), ("b", 3), ("c", 5)]


def test_an_endless_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10_000)
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"data: " + b"x" * 1000

    with pytest.raises(StreamError, match="10,000 bytes"):
        list(iter_events(endless()))
    assert read < 20


def test_endless_lines_are_bounded() -> None:
    with pytest.raises(StreamError, match="4,096 lines"):
        events(b"data: x\n" * 5000 + b"\n")


LINES = st.sampled_from(
    [
        b"data: a",
        b"data",
        b"data:\xc3\xa9",
        b"event: e",
        b"id: 1",
        b"id: 2\x00",
        b"retry: 5",
        b": c",
        b"",
        b"\xff",
        b"x",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@settings(deadline=None)
@given(st.lists(st.tuples(LINES, ENDS), max_size=30), st.data())
def test_chunks_make_no_difference(lines: list[tuple[bytes, bytes]], draw: st.DataObject) -> None:
    stream = b"".join(line + end for line, end in lines)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    edges = [0, *cuts, len(stream)]
    assert events(*(stream[a:b] for a, b in itertools.pairwise(edges))) == events(stream)


@settings(deadline=None)
@given(st.lists(st.tuples(LINES, ENDS), max_size=20), st.integers(0, 200))
def test_a_prefix_gives_nothing_that_the_whole_does_not(lines: list[tuple[bytes, bytes]], cut: int) -> None:
    stream = b"".join(line + end for line, end in lines)
    prefix, whole = events(stream[:cut]), events(stream)
    assert prefix == whole[: len(prefix)]


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), max_size=20)
WIRE_EVENTS = st.lists(st.tuples(FIELD, st.lists(FIELD, min_size=1, max_size=3), FIELD), max_size=8)


@settings(deadline=None)
@given(WIRE_EVENTS, st.data())
def test_any_chunking_of_any_events_gives_those_events(
    wanted: list[tuple[str, list[str], str]], draw: st.DataObject
) -> None:
    """Whatever text is in them, whichever line end each line has, wherever the bytes are cut."""
    lines = [
        line
        for name, data, id in wanted
        for line in (f"event: {name}", *(f"data: {line}" for line in data), f"id: {id}", "")
    ]
    ends = draw.draw(st.lists(ENDS, min_size=len(lines), max_size=len(lines)))
    for i, line in enumerate(lines):
        if line == "" and ends[i - 1 : i + 1] == [b"\r", b"\n"]:
            ends[i] = b"\r\n"  # else the two were one line end, and the event would not end here
    stream = b"".join(line.encode() + end for line, end in zip(lines, ends, strict=True))
    size = draw.draw(st.integers(1, 9))
    found = events(*(stream[i : i + size] for i in range(0, len(stream), size)))
    assert found == [
        ServerSentEvent(name or "message", "\n".join(data), id or None) for name, data, id in wanted
    ]


@settings(deadline=None)
@given(WIRE_EVENTS, st.integers(0, 2000))
def test_any_prefix_gives_the_first_events_and_no_other(
    wanted: list[tuple[str, list[str], str]], cut: int
) -> None:
    blocks = [
        "".join([f"event: {name}\n", *(f"data: {line}\n" for line in data), f"id: {id}\n\n"]).encode()
        for name, data, id in wanted
    ]
    whole, prefix = events(*blocks), events(b"".join(blocks)[:cut])
    complete = sum(end <= cut for end in itertools.accumulate(map(len, blocks)))
    assert prefix == whole[:complete] and len(whole) == len(wanted)
