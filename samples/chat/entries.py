"""What stands in the stream: entries, as fields of text, and back. Whatever comes from there is checked here.

An entry has six fields: `node` and `count` (whose, and which of theirs), `kind`, and what the kind needs of `name`,
`room` and `text`:

    joined, left       name, room; left: text, how (nothing: without a word)
    said               name, room; text, what
    renamed, went      name, room, both as before; text, the new name or room
    hello, beat, bye   nothing
    roster             text, a part of who is there, as JSON

Who can write to the stream is trusted as a node is: it could say anything in any name. But what is no entry is
an error here, and no text can drive a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import attrs

from samples.chat.names import is_ignorable, is_name
from samples.chat.text import clean

# More than a name has here: another node may have other rules, and a newer Unicode.
_NAME_LENGTH = 64
# Members in one entry of a roster: some 20 KB.
_ROSTER_PART = 500

ACTS = frozenset({"joined", "said", "renamed", "went", "left"})


@attrs.frozen
class Entry:
    """One entry of the stream, without whose it is."""

    count: int
    kind: str
    name: str = ""
    room: str = ""
    text: str = ""

    def fields(self, node: str) -> tuple[str | int, ...]:
        """The fields' names and values, in turn."""
        return (
            *("node", node, "count", self.count, "kind", self.kind),
            *("name", self.name, "room", self.room, "text", self.text),
        )


def node_and_entry(fields: Mapping[str, str]) -> tuple[str, Entry]:
    """Whose it is, and what; KeyError or ValueError for what is no entry."""
    node, kind, name, room = (fields[field] for field in ("node", "kind", "name", "room"))
    machine, colon, token = node.partition(":")
    if not (colon and is_name(machine) and is_name(token)):
        raise ValueError(f"no node is called {node!r}")
    if kind in ACTS:
        name, room = shown(name), shown(room)
    # A roster is JSON; its names are checked when it is read.
    text = fields["text"] if kind == "roster" else clean(fields["text"])
    return node, Entry(int(fields["count"]), kind, name, room, text)


def shown(name: object) -> str:
    """A name or a room from the stream, which is short and drives no terminal, or ValueError."""
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_LENGTH or not _is_seen(name):
        raise ValueError(f"nobody is called {name!r}")
    return name


def _is_seen(name: str) -> bool:
    return clean(name) == name and not any(map(is_ignorable, name))


def place(id: str) -> tuple[int, int]:
    """What a stream's ids are ordered by: milliseconds, and a number within them."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)


@attrs.frozen
class Part:
    """A part of a roster: each name with its room. The parts of one roster follow each other, from 1."""

    number: int
    of: int
    members: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part, or KeyError, TypeError, ValueError or RecursionError."""
        told = json.loads(text)
        return cls(int(told["part"]), int(told["of"]), {shown(name): shown(room) for name, room in told["members"]})


def roster(members: list[tuple[str, str]]) -> Iterator[str]:
    """The texts of the parts, at least one, for names and rooms."""
    starts = range(0, len(members), _ROSTER_PART) or range(1)
    for number, start in enumerate(starts, 1):
        part = {"part": number, "of": len(starts), "members": members[start : start + _ROSTER_PART]}
        yield json.dumps(part, ensure_ascii=False)
