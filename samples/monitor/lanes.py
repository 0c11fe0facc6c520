"""What is known of each connection: a lane for each, fed by the reactor's records, and bounded in every direction.

A lane holds the connection while it lives (its state, queue and kernel are asked when somebody looks, not before), the
last events in a ring, and its report once it has ended. Then it stays for a while, because an end is what people come
to see.

*The ring* must not be swept clean by one busy second: of a burst of traffic without any other event only the first
records stand alone, and the rest is summed up, one event for each kind.

*Too many connections* are not a reason to use much memory: beyond `MOST_LANES`, one that begins takes the place of the
lane that ended first; if none has ended, it has no lane until there is room, and is only counted.

*Our own connections*, those that look at this page, are disowned as soon as they begin: a looker must not see himself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from reactor import Connection
from reactor.addresses import address_text
from reactor.lifecycle import CLOSED
from reactor.report import Report
from reactor.trace import Record

# A page of more is read by nobody, and asking the kernel about each takes some 15 us: 6 ms for all of them.
MOST_LANES = 400
# An end is looked at for a minute; a storm of short connections may push it out earlier.
SECONDS_AFTER_END = 60.0
MOST_ENDED = 100
# Enough for the whole life of an ordinary connection, and for the last acts of a long one.
RING = 120
# So many records of one burst stand alone.
BURST = 12

TRAFFIC = frozenset({"received", "data_received", "sent", "discarded"})
BEGINNINGS = frozenset({"accepted", "connected"})


@attrs.define(eq=False)
class Event:
    """One record of a connection, or `times` of them summed up."""

    time: float
    what: str
    count: int | None
    detail: str
    times: int = 1
    # When the last of them was.
    until: float = 0.0


@attrs.define(eq=False)
class Lane:
    """One connection, as long as it is worth looking at."""

    name: str
    origin: str
    peer: str
    began: float
    # None once it has ended (or when it could not be found).
    connection: Connection | None = None
    events: deque[Event] = attrs.field(factory=lambda: deque(maxlen=RING))
    # How many records there were, kept or not: whoever looks at the events knows by it that there are more.
    records: int = 0
    last: float = 0.0
    ended: float | None = None
    report: Report | None = None
    # The events of the present burst, and of those the sums, by kind.
    _burst: int = 0
    _sums: dict[str, Event] = attrs.field(factory=dict)

    def take(self, record: Record) -> None:
        """One more record."""
        self.records += 1
        self.last = record.time
        if record.what not in TRAFFIC:
            self._burst = 0
            self._sums.clear()
        else:
            self._burst += 1
            if self._burst > BURST and self._sum_up(record):
                return
        event = Event(record.time, record.what, record.count, record.detail, until=record.time)
        self.events.append(event)
        if self._burst > BURST:
            self._sums[record.what] = event

    def _sum_up(self, record: Record) -> bool:
        event = self._sums.get(record.what)
        if event is None:
            return False
        event.times += 1
        event.count = (event.count or 0) + (record.count or 0)
        event.until = record.time
        return True

    def facts(self) -> dict[str, Any]:
        """All that a table shows, for JSON. Times are the reactor's seconds; None is what nobody knows."""
        connection, report = self.connection, self.report
        state = CLOSED if connection is None else connection.state
        low = high = queued = tcp = None
        reading = False
        if connection is not None:
            low, high = connection.get_write_buffer_limits()
            queued = connection.get_write_buffer_size()
            tcp = connection.get_extra_info("tcp_state")
            reading = connection.is_reading()
            report = connection.report
        return {
            "name": self.name,
            "peer": self.peer,
            "origin": self.origin,
            "began": self.began,
            "last": self.last,
            "ended": self.ended,
            "records": self.records,
            "state": state.name,
            "meaning": state.meaning,
            "rfc9293": state.rfc9293,
            "input": state.input.value,
            "output": state.output.value,
            "reading": reading,
            "tcp_state": tcp,
            "queued": queued,
            "low": low,
            "high": high,
            **_counts(report, connection is not None),
        }

    def story(self) -> list[dict[str, Any]]:
        """The events that are kept, for JSON, the oldest first."""
        return [attrs.asdict(event) for event in self.events]


