"""How the loop is doing: its turns, its timers, and which calls keep the others waiting.

A single-threaded loop has one way to be ill: somebody works for so long that everybody waits. Two measures show it:

*Turns* (`Reactor.observe_turns`): how long each worked, and which calls in it were slow. A turn names an end, such as a
connection; its last callback in that turn is known from the records, and added.

*A timer's lateness.* Our tick asks for a time and notes how late it comes. That is what a program feels, also when it
is the machine that has no time for the whole process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from reactor import Reactor, TimerHandle
from reactor.trace import CALLBACKS, Record, Turn

# Below a tenth of a second people notice nothing, and a page that moves more often only flickers.
TICK = 0.2
# Samples of which the page draws its curves: a minute.
SAMPLES = 300
# A call that takes this long delays everybody noticeably at a hundred of them a second.
SLOW = 0.010
SLOW_KEPT = 50
UPCOMING_SHOWN = 10
# The upper bounds of the histograms' buckets, in seconds: from nothing to speak of to an outage.
BUCKETS = (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


@attrs.define
class Histogram:
    """Counts per bucket, as Prometheus has them: the last bucket has no bound."""

    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.total += seconds
        self.counts[next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))] += 1

    def cumulative(self) -> list[tuple[str, float]]:
        """`(upper bound, how many up to it)`, the last for `+Inf`."""
        pairs, sum_so_far = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            sum_so_far += count
            pairs.append((bound, float(sum_so_far)))
        return pairs


@attrs.frozen
class Slow:
    """A call that took `SLOW` seconds or more: of what, and, of a connection, its last callback in that turn."""

    time: float
    what: str
    callback: str
    seconds: float


@attrs.frozen
class Sample:
    """What happened between two ticks."""

    time: float
    turns: int
    late: float
    # Seconds that turns worked, and the longest of them.
    busy: float
    longest: float
    timers: int


class Pulse:
    """Measures one reactor; `observe` is an observer, `tick` is to be called when its timer fires.

    `is_own` tells of a connection's name whether it is the monitor's: its calls are nobody's business.
    """

    def __init__(self, reactor: Reactor, is_own: Callable[[str], bool]) -> None:
        self._reactor = reactor
        self._is_own = is_own
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self.slow: deque[Slow] = deque(maxlen=SLOW_KEPT)
        self.slow_calls = 0
        self.lateness = Histogram()
        self.work = Histogram()
        # By connection, in this turn.
        self._callbacks: dict[str, str] = {}
        self._turns = reactor.turns
        self._busy = self._longest = 0.0
        reactor.observe_turns(self._turn_over, slow=SLOW)

    def observe(self, record: Record) -> None:
        """Notes who was called last."""
        if record.what in CALLBACKS:
            self._callbacks[record.connection] = record.what

    def _turn_over(self, turn: Turn) -> None:
        self._busy += turn.worked
        self._longest = max(self._longest, turn.worked)
        self.work.add(turn.worked)
        for call in turn.slow:
            kind, _, rest = call.what.partition(" ")
            name = rest.partition(" ")[0] if kind == "<Connection" else ""
            if not self._is_own(name):
                self.slow_calls += 1
                self.slow.append(Slow(turn.time, call.what, self._callbacks.get(name, ""), call.seconds))
        self._callbacks.clear()

    def tick(self, timer: TimerHandle) -> None:
        """One sample; `timer` is the one that has just fired."""
        now, turns = self._reactor.time(), self._reactor.turns
        late = max(0.0, now - timer.when())
        self.lateness.add(late)
        timers = len(self._reactor.timers)
        self.samples.append(Sample(now, turns - self._turns, late, self._busy, self._longest, timers))
        self._turns, self._busy, self._longest = turns, 0.0, 0.0

    def facts(self) -> dict[str, Any]:
        """The latest sample, and what is so at this moment, for JSON."""
        now = self._reactor.time()
        upcoming = [
            {"due_in": max(0.0, timer.when() - now), "what": repr(timer), "owner": repr(timer.owner)}
            for timer in self._reactor.timers.upcoming(UPCOMING_SHOWN)
        ]
        return {
            "turns": self._reactor.turns,
            "timers": len(self._reactor.timers),
            "upcoming": upcoming,
            "slow_calls": self.slow_calls,
            "slow_from": SLOW,
            "sample": attrs.asdict(self.samples[-1]) if self.samples else None,
        }

    def history(self) -> dict[str, Any]:
        """All that is kept, for JSON."""
        return {
            "samples": [attrs.asdict(sample) for sample in self.samples],
            "slow": self.latest(len(self.slow)),
        }

    def latest(self, count: int) -> list[dict[str, Any]]:
        """The last so many slow calls, for JSON."""
        return [attrs.asdict(call) for call in tuple(self.slow)[len(self.slow) - min(count, len(self.slow)) :]]
