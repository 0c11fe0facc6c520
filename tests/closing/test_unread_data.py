"""Bytes that nobody will read must not turn our reply into a reset (K1, K2): scenarios 14 to 18."""

from __future__ import annotations

import pytest

from reactor import Deadlines, Limits, Options, Unacknowledged
from reactor.lifecycle import CLOSING, LINGER
from tests.closing.support import (
    NARROW,
    QUEUEING,
    REPLY,
    TCP,
    check_cut,
    check_end,
    ended,
    reply_and_close,
    scripted,
    states_seen,
    turn,
)
from tests.helpers import Peer, turn_until

QUIET = "connection_made connection_lost"


def upload(peer: Peer, chunk: bytes = b"u" * 65536) -> int:
    """Sends as much as the kernel takes now."""
    sent = 0
    try:
        while sent < 1_000_000:
            sent += peer.sock.send(chunk)
    except BlockingIOError:
        pass
    return sent


def test_an_unread_request_does_not_destroy_the_reply(serve):
    """Scenario 14: 1 KB waits unread when the server closes after 3 MB; they arrive whole, with a clean end."""
    server = serve(scripted(connection_made=reply_and_close), QUEUEING)
    with server.peer() as peer:
        peer.sock.send(b"?" * 1024)
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    (protocol,) = server.protocols
    ended(protocol)
    check_end(protocol, QUIET, written=len(REPLY), acknowledged=len(REPLY), unsent=0, received=0, discarded=1024)


def test_a_late_byte_does_not_destroy_the_reply(serve):
    """Scenario 15: four bytes come when the client has seen half of the reply; the other half still comes."""
    server = serve(scripted(connection_made=reply_and_close), QUEUEING)
    with server.peer() as peer:
        peer.read_until(len(REPLY) // 2)
        peer.sock.send(b"late")
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    (protocol,) = server.protocols
    ended(protocol)
    check_end(protocol, QUIET, written=len(REPLY), acknowledged=len(REPLY), unsent=0, received=0, discarded=4)


def test_a_byte_after_the_whole_reply_is_taken_too(serve):
    """Scenario 15: the same when everything has been sent and the server only lingers."""
    server = serve(scripted(connection_made=lambda connection: (connection.write(b"reply"), connection.close())))
    with server.peer() as peer:
        turn_until(server.reactor, lambda: server.protocols and server.protocols[0].connection.state is LINGER)
        (protocol,) = server.protocols
        peer.sock.send(b"late")
        turn_until(server.reactor, lambda: protocol.report.discarded == 4)
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
    ended(protocol)
    check_end(protocol, QUIET, written=5, acknowledged=5, received=0, discarded=4)


def test_a_client_that_uploads_until_it_has_the_reply_gets_it_whole(serve):
    """Scenario 16: the upload goes on during reply, close and linger; all of it is read and dropped."""
    server = serve(scripted(connection_made=reply_and_close), QUEUEING)
    peer, protocol = server.connected()
    with peer:
        sent = 0
        while peer.ending is None:
            sent += upload(peer)
            server.reactor.run_once(0.01)
            for _ in range(8):
                if peer.ending is None:
                    peer.read_some()
        assert peer.ending == "EOF"
        assert peer.data == REPLY
        sent += upload(peer)
        peer.fin()
        ended(protocol)
    check_end(protocol, QUIET, written=len(REPLY), acknowledged=len(REPLY), unsent=0, received=0, discarded=sent)


def test_a_client_that_uploads_for_ever_is_left_when_it_has_everything(serve, transport):
    """Scenario 16: the byte cap ends the linger; the reply was acknowledged, so nothing was lost."""
    cap = 5_000_000
    server = serve(scripted(connection_made=reply_and_close), Options(sockets=NARROW, limits=Limits(linger_bytes=cap)))
    peer, protocol = server.connected()
    with peer:
        peer.read_to_end()
        assert peer.ending == "EOF"
        assert peer.data == REPLY
        if transport != "unix":
            turn_until(
                server.reactor, lambda: protocol.connection.get_extra_info("tcp_state", "FIN-WAIT-2") == "FIN-WAIT-2"
            )
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while True:
                upload(peer)
                server.reactor.run_once(0.01)
        assert protocol.ended
    check_end(protocol, QUIET, written=len(REPLY), acknowledged=len(REPLY), unsent=0, received=0)
    assert cap < protocol.report.discarded <= cap + Limits().read_bytes


def test_a_client_that_uploads_slowly_for_ever_is_left_after_a_while(serve_by, clock):
    """Scenario 16: a byte now and then starts the silence anew, but not the whole linger."""
    options = Options(deadlines=Deadlines(linger_grace=4, linger_silence=5, linger_total=30))
    server = serve_by(clock, scripted(connection_made=lambda connection: connection.close()), options)
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        for _ in range(9):
            assert not protocol.ended
            peer.sock.send(b".")
            turn(server.reactor)
            clock.skip(server.reactor, 3)
        assert not protocol.ended
        peer.sock.send(b".")
        turn(server.reactor)
        clock.skip(server.reactor, 3.01)
        assert protocol.ended
    check_end(protocol, QUIET, discarded=10, received=0, fin_acknowledged=True)


def test_close_reads_on_though_reading_is_paused(serve):
    """Scenario 17: a pause is about delivery; after close nothing is delivered, and the client's end must be seen."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.pause_reading()
        peer.sock.send(b"held")
        turn(server.reactor)
        protocol.connection.write(REPLY)
        protocol.connection.close()
        assert not protocol.connection.is_reading()
        turn(server.reactor)
        assert protocol.connection.state is CLOSING
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        peer.fin()
        ended(protocol)
    check_end(protocol, QUIET, written=len(REPLY), acknowledged=len(REPLY), unsent=0, received=0, discarded=4)
    assert states_seen(protocol)[-4:] == ["CLOSING", "LINGER", "CONFIRM", "CLOSED"]


def test_a_second_request_after_the_close_is_not_delivered(serve):
    """Scenario 18: what comes after close() is counted, and nobody is called with it."""

    def reply(connection):
        connection.write(b"reply")
        connection.close()

    server = serve(scripted(data_received=reply))
    peer, protocol = server.connected()
    with peer:
        peer.send(b"first")
        turn_until(server.reactor, lambda: protocol.data)
        peer.send(b"second")
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
        peer.send(b"third")
        peer.fin()
        ended(protocol)
    assert protocol.data == b"first"
    calls = "connection_made data_received connection_lost"
    check_end(protocol, calls, received=5, discarded=11, written=5, acknowledged=5, unsent=0)


@TCP
@pytest.mark.parametrize("linger", [True, False])
def test_lingering_is_what_saves_the_reply_from_a_late_byte(serve, linger):
    """Scenario 15: with the linger switched off the same byte destroys the reply, and the report had said so."""
    reply = REPLY[:100_000]
    server = serve(options=Options(sockets=NARROW, linger=linger))
    peer, protocol = server.connected(receive_buffer=4096)
    with peer:
        protocol.connection.write(reply)
        protocol.connection.close()
        assert protocol.report.accepted == len(reply)
        turn(server.reactor)
        assert protocol.ended is not linger
        peer.sock.send(b"late")
        assert peer.read_to_end() == ("EOF" if linger else "reset")
        assert (peer.data == reply) is linger
    ended(protocol)
    if linger:
        check_end(protocol, QUIET, acknowledged=len(reply), discarded=4, received=0)
    else:
        check_end(protocol, QUIET, Unacknowledged, "cut", unsent=0, fin_acknowledged=False)
        check_cut(protocol, peer, reply)
