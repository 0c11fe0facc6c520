"""What the four servers are asked: where to listen, and how much to echo. Made of the standard library alone."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from typing import NoReturn

_EXIT_STATUS = """\
exit status:
  0  SIGTERM or Ctrl-C has drained it, whatever was lost then; only `with_reactor` drains, the others are killed
  2  the arguments cannot be used; stderr says why"""


def arguments(step: str) -> argparse.Namespace:
    """The command line: `port` and `limit`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m samples.ladder.{step}",
        description="Send back what comes.",
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=7000, help="TCP port on 127.0.0.1 (7000); 0 picks a free one")
    parser.add_argument("--limit", type=_count, default=2**40, metavar="N", help="bytes for each caller (a terabyte)")
    return parser.parse_args()


def _port(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) < 65536):
        raise argparse.ArgumentTypeError(f"a port is a whole number from 0 to 65535, not {word!r}")
    return int(word)


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word)):
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, not {word!r}")
    return int(word)


def listen(port: int) -> socket.socket:
    """A listening socket, for the servers that make their own; says where. Ctrl-C then ends them, as SIGTERM does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        listening = socket.create_server(("127.0.0.1", port), backlog=4096)
    except OSError as exc:
        refuse(port, exc)
    say(listening.getsockname())
    return listening


def refuse(port: int, exc: OSError) -> NoReturn:
    """It cannot be had: says so in one line, and leaves with status 2."""
    print(f"127.0.0.1:{port}: {exc.strerror}", file=sys.stderr)
    sys.exit(2)


def say(address: tuple[str, int]) -> None:
    """Whoever started the server may be waiting for this line."""
    print(f"listening on {address[0]}:{address[1]}", flush=True)


def leave() -> None:
    """The server has drained: on its way out, another SIGTERM or Ctrl-C changes nothing any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
