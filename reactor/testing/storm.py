"""Storms: many connections, every fault at once, for long; the same seed is the same storm, to the byte.

A `Storm` is a machine with a few moves (somebody connects, sends, stops reading, ends, resets; the server closes or
aborts; time passes). `storm` draws them from a seed; a property-based test may choose them itself. What must hold is
asked after every move and at the end, when the faults rest, the peers read up, and the reactor drains:

- the callbacks follow their grammar, and every connection ends;
- what a peer reads is what was meant for it, in order; who sees a clean end has got everything the kernel accepted;
- no more is reported as acknowledged than arrived; every report adds up; an end in order lost nothing, and a failure
  came behind all that had arrived before it; a soft error ended nothing;
- nothing is logged as an error, no descriptor is left, none is used after it was closed.

`Storm.visits` counts the states, ends and callbacks that came up, so that a test can see what its storm has missed.
"""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

from reactor import Protocol, Reactor
from reactor.connection import Connection
from reactor.errors import ReactorError
from reactor.options import Deadlines, Limits, Options, Sockets, Watermarks
from reactor.testing.faults import (
    AbortedAccepts,
    BlackHole,
    DescriptorLimit,
    Famine,
    ForbiddenAccepts,
    OneAtATime,
    Resets,
    Shortage,
    ShortReads,
    ShortWrites,
    Shuffled,
    SoftErrors,
    SpuriousReadiness,
    Stalls,
    TryAgain,
)
from reactor.testing.grammar import Grammar
from reactor.testing.kernel import SimulatedSystem
from reactor.testing.links import Link
from reactor.testing.machine import ErrorLog, need
from reactor.testing.peer import Acceptor, Peer
from reactor.testing.tcp import TcpSocket
from reactor.trace import Record

OPTIONS = Options(
    watermarks=Watermarks(high=4096),
    limits=Limits(read_bytes=2048, accepts_per_turn=4, queue_bytes=256 * 1024),
    deadlines=Deadlines(
        idle=20.0, flush=5.0, linger_grace=1.0, linger_silence=5.0, linger_total=20.0, unread=5.0, connect=10.0
    ),
    sockets=Sockets(send_buffer_bytes=4096, receive_buffer_bytes=4096),
)
LINK = Link(latency=0.01, jitter=0.05, segment_bytes=1000, send_buffer_bytes=4096, receive_buffer_bytes=4096)
_FRONT = ("10.0.0.1", 7000)
_UPSTREAM = ("10.0.0.2", 9000)
_MOST_BYTES = 3000
MOVES = 15
# A member whose queue is longer is thrown out of the chat.
_CHAT_LIMIT = 32 * 1024


class Served(Protocol):
    """What the protocols of a storm share."""

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        # We ended our output: the reactor would refuse a write.
        self.silent = False

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self.storm.began(self)

    def say(self, data: bytes) -> None:
        if not self.silent:
            self.connection.write(data)

    def end(self, how: str) -> None:
        """`how` is close, write_eof, abort, or fail: an abort behind everything that was written."""
        self.silent = True
        if how == "fail":
            self.connection.abort(flush=True)
        else:
            getattr(self.connection, how)()

    def connection_lost(self, exc: Exception | None) -> None:
        self.storm.ended(self, exc)


class Echo(Served):
    """Sends back what comes, and reads no faster than it can send."""

    def data_received(self, data: bytes) -> None:
        self.say(data)

    def pause_writing(self) -> None:
        self.connection.pause_reading()

    def resume_writing(self) -> None:
        self.connection.resume_reading()


class Chat(Served):
    """Every line goes to every member, who is thrown out when too much waits for it."""

    def __init__(self, storm: Storm) -> None:
        super().__init__(storm)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            for member in tuple(self.storm.serving):
                if member.connection.get_write_buffer_size() > _CHAT_LIMIT:
                    member.end("abort")
                else:
                    member.say(line + b"\n")


class Front(Served):
    """A proxy's near side: reads only once the far side is there."""

    def __init__(self, storm: Storm) -> None:
        super().__init__(storm)
        self.other: Front | Back | None = None

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.pause_reading()
        self.storm.reactor.connect(lambda: Back(self), *_UPSTREAM, options=OPTIONS)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.say(data)

    def eof_received(self) -> bool:
        if self.other is None:
            return False
        self.other.end("write_eof")
        return True

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.connection.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.connection.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.end("close" if exc is None else "abort")
        super().connection_lost(exc)


class Back(Front):
    """A proxy's far side."""

    def __init__(self, front: Front) -> None:
        super().__init__(front.storm)
        self._front = front

    def connection_made(self, connection: Connection) -> None:
        Served.connection_made(self, connection)
        if self._front.connection.is_closing():
            self.end("abort")
            return
        self.other, self._front.other = self._front, self
        self._front.connection.resume_reading()

    def connection_failed(self, exc: Exception) -> None:
        self.storm.visits["connection_failed"] += 1
        self._front.end("abort")


PROTOCOLS: dict[str, Callable[[Any], Served]] = {"echo": Echo, "chat": Chat, "proxy": Front}


