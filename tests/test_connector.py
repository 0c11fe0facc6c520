"""Connecting: one address after the other, one deadline, every cause told."""

from __future__ import annotations

import errno
import logging
import socket

import pytest

from reactor import ConnectFailed, Deadlines, Options, Reactor
from reactor.system import Address, System
from tests.helpers import Recorder, Server, turn_until


class Client(Recorder):
    made: list

    def __init__(self):
        super().__init__()
        Client.made.append(self)


@pytest.fixture(autouse=True)
def clients():
    Client.made = []
    return Client.made


def free_port() -> int:
    """A port at which nobody listens just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_client_talks_and_the_program_ends_by_itself(reactor, transport, tmp_path, clients):
    """connect, write, write_eof, the reply, the end: run() then returns."""

    class Reverser(Recorder):
        def eof_received(self):
            super().eof_received()
            self.connection.write(bytes(reversed(self.data)))

    server = Server(reactor, Reverser, transport, str(tmp_path / "socket"))
    if transport == "unix":
        connector = reactor.connect(Client, path=server.address)
    else:
        connector = reactor.connect(Client, *server.address[:2])
    assert clients == []
    turn_until(reactor, lambda: clients and clients[0].calls)
    (client,) = clients
    assert connector.done()
    client.connection.write(b"abc")
    client.connection.write_eof()
    server.listener.close()
    reactor.run()
    assert client.data == b"cba"
    assert client.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert client.lost is None
    assert server.protocols[0].lost is None


def test_a_name_is_resolved_off_the_loop(reactor, clients):
    """`localhost` is asked for in a thread; the address that refuses is passed over for the one that answers."""
    server = Server(reactor)
    reactor.connect(Client, "localhost", server.address[1])
    turn_until(reactor, lambda: clients and clients[0].calls)
    assert clients[0].calls == ["connection_made"]


def test_a_refused_connect_tells_the_cause(reactor, clients):
    """connection_failed alone, with the address and the kernel's reason."""
    port = free_port()
    reactor.connect(Client, "127.0.0.1", port)
    reactor.run()
    (client,) = clients
    assert client.calls == ["connection_failed"]
    assert isinstance(client.failed, ConnectFailed)
    assert str(client.failed) == f"cannot connect to 127.0.0.1:{port}: Connection refused"
    ((address, cause),) = client.failed.causes
    assert str(address) == f"127.0.0.1:{port}"
    assert cause.errno == errno.ECONNREFUSED


def test_a_missing_socket_file_tells_the_cause(reactor, tmp_path, clients):
    """A Unix path that is not there."""
    reactor.connect(Client, path=tmp_path / "none")
    reactor.run()
    assert clients[0].failed.causes[0][1].errno == errno.ENOENT


def test_a_name_without_an_address_tells_the_cause(reactor, clients):
    """The resolver's words are passed on."""
    reactor.connect(Client, "host.invalid", 80)
    reactor.run()
    assert "cannot resolve 'host.invalid'" in str(clients[0].failed)


class Map(System):
    """A machine whose names mean what the test says."""

    addresses: tuple = ()

    def resolve(self, host, port):
        return [Address(socket.AF_INET, address) for address in self.addresses]


def test_each_address_is_tried_and_every_cause_told(poller, clients):
    """A name with two dead addresses gives both causes, in order; with a third that lives, a connection."""
    dead = [("127.0.0.1", free_port()), ("127.0.0.2", free_port())]
    with Reactor(poller=poller, system=Map()) as reactor:
        reactor.system.addresses = tuple(dead)
        reactor.connect(Client, "name", 1)
        reactor.run()
        assert [address.sockaddr for address, _ in clients[0].failed.causes] == dead
        server = Server(reactor)
        reactor.system.addresses = (*dead, server.address)
        reactor.connect(Client, "name", 1)
        turn_until(reactor, lambda: len(clients) == 2 and clients[1].calls == ["connection_made"])


def test_a_name_that_resolves_to_nothing_fails_in_words(poller, clients):
    """No address is a cause as well."""
    with Reactor(poller=poller, system=Map()) as reactor:
        reactor.connect(Client, "name", 1)
        reactor.run()
        assert "it has no address" in str(clients[0].failed)


class Deaf(System):
    """A machine whose connects get no answer."""

    def start_connect(self, address, options):
        ours, self.other = socket.socketpair()
        ours.setblocking(False)
        # Fill it, so that it does not become writable.
        try:
            while True:
                ours.send(bytes(65536))
        except BlockingIOError:
            return ours


