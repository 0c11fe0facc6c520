"""What every sample's command line shares, so that a sample itself is only its protocol.

A server's `main` is one call: `run_server(parser, args, serve)`. It reads the arguments, makes the reactor, calls
`serve(reactor, host, port, path=..., sock=..., tls=..., options=...)` for each place to listen at (only with what was
asked for), prints `listening on ADDRESS` for each address, tells the service manager, and runs until
SIGTERM or SIGINT has drained it. With `--workers` several processes do so (`workers.py`). `run_client` is the same for
the calling side.

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
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import attrs

from reactor import Connection, Deadlines, Handle, Limits, Listener, Options, Protocol, Reactor
from reactor.system import Socket, System, address_text, check_port
from reactor.trace import text
from samples.workers import Link, supervise

logger = logging.getLogger("samples")

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
# Far more than any machine has use for: a mistyped number must not fill the process table.
_MOST_WORKERS = 256


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line."""

    takes_tls = False
    tls_group: argparse._ArgumentGroup

    def error(self, message: str) -> NoReturn:
        self.refuse(f"{message} (--help tells more)")

    def refuse(self, message: str) -> NoReturn:
        """What was asked for cannot be had: says so in one line, and leaves with status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def parser(
    name: str, description: str, port: int, examples: str, *, tls: bool = False, workers: bool = False
) -> Parser:
    """The arguments that every sample takes; add your own to what this returns.

    With `tls` also those for certificates (and `add_connect` adds a client's): then `serve` may be given `tls`. With
    `workers` also the one for several processes: only for a server whose connections need not know of each other.
    """
    made = Parser(
        prog=f"python -m samples.{name}",
        description=description,
        epilog=f"examples:\n{examples}\n\n{_NOTES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.takes_tls = tls
    made.set_defaults(
        default_port=port, connect=None, tls_cert=None, tls_key=None, tls=False, tls_ca=None, workers=None
    )
    where = made.add_argument_group("where to listen")
    where.add_argument("--host", help=f'address or name to listen on ({_HOST}); "" is every address of the machine')
    where.add_argument("--port", type=_port, help=f"TCP port ({port}); 0 picks a free one")
    where.add_argument("--unix", metavar="PATH", help="a Unix socket instead; @NAME is an abstract one (Linux)")
    where.add_argument("--fd", type=_fd, metavar="N", help="an inherited descriptor; `systemd` takes LISTEN_FDS's")
    if workers:
        where.add_argument("--workers", type=_worker_count, metavar="N", help="processes that share the place (1)")
    if tls:
        made.tls_group = made.add_argument_group("TLS")
        made.tls_group.add_argument("--tls-cert", metavar="FILE", help="serve with this certificate chain (PEM)")
        made.tls_group.add_argument("--tls-key", metavar="FILE", help="its private key (by default in the same file)")
    _add_limits(made)
    _add_looking(made)
    return made


def _add_limits(made: Parser) -> None:
    limits = made.add_argument_group("limits")
    limits.add_argument("--idle-timeout", type=seconds, metavar="S", help="end who is silent for so long (never)")
    limits.add_argument(
        "--drain-timeout", type=_seconds_or_none_at_all, default=30.0, metavar="S", help="for an end in order (30)"
    )
    limits.add_argument(
        "--max-connections", type=count, metavar="N", help="the others wait in line (no limit); for each worker"
    )


def _add_looking(made: Parser) -> None:
    looking = made.add_argument_group("looking")
    looking.add_argument("--log-level", type=_log_level, default="WARNING", metavar="L", help="debug ... (warning)")
    looking.add_argument("--trace", action="store_true", help="one line on stderr for each thing on the wire")
    looking.add_argument("--poller", metavar="P", help="epoll, kqueue, poll or select (the best there is)")
    looking.add_argument("--monitor", type=_port, metavar="PORT", help=f"a live page about it, at http://{_HOST}:PORT/")
    looking.add_argument("--teach", action="store_true", help="the page can also play a peer that ends badly")


@contextmanager
def needing(extra: str, name: str) -> Iterator[None]:
    """For imports that an extra brings: without it, a sample says so in one line, and leaves with status 2."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] in ("reactor", "samples"):
            raise
        print(f"python -m samples.{name} needs the module {missing.name}: pip install '.[{extra}]'", file=sys.stderr)
        sys.exit(2)


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


def seconds(word: str) -> float:
    seconds = _seconds_or_none_at_all(word)
    if not seconds:
        raise argparse.ArgumentTypeError("zero seconds would end everything at once")
    return seconds


def count(word: str) -> int:
    """An argument that is a positive whole number."""
    if not (word.isascii() and word.isdigit() and int(word)):
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, not {word!r}")
    return int(word)


def _worker_count(word: str) -> int:
    number = count(word)
    if number > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"more than {_MOST_WORKERS} processes only wait for each other, not {word!r}")
    return number


