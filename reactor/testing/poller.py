"""The poller of the simulated kernel: what is ready, and the place where time passes."""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

from reactor.pollers import ERROR, HANGUP
from reactor.testing.sockets import SimulatedSocket, os_error

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem

# Polls without the clock moving: more than any burst of work needs, and soon over.
_SPIN = 100_000


class Stalled(AssertionError):
    """Nothing is left that could ever wake the loop, or it turns without time passing. Tells every socket's state."""


class SimulatedPoller:
    """Readiness of simulated sockets, level-triggered like epoll; and the place where time passes."""

    def __init__(self, system: SimulatedSystem) -> None:
        self._system = system
        self._watched: dict[int, SimulatedSocket] = {}
        # Those whose readiness may have changed since they were last found not ready.
        self._active: dict[int, SimulatedSocket] = {}
        # Closed while they were watched: unregistering them is late, and no error (as in `reactor.pollers`).
        self._forgotten: set[int] = set()
        self._idle_polls = 0

    def register(self, fd: int, interest: int) -> None:
        sock = self._system.descriptors.get(fd)
        if sock is None:
            raise os_error(errno.EBADF)
        if sock.watcher is not None:
            raise os_error(errno.EEXIST)
        self._watched[fd] = sock
        self._forgotten.discard(fd)
        sock.watcher, sock.interest = self, interest
        self.touch(sock)

    def modify(self, fd: int, interest: int) -> None:
        sock = self._watched.get(fd)
        if sock is None:
            raise os_error(errno.ENOENT)
        sock.interest = interest
        self.touch(sock)

    def unregister(self, fd: int) -> bool:
        sock = self._watched.pop(fd, None)
        if sock is None:
            if fd not in self._forgotten:
                raise os_error(errno.ENOENT)
            self._forgotten.discard(fd)
            return False
        sock.watcher, sock.interest = None, 0
        self._active.pop(fd, None)
        return True

    def forget(self, fd: int) -> None:
        """The descriptor was closed; epoll then forgets it."""
        if self._watched.pop(fd, None) is not None:
            self._forgotten.add(fd)
        self._active.pop(fd, None)

    def touch(self, sock: SimulatedSocket) -> None:
        self._active[sock.fd] = sock

    def ready(self) -> list[tuple[int, int]]:
        """What is ready now, as far as it was asked for."""
        active = self._active
        if not active:
            return []
        ready, quiet = [], []
        for fd, sock in active.items():
            events = sock.events() & (sock.interest | ERROR | HANGUP)
            if events:
                ready.append((fd, events))
            else:
                quiet.append(fd)
        for fd in quiet:
            del active[fd]
        return ready

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        system = self._system
        begun = system.now
        until = math.inf if timeout is None else begun + timeout
        for fault in system.acting("on_poll"):
            fault.on_poll(system)
        system.happen_now()
        ready = self.ready()
        while not ready and system.advance(until):
            ready = self.ready()
        if system.now > begun:
            self._idle_polls = 0
        else:
            self._idle_polls += 1
            if self._idle_polls > _SPIN:
                raise Stalled(f"the loop spins: {_SPIN} polls, and no time has passed\n{system.dump()}")
        for fault in system.acting("on_ready"):
            ready = fault.on_ready(system, ready)
        return ready

    def fileno(self) -> int:
        raise OSError("a simulated poller has no descriptor to embed by")

    def close(self) -> None:
        for fd in tuple(self._watched):
            self.unregister(fd)

    close_copy = close
