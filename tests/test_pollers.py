"""Descriptors that somebody else closed while a duplicate keeps them open, as a fork does: found, told, and no spin."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import socket

import pytest

from reactor import DatagramProtocol, Reactor
from reactor.pollers import INVALID, POLLERS, READ, WRITE
from tests.helpers import Server, all_closed, turn_until


@pytest.fixture
def duplicates():
    """`closed_but_kept(fd)` closes it behind the reactor's back; its duplicate lives until the test has ended."""
    kept = []

    def closed_but_kept(fd: int) -> None:
        kept.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200))  # far from the numbers that are given away next
        os.close(fd)

    yield closed_but_kept
    for fd in kept:
        os.close(fd)


def is_at_rest(reactor: Reactor) -> bool:
    """Whether nothing wakes it."""
    reactor.run_once(0)  # what was left to do
    return not reactor.poller.poll(0)


def test_a_connection_whose_descriptor_a_duplicate_keeps_open_is_found(reactor, duplicates):
    """It is told EBADF when the peer sends, and the bytes that wait for nobody do not keep the loop turning."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        duplicates(protocol.connection.get_extra_info("socket").fileno())
        peer.send(b"for nobody")
        turn_until(reactor, lambda: protocol.ended)
        assert protocol.lost.errno == errno.EBADF
        assert is_at_rest(reactor)
        other, second = server.connected()
        with other:
            other.send(b"alive")
            turn_until(reactor, lambda: second.data == b"alive")
            other.fin()
            turn_until(reactor, lambda: second.ended)


def test_a_number_that_comes_back_does_not_hear_of_what_a_duplicate_keeps_open(reactor, duplicates):
    """The new connection of that number is told of its own bytes only, and sleeps while the old one's wait."""
    server = Server(reactor)
    peer, protocol = server.connected()
    other = server.peer()
    with all_closed(peer, other):
        number = protocol.connection.get_extra_info("socket").fileno()
        duplicates(number)
        turn_until(reactor, lambda: len(server.protocols) == 2)
        second = server.protocols[1]
        assert second.connection.get_extra_info("socket").fileno() == number
        peer.send(b"for nobody")
        turn_until(reactor, lambda: protocol.ended)
        assert is_at_rest(reactor)
        other.send(b"mine")
        turn_until(reactor, lambda: second.data == b"mine")


@pytest.mark.logs_errors
def test_a_listener_whose_descriptor_a_duplicate_keeps_open_is_found(reactor, duplicates):
    """A caller waits in a queue that nobody asks any more; the loop sleeps."""
    server = Server(reactor)
    address = server.listener.addresses[0]
    with socket.socket() as caller:  # before its number could be the listener's
        duplicates(server.listener._doors[0].fd)
        caller.connect(address)
        turn_until(reactor, lambda: not reactor.listeners)
        assert is_at_rest(reactor)


class Ended(DatagramProtocol):
    """Remembers how."""

    lost: Exception | None = None

    def connection_lost(self, exc):
        self.lost = exc


def test_an_endpoint_whose_descriptor_a_duplicate_keeps_open_is_found(reactor, duplicates):
    """Its protocol is told EBADF when a datagram comes."""
    protocol = Ended()
    endpoint = reactor.datagram(lambda: protocol, local=("127.0.0.1", 0))
    assert is_at_rest(reactor)
    address = endpoint.get_extra_info("sockname")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # before its number could be the endpoint's
        duplicates(endpoint.get_extra_info("socket").fileno())
        sender.sendto(b"for nobody", address)
        turn_until(reactor, lambda: protocol.lost)
    assert protocol.lost.errno == errno.EBADF
    assert is_at_rest(reactor)


@pytest.mark.logs_errors
def test_a_watched_descriptor_that_a_duplicate_keeps_open_is_found_when_its_call_fails(reactor, duplicates, caplog):
    """The call's own error is logged, then what is behind it, and the call is made no more."""
    ours, theirs = socket.socketpair()
    number = ours.detach()
    with theirs:
        reactor.add_reader(number, os.read, number, 100)
        duplicates(number)
        theirs.send(b"for nobody")
        reactor.run()  # until there is nothing to wait for
    assert caplog.text.count("the call for <Descriptor") <= 1
    assert caplog.text.count("was closed while it was watched") == 1


@pytest.mark.logs_errors
def test_a_call_that_fails_for_another_reason_goes_on(reactor):
    """The descriptor is still there."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        calls = []

        def fail():
            calls.append(ours.recv(1))
            raise ValueError

        def fail_at_last():
            reactor.remove_reader(ours)
            raise ValueError

        reactor.add_reader(ours, fail)
        theirs.send(b"two")
        turn_until(reactor, lambda: len(calls) == 2)
        reactor.add_reader(ours, fail_at_last)
        reactor.run()


@pytest.fixture
def epoll():
    if "epoll" not in POLLERS:
        pytest.skip("no epoll here")
    poller = POLLERS["epoll"]()
    yield poller
    poller.close()


def test_who_waits_for_an_epoll_goes_on_waiting_for_the_same_descriptor(epoll, duplicates):
    """A host's loop has `fileno()` registered: beginning anew does not change it."""
    ours, theirs = socket.socketpair()
    gone, peer = socket.socketpair()
    with ours, theirs, peer, select.epoll() as host:
        host.register(epoll.fileno(), READ)
        number = gone.detach()
        epoll.register(number, READ)
        epoll.register(ours.fileno(), READ)
        duplicates(number)
        peer.send(b"x")
        assert host.poll(0) == [(epoll.fileno(), READ)]
        epoll.unregister(number)
        assert epoll.poll(0) == []
        assert host.poll(0) == []
        theirs.send(b"x")
        assert host.poll(1) == [(epoll.fileno(), READ)]
        assert epoll.poll(0) == [(ours.fileno(), READ)]


def test_beginning_anew_finds_the_others_that_are_gone_and_keeps_interests(epoll, duplicates):
    """One that was touched tells of one that was not; a changed interest and one of zero are as they were."""
    pairs = [socket.socketpair() for _ in range(4)]
    with all_closed(*(end for pair in pairs for end in pair)):
        touched, untouched, changed, resting = (pair[0] for pair in pairs)
        for sock in (touched, untouched, changed):
            epoll.register(sock.fileno(), READ)
        epoll.register(resting.fileno(), 0)
        epoll.modify(changed.fileno(), WRITE)
        numbers = touched.detach(), untouched.detach()
        for number in numbers:
            duplicates(number)
        with pytest.raises(OSError):
            epoll.modify(numbers[0], WRITE)
        for pair in pairs:
            pair[1].send(b"x")
        assert sorted(epoll.poll(0)) == sorted((number, INVALID) for number in numbers)
        for number in numbers:
            epoll.unregister(number)
        assert epoll.poll(0) == [(changed.fileno(), WRITE)]


def test_beginning_anew_waits_for_a_descriptor(epoll, duplicates):
    """While there is none, the old epoll goes on; nothing raises."""
    gone, peer = socket.socketpair()
    with peer:
        number = gone.detach()
        epoll.register(number, READ)
        duplicates(number)
        peer.send(b"x")
        epoll.unregister(number)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            assert epoll.poll(0) == [(number, READ)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert epoll.poll(0) == []
