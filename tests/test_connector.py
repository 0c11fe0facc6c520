"""Connecting: addresses raced, one deadline, every cause told."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import threading

import pytest

from reactor import ConnectFailed, Deadlines, Options, Reactor
from reactor.addresses import Address
from reactor.system import System
from tests.closing.support import Clock
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
    """A machine whose connects get no answer until the test gives it: a port is a road, `answer(port)` opens it."""

    def __init__(self):
        super().__init__()
        self.others = {}
        self.sockets = {}

    def resolve(self, host, port):
        return [Address(socket.AF_INET, ("127.0.0.1", int(road))) for road in host.removeprefix("roads-").split("-")]

    def start_connect(self, address, options, source=None):
        ours, self.other = socket.socketpair()
        self.sockets[address.sockaddr[1]] = ours
        self.others[address.sockaddr[1]] = self.other
        ours.setblocking(False)
        # Fill it, so that it does not become writable.
        try:
            while True:
                ours.send(bytes(65536))
        except BlockingIOError:
            return ours

    def answer(self, road):
        """The connect succeeds."""
        other = self.others[road]
        other.setblocking(False)
        try:
            while other.recv(65536):
                pass
        except BlockingIOError:
            pass

    def refuse(self, road):
        """The connect fails: a Unix socket's peer that closes with data unread is a reset."""
        self.others.pop(road).close()

    def closed(self, road):
        """Whether our side has released its descriptor."""
        return self.sockets[road].fileno() < 0

    def hang_up(self):
        for other in self.others.values():
            other.close()


class DeafByClock(Deaf, Clock):
    """The same, and time passes only when the test says so."""


@pytest.fixture
def deaf():
    system = Deaf()
    yield system
    system.hang_up()


@pytest.fixture
def deaf_by_clock():
    system = DeafByClock()
    yield system
    system.hang_up()


HASTY = Options(deadlines=Deadlines(attempt=0.01))


def under_way(reactor, system, count):
    """A connect to so many addresses: the attempts have all begun, and have no answer."""
    name = "roads-" + "-".join(str(road) for road in range(1, count + 1))
    connector = reactor.connect(Client, name, 1, options=HASTY)
    turn_until(reactor, lambda: len(system.others) == count)
    return connector


def test_no_answer_meets_the_connect_deadline(poller, deaf, clients):
    """TimeoutError is the cause; no descriptor stays."""
    with Reactor(poller=poller, system=deaf) as reactor:
        reactor.connect(Client, "127.0.0.1", 1, options=Options(deadlines=Deadlines(connect=0.05)))
        reactor.run()
        assert deaf.closed(1)
        ((address, cause),) = clients[0].failed.causes
        assert address.sockaddr == ("127.0.0.1", 1)
        assert isinstance(cause, TimeoutError)
        assert "connect deadline of 0.05 s" in str(clients[0].failed)


def test_the_deadline_is_the_cause_of_every_attempt_under_way(poller, deaf_by_clock, clients):
    """Whoever failed before has its own cause, which is told first."""
    deaf = deaf_by_clock
    with Reactor(poller=poller, system=deaf) as reactor:
        reactor.connect(Client, "roads-1-2-3", 1, options=Options(deadlines=Deadlines(attempt=1, connect=10)))
        turn_until(reactor, lambda: deaf.others)
        deaf.skip(reactor, 2)
        deaf.refuse(2)
        deaf.skip(reactor, 8)
        causes = [(address.sockaddr[1], type(cause)) for address, cause in clients[0].failed.causes]
        assert causes == [(2, ConnectionResetError), (1, TimeoutError), (3, TimeoutError)]
        assert deaf.closed(1)
        assert deaf.closed(2)
        assert deaf.closed(3)


