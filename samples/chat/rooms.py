"""Who is where, what they are called, and who is told what. Pure: no sockets, no bytes, no time.

A transport calls `Lobby.enter(tell)` for each newcomer, `hear(member, line)` for each line that they say, and `leave`
once when they have gone. It is told what to show through `tell(line)`. While one line is spread, `tell` must neither
raise nor call back into the lobby: a transport that has lost somebody, or gives somebody up, says so later, by `leave`.

A line that a member typed is always shown behind `<name>`; what the server says begins with `*`. So nobody can speak in
another's name, or in the server's.

A lobby may be one of many, on many machines (`Lobby.link`). Everything that a member does is one of five acts: joined,
said, renamed, went, left. Those of the members here are told to the link; those of members elsewhere, whose names have
an `@` that no name here can have, come from it. Either way the same method changes the rooms and tells who is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from samples.chat.names import NAME_LENGTH, Refused, checked_name, folded, likenesses
from samples.chat.text import clean

FIRST_ROOM = "lobby"
# Names in one answer to /list: its length must not grow with the number of members.
_LIST_LENGTH = 50


@attrs.define(eq=False)
class Member:
    """Somebody in a room."""

    tell: Callable[[str], None]
    name: str
    room: str
    present: bool = True
    # Too much waits for them already (`pace.py`).
    full: bool = False
    # On another machine: told nothing from here.
    elsewhere: bool = False


@attrs.define(eq=False)
class _Room:
    """Who is in it; dicts for their order: who came first is listed and told first."""

    here: dict[Member, None] = attrs.field(factory=dict)
    elsewhere: dict[Member, None] = attrs.field(factory=dict)

    def of(self, member: Member) -> dict[Member, None]:
        return self.elsewhere if member.elsewhere else self.here

    def __len__(self) -> int:
        return len(self.here) + len(self.elsewhere)


class Link(Protocol):
    """The other machines, as a lobby sees them. No method may raise, or act in the lobby."""

    def act(self, member: Member, kind: str, name: str, room: str, text: str) -> None:
        """A member here did something, as `name` in `room`; `text` is what was said, or the new name or room."""

    def refusal(self) -> str | None:
        """Why nothing can be said just now, or None."""

    def is_busy(self) -> bool:
        """Whether so much waits for them that a member who says much must wait. `Lobby.eased` is called afterwards."""

    def sync(self, member: Member) -> None:
        """Tells the member, now or later, when all that they have said by now is safe, and how many lines that is."""


class Lobby:
    """All rooms and all names. Every member is in exactly one room; a room lasts while somebody is in it."""

    def __init__(self) -> None:
        # The other machines, if there are any.
        self.link: Link | None = None
        # Those here, by each likeness of their name: it names nobody else, and looks like nobody else's.
        self._names: dict[str, Member] = {}
        self._rooms: dict[str, _Room] = {}
        self._guests = 0
        # Who is called when they may speak again, in turn, and in which room.
        self._waiting: dict[Callable[[], None], str] = {}

    def enter(self, tell: Callable[[str], None], name: str = "", room: str = "") -> Member:
        """A newcomer, in the first room under a name that nobody here has, or as they wish.

        Of a wish that cannot be had they are told why, and come in as if they had not wished it.
        """
        refusals: list[str] = []
        try:
            name = self._name_like(name) if name else self._next_guest()
        except Refused as exc:
            refusals.append(f"* {exc}")
            name = self._next_guest()
        try:
            room = folded(checked_name(room, "room name")) if room else FIRST_ROOM
        except Refused as exc:
            refusals.append(f"* {exc}")
            room = FIRST_ROOM
        member = Member(tell, name, room)
        self._take_name(member)
        for line in (f"* welcome, {name}; /help tells what you can do", *refusals):
            tell(line)
        self.joined(member)
        return member

    def leave(self, member: Member, how: str = "left") -> None:
        """Takes them out, and tells the others, unless `how` is empty. Again does nothing."""
        if member.present:
            self.left(member, how)

    def hear(self, member: Member, line: str) -> bool:
        """What a member typed: a command, or something to say. False when they have left by it."""
        line = clean(line).rstrip()
        if line.startswith("/") and not line.startswith("//"):
            self._obey(member, line)
        elif line:
            why_not = None if self.link is None else self.link.refusal()
            if why_not is None:
                self.said(member, line.removeprefix("/"))
            else:
                member.tell(f"* {why_not}")
        return member.present

    def members(self, room: str) -> list[Member]:
        """Who is in a room: those here, in the order in which they came, then those on other machines."""
        there = self._rooms.get(room)
        return [] if there is None else [*there.here, *there.elsewhere]

    @property
    def rooms(self) -> list[str]:
        """The rooms with somebody in them."""
        return list(self._rooms)

    @property
    def empty(self) -> bool:
        """Whether nobody is here, on this machine."""
        return not self._names

    def announce(self, line: str, room: str | None = None) -> None:
        """The server's own word, to everybody here, or in one room."""
        for each in list(self._rooms) if room is None else (room,):
            self._spread(each, f"* {line}")

    # The five acts

    def joined(self, member: Member) -> None:
        """They are new: in `member.room`, as `member.name`."""
        self.place(member)
        self._spread(member.room, f"* {member.name} joined {member.room}")
        self._pass_on(member, "joined", member.name)

    def said(self, member: Member, text: str) -> None:
        """They said it, in their room."""
        self._spread(member.room, f"<{member.name}> {text}")
        self._pass_on(member, "said", member.name, text)

    def renamed(self, member: Member, name: str) -> None:
        """They have another name, which is free."""
        before = member.name
        self._free_name_of(member)
        member.name = name
        self._take_name(member)
        self._spread(member.room, f"* {before} is now {name}")
        self._pass_on(member, "renamed", before, name)

    def went(self, member: Member, room: str) -> None:
        """They are in another room."""
        self._out_of_room(member)
        self._spread(member.room, f"* {member.name} went to {room}")
        self._pass_on(member, "went", member.name, room)
        self.eased(member.room)
        member.room = room
        self.place(member)
        self._spread(room, f"* {member.name} joined {room}")

    def left(self, member: Member, how: str) -> None:
        """They have gone. The others are told, unless `how` is empty."""
        self.remove(member)
        if how:
            self._spread(member.room, f"* {member.name} {how}")
        self._pass_on(member, "left", member.name, how)

    def place(self, member: Member) -> None:
        """Puts them into their room, and tells nobody."""
        self._rooms.setdefault(member.room, _Room()).of(member)[member] = None

    def remove(self, member: Member) -> None:
        """Takes them out of their room, and tells nobody."""
        member.present = False
        self._free_name_of(member)
        self._out_of_room(member)
        self.eased(member.room)

    def _out_of_room(self, member: Member) -> None:
        there = self._rooms[member.room]
        del there.of(member)[member]
        if not there:
            del self._rooms[member.room]

    def _spread(self, room: str, line: str) -> None:
        there = self._rooms.get(room)
        if there is not None:
            for member in there.here:
                member.tell(line)

    def _pass_on(self, member: Member, kind: str, name: str, text: str = "") -> None:
        if self.link is not None and not member.elsewhere:
            self.link.act(member, kind, name, member.room, text)

    # Waiting (`pace.py`)

    def is_full(self, room: str, besides: Member | None = None) -> bool:
        """Whether too much waits already for a member here who would be told."""
        there = self._rooms.get(room)
        return there is not None and any(member.full for member in there.here if member is not besides)

    def is_blocked(self, member: Member, line: str) -> bool:
        """Whether a member who has said much lately must wait with this line. Their own answers hold up no command."""
        if line.startswith("/") and not line.startswith("//"):
            return self.is_full(member.room, besides=member)
        return self.is_full(member.room) or (self.link is not None and self.link.is_busy())

    def wait(self, room: str, ready: Callable[[], None]) -> None:
        """Calls `ready` once, when fewer are full in the room. It must not act in the lobby."""
        self._waiting[ready] = room

    def wait_no_more(self, ready: Callable[[], None]) -> None:
        """As if `wait` had not been called."""
        self._waiting.pop(ready, None)

    def is_waited_for(self, room: str) -> bool:
        """Whether anybody waits until nobody in the room is full."""
        return room in self._waiting.values()

    def eased(self, room: str | None = None) -> None:
        """Somebody in the room is not full any more, or has gone; None: in every room."""
        for ready in [ready for ready, where in self._waiting.items() if room in (None, where)]:
            del self._waiting[ready]
            ready()

    # Commands

    def _obey(self, member: Member, line: str) -> None:
        word, _, rest = line.partition(" ")
        command = _COMMANDS.get(word)
        try:
            if command is None:
                raise Refused(f"there is no command {word[: NAME_LENGTH + 1]}; /help tells which there are")
            command.act(self, member, rest.strip())
        except Refused as exc:
            member.tell(f"* {exc}")

    def _rename(self, member: Member, wanted: str) -> None:
        self.renamed(member, self._name_like(wanted, member))

    def _join(self, member: Member, wanted: str) -> None:
        room = folded(checked_name(wanted, "room name"))
        if room == member.room:
            raise Refused(f"you are in {room} already")
        self.went(member, room)

    def _list(self, member: Member, _: str) -> None:
        member.tell("* rooms: " + listed([f"{room} ({len(there)})" for room, there in self._rooms.items()]))
        member.tell(f"* in {member.room}: " + listed([other.name for other in self.members(member.room)]))

    def _sync(self, member: Member, _: str) -> None:
        if self.link is None:
            member.tell("* there are no other machines; all that you said was shown")
        else:
            self.link.sync(member)

    def _quit(self, member: Member, message: str) -> None:
        self.leave(member, f"left: {message}" if message else "left")

    def _help(self, member: Member, _: str) -> None:
        for line in HELP:
            member.tell(f"* {line}")

    # Names

    def _take_name(self, member: Member) -> None:
        if not member.elsewhere:
            self._names.update(dict.fromkeys(likenesses(member.name), member))

    def _free_name_of(self, member: Member) -> None:
        if not member.elsewhere:
            for likeness in likenesses(member.name):
                del self._names[likeness]

    def _name_like(self, wanted: str, member: Member | None = None) -> str:
        """The name as it will be shown; Refused when it cannot be one, or is or looks like somebody else's."""
        name = checked_name(wanted, "nickname")
        for likeness in likenesses(name):
            other = self._names.get(likeness)
            if other not in (None, member):
                assert other is not None
                taken = folded(name) == folded(other.name)
                raise Refused(f"the nickname {name} {'' if taken else f'looks like {other.name}, which '}is taken")
        return name

    def _next_guest(self) -> str:
        while True:
            self._guests += 1
            name = f"guest{self._guests}"
            if self._names.keys().isdisjoint(likenesses(name)):
                return name


@attrs.frozen
class _Command:
    """What a line that begins with a slash asks for."""

    follows: str
    what: str
    act: Callable[[Lobby, Member, str], None]


_COMMANDS: Mapping[str, _Command] = {
    "/nick": _Command("NAME", "call yourself so", Lobby._rename),
    "/join": _Command("ROOM", "leave this room for another; it is made if there is none of that name", Lobby._join),
    "/list": _Command("", "the rooms, and who is in yours", Lobby._list),
    "/sync": _Command("", "be told when what you said is safe with the other machines", Lobby._sync),
    "/quit": _Command("[MESSAGE]", "leave", Lobby._quit),
    "/help": _Command("", "these lines", Lobby._help),
}
HELP = (
    *(f"{word + ' ' + command.follows:<17}{command.what}" for word, command in _COMMANDS.items()),
    f"{'//TEXT':<17}say a line that begins with a slash",
)


def listed(names: list[str]) -> str:
    """The names in one line, and how many more there are."""
    more = len(names) - _LIST_LENGTH
    return ", ".join(names[:_LIST_LENGTH]) + (f" and {more} more" if more > 0 else "")
