"""None is told only when the peer's TCP has acknowledged everything, also when the peer ended first."""

from __future__ import annotations

import attrs
import pytest

from reactor import Aborted, Options, Unacknowledged
from reactor.lifecycle import CONFIRM
from reactor.options import Deadlines, Sockets
from tests.closing.support import TCP, check_end, ended, scripted, turns_in
from tests.helpers import turn_until

pytestmark = TCP

# The kernel takes all of it at once, and a client with a small receive buffer acknowledges a small part of it.
HELD_BY_THE_KERNEL = bytes(range(256)) * 4000
ROOMY = Options(sockets=Sockets(send_buffer_bytes=4 * len(HELD_BY_THE_KERNEL)))
CALLS = "connection_made data_received eof_received connection_lost"


def reply(connection):
    connection.write(HELD_BY_THE_KERNEL)


def ask_and_end(server):
    """A client that sends a request and its FIN, and does not read; the state has come to CONFIRM."""
    peer = server.peer(receive_buffer=8192)
    peer.send(b"?")
    peer.fin()
    turn_until(server.reactor, lambda: server.protocols and server.protocols[0].calls[-1:] == ["eof_received"])
    (protocol,) = server.protocols
    turn_until(server.reactor, lambda: protocol.connection.state is CONFIRM)
    assert not protocol.connection.get_write_buffer_size()
    return peer, protocol


def test_a_peer_that_ended_first_and_reads_late_is_told_of_when_it_has_read(serve):
    """Nothing is told while the kernel holds the reply, without a spin; None once the client's TCP has all of it."""
    server = serve(scripted(data_received=reply), ROOMY)
    peer, protocol = ask_and_end(server)
    with peer:
        assert turns_in(server.reactor) < 20
        assert not protocol.ended
        assert peer.read_to_end() == "EOF"
        assert peer.data == HELD_BY_THE_KERNEL
        ended(protocol)
    size = len(HELD_BY_THE_KERNEL)
    check_end(protocol, CALLS, written=size, acknowledged=size, unacknowledged=0, fin_sent=True)


def test_a_peer_that_ended_first_and_never_reads_is_told_of_as_unacknowledged(serve_by, clock):
    """After `Deadlines.flush` without progress; the bytes are left to the kernel, which may deliver them still."""
    server = serve_by(clock, scripted(data_received=reply), ROOMY)
    peer, protocol = ask_and_end(server)
    with peer:
        clock.skip(server.reactor, Deadlines().flush - 2)
        assert not protocol.ended
        clock.skip(server.reactor, 4)
        assert protocol.ended
        check_end(protocol, CALLS, Unacknowledged, "cut", written=len(HELD_BY_THE_KERNEL), unsent=0)
        assert protocol.report.unacknowledged > 0
        assert peer.read_to_end() == "EOF"
        assert peer.data == HELD_BY_THE_KERNEL


def test_a_reset_behind_the_peers_fin_is_told_though_nothing_is_polled(serve):
    """The client ends first, reads nothing, and is killed: what the kernel held is lost, and that is told."""
    server = serve(scripted(data_received=reply), ROOMY)
    peer, protocol = ask_and_end(server)
    peer.reset()
    ended(protocol)
    check_end(protocol, CALLS, ConnectionResetError, "failed", written=len(HELD_BY_THE_KERNEL))
    assert protocol.report.unacknowledged > 0


def test_without_lingering_what_is_unacknowledged_is_told_at_once(serve):
    """`linger=False` waits for nobody, and does not claim that everything arrived."""
    server = serve(scripted(data_received=reply), attrs.evolve(ROOMY, linger=False))
    with server.peer(receive_buffer=8192) as peer:
        peer.send(b"?")
        peer.fin()
        turn_until(server.reactor, lambda: server.protocols and server.protocols[0].ended)
        (protocol,) = server.protocols
        check_end(protocol, CALLS, Unacknowledged, "cut", written=len(HELD_BY_THE_KERNEL))
        assert peer.read_to_end() == "EOF"
        assert peer.data == HELD_BY_THE_KERNEL


@pytest.mark.parametrize("flushed", [False, True])
def test_the_end_of_the_reactor_leaves_to_the_kernel_what_the_kernel_has(serve, flushed):
    """A connection that has ended its output is not reset by `close()`; one that has not is."""

    def act(connection):
        connection.write(b"last words")
        if flushed:
            connection.write_eof()

    server = serve(scripted(connection_made=act))
    peer, protocol = server.connected()
    with peer:
        turn_until(server.reactor, lambda: protocol.report.accepted == 10)
        server.reactor.close()
        assert protocol.ended
        assert isinstance(protocol.lost, Aborted)
        while peer.ending is None:
            peer.read_some()
        assert peer.data == b"last words"
        assert peer.ending == ("EOF" if flushed else "reset")


def test_a_lingering_connection_is_not_reset_by_the_end_of_the_reactor(serve):
    """Its last words and our FIN are the kernel's."""
    server = serve(scripted(connection_made=lambda connection: (connection.write(b"last words"), connection.close())))
    peer, protocol = server.connected()
    with peer:
        turn_until(server.reactor, lambda: protocol.report.fin_sent)
        server.reactor.close()
        assert protocol.ended
        while peer.ending is None:
            peer.read_some()
        assert (peer.data, peer.ending) == (b"last words", "EOF")


def test_where_nobody_tells_the_peers_end_has_to_do(serve_by, mute):
    """On a kernel that tells nothing of acknowledgements, a peer that ended first holds up nothing."""
    server = serve_by(mute, scripted(data_received=lambda connection: connection.write(b"reply")))
    with server.peer() as peer:
        peer.send(b"?")
        peer.fin()
        assert peer.read_to_end() == "EOF"
        (protocol,) = server.protocols
        ended(protocol)
    assert protocol.lost is None
    assert protocol.report.acknowledged is None