@attrs.frozen
class Summary:
    """What a storm was."""

    connections: int
    turns: int
    virtual_seconds: float
    records: int
    # SHA-256 of every record of the trace.
    digest: str
    visits: dict[str, int]

    def __str__(self) -> str:
        visits = ", ".join(f"{name} {count}" for name, count in sorted(self.visits.items()))
        return (
            f"{self.connections} connections, {self.turns} turns, {self.virtual_seconds:.0f} virtual seconds,"
            f" {self.records} records, trace {self.digest[:16]}; {visits}"
        )


class Client:
    """A raw peer and what it sent."""

    def __init__(self, number: int, peer: Peer) -> None:
        self.number = number
        self.peer = peer
        self.sent = bytearray()
        self.lines = 0
        self.over = False


class Storm:
    """The machine. Close it, or use it as a context manager."""

    def __init__(self, protocol: str, seed: int = 0, connections: int = 100) -> None:
        self.protocol = protocol
        self.system = SimulatedSystem(seed, link=LINK)
        self.weather = (
            DescriptorLimit(6 + connections // 3),
            ShortWrites(0.3),
            ShortReads(0.3),
            TryAgain(0.05),
            SpuriousReadiness(0.02),
            OneAtATime(0.1),
            Shuffled(),
            Resets(0.002),
            Stalls(0.002, 8.0),
            AbortedAccepts(0.05),
            Famine(20.0, 22.0),
            Famine(90.0, 91.0),
            BlackHole(50.0, 65.0, among=lambda sock: _port(sock) % 3 == 0),
            SoftErrors(0.02),
            ForbiddenAccepts(30.0, 33.0),
            Shortage(40.0, 42.0),
        )
        self.system.faults = self.weather
        self.log = ErrorLog()
        self.reactor = Reactor(system=self.system)
        self.grammar = Grammar()
        self.reactor.observe(self.grammar)
        self.reactor.observe(self._record)
        self._hash = hashlib.sha256()
        self._records = 0
        self.visits: Counter[str] = Counter()
        self.clients: list[Client] = []
        self.serving: dict[Served, None] = {}
        self._ends: dict[Any, tuple[Served, Exception | None]] = {}
        make = PROTOCOLS[protocol]
        self.listener = self.reactor.listen(lambda: make(self), *_FRONT, options=OPTIONS)
        if protocol == "proxy":
            self.upstream = Acceptor(self.system, _UPSTREAM, 64)
            self.upstream.on_peer = _echo_from

    # What the protocols tell

    def began(self, protocol: Served) -> None:
        self.serving[protocol] = None

    def ended(self, protocol: Served, exc: Exception | None) -> None:
        del self.serving[protocol]
        report = protocol.connection.report
        self.visits[type(exc).__name__ if exc is not None else "lost nothing"] += 1
        self.visits[f"ended: {report.how}"] += 1
        for name, _ in report.stages:
            self.visits[name] += 1
        need(report.written == report.accepted + report.unsent, f"{report} does not add up")
        if exc is None:
            need(report.unsent == 0, f"{report.unsent} bytes were lost in silence")
            need(not report.unacknowledged, f"the end was told as one in order: {report}")
        elif isinstance(exc, OSError) and not isinstance(exc, ReactorError):
            self._check_failure(protocol, exc)
        self._ends[protocol.connection.get_extra_info("peername")] = (protocol, exc)

    def _check_failure(self, protocol: Served, exc: OSError) -> None:
        """The kernel's, and nobody here had ended anything before."""
        need(exc.errno != errno.EHOSTUNREACH, "a soft error was told as the end of a connection")
        report, arrived = protocol.connection.report, protocol.connection.get_extra_info("socket").arrived
        if protocol.silent or self.reactor.draining:
            return
        need(report.received + report.discarded == arrived, f"{arrived} bytes had arrived before the failure: {report}")
        waited = any(name == "LAST_WORDS" and seconds >= OPTIONS.deadlines.unread for name, seconds in report.stages)
        need(waited or not report.discarded, f"nobody had closed, and input was discarded: {report}")

    def _record(self, record: Record) -> None:
        self._records += 1
        words = f"{record.time!r} {record.connection} {record.what} {record.count} {record.detail}\n"
        self._hash.update(words.encode())
        if record.what in ("pause_writing", "resume_writing", "eof_received", "discarded", "draining"):
            self.visits[record.what] += 1

    # Moves

    def connect(self) -> Client:
        client = Client(len(self.clients), self.system.peer(_FRONT))
        self.clients.append(client)
        return client

    def send(self, client: Client, size: int) -> None:
        if client.over:
            return
        if self.protocol == "chat":
            data = b"%d %d %s\n" % (client.number, client.lines, b"." * size)
            client.lines += 1
        else:
            start = len(client.sent)
            data = bytes((index * 7 + client.number) % 251 for index in range(start, start + size))
        client.sent += data
        client.peer.send(data)

    def stop_reading(self, client: Client) -> None:
        client.peer.stop_reading()

    def resume_reading(self, client: Client) -> None:
        client.peer.resume_reading()

    def fin(self, client: Client) -> None:
        client.over = True
        client.peer.fin()

    def leave(self, client: Client, reset: bool) -> None:
        client.over = True
        if not client.peer.sock.released:
            if reset:
                client.peer.reset()
            else:
                client.peer.close()

    def server_ends(self, index: int, how: str) -> None:
        """`how` is as in `Served.end`, on one of the connections being served."""
        serving = list(self.serving)
        if serving:
            serving[index % len(serving)].end(how)

    def pass_time(self, seconds: float) -> None:
        self.system.run(self.reactor, seconds)
        self.check()

    def draw_a_move(self) -> None:
        """Some move of some client, from the seed."""
        system = self.system
        client = self.clients[system.draw(len(self.clients))]
        if client.over:
            client = self.clients[system.draw(len(self.clients))]  # the living act more often
        move = system.draw(100)
        if move < 65:
            self.send(client, 1 + system.draw(_MOST_BYTES))
        elif move < 74:
            self.stop_reading(client)
        elif move < 88:
            self.resume_reading(client)
        elif move < 92:
            self.fin(client)
        elif move < 96:
            self.leave(client, reset=move < 94)
        else:
            self.server_ends(system.draw(1000), ("close", "write_eof", "abort", "fail")[system.draw(4)])

    # What must hold

    def check(self) -> None:
        self.grammar.check()
        for cause in self.log.unexpected:
            raise AssertionError(f"the reactor logged {type(cause).__name__}: {cause}") from (
                cause if isinstance(cause, BaseException) else None
            )
        need(not self.system.bad_calls, f"the reactor made a {self.system.bad_calls}")
        for client in self.clients:
            if self.protocol == "chat":
                self._check_chat(client)
            else:
                need(client.sent.startswith(client.peer.data), f"client {client.number} read what it had not sent")

    def _check_chat(self, client: Client) -> None:
        *lines, _ = bytes(client.peer.data).split(b"\n")
        last: dict[int, int] = {}
        for line in lines:
            sender, number, _ = line.split(b" ", 2)
            need(last.get(int(sender), -1) < int(number), f"client {client.number} read lines out of order")
            last[int(sender)] = int(number)

    def finish(self) -> Summary:
        """The faults rest, who can reads up, the reactor drains; and everything has ended."""
        self.system.faults = ()
        for client in self.clients:
            self.resume_reading(client)
        self.pass_time(60.0)
        begun = self.reactor.drain(120.0)
        need(begun.finished, "the drain did not finish")
        need(not self.reactor.connections and not self.serving, f"{self.reactor.connections} never ended")
        self.grammar.check(ended=True)
        self.check()
        need(len(self.system.descriptors) == 2, f"descriptors were left open\n{self.system.dump()}")
        self._settle()
        for client in self.clients:
            self._check_client(client)
        visits = dict(self.visits)
        turns, seconds = self.reactor.turns, self.system.now
        return Summary(len(self.clients), turns, seconds, self._records, self._hash.hexdigest(), visits)

    def _settle(self) -> None:
        """The orphans' last packets arrive."""
        self.system.advance(self.system.now)
        end = self.system.now + 60.0
        while self.system.advance(end):
            pass

    def _check_client(self, client: Client) -> None:
        peer = client.peer
        found = self._ends.get(peer.sock.local)
        if found is None:
            need(peer.ending != "EOF" or not peer.data, f"client {client.number} was served by nobody")
            return
        protocol, _ = found
        report = protocol.connection.report
        arrived = len(peer.data) + len(peer.sock.inbox)
        if not peer.sock.released:
            need((report.acknowledged or 0) <= arrived, f"client {client.number}: more acknowledged than arrived")
        if peer.ending == "EOF":
            need(
                len(peer.data) == report.accepted,
                f"client {client.number} saw a clean end after {len(peer.data)} bytes: {report}",
            )

    def close(self) -> None:
        self.reactor.close()

    def __enter__(self) -> Storm:
        self.log.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        self.log.__exit__(*exc_info)


def storm(protocol: str, seed: int, connections: int) -> Summary:
    """One storm of so many connections, with `MOVES` moves for each."""
    with Storm(protocol, seed, connections) as machine:
        system = machine.system
        for _ in range(MOVES * connections):
            if len(machine.clients) < connections and (not machine.clients or system.chance(0.15)):
                machine.connect()
            machine.draw_a_move()
            machine.pass_time(system.draw(20) * 0.01)
        return machine.finish()


def _port(sock: TcpSocket) -> int:
    """A number that both ends of a connection share."""
    return int(sock.local[1]) + int(sock.remote[1])


def _echo_from(peer: Peer) -> None:
    """A raw server that sends back what it reads, and answers an end with its own."""
    seen = 0

    def changed(peer: Peer) -> None:
        nonlocal seen
        new = bytes(peer.data[seen:])
        seen = len(peer.data)
        if new:
            peer.send(new)
        if peer.ending == "EOF":
            peer.fin()
        elif peer.ending is not None:
            peer.close()

    peer.on_change = changed
