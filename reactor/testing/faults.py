"""Faults, as rules that compose: what a kernel and a network may do to a program, and seldom do in a test.

    system = SimulatedSystem(seed=7, faults=[ShortWrites(0.5), Resets(0.001), DescriptorLimit(20)])

A rule overrides the moments it cares about and leaves the others alone; each moment asks all the rules in their order.
Chances are drawn from the system's seed. A rule that is `enabled = False` rests, so a test can let a fault pass.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from reactor.pollers import READ, WRITE
from reactor.testing.sockets import Listening, SimulatedSocket, StreamSocket
from reactor.testing.tcp import TcpSocket

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem

Ready = list[tuple[int, int]]


class Fault:
    """A rule. The moments below do nothing by themselves."""

    enabled = True

    def on_send(self, system: SimulatedSystem, sock: StreamSocket, count: int) -> int:
        """`count` bytes could be taken; returns how many are. 0 is EAGAIN."""
        return count

    def on_recv(self, system: SimulatedSystem, sock: StreamSocket, count: int) -> int:
        """The same for reading."""
        return count

    def on_transfer(self, system: SimulatedSystem, sock: SimulatedSocket) -> int:
        """The program sends or receives, on a stream or a datagram socket: an errno, or 0."""
        return 0

    def on_descriptor(self, system: SimulatedSystem) -> int:
        """The program asks for one descriptor more, to accept, connect, listen ...: an errno, or 0."""
        return 0

    def on_accept(self, system: SimulatedSystem, sock: Listening) -> int:
        """An errno for accept(2), or 0."""
        return 0

    def on_poll(self, system: SimulatedSystem) -> None:
        """A poll begins: anything may happen to any socket."""

    def on_ready(self, system: SimulatedSystem, ready: Ready) -> Ready:
        """A poll ends; returns what it tells."""
        return ready

    def on_packet(self, system: SimulatedSystem, sender: TcpSocket) -> float:
        """A packet leaves; returns the time before which it does not arrive: 0 holds nothing, inf loses it."""
        return 0.0


class ShortWrites(Fault):
    """A send takes only a part of what it could, at least one byte."""

    def __init__(self, chance: float = 1.0) -> None:
        self.chance = chance

    def on_send(self, system: SimulatedSystem, sock: StreamSocket, count: int) -> int:
        return 1 + system.draw(count) if system.chance(self.chance) else count


class ShortReads(Fault):
    """A recv gives only a part of what is there, at least one byte."""

    def __init__(self, chance: float = 1.0) -> None:
        self.chance = chance

    def on_recv(self, system: SimulatedSystem, sock: StreamSocket, count: int) -> int:
        return 1 + system.draw(count) if system.chance(self.chance) else count


class TryAgain(Fault):
    """A send or a recv says EAGAIN although the poller said that it would not."""

    def __init__(self, chance: float = 0.1) -> None:
        self.chance = chance

    def on_send(self, system: SimulatedSystem, sock: StreamSocket, count: int) -> int:
        return 0 if system.chance(self.chance) else count

    def on_recv(self, system: SimulatedSystem, sock: StreamSocket, count: int) -> int:
        return 0 if system.chance(self.chance) else count


class SpuriousReadiness(Fault):
    """A poll tells of events that did not happen, for what was asked."""

    def __init__(self, chance: float = 0.1) -> None:
        self.chance = chance

    def on_ready(self, system: SimulatedSystem, ready: Ready) -> Ready:
        if not system.chance(self.chance):
            return ready
        told = dict(ready)
        for fd, sock in system.descriptors.items():
            if sock.watcher is not None and sock.interest and system.chance(0.5):
                told[fd] = told.get(fd, 0) | sock.interest
        return list(told.items())


class Shuffled(Fault):
    """The events of a poll come in any order."""

    def on_ready(self, system: SimulatedSystem, ready: Ready) -> Ready:
        rest = list(ready)
        return [rest.pop(system.draw(len(rest))) for _ in ready]


class OneAtATime(Fault):
    """A poll tells one event, and of a socket that can be read and written only one side."""

    def __init__(self, chance: float = 1.0) -> None:
        self.chance = chance

    def on_ready(self, system: SimulatedSystem, ready: Ready) -> Ready:
        if not ready or not system.chance(self.chance):
            return ready
        fd, events = ready[system.draw(len(ready))]
        if events & READ and events & WRITE:
            events &= ~(READ if system.chance(0.5) else WRITE)
        return [(fd, events)]


class Resets(Fault):
    """In each poll, with this chance, some connection is reset."""

    def __init__(self, chance: float = 0.01) -> None:
        self.chance = chance

    def on_poll(self, system: SimulatedSystem) -> None:
        victim = _some_connection(system) if system.chance(self.chance) else None
        if victim is not None:
            # As a middlebox does that has forgotten it: both ends are told.
            victim.peer.send_reset()
            victim.peer.error_number = errno.ECONNRESET
            victim.peer.touch()
            system.pump()


def _some_connection(system: SimulatedSystem) -> TcpSocket | None:
    """One of the program's TCP connections that live, from the seed; None when there is none."""
    living = [
        sock
        for sock in system.descriptors.values()
        if isinstance(sock, TcpSocket) and not (sock.dead or sock.connecting or sock.peer.dead)
    ]
    return living[system.draw(len(living))] if living else None


