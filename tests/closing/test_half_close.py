"""One side has ended and the other goes on: scenarios 7 to 13."""

from __future__ import annotations

import pytest

from reactor import WriteAfterEnd
from reactor.lifecycle import ENDED, ENDING, PEER_END
from tests.closing.support import (
    QUEUEING,
    REPLY,
    TCP,
    check_end,
    ended,
    kernel_state,
    scripted,
    states_seen,
    turn,
    turns_in,
)
from tests.helpers import turn_until


def fins_sent(reactor) -> list[str]:
    """Grows by one for each FIN of ours."""
    fins: list[str] = []
    reactor.observe(lambda record: fins.append(record.connection) if record.what == "our FIN" else None)
    return fins


def test_a_late_reply_reaches_a_client_that_has_ended(serve, transport):
    """Scenario 7: the HOWTO's exchange; until the reply, a twentieth of a second later, it sleeps."""
    server = serve(scripted(keep_open=True))
    with server.peer() as peer:
        peer.send(b"request")
        peer.fin()
        turn_until(server.reactor, lambda: server.protocols and "eof_received" in server.protocols[0].calls)
        (protocol,) = server.protocols
        connection = protocol.connection
        assert connection.state is PEER_END
        assert turns_in(server.reactor) <= 3
        if transport != "unix":
            assert connection.get_extra_info("tcp_state") == "CLOSE-WAIT"
        connection.write(b"reply")
        connection.close()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
    ended(protocol)
    calls = "connection_made data_received eof_received connection_lost"
    check_end(protocol, calls, received=7, written=5, accepted=5, unsent=0, fin_sent=True)
    assert states_seen(protocol) == ["OPEN", "PEER_END", "LAST", "CONFIRM", "CLOSED"]


def test_what_a_client_sends_after_our_end_is_delivered(serve, transport):
    """Scenario 8: write_eof ends our side only; a megabyte comes in after it."""
    server = serve(scripted(connection_made=lambda connection: connection.write_eof()))
    peer, protocol = server.connected()
    with peer:
        assert protocol.connection.state is ENDED
        if transport != "unix":
            state = kernel_state(peer)
            turn_until(server.reactor, lambda: state() == "FIN-WAIT-2")
        peer.send(REPLY[:1_000_000])
        turn_until(server.reactor, lambda: len(protocol.data) == 1_000_000)
        assert protocol.connection.state is ENDED
        peer.fin()
        assert peer.read_to_end() == "EOF"
        ended(protocol)
        if transport != "unix":
            assert state() == "TIME-WAIT"
    assert protocol.data == REPLY[:1_000_000]
    calls = "connection_made data_received eof_received connection_lost"
    check_end(protocol, calls, received=1_000_000, discarded=0, written=0, fin_sent=True, fin_acknowledged=True)


def test_an_end_with_a_queue_comes_after_the_queue_and_reading_goes_on(serve):
    """Scenario 9: write_eof with 3 MB queued; the client talks during the flush and after our FIN, and is heard."""

    def reply(connection):
        connection.write(REPLY)
        connection.write_eof()

    server = serve(scripted(connection_made=reply), QUEUEING)
    peer, protocol = server.connected()
    with peer:
        turn(server.reactor)
        assert protocol.connection.state is ENDING
        peer.send(b"go on, ")
        turn_until(server.reactor, lambda: protocol.data)
        assert protocol.connection.state is ENDING
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        assert protocol.connection.state is ENDED
        peer.send(b"thanks")
        peer.fin()
        ended(protocol)
    assert protocol.data == b"go on, thanks"
    check_end(
        protocol,
        "connection_made data_received eof_received connection_lost",
        written=len(REPLY),
        acknowledged=len(REPLY),
        unsent=0,
        received=13,
        fin_sent=True,
        fin_acknowledged=True,
    )


@pytest.mark.parametrize("queued", [False, True])
def test_a_second_write_eof_sends_no_second_fin(serve, queued):
    """Scenario 10: write_eof twice, at once and later, is one end."""
    server = serve(options=QUEUEING)
    fins = fins_sent(server.reactor)
    peer, protocol = server.connected()
    with peer:
        if queued:
            protocol.connection.write(REPLY)
        protocol.connection.write_eof()
        protocol.connection.write_eof()
        assert len(fins) == (0 if queued else 1)
        assert peer.read_to_end() == "EOF"
        protocol.connection.write_eof()
        assert len(peer.data) == queued * len(REPLY)
        assert protocol.connection.state is ENDED
        peer.fin()
        ended(protocol)
    assert fins == ["#1"]
    check_end(protocol, "connection_made eof_received connection_lost", written=queued * len(REPLY), unsent=0)


@pytest.mark.parametrize("queued", [False, True])
def test_writing_after_write_eof_is_refused_and_harms_nothing(serve, queued):
    """Scenario 11: the error comes at once, and what was written before arrives whole."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    reply = REPLY if queued else b"reply"
    with peer:
        protocol.connection.write(reply)
        protocol.connection.write_eof()
        with pytest.raises(WriteAfterEnd, match=r"ended by write_eof\(\)"):
            protocol.connection.write(b"more")
        assert peer.read_to_end() == "EOF"
        assert peer.data == reply
        with pytest.raises(WriteAfterEnd, match=r"ended by write_eof\(\)"):
            protocol.connection.writelines([b"more"])
    ended(protocol)
    check_end(
        protocol,
        "connection_made eof_received connection_lost",
        written=len(reply),
        acknowledged=len(reply),
        unsent=0,
    )


@TCP
@pytest.mark.parametrize("queued", [False, True])
def test_write_eof_after_a_reset_tells_the_reset(serve, queued):
    """Scenario 12: shutdown raises ENOTCONN then; the user sees no error but the reset itself, once, at the end."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    if queued:
        protocol.connection.write(REPLY)
        turn(server.reactor)
    state = kernel_state(peer)
    peer.reset()
    protocol.connection.write_eof()
    ended(protocol)
    flow = "pause_writing " * queued
    check_end(
        protocol,
        f"connection_made {flow}connection_lost",
        ConnectionResetError,
        "failed",
        written=queued * len(REPLY),
        received=0,
        fin_sent=False,
        fin_acknowledged=None,
    )
    assert bool(protocol.report.lost) == queued
    assert state() is None
    protocol.connection.write_eof()


@pytest.mark.parametrize("first", ["client", "server"])
def test_two_half_closes_end_the_connection_without_a_close(serve, first):
    """Scenario 13: when both have ended their output nothing is left to wait for, whatever eof_received returned."""
    server = serve(scripted(keep_open=True))
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(b"reply")
        if first == "server":
            protocol.connection.write_eof()
            peer.read_to_end()
            peer.fin()
        else:
            peer.fin()
            turn_until(server.reactor, lambda: "eof_received" in protocol.calls)
            assert protocol.connection.state is PEER_END
            protocol.connection.write_eof()
            peer.read_to_end()
        assert peer.ending == "EOF"
        assert peer.data == b"reply"
        ended(protocol)
    check_end(protocol, "connection_made eof_received connection_lost", written=5, acknowledged=5, fin_sent=True)