def test_a_resolver_that_does_not_answer_meets_the_connect_deadline(poller, clients):
    """The deadline counts from the call; the name is what the cause is told of."""
    asked = threading.Event()

    class Mute(System):
        def resolve(self, host, port):
            asked.wait(20)
            return []

    with Reactor(poller=poller, system=Mute()) as reactor:
        reactor.connect(Client, "name", 1, options=Options(deadlines=Deadlines(connect=0.02)))
        reactor.run()
        asked.set()
        ((where, cause),) = clients[0].failed.causes
        assert where == "name:1"
        assert isinstance(cause, TimeoutError)


@pytest.mark.parametrize("winner", [1, 2, 3])
def test_the_first_to_answer_wins_and_the_others_are_closed_in_the_same_turn(poller, deaf, clients, winner):
    """Whichever it is: one protocol, and not a descriptor more than its own."""
    with Reactor(poller=poller, system=deaf) as reactor:
        connector = under_way(reactor, deaf, 3)
        deaf.answer(winner)
        reactor.run_once()
        assert [deaf.closed(road) for road in (1, 2, 3)] == [road != winner for road in (1, 2, 3)]
        assert connector.done()
        assert reactor.connectors == ()
        (client,) = clients
        assert client.calls == ["connection_made"]
        assert client.connection.get_extra_info("peername") == ("127.0.0.1", winner)
        assert reactor.connections == (client.connection,)
        assert reactor.statistics().timers == 0
        client.connection.abort()
        reactor.run()


def test_a_failure_starts_the_next_attempt_at_once(poller, deaf):
    """In the same turn, whatever the delay; the attempt before it runs on."""
    with Reactor(poller=poller, system=deaf) as reactor:
        connector = reactor.connect(Client, "roads-1-2-3", 1, options=Options(deadlines=Deadlines(attempt=2.0)))
        turn_until(reactor, lambda: 1 in deaf.others)
        deaf.refuse(1)
        reactor.run_once()
        assert list(deaf.others) == [2]
        assert deaf.closed(1)
        connector.cancel()


def test_causes_come_in_the_order_of_failing(poller, deaf, clients):
    """Not in the order of starting."""
    with Reactor(poller=poller, system=deaf) as reactor:
        under_way(reactor, deaf, 3)
        for road in (2, 3, 1):
            deaf.refuse(road)
            turn_until(reactor, lambda road=road: deaf.closed(road))
        reactor.run()
        assert [address.sockaddr[1] for address, _ in clients[0].failed.causes] == [2, 3, 1]
        assert all(isinstance(cause, ConnectionResetError) for _, cause in clients[0].failed.causes)


@pytest.mark.parametrize("tls", [None, ssl.create_default_context()], ids=["plain", "tls"])
def test_a_failure_and_a_success_in_one_turn_are_a_success(poller, deaf_by_clock, clients, tls):
    """Nobody else is tried, nothing is told twice; with TLS, the handshake begins."""
    deaf = deaf_by_clock
    with Reactor(poller=poller, system=deaf) as reactor:
        connector = reactor.connect(Client, "roads-1-2-3", 1, options=HASTY, tls=tls)
        turn_until(reactor, lambda: deaf.others)
        deaf.skip(reactor, 0.01)
        assert list(deaf.others) == [1, 2]
        deaf.refuse(1)
        deaf.answer(2)
        for _ in range(3):
            reactor.run_once(0.02)
        assert list(deaf.others) == [2]
        assert deaf.closed(1)
        if tls is None:
            assert [client.calls for client in clients] == [["connection_made"]]
            clients[0].connection.abort()
        else:
            assert deaf.others[2].recv(2) == b"\x16\x03"  # a handshake record (RFC 8446, 5.1)
            assert not connector.done()
            connector.cancel()
        reactor.run()
    assert len(clients) == (tls is None)


@pytest.mark.parametrize("when", ["at once", "under way", "racing"])
def test_a_cancelled_connect_tells_nothing(poller, deaf, clients, when):
    """No protocol is made, run() returns, no descriptor stays, however many attempts there were."""
    with Reactor(poller=poller, system=deaf) as reactor:
        if when == "at once":
            connector = reactor.connect(Client, "127.0.0.1", 1)
        else:
            connector = under_way(reactor, deaf, {"under way": 1, "racing": 3}[when])
            assert reactor.connectors == (connector,)
        connector.cancel()
        connector.cancel()
        assert connector.done()
        reactor.run()
        assert all(deaf.closed(road) for road in deaf.sockets)
    assert clients == []


