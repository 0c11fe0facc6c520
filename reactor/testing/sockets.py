"""The simulated sockets: Linux's TCP, UDP and Unix sockets, as far as a program can tell.

Facts, with the numbers of the project's measurements:
- A close with unread input is a reset, and so is late input after a close (K1, K2). A reset throws unsent output away,
  never what has arrived (K6). It is told once, then a read gives b"" (K5); after the peer's FIN a read gives b"" and
  only a send or SO_ERROR tells (K7); while our FIN waits, a read tells it (K8).
- Readiness is tcp_poll()'s: HANGUP when both sides are shut, ERROR while an error waits, and neither can be masked
  (K12). WRITE comes back when a third of the send buffer is free.
- A full receive buffer closes the window. What is sent stays in the send buffer until it is acknowledged.
- Accepting hands out connections that were reset in the queue (K14); closing a listener resets those still in it (K15).
- A UDP datagram arrives whole, or not: nobody there, or no room in the receive buffer. Of nobody there a connected
  sender is told (ECONNREFUSED). A full Unix receiver makes its sender wait.
- On a Unix stream the send buffer *is* the peer's unread input, a close is a hang-up at once, and there is no reset:
  a close with unread input is told to the peer as ECONNRESET, behind what it can still read.

A socket whose descriptor was released lives on in the kernel as an orphan, until its last packets are gone. Any use of
it by the program is EBADF, and is remembered in `kernel.bad_calls`: a program that does it has a bug.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from reactor.pollers import ERROR, HANGUP, READ, WRITE
from reactor.testing.links import Link

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem

# How long Linux tries: a SYN (tcp_syn_retries 6), and unacknowledged data (tcp_retries2 15). tcp(7).
SYN_PATIENCE = 127.0
DATA_PATIENCE = 924.6
# A SYN that met a full queue is sent again after so long, then twice as long.
SYN_RETRY = 1.0

# Linux: net.core.wmem_default, for a Unix socket; what of it no datagram can use; and net.unix.max_dgram_qlen.
UNIX_BUFFER = 212992
UNIX_SPARE = 32
UNIX_QUEUE = 10
# What a datagram costs the kernel besides its bytes (sk_buff's truesize, about).
DATAGRAM_OVERHEAD = 768
# RFC 768: 65,535 bytes, less the headers.
UDP4_LONGEST = 65507
UDP6_LONGEST = 65527
WILDCARDS = ("0.0.0.0", "::")


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Watcher(Protocol):
    """Who is told that a socket's readiness may have changed: a poller or a scripted peer."""

    def touch(self, sock: SimulatedSocket) -> None: ...


class SimulatedSocket:
    """What all kinds have: a descriptor, an owner, a pending error, somebody who watches."""

    __slots__ = ("error_number", "family", "fd", "interest", "kernel", "local", "released", "releases", "watcher")

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any) -> None:
        self.kernel = kernel
        self.family = family
        self.local = local
        self.fd = -1
        self.error_number = 0
        self.watcher: Watcher | None = None
        self.interest = 0
        # The program has let go of it; how often it did.
        self.released = False
        self.releases = 0

    def fileno(self) -> int:
        return -1 if self.released else self.fd

    def setblocking(self, flag: bool) -> None:
        """Never blocks anyway."""
        assert not flag

    def getsockname(self) -> Any:
        self.check("getsockname")
        return self.local

    def events(self) -> int:
        """What a poll would tell, whatever was asked for."""
        raise NotImplementedError

    def touch(self) -> None:
        if self.watcher is not None:
            self.watcher.touch(self)

    def check(self, what: str) -> None:
        if self.released:
            self.kernel.bad_calls.append(f"{what} of a released descriptor")
            raise os_error(errno.EBADF)

    def take_error(self) -> int:
        """SO_ERROR: tells the pending error once."""
        number, self.error_number = self.error_number, 0
        return number

    def release(self) -> bool:
        """The program's part of close(2): the descriptor is free. False when it was released before."""
        self.releases += 1
        if self.released:
            self.kernel.bad_calls.append("close of a released descriptor")
            return False
        self.released = True
        self.kernel.free(self)
        self.watcher = None
        return True

    def close(self) -> None:
        raise NotImplementedError

    def detach(self) -> int:
        """The number is somebody else's by now; nothing is closed."""
        self.released = True
        return self.fd


