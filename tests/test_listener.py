"""Listening: addresses, files, given sockets, limits, famine, and an end that resets nobody."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from reactor import Deadlines, Keepalive, Limits, Options, Protocol, Reactor, Sockets
from reactor.addresses import Address
from reactor.system import System
from tests.closing.support import Clock
from tests.helpers import Peer, Recorder, Server, turn_until


def test_port_0_picks_one_and_every_address_of_a_name_has_it(reactor):
    """`localhost` may mean v4 and v6; the addresses are told, and stay told after the end."""
    listener = reactor.listen(Recorder, "localhost", 0)
    ports = {address[1] for address in listener.addresses}
    assert len(ports) == 1
    assert 0 not in ports
    listener.close()
    reactor.run()
    assert {address[1] for address in listener.addresses} == ports


def test_no_host_listens_on_v4_and_v6(reactor):
    """One dual-stack socket serves both families."""
    server = reactor.listen(Recorder, port=0)
    port = server.addresses[0][1]
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port)):
            turn_until(reactor, lambda: reactor.connections)
        turn_until(reactor, lambda: not reactor.connections)


def test_the_socket_file_is_removed_at_the_end_and_a_stale_one_replaced(reactor, tmp_path):
    """A dead server's file does not stand in the way; ours does not stay."""
    path = tmp_path / "socket"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    assert path.exists()
    listener = reactor.listen(Recorder, path=path)
    assert listener.addresses == (str(path),)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        turn_until(reactor, lambda: reactor.connections)
    listener.close()
    turn_until(reactor, lambda: not reactor.listeners)
    assert not path.exists()


def test_a_live_servers_socket_file_is_left_alone(reactor, tmp_path):
    """EADDRINUSE names the path, and the other server goes on."""
    path = str(tmp_path / "socket")
    first = reactor.listen(Recorder, path=path)
    with pytest.raises(OSError, match=r"cannot listen on .*socket") as caught:
        reactor.listen(Recorder, path=path)
    assert caught.value.errno == errno.EADDRINUSE
    assert os.path.exists(path)
    first.close()


def test_a_file_that_is_no_socket_is_left_alone(reactor, tmp_path):
    """What is not a socket is not replaced."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="cannot listen"):
        reactor.listen(Recorder, path=path)
    assert path.read_text() == "data"


def test_another_servers_file_at_our_path_is_not_removed(reactor, tmp_path):
    """Only the very file that was made here goes."""
    path = tmp_path / "socket"
    listener = reactor.listen(Recorder, path=path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listener.close()
        turn_until(reactor, lambda: not reactor.listeners)
        assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of port, path and sock, not none of them"),
        ({"port": 1, "path": "x"}, "not port and path"),
        ({"host": "127.0.0.1"}, "not none of them"),
        ({"host": "127.0.0.1", "path": "x"}, "a host only together with a port"),
        ({"host": "127.0.0.1", "port": 65536}, "from 0 to 65535, not 65536"),
        ({"host": "127.0.0.1", "port": "80"}, "from 0 to 65535, not '80'"),
        ({"host": "127.0.0.1", "port": True}, "from 0 to 65535"),
    ],
)
def test_what_cannot_be_meant_is_refused(reactor, arguments, message):
    """ValueError says what was asked; nothing is left open."""
    with pytest.raises(ValueError, match=message):
        reactor.listen(Recorder, **arguments)
    with pytest.raises(ValueError, match=r"exactly one|a host only|from 0 to"):
        reactor.connect(Recorder, **arguments)


def test_options_of_another_type_are_refused(reactor):
    """A dictionary is no Options."""
    with pytest.raises(TypeError, match=r"must be a reactor\.Options"):
        reactor.listen(Recorder, "127.0.0.1", 0, options={})


def test_an_address_that_cannot_be_had_is_named(reactor):
    """The OSError keeps its errno and says which address."""
    taken = reactor.listen(Recorder, "127.0.0.1", 0)
    port = taken.addresses[0][1]
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
        reactor.listen(Recorder, "127.0.0.1", port)
    with pytest.raises(OSError, match="cannot resolve 'no such host'"):
        reactor.listen(Recorder, "no such host", 0)


def test_a_given_socket_is_served(reactor):
    """Bound is enough; it listens from then on."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    listener = reactor.listen(Recorder, sock=bound)
    with socket.create_connection(listener.addresses[0]):
        turn_until(reactor, lambda: reactor.connections)
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with datagram, pytest.raises(OSError, match="not a stream socket"):
        reactor.listen(Recorder, sock=datagram)


