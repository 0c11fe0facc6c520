"""What a program that imports the package may rely on, with the types that its checker sees.

It is checked as a stranger's program is (`tests/test_typing.py`): strictly, and against the package as installed. Every
name of `reactor` and of `reactor.testing` is used here, and `assert_type` pins what comes back.
"""

from __future__ import annotations

import io
import ssl
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, BinaryIO, assert_type

import attrs

import reactor as door
from reactor import (
    Aborted,
    ConnectFailed,
    Connection,
    Connector,
    Datagram,
    DatagramProtocol,
    DatagramReport,
    Datagrams,
    Deadlines,
    Delimited,
    DrainSummary,
    FileUnusable,
    FixedLength,
    FlushTimeout,
    FramedProtocol,
    FrameTooLong,
    FramingError,
    Group,
    Handle,
    HandshakeTimeout,
    IdleTimeout,
    Keepalive,
    LengthPrefixed,
    Limits,
    Listener,
    Misuse,
    Options,
    Protocol,
    QueueOverflow,
    Reactor,
    ReactorClosed,
    ReactorError,
    Reader,
    ReceiveBuffer,
    Relay,
    Report,
    SkipTo,
    Sockets,
    Statistics,
    TimerHandle,
    TLSTruncated,
    Totals,
    TruncatedFrame,
    Unacknowledged,
    Unframeable,
    Unsent,
    UntilEOF,
    Watermarks,
    WriteAfterEnd,
    relay,
)
from reactor.embedding import Guest
from reactor.testing import (
    AbortedAccepts,
    Acceptor,
    BlackHole,
    DescriptorLimit,
    Famine,
    Fault,
    ForbiddenAccepts,
    Grammar,
    Link,
    OneAtATime,
    Peer,
    Resets,
    Shortage,
    ShortReads,
    ShortWrites,
    Shuffled,
    SimulatedSystem,
    SoftErrors,
    SpuriousReadiness,
    Stalled,
    Stalls,
    TryAgain,
)
from reactor.trace import Record, Turn, json_lines, text

OPTIONS = Options(
    watermarks=Watermarks(high=32 * 1024),
    limits=Limits(queue_bytes=1024 * 1024, connections=100),
    deadlines=Deadlines(idle=60, flush=10.0, flush_total=None),
    sockets=Sockets(keepalive=Keepalive(idle=30)),
    datagrams=Datagrams(groups=(Group(address="224.0.0.251"),)),
)
QUICK = attrs.evolve(OPTIONS, linger=False, datagrams=Datagrams())
assert_type(OPTIONS.deadlines.flush, float)
assert_type(OPTIONS.deadlines.idle, float | None)
assert_type(OPTIONS.limits.queue_bytes, int)


# Protocols


class Echo(Protocol):
    """Sends back what it is sent, and stops reading from a peer that does not read."""

    def data_received(self, data: bytes) -> None:
        assert_type(self.connection, Connection)
        self.connection.write(data)

    def pause_writing(self) -> None:
        self.connection.pause_reading()

    def resume_writing(self) -> None:
        self.connection.resume_reading()

    def eof_received(self) -> bool:
        return False


class Asking(Protocol):
    """Says something, ends its output, and keeps what comes back and how it ended."""

    def __init__(self, question: bytes) -> None:
        self.question = question
        self.answer = b""
        self.lost: Exception | None = None
        self.report: Report | None = None

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.set_write_buffer_limits(high=1024)
        assert_type(connection.get_write_buffer_limits(), tuple[int, int])
        connection.writelines([self.question, bytearray(b"!"), memoryview(b"?")])
        if connection.can_write_eof():
            connection.write_eof()

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def connection_failed(self, exc: Exception) -> None:
        self.lost = exc

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self.report = assert_type(self.connection.report, Report)


