"""Descriptors that somebody else closed, and whose numbers mean other files now: never closed, read or written."""

from __future__ import annotations

import os
import socket
import tempfile
import threading

import pytest

from reactor import DatagramProtocol, Limits, Options, Reactor
from reactor.pollers import POLLERS
from tests.helpers import Recorder, Server, turn_until

PRECIOUS = b"precious"


class Victims:
    """Files that got the numbers of descriptors which somebody closed."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, tuple[int, int]]] = []

    def take(self, number: int) -> None:
        """Closes the number and opens a file there, as one does who closes twice."""
        with tempfile.TemporaryFile() as file:
            file.write(PRECIOUS)
            file.flush()
            os.dup2(file.fileno(), number)
        self.taken.append((number, self._file(number)))

    @staticmethod
    def _file(number: int) -> tuple[int, int]:
        found = os.fstat(number)
        return found.st_dev, found.st_ino

    def check(self) -> None:
        """Each is open, and holds what it held."""
        for number, file in self.taken:
            assert self._file(number) == file
            assert os.pread(number, 100, 0) == PRECIOUS

    def close(self) -> None:
        for number, file in self.taken:
            if self._file(number) == file:
                os.close(number)


@pytest.fixture
def victims(no_descriptor_left):
    made = Victims()
    yield made
    made.check()
    made.close()


def fd_of(connection) -> int:
    return connection.get_extra_info("socket").fileno()


# Connections


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
@pytest.mark.parametrize("end", ["abort", "close", "write_eof", "write", "send_file", "raise", "reactor.close"])
@pytest.mark.logs_errors
def test_a_connections_end_leaves_the_file_that_has_its_number(poller, transport, tmp_path, end, paused, victims):
    """Whatever ends it, and whether or not the poller watches for input."""
    reactor = Reactor(poller=poller)
    server = Server(reactor, Recorder, transport, str(tmp_path / "socket"))
    peer, protocol = server.connected()
    with peer, reactor, tempfile.TemporaryFile() as part:
        part.write(b"part")
        part.flush()
        connection = protocol.connection
        if paused:
            connection.pause_reading()
        victims.take(fd_of(connection))
        if end == "write":
            connection.write(b"hello")
        elif end == "send_file":
            connection.send_file(part)
        elif end == "raise":
            connection.call_soon(lambda: 1 / 0)
        elif end != "reactor.close":
            getattr(connection, end)()
        if end != "reactor.close":
            reactor.run_once(0)
            reactor.run_once(0)
            connection.abort()
            turn_until(reactor, lambda: protocol.ended)
            assert protocol.lost is not None
        victims.check()


@pytest.mark.parametrize("name", [name for name in POLLERS if name != "select"])
def test_one_that_left_the_poller_at_a_hang_up_is_found(name, victims, tmp_path):
    """Both sides are shut and reading is paused, so no poller watches it: what its number means is remembered."""
    with Reactor(poller=name) as reactor:
        server = Server(reactor, lambda: Recorder(keep_open=True), "unix", str(tmp_path / "socket"))
        peer, protocol = server.connected()
        with peer:
            protocol.connection.pause_reading()
            peer.send(b"unread")
            protocol.connection.write_eof()
            reactor.run_once(0)
            peer.close()
            turn_until(reactor, lambda: protocol.connection._interest is None)
            victims.take(fd_of(protocol.connection))
            protocol.connection.resume_reading()
            turn_until(reactor, lambda: protocol.ended)
        assert isinstance(protocol.lost, OSError)


@pytest.mark.logs_errors
def test_one_that_was_accepted_and_has_not_begun_is_found(reactor, victims):
    """No protocol is made for it; the file that has the number is not watched."""
    server = Server(reactor)
    lost = []
    accept = server.listener.accept

    def accept_and_lose(door):
        accept(door)
        for connection in reactor.connections:
            lost.append(connection)
            victims.take(fd_of(connection))

    server.listener.accept = accept_and_lose
    with server.peer():
        turn_until(reactor, lambda: lost and not reactor.connections)
    assert server.protocols == []


def test_what_is_no_socket_any_more_is_told_as_closed_by_somebody_else(reactor, victims):
    """A write to a number that is a file by now: EBADF, and the file has nothing of it."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.pause_reading()
        victims.take(fd_of(protocol.connection))
        protocol.connection.write(b"hello")
        turn_until(reactor, lambda: protocol.ended)
    assert "closed by somebody else" in str(protocol.lost)


def test_a_part_of_a_file_that_somebody_closed_is_not_sent(reactor, victims):
    """Nor is the file that has its number, neither sent nor closed: the connection is reset with FileUnusable."""
    server = Server(reactor)
    peer, protocol = server.connected(receive_buffer=4096)
    with peer, tempfile.TemporaryFile() as file:
        file.truncate(10_000_000)
        protocol.connection.send_file(file)
        reactor.run_once(0)
        (part,) = protocol.connection._queue._chunks
        victims.take(part.fd)
        assert peer.read_to_end() == "reset"
        turn_until(reactor, lambda: protocol.ended)
    assert PRECIOUS not in peer.data
    assert "closed by somebody" in str(protocol.lost)


