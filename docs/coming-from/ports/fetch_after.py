"""The same client, on this reactor; it also knows whether it got the whole page."""

import sys

from reactor import Protocol, Reactor


class Fetch(Protocol):
    def __init__(self, host, path):
        self.request = f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
        self.received = b""

    def connection_made(self, connection):
        connection.write(self.request)

    def data_received(self, data):
        self.received += data

    def connection_lost(self, exc):
        print(f"{len(self.received)} bytes" if exc is None else f"cut off after {len(self.received)} bytes: {exc}")

    def connection_failed(self, exc):
        print(exc)


if __name__ == "__main__":
    host, port, path = sys.argv[1:]
    with Reactor() as reactor:
        reactor.connect(lambda: Fetch(host, path), host, int(port))
        reactor.run()
