"""The peer resets: it is always noticed, told once, and what it had said before is delivered: scenarios 23 to 31."""

from __future__ import annotations

import attrs
import pytest

from reactor import Limits, Options
from reactor.lifecycle import CLOSING, LAST, LINGER, PEER_END
from tests.closing.support import (
    NARROW,
    QUEUEING,
    REPLY,
    TCP,
    check_account,
    check_cut,
    check_end,
    ended,
    kernel_state,
    reply_and_close,
    scripted,
    turn,
    turns_in,
)
from tests.helpers import Peer, turn_until

pytestmark = TCP


def sees_all(poller: str) -> bool:
    """Whether the poller tells a reset though nothing was asked for."""
    return poller != "select"


def take_all(peer: Peer) -> None:
    """Reads what is there without letting the server add to it, so that the client has what its TCP acknowledged."""
    while peer.read_some():
        pass


def test_a_reset_on_an_idle_connection_is_told(serve):
    """Scenario 23: within one turn, as what it is."""
    server = serve()
    peer, protocol = server.connected()
    state = kernel_state(peer)
    peer.reset()
    server.reactor.run_once(1)
    assert protocol.ended
    assert state() is None
    calls = "connection_made connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", written=0, received=0, discarded=0, fin_sent=False)


@pytest.mark.parametrize("held", [b"", b"held"])
def test_a_reset_is_noticed_though_reading_is_paused(serve, poller, held):
    """Scenario 24: at once on epoll and poll, and with select, which cannot, when reading is resumed; no spin.

    What had arrived before it waits for that, and is delivered first.
    """
    server = serve()
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    peer.sock.send(held)
    turn(server.reactor)
    peer.reset()
    server.reactor.run_once(0.05)
    if sees_all(poller) and not held:
        turn(server.reactor)
        assert protocol.ended
        check_end(protocol, "connection_made connection_lost", ConnectionResetError, "failed", received=0, discarded=0)
    else:
        assert turns_in(server.reactor) <= 2
        assert not protocol.ended
        protocol.connection.resume_reading()
        ended(protocol)
        flow = "data_received " if held else ""
        check_end(
            protocol,
            f"connection_made {flow}connection_lost",
            ConnectionResetError,
            "failed",
            received=len(held),
            discarded=0,
        )


def test_a_paused_writer_learns_of_a_reset_on_every_poller(serve):
    """Scenario 24: whoever waits to write is told, whatever it asked for on the other side."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    protocol.connection.write(REPLY)
    turn(server.reactor)
    peer.reset()
    ended(protocol)
    calls = "connection_made pause_writing connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", written=len(REPLY), received=0)
    assert protocol.report.lost > 1_000_000


def test_a_reset_on_a_half_open_idle_connection_is_noticed(serve, poller):
    """Scenario 25: the client ended and then died; epoll and poll tell it, with select the next write does."""
    server = serve(scripted(keep_open=True))
    peer, protocol = server.connected()
    peer.fin()
    turn_until(server.reactor, lambda: "eof_received" in protocol.calls)
    assert protocol.connection.state is PEER_END
    peer.reset()
    server.reactor.run_once(0.05)
    if not sees_all(poller):
        assert turns_in(server.reactor) <= 2
        assert not protocol.ended
        protocol.connection.write(b"are you there?")
    turn(server.reactor)
    assert protocol.ended
    written = 0 if sees_all(poller) else 14
    calls = "connection_made eof_received connection_lost"
    check_end(protocol, calls, BrokenPipeError, "failed", written=written, unsent=written)


def test_a_reset_during_the_flush_is_told_with_the_loss(serve):
    """Scenario 26: closed by us, 3 MB under way; the report's numbers hold what the client really got."""
    server = serve(scripted(connection_made=reply_and_close), QUEUEING)
    peer, protocol = server.connected()
    turn(server.reactor)
    peer.read_until(500_000)
    assert protocol.connection.state is CLOSING
    take_all(peer)
    peer.reset()
    ended(protocol)
    calls = "connection_made connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", written=len(REPLY), received=0, fin_sent=False)
    check_cut(protocol, peer, REPLY)


def test_a_reset_during_the_linger_is_told(serve):
    """Scenario 27: the reply had been acknowledged by the client's TCP, but its program threw it away (K8)."""
    server = serve(scripted(connection_made=lambda connection: (connection.write(b"reply"), connection.close())))
    peer, protocol = server.connected()
    assert protocol.connection.state is LINGER
    state = kernel_state(peer)
    peer.reset()
    ended(protocol)
    assert state() is None
    calls = "connection_made connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", written=5, accepted=5, unsent=0, fin_sent=True)