def test_a_cancelled_attempt_that_has_an_answer_is_passed_by(poller, deaf, clients):
    """An earlier event of the batch cancels; the answers behind it are heard by nobody."""
    with Reactor(poller=poller, system=deaf) as reactor:
        ours, theirs = socket.socketpair()
        reactor.add_reader(ours, lambda: connector.cancel())
        connector = under_way(reactor, deaf, 2)
        theirs.send(b"!")
        deaf.answer(1)
        deaf.answer(2)
        turn_until(reactor, connector.done)
        reactor.remove_reader(ours)
        reactor.run()
        ours.close()
        theirs.close()
    assert clients == []
    assert deaf.closed(1)
    assert deaf.closed(2)


def test_an_attempt_whose_descriptor_somebody_closed_has_failed(poller, deaf_by_clock, clients):
    """When its number is given away anew the next attempt has it; nothing of another's is closed (R14)."""
    deaf = deaf_by_clock
    with Reactor(poller=poller, system=deaf) as reactor:
        reactor.connect(Client, "roads-1-2", 1, options=HASTY)
        turn_until(reactor, lambda: deaf.others)
        assert list(deaf.others) == [1]
        number = deaf.sockets[1].fileno()
        os.close(number)
        deaf.skip(reactor, 0.01)
        assert deaf.sockets[2].fileno() == number
        deaf.answer(2)
        turn_until(reactor, lambda: clients)
        assert clients[0].calls == ["connection_made"]
        assert deaf.sockets[1].fileno() < 0
        os.fstat(number)
        clients[0].connection.abort()
        reactor.run()


@pytest.mark.parametrize(("host", "source"), [("127.0.0.1", "127.0.0.3"), ("::1", "::1")])
def test_a_source_address_is_connected_from(poller, clients, host, source):
    """The server sees the address and the port that were asked for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((source, 0), family=family) as server:
        port = server.getsockname()[1]
    with Reactor(poller=poller) as reactor, socket.create_server((host, 0), family=family) as listening:
        reactor.connect(Client, host, listening.getsockname()[1], source=(source, port))
        turn_until(reactor, lambda: clients and clients[0].calls)
        accepted, peername = listening.accept()
        accepted.close()
        assert peername[:2] == (source, port)
        assert clients[0].connection.get_extra_info("sockname")[:2] == (source, port)
        clients[0].connection.abort()
        reactor.run()


def test_a_source_address_that_is_not_ours_is_the_cause(reactor, clients):
    """The kernel's reason is told for the address that was tried."""
    reactor.connect(Client, "127.0.0.1", free_port(), source=("192.0.2.1", 0))
    reactor.run()
    assert [cause.errno for _, cause in clients[0].failed.causes] == [errno.EADDRNOTAVAIL]


