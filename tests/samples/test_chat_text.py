"""From bytes to clean lines: telnet, cutting, cleaning."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samples.chat.text import Lines, Telnet, clean

WILL_NAWS = b"\xff\xfb\x1f"
DO_TIMING_MARK = b"\xff\xfd\x06"


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def lines_of(data: bytes, limit: int = 100, cuts: list[int] | None = None) -> list[str | None]:
    lines = Lines(limit)
    return [line for piece in split_at(data, cuts or []) for line in lines.feed(piece)]


def test_both_line_ends_are_understood():
    """LF and CR LF, even when the CR stands at the limit."""
    assert lines_of(b"abc\ndef\r\n\n", limit=3) == ["abc", "def", ""]


def test_a_line_over_the_limit_is_told_once_and_skipped():
    """The next line is whole again."""
    assert lines_of(b"abcd" * 100 + b"\nok\n", limit=5, cuts=[3, 50, 51]) == [None, "ok"]


def test_a_line_of_the_limit_is_whole():
    """The limit itself is allowed."""
    assert lines_of(b"12345\n123456\n", limit=5) == ["12345", None]


def test_an_endless_line_takes_no_memory():
    """What is skipped is not kept."""
    lines = Lines(10)
    for _ in range(100):
        lines.feed(b"x" * 1000)
        assert len(lines._held) <= 11
    assert lines.feed(b"\nok\n") == ["ok"]


@settings(max_examples=40)
@given(st.text(alphabet="aä€😀 ", max_size=20), st.lists(st.integers(0, 100), max_size=5))
def test_a_character_split_over_reads_is_whole(text, cuts):
    """However the bytes arrive, the line is the same."""
    assert lines_of(f"{text}\n".encode(), cuts=cuts) == [text]


@settings(max_examples=40)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_where_the_reads_fall_never_matters(data, cuts):
    """Telnet and lines give the same for any split of the same bytes."""

    def through(pieces):
        telnet, lines = Telnet(), Lines(10)
        answers, found = b"", []
        for piece in pieces:
            text, answer = telnet.feed(piece)
            answers += answer
            found += lines.feed(text)
        return answers, found, lines.end()

    assert through(split_at(data, cuts)) == through([data])


def test_invalid_bytes_are_replaced():
    """Latin-1 from an old client shows a replacement character, and ends nothing."""
    assert lines_of(b"caf\xe9\n") == ["caf�"]


def test_the_rest_at_the_end_is_a_line():
    """What came without a newline is not lost; nothing is no line."""
    lines = Lines(10)
    assert lines.feed(b"one\ntwo") == ["one"]
    assert lines.end() == "two"
    assert lines.end() is None


@pytest.mark.parametrize(
    ("data", "text", "answer"),
    [
        (b"plain\r\n", b"plain\r\n", b""),
        (b"a" + WILL_NAWS + b"b", b"ab", b"\xff\xfe\x1f"),
        (b"\xff\xf4" + DO_TIMING_MARK + b"x", b"x", b"\xff\xfc\x06"),
        (b"\xff\xfe\x01\xff\xfc\x01x", b"x", b""),
        (b"a\xff\xfa\x1f\x00\x50\x00\xff\xff\x0a\xff\xf0b", b"ab", b""),
        (b"\xff\xffx", b"\xffx", b""),
        (b"\xff\nx", b"\xff\nx", b""),
    ],
    ids=["none", "WILL", "interrupt and DO timing mark", "DONT and WONT", "subnegotiation", "escaped", "not telnet"],
)
def test_telnet_commands_are_taken_out_and_refused(data, text, answer):
    """Nothing of a negotiation appears as text, and each offer and request is refused."""
    assert Telnet().feed(data) == (text, answer)


def test_what_drives_a_terminal_is_removed():
    """ESC, CSI, BEL, NUL, CR, bidi overrides, zero-width spaces and a byte-order mark go; a tab is a space."""
    nasty = "a\x1b[31mb\x9bc\x07d\x00e\rf\u202eg\u200bh\ufeffi\tj\u2028k\x7fl"
    assert clean(nasty) == "a[31mbcdefghi j kl"


@settings(max_examples=40)
@given(st.text())
def test_no_control_character_is_ever_left(text):
    """Of any text, nothing of the categories Cc, Cf, Cs, Zl, Zp remains, and the rest is unchanged."""
    cleaned = clean(text)
    assert {unicodedata.category(character) for character in cleaned}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert clean(cleaned) == cleaned
    if text.isprintable():
        assert cleaned == text
