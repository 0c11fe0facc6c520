"""A reactor as the guest of another loop: asyncio's, Tk's, or another reactor's.

A host does two things for its guest: it watches one descriptor, and it keeps one timer. The descriptor
(`Reactor.fileno`) is readable whenever there is something to serve, also calls and timers that were added between
turns; the timer is for what is due by the clock (`Reactor.timeout`). Each of the two makes the guest take one turn that
does not wait. With nothing to do there is no turn at all.

The timer is set anew after each turn, and only when its time has changed: most turns serve a socket and leave it alone.
"""

from __future__ import annotations

from collections.abc import Callable

from reactor.reactor import Reactor

# Seconds by which a timer may differ and still be the same: `timeout()` is computed from a moving clock.
# Far below any host's resolution.
_SAME = 0.0001


class Guest:
    """Lets `reactor` live on a host's loop until `leave()`, or until it was drained.

    The host is two callables. `watch(fd, callback)` calls back whenever the descriptor is readable;
    `call_later(seconds, callback)` calls back once. Each returns a callable without arguments that undoes it, which is
    called at most once, and for a timer only before that was due.

    `drained()` is called in the host's loop when a drain has finished: the guest has left by then. What leaves
    `run_once` (KeyboardInterrupt, SystemExit) goes up into the host. OSError with a poller that has no descriptor of
    its own (poll, select). Everything happens in the host's thread. The reactor stays yours to close, once the guest
    has left.

    Two things are asked of the host's callbacks. Begin a drain by `reactor.call_soon(reactor.drain, seconds)`: one that
    is called between two turns runs the reactor itself until it has finished, and holds up the host meanwhile. And
    never turn the host's loop from inside a callback of the reactor's (a modal dialog does that): it is Misuse.
    """

    def __init__(
        self,
        reactor: Reactor,
        watch: Callable[[int, Callable[[], None]], Callable[[], object]],
        call_later: Callable[[float, Callable[[], None]], Callable[[], object]],
        drained: Callable[[], object] | None = None,
    ) -> None:
        self._reactor = reactor
        self._call_later = call_later
        self._drained = drained
        # When the host's timer is due, by the reactor's clock, and what cancels it.
        self._due: float | None = None
        self._cancel_timer: Callable[[], object] | None = None
        self._unwatch: Callable[[], object] | None = watch(reactor.fileno(), self._turn)
        try:
            self._set_timer()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Takes no turns any more. Again does nothing. The reactor is left as it is: `run()` would go on with it."""
        if self._unwatch is None:
            return
        self._unwatch()
        self._unwatch = None
        self._drop_timer()

    def _turn(self) -> None:
        if self._unwatch is None:
            return  # a host may call once more what it had already found ready
        try:
            self._reactor.run_once(0)
        finally:
            self._set_timer()
        summary = self._reactor.drained
        if summary is not None and summary.finished:
            self.leave()
            if self._drained is not None:
                self._drained()

    def _timer_fired(self) -> None:
        self._due = self._cancel_timer = None
        self._turn()

    def _set_timer(self) -> None:
        if self._unwatch is None or self._reactor.is_inherited():
            return  # a callback of the turn has left; or has forked, and this is the child
        wait = self._reactor.timeout()
        due = None if wait is None else self._reactor.time() + wait
        if due is not None and self._due is not None and abs(due - self._due) < _SAME:
            return
        self._drop_timer()
        if wait is not None:
            self._due = due
            self._cancel_timer = self._call_later(wait, self._timer_fired)

    def _drop_timer(self) -> None:
        cancel, self._cancel_timer, self._due = self._cancel_timer, None, None
        if cancel is not None:
            cancel()
