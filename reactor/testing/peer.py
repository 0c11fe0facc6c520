"""The other side of a connection, as a script: it does what it is told, and nothing else.

A peer's kernel is as simulated as the reactor's; its program is you. It connects when it is made. `send` gives the
kernel what it takes and the rest as room comes. It reads by itself whatever arrives, until `stop_reading`; `read` then
reads so much. `ending` says how the connection ended for it: "EOF", "reset", "refused", "timeout", or None so far.

To act later, let the world call it: `system.after(5.0, peer.send, b"late")`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reactor.pollers import READ
from reactor.testing.names import family_of
from reactor.testing.sockets import Listening, SimulatedSocket, StreamSocket
from reactor.testing.tcp import TcpSocket
from reactor.testing.unix import UnixSocket

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem

_ENDINGS = {
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
}
_READ_BYTES = 65536


class Peer:
    """A scripted end of a connection; see the top of this module."""

    def __init__(self, system: SimulatedSystem, sock: StreamSocket) -> None:
        self.system = system
        self.sock = sock
        # All that was read; what `send` could not give the kernel yet.
        self.data = bytearray()
        self.unsent = bytearray()
        self.ending: str | None = None
        self.reading = True
        self._fin_wanted = False
        self._told: str | None = None
        self._touched = self._busy = self._again = False
        # Called when something was read or the connection ended, for a script that answers.
        self.on_change: Callable[[Peer], object] | None = None
        sock.watcher = self
        self.touch(sock)
        system.pump()

    def send(self, data: bytes) -> None:
        """Sends it, as soon as the kernel takes it. After the end it goes nowhere."""
        self.unsent += data
        self._act()

    def fin(self) -> None:
        """Ends its output behind all that was sent; it goes on reading."""
        self._fin_wanted = True
        self._act()

    def stop_reading(self) -> None:
        """Leaves what arrives to its kernel, whose window then closes."""
        self.reading = False

    def resume_reading(self) -> None:
        """Reads all by itself again."""
        self.reading = True
        self._act()

    def read(self, most: int | None = None) -> bytes:
        """Reads what is there now, at most so much; also added to `data`."""
        before = len(self.data)
        self._busy = True
        while most is None or len(self.data) - before < most:
            if not self._read_once(_READ_BYTES if most is None else most - (len(self.data) - before)):
                break
        self._busy = False
        self._act()
        return bytes(self.data[before:])

    def reset(self) -> None:
        """Closes with RST. A Unix socket can only close. What is closed stays so."""
        if not self.sock.released:
            self.system.reset(self.sock)

    def close(self) -> None:
        """Closes as a program does that exits: with unread input, that is a reset."""
        if not self.sock.released:
            self.sock.close()

    @property
    def connected(self) -> bool:
        """Whether the connection was made; it may have ended since."""
        return not (isinstance(self.sock, TcpSocket) and self.sock.connecting) and self.sock.peer is not None

    # For the kernel

    def touch(self, sock: SimulatedSocket) -> None:
        """Something may have happened: acts before the present call into the kernel returns."""
        if not self._touched:
            self._touched = True
            self.system.at_once(self._react)

    def _react(self) -> None:
        self._touched = False
        self._act()

    def _act(self) -> None:
        """Sends and reads what it can. A call into the kernel may lead back here: once is enough."""
        if self._busy:
            self._again = True
            return
        before = len(self.data), self.ending
        self._busy = self._again = True
        while self._again:
            self._again = False
            if self.sock.released or (isinstance(self.sock, TcpSocket) and self.sock.connecting):
                break
            self._push()
            while self.reading and self._read_once(_READ_BYTES):
                pass
        self._busy = False
        self.system.pump()
        if self.on_change is not None and (len(self.data), self.ending) != before:
            self.on_change(self)

    def _read_once(self, most: int) -> bool:
        if self.sock.released or self.ending is not None or not self.sock.events() & READ:
            return False
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return False
        except OSError as exc:
            self.ending = _ENDINGS.get(exc.errno or 0, "error")
            return False
        if not data:
            self.ending = self._told or "EOF"
        self.data += data
        return bool(data)

    def _push(self) -> None:
        sock = self.sock
        try:
            while self.unsent:
                del self.unsent[: sock.send(bytes(self.unsent))]
            if self._fin_wanted:
                self._fin_wanted = False
                assert isinstance(sock, (TcpSocket, UnixSocket))
                sock.shutdown_output()
        except BlockingIOError:
            pass
        except OSError as exc:
            self.unsent.clear()
            self._fin_wanted = False
            # The kernel tells an error once: what the send was told, the read behind the last byte is not.
            if self._told is None and not sock.fin_received:
                self._told = _ENDINGS.get(exc.errno or 0, "error")

    def __repr__(self) -> str:
        return f"<Peer {self.sock!r} read={len(self.data)} ending={self.ending}>"


class Acceptor:
    """A scripted server: `peers` are those who connected, in their order; `on_peer` is told of each."""

    def __init__(self, system: SimulatedSystem, address: Any, backlog: int) -> None:
        self.system = system
        self.sock = Listening(system, family_of(address), address, backlog)
        self.peers: list[Peer] = []
        self._accepting = True
        self.on_peer: Callable[[Peer], object] | None = None
        system.listening.bind(address, self.sock)
        self.sock.watcher = self

    @property
    def accepting(self) -> bool:
        """False leaves callers in its kernel's queue; True again lets in who waits there."""
        return self._accepting

    @accepting.setter
    def accepting(self, accepting: bool) -> None:
        self._accepting = accepting
        self.touch(self.sock)
        self.system.pump()

    def touch(self, sock: SimulatedSocket) -> None:
        """Somebody may be in the queue."""
        self.system.at_once(self._accept)

    def _accept(self) -> None:
        while self._accepting and self.sock.queue:
            peer = Peer(self.system, self.sock.queue.popleft())
            self.peers.append(peer)
            if self.on_peer is not None:
                self.on_peer(peer)

    def close(self) -> None:
        """Listens no more."""
        self.sock.close()
