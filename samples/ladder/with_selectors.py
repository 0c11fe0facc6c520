"""The third step: `selectors`, and two lessons learned.

The caller's FIN no longer ends anything but reading: what waits is sent first. And nobody is read from while too much
waits for them, so a caller that does not read is slowed down instead of filling our memory. `selectors` takes the best
way that the platform has (epoll, kqueue), without `select`'s limit of 1,024 descriptors, and keeps who waits for what.

It is as good as most servers are. It still closes its sockets as soon as it is done, and that is not good enough.
"""

from __future__ import annotations

import selectors
import socket

from samples.ladder.arguments import arguments, listen

# Bytes that may wait for one caller before we stop reading from it.
HIGH = 65536


class Caller:
    """One connection: what was read and not yet sent back, how much may still be read, what we wait for."""

    def __init__(self, sock: socket.socket, limit: int, selector: selectors.BaseSelector) -> None:
        self.sock = sock
        self.waiting = bytearray()
        self.left = limit
        self.selector = selector
        selector.register(sock, selectors.EVENT_READ, self)

    def serve(self, events: int) -> None:
        """Does what can be done now."""
        try:
            if events & selectors.EVENT_READ:
                self.read()
            if events & selectors.EVENT_WRITE:
                self.write()
        except ConnectionError:
            self.left = 0
            self.waiting.clear()
        self.wait_or_close()

    def read(self) -> None:
        data = self.sock.recv(min(self.left, 65536))
        self.waiting += data
        self.left = self.left - len(data) if data else 0  # after the FIN there is nothing to read

    def write(self) -> None:
        del self.waiting[: self.sock.send(self.waiting)]

    def wait_or_close(self) -> None:
        """The one place that says what we wait for; with nothing to wait for, it is over."""
        events = selectors.EVENT_READ if self.left and len(self.waiting) <= HIGH else 0
        if self.waiting:
            events |= selectors.EVENT_WRITE
        if events:
            self.selector.modify(self.sock, events, self)
        else:
            self.selector.unregister(self.sock)
            self.sock.close()


def serve(listening: socket.socket, limit: int) -> None:
    """All callers at once."""
    listening.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    while True:
        for key, events in selector.select():
            if key.data is None:
                new, _ = listening.accept()
                new.setblocking(False)
                Caller(new, limit, selector)
            else:
                key.data.serve(events)


if __name__ == "__main__":
    args = arguments("with_selectors")
    serve(listen(args.port), args.limit)
