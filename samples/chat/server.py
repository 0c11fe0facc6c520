"""The chat's connections: bytes in, lines out, and an end for whoever does not read.

*A slow member.* What is said in a room is queued for each member; one who does not read would make us keep it for
ever. So: once the kernel takes no more for them (`pause_writing`), at most `queue_limit` bytes wait, and then they are
dropped. In a stream the reason can only stand behind what already waits, so that is kept, the reason is written last,
and `close` sends it all, if they read on within the flush deadline, or else resets. The others go on at once.

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

    def __init__(self, reactor: Reactor, lobby: Lobby, line_limit: int, queue_limit: int) -> None:
        self._reactor = reactor
        self._lobby = lobby
        self._line_limit = line_limit
        self._queue_limit = queue_limit
        self._telnet = Telnet()
        self._lines = Lines(line_limit)
        self._member: Member | None = None
        self._behind = False
        self._too_slow = False

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._member = self._lobby.enter(self.tell)

    def data_received(self, data: bytes) -> None:
        text, answer = self._telnet.feed(data)
        if answer:
            self._send(answer)
        for line in self._lines.feed(text):
            if not self._hear(line):
                return

    def eof_received(self) -> bool:
        line = self._lines.end()
        if line is None or self._hear(line):
            self._part("left")
        return False

    def pause_writing(self) -> None:
        self._behind = True
        self._check_queue(0)  # too much may wait already

    def resume_writing(self) -> None:
        self._behind = False

    def draining(self) -> None:
        self._part("", "* the server is shutting down")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._member is not None:
            silent = isinstance(exc, IdleTimeout)
            self._lobby.leave(self._member, "was silent for too long" if silent else "lost the connection")

    def tell(self, line: str) -> None:
        """Shows a line to the member, or marks them as too slow. Never raises."""
        self._send(encoded(line))

    def _send(self, data: bytes) -> None:
        self._check_queue(len(data))
        if not self._too_slow:
            self.connection.write(data)

    def _check_queue(self, more: int) -> None:
        waiting = self.connection.get_write_buffer_size()
        if self._behind and not self._too_slow and waiting + more > self._queue_limit:
            self._too_slow = True
            last_word = f"* you were dropped: too slow, {waiting} bytes waited for you"
            self._reactor.call_soon(self._part, "was dropped: too slow", last_word)

    def _hear(self, line: str | None) -> bool:
        """One line of theirs (None: too long). False when they have left."""
        assert self._member is not None
        if line is None:
            self.tell(f"* that line was longer than {self._line_limit} bytes and was not sent")
            return True
        if self._lobby.hear(self._member, line):
            return True
        self.connection.close()
        return False

    def _part(self, how: str, last_word: str | None = None) -> None:
        """Out of the lobby, told why, and closed: in one breath."""
        if self._member is None or not self._member.present:
            return
        self._lobby.leave(self._member, how)
        if last_word is not None:
            self.connection.write(encoded(last_word))
        self.connection.close()


def serve(
    reactor: Reactor,
    *where: Any,
    lobby: Lobby | None = None,
    line_limit: int = LINE_LIMIT,
    queue_limit: int = QUEUE_LIMIT,
    options: Options | None = None,
    **how: Any,
) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory. Listeners that share a `lobby` share its rooms."""
    rooms = Lobby() if lobby is None else lobby
    return reactor.listen(
        lambda: Guest(reactor, rooms, line_limit, queue_limit),
        *where,
        options=for_members(Options() if options is None else options, queue_limit),
        **how,
    )


def for_members(options: Options, queue_limit: int) -> Options:
    """Options for connections that are told of what others say, however they speak."""
    return attrs.evolve(
        options,
        watermarks=Watermarks(high=queue_limit // 2),
        limits=attrs.evolve(options.limits, read_bytes=_READ_BYTES),
        sockets=attrs.evolve(options.sockets, send_buffer_bytes=_SEND_BUFFER_BYTES),
        deadlines=attrs.evolve(options.deadlines, flush=_FLUSH, flush_total=_FLUSH_TOTAL),
    )
