"""The first step: every call waits until it is done.

It is short, and its endings are nearly right: it reads until the caller's FIN, and by then all of it was sent back. But
whoever is served keeps everybody else waiting, and a caller whose connection breaks takes the server with it.
"""

from __future__ import annotations

import socket

from samples.ladder.arguments import arguments, listen


def serve(listening: socket.socket, limit: int) -> None:
    """One caller after another."""
    while True:
        caller, _ = listening.accept()
        with caller:
            echo(caller, limit)


def echo(caller: socket.socket, limit: int) -> None:
    """Until the caller's FIN, which is a read of zero bytes, or the limit."""
    while limit and (data := caller.recv(min(limit, 65536))):
        caller.sendall(data)
        limit -= len(data)


if __name__ == "__main__":
    args = arguments("blocking")
    serve(listen(args.port), args.limit)
