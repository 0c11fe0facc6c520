"""Connecting: races the addresses of a name (`reactor.racing`), within one deadline.

A connect is a life of its own, not a state of a connection. It resolves the name (in a thread, unless it is an address
already), tries its addresses as the race says, and ends in one of three ways: `connection_made` on a new protocol,
`connection_failed` with every cause on a new protocol, or, after `cancel()`, nothing at all. The factory is called at
the end, not at the beginning, and never from inside `connect()`. With TLS the end is the end of the handshake, which
has a deadline of its own.

Each attempt is an end of its own, so that an event finds it. One that did not win leaves the loop at once, so that
nothing more is heard of it, even if the same batch holds its success; its socket is closed at the end of the turn.
Nothing was written to it: a plain close loses nothing.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from reactor.addresses import Address
from reactor.connection import Connection
from reactor.errors import ConnectFailed
from reactor.loop import Loop
from reactor.options import Options
from reactor.pollers import INVALID, WRITE
from reactor.protocol import Protocol
from reactor.racing import GiveUp, Race, Start, Wait, Win
from reactor.secure import Secure
from reactor.system import Socket
from reactor.timers import TimerHandle

if TYPE_CHECKING:
    from reactor.tls import Codec

logger = logging.getLogger("reactor")

# A Unix socket whose listener's queue is full cannot be waited for (connect(2), EAGAIN); asked again so often.
_FULL_QUEUE_RETRY = 0.010


class Connector:
    """What `Reactor.connect` returns: a connect under way."""

    def __init__(
        self,
        loop: Loop,
        target: str,
        factory: Callable[[], Any],
        options: Options,
        source: tuple[str, int] | None = None,
        make_codec: Callable[[], Codec] | None = None,
    ) -> None:
        self._loop = loop
        self._target = target
        self._factory = factory
        self._options = options
        self._source = source
        self._make_codec = make_codec
        # The winner, while its TLS handshake is under way.
        self._shaking: Connection | None = None
        self._race: Race[Address] = Race((), options.deadlines.attempt)
        self._attempts: dict[Address, _Attempt] = {}
        self._next_start: TimerHandle | None = None
        self._over = False
        loop.outside[self] = None
        self._deadline = loop.set_timer(loop.time() + options.deadlines.connect, self, self._too_late)

    def cancel(self) -> None:
        """Gives up: no callback comes, no protocol is made. Does nothing once it has succeeded or failed."""
        if not self._over:
            self._end(tuple(self._attempts))
            self._loop.outside.pop(self, None)
            if self._shaking is not None:
                self._shaking.abandon()

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
            self._give_up([(self._target, failure)])

    def begin(self, addresses: list[Address]) -> None:
        """Races them, from the next turn on."""
        self._race = Race(addresses, self._options.deadlines.attempt)
        self._loop.post(self, self._proceed)

    def adopt(self, sock: Socket, sockaddr: object) -> None:
        """A socket that is connected already: a race of one, which is run by now."""
        address = Address(sock.family, sockaddr)
        self._race = Race([address], self._options.deadlines.attempt)
        self._race.proceed(self._loop.time())
        attempt = self._attempts[address] = _Attempt(self._loop, self, address, sock)
        self._loop.post(self, self.attempt_connected, attempt)

    def fail(self, exc: Exception) -> None:
        """Ends with that error, told to a protocol of the factory's."""
        if self._over:
            return
        self._end(tuple(self._attempts))
        self._loop.post(self, self._tell, exc)

    def _tell(self, exc: Exception) -> None:
        self._loop.outside.pop(self, None)
        protocol = self._factory()
        tell = getattr(protocol, "connection_failed", None)
        if tell is None:
            Protocol.connection_failed(protocol, exc)
        else:
            tell(exc)

    # The race

    def _proceed(self) -> None:
        """Does what the race says, until it says to wait."""
        if self._over or self._shaking is not None:
            return
        while True:
            match self._race.proceed(self._loop.time()):
                case Start(address):
                    attempt = self._attempts[address] = _Attempt(self._loop, self, address)
                    self._start(attempt)
                case Wait(until):
                    self._wait(until)
                    return
                case Win(address, losers):
                    self._succeed(address, losers)
                    return
                case GiveUp(causes):
                    self._give_up(causes)
                    return

    def _start(self, attempt: _Attempt) -> None:
        try:
            attempt.start(self._options, self._source)
        except BlockingIOError:
            attempt.retry = self._loop.set_timer(self._loop.now + _FULL_QUEUE_RETRY, self, self._start_again, attempt)
        except OSError as exc:
            self._lose(attempt, exc)

    def _start_again(self, attempt: _Attempt) -> None:
        attempt.retry = None
        self._start(attempt)
        self._proceed()

    def _wait(self, until: float | None) -> None:
        if self._next_start is not None:
            self._next_start.cancel()
        self._next_start = None if until is None else self._loop.set_timer(until, self, self._proceed)

    def _lose(self, attempt: _Attempt, cause: Exception) -> None:
        self._attempts.pop(attempt.address).leave()
        self._race.failed(attempt.address, cause)

    # For the attempts

    def attempt_connected(self, attempt: _Attempt) -> None:
        """It is writable, with no error."""
        if attempt.address in self._attempts:  # an adopted socket waits a turn, and may be gone by then
            self._race.succeeded(attempt.address)
            self._proceed()

    def attempt_failed(self, attempt: _Attempt, cause: Exception) -> None:
        """The kernel, or whoever closed its descriptor, has decided against it."""
        self._lose(attempt, cause)
        self._loop.post(self, self._proceed)  # not at once: another attempt may be on its way into the loop just now

    # The end

    def _succeed(self, address: Address, losers: Iterable[Address]) -> None:
        codec = None if self._make_codec is None else self._make_codec()  # first: when that raises, no socket is lost
        sock = self._attempts.pop(address).hand_over()
        self._stop_racing(losers)
        secure = None if codec is None else Secure(codec, partial(self._handshake_failed, address))
        connection = Connection(self._loop, sock, address.sockaddr, self._options, "connected", None, secure)
        if secure is None:
            self._reached()
            self._loop.post(connection, connection.begin, self._factory)
        else:
            self._shaking = connection
            self._loop.post(connection, connection.begin, self._make_protocol)

    def _make_protocol(self) -> Any:
        """The handshake is complete."""
        self._reached()
        return self._factory()

    def _handshake_failed(self, address: Address, exc: Exception) -> None:
        if not self._over:
            self._give_up([(address, exc)])

    def _reached(self) -> None:
        self._shaking = None
        self._over = True
        self._loop.outside.pop(self, None)

    def _too_late(self) -> None:
        limit = self._options.deadlines.connect
        late = TimeoutError(errno.ETIMEDOUT, f"no answer within the connect deadline of {limit} s")
        causes = self._race.expire(late).causes
        self._give_up(causes or [(self._target, late)])  # the latter while the name is resolved

    def _give_up(self, causes: Sequence[tuple[object, Exception]]) -> None:
        words = "; ".join(
            ("" if str(where) == self._target else f"{where}: ") + str(getattr(exc, "strerror", None) or exc)
            for where, exc in causes
        )
        message = f"cannot connect to {self._target}: {words or 'it has no address'}"
        self.fail(ConnectFailed(message, tuple(causes)))

    def _end(self, losers: Iterable[Address]) -> None:
        self._over = True
        self._stop_racing(losers)

    def _stop_racing(self, losers: Iterable[Address]) -> None:
        self._deadline.cancel()
        self._wait(None)
        for address in losers:
            self._attempts.pop(address).leave()

    def callback_failed(self, exc: Exception) -> None:
        """A call made for this connect raised: it is logged, and the connect given up."""
        logger.error("%r failed", self, exc_info=exc)
        if self._over:
            self._loop.outside.pop(self, None)
        else:
            self._give_up([(self._target, exc)])

    def __repr__(self) -> str:
        return f"<Connector to {self._target}{' over' if self._over else ''}>"


