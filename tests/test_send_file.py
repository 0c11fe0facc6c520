"""`send_file`: a part of a file as a part of the stream, plain and under TLS, and what becomes of one that changes."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import ssl
import subprocess
import sys
from itertools import count

import pytest

from reactor import FileUnusable, Limits, Options, Protocol, Reactor, Sockets, WriteAfterEnd
from reactor.buffers import FileRange, SendQueue
from reactor.testing.kernel import SimulatedSystem
from tests.helpers import Server, turn_until
from tests.test_tls import TLSServer, authority
from tests.test_tls import certificate as certificate_of

BIG = os.urandom(600_000)
NARROW = Options(sockets=Sockets(send_buffer_bytes=16384))


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(BIG)
    return path


@pytest.fixture(params=["plain", "tls"])
def serve(request, reactor):
    """Makes servers of either kind."""
    return lambda options=None: (
        Server(reactor, options=options)
        if request.param == "plain"
        else TLSServer(reactor, ssl.TLSVersion.TLSv1_3, options=options)
    )


def send(protocol, path, *part):
    """From a file that is closed right afterwards."""
    with open(path, "rb") as file:
        file.seek(7)  # no matter
        protocol.connection.send_file(file, *part)


def ended(reactor, protocol):
    turn_until(reactor, lambda: protocol.ended)


def test_a_file_arrives_between_what_is_written_before_and_after(reactor, serve, big):
    """All in order, whole, and counted; the file may be closed at once, and its position does not matter."""
    server = serve(NARROW)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(b"before")
        send(protocol, big)
        protocol.connection.write(b"between")
        send(protocol, big, 1000, 5000)
        send(protocol, big, 77, 0)
        protocol.connection.write(b"after")
        protocol.connection.close()
        assert peer.read_to_end() == "EOF"
        peer.close()
        ended(reactor, protocol)
    assert peer.data == b"before" + BIG + b"between" + BIG[1000:6000] + b"after"
    assert protocol.lost is None
    assert protocol.report.written == protocol.report.acknowledged == len(peer.data)


def test_what_waits_is_told_by_the_watermarks_and_held_nowhere(reactor, serve, big):
    """The file's bytes count in get_write_buffer_size and pause the writer, but not against queue_bytes."""
    server = serve(Options(limits=Limits(queue_bytes=200_000), sockets=NARROW.sockets))
    peer, protocol = server.connected(receive_buffer=16384)
    with peer:
        send(protocol, big)
        assert protocol.connection.get_write_buffer_size() == len(BIG)
        turn_until(reactor, lambda: "pause_writing" in protocol.calls)
        peer.read_until(len(BIG))
        turn_until(reactor, lambda: "resume_writing" in protocol.calls)
        assert protocol.connection.get_write_buffer_size() == 0
        assert peer.data == BIG


def test_bytes_behind_a_file_still_meet_the_limit(reactor, serve, big):
    """Only what is in memory is counted, and that ends the connection."""
    server = serve(Options(limits=Limits(queue_bytes=200_000), sockets=NARROW.sockets))
    peer, protocol = server.connected(receive_buffer=16384)
    with peer:
        send(protocol, big)
        protocol.connection.write(bytes(200_000))
        assert protocol.connection.state.name == "OPEN"
        protocol.connection.write(b"1")
        ended(reactor, protocol)
    assert type(protocol.lost).__name__ == "QueueOverflow"


@pytest.mark.logs_errors
def test_a_file_that_becomes_shorter_resets_the_connection(reactor, serve, big):
    """The peer sees a reset, never a clean end of what came; the report tells what was not sent."""
    server = serve(NARROW)
    peer, protocol = server.connected(receive_buffer=16384)
    send(protocol, big)
    os.truncate(big, 1000)
    protocol.connection.close()
    assert peer.read_to_end() == "reset"
    peer.close()
    ended(reactor, protocol)
    assert isinstance(protocol.lost, FileUnusable)
    assert "bytes too early" in str(protocol.lost)
    report = protocol.report
    assert report.unsent > 0
    assert report.written == report.accepted + report.unsent == len(BIG)


def test_a_file_that_cannot_be_read_resets_the_connection(reactor, serve, big, monkeypatch):
    """The disk's error is told, not taken for the socket's."""

    def failing(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    server = serve(NARROW)
    peer, protocol = server.connected()
    monkeypatch.setattr(os, "sendfile", failing)
    monkeypatch.setattr(os, "pread", failing)
    send(protocol, big)
    assert peer.read_to_end() == "reset"
    peer.close()
    ended(reactor, protocol)
    assert isinstance(protocol.lost, FileUnusable)
    assert protocol.lost.errno == errno.EIO


def test_where_the_kernel_cannot_it_is_read_and_sent(reactor, big, monkeypatch):
    """As on file systems without sendfile(2): the same bytes, by way of memory."""

    def cannot(*arguments):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "sendfile", cannot)
    server = Server(reactor, options=NARROW)
    peer, protocol = server.connected()
    with peer:
        send(protocol, big)
        protocol.connection.close()
        assert peer.read_to_end() == "EOF"
    assert peer.data == BIG


def test_a_peer_that_resets_ends_it_as_any_sending(reactor, serve, big):
    """The descriptor is released, and the network's error is told."""
    server = serve(NARROW)
    peer, protocol = server.connected(receive_buffer=16384)
    send(protocol, big)
    peer.read_until(100_000)
    peer.reset()
    ended(reactor, protocol)
    assert isinstance(protocol.lost, ConnectionError)
    assert protocol.report.unsent > 0


