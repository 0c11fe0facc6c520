"""Clients with raw sockets: they read slowly, stop, end their side or reset, and know how they were ended."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Iterable

CHUNK = 65536
# Far more than any step takes; who meets it is said to be still open.
PATIENCE = 10.0
# Fixed, so that the kernel does not grow it until a whole reply fits in: who reads slowly keeps the server waiting.
RECEIVE_BUFFER = 65536

END, RESET = "EOF", "RST"


def amount(count: int) -> str:
    """Bytes, for people."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.0f} KB"
    return f"{count / 1_000_000:.2f} MB"


class Client:
    """One connection to the server. `count` bytes were received; `end` is how it ended, None while it is open."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise
        self.count = 0
        self.end: str | None = None
        self.upload = 0  # bytes that `talk` shall send
        # The kernel tells a reset once: when sending has heard of it, what is read ends in what looks like EOF.
        self._reset_seen = False

    def send(self, data: bytes) -> None:
        """Sends all of it. A reset is remembered, not raised."""
        try:
            self.sock.sendall(data)
        except ConnectionError:
            self._reset_seen = True

    def push(self) -> None:
        """Sends some of the upload."""
        try:
            self.upload -= self.sock.send(bytes(min(CHUNK, self.upload)))
        except ConnectionError:
            self._reset_seen = True
            self.upload = 0

    def receive(self) -> None:
        """Reads once."""
        try:
            data = self.sock.recv(CHUNK)
        except ConnectionError:
            self.end = RESET
            return
        self.count += len(data)
        if not data:
            self.end = RESET if self._reset_seen else END

    def finish(self) -> None:
        """Our FIN."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # reset already: the next read tells

    def reset(self) -> None:
        """Our RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def got(self, whole: int) -> bool:
        """All of it, and then a clean end."""
        return self.count == whole and self.end == END

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{amount(self.count)}, {self.end or 'still open'}"


def talk(
    clients: Iterable[Client], *, seconds: float = PATIENCE, pause: float = 0.0, wanted: int | None = None
) -> None:
    """Lets all of them read and upload until each was ended or has what is wanted, or the time is over.

    `pause` makes slow readers of them: so long between two rounds of one read each.
    """
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for client in clients:
            if not _has_enough(client, wanted):
                selector.register(client.sock, _interest(client), client)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, events in selector.select(left):
                client = key.data
                if events & selectors.EVENT_READ:
                    client.receive()
                if events & selectors.EVENT_WRITE and client.end is None:
                    client.push()
                if _has_enough(client, wanted):
                    selector.unregister(client.sock)
                elif key.events != _interest(client):
                    selector.modify(client.sock, _interest(client), client)
            if pause:
                time.sleep(pause)


def _interest(client: Client) -> int:
    return selectors.EVENT_READ | (selectors.EVENT_WRITE if client.upload else 0)


def _has_enough(client: Client, wanted: int | None) -> bool:
    return client.end is not None or (wanted is not None and client.count >= wanted)
