"""Ends that are asked for at odd moments: from inside callbacks, twice, in every order: scenarios 38 to 46."""

from __future__ import annotations

from itertools import product

import pytest

from reactor import Aborted, Limits, Options, WriteAfterEnd
from reactor.lifecycle import CLOSED
from tests.closing.support import (
    NARROW,
    QUEUEING,
    REPLY,
    Scripted,
    check_cut,
    check_end,
    ended,
    scripted,
    turn,
)
from tests.helpers import turn_until


class NotInside(Scripted):
    """Notices a callback that comes from inside another one."""

    inside = None

    def _follow(self, name):
        assert self.inside is None, f"{name} was called from inside {self.inside}"
        self.inside = name
        super()._follow(name)
        self.inside = None


def close(connection) -> None:
    connection.close()


@pytest.mark.parametrize("reply", [b"", b"reply"])
def test_close_in_connection_made(serve, reply):
    """Scenario 38: the client gets what was written and a clean end; what it had sent is not delivered."""
    server = serve(lambda: NotInside(connection_made=lambda connection: (connection.write(reply), connection.close())))
    with server.peer() as peer:
        peer.send(b"request")
        assert peer.read_to_end() == "EOF"
        assert peer.data == reply
    (protocol,) = server.protocols
    ended(protocol)
    calls = "connection_made connection_lost"
    check_end(protocol, calls, written=len(reply), acknowledged=len(reply), received=0, discarded=7)


def test_close_in_data_received(serve):
    """Scenario 39: nothing more is delivered, although more is there to be read."""
    server = serve(
        lambda: NotInside(data_received=lambda connection: (connection.write(b"reply"), connection.close())),
        Options(limits=Limits(read_bytes=4)),
    )
    with server.peer() as peer:
        peer.send(b"one two three ")
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
    (protocol,) = server.protocols
    ended(protocol)
    assert protocol.data == b"one "
    calls = "connection_made data_received connection_lost"
    check_end(protocol, calls, written=5, acknowledged=5, received=4, discarded=10)


@pytest.mark.parametrize("keep_open", [False, True])
def test_close_in_eof_received(serve, keep_open):
    """Scenario 40: whatever it then returns, everything written leaves, and the end is in order."""

    def reply(connection):
        connection.write(REPLY)
        connection.close()

    server = serve(lambda: NotInside(keep_open, eof_received=reply), QUEUEING)
    with server.peer() as peer:
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    (protocol,) = server.protocols
    ended(protocol)
    check_end(protocol, "connection_made eof_received connection_lost", written=len(REPLY), unsent=0, fin_sent=True)


def test_close_in_pause_writing(serve):
    """Scenario 41: the queue that made it pause is sent to the last byte; resume_writing is of no use any more."""
    server = serve(
        lambda: NotInside(connection_made=lambda connection: connection.write(REPLY), pause_writing=close), QUEUEING
    )
    with server.peer() as peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    (protocol,) = server.protocols
    ended(protocol)
    calls = "connection_made pause_writing connection_lost"
    check_end(protocol, calls, written=len(REPLY), acknowledged=len(REPLY), unsent=0)


def test_close_in_resume_writing(serve):
    """Scenario 41: the same when the queue has nearly gone."""
    server = serve(
        lambda: NotInside(connection_made=lambda connection: connection.write(REPLY), resume_writing=close), QUEUEING
    )
    with server.peer() as peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    (protocol,) = server.protocols
    ended(protocol)
    calls = "connection_made pause_writing resume_writing connection_lost"
    check_end(protocol, calls, written=len(REPLY), acknowledged=len(REPLY), unsent=0)


@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
def test_abort_in_pause_writing_and_resume_writing(serve, transport, callback):
    """Scenario 41: it ends there and then, with a reset, and connection_lost comes after the callback, not in it."""
    lost_inside = []

    def abort(connection):
        connection.abort()
        assert connection.state is CLOSED
        lost_inside.append("connection_lost" in connection.get_protocol().calls)

    script = {"connection_made": lambda connection: connection.write(REPLY), callback: abort}
    server = serve(lambda: NotInside(**script), QUEUEING)
    peer, protocol = server.connected()
    with peer:
        if callback == "resume_writing":
            turn(server.reactor)
            peer.read_until(len(REPLY) - 1)
        ended(protocol)
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
    assert lost_inside == [False]
    calls = "connection_made pause_writing "
    calls += "resume_writing connection_lost" if callback == "resume_writing" else "connection_lost"
    check_end(protocol, calls, Aborted, "reset", written=len(REPLY), fin_sent=False)
    assert REPLY.startswith(peer.data)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize(("first", "second"), [*product(["close", "abort", "write_eof"], repeat=2)])
