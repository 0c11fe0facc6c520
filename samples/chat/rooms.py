"""Who is where, what they are called, and who is told what. Pure: no sockets, no bytes, no time.

A transport calls `Lobby.enter(tell)` for each newcomer, `hear(member, line)` for each line that they say, and `leave`
once when they have gone. It is told what to show through `tell(line)`. While one line is spread, `tell` must neither
raise nor call back into the lobby: a transport that has lost somebody, or gives somebody up, says so later, by `leave`.

A line that a member typed is always shown behind `<name>`; what the server says begins with `*`. So nobody can speak in
another's name, or in the server's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import attrs

from samples.chat.text import clean

FIRST_ROOM = "lobby"
# Names are shown in front of every line, so a long one is a nuisance to all.
NAME_LENGTH = 16
# Names in one answer to /list: its length must not grow with the number of members.
_LIST_LENGTH = 50

HELP = (
    "/nick NAME       call yourself so",
    "/join ROOM       leave this room for another; it is made if there is none of that name",
    "/list            the rooms, and who is in yours",
    "/quit [MESSAGE]  leave",
    "//TEXT           say a line that begins with a slash",
)


@attrs.define(eq=False)
class Member:
    """Somebody in a room."""

    tell: Callable[[str], None]
    name: str
    room: str
    present: bool = True


class Refused(Exception):
    """What was asked for cannot be had; the message says why, for the member to read."""


class Lobby:
    """All rooms and all names. Every member is in exactly one room; a room lasts while somebody is in it."""

    def __init__(self) -> None:
        # By the name that is compared: BEN, Ben and ben are one.
        self._names: dict[str, Member] = {}
        # A dict for its order: who came first is listed and told first.
        self._rooms: dict[str, dict[Member, None]] = {}
        self._guests = 0

    def enter(self, tell: Callable[[str], None]) -> Member:
        """A newcomer, under a name that nobody has, in the first room."""
        member = Member(tell, self._free_name(), FIRST_ROOM)
        self._names[_key(member.name)] = member
        tell(f"* welcome, {member.name}; /help tells what you can do")
        self._go_to(member, FIRST_ROOM)
        return member

    def leave(self, member: Member, how: str = "left") -> None:
        """Takes them out, and tells the others, unless `how` is empty. Again does nothing."""
        if not member.present:
            return
        member.present = False
        del self._names[_key(member.name)]
        self._out_of_room(member)
        if how:
            self._spread(member.room, f"* {member.name} {how}")

    def hear(self, member: Member, line: str) -> bool:
        """What a member typed: a command, or something to say. False when they have left by it."""
        line = clean(line).rstrip()
        if line.startswith("/") and not line.startswith("//"):
            return self._obey(member, line)
        if line:
            self._spread(member.room, f"<{member.name}> {line.removeprefix('/')}")
        return True

    def members(self, room: str) -> list[Member]:
        """Who is in a room, in the order in which they came."""
        return list(self._rooms.get(room, ()))

    @property
    def rooms(self) -> list[str]:
        """The rooms with somebody in them."""
        return list(self._rooms)

    # Commands

    def _obey(self, member: Member, line: str) -> bool:
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if command == "/quit":
            self.leave(member, f"left: {rest}" if rest else "left")
            return False
        try:
            if command == "/nick":
                self._rename(member, rest)
            elif command == "/join":
                self._join(member, rest)
            elif command == "/list":
                self._list(member)
            elif command == "/help":
                for help_line in HELP:
                    member.tell(f"* {help_line}")
            else:
                raise Refused(f"there is no command {command[: NAME_LENGTH + 1]}; /help tells which there are")
        except Refused as exc:
            member.tell(f"* {exc}")
        return True

    def _rename(self, member: Member, wanted: str) -> None:
        name = _checked(wanted, "nickname")
        holder = self._names.get(_key(name))
        if holder not in (None, member):
            raise Refused(f"the nickname {name} is taken")
        before, member.name = member.name, name
        del self._names[_key(before)]
        self._names[_key(name)] = member
        self._spread(member.room, f"* {before} is now {name}")

    def _join(self, member: Member, wanted: str) -> None:
        room = _key(_checked(wanted, "room name"))
        if room == member.room:
            raise Refused(f"you are in {room} already")
        self._out_of_room(member)
        self._spread(member.room, f"* {member.name} went to {room}")
        self._go_to(member, room)

    def _list(self, member: Member) -> None:
        member.tell("* rooms: " + _listed([f"{room} ({len(there)})" for room, there in self._rooms.items()]))
        member.tell(f"* in {member.room}: " + _listed([other.name for other in self._rooms[member.room]]))

    # Rooms

    def _go_to(self, member: Member, room: str) -> None:
        member.room = room
        self._rooms.setdefault(room, {})[member] = None
        self._spread(room, f"* {member.name} joined {room}")

    def _out_of_room(self, member: Member) -> None:
        there = self._rooms[member.room]
        del there[member]
        if not there:
            del self._rooms[member.room]

    def _spread(self, room: str, line: str) -> None:
        for member in self._rooms.get(room, ()):
            member.tell(line)

    # Names

    def _free_name(self) -> str:
        while True:
            self._guests += 1
            name = f"guest{self._guests}"
            if _key(name) not in self._names:
                return name


def _checked(wanted: str, what: str) -> str:
    """A name as it will be shown; Refused with the rule when it cannot be one."""
    name = unicodedata.normalize("NFKC", wanted)
    if not 1 <= len(name) <= NAME_LENGTH or not all(character.isalnum() or character in "-_" for character in name):
        raise Refused(f"a {what} is 1 to {NAME_LENGTH} letters, digits, - or _")
    return name


def _key(name: str) -> str:
    return name.casefold()


def _listed(names: list[str]) -> str:
    more = len(names) - _LIST_LENGTH
    return ", ".join(names[:_LIST_LENGTH]) + (f" and {more} more" if more > 0 else "")