# Other ends


class Endpoint(DatagramProtocol):
    lost: Exception | str | None = "not yet"

    def connection_lost(self, exc):
        self.lost = exc


@pytest.mark.parametrize("end", ["abort", "close", "sendto", "reactor.close"])
def test_an_endpoints_end_leaves_the_file_that_has_its_number(poller, end, victims):
    """A datagram endpoint, too."""
    reactor = Reactor(poller=poller)
    protocol = Endpoint()
    with reactor:
        endpoint = reactor.datagram(lambda: protocol, local=("127.0.0.1", 0))
        reactor.run_once(0)
        victims.take(fd_of(endpoint))
        if end == "sendto":
            endpoint.sendto(b"hello", ("127.0.0.1", 9))
        elif end != "reactor.close":
            getattr(endpoint, end)()
        if end != "reactor.close":
            turn_until(reactor, lambda: protocol.lost != "not yet")
    victims.check()


def test_an_endpoint_that_has_not_begun_is_found(reactor, victims, caplog):
    """It ends, and the file that has its number is not watched."""
    protocol = Endpoint()
    endpoint = reactor.datagram(lambda: protocol, local=("127.0.0.1", 0))
    victims.take(fd_of(endpoint))
    turn_until(reactor, lambda: not reactor.datagrams)
    assert "closed by somebody else" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("resting", [False, True], ids=["watched", "resting"])
@pytest.mark.parametrize("end", ["close", "reactor.close"])
@pytest.mark.logs_errors
def test_a_listeners_end_leaves_the_file_that_has_its_number(poller, end, resting, victims):
    """Also while it rests, because it has as many connections as it may have."""
    reactor = Reactor(poller=poller)
    options = Options(limits=Limits(connections=1 if resting else None))
    server = Server(reactor, options=options)
    peer, _ = server.connected()
    with peer, reactor:
        (door,) = server.listener._doors
        assert door.registered != resting
        victims.take(door.fd)
        if end == "close":
            server.listener.close()
            turn_until(reactor, lambda: not reactor.listeners)
    victims.check()


def test_a_listener_that_lost_its_number_to_another_listener_accepts_none_of_its_callers(reactor, caplog):
    """Closing it serves who waits: not those of somebody else."""
    server = Server(reactor, options=Options(limits=Limits(connections=1)))
    peer, _ = server.connected()
    with peer, socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()):
        (door,) = server.listener._doors
        os.dup2(other.fileno(), door.fd)
        server.listener.close()
        turn_until(reactor, lambda: not reactor.listeners)
        os.close(door.fd)
        other.settimeout(5)
        other.accept()[0].close()  # the caller is still there
        assert len(server.protocols) == 1
    assert "was closed by somebody else" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("end", ["cancel", "reactor.close", "wait"])
def test_a_connects_end_leaves_the_file_that_has_its_number(poller, end, victims):
    """While it is under way (nobody accepts, and the queue is full), or decided."""
    protocol = Recorder()
    with socket.socket() as full, socket.socket() as first, Reactor(poller=poller) as reactor:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        connector = reactor.connect(lambda: protocol, *full.getsockname())
        turn_until(reactor, lambda: connector._attempts)
        (attempt,) = connector._attempts.values()
        victims.take(attempt._fd)
        if end == "cancel":
            connector.cancel()
            reactor.run_once(0)
        elif end == "wait" and poller == "poll":
            turn_until(reactor, lambda: protocol.failed)
    victims.check()


def test_an_adopted_socket_that_is_lost_before_it_begins_is_found(reactor, victims, caplog):
    """The connect is given up."""
    ours, theirs = socket.socketpair()
    protocol = Recorder()
    with theirs:
        reactor.connect(lambda: protocol, sock=ours)
        victims.take(ours.fileno())
        turn_until(reactor, lambda: protocol.failed)
    caplog.clear()


@pytest.mark.parametrize("which", ["_ours", "_theirs"])
def test_closing_a_reactor_leaves_the_files_that_have_its_wakers_numbers(poller, which, victims):
    """The waker's own descriptors are no exception."""
    reactor = Reactor(poller=poller)
    victims.take(getattr(reactor.waker, which).fileno())
    reactor.close()


@pytest.mark.parametrize("embedded", [False, True])
def test_closing_a_reactor_leaves_the_file_that_has_its_epolls_number(embedded, victims):
    """Nor the epoll's; and dropping it does not close it either."""
    reactor = Reactor(poller="epoll")
    if embedded:
        reactor.fileno()
    victims.take(reactor.poller._epoll.fileno())
    reactor.close()
    del reactor
    victims.check()


# Numbers that are the reactor's again