def test_sockets_passed_by_a_service_manager_are_found_with_their_names(tmp_path):
    """LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, as sd_listen_fds(3) has them."""
    script = textwrap.dedent(
        """
        import os, socket
        listening = socket.create_server(("127.0.0.1", 0))
        os.dup2(listening.fileno(), 3)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
        from reactor.system import System
        (name, sock), = System().listen_fds()
        assert name == "web" and sock.getsockname() == listening.getsockname()
        assert not os.get_inheritable(3)
        os.environ["LISTEN_PID"] = "1"
        assert System().listen_fds() == []
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_accepted_sockets_have_the_options_of_their_listener(reactor):
    """TCP_NODELAY by default; keepalive and the user timeout where asked for."""
    options = Options(
        sockets=Sockets(keepalive=Keepalive(idle=11, interval=3, count=2), user_timeout=4.5, receive_buffer_bytes=9000)
    )
    server = Server(reactor, options=options)
    peer, protocol = server.connected()
    with peer:
        sock = protocol.connection.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 9000
        if sys.platform == "linux":
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 11
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 3
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 2
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4500


def test_no_more_connections_than_allowed_and_the_others_wait(reactor):
    """At the limit callers stay in the kernel's queue; each end lets one in."""
    server = Server(reactor, options=Options(limits=Limits(connections=2)))
    peers = [server.peer() for _ in range(5)]
    served = []
    while peers:
        turn_until(reactor, lambda: len(server.protocols) == min(5, len(served) + 2))
        for _ in range(3):
            reactor.run_once(0)
        assert len(server.protocols) == min(5, len(served) + 2)
        assert server.listener.connections <= 2
        peer = peers.pop(0)
        peer.close()
        served.append(peer)
    turn_until(reactor, lambda: len(server.protocols) == 5 and all(p.ended for p in server.protocols))


def test_a_batch_leaves_the_rest_for_the_next_turn(reactor):
    """A burst of callers does not starve the others of a turn."""
    server = Server(reactor, options=Options(limits=Limits(accepts_per_turn=2)))
    peers = [server.peer() for _ in range(5)]
    reactor.run_once(0)
    reactor.run_once(1)
    assert len(server.protocols) <= 4
    turn_until(reactor, lambda: len(server.protocols) == 5)
    for peer in peers:
        peer.close()


@pytest.mark.logs_errors
def test_a_factory_that_raises_resets_that_caller_and_serves_the_next(reactor, caplog):
    """Logged with its traceback; the listener lives on."""
    failing = [True]

    def make():
        if failing.pop():
            raise RuntimeError("on purpose")
        return Recorder()

    server = Server(reactor, make)
    with server.peer() as first:
        assert first.read_to_end() == "reset"
    failing.append(False)
    with server.peer():
        turn_until(reactor, lambda: server.protocols)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["on purpose"]


def test_closing_lets_in_who_waits_and_refuses_who_comes_later(reactor):
    """Nobody in the accept queue is reset (K15); afterwards nobody listens."""
    server = Server(reactor)
    waiting = [server.peer() for _ in range(10)]
    server.listener.close()
    server.listener.close()
    assert server.listener.is_closing()
    turn_until(reactor, lambda: len(server.protocols) == 10 and not reactor.listeners)
    with pytest.raises(ConnectionRefusedError):
        server.peer()
    for peer, protocol in zip(waiting, server.protocols, strict=True):
        protocol.connection.close()
        assert peer.read_to_end() == "EOF"
        peer.close()
    reactor.run()


class Famished(System):
    """A machine whose accept fails as it is told to: an errno for each call to come, 0 for one that does not fail."""

    def __init__(self):
        super().__init__()
        self.failures = []
        self.accepts = 0

    def accept(self, listening):
        self.accepts += 1
        if self.failures and (number := self.failures.pop(0)):
            raise OSError(number, "told to fail")
        return super().accept(listening)


class FamishedByClock(Famished, Clock):
    """The same, and time passes only when the test says so."""


def test_an_error_of_one_caller_goes_on_with_the_next(poller):
    """ECONNABORTED and its like tell of one connection, not of the listener."""
    system = Famished()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        system.failures = [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN]
        with server.peer():
            reactor.run_once(5)
            assert len(server.protocols) == 1


@pytest.mark.parametrize("shortage", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_shortage_is_waited_out_with_a_back_off_and_one_warning(poller, shortage, caplog):
    """Nobody is refused, the loop does not spin, and the log is not flooded."""
    system = FamishedByClock()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        system.failures = [shortage] * 4
        with server.peer(), server.peer():
            system.skip(reactor, 0.010 + 0.020 + 0.040 + 0.079, step=0.001)
            assert server.protocols == []
            system.skip(reactor, 0.010, step=0.001)
            assert len(server.protocols) == 2
            assert system.accepts <= 4 + 3
    assert [
        record.message for record in caplog.records if record.levelno == logging.WARNING and "pauses" in record.message
    ]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_the_last_descriptor_is_no_famine_while_nobody_waits_for_another(poller, caplog):
    """accept(2) wants a descriptor before it looks whether anybody is there: nothing is told or tried again."""
    system = FamishedByClock()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        peer, _ = server.connected()
        with peer, server.peer():
            system.failures = [0, errno.EMFILE]
            turn_until(reactor, lambda: len(server.protocols) == 2)
            accepts = system.accepts
            system.skip(reactor, 5, step=1)
            assert (system.accepts, reactor.statistics().timers) == (accepts, 0)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_freed_descriptor_ends_the_wait_and_what_lingers_gives_way(poller):
    """In a famine the oldest lingering connection is let go, and the next caller is served at once."""
    system = Famished()
    longer_than_we_wait = Options(deadlines=Deadlines(linger_grace=600, linger_silence=600, linger_total=600))
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor, options=longer_than_we_wait)
        lingering, first = server.connected()
        first.connection.close()
        system.failures = [errno.EMFILE]
        with lingering, server.peer():
            turn_until(reactor, lambda: len(server.protocols) == 2)
            assert first.ended
            assert first.lost is None


def test_closing_in_a_famine_still_lets_in_who_waits(poller):
    """The listener leaves only when its queue is empty."""
    system = Famished()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        with server.peer():
            system.failures = [errno.EMFILE] * 3
            server.listener.close()
            turn_until(reactor, lambda: len(server.protocols) == 1 and not reactor.listeners)


@pytest.mark.logs_errors
def test_an_error_of_the_listening_socket_itself_ends_it_loudly(poller, caplog):
    """EBADF or EINVAL would come back for ever; it is told once."""
    system = Famished()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        system.failures = [errno.EINVAL]
        with server.peer() as peer:
            turn_until(reactor, lambda: not reactor.listeners)
            assert peer.read_to_end() == "reset"
        assert "cannot accept any more" in caplog.text


def test_an_abstract_socket_is_served(reactor):
    """Linux's names without a file."""
    if sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    name = f"\0reactor-test-{os.getpid()}"
    reactor.listen(Protocol, path=name)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
        turn_until(reactor, lambda: reactor.connections)
        with Peer(client, reactor) as peer:
            peer.fin()
            assert peer.read_to_end() == "EOF"


class Unpollable:
    """A poller that has no room for one more."""

    def __init__(self, poller):
        self._poller = poller
        self.full = False

    def register(self, fd, interest):
        if self.full:
            raise OSError(errno.ENOSPC, "no room")
        self._poller.register(fd, interest)

    def __getattr__(self, name):
        return getattr(self._poller, name)


@pytest.mark.logs_errors
def test_a_socket_that_cannot_be_polled_is_not_left_open(poller):
    """listen() raises, connect() tells, and nothing stays behind."""
    with Reactor(poller=poller) as reactor:
        server = Server(reactor)
        reactor.poller = Unpollable(reactor.poller)
        reactor.poller.full = True
        with pytest.raises(OSError, match="no room"):
            reactor.listen(Recorder, "127.0.0.1", 0)
        client = Recorder()
        reactor.connect(lambda: client, *server.address)
        turn_until(reactor, lambda: client.failed)
        assert "no room" in str(client.failed)
        assert reactor.listeners == (server.listener,)


@pytest.mark.logs_errors
def test_a_caller_who_cannot_be_polled_is_reset_and_told_to_nobody(poller, caplog):
    """No protocol is told of a connection that cannot be served; the log says why."""
    with Reactor(poller=poller) as reactor:
        server = Server(reactor)
        reactor.poller = Unpollable(reactor.poller)
        reactor.poller.full = True
        with server.peer() as peer:
            assert peer.read_to_end() == "reset"
            assert server.protocols == []
        assert "no room" in caplog.text


def test_a_listener_that_fills_up_in_a_famine_serves_on(poller):
    """The end of a famine at the limit of connections does not leave it deaf."""
    system = Famished()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor, options=Options(limits=Limits(connections=2)))
        system.failures = [errno.EMFILE]
        peers = [server.peer() for _ in range(3)]
        turn_until(reactor, lambda: len(server.protocols) == 2)
        for peer in peers[:2]:
            peer.close()
        turn_until(reactor, lambda: len(server.protocols) == 3)
        peers[2].close()


