"""Connecting: one address after the other until one answers, within one deadline.

A connect is a life of its own, not a state of a connection. It resolves the name (in a thread, unless it is an address
already), tries each address in the order of RFC 6724, and ends in one of three ways: `connection_made` on a new
protocol, `connection_failed` with every cause on a new protocol, or, after `cancel()`, nothing at all. The factory is
called at the end, not at the beginning, and never from inside `connect()`.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from reactor.connection import Connection
from reactor.errors import ConnectFailed
from reactor.loop import Loop
from reactor.options import Options
from reactor.pollers import WRITE
from reactor.protocol import Protocol
from reactor.system import Address, Socket
from reactor.timers import TimerHandle

logger = logging.getLogger("reactor")

# A Unix socket whose listener's queue is full cannot be waited for (connect(2), EAGAIN); asked again so often.
_FULL_QUEUE_RETRY = 0.010


class Connector:
    """What `Reactor.connect` returns: a connect under way."""

    def __init__(self, loop: Loop, target: str, factory: Callable[[], Any], options: Options) -> None:
        self._loop = loop
        self._target = target
        self._factory = factory
        self._options = options
        self._remaining: list[Address] = []
        self._causes: list[tuple[object, Exception]] = []
        self._attempt: tuple[Address, Socket] | None = None
        self._retry: TimerHandle | None = None
        self._over = False
        loop.outside[self] = None
        self._deadline = loop.timers.add(loop.time() + options.deadlines.connect, self, self._too_late)

    def cancel(self) -> None:
        """Gives up: no callback comes, no protocol is made. Does nothing once it has succeeded or failed."""
        if not self._over:
            self._end()
            self._loop.outside.pop(self, None)

    def done(self) -> bool:
        """Whether it is over: it succeeded, failed, or was cancelled."""
        return self._over

    # For the reactor

    def resolve(self, host: str, port: int) -> None:
        """Finds the addresses, off the loop if somebody must be asked, and begins."""
        loop = self._loop
        addresses = loop.system.resolve_numeric(host, port)
        if addresses is not None:
            self.begin(addresses)
            return
        future = loop.system.submit(loop.system.resolve, host, port)
        future.add_done_callback(lambda done: loop.call_from_thread(self._resolved, done))

    def _resolved(self, future: Any) -> None:
        if self._over or future.cancelled():
            return
        failure = future.exception()
        if failure is None:
            self.begin(future.result())
        else:
            self._causes.append((self._target, failure))
            self._fail()

    def begin(self, addresses: list[Address]) -> None:
        """Tries them, from the next turn on."""
        self._remaining = addresses
        self._loop.post(self, self._try_next)

    def adopt(self, sock: Socket, address: object) -> None:
        """A socket that is connected already."""
        self._loop.post(self, self._succeed, sock, address)

    def _try_next(self) -> None:
        self._retry = None
        if self._over:
            return
        loop = self._loop
        while self._remaining:
            address = self._remaining.pop(0)
            try:
                sock = loop.system.start_connect(address, self._options)
            except BlockingIOError:
                self._remaining.insert(0, address)
                self._retry = loop.timers.add(loop.now + _FULL_QUEUE_RETRY, self, self._try_next)
                return
            except OSError as exc:
                self._causes.append((address, exc))
                continue
            loop.admit(sock.fileno(), self)
            try:
                loop.poller.register(sock.fileno(), WRITE)
            except OSError as exc:
                self._causes.append((address, exc))
                loop.dismiss(sock.fileno(), registered=False)
                loop.doom(_Dropped(loop, sock))
                continue
            self._attempt = (address, sock)
            return
        self._fail()

    def on_readable(self) -> None:
        """Never: only writability is asked for."""

    def on_events(self, events: int) -> None:
        """The attempt has its answer."""
        assert self._attempt is not None
        address, sock = self._attempt
        try:
            self._loop.system.finish_connect(sock)
        except OSError as exc:
            self._causes.append((address, exc))
            self._drop_attempt()
            self._try_next()
            return
        self._attempt = None
        self._loop.dismiss(sock.fileno(), registered=True)
        self._succeed(sock, address.sockaddr)

    def _succeed(self, sock: Socket, address: object) -> None:
        if self._over:
            self._loop.system.close(sock)
            return
        self._end()
        self._loop.outside.pop(self, None)
        connection = Connection(self._loop, sock, address, self._options, "connected")
        self._loop.post(connection, connection.begin, self._factory)

    def _too_late(self) -> None:
        limit = self._options.deadlines.connect
        late = TimeoutError(errno.ETIMEDOUT, f"no answer within the connect deadline of {limit} s")
        self._causes.append((self._attempt[0] if self._attempt else self._target, late))
        self._fail()

    def _fail(self) -> None:
        causes = "; ".join(
            ("" if str(where) == self._target else f"{where}: ") + str(getattr(exc, "strerror", None) or exc)
            for where, exc in self._causes
        )
        message = f"cannot connect to {self._target}: {causes or 'it has no address'}"
        self.fail(ConnectFailed(message, tuple(self._causes)))

    def fail(self, exc: Exception) -> None:
        """Ends with that error, told to a protocol of the factory's."""
        if self._over:
            return
        self._end()
        self._loop.post(self, self._tell, exc)

    def _tell(self, exc: Exception) -> None:
        self._loop.outside.pop(self, None)
        protocol = self._factory()
        tell = getattr(protocol, "connection_failed", None)
        if tell is None:
            Protocol.connection_failed(protocol, exc)
        else:
            tell(exc)

    def _end(self) -> None:
        self._over = True
        self._deadline.cancel()
        if self._retry is not None:
            self._retry.cancel()
        self._drop_attempt()

    def _drop_attempt(self) -> None:
        if self._attempt is None:
            return
        _, sock = self._attempt
        self._attempt = None
        self._loop.dismiss(sock.fileno(), registered=True)
        self._loop.doom(_Dropped(self._loop, sock))

    def displaced(self) -> None:
        """The descriptor was closed by somebody else."""
        self.fail(ConnectFailed(f"cannot connect to {self._target}: its descriptor was closed by somebody else"))

    def abandon(self) -> None:
        """The loop closes: nobody is told any more."""
        self.cancel()

    def callback_failed(self, exc: Exception) -> None:
        """A call made for this connect raised: it is logged, and the connect given up."""
        logger.error("%r failed", self, exc_info=exc)
        self.cancel()

    def __repr__(self) -> str:
        return f"<Connector to {self._target}{' over' if self._over else ''}>"


class _Dropped:
    """The socket of a failed attempt, on its way to the burial."""

    def __init__(self, loop: Loop, sock: Socket) -> None:
        self._loop = loop
        self._sock = sock

    def bury(self) -> None:
        self._loop.system.close(self._sock)

    def callback_failed(self, exc: Exception) -> None:
        logger.error("a socket could not be closed", exc_info=exc)
