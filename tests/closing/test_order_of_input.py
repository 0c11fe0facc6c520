"""What came before an end is told before it: data held by TLS, by the kernel, or by a peer that is gone."""

from __future__ import annotations

import pytest

from reactor import Deadlines, Limits, Options, Reactor, TLSTruncated
from reactor.options import Sockets
from reactor.relaying import relay
from reactor.system import System
from tests.closing.support import QUEUEING, REPLY, check_end, scripted, turn, turns_in
from tests.helpers import Peer, Recorder, Server, turn_until
from tests.test_tls import VERSIONS, TLSServer, server_context
from tests.test_tls import ended as tls_ended

PAUSED = {"connection_made": lambda connection: connection.pause_reading()}


def one_flight(server, *, notify=True, reset=False):
    """A client whose last flight of the handshake, request and end come in one read of the server's."""
    peer = server.tls_peer()
    turn_until(server.reactor, peer.step)
    peer.send_raw(peer.seal(b"request") + (peer.close_notify() if notify else b""))
    if reset:
        turn_until(server.reactor, lambda: server.protocols)
        peer.reset()
    else:
        peer.fin()
    turn_until(server.reactor, lambda: server.protocols and hasattr(server.protocols[0], "connection"))
    turn(server.reactor)
    return peer, server.protocols[0]


# `posted` resumes from a call that was posted, and `posted twice` from a call that such a call posted: the poll comes
# between the resumption and the call that goes on reading.
RESUMING = {
    "at once": lambda reactor, connection: connection.resume_reading(),
    "posted": lambda reactor, connection: reactor.call_soon(connection.resume_reading),
    "posted twice": lambda reactor, connection: reactor.call_soon(reactor.call_soon, connection.resume_reading),
    "by a timer": lambda reactor, connection: reactor.call_later(0, connection.resume_reading),
}


@VERSIONS
@pytest.mark.parametrize("resume", list(RESUMING))
def test_data_that_tls_holds_comes_before_the_end_however_reading_is_resumed(reactor, version, resume):
    """A request and close_notify that came with the handshake are delivered, and the end is in order."""
    server = TLSServer(reactor, version, scripted(**PAUSED))
    peer, protocol = one_flight(server)
    with peer:
        assert protocol.calls == ["connection_made"]
        RESUMING[resume](reactor, protocol.connection)
        tls_ended(protocol)
    check_end(protocol, "connection_made data_received eof_received connection_lost", received=7, discarded=0)
    assert protocol.data == b"request"


@VERSIONS
@pytest.mark.parametrize("resume", list(RESUMING))
def test_data_that_tls_holds_comes_before_a_truncation(reactor, version, resume):
    """The same without close_notify: the request is delivered, and then the truncation is told."""
    server = TLSServer(reactor, version, scripted(**PAUSED))
    peer, protocol = one_flight(server, notify=False)
    with peer:
        RESUMING[resume](reactor, protocol.connection)
        tls_ended(protocol)
    check_end(protocol, "connection_made data_received connection_lost", TLSTruncated, "failed", received=7)


@VERSIONS
@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "no close_notify"])
def test_data_that_tls_holds_comes_before_a_reset(reactor, version, poller, notify):
    """The same with a reset in place of the FIN; with close_notify the peer's end is told before the reset."""
    if notify and poller == "select":
        pytest.skip("select does not tell of a reset while nothing is read")
    server = TLSServer(reactor, version, scripted(keep_open=True, **PAUSED))
    _, protocol = one_flight(server, notify=notify, reset=True)
    assert not protocol.ended
    reactor.call_soon(protocol.connection.resume_reading)
    tls_ended(protocol)
    calls = "connection_made data_received eof_received connection_lost"
    if not notify:
        calls = calls.replace("eof_received ", "")
    check_end(protocol, calls, ConnectionResetError, "failed", received=7, discarded=0)


@VERSIONS
def test_a_reset_behind_data_that_tls_holds_is_told_to_a_protocol_that_pauses_again(version, poller, clock):
    """The data is delivered when reading is resumed; pausing in that very call does not hide the reset for ever."""
    if poller == "select":
        pytest.skip("select does not tell of a reset while nothing is read")
    with Reactor(poller=poller, system=clock) as reactor:
        factory = scripted(data_received=lambda connection: connection.pause_reading(), **PAUSED)
        server = TLSServer(reactor, version, factory)
        peer = server.tls_peer()
        turn_until(reactor, peer.step)
        peer.send_raw(peer.seal(b"request"))
        turn_until(reactor, lambda: server.protocols and hasattr(server.protocols[0], "connection"))
        turn(reactor)
        (protocol,) = server.protocols
        reactor.call_soon(lambda: (peer.reset(), protocol.connection.resume_reading()))
        turn_until(reactor, lambda: protocol.data)
        clock.skip(reactor, Deadlines().unread + 1)
        check_end(protocol, "connection_made data_received connection_lost", ConnectionResetError, "failed", received=7)


