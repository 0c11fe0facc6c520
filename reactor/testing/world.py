"""One connection, its application and its scripted peer, driven step by step on a simulated kernel.

A *schedule* is a scenario's name and a sequence of steps; from the same schedule comes the same run. Steps are what
can happen next, by whoever does it:

- the application, between turns: write write_eof close abort pause resume;
  or inside its next callback: then-write then-write_eof then-close then-abort then-pause then-raise
- the peer: peer-send peer-read peer-fin peer-reset peer-close (it reads only when it is told to)
- the kernel: short-write (the next send takes one byte) refuse-write (none); instead of these, where it is troubled,
  icmp (a soft error), give-up (it has tried for too long to send what was accepted), no-memory (the next send or
  recv fails for want of it)
- the reactor: drain, which cuts what has not ended after three seconds
- the loop: turn, with everything that is ready in one batch; turn-read and turn-write, with one side of it;
  turn-spurious, with events that did not happen; wait, when nothing is ready: time passes to what is due next

It is finished with a peer that stays silent, or (kind) with one that reads everything and ends in order.
"""

from __future__ import annotations

import errno
from typing import Any

from reactor.connection import Connection
from reactor.errors import Aborted, ReactorError
from reactor.lifecycle import CLOSED, ENDED, OPEN, PEER_END, Output
from reactor.pollers import READ, WRITE
from reactor.testing.faults import Fault, Ready
from reactor.testing.fingerprint import socket_fingerprint
from reactor.testing.kernel import SimulatedSystem
from reactor.testing.machine import (
    DRAIN_SECONDS,
    PATTERN,
    SEND_BYTES,
    UNREAD_SECONDS,
    Application,
    Deliberate,
    ErrorLog,
    Machine,
    Scenario,
    need,
)
from reactor.testing.peer import Peer
from reactor.testing.sockets import SimulatedSocket, StreamSocket
from reactor.testing.tcp import TcpSocket
from reactor.trace import Observer


