"""Foreign descriptors: somebody else's, watched for reading, writing, or both, and never closed here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from reactor.loop import Loop
from reactor.pollers import ERROR, HANGUP, INVALID, READ, WRITE
from reactor.system import Socket
from reactor.timers import Handle

logger = logging.getLogger("reactor")


class Descriptor:
    """One watched descriptor, with a call for each side that is watched."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._reader: Handle | None = None
        self._writer: Handle | None = None
        loop.admit(fd, self)
        try:
            loop.watch(fd, 0)
        except BaseException:
            loop.dismiss(fd, registered=False)
            raise

    def watch(self, bit: int, handle: Handle | None) -> None:
        """Sets or (None) removes the call of one side; with neither left, the descriptor is let go."""
        before = self._reader, self._writer
        if bit == READ:
            self._reader = handle
        else:
            self._writer = handle
        if self._reader is None and self._writer is None:
            self._loop.dismiss(self._fd, registered=True)
            return
        try:
            self._ask_for(self._interest())
        except BaseException as exc:
            if handle is None and isinstance(exc, OSError):
                self.displaced()
                return
            self._reader, self._writer = before
            raise

    def _ask_for(self, interest: int) -> None:
        try:
            self._loop.poller.modify(self._fd, interest)
        except FileNotFoundError:  # closed and opened anew while we watched
            self._loop.poller.register(self._fd, interest)
            self._loop.pass_by(self._fd)

    def _interest(self) -> int:
        return (READ if self._reader else 0) | (WRITE if self._writer else 0)

    def watches(self, bit: int) -> bool:
        """Whether that side has a call."""
        return (self._reader if bit == READ else self._writer) is not None

    def on_readable(self) -> None:
        if self._reader is not None:
            self._reader.run()

    def on_events(self, events: int) -> None:
        if events & INVALID:
            self.displaced()
            return
        # An error or a hang-up is told to both sides: whichever tries next is given it by the kernel.
        gone = events & (ERROR | HANGUP)
        if self._reader is not None and events & READ | gone:
            self._reader.run()
        if self._writer is not None and events & WRITE | gone:
            self._writer.run()

    def callback_failed(self, exc: Exception) -> None:
        logger.error("the call for %r failed", self, exc_info=exc)
        if self._reader is None and self._writer is None:
            return
        try:
            self._loop.poller.modify(self._fd, self._interest())  # changes nothing, but asks whether it is still there
        except OSError:
            self.displaced()

    def displaced(self) -> None:
        logger.error("%r was closed while it was watched", self)
        self._reader = self._writer = None
        self._loop.dismiss(self._fd, registered=True)

    def abandon(self) -> None:
        self._reader = self._writer = None
        self._loop.dismiss(self._fd, registered=True)

    def forked(self) -> Sequence[Socket]:
        self._reader = self._writer = None
        return ()  # nothing that is closed here

    def __repr__(self) -> str:
        calls: dict[str, Any] = {"reader": self._reader, "writer": self._writer}
        return f"<Descriptor {self._fd} {' '.join(f'{name}={call!r}' for name, call in calls.items() if call)}>"
