"""What every sample's command line shares, so that a sample itself is only its protocol.

A server's `main` is one call: `run_server(arguments(...), serve)`. It reads the arguments, makes the reactor, calls
`serve(reactor, host, port, path=..., sock=..., options=...)` for each place to listen at, prints `listening on ADDRESS`
for each address, and runs until SIGTERM or SIGINT has drained it. `run_client` is the same for the calling side.

What cannot work is told in one line on stderr, with exit status 2, before anything is served. Exit status 0 means that
every connection ended in order; 1 that something was lost, with the reason on stderr.
"""

from __future__ import annotations

import argparse
import errno
import logging
import math
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from reactor import Connection, Deadlines, Handle, Limits, Listener, Options, Protocol, Reactor
from reactor.system import address_text, check_port
from reactor.trace import text

_NOTES = """\
signals:
  SIGTERM and SIGINT (Ctrl-C) drain: nobody new is let in, every connection is ended in order, and what has not ended
  by --drain-timeout is reset. A second one ends at once.

exit status:
  0  every connection ended in order
  1  something was lost; stderr says what
  2  the arguments cannot be used; stderr says why"""

_HOST = "127.0.0.1"
# One read of standard input: what a pipe holds (Linux: 64 KiB).
_INPUT_BYTES = 64 * 1024


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.refuse(f"{message} (--help tells more)")

    def refuse(self, message: str) -> NoReturn:
        """What was asked for cannot be had: says so in one line, and leaves with status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def parser(name: str, description: str, port: int, examples: str) -> Parser:
    """The arguments that every sample takes; add your own to what this returns."""
    made = Parser(
        prog=f"python -m samples.{name}",
        description=description,
        epilog=f"examples:\n{examples}\n\n{_NOTES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.set_defaults(default_port=port)
    where = made.add_argument_group("where to listen")
    where.add_argument("--host", help=f'address or name to listen on ({_HOST}); "" is every address of the machine')
    where.add_argument("--port", type=_port, help=f"TCP port ({port}); 0 picks a free one")
    where.add_argument("--unix", metavar="PATH", help="a Unix socket instead; @NAME is an abstract one (Linux)")
    where.add_argument("--fd", type=_fd, metavar="N", help="an inherited descriptor; `systemd` takes LISTEN_FDS's")
    limits = made.add_argument_group("limits")
    limits.add_argument("--idle-timeout", type=_seconds, metavar="S", help="end who is silent for so long (never)")
    limits.add_argument(
        "--drain-timeout", type=_seconds_or_none_at_all, default=30.0, metavar="S", help="for an end in order (30)"
    )
    limits.add_argument("--max-connections", type=count, metavar="N", help="the others wait in line (no limit)")
    looking = made.add_argument_group("looking")
    looking.add_argument("--log-level", type=_log_level, default="WARNING", metavar="L", help="debug ... (warning)")
    looking.add_argument("--trace", action="store_true", help="one line on stderr for each thing on the wire")
    looking.add_argument("--poller", metavar="P", help="epoll, kqueue, poll or select (the best there is)")
    return made


# Arguments


def _port(word: str) -> int:
    try:
        return check_port(int(word))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 0 to 65535, not {word!r}") from None


def _fd(word: str) -> int | str:
    if word == "systemd" or (word.isascii() and word.isdigit()):
        return word if word == "systemd" else int(word)
    raise argparse.ArgumentTypeError(f"a descriptor is a number, zero or more, or `systemd`, not {word!r}")


def _seconds_or_none_at_all(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"seconds are a number, zero or more, not {word!r}")
    return seconds


def _seconds(word: str) -> float:
    seconds = _seconds_or_none_at_all(word)
    if not seconds:
        raise argparse.ArgumentTypeError("zero seconds would end everything at once")
    return seconds


def count(word: str) -> int:
    """An argument that is a positive whole number."""
    if not (word.isascii() and word.isdigit() and int(word)):
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, not {word!r}")
    return int(word)


def _log_level(word: str) -> str:
    if word.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise argparse.ArgumentTypeError(f"a level is debug, info, warning, error or critical, not {word!r}")
    return word.upper()


def add_connect(made: Parser, what: str) -> None:
    """Gives a sample its client: `--connect`."""
    made.add_argument("--connect", type=_target, metavar="HOST:PORT", help=f"{what}; unix:PATH for a Unix socket")


def _target(word: str) -> dict[str, Any]:
    if word.startswith("unix:") and len(word) > len("unix:"):
        return {"path": _unix_path(word.removeprefix("unix:"))}
    host, colon, port = word.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"HOST:PORT or unix:PATH is needed, not {word!r}")
    return {"host": host.removeprefix("[").removesuffix("]"), "port": _port(port)}


def _unix_path(word: str) -> str:
    return "\0" + word[1:] if word.startswith("@") else word


def options_of(args: argparse.Namespace) -> Options:
    """What the arguments mean to `listen` and `connect`."""
    return Options(deadlines=Deadlines(idle=args.idle_timeout), limits=Limits(connections=args.max_connections))


# Servers


def run_server(made: Parser, args: argparse.Namespace, serve: Callable[..., Listener]) -> int:
    """Serves until a signal has drained it; returns the exit status."""
    with _reactor(made, args) as reactor:
        reactor.drain_on_signals(args.drain_timeout)
        for listener in _listen(made, args, reactor, serve):
            for address in listener.addresses:
                _say(made, f"listening on {address_text(address)}")
        reactor.run()
        if reactor.drained is None or reactor.drained.clean:
            return 0
        print(reactor.drained, file=sys.stderr)
        return 1


def _reactor(made: Parser, args: argparse.Namespace) -> Reactor:
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        reactor = Reactor(poller=args.poller)
    except ValueError as exc:
        made.refuse(str(exc))
    if args.trace:
        reactor.observe(text(sys.stderr))
    return reactor


def _listen(made: Parser, args: argparse.Namespace, reactor: Reactor, serve: Callable[..., Listener]) -> list[Listener]:
    options = options_of(args)
    if args.fd is not None:
        if args.host is not None or args.port is not None or args.unix is not None:
            made.error("--fd cannot be combined with --host, --port or --unix")
        return _listen_on_inherited(made, args.fd, reactor, serve, options)
    if args.unix is not None and (args.host is not None or args.port is not None):
        made.error("--unix cannot be combined with --host or --port")
    if args.unix == "":
        made.error("--unix needs a path")
    try:
        if args.unix is not None:
            return [serve(reactor, path=_unix_path(args.unix), options=options)]
        host = _HOST if args.host is None else args.host or None
        port = args.default_port if args.port is None else args.port
        return [serve(reactor, host, port, options=options)]
    except (OSError, ValueError) as exc:
        made.refuse(reason(exc))


def _listen_on_inherited(
    made: Parser, fd: int | str, reactor: Reactor, serve: Callable[..., Listener], options: Options
) -> list[Listener]:
    sockets: list[socket.socket] = []
    try:
        if isinstance(fd, int):
            sockets = [socket.socket(fileno=fd)]
        else:
            sockets = [sock for _, sock in reactor.system.listen_fds()]
        if not sockets:
            made.refuse("--fd systemd: no socket was passed to this process in LISTEN_FDS and LISTEN_PID")
        return [serve(reactor, sock=sock, options=options) for sock in sockets]
    except (OSError, ValueError, OverflowError) as exc:
        for sock in sockets:
            sock.close()
        made.refuse(f"--fd {fd}: {reason(exc)}")


def reason(exc: Exception) -> str:
    """What went wrong, in words, without the errno."""
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__


def _say(made: Parser, line: str) -> None:
    """One line on stdout, if there is one, and now: whoever started us may be waiting for it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as exc:
        made.refuse(f"standard output: {reason(exc)}")


