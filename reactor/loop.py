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

import logging
import math
import selectors
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from reactor import pollers
from reactor.errors import Misuse, ReactorClosed
from reactor.report import Totals
from reactor.system import System
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


class Mortal(Protocol):
    """An end that must be buried at the end of its last turn."""

    def bury(self) -> None:
        """Release the descriptor and tell who must be told."""

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


class Loop:
    """The turn, and what is asked of it from inside. `Reactor` adds what is asked of it from outside."""

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
        self._turning = False
        self._stopping = False
        self._closed = False
        self.waker = Waker(self.system)
        self.admit(self.waker.fileno(), self.waker)
        self.poller.register(self.waker.fileno(), pollers.READ)

    # Running

    def run(self) -> None:
        """Turns until `stop()`, or until nothing is left that could ever wake it.

        What could: an end (connection, listener, connect under way, watched descriptor), a timer, a posted call, a
        thread's result. May be called again afterwards. Raises Misuse inside a turn, ReactorClosed after `close()`.
        """
        self._check_can_turn("run()")
        try:
            while not self._stopping and self._has_work():
                self._turn(None)
        finally:
            self._stopping = False

    def run_once(self, timeout: float | None = None) -> None:
        """One turn, which waits at most `timeout` seconds (None: until something happens; 0: not at all).

        For a host that lends its own loop: call `run_once(0)` when `fileno()` is readable or `timeout()` has passed.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"run_once() waits for zero or more seconds, not {timeout!r}")
        self._check_can_turn("run_once()")
        try:
            self._turn(timeout)
        finally:
            self._stopping = False  # there is no run() for it to stop

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
            self._serve(ready)
            self._fire_timers()
            self._run_posted()
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

    def _run_posted(self) -> None:
        for _ in range(len(self._posted)):
            handle = self._posted.popleft()
            self.call(handle.owner, handle.run)

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
        deadline = self.timers.next_deadline()
        waits = [_LONGEST_WAIT] if timeout is None else [_LONGEST_WAIT, timeout]
        if deadline is None:
            return None if timeout is None else min(waits)
        return min(max(0.0, deadline - self.system.time()), *waits)

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
        self.waker.wake()
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
        self._posted.append(handle)
        if not self._turning:
            self.nudge()

    def set_timer(self, when: float, owner: Any, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """`call_at` for somebody who is told of an exception."""
        handle = self.timers.add(when, owner, callback, *args)
        self.nudge()
        return handle

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
        self.gathered.append(end)
        self.nudge()

    def came_to_nothing(self, end: Resting) -> None:
        """An event of `end` was served, and neither did anything come of it nor will the poller cease to tell of it.

        Turn after turn, that would be a spin: then `end` leaves the poller, for 10 ms doubling to 1 s while it goes on,
        with one log line.
        """
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
        if end in self.resting:
            spin.turn = self.turns
            self.resting.discard(end)
            end.go_on()

    def admit(self, fd: int, end: End) -> None:
        """Counts `end` among the ends, under its descriptor."""
        there = self.ends.get(fd)
        if there is not None:
            there.displaced()  # the kernel gave the number away anew, so that descriptor was closed by somebody
        self.ends[fd] = end

    def dismiss(self, fd: int, registered: bool) -> None:
        """Forgets the end of this descriptor, also for the rest of this batch."""
        end = self.ends.pop(fd)
        if self._spins:
            spin = self._spins.pop(end, None)  # type: ignore[call-overload]
            self.resting.discard(end)
            if spin is not None and spin.timer is not None:
                spin.timer.cancel()
        if registered:
            self.poller.unregister(fd)

    def doom(self, end: Mortal) -> None:
        """`end.bury()` is called at the end of the turn."""
        self.dead.append(end)
        self.nudge()

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
            self.waker.abandon()
            self.poller.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"turns={self.turns} ends={len(self.ends) - 1} timers={len(self.timers)}"
        return f"<{type(self).__name__} {state}>"
