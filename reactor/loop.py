"""The loop: one turn after another, in a fixed order, and user code called from one place.

A turn: send what was gathered; poll (the only place that waits); read the clock once; serve what is ready; fire the
timers due now; run the calls posted before now; bury the dead. So a descriptor's number is never reused within a turn,
and a write made anywhere in it leaves before the loop sleeps.

*Ends* are what the loop serves: connections, listeners, connects under way, foreign descriptors, the waker. An end that
died in a batch is no longer in `ends`, so the rest of the batch passes it by.

An exception that leaves a call made here is its owner's: `owner.callback_failed(exc)` logs it and ends the owner, never
the loop. KeyboardInterrupt and SystemExit leave `run()`; what was pending stays pending.
"""

from __future__ import annotations

import errno
import logging
import math
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol

import attrs

from reactor import pollers
from reactor.errors import Misuse, ReactorClosed
from reactor.report import Totals
from reactor.system import Socket, System
from reactor.timers import Handle, TimerHandle, Timers
from reactor.trace import Observer, Stopwatch, TurnObserver, both, guarded
from reactor.wakeup import Waker

logger = logging.getLogger("reactor")

# A day, in seconds: the pollers' milliseconds must fit a C int.
_LONGEST_WAIT = 86400.0
# Turns in a row in which the events of one end come to nothing, before it pauses: a spurious event is no spin.
_SPINS = 4
# The first pause and the longest, in seconds: as short as nobody notices, doubled so that a long episode costs nothing.
_PAUSE = 0.010
_PAUSE_MOST = 1.0


class End(Protocol):
    """Anything with a descriptor that the loop serves."""

    def on_readable(self) -> None:
        """The descriptor is readable, and nothing else: by far the most common event."""

    def on_events(self, events: int) -> None:
        """Any other combination of events."""

    def callback_failed(self, exc: Exception) -> None:
        """A call made for this end raised: log it, and end what must be ended."""

    def displaced(self) -> None:
        """The descriptor was closed by somebody else, and means something else now, or nothing."""

    def abandon(self) -> None:
        """The loop closes: end at once."""

    def forked(self) -> Sequence[Socket]:
        """In a forked child: serve nothing any more; return what the child has copies of, and the reactor closes."""


class Mortal(Protocol):
    """An end that must be buried at the end of its last turn."""

    def bury(self) -> None:
        """Release the descriptor and tell who must be told."""

    def forked(self) -> Sequence[Socket]: ...
    def callback_failed(self, exc: Exception) -> None: ...


class Gatherer(Protocol):
    """An end that has gathered output in this turn."""

    def flush(self) -> None:
        """Give the kernel what it takes."""

    def callback_failed(self, exc: Exception) -> None: ...


class Resting(Protocol):
    """An end that can leave the poller for a while."""

    def rest(self) -> None:
        """Leave the poller."""

    def go_on(self) -> None:
        """Come back."""

    def callback_failed(self, exc: Exception) -> None: ...


class Starved(Protocol):
    """A listener that waits for a descriptor to be freed."""

    def descriptor_freed(self) -> None: ...
    def callback_failed(self, exc: Exception) -> None: ...


class _Spin:
    """How often in a row the events of one end came to nothing, and how long its next pause is."""

    __slots__ = ("count", "pause", "timer", "turn")

    def __init__(self) -> None:
        self.count = 0
        self.turn = 0
        self.pause = _PAUSE
        self.timer: TimerHandle | None = None


@attrs.frozen
class Inherited:
    """What a forked child has of its parent's loop: copies of the descriptors."""

    system: System
    poller: pollers.Poller
    # With what each meant at the fork: the child may close all of them, and open its own.
    sockets: tuple[tuple[Socket, object], ...]
    parent: int

    def refuse(self) -> Misuse:
        """What every use of the loop raises."""
        return Misuse(
            f"refused: this reactor belongs to process {self.parent}, and this is process {self.system.process()}, "
            "which was forked from it: make a Reactor here (close() closes the copies of the descriptors)"
        )

    def close(self) -> None:
        """Closes the child's copies. The parent, and its peers, notice nothing."""
        for sock, identity in self.sockets:
            self.system.close_copy(sock, identity)
        self.poller.close_copy()


