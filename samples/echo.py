"""Sends back whatever it is sent.

The shortest server that is right. Three things make it so:

1. Bytes that arrive are written back, in order; `write` keeps what the kernel does not take at once.
2. When too much waits for a peer that does not read, `pause_writing` comes, and we stop reading from that peer. Then
   its own sends stop, too. So the memory for one peer is bounded, and nobody else notices.
3. When the peer has sent its FIN, the default `eof_received` closes our side, *after* everything was echoed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from reactor import Listener, Protocol, Reactor
from samples import common

EXAMPLES = """\
  python -m samples.echo --port 0 --trace
  echo hello | nc -N 127.0.0.1 7000
  python -m samples.echo --unix /run/echo.sock
  python -m samples.echo --workers 4 --tls-cert chain.pem --tls-key key.pem"""


class Echo(Protocol):
    def data_received(self, data: bytes) -> None:
        self.connection.write(data)

    def pause_writing(self) -> None:
        self.connection.pause_reading()

    def resume_writing(self) -> None:
        self.connection.resume_reading()


def serve(reactor: Reactor, *where: Any, **how: Any) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory."""
    return reactor.listen(Echo, *where, **how)


def main(argv: Sequence[str] | None = None) -> int:
    what = "Send back whatever comes, for as long as it comes."
    parser = common.parser("echo", what, 7000, EXAMPLES, workers=True)
    return common.run_server(parser, parser.parse_args(argv), serve)


if __name__ == "__main__":
    sys.exit(main())
