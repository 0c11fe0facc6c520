"""What is different on Unix sockets: scenarios 59 to 62. A peer's close is a hang-up at once (K11)."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from reactor import Aborted, Deadlines, Options, Unacknowledged
from reactor.lifecycle import LINGER
from tests.closing.support import QUEUEING, REPLY, UNIX, check_end, ended, scripted, turn, turns_in
from tests.helpers import turn_until

pytestmark = UNIX


def test_a_peer_that_closes_with_our_reply_unread_is_noticed_though_paused(serve, poller):
    """Scenario 59: epoll and poll tell it at once; with select it is told when reading is resumed; no spin."""
    server = serve()
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    protocol.connection.write(b"reply")
    peer.close()
    if poller == "select":
        assert turns_in(server.reactor) <= 2
        assert not protocol.ended
        protocol.connection.resume_reading()
    ended(protocol)
    check_end(
        protocol,
        "connection_made connection_lost",
        ConnectionResetError,
        "failed",
        written=5,
        accepted=5,
        acknowledged=None,
        unsent=0,
        received=0,
    )


@pytest.mark.parametrize("held", [b"", b"held"])
def test_a_peer_that_closes_while_we_are_paused_makes_no_spin(serve, held):
    """Scenario 59: its hang-up cannot be masked; what it said waits until reading is resumed."""
    server = serve()
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    peer.sock.send(held)
    peer.close()
    turn(server.reactor)
    assert turns_in(server.reactor) <= 2
    assert not protocol.ended
    protocol.connection.resume_reading()
    ended(protocol)
    flow = "data_received " if held else ""
    check_end(protocol, f"connection_made {flow}eof_received connection_lost", received=len(held), discarded=0)


def test_a_half_open_connection_whose_peer_closes_makes_no_spin(serve):
    """Scenario 59: with nothing to be sent, a hang-up after the peer's FIN loses nothing; a later write fails."""
    server = serve(scripted(keep_open=True))
    peer, protocol = server.connected()
    peer.fin()
    turn_until(server.reactor, lambda: "eof_received" in protocol.calls)
    peer.close()
    turn(server.reactor)
    assert turns_in(server.reactor) <= 2
    assert not protocol.ended
    protocol.connection.write(b"are you there?")
    ended(protocol)
    calls = "connection_made eof_received connection_lost"
    check_end(protocol, calls, BrokenPipeError, "failed", written=14, unsent=14)


def test_close_with_unread_data_reads_it_first(serve):
    """Scenario 60: unread input would turn our close into a reset; close() reads on, so it is a clean end."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    with peer:
        peer.sock.send(b"unread")
        protocol.connection.write(REPLY)
        protocol.connection.close()
        peer.send(b"unread too")
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    ended(protocol)
    check_end(
        protocol,
        "connection_made connection_lost",
        written=len(REPLY),
        acknowledged=len(REPLY),
        received=0,
        discarded=16,
    )


def test_abort_with_unread_data_is_a_reset(serve):
    """Scenario 60: the one way in which a Unix socket can tell its peer that the end was not in order."""
    server = serve()
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(b"half a rep")
        peer.sock.send(b"unread")
        protocol.connection.abort()
        ended(protocol)
        assert peer.read_to_end() == "reset"
    check_end(protocol, "connection_made connection_lost", Aborted, "reset", written=10, received=0, fin_sent=False)


def test_the_socket_file_goes_with_its_listener(serve, tmp_path):
    """Scenario 61: nobody finds a dead socket file; those who were served are served on."""
    path = tmp_path / "socket"
    server = serve()
    peer, protocol = server.connected()
    with peer:
        assert stat.S_ISSOCK(path.stat().st_mode)
        server.listener.close()
        turn(server.reactor)
        assert not path.exists()
        peer.send(b"still here")
        turn_until(server.reactor, lambda: protocol.data == b"still here")
        peer.fin()
        assert peer.read_to_end() == "EOF"
    ended(protocol)
    check_end(protocol, "connection_made data_received eof_received connection_lost", received=10)


@pytest.mark.parametrize("with_what", ["nothing", "another server's"])
def test_a_socket_file_that_is_not_ours_any_more_stays_as_it_is(serve, tmp_path, with_what):
    """Scenario 61: removed by somebody, or replaced by the server that takes over: neither is an error, or our prey."""
    path = tmp_path / "socket"
    server = serve()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        if with_what != "nothing":
            other.bind(str(path))
        server.listener.close()
        turn(server.reactor)
        assert path.exists() is (with_what != "nothing")
    assert server.reactor.listeners == ()


@pytest.mark.parametrize("reads", [False, True])
def test_an_empty_send_queue_means_that_the_peer_has_read_everything(serve_by, clock, reads):
    """Scenario 62: then a short grace is enough; else the silence must pass, and the end tells that nobody knows."""
    server = serve_by(clock, options=Options(deadlines=Deadlines(linger_grace=1, linger_silence=5)))
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(REPLY[:100_000])
        turn(server.reactor)
        assert protocol.connection.report.acknowledged is None
        protocol.connection.close()
        assert protocol.connection.state is LINGER
        if reads:
            assert peer.read_to_end() == "EOF"
            assert protocol.connection.report.acknowledged == 100_000
        clock.skip(server.reactor, 4.5)
        assert protocol.ended is reads
        clock.skip(server.reactor, 1)
        assert protocol.ended
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY[:100_000]
    calls = "connection_made connection_lost"
    if reads:
        check_end(protocol, calls, acknowledged=100_000, unacknowledged=0, fin_acknowledged=True)
    else:
        check_end(protocol, calls, Unacknowledged, "cut", accepted=100_000, unsent=0, acknowledged=None)
