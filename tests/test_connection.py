"""The contract of Connection, over real sockets, on every poller. How connections end has its own folder, `closing`."""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import socket

import attrs
import pytest

from reactor import (
    Aborted,
    Deadlines,
    FlushTimeout,
    IdleTimeout,
    Limits,
    Misuse,
    Options,
    QueueOverflow,
    Reactor,
    Unacknowledged,
    Unsent,
    Watermarks,
    WriteAfterEnd,
    trace,
)
from reactor.lifecycle import CLOSED, ENDED, LINGER, OPEN, PEER_END
from reactor.system import System
from tests.closing.support import Clock, turn
from tests.helpers import Recorder, Server, turn_until

# 384 KiB: far more than the kernels take for a connection of SMALL_BUFFERS that nobody reads.
BIG = bytes(range(256)) * 1536
SMALL_BUFFERS = Options(sockets=attrs.evolve(Options().sockets, send_buffer_bytes=8192))


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.connection.write(data)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


@pytest.fixture
def clock():
    """Time that passes only when the test says so."""
    return Clock()


@pytest.fixture
def by_clock(poller, clock, no_descriptor_left):
    """A reactor on each poller that goes by it."""
    with Reactor(poller=poller, system=clock) as made:
        yield made


def test_an_echo_comes_back_and_ends_in_order_when_the_client_ends(reactor, transport, path):
    """What was written is echoed, the client's FIN is answered by ours, and nothing is lost."""
    server = Server(reactor, Echo, transport, path)
    with server.peer() as peer:
        peer.send(b"hello")
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"hello"
    (protocol,) = server.protocols
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None
    report = protocol.report
    assert (report.written, report.accepted, report.unsent, report.received) == (5, 5, 0, 5)
    assert (report.reason, report.how, report.discarded, report.fin_sent) == (None, "in order", 0, True)
    assert [name for name, _ in report.stages] == ["OPEN", "PEER_END", "LAST", "CONFIRM", "CLOSED"]


