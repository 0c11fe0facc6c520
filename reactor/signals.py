"""Signals, served in the loop's own time.

The interpreter calls a handler in the main thread, between two steps of whatever runs there. The handler notes the
number, and wakes the reactor whose signal it is; the call is then made like any other, so it may do whatever a callback
may. Nothing travels through a descriptor that can be full, closed or taken over by somebody else.

A table for the whole process tells which reactors have taken a signal: the last one gets it. When it gives the signal
back, the one before it has it again, and at last what handled it before all of them. If somebody else has put a handler
of his own there meanwhile, that one stays.

Two things still need the interpreter's wake-up descriptor (`signal.set_wakeup_fd`). A signal that arrives in the moment
before the loop waits would be handled only when the loop wakes. And a loop in another thread is not woken by the main
thread's handler while that thread is held up in C. A process has one such descriptor, and asyncio has its signals from
nothing else. So it is a reactor's while that reactor waits, in `run`, and what comes for others is passed on to who had
it. At other times a reactor takes it only if nobody has it.

In a forked child the signals are handled as before all reactors: they are the parent's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from reactor.loop import Loop
from reactor.system import System

# What handled the signal before was a handler of ours, for a reactor that is in the table.
_OURS = object()


@attrs.define(eq=False)
class Taken:
    """A reactor has taken a signal."""

    by: Signals
    before: Any  # what handled it then


class Table:
    """Who has taken which signal, in this process. The last one gets it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._process = system.process()
        self._taken: dict[int, list[Taken]] = {}
        # Bound once, so that it can be recognized.
        self._handler = self._arrived
        system.watch_forks(self)

    def take(self, number: int, by: Signals) -> None:
        """Raises what signal(2) has against it, and leaves nothing behind then."""
        ours = self.has(number)
        # First, so that a signal which comes at once has an owner.
        mine = Taken(by, _OURS)
        self._taken.setdefault(number, []).append(mine)
        if ours:
            return
        try:
            mine.before = self._system.catch_signal(number, self._handler)
        except BaseException:
            self._forget(number, mine)
            raise

    def give_back(self, number: int, by: Signals) -> None:
        """To the one before it, or to what handled it before that."""
        taken = self._taken[number]
        mine = next(one for one in taken if one.by is by)
        if mine.before is not _OURS:
            later = taken[taken.index(mine) + 1 :]
            if later and later[0].before is _OURS:
                later[0].before = mine.before  # it is needed when that one ends
            elif not later and self._system.catches_signal(number, self._handler):
                self._system.restore_signal(number, mine.before)
        self._forget(number, mine)  # last, so that a signal which comes meanwhile has an owner

    def _forget(self, number: int, taken: Taken) -> None:
        self._taken[number].remove(taken)
        if not self._taken[number]:
            del self._taken[number]

    def has(self, number: int) -> bool:
        """Whether the signal comes to a reactor."""
        return number in self._taken and self._system.catches_signal(number, self._handler)

    def owner(self, number: int) -> Signals:
        """Whom it comes to."""
        return self._taken[number][-1].by

    def others(self, than: Signals) -> list[Signals]:
        """The other reactors that have signals."""
        return [one.by for taken in self._taken.values() for one in taken if one.by is not than]

    def _arrived(self, number: int, frame: object) -> None:
        if self._system.process() != self._process:
            # A child in which nothing has happened yet.
            self.forked()
            self._system.raise_signal(number)
        elif number in self._taken:
            self.owner(number).handled(number)

    def forked(self) -> None:
        """Gives all of them back. Called in the child."""
        if self._process == self._system.process():
            return
        self._process = self._system.process()
        ours = {one.by.fileno() for taken in self._taken.values() for one in taken}
        for number in self._taken:
            if self.has(number):
                before = next(one.before for one in self._taken[number] if one.before is not _OURS)
                self._system.restore_signal(number, before)
        self._taken.clear()
        there = self._system.wake_on_signals(-1)
        if there not in ours:
            self._system.wake_on_signals(there)


