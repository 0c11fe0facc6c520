"""The ways to wait for descriptors: epoll, kqueue, poll, select. Thin, because each turn pays for them.

Interest and events are bits of poll(2), whose numbers epoll shares, so that the two best pollers translate nothing.
READ and WRITE are asked for; ERROR, HANGUP and INVALID are told unasked. An interest of 0 is allowed: epoll, poll and
kqueue then still tell a reset (and, on both sides shut, a hang-up, which cannot be masked). select cannot, which its
own docstring says.

`poll` returns `(fd, events)` pairs; what an fd means is the loop's business. It never raises for a descriptor that
somebody else closed: it tells INVALID, where the platform lets it know (rule R14).

A number is watched for the file that it meant when it was registered. `modify` raises, and `unregister` tells, when it
means another by now: epoll and kqueue know that by themselves, for the others the file is noted.
"""

from __future__ import annotations

import errno
import math
import os
import select
import selectors
import sys
from collections.abc import Iterable
from typing import Protocol

from reactor.syscalls import identity

READ = 1
WRITE = 4
ERROR = 8
HANGUP = 16
INVALID = 32


class Poller(Protocol):
    """What the loop asks of a poller. Registering twice, or changing what is not registered, is an error."""

    def register(self, fd: int, interest: int) -> None: ...
    def modify(self, fd: int, interest: int) -> None:
        """FileNotFoundError if the number means another file by now, another OSError if it means none."""
        ...

    def unregister(self, fd: int) -> bool:
        """False if the number means another file by now, or none."""
        ...

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Waits at most `timeout` seconds: None is for ever, 0 not at all; never negative."""
        ...

    def fileno(self) -> int:
        """A descriptor that is readable while `poll(0)` would return something; OSError where there is none."""
        ...

    def close(self) -> None: ...
    def close_copy(self) -> None:
        """In a forked child: closes the child's copies of descriptors. The parent's registrations stay as they are."""
        ...


class _Files:
    """What file each registered number means, for pollers that only know numbers."""

    def __init__(self) -> None:
        self._known: dict[int, object] = {}

    def note(self, fd: int) -> None:
        self._known[fd] = identity(fd)

    def check(self, fd: int) -> None:
        """OSError when the number means another file, or none; it is forgotten then."""
        now = identity(fd)
        if now is None or now != self._known.get(fd):
            self._known.pop(fd, None)
            if now is None:
                raise OSError(errno.EBADF, f"descriptor {fd} was closed while it was watched")
            raise FileNotFoundError(errno.ENOENT, f"descriptor {fd} was opened anew while it was watched")

    def forget(self, fd: int) -> bool:
        """Whether it still meant the same file."""
        known = self._known.pop(fd, None)
        return known is not None and known == identity(fd)


class _NoDescriptor:
    """A poller that is a system call, not a descriptor: it cannot be waited on by another loop."""

    def fileno(self) -> int:
        raise OSError(f"{type(self).__name__} has no descriptor to embed by; use epoll or kqueue, or call run_once()")

    def close(self) -> None:
        """Nothing is held."""

    close_copy = close


class PollPoller(_NoDescriptor):
    """poll(2): everywhere but on Windows; costs time in proportion to the descriptors."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._files = _Files()

    def register(self, fd: int, interest: int) -> None:
        self._poll.register(fd, interest)
        self._files.note(fd)

    def modify(self, fd: int, interest: int) -> None:
        try:
            self._files.check(fd)
        except OSError:
            self._poll.unregister(fd)
            raise
        self._poll.modify(fd, interest)

    def unregister(self, fd: int) -> bool:
        try:
            self._poll.unregister(fd)
        except KeyError:
            return False  # `modify` found that it is gone
        return self._files.forget(fd)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        # Milliseconds, rounded up: a poll that ends just before a timer is due would be followed by another.
        return self._poll.poll(None if timeout is None else math.ceil(timeout * 1000))


class SelectPoller(_NoDescriptor):
    """select(2): everywhere; only descriptors below 1,024, and a reset goes unseen while neither side is asked for."""

    # FD_SETSIZE, which CPython was compiled with; a larger one would be written past the end of a C array.
    DESCRIPTORS = 1024

    def __init__(self) -> None:
        self._interest: dict[int, int] = {}
        self._files = _Files()

    def register(self, fd: int, interest: int) -> None:
        if not 0 <= fd < self.DESCRIPTORS:
            raise OSError(f"select cannot watch descriptor {fd}: it takes those below {self.DESCRIPTORS}")
        if fd in self._interest:
            raise FileExistsError(f"descriptor {fd} is registered already")
        self._interest[fd] = interest
        self._files.note(fd)

    def modify(self, fd: int, interest: int) -> None:
        if fd not in self._interest:
            raise FileNotFoundError(f"descriptor {fd} is not registered")
        try:
            self._files.check(fd)
        except OSError:
            del self._interest[fd]
            raise
        self._interest[fd] = interest

    def unregister(self, fd: int) -> bool:
        self._interest.pop(fd, None)
        return self._files.forget(fd)

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
        self._files = _Files()

    def register(self, fd: int, interest: int) -> None:
        self._select(fd, interest)
        self._files.note(fd)

    def _select(self, fd: int, interest: int) -> None:
        if interest:
            self._selector.register(fd, self._events(interest))
        else:
            self._resting.add(fd)

    def modify(self, fd: int, interest: int) -> None:
        try:
            self._files.check(fd)
        except OSError:
            self._deselect(fd)
            raise
        if interest and fd not in self._resting:
            self._selector.modify(fd, self._events(interest))
        else:
            self._deselect(fd)
            self._select(fd, interest)

    def unregister(self, fd: int) -> bool:
        self._deselect(fd)
        return self._files.forget(fd)

    def _deselect(self, fd: int) -> None:
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

    close_copy = close