class _Attempt:
    """A connect to one address: a socket in the loop, until it is decided."""

    __slots__ = ("_connector", "_fd", "_loop", "_registered", "_sock", "address", "retry")

    def __init__(self, loop: Loop, connector: Connector, address: Address, connected: Socket | None = None) -> None:
        self._loop = loop
        self._connector = connector
        self.address = address
        # Set while the kernel could not even be asked.
        self.retry: TimerHandle | None = None
        self._sock: Socket | None = None
        self._fd = -1
        self._registered = False
        if connected is not None:
            self._admit(connected)

    def start(self, options: Options, source: tuple[str, int] | None) -> None:
        """Asks the kernel. The OSErrors of connect(2); BlockingIOError: it could not be asked, and may be again."""
        self._admit(self._loop.system.start_connect(self.address, options, source))
        self._loop.watch(self._fd, WRITE)
        self._registered = True

    def _admit(self, sock: Socket) -> None:
        self._sock, self._fd = sock, sock.fileno()
        self._loop.admit(self._fd, self)

    def on_readable(self) -> None:
        """Never: only writability is asked for."""

    def on_events(self, events: int) -> None:
        """The kernel has an answer."""
        assert self._sock is not None
        if events & INVALID:
            self.displaced()
            return
        try:
            self._loop.system.finish_connect(self._sock)
        except OSError as exc:
            self._connector.attempt_failed(self, exc)
        else:
            self._connector.attempt_connected(self)

    def displaced(self) -> None:
        assert self._sock is not None
        self._dismiss()
        self._sock = None
        why = f"the descriptor of {self!r} was closed by somebody else"
        self._connector.attempt_failed(self, OSError(errno.EBADF, why))

    def leave(self) -> None:
        """Out of the loop at once; the descriptor is released at the end of the turn."""
        if self.retry is not None:
            self.retry.cancel()
        if self._sock is not None:
            self._dismiss()
            self._loop.doom(self)

    def hand_over(self) -> Socket:
        """Out of the loop, and the socket is the caller's."""
        assert self._sock is not None
        if not self._dismiss():
            raise OSError(errno.EBADF, f"the descriptor of {self!r} was closed by somebody else")
        return self._sock

    def _dismiss(self) -> bool:
        ours = self._loop.dismiss(self._fd, self._registered)
        if not ours:
            assert self._sock is not None
            self._loop.system.forget(self._sock)
        return ours

    def bury(self) -> None:
        assert self._sock is not None
        self._loop.system.finish(self._sock)

    def forked(self) -> Sequence[Socket]:
        return () if self._sock is None else (self._sock,)

    def abandon(self) -> None:
        """The loop closes: nobody is told any more."""
        self._connector.cancel()

    def callback_failed(self, exc: Exception) -> None:
        self._connector.callback_failed(exc)

    def __repr__(self) -> str:
        return f"<connect to {self.address}>"
