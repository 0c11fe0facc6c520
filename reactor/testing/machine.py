"""What is driven step by step: a scenario, a reactor on a small simulated system, an application that obeys.

`Machine` is what `reactor.testing.explore` drives; the rooms `world`, `pair` and `doorway` have the kinds. `check` asks
what must hold at every moment, `finish` what must hold when nothing more can happen; a `Violation` says what did not.

Sizes are small, so that a few steps meet every limit: a send buffer and a window of 4 bytes, writes of 6.
"""

from __future__ import annotations

import logging
from typing import Any

import attrs

from reactor import Protocol, Reactor
from reactor.connection import Connection
from reactor.errors import WriteAfterEnd
from reactor.lifecycle import CLOSED, Output
from reactor.options import Deadlines, Limits, Options, Watermarks
from reactor.testing.fingerprint import connection_fingerprint
from reactor.testing.kernel import SimulatedSystem
from reactor.testing.links import Link
from reactor.trace import Observer

logger = logging.getLogger("reactor")

WRITE_BYTES = 6
SEND_BYTES = 2
BUFFER_BYTES = 4
DRAIN_SECONDS = 3.0
UNREAD_SECONDS = 6.0
OPTIONS = Options(
    watermarks=Watermarks(high=7, low=2),
    deadlines=Deadlines(flush=8.0, linger_grace=1.0, linger_silence=4.0, linger_total=16.0, unread=UNREAD_SECONDS),
)
DOORWAY_LIMITS = Limits(accepts_per_turn=2, backlog=8)
# More turns than any end takes; a world that is not quiet by then never will be.
_MOST_TURNS = 400
# What one stream carries: no short piece of it occurs twice.
PATTERN = bytes((7 * index + index // 251) % 251 for index in range(4096))


class Violation(AssertionError):
    """Something that must hold does not."""


class Deliberate(Exception):
    """What the application raises when it is told to."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)


@attrs.frozen(kw_only=True)
class Scenario:
    """What a world is made of."""

    name: str
    unix: bool = False
    # Descriptors of our socket that others have, as after a fork.
    copies: int = 0
    # What `eof_received` returns.
    keep_open: bool = False
    latency: float = 0.0
    # Both ends are connections of one reactor (`reactor.testing.pair`).
    pair: bool = False
    # A listener and those who call there (`reactor.testing.doorway`).
    doorway: bool = False
    # The kernel tells of ICMP errors, and gives the connection up. Fewer of the other steps are taken for that.
    troubled: bool = False
    options: Options = OPTIONS


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="tcp"),
        Scenario(name="tcp-keep-open", keep_open=True),
        Scenario(name="tcp-slow", latency=0.5),
        Scenario(name="tcp-slow-keep-open", latency=0.5, keep_open=True),
        Scenario(name="tcp-idle", options=attrs.evolve(OPTIONS, deadlines=attrs.evolve(OPTIONS.deadlines, idle=20.0))),
        Scenario(name="tcp-troubled", troubled=True),
        Scenario(name="tcp-troubled-keep-open", troubled=True, keep_open=True),
        Scenario(name="pair", pair=True),
        Scenario(name="pair-slow", pair=True, latency=0.5),
        Scenario(name="unix", unix=True),
        Scenario(name="unix-keep-open", unix=True, keep_open=True),
        Scenario(name="doorway", doorway=True, options=attrs.evolve(OPTIONS, limits=DOORWAY_LIMITS)),
        Scenario(name="tcp-forked", copies=1),
        Scenario(name="unix-forked", unix=True, copies=1),
    )
}


class Application(Protocol):
    """Does as it is told, also inside its next callback; remembers, and objects to what it must not be told."""

    def __init__(self, keep_open: bool = False) -> None:
        self.keep_open = keep_open
        self.received = bytearray()
        # The callbacks' grammar, one letter each: m(ade) d(ata) e(of) l(ost); and pausing, which alternates.
        self.phase = ""
        self.writing_paused = False
        self.lost: Exception | None = None
        self.armed: str | None = None
        # What it did. Written while it could still go, and all in all.
        self.written = self.written_in_all = 0
        self.paused = self.closed = self.ended = self.aborted = self.raised = False

    def connection_made(self, connection: Connection) -> None:
        need(self.phase == "", f"connection_made after {self.phase}")
        self.connection = connection
        self._told("m")

    def data_received(self, data: bytes) -> None:
        need(self.phase in ("m", "d"), f"data_received after {self.phase or 'nothing'}")
        need(data, "data_received without data")
        need(not self.paused, "data_received while reading is paused")
        need(not self.closed, "data_received after our close")
        self.received += data
        self._told("d")

    def eof_received(self) -> bool:
        need(self.phase in ("m", "d"), f"eof_received after {self.phase or 'nothing'}")
        need(not self.closed, "eof_received after our close")
        self._told("e")
        return self.keep_open

    def pause_writing(self) -> None:
        need(self.phase in ("m", "d", "e"), f"pause_writing after {self.phase or 'nothing'}")
        need(not self.writing_paused, "pause_writing twice")
        self.writing_paused = True
        self._told(self.phase)

    def resume_writing(self) -> None:
        need(self.phase in ("m", "d", "e"), f"resume_writing after {self.phase or 'nothing'}")
        need(self.writing_paused, "resume_writing without pause_writing")
        self.writing_paused = False
        self._told(self.phase)

    def connection_lost(self, exc: Exception | None) -> None:
        need(self.phase in ("m", "d", "e"), f"connection_lost after {self.phase or 'nothing'}")
        self.lost = exc
        self._told("l")

    def _told(self, phase: str) -> None:
        self.phase = phase
        step, self.armed = self.armed, None
        if step == "raise":
            self.raised = phase != "l"
            raise Deliberate
        if step is not None and phase != "l":
            self.act(step)

    def act(self, step: str) -> None:
        """One step of the application's, between turns or inside a callback."""
        connection = self.connection
        if step == "write":
            data = PATTERN[self.written_in_all : self.written_in_all + WRITE_BYTES]
            live = connection.state.output is Output.ACCEPT and not connection.is_closing()
            try:
                connection.write(data)
            except WriteAfterEnd:
                need(self.ended, "write() refused, though its output was not ended")
                return
            need(not self.ended, "write() taken after our end")
            self.written_in_all += len(data)
            if live:
                self.written = self.written_in_all
        elif step == "pause":
            self.paused = True
            connection.pause_reading()
        elif step == "resume":
            self.paused = False
            connection.resume_reading()
        else:
            self.ended = True
            self.closed = self.closed or step != "write_eof"
            if step == "abort" and connection.state is not CLOSED:
                self.aborted = True
            getattr(connection, step)()

    def fingerprint(self, reactor: Reactor) -> tuple[Any, ...]:
        """What decides what it and its connection do next."""
        flags = (self.paused, self.closed, self.ended, self.aborted, self.raised, self.writing_paused)
        return (
            connection_fingerprint(self.connection, reactor),
            self.phase,
            self.armed,
            flags,
            self.written == self.written_in_all,
        )


class ErrorLog(logging.Handler):
    """Errors that the reactor logs, but for those that were asked for."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.unexpected: list[BaseException | str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        if not isinstance(cause, Deliberate):
            self.unexpected.append(cause or record.getMessage())

    def __enter__(self) -> ErrorLog:
        self._before = logger.propagate, logger.level
        logger.propagate = False
        logger.setLevel(logging.ERROR)
        logger.addHandler(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logger.removeHandler(self)
        logger.propagate, level = self._before
        logger.setLevel(level)


class Machine:
    """A reactor on a small simulated system, driven step by step inside `with ErrorLog() as log`."""

    def __init__(self, scenario: Scenario, log: ErrorLog, observer: Observer | None = None) -> None:
        self.scenario = scenario
        self.log = log
        link = Link(latency=scenario.latency, send_buffer_bytes=BUFFER_BYTES, receive_buffer_bytes=BUFFER_BYTES)
        self.system = SimulatedSystem(link=link)
        self.reactor = Reactor(system=self.system)
        if observer is not None:
            self.reactor.observe(observer)

    def steps(self) -> list[str]:
        """What can happen next."""
        raise NotImplementedError

    def do(self, step: str) -> None:
        """One step."""
        raise NotImplementedError

    def check(self) -> None:
        """What must hold at every moment."""
        for cause in self.log.unexpected:
            raise Violation(f"the reactor logged {type(cause).__name__}: {cause}")
        for call in self.system.bad_calls:
            raise Violation(f"the reactor made a {call}")

    def finish(self, kind: bool) -> None:
        """When nothing more happens but the passing of deadlines: nobody waits in vain, and every end is told."""
        raise NotImplementedError

    def fingerprint(self) -> tuple[Any, ...]:
        """The same for worlds whose futures are the same; absolute counts and times are left out."""
        raise NotImplementedError

    def busy(self) -> bool:
        """A turn would do something at once."""
        return self.reactor.timeout() == 0 or bool(self.system.ready())

    def over(self) -> bool:
        """Nothing can happen any more, unless somebody acts."""
        return self.reactor.timeout() is None and self.system.quiet

    def wait(self) -> None:
        """A turn that waits for a deadline or for the next packet, whatever comes first."""
        if self.busy():
            self.reactor.run_once(0)
            return
        due = self.system.next_due
        self.reactor.run_once(None if due is None else max(0.0, due - self.system.now))

    def settle(self) -> None:
        """Turns until nothing can happen any more."""
        for _ in range(_MOST_TURNS):
            if self.over():
                self.check()
                return
            self.wait()
        raise Violation(f"{self.reactor.connections} are never quiet: {_MOST_TURNS} turns")

    def under_way(self) -> tuple[object, ...]:
        """What the links carry, and how long the loop would wait."""
        patience = self.reactor.timeout()
        packets = tuple((round(due - self.system.now, 6), what) for due, what in self.system.coming)
        return None if patience is None else round(patience, 6), packets
