"""Connecting: races the addresses of a name (`reactor.racing`), within one deadline.

A connect is a life of its own, not a state of a connection. It resolves the name (in a thread, unless it is an address
already), tries its addresses as the race says, and ends in one of three ways: `connection_made` on a new protocol,
`connection_failed` with every cause on a new protocol, or, after `cancel()`, nothing at all. The factory is called at
the end, not at the beginning, and never from inside `connect()`. With TLS the end is the end of the handshake, which
has a deadline of its own.

Until the factory is called, nothing is final: `cancel()` also takes back an end that is decided and posted.

Each attempt is an end of its own, so that an event finds it. One that did not win leaves the loop at once, so that
nothing more is heard of it, even if the same batch holds its success; its socket is closed at the end of the turn.
Nothing was written to it: a plain close loses nothing.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from reactor.addresses import Address
from reactor.connection import Connection
from reactor.errors import Aborted, ConnectFailed, free_frames
from reactor.lifecycle import STARTING
from reactor.lookups import Answer, Lookup
from reactor.loop import Loop
from reactor.options import Options
from reactor.pollers import INVALID, WRITE
from reactor.protocol import Protocol
from reactor.racing import GiveUp, Race, Start, Wait, Win
from reactor.secure import Secure
from reactor.system import Socket
from reactor.timers import Handle, TimerHandle

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
        source: Address | None = None,
        make_codec: Callable[[], Codec] | None = None,
    ) -> None:
        self._loop = loop
        self._target = target
        self._factory = factory
        self._options = options
        self._source = source
        self._make_codec = make_codec
        self._lookup: Lookup | None = None
        self._race: Race[Address] = Race((), options.deadlines.attempt)
        self._attempts: dict[Address, _Attempt] = {}
        self._next_start: TimerHandle | None = None
        # What is decided and not told yet: the winner, perhaps in its TLS handshake; or the call that tells a failure.
        self._winner: Connection | None = None
        self._telling: Handle | None = None
        # Told, or cancelled.
        self._over = False
        self._deadline: TimerHandle | None = None

    def cancel(self) -> None:
        """Gives up: from now on no callback comes, and no protocol is made, whatever was decided in this turn.

        A connection that was just made is closed. Does nothing once the factory was called.
        """
        if self._over:
            return
        self._stop()
        if self._telling is not None:
            self._telling.cancel()
        winner = self._winner
        self._leave()
        if winner is not None:
            winner.drop()

    def done(self) -> bool:
        """Whether it is over: it succeeded or failed, and a protocol was made to be told; or it was cancelled."""
        return self._over

    # For the reactor

    def start(self, first: Callable[[], object]) -> None:
        """Counts it among what is under way, and takes the first step. If that raises, nothing is left of it."""
        loop = self._loop
        self._deadline = loop.set_timer(loop.time() + self._options.deadlines.connect, self, self._too_late)
        loop.outside[self] = None
        try:
            first()
        except BaseException:
            self.cancel()
            raise

    def resolve(self, host: str, port: int) -> None:
        """Finds the addresses, off the loop if somebody must be asked, and begins."""
        system = self._loop.system
        try:
            addresses = system.resolve_numeric(host, port)
            if addresses is None:
                self._lookup = system.look_up(host, port, partial(self._loop.call_from_thread, self._looked_up))
                return
        except Exception as exc:  # no such interface, no thread: the machine's fault, and told as the network's are
            self._give_up([(self._target, exc)])
        else:
            self.begin(addresses)

    def _looked_up(self, answer: Answer) -> None:
        if self._over or self._decided():
            return
        self._lookup = None
        if isinstance(answer, Exception):
            self._give_up([(self._target, answer)])
        else:
            self.begin(answer)

    def _decided(self) -> bool:
        return self._winner is not None or self._telling is not None

    def begin(self, addresses: list[Address]) -> None:
        """Races them, from the next turn on."""
        self._race = Race(addresses, self._options.deadlines.attempt)
        self._loop.post(self, self._proceed)

    def adopt(self, sock: Socket, address: Address) -> None:
        """A socket that is connected already: a race of one, which is run by now."""
        self._race = Race([address], self._options.deadlines.attempt)
        self._race.proceed(self._loop.time())
        attempt = _Attempt(self._loop, self, address)
        attempt.admit(sock)
        self._attempts[address] = attempt
        self._loop.post(self, self.attempt_connected, attempt)

    def fail(self, exc: Exception) -> None:
        """Ends with that error, told to a protocol of the factory's. What is decided already stays so."""
        if self._over or self._telling is not None:
            return
        self._stop()
        winner, self._winner = self._winner, None
        self._telling = self._loop.post(self, self._tell, exc)
        if winner is not None:
            winner.drop()

    def _tell(self, exc: Exception) -> None:
        self._leave()
        try:
            protocol = self._factory()
            tell = getattr(protocol, "connection_failed", None)
            if tell is None:
                Protocol.connection_failed(protocol, exc)
            else:
                tell(exc)
        finally:
            free_frames(exc)  # a protocol that keeps it does not keep this connect

    # The race

    def _proceed(self) -> None:
        """Does what the race says, until it says to wait."""
        if self._over or self._decided():
            return
        while True:
            match self._race.proceed(self._loop.time()):
                case Start(address):
                    attempt = self._attempts[address] = _Attempt(self._loop, self, address)
                    self._start(attempt)
                case Wait(until):
                    self._wait(until)
                    return
                case Win(address, _):
                    self._succeed(address)
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
        # Its frames are this library's alone, and hold the cause itself. If another address wins, nobody is told of it.
        self._race.failed(attempt.address, cause.with_traceback(None))

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

    def _succeed(self, address: Address) -> None:
        codec = None if self._make_codec is None else self._make_codec()  # first: when that raises, no socket is lost
        sock = self._attempts.pop(address).hand_over()
        self._stop()
        secure = None if codec is None else Secure(codec, partial(self._handshake_failed, address))
        connection = Connection(self._loop, sock, address.sockaddr, self._options, "connected", None, secure)
        self._winner = connection
        self._loop.post(connection, self._begin, connection, address)

    def _begin(self, connection: Connection, address: Address) -> None:
        try:
            if connection.state is STARTING:
                connection.begin(self._make_protocol)
            elif not self._over:  # its descriptor was closed by somebody else meanwhile, or a drain cut it
                self._give_up([(address, connection.report.reason or Aborted(f"{connection!r} has ended"))])
        except Exception as exc:
            if self._over:
                raise  # the factory's, and what comes behind it
            self._give_up([(address, exc)])

    def _make_protocol(self) -> Any:
        """It is connected, and the handshake, if there is one, is complete."""
        factory = self._factory
        self._leave()
        return factory()

    def _handshake_failed(self, address: Address, exc: Exception) -> None:
        if not self._over:
            self._give_up([(address, exc)])

    def _too_late(self) -> None:
        limit = self._options.deadlines.connect
        late = TimeoutError(errno.ETIMEDOUT, f"no answer within the connect deadline of {limit} s")
        if self._lookup is not None:
            what = "the look-up of the name got no answer"
            if self._lookup.waits_for_thread():
                what = "the name was not looked up, because too many other look-ups had no answer"
            late = TimeoutError(errno.ETIMEDOUT, f"{what} within the connect deadline of {limit} s")
        self._give_up(self._race.expire(late).causes or [(self._target, late)])

    def _give_up(self, causes: Sequence[tuple[object, Exception]]) -> None:
        words = "; ".join(("" if str(where) == self._target else f"{where}: ") + _words(exc) for where, exc in causes)
        message = f"cannot connect to {self._target}: {words or 'it has no address'}"
        self.fail(ConnectFailed(message, tuple(causes)))

    def _stop(self) -> None:
        """Asks nobody any more: not the resolver, not an address."""
        lookup, self._lookup = self._lookup, None
        if lookup is not None:
            lookup.cancel()
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()
        self._wait(None)
        while self._attempts:
            self._attempts.popitem()[1].leave()

    def _leave(self) -> None:
        """It is over."""
        self._over = True
        self._loop.outside.pop(self, None)
        # Let go, so that no cycle is left for the garbage collector: each cause holds the frames it came by.
        self._winner = self._telling = None
        self._race = Race((), self._options.deadlines.attempt)

    def callback_failed(self, exc: Exception) -> None:
        """A call made for this connect raised: it is logged, and the connect given up."""
        logger.error("%r failed", self, exc_info=exc)
        if not self._over:
            self._give_up([(self._target, exc)])

    def __repr__(self) -> str:
        return f"<Connector to {self._target}{' over' if self._over else ''}>"


def _words(exc: Exception) -> str:
    return str(getattr(exc, "strerror", None) or exc) or type(exc).__name__


class _Attempt:
    """A connect to one address: a socket in the loop, until it is decided."""

    __slots__ = ("_connector", "_fd", "_loop", "_registered", "_sock", "address", "retry")

    def __init__(self, loop: Loop, connector: Connector, address: Address) -> None:
        self._loop = loop
        self._connector = connector
        self.address = address
        # Set while the kernel could not even be asked.
        self.retry: TimerHandle | None = None
        self._sock: Socket | None = None
        self._fd = -1
        self._registered = False

    def start(self, options: Options, source: Address | None) -> None:
        """Asks the kernel. The OSErrors of connect(2); BlockingIOError: it could not be asked, and may be again."""
        sock = self._loop.system.start_connect(self.address, options, source)
        try:
            self.admit(sock)
        except BaseException:
            self._loop.system.close(sock)
            raise
        self._loop.watch(self._fd, WRITE)
        self._registered = True

    def admit(self, sock: Socket) -> None:
        """The loop serves this socket. If that raises, the socket is still the caller's."""
        fd = sock.fileno()
        self._loop.admit(fd, self)
        self._sock, self._fd = sock, fd

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