@pytest.mark.parametrize("end", ["connection_made", "connection_failed"])
def test_the_first_to_be_told_cancels_the_others(reactor, end):
    """Although all of them were decided in one turn: nothing comes after cancel(), and nothing is left open."""
    server = Server(reactor)
    target = server.address if end == "connection_made" else ("127.0.0.1", free_port())
    told, connectors = [], []

    class First(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            self.told("connection_made")

        def connection_failed(self, exc):
            self.told("connection_failed")

        def told(self, what):
            told.append((self, what))
            for connector in connectors:
                connector.cancel()

    connectors += [reactor.connect(First, *target) for _ in range(5)]
    turn_until(reactor, lambda: told)
    assert all(connector.done() for connector in connectors)
    assert reactor.connectors == ()
    if end == "connection_made":
        # The others were connected, perhaps: a plain close, and no protocol here.
        turn_until(reactor, lambda: all(protocol.ended for protocol in server.protocols[1:]))
        assert all(protocol.lost is None for protocol in server.protocols[1:])
        told[0][0].connection.abort()
    server.listener.close()
    reactor.run()
    assert [what for _, what in told] == [end]


@pytest.mark.parametrize("kind", ["plain", "tls", "given", "name", "failed"])
@pytest.mark.parametrize("turns", range(6))
def test_nothing_comes_after_cancel_whenever_it_is(poller, kind, turns):
    """After each number of turns: either the factory was called before, or it never is; and run() returns."""
    with Reactor(poller=poller) as reactor, socket.create_server(("127.0.0.1", 0)) as server:
        made = []

        def make():
            made.append(Recorder())
            return made[-1]

        port = server.getsockname()[1]
        if kind == "given":
            connector = reactor.connect(make, sock=socket.create_connection(("127.0.0.1", port)))
        elif kind == "failed":
            connector = reactor.connect(make, "127.0.0.1", free_port())
        else:
            tls = ssl.create_default_context() if kind == "tls" else None
            connector = reactor.connect(make, "localhost" if kind == "name" else "127.0.0.1", port, tls=tls)
        for _ in range(turns):
            reactor.run_once(0)
        before = len(made)
        assert connector.done() == bool(before)
        connector.cancel()
        assert connector.done()
        for connection in reactor.connections:
            if before:
                connection.abort()
        reactor.run()
        assert len(made) == before


def test_a_cancelled_connection_is_closed_plainly(poller, clients):
    """It was decided, and not told yet. Nothing was written to it: its peer sees an end, not a reset."""
    with Reactor(poller=poller) as reactor, socket.create_server(("127.0.0.1", 0)) as server:
        connector = reactor.connect(Client, sock=socket.create_connection(server.getsockname()))
        reactor.run_once(0)
        assert len(reactor.connections) == 1
        connector.cancel()
        reactor.run()
        with server.accept()[0] as accepted:
            assert accepted.recv(1) == b""
    assert clients == []


def test_cancelling_after_success_does_nothing(reactor, clients):
    """The connection is the protocol's by then."""
    server = Server(reactor)
    connector = reactor.connect(Client, *server.address)
    turn_until(reactor, lambda: clients and clients[0].calls)
    connector.cancel()
    assert clients[0].connection.report.how == "OPEN"


def test_closing_the_reactor_gives_up_silently(poller, deaf, clients):
    """A connect under way ends with its reactor, with every attempt that it has."""
    reactor = Reactor(poller=poller, system=deaf)
    connector = under_way(reactor, deaf, 2)
    reactor.close()
    assert connector.done()
    assert deaf.closed(1)
    assert deaf.closed(2)
    assert clients == []


def test_closing_the_reactor_closes_a_socket_just_given(poller, clients):
    """It belonged to the reactor already, though no protocol had it yet."""
    reactor = Reactor(poller=poller)
    ours, theirs = socket.socketpair()
    with theirs:
        connector = reactor.connect(Client, sock=ours)
        reactor.close()
        assert connector.done()
        assert ours.fileno() < 0
        assert theirs.recv(1) == b""
    assert clients == []


def test_a_given_socket_that_somebody_closes_has_failed(reactor, clients):
    """Its number is another connect's before its turn comes: the cause is told, the other keeps its descriptor."""
    server = Server(reactor)
    ours, theirs = socket.socketpair()
    with theirs:
        reactor.connect(Client, *server.address)
        reactor.connect(Client, sock=ours)
        os.close(ours.fileno())
        turn_until(reactor, lambda: len(clients) == 2 and all(client.calls for client in clients))
        failed, made = sorted(clients, key=lambda client: client.calls)
        assert failed.calls == ["connection_failed"]
        assert [cause.errno for _, cause in failed.failed.causes] == [errno.EBADF]
        assert ours.fileno() < 0
        assert made.calls == ["connection_made"]
        turn_until(reactor, lambda: server.protocols)
        server.protocols[0].connection.write(b"hello")
        turn_until(reactor, lambda: made.data == b"hello")
        made.connection.abort()


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
