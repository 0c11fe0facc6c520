"""Events that their handler does not make go away: a turn that achieves nothing, again and again, becomes a pause."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from reactor import Aborted, DatagramProtocol, Reactor
from reactor.system import System
from tests.closing.support import turns_in
from tests.helpers import Server, turn_until

# Half a second; a spin would turn thousands of times in it, a pause that doubles from 10 ms to 1 s a few dozen times.
SECONDS, MANY = 0.5, 60


class Refusing(System):
    """A kernel that refuses some calls for a while."""

    refuses: str | None = None

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def accept(self, listening):
        if self.refuses == "accept":
            raise OSError(self.number, os.strerror(self.number))
        return super().accept(listening)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ECONNABORTED, errno.ENETDOWN])
def test_accept_that_fails_for_every_caller_makes_the_listener_pause(poller, number, caplog):
    """A firewall's rule or a filter: no spin, one log line for each episode, and the callers are served afterwards."""
    system = Refusing(number)
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        for _ in range(2):
            caplog.clear()
            system.refuses = "accept"
            served = len(server.protocols)
            with server.peer() as peer:
                assert turns_in(reactor, SECONDS) < MANY
                assert [record.levelname for record in caplog.records] == ["WARNING"]
                assert os.strerror(number) in caplog.text
                system.refuses = None
                turn_until(reactor, lambda: len(server.protocols) > served)  # noqa: B023
                peer.send(b"hello")
                turn_until(reactor, lambda: server.protocols[-1].data == b"hello")


def test_a_listener_that_cannot_accept_can_be_closed(poller):
    """Nobody is let in for ever: closing does not wait for it."""
    system = Refusing(errno.EPERM)
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        system.refuses = "accept"
        with server.peer():
            turns_in(reactor, 0.05)
            server.listener.close()
            turn_until(reactor, lambda: not reactor.listeners)


# From linux/net_tstamp.h: a time stamp, in the error queue, when the peer has acknowledged what was sent.
SO_TIMESTAMPING, ACKNOWLEDGED, SOFTWARE, ONLY = 37, 1 << 9, 1 << 4, 1 << 11


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="this system has no queue of errors")
@pytest.mark.parametrize("paused", [False, True])
def test_an_error_queue_makes_no_spin(reactor, poller, paused):
    """Whoever made the socket asked for time stamps: the poller tells of an error for ever, unless they are taken."""
    if poller == "select":
        pytest.skip("select does not tell of errors")
    server = Server(reactor)
    peer, protocol = server.connected()
    sock = protocol.connection.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, ACKNOWLEDGED | SOFTWARE | ONLY)
    with peer:
        if paused:
            protocol.connection.pause_reading()
        protocol.connection.write(b"stamped")
        peer.read_until(7)
        assert turns_in(reactor, SECONDS) < MANY
        protocol.connection.resume_reading()
        peer.send(b"and it lives on")
        turn_until(reactor, lambda: protocol.data == b"and it lives on")
        peer.fin()
        turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is None


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="this system has no queue of errors")
def test_an_error_queue_does_not_hide_a_reset_from_a_paused_connection(reactor, poller):
    """A time stamp that was taken is no reason to leave the poller."""
    if poller == "select":
        pytest.skip("select does not tell of errors")
    server = Server(reactor)
    peer, protocol = server.connected()
    sock = protocol.connection.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, ACKNOWLEDGED | SOFTWARE | ONLY)
    protocol.connection.pause_reading()
    protocol.connection.write(b"stamped")
    peer.read_until(7)
    turns_in(reactor, 0.05)
    peer.reset()
    turn_until(reactor, lambda: protocol.ended, 5)
    assert isinstance(protocol.lost, ConnectionResetError)


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="this system has no queue of errors")
def test_a_writer_whose_writes_are_stamped_does_not_pause(reactor, poller, caplog):
    """Turn after turn a time stamp is taken: that is no event that comes to nothing."""
    if poller == "select":
        pytest.skip("select does not tell of errors")
    server = Server(reactor)
    peer, protocol = server.connected()
    sock = protocol.connection.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, ACKNOWLEDGED | SOFTWARE | ONLY)
    with peer:
        for size in range(1, 20):
            protocol.connection.write(b"s")
            peer.read_until(size)
            reactor.run_once(1)
    assert not caplog.records