class Listening(SimulatedSocket):
    """A listening socket and its queue."""

    __slots__ = ("backlog", "link", "options", "queue")

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any, backlog: int, options: Any = None) -> None:
        super().__init__(kernel, family, local)
        self.backlog = backlog
        self.options = options
        self.queue: deque[StreamSocket] = deque()

    @property
    def full(self) -> bool:
        # Linux lets in one more than it was told.
        return len(self.queue) > self.backlog

    def events(self) -> int:
        return READ if self.queue else 0

    def admit(self, child: StreamSocket) -> None:
        self.queue.append(child)
        self.touch()

    def accept(self) -> tuple[StreamSocket, Any]:
        self.check("accept")
        number = self.kernel.accept_fault(self)
        if number:
            # ECONNABORTED and its like tell of a connection that is gone; a famine leaves it in the queue.
            if number == errno.ECONNABORTED and self.queue:
                self.queue.popleft().vanish()
            raise os_error(number)
        if not self.queue:
            raise os_error(errno.EAGAIN)
        self.kernel.check_descriptors()
        child = self.queue.popleft()
        self.kernel.give_descriptor(child)
        return child, child.remote

    def close(self) -> None:
        if self.release():
            self.kernel.unbind(self)
            while self.queue:
                self.queue.popleft().vanish()
            self.kernel.pump()

    def __repr__(self) -> str:
        where = "released" if self.released else f"fd {self.fd}"
        return f"<listening {where} {self.local} waiting={len(self.queue)} interest={self.interest}>"


class StreamSocket(SimulatedSocket):
    """One end of a connection."""

    __slots__ = ("capacity", "fin_received", "inbox", "peer", "remote", "shut")

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any, remote: Any) -> None:
        super().__init__(kernel, family, local)
        self.remote = remote
        self.peer: Any = None
        # What arrived and was not read; how much we send before the kernel says EAGAIN.
        self.inbox = bytearray()
        self.capacity = 0
        # Our output was ended; the peer's end arrived, behind what is in the inbox.
        self.shut = False
        self.fin_received = False

    def room(self) -> int:
        """How many bytes a send may take now."""
        raise NotImplementedError

    def put(self, data: bytes) -> None:
        """Takes bytes that there is room for."""
        raise NotImplementedError

    def check_send(self) -> None:
        raise NotImplementedError

    def vanish(self) -> None:
        """It never had a program: the queue it was in is closed."""
        raise NotImplementedError

    def send(self, data: Any) -> int:
        self.check("send")
        self.check_send()
        view = memoryview(data)
        count = min(self.room(), len(view))
        if count > 0:
            count = self.kernel.send_fault(self, count)
        if count <= 0 and len(view):
            raise os_error(errno.EAGAIN)
        self.put(bytes(view[:count]))
        self.kernel.pump()
        return count

    def sendmsg(self, buffers: Iterable[Any]) -> int:
        return self.send(b"".join(buffers))

    def recv(self, bufsize: int) -> bytes:
        self.check("recv")
        if self.inbox:
            count = self.kernel.recv_fault(self, min(bufsize, len(self.inbox)))
            if not count:
                raise os_error(errno.EAGAIN)
            data = bytes(self.inbox[:count])
            del self.inbox[:count]
            self.was_read()
            self.kernel.pump()
            return data
        return self.recv_nothing()

    def recv_nothing(self) -> bytes:
        raise NotImplementedError

    def was_read(self) -> None:
        raise NotImplementedError

    def getpeername(self) -> Any:
        raise NotImplementedError


