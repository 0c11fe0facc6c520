"""Every interleaving, up to a depth: breadth first, so that the first violation found is a shortest one.

A world cannot be copied, so each schedule is run from the beginning; a world is cheap. A schedule that leads to a state
seen before is not continued: its future is known. At each new state the world is also run to its end, once with a
silent peer and once with a kind one, because an invariant may break only there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import attrs

from reactor.testing.doorway import Doorway
from reactor.testing.machine import SCENARIOS, ErrorLog, Machine, Scenario, Violation
from reactor.testing.pair import Pair
from reactor.testing.world import World
from reactor.trace import Observer, Record

Schedule = tuple[str, ...]


@attrs.define
class Result:
    """What an exploration covered, and the first violation, if there was one."""

    scenario: str
    depth: int = 0
    # Schedules run, each different; the states they led to; runs to the end.
    schedules: int = 0
    states: int = 0
    endings: int = 0
    # Depth -> new states found at it.
    by_depth: dict[int, int] = attrs.field(factory=dict)
    violation: Schedule | None = None
    what: str = ""

    @property
    def text(self) -> str:
        """The schedule that breaks something, as `replay` takes it."""
        return as_text(self.scenario, self.violation or ())


def as_text(scenario: str, schedule: Iterable[str]) -> str:
    """A schedule in one line."""
    return f"{scenario}: {' '.join(schedule)}"


def from_text(text: str) -> tuple[Scenario, Schedule]:
    """The inverse of `as_text`. ValueError for a scenario that does not exist."""
    name, _, steps = text.partition(":")
    if name.strip() not in SCENARIOS:
        raise ValueError(f"there is no scenario {name.strip()!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name.strip()], tuple(steps.split())


class Exploration:
    """One scenario's."""

    def __init__(
        self,
        scenario: Scenario,
        progress: Callable[[Result], object] | None = None,
        most_schedules: int | None = None,
    ) -> None:
        self.result = Result(scenario.name)
        self._scenario = scenario
        self._progress = progress
        self._most = most_schedules
        self._seen: set[int] = set()

    def run(self, depth: int) -> Result:
        """All schedules of up to `depth` steps; stops at the first violation."""
        result = self.result
        with ErrorLog() as log:
            frontier: list[tuple[Schedule, list[str]]] = [((), self._visit((), log))]
            for level in range(1, depth + 1):
                following: list[tuple[Schedule, list[str]]] = []
                for schedule, steps in frontier:
                    for step in steps:
                        if result.violation is not None or (self._most is not None and result.schedules >= self._most):
                            return result
                        longer = (*schedule, step)
                        further = self._visit(longer, log)
                        if further:
                            following.append((longer, further))
                result.depth = level
                result.by_depth[level] = len(following)
                if self._progress is not None:
                    self._progress(result)
                frontier = following
        return result

    def _visit(self, schedule: Schedule, log: ErrorLog) -> list[str]:
        """Runs a schedule; returns how it can go on, or nothing when that is known already."""
        result = self.result
        result.schedules += 1
        if self._progress is not None and result.schedules % 2000 == 0:
            self._progress(result)
        try:
            world = run_schedule(self._scenario, schedule, log)
            state = hash(world.fingerprint())
            if state in self._seen:
                return []
            self._seen.add(state)
            result.states += 1
            steps = world.steps()
            world.finish(kind=False)
            run_schedule(self._scenario, schedule, log).finish(kind=True)
            result.endings += 2
        except Exception as exc:
            result.violation = schedule
            result.what = str(exc) if isinstance(exc, Violation) else f"{type(exc).__name__}: {exc}"
            return []
        return steps


def make_machine(scenario: Scenario, log: ErrorLog, observer: Observer | None = None) -> Machine:
    """The scenario's, at its beginning."""
    if scenario.doorway:
        return Doorway(scenario, log, observer)
    return (Pair if scenario.pair else World)(scenario, log, observer)


def run_schedule(scenario: Scenario, schedule: Schedule, log: ErrorLog) -> Machine:
    """A world in which the schedule has happened, checked after its last step: the others were checked before."""
    log.unexpected.clear()
    world = make_machine(scenario, log)
    for step in schedule:
        world.do(step)
    world.check()
    return world


def explore(
    scenario: str | Scenario,
    depth: int,
    *,
    progress: Callable[[Result], object] | None = None,
    most_schedules: int | None = None,
) -> Result:
    """Explores one scenario to a depth."""
    chosen = SCENARIOS[scenario] if isinstance(scenario, str) else scenario
    return Exploration(chosen, progress, most_schedules).run(depth)


def replay(text: str, tell: Callable[[str], None] = print) -> Violation | None:
    """Runs one schedule with its trace, and then both ways to its end; returns the violation it meets, if any."""
    scenario, schedule = from_text(text)
    for kind in (False, True):
        tell(f"--- {scenario.name}, then a {'kind' if kind else 'silent'} peer")
        with ErrorLog() as log:
            try:
                world = make_machine(scenario, log, lambda record: tell("  " + _line_of(record)))
                world.check()
                for step in schedule:
                    tell(f"{world.system.now:8.3f} {step}")
                    world.do(step)
                    world.check()
                tell(f"         {world}")
                world.finish(kind)
                tell(f"         {world}")
            except Exception as exc:
                tell(f"VIOLATION: {exc if isinstance(exc, Violation) else repr(exc)}")
                return exc if isinstance(exc, Violation) else Violation(repr(exc))
    tell("no violation")
    return None


def _line_of(record: Record) -> str:
    """A record as a line of a replay."""
    count = "" if record.count is None else f" {record.count}"
    return f"{record.time:10.3f}  {record.what}{count}{'  ' + record.detail if record.detail else ''}"


class Printer:
    """Progress for a terminal, and the summary."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._begun = self._told = time.monotonic()

    def __call__(self, result: Result) -> None:
        now = time.monotonic()
        if now - self._told >= 2.0:
            self._told = now
            self._tell(
                f"  {result.scenario}: {result.schedules} schedules, {result.states} states,"
                f" depth {result.depth} complete, {now - self._begun:.0f} s"
            )