class Starving:
    """A socket whose reads fail for want of memory, although there is something to read."""

    def __init__(self, sock) -> None:
        self.sock = sock
        self.starving = True

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def _want(self):
        if self.starving:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def recv(self, *arguments):
        self._want()
        return self.sock.recv(*arguments)

    def recvfrom(self, *arguments):
        self._want()
        return self.sock.recvfrom(*arguments)

    def send(self, *arguments):
        self._want()
        return self.sock.send(*arguments)

    def sendmsg(self, *arguments):
        self._want()
        return self.sock.sendmsg(*arguments)


class Wanting(System):
    """A kernel that has no memory for what accepted and bound sockets are asked."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Starving] = []

    def accept(self, listening):
        sock, address = super().accept(listening)
        self.made.append(Starving(sock))
        return self.made[-1], address

    def open_datagram(self, local, remote, options):
        self.made.append(Starving(super().open_datagram(local, remote, options)))
        return self.made[-1]

    def is_tcp(self, sock):
        return super().is_tcp(getattr(sock, "sock", sock))


@pytest.fixture
def reactor_of_want(poller):
    """A system that wants memory, and a reactor on it."""
    system = Wanting()
    with Reactor(poller=poller, system=system) as reactor:
        yield system, reactor


def test_reads_and_writes_that_come_to_nothing_pause(poller, caplog):
    """Readable and writable, and yet each call fails: no spin, one log line, and all of it goes on afterwards."""
    system = Wanting()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        peer, protocol = server.connected()
        with peer:
            protocol.connection.write(b"reply")
            peer.send(b"request")
            assert turns_in(reactor, SECONDS) < MANY
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            system.made[0].starving = False
            peer.read_until(5)
            turn_until(reactor, lambda: protocol.data == b"request")
            assert peer.data == b"reply"
            peer.fin()
            turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is None


def test_a_connection_that_pauses_can_be_ended(reactor_of_want):
    """Its end does not wait for the pause, and nothing of it comes back."""
    system, reactor = reactor_of_want
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        peer.send(b"request")
        turn_until(reactor, lambda: protocol.connection in reactor.resting)
        protocol.connection.abort()
        turn_until(reactor, lambda: protocol.ended)
        assert not reactor.resting
        assert not reactor.timers
        system.made[0].starving = False
        assert turns_in(reactor, 0.05) < MANY
    assert isinstance(protocol.lost, Aborted)


class Receiver(DatagramProtocol):
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.errors: list[Exception] = []

    def datagram_received(self, data, addr):
        self.received.append(data)

    def error_received(self, exc):
        self.errors.append(exc)


def test_datagrams_that_cannot_be_received_make_a_pause(poller, caplog):
    """The same for a datagram endpoint, which lives on and receives what waited."""
    system, receiver = Wanting(), Receiver()
    with Reactor(poller=poller, system=system) as reactor:
        endpoint = reactor.datagram(lambda: receiver, ("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"waits", endpoint.get_extra_info("sockname"))
            assert turns_in(reactor, SECONDS) < MANY
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            system.made[0].starving = False
            turn_until(reactor, lambda: receiver.received == [b"waits"])
    assert receiver.errors == []


def test_a_spurious_event_is_no_spin(caplog):
    """A read that finds nothing once in a while is asked again at once, without a word."""
    system = Wanting()
    with Reactor(system=system) as reactor:
        server = Server(reactor)
        peer, protocol = server.connected()
        with peer:
            for _ in range(10):
                peer.send(b"x")
                reactor.run_once(1)
                system.made[0].starving = False
                turn_until(reactor, lambda: protocol.data)
                protocol.data.clear()
                system.made[0].starving = True
    assert not caplog.records