class TcpSocket(StreamSocket):
    """One end of a TCP connection."""

    __slots__ = (
        "connecting",
        "dead",
        "fin_acked",
        "fin_came_first",
        "fin_posted",
        "in_flight",
        "last_due",
        "link",
        "listener",
        "orphan",
        "out",
        "patience",
        "receive_capacity",
        "reset_on_close",
        "was_reset",
    )

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any, remote: Any, link: Link) -> None:
        super().__init__(kernel, family, local, remote)
        self.link = link
        self.capacity = link.send_buffer_bytes
        self.receive_capacity = link.receive_buffer_bytes
        # Accepted by us and not acknowledged; the first `in_flight` bytes of it are on their way.
        self.out = bytearray()
        self.in_flight = 0
        self.fin_posted = self.fin_acked = self.fin_came_first = False
        self.connecting = False
        # Reset, refused, timed out: nothing comes or goes any more.
        self.dead = False
        # A reset from the peer arrived.
        self.was_reset = False
        # The program closed it; the kernel still sends what it had accepted.
        self.orphan = False
        self.reset_on_close = False
        # Packets of one direction arrive in order.
        self.last_due = 0.0
        self.patience = DATA_PATIENCE
        self.listener: Listening | None = None

    @property
    def over(self) -> bool:
        """Both sides have ended, and ours is acknowledged: TIME-WAIT, or CLOSED."""
        return self.fin_acked and self.fin_received

    def events(self) -> int:
        if self.connecting:
            return 0
        events = ERROR if self.error_number else 0
        if self.dead:
            return events | READ | WRITE | HANGUP
        if self.inbox or self.fin_received:
            events |= READ
        if self.shut:
            events |= WRITE | HANGUP if self.fin_received else WRITE
        elif 3 * len(self.out) <= 2 * self.capacity:
            events |= WRITE
        return events

    # What the program calls

    def check_send(self) -> None:
        if self.error_number:
            raise os_error(self.take_error())
        if self.shut or self.dead:
            raise os_error(errno.EPIPE)

    def room(self) -> int:
        return 0 if self.connecting else self.capacity - len(self.out)

    def put(self, data: bytes) -> None:
        self.out += data
        self.transmit()

    def recv_nothing(self) -> bytes:
        if self.fin_received:
            return b""
        if self.error_number:
            raise os_error(self.take_error())
        if self.dead:
            return b""
        raise os_error(errno.EAGAIN)

    def was_read(self) -> None:
        if not self.dead and self.peer is not None and self.peer.out:
            self.kernel.post(self, self.peer.window_opened)

    def getpeername(self) -> Any:
        self.check("getpeername")
        if self.dead or self.connecting or self.over:
            raise os_error(errno.ENOTCONN)
        return self.remote

    def shutdown_output(self) -> None:
        self.check("shutdown")
        if self.dead or self.connecting or self.over:
            raise os_error(errno.ENOTCONN)
        self.end_output()
        self.kernel.pump()

    def end_output(self) -> None:
        if not self.shut:
            self.shut = True
            self.fin_came_first = self.fin_received
            self.transmit()
            self.touch()

    def outstanding(self) -> int:
        """SIOCOUTQ (K9). A reset does not change it: what was not acknowledged by then never will be."""
        return len(self.out) + (self.shut and not self.fin_acked)

    def state(self) -> str:
        """The state of RFC 9293."""
        if self.dead or self.over:
            return "CLOSED"
        if self.connecting:
            return "SYN-SENT"
        if not self.shut:
            return "CLOSE-WAIT" if self.fin_received else "ESTABLISHED"
        if self.fin_acked:
            return "FIN-WAIT-2"
        if not self.fin_received:
            return "FIN-WAIT-1"
        return "LAST-ACK" if self.fin_came_first else "CLOSING"

    def close(self) -> None:
        if not self.release():
            return
        if self.dead or self.over:
            return
        if self.connecting or self.inbox or self.reset_on_close:
            self.send_reset()
        else:
            self.orphan = True
            self.end_output()
        self.kernel.pump()

    def vanish(self) -> None:
        self.released = True
        if not self.dead:
            self.send_reset()

    # What the kernel does

    def transmit(self) -> None:
        """Sends what the peer's window takes, and our FIN behind the last byte."""
        peer, post = self.peer, self.kernel.post
        if self.dead or self.connecting:
            return
        room: int = peer.receive_capacity - len(peer.inbox) - self.in_flight
        while True:
            count = min(len(self.out) - self.in_flight, room, self.link.segment_bytes)
            if count <= 0:
                break
            data = bytes(self.out[self.in_flight : self.in_flight + count])
            self.in_flight += count
            room -= count
            post(self, peer.data_arrived, data)
        if self.shut and not self.fin_posted and self.in_flight == len(self.out):
            self.fin_posted = True
            post(self, peer.fin_arrived)

    def data_arrived(self, data: bytes) -> None:
        if self.dead or self.orphan:
            # Nobody will read it: the sender must not believe that it was taken.
            self.refuse()
            return
        self.inbox += data
        self.kernel.post(self, self.peer.acknowledged, len(data))
        self.touch()

    def acknowledged(self, count: int) -> None:
        if self.dead:
            return
        del self.out[:count]
        self.in_flight -= count
        self.transmit()
        self.touch()

    def window_opened(self) -> None:
        self.transmit()

    def fin_arrived(self) -> None:
        if self.dead:
            self.refuse()
            return
        self.fin_received = True
        self.kernel.post(self, self.peer.fin_acknowledged)
        self.touch()

    def fin_acknowledged(self) -> None:
        self.fin_acked = True
        self.touch()

    def refuse(self) -> None:
        if not self.dead or not self.peer.dead:
            self.send_reset()

    def send_reset(self) -> None:
        self.dead = True
        if self.peer is not None:
            self.kernel.post(self, self.peer.reset_arrived)

    def reset_arrived(self) -> None:
        if self.dead or self.over:
            return
        if self.connecting:
            self.fail(errno.ECONNREFUSED)
            return
        self.was_reset = True
        self.fail(errno.EPIPE if self.fin_received and not self.shut else errno.ECONNRESET)

    def fail(self, number: int) -> None:
        """The kernel gives up: a reset, a refusal, or nobody answered."""
        if self.dead:
            return
        self.connecting = False
        self.dead = True
        if not self.orphan:
            self.error_number = number
            self.touch()

    # The handshake

    def syn(self, listener: Listening | None, patience: float = SYN_PATIENCE, retry: float = SYN_RETRY) -> None:
        """A SYN arrives where `listener` is, or nobody."""
        kernel = self.kernel
        if self.dead:
            return
        if listener is None or listener.released:
            kernel.post(self, self.refused)
        elif listener.full:
            # Dropped, and sent again; the last silence is told as a time-out.
            if patience > retry:
                kernel.after(retry, self.syn, listener, patience - retry, 2 * retry)
            else:
                kernel.after(patience, self.timed_out)
        else:
            child = kernel.child(self, listener)
            kernel.post(child, self.syn_acknowledged, child)

    def refused(self) -> None:
        self.reset_arrived()

    def timed_out(self) -> None:
        self.fail(errno.ETIMEDOUT)

    def syn_acknowledged(self, child: TcpSocket) -> None:
        if self.dead:
            self.kernel.post(self, child.reset_arrived)
            return
        self.connecting = False
        self.peer, child.peer = child, self
        self.kernel.post(self, child.established)
        self.touch()

    def established(self) -> None:
        listener = self.listener
        assert listener is not None
        if listener.released:
            self.vanish()
        elif not self.dead:
            listener.admit(self)

    def gave_up(self, mark: int) -> None:
        """Nothing was acknowledged for as long as the kernel tries."""
        if not self.dead and self.outstanding() >= mark:
            self.fail(errno.ETIMEDOUT)

    def __repr__(self) -> str:
        where = "released" if self.released else f"fd {self.fd}"
        return (
            f"<tcp {where} {self.local}-{self.remote} {self.state()} unread={len(self.inbox)}"
            f" unacknowledged={self.outstanding()} interest={self.interest}>"
        )


