"""The echo sample, as a process."""

from __future__ import annotations

import signal
import socket
import threading
import tokenize

import pytest

from reactor import Reactor
from samples import echo
from tests.helpers import Peer, all_closed, turn_until
from tests.samples.processes import ROOT, read_to_end, wait_for

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


def test_echo_has_at_most_forty_lines_of_code():
    """The smallest server stays small."""
    lines = set()
    with open(ROOT / "samples" / "echo.py", "rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type not in NOT_CODE and not token.line.lstrip().startswith('"""'):
                lines.update(range(token.start[0], token.end[0] + 1))
    assert 10 < len(lines) <= 40


def test_everything_is_echoed_before_the_end(run):
    """A client that half-closes gets all of its bytes, then EOF; SIGTERM then ends with status 0 and no complaint."""
    server = run("echo", "--port", "0")
    data = bytes(range(256)) * 8192
    with server.connect() as client:
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read_to_end(client) == data
        sender.join()
    assert server.stop() == 0
    assert server.errors == ""


def send_until_refused(client: socket.socket) -> None:
    """Sends without reading, until the server does not read either."""
    client.settimeout(0.3)
    try:
        while True:
            client.send(b"x" * 65536)
    except TimeoutError:
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_open_connections_in_order(run, number):
    """A connected client sees EOF, not a reset; the exit status is 0."""
    server = run("echo", "--port", "0")
    with server.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        server.process.send_signal(number)
        assert client.recv(1) == b""
    assert server.ended() == 0
    assert server.errors == ""


def test_a_drain_that_loses_something_says_so(run):
    """A client that never reads is reset at the drain's deadline: exit status 1, and the summary on stderr."""
    server = run("echo", "--port", "0", "--drain-timeout", "0.2")
    with server.connect() as client:
        send_until_refused(client)
        assert server.stop() == 1
    assert server.errors.startswith("drained in 0.")
    assert "bytes unsent" in server.errors
    assert server.errors.count("\n") == 1


def test_a_second_signal_ends_at_once(run):
    """Nobody waits for the drain's deadline then."""
    server = run("echo", "--port", "0", "--log-level", "info")
    with server.connect() as client:
        send_until_refused(client)
        server.process.send_signal(signal.SIGTERM)
        # Not before the first was seen, or the two would be one.
        wait_for(lambda: "draining" in server.errors, "the first signal was not seen")
        assert server.stop() == 1
    assert "a second signal" in server.errors


def test_who_does_not_read_is_not_read_from(reactor: Reactor):
    """Backpressure: no more than the kernel's buffers and the watermark are held for a peer that only sends."""
    listener = echo.serve(reactor, "127.0.0.1", 0)
    sock = socket.create_connection(listener.addresses[0])
    with all_closed(sock), Peer(sock, reactor) as peer:
        turn_until(reactor, lambda: reactor.connections)
        (connection,) = reactor.connections
        sent = 0

        def paused() -> bool:
            nonlocal sent
            try:
                sent += sock.send(b"x" * 65536)
            except BlockingIOError:
                pass
            return not connection.is_reading()

        turn_until(reactor, paused)
        _, high = connection.get_write_buffer_limits()
        assert high < connection.get_write_buffer_size() <= high + 2 * 65536
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert bytes(peer.data) == b"x" * sent