class Watching:
    """Two descriptors that are readable in one batch, and what is called for them."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.pipes = [os.pipe(), os.pipe()]
        self.calls: list[int] = []
        for reader, writer in self.pipes:
            reactor.add_reader(reader, self.called, reader)
            os.write(writer, b"x")

    def called(self, number: int) -> None:
        self.calls.append(number)

    def close(self) -> None:
        for number in {number for pipe in self.pipes for number in pipe}:
            self.reactor.remove_reader(number)
            os.close(number)


@pytest.mark.parametrize("replaced", ["removed first", "watched anew", "sides changed"])
def test_an_event_is_not_given_to_who_has_the_number_now(reactor, replaced):
    """The call for one descriptor closes the other, and an empty pipe gets its number: nothing is there to read."""
    watching = Watching(reactor)
    served = []

    def replace(me: int, other: int):
        if served:
            return
        served.append(me)
        other_pipe = watching.pipes[other]
        if replaced == "removed first":
            reactor.remove_reader(other_pipe[0])
        new = os.pipe()
        os.dup2(new[0], other_pipe[0])
        os.close(new[0])
        os.close(other_pipe[1])
        watching.pipes[other] = (other_pipe[0], new[1])
        if replaced == "sides changed":
            reactor.add_writer(other_pipe[0], lambda: None)
            reactor.remove_writer(other_pipe[0])
        reactor.add_reader(other_pipe[0], watching.called, other_pipe[0])

    one, two = (pipe[0] for pipe in watching.pipes)
    # Whichever comes first in the batch does it.
    reactor.add_reader(one, replace, 0, 1)
    reactor.add_reader(two, replace, 1, 0)
    reactor.run_once(0)
    assert len(served) == 1
    assert watching.calls == []
    os.write(watching.pipes[1 - served[0]][1], b"y")
    turn_until(reactor, lambda: watching.calls)
    watching.close()


@pytest.mark.parametrize("adopted", [False, True], ids=["watched", "connected"])
def test_an_event_is_not_given_to_a_new_connection_with_the_number(reactor, adopted):
    """A connection that begins in the middle of a batch gets none of its events, whatever number it has."""
    watching = Watching(reactor)
    protocol = Recorder()
    ends = []

    def replace(me: int, other: int):
        reactor.remove_reader(watching.pipes[me][0])
        if ends:
            return
        number = watching.pipes[other][0]
        reactor.remove_reader(number)
        ours, theirs = socket.socketpair()
        os.dup2(ours.fileno(), number)
        ours.close()
        ends.extend((number, theirs))
        sock = socket.socket(fileno=number)
        if adopted:
            reactor.connect(lambda: protocol, sock=sock)
        else:
            sock.detach()
            reactor.add_reader(number, watching.called, number)

    one, two = (pipe[0] for pipe in watching.pipes)
    reactor.add_reader(one, replace, 0, 1)
    reactor.add_reader(two, replace, 1, 0)
    reactor.run_once(0)
    assert watching.calls == []
    number, theirs = ends
    theirs.close()
    if adopted:
        turn_until(reactor, lambda: protocol.ended)
        assert protocol.lost is None
        assert protocol.data == b""
    else:
        turn_until(reactor, lambda: watching.calls)
        reactor.remove_reader(number)
        os.close(number)
    for pipe in watching.pipes:
        for end in pipe:
            if end != number:
                os.close(end)


def test_a_batch_is_passed_by_only_where_it_was_told_of_the_number(reactor):
    """What is accepted in a batch keeps none of the others waiting."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        peer.sock.send(b"hello")
        with server.peer():
            turn_until(reactor, lambda: protocol.data == b"hello" and len(server.protocols) == 2)


def test_a_callback_that_fails_in_the_middle_of_a_batch_leaves_no_batch_behind(reactor):
    """KeyboardInterrupt leaves run(); what is admitted afterwards is served."""
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def interrupt():
            ours.recv(1)
            raise KeyboardInterrupt

        reactor.add_reader(ours, interrupt)
        theirs.send(b"x")
        with pytest.raises(KeyboardInterrupt):
            reactor.run_once(1)
        reactor.remove_reader(ours)
        told = threading.Event()
        reactor.add_reader(ours, told.set)
        theirs.send(b"y")
        turn_until(reactor, told.is_set)
        reactor.remove_reader(ours)


def test_a_new_connection_with_the_number_of_a_lost_one_is_served(reactor):
    """Ending the lost one afterwards leaves it alone."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        os.close(fd_of(protocol.connection))
        other, second = server.connected()
        with other:
            other.send(b"mine")
            turn_until(reactor, lambda: second.data == b"mine")
            turn_until(reactor, lambda: protocol.ended or fd_of(second.connection) >= 0)
            protocol.connection.abort()
            turn_until(reactor, lambda: protocol.ended)
            other.send(b" too")
            turn_until(reactor, lambda: second.data == b"mine too")
