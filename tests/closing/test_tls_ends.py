"""How connections that speak TLS end: scenarios 52 to 58. Bytes are counted as plaintext."""

from __future__ import annotations

import ssl

import pytest

from reactor import Deadlines, FlushTimeout, Options, Reactor
from reactor.errors import TLSTruncated
from reactor.lifecycle import CLOSING, ENDED, ENDING, LINGER, PEER_END
from tests.closing.support import NARROW, QUEUEING, REPLY, check_end, reply_and_close, scripted, states_seen, turn
from tests.helpers import turn_until
from tests.test_tls import VERSIONS, TLSServer, ended

pytestmark = VERSIONS

QUIET = "connection_made connection_lost"


@pytest.fixture
def serve_on_clock(poller, version, clock):
    """`serve_on_clock(factory, options)` makes a server on which hours pass when the test says so."""
    with Reactor(poller=poller, system=clock) as reactor:
        yield lambda factory, options: TLSServer(reactor, version, factory, options)


# Scenario 52


def test_a_fin_without_close_notify_is_a_truncation(reactor, version):
    """Scenario 52: what came is delivered, then the end is told as what it may be: an attacker's."""
    server = TLSServer(reactor, version, scripted(keep_open=True))
    peer, protocol = server.connected()
    with peer:
        peer.send(b"all that I")
        peer.fin()
        ended(protocol)
    calls = "connection_made data_received connection_lost"
    check_end(protocol, calls, TLSTruncated, "failed", received=10, discarded=0, unsent=0, fin_sent=False)
    assert protocol.data == b"all that I"


def test_a_fin_in_the_middle_of_a_record_is_a_truncation(reactor, version):
    """Scenario 52: the part of a record tells nothing, and is not delivered."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    with peer:
        peer.send_raw(peer.seal(b"whole") + peer.seal(b"cut short")[:-3])
        peer.fin()
        ended(protocol)
    calls = "connection_made data_received connection_lost"
    check_end(protocol, calls, TLSTruncated, "failed", received=5)
    assert protocol.data == b"whole"


def test_a_truncation_during_a_reply_tells_what_was_not_sent(reactor, version):
    """Scenario 52: 3 MB are queued; the client sees a cut too, never an end in order."""
    server = TLSServer(reactor, version, options=QUEUEING)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(REPLY)
        turn(reactor)
        peer.fin()
        ended(protocol)
        assert peer.read_to_end() in ("truncated", "reset")
        assert REPLY.startswith(bytes(peer.data))
    check_end(protocol, "connection_made pause_writing connection_lost", TLSTruncated, "failed", fin_sent=False)
    assert protocol.report.unsent > 0
    assert protocol.report.written == len(REPLY)


def test_a_fin_without_close_notify_after_our_close_is_no_matter(reactor, version):
    """Scenario 52: what the client says then is not listened to, so nothing can be missing from it."""
    server = TLSServer(reactor, version, scripted(connection_made=reply_and_close))
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        peer.fin()
        ended(protocol)
    check_end(protocol, QUIET, received=0, unsent=0, acknowledged=len(REPLY), fin_acknowledged=True)


def test_a_fin_without_close_notify_after_our_write_eof_is_a_truncation(reactor, version):
    """Scenario 52: our side has ended, theirs was still listened to."""
    server = TLSServer(reactor, version, scripted(connection_made=lambda connection: connection.write_eof()))
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        assert protocol.connection.state is ENDED
        peer.send(b"half")
        peer.fin()
        ended(protocol)
    calls = "connection_made data_received connection_lost"
    check_end(protocol, calls, TLSTruncated, "failed", received=4, fin_sent=True)


@pytest.mark.parametrize("writing", [False, True])
def test_data_before_a_reset_is_delivered(reactor, version, writing):
    """Scenario 52: a reset is told as what it is, after the data; also when it is our own write that meets it."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    peer.send(b"last words")
    peer.reset()
    if writing:
        protocol.connection.write(b"one")
        protocol.connection.write(b"two")
    ended(protocol)
    calls = "connection_made data_received connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", received=10, discarded=0, fin_sent=False)
    assert protocol.data == b"last words"
    assert bool(protocol.report.unsent) is writing


# Scenario 53


