"""What TLS does by itself: key updates that a peer asks for without end, and renegotiation (TLS 1.2).

Python's `ssl` can ask for neither, so the peer here is the OpenSSL library that the interpreter itself has loaded.
"""

from __future__ import annotations

import ctypes
import select
import socket
import ssl
import threading

import pytest

from reactor import Deadlines, FlushTimeout, Options, Reactor, Watermarks
from reactor.options import Sockets
from tests.closing.support import Clock, Scripted
from tests.helpers import Recorder, turn_until
from tests.test_tls import TLSServer, authority, client_context

_SSL_RECEIVED_SHUTDOWN = 2
_KEY_UPDATE_REQUESTED = 1


def load_openssl() -> ctypes.CDLL | None:
    """The OpenSSL that this interpreter uses; None where its library cannot be called apart."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = {line.split()[-1] for line in maps if "libssl.so" in line}
        library = ctypes.CDLL(paths.pop())
    except (OSError, KeyError):
        return None
    for name in ("TLS_client_method", "TLS_server_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


OPENSSL = load_openssl()
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="OpenSSL's library cannot be called apart from Python's ssl")


class Native:
    """A blocking TLS peer made of OpenSSL's own calls."""

    def __init__(self, sock: socket.socket, pem: str | None = None) -> None:
        assert OPENSSL is not None
        self.sock = sock
        sock.settimeout(20)
        method = OPENSSL.TLS_client_method() if pem is None else OPENSSL.TLS_server_method()
        self._context = ctypes.c_void_p(OPENSSL.SSL_CTX_new(ctypes.c_void_p(method)))
        if pem is not None:
            assert OPENSSL.SSL_CTX_use_certificate_chain_file(self._context, pem.encode()) == 1
            assert OPENSSL.SSL_CTX_use_PrivateKey_file(self._context, pem.encode(), 1) == 1
        self._tls = ctypes.c_void_p(OPENSSL.SSL_new(self._context))
        sock.setblocking(True)
        OPENSSL.SSL_set_fd(self._tls, sock.fileno())

    def call(self, name: str, *arguments: object) -> int:
        return int(getattr(OPENSSL, name)(self._tls, *arguments))

    def read(self, most: int = 1000) -> bytes:
        room = ctypes.create_string_buffer(most)
        count = self.call("SSL_read", room, most)
        return room.raw[: max(0, count)]

    def close(self) -> None:
        assert OPENSSL is not None
        OPENSSL.SSL_free(self._tls)
        OPENSSL.SSL_CTX_free(self._context)
        self.sock.close()


# Key updates


def test_a_flood_of_key_updates_is_bounded_and_counted(reactor):
    """A peer asks for key updates and reads nothing: what waits for it counts, and stays bounded."""
    high = 16 * 1024
    options = Options(watermarks=Watermarks(high=high), sockets=Sockets(send_buffer_bytes=4096))
    server = TLSServer(reactor, ssl.TLSVersion.TLSv1_3, Recorder, options)
    asked, stop, sock = [], threading.Event(), server.peer(receive_buffer=4096).sock

    def flood() -> None:
        peer = Native(sock)
        assert peer.call("SSL_connect") == 1
        # Until the reactor reads no more: then the send blocks, and the reset at the end fails it.
        while not stop.is_set() and peer.call("SSL_key_update", _KEY_UPDATE_REQUESTED) == 1:
            if peer.call("SSL_do_handshake") != 1:
                break
            asked.append(1)
        peer.close()

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    turn_until(reactor, lambda: server.protocols and hasattr(server.protocols[0], "connection"))
    (protocol,) = server.protocols
    connection = protocol.connection
    turn_until(reactor, lambda: connection.get_write_buffer_size() > high)
    most = 0
    for _ in range(200):
        reactor.run_once(0.001)
        most = max(most, connection.get_write_buffer_size())
    # One read more may be answered than the watermark lets through: a request has 27 bytes on the wire, as its answer.
    assert high < most <= high + Options().limits.read_bytes + 16 * 1024
    assert protocol.calls == ["connection_made", "pause_writing"]
    stop.set()
    connection.abort()
    turn_until(reactor, lambda: protocol.ended)
    thread.join(20)
    assert not thread.is_alive()
    assert len(asked) > 1000


