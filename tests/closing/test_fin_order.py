"""Who sends the FIN first, and what is still under way then: scenarios 1 to 6."""

from __future__ import annotations

import socket

import pytest

from reactor.lifecycle import CLOSING, LINGER
from tests.closing.support import (
    QUEUEING,
    REPLY,
    check_end,
    ended,
    kernel_state,
    reply_and_close,
    scripted,
    states_seen,
    turn,
)
from tests.helpers import turn_until


def test_a_server_that_closes_first_delivers_all_it_wrote(serve, transport):
    """Scenario 1: 3 MB and then a clean end; the server waits for the client's FIN, and the kernel keeps TIME-WAIT."""
    server = serve(scripted(connection_made=reply_and_close), QUEUEING)
    with server.peer() as peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        (protocol,) = server.protocols
        assert protocol.connection.state is LINGER
        if transport != "unix":
            # FIN-WAIT-1 until the client's delayed acknowledgement.
            turn_until(server.reactor, lambda: protocol.connection.get_extra_info("tcp_state") == "FIN-WAIT-2")
            state = kernel_state(peer)
    ended(protocol)
    check_end(
        protocol,
        "connection_made connection_lost",
        written=len(REPLY),
        unsent=0,
        acknowledged=len(REPLY),
        unacknowledged=0,
        received=0,
        discarded=0,
        fin_sent=True,
        fin_acknowledged=True,
    )
    assert states_seen(protocol) == ["OPEN", "CLOSING", "LINGER", "CONFIRM", "CLOSED"]
    if transport != "unix":
        assert state() == "TIME-WAIT"


def test_a_clients_fin_on_an_idle_connection_ends_both_sides(serve, transport):
    """Scenario 2: eof_received, our FIN, and connection_lost(None); the kernel keeps nothing on our side."""
    server = serve()
    peer, protocol = server.connected()
    with peer:
        if transport != "unix":
            state = kernel_state(peer)
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b""
        ended(protocol)
        if transport != "unix":
            assert state() is None
    check_end(
        protocol,
        "connection_made eof_received connection_lost",
        written=0,
        acknowledged=0,
        unacknowledged=0,
        unsent=0,
        received=0,
        fin_sent=True,
    )


def test_a_client_that_asks_and_ends_at_once_gets_the_whole_reply(serve, transport):
    """Scenario 3: the client's FIN does not touch the 3 MB that wait for it."""
    server = serve(scripted(data_received=lambda connection: connection.write(REPLY)), QUEUEING)
    with server.peer() as peer:
        peer.send(b"request")
        peer.fin()
        turn_until(server.reactor, lambda: server.protocols and "eof_received" in server.protocols[0].calls)
        (protocol,) = server.protocols
        assert protocol.connection.state.name == "LAST"
        assert protocol.connection.get_write_buffer_size() > 1_000_000
        if transport != "unix":
            assert protocol.connection.get_extra_info("tcp_state") == "CLOSE-WAIT"
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    ended(protocol)
    check_end(
        protocol,
        "connection_made data_received pause_writing eof_received connection_lost",
        written=len(REPLY),
        accepted=len(REPLY),
        unsent=0,
        received=7,
        discarded=0,
        fin_sent=True,
    )
    assert states_seen(protocol) == ["OPEN", "PEER_END", "LAST", "CONFIRM", "CLOSED"]


@pytest.mark.parametrize("how", ["close", "write_eof"])
@pytest.mark.parametrize("first", ["client", "server"])
def test_two_fins_before_either_side_reads_are_a_normal_end(serve, how, first):
    """Scenario 4: both ends have ended before either has read; each gets what the other had said."""

    def end(connection):
        connection.write(b"farewell")
        getattr(connection, how)()

    server = serve(scripted(connection_made=end))
    with server.peer() as peer:
        if first == "server":
            turn_until(server.reactor, lambda: server.protocols and server.protocols[0].report.fin_sent)
            assert not server.protocols[0].ended
        peer.sock.send(b"so long")
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"farewell"
        (protocol,) = server.protocols
        ended(protocol)
    if how == "close":
        check_end(protocol, "connection_made connection_lost", received=0, discarded=7, written=8, acknowledged=8)
    else:
        calls = "connection_made data_received eof_received connection_lost"
        check_end(protocol, calls, received=7, discarded=0, written=8, acknowledged=8)


def test_a_clients_fin_during_our_flush_changes_nothing_for_the_reply(serve):
    """Scenario 5: closed by us, then by the client; the flush goes on to the last byte, and nobody lingers."""
    server = serve(scripted(connection_made=reply_and_close), QUEUEING)
    peer, protocol = server.connected()
    with peer:
        turn(server.reactor)
        assert protocol.connection.state is CLOSING
        peer.fin()
        turn_until(server.reactor, lambda: protocol.connection.state is not CLOSING)
        assert protocol.connection.state.name == "LAST"
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        ended(protocol)
    calls = "connection_made connection_lost"
    check_end(protocol, calls, written=len(REPLY), accepted=len(REPLY), unsent=0, received=0, discarded=0)
    assert states_seen(protocol) == ["OPEN", "CLOSING", "LAST", "CONFIRM", "CLOSED"]


def test_data_and_fin_in_one_segment_are_data_and_then_an_end(serve):
    """Scenario 6: what came with the FIN is delivered before it, and answered."""
    server = serve(scripted(eof_received=lambda connection: connection.write(b"reply")))
    with server.peer() as peer:
        peer.sock.send(b"request", socket.MSG_MORE)
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
        (protocol,) = server.protocols
        assert protocol.data == b"request"
    ended(protocol)
    check_end(protocol, "connection_made data_received eof_received connection_lost", received=7, written=5, unsent=0)
