"""The scripted peer: a raw, non-blocking socket in the same process that does what it is told, and nothing else.

It connects to one of the reactor's own listeners (so nothing leaves the machine), and a class sees both sides of one
connection at once: what a peer does, and what that looks like from here. It is a plain socket on purpose, watched with
`add_reader` and `add_writer`: it has none of the reactor's good manners, and closing it with unread bytes resets, as
the kernel has it.

It listens to nobody while it is not reading, so it does not learn of an end then, as no program would. It lives until
it is told to go, until the reactor drains, or until too many came after it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable
from typing import Any

from reactor import Connection, Listener, Reactor
from reactor.addresses import address_text

MOST_PEERS = 8
# The most that one order sends: enough to fill every buffer between two sockets, twice.
MOST_BYTES = 16 * 1024 * 1024
_LOG_KEPT = 40
_READ_BYTES = 65536
_CHUNK = (b"The quick brown fox jumps over the lazy dog." + b"\n") * 1456
_RESET = struct.pack("ii", 1, 0)


class Refused(Exception):
    """The order cannot be carried out; the message says why."""


class _Socket(socket.socket):
    """Closed without a warning by the collector: a reactor that closes does not tell who only watches a descriptor."""

    def __del__(self) -> None:
        self.close()


class Peer:
    """One scripted peer. Every order is a method; what came of it stands in `log`."""

    def __init__(self, reactor: Reactor, number: int, address: Any, family: int) -> None:
        self._reactor = reactor
        self.number = number
        self.log: deque[tuple[float, str]] = deque(maxlen=_LOG_KEPT)
        self.received = self.sent = self._to_send = 0
        self._text = b""
        self._connecting = True
        self._reading = True
        self._fin_sent = self._fin_wanted = False
        # How it ended, as this side saw it: None while it is open.
        self.ending: str | None = None
        self._peer_ended = False
        self._socket = _Socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        try:
            if family == socket.AF_UNIX and sys.platform == "linux":
                self._socket.bind("")  # a name of its own (unix(7), autobind), by which the other side can tell it
            result = self._socket.connect_ex(address)
            if result not in (0, errno.EINPROGRESS):
                raise Refused(f"cannot connect to {address_text(address)}: {os.strerror(result)}")
            self.name = address_text(self._socket.getsockname())
            reactor.add_writer(self._socket, self._writable)
        except BaseException:
            self._socket.close()
            raise
        self._note(f"connects to {address_text(address)}")

    # Orders

    def send(self, text: bytes = b"", size: int = 0) -> None:
        """Sends the text, or so many bytes of lines; more than the kernel takes waits its turn."""
        self._check_open("send")
        if self._fin_wanted:
            raise Refused("it has sent its FIN: it cannot send any more")
        if not 0 < len(text) + size <= MOST_BYTES:
            raise Refused(f"one order sends 1 to {MOST_BYTES} bytes")
        if self._to_send or self._text:
            raise Refused("it is still sending what it was told before")
        self._text, self._to_send = text, size
        self._note(f"sends {len(text) + size} bytes")
        self._flush()

    def stop_reading(self) -> None:
        """Looks away: what comes stays in the kernel, and so does news of the end."""
        self._check_open("stop reading")
        self._reading = False
        self._reactor.remove_reader(self._socket)
        self._note("stops reading")

    def read(self) -> None:
        """Reads again, and goes on reading."""
        self._check_open("read")
        self._reading = True
        if not self._peer_ended and not self._connecting:
            self._reactor.add_reader(self._socket, self._readable)
        self._note("reads")

    def fin(self) -> None:
        """`shutdown(SHUT_WR)`: it has said everything, and still listens."""
        self._check_open("end its side")
        if self._fin_wanted:
            raise Refused("its FIN was sent already")
        self._fin_wanted = True
        self._flush()

    def close(self) -> None:
        """`close()`, as careless programs call it: with unread bytes the kernel resets."""
        self._check_open("close")
        unread = self.unread()
        self._end("closed, with unread bytes: the kernel resets" if unread else "closed")

    def reset(self) -> None:
        """`SO_LINGER` of zero seconds, then `close()`: a reset on purpose."""
        self._check_open("reset")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._end("reset on purpose")

    # What it sees

    def unread(self) -> int:
        """Bytes that wait in its kernel."""
        if self.ending is not None:
            return 0
        answer = fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, b"\0\0\0\0")
        return int.from_bytes(answer, sys.byteorder)

    def is_watched(self) -> bool:
        """Whether the reactor watches its socket now."""
        return self.ending is None and self._socket.fileno() in self._reactor.ends

    def facts(self) -> dict[str, Any]:
        """All that is shown of it, for JSON."""
        return {
            "number": self.number,
            "name": self.name,
            "reading": self._reading,
            "sending": len(self._text) + self._to_send,
            "sent": self.sent,
            "received": self.received,
            "unread": self.unread(),
            "fin_sent": self._fin_sent,
            "peer_ended": self._peer_ended,
            "ending": self.ending,
            "log": list(self.log),
        }

    def _writable(self) -> None:
        if self._connecting:
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._end(f"not connected: {os.strerror(error)}")
                return
            self._connecting = False
            self._note("is connected")
            if self._reading:
                self._reactor.add_reader(self._socket, self._readable)
        self._flush()

    def _flush(self) -> None:
        if self._connecting:
            return
        try:
            if self._text:
                self._text = self._text[self._count_sent(self._socket.send(self._text)) :]
            # One step for each call, so that everybody else has their turn in between.
            if self._to_send and not self._text:
                self._to_send -= self._count_sent(self._socket.send(_CHUNK[: self._to_send]))
        except BlockingIOError:
            pass
        except OSError as exc:
            self._end(f"send failed: {exc.strerror}")
            return
        if self._text or self._to_send:
            self._reactor.add_writer(self._socket, self._writable)
            return
        self._reactor.remove_writer(self._socket)
        if self._fin_wanted and not self._fin_sent:
            self._send_fin()

    def _count_sent(self, count: int) -> int:
        self.sent += count
        return count

    def _send_fin(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._end(f"shutdown failed: {exc.strerror}")
            return
        self._fin_sent = True
        self._note("sends its FIN")
        if self._peer_ended:
            self._end("closed in order: both FINs were seen")

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(f"saw a reset: {exc.strerror}")
            return
        if data:
            self.received += len(data)
            return
        self._peer_ended = True
        self._reactor.remove_reader(self._socket)
        self._note(f"read {self.received} bytes and then the other side's FIN")
        if self._fin_sent:
            self._end("closed in order: both FINs were seen")

    def _check_open(self, order: str) -> None:
        if self.ending is not None:
            raise Refused(f"it cannot {order}: it is gone ({self.ending})")

    def _end(self, ending: str) -> None:
        self.ending = ending
        self._text, self._to_send = b"", 0
        self._reactor.remove_reader(self._socket)
        self._reactor.remove_writer(self._socket)
        self._socket.close()
        self._note(ending)

    def _note(self, line: str) -> None:
        self.log.append((self._reactor.time(), line))


def _text_of(arguments: dict[str, Any]) -> bytes:
    text = arguments.get("text", "")
    if not isinstance(text, str):
        raise Refused("text must be a string")
    return text.encode("utf-8", "replace")


def _size_of(arguments: dict[str, Any]) -> int:
    size = arguments.get("size", 0)
    if type(size) is not int or size < 0:
        raise Refused("size must be a whole number of bytes")
    return size


ORDERS: dict[str, Callable[[Peer, dict[str, Any]], None]] = {
    "send": lambda peer, arguments: peer.send(_text_of(arguments), _size_of(arguments)),
    "stop reading": lambda peer, _: peer.stop_reading(),
    "read": lambda peer, _: peer.read(),
    "fin": lambda peer, _: peer.fin(),
    "close": lambda peer, _: peer.close(),
    "reset": lambda peer, _: peer.reset(),
}


class Teacher:
    """Every scripted peer of one reactor. `listeners` and `connections` give the sample's own."""

    def __init__(
        self,
        reactor: Reactor,
        listeners: Callable[[], tuple[Listener, ...]],
        connections: Callable[[], list[Connection]],
    ) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self._connections = connections
        self._made = 0
        self.peers: dict[int, Peer] = {}

    def obey(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Carries out one order and returns the peer's facts. Refused, with the reason, when that is not possible."""
        order = arguments.get("order")
        if order == "connect":
            return self._connect(arguments.get("address")).facts()
        peer = self.peers.get(arguments["peer"]) if type(arguments.get("peer")) is int else None
        if peer is None:
            raise Refused("there is no such peer")
        if order == "ask us to end":
            self._ask_to_end(peer)
        elif isinstance(order, str) and order in ORDERS:
            ORDERS[order](peer, arguments)
        else:
            raise Refused(f"an order is connect, ask us to end, {', '.join(ORDERS)}, not {order!r}")
        return peer.facts()

    def addresses(self) -> list[str]:
        """Where a peer may connect to."""
        return [address_text(address) for listener in self._listeners() for address in listener.addresses]

    def facts(self) -> list[dict[str, Any]]:
        """Of every peer, for JSON."""
        return [peer.facts() for peer in self.peers.values()]

    def watched(self) -> int:
        """How many descriptors in the reactor are theirs."""
        return sum(1 for peer in self.peers.values() if peer.is_watched())

    def end(self) -> None:
        """The lesson is over: every peer goes."""
        for peer in self.peers.values():
            if peer.ending is None:
                peer.close()

    def _connect(self, wanted: object) -> Peer:
        found = [address for listener in self._listeners() for address in listener.addresses]
        if wanted is not None:
            found = [address for address in found if address_text(address) == wanted]
        if not found or self._reactor.draining:
            raise Refused("nobody listens there")
        if len(self.peers) >= MOST_PEERS:
            gone = next((peer for peer in self.peers.values() if peer.ending is not None), None)
            if gone is None:
                raise Refused(f"there are {MOST_PEERS} peers; close one first")
            del self.peers[gone.number]
        self._made += 1
        address, family = _reachable(found[0])
        peer = self.peers[self._made] = Peer(self._reactor, self._made, address, family)
        return peer

    def _ask_to_end(self, peer: Peer) -> None:
        for connection in self._connections():
            if address_text(connection.get_extra_info("peername")) == peer.name:
                # What a drain does to each connection: its protocol says its last words and closes.
                connection.call_soon(connection.drain)
                return
        raise Refused("our side of it has ended, or cannot be told from the others")


def _reachable(address: Any) -> tuple[Any, int]:
    """Where a listener at `address` can be reached from this machine, and the family of that."""
    if not isinstance(address, tuple):
        return address, socket.AF_UNIX
    host, port = address[:2]
    if ":" in host:
        return ("::1" if host == "::" else host, port, *address[2:]), socket.AF_INET6
    return ("127.0.0.1" if host == "0.0.0.0" else host, port), socket.AF_INET