class Choices(Fault):
    """What the kernel does next, chosen by a step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.next_send: int | None = None
        self.no_memory = False
        self.batch = "turn"

    def on_send(self, system: SimulatedSystem, sock: StreamSocket, count: int) -> int:
        if self.next_send is None or sock is not self.world.sock:
            return count
        chosen, self.next_send = self.next_send, None
        return min(count, chosen)

    def on_transfer(self, system: SimulatedSystem, sock: SimulatedSocket) -> int:
        if not self.no_memory or sock is not self.world.sock:
            return 0
        self.no_memory = False
        return errno.ENOBUFS

    def on_ready(self, system: SimulatedSystem, ready: Ready) -> Ready:
        batch, fd = self.batch, self.world.sock.fd
        if batch == "turn":
            return ready
        if batch == "turn-spurious":
            told = dict(ready)
            if self.world.sock.watcher is not None and not self.world.sock.released:
                told[fd] = told.get(fd, 0) | self.world.sock.interest
            return list(told.items())
        hidden = WRITE if batch == "turn-read" else READ
        return [(number, events & ~hidden if number == fd else events) for number, events in ready]


class World(Machine):
    """One connection and a scripted peer."""

    def __init__(self, scenario: Scenario, log: ErrorLog, observer: Observer | None = None) -> None:
        super().__init__(scenario, log, observer)
        self.sock: StreamSocket
        self.sock, self.peer = self.system.connected(unix=scenario.unix)
        self.sock.copies = scenario.copies
        self.peer.stop_reading()
        self.choices = Choices(self)
        self.system.faults = [self.choices]
        self.application = Application(scenario.keep_open)
        self.drained = False
        # What the peer did.
        self.sent = 0
        self.peer_ended = self.peer_reset = self.peer_left_unread = False
        self.reset_was_in_time = False
        # What the peer's TCP had not acknowledged when the connection ended.
        self.unacknowledged = 0
        self.reactor.connect(lambda: self.application, sock=self.sock, options=scenario.options)  # type: ignore[arg-type]
        for _ in range(3):
            self.reactor.run_once(0)
        self.connection: Connection = self.application.connection

    # Steps

    def steps(self) -> list[str]:
        if self.application.phase == "l":
            return []
        if self.scenario.troubled:
            return self._troubled_steps()
        connection, choices, sock = self.connection, self.choices, self.sock
        steps = ["write", "close", "abort", "resume" if self.application.paused else "pause"]
        if not self.application.ended:
            steps.append("write_eof")
        if self.application.armed is None:
            steps += ["then-close", "then-abort", "then-raise", "then-pause"]
            if not self.application.ended:
                steps += ["then-write", "then-write_eof"]
        if not self.drained:
            steps.append("drain")
        steps += self._peer_steps()
        if choices.next_send is None and connection.state.output is not Output.STOP:
            steps += ["short-write", "refuse-write"]
        events = sock.events() & sock.interest if sock.watcher is not None else 0
        if self.busy():
            steps.append("turn")
            if events & READ and events & WRITE:
                steps += ["turn-read", "turn-write"]
        elif not self.over():
            steps.append("wait")
        if sock.watcher is not None and sock.interest & ~events:
            steps.append("turn-spurious")
        return steps

    def _peer_steps(self) -> list[str]:
        if self.peer.sock.released:
            return []
        steps = [] if self.peer_ended else ["peer-send", "peer-fin"]
        if self.peer.ending is None and self.peer.sock.events() & READ:
            steps.append("peer-read")
        return [*steps, "peer-reset", "peer-close"]

    def _troubled_steps(self) -> list[str]:
        sock = self.sock
        assert isinstance(sock, TcpSocket)
        steps = ["write", "close", "resume" if self.application.paused else "pause"]
        if not self.application.ended:
            steps.append("write_eof")
        steps += self._peer_steps()
        if not sock.dead:
            if not sock.soft_error:
                steps.append("icmp")
            if sock.outstanding():
                steps.append("give-up")
        if not self.choices.no_memory:
            steps.append("no-memory")
        if self.busy():
            steps.append("turn")
        elif not self.over():
            steps.append("wait")
        return steps

    def do(self, step: str) -> None:
        alive = self.connection.state is not CLOSED
        self._do(step)
        self._notice(alive)

    def wait(self) -> None:
        alive = self.connection.state is not CLOSED
        super().wait()
        self._notice(alive)

    def _notice(self, alive: bool) -> None:
        """Whether the peer's reset came before the end was told; and what the kernel still had then."""
        if not alive or not isinstance(self.sock, TcpSocket):
            return
        self.reset_was_in_time = self.reset_was_in_time or self.sock.was_reset
        if self.connection.state is CLOSED:
            self.unacknowledged = len(self.sock.out)

    def _do(self, step: str) -> None:
        if step.startswith("turn"):
            self.choices.batch = step
            self.reactor.run_once(0)
            self.choices.batch = "turn"
        elif step == "wait":
            self.wait()
        elif step == "short-write":
            self.choices.next_send = 1
        elif step == "refuse-write":
            self.choices.next_send = 0
        elif step == "icmp":
            self.system.icmp(self.peer)
        elif step == "give-up":
            self.system.give_up(self.peer)
        elif step == "no-memory":
            self.choices.no_memory = True
        elif step.startswith("then-"):
            self.application.armed = step.removeprefix("then-")
        elif step.startswith("peer-"):
            self._peer_does(step)
        elif step == "drain":
            self.drained = True
            self.reactor.call_soon(self.reactor.drain, DRAIN_SECONDS)
        else:
            self.application.act(step)

    def _peer_does(self, step: str) -> None:
        peer = self.peer
        if step == "peer-send":
            peer.send(PATTERN[self.sent : self.sent + SEND_BYTES])
            self.sent += SEND_BYTES
        elif step == "peer-read":
            peer.read()
        elif step == "peer-fin":
            self.peer_ended = True
            peer.fin()
        else:
            self.peer_left_unread = bool(peer.sock.inbox)
            reset = step == "peer-reset" or self.peer_left_unread
            self.peer_ended = True
            self.peer_reset = self.peer_reset or reset
            peer.unsent.clear()
            if step == "peer-reset":
                peer.reset()
            else:
                peer.close()

    # What must hold

    def check(self) -> None:
        super().check()
        application, peer, sock = self.application, self.peer, self.sock
        need(sock.releases <= 1, "the descriptor was closed twice")
        need(PATTERN.startswith(peer.data), f"the peer read {bytes(peer.data)!r}: not what was written, in order")
        need(PATTERN.startswith(application.received), "what was delivered is not what the peer sent, in order")
        need(len(peer.data) <= self.application.written_in_all, "the peer read more than was written")
        report = self.connection.report
        need(
            report.written == self.application.written_in_all,
            f"{self.application.written_in_all} bytes were written, the report says {report.written}",
        )
        need(report.written == report.accepted + report.unsent, "the report does not add up")
        need(report.received == len(application.received), "the report counts another input than was delivered")
        if isinstance(sock, TcpSocket):
            out = bytes(sock.out)
            need(out == PATTERN[report.accepted - len(out) : report.accepted], "the kernel was given other bytes")
        inbox = bytes(peer.sock.inbox)
        need(PATTERN.startswith(inbox, len(peer.data)), "other bytes arrived than were written")
        if application.phase == "e":
            need(self.peer_ended and len(application.received) == self.sent, "eof_received before all was delivered")

    def finish(self, kind: bool) -> None:
        self.application.armed = None
        self.choices.next_send, self.choices.no_memory = None, False
        peer = self.peer
        if kind:
            peer.on_change = _end_in_order
            peer.resume_reading()
            _end_in_order(peer)
        self.settle()
        if self.application.phase != "l":
            self._check_waiting()
            if not kind:
                self._read_up()
            self.application.act("close")
            self.settle()
        need(self.application.phase == "l", f"{self.connection!r} never ends, with all deadlines passed")
        need(self.sock.releases == 1 and self.sock.released, "the descriptor was not closed")
        self._check_end(kind)

    def _check_waiting(self) -> None:
        """A connection that is not over waits for somebody who may still act, and for nothing it could have."""
        connection, sock = self.connection, self.sock
        need(connection.state in (OPEN, ENDED, PEER_END), f"{connection!r} waits, and nobody can end that")
        need(not connection.is_closing(), f"{connection!r} has failed, and nobody is told")
        need(not self.drained, f"{connection!r} outlived the drain's deadline")
        # With both sides shut a hang-up cannot be masked: a connection that is paused then is told when it resumes.
        unwatched = sock.shut and sock.fin_received and not connection.is_reading()
        need(unwatched or not sock.error_number, f"{connection!r} does not notice the error {sock.error_number}")
        if connection.is_reading():
            need(not sock.inbox, f"{connection!r} does not deliver what has arrived")
            need(not sock.fin_received, f"{connection!r} does not notice the peer's end")
        queued = connection.get_write_buffer_size()
        need(not queued or not sock.events() & WRITE, f"{connection!r} could send, and does not")
        low, _ = connection.get_write_buffer_limits()
        waits = self.application.writing_paused and connection.state.output is Output.ACCEPT
        need(queued > low or not waits, f"{connection!r} does not resume its writer")
        if connection.state is ENDED:
            need(sock.shut, f"{connection!r} has ended its output, and no FIN was sent")

    def _read_up(self) -> None:
        """Reading again, a paused connection gets everything that had arrived."""
        if self.application.paused:
            self.application.act("resume")
            self.settle()
            if self.application.phase != "l":
                self._check_waiting()

    def _check_end(self, kind: bool) -> None:
        application, peer, sock, report = self.application, self.peer, self.sock, self.connection.report
        lost = application.lost
        need(not isinstance(lost, AssertionError), f"the reactor failed: {lost}")
        need(not isinstance(lost, BlockingIOError), "it ended because the kernel said EAGAIN")
        need(report.reason is lost, "connection_lost and the report name different reasons")
        # What the peer's side has: read, or waiting to be read by who has not gone.
        arrived = len(peer.data) + len(peer.sock.inbox)
        if isinstance(sock, TcpSocket):
            if report.acknowledged is not None and not self.peer_reset and not peer.sock.released:
                need(report.acknowledged <= arrived, "more was reported as acknowledged than arrived")
            self._check_tcp_end(sock)
        else:
            self._check_unix_end()
        self._check_input()
        if lost is None:
            need(report.unsent == 0, f"{report.unsent} bytes were lost in silence")
            need(report.fin_sent == sock.shut, f"our FIN left: {sock.shut}; the report says {report.fin_sent}")
            too_late = isinstance(sock, TcpSocket) and sock.was_reset and not report.unacknowledged
            need(report.fin_sent or too_late, "it ended in order without our FIN")
            need(
                not self.unacknowledged,
                f"the end was told as one in order, with {self.unacknowledged} bytes unacknowledged",
            )
            need(not self.application.aborted and not self.application.raised, "an abort was told as an end in order")
        if self.application.aborted and not self.application.raised and not self.peer_reset:
            need(lost is not None, "an abort is told with a reason")
        if self.application.raised:
            need(lost is not None, "a callback raised, and connection_lost has no reason")
        if peer.ending == "EOF" and not (self.scenario.unix and lost is not None):
            need(
                len(peer.data) >= self.application.written,
                f"the peer saw a clean end after {len(peer.data)} of {self.application.written} bytes",
            )
        if kind and not peer.sock.released:
            need(peer.ending is not None, "the connection has ended, and the peer was not told")
        if kind and lost is None and not self.peer_reset and not self.peer.sock.released:
            need(
                len(peer.data) == self.application.written_in_all,
                "all was sent and ended in order, and the peer got less",
            )
            need(peer.ending == "EOF", f"an end in order looked like {peer.ending} to the peer")

    def __str__(self) -> str:
        peer, connection = self.peer, self.connection
        return f"{connection!r} {self.sock!r}: {connection.report}; the peer read {len(peer.data)}, {peer.ending}"

    def _check_tcp_end(self, sock: TcpSocket) -> None:
        application, report = self.application, self.connection.report
        lost = application.lost
        if self.reset_was_in_time:
            # After the peer's FIN, with everything acknowledged, a reset takes nothing away.
            harmless = sock.fin_received and report.unacknowledged == 0
            need(lost is not None or harmless, "the peer's reset was not told")
        if isinstance(lost, OSError):
            need(lost.errno != errno.EHOSTUNREACH, "a soft error was told as the end of the connection")
        if self.peer.ending == "reset":
            lingered = any(name == "LINGER" and seconds >= 1.0 for name, seconds in report.stages)
            need(lost is not None or lingered or self.drained, "the peer was reset, and our side ended in order")
        ours = isinstance(lost, (Aborted, Deliberate)) or report.how == "reset"
        if ours and not sock.over and not sock.was_reset:
            need(sock.was_disconnected, "the end was to be a reset, and was a FIN")
        if not ours and lost is None:
            need(not sock.was_disconnected, "an end in order was a reset")

    def _check_unix_end(self) -> None:
        if self._failed():
            lost_something = self.peer_left_unread or self.connection.report.unsent
            need(lost_something, "a hang-up was told as a failure, and nothing was lost")

    def _check_input(self) -> None:
        """After a failure, all that had arrived was delivered; or counted as discarded, if nobody read it in time."""
        if not self._failed() or self.application.closed or self.drained:
            return
        report, arrived = self.connection.report, self.sock.arrived
        need(
            report.received + report.discarded == arrived,
            f"{arrived} bytes had arrived before the failure, {report.received} were delivered and {report.discarded}"
            " discarded",
        )
        unread = any(name == "LAST_WORDS" and seconds >= UNREAD_SECONDS for name, seconds in report.stages)
        need(unread or not report.discarded, f"{report.discarded} bytes were discarded, and nobody had closed")

    def _failed(self) -> bool:
        """Whether the kernel told the end, and not this side's own decision."""
        lost = self.application.lost
        return isinstance(lost, OSError) and not isinstance(lost, ReactorError)

    # Seen before?

    def fingerprint(self) -> tuple[Any, ...]:
        return (
            self.application.fingerprint(self.reactor),
            socket_fingerprint(self.sock),
            socket_fingerprint(self.peer.sock),
            len(self.peer.unsent),
            self.peer.ending,
            self.choices.next_send,
            self.choices.no_memory,
            self.drained,
            self.reactor.draining,
            self.peer_ended,
            self.peer_reset,
            self.peer_left_unread,
            self.reset_was_in_time,
            self.under_way(),
            self.busy(),
        )


def _end_in_order(peer: Peer) -> None:
    """A kind peer answers our end with its own."""
    if peer.ending is not None and not peer.sock.released:
        if peer.ending == "EOF":
            peer.fin()
        else:
            peer.close()
