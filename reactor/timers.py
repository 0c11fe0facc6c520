"""Calls that wait: handles that can be cancelled, and a heap of those that wait for a time.

The heap is told the time and never asks. Cancelling is a mark, O(1); a cancelled timer leaves the heap when its time
comes, or earlier, when cancelled ones outnumber the live: so a million set and cancelled cost memory only for a while,
and each set or cancel costs O(log n) at most, on average.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any

# Below so many cancelled ones a clean-up is not worth its own cost.
_CLEAN_UP_FROM = 64


class Handle:
    """A call that will be made once, unless it is cancelled first."""

    __slots__ = ("_args", "_callback", "_cancelled", "owner")

    def __init__(self, owner: Any, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not callable(callback):
            raise TypeError(f"only something callable can be called, not {callback!r}")
        # Whose fault an exception is: it is told by `owner.callback_failed(exc)`. None once it was made or cancelled.
        self.owner: Any = owner
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._cancelled = False

    def cancel(self) -> None:
        """Takes the call back. Nothing happens when it was already made or cancelled. What it held is let go."""
        self._cancelled = True
        self.let_go()

    def cancelled(self) -> bool:
        """Whether it was taken back."""
        return self._cancelled

    def run(self) -> None:
        """Makes the call. Only the loop does."""
        callback, args = self._callback, self._args
        if callback is not None:
            callback(*args)

    def let_go(self) -> None:
        """It was made: what it held is let go, so that an object which keeps its own handle is no cycle."""
        self.owner = None
        self._callback = None
        self._args = ()

    def __repr__(self) -> str:
        what = getattr(self._callback, "__qualname__", repr(self._callback))
        if self._callback is None:
            what = "cancelled" if self._cancelled else "made"
        return f"<{type(self).__name__} {what}>"


class TimerHandle(Handle):
    """A call that waits for a time."""

    __slots__ = ("_timers", "_when")

    def __init__(
        self, timers: Timers, when: float, owner: Any, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        super().__init__(owner, callback, args)
        self._timers: Timers | None = timers
        self._when = when

    def when(self) -> float:
        """The time it is due, in seconds of `Reactor.time()`."""
        return self._when

    def cancel(self) -> None:
        super().cancel()
        timers, self._timers = self._timers, None
        if timers is not None:
            timers.forget_one()

    def run(self) -> None:
        self._timers = None
        super().run()


class Timers:
    """Every timer of a loop, the earliest first; of the same time, the one set first."""

    __slots__ = ("_cancelled", "_heap", "_order", "earliest")

    def __init__(self) -> None:
        # Tuples, because heapq then compares in C.
        self._heap: list[tuple[float, int, TimerHandle]] = []
        self._order = count()
        self._cancelled = 0
        # No live one is due before this time: until then a loop need not ask for any.
        self.earliest = math.inf

    def __len__(self) -> int:
        """How many live ones there are."""
        return len(self._heap) - self._cancelled

    def add(self, when: float, owner: Any, callback: Callable[..., object], *args: Any) -> TimerHandle:
        handle = TimerHandle(self, when, owner, callback, args)
        heapq.heappush(self._heap, (when, next(self._order), handle))
        if when < self.earliest:
            self.earliest = when
        return handle

    def next_deadline(self) -> float | None:
        """When the earliest live one is due."""
        heap = self._heap
        while heap and heap[0][2].cancelled():
            heapq.heappop(heap)
            self._cancelled -= 1
        self.earliest = heap[0][0] if heap else math.inf
        return self.earliest if heap else None

    def upcoming(self, most: int) -> list[TimerHandle]:
        """The next live ones, in the order in which they are due; for looking."""
        live = (entry for entry in self._heap if not entry[2].cancelled())
        return [handle for _, _, handle in heapq.nsmallest(most, live)]

    def pop_due(self, now: float) -> TimerHandle | None:
        """The earliest live one that is due by `now`, taken out; None when there is none."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        handle = heapq.heappop(self._heap)[2]
        self.next_deadline()
        return handle

    def forget_one(self) -> None:
        """One in the heap was cancelled."""
        self._cancelled += 1
        if self._cancelled > _CLEAN_UP_FROM and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].cancelled()]
            heapq.heapify(self._heap)
            self._cancelled = 0