def test_an_asyncio_protocol_runs_unchanged(reactor):
    """A plain asyncio.Protocol subclass is served, and drained, like one of our own."""

    class Upper(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.peername = transport.get_extra_info("peername")

        def data_received(self, data):
            self.transport.write(data.upper())

        def connection_lost(self, exc):
            self.lost = exc

    server = Server(reactor, Upper)
    with server.peer() as peer:
        peer.send(b"shout")
        peer.read_until(5)
        assert peer.data == b"SHOUT"
        assert server.protocols[0].peername == peer.sock.getsockname()
        summary = reactor_drain_in_a_turn(reactor)
        assert peer.read_to_end() == "EOF"
        peer.close()
        reactor.run()
    assert summary.clean
    assert server.protocols[0].lost is None


def reactor_drain_in_a_turn(reactor):
    summaries = []
    reactor.call_soon(lambda: summaries.append(reactor.drain(10)))
    turn_until(reactor, lambda: summaries)
    return summaries[0]


# Writing


def test_the_writes_of_a_turn_arrive_in_order_in_few_sends(reactor):
    """The first goes straight to the kernel, the rest leave together before the loop sleeps."""
    sends = []
    reactor.observe(lambda record: sends.append(record.count) if record.what == "sent" else None)

    class Talker(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            for number in range(100):
                connection.write(b"%02d" % number)
            connection.writelines([b"a", bytearray(b"b"), memoryview(b"c"), b""])

    server = Server(reactor, Talker)
    with server.peer() as peer:
        peer.read_until(203)
        assert peer.data == b"".join(b"%02d" % number for number in range(100)) + b"abc"
    assert sends[0] == 2
    assert sum(sends) == 203
    assert len(sends) <= 3


def test_a_writer_may_change_its_buffer_after_the_write(reactor):
    """What must be kept and is mutable is copied."""
    server = Server(reactor, options=SMALL_BUFFERS)
    peer, protocol = server.connected()
    with peer:
        data = bytearray(BIG)
        protocol.connection.write(data)
        protocol.connection.write(memoryview(data)[:10])
        data[:] = bytes(len(data))
        peer.read_until(len(BIG) + 10)
        assert peer.data == BIG + BIG[:10]


def test_any_bytes_like_object_can_be_written(reactor):
    """Strided views and arrays of numbers go as their bytes."""
    server = Server(reactor)
    peer, protocol = server.connected()
    numbers = array.array("I", [1, 2, 3])
    with peer:
        protocol.connection.write(numbers)
        protocol.connection.write(memoryview(b"a.b.c.")[::2])
        protocol.connection.write(b"")
        peer.read_until(15)
        assert peer.data == numbers.tobytes() + b"abc"


@pytest.mark.parametrize("what", ["text", 5, None])
def test_what_is_not_bytes_is_refused_and_the_connection_lives(reactor, what):
    """TypeError at the call; nothing else happens."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        with pytest.raises(TypeError, match="bytes-like"):
            protocol.connection.write(what)
        assert protocol.connection.state is OPEN


@pytest.mark.parametrize("how", ["write_eof", "close", "abort"])
@pytest.mark.parametrize("queued", [False, True])
def test_writing_after_your_own_end_is_refused_whatever_the_queue_holds(reactor, how, queued):
    """The error names the connection, its state and the call that ended it."""
    server = Server(reactor, options=SMALL_BUFFERS)
    peer, protocol = server.connected()
    with peer:
        if queued:
            protocol.connection.write(BIG)
        getattr(protocol.connection, how)()
        for write in (protocol.connection.write, lambda data: protocol.connection.writelines([data])):
            with pytest.raises(WriteAfterEnd, match=rf"write\(\) of 4 bytes refused: <Connection #1 .* by {how}\(\)"):
                write(b"late")
        if how != "abort":
            assert peer.read_to_end() == "EOF"
            assert len(peer.data) == queued * len(BIG)


def test_writing_after_connection_lost_is_refused(reactor):
    """Whoever was told writes no more."""
    server = Server(reactor)
    peer, protocol = server.connected()
    peer.close()
    turn_until(reactor, lambda: protocol.ended)
    with pytest.raises(WriteAfterEnd, match=r"ended by connection_lost\(\)"):
        protocol.connection.write(b"late")


def test_others_may_write_until_connection_lost_and_what_is_lost_is_told(reactor):
    """Between the peer's FIN (which closes by default) and connection_lost, writes count as unsent, aloud."""

    class Late(Recorder):
        def eof_received(self):
            super().eof_received()
            reactor.call_soon(self.connection.write, b"from another connection")

    server = Server(reactor, Late, options=SMALL_BUFFERS)
    peer, protocol = server.connected(receive_buffer=4096)
    with peer:
        protocol.connection.write(BIG)
        peer.fin()
        turn_until(reactor, lambda: protocol.report.unsent and "eof_received" in protocol.calls)
        assert peer.read_to_end() == "EOF"
        assert peer.data == BIG
    turn_until(reactor, lambda: protocol.ended)
    assert isinstance(protocol.lost, Unsent)
    assert protocol.report.unsent == len(b"from another connection")
    assert protocol.report.written == len(BIG) + protocol.report.unsent


def test_a_fast_writer_is_paused_and_resumed_at_the_watermarks(reactor, transport, path):
    """pause_writing above high, resume_writing at or below low, never from inside write()."""
    inside = []

    class Careful(Recorder):
        def pause_writing(self):
            assert not inside
            assert self.connection.get_write_buffer_size() > 1000
            super().pause_writing()

        def resume_writing(self):
            assert self.connection.get_write_buffer_size() <= 100
            super().resume_writing()

    options = attrs.evolve(SMALL_BUFFERS, watermarks=Watermarks(high=1000, low=100))
    server = Server(reactor, Careful, transport, path, options=options)
    peer, protocol = server.connected(receive_buffer=4096)
    with peer:
        assert protocol.connection.get_write_buffer_limits() == (100, 1000)
        inside.append(1)
        protocol.connection.write(BIG)
        inside.clear()
        turn_until(reactor, lambda: "pause_writing" in protocol.calls)
        peer.read_until(len(BIG))
        turn_until(reactor, lambda: "resume_writing" in protocol.calls)
        assert peer.data == BIG
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


def test_the_watermarks_can_be_set_as_in_asyncio(reactor):
    """high alone, low alone, both, neither; nonsense is refused."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        connection = protocol.connection
        connection.set_write_buffer_limits(high=400)
        assert connection.get_write_buffer_limits() == (100, 400)
        connection.set_write_buffer_limits(low=50)
        assert connection.get_write_buffer_limits() == (50, 200)
        connection.set_write_buffer_limits(high=0)
        assert connection.get_write_buffer_limits() == (0, 0)
        with pytest.raises(ValueError, match="must not be above"):
            connection.set_write_buffer_limits(high=1, low=2)
        connection.set_write_buffer_limits()
        assert connection.get_write_buffer_limits() == (16384, 65536)


def test_a_queue_past_its_limit_resets_the_connection_and_nobody_else(reactor):
    """A protocol that ignores pause_writing cannot take the machine; what was dropped is counted."""
    options = attrs.evolve(SMALL_BUFFERS, limits=Limits(queue_bytes=100_000))
    server = Server(reactor, options=options)
    slow, victim = server.connected(receive_buffer=4096)
    other, neighbour = server.connected()
    with slow, other:
        victim.connection.write(BIG)
        turn_until(reactor, lambda: victim.ended)
        assert isinstance(victim.lost, QueueOverflow)
        assert victim.report.unsent + victim.report.accepted == len(BIG)
        assert slow.read_to_end() == "reset"
        neighbour.connection.write(b"fine")
        other.read_until(4)
        assert other.data == b"fine"


# Reading


def test_pausing_holds_the_data_and_resuming_delivers_it(reactor, transport, path):
    """Nothing comes while paused, not even what was ready in the same batch; nothing is lost."""
    server = Server(reactor, Recorder, transport, path)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.pause_reading()
        assert not protocol.connection.is_reading()
        peer.send(b"held")
        peer.fin()
        for _ in range(5):
            reactor.run_once(0)
        assert protocol.data == b""
        protocol.connection.resume_reading()
        assert protocol.connection.is_reading()
        assert peer.read_to_end() == "EOF"
        assert protocol.data == b"held"
    assert protocol.lost is None


def test_a_paused_reader_does_not_spin(reactor, transport, path):
    """With data and the peer's end waiting, the loop sleeps."""
    server = Server(reactor, Recorder, transport, path)
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    peer.send(b"held")
    peer.close()
    reactor.run_once(0.01)
    reactor.run_once(0.01)
    turns = reactor.turns
    reactor.call_later(0.05, reactor.stop)
    reactor.run()
    assert reactor.turns - turns <= 3
    protocol.connection.resume_reading()
    turn_until(reactor, lambda: protocol.ended)
    assert protocol.data == b"held"
    assert protocol.lost is None


def test_a_pause_by_one_connection_holds_for_another_in_the_same_batch(reactor):
    """Readiness that was collected before the pause is ignored."""
    server = Server(reactor)
    first_peer, first = server.connected()
    second_peer, second = server.connected()

    def pause_the_other(data):
        for protocol in (first, second):
            if protocol.connection.is_reading() and len(paused) < 1:
                paused.append(second if protocol is first else first)
                paused[0].connection.pause_reading()
        received.append(data)

    paused, received = [], []
    first.data_received = second.data_received = pause_the_other
    with first_peer, second_peer:
        first_peer.send(b"x")
        second_peer.send(b"x")
        for _ in range(5):
            reactor.run_once(0.01)
        assert received == [b"x"]
        paused[0].connection.resume_reading()
        turn_until(reactor, lambda: len(received) == 2)


def test_an_echo_that_passes_backpressure_on_stays_small(reactor):
    """pause_reading in pause_writing bounds the queue however much the peer sends."""

    class Backpressured(Echo):
        largest = 0

        def data_received(self, data):
            super().data_received(data)
            Backpressured.largest = max(Backpressured.largest, self.connection.get_write_buffer_size())

        def pause_writing(self):
            self.connection.pause_reading()

        def resume_writing(self):
            self.connection.resume_reading()

    server = Server(reactor, Backpressured)
    peer, protocol = server.connected()
    with peer:
        view = memoryview(BIG * 20)
        while view:
            try:
                view = view[peer.sock.send(view) :]
            except BlockingIOError:
                reactor.run_once(0.01)
                peer.read_some(1 << 20)
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == BIG * 20
    assert Backpressured.largest < 65536 * 4
    assert protocol.lost is None


# Ends that belong to the contract; the rest is in tests/closing


def test_a_second_end_changes_nothing(reactor):
    """write_eof, close and abort may each be called again, at any time."""
    server = Server(reactor)
    peer, protocol = server.connected()
    connection = protocol.connection
    with peer:
        assert connection.can_write_eof()
        assert not connection.is_closing()
        connection.write_eof()
        connection.write_eof()
        assert connection.state is ENDED
        assert not connection.is_closing()
        connection.close()
        connection.close()
        connection.write_eof()
        assert connection.state is LINGER
        assert connection.is_closing()
        connection.abort()
        connection.abort()
        connection.close()
        connection.write_eof()
        connection.pause_reading()
        connection.resume_reading()
        assert connection.state is CLOSED
        turn_until(reactor, lambda: protocol.ended)
        assert isinstance(protocol.lost, Aborted)
        connection.abort()
        assert protocol.calls == ["connection_made", "connection_lost"]


def test_keeping_our_side_open_lets_the_reply_follow_the_peers_fin(reactor):
    """The HOWTO's exchange: the client says shutdown(1) and still gets its reply."""
    server = Server(reactor, lambda: Recorder(keep_open=True))
    with server.peer() as peer:
        peer.send(b"request")
        peer.fin()
        turn_until(reactor, lambda: server.protocols and "eof_received" in server.protocols[0].calls)
        (protocol,) = server.protocols
        assert protocol.connection.state is PEER_END
        protocol.connection.write(b"reply")
        protocol.connection.close()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
        turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is None


def test_an_idle_connection_is_closed_in_order_and_told_why(by_clock, clock):
    """The peer sees a clean end; the protocol gets IdleTimeout; traffic either way puts it off."""
    server = Server(by_clock, options=Options(deadlines=Deadlines(idle=10)))
    peer, protocol = server.connected()
    with peer:
        for count in (1, 2):
            clock.skip(by_clock, 9.5)
            protocol.connection.write(b".")
            clock.skip(by_clock, 9.5)
            peer.send(b".")
            turn_until(by_clock, lambda count=count: len(protocol.data) == count)
        clock.skip(by_clock, 9.5)
        assert protocol.connection.state is OPEN
        clock.skip(by_clock, 1)
        assert peer.read_to_end() == "EOF"
        assert (peer.data, protocol.data) == (b"..", b"..")
    turn_until(by_clock, lambda: protocol.ended)
    assert isinstance(protocol.lost, IdleTimeout)
    assert protocol.report.how == "in order"


def test_a_peer_that_reads_nothing_meets_the_flush_deadline(by_clock, clock, transport, path):
    """After close() a stalled reader is reset, and every byte is accounted for."""
    options = attrs.evolve(SMALL_BUFFERS, deadlines=Deadlines(flush=10))
    server = Server(by_clock, Recorder, transport, path, options=options)
    peer, protocol = server.connected(receive_buffer=4096)
    with peer:
        protocol.connection.write(BIG)
        protocol.connection.close()
        clock.skip(by_clock, 9.5)
        assert not protocol.ended
        # What the kernels took between them counts as progress when it is first looked at, after a sixteenth of it.
        clock.skip(by_clock, 1.5)
        assert protocol.ended
        assert isinstance(protocol.lost, FlushTimeout)
        report = protocol.report
        assert report.how == "reset"
        assert report.written == len(BIG) == report.accepted + report.unsent
        if transport != "unix":
            assert report.acknowledged + report.unacknowledged == report.accepted
            assert peer.read_to_end() == "reset"


def test_lingering_can_be_switched_off(reactor):
    """The descriptor goes right after our FIN; what is not confirmed by then is told."""
    server = Server(reactor, options=Options(linger=False))
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(b"bye")
        protocol.connection.close()
        reactor.run_once(0)
        assert protocol.ended
        assert protocol.lost is None or isinstance(protocol.lost, Unacknowledged)
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"bye"


def test_what_nobody_can_know_is_none_and_never_taken_for_success(poller):
    """Without the kernel's word a peer that never ends leaves Unacknowledged, and the counts are None."""

    class Silent(System):
        def outstanding(self, sock):
            return None

    options = Options(deadlines=Deadlines(linger_grace=0.02, linger_silence=0.1))
    with Reactor(poller=poller, system=Silent()) as reactor:
        server = Server(reactor, options=options)
        peer, protocol = server.connected()
        with peer:
            protocol.connection.write(b"bye")
            protocol.connection.close()
            turn_until(reactor, lambda: protocol.ended)
    assert isinstance(protocol.lost, Unacknowledged)
    report = protocol.report
    assert (report.acknowledged, report.unacknowledged, report.lost, report.fin_acknowledged) == (None,) * 4
    assert (report.how, report.accepted) == ("cut", 3)


# Looking


def test_a_connection_tells_about_itself(reactor):
    """Names, state, number, the kernel's state, and a repr for people."""
    server = Server(reactor)
    peer, protocol = server.connected()
    connection = protocol.connection
    with peer:
        assert connection.get_extra_info("peername") == peer.sock.getsockname()
        assert connection.get_extra_info("sockname") == peer.sock.getpeername()
        assert isinstance(connection.get_extra_info("socket"), socket.socket)
        assert connection.get_extra_info("tcp_state", "unknown") in ("ESTABLISHED", "unknown")
        assert connection.get_extra_info("cipher") is None
        assert connection.get_extra_info("cipher", 7) == 7
        assert connection.number == 1
        assert repr(connection).startswith("<Connection #1 127.0.0.1:")
        assert repr(connection).endswith(" OPEN>")
        assert connection.get_protocol() is protocol
        live = connection.report
        assert (live.how, live.reason, live.written) == ("OPEN", None, 0)
    turn_until(reactor, lambda: protocol.ended)
    assert connection.get_protocol() is None
    assert connection.get_extra_info("peername")[0] == "127.0.0.1"
    assert connection.get_extra_info("sockname") is None
    assert repr(connection).endswith(" CLOSED>")
    with pytest.raises(Misuse, match=r"set_protocol\(\) refused"):
        connection.set_protocol(Recorder())


def test_the_protocol_can_be_replaced(reactor):
    """From then on the callbacks go to the new one."""
    server = Server(reactor)
    peer, first = server.connected()
    second = Recorder()
    second.calls.append("connection_made")
    with peer:
        first.connection.set_protocol(second)
        peer.send(b"for the second")
        turn_until(reactor, lambda: second.data)
    turn_until(reactor, lambda: second.ended)
    assert first.calls == ["connection_made"]
    assert second.data == b"for the second"


@pytest.mark.logs_errors
@pytest.mark.parametrize("callback", ["connection_made", "data_received", "eof_received"])
def test_a_callback_that_raises_resets_its_connection_only(reactor, callback, caplog):
    """The traceback is logged, connection_lost gets that very exception, the others live on."""
    error = RuntimeError("on purpose")

    class Failing(Echo):
        def fail(self, *args):
            Recorder.__dict__[callback](self, *args)
            raise error

    server = Server(reactor, Echo)
    good, neighbour = server.connected()
    setattr(Failing, callback, Failing.fail)
    bad_server = Server(reactor, Failing)
    with good, bad_server.peer() as bad:
        bad.sock.send(b"x")
        bad.fin()
        assert bad.read_to_end() == "reset"
        (failed,) = bad_server.protocols
        turn_until(reactor, lambda: failed.ended)
        assert failed.lost is error
        assert failed.calls[-1] == "connection_lost"
        assert failed.calls.count("connection_lost") == 1
        good.send(b"still here")
        good.read_until(10)
        assert neighbour.data == b"still here"
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info[1] for record in logged] == [error]


def test_a_trace_reads_like_the_connection_lived(reactor):
    """One line per thing that happened on the wire, in order."""
    import io

    out = io.StringIO()
    reactor.observe(trace.text(out))
    server = Server(reactor, Echo)
    with server.peer() as peer:
        peer.send(b"hello")
        peer.fin()
        peer.read_to_end()
    lines = [" ".join(line.split()[1:]) for line in out.getvalue().splitlines()]
    assert lines[0].startswith("#1 accepted 127.0.0.1:")
    assert lines[1:] == [
        "#1 received 5",
        "#1 sent 5",
        "#1 peer FIN",
        "#1 our FIN",
        "#1 closed in order, written 5, acknowledged 5, received 5",
    ]


@pytest.mark.logs_errors
def test_an_observer_that_raises_ends_nothing(reactor, caplog):
    """It is logged once and told no more; the connection lives, and other observers still hear of it."""
    heard = []

    def broken(record):
        raise OSError("nobody reads the trace any more")

    reactor.observe(broken)
    reactor.observe(lambda record: heard.append(record.what))
    server = Server(reactor, Echo)
    with server.peer() as peer:
        peer.send(b"hello")
        peer.fin()
        assert peer.read_to_end() == "EOF"
    assert server.protocols[0].lost is None
    assert heard[0] == "accepted"
    assert heard[-1] == "connection_lost"
    assert caplog.text.count("an observer raised") == 1


def test_a_trace_for_programs_is_json(reactor):
    """Each line is one record, callbacks included."""
    import io
    import json

    out = io.StringIO()
    reactor.observe(trace.json_lines(out))
    server = Server(reactor, Echo)
    with server.peer() as peer:
        peer.fin()
        peer.read_to_end()
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [record["what"] for record in records] == [
        "accepted",
        "connection_made",
        "peer FIN",
        "eof_received",
        "our FIN",
        "closed",
        "connection_lost",
    ]
    assert all(record["connection"] == "#1" for record in records)


def test_a_descriptor_closed_behind_our_back_is_found(reactor, poller):
    """poll and select find it at once (the HOWTO's sweep), epoll at the next touch; the loop never spins on it."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        os.close(protocol.connection.get_extra_info("socket").fileno())
        if poller == "epoll":
            protocol.connection.pause_reading()
        turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost.errno == errno.EBADF
    assert "closed by somebody else" in str(protocol.lost)


def test_a_number_given_away_anew_is_not_closed_under_its_new_owner(reactor):
    """The connection that lost its descriptor is told, and the new one of the same number lives."""
    server = Server(reactor)
    peer, protocol = server.connected()
    other = server.peer()
    with peer, other:
        number = protocol.connection.get_extra_info("socket").fileno()
        os.close(number)
        turn_until(reactor, lambda: protocol.ended and len(server.protocols) == 2)
        assert protocol.lost.errno == errno.EBADF
        second = server.protocols[1]
        assert second.connection.get_extra_info("socket").fileno() == number
        other.send(b"alive")
        turn_until(reactor, lambda: second.data == b"alive")


def test_a_reset_behind_the_peers_fin_is_told_although_the_kernel_took_everything(reactor):
    """The peer closed both sides before our last words came: they are lost, and connection_lost says so (K7)."""

    class LastWords(Recorder):
        def eof_received(self):
            super().eof_received()
            self.connection.write(b"too")
            self.connection.write(b"late")

    server = Server(reactor, LastWords)
    peer, protocol = server.connected()
    peer.close()
    turn_until(reactor, lambda: protocol.ended)
    assert isinstance(protocol.lost, OSError)
    report = protocol.report
    assert (report.how, report.fin_sent, report.written) == ("failed", False, 7)
    assert report.lost == 7


@pytest.mark.logs_errors
def test_an_exception_in_the_very_last_callback_is_not_dropped(reactor):
    """eof_received raises when our side had ended already: connection_lost gets the exception, not None."""
    error = RuntimeError("on purpose")

    class Failing(Recorder):
        def eof_received(self):
            super().eof_received()
            raise error

    server = Server(reactor, Failing)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write_eof()
        peer.fin()
        turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is error
    assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


@pytest.mark.logs_errors
def test_a_callbacks_own_bad_descriptor_is_not_taken_for_ours(reactor):
    """A callback that raises EBADF (a closed log file, say) resets its connection like any other."""

    class Failing(Recorder):
        def data_received(self, data):
            raise OSError(errno.EBADF, "my log file is closed")

    server = Server(reactor, Failing)
    peer, protocol = server.connected()
    with peer:
        peer.send(b"x")
        assert peer.read_to_end() == "reset"
    assert protocol.lost.errno == errno.EBADF


def test_the_queue_is_bounded_within_one_callback_too(reactor):
    """Many small writes in one turn meet the limit as one large write does."""
    server = Server(reactor, options=Options(limits=Limits(queue_bytes=10_000)))
    peer, protocol = server.connected()
    with peer:
        for _ in range(1000):
            protocol.connection.write(bytes(1000))
            assert protocol.connection.get_write_buffer_size() <= 11_000
        turn_until(reactor, lambda: protocol.ended)
    assert isinstance(protocol.lost, QueueOverflow)
    assert protocol.report.written == 1_000_000


def test_a_socket_cannot_be_given_twice(reactor):
    """The second connect is Misuse, and the first connection lives."""
    ours, theirs = socket.socketpair()
    with theirs:
        client = Recorder()
        reactor.connect(lambda: client, sock=ours)
        turn_until(reactor, lambda: client.calls)
        with pytest.raises(Misuse, match="belongs to"):
            reactor.connect(Recorder, sock=ours)
        theirs.send(b"alive")
        turn_until(reactor, lambda: client.data == b"alive")


def test_an_abort_can_say_why(reactor):
    """connection_lost is given that very exception, and the peer is reset."""
    server = Server(reactor)
    peer, protocol = server.connected()
    cause = LookupError("no such thing")
    protocol.connection.abort(cause)
    turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is cause
    assert peer.read_to_end() == "reset"
    peer.close()


def test_an_abort_within_the_turn_of_an_end_in_order_has_the_last_word(reactor):
    """As an exception would: our end had come first, and the peer's FIN in the middle of a message makes it wrong."""
    cause = LookupError("half a message")

    class Picky(Recorder):
        def eof_received(self):
            super().eof_received()
            self.connection.close()
            self.connection.abort(cause)

    server = Server(reactor, Picky)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write_eof()
        peer.fin()
        turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is cause
    assert protocol.report.how == "reset"


def test_a_call_of_a_connection_is_not_made_after_its_end(reactor):
    """Before it, in order; what is left when connection_lost was told is dropped."""
    server = Server(reactor)
    peer, protocol = server.connected()
    made = []
    with peer:
        protocol.connection.call_soon(made.append, 1)
        protocol.connection.call_soon(made.append, 2)
        turn_until(reactor, lambda: len(made) == 2)
        protocol.connection.abort()
        turn_until(reactor, lambda: protocol.ended)
        protocol.connection.call_soon(made.append, 3)
        reactor.run_once(0)
    assert made == [1, 2]


@pytest.mark.logs_errors
def test_what_such_a_call_raises_resets_its_connection(reactor):
    """As any callback."""
    server = Server(reactor)
    peer, protocol = server.connected()
    cause = LookupError("deliberate")

    def fail():
        raise cause

    protocol.connection.call_soon(fail)
    turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is cause
    assert peer.read_to_end() == "reset"
    peer.close()


def test_a_new_protocol_can_ask_whether_writing_is_paused(reactor):
    """It was not there when the old one was told, and is told only of the next change."""
    server = Server(reactor)
    peer, first = server.connected(receive_buffer=8192)
    with peer:
        assert not first.connection.is_writing_paused()
        first.connection.write(bytes(8_000_000))
        turn_until(reactor, lambda: "pause_writing" in first.calls)
        second = Recorder()
        second.calls.append("set")
        first.connection.set_protocol(second)
        assert first.connection.is_writing_paused()
        peer.read_until(8_000_000)
        turn_until(reactor, lambda: len(second.calls) > 1)
        assert second.calls == ["set", "resume_writing"]
        assert not first.connection.is_writing_paused()


def test_a_stream_has_no_hole_where_reading_was_paused_when_a_send_failed(reactor):
    """All that had arrived waits for `resume_reading`, and is delivered before the failure is told."""
    sent = b"".join(b"%07d\n" % number for number in range(1000))
    server = Server(reactor, options=Options(limits=Limits(read_bytes=1024)))
    peer, protocol = server.connected()
    connection = protocol.connection
    connection.pause_reading()
    with peer:
        peer.send(sent)
        connection._send_failed(BrokenPipeError(32, "Broken pipe"))
        turn(reactor)
        assert not protocol.ended
        connection.resume_reading()
        turn_until(reactor, lambda: protocol.ended)
    assert protocol.data == sent
    assert connection.report.discarded == 0


def test_a_call_of_a_connection_is_a_handle_and_must_be_callable(reactor):
    """As the reactor's: it can be taken back, it names what it calls, and nonsense is refused at once."""
    server = Server(reactor)
    peer, protocol = server.connected()
    made = []
    with peer:
        handle = protocol.connection.call_soon(made.append, 1)
        assert "append" in repr(handle)
        handle.cancel()
        reactor.run_once(0)
        with pytest.raises(TypeError, match="callable"):
            protocol.connection.call_soon(None)
    assert made == []
