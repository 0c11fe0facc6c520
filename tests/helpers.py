"""What the tests share: protocols that remember, raw peers, and waiting for a condition instead of for a time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reactor import Options, Protocol, Reactor

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from reactor.tls import Codec

# Far more than anything here takes; a test that meets it has failed.
PATIENCE = 20.0


def turn_until(reactor: Reactor, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Turns the loop until the condition holds; AssertionError when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain; {reactor!r} {reactor.connections}"
        reactor.run_once(0.001)


class Recorder(Protocol):
    """Remembers what it was told. `calls` holds the callbacks' names, `data` what was received."""

    def __init__(self, keep_open: bool = False) -> None:
        self.calls: list[str] = []
        self.data = bytearray()
        self.lost: Exception | str | None = "not yet"
        self.failed: Exception | None = None
        self.keep_open = keep_open

    def connection_made(self, connection):
        super().connection_made(connection)
        self.calls.append("connection_made")

    def data_received(self, data):
        assert type(data) is bytes
        assert data
        if self.calls[-1] != "data_received":
            self.calls.append("data_received")
        self.data += data

    def eof_received(self):
        self.calls.append("eof_received")
        return self.keep_open

    def pause_writing(self):
        self.calls.append("pause_writing")

    def resume_writing(self):
        self.calls.append("resume_writing")

    def connection_lost(self, exc):
        self.calls.append("connection_lost")
        self.lost = exc

    def connection_failed(self, exc):
        self.calls.append("connection_failed")
        self.failed = exc

    @property
    def ended(self) -> bool:
        return self.lost != "not yet"

    @property
    def report(self):
        return self.connection.report


class Server:
    """A listener whose protocols are kept, in the order in which they came."""

    def __init__(
        self,
        reactor: Reactor,
        factory: Callable[[], Protocol] = Recorder,
        transport: str = "tcp4",
        path: str | None = None,
        options: Options | None = None,
    ) -> None:
        self.reactor = reactor
        self.protocols: list = []

        def make() -> Protocol:
            protocol = factory()
            self.protocols.append(protocol)
            return protocol

        options = options or Options()
        if transport == "unix":
            assert path is not None
            self.listener = reactor.listen(make, path=path, options=options)
        else:
            host = {"tcp4": "127.0.0.1", "tcp6": "::1"}[transport]
            self.listener = reactor.listen(make, host, 0, options=options)
        self.address = self.listener.addresses[0]
        self.family = {"tcp4": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}[transport]

    def peer(self, receive_buffer: int | None = None) -> Peer:
        """A raw client, connected; the server may not have noticed yet."""
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        return Peer(sock, self.reactor)

    def connected(self, receive_buffer: int | None = None) -> tuple[Peer, Recorder]:
        """A raw client and the protocol that serves it."""
        count = len(self.protocols)
        peer = self.peer(receive_buffer)
        turn_until(self.reactor, lambda: len(self.protocols) > count and hasattr(self.protocols[-1], "connection"))
        return peer, self.protocols[-1]


class Peer:
    """A raw, non-blocking client socket that is driven by the test, between turns of the loop."""

    def __init__(self, sock: socket.socket, reactor: Reactor) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.reactor = reactor
        self.data = bytearray()
        # How the connection ended for this side: "EOF", "reset", or None so far.
        self.ending: str | None = None

    def send(self, data: bytes) -> None:
        """Sends all of it, turning the loop while the kernel takes no more."""
        view = memoryview(data)

        def all_sent() -> bool:
            nonlocal view
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                pass
            return not view

        turn_until(self.reactor, all_sent)

    def fin(self) -> None:
        """Sends a FIN, and can still read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def read_some(self, most: int = 65536) -> bool:
        """Reads once; whether something came."""
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            self.ending = "reset"
            return True
        if not data:
            self.ending = "EOF"
        self.data += data
        return True

    def read_to_end(self) -> str:
        """Reads until EOF or reset, turning the loop; says which."""

        def over() -> bool:
            while self.ending is None and self.read_some():
                pass
            return self.ending is not None

        turn_until(self.reactor, over)
        assert self.ending is not None
        return self.ending

    def read_until(self, size: int) -> None:
        """Reads, turning the loop, until so many bytes have come in all."""

        def enough() -> bool:
            while len(self.data) < size and self.ending is None and self.read_some():
                pass
            return len(self.data) >= size or self.ending is not None

        turn_until(self.reactor, enough)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()


@contextmanager
def all_closed(*sockets: socket.socket | Peer) -> Iterator[None]:
    """Closes them whatever happens."""
    try:
        yield
    finally:
        for sock in sockets:
            sock.close()


def sealed(codec: Codec, data: Buffer) -> bytes:
    """The records of all of `data`."""
    assert codec.encrypt(data) == len(data)
    return codec.take()


def sealed_end(codec: Codec) -> bytes:
    """The records of its end."""
    assert codec.end()
    return codec.take()