class SoftErrors(Fault):
    """In each poll, with this chance, ICMP says of some connection that its peer is unreachable. It goes on."""

    def __init__(self, chance: float = 0.01) -> None:
        self.chance = chance

    def on_poll(self, system: SimulatedSystem) -> None:
        connection = _some_connection(system) if system.chance(self.chance) else None
        if connection is not None:
            connection.unreachable(errno.EHOSTUNREACH)


class BlackHole(Fault):
    """From `start` to `end` no packet arrives. What was sent meanwhile is sent again afterwards; TCP sees to that.

    `among` chooses the senders; by default all packets of all connections are held.
    """

    def __init__(
        self, start: float = 0.0, end: float = math.inf, among: Callable[[TcpSocket], bool] | None = None
    ) -> None:
        self.start = start
        self.end = end
        self.among = among

    def on_packet(self, system: SimulatedSystem, sender: TcpSocket) -> float:
        if self.start <= system.now < self.end and (self.among is None or self.among(sender)):
            return self.end
        return 0.0


class Stalls(Fault):
    """With this chance, what a packet carries is held for so many seconds: a peer, or a line, that stalls."""

    def __init__(self, chance: float = 0.01, seconds: float = 10.0) -> None:
        self.chance = chance
        self.seconds = seconds

    def on_packet(self, system: SimulatedSystem, sender: TcpSocket) -> float:
        return system.now + self.seconds if system.chance(self.chance) else 0.0


class DescriptorLimit(Fault):
    """The process has no more than `most` descriptors: EMFILE."""

    def __init__(self, most: int) -> None:
        self.most = most

    def on_descriptor(self, system: SimulatedSystem) -> int:
        return errno.EMFILE if len(system.descriptors) >= self.most else 0


class Famine(Fault):
    """From `start` to `end` there is not one descriptor more: EMFILE."""

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end

    def on_descriptor(self, system: SimulatedSystem) -> int:
        return errno.EMFILE if self.start <= system.now < self.end else 0


class AbortedAccepts(Fault):
    """A caller gives up between its connect and our accept: ECONNABORTED."""

    def __init__(self, chance: float = 0.1) -> None:
        self.chance = chance

    def on_accept(self, system: SimulatedSystem, sock: Listening) -> int:
        return errno.ECONNABORTED if sock.queue and system.chance(self.chance) else 0


class ForbiddenAccepts(Fault):
    """From `start` to `end` accept says EPERM, as a security module's rule does. Nobody leaves the queue."""

    def __init__(self, start: float = 0.0, end: float = math.inf) -> None:
        self.start = start
        self.end = end

    def on_accept(self, system: SimulatedSystem, sock: Listening) -> int:
        return errno.EPERM if self.start <= system.now < self.end else 0


class Shortage(Fault):
    """From `start` to `end` every send and every recv fails for want of memory, although the poller says ready."""

    def __init__(self, start: float = 0.0, end: float = math.inf, number: int = errno.ENOBUFS) -> None:
        self.start = start
        self.end = end
        self.number = number

    def on_transfer(self, system: SimulatedSystem, sock: SimulatedSocket) -> int:
        return self.number if self.start <= system.now < self.end else 0