def test_after_a_flood_the_connection_lives_on(reactor):
    """When the peer has read the answers at last, what it says is delivered, and what it is told arrives."""
    server = TLSServer(reactor, ssl.TLSVersion.TLSv1_3, Recorder, Options(watermarks=Watermarks(high=1024)))
    sock, seen = socket.create_connection(server.address), []

    def converse() -> None:
        peer = Native(sock)
        assert peer.call("SSL_connect") == 1
        for _ in range(2000):
            assert peer.call("SSL_key_update", _KEY_UPDATE_REQUESTED) == 1
            assert peer.call("SSL_do_handshake") == 1
        assert peer.call("SSL_write", b"question", 8) == 8
        seen.append(peer.read())
        peer.close()

    thread = threading.Thread(target=converse, daemon=True)
    thread.start()
    turn_until(reactor, lambda: server.protocols and server.protocols[0].data == b"question")
    server.protocols[0].connection.write(b"answer")
    turn_until(reactor, lambda: seen)
    thread.join(20)
    assert seen == [b"answer"]


# Renegotiation


@pytest.fixture
def renegotiating(tmp_path):
    """`renegotiating(while_it_waits)` is a TLS 1.2 server that asks for a new handshake, waits, and then reads."""
    pem = str(tmp_path / "pem")
    authority().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    listening = socket.create_server(("127.0.0.1", 0))
    go_on, seen, threads = threading.Event(), [], []

    def serve() -> None:
        sock = listening.accept()[0]
        peer = Native(sock, pem)
        assert peer.call("SSL_accept") == 1
        assert peer.call("SSL_renegotiate") == 1
        peer.call("SSL_do_handshake")  # the HelloRequest
        go_on.wait(20)
        while data := peer.read():
            seen.append(data)
        seen.append(bool(peer.call("SSL_get_shutdown") & _SSL_RECEIVED_SHUTDOWN))
        peer.call("SSL_shutdown")
        peer.close()

    def start():
        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return listening.getsockname()[1], go_on, seen

    yield start
    go_on.set()
    for thread in threads:
        thread.join(20)
    listening.close()


@pytest.mark.parametrize("how", ["write", "close", "write and close", "write and write_eof"])
def test_what_is_written_or_ended_during_a_renegotiation_waits_for_it(reactor, renegotiating, how):
    """The data arrives, and close_notify behind it: OpenSSL has to read before it can write or end."""
    port, go_on, seen = renegotiating()
    context = client_context(ssl.TLSVersion.TLSv1_2)
    client = Recorder()
    reactor.connect(lambda: client, "localhost", port, tls=context)
    turn_until(reactor, lambda: "connection_made" in client.calls)
    connection = client.connection
    # The HelloRequest has come when this side has answered it: a ClientHello.
    turn_until(reactor, lambda: connection._secure.heard > 0)
    if "write" in how.split():
        connection.write(b"question")
    if "close" in how:
        connection.close()
    elif "write_eof" in how:
        connection.write_eof()
    for _ in range(20):
        reactor.run_once(0)
    assert not client.ended
    assert seen == []
    go_on.set()
    if how == "write":
        turn_until(reactor, lambda: seen)
        connection.close()
    turn_until(reactor, lambda: client.ended)
    assert client.lost is None
    turn_until(reactor, lambda: seen and isinstance(seen[-1], bool))
    assert seen == ([b"question"] if "write" in how.split() else []) + [True]