# Clients


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
        self._cannot_show: OSError | None = None

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._input = Feeder(self._reactor, connection)
        self._input.resume()

    def data_received(self, data: bytes) -> None:
        try:
            self.show(data)
        except OSError as exc:
            self._cannot_show = exc
            self._stop_input()
            self.connection.abort()

    def show(self, data: bytes) -> None:
        """Writes it to stdout. That may block, and should: while nobody reads there, nothing more is received."""
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        fd, view = sys.stdout.fileno(), memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:  # another program made the shared terminal non-blocking
                select.select([], [fd], [])

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
        self._stop_input()
        self.connection.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_input()
        self.failure = self._cannot_show or exc

    def connection_failed(self, exc: Exception) -> None:
        self.failure = exc

    def _stop_input(self) -> None:
        if self._input is not None:
            self._input.stop()


class Feeder:
    """Sends what standard input gives, no faster than the peer takes it; at its end, ends our output.

    It is read only when it is readable, so it need not be non-blocking: a terminal is shared with other programs, and
    O_NONBLOCK would be set for all of them.
    """

    def __init__(self, reactor: Reactor, connection: Connection) -> None:
        self._reactor = reactor
        self._connection = connection
        # None: it was closed before we began (`<&-`), and its number may be another's by now.
        self._fd = None if sys.stdin is None else sys.stdin.fileno()
        self._watching = False
        self._next_step: Handle | None = None
        self._over = False

    def resume(self) -> None:
        """Begins, or goes on."""
        if self._over or self._next_step is not None:
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
        self._over = True

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


def run_client(made: Parser, args: argparse.Namespace, make: Callable[[Reactor], Client]) -> int:
    """Connects, runs until that connection has ended, and returns the exit status."""
    if any(value is not None for value in (args.host, args.port, args.unix, args.fd, args.max_connections)):
        made.error("--connect cannot be combined with --host, --port, --unix, --fd or --max-connections")
    with _reactor(made, args) as reactor:
        client = make(reactor)
        connector = reactor.connect(lambda: client, **args.connect, options=options_of(args))

        def end() -> None:
            connector.cancel()
            # The first signal gives it time; to the second, the first drain's end has been long enough.
            reactor.drain(0 if reactor.draining else args.drain_timeout)

        for number in (signal.SIGINT, signal.SIGTERM):
            reactor.add_signal_handler(number, end)
        reactor.run()
        if client.failure is None:
            return 0
        print(f"{made.prog}: {reason(client.failure)}", file=sys.stderr)
        return 1