def _log_level(word: str) -> str:
    if word.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise argparse.ArgumentTypeError(f"a level is debug, info, warning, error or critical, not {word!r}")
    return word.upper()


def add_connect(made: Parser, what: str) -> None:
    """Gives a sample its client: `--connect`."""
    made.add_argument("--connect", type=target, metavar="HOST:PORT", help=f"{what}; unix:PATH for a Unix socket")
    if made.takes_tls:
        made.tls_group.add_argument(
            "--tls", action="store_true", help="connect with TLS; HOST must be in the certificate"
        )
        made.tls_group.add_argument("--tls-ca", metavar="FILE", help="trust these authorities, not the machine's")


def target(word: str) -> dict[str, Any]:
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
    if args.tls or args.tls_ca is not None:
        made.error("--tls and --tls-ca need --connect; a server takes --tls-cert")
    if args.teach and args.monitor is None:
        made.error("--teach needs --monitor")
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        System().service_manager()
    except ValueError as exc:
        made.refuse(reason(exc))
    how: dict[str, Any] = {"options": options_of(args)}
    if args.tls_cert is not None or args.tls_key is not None:
        how["tls"] = _server_context(made, args)
    if (args.workers or 1) > 1:
        return _run_workers(made, args, serve, how)
    with _reactor(made, args) as reactor:
        monitor = _attach_monitor(made, args, reactor)
        reactor.drain_on_signals(args.drain_timeout)
        addresses = _listen(made, reactor, serve, _places(made, args), how)
        _tell_serving(made, addresses)
        if monitor is not None:
            _say(made, f"monitor on http://{address_text(monitor.addresses[0])}/")
        try:
            reactor.notify("READY=1", "STATUS=listening on " + ", ".join(addresses))
        except OSError as exc:
            logger.warning("%s", reason(exc))
        return _run(reactor)


def _reactor(made: Parser, args: argparse.Namespace) -> Reactor:
    try:
        reactor = Reactor(poller=args.poller)
    except ValueError as exc:
        made.refuse(str(exc))
    if args.trace:
        reactor.observe(text(sys.stderr))
    return reactor


def _run(reactor: Reactor) -> int:
    reactor.run()
    if reactor.drained is None or reactor.drained.clean:
        return 0
    print(reactor.drained, file=sys.stderr)
    return 1


def _tell_serving(made: Parser, addresses: list[str]) -> None:
    for address in addresses:
        _say(made, f"listening on {address}")


def _attach_monitor(made: Parser, args: argparse.Namespace, reactor: Reactor) -> Listener | None:
    """Before anybody else listens: it is told only of what begins from then on."""
    if args.monitor is None:
        return None
    from samples.monitor import attach  # which imports what it needs when it is called

    try:
        return attach(reactor, args.monitor, teach=args.teach)
    except ModuleNotFoundError as exc:
        made.refuse(f"--monitor needs the module {exc.name}: pip install '.[web]'")
    except OSError as exc:
        made.refuse(f"--monitor {args.monitor}: {reason(exc)}")


def _server_context(made: Parser, args: argparse.Namespace) -> ssl.SSLContext:
    if args.tls_cert is None:
        made.error("--tls-key needs --tls-cert")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for option, path in (("--tls-cert", args.tls_cert), ("--tls-key", args.tls_key)):
        if path is not None:
            _check_readable(made, option, path)
    files = f"--tls-cert {args.tls_cert}" + (f" --tls-key {args.tls_key}" if args.tls_key is not None else "")
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key, password=_no_password)
    except ssl.SSLError as exc:
        why = (exc.reason or "").replace("_", " ").lower()
        made.refuse(f"{files}: not a certificate chain and its private key in PEM" + (f" ({why})" if why else ""))
    except (OSError, ValueError) as exc:
        made.refuse(f"{files}: {reason(exc)}")
    return context


def _check_readable(made: Parser, option: str, path: str) -> None:
    """OpenSSL does not say which file it could not read. Not opened, for it may be a pipe, which is read once."""
    try:
        os.stat(path)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as exc:
        made.refuse(f"{option} {path}: {reason(exc)}")


def _no_password() -> str:
    raise ValueError("the private key is encrypted, and nobody is asked for its password")


# Where to listen


@attrs.frozen
class _Place:
    """What `serve` is given for one place: a host and a port, or a path, or a socket that is open already."""

    where: tuple[Any, ...] = ()
    how: dict[str, Any] = attrs.field(factory=dict)
    # What begins the line of a refusal.
    name: str = ""


def _places(made: Parser, args: argparse.Namespace) -> list[_Place]:
    if args.fd is not None:
        if args.host is not None or args.port is not None or args.unix is not None:
            made.error("--fd cannot be combined with --host, --port or --unix")
        return [_Place(how={"sock": sock}, name=f"--fd {args.fd}: ") for sock in _inherited(made, args.fd)]
    if args.unix is not None and (args.host is not None or args.port is not None):
        made.error("--unix cannot be combined with --host or --port")
    if args.unix == "":
        made.error("--unix needs a path")
    if args.unix is not None:
        return [_Place(how={"path": _unix_path(args.unix)})]
    host = _HOST if args.host is None else args.host or None
    return [_Place(where=(host, args.default_port if args.port is None else args.port))]