POLLERS: dict[str, type[Poller]] = {}

if hasattr(select, "epoll"):
    # Asked for at first, because the array is allocated at each call; when there are more, all are asked for.
    _EVENTS_PER_POLL = 512
    # What epoll_ctl(2) says of a number that is not the file which was registered: closed, another file, or one that
    # cannot be polled. Any other failure tells nothing of that.
    _NOT_OURS = frozenset({errno.EBADF, errno.ENOENT, errno.EPERM})

    class EpollPoller:
        """epoll(7), level-triggered. Forgets a descriptor that somebody else closes, so nothing is told of it.

        Unless a duplicate keeps it open, here or in a forked process: then epoll tells of it for ever, under a number
        that is nobody's or another's by now, and nobody can take it out any more (epoll(7), "Questions and answers",
        Q6). So after a touch that shows one to be gone, the next `poll` begins with a new epoll, and with those that
        are there.
        """

        def __init__(self) -> None:
            self._epoll = select.epoll()
            # The same for every epoll, and for no socket or file on a disk.
            self._kind = identity(self._epoll.fileno())
            self._interest: dict[int, int] = {}
            # One of those, and what file it is: an epoll with our number that does not know it is not ours.
            self._witness: tuple[int, object] = (-1, None)
            # One was found that was closed behind our back: the kernel may know it still.
            self._haunted = False
            # Whoever waits for `fileno()` waits for this one: it stays, and is readable when the other is.
            self._outer: select.epoll | None = None

        def register(self, fd: int, interest: int) -> None:
            self._epoll.register(fd, interest)
            self._interest[fd] = interest
            if self._witness[0] not in self._interest:
                self._witness = (fd, identity(fd))

        def modify(self, fd: int, interest: int) -> None:
            try:
                self._epoll.modify(fd, interest)
            except OSError:
                self._haunted = True
                raise
            self._interest[fd] = interest

        def unregister(self, fd: int) -> bool:
            del self._interest[fd]
            try:
                self._epoll.unregister(fd)
            except OSError as exc:
                self._haunted = True
                return exc.errno not in _NOT_OURS
            return True

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
            # Only the old one knows whether a number still means the file that was registered.
            gone = [fd for fd, interest in self._interest.items() if not self._knows(fd, interest)]
            if self._outer is not None:
                self._outer.unregister(self._epoll)
                self._outer.register(new, READ)
            self._epoll.close()  # before the watches come twice: a user may have so many (max_user_watches)
            self._epoll, self._haunted = new, False
            for fd, interest in self._interest.items():
                if fd not in gone:
                    try:
                        new.register(fd, interest)
                    except OSError:
                        gone.append(fd)
            return [(fd, INVALID) for fd in gone]

        def _knows(self, fd: int, interest: int) -> bool:
            try:
                self._epoll.modify(fd, interest)
            except OSError as exc:
                return exc.errno not in _NOT_OURS
            except MemoryError:
                pass
            return True

        def fileno(self) -> int:
            if self._outer is None:
                outer = select.epoll()
                outer.register(self._epoll, READ)
                self._outer = outer
            return self._outer.fileno()

        def close(self) -> None:
            fd, file = self._witness
            if fd in self._interest and identity(fd) == file and not self._knows(fd, self._interest[fd]):
                _taken_from_us.append(self._epoll)
                self._close(self._outer)
            else:
                self.close_copy()

        def close_copy(self) -> None:
            self._close(self._epoll)
            self._close(self._outer)

        def _close(self, epoll: select.epoll | None) -> None:
            if epoll is None or epoll.closed:
                return
            if identity(epoll.fileno()) == self._kind:
                epoll.close()
            else:
                _taken_from_us.append(epoll)

    # What somebody else closed. It is kept, because to drop it closes the number, which is another's by now.
    _taken_from_us: list[object] = []

    POLLERS["epoll"] = EpollPoller

if sys.platform not in ("linux", "win32"):  # pragma: no cover (BSD, macOS)

    class KqueuePoller:
        """kqueue(2): a filter for each side asked for; with none, a reset is not told. Not yet run in CI."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self._interest: dict[int, int] = {}
            self._files = _Files()  # kqueue knows nothing of one with an interest of 0

        def register(self, fd: int, interest: int) -> None:
            if fd in self._interest:
                raise FileExistsError(f"descriptor {fd} is registered already")
            self._change(fd, 0, interest)
            self._files.note(fd)

        def modify(self, fd: int, interest: int) -> None:
            try:
                self._files.check(fd)
            except OSError:
                del self._interest[fd]
                raise
            self._change(fd, self._interest[fd], interest)

        def unregister(self, fd: int) -> bool:
            try:
                self._change(fd, self._interest.pop(fd, 0), 0)
            except OSError:
                pass  # closed behind our back: the kernel has forgotten it already
            self._interest.pop(fd, None)
            return self._files.forget(fd)

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

        close_copy = close

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