def test_no_answer_meets_the_connect_deadline(poller, clients):
    """TimeoutError is the cause; no descriptor stays."""
    system = Deaf()
    with Reactor(poller=poller, system=system) as reactor:
        reactor.connect(Client, "127.0.0.1", 1, options=Options(deadlines=Deadlines(connect=0.05)))
        reactor.run()
        system.other.close()
        assert isinstance(clients[0].failed.causes[-1][1], TimeoutError)
        assert "connect deadline of 0.05 s" in str(clients[0].failed)


@pytest.mark.parametrize("when", ["at once", "under way"])
def test_a_cancelled_connect_tells_nothing(poller, clients, when):
    """No protocol is made, run() returns, no descriptor stays."""
    system = Deaf()
    with Reactor(poller=poller, system=system) as reactor:
        connector = reactor.connect(Client, "127.0.0.1", 1)
        if when == "under way":
            reactor.run_once(0)
            reactor.run_once(0)
            assert reactor.connectors == (connector,)
        connector.cancel()
        connector.cancel()
        assert connector.done()
        reactor.run()
        if when == "under way":
            system.other.close()
    assert clients == []


def test_cancelling_after_success_does_nothing(reactor, clients):
    """The connection is the protocol's by then."""
    server = Server(reactor)
    connector = reactor.connect(Client, *server.address)
    turn_until(reactor, lambda: clients and clients[0].calls)
    connector.cancel()
    assert clients[0].connection.report.how == "OPEN"


def test_closing_the_reactor_gives_up_silently(poller, clients):
    """A connect under way ends with its reactor."""
    system = Deaf()
    reactor = Reactor(poller=poller, system=system)
    reactor.connect(Client, "127.0.0.1", 1)
    reactor.run_once(0)
    reactor.run_once(0)
    reactor.close()
    system.other.close()
    assert clients == []


@pytest.mark.logs_errors
def test_a_client_factory_that_raises_is_logged_and_the_socket_closed(reactor, caplog):
    """The server sees a reset, not a silent client."""
    server = Server(reactor)

    def fail():
        raise RuntimeError("on purpose")

    reactor.connect(fail, *server.address)
    turn_until(reactor, lambda: server.protocols and server.protocols[0].ended)
    assert isinstance(server.protocols[0].lost, ConnectionResetError)
    assert "on purpose" in caplog.text


def test_a_failure_is_logged_when_the_protocol_does_not_care(reactor, caplog):
    """The default connection_failed, and an asyncio.Protocol, which has none, log a warning."""
    import asyncio

    from reactor import Protocol

    for factory in (Protocol, asyncio.Protocol):
        caplog.clear()
        reactor.connect(factory, "127.0.0.1", free_port())
        reactor.run()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "Connection refused" in record.message


def test_a_connected_socket_can_be_given(reactor, clients):
    """A socketpair's end becomes a connection; a datagram socket does not."""
    ours, theirs = socket.socketpair()
    with theirs:
        reactor.connect(Client, sock=ours)
        turn_until(reactor, lambda: clients and clients[0].calls)
        theirs.send(b"hello")
        turn_until(reactor, lambda: clients[0].data == b"hello")
        clients[0].connection.close()
        theirs.shutdown(socket.SHUT_WR)
        reactor.run()
        assert clients[0].lost is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, pytest.raises(ValueError, match="stream socket"):
        reactor.connect(Client, sock=datagram)
    with socket.socket() as lonely, pytest.raises(OSError):
        reactor.connect(Client, sock=lonely)


def test_a_full_unix_queue_is_asked_again(poller, tmp_path, clients):
    """EAGAIN from a Unix connect cannot be polled for; the connect is tried until there is room."""
    path = str(tmp_path / "socket")
    with Reactor(poller=poller) as reactor, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        fillers = []
        while True:
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            fillers.append(filler)
            if filler.connect_ex(path):
                break
        reactor.connect(Client, path=path)
        reactor.run_once(0)
        reactor.run_once(0.02)
        assert clients == []
        accepted = [listening.accept()[0]]
        turn_until(reactor, lambda: clients and clients[0].calls == ["connection_made"])
        clients[0].connection.abort()
        for sock in fillers + accepted:
            sock.close()


def test_a_connection_to_oneself_is_no_connection():
    """A free port picked as the source may be the target's: that is a refusal, not a peer."""
    port = free_port()
    sock = socket.socket()
    with sock:
        sock.bind(("127.0.0.1", port))
        sock.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError, match="connected to itself"):
            System().finish_connect(sock)
