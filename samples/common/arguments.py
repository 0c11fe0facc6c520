"""The options that every sample takes, and what they mean to a reactor.

A server adds its own options to what `parser` returns, and `add_connect` gives it a client. Whatever `--help` says of a
default is made of the default.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import attrs

from reactor import Deadlines, Limits, Options, Reactor
from reactor.trace import text
from samples.common import words
from samples.common.descriptors import Room

_NOTES = """\
signals:
  SIGTERM and SIGINT (Ctrl-C) drain: nobody new is let in, every connection is ended in order, and what has not ended
  by --drain-timeout is reset. A second one ends at once. One that comes when all have ended changes nothing.

"""
EXIT_STATUS = """\
exit status:
  0  a signal asked it to end, and nothing was lost then: each connection that was open, or was still let in, ended in
     order, and the peer's TCP confirmed all that was written to it; what failed before the signal is not counted
  1  something was lost; stderr says what
  2  the arguments cannot be used; stderr says why"""
_WORKERS_STATUS = """
  with --workers N, it is the highest of all workers', also of those that were replaced"""
_CLIENTS_STATUS = """
  with --connect, 0 means that the connection ended in order, and that everything that came was shown"""

HOST = "127.0.0.1"
# Far below the 90 s after which systemd kills; as long as `Deadlines.flush` lets a peer take nothing.
_DRAIN_TIMEOUT = 30.0


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line."""

    tls_group: argparse._ArgumentGroup
    # What the server needs descriptors for, besides its callers' connections; None: for nothing.
    room: Room | None = None

    def error(self, message: str) -> NoReturn:
        self.refuse(f"{message} (--help tells more)")

    def refuse(self, message: str) -> NoReturn:
        """What was asked for cannot be had: says so in one line, and leaves with status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")

    def say(self, line: str) -> None:
        """One line on stdout, if there is one, and now: whoever started us may be waiting for it."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
        except OSError as exc:
            self.refuse(f"standard output: {words.reason(exc)}")


def parser(
    name: str,
    description: str,
    port: int,
    examples: str,
    *,
    workers: bool = False,
    idle_timeout: float | None = None,
    max_connections: str = "no limit",
    room: Room | None = None,
) -> Parser:
    """The arguments that every sample takes; add your own to what this returns.

    With `workers` also the one for several processes: only for a server whose connections need not know of each other.
    `idle_timeout` is the default of the option of that name, `max_connections` says what that of the other is. With
    `room`, no more connections are let in, at all places together, than leave descriptors for the server's own work.
    """
    made = Parser(
        prog=f"python -m samples.{name}",
        description=description,
        epilog=f"examples:\n{examples}\n\n{_NOTES}{EXIT_STATUS}{_WORKERS_STATUS if workers else ''}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.room = room
    # What not every sample has an option for.
    made.set_defaults(default_port=port, workers=None, connect=None, tls=False, tls_ca=None)
    _add_place(made, port, workers)
    _add_limits(made, idle_timeout, f"{max_connections}; for each worker" if workers else max_connections)
    _add_looking(made)
    return made


def _add_place(made: Parser, port: int, workers: bool) -> None:
    where = made.add_argument_group("where to listen")
    where.add_argument("--host", help=f'address or name to listen on ({HOST}); "" is every address of the machine')
    where.add_argument("--port", type=words.port, help=f"TCP port ({port}); 0 picks a free one")
    where.add_argument("--unix", metavar="PATH", help="a Unix socket instead; @NAME is an abstract one (Linux)")
    where.add_argument(
        "--fd", type=words.descriptor, metavar="N", help="an inherited descriptor; `systemd` takes LISTEN_FDS's"
    )
    if workers:
        where.add_argument("--workers", type=words.worker_count, metavar="N", help="processes that share the place (1)")
    made.tls_group = made.add_argument_group("TLS")
    made.tls_group.add_argument("--tls-cert", metavar="FILE", help="serve with this certificate chain (PEM)")
    made.tls_group.add_argument("--tls-key", metavar="FILE", help="its private key (by default in the same file)")


def _add_limits(made: Parser, idle_timeout: float | None, max_connections: str) -> None:
    limits = made.add_argument_group("limits")
    silence = "never" if idle_timeout is None else f"{idle_timeout:g}"
    limits.add_argument(
        "--idle-timeout",
        type=words.seconds,
        default=idle_timeout,
        metavar="S",
        help=f"end who is silent for so long ({silence})",
    )
    limits.add_argument(
        "--drain-timeout",
        type=words.seconds_or_none_at_all,
        default=_DRAIN_TIMEOUT,
        metavar="S",
        help=f"for an end in order ({_DRAIN_TIMEOUT:g})",
    )
    limits.add_argument(
        "--max-connections", type=words.count, metavar="N", help=f"the others wait in line ({max_connections})"
    )


def _add_looking(made: Parser) -> None:
    looking = made.add_argument_group("looking")
    looking.add_argument(
        "--log-level", type=words.log_level, default="WARNING", metavar="L", help="debug ... (warning)"
    )
    looking.add_argument("--trace", action="store_true", help="one line on stderr for each thing on the wire")
    looking.add_argument("--poller", metavar="P", help="epoll, kqueue, poll or select (the best there is)")
    looking.add_argument(
        "--monitor", type=words.port, metavar="PORT", help=f"a live page about it, at http://{HOST}:PORT/"
    )
    looking.add_argument("--teach", action="store_true", help="the page can also play a peer that ends badly")


def add_connect(made: Parser, what: str) -> None:
    """Gives a sample its client: `--connect`."""
    made.epilog = f"{made.epilog}{_CLIENTS_STATUS}"
    made.add_argument("--connect", type=words.target, metavar="HOST:PORT", help=f"{what}; unix:PATH for a Unix socket")
    made.tls_group.add_argument("--tls", action="store_true", help="connect with TLS; HOST must be in the certificate")
    made.tls_group.add_argument("--tls-ca", metavar="FILE", help="trust these authorities, not the machine's")


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


def options_of(args: argparse.Namespace) -> Options:
    """What the arguments mean to `listen` and `connect`."""
    return Options(deadlines=patient(Deadlines(), args.idle_timeout), limits=Limits(connections=args.max_connections))


def patient(deadlines: Deadlines, idle: float | None) -> Deadlines:
    """With that idle deadline, and no other that ends a silent peer before it.

    `Deadlines.idle` counts only until we have closed; then `flush` and the two of `linger` do. So a reader that rests
    in the middle of the last answer has as much time as any other. None: those keep their own bounds.
    """
    if idle is None:
        return deadlines
    return attrs.evolve(
        deadlines,
        idle=idle,
        flush=max(idle, deadlines.flush),
        linger_silence=max(idle, deadlines.linger_silence),
        linger_total=max(idle, deadlines.linger_total),
    )


def reactor_of(made: Parser, args: argparse.Namespace) -> Reactor:
    """The reactor that the arguments ask for."""
    try:
        reactor = Reactor(poller=args.poller)
    except ValueError as exc:
        made.refuse(str(exc))
    atexit.register(_drop_what_stderr_cannot_take)
    if args.trace:
        reactor.observe(text(sys.stderr))
    return reactor


def _drop_what_stderr_cannot_take() -> None:
    """When the reader of stderr is gone, Python's own flush of it at the end would fail: exit status 120."""
    try:
        sys.stderr.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
