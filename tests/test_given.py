"""Sockets made elsewhere: their options cannot change what our promises mean; what is no plain socket is refused."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import sys

import pytest

from reactor import DatagramProtocol, Keepalive, Options, Protocol, Reactor, Sockets
from reactor.given import TABLE
from tests.closing.support import REPLY, Scripted
from tests.helpers import Peer, Recorder, turn_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the table has Linux's numbers")

# What each option is set to by whoever made the socket.
VALUES = {
    "SO_LINGER": struct.pack("ii", 1, 0),
    "SO_RCVLOWAT": 100,
    "SO_TIMESTAMPING": 0x12,  # SOF_TIMESTAMPING_TX_SOFTWARE, SOF_TIMESTAMPING_SOFTWARE
    "SO_RCVTIMEO": struct.pack("ll", 1, 0),
    "SO_SNDTIMEO": struct.pack("ll", 1, 0),
    "TCP_LINGER2": -1,
    "TCP_NOTSENT_LOWAT": 16384,
    "TCP_USER_TIMEOUT": 9000,
    "SO_BUSY_POLL": 0,
    "UDP_SEGMENT": 500,
}
ROWS = {row.name: row for row in TABLE}
STREAM = [row.name for row in TABLE if not row.name.startswith(("UDP", "IPV6"))]
STREAM6 = ["IP_RECVERR", "IPV6_RECVERR"]
DATAGRAM = [row.name for row in TABLE if not row.name.startswith(("TCP", "IPV6")) and row.name != "SO_ZEROCOPY"]


def set_option(sock: socket.socket, name: str) -> object:
    """Sets it as its owner would; returns what the kernel then says."""
    try:
        sock.setsockopt(ROWS[name].level, ROWS[name].number, VALUES.get(name, 1))
    except OSError as exc:
        sock.close()
        pytest.skip(f"this kernel does not set {name}: {exc}")
    return value_of(sock, name)


def value_of(sock: socket.socket, name: str) -> object:
    row = ROWS[name]
    value = VALUES.get(name, 1)
    return sock.getsockopt(row.level, row.number, *([len(value)] if isinstance(value, bytes) else []))


def check_option(sock: socket.socket, name: str, owners: object) -> None:
    """As the table says: switched off, or kept."""
    if ROWS[name].value is None:
        assert value_of(sock, name) == owners
    elif name == "TCP_LINGER2":
        assert value_of(sock, name) > 0  # 0 sets the system's default
    else:
        assert value_of(sock, name) == ROWS[name].value


def test_the_table_says_why():
    """A reason for each option, and each of them once."""
    assert all(row.why for row in TABLE)
    assert len(ROWS) == len(TABLE)


@pytest.mark.parametrize(
    ("family", "name"), [(socket.AF_INET, n) for n in STREAM] + [(socket.AF_INET6, n) for n in STREAM6]
)
def test_a_given_stream_socket_has_the_options_of_the_table(reactor, family, name):
    """A listening one, those accepted from it, and a connected one; and then it serves."""
    listening = socket.create_server(("127.0.0.1" if family == socket.AF_INET else "::1", 0), family=family)
    owners = set_option(listening, name)
    server, client = Recorder(keep_open=True), Recorder()
    listener = reactor.listen(lambda: server, sock=listening)
    check_option(listening, name, owners)
    sock = socket.create_connection(listener.addresses[0][:2])
    owners = value_of(sock, name) if name in ("TCP_DEFER_ACCEPT", "TCP_FASTOPEN") else set_option(sock, name)
    reactor.connect(lambda: client, sock=sock)
    check_option(sock, name, owners)
    turn_until(reactor, lambda: client.calls)
    client.connection.write(b"!")
    turn_until(reactor, lambda: server.data == b"!")
    accepted = server.connection.get_extra_info("socket")
    if ROWS[name].value is not None:
        check_option(accepted, name, owners)
    server.connection.write(b"hello")
    turn_until(reactor, lambda: client.data == b"hello")
    server.connection.close()
    turn_until(reactor, lambda: client.ended)
    assert client.lost is None


@pytest.mark.parametrize("name", DATAGRAM)
def test_a_given_datagram_socket_has_the_options_of_the_table(reactor, name):
    """And then sends one datagram for each call, and receives one by one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    owners = set_option(sock, name)

    class Endpoint(DatagramProtocol):
        received: list = []

        def datagram_received(self, data, addr):
            self.received.append(len(data))

    Endpoint.received = []
    endpoint = reactor.datagram(Endpoint, sock=sock)
    check_option(sock, name, owners)
    other = reactor.datagram(Endpoint, ("127.0.0.1", 0))
    endpoint.sendto(bytes(700), other.get_extra_info("sockname"))
    other.sendto(bytes(10), endpoint.get_extra_info("sockname"))
    other.sendto(bytes(10), endpoint.get_extra_info("sockname"))
    turn_until(reactor, lambda: len(Endpoint.received) >= 3)
    assert sorted(Endpoint.received) == [10, 10, 700]