def test_an_abort_releases_what_was_not_sent(reactor, serve, big):
    """Every duplicated descriptor, the one under way too; conftest counts them."""
    server = serve(NARROW)
    peer, protocol = server.connected(receive_buffer=16384)
    with peer:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            send(protocol, big)
        assert len(os.listdir("/proc/self/fd")) == before + 5
        protocol.connection.abort()
        assert len(os.listdir("/proc/self/fd")) == before
        ended(reactor, protocol)
    assert protocol.report.unsent == 5 * len(BIG)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ((-1,), "zero or more"),
        ((0, -1), "zero or more"),
        ((0, 1.5), "zero or more"),
        ((0, len(BIG) + 1), "bytes, not"),
        ((len(BIG), 1), "bytes, not"),
        ((len(BIG) + 1, 0), "bytes, not"),
    ],
)
def test_a_part_that_is_not_there_is_refused_at_once(reactor, big, part, says):
    """ValueError names what was asked for; nothing is sent, and nothing stays open."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        with pytest.raises(ValueError, match=says):
            send(protocol, big, *part)
        assert protocol.connection.get_write_buffer_size() == 0


def test_only_a_regular_file_can_be_sent(reactor):
    """A pipe has no length to keep to."""
    server = Server(reactor)
    peer, protocol = server.connected()
    reading, writing = os.pipe()
    with peer, open(reading, "rb") as pipe, open(writing, "wb"), pytest.raises(ValueError, match="regular file"):
        protocol.connection.send_file(pipe)


def test_after_our_end_it_is_refused_like_any_write(reactor, big):
    """Those bytes would be lost."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write_eof()
        with pytest.raises(WriteAfterEnd, match="send_file"):
            send(protocol, big)


def test_after_a_failure_it_counts_as_unsent(reactor, big):
    """As with write: the failure is told later, once."""
    server = Server(reactor)
    peer, protocol = server.connected()
    protocol.connection.pause_reading()
    peer.reset()
    sent = count()
    turn_until(reactor, lambda: protocol.ended or (protocol.connection.write(b"x"), next(sent))[1] > 10_000)
    if not protocol.ended:
        pytest.fail("the reset was never noticed")
    with pytest.raises(WriteAfterEnd):
        send(protocol, big)


def test_a_file_goes_over_a_simulated_network(big):
    """From the real file, through memory, in order."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        received = bytearray()

        class Source(Protocol):
            def connection_made(self, connection):
                with open(big, "rb") as file:
                    connection.send_file(file, 5, 300_000)
                connection.write(b"end")
                connection.close()

        class Sink(Protocol):
            def data_received(self, data):
                received.extend(data)

            def connection_lost(self, exc):
                assert exc is None
                listener.close()

        listener = reactor.listen(Source, "127.0.0.1", 0)
        reactor.connect(Sink, *listener.addresses[0])
        system.run(reactor)
    assert received == BIG[5:300_005] + b"end"


def test_the_queue_gives_files_alone_and_releases_each_once():
    """What is before a file is given without it, a file alone, and what is behind comes after it."""
    released = []
    queue = SendQueue()
    queue.append(b"ab")
    queue.append(b"cd")
    part = FileRange(3, 10, 6, released.append)
    queue.append_file(part)
    queue.append(b"ef")
    assert (queue.size, queue.held(), queue.files) == (12, 6, 1)
    assert list(queue.head(100)) == [b"abcd"]
    assert list(queue.head(3)) == [b"abc"]
    queue.advance(4)
    assert queue.head(100) == (part,)
    queue.advance(2)
    assert (part.offset, part.size, queue.size) == (12, 4, 6)
    queue.advance(5)
    assert released == [3]
    assert (queue.files, queue.head(100)) == (0, (b"f",))
    queue.append_file(FileRange(4, 0, 1, released.append))
    assert queue.clear() == 2
    assert released == [3, 4]
    assert queue.size == queue.files == 0


_SENDER = """
import resource, ssl, sys
from reactor import Options, Protocol, Reactor

path, certificate = sys.argv[1:]
tls = None
if certificate:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)

class Source(Protocol):
    def connection_made(self, connection):
        with open(path, "rb") as file:
            connection.send_file(file)
        connection.close()

    def connection_lost(self, exc):
        assert exc is None, exc
        listener.close()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)

with Reactor() as reactor:
    listener = reactor.listen(Source, "127.0.0.1", 0, tls=tls)
    print(listener.addresses[0][1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    reactor.run()
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_gibibyte_goes_to_a_slow_reader_in_flat_memory(tmp_path, kind):
    """Whole, by its checksum; the sender's resident memory grows by less than 16 MiB."""
    path, certificate = tmp_path / "file", ""
    piece = os.urandom(1 << 20)
    expected = hashlib.sha256()
    with open(path, "wb") as file:
        for number in range(1024):
            block = number.to_bytes(8, "big") + piece[8:]
            file.write(block)
            expected.update(block)
    context = None
    if kind == "tls":
        certificate = str(tmp_path / "certificate")
        certificate_of("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
        context = ssl.create_default_context()
        authority().configure_trust(context)
    sender = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _SENDER, path, certificate], stdout=subprocess.PIPE, text=True
    )
    with sender:
        port, before = map(int, sender.stdout.readline().split())
        received = hashlib.sha256()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        if context is not None:
            client = context.wrap_socket(client, server_hostname="localhost", suppress_ragged_eofs=False)
        total = 0
        with client:
            while data := client.recv(65536):
                received.update(data)
                total += len(data)
        after = int(sender.stdout.readline())
        assert sender.wait(60) == 0
    assert total == 1 << 30
    assert received.digest() == expected.digest()
    assert after - before < 16 * 1024, f"{before} KiB before, {after} KiB after"
