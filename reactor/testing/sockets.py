"""What all simulated sockets have: a descriptor, an owner, errors that wait to be told; and what a listening one is.

- A pending error is told once. An error queue (IP_RECVERR, SO_TIMESTAMPING) keeps a socket ready with ERROR until
  recvmsg(MSG_ERRQUEUE) has emptied it, whatever SO_ERROR says.

- Accepting hands out connections that were reset in the queue (K14); closing a listener resets those still in it (K15).
- Any use of a socket whose descriptor was released is EBADF, and is remembered in `kernel.bad_calls`: a program that
  does it has a bug.

The kinds are rooms of their own: `reactor.testing.tcp`, `unix` and `datagrams`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from reactor.pollers import ERROR, READ

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem


# linux/in.h and linux/in6.h: ICMP errors go to the error queue. asm/socket.h: so do the times of what was sent.
IP_RECVERR = 11
IPV6_RECVERR = 25
SO_TIMESTAMPING = 37


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Watcher(Protocol):
    """Who is told that a socket's readiness may have changed: a poller or a scripted peer."""

    def touch(self, sock: SimulatedSocket) -> None: ...


class SimulatedSocket:
    """What all kinds have: a descriptor, an owner, a pending error and an error queue, somebody who watches."""

    __slots__ = (
        "error_number",
        "error_queue",
        "family",
        "fd",
        "interest",
        "kernel",
        "local",
        "queues_errors",
        "queues_times",
        "released",
        "releases",
        "watcher",
    )

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any) -> None:
        self.kernel = kernel
        self.family = family
        self.local = local
        self.fd = -1
        self.error_number = 0
        # The entries of the error queue: an errno (0: the time of a send) and the bytes that belong to it.
        self.error_queue: deque[tuple[int, bytes]] = deque()
        # IP_RECVERR and SO_TIMESTAMPING.
        self.queues_errors = self.queues_times = False
        self.watcher: Watcher | None = None
        self.interest = 0
        # The program has let go of it; how often it did.
        self.released = False
        self.releases = 0

    def fileno(self) -> int:
        return -1 if self.released else self.fd

    @property
    def place(self) -> str:
        """Where the program finds it, for a human."""
        return "released" if self.released else f"fd {self.fd}"

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

    def error_event(self) -> int:
        """ERROR while an error waits to be told, or the error queue to be read."""
        return ERROR if self.error_number or self.error_queue else 0

    def take_error(self) -> int:
        """Tells the pending error once, as a send or a recv does."""
        number, self.error_number = self.error_number, 0
        return number

    def answer_so_error(self) -> int:
        """What SO_ERROR tells, once."""
        return self.take_error()

    def getsockopt(self, level: int, option: int) -> int:
        """SO_ERROR and no other."""
        self.check("getsockopt")
        if (level, option) != (socket.SOL_SOCKET, socket.SO_ERROR):
            raise os_error(errno.ENOPROTOOPT)
        return self.answer_so_error()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """IP_RECVERR, IPV6_RECVERR and SO_TIMESTAMPING: whether the error queue is used."""
        self.check("setsockopt")
        if (level, option) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
            self.queues_errors = bool(value)
        elif (level, option) == (socket.SOL_SOCKET, SO_TIMESTAMPING):
            self.queues_times = bool(value)
        else:
            raise os_error(errno.ENOPROTOOPT)

    def queue_error(self, number: int, data: bytes) -> None:
        self.error_queue.append((number, data))
        self.touch()

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        """Takes one entry out of the error queue (MSG_ERRQUEUE, recv(2)); without its ancillary data."""
        self.check("recvmsg")
        assert flags & socket.MSG_ERRQUEUE, "only the error queue is read with recvmsg"
        if not self.error_queue:
            raise os_error(errno.EAGAIN)
        number, data = self.error_queue.popleft()
        following = self.error_queue[0][0] if self.error_queue else 0
        if number or following:
            self.error_number = following
        self.touch()
        return data[:bufsize], [], socket.MSG_ERRQUEUE, None

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

    __slots__ = ("backlog", "options", "queue")

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
        # Linux takes the descriptor first: in a famine it says EMFILE although nobody waits, and leaves who does.
        self.kernel.check_descriptors()
        number = self.kernel.accept_fault(self)
        if number:
            # ECONNABORTED and its like tell of a connection that is gone.
            if number == errno.ECONNABORTED and self.queue:
                self.queue.popleft().vanish()
                self.kernel.pump()
            raise os_error(number)
        if not self.queue:
            raise os_error(errno.EAGAIN)
        child = self.queue.popleft()
        self.kernel.give_descriptor(child)
        return child, child.remote

    def close(self) -> None:
        if self.release():
            self.kernel.listening.unbind(self)
            while self.queue:
                self.queue.popleft().vanish()
            self.kernel.pump()

    def __repr__(self) -> str:
        return f"<listening {self.place} {self.local} waiting={len(self.queue)} interest={self.interest}>"


class StreamSocket(SimulatedSocket):
    """One end of a connection."""

    __slots__ = ("arrived", "capacity", "copies", "fin_received", "inbox", "peer", "remote", "shut")

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any, remote: Any) -> None:
        super().__init__(kernel, family, local)
        self.remote = remote
        self.peer: Any = None
        # What arrived and was not read; how much we send before the kernel says EAGAIN.
        self.inbox = bytearray()
        self.arrived = 0  # all in all
        self.capacity = 0
        # Our output was ended; the peer's end arrived, behind what is in the inbox.
        self.shut = False
        self.fin_received = False
        # Descriptors of it that others have: duplicates, and those of forked children. They stay open.
        self.copies = 0

    def close(self) -> None:
        """close(2): with copies elsewhere nothing but the descriptor goes, and the peer notices nothing."""
        if self.release() and not self.copies:
            self.end()

    def end(self) -> None:
        """The last descriptor was closed."""
        raise NotImplementedError

    def take_in(self, data: bytes) -> None:
        """It arrived, in order."""
        self.inbox += data
        self.arrived += len(data)
        self.touch()

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

    def send(self, data: Any, flags: int = 0) -> int:
        self.check("send")
        self.check_send()
        self.kernel.check_transfer(self)
        view = memoryview(data)
        count = min(self.room(), len(view))
        if count > 0:
            count = self.kernel.send_fault(self, count)
        if count <= 0 and len(view):
            raise os_error(errno.EAGAIN)
        self.put(bytes(view[:count]))
        if self.queues_times:
            self.queue_error(0, b"")
        self.kernel.pump()
        return count

    def sendmsg(self, buffers: Iterable[Any], ancillary: tuple[()] = (), flags: int = 0) -> int:
        return self.send(b"".join(buffers))

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        self.check("recv")
        self.kernel.check_transfer(self)
        if self.inbox and flags & socket.MSG_PEEK:
            return bytes(self.inbox[:bufsize])
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
