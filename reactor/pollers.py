"""The ways to wait for descriptors: epoll, kqueue, poll, select. Thin, because each turn pays for them.

Interest and events are bits of poll(2), whose numbers epoll shares, so that the two best pollers translate nothing.
READ and WRITE are asked for; ERROR, HANGUP and INVALID are told unasked. An interest of 0 is allowed: epoll, poll and
kqueue then still tell a reset (and, on both sides shut, a hang-up, which cannot be masked). select cannot, which its
own docstring says.

`poll` returns `(fd, events)` pairs; what an fd means is the loop's business. A poller never raises for a descriptor
that somebody else closed: it tells INVALID, where the platform lets it know (rule R14).
"""

from __future__ import annotations

import math
import os
import select
import selectors
import sys
from collections.abc import Iterable
from typing import Protocol

READ = 1
WRITE = 4
ERROR = 8
HANGUP = 16
INVALID = 32


class Poller(Protocol):
    """What the loop asks of a poller. Registering twice, or changing what is not registered, is an error."""

    def register(self, fd: int, interest: int) -> None: ...
    def modify(self, fd: int, interest: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Waits at most `timeout` seconds: None is for ever, 0 not at all; never negative."""
        ...

    def fileno(self) -> int:
        """A descriptor that is readable while `poll(0)` would return something; OSError where there is none."""
        ...

    def close(self) -> None: ...


class _NoDescriptor:
    """A poller that is a system call, not a descriptor: it cannot be waited on by another loop."""

    def fileno(self) -> int:
        raise OSError(f"{type(self).__name__} has no descriptor to embed by; use epoll or kqueue, or call run_once()")

    def close(self) -> None:
        """Nothing is held."""


class PollPoller(_NoDescriptor):
    """poll(2): everywhere but on Windows; costs time in proportion to the descriptors."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def register(self, fd: int, interest: int) -> None:
        self._poll.register(fd, interest)

    def modify(self, fd: int, interest: int) -> None:
        self._poll.modify(fd, interest)

    def unregister(self, fd: int) -> None:
        self._poll.unregister(fd)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        # Milliseconds, rounded up: a poll that ends just before a timer is due would be followed by another.
        return self._poll.poll(None if timeout is None else math.ceil(timeout * 1000))


class SelectPoller(_NoDescriptor):
    """select(2): everywhere; only descriptors below 1,024, and a reset goes unseen while neither side is asked for."""

    # FD_SETSIZE, which CPython was compiled with; a larger one would be written past the end of a C array.
    DESCRIPTORS = 1024

    def __init__(self) -> None:
        self._interest: dict[int, int] = {}

    def register(self, fd: int, interest: int) -> None:
        if not 0 <= fd < self.DESCRIPTORS:
            raise OSError(f"select cannot watch descriptor {fd}: it takes those below {self.DESCRIPTORS}")
        if fd in self._interest:
            raise FileExistsError(f"descriptor {fd} is registered already")
        self._interest[fd] = interest

    def modify(self, fd: int, interest: int) -> None:
        if fd not in self._interest:
            raise FileNotFoundError(f"descriptor {fd} is not registered")
        self._interest[fd] = interest

    def unregister(self, fd: int) -> None:
        del self._interest[fd]

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        readers = [fd for fd, interest in self._interest.items() if interest & READ]
        writers = [fd for fd, interest in self._interest.items() if interest & WRITE]
        try:
            readable, writable, _ = select.select(readers, writers, (), timeout)
        except OSError:
            invalid = _sweep(self._interest)
            if not invalid:
                raise
            return invalid
        events = dict.fromkeys(readable, READ)
        for fd in writable:
            events[fd] = events.get(fd, 0) | WRITE
        return list(events.items())


def _sweep(descriptors: Iterable[int]) -> list[tuple[int, int]]:
    """The HOWTO's "When Sockets Die": select fails as a whole, so each descriptor is asked for itself."""
    invalid = []
    for fd in descriptors:
        try:
            os.fstat(fd)
        except OSError:
            invalid.append((fd, INVALID))
    return invalid


class SelectorPoller:
    """Any `selectors.BaseSelector`. They refuse an interest of 0, so a paused connection learns of a reset late."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        # Those with an interest of 0: known here, unknown to the selector.
        self._resting: set[int] = set()

    def register(self, fd: int, interest: int) -> None:
        if interest:
            self._selector.register(fd, self._events(interest))
        else:
            self._resting.add(fd)

    def modify(self, fd: int, interest: int) -> None:
        if fd in self._resting:
            self._resting.remove(fd)
            self.register(fd, interest)
        elif interest:
            self._selector.modify(fd, self._events(interest))
        else:
            self._selector.unregister(fd)
            self._resting.add(fd)

    def unregister(self, fd: int) -> None:
        if fd in self._resting:
            self._resting.remove(fd)
        elif fd in self._selector.get_map():
            self._selector.unregister(fd)

    @staticmethod
    def _events(interest: int) -> int:
        return (selectors.EVENT_READ if interest & READ else 0) | (selectors.EVENT_WRITE if interest & WRITE else 0)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        try:
            ready = self._selector.select(timeout)
        except OSError:
            invalid = _sweep([key.fd for key in self._selector.get_map().values()])
            if not invalid:
                raise
            return invalid
        return [
            (key.fd, (READ if events & selectors.EVENT_READ else 0) | (WRITE if events & selectors.EVENT_WRITE else 0))
            for key, events in ready
        ]

    def fileno(self) -> int:
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            raise OSError(f"{self._selector!r} has no descriptor to embed by")
        return int(fileno())

    def close(self) -> None:
        self._selector.close()


POLLERS: dict[str, type[Poller]] = {}

if hasattr(select, "epoll"):
    # Asked for at first, because the array is allocated at each call; when there are more, all are asked for.
    _EVENTS_PER_POLL = 512

    class EpollPoller:
        """epoll(7), level-triggered. Forgets a descriptor that somebody else closes, so nothing is told of it.

        Unless a duplicate keeps it open, here or in a forked process: then epoll tells of it for ever, under a number
        that is nobody's or another's by now, and nobody can take it out any more (epoll(7), "Questions and answers",
        Q6). So after a touch that shows one to be gone, the next `poll` begins with a new epoll, and with those that
        are there.
        """

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._interest: dict[int, int] = {}
            # One was found that was closed behind our back: the kernel may know it still.
            self._haunted = False
            # Whoever waits for `fileno()` waits for this one: it stays, and is readable when the other is.
            self._outer: select.epoll | None = None

        def register(self, fd: int, interest: int) -> None:
            self._epoll.register(fd, interest)
            self._interest[fd] = interest

        def modify(self, fd: int, interest: int) -> None:
            try:
                self._epoll.modify(fd, interest)
            except OSError:
                self._haunted = True
                raise
            self._interest[fd] = interest

        def unregister(self, fd: int) -> None:
            del self._interest[fd]
            try:
                self._epoll.unregister(fd)
            except OSError:
                self._haunted = True

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            if self._haunted:
                invalid = self._begin_anew()
                if invalid:
                    return invalid
            ready = self._epoll.poll(timeout, _EVENTS_PER_POLL)
            if len(ready) == _EVENTS_PER_POLL:
                # All of them, at once: a deadline must not be judged ahead of an event that waits.
                ready = self._epoll.poll(0, len(self._interest))
            return ready

        def _begin_anew(self) -> list[tuple[int, int]]:
            """Changes to a new epoll; returns those that turn out to be gone, too."""
            try:
                new = select.epoll()
            except OSError:
                return []  # no descriptor left: at the next poll
            if self._outer is not None:
                self._outer.unregister(self._epoll)
                self._outer.register(new, READ)
            self._epoll.close()  # before the watches come twice: a user may have so many (max_user_watches)
            self._epoll, self._haunted = new, False
            invalid = []
            for fd, interest in self._interest.items():
                try:
                    new.register(fd, interest)
                except OSError:
                    invalid.append((fd, INVALID))
            return invalid

        def fileno(self) -> int:
            if self._outer is None:
                outer = select.epoll()
                outer.register(self._epoll, READ)
                self._outer = outer
            return self._outer.fileno()

        def close(self) -> None:
            self._epoll.close()
            if self._outer is not None:
                self._outer.close()

    POLLERS["epoll"] = EpollPoller

if sys.platform not in ("linux", "win32"):  # pragma: no cover (BSD, macOS)

    class KqueuePoller:
        """kqueue(2): a filter for each side asked for; with none, a reset is not told. Not yet run in CI."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self._interest: dict[int, int] = {}

        def register(self, fd: int, interest: int) -> None:
            if fd in self._interest:
                raise FileExistsError(f"descriptor {fd} is registered already")
            self._change(fd, 0, interest)

        def modify(self, fd: int, interest: int) -> None:
            self._change(fd, self._interest[fd], interest)

        def unregister(self, fd: int) -> None:
            try:
                self._change(fd, self._interest.pop(fd), 0)
            except OSError:
                pass  # closed behind our back: the kernel has forgotten it already
            self._interest.pop(fd, None)

        def _change(self, fd: int, old: int, new: int) -> None:
            changes = []
            for bit, kind in ((READ, select.KQ_FILTER_READ), (WRITE, select.KQ_FILTER_WRITE)):
                if (old ^ new) & bit:
                    changes.append(select.kevent(fd, kind, select.KQ_EV_ADD if new & bit else select.KQ_EV_DELETE))
            if changes:
                self._kqueue.control(changes, 0)
            self._interest[fd] = new

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            ready: dict[int, int] = {}
            most = 2 * len(self._interest) or 1
            for event in self._kqueue.control(None, most, timeout):
                bit = READ if event.filter == select.KQ_FILTER_READ else WRITE
                ready[event.ident] = ready.get(event.ident, 0) | bit
            return list(ready.items())

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def close(self) -> None:
            self._kqueue.close()

    POLLERS["kqueue"] = KqueuePoller

if hasattr(select, "poll"):
    POLLERS["poll"] = PollPoller

POLLERS["select"] = SelectPoller


def make_poller(kind: str | selectors.BaseSelector | None) -> Poller:
    """The poller of that name, one around that selector, or (None) the platform's best; else ValueError."""
    if isinstance(kind, selectors.BaseSelector):
        return SelectorPoller(kind)
    if kind is None:
        kind = next(iter(POLLERS))
    if kind not in POLLERS:
        raise ValueError(f"there is no poller {kind!r} here; there are {', '.join(POLLERS)}")
    return POLLERS[kind]()