class Lines(FramedProtocol):
    """A header line, then as many bytes as it says."""

    reader: Reader = Delimited(b"\n", 1000)

    def frame_received(self, frame: bytes) -> None:
        if isinstance(self.reader, Delimited):
            self.reader = FixedLength(int(frame))
        else:
            self.write_frame(frame)
            self.reader = Delimited(b"\n", 1000)

    def framing_failed(self, exc: FramingError) -> None:
        if isinstance(exc, FrameTooLong):
            self.reader = SkipTo(b"\n")
        elif not isinstance(exc, TruncatedFrame):
            super().framing_failed(exc)

    def end_received(self) -> bool | None:
        assert_type(self.take_unread(), bytes)
        return None


class Pairs(Reader):
    """A way of one's own to tell where a frame ends."""

    def read(self, buffer: ReceiveBuffer) -> bytes | None:
        return buffer.take(2) if buffer.unread >= 2 else None

    def frame(self, data: Any) -> bytes:
        if len(data) != 2:
            raise Unframeable("two bytes make a pair")
        return bytes(data)


READERS: list[Reader] = [Pairs(), LengthPrefixed(2, "big", 1000), UntilEOF(1000)]


class Sending(Protocol):
    """Sends a file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.send_file(self.file, 0, None)
        connection.close()


class Upgrading(Protocol):
    """Goes on under TLS once the peer has asked for it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def data_received(self, data: bytes) -> None:
        self.connection.write(b"go ahead\n")
        self.connection.start_tls(self.context, server_side=True, received=b"", done=self.secured)

    def secured(self) -> None:
        self.connection.set_protocol(Echo())


class Forwarding(Protocol):
    """Connects whoever comes to somewhere else."""

    def __init__(self, reactor: Reactor, host: str, port: int) -> None:
        self.reactor, self.host, self.port = reactor, host, port
        self.onward: Connector | None = None

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        connection.pause_reading()
        self.onward = self.reactor.connect(lambda: Onward(connection), self.host, self.port, options=QUICK)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.onward is not None and not self.onward.done():
            self.onward.cancel()


class Onward(Protocol):
    """The far side of it."""

    def __init__(self, caller: Connection) -> None:
        self.caller = caller

    def connection_made(self, connection: Connection) -> None:
        assert_type(relay(self.caller, connection, done=self.over), Relay)

    def over(self, joined: Relay) -> None:
        assert_type(joined.failure, Exception | None)
        assert_type((joined.one_to_other, joined.other_to_one), tuple[int, int])

    def connection_failed(self, exc: Exception) -> None:
        self.caller.abort(exc)