# A reset while reading is paused


@pytest.mark.parametrize("transport", ["tcp4"])
@pytest.mark.parametrize("written", [b"", REPLY], ids=["nothing queued", "a reply queued"])
def test_all_that_had_arrived_is_delivered_before_the_reset_is_told(serve, written):
    """Also far more than one read: nothing of it is discarded, and the queue that is dropped is counted."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    protocol.connection.write(written)
    turn(server.reactor)
    arrived = 0
    try:
        while arrived < len(REPLY):
            arrived += peer.sock.send(REPLY[arrived : arrived + 65536])
    except BlockingIOError:
        pass
    turn(server.reactor)
    peer.reset()
    turn(server.reactor)
    assert turns_in(server.reactor) <= 3
    assert not protocol.ended
    server.reactor.call_soon(protocol.connection.resume_reading)
    turn_until(server.reactor, lambda: protocol.ended)
    assert isinstance(protocol.lost, ConnectionResetError)
    # The kernel may not have let through all that it had taken from the client.
    assert len(protocol.data) > 20_000
    assert REPLY.startswith(bytes(protocol.data))
    assert protocol.report.discarded == 0
    assert bool(protocol.report.unsent) is bool(written)


@pytest.mark.parametrize("transport", ["tcp4"])
def test_short_reads_deliver_all_that_had_arrived_before_the_reset_is_told(serve):
    """How much is delivered does not depend on `Limits.read_bytes`."""
    server = serve(options=Options(limits=Limits(read_bytes=64)))
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    turn(server.reactor)
    assert peer.sock.send(REPLY[:40_000]) == 40_000
    turn_until(server.reactor, lambda: System().outstanding(peer.sock) == 0)
    peer.reset()
    turn(server.reactor)
    protocol.connection.resume_reading()
    turn_until(server.reactor, lambda: protocol.ended)
    assert isinstance(protocol.lost, ConnectionResetError)
    assert protocol.data == REPLY[:40_000]


@pytest.mark.parametrize("transport", ["tcp4"])
def test_a_protocol_that_never_resumes_is_told_of_the_reset_after_a_while(serve_by, clock, poller):
    """After `Deadlines.unread` what had arrived is counted as discarded; pausing again in between keeps the rest."""
    if poller == "select":
        pytest.skip("select does not tell of a reset while nothing is read")
    server = serve_by(clock, options=Options(deadlines=Deadlines(unread=20)))
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    peer.send(b"held")
    turn(server.reactor)
    peer.reset()
    turn(server.reactor)
    assert protocol.connection.state.name == "LAST_WORDS"
    assert protocol.connection.is_closing()
    protocol.connection.write(b"in vain")
    clock.skip(server.reactor, 19)
    assert not protocol.ended
    clock.skip(server.reactor, 2)
    calls = "connection_made connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", received=0, discarded=4, unsent=7)


# Relays


class Joined:
    """Two raw peers, each connected to a listener, and a relay between their connections."""

    def __init__(self, near: Server, far: Server, far_buffer: int | None = None) -> None:
        self.near, near_protocol = near.connected()
        self.far, far_protocol = far.connected(far_buffer)
        self.relay = relay(near_protocol.connection, far_protocol.connection)

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.near.close()
        self.far.close()


def send_all(peer: Peer, data: bytes, other: Peer) -> None:
    """Sends all of it, while the other peer reads as little as must be."""
    view = memoryview(data)

    def sent() -> bool:
        nonlocal view
        try:
            view = view[peer.sock.send(view) :]
        except BlockingIOError:
            other.read_some(16384)
        return not view

    turn_until(peer.reactor, sent)


@pytest.mark.parametrize("far", ["unix", "tcp4"])
def test_a_unix_peer_that_sent_everything_and_closed_is_relayed_whole(reactor, tmp_path, far):
    """Its hang-up is no loss: the slow reader on the other side gets everything and a clean end."""
    sockets = [str(tmp_path / name) for name in ("near", "far")]
    servers = Server(reactor, Recorder, "unix", sockets[0]), Server(reactor, Recorder, far, sockets[1], QUEUEING)
    with Joined(*servers, far_buffer=8192 if far == "tcp4" else None) as joined:
        send_all(joined.near, REPLY, joined.far)
        joined.near.close()
        turn(reactor)
        assert turns_in(reactor) < 50
        assert joined.far.read_to_end() == "EOF"
        assert joined.far.data == REPLY
        joined.far.close()
        turn_until(reactor, lambda: joined.relay.over)
    assert joined.relay.failure is None


@pytest.mark.parametrize("how", ["reset", "truncation"])
def test_a_failure_is_relayed_behind_everything_that_came_before_it(reactor, how):
    """The slow reader on the other side gets every byte that arrived, and then a reset, never a clean end."""
    near = TLSServer(reactor, None) if how == "truncation" else Server(reactor)
    far = Server(reactor, options=Options(sockets=Sockets(send_buffer_bytes=16384)))
    sent = REPLY[:120_000]
    with Joined(near, far, far_buffer=8192) as joined:
        joined.near.send(sent)
        turn_until(reactor, lambda: System().outstanding(joined.near.sock) == 0)  # it has arrived here
        if how == "reset":
            joined.near.reset()
        else:
            joined.near.fin()
        turn(reactor)
        assert joined.far.read_to_end() == "reset"
        assert joined.far.data == sent
        turn_until(reactor, lambda: joined.relay.over)
    assert isinstance(joined.relay.failure, TLSTruncated if how == "truncation" else ConnectionResetError)
    assert joined.relay.failed is joined.relay.one


@pytest.mark.parametrize("transport", ["tcp4", "tcp6", "unix"])
def test_an_abort_with_flush_comes_behind_what_was_written(serve, transport):
    """The peer gets all of it and then, where there are resets, a reset; `connection_lost` has the given reason."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    why = ValueError("cut elsewhere")
    with peer:
        protocol.connection.write(REPLY)
        protocol.connection.abort(why, flush=True)
        assert protocol.connection.is_closing()
        with pytest.raises(RuntimeError, match=r"abort\(\)"):
            protocol.connection.write(b"more")
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
        assert peer.data == REPLY
        turn_until(server.reactor, lambda: protocol.ended)
    check_end(protocol, "connection_made connection_lost", ValueError, "reset", unsent=0, fin_sent=False)
    assert protocol.lost is why