def _refuse(loop: Loop, name: str) -> NoReturn:
    assert loop._inherited is not None
    raise loop._inherited.refuse()


class Loop:
    """The turn, and what is asked of it from inside. `Reactor` adds what is asked of it from outside.

    A loop belongs to the process that made it. A child that is forked has a copy of the memory, and shares the poller
    and the sockets. In the child every use is Misuse, except `close()`, which closes its copies of the descriptors.
    """

    # In a forked child only. Then nothing else is left in the object.
    _inherited: Inherited | None = None

    def __init__(self, *, poller: str | selectors.BaseSelector | None = None, system: System | None = None) -> None:
        self.system = System() if system is None else system
        self.poller = self.system.poller(poller)
        # For the ends, hot: the number of this turn, and the time when the clock was last read.
        self.turns = 0
        self.now = self.system.time()
        # The time when the last poll returned. Only what was due then is judged late: whatever came in time is served.
        self.woke = self.now
        self.ends: dict[int, End] = {}
        self.gathered: list[Gatherer] = []
        self.dead: deque[Mortal] = deque()
        self.starved: dict[Starved, None] = {}  # in order, as a set is not
        self.observer: Observer | None = None
        self._stopwatch: Stopwatch | None = None
        self.timers = Timers()
        self.connections_made = 0
        self.totals = Totals()
        # What is under way elsewhere and will come back (a connect, a call in a thread): run() waits for it.
        self.outside: dict[object, None] = {}
        # Every connection is to be asked to end: those there are, and those that still come.
        self.draining = False
        self._posted: deque[Handle] = deque()
        # Ends whose last events came to nothing; those of them that are out of the poller for a while.
        self._spins: dict[Resting, _Spin] = {}
        self.resting: set[object] = set()
        # Connections that have failed: how many reads of what had arrived each has left, however often it is resumed.
        self.last_reads: dict[object, int] = {}
        self._turning = False
        self._stopping = False
        self._closed = False
        # What each descriptor means that is an end's, and that no poller watches now.
        self._unwatched: dict[int, object] = {}
        # What the last poll told, and (once it was needed) the numbers in it.
        self._batch: list[tuple[int, int]] = []
        self._batch_numbers: frozenset[int] | None = None
        try:
            self.waker = Waker(self.system)
        except BaseException:
            self.poller.close()
            raise
        try:
            self.admit(self.waker.fileno(), self.waker)
            self.watch(self.waker.fileno(), pollers.READ)
        except BaseException:
            self.waker.abandon()
            self.poller.close()
            raise
        self._process = self.system.process()
        self.system.watch_forks(self)

    # Running

    def run(self) -> None:
        """Turns until `stop()`, or until nothing is left that could ever wake it.

        What could: an end (connection, listener, connect under way, watched descriptor), a timer, a posted call, a
        thread's result. May be called again afterwards. Raises Misuse inside a turn, ReactorClosed after `close()`.
        """
        self._check_can_turn("run()")
        self._begin_waiting()
        try:
            while not self._stopping and self._has_work():
                self._turn(None)
        finally:
            self._stopping = False
            self._end_waiting()

    def run_once(self, timeout: float | None = None) -> None:
        """One turn, which waits at most `timeout` seconds (None: until something happens; 0: not at all).

        For a host that lends its own loop: call `run_once(0)` when `fileno()` is readable or `timeout()` has passed.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"run_once() waits for zero or more seconds, not {timeout!r}")
        self._check_can_turn("run_once()")
        waits = timeout != 0
        if waits:
            self._begin_waiting()
        try:
            self._turn(timeout)
        finally:
            self._stopping = False  # there is no run() for it to stop
            if waits:
                self._end_waiting()

    def _begin_waiting(self) -> None:
        """From now on the loop waits by itself: nobody else is there whom a signal could wake."""

    def _end_waiting(self) -> None:
        """No longer."""

    def stop(self) -> None:
        """`run()` returns after this turn; called between runs, the next one returns at once. Nothing is ended."""
        self._stopping = True
        self.nudge()

    def _turn(self, timeout: float | None) -> None:
        self._turning = True
        stopwatch = self._stopwatch
        try:
            if self.gathered:
                self.look_at_clock()  # time may have passed since the last turn, if a host lends us its loop
                self._send_gathered()
            if stopwatch is not None:
                stopwatch.wait()
            ready = self.poller.poll(self._patience(timeout))
            self.woke = self.look_at_clock()
            self.turns += 1
            if stopwatch is not None:
                stopwatch.wake(self.woke)
            # A step with nothing to do costs a test, and no call.
            if ready:
                self._serve(ready)
            if self.woke >= self.timers.earliest:
                self._fire_timers()
            if self._posted:
                self._run_posted()
            if self.dead or self.draining:
                self._bury()
            if stopwatch is not None:
                stopwatch.end(self.turns, len(ready))
        finally:
            self._turning = False

    def _send_gathered(self) -> None:
        # One may be added while they are served, by pause_writing, which comes at most once for each.
        while self.gathered:
            end = self.gathered.pop()
            self.call(end, end.flush)

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        ends, readable, stopwatch = self.ends, pollers.READ, self._stopwatch
        self._batch, self._batch_numbers = ready, None
        for fd, events in ready:
            end = ends.get(fd)
            if end is None:
                continue
            try:  # `call`, written out: this is the hot path
                if stopwatch is not None:
                    stopwatch.timed(end, partial(end.on_events, events))
                elif events == readable:
                    end.on_readable()
                else:
                    end.on_events(events)
            except Exception as exc:
                end.callback_failed(exc)

    def _fire_timers(self) -> None:
        # No more than there are now: one that sets itself anew for the past has its turn in the next.
        for _ in range(len(self.timers)):
            handle = self.timers.pop_due(self.woke)
            if handle is None:
                return
            self.call(handle.owner, handle.run)
            handle.let_go()

    def _run_posted(self) -> None:
        for _ in range(len(self._posted)):
            handle = self._posted.popleft()
            self.call(handle.owner, handle.run)
            handle.let_go()

    def _bury(self) -> None:
        if not self.dead:
            return
        while self.dead:
            end = self.dead.popleft()
            self.call(end, end.bury)
        for starved in tuple(self.starved):
            self.call(starved, starved.descriptor_freed)

    def call(self, owner: Any, function: Callable[[], object]) -> None:
        """The one door to user code."""
        try:
            if self._stopwatch is None:
                function()
            else:
                self._stopwatch.timed(getattr(function, "__self__", owner), function)
        except Exception as exc:
            owner.callback_failed(exc)

    def _patience(self, timeout: float | None) -> float | None:
        """How long this turn may wait."""
        if self._posted or self.gathered or self.dead:
            return 0
        deadline = None if self.timers.earliest == math.inf else self.timers.next_deadline()
        if deadline is None:
            return timeout if timeout is None else min(timeout, _LONGEST_WAIT)
        wait = min(max(0.0, deadline - self.system.time()), _LONGEST_WAIT)
        return wait if timeout is None else min(wait, timeout)

    def _has_work(self) -> bool:
        # The waker alone is no reason to wait.
        return bool(len(self.ends) > 1 or self.timers or self._posted or self.gathered or self.dead or self.outside)

    def _check_can_turn(self, what: str) -> None:
        self.check_open(what)
        self.check_not_turning(what)

    # Calling

    def time(self) -> float:
        """Seconds on the clock that `call_at` means: it never goes back, and has no date."""
        return self.system.time()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Calls it in this turn or the next, in the order of asking. Only from the loop's thread."""
        return self.post(self, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Calls it once, `delay` seconds from now, never earlier."""
        return self.call_at(self.system.time() + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Calls it once, when `time()` has reached `when`."""
        self.check_open("call_at()")
        if not -math.inf < when < math.inf:
            raise ValueError(f"a call can be made at a time that comes, not at {when!r}")
        return self.set_timer(when, self, callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> Handle:
        """`call_soon` from any thread. Calls of one thread are made in its order."""
        self.check_open("call_soon_threadsafe()")
        handle = Handle(self, callback, args)
        self._posted.append(handle)
        try:
            self.waker.wake()
        except BaseException:
            handle.cancel()
            raise
        return handle

    def call_from_thread(self, callback: Callable[..., object], *args: Any) -> None:
        """The same for an answer that may come too late: a closed reactor does not want it any more."""
        self._posted.append(Handle(self, callback, args))
        self.waker.wake()

    # For the ends

    def post(self, owner: Any, callback: Callable[..., object], *args: Any) -> Handle:
        """`call_soon` for somebody who is told of an exception."""
        if self._closed:
            self.check_open("call_soon()")
        handle = Handle(owner, callback, args)
        self.post_handle(handle)
        return handle

    def post_handle(self, handle: Handle) -> None:
        """The same for a handle that was made already."""
        if not self._turning:
            self.nudge()  # first: when that raises, nothing is posted
        self._posted.append(handle)

    def set_timer(self, when: float, owner: Any, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """`call_at` for somebody who is told of an exception."""
        self.nudge()
        return self.timers.add(when, owner, callback, *args)

    def look_at_clock(self) -> float:
        """The time, also as `now` from here on. Once a turn, and where an exact moment matters: when a state begins."""
        self.now = self.system.time()
        return self.now

    def nudge(self) -> None:
        """A host that lends its loop must learn that there is work, when it arose between turns."""
        if not self._turning:
            self.waker.wake()

    def gather(self, end: Gatherer) -> None:
        """`end.flush()` is called before the loop sleeps."""
        self.nudge()
        self.gathered.append(end)

    def came_to_nothing(self, end: Resting) -> None:
        """An event of `end` was served, and neither did anything come of it nor will the poller cease to tell of it.

        Turn after turn, that would be a spin: then `end` leaves the poller, for 10 ms doubling to 1 s while it goes on,
        with one log line.
        """
        if end in self.resting:
            return  # something else asked it during its pause
        spin = self._spins.get(end)
        if spin is None or self.turns - spin.turn > 1:
            spin = self._spins[end] = _Spin()
        elif spin.turn == self.turns and spin.count:
            return  # both sides of one event
        spin.turn = self.turns
        spin.count += 1
        if spin.count < _SPINS:
            return
        if spin.count == _SPINS:
            logger.warning("%r pauses: its events come to nothing", end)
        self.resting.add(end)
        end.rest()
        spin.timer = self.set_timer(self.now + spin.pause, end, self._end_pause, end, spin)
        spin.pause = min(2 * spin.pause, _PAUSE_MOST)

    def _end_pause(self, end: Resting, spin: _Spin) -> None:
        spin.turn = self.turns
        self.resting.discard(end)
        end.go_on()

    def admit(self, fd: int, end: End) -> None:
        """Counts `end` among the ends, under its descriptor."""
        there = self.ends.get(fd)
        if there is not None:
            there.displaced()  # the kernel gave the number away anew, so that descriptor was closed by somebody
        self.ends[fd] = end
        self._unwatched[fd] = self.system.identity(fd)
        self.pass_by(fd)

    def pass_by(self, fd: int) -> None:
        """What the rest of this batch tells of the number is not served: it was told of another registration.

        What is ready is told again: pollers are level-triggered.
        """
        batch = self._batch
        if self._batch_numbers is None:
            self._batch_numbers = frozenset(number for number, _ in batch)
        if fd in self._batch_numbers:
            batch[:] = [(-1 if number == fd else number, events) for number, events in batch]

    def watch(self, fd: int, interest: int) -> None:
        """Registers an end's descriptor. OSError, also when the number means another file than when it was admitted."""
        if not self.is_still_ours(fd):
            raise OSError(errno.EBADF, f"descriptor {fd} of {self.ends[fd]!r} was closed by somebody else")
        self.poller.register(fd, interest)
        del self._unwatched[fd]

    def rest(self, fd: int) -> bool:
        """Takes an end's descriptor out of the poller, until `watch`. False: it is somebody else's by now."""
        if not self.poller.unregister(fd):
            self._unwatched[fd] = None
            return False
        self._unwatched[fd] = self.system.identity(fd)
        return True

    def is_still_ours(self, fd: int) -> bool:
        """Whether the number of an end that no poller watches still means what it meant."""
        known = self._unwatched[fd]
        return known is not None and known == self.system.identity(fd)

    def dismiss(self, fd: int, registered: bool) -> bool:
        """Forgets the end of this descriptor, also for the rest of this batch.

        False: the number is somebody else's by now, or nobody's, so nothing may be done to it.
        """
        end = self.ends.pop(fd)
        if self._spins:
            spin = self._spins.pop(end, None)  # type: ignore[call-overload]
            self.resting.discard(end)
            if spin is not None and spin.timer is not None:
                spin.timer.cancel()
        if registered:
            return self.poller.unregister(fd)
        ours = self.is_still_ours(fd)
        del self._unwatched[fd]
        return ours

    def doom(self, end: Mortal) -> None:
        """`end.bury()` is called at the end of the turn."""
        self.nudge()
        self.dead.append(end)

    def check_not_turning(self, what: str) -> None:
        if self._turning:
            raise Misuse(f"{what} refused: {self!r} is in the middle of a turn")

    def check_open(self, what: str) -> None:
        if self._closed:
            raise ReactorClosed(f"{what} refused: {self!r} is closed")

    def callback_failed(self, exc: Exception) -> None:
        """A call that belongs to no end raised."""
        logger.error("a callback of %r failed", self, exc_info=exc)

    # Looking, embedding, closing

    def observe(self, observer: Observer) -> None:
        """Tells `observer` what happens to every connection that begins from now on (`reactor.trace`)."""
        observer = guarded(observer)
        self.observer = observer if self.observer is None else both(self.observer, observer)

    def observe_turns(self, observer: TurnObserver, slow: float = 0.05) -> None:
        """Tells `observer` of every turn, with the calls in it that took `slow` seconds or more (`trace.Turn`).

        Replaces the one there was; one that raises is logged, and told no more. It costs two looks at the clock for
        each call, and nothing where nobody observes.
        """
        if not callable(observer):
            raise TypeError(f"an observer of turns is called with each, and {observer!r} cannot be")
        if not isinstance(slow, (int, float)) or not slow >= 0:
            raise ValueError(f"a call is slow from a number of seconds on, zero or more, not {slow!r}")
        self._stopwatch = Stopwatch(guarded(observer), slow, self.system.time)

    def fileno(self) -> int:
        """A descriptor that becomes readable when there is something to serve. OSError with poll and select."""
        return self.poller.fileno()

    def timeout(self) -> float | None:
        """Seconds until `run_once(0)` is needed even if `fileno()` stays silent; None: never."""
        return self._patience(None)

    def close(self) -> None:
        """Ends everything now: connections are reset and told so, listeners closed, calls and timers dropped.

        Call `drain` first for an end in order. May be called twice, not inside a turn.
        """
        if self._inherited is not None:
            self._inherited.close()
            return
        if self._closed:
            return
        self.check_not_turning("close()")
        self._closed = True
        try:
            for end in tuple(self.ends.values()):
                if end is not self.waker:
                    self.call(end, end.abandon)
            while self.dead:
                self._bury()
        finally:
            self._spins.clear()
            self.resting.clear()
            self._posted.clear()
            self.gathered.clear()
            self.timers = Timers()
            self.system.close_threads()
            self.poller.close()
            self.waker.abandon()

    # In a forked child

    def is_inherited(self) -> bool:
        """Whether this is a forked child, and the loop its parent's."""
        return self._inherited is not None

    def forked(self) -> None:
        """Leaves everything to the parent. Called in the child, by the system, before anything else happens there."""
        if self._inherited is not None or self._closed:
            return
        system, ends = self.system, self.ends
        sockets = [sock for end in ends.values() for sock in end.forked()]
        sockets += [sock for end in self.dead for sock in end.forked()]
        ends.clear()  # the fork may have been made in the middle of a batch
        inherited = Inherited(
            system=system,
            poller=self.poller,
            sockets=tuple((sock, system.identity(sock.fileno())) for sock in sockets),
            parent=self._process,
        )
        # Every use of it from now on asks for something that is not there. A class with `__getattr__` is slow, so it is
        # not ours from the beginning.
        vars(self).clear()
        self._inherited = inherited
        cls = type(self)
        self.__class__ = type(cls.__name__, (cls,), {"__slots__": (), "__getattr__": _refuse})

    def __repr__(self) -> str:
        if self._inherited is not None:
            return f"<{type(self).__name__} of another process>"
        state = "closed" if self._closed else f"turns={self.turns} ends={len(self.ends) - 1} timers={len(self.timers)}"
        return f"<{type(self).__name__} {state}>"