def test_a_writer_that_paused_during_a_renegotiation_is_told_to_resume(reactor, renegotiating):
    """Everything that waited leaves at once when it is over, and `resume_writing` comes all the same."""
    port, go_on, seen = renegotiating()
    client = Recorder()
    options = Options(watermarks=Watermarks(high=1000))
    reactor.connect(lambda: client, "localhost", port, tls=client_context(ssl.TLSVersion.TLSv1_2), options=options)
    turn_until(reactor, lambda: "connection_made" in client.calls)
    turn_until(reactor, lambda: client.connection._secure.heard > 0)
    client.connection.write(b"x" * 2000)
    turn_until(reactor, lambda: "pause_writing" in client.calls)
    go_on.set()
    turn_until(reactor, lambda: sum(map(len, seen)) == 2000)
    turn_until(reactor, lambda: "resume_writing" in client.calls, 5)
    client.connection.close()
    turn_until(reactor, lambda: client.ended)
    assert client.lost is None


def test_a_renegotiation_that_never_goes_on_ends_at_the_flush_deadline(poller, renegotiating):
    """`close` waits for it, but not for ever: a reset, and the reason says so."""
    port, _, _ = renegotiating()
    clock, client = Clock(), Recorder()
    with Reactor(poller=poller, system=clock) as reactor:
        reactor.connect(lambda: client, "localhost", port, tls=client_context(ssl.TLSVersion.TLSv1_2))
        turn_until(reactor, lambda: "connection_made" in client.calls)
        turn_until(reactor, lambda: client.connection._secure.heard > 0)
        client.connection.write(b"question")
        client.connection.close()
        clock.skip(reactor, Deadlines().flush - 2)
        assert not client.ended
        clock.skip(reactor, 4)
        assert isinstance(client.lost, FlushTimeout)
        assert client.report.unsent == 8


def readable(sock: socket.socket, seconds: float = 0) -> bool:
    return bool(select.select([sock], (), (), seconds)[0])


def test_what_tls_holds_is_kept_while_reading_is_paused_and_openssl_waits(reactor, tmp_path):
    """Data that came with the handshake, then a request for a new one: nothing of it is discarded."""
    pem = str(tmp_path / "pem")
    authority().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    inner, outer = socket.socketpair()
    said_all, over = threading.Event(), threading.Event()

    def serve() -> None:
        peer = Native(inner, pem)
        assert peer.call("SSL_accept") == 1
        assert peer.call("SSL_write", b"greeting", 8) == 8
        assert peer.call("SSL_renegotiate") == 1
        peer.call("SSL_do_handshake")  # the HelloRequest
        said_all.set()
        over.wait(20)
        peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client = Scripted(connection_made=lambda connection: connection.pause_reading())
    with socket.create_server(("127.0.0.1", 0)) as listening, outer:
        context = client_context(ssl.TLSVersion.TLSv1_2)
        context.options |= ssl.OP_NO_TICKET
        reactor.connect(lambda: client, "localhost", listening.getsockname()[1], tls=context)
        turn_until(reactor, lambda: readable(listening))
        with listening.accept()[0] as front:
            turn_until(reactor, lambda: readable(front))
            outer.sendall(front.recv(65536))
            assert readable(outer, 20)
            front.sendall(outer.recv(65536))
            turn_until(reactor, lambda: readable(front))
            outer.sendall(front.recv(65536))
            # The answer goes on together with what follows it.
            assert said_all.wait(20)
            front.sendall(outer.recv(65536))
            turn_until(reactor, lambda: "connection_made" in client.calls)
            connection = client.connection
            connection.write_eof()  # which has OpenSSL read what it holds
            reactor.run_once(0)
            connection.resume_reading()
            connection.pause_reading()
            for _ in range(3):
                reactor.run_once(0)
            connection.resume_reading()
            turn_until(reactor, lambda: client.data or client.report.discarded)
            assert client.data == b"greeting"
            connection.abort()
            turn_until(reactor, lambda: client.ended)
    over.set()
    thread.join(20)
