"""Connections that end where they begin: scenarios 32 to 35. Here our side is the client, or the listener's queue."""

from __future__ import annotations

import socket

import pytest

from reactor import ConnectFailed, Deadlines, Options
from tests.closing.support import TCP, check_end, ended, turn
from tests.helpers import Recorder, all_closed, turn_until


@pytest.fixture
def raw(transport, tmp_path):
    """A raw listening socket of that transport, with a short queue."""
    family = {"tcp4": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}[transport]
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind({"tcp4": ("127.0.0.1", 0), "tcp6": ("::1", 0), "unix": str(tmp_path / "raw")}[transport])
        yield sock


def connecting(reactor, raw: socket.socket, options: Options | None = None) -> Recorder:
    """A protocol whose connect to that socket has begun."""
    protocol = Recorder()
    address = raw.getsockname()
    where = {"path": address} if isinstance(address, str) else {"host": address[0], "port": address[1]}
    reactor.connect(lambda: protocol, **where, options=options or Options())
    return protocol


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def test_a_refused_connect_fails_with_its_cause(reactor, raw):
    """Scenario 32: connection_failed alone, no connection, and the address with the kernel's own error."""
    protocol = connecting(reactor, raw)  # bound, so the port is nobody else's; but it does not listen
    reactor.run()
    assert protocol.calls == ["connection_failed"]
    assert type(protocol.failed) is ConnectFailed
    ((where, cause),) = protocol.failed.causes
    assert where.sockaddr[: len(raw.getsockname())] == raw.getsockname()
    assert type(cause) is ConnectionRefusedError
    assert not hasattr(protocol, "connection")
    assert reactor.statistics().ended.connections == 0


def test_a_connection_that_is_accepted_and_closed_ends_in_order(reactor, raw):
    """Scenario 33: begun, then the peer's FIN, then connection_lost(None)."""
    raw.listen(1)
    protocol = connecting(reactor, raw)
    turn_until(reactor, lambda: protocol.calls)
    accepted, _ = raw.accept()
    accepted.close()
    reactor.run()
    check_end(protocol, "connection_made eof_received connection_lost", written=0, received=0, fin_sent=True)


@TCP
@pytest.mark.parametrize("said", [b"", b"go away"])
def test_a_connection_that_is_accepted_and_reset_tells_the_reset(reactor, raw, said):
    """Scenario 34: the connect succeeded, so it is connection_made and then the error, after what the peer said."""
    raw.listen(1)
    protocol = connecting(reactor, raw)
    turn_until(reactor, lambda: protocol.calls)
    accepted, _ = raw.accept()
    accepted.send(said)
    reset(accepted)
    reactor.run()
    flow = "data_received " if said else ""
    calls = f"connection_made {flow}connection_lost"
    check_end(protocol, calls, ConnectionResetError, "failed", received=len(said), written=0)
    assert protocol.data == said


@TCP
def test_a_reset_that_overtakes_the_news_of_the_connect_is_told_as_its_failure(reactor, raw):
    """Scenario 34: when we look, the kernel knows only of the reset; one callback tells it, and it is the cause."""
    raw.listen(1)
    protocol = connecting(reactor, raw)
    turn(reactor, 1)
    accepted, _ = raw.accept()
    reset(accepted)
    reactor.run()
    assert protocol.calls == ["connection_failed"]
    assert [type(cause) for _, cause in protocol.failed.causes] == [ConnectionResetError]


@TCP
@pytest.mark.parametrize("said", [b"", b"never mind"])
def test_a_client_that_reset_in_our_accept_queue_is_one_short_connection(serve, said):
    """Scenario 35: accept succeeds (K14), getpeername would not; the protocol is told the reset, the next is served."""
    server = serve()
    gone = server.peer()
    name = gone.sock.getsockname()
    gone.sock.send(said)
    gone.reset()
    with server.peer() as peer:
        turn_until(server.reactor, lambda: len(server.protocols) == 2)
        first, second = server.protocols
        ended(first)
        flow = "data_received " if said else ""
        calls = f"connection_made {flow}connection_lost"
        check_end(first, calls, ConnectionResetError, "failed", received=len(said), written=0)
        assert first.connection.get_extra_info("peername") == name
        peer.fin()
        assert peer.read_to_end() == "EOF"
    ended(second)
    assert second.lost is None


@TCP
def test_a_listener_that_dies_with_us_in_its_queue_resets_us(reactor, raw):
    """Scenario 35: the other way round (K15): our connect had succeeded, nobody ever accepted it."""
    raw.listen(1)
    protocol = connecting(reactor, raw)
    turn_until(reactor, lambda: protocol.calls)
    raw.close()
    reactor.run()
    check_end(protocol, "connection_made connection_lost", ConnectionResetError, "failed", written=0, received=0)


def test_our_listener_that_closes_serves_who_is_in_its_queue(serve):
    """Scenario 35: none of ours is reset: the listener accepts until nobody waits, then leaves."""
    server = serve()
    peers = [server.peer() for _ in range(100)]
    with all_closed(*peers):
        server.listener.close()
        turn(server.reactor)
        assert len(server.protocols) == 100
        assert server.reactor.listeners == ()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            server.peer()
        for peer in peers:
            peer.fin()
            assert peer.read_to_end() == "EOF"
    ended(*server.protocols)
    for protocol in server.protocols:
        check_end(protocol, "connection_made eof_received connection_lost")


def test_a_connect_to_a_full_queue_ends_at_its_deadline(reactor, raw):
    """Scenario 32: a listener that never answers costs no more than the connect deadline; the cause says so."""
    raw.listen(0)
    fillers = [socket.socket(raw.family, socket.SOCK_STREAM) for _ in range(8)]
    with all_closed(*fillers):
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(raw.getsockname())
        began = reactor.time()
        protocol = connecting(reactor, raw, Options(deadlines=Deadlines(connect=0.05)))
        reactor.run()
        assert 0.05 <= reactor.time() - began < 5
    assert protocol.calls == ["connection_failed"]
    assert type(protocol.failed) is ConnectFailed
    assert type(protocol.failed.causes[-1][1]) is TimeoutError