@pytest.mark.parametrize("reply", [b"reply", REPLY], ids=["small", "big"])
def test_data_close_notify_and_fin_in_one_segment_are_three_things(reactor, version, reply):
    """Scenario 53: the data is delivered, then the end, and the reply still arrives whole, with an end in order."""
    script = {"data_received": lambda connection: connection.write(reply)}
    server = TLSServer(reactor, version, scripted(**script), QUEUEING)
    peer, protocol = server.connected()
    with peer:
        peer.send_raw(peer.seal(b"request") + peer.close_notify())
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == reply
    ended(protocol)
    calls = "connection_made data_received eof_received connection_lost"
    check_end(protocol, calls, received=7, discarded=0, unsent=0, written=len(reply), fin_sent=True)
    assert states_seen(protocol) == ["OPEN", "PEER_END", "LAST", "CONFIRM", "CLOSED"]


def test_even_the_end_of_the_handshake_may_be_in_that_segment(reactor, version):
    """Scenario 53: handshake, request, close_notify and FIN come in one read."""
    server = TLSServer(reactor, version, scripted(data_received=lambda connection: connection.write(b"reply")))
    with server.tls_peer() as peer:
        turn_until(reactor, peer.step)
        peer.send_raw(peer.seal(b"request") + peer.close_notify())
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
    (protocol,) = server.protocols
    ended(protocol)
    calls = "connection_made data_received eof_received connection_lost"
    check_end(protocol, calls, received=7, unsent=0, fin_sent=True)


# Scenario 54


@pytest.mark.parametrize("fin", [True, False], ids=["with FIN", "without FIN"])
def test_a_late_reply_reaches_a_client_that_has_ended(reactor, version, fin):
    """Scenario 54: after the client's close_notify our side stays open as long as the protocol wants."""
    server = TLSServer(reactor, version, scripted(keep_open=True))
    peer, protocol = server.connected()
    with peer:
        peer.send(b"request")
        peer.send_raw(peer.close_notify())
        if fin:
            peer.fin()
        turn_until(reactor, lambda: "eof_received" in protocol.calls)
        turn(reactor, 10)
        assert protocol.connection.state is PEER_END
        assert not peer.notified
        protocol.connection.write(REPLY)
        protocol.connection.close()
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        peer.close()
        ended(protocol)
    calls = "connection_made data_received eof_received connection_lost"
    check_end(protocol, calls, received=7, discarded=0, unsent=0, fin_sent=True)
    assert protocol.report.written == len(REPLY)


def test_a_client_that_ends_and_is_gone_does_not_miss_our_close_notify(reactor, version):
    """Scenario 54: as curl does. Ours is answered by a reset, and nothing of the application's was lost by it."""
    server = TLSServer(reactor, version, scripted(data_received=lambda connection: connection.write(b"reply")))
    peer, protocol = server.connected()
    with peer:
        peer.send(b"request")
        peer.read_until(len(b"reply"))
        peer.send_raw(peer.close_notify())
    ended(protocol)
    calls = "connection_made data_received eof_received connection_lost"
    check_end(protocol, calls, received=7, discarded=0, unsent=0, written=5, acknowledged=5)


def test_a_reset_in_place_of_our_close_notify_costs_nothing_either(reactor, version):
    """Scenario 54: the client had ended and has everything; that we cannot say goodbye any more is no failure."""
    server = TLSServer(reactor, version, scripted(keep_open=True))
    peer, protocol = server.connected()
    protocol.connection.write(b"reply")
    peer.read_until(len(b"reply"))
    peer.end()
    turn_until(reactor, lambda: "eof_received" in protocol.calls)
    protocol.connection.close()
    peer.reset()
    ended(protocol)
    calls = "connection_made eof_received connection_lost"
    check_end(protocol, calls, unsent=0, written=5, acknowledged=5)


def test_a_reset_that_costs_a_reply_is_told_though_the_client_had_ended(reactor, version):
    """Scenario 54: what was written was not all confirmed, so it is not an end in order."""
    server = TLSServer(reactor, version, scripted(keep_open=True), Options(sockets=NARROW))
    peer, protocol = server.connected(receive_buffer=8192)
    peer.end()
    turn_until(reactor, lambda: "eof_received" in protocol.calls)
    protocol.connection.write(REPLY)
    protocol.connection.close()
    turn(reactor)
    peer.reset()
    ended(protocol)
    assert isinstance(protocol.lost, ConnectionError)
    assert protocol.report.lost > 0


