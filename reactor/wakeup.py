"""How the loop is woken from outside its own turn: by other threads, by signals, by calls made between turns.

A pair of connected sockets: the loop polls one, a waker writes one byte to the other. The interpreter itself may write
there the number of each signal that arrives (signal.set_wakeup_fd, see `signals`). A waker's byte is 0, which no signal
has.

Wake-ups are joined: one byte is enough for any number of calls. The byte is read first, then the flag is cleared, then
the calls are taken; and a waker adds its call first, then looks at the flag. So whoever finds the flag set has added a
call that is still to be taken, and whoever finds it cleared sends a byte that nobody reads away.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

from reactor.pollers import INVALID, READ
from reactor.syscalls import NO_SIGNAL
from reactor.system import Socket, System

logger = logging.getLogger("reactor")

# More bytes than signals are ever pending at once; what is left over is read in the next turn.
_READ_BYTES = 4096


class Waker:
    """One end in the poller, the other in everybody else's hands."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._ours, self._theirs = system.pair()
        self._files = [(sock, system.identity(sock.fileno())) for sock in (self._ours, self._theirs)]
        self._woken = False
        self.on_signal: Callable[[int], None] | None = None
        self.on_woken: Callable[[], None] | None = None

    def fileno(self) -> int:
        """What the loop polls."""
        return self._ours.fileno()

    def signal_fileno(self) -> int:
        """What the interpreter may write signal numbers to."""
        return self._theirs.fileno()

    def wake(self) -> None:
        """Makes the present or the next poll return at once. From any thread."""
        if self._woken:
            return
        self._woken = True
        try:
            self._theirs.send(b"\0", NO_SIGNAL)
        except OSError:
            pass  # full, so the loop is awake already; or closed, so there is nobody to wake

    def on_readable(self) -> None:
        try:
            numbers = self._ours.recv(_READ_BYTES)
        except BlockingIOError:
            numbers = b""
        self._woken = False
        for number in numbers:
            if number and self.on_signal is not None:
                self.on_signal(number)
        if self.on_woken is not None:
            self.on_woken()

    def on_events(self, events: int) -> None:
        if events & INVALID:
            self.displaced()
        elif events & READ:
            self.on_readable()

    def callback_failed(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            raise exc  # out of run(): a loop that cannot be woken is no loop
        logger.error("a signal could not be served", exc_info=exc)

    def displaced(self) -> None:
        raise OSError(errno.EBADF, "the reactor's own wake-up descriptor was closed by somebody else")

    def abandon(self) -> None:
        for sock, file in self._files:
            if self._system.identity(sock.fileno()) == file:
                sock.close()
            else:
                self._system.forget(sock)  # closed by somebody else, and its number another's

    def forked(self) -> Sequence[Socket]:
        return self._ours, self._theirs

    def __repr__(self) -> str:
        return f"<Waker {'woken' if self._woken else 'asleep'}>"
