"""Linux's datagram sockets, UDP and Unix: a datagram arrives whole, or not.

- UDP: it is lost when the line loses it, when nobody is there, or when the receive buffer is full. Of nobody there a
  connected sender is told (ECONNREFUSED), once, by whatever it calls next. The sender never waits. With IP_RECVERR
  a sender that is not connected is told, too, and the error is also an entry of the error queue.
- Unix: it arrives at once. A full receiver makes its sender wait; what nobody has read counts against its sender.
  There is no error queue: MSG_ERRQUEUE is ignored, and whoever asks for it takes a datagram.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from reactor.pollers import READ, WRITE
from reactor.testing.links import Link
from reactor.testing.names import WILDCARDS
from reactor.testing.sockets import SimulatedSocket, os_error
from reactor.testing.unix import UNIX_BUFFER

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem

# Linux: what of a Unix socket's buffer no datagram can use; and net.unix.max_dgram_qlen.
UNIX_SPARE = 32
UNIX_QUEUE = 10
# What a datagram costs the kernel besides its bytes (sk_buff's truesize, about).
DATAGRAM_OVERHEAD = 768
# RFC 768: 65,535 bytes, less the headers.
UDP4_LONGEST = 65507
UDP6_LONGEST = 65527


class DatagramSocket(SimulatedSocket):
    """A datagram socket, UDP or Unix."""

    __slots__ = ("capacity", "inbox", "link", "receive_capacity", "remote", "unread", "unread_by_others")

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any, link: Link) -> None:
        super().__init__(kernel, family, local)
        self.link = link
        self.remote: Any = None
        self.capacity = UNIX_BUFFER if family == socket.AF_UNIX else link.send_buffer_bytes
        self.receive_capacity = link.receive_buffer_bytes
        # What arrived, from which address and socket, and how much that is for the kernel.
        self.inbox: deque[tuple[bytes, Any, DatagramSocket]] = deque()
        self.unread = 0
        # Of a Unix socket: what it has sent and others have not read. It counts against the sender's buffer.
        self.unread_by_others = 0

    @property
    def full(self) -> bool:
        """Of a Unix socket: whoever sends here must wait. Linux takes one more than net.unix.max_dgram_qlen."""
        return len(self.inbox) > UNIX_QUEUE

    def events(self) -> int:
        events = self.error_event() | (READ if self.inbox else 0)
        if self.family != socket.AF_UNIX:
            return events | WRITE
        receiver = None if self.remote is None else self._at(self.remote)
        if 4 * self.unread_by_others <= self.capacity and (receiver is None or not receiver.full):
            events |= WRITE
        return events

    def send(self, data: Any, flags: int = 0) -> int:
        self.check("send")
        if self.error_number:
            raise os_error(self.take_error())
        self.kernel.check_transfer(self)
        if self.remote is None:
            raise os_error(errno.ENOTCONN if self.family == socket.AF_UNIX else errno.EDESTADDRREQ)
        return self._send(bytes(data), self.remote)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """As the socket module's: the flags may be left out."""
        address = flags_and_address[-1]
        self.check("sendto")
        if self.error_number:
            raise os_error(self.take_error())
        self.kernel.check_transfer(self)
        return self._send(bytes(data), address)

    def _send(self, data: bytes, address: Any) -> int:
        if self.family == socket.AF_UNIX:
            self._send_unix(data, address)
        else:
            if len(data) > (UDP6_LONGEST if self.family == socket.AF_INET6 else UDP4_LONGEST):
                raise os_error(errno.EMSGSIZE)
            self.kernel.post_datagram(self, self.arrive, data, address)
        self.kernel.pump()
        return len(data)

    def _send_unix(self, data: bytes, address: Any) -> None:
        if len(data) > self.capacity - UNIX_SPARE:
            raise os_error(errno.EMSGSIZE)
        receiver = self._at(address)
        if receiver is None:
            if address == self.remote:
                self.remote = None
            raise os_error(errno.ECONNREFUSED)
        if receiver.remote not in (None, self.local):
            raise os_error(errno.EPERM)
        if receiver.full or self.unread_by_others >= self.capacity:
            raise os_error(errno.EAGAIN)
        self.unread_by_others += len(data) + DATAGRAM_OVERHEAD
        receiver.put(data, self.local or None, self)

    def arrive(self, data: bytes, address: Any) -> None:
        """A UDP datagram of ours has come to where it was sent."""
        here = address if self.local[0] in WILDCARDS else self.local
        source = (here[0], self.local[1], *here[2:])
        receiver = self._at(address)
        # A connected socket hears its remote alone: to a stranger nobody is there.
        if receiver is None or receiver.remote not in (None, source):
            if self.remote is not None or self.queues_errors:
                self.kernel.post_datagram(self, self.refused, data)
        elif receiver.unread + len(data) + DATAGRAM_OVERHEAD <= receiver.receive_capacity:
            receiver.put(data, source, self)

    def _at(self, address: Any) -> DatagramSocket | None:
        """Who receives there what we send."""
        found = self.kernel.receiving.find(address)
        return found if found is not None and found.family == self.family else None

    def put(self, data: bytes, source: Any, sender: DatagramSocket) -> None:
        self.inbox.append((data, source, sender))
        self.unread += len(data) + DATAGRAM_OVERHEAD
        self.touch()

    def refused(self, data: bytes) -> None:
        """ICMP says that nobody receives there what we sent."""
        if self.released:
            return
        self.error_number = errno.ECONNREFUSED
        if self.queues_errors:
            self.error_queue.append((errno.ECONNREFUSED, data))
        self.touch()

    def recvfrom(self, bufsize: int) -> tuple[bytes, Any]:
        self.check("recvfrom")
        if self.error_number:
            raise os_error(self.take_error())
        self.kernel.check_transfer(self)
        if not self.inbox:
            raise os_error(errno.EAGAIN)
        data, source, sender = self._take()
        # Who sends here and waits for room is told that there is some.
        self.kernel.room_for_datagrams(self)
        sender.touch()
        return data[:bufsize], source

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        if self.family != socket.AF_UNIX:
            return super().recvmsg(bufsize, ancbufsize, flags)
        data, source = self.recvfrom(1 << 18)
        return data[:bufsize], [], socket.MSG_TRUNC if len(data) > bufsize else 0, source

    def _take(self) -> tuple[bytes, Any, DatagramSocket]:
        data, source, sender = self.inbox.popleft()
        self.unread -= len(data) + DATAGRAM_OVERHEAD
        if self.family == socket.AF_UNIX:
            sender.unread_by_others -= len(data) + DATAGRAM_OVERHEAD
        return data, source, sender

    def recv(self, bufsize: int) -> bytes:
        return self.recvfrom(bufsize)[0]

    def sendmsg(self, buffers: Iterable[Any], ancillary: tuple[()] = (), flags: int = 0) -> int:
        return self.send(b"".join(buffers))

    def getpeername(self) -> Any:
        self.check("getpeername")
        if self.remote is None:
            raise os_error(errno.ENOTCONN)
        return self.remote

    def close(self) -> None:
        if self.release():
            while self.inbox:
                self._take()[2].touch()
            self.kernel.receiving.unbind(self)

    def __repr__(self) -> str:
        to = "" if self.remote is None else f"-{self.remote}"
        return f"<datagram {self.place} {self.local}{to} unread={len(self.inbox)} interest={self.interest}>"