@pytest.mark.parametrize("closed", [False, True])
def test_a_reset_after_the_clients_fin_is_no_clean_end(serve, closed):
    """Scenario 28: the reply was under way; recv says only b"" for ever (K7), but the loss is told."""

    def reply(connection):
        connection.write(REPLY)
        if closed:
            connection.close()

    server = serve(scripted(keep_open=True, eof_received=reply), QUEUEING)
    peer, protocol = server.connected()
    peer.fin()
    turn_until(server.reactor, lambda: "eof_received" in protocol.calls)
    turn(server.reactor)
    assert protocol.connection.state is (LAST if closed else PEER_END)
    peer.read_until(100_000)
    take_all(peer)
    peer.reset()
    ended(protocol)
    flow = "" if closed else "pause_writing "
    calls = f"connection_made eof_received {flow}connection_lost"
    check_end(protocol, calls, BrokenPipeError, "failed", written=len(REPLY))
    check_cut(protocol, peer, REPLY)


def test_a_reset_behind_a_fin_that_was_not_read_yet_is_found(serve):
    """Scenario 28: FIN and reset are both there when we read; the zero-byte read is not taken for an end (R6)."""
    server = serve()
    peer, protocol = server.connected()
    protocol.connection.write(b"greeting")
    peer.fin()
    peer.reset()
    ended(protocol)
    calls = "connection_made connection_lost"
    check_end(protocol, calls, BrokenPipeError, "failed", written=8, accepted=8, unsent=0)


def test_a_reset_between_our_last_write_and_our_close_is_found(serve):
    """Scenario 28: the kernel had taken all of it and the client had ended, so only SO_ERROR still tells (K7)."""
    server = serve(scripted(keep_open=True), QUEUEING)
    peer, protocol = server.connected(receive_buffer=8192)
    peer.fin()
    turn_until(server.reactor, lambda: "eof_received" in protocol.calls)
    protocol.connection.write(REPLY[:100_000])
    peer.reset()
    protocol.connection.close()
    ended(protocol)
    calls = "connection_made eof_received connection_lost"
    check_end(protocol, calls, BrokenPipeError, "failed", written=100_000, accepted=100_000, unsent=0)
    assert protocol.report.unacknowledged > 0


@pytest.mark.parametrize("size", [4, 40_000])
def test_what_came_before_a_reset_is_delivered_first(serve, size):
    """Scenario 29: all of it, however many reads it takes, then the error."""
    server = serve(options=Options(limits=Limits(read_bytes=4096)))
    peer, protocol = server.connected()
    assert peer.sock.send(REPLY[:size]) == size
    peer.reset()
    ended(protocol)
    assert protocol.data == REPLY[:size]
    calls = "connection_made data_received connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", received=size, discarded=0)


@pytest.mark.parametrize("queued", [False, True])
def test_the_clients_last_words_survive_our_failed_write(serve, queued):
    """Scenario 30: send fails first, while the reply waits to be read; it is delivered, then that error comes."""
    options = Options(sockets=NARROW, limits=Limits(read_bytes=4096))
    server = serve(options=options)
    peer, protocol = server.connected()
    words = REPLY[:20_000]
    if queued:
        protocol.connection.write(REPLY)
    assert peer.sock.send(words) == len(words)
    peer.reset()
    protocol.connection.write(b"question")
    protocol.connection.write(b"and another")
    ended(protocol)
    assert protocol.data == words
    assert protocol.calls[-2:] == ["data_received", "connection_lost"]
    assert type(protocol.lost) is ConnectionResetError
    report = protocol.report
    assert (report.how, report.received, report.discarded) == ("failed", len(words), 0)
    assert report.written == queued * len(REPLY) + 19
    assert report.unsent >= 19
    check_account(protocol)


def test_a_reset_that_send_has_eaten_is_not_taken_for_an_end(serve):
    """Scenario 31: after the failed send recv says b"", like a FIN (K5); the error was latched and is told."""
    server = serve()
    peer, protocol = server.connected()
    peer.reset()
    protocol.connection.write(b"question")
    assert protocol.connection.get_extra_info("socket").recv(1) == b""
    ended(protocol)
    calls = "connection_made connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", written=8, unsent=8, accepted=0, received=0)


def test_a_write_after_the_failure_is_taken_and_counted(serve):
    """Scenario 31: until connection_lost a writer cannot know; it is neither refused nor forgotten."""
    server = serve()
    peer, protocol = server.connected()
    peer.reset()
    for _ in range(10):
        protocol.connection.write(b"ten bytes!")
    protocol.connection.writelines([b"some ", b"more"])
    ended(protocol)
    calls = "connection_made connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", written=109, unsent=109, accepted=0)
    with pytest.raises(RuntimeError, match="connection_lost"):
        protocol.connection.write(b"late")


def test_with_a_paused_client_half_closed_by_us_a_reset_is_seen(serve, poller):
    """Scenario 25: the same on our half-close: write_eof, reading paused, nothing asked of the poller."""
    server = serve(options=attrs.evolve(QUEUEING, linger=True))
    peer, protocol = server.connected()
    protocol.connection.write_eof()
    protocol.connection.pause_reading()
    turn(server.reactor)
    peer.reset()
    server.reactor.run_once(0.05)
    turn(server.reactor)
    if not sees_all(poller):
        assert not protocol.ended
        assert turns_in(server.reactor) <= 2
        protocol.connection.resume_reading()
        turn(server.reactor)
    check_end(protocol, "connection_made connection_lost", ConnectionResetError, "failed", written=0, fin_sent=True)