def test_an_error_queue_is_emptied(reactor):
    """What an ICMP message left there would wake the loop for ever."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(0, 11, 1)  # IP_RECVERR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = nobody.getsockname()
    sock.sendto(b"x", address)

    poll = select.poll()
    poll.register(sock, 0)
    turn_until(reactor, lambda: poll.poll(0))
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # which is an error by itself, and told once
    assert poll.poll(0) == [(sock.fileno(), select.POLLERR)]
    endpoint = reactor.datagram(DatagramProtocol, sock=sock)
    assert poll.poll(0) == []
    endpoint.abort()


def test_a_reply_is_whole_although_the_listeners_socket_was_to_reset(reactor):
    """SO_LINGER with no time, inherited by each accepted socket, would throw the unsent part away."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server = Scripted(eof_received=lambda connection: (connection.write(REPLY), connection.close()))
    reactor.listen(lambda: server, sock=listening)
    with Peer(socket.create_connection(listening.getsockname()), reactor) as peer:
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == REPLY
    turn_until(reactor, lambda: server.ended)
    assert server.lost is None


def test_the_options_asked_for_hold_for_a_given_socket_too(reactor):
    """Connected, or for datagrams: they were ignored once."""
    wanted = Options(sockets=Sockets(keepalive=Keepalive(idle=77), user_timeout=5))
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        client = Recorder()
        reactor.connect(lambda: client, sock=sock, options=wanted)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
        turn_until(reactor, lambda: client.calls)
        client.connection.abort()
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reactor.datagram(DatagramProtocol, sock=endpoint, options=Options(sockets=Sockets(receive_buffer_bytes=20_000)))
    assert endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 40_000  # the kernel doubles it (socket(7))


@pytest.mark.parametrize("call", ["listen", "connect", "datagram"])
def test_a_tls_socket_is_refused_at_once(reactor, call):
    """It would do its own reading; the error says what to give instead. What is no socket at all is refused, too."""
    context = ssl.create_default_context()
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, server_hostname="name", do_handshake_on_connect=False) as secure:
        timeout = secure.gettimeout()
        with pytest.raises(TypeError, match=r"no TLS socket as sock .*: give a plain socket, and an SSLContext as tls"):
            getattr(reactor, call)(Protocol, sock=secure)
        assert secure.gettimeout() == timeout
    for other in (7, "socket", context):
        with pytest.raises(TypeError, match=r"takes a socket\.socket as sock"):
            getattr(reactor, call)(Protocol, sock=other)


def test_an_option_that_the_kernel_refuses_is_named():
    """With its value, where it was asked for."""

    class Strict(socket.socket):
        def setsockopt(self, level, option, *value):
            if (level, option) == (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE):
                raise OSError(22, os.strerror(22))
            super().setsockopt(level, option, *value)

    wanted = Options(sockets=Sockets(keepalive=Keepalive(idle=77)))
    with (
        Reactor() as reactor,
        Strict(socket.AF_INET, socket.SOCK_STREAM) as sock,
        pytest.raises(OSError, match=r"cannot listen on .*: Keepalive\.idle cannot be 77: "),
    ):
        reactor.listen(Protocol, sock=sock, options=wanted)


def test_a_short_user_timeout_is_not_rounded_to_none(reactor):
    """Zero would mean the kernel's quarter of an hour."""
    wanted = Options(sockets=Sockets(user_timeout=0.0004))
    sock = socket.socket()
    reactor.listen(Protocol, sock=sock, options=wanted)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1
