"""Linux's Unix stream sockets, and socket pairs: what one end sends is in the other's inbox at once.

The send buffer *is* the peer's unread input. A close is a hang-up at once, and there is no reset: a close with unread
input is told to the peer as ECONNRESET, behind what it can still read. There is no error queue either: MSG_ERRQUEUE is
ignored, and whoever asks for it reads.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from reactor.pollers import HANGUP, READ, WRITE
from reactor.testing.sockets import StreamSocket, os_error

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem

# Linux: net.core.wmem_default.
UNIX_BUFFER = 212992


class UnixSocket(StreamSocket):
    """One end of a Unix stream connection or of a socket pair: what is sent is in the peer's inbox."""

    __slots__ = ("peer_gone",)

    def __init__(self, kernel: SimulatedSystem, local: Any, remote: Any, capacity: int) -> None:
        super().__init__(kernel, socket.AF_UNIX, local, remote)
        self.capacity = capacity
        # The peer's descriptor was closed.
        self.peer_gone = False

    def events(self) -> int:
        events = self.error_event()
        if self.peer_gone:
            return events | READ | WRITE | HANGUP
        if self.inbox or self.fin_received:
            events |= READ
        if self.shut and self.fin_received:
            events |= HANGUP
        if 4 * len(self.peer.inbox) <= self.capacity:
            events |= WRITE
        return events

    def check_send(self) -> None:
        if self.shut or self.peer_gone:
            raise os_error(errno.EPIPE)

    def room(self) -> int:
        return self.capacity - len(self.peer.inbox)

    def put(self, data: bytes) -> None:
        self.peer.take_in(data)

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        return self.recv(bufsize) if bufsize or not self.inbox else b"", [], 0, None

    def recv_nothing(self) -> bytes:
        if self.error_number:
            raise os_error(self.take_error())
        if self.fin_received or self.peer_gone:
            return b""
        raise os_error(errno.EAGAIN)

    def was_read(self) -> None:
        self.peer.touch()

    def getpeername(self) -> Any:
        self.check("getpeername")
        return self.remote

    def shutdown_output(self) -> None:
        self.check("shutdown")
        if not self.shut:
            self.shut = True
            self.peer.fin_received = True
            self.peer.touch()
            self.touch()
            self.kernel.pump()

    def outstanding(self) -> int | None:
        return None if self.peer.inbox else 0

    def shutdown(self) -> None:
        """Both sides: the peer can neither send nor receive any more, whoever has copies of the descriptor."""
        self.shutdown_output()
        self.fin_received = self.peer.shut = True
        self.peer.touch()
        self.kernel.pump()

    def end(self) -> None:
        self.leave(unread=bool(self.inbox))
        self.kernel.pump()

    def vanish(self) -> None:
        self.released = True
        self.leave(unread=True)

    def leave(self, unread: bool) -> None:
        self.inbox.clear()  # nobody reads it any more, so it no longer counts against the peer's buffer
        if not self.peer.peer_gone:
            self.peer.peer_gone = True
            if unread:
                self.peer.error_number = errno.ECONNRESET
            self.peer.touch()

    def __repr__(self) -> str:
        sides = "-".join(
            name for name, on in (("shut", self.shut), ("fin", self.fin_received), ("gone", self.peer_gone)) if on
        )
        return f"<unix {self.place} {self.local or self.remote or 'pair'} {sides or 'open'} unread={len(self.inbox)}>"
