"""Peers that read slowly, or not at all, or never end: scenarios 19 to 21. Time is the test's own.

(Scenario 22, a peer that vanishes, needs packets that are dropped: `test_vanishing.py`.)
"""

from __future__ import annotations

import pytest

from reactor import Deadlines, FlushTimeout, Options, Unacknowledged
from reactor.lifecycle import CLOSING, ENDING, LINGER
from tests.closing.support import (
    NARROW,
    REPLY,
    TCP,
    check_cut,
    check_end,
    ended,
    kernel_state,
    reply_and_close,
    scripted,
    turn,
)
from tests.helpers import turn_until

QUIET = "connection_made connection_lost"
# As patient in the linger as it takes: the flush is what these tests are about.
PATIENT = Options(sockets=NARROW, deadlines=Deadlines(flush=30, linger_silence=100, linger_total=1000))


def test_a_slow_reader_that_progresses_is_served_to_the_end(serve_by, clock):
    """Scenario 19: the flush takes eight times its deadline, and no byte is lost: the peer always takes some."""
    server = serve_by(clock, scripted(connection_made=reply_and_close), PATIENT)
    began = clock.time()
    # Less than it reads at a time, so that each reading lets the server send some more.
    peer, protocol = server.connected(receive_buffer=65536)
    with peer:
        while peer.ending is None and len(peer.data) < len(REPLY):
            peer.read_until(min(len(REPLY), len(peer.data) + 200_000))
            turn(server.reactor)
            clock.skip(server.reactor, 20)
        assert clock.time() - began >= 240
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    ended(protocol)
    check_end(protocol, QUIET, written=len(REPLY), acknowledged=len(REPLY), unsent=0, fin_acknowledged=True)


@TCP
def test_a_slow_reader_is_not_left_while_we_linger_either(serve_by, clock):
    """Scenario 19: all is in the kernel already; each acknowledgement starts the linger's silence anew."""
    reply = REPLY[:150_000]
    options = Options(sockets=NARROW, deadlines=Deadlines(linger_silence=5, linger_total=12))
    server = serve_by(clock, options=options)
    peer, protocol = server.connected(receive_buffer=8192)
    with peer:
        protocol.connection.write(reply)
        protocol.connection.close()
        began = clock.time()
        assert protocol.connection.state is LINGER
        while len(peer.data) < len(reply):
            assert not protocol.ended
            peer.read_until(min(len(reply), len(peer.data) + 15_000))
            turn(server.reactor)
            clock.skip(server.reactor, 4)
        assert clock.time() - began >= 20
        assert peer.read_to_end() == "EOF"
        assert peer.data == reply
    ended(protocol)
    check_end(protocol, QUIET, acknowledged=len(reply), unsent=0, fin_sent=True)


def test_an_absolute_bound_ends_even_a_flush_that_progresses(serve_by, clock, transport):
    """Scenario 19: with `flush_total` the flush is cut at that time, with a reset; the report tells the loss."""
    options = Options(sockets=NARROW, deadlines=Deadlines(flush=30, flush_total=100))
    server = serve_by(clock, scripted(connection_made=reply_and_close), options)
    peer, protocol = server.connected()
    with peer:
        began = clock.time()
        while not protocol.ended:
            peer.read_until(len(peer.data) + 50_000)
            turn(server.reactor)
            clock.skip(server.reactor, 5)
        assert 100 <= clock.time() - began <= 105
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
    check_end(protocol, QUIET, FlushTimeout, "reset", written=len(REPLY), fin_sent=False)
    check_cut(protocol, peer, REPLY)


@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_a_reader_that_reads_nothing_is_reset_when_the_deadline_passes(serve_by, clock, transport, how):
    """Scenario 20: not earlier; and what never left, and what was never acknowledged, is counted."""

    def end(connection):
        connection.write(REPLY)
        getattr(connection, how)()

    server = serve_by(clock, scripted(connection_made=end), PATIENT)
    peer, protocol = server.connected()
    with peer:
        clock.skip(server.reactor, 29)
        assert protocol.connection.state is (CLOSING if how == "close" else ENDING)
        if transport != "unix":
            assert protocol.connection.get_extra_info("tcp_state") == "ESTABLISHED"
            state = kernel_state(peer)
        # An acknowledgement that comes without an event is seen a little later than it came.
        clock.skip_until(server.reactor, lambda: protocol.ended)
        if transport != "unix":
            assert state() is None
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
    check_end(protocol, QUIET, FlushTimeout, "reset", written=len(REPLY), received=0, fin_sent=False)
    check_cut(protocol, peer, REPLY)
    assert protocol.report.unsent > 1_000_000
    if transport != "unix":
        assert protocol.report.unacknowledged > 0
        assert protocol.report.lost == len(REPLY) - protocol.report.acknowledged


def test_a_client_that_reads_all_and_never_ends_is_left_after_a_grace(serve_by, clock, transport):
    """Scenario 21: once its TCP has confirmed everything, nothing is lost and nobody waits 30 s."""
    server = serve_by(clock, scripted(connection_made=reply_and_close), Options(sockets=NARROW))
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        assert protocol.connection.state is LINGER
        if transport != "unix":
            turn_until(server.reactor, lambda: protocol.connection.get_extra_info("tcp_state") == "FIN-WAIT-2")
        clock.skip(server.reactor, 0.9, step=0.1)
        assert not protocol.ended
        clock.skip(server.reactor, 1.5)
        assert protocol.ended
    check_end(protocol, QUIET, acknowledged=len(REPLY), unacknowledged=0, unsent=0, fin_acknowledged=True)


def test_a_small_reply_that_is_never_read_is_as_good_as_its_acknowledgement(serve_by, clock, transport):
    """Scenario 21: TCP's acknowledgement is enough; a Unix socket knows only reading, so that end is told as a cut."""
    server = serve_by(clock)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(b"reply")
        protocol.connection.close()
        if transport != "unix":
            turn_until(server.reactor, lambda: protocol.connection.get_extra_info("tcp_state") == "FIN-WAIT-2")
        clock.skip(server.reactor, 4.5)
        assert protocol.ended is (transport != "unix")
        clock.skip(server.reactor, 1)
        assert protocol.ended
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
    if transport == "unix":
        check_end(protocol, QUIET, Unacknowledged, "cut", accepted=5, acknowledged=None, unacknowledged=None)
    else:
        check_end(protocol, QUIET, acknowledged=5, unacknowledged=0, fin_acknowledged=True)


def test_without_the_kernels_word_the_linger_ends_with_silence_and_says_so(serve_by, mute):
    """Scenario 21: on a platform without the probe nothing is known, so nothing is promised; the client has it all."""
    server = serve_by(mute, scripted(connection_made=reply_and_close), Options(sockets=NARROW))
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        mute.skip(server.reactor, 4.5)
        assert protocol.connection.state is LINGER
        mute.skip(server.reactor, 1)
        assert protocol.ended
    check_end(
        protocol,
        QUIET,
        Unacknowledged,
        "cut",
        accepted=len(REPLY),
        unsent=0,
        acknowledged=None,
        unacknowledged=None,
        lost=None,
        fin_sent=True,
        fin_acknowledged=None,
    )


def test_without_the_kernels_word_the_clients_fin_is_enough(serve_by, mute):
    """Scenario 1: a platform without the probe ends in order all the same when the client does."""
    server = serve_by(mute, scripted(connection_made=reply_and_close), Options(sockets=NARROW))
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        peer.fin()
        ended(protocol)
    check_end(protocol, QUIET, accepted=len(REPLY), acknowledged=None, unacknowledged=None, fin_sent=True)