def _counts(report: Report | None, living: bool) -> dict[str, Any]:
    if report is None:
        return {"how": None, "reason": None}
    reason = report.reason
    stages: list[list[Any]] = [[name, seconds] for name, seconds in report.stages]
    if living:
        stages[-1][1] = None  # it has not ended, so how long it takes would be news with every look
    return {
        "how": report.how,
        "reason": None if reason is None else f"{type(reason).__name__}: {reason}",
        "written": report.written,
        "acknowledged": report.acknowledged,
        "unsent": report.unsent,
        "received": report.received,
        "discarded": report.discarded,
        "fin_sent": report.fin_sent,
        "stages": stages,
    }


class Lanes:
    """Every lane there is. `find` looks a living connection up by its name ("#7")."""

    def __init__(self, find: Callable[[str], Connection | None]) -> None:
        self._find = find
        self._lanes: dict[str, Lane] = {}
        # The ended ones, in the order in which they ended.
        self._ended: dict[str, Lane] = {}
        self._own: set[str] = set()
        # Of all connections but our own, with or without a lane.
        self.begun = 0
        self.bytes = {"received": 0, "sent": 0, "discarded": 0}

    def observe(self, record: Record) -> None:
        """An observer (`reactor.observe`)."""
        name, what = record.connection, record.what
        if name in self._own:
            if what == "connection_lost":  # its last record
                self._own.discard(name)
            return
        if what in self.bytes:
            self.bytes[what] += record.count or 0
        if what in BEGINNINGS:
            self.begun += 1
            self._begin(Lane(name, what, record.detail, record.time, self._find(name)))
        lane = self._lanes.get(name)
        if lane is not None:
            lane.take(record)
            if what == "closed":
                self._end(lane, record.time)

    def disown(self, connection: Connection) -> None:
        """This one is the monitor's: it has no lane and is not counted."""
        name = f"#{connection.number}"
        self._own.add(name)
        self._lanes.pop(name, None)
        self.begun -= 1

    def adopt(self, connections: Iterable[Connection], now: float) -> int:
        """Gives a lane to whoever has none, while there is room; returns how many have none afterwards.

        Of those nothing is known from before `now`, and of those older than the observer not a record will come.
        """
        without = 0
        for connection in connections:
            name = f"#{connection.number}"
            if name in self._own or name in self._lanes:
                continue
            if len(self._lanes) < MOST_LANES:
                peer = address_text(connection.get_extra_info("peername"))
                self._begin(Lane(name, "seen later", peer, now, connection, last=now))
            else:
                without += 1
        return without

    def sweep(self, now: float) -> None:
        """Lets go of what ended long ago, and notices an end of which no record came."""
        for lane in [one for one in self._lanes.values() if one.connection is not None and not one.records]:
            assert lane.connection is not None
            if lane.connection.state is CLOSED and lane.connection.get_protocol() is None:
                self._end(lane, now)
        while self._ended:
            oldest = next(iter(self._ended.values()))
            assert oldest.ended is not None
            if len(self._ended) <= MOST_ENDED and now - oldest.ended < SECONDS_AFTER_END:
                return
            self._drop(oldest)

    def _begin(self, lane: Lane) -> None:
        if len(self._lanes) >= MOST_LANES and self._ended:
            self._drop(next(iter(self._ended.values())))
        if len(self._lanes) < MOST_LANES:
            self._lanes[lane.name] = lane

    def _end(self, lane: Lane, now: float) -> None:
        lane.ended = now
        if lane.connection is not None:
            lane.report = lane.connection.report
            lane.connection = None
        self._ended[lane.name] = lane

    def _drop(self, lane: Lane) -> None:
        del self._ended[lane.name], self._lanes[lane.name]

    def is_own(self, name: str) -> bool:
        """Whether it is the monitor's."""
        return name in self._own

    def get(self, name: str) -> Lane | None:
        """The lane of that connection."""
        return self._lanes.get(name)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __len__(self) -> int:
        return len(self._lanes)
