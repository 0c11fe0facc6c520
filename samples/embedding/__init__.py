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
import sys
from collections.abc import Sequence

from reactor import Listener, Reactor
from reactor.system import address_text

# Seconds for connections to end in order, after a signal.
DRAIN_TIMEOUT = 30.0


def port_of(name: str, argv: Sequence[str] | None) -> int:
    """The port that the command line asks for."""
    parser = argparse.ArgumentParser(prog=f"python -m samples.embedding.{name}", description="Echo, as a guest.")
    parser.add_argument("--port", type=int, default=7000, choices=range(65536), metavar="N", help="0 picks a free one")
    port: int = parser.parse_args(argv).port
    return port


def say_where(listener: Listener) -> None:
    print("listening on", address_text(listener.addresses[0]), flush=True)


def status_of(reactor: Reactor) -> int:
    """The exit status after a drain."""
    if reactor.drained is not None and reactor.drained.clean:
        return 0
    print(reactor.drained, file=sys.stderr)
    return 1