@pytest.mark.parametrize("transport", ["tcp4"])
def test_an_abort_with_flush_has_a_bound(serve_by, clock):
    """A peer that takes nothing is reset after `Deadlines.flush`; a second abort does not wait."""
    server = serve_by(clock, options=QUEUEING)
    for second in (False, True):
        peer, protocol = server.connected(receive_buffer=8192)
        with peer:
            protocol.connection.write(REPLY)
            protocol.connection.abort(flush=True)
            if second:
                turn(server.reactor)
                protocol.connection.abort()
                turn(server.reactor)
            else:
                clock.skip(server.reactor, Deadlines().flush - 2)
                assert not protocol.ended
                clock.skip(server.reactor, 4)
            assert protocol.ended
            assert protocol.report.how == "reset"
            assert protocol.report.unsent > 0


def test_cleartext_that_was_dropped_ends_in_a_reset(reactor):
    """A FIN before the handshake: the queue is dropped, and the peer never takes a part of it for the whole."""
    server = Server(reactor, options=QUEUEING)
    peer, protocol = server.connected(receive_buffer=8192)
    with peer:
        protocol.connection.write(REPLY)
        protocol.connection.start_tls(server_context(), server_side=True)
        turn(reactor)
        peer.fin()
        turn_until(reactor, lambda: protocol.ended)
        assert peer.read_to_end() == "reset"
    assert isinstance(protocol.lost, TLSTruncated)
    assert protocol.report.unsent > 0


def test_an_idle_deadline_is_judged_behind_everything_that_waits(poller, clock):
    """A loop that stalls: more peers than one poll tells of have spoken meanwhile, and none is taken for idle."""
    heard = 0

    class Counting(Recorder):
        def data_received(self, data):
            nonlocal heard
            heard += 1

    count = 200 if poller == "select" else 600
    with Reactor(poller=poller, system=clock) as reactor:
        server = Server(reactor, Counting, options=Options(deadlines=Deadlines(idle=10)))
        peers = [server.peer() for _ in range(count)]
        turn_until(reactor, lambda: len(server.protocols) == count)
        turn(reactor)
        for peer in peers:
            peer.sock.send(b"still here")
        clock._now += 11
        reactor.run_once(0)
        assert heard == count
        turn(reactor)
        assert not any(protocol.ended for protocol in server.protocols)
        for peer in peers:
            peer.close()


def test_an_idle_deadline_is_judged_behind_what_came_during_a_long_callback(poller, clock):
    """A callback that takes long and then ends its connection makes nobody idle who has spoken meanwhile."""
    with Reactor(poller=poller, system=clock) as reactor:
        server = Server(reactor, options=Options(deadlines=Deadlines(idle=10)))
        peer, other = server.connected()
        slow_peer, slow = server.connected()

        def take_long(data):
            clock._now += 11
            peer.sock.send(b"still here")
            slow.connection.close()

        slow.data_received = take_long
        with peer, slow_peer:
            slow_peer.send(b"work")
            turn_until(reactor, lambda: other.data or other.connection.is_closing())
            turn(reactor)
            assert other.data == b"still here"
            assert not other.connection.is_closing()
