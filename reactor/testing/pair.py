"""Two connections that talk to each other, on one loop: which of them is served first is a choice, too.

Steps: `a-` and `b-` before what an application does (see `reactor.testing.world`); turn, with everything that is ready
in one batch; turn-reversed, with the same in the other order; turn-first and turn-last, with one event of it; wait.
"""

from __future__ import annotations

from typing import Any

from reactor import Reactor
from reactor.lifecycle import ENDED, OPEN, PEER_END
from reactor.pollers import WRITE
from reactor.testing.faults import Fault, Ready
from reactor.testing.fingerprint import socket_fingerprint
from reactor.testing.kernel import SimulatedSystem
from reactor.testing.machine import PATTERN, Application, ErrorLog, Machine, Scenario, need
from reactor.testing.sockets import StreamSocket
from reactor.testing.tcp import TcpSocket
from reactor.trace import Observer


class Order(Fault):
    """How the next batch is served."""

    def __init__(self) -> None:
        self.batch = "turn"

    def on_ready(self, system: SimulatedSystem, ready: Ready) -> Ready:
        if self.batch == "turn-reversed":
            return ready[::-1]
        if self.batch == "turn-first":
            return ready[:1]
        return ready[-1:] if self.batch == "turn-last" else ready


class Pair(Machine):
    """Both ends."""

    def __init__(self, scenario: Scenario, log: ErrorLog, observer: Observer | None = None) -> None:
        super().__init__(scenario, log, observer)
        self.order = Order()
        self.system.faults = [self.order]
        first, second = self.system.stream_pair(unix=scenario.unix)
        self.ends = {
            "a": _end(self.reactor, first, scenario),
            "b": _end(self.reactor, second, scenario),
        }
        for _ in range(3):
            self.reactor.run_once(0)

    def steps(self) -> list[str]:
        steps = []
        for name, (application, _) in self.ends.items():
            if application.phase == "l":
                continue
            doings = ["write", "close", "abort", "resume" if application.paused else "pause"]
            if not application.ended:
                doings.append("write_eof")
            if application.armed is None:
                doings += ["then-close", "then-abort", "then-raise"]
            steps += [f"{name}-{doing}" for doing in doings]
        if not steps:
            return []
        ready = len(self.system.ready())
        if self.busy():
            steps.append("turn")
            if ready > 1:
                steps += ["turn-reversed", "turn-first", "turn-last"]
        elif not self.over():
            steps.append("wait")
        return steps

    def do(self, step: str) -> None:
        if step.startswith("turn"):
            self.order.batch = step
            self.reactor.run_once(0)
            self.order.batch = "turn"
        elif step == "wait":
            self.wait()
        else:
            name, _, doing = step.partition("-")
            application, _ = self.ends[name]
            if doing.startswith("then-"):
                application.armed = doing.removeprefix("then-")
            else:
                application.act(doing)

    def check(self) -> None:
        super().check()
        for (application, sock), (other, _) in self._both_ways():
            report = application.connection.report
            need(sock.releases <= 1, "the descriptor was closed twice")
            need(PATTERN.startswith(application.received), "what was delivered is not what was written, in order")
            need(len(application.received) <= other.written_in_all, "more was delivered than written")
            need(report.written == application.written_in_all, f"the report says {report.written} written")
            need(report.written == report.accepted + report.unsent, "the report does not add up")
            need(report.received == len(application.received), "the report counts another input than was delivered")
            if isinstance(sock, TcpSocket):
                out = bytes(sock.out)
                need(out == PATTERN[report.accepted - len(out) : report.accepted], "the kernel was given other bytes")

    def finish(self, kind: bool) -> None:
        """A kind end is one in which both close; else only one does, and then the other."""
        for application, _ in self.ends.values():
            application.armed = None
        self.settle()
        for application, sock in self.ends.values():
            self._check_waiting(application, sock)
        for application, _ in self.ends.values():
            if application.phase != "l":
                application.act("close")
                if not kind:
                    self.settle()
        self.settle()
        for application, sock in self.ends.values():
            need(application.phase == "l", f"{application.connection!r} never ends, with all deadlines passed")
            need(sock.releases == 1, "the descriptor was not closed")
        for (application, sock), (other, _) in self._both_ways():
            self._check_end(application, sock, other)

    def _check_waiting(self, application: Application, sock: StreamSocket) -> None:
        connection = application.connection
        if application.phase == "l":
            return
        need(connection.state in (OPEN, ENDED, PEER_END), f"{connection!r} waits, and nobody can end that")
        if connection.is_reading():
            need(not sock.inbox and not sock.fin_received, f"{connection!r} does not notice what has arrived")
        need(
            not connection.get_write_buffer_size() or not sock.events() & WRITE,
            f"{connection!r} could send, and does not",
        )

    def _check_end(self, application: Application, sock: StreamSocket, other: Application) -> None:
        report, theirs = application.connection.report, other.connection.report
        need(not isinstance(application.lost, AssertionError), f"the reactor failed: {application.lost}")
        need(not isinstance(application.lost, BlockingIOError), "it ended because the kernel said EAGAIN")
        if application.aborted or application.raised:
            need(application.lost is not None, "an abort was told as an end in order")
        if application.lost is None:
            need(report.unsent == 0, f"{report.unsent} bytes were lost in silence")
            if other.lost is None:
                arrived = theirs.received + theirs.discarded
                need(arrived == application.written_in_all, "both ended in order, and not everything arrived")
            if isinstance(sock, TcpSocket):
                need(not sock.was_disconnected, "an end in order was a reset")

    def _both_ways(self) -> list[tuple[tuple[Application, StreamSocket], tuple[Application, StreamSocket]]]:
        one, two = self.ends.values()
        return [(one, two), (two, one)]

    def fingerprint(self) -> tuple[Any, ...]:
        ends = [(end.fingerprint(self.reactor), socket_fingerprint(sock)) for end, sock in self.ends.values()]
        return (*ends, tuple(fd for fd, _ in self.system.ready()), self.under_way(), self.busy())

    def __str__(self) -> str:
        return "\n         ".join(
            f"{name}: {end.connection!r} {sock!r}: {end.connection.report}" for name, (end, sock) in self.ends.items()
        )


def _end(reactor: Reactor, sock: StreamSocket, scenario: Scenario) -> tuple[Application, StreamSocket]:
    application = Application(scenario.keep_open)
    reactor.connect(lambda: application, sock=sock, options=scenario.options)  # type: ignore[arg-type]
    return application, sock
