"""Listening: accepts in batches, waits out a famine, and ends without resetting those who were let in.

A batch takes at most `Limits.accepts_per_turn` connections per turn. An error that tells of one connection only
(ECONNABORTED and its like) goes on with the next. When descriptors or memory run out, nobody is refused: the listener
leaves the poller, the kernel's queue holds the callers, and it asks again when a descriptor is freed, or after a
back-off from 10 ms doubling to 1 s, with one warning per famine (R12). A connection that only lingers gives way (R3).

Closing a listening socket resets whoever is still in its queue (K15); so `close` first accepts until there is nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from reactor.addresses import SocketAddress, address_text
from reactor.connection import Connection
from reactor.errors import EXHAUSTED, PEER_GONE, TRY_AGAIN
from reactor.loop import Loop
from reactor.options import Options
from reactor.pollers import INVALID, READ
from reactor.secure import Secure
from reactor.system import Socket
from reactor.timers import TimerHandle

if TYPE_CHECKING:
    from reactor.tls import Codec

logger = logging.getLogger("reactor")

# Short enough not to be noticed, and doubled so that a long famine costs nothing.
_BACK_OFF = 0.010
_BACK_OFF_MOST = 1.0


class Door:
    """One listening socket in the poller."""

    __slots__ = ("displaced_by_somebody", "fd", "listener", "open", "registered", "sock")

    def __init__(self, listener: Listener, sock: Socket) -> None:
        self.listener = listener
        self.sock = sock
        self.fd = sock.fileno()
        self.registered = False
        self.open = True
        self.displaced_by_somebody = False

    def on_readable(self) -> None:
        if self.registered:  # not when an earlier event of this batch made the listener rest
            self.listener.accept(self)

    def on_events(self, events: int) -> None:
        if events & INVALID:
            self.displaced()
        else:
            self.on_readable()

    def displaced(self) -> None:
        logger.error("%r: its descriptor %d was closed by somebody else", self.listener, self.fd)
        self.displaced_by_somebody = True
        self.listener.lose(self)

    def callback_failed(self, exc: Exception) -> None:
        logger.error("%r could not accept", self.listener, exc_info=exc)

    def abandon(self) -> None:
        self.listener.abandon()

    def bury(self) -> None:
        self.listener.release(self)

    def forked(self) -> Sequence[Socket]:
        return (self.sock,)

    def __repr__(self) -> str:
        return f"<Door of {self.listener!r}>"


class Listener:
    """What `Reactor.listen` returns: one or more listening sockets and what is made of their callers."""

    def __init__(
        self,
        loop: Loop,
        sockets: list[Socket],
        factory: Callable[[], Any],
        options: Options,
        make_codec: Callable[[], Codec] | None = None,
    ) -> None:
        self._loop = loop
        self._factory = factory
        self._options = options
        self._make_codec = make_codec
        # Kept, so that they can still be told after the end.
        self._addresses = tuple(sock.getsockname() for sock in sockets)
        self._doors = [Door(self, sock) for sock in sockets]
        self._connections = 0
        self._accepted = 0
        # One bound method for all: 64 bytes less for each connection.
        self._tell_ended: Callable[[], None] | None = self._connection_ended
        self._handshakes_failed = 0
        self._closing = False
        self._back_off = _BACK_OFF
        self._retry: TimerHandle | None = None
        # When the present famine began, and how many were accepted by then.
        self._famine: tuple[float, int] | None = None
        try:
            for door in self._doors:
                loop.admit(door.fd, door)
                loop.watch(door.fd, READ)
                door.registered = True
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        """It cannot serve: nothing is left of it. The sockets are still the caller's."""
        self._closing = True
        for door in self._doors:
            if self._loop.ends.get(door.fd) is door:
                self._loop.dismiss(door.fd, door.registered)
        self._doors.clear()

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """What it is bound to, as `getsockname` says: the ports are the real ones. Still known after the end."""
        return self._addresses

    @property
    def connections(self) -> int:
        """How many of the accepted connections have not ended."""
        return self._connections

    @property
    def handshakes_failed(self) -> int:
        """How many callers never came to a protocol, because the TLS handshake with them failed."""
        return self._handshakes_failed

    def close(self) -> None:
        """Listens no more. Who is in the kernel's queue by now is accepted and served; nobody is reset.

        It happens in the next turn, because accepting calls back. Again does nothing.
        """
        if not self._closing:
            self._closing = True
            self._loop.post(self, self._close)

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    # For the loop

    def accept(self, door: Door) -> None:
        """One batch. Called when the socket is readable."""
        self._accept_up_to(door, self._options.limits.accepts_per_turn)

    def _accept_up_to(self, door: Door, most: int) -> None:
        loop, system, accepted_before = self._loop, self._loop.system, self._accepted
        refused: OSError | None = None
        refusals = 0
        limited = self._options.limits.connections is not None
        for _ in range(most):
            if not door.open or (limited and self._is_full()):
                break
            try:
                sock, address = system.accept(door.sock)
            except OSError as exc:
                if exc.errno in TRY_AGAIN:
                    self._famine_is_over()
                    return
                if exc.errno in PEER_GONE:
                    refused = exc
                    refusals += 1
                    if refusals < self._options.limits.accepts_per_turn:
                        continue
                    break
                if exc.errno in EXHAUSTED:
                    # The kernel wants a descriptor before it looks whether anybody waits; after a caller, the poller
                    # will tell. Who closes cannot wait for that.
                    if self._accepted == accepted_before or self._closing:
                        self._starve(exc)
                    return
                logger.error("%r cannot accept any more", self, exc_info=exc)
                self.lose(door)
                return
            try:
                codec = None if self._make_codec is None else self._make_codec()
            except BaseException:
                system.close(sock)
                raise
            self._accepted += 1
            self._connections += 1
            secure = None if codec is None else Secure(codec, partial(self._handshake_failed, address))
            connection = Connection(loop, sock, address, self._options, "accepted", self._tell_ended, secure)
            # Not at once: the rest of this batch may be meant for who had the descriptor's number before.
            loop.post(connection, connection.begin, self._factory)
        if limited and self._is_full():
            self._rest()
        elif refused is not None and self._accepted == accepted_before and not self._closing:
            # Not the fate of one caller, who would be out of the queue by now (EPERM of a firewall or a filter, K25).
            self._starve(refused)

    def _is_full(self) -> bool:
        most = self._options.limits.connections
        return most is not None and self._connections >= most and not self._closing

    def _handshake_failed(self, address: SocketAddress, exc: Exception) -> None:
        self._handshakes_failed += 1
        logger.warning("%r: the TLS handshake with %s failed: %s", self, address_text(address), exc)

    def _connection_ended(self) -> None:
        self._connections -= 1
        if self._options.limits.connections is not None and not self._is_full() and self._retry is None:
            self._watch()

    # A famine of descriptors

    def _starve(self, exc: OSError) -> None:
        loop = self._loop
        if self._famine is None:
            self._famine = (loop.now, self._accepted)
            logger.warning("%r pauses: %s; callers wait in the kernel's queue", self, exc.strerror)
        self._rest()
        self._retry = loop.set_timer(loop.now + self._back_off, self, self._try_again)
        self._back_off = min(2 * self._back_off, _BACK_OFF_MOST)
        if exc.errno not in EXHAUSTED:
            return  # no descriptor that is freed would help
        loop.starved[self] = None
        lingering = (end for end in loop.ends.values() if isinstance(end, Connection) and end.is_lingering())
        oldest = min(lingering, key=lambda connection: connection.number, default=None)
        if oldest is not None:
            oldest.end_linger()

    def descriptor_freed(self) -> None:
        """Somebody ended: ask again."""
        self._back_off = _BACK_OFF
        self._try_again()

    def _try_again(self) -> None:
        self._stop_retrying()
        if self._closing:
            self._close()
            return
        self._watch()  # the poller tells whether anybody still waits

    def _stop_retrying(self) -> None:
        self._loop.starved.pop(self, None)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _famine_is_over(self) -> None:
        if self._famine is None:
            return
        since, accepted = self._famine
        self._famine = None
        self._back_off = _BACK_OFF
        logger.info(
            "%r goes on: %d accepted during %.3f s of famine", self, self._accepted - accepted, self._loop.now - since
        )

    # In the poller and out of it

    def _watch(self) -> None:
        for door in tuple(self._doors):
            if not door.registered:
                try:
                    self._loop.watch(door.fd, READ)
                except OSError:
                    self.lose(door)  # nobody can be served there any more
                    raise
                door.registered = True

    def _rest(self) -> None:
        for door in tuple(self._doors):
            if door.registered:
                door.registered = False
                if not self._loop.rest(door.fd):
                    door.displaced()

    # The end

    def _close(self) -> None:
        """Lets in whoever waits, then leaves. In a famine that takes until there are descriptors again."""
        self._stop_retrying()
        self._rest()
        for door in tuple(self._doors):
            if not self._loop.is_still_ours(door.fd):
                door.displaced()
                continue
            # No more than a full queue: who comes while we accept may meet a reset, as with any listener that ends.
            self._accept_up_to(door, self._options.limits.backlog + 1)
            if self._retry is not None:
                return
            if door.open:  # an error may have lost it already
                self.lose(door)

    def lose(self, door: Door) -> None:
        """Takes one socket out of service."""
        self._doors.remove(door)
        door.open = False
        if not self._loop.dismiss(door.fd, door.registered):
            door.displaced_by_somebody = True
        door.registered = False
        self._loop.doom(door)
        if not self._doors:
            self._stop_retrying()
            self._tell_ended = None  # a bound method of its own: a cycle, otherwise

    def release(self, door: Door) -> None:
        """At the end of the turn, so that the descriptor's number is not given away within it."""
        if door.displaced_by_somebody:
            self._loop.system.forget(door.sock)
        else:
            self._loop.system.stop_listening(door.sock)

    def abandon(self) -> None:
        """The loop closes."""
        self._closing = True
        for door in tuple(self._doors):
            self.lose(door)

    def callback_failed(self, exc: Exception) -> None:
        """A call made for this listener raised: it is logged, and listening goes on."""
        logger.error("%r failed", self, exc_info=exc)

    def __repr__(self) -> str:
        where = ", ".join(map(address_text, self._addresses))
        return f"<Listener {where}{' closing' if self._closing else ''} connections={self._connections}>"
