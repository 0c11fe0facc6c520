"""The second step: no call waits but one, `select`, which waits for everybody.

Three lists go in, three come out, as in the HOWTO. What cannot be sent at once has to be kept here, and sent when the
socket is writable. Many are served at once; and now that sending takes time, there are new ways to get it wrong.
"""

from __future__ import annotations

import select
import socket

from samples.ladder.arguments import arguments, listen


class Caller:
    """What was read and not yet sent back, and how much may still be read."""

    def __init__(self, limit: int) -> None:
        self.waiting = bytearray()
        self.left = limit


def serve(listening: socket.socket, limit: int) -> None:
    """All callers at once."""
    listening.setblocking(False)
    callers: dict[socket.socket, Caller] = {}
    while True:
        want_to_read = [listening, *(sock for sock, caller in callers.items() if caller.left)]
        want_to_write = [sock for sock, caller in callers.items() if caller.waiting]
        readable, writable, _ = select.select(want_to_read, want_to_write, [])
        for sock in readable:
            if sock is listening:
                new, _ = listening.accept()
                new.setblocking(False)
                callers[new] = Caller(limit)
            else:
                read(sock, callers)
        for sock in writable:
            if sock in callers:
                write(sock, callers)


def read(sock: socket.socket, callers: dict[socket.socket, Caller]) -> None:
    """Takes what is there."""
    caller = callers[sock]
    try:
        data = sock.recv(min(caller.left, 65536))
    except ConnectionError:
        data = b""
    if data:
        caller.waiting += data
        caller.left -= len(data)
    else:  # the other side has closed, so we close
        del callers[sock]
        sock.close()


def write(sock: socket.socket, callers: dict[socket.socket, Caller]) -> None:
    """Sends what the kernel takes."""
    caller = callers[sock]
    try:
        del caller.waiting[: sock.send(caller.waiting)]
    except ConnectionError:
        caller.waiting.clear()
        caller.left = 0
    if not caller.left and not caller.waiting:
        del callers[sock]
        sock.close()


if __name__ == "__main__":
    args = arguments("with_select")
    serve(listen(args.port), args.limit)
