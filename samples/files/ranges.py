"""Range requests (RFC 9110, section 14): which bytes of a file are asked for.

What is malformed, in another unit, or too much of a good thing is ignored, as 14.2 allows, and the whole file sent:
more than `MOST` ranges, or ranges that together ask for more than the file has. So nobody makes a small request into
an answer larger than the file. Ranges that lie behind its end are left out; if no other is left, that is 416.
"""

from __future__ import annotations

import re

import attrs

# More than any viewer asks for at a time.
MOST = 16

_RANGES = re.compile(r"bytes=(.*)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")
# No file is longer than this many digits say, and int() takes its time over thousands.
_DIGITS = 18


@attrs.frozen
class Span:
    """Some of a file's bytes: at least one."""

    offset: int
    count: int

    def of(self, size: int) -> str:
        """As Content-Range says it."""
        return f"bytes {self.offset}-{self.offset + self.count - 1}/{size}"


def spans(value: str, size: int) -> list[Span] | None:
    """What a Range field asks of a file of that size. None: ignore the field. Empty: nothing of that is there."""
    match = _RANGES.fullmatch(value)
    words = [word.strip(" \t") for word in match[1].split(",")] if match else []
    asked = [_bounds(word, size) for word in words if word]
    there = [Span(bounds[0], bounds[1] - bounds[0]) for bounds in asked if bounds and bounds[0] < bounds[1]]
    if not asked or None in asked or len(asked) > MOST or sum(span.count for span in there) > size:
        return None
    return there


def _bounds(word: str, size: int) -> tuple[int, int] | None:
    """The first byte, and the one behind the last; none between them: it lies behind the end. None: malformed."""
    match = _RANGE.fullmatch(word)
    if match is None or word == "-":
        return None
    first, last = (None if digits == "" else _number(digits) for digits in match.groups())
    if first is None:
        assert last is not None
        # The last bytes of an empty file are all of it, which no Content-Range can say: ignored.
        return (max(0, size - last), size) if size or not last else None
    if last is not None and last < first:
        return None
    return first, size if last is None else min(last + 1, size)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS else 10**_DIGITS
