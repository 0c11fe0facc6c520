"""The chat's connections: bytes in, lines out, and an end for whoever does not read.

*A slow member.* What is said in a room is queued for each member; one who does not read would make us keep it for
ever. So a sender who says much waits for them, and a member who takes nothing meanwhile is dropped (`pace.py`). Once
the kernel takes no more for a member (`pause_writing`), at most `queue_limit` bytes wait; then the member is dropped.
In a stream the reason can only stand behind what already waits, so that is kept, the reason is written last, and
`close` sends it all, if they read on within the flush deadline, or else resets.

*A browser* that a web page sent here is told so and ended, at its first line (`../common/foreign.py`).

*Never from inside.* Somebody is spoken to while another's line is spread. So `tell` only marks who is too slow; they
leave the room in a call of their own (`call_soon`), which must not find the lobby in the middle of something, nor
nest when a hundred members are slow at once.

*Who was closed is not told any more.* `write` raises after our own `close`, rightly: those bytes would be lost. So a
member leaves the lobby in the same breath in which their connection is closed (`_part`). After a failure that we have
not been told of yet, `write` only counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import attrs

from reactor import Connection, IdleTimeout, Listener, Options, Protocol, Reactor, Watermarks
from samples import common
from samples.chat.pace import PATIENCE, Outgoing, Turns
from samples.chat.rooms import Lobby, Member
from samples.chat.text import Lines, Telnet

LINE_LIMIT = 2000
QUEUE_LIMIT = 64 * 1024
# People type. A small read also bounds how much one member can say within one turn, before anybody's queue is sent.
_READ_BYTES = 4096
# The kernel would grow its buffer to megabytes for a member who reads slowly: hours of talk that nobody waits for.
_SEND_BUFFER_BYTES = 64 * 1024
# After the end of our output: how long a dropped member may take nothing, and how long it may take in all.
_FLUSH, _FLUSH_TOTAL = 10.0, 30.0


@lru_cache(maxsize=4)
def encoded(line: str) -> bytes:
    """A line as it is sent. The same object for each member of a room: a hundred queues hold it once."""
    return line.encode() + b"\n"


class Guest(Protocol):
    """One connection, and the member behind it."""

    def __init__(self, reactor: Reactor, lobby: Lobby, line_limit: int, queue_limit: int, patience: float) -> None:
        self._reactor = reactor
        self._lobby = lobby
        self._line_limit = line_limit
        self._queue_limit = queue_limit
        self._patience = patience
        self._first = common.FirstLine()
        self._telnet = Telnet()
        self._lines = Lines(line_limit)
        self._ended = False
        self._member: Member | None = None

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._outgoing = Outgoing(
            self._reactor,
            connection,
            self._queue_limit,
            self._patience,
            self._drop,
            changed=self._fill,
            is_waited_for=lambda: self._lobby.is_waited_for(self._there.room),
        )
        self._turns: Turns[str | None] = Turns(
            self._lobby,
            self._reactor.time,
            connection.call_soon,
            room=lambda line: self._there.room,
            length=lambda line: len((line or "").encode()),
            is_blocked=lambda line: line is not None and self._lobby.is_blocked(self._there, line),
            take=self._hear,
            hold=connection.pause_reading,
            go_on=self._go_on,
        )
        self._member = self._lobby.enter(self.tell)
        self._fill(self._outgoing.full)

    @property
    def _there(self) -> Member:
        assert self._member is not None
        return self._member

    def data_received(self, data: bytes) -> None:
        if self._first.is_foreign(data):
            self._part("left", "* this is a chat for nc and telnet, not for a browser")
            return
        text, answer = self._telnet.feed(data)
        if answer:
            self._outgoing.write(answer)
        self._turns.add(self._lines.feed(text))

    def eof_received(self) -> bool:
        self._ended = True
        rest = self._lines.end()
        if rest is not None:
            self._turns.add([rest])
        if not self._turns.held:
            self._part("left")
        return self._turns.held

    def _go_on(self) -> None:
        """What had to wait was heard."""
        if self._ended:
            self._part("left")
        else:
            self.connection.resume_reading()

    def pause_writing(self) -> None:
        self._outgoing.pause_writing()

    def resume_writing(self) -> None:
        self._outgoing.resume_writing()

    def draining(self) -> None:
        self._part("", "* the server is shutting down")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._member is not None:
            silent = isinstance(exc, IdleTimeout)
            self._leave("was silent for too long" if silent else "lost the connection")

    def tell(self, line: str) -> None:
        """Shows a line to the member, or marks them as too slow. Never raises."""
        self._outgoing.write(encoded(line))

    def _fill(self, full: bool) -> None:
        if self._member is not None:
            self._member.full = full
            if not full:
                self._lobby.eased(self._member.room)

    def _drop(self, waiting: int) -> None:
        self._part("was dropped: too slow", f"* you were dropped: too slow, {waiting} bytes waited for you")

    def _hear(self, line: str | None) -> bool:
        """One line of theirs (None: too long). False when they have left."""
        if line is None:
            self.tell(f"* that line was longer than {self._line_limit} bytes and was not sent")
            return True
        if self._lobby.hear(self._there, line):
            return True
        self._outgoing.stop()
        self.connection.close()
        return False

    def _part(self, how: str, last_word: str | None = None) -> None:
        """Out of the lobby, told why, and closed: in one breath."""
        if self._member is None or not self._member.present:
            return
        unsaid = self._leave(how)
        if unsaid:
            self.connection.write(encoded(f"* not said: {unsaid} lines of yours, which waited for others to read"))
        if last_word is not None:
            self.connection.write(encoded(last_word))
        self.connection.close()

    def _leave(self, how: str) -> int:
        """Out of the lobby; how many lines of theirs were not said."""
        self._lobby.leave(self._there, how)
        self._outgoing.stop()
        return self._turns.stop()


def serve(
    reactor: Reactor,
    *where: Any,
    lobby: Lobby | None = None,
    line_limit: int = LINE_LIMIT,
    queue_limit: int = QUEUE_LIMIT,
    patience: float = PATIENCE,
    options: Options | None = None,
    **how: Any,
) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory. Listeners that share a `lobby` share its rooms.

    A member for whom others wait is dropped after `patience` seconds in which they took next to nothing.
    """
    rooms = Lobby() if lobby is None else lobby
    return reactor.listen(
        lambda: Guest(reactor, rooms, line_limit, queue_limit, patience),
        *where,
        options=for_members(Options() if options is None else options, queue_limit),
        **how,
    )


# A member whose connection was reset while they were held up: others wait no longer for what came of theirs before it.
_UNREAD = 1.0


def for_members(options: Options, queue_limit: int) -> Options:
    """Options for connections that are told of what others say, however they speak."""
    return attrs.evolve(
        options,
        watermarks=Watermarks(high=queue_limit // 2),
        limits=attrs.evolve(options.limits, read_bytes=_READ_BYTES),
        sockets=attrs.evolve(options.sockets, send_buffer_bytes=_SEND_BUFFER_BYTES),
        deadlines=attrs.evolve(options.deadlines, flush=_FLUSH, flush_total=_FLUSH_TOTAL, unread=_UNREAD),
    )