def test_a_listener_closed_in_a_famine_ends_when_its_queue_was_full(poller):
    """A full backlog is let in, and run() returns."""
    system = Famished()
    with Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor, options=Options(limits=Limits(backlog=1)))
        system.failures = [errno.EMFILE]
        peers = [server.peer(), server.peer()]
        reactor.run_once(1)
        server.listener.close()
        turn_until(reactor, lambda: not reactor.listeners and len(server.protocols) == 2)
        for peer in peers:
            peer.close()


@pytest.mark.logs_errors
def test_a_listening_descriptor_closed_behind_our_back_harms_nobody_else(reactor):
    """Who got its number is not closed in its place; the listener is over, and connections end as they should."""
    server = Server(reactor)
    peer, protocol = server.connected()
    number = server.listener._doors[0].fd
    os.close(number)
    ours, theirs = socket.socketpair()
    with theirs, peer:
        assert number in (ours.fileno(), theirs.fileno())
        client = Recorder()
        given, other = (ours, theirs) if ours.fileno() == number else (theirs, ours)
        reactor.connect(lambda: client, sock=given)
        turn_until(reactor, lambda: client.calls)
        other.send(b"alive")
        turn_until(reactor, lambda: client.data == b"alive")
        assert reactor.listeners == ()
        peer.fin()
        turn_until(reactor, lambda: protocol.ended)
        client.connection.abort()
        other.close()


@pytest.mark.logs_errors
def test_an_error_on_one_address_while_closing_leaves_none_open(reactor, monkeypatch):
    """Each address is given up once, whatever accept says there."""

    class Two(type(reactor.system)):
        def resolve(self, host, port):
            return [Address(socket.AF_INET, (f"127.0.0.{number}", port)) for number in (1, 2)]

    monkeypatch.setattr(reactor, "system", Two())
    listener = reactor.listen(Recorder, "two.example", 0)
    listener._doors[0].sock.shutdown(socket.SHUT_RDWR)  # from now on accept fails
    listener.close()
    for _ in range(3):
        reactor.run_once(0)
    assert reactor.listeners == ()