class Signals:
    """The signals that one reactor has taken. Python allows that only in the main thread: ValueError elsewhere."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._system = loop.system
        self._table = loop.system.shared(Table)
        self._calls: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
        # In the order in which they came; not yet served. One that comes again until then is not another.
        self._waiting: dict[int, None] = {}
        self._descriptor = loop.waker.signal_fileno()
        # The loop waits by itself, in the main thread (or not).
        self._runs = self._runs_elsewhere = False
        # Who had the wake-up descriptor when we began to wait, and what file it was.
        self._before: tuple[int, object] = (-1, None)
        # Told by the handler, or by the descriptor, and not yet by the other; only where the two are not one thread.
        self._handled: set[int] = set()
        self._read: set[int] = set()

    def fileno(self) -> int:
        """What the interpreter may write to."""
        return self._descriptor

    def add(self, number: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Calls it in the loop when the signal arrives; replaces the call it had."""
        self._check_thread()
        if number in self._calls and not self._table.has(number):
            self.remove(number)  # somebody else has it now, and is the one whom it will be given back to
        new = number not in self._calls
        if new:
            self._table.take(number, self)
        try:
            self._take_descriptor(by_force=self._runs)
        except BaseException:
            if new:
                self._table.give_back(number, self)
            raise
        self._calls[number] = (callback, args)
        self._loop.waker.on_signal, self._loop.waker.on_woken = self._written, self._woken

    def remove(self, number: int) -> bool:
        """Gives the signal back; False when it was not taken."""
        if number not in self._calls:
            return False
        self._check_thread()
        last = len(self._calls) == 1
        if last:
            self._give_descriptor_back()
        try:
            self._table.give_back(number, self)
        except BaseException:
            if last:
                self._take_descriptor(by_force=self._runs)
            raise
        del self._calls[number]
        if not self._calls:
            self._loop.waker.on_signal = self._loop.waker.on_woken = None
        return True

    def close(self) -> None:
        """Gives back all of them."""
        for number in tuple(self._calls):
            self.remove(number)

    def _check_thread(self) -> None:
        if not self._system.in_main_thread():
            raise ValueError("signals can be handled only in the main thread")

    def can_close(self) -> bool:
        """Whether there is nothing to give back, or it can be done in this thread."""
        return not self._calls or self._system.in_main_thread()

    def has_arrived(self) -> bool:
        """Whether a signal came whose call is still to be made."""
        return bool(self._waiting)

    # What arrives

    def handled(self, number: int) -> None:
        """The interpreter has called the handler: in the main thread, at any moment."""
        if self._runs_elsewhere:
            if number in self._read:
                self._read.discard(number)
                return
            self._handled.add(number)
        self._post(number)

    def _written(self, number: int) -> None:
        """The interpreter has written the number to our descriptor."""
        if not self._table.has(number):
            fd, identity = self._before
            if fd >= 0 and self._system.identity(fd) == identity:
                self._system.pass_signal_on(fd, number)
        elif self._runs_elsewhere:
            owner = self._table.owner(number)
            if number in owner._handled:
                owner._handled.discard(number)
            else:
                owner._read.add(number)
                owner._post(number)

    def _post(self, number: int) -> None:
        self._waiting[number] = None
        self._loop.waker.wake()

    def _woken(self) -> None:
        """The loop has polled since: what had come before a signal is served before its call."""
        for number in tuple(self._waiting):
            del self._waiting[number]
            self._loop.post(self._loop, self._call, number)

    def _call(self, number: int) -> None:
        if self._runs:
            # Somebody may have taken it since, in a callback, and is not waiting now: we are.
            self._take_descriptor(by_force=True)
        known = self._calls.get(number)
        if known is not None:
            callback, args = known
            callback(*args)

    # The wake-up descriptor

    def begin_waiting(self) -> None:
        """The loop waits by itself from now on."""
        main = self._system.in_main_thread()
        self._runs, self._runs_elsewhere = main, not main
        self._handled.clear()
        self._read.clear()
        if main and self._calls:
            self._take_descriptor(by_force=True)

    def end_waiting(self) -> None:
        """No longer."""
        runs, self._runs = self._runs, False
        if runs and self._calls:
            self._give_descriptor_back()
            self._take_descriptor(by_force=False)

    def _take_descriptor(self, by_force: bool) -> None:
        there = self._system.wake_on_signals(self._descriptor)
        if there in (-1, self._descriptor):
            return
        if by_force:
            self._before = (there, self._system.identity(there))
        else:
            self._system.wake_on_signals(there)

    def _give_descriptor_back(self) -> None:
        """To who had it, if it is still the same file; else to another reactor that has signals."""
        now = self._system.wake_on_signals(-1)
        (fd, identity), self._before = self._before, (-1, None)
        if now != self._descriptor:
            self._system.wake_on_signals(now)  # another's by now, and not ours to take away
        elif fd >= 0 and self._system.identity(fd) == identity:
            self._system.wake_on_signals(fd)
        else:
            for other in self._table.others(self)[:1]:
                self._system.wake_on_signals(other.fileno())
