"""Where to listen: what the command line says, as places, and their sockets.

A place is a host and a port, or a path, or a socket that is open already. One process lets its reactor listen there.
For several processes the sockets are opened before any of them begins, so that their queues of callers outlive each.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterable
from typing import Any

import attrs

from reactor import Options
from reactor.system import Socket, System
from samples.common.arguments import HOST, Parser
from samples.common.words import reason, unix_path


@attrs.frozen
class Place:
    """What `serve` is given for one place, besides what it is given for all."""

    where: tuple[Any, ...] = ()
    how: dict[str, Any] = attrs.field(factory=dict)
    # What begins the line of a refusal.
    name: str = ""


def places_of(made: Parser, args: argparse.Namespace) -> list[Place]:
    """What --host, --port, --unix and --fd say."""
    if args.fd is not None:
        if args.host is not None or args.port is not None or args.unix is not None:
            made.error("--fd cannot be combined with --host, --port or --unix")
        return [Place(how={"sock": sock}, name=f"--fd {args.fd}: ") for sock in _inherited(made, args.fd)]
    if args.unix is not None and (args.host is not None or args.port is not None):
        made.error("--unix cannot be combined with --host or --port")
    if args.unix == "":
        made.error("--unix needs a path")
    if args.unix is not None:
        return [Place(how={"path": unix_path(args.unix)})]
    host = HOST if args.host is None else args.host or None
    return [Place(where=(host, args.default_port if args.port is None else args.port))]


def _inherited(made: Parser, fd: int | str) -> list[socket.socket]:
    try:
        sockets = [socket.socket(fileno=fd)] if isinstance(fd, int) else [sock for _, sock in System().listen_fds()]
    except (OSError, ValueError, OverflowError) as exc:
        made.refuse(f"--fd {fd}: {reason(exc)}")
    if not sockets:
        made.refuse("--fd systemd: no socket was passed to this process in LISTEN_FDS and LISTEN_PID")
    return sockets


def opened(system: System, place: Place, options: Options, count: int) -> list[list[Socket]]:
    """For each worker its listening sockets: by TCP port its own, else the very same ones."""
    if "path" in place.how:
        return [system.listen_unix(place.how["path"], options)] * count
    if "sock" in place.how:
        return [system.listen_given(place.how["sock"], options)] * count
    host, port = place.where
    options = attrs.evolve(options, sockets=attrs.evolve(options.sockets, reuse_port=True))
    slots: list[list[Socket]] = []
    try:
        for _ in range(count):
            slots.append(system.listen_tcp(host, port, options))
            port = slots[0][0].getsockname()[1]
    except OSError:
        close_all(sock for sockets in slots for sock in sockets)
        raise
    return slots


def close_all(sockets: Iterable[Socket]) -> None:
    """Closes our descriptors of them; elsewhere they may go on."""
    for sock in sockets:
        sock.close()