class UnixSocket(StreamSocket):
    """One end of a Unix stream connection or of a socket pair: what is sent is in the peer's inbox."""

    __slots__ = ("peer_gone",)

    def __init__(self, kernel: SimulatedSystem, local: Any, remote: Any, capacity: int) -> None:
        super().__init__(kernel, socket.AF_UNIX, local, remote)
        self.capacity = capacity
        # The peer's descriptor was closed.
        self.peer_gone = False

    def events(self) -> int:
        events = ERROR if self.error_number else 0
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
        self.peer.inbox += data
        self.peer.touch()

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
        if self.peer_gone:
            raise os_error(errno.ENOTCONN)
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

    def close(self) -> None:
        if self.release():
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
        where = "released" if self.released else f"fd {self.fd}"
        sides = "-".join(
            name for name, on in (("shut", self.shut), ("fin", self.fin_received), ("gone", self.peer_gone)) if on
        )
        return f"<unix {where} {self.local or self.remote or 'pair'} {sides or 'open'} unread={len(self.inbox)}>"


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
        events = (ERROR if self.error_number else 0) | (READ if self.inbox else 0)
        if self.family != socket.AF_UNIX:
            return events | WRITE
        receiver = None if self.remote is None else self.kernel.datagram_at(self.remote, self)
        if 4 * self.unread_by_others <= self.capacity and (receiver is None or not receiver.full):
            events |= WRITE
        return events

    def send(self, data: Any) -> int:
        self.check("send")
        if self.error_number:
            raise os_error(self.take_error())
        if self.remote is None:
            raise os_error(errno.ENOTCONN if self.family == socket.AF_UNIX else errno.EDESTADDRREQ)
        return self._send(bytes(data), self.remote)

    def sendto(self, data: Any, address: Any) -> int:
        self.check("sendto")
        if self.error_number:
            raise os_error(self.take_error())
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
        receiver = self.kernel.datagram_at(address, self)
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
        host = address[0] if self.local[0] in WILDCARDS else self.local[0]
        source = (host, *self.local[1:])
        receiver = self.kernel.datagram_at(address, self, source)
        if receiver is None:
            if self.remote is not None:
                self.kernel.post_datagram(self, self.refused)
        elif receiver.unread + len(data) + DATAGRAM_OVERHEAD <= receiver.receive_capacity:
            receiver.put(data, source, self)

    def put(self, data: bytes, source: Any, sender: DatagramSocket) -> None:
        self.inbox.append((data, source, sender))
        self.unread += len(data) + DATAGRAM_OVERHEAD
        self.touch()

    def refused(self) -> None:
        """ICMP says that nobody receives there."""
        if not self.released:
            self.error_number = errno.ECONNREFUSED
            self.touch()

    def recvfrom(self, bufsize: int) -> tuple[bytes, Any]:
        self.check("recvfrom")
        if self.error_number:
            raise os_error(self.take_error())
        if not self.inbox:
            raise os_error(errno.EAGAIN)
        data, source, sender = self._take()
        # Who sends here and waits for room is told that there is some.
        self.kernel.room_for_datagrams(self)
        sender.touch()
        return data[:bufsize], source

    def _take(self) -> tuple[bytes, Any, DatagramSocket]:
        data, source, sender = self.inbox.popleft()
        self.unread -= len(data) + DATAGRAM_OVERHEAD
        if self.family == socket.AF_UNIX:
            sender.unread_by_others -= len(data) + DATAGRAM_OVERHEAD
        return data, source, sender

    def recv(self, bufsize: int) -> bytes:
        return self.recvfrom(bufsize)[0]

    def sendmsg(self, buffers: Iterable[Any]) -> int:
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
            self.kernel.unbind_datagram(self)

    def __repr__(self) -> str:
        where = "released" if self.released else f"fd {self.fd}"
        to = "" if self.remote is None else f"-{self.remote}"
        return f"<datagram {where} {self.local}{to} unread={len(self.inbox)} interest={self.interest}>"
