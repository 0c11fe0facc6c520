"""Relaying: two connections joined, so that their far peers talk as if there were nobody in between.

    relay(client, server, done=lambda relay: print(relay))

1. What one delivers is written to the other. While more waits for the other than its high watermark, the one is not
   read; so each direction holds at most that and one read, and a slow peer slows the fast one down.
2. A FIN is passed on behind everything before it, and ends that direction only. When both directions have ended so,
   both connections are over, in order.
3. Whatever else ends one of them resets the other: a stream that was cut short must not look whole to its reader. A
   reset, a failure, a TLS truncation, a deadline and an exception are all the same here; the first cause is kept. What
   was delivered before the failure is sent to the other first, and the reset follows it (`Connection.abort`, `flush`).
4. A drain changes nothing: nobody in between can know where a conversation may stop. It has until the drain's
   deadline, and is then reset.

Two deadlines of a connection deserve a thought. `Deadlines.flush` runs as always: a peer that takes nothing for so
long after the other's FIN is reset. `Deadlines.idle` closes in order, so to its peer a silent stream would end as a
whole one: leave it None, and end a relay that no longer moves with `Relay.abort` (`Relay.moved` tells).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reactor.errors import Aborted, Misuse
from reactor.lifecycle import CLOSED, Input, Output
from reactor.protocol import Protocol

if TYPE_CHECKING:
    from reactor.connection import Connection


def relay(one: Connection, other: Connection, *, done: Callable[[Relay], object] | None = None) -> Relay:
    """Joins two connections, which belong to the relay from now on: their protocols are told nothing more.

    They may be paused, have output waiting, have read their peer's FIN, or have died without their protocol being told
    yet. `done(relay)` is called once, when both are gone. Call it in the loop's thread, best in a callback of either.
    Misuse, and nothing has happened, when something would be lost in silence: one of them was closed, or its output
    ended, while the other's peer may still send; or its protocol was told connection_lost.
    """
    _check(one, other)
    _check(other, one)
    return Relay(one, other, done)


def _check(source: Connection, target: Connection) -> None:
    """Whether what `source` delivers can go somewhere."""
    if source is target:
        raise Misuse(f"relay() refused {source!r}: it cannot be joined with itself")
    if source.get_protocol() is None:
        raise Misuse(f"relay() refused {source!r}: it has ended")
    unread = getattr(source.get_protocol(), "unread", 0)
    if unread:
        raise Misuse(
            f"relay() refused {source!r}: its protocol has {unread} unread bytes (see FramedProtocol.take_unread)"
        )
    if source.state.input is Input.DISCARD:
        raise Misuse(f"relay() refused {source!r}: it was closed, and what comes from its peer is thrown away")
    if source.state.input is Input.DELIVER and target.state.output not in (Output.ACCEPT, Output.DONE):
        raise Misuse(f"relay() refused {source!r}: nothing can be written to {target!r} any more")


class Relay:
    """Two connections that are joined. Made by `relay`."""

    def __init__(self, one: Connection, other: Connection, done: Callable[[Relay], object] | None) -> None:
        self._done = done
        self._failure: Exception | None = None
        self._failed: Connection | None = None
        self._sides = _Side(self, one, other), _Side(self, other, one)
        # Both have taken over before either does anything: that could be told to the other, or change its state.
        for side in self._sides:
            side.connection.set_protocol(side)
        for side in self._sides:
            side.begin()

    @property
    def one(self) -> Connection:
        """The first connection; its `report` tells what became of the bytes written to it."""
        return self._sides[0].connection

    @property
    def other(self) -> Connection:
        """The second connection."""
        return self._sides[1].connection

    @property
    def one_to_other(self) -> int:
        """Bytes that `one` delivered and that were written to `other`."""
        return self._sides[0].passed

    @property
    def other_to_one(self) -> int:
        """Bytes that `other` delivered and that were written to `one`."""
        return self._sides[1].passed

    @property
    def moved(self) -> int:
        """Grows whenever bytes are received from a peer, taken by a kernel, or acknowledged by a peer's.

        A relay in which it rests is idle: a slow reader may leave the kernel full for long, and acknowledges meanwhile.
        """
        reports = (self.one.report, self.other.report)
        return sum(report.received + report.accepted + (report.acknowledged or 0) for report in reports)

    @property
    def over(self) -> bool:
        """Whether both connections are gone."""
        return all(side.gone for side in self._sides)

    @property
    def failure(self) -> Exception | None:
        """Why it did not end in order: the first cause. None while there is none, and after an end in order."""
        return self._failure

    @property
    def failed(self) -> Connection | None:
        """The connection that failed first. None while there is none, and when it was `abort`."""
        return self._failed

    def abort(self, cause: Exception | None = None) -> None:
        """Resets both now; what waits is dropped. `failure` is the cause. Does nothing once it is over."""
        if not self.over:
            self._fail(cause or Aborted(f"{self!r} was aborted"), None)

    def _fail(self, cause: Exception, failed: Connection | None) -> None:
        if self._failure is None:
            self._failure, self._failed = cause, failed
        for side in self._sides:
            if not side.gone:
                side.connection.abort(flush=failed is not None)

    def _lost(self, side: _Side, exc: Exception | None) -> None:
        if exc is not None:
            self._fail(exc, side.connection)
        elif not side.ended:
            closed = Aborted(f"{side.connection!r} was closed by somebody else than its relay")
            self._fail(closed, side.connection)
        if self.over and self._done is not None:
            self._done(self)

    def __repr__(self) -> str:
        how = "" if self._failure is None else f" failed ({type(self._failure).__name__})"
        state = "over" if self.over else "open"
        return f"<Relay {self.one!r} {self.one_to_other}> <{self.other_to_one} {self.other!r} {state}{how}>"


class _Side(Protocol):
    """One direction: from its own connection to the target."""

    def __init__(self, relay: Relay, connection: Connection, target: Connection) -> None:
        self._relay: Relay | None = relay
        self.connection = connection
        self._target = target
        # The peer's FIN was read; one that is CLOSED will tell why.
        self.ended = connection.state.input is Input.STOP and connection.state is not CLOSED
        self.gone = False
        self.passed = 0

    def begin(self) -> None:
        """Takes up the direction as it stands."""
        if self.ended:
            self._target.write_eof()
        elif self._target.is_writing_paused():
            self.connection.pause_reading()
        else:
            self.connection.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.passed += len(data)
        self._target.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        self._target.write_eof()
        return True

    def pause_writing(self) -> None:
        self._target.pause_reading()

    def resume_writing(self) -> None:
        self._target.resume_reading()

    def draining(self) -> None:
        """The drain's deadline is the relay's."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        relay, self._relay = self._relay, None  # or the two would wait for the garbage collector
        assert relay is not None
        relay._lost(self, exc)