def test_two_ends_that_cross_are_one_end_in_order(reactor, version):
    """Scenario 54: both sides end before either has read the other's close_notify."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    with peer:
        peer.end()
        protocol.connection.write_eof()
        assert peer.read_to_end() == "EOF"
        ended(protocol)
    check_end(protocol, "connection_made eof_received connection_lost", received=0, unsent=0, fin_sent=True)


# Scenario 55


def test_a_late_record_after_our_close_does_not_cost_the_reply(reactor, version):
    """Scenario 55: 3 MB and close; a record comes after half of it. All arrives, and the end is in order."""
    server = TLSServer(reactor, version, scripted(connection_made=reply_and_close), QUEUEING)
    peer, protocol = server.connected()
    with peer:
        peer.read_until(len(REPLY) // 2)
        assert protocol.connection.state is CLOSING
        late = peer.seal(b"by the way")
        peer.send_raw(late)
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        peer.end()
        ended(protocol)
    check_end(protocol, QUIET, received=0, unsent=0, acknowledged=len(REPLY), fin_acknowledged=True)
    assert protocol.report.discarded >= len(late)
    assert states_seen(protocol) == ["OPEN", "CLOSING", "LINGER", "CONFIRM", "CLOSED"]


def test_a_late_record_after_our_fin_does_not_cost_the_reply(reactor, version):
    """Scenario 55: everything is in the kernel already, and half of it not yet read when the record comes."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected(receive_buffer=8192)
    reply = REPLY[:100_000]
    with peer:
        protocol.connection.write(reply)
        protocol.connection.close()
        turn_until(reactor, lambda: protocol.connection.state is LINGER)
        peer.read_until(len(reply) // 2)
        peer.send(b"by the way")
        assert peer.read_to_end() == "EOF"
        assert peer.data == reply
        peer.end()
        ended(protocol)
    check_end(protocol, QUIET, received=0, unsent=0, acknowledged=len(reply), fin_acknowledged=True)
    assert protocol.report.discarded > 0


def test_an_upload_goes_on_after_our_end(reactor, version):
    """Scenario 55: write_eof with 3 MB queued; what the client sends meanwhile and afterwards is heard, and its end."""

    def reply(connection):
        connection.write(REPLY)
        connection.write_eof()

    server = TLSServer(reactor, version, scripted(connection_made=reply), QUEUEING)
    peer, protocol = server.connected()
    with peer:
        peer.read_until(len(REPLY) // 2)
        assert protocol.connection.state is ENDING
        peer.send(b"go on, ")
        turn_until(reactor, lambda: protocol.data)
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
        assert protocol.connection.state is ENDED
        peer.send(REPLY[:1_000_000])
        peer.end()
        ended(protocol)
    assert protocol.data == b"go on, " + REPLY[:1_000_000]
    calls = "connection_made data_received eof_received connection_lost"
    check_end(
        protocol, calls, received=1_000_007, discarded=0, unsent=0, acknowledged=len(REPLY), fin_acknowledged=True
    )


# Scenario 56


@pytest.mark.parametrize("reply", [b"reply", REPLY], ids=["small", "big"])
def test_a_client_that_never_answers_close_notify_is_not_waited_for(serve_on_clock, clock, reply):
    """Scenario 56: our FIN leaves with close_notify; when all is acknowledged, a grace later the end is in order."""

    def answer(connection):
        connection.write(reply)
        connection.close()

    server = serve_on_clock(scripted(connection_made=answer), Options(sockets=NARROW))
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data == reply
        assert protocol.connection.state is LINGER
        turn_until(server.reactor, lambda: protocol.connection.get_extra_info("tcp_state") == "FIN-WAIT-2")
        clock.skip(server.reactor, 0.9, step=0.1)
        assert not protocol.ended
        clock.skip(server.reactor, 1.5)
        assert protocol.ended
    check_end(protocol, QUIET, received=0, acknowledged=len(reply), unacknowledged=0, unsent=0, fin_acknowledged=True)


def test_a_client_that_answers_with_close_notify_but_no_fin_is_not_waited_for_either(serve_on_clock, clock):
    """Scenario 56: its close_notify is discarded like anything else after our close."""
    server = serve_on_clock(scripted(connection_made=reply_and_close), Options(sockets=NARROW))
    peer, protocol = server.connected()
    with peer:
        assert peer.read_to_end() == "EOF"
        peer.send_raw(peer.close_notify())
        turn(server.reactor)
        assert not protocol.ended
        clock.skip(server.reactor, 2.5)
        assert protocol.ended
    check_end(protocol, QUIET, acknowledged=len(REPLY), unacknowledged=0, unsent=0, fin_acknowledged=True)
    assert peer.data == REPLY


def test_our_close_notify_and_our_fin_leave_together(reactor, version):
    """Scenario 56: the client needs to send nothing to get both."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.close()
        turn(reactor, 1)
        assert protocol.connection.state is LINGER
        while peer.ending is None:
            assert peer.read_some()
        assert peer.ending == "EOF"
        assert peer.data == b""
        peer.fin()
        ended(protocol)
    check_end(protocol, QUIET, unsent=0, acknowledged=0, fin_acknowledged=True)


# Scenario 57


def say_nothing(peer) -> None:
    turn_until(peer.reactor, lambda: peer.reactor.connections)


def say_half_a_hello(peer) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.send_raw(peer.seal(b"")[:100])
    turn(peer.reactor)


def say_hello(peer) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.send_raw(peer.seal(b""))
    turn(peer.reactor)


def say_hello_and_go(peer) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.send_raw(peer.seal(b""))


@pytest.mark.parametrize(
    "say", [say_nothing, say_half_a_hello, say_hello, say_hello_and_go], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("end", ["fin", "reset"])
def test_who_leaves_in_the_handshake_never_had_a_protocol(reactor, version, say, end, caplog):
    """Scenario 57: the listener counts and logs it once, nothing is left, and the next client is served."""
    server = TLSServer(reactor, version)
    peer = server.tls_peer()
    say(peer)
    getattr(peer, end)()
    with peer:
        turn_until(reactor, lambda: server.listener.handshakes_failed)
        if end == "fin":
            assert peer.read_to_end() in ("truncated", "reset")
    turn_until(reactor, lambda: not server.listener.connections)
    assert server.protocols == []
    (warning,) = [record.getMessage() for record in caplog.records]
    expected = "the peer ended in the middle of the TLS handshake" if end == "fin" else "reset by peer"
    assert expected in warning
    peer, protocol = server.connected()
    with peer:
        peer.end()
        assert peer.read_to_end() == "EOF"
    ended(protocol)
    check_end(protocol, "connection_made eof_received connection_lost", unsent=0)
    assert server.listener.handshakes_failed == 1


# Scenario 58


@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_a_reader_that_reads_nothing_is_reset_when_the_deadline_passes(serve_on_clock, clock, how):
    """Scenario 58: not earlier; the client can tell it from an end, and the report counts what was never sent."""

    def end(connection):
        connection.write(REPLY)
        getattr(connection, how)()

    options = Options(sockets=NARROW, deadlines=Deadlines(flush=30, linger_silence=100, linger_total=1000))
    server = serve_on_clock(scripted(connection_made=end), options)
    peer, protocol = server.connected()
    with peer:
        clock.skip(server.reactor, 29)
        assert protocol.connection.state is (CLOSING if how == "close" else ENDING)
        clock.skip_until(server.reactor, lambda: protocol.ended)
        assert peer.read_to_end() == "reset"
        assert not peer.notified
        assert REPLY.startswith(bytes(peer.data))
        assert len(peer.data) < len(REPLY)
    check_end(protocol, QUIET, FlushTimeout, "reset", received=0, fin_sent=False, fin_acknowledged=None)
    report = protocol.report
    assert report.unsent > 1_000_000
    assert report.unacknowledged > 0
    assert report.acknowledged <= len(peer.data)
    assert report.written == len(REPLY)


def test_a_slow_reader_that_progresses_is_served_to_the_end(serve_on_clock, clock):
    """Scenario 58: progress starts the deadline anew, and the end in order comes behind the last byte."""
    options = Options(sockets=NARROW, deadlines=Deadlines(flush=30, linger_silence=5000, linger_total=50_000))
    server = serve_on_clock(scripted(connection_made=reply_and_close), options)
    peer, protocol = server.connected(receive_buffer=32 * 1024)
    began = clock.time()

    def kernel_takes_more_than(before: int) -> bool:
        """Reads on until it does: how much that is differs, and the kernel may need some real time for it."""
        peer.read_some(16384)
        return protocol.report.accepted > before or protocol.report.accepted == len(REPLY)

    with peer:
        while peer.ending is None and len(peer.data) < len(REPLY):
            before = protocol.report.accepted
            peer.read_until(min(len(REPLY), len(peer.data) + 50_000))
            turn_until(server.reactor, lambda before=before: kernel_takes_more_than(before))
            clock.skip(server.reactor, 20)
        assert clock.time() - began >= 200
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    ended(protocol)
    check_end(protocol, QUIET, unsent=0, acknowledged=len(REPLY), fin_acknowledged=True)
