"""The echo server as a guest of somebody else's loop: four hosts, each in one short file.

- `asyncio_host.py`  asyncio serves its own tasks and lends its loop.
- `tk_host.py`       a window shows what is echoed; Tk's main loop turns the reactor.
- `guest.py`         one reactor is the guest of another.
- `pygame_host.py`   a game of 60 frames a second; the reactor does its waiting.

Each prints `listening on ADDRESS`, serves until SIGTERM or SIGINT has drained it, and ends with status 0 when every
connection ended in order, else 1. None of them (but a game) wakes up while there is nothing to do.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from reactor import Listener, Protocol, Reactor
from reactor.addresses import address_text
from samples import common
from samples.echo import Echo

# Seconds for connections to end in order, after a signal.
DRAIN_TIMEOUT = 30.0


def port_of(name: str, argv: Sequence[str] | None) -> int:
    """The port that the command line asks for."""
    parser = common.Parser(
        prog=f"python -m samples.embedding.{name}",
        description="Echo, as a guest.",
        epilog=common.EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=common.port, default=7000, metavar="N", help="7000; 0 picks a free one")
    port: int = parser.parse_args(argv).port
    return port


def listen(reactor: Reactor, port: int, factory: Callable[[], Protocol] = Echo) -> Listener:
    """The echo server's listener. What cannot be had is told in one line, with exit status 2."""
    try:
        return reactor.listen(factory, "127.0.0.1", port)
    except OSError as exc:
        print(common.reason(exc), file=sys.stderr)
        sys.exit(2)


def say_where(listener: Listener) -> None:
    print("listening on", address_text(listener.addresses[0]), flush=True)


def status_of(reactor: Reactor) -> int:
    """The exit status after a drain. On the way out with it, a signal that asks to end changes nothing any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    if reactor.drained is not None and reactor.drained.clean:
        return 0
    print(reactor.drained, file=sys.stderr)
    return 1
