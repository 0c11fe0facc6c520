"""Conditional requests (RFC 9110, section 13): is what the client has, or believes, still so?

`TABLE` is 13.2.2's order of precedence as far as GET and HEAD go; the last step, If-Range, is `range_applies`.
A validator of ours is strong or says that it is not:

- The entity tag is made of inode, size and modification time (ns). The clock of a file system ticks, so a file could
  change twice within a tick; as long as its last change is that fresh, its tag is weak. The opaque part is the same.
- Last-Modified is never later than the answer's Date. It is never strong: within its one second a file may change
  twice. Everybody gets an entity tag from us, so a correct client sends no If-Range with a date; one that does gets
  the whole file, which is never wrong.
"""

from __future__ import annotations

import calendar
import os
import re
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate

import attrs

# Longer than the coarsest clock in use: FAT's 2 s.
_FRESH_SECONDS = 2.0

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_TAGS = re.compile(rf"[ \t,]*{_TAG.pattern}(?:[ \t]*,[ \t,]*{_TAG.pattern})*[ \t,]*")

# RFC 9110, 5.6.7: the one form that is sent, and two obsolete ones that must be understood.
_DATE_FORMS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


@attrs.frozen
class Validators:
    """What tells one state of a file from another: an entity tag, and whole seconds since 1970. None: there is none."""

    tag: str | None = None
    modified: int | None = None


def validators_of(status: os.stat_result, now: float) -> Validators:
    """Those of a file, at the time `now` (seconds since 1970)."""
    weak = "W/" if now - status.st_mtime < _FRESH_SECONDS else ""
    tag = f'{weak}"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
    # A file system may know times that no HTTP date can say. What is from before 1970 is old enough.
    return Validators(tag, int(min(max(status.st_mtime, 0.0), now)))


def _strongly(value: str, ours: Validators) -> bool:
    if value == "*":
        return True
    return ours.tag is not None and not _weak(ours.tag) and ours.tag in _tags(value)


def _weak(tag: str) -> bool:
    return tag.startswith("W/")


def _not_weakly(value: str, ours: Validators) -> bool:
    if value == "*":
        return False
    return ours.tag is None or ours.tag.removeprefix("W/") not in {tag.removeprefix("W/") for tag in _tags(value)}


def _tags(value: str) -> list[str]:
    """The tags of a list; none of a list that is malformed."""
    return _TAG.findall(value) if _TAGS.fullmatch(value) else []


def _unmodified(value: str, ours: Validators) -> bool:
    date = parse_date(value)
    return date is None or ours.modified is None or ours.modified <= date


def _modified(value: str, ours: Validators) -> bool:
    date = parse_date(value)
    return date is None or ours.modified is None or ours.modified > date


# field, the field that makes it count for nothing, whether the condition holds, the status when it does not
TABLE: tuple[tuple[str, str | None, Callable[[str, Validators], bool], int], ...] = (
    ("if-match", None, _strongly, 412),
    ("if-unmodified-since", "if-match", _unmodified, 412),
    ("if-none-match", None, _not_weakly, 304),
    ("if-modified-since", "if-none-match", _modified, 304),
)


def failed(fields: Mapping[str, str], ours: Validators) -> int | None:
    """The status of the first condition that does not hold, in the order of precedence; None when all do."""
    for field, instead, holds, status in TABLE:
        if field in fields and instead not in fields and not holds(fields[field], ours):
            return status
    return None


def range_applies(fields: Mapping[str, str], ours: Validators) -> bool:
    """Whether a Range may be honoured: If-Range is absent, or is the strong tag that we would send."""
    return "if-range" not in fields or (fields["if-range"] == ours.tag and not _weak(ours.tag))


def parse_date(value: str) -> int | None:
    """Seconds since 1970; None for what is not an HTTP date."""
    for form in _DATE_FORMS:
        try:
            return calendar.timegm(time.strptime(value, form))
        except ValueError:
            pass
    return None


def format_date(seconds: float) -> str:
    """An HTTP date."""
    return formatdate(seconds, usegmt=True)
