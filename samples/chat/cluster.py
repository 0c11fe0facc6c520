"""Many machines, one chat: acts in a lobby become entries of a stream, and entries become acts. No sockets, no time.

Every node appends what its members do to one stream for all rooms, and reads that stream from where it has come to.

1. *Whose.* An entry has its origin (the node's name, and a token of its process) and a count that goes up by one.
2. *Once, in order.* Whoever does not hear that an entry was appended, appends it again. So a count that a reader has
   had already is dropped, and so is a node's own echo. Appending in order makes the first copies come in order.
3. *Kept.* What is not acknowledged waits in the outbox. When that is full, nothing more can be said (and the member is
   told), and who came and went is told later, all at once.
4. *A gap is told.* A count that leaps means entries that the stream had dropped before we read them.
5. *Who is where.* A node begins with `hello`, and every other answers with its `roster`. One that has been silent for
   `expiry` seconds is given up, with a line in the rooms; so each says at least `beat`. Silence is measured in the
   stream's own time, the milliseconds in the entries' ids, and no pause counts for more than a beat: while the stream
   is away, nobody falls silent. So all nodes give one up at the same entry; it sees that too, and says its roster.

A member elsewhere is shown as name@node, always: a name is unique only where it was given.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import attrs

from samples.chat.entries import Entry, Part, node_and_entry, place, roster, shown
from samples.chat.outbox import Outbox
from samples.chat.rooms import Lobby, Member, listed

logger = logging.getLogger("samples.chat")

EXPIRY = 30.0
# Entries that may wait for the stream: minutes of talk, and at 2000 bytes for each at most 10 MB.
WAITING_LIMIT = 5000
# Nodes that have gone, of whom a late copy may still come: far more than restart within the life of a connection.
_FORMER = 1000
_CUT_OFF = "not connected with the other machines; what is said here is kept for them"


@attrs.define(eq=False)
class _Origin:
    """A node, this one too, as the stream shows it."""

    id: str
    # Of its last entry; None before the first.
    count: int | None = None
    # When it was last heard, in the stream's time.
    heard: int = 0
    members: dict[str, Member] = attrs.field(factory=dict)
    # Who is in the roster whose last part has not come yet, and how many parts have.
    coming: dict[str, str] = attrs.field(factory=dict)
    parts: int = 0

    @property
    def name(self) -> str:
        return self.id.partition(":")[0]

    def interrupted(self) -> None:
        self.coming.clear()
        self.parts = 0


def _nothing() -> None:
    pass


class Cluster:
    """This node's side of the stream, and its lobby's link to the others.

    Whoever owns the stream's connections appends `batch()` as one, in order, and says `acknowledge`; gives each entry
    that comes to `feed`; calls `beat` three times within `expiry`; and is called (`on_work`, which must not call back)
    when there may be something to append.
    """

    def __init__(
        self, lobby: Lobby, name: str, token: str, *, expiry: float = EXPIRY, waiting_limit: int = WAITING_LIMIT
    ) -> None:
        self.id = f"{name}:{token}"
        self.on_work: Callable[[], None] = _nothing
        # The id of the last entry that was read; None until `resume`.
        self.last: str | None = None
        self._lobby = lobby
        self._expiry = round(expiry * 1000)
        self._outbox = Outbox(waiting_limit)
        self._roster_due = False
        # The count of our last hello.
        self._asked = 0
        # By id, the one longest silent first; we are among them.
        self._origins: OrderedDict[str, _Origin] = OrderedDict()
        self._former: OrderedDict[str, _Origin] = OrderedDict()
        # The stream's time in milliseconds, as it passed for us; and when every node that lives must have been heard.
        self._clock = 0
        self._newest: int | None = None
        self._settled_at: int | None = None
        self._up = self._told = False
        self._warned = False
        lobby.link = self
        self._say_hello()

    # For the lobby

    def act(self, member: Member, kind: str, name: str, room: str, text: str) -> None:
        """See `rooms.Link`."""
        if kind == "said":
            self._outbox.add(kind, name, room, text, speaker=member)
        elif self._outbox.full or (kind == "left" and not text):
            self._roster_due = True
        else:
            self._outbox.add(kind, name, room, text)
        if kind == "left":
            self._outbox.forget(member)
        if kind == "joined" and not self._up:
            self._told = True
            member.tell(f"* {_CUT_OFF}")
        self.on_work()

    def refusal(self) -> str | None:
        """See `rooms.Link`."""
        return f"not said: {len(self._outbox)} lines wait already for the other machines" if self._outbox.full else None

    def is_busy(self) -> bool:
        """See `rooms.Link`. While the stream is away nobody waits: then what may be kept is kept, and no more."""
        return self._up and self._outbox.half_full

    def sync(self, member: Member) -> None:
        """See `rooms.Link`."""
        self._outbox.ask(member)

    # To the stream

    def batch(self, most: int) -> list[tuple[str | int, ...]]:
        """The fields of the entries to append next, in order: the same ones again until `acknowledge`."""
        return [entry.fields(self.id) for entry in self._outbox.first(most)]

    def acknowledge(self, number: int) -> None:
        """The stream has the first so many of those that wait."""
        self._outbox.acknowledge(number)
        if not self._outbox.half_full:
            self._lobby.eased()

    @property
    def waiting(self) -> int:
        """How many entries are not acknowledged."""
        return len(self._outbox)

    @property
    def unsaid(self) -> int:
        """How many lines are not acknowledged."""
        return self._outbox.lines

    def connected(self, up: bool) -> None:
        """Whether the stream can be read and appended to; a change is told in the rooms."""
        if up and self._told:
            self._lobby.announce("connected with the other machines again")
            self._told = False
        if self._up and not up:
            self._lobby.announce(_CUT_OFF)
            self._told = True
        self._up = up
        self._lobby.eased()

    def beat(self) -> None:
        """A sign of life, unless there is another."""
        if self._roster_due:
            self._say_roster()
        elif not len(self._outbox):
            self._outbox.add("beat")
        self.on_work()

    def goodbye(self) -> None:
        """The last entry: who is still here goes with this node."""
        self._outbox.add("bye")
        self.on_work()

    def _say_hello(self) -> None:
        if self._asked <= self._outbox.acknowledged:  # else one is on its way
            self._outbox.add("hello")
            self._asked = self._outbox.count

    def _say_roster(self) -> None:
        """Who is here, now or when there is room."""
        self._roster_due = self._outbox.full
        if not self._roster_due:
            lobby = self._lobby
            there = [member for room in lobby.rooms for member in lobby.members(room) if not member.elsewhere]
            for text in roster([(member.name, member.room) for member in there]):
                self._outbox.add("roster", text=text)

    # From the stream

    def resume(self, newest: str | None) -> None:
        """Reading begins, or begins again, in a stream whose newest entry is this.

        A stream that has lost its end, or everything, is read from there on: what it lost, the counts tell.
        """
        newest = newest or "0-0"
        if self.last is None or place(newest) < place(self.last):
            self.last = newest

    def feed(self, id: str, fields: Mapping[str, str]) -> None:
        """An entry that was read, in the stream's order."""
        self.last = id
        self._pass_time(place(id)[0])
        try:
            node, entry = node_and_entry(fields)
            origin = self._hear(node)
            if origin.count is None or entry.count > origin.count:
                self._take(origin, entry)
        except (KeyError, ValueError, TypeError, RecursionError) as exc:
            if not self._warned:
                self._warned = True
                logger.warning("entry %s of the stream is not understood (%r); it and its like are skipped", id, exc)
        self._give_up_the_silent()
        self.on_work()

    def _pass_time(self, milliseconds: int) -> None:
        if self._newest is not None:
            self._clock += min(max(milliseconds - self._newest, 0), self._expiry // 3)
        self._newest = milliseconds

    def _hear(self, id: str) -> _Origin:
        """The origin, which gives a sign of life."""
        origin = self._origins.get(id) or self._former.pop(id, None) or _Origin(id)
        self._origins[id] = origin
        self._origins.move_to_end(id)
        origin.heard = self._clock
        return origin

    def _take(self, origin: _Origin, entry: Entry) -> None:
        before, origin.count = origin.count, entry.count
        if origin.id == self.id:
            if self._settled_at is None:
                self._settled_at = self._clock + self._expiry
            return
        # Whoever lived before us may begin with any count; but not when we have been here for long.
        if entry.count != before + 1 if before is not None else entry.count > 1 and self._settled:
            self._missed_some(origin)
        self._KINDS[entry.kind](self, origin, entry)

    @property
    def _settled(self) -> bool:
        return self._settled_at is not None and self._clock >= self._settled_at

    def _missed_some(self, origin: _Origin) -> None:
        self._lobby.announce(f"some lines from the machine {origin.name} were missed")
        origin.interrupted()
        # Who came and went in the gap, and whether we were given up, only rosters can tell.
        self._say_hello()
        self._roster_due = True

    def _give_up_the_silent(self) -> None:
        while self._origins:
            origin = next(iter(self._origins.values()))
            if self._clock - origin.heard < self._expiry:
                break
            if origin.id == self.id:
                self._roster_due = True
            self._give_up(origin, "is silent")

    def _give_up(self, origin: _Origin, how: str) -> None:
        gone = list(origin.members.values())
        for member in gone:
            self._lobby.remove(member)
        origin.members.clear()
        origin.interrupted()
        self._former[origin.id] = self._origins.pop(origin.id)
        if len(self._former) > _FORMER:
            self._former.popitem(last=False)
        for room, names in _by_room(gone):
            self._lobby.announce(f"the machine {origin.name} {how}; gone with it: {names}", room)

    # The kinds of entries

    def _hello(self, origin: _Origin, entry: Entry) -> None:
        for other in [other for other in self._origins.values() if other.name == origin.name and other is not origin]:
            if other.id == self.id:
                logger.warning("another machine is called %s as well (--node gives this one another name)", other.name)
            else:
                self._give_up(other, "was started again")
        self._say_roster()

    def _beat(self, origin: _Origin, entry: Entry) -> None:
        """It lives; that it was heard is noted already."""

    def _bye(self, origin: _Origin, entry: Entry) -> None:
        self._give_up(origin, "was shut down")

    def _roster(self, origin: _Origin, entry: Entry) -> None:
        part = Part.parse(entry.text)
        if part.number != origin.parts + 1:
            return  # its beginning was before our time; another was asked for
        origin.parts += 1
        origin.coming |= part.members
        if origin.parts == part.of:
            self._meet(origin, dict(origin.coming))
            origin.interrupted()

    def _meet(self, origin: _Origin, there: dict[str, str]) -> None:
        """These are the members on that node, and their rooms; what is new is told."""
        gone = {name: member for name, member in origin.members.items() if there.get(name) != member.room}
        for name, member in gone.items():
            self._lobby.remove(member)
            del origin.members[name]
        new = [self._place(origin, name, room) for name, room in there.items() if name not in origin.members]
        for room, names in _by_room(gone.values()):
            self._lobby.announce(f"no longer here: {names}", room)
        for room, names in _by_room(new):
            self._lobby.announce(f"also here: {names}", room)

    def _joined(self, origin: _Origin, entry: Entry) -> None:
        if entry.name not in origin.members:
            member = origin.members[entry.name] = _stranger(origin, entry.name, entry.room)
            self._lobby.joined(member)

    def _said(self, origin: _Origin, entry: Entry) -> None:
        self._lobby.said(self._member(origin, entry), entry.text)

    def _renamed(self, origin: _Origin, entry: Entry) -> None:
        name = shown(entry.text)
        member = self._member(origin, entry)
        del origin.members[entry.name]
        origin.members[name] = member
        self._lobby.renamed(member, f"{name}@{origin.name}")

    def _went(self, origin: _Origin, entry: Entry) -> None:
        room = shown(entry.text)
        self._lobby.went(self._member(origin, entry), room)

    def _left(self, origin: _Origin, entry: Entry) -> None:
        member = self._member(origin, entry)
        del origin.members[entry.name]
        self._lobby.left(member, entry.text)

    def _member(self, origin: _Origin, entry: Entry) -> Member:
        """Who did it. One that we did not know of, being new here or having missed something, is there now."""
        member = origin.members.get(entry.name)
        if member is not None and member.room == entry.room:
            return member
        if member is not None:
            self._lobby.remove(member)
        member = self._place(origin, entry.name, entry.room)
        self._lobby.announce(f"also here: {member.name}", member.room)
        return member

    def _place(self, origin: _Origin, name: str, room: str) -> Member:
        member = origin.members[name] = _stranger(origin, name, room)
        self._lobby.place(member)
        return member

    _KINDS: Mapping[str, Callable[[Cluster, _Origin, Entry], None]] = {
        "hello": _hello,
        "beat": _beat,
        "bye": _bye,
        "roster": _roster,
        "joined": _joined,
        "said": _said,
        "renamed": _renamed,
        "went": _went,
        "left": _left,
    }


def _stranger(origin: _Origin, name: str, room: str) -> Member:
    return Member(_tell_nobody, f"{name}@{origin.name}", room, elsewhere=True)


def _tell_nobody(line: str) -> None:
    """Members elsewhere are told where they are."""


def _by_room(members: Iterable[Member]) -> list[tuple[str, str]]:
    """Each room with the names in it, in one line."""
    rooms: dict[str, list[str]] = {}
    for member in members:
        rooms.setdefault(member.room, []).append(member.name)
    return [(room, listed(names)) for room, names in rooms.items()]
