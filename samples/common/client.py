"""`run_client`: from the arguments to one connection that has ended, and the client that joins it with a terminal.

Standard input goes out, what comes is shown; the end of the input is our FIN, and what still comes is shown until the
server ends, too. One reactor serves the socket, standard input and standard output: these two are foreign descriptors
(`add_reader`, `add_writer`). None of them makes the others wait, but each the peer: what is not taken on one side is
not read on the other. They are used only when they are ready, so they need not be non-blocking: a terminal is shared
with other programs, and O_NONBLOCK would be set for all of them.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import ssl
import sys
from collections.abc import Callable

from reactor import Connection, Handle, Protocol, Reactor
from samples.common.arguments import Parser, options_of, reactor_of
from samples.common.certificates import trusting
from samples.common.signals import STOP_SIGNALS, LastSignals
from samples.common.words import reason

logger = logging.getLogger("samples")

# One read of standard input: what a pipe holds (Linux: 64 KiB).
_INPUT_BYTES = 64 * 1024
# One write to standard output: what a pipe that is writable takes without blocking (PIPE_BUF, pipe(7)).
_OUTPUT_BYTES = 4096
# What a client has no use for.
_SERVERS_OPTIONS = (
    "--host",
    "--port",
    "--unix",
    "--fd",
    "--workers",
    "--max-connections",
    "--tls-cert",
    "--tls-key",
    "--monitor",
    "--teach",
)


def run_client(made: Parser, args: argparse.Namespace, make: Callable[[Reactor], Client]) -> int:
    """Connects, runs until that connection has ended, and returns the exit status. Signals as in `run_server`."""
    for option in _SERVERS_OPTIONS:
        value = getattr(args, option.removeprefix("--").replace("-", "_"))
        if value is not None and value is not False:
            made.error(f"--connect cannot be combined with {option}")
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s %(message)s")
    context = _client_context(made, args)
    with LastSignals() as signals, reactor_of(made, args) as reactor:
        client = make(reactor)
        connector = reactor.connect(lambda: client, **args.connect, tls=context, options=options_of(args))

        def end() -> None:
            connector.cancel()
            # The first signal gives it time; to the second, the first drain's end has been long enough.
            limit = 0 if reactor.draining else args.drain_timeout
            logger.info("a signal asks to end: within %s s", limit)
            reactor.drain(limit)

        def take() -> None:
            for number in STOP_SIGNALS:
                reactor.add_signal_handler(number, end)

        signals.hand_over(take)
        reactor.run()
        why = [] if client.failure is None else [reason(client.failure)]
        if client.unshown:
            why.append(f"{client.unshown} bytes that came were not shown")
        if why:
            print(f"{made.prog}: {'; '.join(why)}", file=sys.stderr)
        return 1 if why else 0


def _client_context(made: Parser, args: argparse.Namespace) -> ssl.SSLContext | None:
    if not args.tls:
        if args.tls_ca is not None:
            made.error("--tls-ca needs --tls")
        return None
    if "path" in args.connect:
        made.error("--tls needs HOST:PORT: a Unix socket has no name that a certificate could be for")
    return trusting(made, "--tls-ca", args.tls_ca)


class Client(Protocol):
    """The one connection that a program lives for: standard input goes out, what comes is shown.

    The end of the input is our FIN; what still comes is shown until the server ends, too. `failure` tells how it
    ended: None is in order.
    """

    failure: Exception | None

    def __init__(self, reactor: Reactor) -> None:
        self.failure = InterruptedError("interrupted before there was a connection")
        self._reactor = reactor
        self._input: Feeder | None = None
        self._output: Printer | None = None
        self._cannot_show: OSError | None = None

    @property
    def unshown(self) -> int:
        """How many bytes were received that standard output has not taken."""
        return 0 if self._output is None else len(self._output.waiting)

    @property
    def is_sending_input(self) -> bool:
        """Whether standard input goes out, and its end has not come."""
        return self._input is not None and not self._input.over

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._output = Printer(self._reactor, connection, self._show_failed)
        self.begin()

    def begin(self) -> None:
        """Sends standard input."""
        self._input = Feeder(self._reactor, self.connection)
        self._input.resume()

    def data_received(self, data: bytes) -> None:
        self.show(data)

    def show(self, data: bytes) -> None:
        """Prints it."""
        assert self._output is not None
        self._output.show(data)

    def _show_failed(self, exc: OSError) -> None:
        self._cannot_show = exc
        self._stop_input()
        self.connection.abort()

    def pause_writing(self) -> None:
        if self._input is not None:
            self._input.pause()

    def resume_writing(self) -> None:
        if self._input is not None:
            self._input.resume()

    def eof_received(self) -> bool:
        self._stop_input()
        return False

    def draining(self) -> None:
        """A signal ends our output; what the peer sends until its end is shown as ever, while the drain lasts."""
        self._stop_input()
        self.connection.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_input()
        self.failure = self._cannot_show or exc

    def connection_failed(self, exc: Exception) -> None:
        self.failure = exc

    def _stop_input(self) -> None:
        if self._input is not None:
            self._input.stop()


class Feeder:
    """Sends what standard input gives, no faster than the peer takes it; at its end, ends our output."""

    def __init__(self, reactor: Reactor, connection: Connection) -> None:
        self._reactor = reactor
        self._connection = connection
        # None: it was closed before we began (`<&-`), and its number may be another's by now.
        self._fd = None if sys.stdin is None else sys.stdin.fileno()
        self._watching = False
        self._next_step: Handle | None = None
        # Nothing more comes of it, ever.
        self.over = False

    def resume(self) -> None:
        """Begins, or goes on."""
        if self.over or self._next_step is not None:
            return
        if self._fd is None:
            self._end()
            return
        try:
            self._reactor.add_reader(self._fd, self._step)
            self._watching = True
        except PermissionError:
            # A regular file: always readable, so epoll refuses to watch it. It is read in steps instead.
            self._next_step = self._reactor.call_soon(self._step)
        except OSError:
            self._end()

    def pause(self) -> None:
        """Reads nothing until `resume`."""
        if self._watching:
            self._reactor.remove_reader(self._fd)
            self._watching = False
        if self._next_step is not None:
            self._next_step.cancel()
            self._next_step = None

    def stop(self) -> None:
        """Reads nothing more, ever."""
        self.pause()
        self.over = True

    def _step(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, _INPUT_BYTES)
        except BlockingIOError:
            return  # non-blocking already, and somebody else read it first
        except OSError:
            data = b""  # a terminal that hung up
        if not data:
            self._end()
            return
        self._connection.write(data)
        if self._next_step is not None:
            self._next_step = self._reactor.call_soon(self._step)

    def _end(self) -> None:
        self.stop()
        self._connection.write_eof()


class Printer:
    """Shows what comes on standard output, no faster than that takes it: while something waits, nothing is received.

    When it cannot be shown, `failed` is called.
    """

    def __init__(self, reactor: Reactor, connection: Connection, failed: Callable[[OSError], None]) -> None:
        self._reactor = reactor
        self._connection = connection
        self._failed = failed
        self._fd = None if sys.stdout is None else sys.stdout.fileno()
        # At most one read of the connection.
        self.waiting = bytearray()

    def show(self, data: bytes) -> None:
        """Shows it now or, while it would block, later."""
        if self._fd is None:
            self._failed(OSError(errno.EBADF, "standard output is closed"))
            return
        self.waiting += data
        try:
            self._reactor.add_writer(self._fd, self._step)
            self._connection.pause_reading()
        except PermissionError:
            # A regular file: always writable, so epoll refuses to watch it.
            while self.waiting:
                self._step()

    def _step(self) -> None:
        assert self._fd is not None
        try:
            del self.waiting[: os.write(self._fd, self.waiting[:_OUTPUT_BYTES])]
        except BlockingIOError:
            return  # non-blocking already, and somebody else wrote first
        except OSError as exc:
            self.waiting.clear()
            self._failed(exc)
        if not self.waiting:
            self._reactor.remove_writer(self._fd)
            self._connection.resume_reading()