class Answering(DatagramProtocol):
    """Sends each datagram back."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert_type(self.endpoint, Datagram)
        self.endpoint.sendto(data, addr)

    def connection_lost(self, exc: Exception | None) -> None:
        assert_type(self.endpoint.report, DatagramReport)


# Whose fault it was

FAULTS: list[tuple[type[Exception], str]] = [
    (WriteAfterEnd, "mine"),
    (ReactorClosed, "mine"),
    (Misuse, "mine"),
    (Aborted, "this side's decision"),
    (FileUnusable, "this side's decision"),
    (FlushTimeout, "this side's decision"),
    (IdleTimeout, "this side's decision"),
    (QueueOverflow, "this side's decision"),
    (Unacknowledged, "this side's decision"),
    (Unsent, "this side's decision"),
    (ConnectFailed, "the network's"),
    (HandshakeTimeout, "the network's"),
    (TLSTruncated, "the network's"),
    (ReactorError, "another"),
]


def whose(exc: Exception) -> str:
    """Whose fault an end was."""
    if isinstance(exc, ConnectFailed):
        assert_type(exc.causes, tuple[tuple[object, Exception], ...])
    return next((said for kind, said in FAULTS if isinstance(exc, kind)), "the network's")


# The reactor


def serve(context: ssl.SSLContext, file: BinaryIO) -> DrainSummary:
    """Serves everything above, on free ports, looks at itself, and ends at once."""
    with Reactor(poller="select") as reactor:
        assert_type(reactor, Reactor)
        reactor.observe(text(sys.stderr))
        reactor.observe(json_lines(io.StringIO()))
        reactor.observe_turns(print_turn, slow=0.1)
        listener = assert_type(reactor.listen(Echo, "127.0.0.1", 0, options=OPTIONS), Listener)
        host, port = listener.addresses[0]
        reactor.listen(lambda: Forwarding(reactor, host, port), "127.0.0.1", 0)
        reactor.listen(lambda: Upgrading(context), "127.0.0.1", 0)
        reactor.listen(lambda: Sending(file), "127.0.0.1", 0, tls=context)
        reactor.listen(Lines, "127.0.0.1", 0, reuse_port=True)
        assert_type(reactor.connect(lambda: Asking(b"who"), host, port), Connector)
        assert_type(reactor.datagram(Answering, ("127.0.0.1", 0)), Datagram)
        assert_type(reactor.call_soon(len, ""), Handle)
        assert_type(reactor.call_soon_threadsafe(len, ""), Handle)
        timer = assert_type(reactor.call_later(60, reactor.stop), TimerHandle)
        assert_type(reactor.call_at(reactor.time() + 60, reactor.stop), TimerHandle)
        timer.cancel()
        assert_type(reactor.run_in_thread(len, "four", done=finished), Future[Any])
        reactor.add_signal_handler(10, reactor.stop)
        assert_type(reactor.remove_signal_handler(10), bool)
        assert_type(reactor.statistics(), Statistics)
        assert_type(reactor.statistics().ended, Totals)
        assert_type(reactor.connections, tuple[Connection, ...])
        assert_type(reactor.timeout(), float | None)
        reactor.run_once(0)
        return assert_type(reactor.drain(5.0), DrainSummary)


def print_turn(turn: Turn) -> None:
    """An observer of turns."""
    for call in turn.slow:
        print(f"{call.what}: {call.seconds} s")


def finished(future: Future[Any]) -> None:
    """What a thread has come to."""
    assert future.result() == 4


def as_guest(reactor: Reactor, host: Reactor) -> Guest:
    """One reactor on the loop of another."""

    def watch(fd: int, callback: Callable[[], None]) -> Callable[[], object]:
        host.add_reader(fd, callback)
        return lambda: host.remove_reader(fd)

    def later(seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        return host.call_later(seconds, callback).cancel

    return Guest(reactor, watch, later, drained=host.stop)


# Its tests

FAULTS_OF_A_KERNEL: list[type[Fault]] = [
    *(AbortedAccepts, BlackHole, DescriptorLimit, Famine, OneAtATime, Resets, ShortReads, ShortWrites),
    *(Shuffled, SpuriousReadiness, Stalls, TryAgain, ForbiddenAccepts, Shortage, SoftErrors),
]


def answer_of(question: bytes) -> bytes:
    """What Echo answers, on a slow line that gives a byte at a time; and how it ended for both sides."""
    system = SimulatedSystem(seed=1, link=Link(latency=0.05), faults=[OneAtATime()])
    grammar = Grammar()
    records: list[Record] = []
    with Reactor(system=system) as reactor:
        reactor.observe(grammar)
        reactor.observe(records.append)
        listener = reactor.listen(Echo, "127.0.0.1", 0)
        peer = assert_type(system.peer(listener.addresses[0]), Peer)
        peer.send(question)
        peer.fin()
        try:
            system.run(reactor, until=lambda: peer.ending)
        except Stalled as exc:
            raise AssertionError(f"nobody answers {question!r}") from exc
        assert peer.ending == "EOF"
        assert_type(system.acceptor(("127.0.0.1", 9)), Acceptor).close()
        listener.close()
        system.run(reactor, until=lambda: not reactor.connections)
        assert reactor.drain(1).clean
    grammar.check(ended=True)
    assert records[-1].what == "connection_lost"
    return bytes(peer.data)


VERSION: str = door.__version__