def _inherited(made: Parser, fd: int | str) -> list[socket.socket]:
    try:
        sockets = [socket.socket(fileno=fd)] if isinstance(fd, int) else [sock for _, sock in System().listen_fds()]
    except (OSError, ValueError, OverflowError) as exc:
        made.refuse(f"--fd {fd}: {reason(exc)}")
    if not sockets:
        made.refuse("--fd systemd: no socket was passed to this process in LISTEN_FDS and LISTEN_PID")
    return sockets


def _listen(
    made: Parser, reactor: Reactor, serve: Callable[..., Listener], places: list[_Place], how: dict[str, Any]
) -> list[str]:
    """Listens at each; the addresses, as people write them."""
    addresses: list[str] = []
    for place in places:
        try:
            addresses += map(address_text, serve(reactor, *place.where, **place.how, **how).addresses)
        except (OSError, ValueError) as exc:
            _close_all(other.how["sock"] for other in places if "sock" in other.how)
            made.refuse(place.name + reason(exc))
    return addresses


def _close_all(sockets: Iterable[Socket]) -> None:
    for sock in sockets:
        sock.close()


# Several processes


def _run_workers(made: Parser, args: argparse.Namespace, serve: Callable[..., Listener], how: dict[str, Any]) -> int:
    """Everything is opened here, before the first worker: so a queue of callers outlives a worker that fails."""
    if args.monitor is not None:
        made.error("--monitor sees one process: it cannot be combined with --workers")
    system = System()
    slots: list[list[Socket]] = [[] for _ in range(args.workers)]
    for place in _places(made, args):
        try:
            for slot, sockets in zip(slots, _open(system, place, how["options"], args.workers), strict=True):
                slot += sockets
        except (OSError, ValueError) as exc:
            _close_all(sock for slot in slots for sock in slot)
            made.refuse(place.name + reason(exc))
    addresses = [address_text(sock.getsockname()) for sock in slots[0]]

    def work(link: Link) -> int:
        mine = slots[link.slot]
        _close_all(sock for slot in slots for sock in slot if sock not in mine)
        with _reactor(made, args) as reactor:
            _listen(made, reactor, serve, [_Place(how={"sock": sock}) for sock in mine], how)
            link.serving(reactor, args.drain_timeout)
            return _run(reactor)

    def ending() -> None:
        for sock in {sock for slot in slots for sock in slot}:
            system.close_listening(sock)

    return supervise(
        work,
        args.workers,
        drain_timeout=args.drain_timeout,
        status=f"{args.workers} workers at {', '.join(addresses)}",
        serving=lambda: _tell_serving(made, addresses),
        ending=ending,
    )


def _open(system: System, place: _Place, options: Options, count: int) -> list[list[Socket]]:
    """For each worker its listening sockets: by TCP port its own, else the very same ones."""
    if "path" in place.how:
        return [system.listen_unix(place.how["path"], options)] * count
    if "sock" in place.how:
        return [system.listen_given(place.how["sock"], options)] * count
    host, port = place.where
    options = attrs.evolve(options, sockets=attrs.evolve(options.sockets, reuse_port=True))
    opened: list[list[Socket]] = []
    try:
        for _ in range(count):
            opened.append(system.listen_tcp(host, port, options))
            port = opened[0][0].getsockname()[1]
    except OSError:
        _close_all(sock for sockets in opened for sock in sockets)
        raise
    return opened


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
    for option in _SERVERS_OPTIONS:
        value = getattr(args, option.removeprefix("--").replace("-", "_"))
        if value is not None and value is not False:
            made.error(f"--connect cannot be combined with {option}")
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s %(message)s")
    context = _client_context(made, args)
    with _reactor(made, args) as reactor:
        client = make(reactor)
        connector = reactor.connect(lambda: client, **args.connect, tls=context, options=options_of(args))

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


def _client_context(made: Parser, args: argparse.Namespace) -> ssl.SSLContext | None:
    """The certificate is always checked."""
    if not args.tls:
        if args.tls_ca is not None:
            made.error("--tls-ca needs --tls")
        return None
    if "path" in args.connect:
        made.error("--tls needs HOST:PORT: a Unix socket has no name that a certificate could be for")
    if args.tls_ca is not None:
        _check_readable(made, "--tls-ca", args.tls_ca)
    try:
        return ssl.create_default_context(cafile=args.tls_ca)
    except OSError as exc:
        why = (getattr(exc, "reason", None) or reason(exc)).replace("_", " ").lower()
        made.refuse(f"--tls-ca {args.tls_ca}: not certificates in PEM ({why})")