def test_every_pair_of_ends_is_one_end(serve, transport, first, second, queued):
    """Scenario 42: the second call never raises, never ends twice, and an abort wins over what was to be in order."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    reply = REPLY if queued else b""
    with peer:
        protocol.connection.write(reply)
        getattr(protocol.connection, first)()
        getattr(protocol.connection, second)()
        getattr(protocol.connection, second)()
        if "abort" in (first, second):
            ended(protocol)
            # With nothing queued our FIN had left before the reset. A Unix socket knows no reset.
            fin_first = first != "abort" and not queued
            assert peer.read_to_end() == ("EOF" if fin_first or transport == "unix" else "reset")
            assert reply.startswith(peer.data)
            check_end(protocol, "connection_made connection_lost", Aborted, "reset", written=len(reply))
            return
        assert peer.read_to_end() == "EOF"
        assert peer.data == reply
        peer.send(b"late")
        peer.fin()
        ended(protocol)
    if first == second == "write_eof":
        calls, received = "connection_made data_received eof_received connection_lost", 4
    else:
        calls, received = "connection_made connection_lost", 0
    check_end(
        protocol,
        calls,
        written=len(reply),
        acknowledged=len(reply),
        unsent=0,
        received=received,
        discarded=4 - received,
    )


def test_a_write_in_connection_lost_is_refused(serve):
    """Scenario 43: the error comes at once, and the report does not change any more."""
    refused = []

    def write(connection):
        before = connection.report
        for call in (lambda: connection.write(b"late"), lambda: connection.writelines([b"late"])):
            with pytest.raises(WriteAfterEnd, match=r"ended by connection_lost\(\)"):
                call()
        connection.close()
        connection.abort()
        connection.write_eof()
        assert connection.report == before
        refused.append(True)

    server = serve(scripted(connection_lost=write))
    peer, protocol = server.connected()
    peer.close()
    ended(protocol)
    assert refused == [True]
    check_end(protocol, "connection_made eof_received connection_lost", written=0)


@pytest.mark.logs_errors
def test_an_unguarded_write_in_connection_lost_is_logged_and_harms_nobody(serve, caplog):
    """Scenario 43: one line in the log; the neighbour lives."""
    server = serve(scripted(connection_lost=lambda connection: connection.write(b"late")))
    peer, protocol = server.connected()
    other, neighbour = server.connected()
    with other:
        peer.close()
        ended(protocol)
        check_end(protocol, "connection_made eof_received connection_lost", written=0)
        other.send(b"still here")
        turn_until(server.reactor, lambda: neighbour.data == b"still here")
        # It would raise again at this one's end.
        neighbour.script.clear()
    ended(neighbour)
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [WriteAfterEnd]


def test_writelines_with_empty_chunks_sends_what_is_there(serve):
    """Scenario 44: an empty chunk is no end, no spin and no byte."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.writelines([])
        protocol.connection.writelines([b"", bytearray(), memoryview(b"")])
        protocol.connection.writelines([b"", b"one ", b"", memoryview(b"two "), b""])
        protocol.connection.write(b"")
        protocol.connection.writelines([b"three", b""])
        peer.read_until(13)
        assert protocol.connection.get_write_buffer_size() == 0
        protocol.connection.writelines([b"", b""])
        protocol.connection.close()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"one two three"
    ended(protocol)
    check_end(protocol, "connection_made connection_lost", written=13, acknowledged=13, unsent=0)


def test_a_bytearray_changed_after_the_write_goes_as_it_was(serve):
    """Scenario 45: whether it went at once or waits in the queue, until the last byte."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    data = bytearray(REPLY)
    with peer:
        protocol.connection.write(data)
        protocol.connection.writelines([memoryview(data)[:8], data])
        protocol.connection.close()
        data[:] = b"\0" * len(data)
        data.clear()
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY + REPLY[:8] + REPLY
    ended(protocol)
    check_end(protocol, "connection_made connection_lost", written=2 * len(REPLY) + 8, unsent=0)


@pytest.mark.parametrize("queued", [False, True])
def test_a_write_after_close_is_refused_whatever_the_queue_holds(serve, queued):
    """Scenario 46: one rule; not a byte of it is sent, counted or dropped in silence, also when all has been sent."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    reply = REPLY if queued else b"reply"
    with peer:
        protocol.connection.write(reply)
        protocol.connection.close()
        for _ in range(2):
            with pytest.raises(WriteAfterEnd, match=r"write\(\) of 4 bytes refused: .* ended by close\(\)"):
                protocol.connection.write(b"late")
            assert peer.read_to_end() == "EOF"
        assert peer.data == reply
    ended(protocol)
    check_end(protocol, "connection_made connection_lost", written=len(reply), acknowledged=len(reply), unsent=0)


def test_abort_while_a_slow_end_is_under_way(serve, transport):
    """Scenario 42: the user loses patience in the middle of the flush: reset, with the loss counted."""
    server = serve(options=Options(sockets=NARROW))
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(REPLY)
        protocol.connection.close()
        peer.read_until(300_000)
        protocol.connection.abort()
        ended(protocol)
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
    check_end(protocol, "connection_made connection_lost", Aborted, "reset", written=len(REPLY), fin_sent=False)
    check_cut(protocol, peer, REPLY)
