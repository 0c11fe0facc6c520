"""A listener and those who call there, driven step by step: who waits, and what accept says.

Steps: caller (another peer connects, three at most), caller-resets (the last that came); forbid and allow (EPERM from
accept), starve and feed (EMFILE); close and drain, of the listener and of the reactor; turn; wait.

Whatever accept says, it is not asked again without a pause; and when it lets callers in again, those who stayed in the
queue are let in.
"""

from __future__ import annotations

import errno
from typing import Any

from reactor import Protocol
from reactor.connection import Connection
from reactor.testing.faults import Fault
from reactor.testing.fingerprint import listener_fingerprint
from reactor.testing.kernel import SimulatedSystem
from reactor.testing.machine import DRAIN_SECONDS, ErrorLog, Machine, Scenario, need
from reactor.testing.peer import Peer
from reactor.testing.sockets import Listening
from reactor.trace import Observer

_ADDRESS = ("10.0.0.1", 7000)
_MOST_CALLERS = 3
# How often accept may fail at one moment of virtual time: a batch at each event of that moment.
_MOST_AT_ONCE = 12
# How long a rule that refuses everybody is looked at, and how often accept may fail in that time: pauses from 10 ms to
# a second leave about 16 batches.
_REFUSED_SECONDS = 10.0
_MOST_WHILE_REFUSED = 40


class Rule(Fault):
    """What accept says to everybody; and how often it said so."""

    def __init__(self) -> None:
        self.forbidden = self.starved = False
        self.refused = self.refused_now = 0
        self.moment = 0.0

    def on_accept(self, system: SimulatedSystem, sock: Listening) -> int:
        return self._refuse(system, errno.EPERM) if self.forbidden else 0

    def on_descriptor(self, system: SimulatedSystem) -> int:
        return self._refuse(system, errno.EMFILE) if self.starved else 0

    def _refuse(self, system: SimulatedSystem, number: int) -> int:
        if system.now != self.moment:
            self.moment, self.refused_now = system.now, 0
        self.refused += 1
        self.refused_now += 1
        return number


class Guest(Protocol):
    """Let in, and left alone."""

    def __init__(self, doorway: Doorway) -> None:
        self.doorway = doorway

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        self.doorway.let_in += 1


class Doorway(Machine):
    """See the top of this module."""

    def __init__(self, scenario: Scenario, log: ErrorLog, observer: Observer | None = None) -> None:
        super().__init__(scenario, log, observer)
        self.let_in = 0
        self.callers: list[Peer] = []
        self.resets = 0
        self.closed = self.drained = False
        self.rule = Rule()
        self.listener = self.reactor.listen(lambda: Guest(self), *_ADDRESS, options=scenario.options)
        self.system.faults = [self.rule]

    def steps(self) -> list[str]:
        steps = ["allow" if self.rule.forbidden else "forbid", "feed" if self.rule.starved else "starve"]
        if len(self.callers) < _MOST_CALLERS:
            steps.append("caller")
        if self.callers and not self.callers[-1].sock.released:
            steps.append("caller-resets")
        if not self.closed:
            steps.append("close")
        if not self.drained:
            steps.append("drain")
        if self.busy():
            steps.append("turn")
        elif not self.over():
            steps.append("wait")
        return steps

    def do(self, step: str) -> None:
        if step == "turn":
            self.reactor.run_once(0)
        elif step == "wait":
            self.wait()
        elif step == "caller":
            self.callers.append(self.system.peer(_ADDRESS))
        elif step == "caller-resets":
            self.resets += 1
            self.callers[-1].reset()
        elif step in ("allow", "forbid"):
            self.rule.forbidden = step == "forbid"
        elif step in ("feed", "starve"):
            self.rule.starved = step == "starve"
        elif step == "close":
            self.closed = True
            self.listener.close()
        else:
            self.drained = True
            self.reactor.call_soon(self.reactor.drain, DRAIN_SECONDS)

    def check(self) -> None:
        super().check()
        need(self.rule.refused_now <= _MOST_AT_ONCE, "accept is asked again at once, though it refuses everybody")

    def finish(self, kind: bool) -> None:
        """With a kind kernel the rules end; with another they first hold for a while."""
        if not kind:
            self._stay_refused()
        self.rule.forbidden = self.rule.starved = False
        self.settle()
        if self.closed or self.drained:
            need(not self.system.listening.has_port(_ADDRESS[1]), "the listener is closed, and its socket is not")
            return
        waiting = [peer for peer in self.callers if not peer.sock.released and peer.ending is None]
        need(len(waiting) + self.resets == len(self.callers), "a caller who stayed was refused")
        need(len(waiting) <= self.let_in <= len(self.callers), f"{self.let_in} of {len(waiting)} callers were let in")

    def _stay_refused(self) -> None:
        before, end = self.rule.refused, self.system.now + _REFUSED_SECONDS
        while self.system.now < end and not self.over():
            patience = self.reactor.timeout()
            left = end - self.system.now
            self.reactor.run_once(left if patience is None else min(patience, left))
            self.check()
        asked = self.rule.refused - before
        need(asked <= _MOST_WHILE_REFUSED, f"accept was asked {asked} times in {_REFUSED_SECONDS} s, and refused")

    def fingerprint(self) -> tuple[Any, ...]:
        callers = tuple((peer.ending, peer.sock.released, peer.connected) for peer in self.callers)
        queues = tuple(len(sock.queue) for sock in self.system.descriptors.values() if isinstance(sock, Listening))
        rule = (self.rule.forbidden, self.rule.starved)
        doings = (self.closed, self.drained, self.reactor.draining, self.let_in)
        posted = len(self.reactor.dead), len(self.reactor.connections), tuple(self.system.ready())
        listener = listener_fingerprint(self.listener, self.reactor)
        return (callers, queues, rule, doings, posted, listener, self.under_way(), self.busy())

    def __str__(self) -> str:
        return f"{self.listener!r}: {self.let_in} let in of {len(self.callers)}; refused {self.rule.refused} times"
